// Package feed carries state from the one loop that owns it to everybody who
// wants to know it, and history from those loops to whoever reads it later.
//
//	owner's loop ── Put ──▶ Feed ──▶ <-chan T    one slot a subscriber, newest wins
//	                         └─────▶ Get         the value as it is now
//
//	owner's loop ── Append ─▶ Ring ──▶ Since(seq)  bounded, sequenced, nothing replaced
//
// State and history are different things. Who is active is state: a subscriber
// that was away wants the newest value and no other, so a [Feed] keeps one. That
// the active backend went A, B, A is history: a Feed would show A and A, so
// failovers go to a [Ring], whose sequence numbers tell a slow reader what it
// missed.
//
// Put and Append never block, whatever the subscribers do, and may be called
// from any goroutine; one goroutine per Feed or Ring is the intended use, since
// it is the order of the calls that readers see. Nothing here starts a
// goroutine. Nothing here closes over a timer. A Feed compares nothing: publish
// only on change is the publisher's rule.
package feed
