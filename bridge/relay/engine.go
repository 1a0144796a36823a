package relay

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"
)

// Engine listens, dials and relays for plain TCP.
type Engine interface {
	// Listen binds address ("host:port", port 0 for any free one).
	Listen(ctx context.Context, address string) (Listener, error)
	// Dial connects to address, an IP address and port, before ctx ends. Its
	// errors unwrap to what the system said (syscall.ECONNREFUSED and so on), and
	// to context.Cause(ctx) where the context ended it.
	Dial(ctx context.Context, address string) (Conn, error)
	// Adopt makes a Conn of c, which is the engine's from then on. What is not a
	// plain TCP socket works too, if not as well: see the engine.
	Adopt(c net.Conn) Conn
	// AdoptListener makes a Listener of l: what it accepts goes through Adopt.
	AdoptListener(l net.Listener) Listener
	// ForRequests returns the engine whose Conns suit those who read and write them
	// themselves, as HTTP does. The sets of this engine take its Conns as well. It is
	// closed with this one.
	ForRequests() Engine
	// NewSet returns an empty set that admits sessions.
	NewSet() Set
	// Close ends every session of every set, waits until nothing of the engine is
	// left running, and gives back what it kept for reuse. Listeners and Conns
	// that were not handed to a set are their owners' to close.
	Close() error
}

// Listener accepts sockets. It is closed by whoever called Listen, from any
// goroutine; Accept then returns an error that is [net.ErrClosed].
type Listener interface {
	Accept() (Conn, error)
	Addr() net.Addr
	Close() error
}

// Server is a [Listener] that accepts without a goroutine of the caller's. Either
// Accept is called or Serve, not both.
type Server interface {
	Listener
	// Serve has accepted called with every Conn, from goroutines of the engine's and
	// from one at a time, which it must not block, until accepting fails; then it
	// returns that error, as Accept would, and may be called again. A Listener that is
	// closed fails with an error that is [net.ErrClosed].
	Serve(accepted func(Conn)) error
}

// Starter is a [Set] that dials by itself.
type Starter interface {
	Set
	// Start is Open of a pair that has no Backend yet: it dials to, for at most so
	// long, makes a session of both, and calls then, from a goroutine of the engine's.
	// It does not wait. If it returns an error or calls then with one, there is no
	// session, and p.Client is the caller's as it was before. The error is [ErrStarter]
	// if the set cannot do this with such a pair; what its cause is if the set refuses
	// or has ended, also while it dials; [os.ErrDeadlineExceeded] if that took too
	// long; and else as that of [Engine.Dial].
	//
	// then must not block nor call the set, and Done is not called before it. A pair
	// that is on its way is no member: Len and Sessions leave it out. But End, which
	// ends it as well, returns when then has been called.
	Start(p Pair, to netip.AddrPort, within time.Duration, then func(Session, error)) error
}

// ErrStarter is for a pair that cannot be started, but may well be opened.
var ErrStarter = errors.New("dial it and open it")

// Conn is one plain TCP socket that is in no set yet. One goroutine reads it and
// one writes it at a time; Close, Reset, Abort and the deadlines may be called from
// any.
type Conn interface {
	net.Conn
	// Reset closes with RST: what is queued on either side is thrown away.
	Reset() error
	// Abort is Reset for somebody who does not own the Conn: the connection is reset
	// and whoever waits for it is woken, at once, and Close is still the owner's.
	Abort()
	// CloseWrite passes an end on: the peer reads what was written, and then the end.
	CloseWrite() error
	// WriteBoth is Write of one buffer and then the other, in one call of the system
	// where there is such a thing.
	WriteBoth(first, second []byte) (n int, err error)
	// ReadLent is Read into a buffer that is asked for when there is something to
	// read: a Conn that waits holds none. The buffer is the caller's when something
	// was read, else it has been returned.
	ReadLent(from Lender) (n int, err error)
	// Quiet tells whether there is nothing to read: no byte, no end, no error. It
	// asks the system, and does not wait. A Conn that is no TCP socket is always
	// quiet.
	Quiet() bool
	// OnGone has left called once, from a goroutine of the engine's, when the peer has
	// shut its write side or reset the connection, if the Conn is not closed before.
	// It reads nothing. left must not block. It may be asked for once, and does
	// nothing for what is no TCP socket.
	OnGone(left func())
	// AwaitGone blocks until the peer has left, and then returns nil, or until ctx
	// ends, and then returns context.Cause(ctx). It reads nothing: what the peer
	// has sent stays queued. A peer that sent something and then shut its write
	// side may be waiting for an answer and has not left, until it resets. Read
	// deadlines are cleared. A Conn that is closed meanwhile gives [net.ErrClosed].
	AwaitGone(ctx context.Context) error
}

// Lender lends a buffer to [Conn.ReadLent], which may call it many times: the
// buffer is returned while there is nothing to read.
type Lender interface {
	Lend() []byte
	Return()
}

// Side is one end of a session.
type Side uint8

// The sides of a session. Neither is us: a set that was ended, a limit.
const (
	Neither Side = iota
	Client
	Backend
)

// Pair is what becomes a session.
type Pair struct {
	Client, Backend Conn
	// ToBackend and ToClient are written to that side before anything relayed:
	// bytes already read from the other side, or a header of ours. The engine
	// keeps them until they are written; the caller must not change them.
	ToBackend, ToClient []byte
	// Headers is how many of the bytes in ToBackend are ours and not the
	// client's: they are left out of [Outcome.ToBackend].
	Headers int
	Limits  Limits
	Owner   Owner // is told what becomes of the session; nil: nobody
}

// Owner is whom a session is of. There may be very many, so he is one thing and not a
// function each.
type Owner interface {
	// HalfClosed is called, before Done, when one side has ended and the session
	// goes on in the other direction. It must not block, since others may wait for it,
	// and may call nothing of the set but Len.
	HalfClosed(first Side)
	// Done is called exactly once, when the session has left its set and both its
	// sockets are closed, from a goroutine of the engine's or from the one that
	// calls End. It must not block, panic, or call the set.
	Done(Outcome)
}

// Limits bound a session's silence.
type Limits struct {
	// Idle is the longest time without a byte in either direction; 0: no limit. A
	// write that the other side does not take is silence.
	Idle time.Duration
	// HalfClose is the longest time without a byte once one direction has ended;
	// 0: no limit but Idle. The shorter of the two applies.
	HalfClose time.Duration
}

// silence returns how long a session may be silent, 0 for ever, and what it ends with
// then. half says that one direction has ended.
func (l Limits) silence(half bool) (time.Duration, error) {
	if half && l.HalfClose > 0 && (l.Idle <= 0 || l.HalfClose <= l.Idle) {
		return l.HalfClose, ErrHalfClose
	}
	return max(l.Idle, 0), ErrIdle
}

// Errors that end a session from inside the engine. They arrive in
// [Outcome.Err]; the sockets are reset.
var (
	ErrIdle      = errors.New("no byte in either direction for the idle timeout")
	ErrHalfClose = errors.New("no byte for the half-close timeout after one side had ended")
	// ErrEnded is what [Session.End] returns for a session that has ended, and the
	// cause of what is ended with a nil cause.
	ErrEnded = errors.New("already ended")
	// ErrEngineClosed is the cause of sessions ended by [Engine.Close].
	ErrEngineClosed = errors.New("the engine was closed")
)

// Outcome says how a session ended.
type Outcome struct {
	// ToBackend and ToClient count the bytes the engine has written to that side.
	// Of a session that was ended in the middle of a write they may lack the bytes
	// of that write.
	ToBackend, ToClient int64
	// First is the side that ended the session: the one that failed, or after an
	// orderly end of both the one that ended first; Neither if it was a limit or
	// the set.
	First Side
	// Err is nil after an orderly end of both directions, else a limit's error,
	// the cause given to End, or what the system said of the side First.
	Err error
}

// Set is a set of sessions that can be ended together.
type Set interface {
	// Open makes a session of p and owns p's sockets from then on. If the set has
	// ended or refuses, it returns that cause, and the sockets stay the caller's.
	// Membership is decided under the set's own mutex: an Open that returns nil
	// before End is called is ended by it.
	Open(p Pair) (Session, error)
	// Refuse makes Open fail with cause, and admits again if cause is nil. It does
	// nothing to a set that has ended.
	Refuse(cause error)
	// End refuses further Opens for good, resets both sockets of every member, and
	// returns how many there were. When it returns, Len is 0 and every Done has
	// been called. Only the first call does anything.
	End(cause error) int
	// Len is the number of sessions open now.
	Len() int
	// Sessions returns those open now, in no order.
	Sessions() []Session
}

// Session is one relayed pair.
type Session interface {
	// Counts returns the bytes written to each side so far.
	Counts() (toBackend, toClient int64)
	// Owner is the Pair's.
	Owner() Owner
	// End resets both sockets and does not wait for Done. It returns ErrEnded if
	// the session has ended.
	End(cause error) error
}
