package relay

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// watcher notices that peers have left, on sockets that nobody is reading. It has an
// epoll instance of its own, to which each socket is added once: only ends and errors
// are asked for, so bytes that come and go cost it nothing. The instance is itself
// polled by the runtime, so that the goroutine holds no thread.
type watcher struct {
	mu     sync.Mutex
	file   *os.File // nil before the first socket
	epoll  int
	last   uint64
	calls  map[uint64]func()
	closed bool
	ended  chan struct{}
}

// watch has left called when the peer of fd has left, and returns a token for
// forget. It returns 0 if fd cannot be watched.
func (w *watcher) watch(fd int, left func()) uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || w.file == nil && !w.start() {
		return 0
	}
	w.last++
	token := w.last
	event := unix.EpollEvent{Events: unix.EPOLLRDHUP | unix.EPOLLONESHOT, Fd: int32(token), Pad: int32(token >> 32)}
	if err := unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
		return 0
	}
	w.calls[token] = left
	return token
}

// start opens the epoll instance. Without one, peers are found gone when they are
// next written to.
func (w *watcher) start() bool {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return false
	}
	// os.NewFile polls what does not block.
	if err := unix.SetNonblock(epoll, true); err != nil {
		unix.Close(epoll)
		return false
	}
	w.epoll, w.file = epoll, os.NewFile(uintptr(epoll), "epoll")
	w.calls, w.ended = map[uint64]func(){}, make(chan struct{})
	go w.run(w.file)
	return true
}

// run calls those whose peers have left, until the file is closed.
func (w *watcher) run(file *os.File) {
	defer close(w.ended)
	raw, err := file.SyscallConn()
	if err != nil {
		return
	}
	var events [64]unix.EpollEvent
	_ = raw.Read(func(fd uintptr) bool {
		for {
			n, err := unix.EpollWait(int(fd), events[:], 0)
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				return true
			}
			for _, e := range events[:n] {
				w.call(uint64(uint32(e.Fd)) | uint64(uint32(e.Pad))<<32)
			}
			if n < len(events) {
				return false
			}
		}
	})
}

// call takes the call that belongs to a token. A socket that was closed meanwhile has
// none.
func (w *watcher) call(token uint64) {
	w.mu.Lock()
	left := w.calls[token]
	delete(w.calls, token)
	w.mu.Unlock()
	if left != nil {
		left()
	}
}

func (w *watcher) forget(token uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.calls, token)
}

func (w *watcher) close() {
	w.mu.Lock()
	w.closed = true
	file := w.file
	w.mu.Unlock()
	if file != nil {
		file.Close()
		<-w.ended
	}
}
