package relay

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// A session is looked at when its time has come, and never sooner: at most two ticks
// late if the wheel is turned as often as it asks for. Those whose time is beyond the
// wheel are looked at sooner, and go on waiting.
func TestWheel(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		now := rapid.Int64Range(0, int64(time.Hour)).Draw(r, "start")
		var w wheel
		w.init(now)
		limits := rapid.OneOf(rapid.Int64Range(0, 5*wheelTick), rapid.Int64Range(0, int64(20*time.Second)), rapid.Int64Range(0, int64(3*time.Hour)))
		waiting := map[*loopSession]bool{}
		removed := map[*loopSession]bool{}
		check := func(s *loopSession) {
			if removed[s] {
				r.Fatal("a session was looked at that had been taken out")
			}
			if at := s.deadline(); now < at {
				w.add(s, at)
				return
			} else if late := now - at; late > 2*wheelTick {
				r.Fatalf("a session was looked at %v late", time.Duration(late))
			}
			delete(waiting, s)
		}
		for range rapid.IntRange(1, 30).Draw(r, "sessions") {
			s := &loopSession{limits: Limits{Idle: time.Duration(max(limits.Draw(r, "limit"), 1))}, last: now}
			waiting[s] = true
			w.add(s, s.deadline())
			switch rapid.IntRange(0, 3).Draw(r, "what then") {
			case 0:
				w.remove(s)
				w.remove(s)
				removed[s] = true
				delete(waiting, s)
			case 1:
				next, any := w.next()
				if !any {
					r.Fatal("there is nothing to do, but there are sessions")
				}
				now = max(now, next)
				w.turn(now, check)
			}
		}
		for turns := 0; len(waiting) > 0; turns++ {
			next, any := w.next()
			if !any || turns > 100_000 {
				r.Fatalf("%d sessions are never looked at", len(waiting))
			}
			now = max(now, next)
			w.turn(now, check)
		}
		if _, any := w.next(); any {
			r.Fatal("there is something to do, but no session")
		}
	})
}
