package relay

import (
	"io"
	"math"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// loopSession is the Session of [Loops]. Everything but the atomics and what is never
// changed belongs to its loop; the links of its set are the set's.
type loopSession struct {
	set        *loopSet
	loop       *loop
	prev, next *loopSession // under set.mu

	owner Owner // nil: nobody

	client, backend way // named for the side that is read

	limits        Limits
	last          int64 // engine time of the last byte, kept if a limit applies
	sooner, later *loopSession
	dial          *dial // nil once there is a session; also under set.mu
	headers       int32
	slot          uint8 // of the wheel, like sooner and later
	timed, inFar  bool
	untuned       bool  // the sweep is to turn on the backend's keepalives
	ends          uint8 // ways that have ended orderly
	first         Side
	over          atomic.Bool // it has ended, or somebody has asked for it
}

// way is one direction of a session, named for the descriptor it reads. It writes to
// that of the other way.
type way struct {
	written atomic.Int64 // bytes
	quiet   int64        // see checkPeer
	rest    *rest        // read and not yet written; nil: nothing
	fd      int32
	went    int32 // bytes moved since fd last had only little, or as many as fit
	known   bool  // the loop is told about fd
	outward bool  // it is also told when fd can be written
	bulk    bool  // worth a pipe
	much    bool  // more than a buffer was moved since fd was last found empty
	listed  bool  // goes on when it is its turn
	broken  bool  // the loop was told of an error of fd
	alarmed bool  // fd has more to tell than bytes: it is read until it is empty
	ended   bool  // fd has been read to its end
}

// dial is what is to become a session when it is connected.
type dial struct {
	client              *loopConn
	to                  netip.AddrPort
	within              time.Duration
	then                func(Session, error)
	toBackend, toClient []byte
}

// rest is what the other side does not take yet: bytes, or a pipe that holds some.
type rest struct {
	chunk []byte
	buf   *[]byte // borrowed; nil: chunk is somebody else's
	pipe  *pipe   // borrowed
	piped int     // bytes in pipe
}

var rests = sync.Pool{New: func() any { return new(rest) }}

// What a loop is told of a descriptor: bytes, ends, and that there is urgent data,
// behind which a read stops short.
const inward = unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLPRI | unix.EPOLLET

func newLoopSession(in *loopSet, p Pair) *loopSession {
	return &loopSession{
		set: in, owner: p.Owner, limits: p.Limits, headers: int32(p.Headers),
	}
}

func (s *loopSession) Owner() Owner { return s.owner }

func (s *loopSession) Counts() (toBackend, toClient int64) {
	return max(s.client.written.Load()-int64(s.headers), 0), s.backend.written.Load()
}

func (s *loopSession) End(cause error) error {
	if cause == nil {
		cause = ErrEnded
	}
	if !s.over.CompareAndSwap(false, true) {
		return ErrEnded
	}
	s.loop.push(command{do: endSession, session: s, cause: cause})
	return nil
}

// other is the way that goes back.
func (s *loopSession) other(w *way) *way {
	if w == &s.client {
		return &s.backend
	}
	return &s.client
}

// from is the way that reads a descriptor.
func (s *loopSession) from(fd int32) *way {
	if fd == s.client.fd {
		return &s.client
	}
	return &s.backend
}

// to is the way that writes to a descriptor.
func (s *loopSession) to(fd int32) *way { return s.other(s.from(fd)) }

// side is whom w reads.
func (s *loopSession) side(w *way) Side {
	if w == &s.client {
		return Client
	}
	return Backend
}

// beginDial begins to connect to the backend.
func (s *loopSession) beginDial() {
	d, e := s.dial, s.loop.engine
	fd, err := e.socket(d.to)
	if err != nil {
		s.fail(Neither, failedDial(d.to, err))
		return
	}
	s.backend.fd = fd
	if s.loop.sweep.every > 0 {
		// A session that is over soon needs no keepalives, and they take four calls.
		setOption(uintptr(fd), unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		s.untuned = true
	} else {
		e.rest.tune(uintptr(fd))
	}
	done, err := goOnConnecting(int(fd), d.to)
	if done {
		s.dialed(err)
		return
	}
	e.table.at(fd).session.Store(s)
	if err := s.loop.watch(int(fd), unix.EPOLL_CTL_ADD, inward|unix.EPOLLOUT); err != nil {
		s.fail(Neither, err)
		return
	}
	s.backend.known, s.backend.outward = true, true
	s.touch()
	s.watchSilence()
}

// dialed makes a session of what was dialed, if it was.
func (s *loopSession) dialed(err error) {
	d := s.dial
	if err != nil {
		s.fail(Neither, failedDial(d.to, err))
		return
	}
	s.loop.wheel.remove(s)
	if err := s.set.admit(s); err != nil {
		s.fail(Neither, err)
		return
	}
	s.client.keep(d.toBackend)
	s.backend.keep(d.toClient)
	d.then(s, nil)
	s.begin()
}

// begin is the session's first turn.
func (s *loopSession) begin() {
	if s.over.Load() {
		return
	}
	e := s.loop.engine
	told := s.backend.known
	for _, w := range []*way{&s.client, &s.backend} {
		e.table.at(w.fd).session.Store(s)
		if w.known {
			continue
		}
		if err := s.loop.watch(int(w.fd), unix.EPOLL_CTL_ADD, inward); err != nil {
			s.fail(Neither, err)
			return
		}
		w.known = true
	}
	s.touch()
	s.watchSilence()
	// A client that has come to ask something has mostly asked by now. Beside that there
	// is nothing that the loop will not be told, unless somebody else was told before.
	s.move(&s.client, busyBytes, 1)
	if told || s.backend.rest != nil {
		s.move(&s.backend, busyBytes, 1)
	}
}

// hear is told what there is to tell of a descriptor.
func (s *loopSession) hear(fd int32, events uint32) {
	if s.over.Load() {
		return
	}
	if d := s.dial; d != nil {
		if done, err := goOnConnecting(int(fd), d.to); done {
			s.dialed(err)
		}
		return
	}
	in := s.from(fd)
	out := s.other(in)
	in.broken = in.broken || events&unix.EPOLLERR != 0
	if events&(unix.EPOLLRDHUP|unix.EPOLLPRI|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		in.alarmed = true
	}
	if events&unix.EPOLLERR != 0 && (in.ended || in.rest != nil) {
		// Nobody is about to read it, and to be told.
		if err := pendingError(fd); err != nil {
			s.fail(s.side(in), err)
			return
		}
	}
	if events&(unix.EPOLLOUT|unix.EPOLLHUP|unix.EPOLLERR) != 0 && out.rest != nil {
		s.move(out, busyBytes, 1)
	}
	switch {
	case events&^unix.EPOLLOUT == 0 || in.ended || in.rest != nil || s.over.Load():
	case in.bulk:
		s.loop.later(s, in)
	default:
		if s.move(in, busyBytes, 1) < s.loop.engine.rest.options.BufferSize {
			s.loop.busy = s.loop.now + busyTime
		}
	}
}

// move moves what there is to read, at most so many bytes in so many reads, and
// returns how much it was. If there may be more after that, it goes on when it is its
// turn.
//
// Only an ordinary read decides that there is nothing, or the end: a splice that comes
// to the mark of urgent data says either, with the stream going on behind the mark.
func (s *loopSession) move(w *way, bytes, reads int) (moved int) {
	l := s.loop
	if w.listed || s.over.Load() || w.rest != nil && !s.flush(w) {
		return 0
	}
	for !s.over.Load() && !w.ended {
		if moved >= bytes || reads == 0 {
			l.later(s, w)
			return moved
		}
		if w.bulk {
			n, ok := s.splice(w, bytes-moved)
			moved += n
			if !ok {
				return moved
			}
			if moved >= bytes {
				continue
			}
		}
		reads--
		n, errno := read(uintptr(w.fd), l.buffer)
		switch {
		case n > 0:
			moved += n
			w.moved(s, n)
			if !s.write(w, l.buffer[:n]) {
				return moved
			}
			if n < len(l.buffer) && !w.alarmed {
				w.emptied()
				return moved
			}
		case errno == 0:
			w.ended = true
			s.pass(w)
		case errno == unix.EAGAIN:
			w.alarmed = false
			w.emptied()
			return moved
		case errno != unix.EINTR:
			s.fail(s.side(w), errno)
		}
	}
	return moved
}

// moved notes that n bytes were read.
func (w *way) moved(s *loopSession, n int) {
	s.touch()
	o := &s.loop.engine.rest.options
	w.went = int32(min(int64(w.went)+int64(n), math.MaxInt32))
	if int(w.went) >= o.SpliceAfter && o.SpliceAfter > 0 {
		w.bulk = true
	}
	if n >= o.BufferSize {
		w.much = true
	}
}

// emptied notes that there is nothing more to read now. Bulk comes in pieces of many
// sizes; it has ended when there was only a little.
func (w *way) emptied() {
	if !w.much {
		w.bulk, w.went = false, 0
	}
	w.much = false
}

// splice moves by way of a pipe what there is to read, until there seems to be
// nothing. It returns how much that was, and false if it cannot go on.
func (s *loopSession) splice(w *way, bytes int) (moved int, ok bool) {
	e := s.loop.engine.rest
	p := e.pipes.borrow()
	if p == nil {
		// Asked again when as much as before has been moved.
		w.bulk, w.went = false, 0
		return 0, true
	}
	for moved < bytes {
		got, err := unix.Splice(int(w.fd), nil, p.w, nil, min(p.size, bytes-moved), unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		n := int(got)
		switch {
		case n > 0:
			w.moved(s, n)
			moved += n
			r := rests.Get().(*rest)
			r.pipe, r.piped = p, n
			w.rest = r
			if !s.flush(w) {
				return moved, false
			}
			if p = e.pipes.borrow(); p == nil {
				w.bulk, w.went = false, 0
				return moved, true
			}
		case err == unix.EINTR:
		case err == nil, err == unix.EAGAIN, err == unix.EINVAL:
			e.pipes.giveBack(p, true)
			if err == unix.EINVAL {
				// A kind of socket that this kernel cannot splice from.
				w.bulk, w.went = false, 0
			}
			return moved, true
		default:
			e.pipes.giveBack(p, true)
			s.fail(s.side(w), err)
			return moved, false
		}
	}
	e.pipes.giveBack(p, true)
	return moved, true
}

// write writes what was just read. If the other side does not take all of it, the rest
// is kept, nothing more is read until it is gone, and write returns false, as it does
// when the session has ended.
func (s *loopSession) write(w *way, chunk []byte) bool {
	chunk, ok := s.put(w, chunk)
	if len(chunk) == 0 || !ok {
		return ok
	}
	r := rests.Get().(*rest)
	r.buf = s.loop.engine.rest.borrow()
	r.chunk = (*r.buf)[:copy(*r.buf, chunk)]
	w.rest = r
	s.awaitRoom(w)
	return false
}

// put writes what the other side takes, and returns what is left, and false if the
// session has ended.
func (s *loopSession) put(w *way, chunk []byte) (left []byte, ok bool) {
	to := s.other(w)
	for len(chunk) > 0 {
		n, errno := write(uintptr(to.fd), chunk)
		switch {
		case n > 0:
			w.written.Add(int64(n))
			s.touch()
			chunk = chunk[n:]
		case errno == unix.EAGAIN:
			return chunk, true
		case errno == 0:
			s.fail(s.side(to), io.ErrShortWrite)
			return chunk, false
		case errno != unix.EINTR:
			s.fail(s.side(to), errno)
			return chunk, false
		}
	}
	return nil, true
}

// flush writes the rest, and returns true when there is none any more.
func (s *loopSession) flush(w *way) bool {
	r, to := w.rest, s.other(w)
	for r.piped > 0 {
		got, err := unix.Splice(r.pipe.r, nil, int(to.fd), nil, r.piped, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		n := int(got)
		switch {
		case n > 0:
			r.piped -= n
			w.written.Add(int64(n))
			s.touch()
		case err == unix.EAGAIN:
			s.awaitRoom(w)
			return false
		case err == nil:
			s.fail(s.side(to), io.ErrShortWrite)
			return false
		case err != unix.EINTR:
			s.fail(s.side(to), err)
			return false
		}
	}
	left, ok := s.put(w, r.chunk)
	if !ok {
		return false // and r is somebody else's
	}
	if r.chunk = left; len(left) > 0 {
		s.awaitRoom(w)
		return false
	}
	w.letGo(s)
	return true
}

// awaitRoom has the loop told when the side that w writes to can be written again.
func (s *loopSession) awaitRoom(w *way) {
	to := s.other(w)
	if to.outward {
		return
	}
	if err := s.loop.watch(int(to.fd), unix.EPOLL_CTL_MOD, inward|unix.EPOLLOUT); err != nil {
		s.fail(s.side(to), err)
		return
	}
	to.outward = true
}

// letGo gives back what was borrowed for the rest.
func (w *way) letGo(s *loopSession) {
	r := w.rest
	if r == nil {
		return
	}
	e := s.loop.engine.rest
	if r.buf != nil {
		e.giveBack(r.buf)
	}
	if r.pipe != nil {
		e.pipes.giveBack(r.pipe, r.piped == 0)
	}
	*r = rest{}
	rests.Put(r)
	w.rest = nil
}

// pass passes on the end of what w read, whose last byte has been written.
func (s *loopSession) pass(w *way) {
	from, to := s.side(w), s.other(w)
	if w.broken {
		// The reset of a side that had ended before it reads as an end.
		if err := pendingError(w.fd); err != nil {
			s.fail(from, err)
			return
		}
	}
	s.ends++
	if s.ends == 2 {
		s.end(s.first, nil)
		return
	}
	s.first = from
	if errno := shut(int(to.fd)); errno != 0 {
		err := pendingError(to.fd)
		if err == nil {
			err = errno
		}
		s.fail(s.side(to), err)
		return
	}
	s.touch()
	s.watchSilence()
	if s.owner != nil {
		s.owner.HalfClosed(from)
	}
}

// pendingError takes the error that the kernel holds for a socket.
func pendingError(fd int32) error {
	if errno, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); err == nil && errno != 0 {
		return syscall.Errno(errno)
	}
	return nil
}

// fail ends the session by resetting both sides.
func (s *loopSession) fail(side Side, err error) { s.end(side, err) }

// end ends the session, unless somebody has asked for another end.
func (s *loopSession) end(first Side, err error) {
	if s.over.CompareAndSwap(false, true) {
		s.finish(first, err)
	}
}

// finish closes both sides, takes the session out of its set and calls Done. over has
// been set by whoever calls it.
func (s *loopSession) finish(first Side, err error) {
	l := s.loop
	l.sessions.Add(-1)
	l.wheel.remove(s)
	l.current = nil // a panic of Done is the caller's
	defer s.set.open.Done()
	if s.dial != nil {
		s.abandon(err)
		return
	}
	for _, w := range []*way{&s.client, &s.backend} {
		l.engine.table.at(w.fd).session.Store(nil)
		closeSocket(int(w.fd), err != nil)
		w.letGo(s)
		delete(l.sweep.doubts, w)
	}
	s.set.remove(s)
	if s.owner != nil {
		o := Outcome{First: first, Err: err}
		o.ToBackend, o.ToClient = s.Counts()
		s.owner.Done(o)
	}
}

// abandon is finish of what has not become a session. The client is its owner's.
func (s *loopSession) abandon(err error) {
	if fd := s.backend.fd; fd >= 0 {
		s.loop.engine.table.at(fd).session.Store(nil)
		closeSocket(int(fd), true)
	}
	s.set.remove(s)
	s.dial.then(nil, err)
}

// silence returns how long the session may be silent now, 0 for ever, and what it ends
// with then.
func (s *loopSession) silence() (time.Duration, error) {
	if s.dial != nil {
		return s.dial.within, os.ErrDeadlineExceeded
	}
	return s.limits.silence(s.ends > 0)
}

// touch starts the silence anew.
func (s *loopSession) touch() { s.last = s.loop.now }

// deadline is when the session will have been silent for too long.
func (s *loopSession) deadline() int64 {
	limit, _ := s.silence()
	return s.last + int64(limit)
}

// watchSilence puts the session where the limit that applies now has it looked at.
func (s *loopSession) watchSilence() {
	s.loop.wheel.remove(s)
	if limit, _ := s.silence(); limit > 0 {
		s.loop.wheel.add(s, s.deadline())
	}
}

// expire ends the session if it has been silent for too long.
func (s *loopSession) expire() {
	limit, err := s.silence()
	if s.loop.now-s.last < int64(limit) {
		s.loop.wheel.add(s, s.deadline())
		return
	}
	s.fail(Neither, err)
}
