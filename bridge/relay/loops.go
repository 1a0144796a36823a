package relay

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

var _ Engine = (*Loops)(nil)

// Loops is the [Engine] of event loops, one a processor; the package's story says
// how it works. Make one with [NewLoops].
//
// What is not a plain TCP socket is relayed by a [Portable] that it has, and so is
// every pair with such a side: its sets take sessions of both kinds.
type Loops struct {
	rest  *Portable // what is not relayed in loops; its options, pipes and buffers are also the loops'
	table table
	next  atomic.Uint32 // counts what is given to loops in turn
	loops atomic.Pointer[[]*loop]

	mu     sync.Mutex
	sets   map[*loopSet]struct{} // those not ended
	closed bool
}

// NewLoops returns an engine without a socket. It starts nothing: its loops begin
// with the first session, or with the first Conn that has to wait.
func NewLoops(options Options) *Loops {
	return &Loops{rest: NewPortable(options), sets: map[*loopSet]struct{}{}}
}

// ForRequests returns the engine of goroutines.
func (e *Loops) ForRequests() Engine { return e.rest }

// AdoptListener makes a Listener of l: what it accepts goes through [Loops.Adopt].
func (e *Loops) AdoptListener(l net.Listener) Listener { return adopted{l, e} }

// Adopt makes a Conn of c, which is the engine's from then on. The socket of a
// [*net.TCPConn] is taken out of it. Anything else is as in [Portable.Adopt].
func (e *Loops) Adopt(c net.Conn) Conn {
	switch c := c.(type) {
	case Conn:
		return c
	case *net.TCPConn:
		if taken := e.take(c); taken != nil {
			return taken
		}
	}
	return e.rest.Adopt(c)
}

// take takes the socket out of c, and leaves c as it is and returns nil if that cannot
// be done.
func (e *Loops) take(c *net.TCPConn) *loopConn {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	fd := -1
	_ = raw.Control(func(f uintptr) {
		// A connection of Multipath TCP has other rules for resets and splice.
		if protocol, err := unix.GetsockoptInt(int(f), unix.SOL_SOCKET, unix.SO_PROTOCOL); err == nil && protocol == unix.IPPROTO_TCP {
			fd, _ = unix.FcntlInt(f, unix.F_DUPFD_CLOEXEC, 0)
		}
	})
	if fd < 0 {
		return nil
	}
	e.rest.tune(uintptr(fd))
	taken := &loopConn{engine: e, fd: int32(fd)}
	if from, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		at := from.AddrPort()
		taken.remote = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	}
	_ = c.Close()
	return taken
}

// Dial connects to address, see [Engine].
func (e *Loops) Dial(ctx context.Context, address string) (Conn, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil || to.Addr().Zone() != "" || e.rest.options.Dial != nil {
		c, err := e.rest.dial(ctx, address)
		if err != nil {
			return nil, err
		}
		return e.Adopt(c), nil
	}
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	c := &loopConn{engine: e, fd: -1, remote: to}
	if err = ctx.Err(); err == nil {
		c.fd, err = e.socket(to)
	}
	if err == nil {
		e.rest.tune(uintptr(c.fd))
		err = c.connect(ctx)
	}
	if err != nil {
		_ = c.Close()
		return nil, dialError(ctx, failedDial(to, err))
	}
	return c, nil
}

func failedDial(to netip.AddrPort, err error) error {
	return &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(to), Err: err}
}

// socket makes a socket that is to be connected to an address.
func (e *Loops) socket(to netip.AddrPort) (fd int32, err error) {
	family := unix.AF_INET
	if to.Addr().Is6() {
		family = unix.AF_INET6
	}
	s, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	return int32(s), nil
}

// goOnConnecting begins to connect a socket, or asks how far that has come: done says
// that it has come to its end, and err to which.
func goOnConnecting(fd int, to netip.AddrPort) (done bool, err error) {
	errno := connect(fd, to)
	if errno == unix.EINPROGRESS {
		// To an address of this machine it is mostly done by now.
		errno = connect(fd, to)
	}
	switch errno {
	case 0, unix.EISCONN:
		if localAddress(fd) == to {
			// Nobody listens there, and the port was free for us.
			errno = unix.ECONNREFUSED
			break
		}
		return true, nil
	case unix.EALREADY, unix.EINTR:
		return false, nil
	}
	return true, os.NewSyscallError("connect", errno)
}

// NewSet returns an empty set, or one that has ended if the engine is closed. The
// engine remembers a set until it is ended.
func (e *Loops) NewSet() Set {
	s := &loopSet{engine: e}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		s.ended = ErrEngineClosed
	} else {
		e.sets[s] = struct{}{}
	}
	return s
}

func (e *Loops) forget(s *loopSet) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.sets, s)
}

// Close ends every set with [ErrEngineClosed], waits for their sessions, and ends the
// loops. A Conn that waits is woken, with that error. Close always returns nil.
func (e *Loops) Close() error {
	e.mu.Lock()
	e.closed = true
	sets := make([]*loopSet, 0, len(e.sets))
	for s := range e.sets {
		sets = append(sets, s)
	}
	e.mu.Unlock()
	for _, s := range sets {
		s.End(ErrEngineClosed)
	}
	if loops := e.loops.Swap(nil); loops != nil {
		for _, l := range *loops {
			l.push(command{do: stopLoop})
		}
		for _, l := range *loops {
			<-l.ended
		}
	}
	return e.rest.Close()
}

// started are the loops, which run from the first call on.
func (e *Loops) started() ([]*loop, error) {
	if loops := e.loops.Load(); loops != nil {
		return *loops, nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, ErrEngineClosed
	}
	if loops := e.loops.Load(); loops != nil {
		return *loops, nil
	}
	loops := make([]*loop, runtime.GOMAXPROCS(0))
	for i := range loops {
		l, err := newLoop(e, i)
		if err != nil {
			for _, made := range loops[:i] {
				made.close()
			}
			return nil, fmt.Errorf("starting an event loop: %w", err)
		}
		loops[i] = l
	}
	for _, l := range loops {
		go l.run()
	}
	e.loops.Store(&loops)
	return loops, nil
}

// turnOf is the loop whose turn it is to get something.
func (e *Loops) turnOf() (*loop, error) {
	loops, err := e.started()
	if err != nil {
		return nil, err
	}
	return loops[int(e.next.Add(1))%len(loops)], nil
}

// nearest is home, unless that has clearly more sessions than another: to go to another
// costs a wake-up.
func nearest(home *loop, loops []*loop) *loop {
	least := loops[0]
	for _, l := range loops[1:] {
		if l.sessions.Load() < least.sessions.Load() {
			least = l
		}
	}
	const clearly = 8
	if home == nil || home.sessions.Load() > least.sessions.Load()+clearly {
		return least
	}
	return home
}

// table finds by its descriptor what the loops wait for. A descriptor belongs to one
// loop at a time; what a loop hears of one that has gone to another is old, and
// ignored.
type table struct {
	mu     sync.Mutex
	chunks atomic.Pointer[[]*[chunkSize]entry]
}

const chunkSize = 256

// entry is a side of a session, a Conn that waits, a listener, or nothing.
type entry struct {
	session atomic.Pointer[loopSession]
	other   atomic.Pointer[hearer]
}

// hearer is what a loop tells that is no session.
type hearer interface {
	// hear is told what there is to tell of a descriptor.
	hear(l *loop, events uint32)
	// deaf is told that nothing will be told any more.
	deaf()
}

// admit makes h the one that is told; nil: nobody is.
func (e *entry) admit(h hearer) {
	if h == nil {
		e.other.Store(nil)
		return
	}
	e.other.Store(&h)
}

// at returns the entry of a descriptor.
func (t *table) at(fd int32) *entry {
	if chunks := t.chunks.Load(); chunks != nil && int(fd)/chunkSize < len(*chunks) {
		return &(*chunks)[fd/chunkSize][fd%chunkSize]
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	var grown []*[chunkSize]entry
	if chunks := t.chunks.Load(); chunks != nil {
		grown = append(grown, *chunks...)
	}
	for len(grown) <= int(fd)/chunkSize {
		grown = append(grown, new([chunkSize]entry))
	}
	t.chunks.Store(&grown)
	return &grown[fd/chunkSize][fd%chunkSize]
}

// size is how many descriptors there are entries for.
func (t *table) size() int32 {
	if chunks := t.chunks.Load(); chunks != nil {
		return int32(len(*chunks) * chunkSize)
	}
	return 0
}

// zoneName is the name of an IPv6 zone, as the net package has it.
func zoneName(index uint32) string {
	if i, err := net.InterfaceByIndex(int(index)); err == nil {
		return i.Name
	}
	return strconv.FormatUint(uint64(index), 10)
}
