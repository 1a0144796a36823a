package config

import (
	"switchboard/bridge"
	"switchboard/bridge/route"
	"switchboard/bridge/web"
	"switchboard/monitor"
	"switchboard/monitor/check"
	"switchboard/runner"
)

// Runner is the configuration as the router takes it. What a file cannot say, the
// logger, the checks that are linked and where records go, is the caller's to add.
func (f *File) Runner() runner.Config {
	c := runner.Config{
		Name: f.Name,

		WildcardDepth: f.WildcardDepth,

		State:  f.State,
		API:    runner.API{Bind: f.API.Bind, Username: f.API.Username, Password: string(f.API.Password), Streams: f.API.Streams},
		Health: f.Health.Bind,
		Delay:  f.Shutdown.Delay,
		Drain:  f.Shutdown.Drain,
	}
	for _, l := range f.Listeners {
		c.Listeners = append(c.Listeners, l.runner())
	}
	for _, h := range f.Hosts {
		c.Hosts = append(c.Hosts, h.runner())
	}
	return c
}

func (l Listener) runner() runner.Listener {
	r := runner.Listener{
		Name: l.Name, Bind: l.Bind, Protocol: runner.Protocol(l.Protocol), Host: l.Host, MaxSessions: l.MaxSessions,
		ProxyProtocol: bridge.ProxyVersion(l.ProxyProtocol), TrustedProxies: l.TrustedProxies,
	}
	if l.TLS != nil {
		for _, c := range l.TLS.Certificates {
			r.Certificates = append(r.Certificates, runner.Certificate(c))
		}
	}
	if l.Timeouts != nil {
		r.Timeouts = runner.Timeouts(*l.Timeouts)
	}
	if l.Limits != nil {
		r.Limits = runner.Limits{Head: l.Limits.Head, Target: l.Limits.Target, Fields: l.Limits.Fields, Body: int64(l.Limits.Body)}
	}
	return r
}

func (h Host) runner() runner.Host {
	r := runner.Host{
		Name: h.Name, Policy: route.Policy(h.Policy), Elect: monitor.Elect(h.Elect), Choose: route.Choose(h.Choose), StickyBy: h.StickyBy,
		Hold: h.Hold, HoldMax: h.HoldMax, DialTimeout: h.DialTimeout,
		IdleTimeout: h.IdleTimeout, HalfCloseTimeout: h.HalfCloseTimeout, SendProxy: bridge.ProxyVersion(h.SendProxy),
		HTTP: runner.HostHTTP{
			Version: web.Version(h.HTTP.Version), HeadTimeout: h.HTTP.HeadTimeout, TotalTimeout: h.HTTP.TotalTimeout,
			Pool: orNone(h.HTTP.Pool), PoolIdle: h.HTTP.PoolIdle, Retries: orNone(h.HTTP.Retries),
		},
	}
	if c := h.Check; c != nil {
		r.Check = &check.Spec{
			Type: c.Type, Port: c.Port, Path: c.Path, Interval: c.Interval, Timeout: c.Timeout, Fall: c.Fall, Rise: c.Rise,
			Username: c.Username, Password: string(c.Password), Database: c.Database, Standby: c.Standby, Donors: c.Donors,
			TLS:     check.TLS{Enabled: c.TLS.Enabled, CA: c.TLS.CA, ServerName: c.TLS.ServerName},
			Command: c.Command,
		}
	}
	for _, b := range h.Backends {
		r.Backends = append(r.Backends, runner.Backend{Name: b.Name, Address: b.Address, Weight: &b.Weight, CheckPort: b.CheckPort})
	}
	return r
}

// orNone is a number as the runner takes it, where 0 is the default.
func orNone(n int) int {
	if n == 0 {
		return -1
	}
	return n
}
