package runner

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"switchboard/bridge"
	"switchboard/bridge/relay"
	"switchboard/bridge/route"
	"switchboard/bridge/web"
	"switchboard/monitor"
	"switchboard/monitor/check"
)

// bridgeOptions are the host as the bridge sees it, without what it follows.
func (h Host) bridgeOptions(traffic bridge.Traffic, weights map[string]int) bridge.HostOptions {
	o := bridge.HostOptions{
		Name: h.Name, Policy: h.Policy, Choose: h.Choose, Weights: weights, Hold: h.Hold, HoldMax: h.HoldMax, DialTimeout: h.DialTimeout,
		Limits:    relay.Limits{Idle: h.IdleTimeout, HalfClose: h.HalfCloseTimeout},
		SendProxy: h.SendProxy, Traffic: traffic,
	}
	if h.balances() {
		o.StickyBy, _ = route.ParseStickyBy(h.StickyBy)
	} else {
		o.Choose = ""
	}
	for _, b := range h.Backends {
		o.Backends = append(o.Backends, b.Name)
	}
	return o
}

// webOptions are the host as HTTP sees it.
func (h Host) webOptions() web.HostOptions {
	return web.HostOptions{
		Version: h.HTTP.Version, HeadTimeout: h.HTTP.HeadTimeout, TotalTimeout: h.HTTP.TotalTimeout, Silence: h.IdleTimeout,
		Pool: h.HTTP.Pool, PoolIdle: h.HTTP.PoolIdle, Retries: h.HTTP.Retries,
	}
}

func (h Host) balances() bool { return h.Policy == route.Balance }

// target is what the host's checkers look at, without the means to look.
func target(h Host, b Backend) check.Target {
	host, port, _ := route.ParseAddress(b.Address, false)
	at := port
	if h.Check.Port != 0 {
		at = h.Check.Port
	}
	if b.CheckPort != 0 {
		at = b.CheckPort
	}
	return check.Target{
		Host:    h.Name,
		Backend: b.route(),
		Address: net.JoinHostPort(host, strconv.Itoa(at)),
		Own:     at == port,
	}
}

func (b Backend) route() route.Backend {
	return route.Backend{Name: b.Name, Address: b.Address, Weight: b.weight()}
}

func (b Backend) weight() int {
	if b.Weight == nil {
		return 1
	}
	return *b.Weight
}

// newMonitor makes the monitor of one host and its checkers.
func (r *Router) newMonitor(hc Host, h *host, pin string) (*monitor.Monitor, error) {
	last := r.lastActive[hc.Name]
	o := monitor.Options{
		Host: hc.Name, Elect: hc.Elect,
		Initial: monitor.Initial{Epoch: last.Epoch, LastActive: last.Backend, Pin: pin},
		Active:  &h.active, Cluster: &h.cluster, Journal: r.journal, Log: r.config.Log, Clock: r.config.Clock,
		DialOwn: func(ctx context.Context, address string) error {
			conn, err := r.probeDial(ctx, hc.SendProxy, "tcp", address, true)
			if err != nil {
				return err
			}
			return conn.Close()
		},
	}
	if hc.balances() {
		o.Elect, o.Initial = monitor.None, monitor.Initial{}
	}
	for _, b := range hc.Backends {
		o.Backends = append(o.Backends, b.route())
	}
	if hc.Check == nil {
		return monitor.New(o)
	}
	o.Spec = *hc.Check
	for _, b := range hc.Backends {
		t := target(hc, b)
		t.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			return r.probeDial(ctx, hc.SendProxy, network, address, address == b.Address)
		}
		t.Hint = func(detail string) {
			r.hint(bridge.Hint{Host: hc.Name, Backend: b.Name, Detail: detail})
		}
		checker, err := r.config.Checks[hc.Check.Type](*hc.Check, t)
		if err != nil {
			return nil, fmt.Errorf("backend %q: %w", b.Name, err)
		}
		o.Checkers = append(o.Checkers, checker)
		o.ChecksOwnPort = append(o.ChecksOwnPort, t.Own && hc.Check.Type != "exec")
	}
	return monitor.New(o)
}

// probeDial connects for a probe as a session would: names are resolved the same
// way, and a backend that expects a PROXY header on its own port gets one.
func (r *Router) probeDial(ctx context.Context, proxy bridge.ProxyVersion, network, address string, own bool) (net.Conn, error) {
	dial := r.config.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	addresses, err := r.resolver.Addresses(ctx, address)
	if err != nil {
		return nil, err
	}
	var failed []error
	for _, a := range addresses {
		conn, err := dial(ctx, network, a)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		if !own {
			return conn, nil
		}
		return announced(ctx, conn, proxy)
	}
	return nil, errors.Join(failed...)
}

// announced writes the PROXY header of a connection of our own.
func announced(ctx context.Context, conn net.Conn, proxy bridge.ProxyVersion) (net.Conn, error) {
	header, err := proxy.LocalHeader()
	if err == nil && len(header) > 0 {
		deadline, _ := ctx.Deadline()
		conn.SetWriteDeadline(deadline)
		_, err = conn.Write(header)
		conn.SetWriteDeadline(time.Time{})
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("announcing a probe: %w", err)
	}
	return conn, nil
}
