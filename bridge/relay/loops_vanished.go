package relay

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// sweep is how far a loop has come in looking for peers that have vanished, see
// [Portable.sweep]. It goes through the descriptors, a part each turn. It is also what
// turns on the keepalives of those that were dialed.
type sweep struct {
	every  int64 // 0: it is off
	next   int64 // engine time of the next one
	under  bool  // one is under way
	at     int32 // the descriptor that is looked at next
	doubts map[*way]*doubt
}

func (s *sweep) init(e *Loops, now int64) {
	if e.rest.options.UserTimeout > 0 {
		s.every = int64(e.rest.sweepEvery())
		s.next = now + s.every
		s.doubts = map[*way]*doubt{}
	}
}

// due is when there is something to look at.
func (s *sweep) due() (at int64, on bool) {
	if s.under {
		return 0, true
	}
	return s.next, s.every > 0
}

// check looks at the next of the sessions' peers if it is time to.
func (l *loop) check() {
	s := &l.sweep
	if !s.under {
		if s.every == 0 || l.now < s.next {
			return
		}
		s.under, s.at, s.next = true, 0, l.now+s.every
	}
	size := l.engine.table.size()
	for range turnChecks {
		if s.at >= size {
			s.under = false
			return
		}
		fd := s.at
		s.at++
		m := l.engine.table.at(fd).session.Load()
		if m == nil || m.loop != l || m.dial != nil || m.over.Load() {
			continue
		}
		if m.untuned && fd == m.backend.fd {
			m.untuned = false
			l.engine.rest.keepAlive(uintptr(fd))
		}
		m.checkPeer(m.to(fd))
	}
}

// checkPeer ends the session if the side that w writes to has not answered for too
// long.
func (s *loopSession) checkPeer(w *way) {
	l := s.loop
	mark := 2 * w.written.Load()
	if w.ended {
		mark++ // an end is to be acknowledged as well
	}
	if mark == w.quiet {
		return
	}
	info, err := unix.GetsockoptTCPInfo(int(s.other(w).fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return
	}
	d := l.sweep.doubts[w]
	if d == nil {
		d = &doubt{}
	}
	gone, settled := d.weigh(info, l.now, l.engine.rest.options.UserTimeout)
	switch {
	case gone:
		s.fail(s.side(s.other(w)), syscall.ETIMEDOUT)
		return
	case settled:
		w.quiet = mark
	}
	if d.since == 0 {
		delete(l.sweep.doubts, w)
	} else {
		l.sweep.doubts[w] = d
	}
}
