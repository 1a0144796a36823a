package compat

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
)

// described is a backend in the log.
type described struct {
	Host       string `json:"host"`
	Port       uint   `json:"port"`
	StatusPort uint   `json:"status_port"`
	Name       string `json:"name"`
}

// describe returns what the log says of a backend, nil for "".
func (c Config) describe(name string) any {
	for _, b := range c.Proxy.Backends {
		if b.Name == name {
			return described{b.Host, b.Port, b.StatusPort, b.Name}
		}
	}
	return nil
}

// addressOf returns host:port of a backend.
func (c Config) addressOf(name string) string {
	for _, b := range c.Proxy.Backends {
		if b.Name == name {
			return b.address()
		}
	}
	return name
}

// endpoint is the URL that a backend's health is asked from.
func (c Config) endpoint(name string) string {
	scheme := "http"
	if c.GaleraAgentTLS.Enabled {
		scheme = "https"
	}
	for _, b := range c.Proxy.Backends {
		if b.Name == name {
			return scheme + "://" + net.JoinHostPort(b.Host, port(b.StatusPort)) + b.path()
		}
	}
	return ""
}

// words says what the router logs in the words of the original, for those who
// search logs for them. What the original has no words for passes as it is.
type words struct {
	config Config
	next   slog.Handler
	attrs  []slog.Attr
	well   *wellness
}

// wellness remembers which backends have been healthy: one that never was cannot
// become unhealthy.
type wellness struct {
	mu   sync.Mutex
	been map[[2]string]bool
}

func newWords(c Config, next slog.Handler) words {
	return words{config: c, next: next, well: &wellness{been: make(map[[2]string]bool)}}
}

// Enabled lets everything from info on through, since words may raise it to an
// error.
func (w words) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo || w.next.Enabled(ctx, level)
}

func (w words) WithAttrs(attrs []slog.Attr) slog.Handler {
	w.attrs = append(slices.Clone(w.attrs), attrs...)
	return w
}

// WithGroup is not used by the router: groups would hide what words are chosen by.
func (w words) WithGroup(string) slog.Handler { return w }

// line is a record that is being put into other words.
type line struct {
	words
	ctx    context.Context
	record slog.Record
	facts  map[string]slog.Value
}

func (w words) Handle(ctx context.Context, r slog.Record) error {
	l := line{words: w, ctx: ctx, record: r, facts: make(map[string]slog.Value)}
	for _, a := range w.attrs {
		l.facts[a.Key] = a.Value
	}
	r.Attrs(func(a slog.Attr) bool {
		l.facts[a.Key] = a.Value
		return true
	})
	return l.say()
}

// say chooses the words. Those on the left are the router's; specs of the binary
// see to it that they stay.
func (l line) say() error {
	host := l.take("host")
	switch l.record.Message {
	case "listening":
		return l.put(slog.LevelInfo, l.take("listener")+"-bridge-runner", "Proxy listening on "+l.take("address"))
	case "stopped listening":
		return l.put(slog.LevelInfo, l.take("listener")+"-bridge-runner", "Proxy runner has exited")
	case "cannot accept":
		return l.put(slog.LevelError, l.take("listener")+"-bridge-runner", "Error accepting client connection")
	case "too many sessions, refusing clients":
		return l.put(slog.LevelError, l.take("listener")+"-bridge-runner", l.record.Message)
	case "following the active backend":
		l.describe()
		return l.put(slog.LevelInfo, host+"-bridge-runner", "Done severing connections, new active backend:")
	case "new active backend":
		l.describe()
		return l.put(slog.LevelInfo, host+"-monitor", "New active backend")
	case "probe failed":
		level := slog.LevelDebug
		if l.record.Level >= slog.LevelInfo {
			level = slog.LevelError
		}
		return l.failed(level, host)
	case "backend health has changed":
		return l.turned(host)
	case "stopping":
		l.drop("heard")
		err := l.put(slog.LevelInfo, active+"-bridge-runner", "Received signal")
		if l.config.Proxy.InactiveMysqlPort != 0 {
			err = errors.Join(err, l.put(slog.LevelInfo, inactive+"-bridge-runner", "Received signal"))
		}
		return err
	case "ready":
		return l.put(slog.LevelDebug, "", l.record.Message)
	case "api read", "api write":
		return l.put(slog.LevelDebug, "api", l.record.Message)
	default:
		if host != "" {
			l.facts["host"] = slog.StringValue(host)
		}
		return l.put(l.record.Level, "", l.record.Message)
	}
}

// turned is a change of verdict.
func (l line) turned(host string) error {
	component := ""
	if host != active {
		component = host + "-monitor"
	}
	key := [2]string{host, l.facts["backend"].String()}
	healthy := l.facts["healthy"].Kind() == slog.KindBool && l.facts["healthy"].Bool()
	l.well.mu.Lock()
	been := l.well.been[key]
	l.well.been[key] = been || healthy
	l.well.mu.Unlock()
	if healthy {
		l.describe()
		return l.put(slog.LevelInfo, component, "Previously unhealthy backend became healthy.")
	}
	facts := maps.Clone(l.facts)
	if err := l.failed(slog.LevelError, host); err != nil || !been {
		return err
	}
	l.facts = facts
	l.describe()
	return l.put(slog.LevelInfo, component, "Previously healthy backend became unhealthy.")
}

// failed is a probe that found a backend not healthy.
func (l line) failed(level slog.Level, host string) error {
	l.facts["endpoint"] = slog.StringValue(l.config.endpoint(l.facts["backend"].String()))
	l.describe()
	l.facts["error"] = slog.StringValue(l.take("detail"))
	return l.put(level, host+"-monitor", "Healthcheck failed on backend")
}

// take removes a fact and returns it as text, "" if it is not there.
func (l line) take(key string) string {
	value, ok := l.facts[key]
	if !ok {
		return ""
	}
	delete(l.facts, key)
	return value.String()
}

func (l line) drop(key string) { delete(l.facts, key) }

// describe puts the whole backend in place of its name.
func (l line) describe() {
	l.facts["backend"] = slog.AnyValue(l.config.describe(l.take("backend")))
}

// put hands the line on.
func (l line) put(level slog.Level, component, message string) error {
	if !l.next.Enabled(l.ctx, level) {
		return nil
	}
	r := slog.NewRecord(l.record.Time, level, message, l.record.PC)
	if component != "" {
		r.AddAttrs(slog.String("component", component))
	}
	for _, key := range slices.Sorted(maps.Keys(l.facts)) {
		r.AddAttrs(slog.Attr{Key: key, Value: l.facts[key]})
	}
	return l.next.Handle(l.ctx, r)
}
