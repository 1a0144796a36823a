package clock

import "time"

// Clock tells the time and makes timers. Implementations must be safe for use
// from any goroutine, and Now must carry a monotonic reading (or be otherwise
// immune to a wall clock that jumps), since durations are taken between two of
// its answers.
type Clock interface {
	Now() time.Time
	// NewTimer returns a timer that sends on C once, d from now.
	NewTimer(d time.Duration) Timer
}

// Timer is a [time.Timer] behind an interface, with the semantics of Go 1.23
// and later: after Stop or Reset no stale value is received from C.
type Timer interface {
	C() <-chan time.Time
	Stop() bool
	Reset(d time.Duration) bool
}

// System is the machine's clock.
type System struct{}

// Now is [time.Now].
func (System) Now() time.Time { return time.Now() }

// NewTimer is [time.NewTimer].
func (System) NewTimer(d time.Duration) Timer { return timer{time.NewTimer(d)} }

type timer struct{ *time.Timer }

func (t timer) C() <-chan time.Time { return t.Timer.C }
