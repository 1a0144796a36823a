package accesslog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Defaults of [Options].
const (
	DefaultBuffer = 8 << 20
	DefaultStop   = 2 * time.Second
)

// leastHalf has room for some of the longest lines there can be.
const leastHalf = 64 << 10

// Options describe a log to [New].
type Options struct {
	// Path is the file that lines are appended to. It is made if it is not there, for
	// the owner to write and the group to read (0640).
	Path string
	// Writer gets the lines if there is no Path. It is written to by one goroutine at a
	// time, many lines at once, and need not be quick. Who gave it closes it, after Run.
	Writer io.Writer
	// Buffer is how much may wait to be written, in bytes, what is being written
	// included; 0: DefaultBuffer. It is at least 128 KiB.
	Buffer int
	// Stop is how long Run goes on writing when it has been told to stop; 0: DefaultStop.
	Stop time.Duration
	// Log is for changes of state; nil discards.
	Log *slog.Logger
}

// Cause says why lines were dropped.
type Cause string

// The causes.
const (
	// Slow: the buffer was full, since what is written to took too little of it, or
	// nothing.
	Slow Cause = "slow"
	// Failed: it was full, or given up at the end, while writing failed.
	Failed Cause = "failed"
	// Stopped: the log had ended.
	Stopped Cause = "stopped"
)

// Counts are what became of lines since the start.
type Counts struct {
	// Written lines are whole in what is written to.
	Written int64
	// Dropped are the others, by cause; those that wait are neither.
	Dropped map[Cause]int64
	// Err is why writing or opening fails now, or that a write has not returned for
	// longer than a second; nil: all is well. Since is when that began.
	Err   error
	Since time.Time
}

// ErrStopped is what commands get when the log has ended.
var ErrStopped = errors.New("the access log has stopped")

// errStalled is shown while a write does not return.
var errStalled = errors.New("a write has not returned")

// stalledAfter is how long a write may take before it is shown.
const stalledAfter = time.Second

// Log is an access log. Make one with [New] and run it with [Log.Run]. Everything but
// Run may be called from any goroutine, at any time.
type Log struct {
	o    Options
	log  *slog.Logger
	half int

	lines sync.Pool // of *line
	// some gets a token when a line waits that none waited before; plenty when many
	// do. One slot each: a token says "look", and one is enough.
	some, plenty chan struct{}
	// trouble gets a token, likewise, when the first line of a while is dropped, and
	// when writing begins to fail.
	trouble chan struct{}
	reopen  chan chan error // answers have one slot, so that the writer never waits
	stopped chan struct{}

	// began is when the write that is under way began, in nanoseconds of the wall
	// clock; 0: none is.
	began atomic.Int64

	mu      sync.Mutex // held to copy a line, and never while something is written
	front   []byte     // whole lines that wait
	taken   int64      // lines
	written int64
	dropped map[Cause]int64
	err     error
	since   time.Time
	failing bool // writing fails, and not only opening
	telling bool // that lines are dropped is known to who tells it
	ended   bool
}

// New makes a log. It opens nothing; until Run does, lines wait.
func New(o Options) *Log {
	if o.Buffer == 0 {
		o.Buffer = DefaultBuffer
	}
	if o.Stop == 0 {
		o.Stop = DefaultStop
	}
	if o.Writer == nil {
		o.Writer = io.Discard
	}
	l := &Log{
		o: o, log: o.Log, half: max(o.Buffer/2, leastHalf), lines: sync.Pool{New: newLine},
		some: make(chan struct{}, 1), plenty: make(chan struct{}, 1), trouble: make(chan struct{}, 1),
		reopen: make(chan chan error), stopped: make(chan struct{}), dropped: make(map[Cause]int64),
	}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	return l
}

// Request writes the line of a request. It never waits for the disk, and keeps
// nothing of r.
func (l *Log) Request(r *Request) {
	line := l.lines.Get().(*line)
	line.request(r)
	l.put(line.bytes)
	l.lines.Put(line)
}

// Session writes the line of a session, likewise.
func (l *Log) Session(s *Session) {
	line := l.lines.Get().(*line)
	line.session(s)
	l.put(line.bytes)
	l.lines.Put(line)
}

// put takes a line, or counts it as dropped.
func (l *Log) put(line []byte) {
	l.mu.Lock()
	before := len(l.front)
	room := before+len(line) <= l.half && !l.ended
	news := false
	if room {
		l.front = append(l.front, line...)
		l.taken++
	} else {
		l.dropped[l.cause()]++
		news, l.telling = !l.telling, true
	}
	l.mu.Unlock()
	switch {
	case news:
		poke(l.trouble)
	case !room:
	case before == 0:
		poke(l.some)
	case before < l.half/4 && before+len(line) >= l.half/4:
		poke(l.plenty)
	}
}

// cause is why a line that comes now is dropped. The lock is held.
func (l *Log) cause() Cause {
	switch {
	case l.ended:
		return Stopped
	case l.failing:
		return Failed
	}
	return Slow
}

func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Reopen has the file opened anew by its path. When it returns, lines that were taken
// before are in the old file, or, if that could not be written to, go to the new one
// with those that come later; none is in both. If the file cannot be opened, the old
// one is gone on with, and opening it is tried again. With a Writer it does nothing.
// It waits for Run, and for a disk that is stalled, until ctx ends.
func (l *Log) Reopen(ctx context.Context) error {
	if l.o.Path == "" {
		return nil
	}
	answer := make(chan error, 1)
	select {
	case l.reopen <- answer:
	case <-l.stopped:
		return ErrStopped
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case err := <-answer:
		return err
	case <-l.stopped:
		return ErrStopped
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Counts reads what became of lines.
func (l *Log) Counts() Counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := Counts{Written: l.written, Dropped: maps.Clone(l.dropped), Err: l.err, Since: l.since}
	if began := l.began.Load(); c.Err == nil && began != 0 {
		if since := time.Unix(0, began); time.Since(since) >= stalledAfter {
			c.Err, c.Since = errStalled, since
		}
	}
	return c
}

// Run opens the file, is ready when it is open, and writes until a signal comes; then
// it writes what is left, for up to Options.Stop, and returns nil. It fails only if
// the file cannot be opened at first. It may be called once.
func (l *Log) Run(signals <-chan os.Signal, ready chan<- struct{}) error {
	defer close(l.stopped)
	w := &writer{Log: l, to: l.o.Writer}
	if l.o.Path != "" {
		if err := w.open(); err != nil {
			l.end()
			return fmt.Errorf("opening the access log: %w", err)
		}
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		w.run(stop)
	}()
	close(ready)
	t := teller{Log: l}
	t.again = time.NewTimer(tellEvery)
	t.again.Stop()
	defer t.again.Stop()
	for {
		select {
		case <-l.trouble:
			t.look(true)
		case <-t.again.C:
			t.look(false)
		case <-signals:
			close(stop)
			l.finish(w, done)
			if lost := l.end(); lost > 0 {
				l.log.Error("access log could not be written to the end", "lost", lost)
			}
			return nil
		}
	}
}

// abandonAfter is how long a writer is waited for whose write was broken off.
const abandonAfter = 100 * time.Millisecond

// finish waits until the writer is done. One whose write does not return is left
// behind: nothing can interrupt a thread that waits for a disk.
func (l *Log) finish(w *writer, done <-chan struct{}) {
	enough := time.NewTimer(l.o.Stop)
	defer enough.Stop()
	select {
	case <-done:
		return
	case <-enough.C:
	}
	w.interrupt()
	enough.Reset(abandonAfter)
	select {
	case <-done:
	case <-enough.C:
	}
}

// end takes no more lines, and counts those as dropped that were not written.
func (l *Log) end() (lost int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lost = l.taken - l.written
	if lost > 0 {
		l.dropped[l.cause()] += lost
	}
	l.ended, l.front = true, nil
	return lost
}

// teller tells the program's log how the access log is: a line when lines begin to be
// dropped or writing to fail, and one when that has been over for a while. What comes
// and goes quickly is one state.
type teller struct {
	*Log
	again   *time.Timer
	told    string // what is wrong, as it was told; "": nothing
	dropped int64  // as of the last look
}

// tellEvery is how long all must be well before that is told.
const tellEvery = 5 * time.Second

// look tells what has changed. fresh: there is trouble now.
func (t *teller) look(fresh bool) {
	c := t.Counts()
	dropped := c.Dropped[Slow] + c.Dropped[Failed]
	wrong, failed := "", false
	switch {
	case c.Err != nil:
		wrong, failed = c.Err.Error(), c.Err != errStalled
	case fresh || dropped > t.dropped:
		wrong = "what it is written to is too slow"
	}
	switch {
	case wrong != "" && t.told == "", failed && wrong != t.told:
		t.log.Error("access log is in trouble", "cause", wrong, "dropped", dropped)
		t.told = wrong
	case wrong == "" && t.told != "":
		t.log.Info("access log is written again", "dropped", dropped)
		t.told = ""
	}
	t.dropped = dropped
	if t.told != "" {
		t.again.Reset(tellEvery)
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.telling = false
}
