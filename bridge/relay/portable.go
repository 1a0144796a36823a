package relay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Options of an engine. The zero value of each is its default.
type Options struct {
	// Dial makes the connections of [Engine.Dial]; nil: the engine. What it
	// returns is taken over by [Engine.Adopt].
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// KeepAlive is set on every TCP socket. The zero value means on, first probe
	// after 15 s, then every 5 s, gone after 3. To turn it off, leave Enable false
	// and set any other field.
	KeepAlive net.KeepAliveConfig
	// UserTimeout is how long a peer may leave what was sent to it without any
	// answer before it is given up with ETIMEDOUT; default 30 s, negative: what the
	// kernel does by itself (about 15 minutes). It is noticed up to an eighth later.
	// A peer that answers but keeps its window shut is alive: only [Limits] bound
	// that.
	UserTimeout time.Duration
	// BufferSize is the size in bytes of the buffer a direction borrows while it
	// has something to move; default 32 KiB.
	BufferSize int
	// SpliceAfter is how many bytes a direction moves in one go, never finding its
	// source empty, before it borrows a pipe to splice through; default 256 KiB,
	// negative: never.
	SpliceAfter int
	// Pipes is how many pipes there may be, of two descriptors each; default 16.
	// A direction that gets none goes on with its buffer.
	Pipes int
}

const (
	defaultUserTimeout = 30 * time.Second
	defaultBufferSize  = 32 << 10
	defaultSpliceAfter = 256 << 10
	defaultPipes       = 16
)

var _ Engine = (*Portable)(nil)

// Portable is the [Engine] of goroutines and the runtime's poller; the package's
// story says how it works. Make one with [NewPortable].
type Portable struct {
	options Options
	start   time.Time
	buffers sync.Pool
	pipes   pipes
	watcher watcher
	// disconnect is [disconnect], except in the test of what happens where the
	// kernel has no such thing.
	disconnect func(fd uintptr) error

	sweepOnce sync.Once
	sweeping  sync.Mutex // held while a sweep runs

	mu      sync.Mutex
	sets    map[*set]struct{} // those not ended
	sweeper *time.Timer       // nil before the first session
	closed  bool
}

// NewPortable returns an engine without a socket. It starts nothing.
func NewPortable(options Options) *Portable {
	if options.KeepAlive == (net.KeepAliveConfig{}) {
		options.KeepAlive = net.KeepAliveConfig{
			Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3,
		}
	}
	if options.UserTimeout == 0 {
		options.UserTimeout = defaultUserTimeout
	}
	if options.BufferSize <= 0 {
		options.BufferSize = defaultBufferSize
	}
	if options.SpliceAfter == 0 {
		options.SpliceAfter = defaultSpliceAfter
	}
	if options.Pipes <= 0 {
		options.Pipes = defaultPipes
	}
	e := &Portable{
		options:    options,
		start:      time.Now(),
		disconnect: disconnect,
		sets:       map[*set]struct{}{},
	}
	e.buffers.New = func() any {
		b := make([]byte, options.BufferSize)
		return &b
	}
	e.pipes.most = options.Pipes
	return e
}

// Listen binds address. The options of the listening socket are inherited by
// those it accepts, so that accepting costs no system call beyond accept.
func (e *Portable) Listen(ctx context.Context, address string) (Listener, error) {
	l, err := e.listen(ctx, address)
	if err != nil {
		return nil, err
	}
	return &listener{l, e}, nil
}

func (e *Portable) listen(ctx context.Context, address string) (net.Listener, error) {
	lc := net.ListenConfig{Control: e.control, KeepAlive: -1}
	// A subflow of Multipath TCP is not a plain TCP socket: it has other rules for
	// resets and splice.
	lc.SetMultipathTCP(false)
	return lc.Listen(ctx, "tcp", address)
}

// Dial connects to address, see [Engine].
func (e *Portable) Dial(ctx context.Context, address string) (Conn, error) {
	c, err := e.dial(ctx, address)
	if err != nil {
		return nil, err
	}
	return e.adopt(c, e.options.Dial == nil), nil
}

func (e *Portable) dial(ctx context.Context, address string) (net.Conn, error) {
	dial := e.options.Dial
	if dial == nil {
		d := net.Dialer{Control: e.control, KeepAlive: -1}
		d.SetMultipathTCP(false)
		dial = d.DialContext
	}
	c, err := dial(ctx, "tcp", address)
	if err != nil {
		return nil, dialError(ctx, err)
	}
	return c, nil
}

// dialError adds the cause of ctx to err if it was ctx that ended the dial.
func dialError(ctx context.Context, err error) error {
	deadline, has := ctx.Deadline()
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
	case errors.Is(err, os.ErrDeadlineExceeded) && has && !time.Now().Before(deadline):
		// The socket's deadline is that of ctx and was a moment faster.
		<-ctx.Done()
	default:
		return err
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		return fmt.Errorf("%w: %w", err, cause)
	}
	return err
}

// Adopt makes a Conn of c, which is the engine's from then on. A [*net.TCPConn]
// gets the engine's socket options. Anything else is relayed through its Read and
// Write with one buffer a direction; if it has no CloseWrite, the end of the
// direction towards it ends the session; if it has no SetLinger, a reset is a
// plain Close; and its AwaitGone cannot see the peer leave and waits for its
// context.
func (e *Portable) Adopt(c net.Conn) Conn { return e.adopt(c, false) }

func (e *Portable) adopt(c net.Conn, tuned bool) *socket {
	if s, ok := c.(*socket); ok {
		return s
	}
	s := &socket{Conn: c, engine: e}
	if tcp, ok := c.(*net.TCPConn); ok {
		if raw, err := tcp.SyscallConn(); err == nil {
			s.raw = raw
			if !tuned {
				// A socket that is gone says so when it is read.
				_ = raw.Control(e.tune)
			}
		}
	}
	return s
}

// AdoptListener makes a Listener of l: what it accepts goes through
// [Portable.Adopt].
func (e *Portable) AdoptListener(l net.Listener) Listener { return adopted{l, e} }

// ForRequests returns the engine itself.
func (e *Portable) ForRequests() Engine { return e }

// NewSet returns an empty set, or one that has ended if the engine is closed. The
// engine remembers a set until it is ended.
func (e *Portable) NewSet() Set {
	s := &set{engine: e}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		s.ended = ErrEngineClosed
	} else {
		e.sets[s] = struct{}{}
	}
	return s
}

func (e *Portable) forget(s *set) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.sets, s)
}

// Close ends every set with [ErrEngineClosed], waits for their sessions, and
// closes the pipes that were kept. It always returns nil.
func (e *Portable) Close() error {
	e.mu.Lock()
	e.closed = true
	sets := e.openSets()
	if e.sweeper != nil {
		e.sweeper.Stop()
	}
	e.mu.Unlock()
	for _, s := range sets {
		s.End(ErrEngineClosed)
	}
	// A sweep that was running has ended when this is free.
	e.sweeping.Lock()
	defer e.sweeping.Unlock()
	e.pipes.close()
	e.watcher.close()
	return nil
}

// openSets returns the sets that were not ended. mu is held.
func (e *Portable) openSets() []*set {
	sets := make([]*set, 0, len(e.sets))
	for s := range e.sets {
		sets = append(sets, s)
	}
	return sets
}

// now is the time since the engine was made: monotonic, and one word.
func (e *Portable) now() int64 { return int64(time.Since(e.start)) }

func (e *Portable) borrow() *[]byte    { return e.buffers.Get().(*[]byte) }
func (e *Portable) giveBack(b *[]byte) { e.buffers.Put(b) }

func (e *Portable) control(_, _ string, c syscall.RawConn) error { return c.Control(e.tune) }

// tune sets the options of one socket. Each only makes a dead peer be noticed
// sooner or a byte leave sooner, and Unix sockets and the like have none of them,
// so that a failure is not worth a connection.
func (e *Portable) tune(fd uintptr) {
	setOption(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	e.keepAlive(fd)
}

func (e *Portable) keepAlive(fd uintptr) {
	if k := e.options.KeepAlive; k.Enable {
		setOption(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
		setSeconds(fd, unix.TCP_KEEPIDLE, k.Idle)
		setSeconds(fd, unix.TCP_KEEPINTVL, k.Interval)
		if k.Count > 0 {
			setOption(fd, unix.IPPROTO_TCP, unix.TCP_KEEPCNT, k.Count)
		}
	} else {
		setOption(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 0)
	}
}

// setSeconds rounds d up to the seconds that the kernel counts in; it leaves the
// kernel's own value if d is not positive.
func setSeconds(fd uintptr, option int, d time.Duration) {
	if d > 0 {
		setOption(fd, unix.IPPROTO_TCP, option, int((d+time.Second-1)/time.Second))
	}
}

// listener is one of the engine's own, whose sockets have the options they need.
type listener struct {
	net.Listener
	engine *Portable
}

func (l *listener) Accept() (Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.engine.adopt(c, true), nil
}

// adopted is a listener that is not the engine's own.
type adopted struct {
	net.Listener
	engine Engine
}

func (l adopted) Accept() (Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.engine.Adopt(c), nil
}
