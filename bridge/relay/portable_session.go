package relay

import (
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// session is the Session of [Portable]: two directions, each with a goroutine.
// The last of them to leave closes the sockets and calls Done.
type session struct {
	set        *set
	prev, next *session // under set.mu

	toBackend, toClient direction
	headers             int64
	limits              Limits
	owner               Owner // nil: nobody

	left atomic.Int32 // goroutines that have left
	over atomic.Bool  // set under mu; nothing more is to be moved

	mu    sync.Mutex
	ends  int // directions that have ended orderly
	first Side
	err   error
	timer *time.Timer // nil as long as no limit applies
}

func newSession(in *set, p Pair) *session {
	e := in.engine
	client, backend := e.adopt(p.Client, false), e.adopt(p.Backend, false)
	s := &session{
		set:     in,
		headers: int64(p.Headers),
		limits:  p.Limits,
		owner:   p.Owner,
	}
	s.toBackend.init(s, client, backend, Client, Backend, p.ToBackend)
	s.toClient.init(s, backend, client, Backend, Client, p.ToClient)
	return s
}

// run starts both directions. A deadline that somebody left on a socket is not
// one of the session's.
func (s *session) run() {
	_ = s.toBackend.src.SetDeadline(time.Time{})
	_ = s.toClient.src.SetDeadline(time.Time{})
	s.mu.Lock()
	s.touch()
	s.watchSilence()
	s.mu.Unlock()
	go s.toBackend.run()
	go s.toClient.run()
}

func (s *session) Owner() Owner { return s.owner }

func (s *session) Counts() (toBackend, toClient int64) {
	return max(s.toBackend.written.Load()-s.headers, 0), s.toClient.written.Load()
}

func (s *session) End(cause error) error {
	if cause == nil {
		cause = ErrEnded
	}
	if !s.fail(Neither, cause) {
		return ErrEnded
	}
	return nil
}

// fail ends the session by resetting both sides. Only what comes first counts,
// and fail says whether this did.
func (s *session) fail(side Side, err error) bool {
	s.mu.Lock()
	if s.over.Load() {
		s.mu.Unlock()
		return false
	}
	s.first, s.err = side, err
	s.over.Store(true)
	s.mu.Unlock()
	s.toBackend.src.abort()
	s.toBackend.dst.abort()
	return true
}

// pass passes on the end of what d read, whose last byte has been written, and
// says whether the session goes on.
func (s *session) pass(d *direction) bool {
	if d.src.truncated() {
		s.fail(d.from, syscall.ECONNRESET)
		return false
	}
	s.mu.Lock()
	if s.first == Neither && !s.over.Load() {
		// Before the end is passed on, or the other end, its answer, could be first.
		s.first = d.from
	}
	s.mu.Unlock()
	half := d.dst.canCloseWrite()
	if half {
		if err := d.dst.closeWrite(); err != nil {
			s.fail(d.to, err)
			return false
		}
	}
	s.mu.Lock()
	if s.over.Load() {
		s.mu.Unlock()
		return false
	}
	s.ends++
	if half && s.ends == 1 {
		// Not d.from: the answer to an end may come here before that end does.
		first := s.first
		s.touch()
		s.watchSilence()
		s.mu.Unlock()
		if s.owner != nil {
			s.owner.HalfClosed(first)
		}
		return true
	}
	s.over.Store(true)
	s.mu.Unlock()
	// Wakes the other direction, if it waits.
	s.close()
	return false
}

func (s *session) close() {
	_ = s.toBackend.src.Close()
	_ = s.toBackend.dst.Close()
}

// leave is the last thing a direction's goroutine does.
func (s *session) leave() {
	if s.left.Add(1) < 2 {
		return
	}
	s.mu.Lock()
	if s.timer != nil {
		s.timer.Stop()
	}
	outcome := Outcome{First: s.first, Err: s.err}
	s.mu.Unlock()
	if outcome.Err != nil {
		// Both may have left before whoever ends the session has come to abort them.
		_ = s.toBackend.src.Reset()
		_ = s.toBackend.dst.Reset()
	} else {
		s.close()
	}
	outcome.ToBackend, outcome.ToClient = s.Counts()
	s.set.remove(s)
	defer s.set.open.Done()
	if s.owner != nil {
		s.owner.Done(outcome)
	}
}

// silence returns how long the session may be silent now, 0 for ever, and what
// it ends with then. mu is held.
func (s *session) silence() (time.Duration, error) {
	return s.limits.silence(s.ends > 0)
}

// touch starts the silence anew.
func (s *session) touch() { s.toBackend.last.Store(s.set.engine.now()) }

// watchSilence sets the timer for the limit that applies now. The timer is not
// touched again before it fires: it then looks when the last byte came. mu is
// held.
func (s *session) watchSilence() {
	limit, _ := s.silence()
	switch {
	case limit == 0 || s.over.Load():
	case s.timer == nil:
		s.timer = time.AfterFunc(limit, s.tick)
	default:
		s.timer.Reset(limit)
	}
}

func (s *session) tick() {
	s.mu.Lock()
	if s.over.Load() {
		s.mu.Unlock()
		return
	}
	limit, err := s.silence()
	last := max(s.toBackend.last.Load(), s.toClient.last.Load())
	if rest := limit - time.Duration(s.set.engine.now()-last); rest > 0 {
		s.timer.Reset(rest)
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	s.fail(Neither, err)
}
