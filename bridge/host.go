package bridge

import (
	"context"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"switchboard/bridge/clock"
	"switchboard/bridge/feed"
	"switchboard/bridge/relay"
)

// Defaults of [HostOptions].
const (
	DefaultDialTimeout      = time.Second
	DefaultHalfCloseTimeout = 30 * time.Second
	DefaultHoldMax          = 1000
)

// HostOptions describe one host to [New].
type HostOptions struct {
	// Name is the host's, unique in the router.
	Name string
	// Active carries NEW_ACTIVE_BACKEND, newest wins. The bridge only receives.
	// When it is closed the last one stays in force.
	Active <-chan Active
	// Backends are the names of the host's backends, for its counts.
	Backends []string
	// Hold is how long a new client may wait for an active backend, 0: it is
	// refused at once. HoldMax is how many may wait, 0: DefaultHoldMax.
	Hold    time.Duration
	HoldMax int
	// DialTimeout bounds one dial, 0: DefaultDialTimeout.
	DialTimeout time.Duration
	// Limits bound silence; HalfClose 0: DefaultHalfCloseTimeout, Idle 0: none.
	Limits relay.Limits
	// SendProxy announces clients to backends; "" is ProxyOff.
	SendProxy ProxyVersion
	// Traffic is the host's flag to start with.
	Traffic Traffic
}

// Host is one host's traffic: its term, its sessions and its flag. [Bridge] makes
// and runs hosts.
type Host struct {
	name     string
	options  HostOptions
	shared   *shared
	traffic  feed.Feed[Traffic]
	commands chan hostCommand
	// stopping ends when the bridge gives up on connections: dials, parked clients
	// and headers that have not come.
	stopping context.Context
	stop     context.CancelCauseFunc

	admission atomic.Pointer[admission]
	// open counts sessions and those that are about to be one.
	open   atomic.Int64
	parked atomic.Int64
	// emptied gets a token when the last session has ended. One slot: a token says
	// "look again", and one is enough.
	emptied chan struct{}
	// dialing holds a token a dial in flight.
	dialing chan struct{}
	fins    burst

	serving sync.WaitGroup
	// entering guards serving.Add against serving.Wait: it is held for reading
	// while a connection enters, never across anything that waits.
	entering sync.RWMutex
	left     bool
}

// maxDialing is how many dials a host has in flight at once. After a failover
// every client comes back in the same moment; this keeps them within a backend's
// accept queue (128 in older kernels and in many servers' settings), and costs
// nothing while dials are answered.
const maxDialing = 128

// shared is what the hosts of one bridge have in common.
type shared struct {
	engine  relay.Engine
	resolve func(ctx context.Context, address string) ([]string, error)
	hints   func(Hint)
	records func(Record)
	journal *Journal
	ids     atomic.Uint64
	panics  atomic.Int64
	log     *slog.Logger
	clock   clock.Clock
}

type hostCommand struct {
	// traffic changes the host's flag, or the router's part in it.
	traffic *TrafficChange
	router  bool
	cause   error
	// epoch waits until the host has reached that epoch.
	epoch uint64
	// answer has one slot, so that the loop never waits for the asker.
	answer chan hostAnswer
}

type hostAnswer struct {
	traffic Traffic
	severed int
}

func newHost(o HostOptions, s *shared, router Traffic) *Host {
	if o.DialTimeout == 0 {
		o.DialTimeout = DefaultDialTimeout
	}
	if o.HoldMax == 0 {
		o.HoldMax = DefaultHoldMax
	}
	if o.Limits.HalfClose == 0 {
		o.Limits.HalfClose = DefaultHalfCloseTimeout
	}
	h := &Host{
		name:     o.Name,
		options:  o,
		shared:   s,
		commands: make(chan hostCommand),
		emptied:  make(chan struct{}, 1),
		dialing:  make(chan struct{}, maxDialing),
	}
	h.stopping, h.stop = context.WithCancelCause(context.Background())
	o.Traffic.Host = o.Name
	h.traffic.Put(o.Traffic)
	refusal := errNoBackend
	if !o.Traffic.Enabled || !router.Enabled {
		refusal = errTrafficOff
	}
	h.admit(nil, refusal)
	return h
}

// Name returns the host's name.
func (h *Host) Name() string { return h.name }

// Traffic is the feed of the host's own flag.
func (h *Host) Traffic() *feed.Feed[Traffic] { return &h.traffic }

// Counts reads how many sessions there are now. They are all of one term, so they
// are the size of its set.
func (h *Host) Counts() Counts {
	c := Counts{Host: h.name, Backends: make(map[string]int, len(h.options.Backends)), Parked: int(h.parked.Load())}
	for _, name := range h.options.Backends {
		c.Backends[name] = 0
	}
	if t := h.admission.Load().term; t != nil {
		c.Sessions = t.set.Len()
		c.Backends[t.active.Backend.Name] = c.Sessions
	}
	return c
}

// Sessions lists the open sessions.
func (h *Host) Sessions() []SessionInfo {
	var infos []SessionInfo
	if t := h.admission.Load().term; t != nil {
		for _, s := range t.set.Sessions() {
			infos = append(infos, s.Tag().(*session).info(s))
		}
	}
	return infos
}

// endSession severs the session of that ID, if it is one of the host's.
func (h *Host) endSession(id string) bool {
	if t := h.admission.Load().term; t != nil {
		for _, s := range t.set.Sessions() {
			if s.Tag().(*session).record.ID == id {
				return s.End(errKilled) == nil
			}
		}
	}
	return false
}

// SetTraffic changes the host's flag. It is answered when that is in force: a
// disable without grace has severed, one with grace refuses new sessions.
func (h *Host) SetTraffic(ctx context.Context, change TrafficChange) (TrafficAnswer, error) {
	answer, err := h.ask(ctx, hostCommand{traffic: &change})
	return TrafficAnswer{Traffic: answer.traffic, Severed: answer.severed}, err
}

// AwaitEpoch returns when the host serves under that epoch or a later one, and how
// many sessions were severed on the way from the epoch before it.
func (h *Host) AwaitEpoch(ctx context.Context, epoch uint64) (severed int, err error) {
	answer, err := h.ask(ctx, hostCommand{epoch: epoch})
	return answer.severed, err
}

func (h *Host) ask(ctx context.Context, c hostCommand) (hostAnswer, error) {
	c.answer = make(chan hostAnswer, 1)
	select {
	case h.commands <- c:
	case <-h.stopping.Done():
		return hostAnswer{}, ErrStopped
	case <-ctx.Done():
		return hostAnswer{}, context.Cause(ctx)
	}
	select {
	case answer := <-c.answer:
		return answer, nil
	case <-h.stopping.Done():
		return hostAnswer{}, ErrStopped
	case <-ctx.Done():
		return hostAnswer{}, context.Cause(ctx)
	}
}

// admit publishes a new admission and wakes whoever waits on the one before.
func (h *Host) admit(t *term, refusal error) {
	next := &admission{term: t, refusal: refusal}
	next.ctx, next.cancel = context.WithCancelCause(h.stopping)
	if last := h.admission.Swap(next); last != nil {
		last.cancel(errMoved)
	}
}

// run is the loop that owns the host: it follows the active backend and obeys
// commands. It is ready at once. After the first signal it goes on doing both
// while open sessions have drain to end by themselves; then, or at a second
// signal, it severs what is left and returns when nothing of the host is running.
func (h *Host) run(signals <-chan os.Signal, ready chan<- struct{}, drain time.Duration, router Traffic) {
	l := &loop{Host: h, own: h.options.Traffic, router: router}
	l.timer = h.shared.clock.NewTimer(time.Hour)
	l.timer.Stop()
	defer l.timer.Stop()
	active := h.options.Active
	var (
		emptied chan struct{}
		expired <-chan time.Time
	)
	close(ready)
	for {
		select {
		case a, open := <-active:
			if !open {
				active = nil
				continue
			}
			l.follow(a)
		case c := <-h.commands:
			l.obey(c)
		case <-l.timer.C():
			l.drained()
		case <-signals:
			if emptied != nil || drain <= 0 || h.open.Load() == 0 {
				l.finish()
				return
			}
			timer := h.shared.clock.NewTimer(drain)
			defer timer.Stop()
			emptied, expired = h.emptied, timer.C()
		case <-emptied:
			if h.open.Load() == 0 {
				l.finish()
				return
			}
		case <-expired:
			l.finish()
			return
		}
	}
}

// loop is what only the host's loop touches.
type loop struct {
	*Host
	active Active
	term   *term
	// own and router are the two flags; traffic is on if both are.
	own, router Traffic
	timer       clock.Timer // the end of the host's own drain
	// reached are the last epochs and what each severed, newest last.
	reached []reached
	waiting []hostCommand
}

type reached struct {
	epoch   uint64
	severed int
}

// maxReached is how many epochs back AwaitEpoch can tell what was severed.
const maxReached = 16

// follow ends the term of the active backend before and begins that of the new
// one.
func (l *loop) follow(a Active) {
	if a.Epoch <= l.active.Epoch && l.active.Epoch != 0 {
		return
	}
	l.active = a
	severed := l.settle(errSevered)
	l.reached = append(l.reached, reached{a.Epoch, severed})
	if len(l.reached) > maxReached {
		l.reached = l.reached[1:]
	}
	backend := ""
	if a.Backend != nil {
		backend = a.Backend.Name
	}
	l.shared.log.Info("following the active backend", "host", l.name, "backend", backend, "epoch", a.Epoch, "severed", severed)
	waiting := l.waiting[:0]
	for _, c := range l.waiting {
		if !l.arrived(c) {
			waiting = append(waiting, c)
		}
	}
	clear(l.waiting[len(waiting):])
	l.waiting = waiting
}

// arrived answers c if the host has reached its epoch.
func (l *loop) arrived(c hostCommand) bool {
	if l.active.Epoch < c.epoch {
		return false
	}
	severed := 0
	for _, r := range l.reached {
		if r.epoch >= c.epoch {
			severed = r.severed
			break
		}
	}
	c.answer <- hostAnswer{severed: severed}
	return true
}

func (l *loop) obey(c hostCommand) {
	if c.traffic == nil {
		if !l.arrived(c) {
			l.waiting = append(l.waiting, c)
		}
		return
	}
	if c.router {
		l.router = l.changed(*c.traffic)
		c.answer <- hostAnswer{severed: l.settle(c.cause)}
		return
	}
	l.own = l.changed(*c.traffic)
	severed := l.settle(errTrafficOff)
	l.publish()
	c.answer <- hostAnswer{traffic: l.own, severed: severed}
}

// changed is the flag after a change.
func (l *loop) changed(change TrafficChange) Traffic {
	return change.apply(l.name, l.shared.clock.Now())
}

// publish tells the feed and the journal of the host's own flag and sets the
// timer for the end of its drain.
func (l *loop) publish() {
	l.timer.Stop()
	if !l.own.DrainUntil.IsZero() {
		l.timer.Reset(l.own.DrainUntil.Sub(l.shared.clock.Now()))
	}
	l.traffic.Put(l.own)
	l.shared.journal.Append(l.own.event())
}

// drained is the end of the grace of the host's own drain.
func (l *loop) drained() {
	if l.own.DrainUntil.IsZero() {
		return
	}
	l.own.DrainUntil = time.Time{}
	severed := l.settle(errDrained)
	l.traffic.Put(l.own)
	l.shared.log.Info("drain has run out", "host", l.name, "severed", severed)
}

// settle makes term and admission what active and the flags say, and returns how
// many sessions were severed. cause is why, if there were any.
func (l *loop) settle(cause error) (severed int) {
	off := l.own.severs() || l.router.severs()
	draining := !l.own.Enabled || !l.router.Enabled
	if l.term != nil && (off || l.term.active.Epoch != l.active.Epoch) {
		severed = l.term.end(cause)
		l.term = nil
	}
	switch {
	case l.term != nil && draining:
		l.term.set.Refuse(errTrafficOff)
	case l.term != nil:
		l.term.set.Refuse(nil)
	case !draining && l.active.Backend != nil:
		l.term = beginTerm(context.Background(), l.active, l.shared.engine.NewSet())
	}
	switch {
	case draining:
		l.admit(l.term, errTrafficOff)
	case l.term == nil:
		l.admit(nil, errNoBackend)
	default:
		l.admit(l.term, nil)
	}
	return severed
}

// finish severs what is left and waits until no connection is being served.
func (l *loop) finish() {
	h := l.Host
	h.entering.Lock()
	h.left = true
	h.entering.Unlock()
	h.stop(errShutdown)
	if l.term != nil {
		severed := l.term.end(errShutdown)
		h.shared.log.Info("host stopped", "host", h.name, "severed", severed)
	}
	h.serving.Wait()
}

// apply returns the flag after the change.
func (c TrafficChange) apply(host string, now time.Time) Traffic {
	t := Traffic{Host: host, Enabled: c.Enabled, Message: c.Message, LastUpdated: now}
	if !c.Enabled && c.Grace > 0 {
		t.DrainUntil = now.Add(c.Grace)
	}
	return t
}

// severs tells if the flag ends sessions, and not only refuses new ones.
func (t Traffic) severs() bool { return !t.Enabled && t.DrainUntil.IsZero() }

func (t Traffic) event() Event {
	kind := TrafficDisabled
	if t.Enabled {
		kind = TrafficEnabled
	}
	return Event{Kind: kind, At: t.LastUpdated, Host: t.Host, Traffic: &t}
}

// nextID returns a new session ID.
func (s *shared) nextID() string { return strconv.FormatUint(s.ids.Add(1), 10) }
