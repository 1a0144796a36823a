package table

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"switchboard/bridge/feed"
	"switchboard/bridge/route"
	"switchboard/pacemaker/store"
)

// The defaults of [WatcherOptions], and other times.
const (
	// DefaultPoll is how often a writer that leaves no record is looked for.
	DefaultPoll = 500 * time.Millisecond
	// DefaultResync is how often the whole table is compared without a reason, in the mean.
	DefaultResync = time.Minute
	// DefaultPause is the time between two tables while changes keep coming.
	DefaultPause = 5 * time.Millisecond
	// compareEvery is the least time between the end of a compare and the next one.
	compareEvery = time.Second
	// inspectEvery is how often Redis is asked about itself.
	inspectEvery = 2 * time.Second

	leastBackoff = 50 * time.Millisecond
	// mostBackoff and the time that one call takes to fail are less than 2 s together, within
	// which a table is followed again.
	mostBackoff = time.Second / 2
)

// ErrStopped is returned to an operator who comes after Run has returned.
var ErrStopped = errors.New("the table is not watched any more")

// Status is what a [Watcher] knows about its table and about Redis.
type Status struct {
	// Serial is that of the table that serves; 0 before there is one.
	Serial uint64 `json:"serial"`
	// Hosts is how many it has.
	Hosts int `json:"hosts"`
	// Loaded: there is a table, be it a saved one. Until then nothing was published.
	Loaded bool `json:"loaded"`
	// Stale: Redis may have another table, as it is not followed now.
	Stale bool `json:"stale"`
	// Since is when Stale became what it is.
	Since time.Time `json:"since"`
	// Reason is why the table is stale, in an operator's words; "" if it is not.
	Reason string `json:"reason,omitempty"`
	// Redis is the serial that Redis had when it last told.
	Redis uint64 `json:"redis"`
	// Alarm is what an operator should look at: Redis has less than the table that
	// serves, and [Watcher.Accept] would take it. "" if there is nothing.
	Alarm string `json:"alarm,omitempty"`
	// Warning is about how Redis is set up, or about the saved table; "" if all is well.
	Warning string `json:"warning,omitempty"`
	// Rejected counts what is in Redis and not in the table now, and Rejections are some of
	// that, at most [MaxRejections].
	Rejected   Rejected    `json:"rejected"`
	Rejections []Rejection `json:"rejections,omitempty"`
	// Changes, Compares and Failures count since Run was called: change records that were
	// read, compares of the whole table that came to their end, and calls of Redis that failed.
	Changes  uint64 `json:"changes"`
	Compares uint64 `json:"compares"`
	Failures uint64 `json:"failures"`
}

// Rejected counts rejections by [Kind].
type Rejected struct {
	Hosts   int `json:"hosts"`
	Members int `json:"members"`
	Options int `json:"options"`
}

// WatcherOptions are what a [Watcher] needs. They are not to be changed afterwards.
type WatcherOptions struct {
	// Redis is where the table is. A replica will do, as nothing is written.
	Redis store.Redis
	// Prefix is what all keys begin with, as [store.Prefix] has it.
	Prefix string
	// Table says how the table is asked.
	Table route.Options
	// Refuse tells why no backend may have an address, as the router's own listeners and
	// its API; nil for one that may be. It is called often, from several goroutines.
	// nil: none is refused but those of [Member.Validate].
	Refuse func(netip.AddrPort) error
	// Tables gets each table, and Status each status that is not the one before.
	// Required. Whoever gets two tables one after the other finds hosts that did not
	// change to be the same pointers.
	Tables *feed.Feed[*route.Table]
	Status *feed.Feed[Status]
	// Load returns the last good table when Run begins; an error that is
	// fs.ErrNotExist says that there is none, any other that it is broken, which is an
	// alarm until Redis has a table. nil: there is none.
	Load func() (Saved, error)
	// Save keeps the last good table. It is called at most a second after a change,
	// from a goroutine of Run's, one call at a time, and a last time before Run returns if there
	// is anything new. nil: nothing is kept.
	Save func(Saved) error
	// Poll, Resync and Pause are for specs; 0: the defaults.
	Poll, Resync, Pause time.Duration
	// Log gets a line per change of state; nil: discarded.
	Log *slog.Logger
}

// Watcher follows the table. Make one with [NewWatcher]; Run owns all of its state.
type Watcher struct {
	o       WatcherOptions
	log     *slog.Logger
	ran     atomic.Bool
	accepts chan chan error
	stopped chan struct{}
	// news tells the saver that saved is another one: one slot, newest wins.
	news  chan struct{}
	saved atomic.Pointer[Saved]
	// unsaved is why the last save failed, nil if it did not.
	unsaved atomic.Pointer[string]

	// client is the one that the loop has; Run ends it.
	client atomic.Pointer[redis.UniversalClient]

	// What follows is the loop's own.

	reader reader
	table  *route.Table
	status Status
	// shown is the status that was published.
	shown Status
	// seen is the serial up to which all is accounted for: by records, or by a compare
	// that is due. last is the ID of the last record that was read, "" before there is any
	// position, and zeroID if there was no record.
	seen uint64
	last string
	// held: Redis has an older table, or one with another history. Nothing is taken
	// from it until its serial passes seen, or until it is accepted.
	held bool
	// dirty are the hosts that changed and were not read again yet.
	dirty map[string]struct{}
	// due is the compare that must come, if any, and whole the one that goes on.
	due   *reasons
	whole *compare
	// notBefore is when a compare may begin; resync is when one must.
	notBefore, resync time.Time
	inspected         time.Time
	info              info
	// paced is when the last table of records should have been made, one a Pause.
	paced time.Time
	// chunk is how many hosts are read in one call.
	chunk int
	// rejections are those of each host that has any.
	rejections map[string][]Rejection
	// resample: the sample of them in the status is old. logged counts those that this
	// step has logged.
	resample bool
	logged   int
	// broken is why the saved table could not be used.
	broken string
	// missing says what Redis has lost without saying so.
	missing string
	// accepting are operators who wait for the compare that they asked for.
	accepting []chan error
	// obeyed are those whose compare has come to its end, and who were not told yet.
	obeyed []chan error
}

// zeroID is the ID before all records.
const zeroID = "0-0"

// NewWatcher returns a watcher that does nothing before Run. Its errors are those of the
// options.
func NewWatcher(o WatcherOptions) (*Watcher, error) {
	if o.Tables == nil || o.Status == nil {
		return nil, errors.New("watching the table: the feeds Tables and Status are required")
	}
	if _, err := route.NewTable(o.Table); err != nil {
		return nil, fmt.Errorf("watching the table: %w", err)
	}
	client, err := o.Redis.Connect()
	if err != nil {
		return nil, fmt.Errorf("watching the table: %w", err)
	}
	defer client.Close()
	if err := store.CheckPrefix(client, store.Prefix(o.Prefix)); err != nil {
		return nil, fmt.Errorf("watching the table: %w", err)
	}
	o.Poll, o.Resync, o.Pause = cmp.Or(o.Poll, DefaultPoll), cmp.Or(o.Resync, DefaultResync), cmp.Or(o.Pause, DefaultPause)
	w := &Watcher{
		o: o, log: o.Log,
		// No slot: an operator is heard by the loop or not at all.
		accepts: make(chan chan error), stopped: make(chan struct{}),
		news:       make(chan struct{}, 1),
		dirty:      make(map[string]struct{}),
		rejections: make(map[string][]Rejection),
		chunk:      mostChunk,
	}
	if w.log == nil {
		w.log = slog.New(slog.DiscardHandler)
	}
	return w, nil
}

// Accept takes what Redis has, be it older, empty or of another history, and returns when
// that is the table: an operator's word that ends an alarm. It fails if Redis cannot be
// read now, and says whether it will be accepted when it can.
func (w *Watcher) Accept(ctx context.Context) error {
	answer := make(chan error, 1) // the loop must not wait for one who has left
	select {
	case w.accepts <- answer:
	case <-w.stopped:
		return ErrStopped
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case err := <-answer:
		return err
	case <-w.stopped:
		return ErrStopped
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Run follows the table until a signal comes, and returns nil then. ready is closed at
// once, since Redis may be away for long and traffic must not wait for it: [Status] tells
// when there is a table. Run may be called once.
func (w *Watcher) Run(signals <-chan os.Signal, ready chan<- struct{}) error {
	if w.ran.Swap(true) {
		return errors.New("watching the table: Run was called twice")
	}
	if err := w.connect(); err != nil {
		return fmt.Errorf("watching the table: %w", err)
	}
	w.reader.most = MaxMembers + 1 // one more tells that it is too many
	w.restore()
	close(ready)
	ctx, cancel := context.WithCancel(context.Background())
	looped, saved := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(looped)
		w.loop(ctx)
	}()
	go func() {
		defer close(saved)
		w.keep(looped)
	}()
	<-signals
	cancel()
	// A call that waits for an answer ends with its connection, not with its context.
	(*w.client.Load()).Close()
	<-looped
	close(w.stopped)
	<-saved
	return nil
}

// connect makes the reader, with a client of its own.
func (w *Watcher) connect() error {
	client, err := w.o.Redis.Connect()
	if err != nil {
		return err
	}
	reader, err := newReader(client, w.o.Prefix, w.o.Redis.Timeout)
	if err != nil {
		client.Close()
		return err
	}
	w.reader = reader
	w.client.Store(&client)
	return nil
}

// reconnect begins anew after a failure. A client that could not dial some times answers with
// that for a second or more, whatever listens meanwhile; a new one dials at once. That of a Redis
// Cluster stays, as it knows nodes that nobody else has told of.
func (w *Watcher) reconnect(ctx context.Context, err error) {
	before := w.reader
	if _, cluster := before.client.(*redis.ClusterClient); cluster {
		before.lost(ctx)
		return
	}
	// What was possible when Run began is possible now.
	if fromServer(err) || w.connect() != nil {
		return
	}
	before.client.Close()
	if ctx.Err() != nil {
		// Run may have ended the one before.
		w.reader.client.Close()
	}
}

// restore begins with the saved table.
func (w *Watcher) restore() {
	w.status.Since, w.status.Stale, w.status.Reason = time.Now(), true, "Redis was not reached yet"
	defer w.show()
	if w.o.Load == nil {
		return
	}
	saved, err := w.o.Load()
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var hosts []*route.Host
	if err == nil {
		hosts, err = saved.hosts(w.o.Refuse)
	}
	var table *route.Table
	if err == nil {
		table, err = route.NewTable(w.o.Table, hosts...)
	}
	if err != nil {
		w.broken = "the saved table is broken and was ignored: " + err.Error()
		w.log.Error("the saved table is broken and was ignored", "cause", err)
		return
	}
	w.table, w.seen, w.last = table, saved.Serial, saved.last
	w.status.Loaded, w.status.Serial = true, saved.Serial
	w.due = &reasons{}
	w.o.Tables.Put(table)
	w.log.Info("the saved table serves", "serial", saved.Serial, "hosts", table.Len())
}

// loop follows Redis, and begins anew when that fails.
func (w *Watcher) loop(ctx context.Context) {
	backoff := leastBackoff
	for ctx.Err() == nil {
		err := w.step(ctx)
		if err == nil {
			backoff = leastBackoff
			continue
		}
		if ctx.Err() != nil {
			return
		}
		w.fail(ctx, err)
		// Half of it is chance, so that routers do not come back all at once.
		w.wait(ctx, backoff/2+rand.N(backoff/2+1))
		backoff = min(2*backoff, mostBackoff)
	}
}

// fail notes that Redis cannot be read.
func (w *Watcher) fail(ctx context.Context, err error) {
	reason := describe(err)
	w.status.Failures++
	w.reconnect(ctx, err)
	if isTimeout(err) {
		// Perhaps it was too much for one answer.
		w.chunk = max(w.chunk/4, 1)
	}
	if w.whole != nil {
		w.due = w.whole.reasons.and(w.due)
		w.whole = nil
	}
	w.refuseOperators(reason)
	w.stale(reason.Error())
	w.inspected = time.Time{}
	w.show()
}

// refuseOperators tells those who wait for a compare that it has not come to its end.
func (w *Watcher) refuseOperators(reason error) {
	for _, answer := range w.accepting {
		if w.accepted() {
			answer <- fmt.Errorf("reading Redis, whose table is accepted as soon as it can be read: %w", reason)
		} else {
			answer <- fmt.Errorf("reading Redis, so nothing is accepted: %w", reason)
		}
	}
	w.accepting = nil
}

// stale sets why the table is stale; "" is that it is not.
func (w *Watcher) stale(reason string) {
	s := &w.status
	if stale := reason != ""; stale != s.Stale {
		s.Stale, s.Since = stale, time.Now()
	} else if reason == s.Reason {
		return
	}
	if s.Reason = reason; reason != "" {
		w.log.Warn("the table is stale", "reason", reason, "redis", w.o.Redis, "serial", s.Serial)
	} else {
		w.log.Info("the table is followed", "redis", w.o.Redis, "serial", s.Serial)
	}
}

// show publishes the status if it is another one.
func (w *Watcher) show() {
	s := &w.status
	s.Hosts = w.table.Len()
	if w.resample {
		w.resample, s.Rejections = false, w.sample()
	}
	before := s.Alarm
	switch {
	case w.held:
		s.Alarm = fmt.Sprintf("Redis is at serial %d with another table than ours, which is at %d: ours is kept until Redis passes it or an operator accepts", s.Redis, w.seen)
	case w.missing != "":
		s.Alarm = w.missing
	default:
		s.Alarm = w.broken
	}
	if s.Alarm != before && s.Alarm != "" {
		w.log.Error("the table needs an operator", "alarm", s.Alarm)
	} else if s.Alarm != before {
		w.log.Info("the table needs no operator any more")
	}
	s.Warning = ""
	if w.info.evicts != "" {
		s.Warning = "Redis drops keys when its memory is short (maxmemory-policy " + w.info.evicts + "): set noeviction"
	}
	if unsaved := w.unsaved.Load(); unsaved != nil {
		s.Warning = "the table cannot be saved: " + *unsaved
	}
	if !sameStatus(*s, w.shown) {
		w.shown = *s
		w.o.Status.Put(*s)
	}
}

// wait waits for d, and hears operators meanwhile.
func (w *Watcher) wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	case answer := <-w.accepts:
		w.accepting = append(w.accepting, answer)
	}
}

// hear takes the words of operators that are there.
func (w *Watcher) hear() {
	for {
		select {
		case answer := <-w.accepts:
			w.accepting = append(w.accepting, answer)
		default:
			return
		}
	}
}

// publish makes table the one that serves.
func (w *Watcher) publish(table *route.Table) {
	w.table = table
	w.status.Loaded = true
	w.o.Tables.Put(table)
	w.offer()
}

// offer hands the table to the saver.
func (w *Watcher) offer() {
	if w.o.Save == nil || w.table == nil {
		return
	}
	w.saved.Store(&Saved{Serial: w.status.Serial, Table: w.table, last: w.last})
	select {
	case w.news <- struct{}{}:
	default:
	}
}
