package bridge

import (
	"context"

	"switchboard/bridge/relay"
)

// term is a stretch of service on one backend. Its context fences dials, its set
// fences sessions.
type term struct {
	active Active // Backend is not nil
	set    relay.Set
	ctx    context.Context
	cancel context.CancelCauseFunc
}

func beginTerm(parent context.Context, active Active, set relay.Set) *term {
	t := &term{active: active, set: set}
	t.ctx, t.cancel = context.WithCancelCause(parent)
	return t
}

// end severs the term: dials in flight first, so that none of them opens a
// session that would then have to be severed, then the sessions. It returns how
// many sessions there were.
func (t *term) end(cause error) int {
	t.cancel(cause)
	return t.set.End(cause)
}

// admission is what a host's loop tells connections, as an immutable snapshot:
// which term to join, or why there is none.
type admission struct {
	term *term
	// refusal is why term is nil.
	refusal error
	// reached are the last epochs that the host has come to, oldest first.
	reached []reached
	// ctx ends, with errMoved, when a newer admission has taken this one's place.
	ctx    context.Context
	cancel context.CancelCauseFunc
}

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
