package compat

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"switchboard/bridge"
	"switchboard/runner"
	"switchboard/runner/process"
)

// observer follows the router's events and records, logs them in the original's
// words, and counts failovers for the status lines.
type observer struct {
	config Config
	log    *slog.Logger
	router *runner.Router
	// records are of sessions that have opened, without a reason, and of what has
	// ended. It has room for all sessions of a large router that are severed at once. What
	// does not fit is not logged: no session waits for its log line.
	records chan bridge.Record
	// told belongs to Run.
	told map[complaint]*told

	mu        sync.Mutex
	failovers map[string]failovers
}

// failovers are those of one host since the start.
type failovers struct {
	active string // "" for none
	count  int
	last   time.Time
	from   string
}

// complaint is a line that is not repeated more than once a second.
type complaint struct {
	host   string
	reason bridge.Reason
}

type told struct {
	at      time.Time
	skipped int
}

func newObserver(c Config, log *slog.Logger) *observer {
	return &observer{
		config: c, log: log, records: make(chan bridge.Record, 1<<12),
		told: make(map[complaint]*told), failovers: make(map[string]failovers),
	}
}

// record takes what has ended.
func (o *observer) record(r bridge.Record) {
	if r.Backend != "" && !o.log.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	o.take(r)
}

// take takes a record from any goroutine, and never waits.
func (o *observer) take(r bridge.Record) {
	select {
	case o.records <- r:
	default:
	}
}

// Run follows until a signal comes, and then writes what is left.
func (o *observer) Run(signals <-chan os.Signal, ready chan<- struct{}) error {
	ctx, cancel := context.WithCancel(context.Background())
	var following sync.WaitGroup
	following.Go(func() {
		for _, e := range o.router.Events(ctx, 0) {
			o.see(e)
		}
	})
	close(ready)
	defer following.Wait()
	defer cancel()
	for {
		select {
		case r := <-o.records:
			o.tell(r)
		case <-signals:
			for {
				select {
				case r := <-o.records:
					o.tell(r)
				default:
					return nil
				}
			}
		}
	}
}

// see takes one event.
func (o *observer) see(e bridge.Event) {
	switch e.Kind {
	case bridge.NewActiveBackend:
		o.flipped(*e.Active)
	case bridge.TrafficEnabled:
		o.log.Info("Enabling traffic for cluster", "message", e.Traffic.Message)
	case bridge.TrafficDisabled:
		o.log.Info("Disabling traffic for cluster", "message", e.Traffic.Message)
	}
}

func (o *observer) flipped(a bridge.Active) {
	name := ""
	if a.Backend != nil {
		name = a.Backend.Name
	}
	o.mu.Lock()
	f := o.failovers[a.Host]
	if f.active != "" && f.active != name {
		f.count++
		f.last, f.from = a.Since, f.active
	}
	f.active = name
	o.failovers[a.Host] = f
	o.mu.Unlock()
	if a.Host == active {
		o.log.Info("Done updating Cluster Api, new active backend:", "backend", o.config.describe(name))
	}
}

// tell logs one record: sessions at debug, clients that had none as errors.
func (o *observer) tell(r bridge.Record) {
	log := o.log.With("component", r.Host+"-bridge-runner")
	switch r.Reason {
	case bridge.NoBackend:
		o.complain(log, "No active backend", r)
	case bridge.DialFailed:
		o.complain(log, "Error routing to backend", r)
	default:
		if r.Backend == "" {
			log.Debug("Client refused", "client", r.Client, "reason", r.Reason)
			return
		}
		o.session(r)
	}
}

// session logs the beginning of a session, or its end. In the original these lines
// are of no port, so the port is a fact of the line here.
func (o *observer) session(r bridge.Record) {
	between := fmt.Sprintf("from client at %s to backend at %s", r.Client, o.config.addressOf(r.Backend))
	log := o.log.With("port", r.Host, "backend", r.Backend)
	if r.Reason == "" {
		log.Debug("Session established " + between)
		return
	}
	log.Debug("Session closed "+between,
		"reason", r.Reason, "took", r.Took, "bytes_to_backend", r.ToBackend, "bytes_to_client", r.ToClient)
}

// complain logs at most once a second for each host and reason: with no backend
// there is one such client after the other.
func (o *observer) complain(log *slog.Logger, words string, r bridge.Record) {
	key := complaint{r.Host, r.Reason}
	t := o.told[key]
	if t == nil {
		t = new(told)
		o.told[key] = t
	}
	ended := r.Began.Add(r.Took)
	if ended.Sub(t.at) < time.Second {
		t.skipped++
		return
	}
	t.at = ended
	log.Error(words, "client", r.Client, "error", r.Err, "skipped", t.skipped)
	t.skipped = 0
}

// statusLogger logs a host's status line every interval.
type statusLogger struct {
	process.Ticker
	log      *slog.Logger
	backends int
}

func (d *Daemon) statusLogger(host string) statusLogger {
	log := d.log.With("component", host+"-status-logger")
	return statusLogger{log: log, backends: len(d.config.Proxy.Backends), Ticker: process.Ticker{
		Every: d.config.StatusLog.Interval,
		Do: func(context.Context) error {
			log.Info("Status update", d.status(host)...)
			return nil
		},
	}}
}

// Run is that of a [process.Runner].
func (s statusLogger) Run(signals <-chan os.Signal, ready chan<- struct{}) error {
	s.log.Info("Status logger starting", "interval", s.Every, "backend_count", s.backends)
	return s.Ticker.Run(signals, ready)
}

// status are the fields of the fork's status line; those that would be empty are
// left out, as there.
func (d *Daemon) status(host string) []any {
	healthy := 0
	var unhealthy []string
	var fields []any
	for _, h := range d.router.Cluster().Clusters {
		if h.Host != host {
			continue
		}
		for _, b := range h.Backends {
			if b.Healthy {
				healthy++
			} else {
				unhealthy = append(unhealthy, b.Name)
			}
		}
		name := "none"
		if h.Active != nil {
			name = h.Active.Name
		}
		fields = []any{
			"total_connections", h.CurrentSessionCount, "healthy_backends", healthy, "total_backends", len(h.Backends), "active_backend", name,
		}
	}
	if len(unhealthy) > 0 {
		fields = append(fields, "unhealthy_backends", unhealthy)
	}
	d.observer.mu.Lock()
	f := d.observer.failovers[host]
	d.observer.mu.Unlock()
	if f.count > 0 {
		fields = append(fields, "last_failover_at", f.last.Format(time.RFC3339), "last_failover_from", f.from, "total_failovers", f.count)
	}
	return fields
}
