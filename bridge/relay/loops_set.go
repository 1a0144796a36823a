package relay

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

var _ Starter = (*loopSet)(nil)

// loopSet is the Set of [Loops]: a list a loop, that its members are the links of, and
// beside it a set for pairs that are not relayed in loops.
type loopSet struct {
	engine *Loops
	open   sync.WaitGroup // one a member, until its Done has returned

	mu      sync.Mutex
	refused error
	ended   error
	members []*loopSession // the first of each loop, those that still dial included; nil before there was one
	n       int
	rest    Set // nil before it is needed
}

func (s *loopSet) Open(p Pair) (Session, error) {
	client, in := p.Client.(*loopConn)
	backend, out := p.Backend.(*loopConn)
	if !in || !out {
		return s.openRest(p)
	}
	loops, err := s.engine.started()
	s.mu.Lock()
	defer s.mu.Unlock()
	if why := s.closedBy(); why != nil {
		return nil, why
	}
	if err != nil {
		return nil, err
	}
	m := newLoopSession(s, p)
	if err := m.takeOver(client, backend, loops); err != nil {
		return nil, err
	}
	m.client.keep(p.ToBackend)
	m.backend.keep(p.ToClient)
	s.n++
	s.add(m, len(loops), beginSession)
	return m, nil
}

// Start has a loop dial, see [Starter].
func (s *loopSet) Start(p Pair, to netip.AddrPort, within time.Duration, then func(Session, error)) error {
	client, in := p.Client.(*loopConn)
	if !in || s.engine.rest.options.Dial != nil || !to.IsValid() || to.Addr().Zone() != "" {
		return ErrStarter
	}
	loops, err := s.engine.started()
	s.mu.Lock()
	defer s.mu.Unlock()
	if why := s.closedBy(); why != nil {
		return why
	}
	if err != nil {
		return err
	}
	m := newLoopSession(s, p)
	m.loop = nearest(client.home, loops)
	m.client.fd, m.backend.fd = -1, -1
	m.dial = &dial{
		client: client, to: netip.AddrPortFrom(to.Addr().Unmap(), to.Port()), within: within, then: then,
		toBackend: p.ToBackend, toClient: p.ToClient,
	}
	s.add(m, len(loops), beginDial)
	return nil
}

// add puts m among the members, and has its loop begin with it. mu is held, so that
// this comes before the end of the set.
func (s *loopSet) add(m *loopSession, loops int, begin doing) {
	if s.members == nil {
		s.members = make([]*loopSession, loops)
	}
	first := &s.members[m.loop.index]
	if m.next = *first; m.next != nil {
		m.next.prev = m
	}
	*first = m
	s.open.Add(1)
	m.loop.sessions.Add(1)
	m.loop.push(command{do: begin, session: m})
}

// admit makes a session of m, which has dialed, or says why not.
func (s *loopSet) admit(m *loopSession) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if why := s.closedBy(); why != nil {
		return why
	}
	d := m.dial
	d.client.mu.Lock()
	defer d.client.mu.Unlock()
	if d.client.fd < 0 {
		return net.ErrClosed
	}
	d.client.handOver(&m.client, m.loop)
	m.dial = nil
	s.n++
	return nil
}

// openRest opens a pair that is not relayed in loops.
func (s *loopSet) openRest(p Pair) (Session, error) {
	s.mu.Lock()
	if why := s.closedBy(); why != nil {
		s.mu.Unlock()
		return nil, why
	}
	if s.rest == nil {
		s.rest = s.engine.rest.NewSet()
		s.rest.Refuse(s.refused)
	}
	rest := s.rest
	s.mu.Unlock()
	return rest.Open(p)
}

func (s *loopSet) closedBy() error {
	if s.ended != nil {
		return s.ended
	}
	return s.refused
}

func (s *loopSet) remove(m *loopSession) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.prev != nil {
		m.prev.next = m.next
	} else {
		s.members[m.loop.index] = m.next
	}
	if m.next != nil {
		m.next.prev = m.prev
	}
	m.prev, m.next = nil, nil
	if m.dial == nil {
		s.n--
	}
}

func (s *loopSet) Refuse(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused = cause
	if s.rest != nil {
		s.rest.Refuse(cause)
	}
}

// End asks every loop once, and waits until all have done it.
func (s *loopSet) End(cause error) int {
	if cause == nil {
		cause = ErrEnded
	}
	s.mu.Lock()
	n, rest := 0, s.rest
	if s.ended == nil {
		s.ended = cause
		n = s.n
		for _, m := range s.members {
			if m != nil {
				m.loop.push(command{do: endSet, set: s, cause: cause})
			}
		}
	}
	s.mu.Unlock()
	if rest != nil {
		n += rest.End(cause)
	}
	s.open.Wait()
	s.engine.forget(s)
	return n
}

// membersOf returns those of one loop.
func (s *loopSet) membersOf(l *loop) []*loopSession {
	s.mu.Lock()
	defer s.mu.Unlock()
	var members []*loopSession
	for m := s.members[l.index]; m != nil; m = m.next {
		members = append(members, m)
	}
	return members
}

func (s *loopSet) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.n
	if s.rest != nil {
		n += s.rest.Len()
	}
	return n
}

func (s *loopSet) Sessions() []Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	open := make([]Session, 0, s.n)
	for _, m := range s.members {
		for ; m != nil; m = m.next {
			if m.dial == nil {
				open = append(open, m)
			}
		}
	}
	if s.rest != nil {
		open = append(open, s.rest.Sessions()...)
	}
	return open
}

// takeOver makes the session of two Conns, which are no more if that works.
func (s *loopSession) takeOver(client, backend *loopConn, loops []*loop) error {
	client.mu.Lock()
	defer client.mu.Unlock()
	backend.mu.Lock()
	defer backend.mu.Unlock()
	if client.fd < 0 || backend.fd < 0 {
		return net.ErrClosed
	}
	// That of a Conn that is known to one is spared the change.
	if s.loop = backend.loop; s.loop == nil {
		s.loop = client.loop
	}
	if s.loop == nil {
		s.loop = nearest(client.home, loops)
	}
	client.handOver(&s.client, s.loop)
	backend.handOver(&s.backend, s.loop)
	return nil
}

// keep makes bytes the first that w writes.
func (w *way) keep(bytes []byte) {
	if len(bytes) > 0 {
		w.rest = rests.Get().(*rest)
		w.rest.chunk = bytes
	}
}
