package process

import (
	"context"
	"os"
	"time"

	"switchboard/bridge/clock"
)

// Ticker calls a function on a tick or on a poke, never twice at once. It is ready
// at once.
type Ticker struct {
	// Every is the time from the end of one call to the next; a poke starts it
	// anew. 0: no ticks, pokes only.
	Every time.Duration
	// Poke asks for a call now; nil: ticks only. Give it one slot, and send without
	// waiting: a poke during a call then leads to one more call, many do as well,
	// and a sender never waits. A slot that is full at the start makes the first
	// call come at once.
	Poke <-chan struct{}
	// Do is the function. Its context ends on a signal, and it must then return
	// soon. An error ends the runner.
	Do func(ctx context.Context) error
	// Clock is for specs; nil: the system's.
	Clock clock.Clock
}

// Run is [Runner]'s. It returns nil after a signal, and otherwise Do's error.
func (t Ticker) Run(signals <-chan os.Signal, ready chan<- struct{}) error {
	if t.Clock == nil {
		t.Clock = clock.System{}
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var tick <-chan time.Time
	reset := func() {}
	if t.Every > 0 {
		timer := t.Clock.NewTimer(t.Every)
		defer timer.Stop()
		tick = timer.C()
		reset = func() { timer.Reset(t.Every) }
	}
	close(ready)
	for {
		select {
		case <-signals:
			return nil
		case <-tick:
		case <-t.Poke:
		}
		// One slot, so that the call can leave; it is always received.
		done := make(chan error, 1)
		go func() { done <- t.Do(ctx) }()
		select {
		case <-signals:
			cancel()
			<-done
			return nil
		case err := <-done:
			if err != nil {
				return err
			}
		}
		reset()
	}
}
