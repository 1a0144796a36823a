package relay

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// loopConn is the Conn of [Loops]: a socket that the runtime knows nothing of. It
// becomes known to a loop when somebody has to wait for it, and not before: most are
// opened without.
type loopConn struct {
	engine *Loops
	remote netip.AddrPort
	home   *loop // that has accepted it; nil: none
	loop   *loop // that knows it; nil: none. Not changed once it is set

	mu      sync.Mutex
	fd      int32 // -1: it is closed, or a session has it
	shut    bool  // our write side
	aborted bool
	waiting *waiting // nil before anybody has waited or set a deadline
}

// waiting is what a Conn needs for those who wait for it.
type waiting struct {
	read, write waiter
	gone        func() // see OnGone
}

// waiter is one who waits, for a change: whether it is the one he waits for he finds
// out by trying.
type waiter struct {
	changed  chan struct{} // one slot: a change says "look again"
	deadline time.Time
	timer    *time.Timer
}

func (w *waiter) wake() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// expect sets the deadline, and wakes who waits, as it may have passed.
func (w *waiter) expect(t time.Time) {
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
	w.deadline = t
	if left := time.Until(t); !t.IsZero() && left > 0 {
		w.timer = time.AfterFunc(left, w.wake)
	}
	w.wake()
}

func (w *waiter) late() bool { return !w.deadline.IsZero() && !time.Now().Before(w.deadline) }

// wait returns what is needed for waiting. mu is held.
func (c *loopConn) wait() *waiting {
	if c.waiting == nil {
		c.waiting = &waiting{
			read:  waiter{changed: make(chan struct{}, 1)},
			write: waiter{changed: make(chan struct{}, 1)},
		}
	}
	return c.waiting
}

// meet makes the Conn known to a loop. mu is held.
func (c *loopConn) meet() error {
	c.wait()
	if c.loop != nil {
		return c.loop.running()
	}
	l, err := c.engine.turnOf()
	if err != nil {
		return err
	}
	at := c.engine.table.at(c.fd)
	at.admit(c)
	if err := l.admit(c.fd, unix.EPOLL_CTL_ADD, inward|unix.EPOLLOUT); err != nil {
		at.admit(nil)
		return err
	}
	c.loop = l
	return nil
}

// hear is told by a loop what there is to tell.
func (c *loopConn) hear(l *loop, events uint32) {
	c.mu.Lock()
	if c.fd < 0 || c.loop != l {
		c.mu.Unlock()
		return
	}
	w := c.waiting
	var gone func()
	if events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		gone, w.gone = w.gone, nil
	}
	w.read.wake()
	w.write.wake()
	c.mu.Unlock()
	if gone != nil {
		gone()
	}
}

// deaf wakes whoever waits: he finds that there is no loop any more.
func (c *loopConn) deaf() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w := c.waiting; w != nil {
		w.read.wake()
		w.write.wake()
	}
}

// do calls try, with mu held, until it says that it is done or somebody has ended the
// wait. which is the waiter of those who call it.
func (c *loopConn) do(which func(*waiting) *waiter, try func(fd int) (done bool)) error {
	for {
		changed, err := c.attempt(which, try)
		if changed == nil {
			return err
		}
		<-changed
	}
}

// attempt is one try. It returns what to wait for, nil if it was the last.
func (c *loopConn) attempt(which func(*waiting) *waiter, try func(fd int) (done bool)) (<-chan struct{}, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.fd < 0:
		return nil, net.ErrClosed
	case c.aborted:
		return nil, syscall.ECONNRESET
	case c.waiting != nil && which(c.waiting).late():
		return nil, os.ErrDeadlineExceeded
	}
	if try(int(c.fd)) {
		return nil, nil
	}
	if err := c.meet(); err != nil {
		return nil, err
	}
	return which(c.waiting).changed, nil
}

func reading(w *waiting) *waiter { return &w.read }
func writing(w *waiting) *waiter { return &w.write }

// Read reads what there is, and waits if there is nothing.
func (c *loopConn) Read(p []byte) (int, error) {
	return c.ReadLent(own(p))
}

// own lends a buffer that is there anyway.
type own []byte

func (o own) Lend() []byte { return o }
func (o own) Return()      {}

// ReadLent reads into a buffer that it borrows, see [Conn].
func (c *loopConn) ReadLent(from Lender) (n int, err error) {
	var errno syscall.Errno
	empty := false
	err = c.do(reading, func(fd int) bool {
		buffer := from.Lend()
		empty = len(buffer) == 0
		for {
			n, errno = read(uintptr(fd), buffer)
			if errno != unix.EINTR {
				break
			}
		}
		if n <= 0 {
			from.Return()
		}
		if n == 0 && errno == 0 && !empty && c.truncated(fd) {
			errno = unix.ECONNRESET
		}
		return errno != unix.EAGAIN
	})
	switch {
	case err != nil:
		return 0, err
	case errno != 0:
		return 0, errno
	case n == 0 && !empty:
		return 0, io.EOF
	}
	return n, nil
}

// truncated reports whether an end that was just read is none, see socket.truncated.
func (c *loopConn) truncated(fd int) bool {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	return err == nil && info.State == unix.BPF_TCP_CLOSE && !c.shut
}

// Write writes all of p, or returns why not.
func (c *loopConn) Write(p []byte) (int, error) { return c.WriteBoth(p, nil) }

// WriteBoth writes all of both, or returns why not.
func (c *loopConn) WriteBoth(first, second []byte) (int, error) {
	s := sent{first: first, second: second}
	err := c.do(writing, func(fd int) bool { return s.onWritable(uintptr(fd)) })
	n := len(first) + len(second) - len(s.first) - len(s.second)
	if err == nil {
		err = s.err
	}
	return n, err
}

// connect connects the socket to its address, before ctx ends.
func (c *loopConn) connect(ctx context.Context) error {
	for {
		var failure error
		changed, err := c.attempt(writing, func(fd int) (done bool) {
			done, failure = goOnConnecting(fd, c.remote)
			return done
		})
		if err == nil {
			err = failure
		}
		if changed == nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// local is our own address, the zero value if there is none any more.
func (c *loopConn) local() netip.AddrPort {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd < 0 {
		return netip.AddrPort{}
	}
	return localAddress(int(c.fd))
}

// LocalAddr returns our own address.
func (c *loopConn) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(c.local()) }

// RemoteAddr returns the peer's address.
func (c *loopConn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }

// SetDeadline sets both deadlines.
func (c *loopConn) SetDeadline(t time.Time) error { return c.expect(t, reading, writing) }

// SetReadDeadline sets when reads fail with [os.ErrDeadlineExceeded]; zero: never.
func (c *loopConn) SetReadDeadline(t time.Time) error { return c.expect(t, reading) }

// SetWriteDeadline sets the same for writes.
func (c *loopConn) SetWriteDeadline(t time.Time) error { return c.expect(t, writing) }

func (c *loopConn) expect(t time.Time, which ...func(*waiting) *waiter) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd < 0 {
		return net.ErrClosed
	}
	if t.IsZero() && c.waiting == nil {
		return nil
	}
	for _, w := range which {
		w(c.wait()).expect(t)
	}
	return nil
}

// Close closes the socket.
func (c *loopConn) Close() error { return c.close(false) }

// Reset closes with RST.
func (c *loopConn) Reset() error { return c.close(true) }

func (c *loopConn) close(reset bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd < 0 {
		return net.ErrClosed
	}
	fd := c.fd
	c.leave()
	closeSocket(int(fd), reset || c.aborted)
	return nil
}

// leave ends the Conn, but not its socket, and wakes whoever waits for it. mu is held.
func (c *loopConn) leave() {
	if c.loop != nil {
		c.engine.table.at(c.fd).admit(nil)
	}
	c.fd = -1
	if w := c.waiting; w != nil {
		w.gone = nil
		w.read.expect(time.Time{})
		w.write.expect(time.Time{})
	}
}

// handOver gives the socket to the way of a session that reads it. mu is held.
func (c *loopConn) handOver(w *way, to *loop) {
	w.fd = c.fd
	switch c.loop {
	case nil:
	case to:
		w.known, w.outward = true, true
	default:
		_ = c.loop.watch(int(c.fd), unix.EPOLL_CTL_DEL, 0)
	}
	c.leave()
}

// Abort resets now, and leaves it to the owner to close.
func (c *loopConn) Abort() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd < 0 {
		return
	}
	c.aborted = true
	// Where the kernel cannot do it, the reset comes with Close.
	_ = c.engine.rest.disconnect(uintptr(c.fd))
	if w := c.waiting; w != nil {
		w.read.wake()
		w.write.wake()
	}
}

// CloseWrite shuts the write side.
func (c *loopConn) CloseWrite() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd < 0 {
		return net.ErrClosed
	}
	c.shut = true
	errno := shut(int(c.fd))
	if errno == 0 {
		return nil
	}
	// ENOTCONN says only that there is no connection any more.
	if why := pendingError(c.fd); why != nil {
		return why
	}
	return os.NewSyscallError("shutdown", errno)
}

// Quiet tells whether there is nothing to read.
func (c *loopConn) Quiet() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fd >= 0 && quiet(uintptr(c.fd))
}

// OnGone asks a loop to look out for the peer's end.
func (c *loopConn) OnGone(left func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd < 0 {
		return
	}
	known := c.loop != nil
	c.wait().gone = left
	if c.meet() == nil && known {
		// It may have been told before.
		_ = c.loop.admit(c.fd, unix.EPOLL_CTL_MOD, inward|unix.EPOLLOUT)
	}
}

// AwaitGone waits for the peer to leave, see [Conn].
func (c *loopConn) AwaitGone(ctx context.Context) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	for {
		changed, err := c.attempt(reading, func(fd int) bool { return peerGone(uintptr(fd)) })
		if changed == nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
