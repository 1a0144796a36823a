package process_test

import (
	"context"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"switchboard/runner/process"
)

// These are plain tests, since testing/synctest drives the time.

// launch runs r and returns its channels.
func launch(r process.Runner) (chan<- os.Signal, <-chan struct{}, <-chan error) {
	signals, ready, ended := make(chan os.Signal), make(chan struct{}), make(chan error, 1)
	go func() { ended <- r.Run(signals, ready) }()
	return signals, ready, ended
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

type runFunc func(signals <-chan os.Signal, ready chan<- struct{}) error

func (f runFunc) Run(signals <-chan os.Signal, ready chan<- struct{}) error {
	return f(signals, ready)
}

func TestRestartBecomesReadyWithTheFirstRunThatDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var runs []time.Time
		signals, ready, ended := launch(process.Restart{Min: time.Second, Max: 4 * time.Second, Runner: func() process.Runner {
			runs = append(runs, time.Now())
			failing := len(runs) <= 5
			return runFunc(func(signals <-chan os.Signal, ready chan<- struct{}) error {
				if failing {
					return errBroken
				}
				close(ready)
				<-signals
				return nil
			})
		}})
		<-ready
		if len(runs) != 6 {
			t.Fatalf("ready after %d runs, want 6", len(runs))
		}
		// Half of a wait is certain, the other half is chance.
		for i, most := range []time.Duration{1, 2, 4, 4, 4} {
			most *= time.Second
			if took := runs[i+1].Sub(runs[i]); took < most/2 || took > most {
				t.Errorf("wait %d was %s, want %s to %s", i, took, most/2, most)
			}
		}
		signals <- os.Interrupt
		if err := <-ended; err != nil {
			t.Errorf("ended with %v, want nil", err)
		}
	})
}

func TestRestartStopsAtOnceWhileItWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		signals, ready, ended := launch(process.Restart{Min: time.Hour, Max: time.Hour, Runner: func() process.Runner {
			return runFunc(func(<-chan os.Signal, chan<- struct{}) error { return errBroken })
		}})
		synctest.Wait()
		began := time.Now()
		signals <- os.Interrupt
		if err := <-ended; err != nil {
			t.Errorf("ended with %v, want nil", err)
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("took %s to stop", took)
		}
		if isClosed(ready) {
			t.Error("ready although no run was")
		}
	})
}

func TestRestartStartsOverAfterALongRunAndAfterNil(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		starts := make(chan time.Time, 8)
		leave := make(chan error)
		signals, _, ended := launch(process.Restart{Min: time.Second, Max: time.Minute, Runner: func() process.Runner {
			starts <- time.Now()
			return runFunc(func(signals <-chan os.Signal, ready chan<- struct{}) error {
				close(ready)
				select {
				case <-signals:
					return nil
				case err := <-leave:
					return err
				}
			})
		}})
		<-starts
		for _, err := range []error{errBroken, errBroken, nil} {
			leave <- err
			<-starts
		}
		stay := time.NewTimer(time.Minute)
		<-stay.C
		leave <- errBroken
		end := time.Now()
		if wait := (<-starts).Sub(end); wait > time.Second {
			t.Errorf("waited %s after a run of a minute, want at most 1s", wait)
		}
		signals <- os.Interrupt
		if err := <-ended; err != nil {
			t.Errorf("ended with %v, want nil", err)
		}
	})
}

func TestRestartForwardsBothSignalsAndReturnsTheRunsError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		signals, ready, ended := launch(process.Restart{Runner: func() process.Runner {
			return runFunc(func(signals <-chan os.Signal, ready chan<- struct{}) error {
				close(ready)
				<-signals
				<-signals
				return errBroken
			})
		}})
		<-ready
		signals <- os.Interrupt
		synctest.Wait()
		select {
		case err := <-ended:
			t.Fatalf("ended with %v after one signal", err)
		default:
		}
		signals <- os.Interrupt
		if err := <-ended; err != errBroken {
			t.Errorf("ended with %v, want %v", err, errBroken)
		}
	})
}

func TestTickerCallsOnTicksAndPokesAndNeverTwiceAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pokes := make(chan struct{}, 1)
		calls, done := make(chan time.Time), make(chan struct{})
		var running atomic.Int32
		signals, ready, ended := launch(process.Ticker{Every: time.Minute, Poke: pokes, Do: func(context.Context) error {
			if running.Add(1) != 1 {
				t.Error("two calls at once")
			}
			calls <- time.Now()
			<-done
			running.Add(-1)
			return nil
		}})
		<-ready
		began := time.Now()
		if at := (<-calls).Sub(began); at != time.Minute {
			t.Errorf("first call after %s, want 1m", at)
		}
		// Pokes during a call lead to one more, at once.
		pokes <- struct{}{}
		synctest.Wait()
		if n := running.Load(); n != 1 {
			t.Errorf("%d calls are running, want 1", n)
		}
		done <- struct{}{}
		if at := (<-calls).Sub(began); at != time.Minute {
			t.Errorf("poked call after %s, want 1m", at)
		}
		// A call longer than the tick is followed by a whole Every.
		long := time.NewTimer(3 * time.Minute)
		<-long.C
		done <- struct{}{}
		if at := (<-calls).Sub(began); at != 5*time.Minute {
			t.Errorf("third call after %s, want 5m", at)
		}
		done <- struct{}{}
		synctest.Wait()
		signals <- os.Interrupt
		if err := <-ended; err != nil {
			t.Errorf("ended with %v, want nil", err)
		}
	})
}

func TestTickerCancelsACallOnASignalAndWaitsForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pokes := make(chan struct{}, 1)
		pokes <- struct{}{}
		entered, returned := make(chan struct{}), false
		signals, _, ended := launch(process.Ticker{Poke: pokes, Do: func(ctx context.Context) error {
			close(entered)
			<-ctx.Done()
			returned = true
			return ctx.Err()
		}})
		<-entered
		signals <- os.Interrupt
		if err := <-ended; err != nil {
			t.Errorf("ended with %v, want nil", err)
		}
		if !returned {
			t.Error("ended before the call did")
		}
	})
}

func TestTickerEndsWithTheCallsError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, _, ended := launch(process.Ticker{Every: time.Second, Do: func(context.Context) error { return errBroken }})
		if err := <-ended; err != errBroken {
			t.Errorf("ended with %v, want %v", err, errBroken)
		}
	})
}
