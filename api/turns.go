package api

import (
	"context"
	"io"
	"sync"
	"time"

	"switchboard/bridge/clock"
)

const (
	// turnLength is how long work goes on before it rests. Traffic that comes meanwhile
	// waits no longer for a core than that.
	turnLength = 100 * time.Microsecond
	// turnPause is the rest: as short as timers are.
	turnPause = time.Millisecond
	// piece is how much is written between two looks at the clock.
	piece = 64 << 10
)

// Turns has what is much work done in short turns with pauses, so that traffic finds
// the cores free. All that goes on at once under the same Turns shares them: together
// it takes about a tenth of one core. Work that is done within a turn knows no pause.
// Make one with [NewTurns].
type Turns struct {
	clock clock.Clock

	mu sync.Mutex
	// next is when the pauses that others have taken are over.
	next time.Time
}

// NewTurns returns Turns by a clock, which is the machine's but for specs: what they
// spare is the machine.
func NewTurns(c clock.Clock) *Turns { return &Turns{clock: c} }

// Begin begins the first turn of some work.
func (t *Turns) Begin() *Turn { return &Turn{of: t, began: t.clock.Now()} }

// pause takes the next pause and tells how long to wait.
func (t *Turns) pause() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.clock.Now()
	if t.next.Before(now) {
		t.next = now
	}
	t.next = t.next.Add(turnPause)
	return t.next.Sub(now)
}

// Turn is the turn of some work. It is used by one goroutine.
type Turn struct {
	of    *Turns
	began time.Time
	timer clock.Timer
}

// Rest is called between two steps of the work, each as short as can be. It returns at
// once until the turn is over, and else after a pause. Its error is why ctx ended.
func (t *Turn) Rest(ctx context.Context) error {
	if t.of.clock.Now().Sub(t.began) < turnLength {
		return nil
	}
	return t.Pause(ctx)
}

// Pause ends the turn, and returns when the next one begins. Its error is why ctx ended.
func (t *Turn) Pause(ctx context.Context) error {
	if wait := t.of.pause(); t.timer == nil {
		t.timer = t.of.clock.NewTimer(wait)
	} else {
		t.timer.Reset(wait)
	}
	select {
	case <-t.timer.C():
		t.began = t.of.clock.Now()
		return nil
	case <-ctx.Done():
		t.timer.Stop()
		return context.Cause(ctx)
	}
}

// Write writes text in pieces.
func (t *Turn) Write(ctx context.Context, w io.Writer, text []byte) error {
	for len(text) > 0 {
		n := min(len(text), piece)
		if _, err := w.Write(text[:n]); err != nil {
			return err
		}
		text = text[n:]
		if err := t.Rest(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Buffers are what answers are composed in, kept for those to come: so many megabytes
// for each would have the garbage collected all the time. Make them with [NewBuffers].
type Buffers struct{ kept chan []byte }

// NewBuffers returns Buffers of which so many are kept.
func NewBuffers(n int) Buffers { return Buffers{make(chan []byte, n)} }

// Take returns an empty buffer.
func (b Buffers) Take() []byte {
	select {
	case buffer := <-b.kept:
		return buffer
	default:
		return nil
	}
}

// Give gives a buffer back, with what was in it. One that was much larger than was needed
// is not kept.
func (b Buffers) Give(buffer []byte) {
	if Roomy(buffer) {
		return
	}
	select {
	case b.kept <- buffer[:0]:
	default:
	}
}

// Roomy tells a buffer that is much larger than what is in it.
func Roomy(buffer []byte) bool { return cap(buffer) > piece && cap(buffer)/4 > len(buffer) }
