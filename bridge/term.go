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
	// ctx ends, with errMoved, when a newer admission has taken this one's place.
	ctx    context.Context
	cancel context.CancelCauseFunc
}
