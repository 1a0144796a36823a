// Package relay moves bytes between two sockets, for very many pairs of them at
// once.
//
//	            Listen, Dial                    Open
//	[Engine] ───────────────▶ [Conn] ×2 ── Pair ─────▶ [Set] ── End ──▶ all of them, at once
//	                                                     │
//	                                           Owner.Done ◀─ one call a session, whatever ended it
//
// [New] chooses the engine.
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
// waiting for whoever uses the socket; he closes it.
//
// Half-close is honoured: the end of one direction is passed on when its last
// byte has been, and the other goes on, bounded by [Limits.HalfClose]. A reset is
// passed on as a reset, never as an orderly end, so a truncated stream cannot be
// read as a whole one. Linux reports a reset to one call only: if that was the
// write of one direction, the read of the other sees an orderly end. So an end is
// believed only if the connection's state agrees.
//
// # Loops
//
// [Loops] relays plain TCP: an event loop a processor, each a goroutine with an epoll
// instance of its own.
//
//	Set.Open, Start, End,       ┌──────────── loop, one a processor ─────────────┐
//	Session.End ──▶ queue ─bell─▶ 1 events: accept, a read each, a flush         │
//	                            │ 2 commands: dial, begin, end a session or set  │
//	sockets ──────▶ epoll ──────▶ 3 bulk: a part of those that move much         │
//	 edge-triggered             │ 4 the wheel: who has been silent too long      │
//	                            │ 5 the sweep: a part of those who may be gone   │
//	                            └── one read buffer; waits if there is nothing ──┘
//
// A session at rest is 192 bytes and two entries of a table that finds it by its
// descriptors: no goroutine, no buffer, no timer, no context. What a peer does not take
// at once is kept in a borrowed buffer, and nothing more is read from the other side
// until it is gone. A direction that moves much goes through a borrowed pipe while its
// bytes flow. What belongs to a session is touched by its loop alone, so that there is
// no lock in the way of a byte; a set is severed by one command a loop, which cuts off
// all clients before it clears anything away.
//
// Each event is answered by one read at most, and bulk moves in stretches: a MiB a turn
// while a loop has nothing else to do, a quarter while others are about. So a message
// waits for one stretch at the longest.
//
// A loop waits by way of the runtime's poller, which polls its epoll instance. The
// obvious way is a thread that waits in epoll_wait(2), and it is slower: the scheduler
// takes such a thread's processor away and has to find it another one each time, and
// its monitor wakes every 20 µs meanwhile. Measured with 64 sessions that echo, that
// took 19 to 21 µs of processor time a message, and this takes 15 to 17, as HAProxy
// does. Waking up costs two more looks at an instance that way, which shows where
// there is little to do.
//
// Accepting and dialing need no goroutine either ([Server], [Starter]): a session that
// is opened so costs as much as nginx's, and with a goroutine each a third more. Who
// accepts is the loop of the listener, and hands sessions over to another that has
// clearly fewer. A listening socket a loop (SO_REUSEPORT) came to the same cost within
// what can be measured, and would let another process bind the address unnoticed. A
// connect(2) to an address of this machine is done when it is asked a second time,
// without waiting.
//
// A Conn that is in no set yet is known to no loop before somebody has to wait for it.
//
// # Portable
//
// [Portable] is the engine for everything else: TLS, what was adopted, and HTTP, which
// reads and writes its Conns itself. It has one goroutine a direction, parked in the
// runtime's poller without a buffer. A direction that becomes readable borrows a
// buffer, and once it is busy with bulk, a pipe to splice through; it gives back either
// as soon as there is nothing to read. This is why it does not call [io.Copy], which
// holds four pipe descriptors a session for as long as the session lives
// (github.com/inetaf/tcpproxy issue 31). Loops has one, and its sets take the sessions
// of both, so that what is severed together may be relayed either way.
//
// # Faults
//
// A peer that vanishes is found by keepalives while nothing is on its way to it,
// and else by a sweep of the engine's ([Options.UserTimeout]). A peer that is alive
// and does not read is never cut off, except by [Limits].
//
// A panic in a session's goroutine, or in a loop while it is about a session, ends that
// session with [ErrPanic] and no other.
//
// Urgent data (RFC 793, "out of band") is not relayed: the urgent byte is dropped
// by the kernel, as SO_OOBINLINE is off, and the stream goes on without it.
//
// All of it may be called from any goroutine, with the exceptions that Conn and
// Pair name.
package relay
