package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	. "github.com/onsi/gomega"

	"switchboard/api"
	"switchboard/bridge"
	"switchboard/bridge/clock"
	"switchboard/bridge/feed"
	"switchboard/bridge/route"
)

// fakeCommands counts its calls.
type fakeCommands struct {
	calls      atomic.Int64
	setTraffic func(ctx context.Context, host string, change bridge.TrafficChange) (bridge.TrafficAnswer, error)
	switchTo   func(ctx context.Context, host, backend, message string) (int, error)
	pin        func(ctx context.Context, host, backend, message string) (int, error)
	setWeights func(ctx context.Context, host string, weights map[string]*int, message string) error
	sessions   func() []bridge.SessionInfo
	endSession func(ctx context.Context, id string) error
}

func (f *fakeCommands) SetTraffic(ctx context.Context, host string, change bridge.TrafficChange) (bridge.TrafficAnswer, error) {
	f.calls.Add(1)
	return f.setTraffic(ctx, host, change)
}

func (f *fakeCommands) Switch(ctx context.Context, host, backend, message string) (int, error) {
	f.calls.Add(1)
	return f.switchTo(ctx, host, backend, message)
}

func (f *fakeCommands) Pin(ctx context.Context, host, backend, message string) (int, error) {
	f.calls.Add(1)
	return f.pin(ctx, host, backend, message)
}

func (f *fakeCommands) SetWeights(ctx context.Context, host string, weights map[string]*int, message string) error {
	f.calls.Add(1)
	return f.setWeights(ctx, host, weights, message)
}

func (f *fakeCommands) Sessions() []bridge.SessionInfo { return f.sessions() }

func (f *fakeCommands) EndSession(ctx context.Context, id string) error {
	f.calls.Add(1)
	return f.endSession(ctx, id)
}

// fakeClock stands still until it is told to go on.
type fakeClock struct {
	clock.System
	mu  sync.Mutex
	now time.Time
}

func (c *fakeClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *fakeClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

var epochStart = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// world is a router of three hosts, whose commands do what they say. db.main has
// db-0 (active), db-1 (healthy) and db-2 (unhealthy); db.side is not known yet;
// *.shop uses app-0 and app/1 at once.
type world struct {
	options  api.Options
	commands *fakeCommands
	traffic  *feed.Feed[bridge.Traffic]
	host     *feed.Feed[bridge.Traffic]
	cluster  *feed.Feed[bridge.Cluster]
	journal  *bridge.Journal
	clock    *fakeClock
	log      *bytes.Buffer
	ready    error
	counts   bridge.Counts
	changed  atomic.Int64
	// set are the weights of *.shop that an operator has set.
	set map[string]int
	// http is what *.shop was asked.
	http *api.HTTP
}

func newWorld() *world {
	w := &world{
		commands: &fakeCommands{},
		traffic:  new(feed.Feed[bridge.Traffic]),
		host:     new(feed.Feed[bridge.Traffic]),
		cluster:  new(feed.Feed[bridge.Cluster]),
		journal:  feed.NewRing[bridge.Event](1024),
		clock:    &fakeClock{now: epochStart},
		log:      new(bytes.Buffer),
		counts:   bridge.Counts{Host: "db.main", Sessions: 7, Backends: map[string]int{"db-0": 7}},
	}
	w.traffic.Put(bridge.Traffic{Enabled: true})
	w.host.Put(bridge.Traffic{Host: "db.main", Enabled: true})
	db0 := route.NewBackend("db-0", "10.0.0.1:3306")
	w.cluster.Put(bridge.Cluster{
		Host:   "db.main",
		Active: bridge.Active{Host: "db.main", Backend: &db0, Epoch: 3, Since: epochStart, Reason: "first election"},
		Backends: []bridge.BackendState{
			{Backend: db0, Verdict: true, Healthy: true, CheckedAt: epochStart, Took: 1500 * time.Microsecond, Detail: "synced"},
			{Backend: route.Backend{Name: "db-1", Address: "10.0.0.2:3306", Weight: 2}, Verdict: true, Healthy: true, CheckedAt: epochStart},
			{Backend: route.NewBackend("db-2", "[fd00::3]:3306"), Healthy: true},
		},
	})
	w.commands.setTraffic = func(_ context.Context, host string, c bridge.TrafficChange) (bridge.TrafficAnswer, error) {
		flag := bridge.Traffic{Host: host, Enabled: c.Enabled, Message: c.Message, LastUpdated: w.tick()}
		if !c.Enabled && c.Grace > 0 {
			flag.DrainUntil = flag.LastUpdated.Add(c.Grace)
		}
		if host == "" {
			w.traffic.Put(flag)
		} else {
			w.host.Put(flag)
		}
		return bridge.TrafficAnswer{Traffic: flag, Severed: 2}, nil
	}
	w.commands.switchTo = func(_ context.Context, _, backend, message string) (int, error) {
		w.choose(backend, message, "")
		return 3, nil
	}
	w.commands.pin = func(_ context.Context, _, backend, message string) (int, error) {
		w.choose(backend, message, backend)
		return 4, nil
	}
	w.commands.setWeights = func(_ context.Context, _ string, weights map[string]*int, _ string) error {
		set := maps.Clone(w.set)
		for name, weight := range weights {
			if delete(set, name); weight != nil {
				set[name] = *weight
			}
		}
		w.set = set
		return nil
	}
	w.set = map[string]int{"app-0": 2}
	shop, open := new(feed.Feed[bridge.Cluster]), new(feed.Feed[bridge.Traffic])
	open.Put(bridge.Traffic{Host: "*.shop", Enabled: true})
	shop.Put(bridge.Cluster{Host: "*.shop", Backends: []bridge.BackendState{
		{Backend: route.NewBackend("app-0", "10.0.1.1:80"), Verdict: true, Healthy: true},
		{Backend: route.NewBackend("app/1", "10.0.1.2:80"), Verdict: true, Healthy: true},
	}})
	w.commands.sessions = func() []bridge.SessionInfo { return nil }
	w.commands.endSession = func(context.Context, string) error { return nil }
	w.options = api.Options{
		Sources: api.Sources{
			Name:     "router-1",
			Traffic:  w.traffic,
			Ready:    func() error { return w.ready },
			Sessions: func() int { return w.counts.Sessions + 2 },
			Journal:  w.journal,
			Hosts: []api.HostSource{
				{Name: "db.main", Policy: "active", Cluster: w.cluster.Get, Traffic: w.host.Get, Counts: func() bridge.Counts { return w.counts }},
				{
					Name: "db.side", Policy: "active", Cluster: new(feed.Feed[bridge.Cluster]).Get, Traffic: new(feed.Feed[bridge.Traffic]).Get,
					Counts: func() bridge.Counts { return bridge.Counts{Sessions: 2} },
				},
				{
					Name: "*.shop", Policy: "balance", Cluster: shop.Get, Traffic: open.Get, Counts: func() bridge.Counts { return bridge.Counts{} },
					Weights: func() map[string]int { return w.set }, HTTP: func() *api.HTTP { return w.http },
				},
			},
		},
		Commands: w.commands,
		Clock:    w.clock,
		Log:      slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelInfo})),
	}
	return w
}

// tick is a time of its own for every change.
func (w *world) tick() time.Time {
	return epochStart.Add(time.Duration(w.changed.Add(1)) * time.Nanosecond)
}

func (w *world) choose(backend, message, pin string) {
	c, _ := w.cluster.Get()
	c.Pin = pin
	for _, b := range c.Backends {
		if b.Name == backend && c.Active.Backend.Name != backend {
			chosen := b.Backend
			c.Active = bridge.Active{Host: c.Host, Backend: &chosen, Epoch: c.Active.Epoch + 1, Since: w.tick(), Reason: "operator: " + message}
		}
	}
	w.cluster.Put(c)
}

func (w *world) handler() http.Handler {
	a, err := api.New(w.options)
	Expect(err).NotTo(HaveOccurred())
	return a.Handler()
}

// request is one call; the default is that of an operator on the machine.
type request struct {
	method, path, body string
	header             map[string]string
	host               string
	// chunked hides the body's length.
	chunked bool
	// gone: the client has left by now.
	gone bool
}

// recorder is one that has deadlines, as a connection has.
type recorder struct{ *httptest.ResponseRecorder }

func (recorder) SetReadDeadline(time.Time) error  { return nil }
func (recorder) SetWriteDeadline(time.Time) error { return nil }

func (q request) to(h http.Handler) *httptest.ResponseRecorder {
	var body io.Reader = strings.NewReader(q.body)
	if q.chunked {
		body = io.MultiReader(body)
	}
	r := httptest.NewRequest(q.method, q.path, body)
	r.Host = "127.0.0.1:9090"
	if q.host != "" {
		r.Host = q.host
	}
	if q.method == http.MethodPatch && !strings.HasPrefix(q.path, "/v0/") {
		r.Header.Set("Content-Type", "application/merge-patch+json")
	}
	for name, value := range q.header {
		if value == "" {
			r.Header.Del(name)
		} else {
			r.Header.Set(name, value)
		}
	}
	if q.gone {
		ctx, leave := context.WithCancel(r.Context())
		leave()
		r = r.WithContext(ctx)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(recorder{w}, r)
	return w
}

func get(h http.Handler, path string) *httptest.ResponseRecorder {
	return request{method: http.MethodGet, path: path}.to(h)
}

func patch(h http.Handler, path, body string) *httptest.ResponseRecorder {
	return request{method: http.MethodPatch, path: path, body: body}.to(h)
}

// problemIn checks the form of a problem document and returns it.
func problemIn(w *httptest.ResponseRecorder) api.Error {
	ExpectWithOffset(1, w.Header().Get("Content-Type")).To(Equal("application/problem+json"), w.Body.String())
	var e api.Error
	decoder := json.NewDecoder(w.Body)
	decoder.DisallowUnknownFields()
	ExpectWithOffset(1, decoder.Decode(&e)).To(Succeed())
	ExpectWithOffset(1, decoder.More()).To(BeFalse(), "one document")
	ExpectWithOffset(1, e.Status).To(Equal(w.Code))
	ExpectWithOffset(1, e.Title).To(Equal(http.StatusText(w.Code)))
	ExpectWithOffset(1, e.Type).NotTo(BeEmpty())
	ExpectWithOffset(1, e.Detail).NotTo(BeEmpty())
	return e
}
