package relay

import (
	"math/bits"
	"time"
)

// wheel knows which sessions may have been silent for too long, and when. It has two
// rings of slots: near, whose slots are a tick each, and far, whose slots are a whole
// turn of near. A session whose time is beyond both is looked at again at their end.
// Sessions are not moved when they have a byte: whoever finds their time come looks
// when the last one was.
//
//	near  │ │ │ │ │ … │   16 ms each, 4 s in all
//	far   │   │   │ … │   4 s each, 17 min in all: emptied into near one by one
type wheel struct {
	tick int64 // that has been done last
	near ring
	far  ring
}

const (
	wheelTick  = int64(16 * time.Millisecond)
	wheelSlots = 256
)

// ring is slots and which of them hold something.
type ring struct {
	slots [wheelSlots]*loopSession
	used  [wheelSlots / 64]uint64
}

func (w *wheel) init(now int64) { w.tick = now / wheelTick }

// add puts s where its time is at, engine time. s must not be in the wheel.
func (w *wheel) add(s *loopSession, at int64) {
	// The first tick at which its time has come.
	tick := max((at+wheelTick-1)/wheelTick, w.tick+1)
	if tick-w.tick < wheelSlots {
		w.near.put(s, tick%wheelSlots, false)
		return
	}
	round := min(tick/wheelSlots, w.tick/wheelSlots+wheelSlots-1)
	w.far.put(s, round%wheelSlots, true)
}

// remove takes s out, if it is in the wheel.
func (w *wheel) remove(s *loopSession) {
	if !s.timed {
		return
	}
	if s.inFar {
		w.far.take(s)
	} else {
		w.near.take(s)
	}
}

// turn takes out those whose time has come by now, and calls expired with each.
func (w *wheel) turn(now int64, expired func(*loopSession)) {
	for to := now / wheelTick; w.tick < to; {
		next, any := w.nextTick()
		if !any || next > to {
			w.tick = to
			return
		}
		w.tick = next
		if w.tick%wheelSlots == 0 {
			for s := w.far.first(w.tick / wheelSlots); s != nil; s = w.far.first(w.tick / wheelSlots) {
				w.far.take(s)
				w.add(s, s.deadline())
			}
		}
		for s := w.near.first(w.tick); s != nil; s = w.near.first(w.tick) {
			w.near.take(s)
			expired(s)
		}
	}
}

// next is the engine time at which there is something to do, if there ever is.
func (w *wheel) next() (at int64, any bool) {
	tick, any := w.nextTick()
	return tick * wheelTick, any
}

func (w *wheel) nextTick() (tick int64, any bool) {
	near, anyNear := w.near.after(w.tick)
	round, anyFar := w.far.after(w.tick / wheelSlots)
	far := round * wheelSlots
	switch {
	case anyNear && (!anyFar || near <= far):
		return near, true
	case anyFar:
		return far, true
	}
	return 0, false
}

func (r *ring) first(tick int64) *loopSession { return r.slots[tick%wheelSlots] }

func (r *ring) put(s *loopSession, slot int64, far bool) {
	s.timed, s.inFar, s.slot = true, far, uint8(slot)
	s.sooner, s.later = nil, r.slots[slot]
	if s.later != nil {
		s.later.sooner = s
	}
	r.slots[slot] = s
	r.used[slot/64] |= 1 << (slot % 64)
}

func (r *ring) take(s *loopSession) {
	if s.sooner != nil {
		s.sooner.later = s.later
	} else if r.slots[s.slot] = s.later; s.later == nil {
		r.used[s.slot/64] &^= 1 << (s.slot % 64)
	}
	if s.later != nil {
		s.later.sooner = s.sooner
	}
	s.sooner, s.later, s.timed = nil, nil, false
}

// after returns the next tick behind one whose slot is used, less than a turn away.
func (r *ring) after(tick int64) (next int64, any bool) {
	for step := int64(1); step < wheelSlots; {
		slot := (tick + step) % wheelSlots
		if rest := r.used[slot/64] >> (slot % 64); rest != 0 {
			step += int64(bits.TrailingZeros64(rest))
			return tick + step, step < wheelSlots
		}
		step += 64 - slot%64
	}
	return 0, false
}
