package check

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// aLongTimeAgo is a deadline that has passed.
var aLongTimeAgo = time.Unix(1, 0)

// Watch watches a connection that a checker keeps idle between two probes, and
// calls hint, which is Target.Hint, at most once if the server ends it or speaks
// unasked: so a crash is probed for within milliseconds, without any traffic.
//
// It takes no byte from the connection and uses its read deadline. Until stop has
// been called the connection must not be read from or closed. Stop waits until
// the watching is over, and tells whether the connection is still as it was:
// silent and open. If not, it is of no more use. To call stop again does nothing
// and says the same.
//
// Under TLS, conn is the connection below. One that has no file descriptor is not
// watched, and stop says true. A nil hint is not called.
func Watch(conn net.Conn, hint func(detail string)) (stop func() (intact bool)) {
	var raw syscall.RawConn
	if below, ok := conn.(syscall.Conn); ok {
		raw, _ = below.SyscallConn()
	}
	if raw == nil {
		return func() bool { return true }
	}
	if conn.SetReadDeadline(time.Time{}) != nil {
		return func() bool { return false }
	}
	w := &watch{conn: conn, raw: raw, hint: hint, stopped: make(chan struct{})}
	go w.run()
	return w.stop
}

type watch struct {
	conn net.Conn
	raw  syscall.RawConn
	hint func(detail string)
	// stopped is closed when run has returned.
	stopped chan struct{}
	// seen is what has come, "" if nothing has. It is run's until stopped is closed,
	// and then stop's, which looks a last time.
	seen string
	over bool
}

func (w *watch) run() {
	defer close(w.stopped)
	// The error is that the deadline has passed, which is stop's doing.
	_ = w.raw.Read(w.peek)
	if w.seen != "" && w.hint != nil {
		w.hint(w.seen)
	}
}

// peek tells whether there is anything to read, and leaves it there.
func (w *watch) peek(fd uintptr) (done bool) {
	var first [1]byte
	for {
		switch n, _, err := unix.Recvfrom(int(fd), first[:], unix.MSG_PEEK|unix.MSG_DONTWAIT); {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return false
		case err != nil:
			w.seen = "the kept connection broke: " + Words(err)
		case n == 0:
			w.seen = "the kept connection was closed by the server"
		default:
			w.seen = "the server spoke unasked on the kept connection"
		}
		return true
	}
}

func (w *watch) stop() bool {
	if w.over {
		return w.seen == ""
	}
	w.over = true
	_ = w.conn.SetReadDeadline(aLongTimeAgo)
	<-w.stopped
	_ = w.conn.SetReadDeadline(time.Time{})
	if w.seen == "" {
		// What came in the last moment. Nobody needs a hint of it any more.
		_ = w.raw.Control(func(fd uintptr) { w.peek(fd) })
	}
	return w.seen == ""
}
