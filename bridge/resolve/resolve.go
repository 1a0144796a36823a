package resolve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"switchboard/bridge/clock"
)

// The times of the policy; see the package's documentation.
const (
	// Fresh is how long an answer is used without a new lookup.
	Fresh = time.Second
	// LookupTimeout bounds one lookup.
	LookupTimeout = 2 * time.Second
	// Patience is how long a lookup is waited for where there is a last good answer.
	Patience = 200 * time.Millisecond
	// Quiet is the least time between two warnings about one name.
	Quiet = time.Minute
)

// ErrClosed is returned for names that would have to be looked up after Close.
var ErrClosed = errors.New("the resolver is closed")

// Options are the parameters of [New]; the zero value is useful.
type Options struct {
	// Lookup returns the addresses of a name. It must return soon after ctx ends,
	// as Close waits for it. nil: [net.DefaultResolver].
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	// Clock is for specs; nil: the system's.
	Clock clock.Clock
	// Log gets a warning when a last good answer is used in place of a lookup that
	// failed, at most one in [Quiet] a name, and a line when a name's addresses
	// change. nil: none.
	Log *slog.Logger
}

// Resolver resolves addresses and remembers the last good answers.
type Resolver struct {
	lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	clock  clock.Clock
	log    *slog.Logger
	ctx    context.Context
	cancel context.CancelCauseFunc

	mu      sync.Mutex
	closed  bool
	names   map[string]*name
	lookups sync.WaitGroup
}

// name is what is known of a DNS name. Resolver.mu guards it.
type name struct {
	good []netip.Addr // the last good answer, nil if there was none; never changed
	// err is why the last lookup failed, nil if it did not; at is when it ended.
	err error
	at  time.Time
	// running is nil when no lookup is.
	running *lookup
	warned  time.Time
}

type lookup struct {
	began time.Time
	ended chan struct{} // closed when name has the outcome
}

// New returns a resolver. Close it.
func New(o Options) *Resolver {
	r := &Resolver{lookup: o.Lookup, clock: o.Clock, log: o.Log, names: make(map[string]*name)}
	if r.lookup == nil {
		r.lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	if r.clock == nil {
		r.clock = clock.System{}
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	r.ctx, r.cancel = context.WithCancelCause(context.Background())
	return r
}

// Close ends the lookups that run and waits for them. IP literals and last good
// answers can still be had afterwards.
func (r *Resolver) Close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.cancel(ErrClosed)
	r.lookups.Wait()
}

// Addresses returns what to dial for address (host:port), best first, at least
// one. An IP literal is returned as it is. For a name there is an error only if it
// has no last good answer: the lookup's own, or context.Cause(ctx) if ctx ended
// first. The caller may change the slice.
func (r *Resolver) Addresses(ctx context.Context, address string) ([]string, error) {
	if _, err := netip.ParseAddrPort(address); err == nil {
		return []string{address}, nil
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("resolving %s: %w", address, err)
	}
	addrs, err := r.resolve(ctx, host)
	if err != nil {
		return nil, fmt.Errorf("resolving %s: %w", host, err)
	}
	addresses := make([]string, len(addrs))
	for i, addr := range addrs {
		addresses[i] = net.JoinHostPort(addr.String(), port)
	}
	return addresses, nil
}

func (r *Resolver) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	good, l, err := r.begin(host)
	if l == nil {
		return good, err
	}
	var impatient <-chan time.Time
	if good != nil {
		left := Patience - r.clock.Now().Sub(l.began)
		if left <= 0 {
			return good, nil
		}
		timer := r.clock.NewTimer(left)
		defer timer.Stop()
		impatient = timer.C()
	}
	select {
	case <-l.ended:
		return r.known(host)
	case <-impatient:
		return good, nil
	case <-ctx.Done():
		if good != nil {
			return good, nil
		}
		return nil, context.Cause(ctx)
	}
}

// begin returns what is known if that is fresh, and otherwise the last good answer
// with the lookup that runs, which it starts if there is none.
func (r *Resolver) begin(host string) ([]netip.Addr, *lookup, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.names[host]
	if n == nil {
		n = &name{}
		r.names[host] = n
	}
	switch {
	case n.running != nil:
		return n.good, n.running, nil
	case !n.at.IsZero() && r.clock.Now().Sub(n.at) < Fresh:
		good, err := n.answer()
		return good, nil, err
	case r.closed && n.good != nil:
		return n.good, nil, nil
	case r.closed:
		return nil, nil, ErrClosed
	}
	n.running = &lookup{began: r.clock.Now(), ended: make(chan struct{})}
	r.lookups.Add(1)
	go r.run(host, n)
	return n.good, n.running, nil
}

// known returns what the lookup that just ended has left.
func (r *Resolver) known(host string) ([]netip.Addr, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.names[host].answer()
}

// answer is the last good answer, or why there is none.
func (n *name) answer() ([]netip.Addr, error) {
	if n.good != nil {
		return n.good, nil
	}
	return nil, n.err
}

// run is one lookup; Close waits for it.
func (r *Resolver) run(host string, n *name) {
	defer r.lookups.Done()
	ctx, cancel := context.WithTimeout(r.ctx, LookupTimeout)
	defer cancel()
	addrs, err := r.lookup(ctx, host)
	if err == nil && len(addrs) == 0 {
		err = errors.New("the name has no addresses")
	}
	if err != nil && r.ctx.Err() != nil {
		err = ErrClosed
	}
	now := r.clock.Now()

	r.mu.Lock()
	before, warn := n.good, false
	if err == nil {
		n.good = ordered(addrs)
	} else if warn = before != nil && err != ErrClosed && (n.warned.IsZero() || now.Sub(n.warned) >= Quiet); warn {
		n.warned = now
	}
	after := n.good
	n.err, n.at = err, now
	close(n.running.ended)
	n.running = nil
	r.mu.Unlock()

	switch {
	case warn:
		r.log.Warn("looking up a name failed, using its last good addresses", "host", host, "addresses", before, "cause", err)
	case err == nil && before != nil && !slices.Equal(before, after):
		r.log.Info("a name has other addresses", "host", host, "before", before, "addresses", after)
	}
}

// ordered returns the IPv4 addresses, then the others, each in the order given.
func ordered(addrs []netip.Addr) []netip.Addr {
	sorted := make([]netip.Addr, len(addrs))
	for i, addr := range addrs {
		sorted[i] = addr.Unmap()
	}
	slices.SortStableFunc(sorted, func(a, b netip.Addr) int { return a.BitLen() - b.BitLen() })
	return sorted
}
