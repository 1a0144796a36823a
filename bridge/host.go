package bridge

import (
	"context"
	"log/slog"
	"slices"
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
	parked    atomic.Int64
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
	// open counts the sessions of all hosts, and those that are about to be one.
	// emptied gets a token when there are none left. One slot: a token says "look
	// again", and one is enough.
	open    atomic.Int64
	emptied chan struct{}
	log     *slog.Logger
	clock   clock.Clock
}

type hostCommand struct {
	// traffic changes the host's flag, or the router's part in it.
	traffic TrafficChange
	router  bool
	cause   error
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
		dialing:  make(chan struct{}, maxDialing),
	}
	h.stopping, h.stop = context.WithCancelCause(context.Background())
	o.Traffic.Host = o.Name
	h.traffic.Put(o.Traffic)
	refusal := errNoBackend
	if !o.Traffic.Enabled || !router.Enabled {
		refusal = errTrafficOff
	}
	h.admit(&admission{refusal: refusal})
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
	answer, err := h.ask(ctx, hostCommand{traffic: change})
	return TrafficAnswer{Traffic: answer.traffic, Severed: answer.severed}, err
}

// AwaitEpoch returns when the host serves under that epoch or a later one, and how
// many sessions were severed on the way from the epoch before it.
func (h *Host) AwaitEpoch(ctx context.Context, epoch uint64) (severed int, err error) {
	for {
		a := h.admission.Load()
		if severed, arrived := a.severedTo(epoch); arrived {
			return severed, nil
		}
		select {
		case <-a.ctx.Done():
			if h.stopping.Err() != nil && h.admission.Load() == a {
				return 0, ErrStopped
			}
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

func (h *Host) ask(ctx context.Context, c hostCommand) (hostAnswer, error) {
	c.answer = make(chan hostAnswer, 1)
	return ask(ctx, h.commands, c, c.answer, h.stopping.Done())
}

// ask gives a command to the loop that owns the state, and returns its answer. It
// gives up when ctx ends or the loop has stopped.
func ask[C, A any](ctx context.Context, commands chan<- C, command C, answers <-chan A, stopped <-chan struct{}) (answer A, err error) {
	select {
	case commands <- command:
	case <-stopped:
		return answer, ErrStopped
	case <-ctx.Done():
		return answer, context.Cause(ctx)
	}
	select {
	case answer = <-answers:
		return answer, nil
	case <-stopped:
		return answer, ErrStopped
	case <-ctx.Done():
		return answer, context.Cause(ctx)
	}
}

// admit publishes a new admission and wakes whoever waits on the one before.
func (h *Host) admit(next *admission) {
	next.ctx, next.cancel = context.WithCancelCause(h.stopping)
	if last := h.admission.Swap(next); last != nil {
		last.cancel(errMoved)
	}
}

// run is the loop that owns the host: it follows the active backend and obeys
// commands until stop is closed. Then it severs what is left and returns when
// nothing of the host is running. It is ready at once.
func (h *Host) run(stop <-chan struct{}, ready chan<- struct{}, router Traffic) {
	l := &loop{Host: h, own: h.options.Traffic, router: router}
	l.timer = h.shared.clock.NewTimer(time.Hour)
	l.timer.Stop()
	defer l.timer.Stop()
	active := h.options.Active
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
		case <-stop:
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
	reached     []reached   // published with every admission, so it is never changed in place
}

// follow ends the term of the active backend before and begins that of the new
// one.
func (l *loop) follow(a Active) {
	if a.Epoch <= l.active.Epoch {
		return
	}
	l.active = a
	severed := l.settle(errSevered)
	backend := ""
	if a.Backend != nil {
		backend = a.Backend.Name
	}
	l.shared.log.Info("following the active backend", "host", l.name, "backend", backend, "epoch", a.Epoch, "severed", severed)
}

func (l *loop) obey(c hostCommand) {
	if c.router {
		l.router = l.changed(c.traffic)
		c.answer <- hostAnswer{severed: l.settle(c.cause)}
		return
	}
	l.own = l.changed(c.traffic)
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
	if n := len(l.reached); l.active.Epoch > 0 && (n == 0 || l.reached[n-1].epoch != l.active.Epoch) {
		l.reached = append(slices.Clone(l.reached[max(0, n-maxReached+1):]), reached{l.active.Epoch, severed})
	}
	next := &admission{term: l.term, reached: l.reached}
	switch {
	case draining:
		next.refusal = errTrafficOff
	case l.term == nil:
		next.refusal = errNoBackend
	}
	l.admit(next)
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
