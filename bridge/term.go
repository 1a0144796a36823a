package bridge

import (
	"context"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"switchboard/bridge/relay"
	"switchboard/bridge/route"
)

// term is a stretch of service on one backend. Its context fences dials, its set
// fences sessions, its claims fence requests.
type term struct {
	backend route.Backend
	epoch   uint64         // of the host's active backend; 0 under balance
	address netip.AddrPort // the backend's; zero if it is a name, which takes a lookup
	set     relay.Set
	claims  claims
	ctx     context.Context
	cancel  context.CancelCauseFunc
	// resting is until when others are chosen rather than this one, in nanoseconds of
	// the wall clock; 0: it is not.
	resting atomic.Int64
}

func beginTerm(backend route.Backend, epoch uint64, set relay.Set) *term {
	t := &term{backend: backend, epoch: epoch, set: set}
	if address, err := netip.ParseAddrPort(backend.Address); err == nil {
		t.address = address
	}
	t.ctx, t.cancel = context.WithCancelCause(context.Background())
	return t
}

// end severs the term: dials in flight first, so that none of them opens a
// session that would then have to be severed, then requests and sessions. It
// returns how many there were.
func (t *term) end(cause error) int {
	t.cancel(cause)
	return t.claims.end(cause) + t.set.End(cause)
}

// retire severs sessions, and lets requests that are in flight come to their end:
// a backend that says it is down may well be finishing what it has begun.
func (t *term) retire(cause error) int {
	t.cancel(cause)
	t.claims.refuse(cause)
	return t.set.End(cause)
}

// refuse keeps new sessions and requests out, and admits them again if cause is
// nil.
func (t *term) refuse(cause error) {
	t.claims.refuse(cause)
	t.set.Refuse(cause)
}

// sessions counts requests too.
func (t *term) sessions() int { return t.set.Len() + t.claims.len() }

// restTime is how long a backend that has failed a client is left out of choices,
// unless there is no other.
const restTime = time.Second

// rest leaves the term out of choices for a while.
func (t *term) rest(h *Host) {
	if h.balances() {
		t.resting.Store(time.Now().Add(restTime).UnixNano())
	}
}

// rested tells whether the term may be chosen like any other.
func (t *term) rested(now time.Time) bool { return t.resting.Load() <= now.UnixNano() }

// admission is what a host's loop tells connections, as an immutable snapshot:
// which terms there are to join, or why there is none.
type admission struct {
	rules
	// active is the active backend that terms are for.
	active Active
	// terms are one a backend that can be used: at most one under active.
	terms []*term
	// retired are those of backends that went down with requests in flight.
	retired []*term
	// chooser picks one of terms; nil under active.
	chooser *route.Chooser
	// weights are those that are in force, of all backends; nil under active.
	weights map[string]int
	// refusal is why none may be joined; nil: they may.
	refusal error
	// reached are the last epochs that the host has come to, oldest first.
	reached []reached
	// ctx ends, with errMoved, when a newer admission has taken this one's place.
	ctx    context.Context
	cancel context.CancelCauseFunc
}

// rules say how clients come to the backends of a host.
type rules struct {
	choose   route.Choose
	stickyBy route.StickyBy
	// hold is how long a new client may wait for one.
	hold time.Duration
}

// choice is what a pick depends on beside the admission.
type choice struct {
	// key decides where the choice is sticky; nil: at random.
	key []byte
	// tried are left out as long as there is another.
	tried []*term
	// random is a uniform number.
	random uint64
}

// pick chooses a term, nil if there is none to choose.
func (a *admission) pick(c choice) *term {
	if a.chooser == nil {
		if len(a.terms) == 0 {
			return nil
		}
		return a.terms[0]
	}
	var room [4]int
	skip := a.skip(room[:0], c.tried, true)
	i := a.place(c, skip)
	if i < 0 && len(skip) > 0 && len(c.tried) > 0 {
		// One that rests may serve again by now; one that was tried has just failed.
		i = a.place(c, a.skip(room[:0], c.tried, false))
	}
	if i < 0 && len(skip) > 0 {
		i = a.place(c, nil)
	}
	if i < 0 {
		return nil
	}
	return a.terms[i]
}

// skip appends the places of terms that were tried or, if that matters, are resting.
func (a *admission) skip(places []int, tried []*term, resting bool) []int {
	var now time.Time
	for i, t := range a.terms {
		if slices.Contains(tried, t) {
			places = append(places, i)
			continue
		}
		if !resting || t.resting.Load() == 0 {
			continue
		}
		if now.IsZero() {
			now = time.Now()
		}
		if !t.rested(now) {
			places = append(places, i)
		}
	}
	return places
}

// place is where the term is that c chooses, less than 0 if all are to be skipped.
func (a *admission) place(c choice, skip []int) int {
	switch {
	case a.choose == route.LeastSessions:
		return a.chooser.Least(func(i int) int { return a.terms[i].sessions() }, c.random, skip)
	case a.choose == route.Sticky && c.key != nil:
		return a.chooser.Sticky(c.key, skip)
	default:
		return a.chooser.Random(c.random, skip)
	}
}

// all are the terms that have sessions, or may.
func (a *admission) all() []*term { return slices.Concat(a.terms, a.retired) }

// reached says how many sessions were severed on the way to an epoch.
type reached struct {
	epoch   uint64
	severed int
}

// maxReached is how many epochs back an admission can tell what was severed.
const maxReached = 16

// severedTo tells if the host has come to epoch, and how many sessions that
// severed.
func (a *admission) severedTo(epoch uint64) (severed int, arrived bool) {
	for _, r := range a.reached {
		if r.epoch >= epoch {
			return r.severed, true
		}
	}
	return 0, epoch == 0
}
