package runner

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"switchboard/api"
	"switchboard/bridge"
	"switchboard/bridge/route"
)

// MaxListed is how many of a table's hosts GET /cluster and GET /hosts list. If there
// are more, those are listed that clients have asked for, up to as many.
const MaxListed = 1000

// Table is where a router's further hosts come from. Whoever follows Redis, or
// anything else, hands it in; the router itself knows no more of it.
type Table struct {
	// Tables carries the table, newest wins. A host that did not change should be the same
	// pointer in the next one: then nobody looks at it. Required.
	Tables <-chan *route.Table
	// State is what the API shows of the table. Of a State that is not Loaded the router is
	// not ready. nil: it shows how many hosts there are, and whether there is a table.
	State func() api.Table
	// Accept is POST /table/accept; nil: there is nothing to accept.
	Accept func(ctx context.Context) error
}

// tableSource is what the API sees of the table, nil if there is none.
func (r *Router) tableSource() *api.TableSource {
	if r.config.Table == nil {
		return nil
	}
	accept := r.config.Table.Accept
	if accept == nil {
		accept = func(context.Context) error { return api.ErrNothingToAccept }
	}
	return &api.TableSource{State: r.tableState, Accept: accept, Hosts: r.tableHosts, Host: r.tableHost}
}

func (r *Router) tableState() api.Table {
	if r.config.Table.State != nil {
		return r.config.Table.State()
	}
	n := r.bridge.Table().Len() - len(r.ordered)
	return api.Table{Hosts: n, Loaded: n > 0}
}

// tableHosts are the table's hosts that are listed, by name.
func (r *Router) tableHosts() []api.HostSource {
	var names []string
	if table := r.bridge.Table(); table.Len()-len(r.ordered) <= MaxListed {
		for h := range table.All() {
			names = append(names, h.Name)
		}
		slices.Sort(names)
	} else {
		names = r.bridge.TableHosts()
		names = names[:min(len(names), MaxListed)]
	}
	sources := make([]api.HostSource, 0, len(names))
	for _, name := range names {
		if source, ok := r.tableHost(name); ok {
			sources = append(sources, source)
		}
	}
	return sources
}

// tableHost is the table's host of that name. Its backends are up as far as anybody
// knows, since nobody probes them.
func (r *Router) tableHost(name string) (api.HostSource, bool) {
	h := r.bridge.Table().Get(name)
	if _, configured := r.hosts[name]; h == nil || configured {
		return api.HostSource{}, false
	}
	return api.HostSource{
		Name: name, Policy: h.Policy, FromTable: true,
		Cluster: func() (bridge.Cluster, bool) { return r.tableCluster(name), true },
		Traffic: func() (bridge.Traffic, bool) { return r.bridge.HostTraffic(name), true },
		Counts: func() bridge.Counts {
			if used := r.bridge.Used(name); used != nil {
				return used.Counts()
			}
			return bridge.Counts{Host: name}
		},
		CountInto: func(c *bridge.Counts) {
			if used := r.bridge.Used(name); used != nil {
				used.CountInto(c)
				return
			}
			clear(c.Backends)
			*c = bridge.Counts{Host: name, Backends: c.Backends}
		},
		HTTP: func() *api.HTTP {
			if used := r.bridge.Used(name); used != nil {
				return httpView(r.upstream.Counters(used))
			}
			return nil
		},
	}, true
}

func (r *Router) tableCluster(name string) bridge.Cluster {
	c := bridge.Cluster{Host: name}
	h := r.bridge.Table().Get(name)
	if h == nil {
		return c
	}
	for _, b := range h.Backends {
		c.Backends = append(c.Backends, bridge.BackendState{Backend: b, Verdict: true, Healthy: true, Detail: "not probed: from the table"})
	}
	if used := r.bridge.Used(name); used != nil && h.Policy == route.Active {
		c.Active = used.Active()
	}
	return c
}

// Refuses tells why no backend may be at an address, nil if one may: it is one that the
// router itself listens on, and clients would run in a circle, or reach its API. It
// may be called often, from any goroutine; what reads a table asks it.
func (r *Router) Refuses(address netip.AddrPort) error {
	f := endpoint{ip: address.Addr().Unmap(), port: int(address.Port())}
	for _, own := range r.own() {
		if own.port == f.port && (own.serves(f) || own.wildcard() && slices.Contains(r.addresses, f.ip)) {
			return fmt.Errorf("%s is our own %s", address, own.key)
		}
	}
	return nil
}

// own are the addresses that the router listens on, as far as they are known: those
// with port 0 when they are bound.
func (r *Router) own() []bind {
	own := r.binds
	add := func(key string, at net.Addr) {
		if at == nil {
			return
		}
		if e, err := parseEndpoint(at.String(), false); err == nil {
			own = append(own[:len(own):len(own)], bind{key, e})
		}
	}
	for _, b := range r.binds {
		switch key, _, _ := strings.Cut(b.key, "."); {
		case b.port != 0:
		case key == "api":
			add(b.key, r.APIAddr())
		case key == "health":
			add(b.key, r.HealthAddr())
		default:
			var i int
			if _, err := fmt.Sscanf(key, "listeners[%d]", &i); err == nil {
				add(b.key, r.Addr(r.config.Listeners[i].Name))
			}
		}
	}
	return own
}

// localAddresses are those of the machine's interfaces.
func localAddresses() (ips []netip.Addr) {
	// Without them a listener on 0.0.0.0 is known by its loopback address alone.
	all, _ := net.InterfaceAddrs()
	for _, a := range all {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil {
			ips = append(ips, prefix.Addr().Unmap())
		}
	}
	return ips
}
