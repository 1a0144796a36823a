package web

import (
	"os"
	"sync"
	"time"

	"switchboard/bridge"
	"switchboard/bridge/relay"
	"switchboard/bridge/web/h1"
)

// Defaults of [HostOptions].
const (
	DefaultHeadWait = 60 * time.Second
	DefaultPool     = 100
	DefaultPoolIdle = 60 * time.Second
	DefaultRetries  = 1
)

// Version is what backends speak.
type Version string

// The versions.
const (
	// HTTP1 is HTTP/1.1.
	HTTP1 Version = "http/1.1"
	// H2C is HTTP/2 over cleartext by prior knowledge (RFC 9113, section 3.3), as gRPC
	// servers speak it.
	H2C Version = "h2c"
)

// HostOptions say how requests of one host go to its backends.
type HostOptions struct {
	// Version is what the backends speak; "": HTTP1.
	Version Version
	// HeadTimeout is how long a backend may take to begin its answer once it has the
	// request; 0: DefaultHeadWait. TotalTimeout bounds a request from its head to the
	// last byte of its answer; 0: it does not.
	HeadTimeout, TotalTimeout time.Duration
	// Silence is how long a backend may be silent within an answer; 0: for ever.
	Silence time.Duration
	// Pool is how many idle connections to each backend are kept, and PoolIdle how
	// long; 0: the defaults. Negative Pool: none.
	Pool     int
	PoolIdle time.Duration
	// Retries are how many more attempts a request may have, beyond the first; 0:
	// DefaultRetries, negative: none.
	Retries int
	// Limits bound the heads of answers.
	Limits h1.Limits
}

func (o HostOptions) complete() HostOptions {
	if o.Version == "" {
		o.Version = HTTP1
	}
	o.HeadTimeout = orDefault(o.HeadTimeout, DefaultHeadWait)
	o.PoolIdle = orDefault(o.PoolIdle, DefaultPoolIdle)
	if o.Pool == 0 {
		o.Pool = DefaultPool
	}
	if o.Retries == 0 {
		o.Retries = DefaultRetries
	}
	return o
}

// UpstreamOptions describe an upstream to [NewUpstream].
type UpstreamOptions struct {
	// Bridge has the hosts. Required.
	Bridge *bridge.Bridge
	// Hosts say more about hosts, by name; those without an entry have the defaults.
	Hosts map[string]HostOptions
}

// Upstream is the connections to backends and what requests came to, shared by the
// servers of a router. Pools are keyed by address: hosts that share a backend share
// its connections. Make one with [NewUpstream]; everything exported may be called from
// any goroutine.
type Upstream struct {
	o      UpstreamOptions
	start  time.Time
	h2     *http2Back
	hosts  sync.Map // *bridge.Host -> *target
	mu     sync.RWMutex
	pools  map[string]*pool
	closed bool
}

// target is what the upstream knows of one host.
type target struct {
	options HostOptions
	stats   *stats
}

// NewUpstream returns an upstream without a connection.
func NewUpstream(o UpstreamOptions) *Upstream {
	u := &Upstream{o: o, start: time.Now(), pools: map[string]*pool{}}
	longest := h1.Limits{}.MaxHead()
	for _, h := range o.Hosts {
		longest = max(longest, h.Limits.MaxHead())
	}
	u.h2 = newHTTP2Back(o.Bridge, longest)
	return u
}

// Counters are what the requests of a host came to.
func (u *Upstream) Counters(h *bridge.Host) Counters { return u.target(h).stats.snapshot() }

// Idle is how many idle connections are kept, to all backends.
func (u *Upstream) Idle() int {
	u.mu.RLock()
	defer u.mu.RUnlock()
	n := 0
	for _, p := range u.pools {
		n += p.len()
	}
	return n
}

// pruneEvery is how often idle connections are looked at.
const pruneEvery = time.Second

// Run closes idle connections that are too old, or that backends have closed, until a
// signal comes. Then it closes all.
func (u *Upstream) Run(signals <-chan os.Signal, ready chan<- struct{}) error {
	ticks := time.NewTicker(pruneEvery)
	defer ticks.Stop()
	close(ready)
	for {
		select {
		case <-ticks.C:
			u.prune()
		case <-signals:
			u.close()
			return nil
		}
	}
}

func (u *Upstream) target(h *bridge.Host) *target {
	if t, ok := u.hosts.Load(h); ok {
		return t.(*target)
	}
	t, _ := u.hosts.LoadOrStore(h, &target{options: u.o.Hosts[h.Name()].complete(), stats: newStats()})
	return t.(*target)
}

// pool returns that of an address.
func (u *Upstream) pool(address string) *pool {
	u.mu.RLock()
	p := u.pools[address]
	u.mu.RUnlock()
	if p != nil {
		return p
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if p = u.pools[address]; p == nil {
		p = &pool{closed: u.closed}
		u.pools[address] = p
	}
	return p
}

// prune closes what is old or broken, and forgets the pools that are empty, and the
// hosts that have left the table.
func (u *Upstream) prune() {
	u.hosts.Range(func(h, _ any) bool {
		if h.(*bridge.Host).Gone() {
			u.hosts.Delete(h)
		}
		return true
	})
	u.mu.Lock()
	defer u.mu.Unlock()
	for address, p := range u.pools {
		if p.prune(time.Since(u.start)) {
			delete(u.pools, address)
		}
	}
}

// shed closes all idle connections, which are worth less than the one that there was
// no descriptor for, and tells whether there were any.
func (u *Upstream) shed() bool {
	u.mu.RLock()
	defer u.mu.RUnlock()
	n := 0
	for _, p := range u.pools {
		n += p.empty()
	}
	return n > 0
}

func (u *Upstream) close() {
	u.mu.Lock()
	u.closed = true
	for _, p := range u.pools {
		p.close()
	}
	u.mu.Unlock()
	u.h2.close()
}

// upstream is one connection to a backend. A request has it alone.
type upstream struct {
	conn   relay.Conn
	pool   *pool
	reused bool
	until  time.Duration // since the upstream's start, while it is idle
}

// connect returns a connection to the claimed backend: an idle one, unless fresh is
// wanted or clients are announced one by one, or a new one.
func (u *Upstream) connect(claim *bridge.Claim, proxied, fresh bool) (*upstream, error) {
	p := u.pool(claim.Address())
	if !fresh && !proxied {
		if up := p.take(); up != nil {
			return up, nil
		}
	}
	conn, err := claim.Dial()
	if bridge.Shortage(err) && u.shed() {
		conn, err = claim.Dial()
	}
	if err != nil {
		return nil, err
	}
	if proxied {
		p = nil
	}
	return &upstream{conn: conn, pool: p}, nil
}

// keep puts a connection whose answer was read to the end back into its pool, or
// closes it.
func (u *Upstream) keep(up *upstream, o *HostOptions) {
	if up.pool == nil || !up.pool.put(up, o.Pool, time.Since(u.start)+o.PoolIdle) {
		up.conn.Close()
	}
}

// pool are the idle connections to one address, the last used at the end: those that
// are not needed grow old.
type pool struct {
	mu     sync.Mutex
	idle   []*upstream
	closed bool
}

// take returns an idle connection that nothing has come from, nil if there is none.
// What a backend says unasked belongs to no answer.
func (p *pool) take() *upstream {
	for {
		p.mu.Lock()
		n := len(p.idle)
		if n == 0 {
			p.mu.Unlock()
			return nil
		}
		up := p.idle[n-1]
		p.idle[n-1] = nil
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		if up.conn.Quiet() {
			up.reused = true
			return up
		}
		up.conn.Close()
	}
}

func (p *pool) put(up *upstream, most int, until time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.idle) >= most {
		return false
	}
	up.until = until
	p.idle = append(p.idle, up)
	return true
}

// prune returns true if nothing is left.
func (p *pool) prune(now time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	kept := p.idle[:0]
	for _, up := range p.idle {
		if up.until > now && up.conn.Quiet() {
			kept = append(kept, up)
			continue
		}
		up.conn.Close()
	}
	clear(p.idle[len(kept):])
	p.idle = kept
	// Nothing is put into a pool that is about to be forgotten.
	p.closed = p.closed || len(kept) == 0
	return len(kept) == 0
}

func (p *pool) len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.idle)
}

func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.empty()
}

// empty closes all connections and returns how many there were.
func (p *pool) empty() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.idle)
	for _, up := range p.idle {
		up.conn.Close()
	}
	p.idle = nil
	return n
}
