package relay

import "sync"

// set is the Set of [Portable]: a list that its members are the links of.
type set struct {
	engine *Portable
	open   sync.WaitGroup // one a member, until its Done has returned

	mu      sync.Mutex
	refused error
	ended   error
	first   *session
	n       int
}

func (s *set) Open(p Pair) (Session, error) {
	s.engine.sweepOnce.Do(s.engine.startSweeping)
	m := newSession(s, p)
	s.mu.Lock()
	if why := s.closedBy(); why != nil {
		s.mu.Unlock()
		return nil, why
	}
	m.next = s.first
	if m.next != nil {
		m.next.prev = m
	}
	s.first = m
	s.n++
	s.open.Add(1)
	s.mu.Unlock()
	m.run()
	return m, nil
}

func (s *set) closedBy() error {
	if s.ended != nil {
		return s.ended
	}
	return s.refused
}

func (s *set) remove(m *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.prev != nil {
		m.prev.next = m.next
	} else {
		s.first = m.next
	}
	if m.next != nil {
		m.next.prev = m.prev
	}
	m.prev, m.next = nil, nil
	s.n--
}

func (s *set) Refuse(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused = cause
}

// End resets in the calling goroutine, which takes one system call a socket and
// waits for nobody, and leaves the rest to the sessions' own goroutines, which the
// resets have woken.
func (s *set) End(cause error) int {
	if cause == nil {
		cause = ErrEnded
	}
	s.mu.Lock()
	var members []*session
	if s.ended == nil {
		s.ended = cause
		members = s.members()
	}
	s.mu.Unlock()
	for _, m := range members {
		m.fail(Neither, cause)
	}
	s.open.Wait()
	s.engine.forget(s)
	return len(members)
}

func (s *set) members() []*session {
	members := make([]*session, 0, s.n)
	for m := s.first; m != nil; m = m.next {
		members = append(members, m)
	}
	return members
}

func (s *set) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n
}

func (s *set) Sessions() []Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	open := make([]Session, 0, s.n)
	for m := s.first; m != nil; m = m.next {
		open = append(open, m)
	}
	return open
}
