package relay

import (
	"sync"

	"golang.org/x/sys/unix"
)

// pipeSize is what a pipe is asked to hold, in bytes: the largest an unprivileged
// user may have by default. It costs nothing until it is filled, and the fuller a
// pipe is on each turn, the fewer turns there are.
const pipeSize = 1 << 20

// pipe is an empty pipe when it is in nobody's hands.
type pipe struct {
	r, w int
	size int // bytes
}

func (p *pipe) close() {
	_ = unix.Close(p.r)
	_ = unix.Close(p.w)
}

// pipes lends pipes, at most so many at a time.
type pipes struct {
	most int

	mu     sync.Mutex
	free   []*pipe
	exist  int
	closed bool
}

// borrow returns nil if there are as many as there may be or the system gives no
// more: whoever asks has another way.
func (l *pipes) borrow() *pipe {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.free); n > 0 {
		p := l.free[n-1]
		l.free = l.free[:n-1]
		return p
	}
	if l.exist >= l.most || l.closed {
		return nil
	}
	var fds [2]int
	if unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK) != nil {
		return nil
	}
	size, err := unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, pipeSize)
	if err != nil {
		if size, err = unix.FcntlInt(uintptr(fds[0]), unix.F_GETPIPE_SZ, 0); err != nil {
			size = unix.Getpagesize()
		}
	}
	l.exist++
	return &pipe{r: fds[0], w: fds[1], size: size}
}

// giveBack takes p again; one that still holds something is of no use to others.
func (l *pipes) giveBack(p *pipe, empty bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if empty && !l.closed {
		l.free = append(l.free, p)
		return
	}
	p.close()
	l.exist--
}

func (l *pipes) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for _, p := range l.free {
		p.close()
	}
	l.exist -= len(l.free)
	l.free = nil
}
