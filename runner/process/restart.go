package process

import (
	"log/slog"
	"math/rand/v2"
	"os"
	"time"

	"switchboard/bridge/clock"
)

// Restart runs a runner again whenever it ends unasked, with an error or without,
// and waits a little longer each time. It is ready when the first run that gets
// ready is. It ends only when it is told to, and then returns what the current run
// returns, or nil at once if none is running.
type Restart struct {
	// Name is for the log.
	Name string
	// Runner makes the runner of each run. It is called by Run, never twice at
	// once.
	Runner func() Runner
	// Min is the first wait, 0: 100 ms; Max the longest, 0: 10 s. Each wait is
	// twice the one before, less up to half of it by chance, so that those who
	// failed together do not come back together. A run that lasted Max after it was
	// ready starts over at Min.
	Min, Max time.Duration
	// Clock is for specs; nil: the system's.
	Clock clock.Clock
	// Log gets one line a restart; nil: none.
	Log *slog.Logger
}

// Run is [Runner]'s.
func (r Restart) Run(signals <-chan os.Signal, ready chan<- struct{}) error {
	r = r.withDefaults()
	wait := r.Min
	for {
		began, told, err := r.once(signals, &ready)
		if told {
			return err
		}
		if !began.IsZero() && r.Clock.Now().Sub(began) >= r.Max {
			wait = r.Min
		}
		pause := wait/2 + rand.N(wait/2+1)
		wait = min(2*wait, r.Max)
		r.Log.Warn("restarting", "member", r.Name, "in", pause, "cause", err)
		timer := r.Clock.NewTimer(pause)
		select {
		case <-timer.C():
		case <-signals:
			timer.Stop()
			return nil
		}
	}
}

// once is one run. It closes *ready, if that is not nil, when the run is ready,
// and sets it to nil. It returns when the run got ready, zero if it did not, and
// whether it was told to stop.
func (r Restart) once(signals <-chan os.Signal, ready *chan<- struct{}) (began time.Time, told bool, err error) {
	runner := r.Runner()
	heard := make(chan os.Signal, 2) // stop, and now
	up := make(chan struct{})
	becameReady := (<-chan struct{})(up)
	// One slot, so that the run can leave; it is always received.
	ended := make(chan error, 1)
	go func() { ended <- runner.Run(heard, up) }()
	for {
		select {
		case <-becameReady:
			becameReady = nil
			began = r.Clock.Now()
			if *ready != nil {
				close(*ready)
				*ready = nil
			}
		case s := <-signals:
			told = true
			select {
			case heard <- s:
			default: // it has two it has not heard
			}
		case err = <-ended:
			return began, told, err
		}
	}
}

func (r Restart) withDefaults() Restart {
	if r.Min <= 0 {
		r.Min = 100 * time.Millisecond
	}
	if r.Max <= 0 {
		r.Max = 10 * time.Second
	}
	r.Max = max(r.Max, r.Min)
	if r.Clock == nil {
		r.Clock = clock.System{}
	}
	if r.Log == nil {
		r.Log = slog.New(slog.DiscardHandler)
	}
	return r
}
