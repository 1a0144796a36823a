package runner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"switchboard/api"
	"switchboard/bridge"
	"switchboard/bridge/feed"
	"switchboard/bridge/relay"
	"switchboard/bridge/resolve"
	"switchboard/bridge/route"
	"switchboard/bridge/web"
	"switchboard/bridge/web/h1"
	"switchboard/monitor"
	"switchboard/runner/process"
	"switchboard/runner/state"
)

// History is how many events a router remembers for [Router.Events].
const History = 1024

// Router is a whole router as one ifrit process. Make one with [New]; everything
// but Run may be called from any goroutine, before, during and after Run.
type Router struct {
	config    Config
	engine    relay.Engine
	resolver  *resolve.Resolver
	state     *state.Dir // nil: nothing is kept
	bridge    *bridge.Bridge
	hosts     map[string]*host
	ordered   []*host
	listeners map[string]*bridge.Listener
	upstream  *web.Upstream
	servers   []*web.Server
	members   []process.Member
	scribes   []process.Runner
	journal   *bridge.Journal
	// ended counts connections by the reason of their end; reasons are few, and each gets
	// its counter with the first.
	ended sync.Map // bridge.Reason -> *atomic.Int64
	// streams is how many GET /events the API may have beyond those of every router.
	streams int
	// binds are what the configuration has to listen on, and addresses the machine's.
	binds     []bind
	addresses []netip.Addr
	api       *api.API
	apiServer *process.HTTP
	health    *process.HTTP

	// began is when the group had started, zero before; stopping is set before any
	// member is told to stop.
	began    atomic.Pointer[time.Time]
	stopping atomic.Bool

	// saving serialises saves; lastActive belongs to them.
	saving     sync.Mutex
	lastActive map[string]state.Active
}

// host is one host's parts.
type host struct {
	name    string
	policy  route.Policy
	monitor *monitor.Monitor
	bridge  *bridge.Host
	active  feed.Feed[bridge.Active]
	cluster feed.Feed[bridge.Cluster]
	// verdicts is how long readiness waits for first verdicts.
	verdicts time.Duration

	// backends are the names of all. set are the weights that operators have set, by
	// name; who changes them holds the one place in weighing.
	backends []string
	set      atomic.Pointer[map[string]int]
	weighing chan struct{}
}

// weights are those that operators have set.
func (h *host) weights() map[string]int { return *h.set.Load() }

// New makes a router. All that is wrong with the configuration comes back at once
// (see [Config.Validate]) and then nothing has been opened. New opens the state
// directory, if there is one, and takes what it holds, and reads certificates; it
// opens nothing else and starts nothing. Run closes the directory; Close does if Run is never called.
func New(c Config) (*Router, error) {
	c, err := c.complete()
	if err != nil {
		return nil, err
	}
	files, err := descriptors()
	if err != nil {
		return nil, err
	}
	more := c.API.moreStreams(files)
	limit, err := sessionLimit(files, more)
	if err != nil {
		return nil, err
	}
	r := &Router{
		config:    c,
		streams:   more,
		engine:    relay.New(relay.Options{Dial: c.Dial}),
		resolver:  resolve.New(resolve.Options{Clock: c.Clock, Log: c.Log}),
		hosts:     make(map[string]*host),
		listeners: make(map[string]*bridge.Listener),
		journal:   feed.NewRing[bridge.Event](History),
		binds:     c.binds(),
		addresses: localAddresses(),

		lastActive: make(map[string]state.Active),
	}
	kept, err := r.restore()
	if err != nil {
		return nil, err
	}
	if err := r.build(kept, limit); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// build makes the parts and puts them in order: what is started first is stopped
// last, so operators can see and steer to the end.
func (r *Router) build(kept kept, limit int) error {
	c := r.config
	options := bridge.Options{
		Engine: r.engine, Resolve: r.resolver.Addresses, WildcardDepth: c.WildcardDepth, Traffic: kept.traffic(""), Drain: c.Drain,
		Hints: r.hint, Records: r.record, Opened: c.Opened, Journal: r.journal, Log: c.Log, Clock: c.Clock,
	}
	if c.Table != nil {
		options.Tables, options.TableTraffic = c.Table.Tables, kept.Hosts
	}
	requests := make(map[string]web.HostOptions)
	for _, hc := range c.Hosts {
		h := &host{name: hc.Name, policy: hc.Policy, verdicts: time.Second, weighing: make(chan struct{}, 1)}
		weights := kept.Weights[hc.Name]
		h.set.Store(&weights)
		r.hosts[hc.Name] = h
		r.ordered = append(r.ordered, h)
		if hc.Check != nil {
			h.verdicts = max(h.verdicts, hc.Check.Timeout)
		}
		ho := hc.bridgeOptions(kept.traffic(hc.Name), weights)
		h.backends = ho.Backends
		// For as long as the router lives.
		if hc.balances() {
			ho.Cluster, _ = h.cluster.Subscribe()
		} else {
			ho.Active, _ = h.active.Subscribe()
		}
		options.Hosts = append(options.Hosts, ho)
		requests[hc.Name] = hc.webOptions()
	}
	var err error
	if r.bridge, err = bridge.New(options); err != nil {
		return fmt.Errorf("making the bridge: %w", err)
	}
	r.upstream = web.NewUpstream(web.UpstreamOptions{Bridge: r.bridge, Hosts: requests})
	for i, hc := range c.Hosts {
		h := r.ordered[i]
		h.bridge = r.bridge.Host(hc.Name)
		if h.monitor, err = r.newMonitor(hc, h, kept.Pins[hc.Name]); err != nil {
			return fmt.Errorf("host %q: %w", hc.Name, err)
		}
	}
	o := api.Options{
		Sources: r.sources(), Commands: r, Stats: c.Stats, Streams: cmp.Or(c.API.Streams, streams+r.streams),
		Username: c.API.Username, Password: c.API.Password, Log: c.Log, Clock: c.Clock,
	}
	if c.Metrics != nil {
		o.Metrics = c.Metrics(o.Sources)
	}
	if r.api, err = api.New(o); err != nil {
		return fmt.Errorf("making the API: %w", err)
	}
	return r.compose(limit)
}

// compose fills the ordered group, and the scribes: those who write down what the
// group does. They are no members, since a second signal goes to all members at
// once, and there is something to write until the last of them has ended.
func (r *Router) compose(limit int) error {
	c := r.config
	add := func(name string, runner process.Runner) {
		r.members = append(r.members, process.Member{Name: name, Runner: runner})
	}
	if c.Access != nil {
		r.scribes = append(r.scribes, c.Access)
	}
	if r.state != nil {
		r.scribes = append(r.scribes, keeper{r})
	}
	if c.API.Bind != "" {
		r.apiServer = &process.HTTP{Bind: c.API.Bind, Handler: r.api.Handler(), MaxConns: apiConns + r.streams, Log: c.Log}
		add("api", r.apiServer)
	}
	if c.Health != "" {
		r.health = &process.HTTP{Bind: c.Health, Handler: http.HandlerFunc(r.serveHealth), MaxConns: healthConns, Log: c.Log}
		add("health", r.health)
	}
	for _, h := range r.ordered {
		add("monitor of "+h.name, h.monitor)
	}
	fronts, err := r.fronts(add)
	if err != nil {
		return err
	}
	add("bridge", r.bridge)
	budget := bridge.NewBudget(limit)
	for i, lc := range c.Listeners {
		l := bridge.NewListener(bridge.ListenerOptions{
			Name: lc.Name, Bind: lc.Bind, To: fronts[i], Listen: r.listen(lc.Protocol),
			Proxy:    bridge.ProxyAccept{Version: lc.ProxyProtocol, Trusted: lc.TrustedProxies},
			Sessions: bridge.NewBudget(lc.MaxSessions), Router: budget,
			Log: c.Log, Clock: c.Clock,
		})
		r.listeners[lc.Name] = l
		add("listener "+lc.Name, l)
	}
	return nil
}

// fronts makes what takes the connections of each listener, and adds what HTTP
// needs to the group: below the bridge, so that it is there for as long as
// requests are.
func (r *Router) fronts(add func(name string, runner process.Runner)) (fronts []bridge.Handler, err error) {
	c := r.config
	var sniffer *bridge.Sniffer
	if slices.ContainsFunc(c.Listeners, func(l Listener) bool { return l.Protocol.web() }) {
		add("upstream", r.upstream)
	}
	for _, lc := range c.Listeners {
		switch lc.Protocol {
		case TCP:
			fronts = append(fronts, r.hosts[lc.Host].bridge)
		case TLS:
			if sniffer == nil {
				sniffer = bridge.NewSniffer(r.bridge)
			}
			fronts = append(fronts, sniffer)
		default:
			server, err := r.newServer(lc, add)
			if err != nil {
				return nil, fmt.Errorf("listener %q: %w", lc.Name, err)
			}
			fronts = append(fronts, server)
		}
	}
	return fronts, nil
}

// newServer makes the front of a listener of protocol http or https.
func (r *Router) newServer(lc Listener, add func(name string, runner process.Runner)) (*web.Server, error) {
	o := web.Options{
		Bridge: r.bridge, Upstream: r.upstream, Trusted: lc.TrustedProxies,
		Head: lc.Timeouts.Head, Idle: lc.Timeouts.Idle, Body: lc.Timeouts.Body,
		Limits:  h1.Limits{Head: lc.Limits.Head, Target: lc.Limits.Target, Fields: lc.Limits.Fields},
		MaxBody: lc.Limits.Body, Records: r.requests(), Log: r.config.Log,
	}
	if lc.Protocol == HTTPS {
		files := make([]web.CertificateFile, len(lc.Certificates))
		for i, c := range lc.Certificates {
			files[i] = web.CertificateFile{Cert: c.Cert, Key: c.Key}
		}
		certificates, err := web.NewCertificates(files, r.config.Log)
		if err != nil {
			return nil, err
		}
		o.TLS = certificates.Config()
		add("certificates of "+lc.Name, certificates)
	}
	server, err := web.New(o)
	if err != nil {
		return nil, err
	}
	r.servers = append(r.servers, server)
	add("server of "+lc.Name, server)
	return server, nil
}

// reserved is how many descriptors are kept for the API, probes and the rest;
// apiConns and healthConns are what strangers can take of them, and streams how many
// of apiConns may be GET /events, so that there is always one left to steer by.
const (
	reserved    = 64
	apiConns    = 24
	healthConns = 8
	streams     = 16
	// watched is how many files may be open before some are kept for more streams where
	// nobody says how many there are to be: one in 64 of those beyond it, until there are
	// api.MaxStreams.
	watched = 4096
)

// moreStreams is how many streams there may be beyond those among apiConns.
func (a API) moreStreams(files int) int {
	if a.Streams > 0 {
		return max(a.Streams-streams, 0)
	}
	return min(max(files-watched, 0)/64, api.MaxStreams-streams)
}

// sessionLimit is how many sessions the descriptors allow beside so many more streams: two
// each.
func sessionLimit(files, more int) (int, error) {
	limit := (files - reserved - more) / 2
	if limit < 1 {
		return 0, fmt.Errorf("only %d files may be open, and %d are needed before the first session; raise RLIMIT_NOFILE (ulimit -n)", files, reserved+more+2)
	}
	return limit, nil
}

// descriptors is how many files may be open.
func descriptors() (int, error) {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return 0, fmt.Errorf("asking how many files may be open: %w", err)
	}
	const plenty = 1 << 30 // more than any kernel's limit on open files
	return int(min(files.Cur, plenty)), nil
}

// Run starts the router and is ready when every listener accepts. On the first
// signal it turns not ready, accepts on for Config.Delay, stops accepting, lets
// open sessions go on for up to Config.Drain, severs the rest, stops the monitors
// and at last the API, and returns nil. A second signal means now. If a part ends
// on its own, so does the router, with an error that names it. Run may be called
// once.
func (r *Router) Run(signals <-chan os.Signal, ready chan<- struct{}) error {
	var scribes []scribing
	finish := func(errs ...error) error {
		r.stopping.Store(true)
		for _, s := range scribes {
			s.signals <- os.Interrupt
			errs = append(errs, <-s.ended)
		}
		return errors.Join(append(errs, r.Close())...)
	}
	for _, scribe := range r.scribes {
		s := scribing{signals: make(chan os.Signal, 1), ended: make(chan error, 1)}
		started := make(chan struct{})
		go func() { s.ended <- scribe.Run(s.signals, started) }()
		select {
		case <-started:
			scribes = append(scribes, s)
		case err := <-s.ended:
			return finish(err)
		}
	}
	group := process.Ordered(r.members...)
	// Two slots: the group hears at most two signals, and this loop must not wait
	// for one that has ended.
	inner, started, ended := make(chan os.Signal, 2), make(chan struct{}), make(chan error, 1)
	go func() { ended <- group.Run(inner, started) }()
	return finish(r.steer(signals, inner, ready, started, ended))
}

// scribing is a scribe that runs. Both have one slot: it is told once, and ends once,
// whether or not somebody listens.
type scribing struct {
	signals chan os.Signal
	ended   chan error
}

// steer passes signals on, the first one late.
func (r *Router) steer(signals <-chan os.Signal, inner chan<- os.Signal, ready chan<- struct{}, started <-chan struct{}, ended <-chan error) error {
	var (
		delay <-chan time.Time
		first os.Signal
		heard int
	)
	for {
		select {
		case <-started:
			started = nil
			now := r.config.Clock.Now()
			r.began.Store(&now)
			close(ready)
			r.config.Log.Info("ready", "router", r.config.Name, "api", text(r.APIAddr()), "health", text(r.HealthAddr()))
		case s := <-signals:
			heard++
			r.stopping.Store(true)
			r.config.Log.Info("stopping", "signal", s.String(), "heard", heard)
			if first == nil {
				first = s
				if started != nil || r.config.Delay <= 0 {
					inner <- s
					continue
				}
				timer := r.config.Clock.NewTimer(r.config.Delay)
				defer timer.Stop()
				delay = timer.C()
				continue
			}
			if delay != nil {
				delay = nil
				inner <- first
			}
			if heard == 2 {
				inner <- s
			}
		case <-delay:
			delay = nil
			inner <- first
		case err := <-ended:
			return err
		}
	}
}

// Close gives back what New opened, for a router that is not run. Run does it
// itself. Calling it again does nothing.
func (r *Router) Close() error {
	errs := []error{r.engine.Close()}
	r.resolver.Close()
	if r.state != nil {
		errs = append(errs, r.state.Close())
	}
	return errors.Join(errs...)
}

// Addr returns the address that a listener has bound, nil if there is no such
// listener or it has none yet.
func (r *Router) Addr(listener string) net.Addr {
	if l := r.listeners[listener]; l != nil {
		return l.Addr()
	}
	return nil
}

// APIAddr returns the address that the API has bound, nil if it has none (yet).
func (r *Router) APIAddr() net.Addr {
	if r.apiServer == nil {
		return nil
	}
	return r.apiServer.Addr()
}

func text(a net.Addr) string {
	if a == nil {
		return ""
	}
	return a.String()
}

// HealthAddr returns the address that the health listener has bound, nil if it has
// none (yet).
func (r *Router) HealthAddr() net.Addr {
	if r.health == nil {
		return nil
	}
	return r.health.Addr()
}

// Handler is the API, for a server of the embedder's own. It asks for the
// configured user name and password, if any.
func (r *Router) Handler() http.Handler { return r.api.Handler() }

// Cluster is the router's merged state, as GET /cluster answers it.
func (r *Router) Cluster() api.Cluster { return r.sources().Cluster() }

// Ready returns nil if the router is ready, else why it is not: it is not started
// or is stopping, traffic is off, or there is no table where one is
// configured, or a host has no first verdict yet (which is waited for as long as its check
// may take, at least a second).
func (r *Router) Ready() error {
	began := r.began.Load()
	switch {
	case r.stopping.Load():
		return errors.New("stopping")
	case began == nil:
		return errors.New("starting")
	}
	if t, _ := r.bridge.Traffic().Get(); !t.Enabled {
		return errors.New("traffic is off")
	}
	if r.config.Table != nil && !r.tableState().Loaded {
		return errors.New("there is no table yet, neither in Redis nor on disk")
	}
	for _, h := range r.ordered {
		select {
		case <-h.monitor.FirstVerdicts():
		default:
			if r.config.Clock.Now().Sub(*began) < h.verdicts {
				return fmt.Errorf("host %q: backends have not been checked yet", h.name)
			}
		}
	}
	return nil
}

func (r *Router) serveHealth(w http.ResponseWriter, _ *http.Request) {
	if err := r.Ready(); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// sources is the state that the API merges.
func (r *Router) sources() api.Sources {
	s := api.Sources{Name: r.config.Name, Traffic: r.bridge.Traffic(), Sessions: r.bridge.SessionCount, Ready: r.Ready, Table: r.tableSource(),
		Ended: r.endings, Journal: r.journal}
	for _, h := range r.ordered {
		s.Hosts = append(s.Hosts, api.HostSource{
			Name: h.name, Policy: h.policy, Cluster: h.cluster.Get, Traffic: h.bridge.Traffic().Get, Counts: h.bridge.Counts, CountInto: h.bridge.CountInto,
			Weights: h.weights, HTTP: func() *api.HTTP { return httpView(r.upstream.Counters(h.bridge)) },
		})
	}
	if len(r.servers) > 0 {
		s.Refusals = r.refusals
	}
	if r.config.Access != nil {
		s.AccessLog = r.accessView
	}
	return s
}

// endings are how many connections have ended, by reason.
func (r *Router) endings() map[string]int64 {
	counts := make(map[string]int64)
	r.ended.Range(func(reason, n any) bool {
		counts[string(reason.(bridge.Reason))] = n.(*atomic.Int64).Load()
		return true
	})
	return counts
}

// refusals are those of all listeners.
func (r *Router) refusals() map[string]int64 {
	sum := make(map[string]int64)
	for _, server := range r.servers {
		for reason, n := range server.Refusals() {
			sum[reason] += n
		}
	}
	return sum
}

// httpView is what the API shows of a host's counters, nil if it was never asked.
func httpView(c web.Counters) *api.HTTP {
	if c.Requests == 0 && len(c.Refusals) == 0 {
		return nil
	}
	v := &api.HTTP{
		Requests: c.Requests, Classes: make(map[string]int64), BytesFromClients: c.FromClients, BytesToClients: c.ToClients,
		Retries: c.Retries, Refusals: c.Refusals,
	}
	for class := 1; class < len(c.Classes); class++ {
		v.Classes[fmt.Sprintf("%dxx", class)] = c.Classes[class]
	}
	v.Latency.SumMs = milliseconds(c.Took)
	bounds, sum := web.Buckets(), int64(0)
	for i, n := range c.Latency {
		sum += n
		b := api.Bucket{Count: sum}
		if i < len(bounds) {
			bound := milliseconds(bounds[i])
			b.LeMs = &bound
		}
		v.Latency.Buckets = append(v.Latency.Buckets, b)
	}
	return v
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// hint passes on what the data path has seen. A bridge that is being built has no
// monitors yet, and no sessions. A host of the table's is not monitored.
func (r *Router) hint(h bridge.Hint) {
	if host, monitored := r.hosts[h.Host]; monitored {
		host.monitor.Hint(h)
	}
}

// listen is that of the engine that suits the protocol, or adapts an injected one.
func (r *Router) listen(p Protocol) func(ctx context.Context, address string) (relay.Listener, error) {
	engine := r.engine
	if p.web() {
		engine = engine.ForRequests()
	}
	if r.config.Listen == nil {
		return engine.Listen
	}
	return func(ctx context.Context, address string) (relay.Listener, error) {
		l, err := r.config.Listen(ctx, "tcp", address)
		if err != nil {
			return nil, err
		}
		return engine.AdoptListener(l), nil
	}
}
