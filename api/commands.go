package api

import (
	"context"
	"errors"
	"maps"

	"switchboard/bridge"
	"switchboard/bridge/feed"
	"switchboard/bridge/route"
)

// Sources is the state that the API merges. Every feed has one owner elsewhere;
// the API reads the newest value when it is asked, so an answer is never older
// than the last command that was answered.
type Sources struct {
	// Name is the router's.
	Name string
	// Traffic is the router's own flag.
	Traffic *feed.Feed[bridge.Traffic]
	// Hosts are in configuration order.
	Hosts []HostSource
	// Table has more hosts, which come and go. Nil: the router has no table.
	Table *TableSource
	// Sessions is how many there are, of all hosts.
	Sessions func() int
	// Ready returns nil, or why the router is not ready.
	Ready func() error
	// Refusals counts by reason the HTTP requests that were refused before it was
	// known which host they were for. Nil: the router speaks no HTTP.
	Refusals func() map[string]int64
	// AccessLog counts the access log's lines; nil: there is none.
	AccessLog func() *AccessLog
	// Ended counts by reason the connections that have ended, sessions and those that
	// were refused, but no HTTP requests. Nil: nobody counts.
	Ended func() map[string]int64
	// Journal is what has happened, for GET /events; nil: that is not there. An event is
	// appended when the state that it tells of can be read here.
	Journal *bridge.Journal
}

// HostSource is the state of one host.
type HostSource struct {
	Name   string
	Policy route.Policy
	// FromTable tells one of the routing table's.
	FromTable bool
	// Cluster comes from the monitor, or from the table; false: not yet.
	Cluster func() (bridge.Cluster, bool)
	// Traffic comes from the bridge, likewise.
	Traffic func() (bridge.Traffic, bool)
	// Counts reads the bridge's atomics.
	Counts func() bridge.Counts
	// CountInto is Counts without a new map for each: it overwrites what it is given, where
	// there is a map. Nil: Counts is called.
	CountInto func(*bridge.Counts)
	// Weights are those that operators have set, by backend name. They go before the
	// backends' own. Nil: there are none.
	Weights func() map[string]int
	// HTTP reads what requests of the host came to; its nil, or nil: there were none.
	HTTP func() *HTTP
}

// Count reads the host's counts into what is there for them: it overwrites that, and uses
// its map again.
func (s *HostSource) Count(into *bridge.Counts) {
	if into.Backends == nil {
		into.Backends = make(map[string]int)
	}
	if s.CountInto != nil {
		s.CountInto(into)
		return
	}
	// The map is not ours to write into.
	c, own := s.Counts(), into.Backends
	clear(own)
	maps.Copy(own, c.Backends)
	c.Backends = own
	*into = c
}

// Commands is what the API can ask for. Implementations act, or refuse with one
// of bridge's errors and then have changed nothing, except [bridge.ErrNotDurable].
// They return by the time ctx ends, and with [bridge.ErrStopped] at once when
// their owner has stopped.
type Commands interface {
	// SetTraffic changes the flag of a host, or the router's if host is "".
	SetTraffic(ctx context.Context, host string, change bridge.TrafficChange) (bridge.TrafficAnswer, error)
	// Switch makes backend the host's active one now, and pins it under an election
	// that would undo it.
	Switch(ctx context.Context, host, backend, message string) (severed int, err error)
	// Pin keeps the host to backend, or unpins it if backend is "".
	Pin(ctx context.Context, host, backend, message string) (severed int, err error)
	// SetWeights changes the weights of a host's backends, by name; nil goes back to
	// the configured one.
	SetWeights(ctx context.Context, host string, weights map[string]*int, message string) error
	// Sessions lists the open sessions of all hosts.
	Sessions() []bridge.SessionInfo
	// EndSession severs one.
	EndSession(ctx context.Context, id string) error
}

// ErrPrecondition is a failed If-Match.
var ErrPrecondition = errors.New("the state has changed since it was read; read it again")
