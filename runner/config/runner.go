package config

import (
	"switchboard/bridge"
	"switchboard/monitor"
	"switchboard/monitor/check"
	"switchboard/runner"
)

// Runner is the configuration as the router takes it. What a file cannot say, the
// logger, the checks that are linked and where records go, is the caller's to add.
func (f *File) Runner() runner.Config {
	c := runner.Config{
		Name:   f.Name,
		State:  f.State,
		API:    runner.API{Bind: f.API.Bind, Username: f.API.Username, Password: string(f.API.Password)},
		Health: f.Health.Bind,
		Delay:  f.Shutdown.Delay,
		Drain:  f.Shutdown.Drain,
	}
	for _, l := range f.Listeners {
		c.Listeners = append(c.Listeners, runner.Listener{
			Name: l.Name, Bind: l.Bind, Host: l.Host, MaxSessions: l.MaxSessions,
			ProxyProtocol: bridge.ProxyVersion(l.ProxyProtocol), TrustedProxies: l.TrustedProxies,
		})
	}
	for _, h := range f.Hosts {
		c.Hosts = append(c.Hosts, h.runner())
	}
	return c
}

func (h Host) runner() runner.Host {
	r := runner.Host{
		Name: h.Name, Elect: monitor.Elect(h.Elect), Hold: h.Hold, HoldMax: h.HoldMax, DialTimeout: h.DialTimeout,
		IdleTimeout: h.IdleTimeout, HalfCloseTimeout: h.HalfCloseTimeout, SendProxy: bridge.ProxyVersion(h.SendProxy),
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
		r.Backends = append(r.Backends, runner.Backend{Name: b.Name, Address: b.Address, CheckPort: b.CheckPort})
	}
	return r
}
