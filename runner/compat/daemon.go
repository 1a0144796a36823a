package compat

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"switchboard/monitor"
	"switchboard/monitor/check"
	"switchboard/runner"
	"switchboard/runner/process"
)

// The names of the two hosts and of their listeners.
const (
	active   = "active"
	inactive = "inactive"
)

// Daemon is the original as one process. Make one with [New].
type Daemon struct {
	config   Config
	log      *slog.Logger
	router   *runner.Router
	observer *observer
	members  []process.Member
	stopping atomic.Bool
}

// How many connections strangers may hold open; the router keeps 64 descriptors
// for these and for probes.
const (
	apiConns   = 24
	otherConns = 8
)

// New makes a daemon of a valid configuration and starts nothing. log gets the
// original's lines as well as ours, in the words of the original where it has any;
// nil discards them. Run gives back what New opened.
func New(c Config, log *slog.Logger) (*Daemon, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if _, err := os.Stat(c.StaticDir); errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("staticDir: %s does not exist", c.StaticDir)
	}
	server, err := c.API.TLS.server()
	if err != nil {
		return nil, err
	}
	agents, err := newAgents(c, log)
	if err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	d := &Daemon{config: c, log: log}
	d.observer = newObserver(c, log)
	rc := c.runner()
	rc.Log = slog.New(newWords(c, log.Handler()))
	rc.Checks = map[string]check.Builder{agentCheck: agents.build}
	rc.Records = d.observer.record
	if log.Enabled(context.Background(), slog.LevelDebug) {
		rc.Opened = d.observer.take
	}
	if d.router, err = runner.New(rc); err != nil {
		return nil, fmt.Errorf("making the router: %w", err)
	}
	d.observer.router = d.router
	d.compose(server)
	return d, nil
}

// agentCheck is the type of the probes, see agent.go.
const agentCheck = "agent"

// runner is the router's part of the configuration.
func (c Config) runner() runner.Config {
	timeout := time.Duration(c.Proxy.HealthcheckTimeoutMillis) * time.Millisecond
	rc := runner.Config{
		Name:  "switchboard",
		API:   runner.API{Username: c.API.Username, Password: c.API.Password},
		Delay: time.Duration(c.Proxy.ShutdownDelaySeconds) * time.Second,
	}
	serve := func(name string, elect monitor.Elect, port uint) {
		host := runner.Host{
			Name: name, Elect: elect, DialTimeout: min(timeout, time.Second),
			// Not fall 1: one probe that got lost would sever every session.
			Check: &check.Spec{Type: agentCheck, Interval: timeout / 5, Timeout: timeout, Fall: 2, Rise: 2},
		}
		for _, b := range c.Proxy.Backends {
			host.Backends = append(host.Backends, runner.Backend{Name: b.Name, Address: b.address(), CheckPort: int(b.StatusPort)})
		}
		rc.Hosts = append(rc.Hosts, host)
		rc.Listeners = append(rc.Listeners, runner.Listener{Name: name, Bind: c.bind(port), Host: name})
	}
	serve(active, monitor.Sticky, c.Proxy.Port)
	if c.Proxy.InactiveMysqlPort != 0 {
		serve(inactive, monitor.Highest, c.Proxy.InactiveMysqlPort)
	}
	return rc
}

// compose fills the ordered group.
func (d *Daemon) compose(server *tls.Config) {
	c := d.config
	add := func(name string, r process.Runner) {
		d.members = append(d.members, process.Member{Name: name, Runner: r})
	}
	serve := func(name, bind string, conns int, handler http.Handler) {
		add(name, &process.HTTP{Bind: bind, TLS: server, Handler: handler, MaxConns: conns, Log: d.log})
	}
	add("observer", d.observer)
	if c.HealthPort != c.API.Port {
		serve("health", c.bind(c.HealthPort), otherConns, http.HandlerFunc(d.serveHealth))
	}
	serve("api", c.bind(c.API.Port), apiConns, d.guarded(d.apiHandler()))
	serve("api-aggregator", c.bind(c.API.AggregatorPort), otherConns, d.guarded(aggregator(c.API.ProxyURIs)))
	if c.Metrics.Enabled {
		serve("metrics", net.JoinHostPort("localhost", port(c.Metrics.Port)), otherConns, http.HandlerFunc(d.serveMetrics))
	}
	if c.StatusLog.Enabled {
		for _, source := range d.router.Cluster().Clusters {
			add(source.Host+" status log", d.statusLogger(source.Host))
		}
	}
	add("router", d.router)
}

// Run starts everything and is ready when both ports accept. On the first signal
// health turns red and the ports accept on for Proxy.ShutdownDelaySeconds; then all
// sessions are severed, and Run returns nil. A second signal means now. A part that
// ends on its own ends all, with an error that names it.
func (d *Daemon) Run(signals <-chan os.Signal, ready chan<- struct{}) error {
	group := process.Ordered(d.members...)
	// Two slots: stop, and now; the group hears no third.
	inner, ended := make(chan os.Signal, 2), make(chan error, 1)
	go func() { ended <- group.Run(inner, ready) }()
	for heard := 0; ; {
		select {
		case s := <-signals:
			d.stopping.Store(true)
			if heard++; heard <= 2 {
				inner <- s
			}
		case err := <-ended:
			// A group that fails early has not run the router, which then is ours to close.
			return errors.Join(err, d.router.Close())
		}
	}
}
