package bridge

import (
	"context"
	"iter"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"switchboard/bridge/clock"
	"switchboard/bridge/route"
)

// catalog are the hosts of a bridge by the names that clients ask for: those that it
// was made with, and those of a table, which come and go.
//
//	Lookup ──▶ table ──▶ *route.Host ──▶ hosts ──▶ *Host
//	             ▲                         ▲ first asked for: use
//	follow ──────┴── gone ── settle, take out
//
// There may be a million hosts in the table and a thousand in use. So a host of
// the table's begins to be when it is first asked for, and has no loop of its own: what a
// loop owns is guarded by mu. What is done under it is short and waits for nothing,
// like the work of a loop between two selects.
type catalog struct {
	shared *shared
	// configured are the hosts that the bridge was made with, ordered.
	configured []*Host
	routes     []*route.Host
	options    route.Options
	// table has both, and a configured host goes before one of the table's.
	table atomic.Pointer[route.Table]
	// followed: there was a table.
	followed atomic.Bool
	// hosts are those in use, *route.Host -> *Host: by what the table says of them, so
	// that a lookup ends with comparing a pointer.
	hosts sync.Map

	// stopping and lobby are those of all hosts of the table.
	stopping context.Context
	stop     context.CancelCauseFunc
	lobby    lobby

	mu   sync.Mutex
	used map[string]*tabled
	// begun are those in use since follow began to look at a new table.
	begun  []*tabled
	router Traffic
	// flags are those of hosts, by name, that an operator has set. They outlive a host:
	// one that comes back to the table is still off.
	flags map[string]Traffic
	// leaving are hosts that left the table with requests in flight.
	leaving []*tabled
	// drains are the hosts whose flag's drain has an end.
	drains map[*tabled]time.Time
	timer  clock.Timer
	// told is when the table was last announced, and untold whether it has changed since.
	told   time.Time
	untold bool
}

// tabled is a host of the table's that is in use.
type tabled struct {
	loop
	catalog *catalog
	route   *route.Host
}

// announceEvery is how often TABLE_CHANGED is told at most: the journal is for what
// people read, and a table may change a hundred times a second.
const announceEvery = time.Second

func newCatalog(s *shared, depth int, hosts []*Host, router Traffic, flags map[string]Traffic) (*catalog, error) {
	c := &catalog{
		shared: s, configured: hosts, options: route.Options{Depth: depth}, router: router, flags: make(map[string]Traffic),
		used: make(map[string]*tabled), drains: make(map[*tabled]time.Time),
	}
	maps.Copy(c.flags, flags)
	c.stopping, c.stop = context.WithCancelCause(context.Background())
	for _, h := range hosts {
		delete(c.flags, h.name)
		r := &route.Host{Name: h.name, Policy: h.options.Policy, Choose: h.options.Choose, StickyBy: h.options.StickyBy}
		c.routes = append(c.routes, r)
		c.hosts.Store(r, h)
	}
	table, err := route.NewTable(c.options, c.routes...)
	c.table.Store(table)
	return c, err
}

// lookup returns the host that a client asks for by name, nil if there is none.
func (c *catalog) lookup(key []byte) *Host { return c.host(c.table.Load().Lookup(key)) }

// find returns the host of that name itself, nil if there is none.
func (c *catalog) find(name string) *Host { return c.host(c.table.Load().Get(name)) }

func (c *catalog) host(r *route.Host) *Host {
	if r == nil {
		return nil
	}
	if h, ok := c.hosts.Load(r); ok {
		return h.(*Host)
	}
	return c.use(r.Name)
}

// use returns the table's host of that name, which begins to be if it is not in
// use; nil if it has left meanwhile.
func (c *catalog) use(name string) *Host {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.table.Load().Get(name)
	if r == nil {
		return nil
	}
	if h, ok := c.hosts.Load(r); ok {
		return h.(*Host)
	}
	t := c.begin(r)
	c.used[name] = t
	c.begun = append(c.begun, t)
	c.hosts.Store(r, t.Host)
	return t.Host
}

func (c *catalog) begin(r *route.Host) *tabled {
	flag, set := c.flags[r.Name]
	if !set {
		flag.Enabled = true
	}
	h := newHost(HostOptions{Name: r.Name, Policy: r.Policy, Traffic: flag}, c.shared)
	t := &tabled{catalog: c, route: r}
	h.stopping, h.lobby, h.table = c.stopping, &c.lobby, t
	t.loop = loop{Host: h, own: h.options.Traffic, router: c.router, timer: t}
	if c.stopping.Err() != nil {
		h.admit(&admission{refusal: errShutdown})
		return t
	}
	t.reroute()
	if !flag.DrainUntil.IsZero() {
		t.Reset(flag.DrainUntil.Sub(c.shared.clock.Now()))
	}
	return t
}

// follow makes table the one that clients are looked up in, and the hosts in use what
// it says.
func (c *catalog) follow(table *route.Table) {
	next, err := table.Asked(c.options)
	if err == nil {
		next, err = next.With(c.routes, nil)
	}
	if err != nil {
		// Neither can be: options and names have been good for a table before.
		c.shared.log.Error("following the table", "cause", err)
		return
	}
	c.mu.Lock()
	c.begun = nil
	c.mu.Unlock()
	// A table may be all new. Who asks for a host does not wait while it is looked at.
	var changed []*route.Host
	for r := range c.table.Load().Gone(next) {
		if _, inUse := c.hosts.Load(r); inUse {
			changed = append(changed, r)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.begun {
		changed = append(changed, t.route)
	}
	c.table.Store(next)
	c.followed.Store(true)
	c.sweep()
	severed := 0
	for _, r := range changed {
		severed += c.replace(r, next.Get(r.Name))
	}
	if severed > 0 {
		c.shared.log.Info("hosts have changed in the table", "hosts", len(changed), "severed", severed)
	}
	c.untold = true
	c.rearm()
}

// replace makes a host in use what it has become, next, which is nil if it has left
// the table, and returns how many sessions were severed.
func (c *catalog) replace(last, next *route.Host) int {
	t := c.used[last.Name]
	if t == nil || t.route != last || last == next {
		return 0
	}
	c.hosts.Delete(last)
	if _, configured := c.hosts.Load(next); next != nil && !configured && next.Policy == last.Policy {
		t.route = next
		c.hosts.Store(next, t.Host)
		return t.reroute()
	}
	// Under another policy it is another host to whoever holds this one.
	delete(c.used, last.Name)
	delete(c.drains, t)
	severed := t.leave()
	if len(t.retired) > 0 {
		c.leaving = append(c.leaving, t)
	}
	return severed
}

// sweep forgets those who have left and have nothing in flight any more.
func (c *catalog) sweep() {
	c.leaving = slices.DeleteFunc(c.leaving, func(t *tabled) bool { return t.Counts().Sessions == 0 })
}

// reroute makes terms and rules what the table says of the host.
func (t *tabled) reroute() int {
	r := t.route
	t.rules = rules{choose: r.Choose, stickyBy: r.StickyBy, hold: r.Hold}
	t.known = make(map[string]int, len(r.Backends))
	for _, b := range r.Backends {
		t.known[b.Name] = b.Weight
	}
	if t.balances() {
		t.up = r.Backends
		return t.settle(errLeft)
	}
	t.up = nil
	// Routers of one table agree without a word: it is the first that has a weight.
	if i := slices.IndexFunc(r.Backends, func(b route.Backend) bool { return b.Weight > 0 }); i >= 0 {
		t.up = r.Backends[i : i+1]
	}
	was, is := t.active.Backend, (*route.Backend)(nil)
	if len(t.up) > 0 {
		is = &t.up[0]
	}
	if t.active.Epoch == 0 || (was == nil) != (is == nil) || was != nil && (was.Name != is.Name || was.Address != is.Address) {
		t.active = Active{Host: t.name, Backend: is, Epoch: t.active.Epoch + 1, Since: t.shared.clock.Now(), Reason: "table"}
		t.shared.log.Info("following the active backend", "host", t.name, "epoch", t.active.Epoch)
	}
	return t.settle(errSevered)
}

// leave ends what can be ended of a host that has left the table. Requests in flight
// come to their end.
func (t *tabled) leave() int {
	t.up, t.gone = nil, true
	severed := 0
	for _, term := range t.terms {
		severed += term.retire(errLeft)
	}
	t.retired, t.terms = append(slices.Clone(t.retired), t.terms...), nil
	t.admit(&admission{rules: t.rules, retired: t.retired, refusal: errNoHost})
	return severed
}

// obey makes a change of a host of the table's.
func (c *catalog) obey(t *tabled, command hostCommand) (hostAnswer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.stopping.Err() != nil:
		return hostAnswer{}, ErrStopped
	case t.gone:
		return hostAnswer{}, ErrUnknownHost
	}
	answer := t.loop.obey(command)
	c.flags[t.name] = t.own
	return answer, nil
}

// tell makes a change of the router's flag in every host of the table's.
func (c *catalog) tell(change TrafficChange, cause error) (severed int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.router = change.apply("", c.shared.clock.Now())
	for t := range c.all() {
		severed += t.loop.obey(hostCommand{traffic: change, router: true, cause: cause}).severed
	}
	return severed
}

// all are the hosts of the table's that may have sessions. mu is held meanwhile.
func (c *catalog) all() iter.Seq[*tabled] {
	return func(yield func(*tabled) bool) {
		for _, t := range c.used {
			if !yield(t) {
				return
			}
		}
		for _, t := range c.leaving {
			if !yield(t) {
				return
			}
		}
	}
}

// everyone is every host that may have sessions: first those the bridge was made with.
func (c *catalog) everyone() []*Host {
	c.mu.Lock()
	defer c.mu.Unlock()
	hosts := slices.Clone(c.configured)
	for t := range c.all() {
		hosts = append(hosts, t.Host)
	}
	return hosts
}

// usedHost returns a host that is in use, nil if it is not.
func (c *catalog) usedHost(name string) *Host {
	if h, ok := c.hosts.Load(c.table.Load().Get(name)); ok {
		return h.(*Host)
	}
	return nil
}

// flag is that of a host that is in use, or would be.
func (c *catalog) flag(name string) Traffic {
	c.mu.Lock()
	defer c.mu.Unlock()
	if flag, set := c.flags[name]; set {
		return flag
	}
	return Traffic{Host: name, Enabled: true}
}

// inUse are the names of the table's hosts that are in use, in order.
func (c *catalog) inUse() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Sorted(maps.Keys(c.used))
}

// set are the flags of the table's hosts that an operator has changed.
func (c *catalog) set() map[string]Traffic {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.flags)
}

// finish severs what is left and returns when no connection is being served.
func (c *catalog) finish() {
	c.lobby.close()
	c.mu.Lock()
	c.stop(errShutdown)
	severed := 0
	for t := range c.all() {
		t.up = nil
		severed += t.endTerms(true, errShutdown)
	}
	c.mu.Unlock()
	if severed > 0 {
		c.shared.log.Info("hosts of the table stopped", "severed", severed)
	}
	c.lobby.wait()
}

// Stop and Reset are what a [tabled] has for a timer: the catalog's is for all.
func (t *tabled) Stop() bool {
	_, running := t.catalog.drains[t]
	delete(t.catalog.drains, t)
	return running
}

func (t *tabled) Reset(d time.Duration) bool {
	running := t.Stop()
	t.catalog.drains[t] = t.shared.clock.Now().Add(d)
	t.catalog.rearm()
	return running
}

// rearm sets the timer for what must be done next: the end of a drain, or to tell of
// a change. The bridge's loop waits for it, and makes it.
func (c *catalog) rearm() {
	if c.timer == nil {
		return
	}
	next := time.Time{}
	due := func(at time.Time) {
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	for _, at := range c.drains {
		due(at)
	}
	if c.untold {
		due(c.told.Add(announceEvery))
	}
	if !next.IsZero() {
		c.timer.Reset(max(next.Sub(c.shared.clock.Now()), 0))
	}
}

// run gives the catalog its timer; the bridge's loop calls due when that is over.
func (c *catalog) run() clock.Timer {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.timer = c.shared.clock.NewTimer(time.Hour)
	c.timer.Stop()
	c.rearm()
	return c.timer
}

// due does what the timer was set for.
func (c *catalog) due() {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.shared.clock.Now()
	for t, at := range c.drains {
		if at.After(now) {
			continue
		}
		delete(c.drains, t)
		t.drained()
		c.flags[t.name] = t.own
	}
	if c.untold && now.Sub(c.told) >= announceEvery {
		c.told, c.untold = now, false
		c.shared.journal.Append(Event{Kind: TableChanged, At: now, Table: &TableChange{Hosts: c.table.Load().Len() - len(c.routes)}})
	}
	c.sweep()
	c.rearm()
}
