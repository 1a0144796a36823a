// Package relay moves bytes between two sockets, for very many pairs of them at
// once.
//
//	            Listen, Dial                    Open
//	[Engine] ───────────────▶ [Conn] ×2 ── Pair ─────▶ [Set] ── End ──▶ all of them, at once
//	                                                     │
//	                                           Pair.Done ◀── one call a session, whatever ended it
//
// An Engine owns a socket from the moment it is accepted or dialed. Before the
// relay a Conn can be read and written like any other, for the few bytes that
// come first (a PROXY header); Open takes over both sockets and everything
// already read from them. There is never a duplicate of a descriptor and never a
// second owner: a session is two file descriptors.
//
// Sessions live in Sets. A Set is a fence: End refuses further Opens and severs
// every member before it returns, so whoever ends a set knows that no session of
// it is left. Severing is a reset of both sockets, so that no byte still queued on
// either side is read later as if nothing had happened. It is connect(2) with
// AF_UNSPEC, which does what SO_LINGER 0 and close do, but at once and without
// waiting for the goroutines that use the socket; they close it.
//
// Half-close is honoured: the end of one direction is passed on when its last
// byte has been, and the other goes on, bounded by [Limits.HalfClose]. A reset is
// passed on as a reset, never as an orderly end, so a truncated stream cannot be
// read as a whole one. Linux reports a reset to one call only: if that was the
// write of one direction, the read of the other sees an orderly end. So an end is
// believed only if the connection's state agrees.
//
// [Portable] is the engine that runs everywhere Go does on Linux: one goroutine a
// direction, parked in the runtime's poller without a buffer. A direction that
// becomes readable borrows a buffer, and once it is busy with bulk, a pipe to
// splice through; it gives back either as soon as there is nothing to read. This
// is why it does not call [io.Copy], which holds four pipe descriptors a session
// for as long as the session lives (github.com/inetaf/tcpproxy issue 31).
//
// A peer that vanishes is found by keepalives while nothing is on its way to it,
// and else by a sweep of the engine's ([Options.UserTimeout]). A peer that is alive
// and does not read is never cut off, except by [Limits].
//
// A panic in a session's goroutine ends that session with [ErrPanic] and no other.
//
// Urgent data (RFC 793, "out of band") is not relayed: the urgent byte is dropped
// by the kernel, as SO_OOBINLINE is off, and the stream goes on without it.
//
// All of it may be called from any goroutine, with the exceptions that Conn and
// Pair name.
package relay
