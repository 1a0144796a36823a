package relay

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// aLongTimeAgo is a deadline that has passed.
var aLongTimeAgo = time.Unix(1, 0)

// socket is the Conn of [Portable]: a TCP socket, or anything else that was
// adopted.
type socket struct {
	net.Conn
	engine *Portable
	raw    syscall.RawConn // nil if Conn is not a *net.TCPConn
	shut   atomic.Bool     // our write side was shut down, or is about to be
	lent   *lent           // nil before the first ReadLent
	sent   *sent           // nil before the first Write
	peek   *peek           // nil before the first Quiet
	watch  atomic.Uint64   // the watcher's token; 0: not watched
}

// Close closes the socket.
func (c *socket) Close() error {
	if token := c.watch.Swap(0); token != 0 {
		c.engine.watcher.forget(token)
	}
	return c.Conn.Close()
}

// Reset closes with RST.
func (c *socket) Reset() error {
	if r, ok := c.Conn.(interface{ Reset() error }); ok {
		return r.Reset()
	}
	c.linger0()
	return c.Close()
}

// Abort resets now, and leaves it to the owner to close.
func (c *socket) Abort() { c.abort() }

// CloseWrite shuts the write side, if there is such a thing.
func (c *socket) CloseWrite() error {
	if !c.canCloseWrite() {
		return nil
	}
	return c.closeWrite()
}

// lent is what ReadLent needs, bound once so that a read allocates nothing.
type lent struct {
	from Lender
	read func(fd uintptr) bool
	n    int
	err  error
}

// ReadLent reads into a buffer that it borrows, see [Conn].
func (c *socket) ReadLent(from Lender) (int, error) {
	if c.raw == nil {
		return c.readAhead(from)
	}
	if c.lent == nil {
		c.lent = &lent{}
		c.lent.read = c.lent.onReadable
	}
	l := c.lent
	l.from, l.n, l.err = from, 0, nil
	if err := c.raw.Read(l.read); err != nil {
		return 0, err
	}
	if l.n == 0 && l.err == nil {
		if c.truncated() {
			return 0, syscall.ECONNRESET
		}
		return 0, io.EOF
	}
	return l.n, l.err
}

// onReadable tries the system call each time, see direction.
func (l *lent) onReadable(fd uintptr) bool {
	buffer := l.from.Lend()
	for {
		n, errno := read(fd, buffer)
		switch {
		case n > 0:
			l.n = n
			return true
		case errno == unix.EINTR:
			continue
		}
		l.from.Return()
		if errno == unix.EAGAIN {
			return false
		}
		if errno != 0 {
			l.err = errno
		}
		return true
	}
}

// Write writes all of p, or returns why not.
func (c *socket) Write(p []byte) (int, error) { return c.WriteBoth(p, nil) }

// WriteBoth writes all of both, or returns why not.
func (c *socket) WriteBoth(first, second []byte) (int, error) {
	if c.raw == nil {
		n, err := c.Conn.Write(first)
		if err == nil && len(second) > 0 {
			var more int
			more, err = c.Conn.Write(second)
			n += more
		}
		return n, err
	}
	if c.sent == nil {
		c.sent = &sent{}
		c.sent.write = c.sent.onWritable
	}
	s := c.sent
	s.first, s.second, s.err = first, second, nil
	err := c.raw.Write(s.write)
	n := len(first) + len(second) - len(s.first) - len(s.second)
	s.first, s.second = nil, nil
	if err == nil {
		err = s.err
	}
	return n, err
}

// sent is what Write needs, bound once so that a write allocates nothing.
type sent struct {
	write         func(fd uintptr) bool
	first, second []byte // what is left of both
	err           error
}

// onWritable writes until nothing is left and returns true then, or returns false to
// be called again.
func (s *sent) onWritable(fd uintptr) bool {
	for len(s.first)+len(s.second) > 0 {
		switch n, errno := writeBoth(fd, s.first, s.second); {
		case n > 0:
			of := min(n, len(s.first))
			s.first, s.second = s.first[of:], s.second[n-of:]
		case errno == unix.EAGAIN:
			return false
		case errno != unix.EINTR:
			s.err = errno
			return true
		}
	}
	return true
}

// readAhead is ReadLent for what cannot be waited for without a buffer.
func (c *socket) readAhead(from Lender) (int, error) {
	n, err := c.Conn.Read(from.Lend())
	if n > 0 {
		return n, nil
	}
	from.Return()
	return 0, err
}

// Quiet tells whether there is nothing to read.
func (c *socket) Quiet() bool {
	if c.raw == nil {
		return true
	}
	if c.peek == nil {
		c.peek = &peek{}
		c.peek.control = c.peek.look
	}
	c.peek.quiet = false
	_ = c.raw.Control(c.peek.control)
	return c.peek.quiet
}

// peek is what Quiet needs, bound once so that asking allocates nothing.
type peek struct {
	control func(fd uintptr)
	quiet   bool
}

func (p *peek) look(fd uintptr) { p.quiet = quiet(fd) }

// OnGone asks the engine's watcher to look out for the peer's end.
func (c *socket) OnGone(left func()) {
	if c.raw == nil {
		return
	}
	_ = c.raw.Control(func(fd uintptr) { c.watch.Store(c.engine.watcher.watch(int(fd), left)) })
}

func (c *socket) linger0() {
	if l, ok := c.Conn.(interface{ SetLinger(int) error }); ok {
		_ = l.SetLinger(0)
	}
}

// AwaitGone waits for the peer to leave, see [Conn]. It uses the read deadline,
// and clears it before it returns. If the Conn is closed meanwhile, the error is
// [net.ErrClosed].
func (c *socket) AwaitGone(ctx context.Context) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if c.raw == nil {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		_ = c.SetReadDeadline(aLongTimeAgo)
	})
	err := c.raw.Read(peerGone)
	if !stop() {
		// The function has begun; the deadline may be cleared only after it.
		<-interrupted
		_ = c.SetReadDeadline(time.Time{})
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return context.Cause(ctx)
	}
	return err
}

// peerGone reports whether the peer of fd has reset the connection, or has shut
// its write side without having sent anything that is still to be read.
func peerGone(fd uintptr) bool {
	switch got := poll(fd, unix.POLLRDHUP); {
	case got&(unix.POLLERR|unix.POLLHUP|unix.POLLNVAL) != 0:
		return true
	case got&unix.POLLRDHUP != 0:
		queued, err := unix.IoctlGetInt(int(fd), unix.SIOCINQ)
		return err != nil || queued == 0
	}
	return false
}

// poll returns which of events, of errors and of hang-ups are there now.
func poll(fd uintptr, events int16) int16 {
	p := []unix.PollFd{{Fd: int32(fd), Events: events}}
	for {
		switch _, err := unix.Poll(p, 0); err {
		case nil:
			return p[0].Revents
		case unix.EINTR:
		default:
			return unix.POLLERR
		}
	}
}

// canCloseWrite reports whether an end can be passed on without closing.
func (c *socket) canCloseWrite() bool {
	_, ok := c.Conn.(interface{ CloseWrite() error })
	return ok
}

// closeWrite passes an end on. Its error is what broke the connection, if it was
// broken.
func (c *socket) closeWrite() error {
	c.shut.Store(true)
	err := c.Conn.(interface{ CloseWrite() error }).CloseWrite()
	if err == nil || c.raw == nil {
		return err
	}
	// ENOTCONN says only that there is no connection any more.
	if why := c.pendingError(); why != nil {
		return why
	}
	return err
}

// pendingError takes the error that the kernel holds for the socket.
func (c *socket) pendingError() error {
	errno := 0
	_ = c.raw.Control(func(fd uintptr) {
		errno, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
	})
	if errno == 0 {
		return nil
	}
	return syscall.Errno(errno)
}

// truncated reports whether an end that was just read is none. The kernel reports
// a reset once, to whichever call comes first, and then reads as ended: if the
// write of the other direction was told, the read sees an orderly end. It differs
// from a true one in that the connection is closed though we never closed our
// side of it.
func (c *socket) truncated() bool {
	if c.raw == nil {
		return false
	}
	closed := false
	_ = c.raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		closed = err == nil && info.State == unix.BPF_TCP_CLOSE
	})
	return closed && !c.shut.Load()
}

// abort resets the connection now, from any goroutine, and wakes whoever waits
// for it. It does not wait for them, as Close would: the descriptor stays valid
// until the session closes it.
func (c *socket) abort() {
	if c.raw == nil {
		_ = c.Reset()
		return
	}
	done := false
	_ = c.raw.Control(func(fd uintptr) { done = c.engine.disconnect(fd) == nil })
	if !done {
		// Not every kernel that calls itself Linux can do this. Then the reset has
		// to wait until both directions have noticed and the session closes.
		c.linger0()
		_ = c.SetDeadline(aLongTimeAgo)
	}
}
