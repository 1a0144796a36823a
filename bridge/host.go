package bridge

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"switchboard/bridge/clock"
	"switchboard/bridge/feed"
	"switchboard/bridge/relay"
	"switchboard/bridge/route"
)

// Defaults of [HostOptions].
const (
	DefaultDialTimeout      = time.Second
	DefaultHalfCloseTimeout = 30 * time.Second
	DefaultHoldMax          = 1000
)

// HostOptions describe one host to [New].
type HostOptions struct {
	// Name is the host's, unique in the router: a host name, or for clients that ask
	// by name also "*.suffix" or "*", see [route.Host].
	Name string
	// Policy is how the host uses its backends; "": route.Active.
	Policy route.Policy
	// Active carries NEW_ACTIVE_BACKEND, newest wins. The bridge only receives.
	// When it is closed the last one stays in force. Required under route.Active.
	Active <-chan Active
	// Cluster carries which backends are healthy, newest wins, likewise. Required
	// under route.Balance, where each healthy backend has a term of its own.
	Cluster <-chan Cluster
	// Choose is how one of them is chosen under route.Balance; "": route.Random. A
	// sticky choice goes by StickyBy; a TCP client has nothing but its address.
	Choose   route.Choose
	StickyBy route.StickyBy
	// Weights are what an operator has set, by backend name: they go before the
	// backends' own.
	Weights map[string]int
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

	lobby *lobby
	// table is what the table has made of a host of its own; nil for one that the bridge
	// was made with.
	table *tabled
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
	opened  func(Record) // nil: nobody
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
	// weights replaces what an operator has set, if it is not nil.
	weights map[string]int
	// answer has one slot, so that the loop never waits for the asker.
	answer chan hostAnswer
}

type hostAnswer struct {
	traffic Traffic
	severed int
}

// newHost makes a host. Before it is run, or belongs to a catalog, it admits nobody.
func newHost(o HostOptions, s *shared) *Host {
	if o.Policy == "" {
		o.Policy = route.Active
	}
	if o.Policy == route.Balance && o.Choose == "" {
		o.Choose = route.Random
	}
	if o.DialTimeout == 0 {
		o.DialTimeout = DefaultDialTimeout
	}
	if o.HoldMax == 0 {
		o.HoldMax = DefaultHoldMax
	}
	if o.Limits.HalfClose == 0 {
		o.Limits.HalfClose = DefaultHalfCloseTimeout
	}
	o.Traffic.Host = o.Name
	h := &Host{
		name:    o.Name,
		options: o,
		shared:  s,
		dialing: make(chan struct{}, maxDialing),
	}
	h.traffic.Put(o.Traffic)
	return h
}

// configure makes h one of those that the bridge is made with.
func (h *Host) configure(router Traffic) {
	h.commands, h.lobby = make(chan hostCommand), new(lobby)
	h.stopping, h.stop = context.WithCancelCause(context.Background())
	refusal := errNoBackend
	if !h.options.Traffic.Enabled || !router.Enabled {
		refusal = errTrafficOff
	}
	h.admit(&admission{rules: h.options.rules(), refusal: refusal})
}

// rules are those of a host that the bridge is made with.
func (o HostOptions) rules() rules {
	return rules{choose: o.Choose, stickyBy: o.StickyBy, hold: o.Hold}
}

// Name returns the host's name.
func (h *Host) Name() string { return h.name }

// Traffic is the feed of the host's own flag.
func (h *Host) Traffic() *feed.Feed[Traffic] { return &h.traffic }

// Policy returns how the host uses its backends.
func (h *Host) Policy() route.Policy { return h.options.Policy }

// StickyBy returns what a sticky choice goes by, and false if it is not sticky.
func (h *Host) StickyBy() (route.StickyBy, bool) {
	rules := h.admission.Load().rules
	return rules.stickyBy, h.balances() && rules.choose == route.Sticky
}

// SendProxy returns the PROXY header that backends are announced clients by.
func (h *Host) SendProxy() ProxyVersion { return h.options.SendProxy }

// DialTimeout is how long one dial to a backend may take.
func (h *Host) DialTimeout() time.Duration { return h.options.DialTimeout }

// Usable tells whether a session could be opened now, as far as the host knows.
func (h *Host) Usable() bool { return h.admission.Load().refusal == nil }

// Gone tells whether the host has left the table; who asks by its name again finds what
// is there now.
func (h *Host) Gone() bool { return h.admission.Load().refusal == errNoHost }

func (h *Host) balances() bool { return h.options.Policy == route.Balance }

// Weights returns the weights in force by backend name; nil under route.Active.
func (h *Host) Weights() map[string]int { return h.admission.Load().weights }

// Active is the active backend that the host serves; zero under route.Balance, and for
// a host that has had none.
func (h *Host) Active() Active { return h.admission.Load().active }

// Counts reads how many sessions there are now, requests in flight among them.
// They are what is in the terms' sets.
func (h *Host) Counts() Counts {
	c := Counts{Backends: make(map[string]int, len(h.options.Backends))}
	h.CountInto(&c)
	return c
}

// CountInto is [Host.Counts] for who reads those of many hosts: it overwrites c, and
// uses its map again.
func (h *Host) CountInto(c *Counts) {
	if c.Backends == nil {
		c.Backends = make(map[string]int, len(h.options.Backends))
	}
	clear(c.Backends)
	c.Host, c.Sessions, c.Parked = h.name, 0, int(h.parked.Load())
	for _, name := range h.options.Backends {
		c.Backends[name] = 0
	}
	a := h.admission.Load()
	for _, terms := range [][]*term{a.terms, a.retired} {
		for _, t := range terms {
			n := t.sessions()
			c.Sessions += n
			c.Backends[t.backend.Name] += n
		}
	}
}

// Sessions lists the open sessions.
func (h *Host) Sessions() []SessionInfo {
	var infos []SessionInfo
	for _, t := range h.admission.Load().all() {
		for _, s := range t.set.Sessions() {
			infos = append(infos, s.Owner().(*session).info(s))
		}
		t.claims.each(func(c *Claim) bool {
			infos = append(infos, c.info())
			return true
		})
	}
	return infos
}

// endSession severs the session of that ID, if it is one of the host's.
func (h *Host) endSession(id string) bool {
	number, err := strconv.ParseUint(id, 10, 64)
	if err != nil {
		return false
	}
	for _, t := range h.admission.Load().all() {
		for _, s := range t.set.Sessions() {
			if s.Owner().(*session).id == number {
				return s.End(errKilled) == nil
			}
		}
		if t.claims.kill(id) {
			return true
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

// SetWeights replaces the weights that an operator has set, by backend name, and
// is answered when new sessions are chosen by them. Nobody is severed. Weight 0
// leaves a backend out. It fails under route.Active, and for backends the host
// does not have.
func (h *Host) SetWeights(ctx context.Context, weights map[string]int) error {
	switch {
	case h.table != nil:
		return ErrFromTable
	case !h.balances():
		return ErrNoChoice
	}
	for name, weight := range weights {
		if !slices.Contains(h.options.Backends, name) {
			return fmt.Errorf("%w: %q", ErrUnknownBackend, name)
		}
		if weight < 0 || weight > route.MaxWeight {
			return fmt.Errorf("%w: that of %q is %d", ErrWeight, name, weight)
		}
	}
	if weights == nil {
		weights = map[string]int{}
	}
	_, err := h.ask(ctx, hostCommand{weights: maps.Clone(weights)})
	return err
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
	if h.table != nil {
		return h.table.catalog.obey(h.table, c)
	}
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
	case <-ctx.Done():
		return answer, context.Cause(ctx)
	}
	select {
	case answer = <-answers:
		// It has answered, and then stopped: maybe because of this very command.
		return answer, nil
	default:
		return answer, ErrStopped
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
// nothing of the host is running. It is ready when it follows what the feed has.
func (h *Host) run(stop <-chan struct{}, ready chan<- struct{}, router Traffic) {
	timer := h.shared.clock.NewTimer(time.Hour)
	timer.Stop()
	defer timer.Stop()
	l := &loop{Host: h, own: h.options.Traffic, router: router, weights: h.options.Weights, rules: h.options.rules(), timer: timer}
	active, cluster := h.options.Active, h.options.Cluster
	if h.balances() {
		active = nil
	} else {
		cluster = nil
	}
	select {
	case a, open := <-active:
		if open {
			l.follow(a)
		}
	case c, open := <-cluster:
		if open {
			l.regroup(c)
		}
	default:
	}
	close(ready)
	for {
		select {
		case a, open := <-active:
			if !open {
				active = nil
				continue
			}
			l.follow(a)
		case c, open := <-cluster:
			if !open {
				cluster = nil
				continue
			}
			l.regroup(c)
		case c := <-h.commands:
			c.answer <- l.obey(c)
		case <-timer.C():
			l.drained()
		case <-stop:
			l.finish()
			return
		}
	}
}

// loop is what only the host's loop touches. A host of the table's has none: there it
// is what the catalog's lock guards.
type loop struct {
	*Host
	rules  rules
	active Active
	// up are the backends that can be used: at most one under active.
	up    []route.Backend
	terms []*term
	// retired are terms of backends that went down with requests in flight.
	retired []*term
	// weights are what an operator has set, known what the cluster says.
	weights, known map[string]int
	// own and router are the two flags; traffic is on if both are.
	own, router Traffic
	timer       alarm     // the end of the host's own drain
	gone        bool      // it has left the table
	reached     []reached // published with every admission, so it is never changed in place
}

// alarm is what a loop needs of a [clock.Timer].
type alarm interface {
	Stop() bool
	Reset(d time.Duration) bool
}

// follow ends the term of the active backend before and begins that of the new
// one.
func (l *loop) follow(a Active) {
	if a.Epoch <= l.active.Epoch {
		return
	}
	l.active, l.up = a, nil
	backend := ""
	if a.Backend != nil {
		backend, l.up = a.Backend.Name, []route.Backend{*a.Backend}
	}
	severed := l.settle(errSevered)
	l.shared.log.Info("following the active backend", "host", l.name, "backend", backend, "epoch", a.Epoch, "severed", severed)
}

func (l *loop) obey(c hostCommand) hostAnswer {
	if c.weights != nil {
		l.weights = c.weights
		l.settle(nil)
		l.shared.log.Info("weights changed", "host", l.name, "weights", l.weighing())
		return hostAnswer{}
	}
	if c.router {
		l.router = l.changed(c.traffic)
		return hostAnswer{severed: l.settle(c.cause)}
	}
	l.own = l.changed(c.traffic)
	severed := l.settle(errTrafficOff)
	l.publish()
	return hostAnswer{traffic: l.own, severed: severed}
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

// regroup begins and ends terms as backends come up and go down.
func (l *loop) regroup(c Cluster) {
	up := make([]route.Backend, 0, len(c.Backends))
	known := make(map[string]int, len(c.Backends))
	for _, b := range c.Backends {
		known[b.Name] = b.Weight
		if b.Verdict && b.Healthy {
			up = append(up, b.Backend)
		}
	}
	if slices.Equal(up, l.up) && maps.Equal(known, l.known) {
		return
	}
	l.up, l.known = up, known
	severed := l.settle(errDown)
	l.shared.log.Info("following the healthy backends", "host", l.name, "backends", len(up), "severed", severed)
}

// settle makes terms and admission what the backends and the flags say, and
// returns how many sessions were severed. cause is why, if there were any.
func (l *loop) settle(cause error) (severed int) {
	off := l.own.severs() || l.router.severs()
	draining := !l.own.Enabled || !l.router.Enabled
	severed = l.endTerms(off, cause)
	for _, t := range l.terms {
		if draining {
			t.refuse(errTrafficOff)
		} else {
			t.refuse(nil)
		}
	}
	if !draining {
		l.beginTerms()
	}
	if n := len(l.reached); l.active.Epoch > 0 && (n == 0 || l.reached[n-1].epoch != l.active.Epoch) {
		l.reached = append(slices.Clone(l.reached[max(0, n-maxReached+1):]), reached{l.active.Epoch, severed})
	}
	l.admit(l.admitting(draining))
	return severed
}

// endTerms ends those terms that nothing may be served in any more: all of them
// if off.
func (l *loop) endTerms(off bool, cause error) (severed int) {
	kept := make([]*term, 0, len(l.terms))
	for _, t := range l.terms {
		switch {
		case !off && slices.ContainsFunc(l.up, l.serves(t)):
			kept = append(kept, t)
		case off || !l.balances():
			severed += t.end(cause)
		default:
			severed += t.retire(cause)
			l.retired = append(l.retired, t)
		}
	}
	l.terms = kept
	ended := func(t *term) bool {
		if off {
			severed += t.end(cause)
		}
		return t.claims.len() == 0
	}
	l.retired = slices.DeleteFunc(slices.Clone(l.retired), ended)
	return severed
}

// serves tells whether t is a term of a backend, and of this epoch. A backend
// whose weight alone has changed goes on.
func (l *loop) serves(t *term) func(route.Backend) bool {
	return func(b route.Backend) bool {
		return b.Name == t.backend.Name && b.Address == t.backend.Address && b.Origin == t.backend.Origin && t.epoch == l.active.Epoch
	}
}

// beginTerms begins a term for every backend that has none, and puts them in the
// order of the backends.
func (l *loop) beginTerms() {
	terms := make([]*term, 0, len(l.up))
	for _, b := range l.up {
		i := slices.IndexFunc(l.terms, func(t *term) bool { return t.backend.Name == b.Name })
		if i >= 0 {
			terms = append(terms, l.terms[i])
			continue
		}
		terms = append(terms, beginTerm(b, l.active.Epoch, l.shared.engine.NewSet()))
	}
	l.terms = terms
}

// admitting is the admission that goes with the terms.
func (l *loop) admitting(draining bool) *admission {
	next := &admission{rules: l.rules, active: l.active, terms: l.terms, retired: l.retired, reached: l.reached}
	usable := len(l.terms) > 0
	if l.balances() {
		next.weights = l.weighing()
		members := make([]route.Member, len(l.terms))
		usable = false
		for i, t := range l.terms {
			members[i] = route.Member{Name: t.backend.Name, Weight: next.weights[t.backend.Name]}
			usable = usable || members[i].Weight > 0
		}
		next.chooser = route.NewChooser(members)
	}
	switch {
	case l.gone:
		next.refusal = errNoHost
	case draining:
		next.refusal = errTrafficOff
	case !usable:
		next.refusal = errNoBackend
	}
	return next
}

// weighing are the weights in force. Neither map is changed in place.
func (l *loop) weighing() map[string]int {
	if len(l.weights) == 0 {
		return l.known
	}
	weights := make(map[string]int, len(l.known))
	for name, own := range l.known {
		weights[name] = own
		if set, ok := l.weights[name]; ok {
			weights[name] = set
		}
	}
	return weights
}

// finish severs what is left and waits until no connection is being served.
func (l *loop) finish() {
	h := l.Host
	h.lobby.close()
	h.stop(errShutdown)
	l.up = nil
	if severed := l.endTerms(true, errShutdown); severed > 0 {
		h.shared.log.Info("host stopped", "host", h.name, "severed", severed)
	}
	h.lobby.wait()
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

// leave tells a bridge that is stopping when the last session has ended.
func (s *shared) leave() {
	if s.open.Add(-1) == 0 {
		select {
		case s.emptied <- struct{}{}:
		default:
		}
	}
}

// lobby counts the connections that are being served, until it is closed.
type lobby struct {
	serving sync.WaitGroup
	// entering guards serving.Add against serving.Wait: it is held for reading
	// while a connection enters, never across anything that waits.
	entering sync.RWMutex
	closed   bool
}

// serve starts a goroutine of that name for a connection, or returns false if the
// lobby is closed.
func (l *lobby) serve(connection func()) bool {
	l.entering.RLock()
	defer l.entering.RUnlock()
	if l.closed {
		return false
	}
	l.serving.Go(connection)
	return true
}

// enter is serve for a connection without a goroutine, which leaves by itself.
func (l *lobby) enter() bool {
	l.entering.RLock()
	defer l.entering.RUnlock()
	if l.closed {
		return false
	}
	l.serving.Add(1)
	return true
}

func (l *lobby) leave() { l.serving.Done() }

func (l *lobby) close() {
	l.entering.Lock()
	defer l.entering.Unlock()
	l.closed = true
}

// wait returns when a closed lobby is empty.
func (l *lobby) wait() { l.serving.Wait() }
