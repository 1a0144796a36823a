package relay

import (
	"context"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

var _ Server = (*loopListener)(nil)

// loopListener accepts sockets that the runtime knows nothing of: in the goroutine
// that calls Accept, or in a loop.
type loopListener struct {
	engine *Loops
	fd     int32
	addr   net.Addr
	failed chan error // what Serve returns. One slot, as it hears one error

	mu       sync.Mutex
	closed   bool
	home     *loop           // that accepts; nil before the first Serve
	accepted func(Conn)      // nil: the loop does not accept
	file     *os.File        // fd, as the runtime's poller waits for it; nil before the first Accept
	raw      syscall.RawConn // of file
}

// Listen binds address, see [Portable.Listen].
func (e *Loops) Listen(ctx context.Context, address string) (Listener, error) {
	l, err := e.rest.listen(ctx, address)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	// A net.Listener is waited for by the runtime's poller and by nobody else; its
	// socket can be by others.
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		return nil, err
	}
	fd, failed := -1, error(nil)
	err = raw.Control(func(f uintptr) { fd, failed = unix.FcntlInt(f, unix.F_DUPFD_CLOEXEC, 0) })
	if err == nil && failed != nil {
		err = os.NewSyscallError("fcntl", failed)
	}
	if err != nil {
		return nil, err
	}
	return &loopListener{engine: e, fd: int32(fd), addr: l.Addr(), failed: make(chan error, 1)}, nil
}

// Addr returns the address that was bound.
func (l *loopListener) Addr() net.Addr { return l.addr }

// Close ends Accept and Serve.
func (l *loopListener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return net.ErrClosed
	}
	l.stop(net.ErrClosed)
	l.closed = true
	if l.file != nil {
		return l.file.Close()
	}
	return unix.Close(int(l.fd))
}

// Accept waits for a connection.
func (l *loopListener) Accept() (Conn, error) {
	raw, err := l.waitable()
	if err != nil {
		return nil, l.failure(err)
	}
	var (
		fd    int
		from  netip.AddrPort
		errno syscall.Errno
	)
	err = raw.Read(func(listening uintptr) bool {
		for {
			fd, from, errno = accept(listening)
			if errno != unix.EINTR {
				return errno != unix.EAGAIN
			}
		}
	})
	switch {
	case err != nil:
		// Without deadlines there is no other reason to give up waiting.
		return nil, l.failure(net.ErrClosed)
	case errno != 0:
		return nil, l.failure(os.NewSyscallError("accept4", errno))
	}
	return &loopConn{engine: l.engine, fd: int32(fd), remote: from}, nil
}

// waitable is the socket as the runtime's poller waits for it.
func (l *loopListener) waitable() (syscall.RawConn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, net.ErrClosed
	}
	if l.file == nil {
		l.file = os.NewFile(uintptr(l.fd), "listener")
		raw, err := l.file.SyscallConn()
		if err != nil {
			return nil, err
		}
		l.raw = raw
	}
	return l.raw, nil
}

// Serve has a loop accept, see [Server].
func (l *loopListener) Serve(accepted func(Conn)) error {
	if err := l.begin(accepted); err != nil {
		return l.failure(err)
	}
	return l.failure(<-l.failed)
}

func (l *loopListener) begin(accepted func(Conn)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return net.ErrClosed
	}
	if l.home == nil {
		home, err := l.engine.turnOf()
		if err != nil {
			return err
		}
		l.home = home
	}
	l.accepted = accepted
	l.engine.table.at(l.fd).admit(l)
	if err := l.home.admit(l.fd, unix.EPOLL_CTL_ADD, unix.EPOLLIN); err != nil {
		l.accepted = nil
		l.engine.table.at(l.fd).admit(nil)
		return err
	}
	return nil
}

// stop ends Serve with an error, if it is called. mu is held.
func (l *loopListener) stop(err error) {
	if l.accepted == nil {
		return
	}
	l.accepted = nil
	l.engine.table.at(l.fd).admit(nil)
	_ = l.home.admit(l.fd, unix.EPOLL_CTL_DEL, 0)
	l.failed <- err
}

// hear accepts one connection, which the loop was told of. If there are more, it is
// told again.
func (l *loopListener) hear(home *loop, _ uint32) {
	l.mu.Lock()
	accepted := l.accepted
	if accepted == nil || l.home != home {
		l.mu.Unlock()
		return
	}
	fd, from, errno := accept(uintptr(l.fd))
	switch errno {
	case 0:
	case unix.EAGAIN, unix.EINTR:
		accepted = nil
	default:
		l.stop(os.NewSyscallError("accept4", errno))
		accepted = nil
	}
	l.mu.Unlock()
	if accepted != nil {
		accepted(&loopConn{engine: l.engine, fd: int32(fd), remote: from, home: home})
	}
}

// deaf ends Serve: there is no loop any more.
func (l *loopListener) deaf() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stop(ErrEngineClosed)
}

func (l *loopListener) failure(err error) error {
	return &net.OpError{Op: "accept", Net: "tcp", Addr: l.addr, Err: err}
}
