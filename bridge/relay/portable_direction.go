package relay

import (
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrPanic is what a session ends with if something about it panicked, which only a bug
// here, in an adopted [net.Conn] or in [Owner.HalfClosed] can make it do. The session is
// reset; the error's text has the panic's value and the stack. A panic of
// [Owner.Done] is not caught: it is the caller's.
var ErrPanic = errors.New("panic in the relay")

// direction moves bytes from src to dst. Its goroutine spends an idle life in the
// callback of RawConn.Read, waiting: it has no buffer then.
//
// The callbacks must try the real system call each time they are called. The
// runtime's poller is edge triggered, and RawConn.Read forgets what readiness it
// knew of before the first call, so a callback that begins by returning false may
// wait for data that is already there.
type direction struct {
	session  *session
	src, dst *socket
	from, to Side

	readable, writable func(fd uintptr) bool // onReadable, onWritable: bound once

	written atomic.Int64 // bytes
	last    atomic.Int64 // engine time of the last byte, kept if a limit applies

	chunk []byte  // to be written to dst
	buf   *[]byte // borrowed
	pipe  *pipe   // borrowed
	piped int     // bytes in pipe, to be written to dst
	went  int     // bytes moved since src was last found empty
	bulk  bool    // worth a pipe
	ended bool    // src has been read to its end
	timed bool    // a limit applies

	acks acks
}

func (d *direction) init(s *session, src, dst *socket, from, to Side, first []byte) {
	d.session, d.src, d.dst, d.from, d.to, d.chunk = s, src, dst, from, to, first
	d.timed = s.limits != Limits{}
	if src.raw != nil {
		d.readable = d.onReadable
	}
	if dst.raw != nil {
		d.writable = d.onWritable
	}
}

// run is the direction's goroutine; the session waits for it.
func (d *direction) run() {
	defer d.leave()
	if len(d.chunk) > 0 && !d.write() {
		return
	}
	d.chunk = nil
	if d.readable != nil {
		if err := d.src.raw.Read(d.readable); err != nil {
			d.session.fail(d.from, err)
		}
	} else {
		d.copy()
	}
	if d.ended && d.session.pass(d) && d.readable != nil {
		d.watch()
	}
}

func (d *direction) leave() {
	if r := recover(); r != nil {
		d.session.fail(Neither, fmt.Errorf("%w: %v\n%s", ErrPanic, r, debug.Stack()))
	}
	d.letGo()
	d.session.leave()
}

// letGo gives back what was borrowed.
func (d *direction) letGo() {
	e := d.session.set.engine
	if d.buf != nil {
		e.giveBack(d.buf)
		d.buf = nil
	}
	if d.pipe != nil {
		e.pipes.giveBack(d.pipe, d.piped == 0)
		d.pipe = nil
	}
}

// onReadable moves what there is to read from src, and returns true when there
// will be no more, false when it wants to be called again.
//
// Only an ordinary read decides that src is empty or at its end: a splice that
// comes to the mark of urgent data says either, with the stream going on behind
// the mark.
func (d *direction) onReadable(fd uintptr) bool {
	e := d.session.set.engine
	for !d.session.over.Load() {
		if d.bulk && !d.splice(int(fd)) {
			return true
		}
		if d.buf == nil {
			d.buf = e.borrow()
		}
		n, errno := read(fd, *d.buf)
		switch {
		case n > 0:
			d.chunk = (*d.buf)[:n]
			d.moved(n)
			if !d.write() {
				return true
			}
		case errno == 0:
			d.ended = true
			d.letGo()
			return true
		case errno == unix.EAGAIN:
			d.letGo()
			d.bulk = d.bulk && d.went > e.options.BufferSize
			d.went = 0
			return false
		case errno != unix.EINTR:
			d.session.fail(d.from, errno)
			return true
		}
	}
	return true
}

// splice moves by way of a pipe what there is to read from src, until there seems
// to be nothing. It returns false when the session has ended.
func (d *direction) splice(src int) bool {
	e := d.session.set.engine
	if d.pipe = e.pipes.borrow(); d.pipe == nil {
		// Asked again when as much as before has been moved.
		d.bulk, d.went = false, 0
		return true
	}
	for !d.session.over.Load() {
		got, err := unix.Splice(src, nil, d.pipe.w, nil, d.pipe.size, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		n := int(got)
		switch {
		case n > 0:
			d.piped = n
			d.moved(n)
			if !d.write() {
				return false
			}
		case err == unix.EINTR:
		case err == nil, err == unix.EAGAIN, err == unix.EINVAL:
			e.pipes.giveBack(d.pipe, true)
			d.pipe = nil
			if err == unix.EINVAL {
				// A kind of socket that this kernel cannot splice from.
				d.bulk, d.went = false, 0
			}
			return true
		default:
			d.session.fail(d.from, err)
			return false
		}
	}
	return false
}

// moved notes that n bytes were read.
func (d *direction) moved(n int) {
	if d.timed {
		d.last.Store(d.session.set.engine.now())
	}
	d.went += n
	if after := d.session.set.engine.options.SpliceAfter; d.went >= after && after > 0 {
		d.bulk = d.readable != nil && d.writable != nil
	}
}

// write writes to dst what is in the pipe, or else chunk. It returns false when
// the session has ended.
func (d *direction) write() bool {
	if d.writable != nil {
		if err := d.dst.raw.Write(d.writable); err != nil {
			d.session.fail(d.to, err)
		}
	} else {
		n, err := d.dst.Conn.Write(d.chunk)
		d.wrote(n)
		if err != nil {
			d.session.fail(d.to, err)
		}
	}
	return !d.session.over.Load()
}

// onWritable writes until nothing is left and returns true then, or returns false
// to be called again.
func (d *direction) onWritable(fd uintptr) bool {
	for !d.session.over.Load() {
		n, err := d.put(int(fd))
		switch {
		case n > 0:
			d.wrote(n)
			if d.piped > 0 {
				d.piped -= n
			} else {
				d.chunk = d.chunk[n:]
			}
			if d.piped == 0 && len(d.chunk) == 0 {
				return true
			}
		case err == unix.EAGAIN:
			return false
		case err == nil:
			d.session.fail(d.to, io.ErrShortWrite)
			return true
		case err != unix.EINTR:
			d.session.fail(d.to, err)
			return true
		}
	}
	return true
}

func (d *direction) put(dst int) (int, error) {
	if d.piped == 0 {
		n, errno := write(uintptr(dst), d.chunk)
		if errno != 0 {
			return n, errno
		}
		return n, nil
	}
	n, err := unix.Splice(d.pipe.r, nil, dst, nil, d.piped, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
	return int(n), err
}

func (d *direction) wrote(n int) {
	d.written.Add(int64(n))
	if d.timed {
		d.last.Store(d.session.set.engine.now())
	}
}

// copy is onReadable for what is not a TCP socket.
func (d *direction) copy() {
	d.buf = d.session.set.engine.borrow()
	for !d.session.over.Load() {
		n, err := d.src.Conn.Read(*d.buf)
		if n > 0 {
			d.chunk = (*d.buf)[:n]
			d.moved(n)
			if !d.write() {
				return
			}
		}
		switch {
		case err == io.EOF:
			d.ended = true
			d.letGo()
			return
		case err != nil:
			d.session.fail(d.from, err)
			return
		}
	}
}

// watch waits, when src has ended and the other direction has not, for src to be
// reset: the other direction would not notice before it has something to write.
func (d *direction) watch() {
	_ = d.src.raw.Read(func(fd uintptr) bool {
		if d.session.over.Load() {
			return true
		}
		if poll(fd, 0) == 0 {
			return false
		}
		// Without an error this is the orderly end of the other direction, or that
		// direction has taken the error and reports it.
		if errno, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); err == nil && errno != 0 {
			d.session.fail(d.from, syscall.Errno(errno))
		}
		return true
	})
}
