package compat

import (
	"context"
	"crypto/tls"
	"log/slog"

	"switchboard/monitor/check"
)

// agents makes the probes: of the http check with the original's rules, at each
// backend's own endpoint.
type agents struct {
	config Config
	paths  map[string]string
	secure *tls.Config
	log    *slog.Logger
}

func newAgents(c Config, log *slog.Logger) (*agents, error) {
	secure, err := c.GaleraAgentTLS.client()
	if err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	a := &agents{config: c, paths: make(map[string]string), secure: secure, log: log}
	for _, b := range c.Proxy.Backends {
		a.paths[b.Name] = b.path()
	}
	return a, nil
}

// maxBody is how much of an unhealthy answer the log repeats, in bytes, as the
// fork does.
const maxBody = 1 << 10

func (a *agents) build(spec check.Spec, target check.Target) (check.Checker, error) {
	spec.Path = a.paths[target.Backend.Name]
	checker, err := check.HTTPOptions{TLS: a.secure, StatusOnly: true, Body: maxBody}.Build(spec, target)
	if err != nil {
		return nil, err
	}
	log := a.log.With("component", target.Host+"-monitor", "backend", a.config.describe(target.Backend.Name), "endpoint", a.config.endpoint(target.Backend.Name))
	return chatty{checker, log}, nil
}

// chatty logs what the original does of every probe, at debug. What fails is told
// by the monitor.
type chatty struct {
	check.Checker
	log *slog.Logger
}

func (c chatty) Check(ctx context.Context) check.Result {
	c.log.Debug("Querying Backend")
	result := c.Checker.Check(ctx)
	if result.Verdict == check.Healthy {
		c.log.Debug("Healthcheck succeeded")
	}
	return result
}
