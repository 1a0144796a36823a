package api

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/julienschmidt/httprouter"
)

// TableSource is the routing table of a router that has one, beside its own hosts. All
// fields are needed.
type TableSource struct {
	// State is what is known of the table.
	State func() Table
	// Accept takes what Redis has, whatever speaks against it, and returns when that is
	// the table. [ErrNothingToAccept]: it is the table already.
	Accept func(ctx context.Context) error
	// Hosts are those to be listed, at most a number that people can read, and Host
	// finds any by its name.
	Hosts func() []HostSource
	Host  func(name string) (HostSource, bool)
}

// Table is what is known of the routing table: part of a [Cluster].
type Table struct {
	// Serial is that of the table that serves, 0 before there is one.
	Serial uint64 `json:"serial"`
	// Hosts is how many it has; Listed is how many of them are among the clusters. If they
	// are too many, those are listed that were asked for.
	Hosts  int `json:"hosts"`
	Listed int `json:"listed"`
	// Loaded: there is a table, be it one from disk.
	Loaded bool `json:"loaded"`
	// Stale: what Redis has may be newer. Since is when Stale became what it is, and Reason
	// says why, for people; it is "" if the table is not stale.
	Stale  bool       `json:"stale"`
	Since  *time.Time `json:"since"`
	Reason string     `json:"reason"`
	// RedisSerial is the serial that Redis had when it last told.
	RedisSerial uint64 `json:"redisSerial"`
	// Alarm is what Redis has lost and the table has kept: POST /table/accept would give it
	// up. "" if there is nothing.
	Alarm string `json:"alarm"`
	// Warning is about how Redis is set up, or about the table on disk.
	Warning string `json:"warning"`
	// Rejected counts what is in Redis and not in the table; Rejections are some of that.
	Rejected   Rejected    `json:"rejected"`
	Rejections []Rejection `json:"rejections,omitempty"`
	// Changes, Compares and Failures count since the start: change records that were read,
	// compares of the whole table, and calls of Redis that failed.
	Changes  uint64 `json:"changes"`
	Compares uint64 `json:"compares"`
	Failures uint64 `json:"failures"`
}

// Rejected counts what is in Redis and not in the table, by kind.
type Rejected struct {
	Hosts   int `json:"hosts"`
	Members int `json:"members"`
	Options int `json:"options"`
}

// Rejection is one thing in Redis that is not in the table, and why.
type Rejection struct {
	Host string `json:"host"`
	// Kind is "host", "member" or "option".
	Kind string `json:"kind"`
	Why  string `json:"why"`
}

// ErrNothingToAccept is the answer of an Accept that would change nothing.
var ErrNothingToAccept = errors.New("there is nothing to accept: the table that serves is what Redis has")

// table is the state of the table with how many of its hosts are listed, nil for a
// router without one.
func (s Sources) table(listed int) *Table {
	if s.Table == nil {
		return nil
	}
	t := s.Table.State()
	t.Listed = listed
	return &t
}

func (a *API) postAccept(w http.ResponseWriter, r *http.Request, _ httprouter.Params) (any, error) {
	if a.sources.Table == nil {
		return nil, problem(http.StatusConflict, "this router has no table: its hosts are those of its configuration").kind("no-table")
	}
	body, err := readBody(w, r)
	if err == nil && len(body) > 0 {
		err = problem(http.StatusBadRequest, "nothing can be said about it: send no body")
	}
	if err != nil {
		return nil, err
	}
	// Who leaves does not take it back, as with a PATCH.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), a.timeout)
	defer cancel()
	switch err := a.sources.Table.Accept(ctx); {
	case errors.Is(err, ErrNothingToAccept):
		return nil, problem(http.StatusConflict, err.Error()).kind("nothing-to-accept")
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return nil, err
	case err != nil:
		return nil, problem(http.StatusServiceUnavailable, err.Error()).kind("table").because(err)
	}
	t := a.sources.Table.State()
	note(r, "serial", t.Serial)
	return t, nil
}
