package stats

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"switchboard/pacemaker/store"
)

// The defaults of [Options], and other times and sizes.
const (
	// DefaultInterval is how often the log is looked at.
	DefaultInterval = 500 * time.Millisecond
	// DefaultSettle is how long a rotated log is watched after its last growth.
	DefaultSettle = time.Second
	// DefaultBytes is how much of a log one pass reads.
	DefaultBytes = 1 << 20
	// DefaultUpkeep is how often history is looked at that may be folded.
	DefaultUpkeep = time.Minute

	// ahead is how far in the future a record may be and still have a history: clocks of
	// machines differ.
	ahead = 5 * time.Minute
	// mostFields is how many values one commit has, about, and fewestFields how many it
	// has at least if Redis is slow. A commit stops Redis for everybody else.
	mostFields, fewestFields = 20_000, 200
	// sayEvery is the least time between two lines of the log about lines that are broken.
	sayEvery = time.Minute

	leastBackoff = 50 * time.Millisecond
	mostBackoff  = time.Second
)

// DefaultKeep is how long history is kept in which detail: by the second for six hours, by
// the minute for a week, by the hour for ninety days. A dashboard asks for the last
// minutes, an incident is looked into for days, and growth is seen over months.
func DefaultKeep() Keep {
	return Keep{BySecond: 6 * time.Hour, ByMinute: 7 * 24 * time.Hour, ByHour: 90 * 24 * time.Hour}
}

// Keep says how long history is kept in which detail, counted from its hour's end. Each is
// as long as the one before or longer.
type Keep struct {
	// BySecond is for how long there is a value a second; 0: as in [DefaultKeep].
	BySecond time.Duration
	// ByMinute is for how long there is one a minute; 0: as in [DefaultKeep].
	ByMinute time.Duration
	// ByHour is for how long there is one an hour, and then none; 0: as in [DefaultKeep].
	ByHour time.Duration
}

func (k Keep) orDefault() Keep {
	d := DefaultKeep()
	return Keep{cmp.Or(k.BySecond, d.BySecond), cmp.Or(k.ByMinute, d.ByMinute), cmp.Or(k.ByHour, d.ByHour)}
}

// Options are what a [Reader] needs. They are not to be changed afterwards.
type Options struct {
	// Redis is where the statistics are.
	Redis store.Redis
	// Prefix is what all keys begin with, as [store.Prefix] has it.
	Prefix string
	// Log is the file to follow. It need not be there yet. Required.
	Log string
	// Node names the position: each log that is read has a node of its own. Required.
	Node string
	// Interval is how often the log is looked at; 0: [DefaultInterval].
	Interval time.Duration
	// Settle is how long a rotated log is watched, after it was found to be rotated and
	// after its last growth, before the next one is read; 0: [DefaultSettle].
	Settle time.Duration
	// Bytes is how much of a log one pass reads, at least 128 KiB; 0: [DefaultBytes]. If
	// there is more, the next pass follows at once.
	Bytes int
	// Keep says how long history is kept. All readers of one Redis should agree.
	Keep Keep
	// Upkeep is how often history is looked at that may be folded; 0: [DefaultUpkeep].
	Upkeep time.Duration
	// Now is what time it is for history; nil: [time.Now].
	Now func() time.Time
	// Logger gets a line per change of state; nil: discarded.
	Logger *slog.Logger
}

// Status is what a [Reader] knows of its work. What is counted begins with Run.
type Status struct {
	// Node is whose position it is, and Log the file.
	Node string `json:"node"`
	Log  string `json:"log"`
	// Waiting: there is no log yet.
	Waiting bool `json:"waiting"`
	// Stale: what is in the log is not counted now; Reason says why, Since since when.
	// Nothing is lost by it.
	Stale  bool      `json:"stale"`
	Since  time.Time `json:"since"`
	Reason string    `json:"reason,omitempty"`
	// Behind is how many bytes are there that are not counted.
	Behind int64 `json:"behind"`
	// Requests and Sessions were counted.
	Requests uint64 `json:"requests"`
	Sessions uint64 `json:"sessions"`
	// Broken lines are no records, Long ones were skipped unread, Unplaced records were
	// counted without a history, since their time is too far from now.
	Broken   uint64 `json:"broken"`
	Long     uint64 `json:"long"`
	Unplaced uint64 `json:"unplaced"`
	// Rotations and Truncations were noticed; Lost logs were gone before their end.
	Rotations   uint64 `json:"rotations"`
	Truncations uint64 `json:"truncations"`
	Lost        uint64 `json:"lost"`
	// Refused values could not be added to what is in Redis, which is no number.
	Refused uint64 `json:"refused"`
	// Conflicts are commits that found another position than they expected, and Failures
	// are calls of Redis and looks at the log that failed.
	Conflicts uint64 `json:"conflicts"`
	Failures  uint64 `json:"failures"`
}

// Reader counts what is in a log. Make one with [NewReader]; Run owns all of its state.
type Reader struct {
	o      Options
	log    *slog.Logger
	ran    atomic.Bool
	status atomic.Pointer[Status]

	// What follows is the loop's own.

	ledger ledger
	file   follower
	now    Status
	// text is the position in Redis, as it is written there, if known.
	text  string
	known bool
	// at is the position that text is.
	at position
	// most is how many values a commit has.
	most int
	// folds is when history is looked at next.
	folds time.Time
	// said is when broken lines were logged last, unsaid are those since, and cause is why
	// the first of them is no record.
	said   time.Time
	unsaid uint64
	cause  error
}

// NewReader returns a reader that does nothing before Run. Its errors are those of the
// options.
func NewReader(o Options) (*Reader, error) {
	fail := func(err error) (*Reader, error) { return nil, fmt.Errorf("reading statistics: %w", err) }
	o.Prefix = store.Prefix(o.Prefix)
	o.Interval, o.Settle = cmp.Or(o.Interval, DefaultInterval), cmp.Or(o.Settle, DefaultSettle)
	o.Bytes, o.Upkeep = cmp.Or(o.Bytes, DefaultBytes), cmp.Or(o.Upkeep, DefaultUpkeep)
	o.Keep, o.Redis.Timeout = o.Keep.orDefault(), cmp.Or(o.Redis.Timeout, store.DefaultTimeout)
	if o.Now == nil {
		o.Now = time.Now
	}
	switch {
	case o.Log == "":
		return fail(errors.New("a log is required"))
	case o.Node == "" || len(o.Node) > maxID:
		return fail(fmt.Errorf("a node is required, of at most %d bytes", maxID))
	case o.Interval < 0 || o.Settle < 0 || o.Upkeep < 0:
		return fail(errors.New("no time is negative"))
	case o.Bytes < 2*maxLine:
		return fail(fmt.Errorf("a pass reads at least %d bytes", 2*maxLine))
	case o.Keep.BySecond < 0 || o.Keep.ByMinute < o.Keep.BySecond || o.Keep.ByHour < o.Keep.ByMinute:
		return fail(errors.New("history is kept by the minute as long as by the second, or longer, and by the hour as long as by the minute"))
	}
	path, err := filepath.Abs(o.Log)
	if err != nil {
		return fail(err)
	}
	if err := o.Redis.CheckPrefix(o.Prefix); err != nil {
		return fail(err)
	}
	r := &Reader{o: o, log: o.Logger, most: mostFields}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	r.file = follower{path: path, settle: o.Settle, log: r.log, buffer: make([]byte, o.Bytes)}
	r.now = Status{Node: o.Node, Log: path, Stale: true, Reason: "Redis was not reached yet", Since: time.Now()}
	r.show()
	return r, nil
}

// Status is how far the reader is. It may be called from any goroutine.
func (r *Reader) Status() Status { return *r.status.Load() }

// Run counts until a signal comes, and then what there is still; a second signal means now.
// It returns nil then. ready is closed at once, since neither the log nor Redis need be
// there: [Reader.Status] tells. Run may be called once.
func (r *Reader) Run(signals <-chan os.Signal, ready chan<- struct{}) error {
	if r.ran.Swap(true) {
		return errors.New("reading statistics: Run was called twice")
	}
	client, err := r.o.Redis.Connect()
	if err != nil {
		return fmt.Errorf("reading statistics: %w", err)
	}
	r.ledger = ledger{client: client, keys: keys{r.o.Prefix}, timeout: r.o.Redis.Timeout, keep: r.o.Keep}
	close(ready)
	ctx, cancel := context.WithCancel(context.Background())
	stopping, looped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(looped)
		r.loop(ctx, stopping)
	}()
	<-signals
	close(stopping)
	last := time.NewTimer(2 * r.o.Redis.Timeout)
	defer last.Stop()
	select {
	case <-looped:
	case <-last.C:
	case <-signals:
	}
	cancel()
	// A call that waits for an answer ends with its connection, not with its context.
	client.Close()
	<-looped
	return nil
}

// loop makes passes, and upkeep between them.
func (r *Reader) loop(ctx context.Context, stopping <-chan struct{}) {
	defer r.file.close()
	// The log as it is now is where counting begins if Redis, which may be away for long,
	// turns out to know no position. An error will come again.
	_ = r.file.open()
	backoff, last := leastBackoff, false
	for ctx.Err() == nil {
		more, err := r.pass(ctx)
		if err == nil {
			err = r.upkeep(ctx)
		}
		pause := r.o.Interval
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			r.fail(err)
			// Half of it is chance, so that readers do not come back all at once.
			pause = backoff/2 + rand.N(backoff/2+1)
			backoff = min(2*backoff, mostBackoff)
		default:
			backoff = leastBackoff
			r.fresh()
			if more {
				continue
			}
		}
		if last {
			return
		}
		timer := time.NewTimer(pause)
		select {
		case <-stopping:
			// What was written before the signal is counted still.
			last = true
		case <-timer.C:
		}
		timer.Stop()
	}
}

// pass counts what the log has, a buffer of it at most. more: there is more.
func (r *Reader) pass(ctx context.Context) (more bool, err error) {
	if !r.known {
		if err := r.resume(ctx); err != nil {
			return false, err
		}
	}
	lines, err := r.file.next()
	if err != nil {
		return false, err
	}
	// A place without a line behind it is noted too: the file may be rotated away, and its
	// inode another's, before there is one.
	if len(lines) == 0 && r.file.at.is(r.at) {
		r.noted()
		return false, nil
	}
	now := r.o.Now()
	s := newSums(now.Add(-r.o.Keep.ByHour).Unix(), now.Add(ahead).Unix())
	taken := 0
	for taken < len(lines) && s.fields < r.most {
		end := taken + bytes.IndexByte(lines[taken:], '\n')
		r.count(s, lines[taken:end])
		taken = end + 1
	}
	r.file.take(lines[:taken])
	r.file.at.Step++
	to := r.file.at.String()
	refused, err := r.ledger.commit(ctx, r.o.Node, r.text, to, s)
	if err != nil {
		// Whatever became of it, the position in Redis says how far we are.
		r.known = false
		if errors.Is(err, errMoved) {
			r.now.Conflicts++
			return true, nil
		}
		r.most = max(r.most/4, fewestFields)
		return false, err
	}
	r.text, r.at, r.most = to, r.file.at, min(2*r.most, mostFields)
	r.now.Requests += s.requests
	r.now.Sessions += s.sessions
	r.now.Unplaced += s.unplaced
	r.now.Refused += uint64(refused)
	if refused > 0 {
		r.log.Warn("values in Redis are no numbers, and nothing was added to them", "values", refused)
	}
	r.noted()
	return taken < len(lines) || r.file.full, nil
}

// resume goes to where Redis says that we are.
func (r *Reader) resume(ctx context.Context) error {
	text, err := r.ledger.load(ctx, r.o.Node)
	if err != nil {
		return err
	}
	p, err := parsePosition(text)
	if err == nil {
		// What was noticed on the way to another position is noticed again.
		r.file.tally = tally{}
		err = r.file.seek(p)
	}
	if errors.Is(err, errPosition) {
		return fmt.Errorf("%w; to begin with the log as it is, delete %s", err, r.ledger.keys.position(r.o.Node))
	}
	if err != nil {
		return err
	}
	r.text, r.at, r.known = text, p, true
	return nil
}

// count adds one line, if it is a record.
func (r *Reader) count(s *sums, line []byte) {
	if len(line) > maxLine {
		r.file.tally.long++
		return
	}
	record, err := parse(line)
	if err != nil {
		r.file.tally.broken++
		if r.unsaid++; r.unsaid == 1 {
			r.cause = err
		}
		return
	}
	s.add(record)
}

// noted adds what happened to the log, now that it is certain, and shows it.
func (r *Reader) noted() {
	t := r.file.tally
	r.file.tally = tally{}
	r.now.Broken += t.broken
	r.now.Long += t.long
	r.now.Rotations += t.rotations
	r.now.Truncations += t.truncations
	r.now.Lost += t.lost
	if r.unsaid > 0 && time.Since(r.said) >= sayEvery {
		r.log.Warn("lines of the log are no records and were passed over", "log", r.now.Log, "lines", r.unsaid, "cause", r.cause)
		r.said, r.unsaid, r.cause = time.Now(), 0, nil
	}
}

// upkeep folds history, if it is time for it.
func (r *Reader) upkeep(ctx context.Context) error {
	if time.Now().Before(r.folds) {
		return nil
	}
	more, err := r.ledger.fold(ctx, r.o.Now())
	if err != nil {
		return err
	}
	if !more {
		// Half of it is chance: readers take turns.
		r.folds = time.Now().Add(r.o.Upkeep/2 + rand.N(r.o.Upkeep/2+1))
	}
	return nil
}

// fail notes that nothing can be counted now.
func (r *Reader) fail(err error) {
	r.now.Failures++
	reason := err.Error()
	if !r.now.Stale {
		r.now.Since = time.Now()
	}
	if !r.now.Stale || r.now.Reason != reason {
		r.log.Warn("the statistics are not kept up", "cause", reason, "redis", r.o.Redis, "log", r.now.Log)
	}
	r.now.Stale, r.now.Reason = true, reason
	r.show()
}

// fresh notes that all is well.
func (r *Reader) fresh() {
	if r.now.Stale {
		r.now.Stale, r.now.Reason, r.now.Since = false, "", time.Now()
		r.log.Info("the statistics are kept up", "redis", r.o.Redis, "log", r.now.Log, "node", r.o.Node)
	}
	r.show()
}

func (r *Reader) show() {
	r.now.Waiting, r.now.Behind = r.file.file == nil, r.file.behind()
	status := r.now
	r.status.Store(&status)
}
