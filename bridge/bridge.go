package bridge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"switchboard/bridge/clock"
	"switchboard/bridge/feed"
	"switchboard/bridge/relay"
	"switchboard/bridge/route"
)

// Options describe a bridge to [New].
type Options struct {
	// Engine relays. The bridge does not close it. Required.
	Engine relay.Engine
	// Resolve turns a backend's address into the IP addresses to dial, in order; nil
	// dials the address as it is. It is not asked about what is an IP address already.
	Resolve func(ctx context.Context, address string) ([]string, error)
	// Hosts are those that listeners can be bound to, and that clients can ask for.
	Hosts []HostOptions
	// Tables carries the hosts that clients can ask for beside Hosts, newest wins. Of
	// two with one name that of Hosts is served. Nobody probes their backends: one
	// that fails a client rests for a moment, and under route.Active, where the first
	// with a weight is the active one, the table has to say who is next. nil: none.
	Tables <-chan *route.Table
	// TableTraffic are flags to start with, of hosts in Tables by name.
	TableTraffic map[string]Traffic
	// WildcardDepth is how many levels "*.suffix" stands for; 0: one.
	WildcardDepth int
	// Traffic is the router's own flag to start with.
	Traffic Traffic
	// Drain is how long Run lets open sessions end by themselves after the first
	// signal; 0 severs at once.
	Drain time.Duration
	// Hints receives what the data path sees of backends; nil drops it. It is
	// called from many goroutines and must not block.
	Hints func(Hint)
	// Records receives every connection's record; nil drops it. It is called from
	// many goroutines, also while a term is being severed, and must not block.
	Records func(Record)
	// Opened receives the record of every session, as far as it has come, when the
	// session opens: before Records does, and under the same rules. nil: nobody.
	Opened func(Record)
	// Journal gets the traffic events; nil keeps none.
	Journal *Journal
	// Log is for changes of state; nil discards.
	Log *slog.Logger
	// Clock is for drains and time stamps; nil is the machine's.
	Clock clock.Clock
}

// Bridge runs hosts and owns the router's own traffic flag.
type Bridge struct {
	options  Options
	shared   *shared
	ordered  []*Host
	catalog  *catalog
	fronts   []Front
	traffic  feed.Feed[Traffic]
	commands chan bridgeCommand
	stopped  chan struct{}
}

type bridgeCommand struct {
	change TrafficChange
	answer chan TrafficAnswer // one slot: the loop never waits for the asker
}

// New makes a bridge. It starts nothing.
func New(o Options) (*Bridge, error) {
	if o.Engine == nil {
		return nil, errors.New("a bridge needs an engine")
	}
	if o.Resolve == nil {
		o.Resolve = func(_ context.Context, address string) ([]string, error) { return []string{address}, nil }
	}
	if o.Hints == nil {
		o.Hints = func(Hint) {}
	}
	if o.Records == nil {
		o.Records = func(Record) {}
	}
	if o.Journal == nil {
		o.Journal = feed.NewRing[Event](1)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = clock.System{}
	}
	b := &Bridge{
		options: o,
		shared: &shared{
			engine: o.Engine, resolve: o.Resolve, hints: o.Hints, records: o.Records, opened: o.Opened,
			journal: o.Journal, log: o.Log, clock: o.Clock, emptied: make(chan struct{}, 1),
		},
		commands: make(chan bridgeCommand),
		stopped:  make(chan struct{}),
	}
	for _, ho := range o.Hosts {
		h := newHost(ho, b.shared)
		h.configure(o.Traffic)
		b.ordered = append(b.ordered, h)
	}
	var err error
	if b.catalog, err = newCatalog(b.shared, o.WildcardDepth, b.ordered, o.Traffic, o.TableTraffic); err != nil {
		return nil, fmt.Errorf("naming the hosts: %w", err)
	}
	o.Traffic.Host = ""
	b.traffic.Put(o.Traffic)
	return b, nil
}

// Host returns the host of that name, nil if there is none. One of the table's is in
// use from then on.
func (b *Bridge) Host(name string) *Host { return b.catalog.find(name) }

// Lookup returns the host that a client asks for by name, nil if there is none.
// key is as [route.Key] makes it. A host of the table's that leaves it refuses with
// [NoHost]; who asks again afterwards finds what is there then.
func (b *Bridge) Lookup(key []byte) *Host { return b.catalog.lookup(key) }

// Complete tells whether the bridge knows all hosts: it does not while it waits for the
// first of Options.Tables.
func (b *Bridge) Complete() bool { return b.options.Tables == nil || b.catalog.followed.Load() }

// Table is what clients are looked up in: the newest of Options.Tables, and Hosts,
// which have no backends in it.
func (b *Bridge) Table() *route.Table { return b.catalog.table.Load() }

// Used returns the table's host of that name, nil if nobody has asked for it yet.
func (b *Bridge) Used(name string) *Host { return b.catalog.usedHost(name) }

// HostTraffic is the flag of the table's host of that name, in use or not.
func (b *Bridge) HostTraffic(name string) Traffic { return b.catalog.flag(name) }

// SessionCount is how many sessions there are, of all hosts, requests in flight among
// them.
func (b *Bridge) SessionCount() (n int) {
	for _, h := range b.catalog.everyone() {
		for _, t := range h.admission.Load().all() {
			n += t.sessions()
		}
	}
	return n
}

// TableHosts are the names of the table's hosts that have been asked for.
func (b *Bridge) TableHosts() []string { return b.catalog.inUse() }

// TableTraffic are the flags of the table's hosts that were changed, by name.
func (b *Bridge) TableTraffic() map[string]Traffic { return b.catalog.set() }

// Attach makes f stop with the bridge. It is called before Run.
func (b *Bridge) Attach(f Front) { b.fronts = append(b.fronts, f) }

// Dial connects to a backend's address for requests that are no sessions of a term,
// before ctx ends.
func (b *Bridge) Dial(ctx context.Context, address string) (relay.Conn, error) {
	return b.shared.dial(ctx, b.shared.engine.ForRequests(), address)
}

// Engine is the engine that relays.
func (b *Bridge) Engine() relay.Engine { return b.shared.engine }

// Traffic is the feed of the router's own flag.
func (b *Bridge) Traffic() *feed.Feed[Traffic] { return &b.traffic }

// Panics counts connections that were given up because serving them panicked.
func (b *Bridge) Panics() int64 { return b.shared.panics.Load() }

// Sessions lists the open sessions of all hosts, host by host.
func (b *Bridge) Sessions() []SessionInfo {
	var infos []SessionInfo
	for _, h := range b.catalog.everyone() {
		infos = append(infos, h.Sessions()...)
	}
	return infos
}

// EndSession severs one session; [ErrUnknownSession] if it is not there.
func (b *Bridge) EndSession(id string) error {
	for _, h := range b.catalog.everyone() {
		if h.endSession(id) {
			return nil
		}
	}
	return ErrUnknownSession
}

// SetTraffic changes the router's own flag. It is answered when that is in force
// in every host.
func (b *Bridge) SetTraffic(ctx context.Context, change TrafficChange) (TrafficAnswer, error) {
	c := bridgeCommand{change: change, answer: make(chan TrafficAnswer, 1)}
	return ask(ctx, b.commands, c, c.answer, b.stopped)
}

// Run runs the hosts until a signal has come and their sessions have ended or
// Options.Drain has passed, or a second signal has come; then it severs what is
// left and returns nil. It is ready when every host follows its active
// backend, and a table that is there is followed. It
// may be called once.
func (b *Bridge) Run(signals <-chan os.Signal, ready chan<- struct{}) error {
	var hosts sync.WaitGroup
	stop := make(chan struct{})
	tables := b.options.Tables
	select {
	case table, open := <-tables:
		if open {
			b.catalog.follow(table)
		}
	default:
	}
	due := b.catalog.run()
	defer due.Stop()
	for _, h := range b.ordered {
		following := make(chan struct{})
		hosts.Go(func() { h.run(stop, following, b.options.Traffic) })
		<-following
	}
	defer b.finish()
	defer hosts.Wait()
	defer b.catalog.finish()
	defer close(stop)
	defer close(b.stopped)
	l := &flag{Bridge: b, router: b.options.Traffic, timer: b.options.Clock.NewTimer(time.Hour)}
	l.timer.Stop()
	defer l.timer.Stop()
	close(ready)
	var (
		emptied <-chan struct{}
		expired <-chan time.Time
	)
	for {
		select {
		case c := <-b.commands:
			c.answer <- l.change(c.change)
		case <-l.timer.C():
			l.drained()
		case table, open := <-tables:
			if !open {
				tables = nil
				continue
			}
			b.catalog.follow(table)
		case <-due.C():
			b.catalog.due()
		case <-signals:
			b.shut()
			if emptied != nil || b.options.Drain <= 0 || b.shared.open.Load() == 0 {
				return nil
			}
			timer := b.options.Clock.NewTimer(b.options.Drain)
			defer timer.Stop()
			emptied, expired = b.shared.emptied, timer.C()
		case <-emptied:
			if b.shared.open.Load() == 0 {
				return nil
			}
		case <-expired:
			return nil
		}
	}
}

func (b *Bridge) shut() {
	for _, f := range b.fronts {
		f.Shut()
	}
}

func (b *Bridge) finish() {
	for _, f := range b.fronts {
		f.Finish()
	}
}

// flag is what only the bridge's loop touches.
type flag struct {
	*Bridge
	router Traffic
	timer  clock.Timer
}

// change makes a change of the router's flag and returns when every host has
// made it.
func (l *flag) change(change TrafficChange) TrafficAnswer {
	l.router = change.apply("", l.options.Clock.Now())
	l.timer.Stop()
	if !l.router.DrainUntil.IsZero() {
		l.timer.Reset(l.router.DrainUntil.Sub(l.options.Clock.Now()))
	}
	severed := l.tell(change, errTrafficOff)
	l.traffic.Put(l.router)
	l.options.Journal.Append(l.router.event())
	return TrafficAnswer{Traffic: l.router, Severed: severed}
}

// drained is the end of the grace of the router's drain.
func (l *flag) drained() {
	if l.router.DrainUntil.IsZero() {
		return
	}
	l.router.DrainUntil = time.Time{}
	severed := l.tell(TrafficChange{Message: l.router.Message}, errDrained)
	l.traffic.Put(l.router)
	l.options.Log.Info("drain has run out", "severed", severed)
}

// tell has every host make the change at the same time, and waits until they
// have. A host's loop answers always, or has stopped.
func (l *flag) tell(change TrafficChange, cause error) int {
	severed := make([]int, len(l.ordered))
	var asked sync.WaitGroup
	for i, h := range l.ordered {
		asked.Go(func() {
			answer, _ := h.ask(context.Background(), hostCommand{traffic: change, router: true, cause: cause})
			severed[i] = answer.severed
		})
	}
	total := l.catalog.tell(change, cause)
	asked.Wait()
	for _, n := range severed {
		total += n
	}
	return total
}
