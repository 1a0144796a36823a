package web

import (
	"strconv"
	"time"

	"switchboard/bridge"
	"switchboard/bridge/web/h1"
)

// Record is the story of one request, complete when it has ended. There is exactly one
// for every request whose head has come, and for every head that was refused, be it
// because it did not come in time. An upgraded request has ended when it is upgraded.
type Record struct {
	// ID names the request in decimal, as [bridge.SessionInfo] did while it was in
	// flight, and the session that an upgrade made of it.
	ID []byte
	// Listener is the name of the one that the request came by.
	Listener string
	// Host is the name of the host that it was for, as configured; "": there is none.
	Host string
	// Backend is the name of the backend that was chosen last, and Origin its
	// [route.Backend.Origin]; "": none was, or it has none.
	Backend, Origin string
	// Client is the client's address: what PROXY said, if it was believed.
	Client string
	// Protocol is "HTTP/1.0", "HTTP/1.1" or "HTTP/2".
	Protocol string
	// Method, Authority and Target are the client's own; Target has the query. They are
	// empty if the head could not be read.
	Method, Authority, Target []byte
	// Ended is when the request ended. Took is how long it took from its whole head to
	// the last byte of its answer; 0 for a head that was refused.
	Ended time.Time
	Took  time.Duration
	// Upstream is the time from when the last backend was chosen that was reached;
	// negative: none was.
	Upstream time.Duration
	// Attempts are how many backends were tried.
	Attempts int
	// Status is that of the answer; 0: none was begun.
	Status int
	// FromClient and ToClient are bytes on the client's side, heads included; for
	// HTTP/2, whose heads are compressed, heads are counted as HTTP/1.1 would have them.
	FromClient, ToClient int64
	// Reason is the word that the request's end is counted by, in [Counters].Refusals
	// or [Server.Refusals]; "": it ended well, or as the backend would have it.
	Reason string
	// Err has more to say about Reason, if it is not nil.
	Err error

	began, asked time.Time
}

// account begins the record of a request, if anybody wants it. room is for it, and
// kept by the caller until the record is reported.
func (x *exchange) account(room *Record, began time.Time, protocol string) {
	if x.server.o.Records == nil {
		return
	}
	*room = Record{
		ID: room.ID[:0], Listener: x.claim.Listener, Client: x.claim.Client, Protocol: protocol, Upstream: -1, began: began,
	}
	x.record = room
}

// attempted notes which backend was tried.
func (x *exchange) attempted() {
	if r := x.record; r != nil {
		r.Attempts++
		r.ID = x.claim.AppendID(r.ID[:0])
		r.Backend, r.Origin = x.claim.Backend(), x.claim.Origin()
	}
}

// asked notes what came of that.
func (x *exchange) asked(o outcome) {
	if r := x.record; r != nil && (o.reached || o.status != 0) {
		r.asked = x.claim.Since()
	}
}

// blame counts why a request is not answered by a backend, or not to the end.
func (x *exchange) blame(counts *reasons, reason string, err error) {
	counts.add(reason)
	if r := x.record; r != nil {
		r.Reason, r.Err = reason, err
	}
}

// report completes the record of a request that has ended, and hands it over.
func (x *exchange) report(ended time.Time, status int, from, to int64) {
	r := x.record
	if r == nil {
		return
	}
	x.record = nil
	if len(r.ID) == 0 {
		r.ID = strconv.AppendUint(r.ID, x.server.o.Bridge.NextID(), 10)
	}
	r.Ended, r.Took = ended, ended.Sub(r.began)
	if !r.asked.IsZero() {
		r.Upstream = ended.Sub(r.asked)
	}
	r.Status, r.FromClient, r.ToClient = status, from, to
	x.server.o.Records(r)
}

// reportPanic is report for a request whose serving panicked, if there is one.
func (x *exchange) reportPanic(from, to int64) {
	if x.record != nil {
		x.record.Reason = string(bridge.Internal)
		x.report(time.Now(), 0, from, to)
	}
}

// quote copies what the client asked for, since what it was read into is used again
// for the request's body.
func (d *desk) quote(r *h1.Request) {
	d.quoted = append(append(append(d.quoted[:0], r.Method...), r.Authority...), r.Path...)
	method, authority := len(r.Method), len(r.Method)+len(r.Authority)
	d.record.Method = d.quoted[:method:method]
	d.record.Authority = d.quoted[method:authority:authority]
	d.record.Target = d.quoted[authority:]
}
