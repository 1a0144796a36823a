package accesslog_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"switchboard/bridge/accesslog"
	"switchboard/fixtures/spec"
)

// These are plain tests, since testing/synctest drives the time.

// timely runs a log over d in a bubble, hands it to use, and stops it.
func timely(t *testing.T, d *disk, o accesslog.Options, use func(l *running)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := &running{lines: new(spec.Lines), signals: make(chan os.Signal, 1), ended: make(chan error, 1)}
		o.Writer, o.Log = d, slog.New(slog.NewTextHandler(l.lines, nil))
		l.Log = accesslog.New(o)
		go func() { l.ended <- l.Run(l.signals, make(chan struct{})) }()
		use(l)
		l.signals <- os.Interrupt
		if err := <-l.ended; err != nil {
			t.Error(err)
		}
	})
}

// A disk that is full at any byte costs no line, and breaks none, as long as there is
// room in the buffer.
func TestFullDisk(t *testing.T) {
	type step struct {
		lines, room int
		pause       time.Duration
	}
	steps := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
		return step{
			lines: rapid.IntRange(0, 3).Draw(t, "lines"), room: rapid.IntRange(0, 900).Draw(t, "room"),
			pause: time.Duration(rapid.IntRange(0, 300).Draw(t, "ms")) * time.Millisecond,
		}
	}), 1, 30)
	rapid.Check(t, func(rt *rapid.T) {
		d := newDisk()
		var want []string
		var counts accesslog.Counts
		all := steps.Draw(rt, "steps")
		timely(t, d, accesslog.Options{}, func(l *running) {
			for _, s := range all {
				d.fill(s.room)
				for range s.lines {
					id := fmt.Sprint(len(want))
					want = append(want, id)
					l.say(id)
				}
				<-time.After(s.pause)
			}
			d.fill(-1)
			<-time.After(time.Second)
			counts = l.Counts()
		})
		var got []string
		for line := range strings.Lines(d.String()) {
			var one struct{ ID string }
			if err := json.Unmarshal([]byte(line), &one); err != nil {
				rt.Fatalf("%q: %v", line, err)
			}
			got = append(got, one.ID)
		}
		if !slices.Equal(got, want) {
			rt.Fatalf("%v were written, want %v", got, want)
		}
		if counts.Written != int64(len(want)) || len(counts.Dropped) > 0 || counts.Err != nil || !counts.Since.IsZero() {
			rt.Fatalf("counted %+v, want %d written", counts, len(want))
		}
	})
}

// What is dropped is told once when it begins, and once when it is over, and not once
// a line.
func TestTelling(t *testing.T) {
	d := newDisk()
	timely(t, d, accesslog.Options{Buffer: 1}, func(l *running) {
		told := func(begun, over int, causes ...string) {
			t.Helper()
			synctest.Wait()
			if n := l.lines.Count("access log is in trouble"); n != begun {
				t.Errorf("trouble was told %d times, want %d:\n%s", n, begun, l.lines)
			}
			if n := l.lines.Count("access log is written again"); n != over {
				t.Errorf("its end was told %d times, want %d:\n%s", n, over, l.lines)
			}
			for _, cause := range causes {
				if l.lines.Count(cause) == 0 {
					t.Errorf("%q was not told:\n%s", cause, l.lines)
				}
			}
		}
		l.say("a")
		<-time.After(time.Minute)
		told(0, 0)

		began := time.Now()
		d.fill(0)
		const lines = 5000
		for i := range lines {
			l.say(fmt.Sprint(i))
			if i%100 == 0 {
				<-time.After(100 * time.Millisecond)
			}
		}
		told(1, 0, "no space left on device")
		c := l.Counts()
		if !errors.Is(c.Err, syscall.ENOSPC) || c.Since.Sub(began) > time.Second || c.Dropped[accesslog.Failed] == 0 || len(c.Dropped) > 1 {
			t.Errorf("counted %+v", c)
		}
		d.fill(-1)
		<-time.After(time.Minute)
		told(1, 1, fmt.Sprint("dropped=", c.Dropped[accesslog.Failed]))
		if now := l.Counts(); now.Err != nil || now.Written+now.Dropped[accesslog.Failed] != lines+1 {
			t.Errorf("counted %+v", now)
		}

		// A disk that is too slow again and again, for a moment each time, is one trouble.
		for range 10 {
			release := d.stall()
			for range 1000 {
				l.say("b")
			}
			<-time.After(2 * time.Second)
			release()
			<-time.After(time.Second)
		}
		told(2, 1, "too slow")
		<-time.After(time.Minute)
		told(2, 2)
	})
}
