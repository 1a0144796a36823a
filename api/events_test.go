package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/api"
	"switchboard/bridge"
	"switchboard/bridge/route"
	"switchboard/fixtures/spec"
	"switchboard/runner/process"
)

// within is how long what must happen may take on a busy machine.
const within = 20 * time.Second

// said is an event as a watcher got it, or a comment.
type said struct{ kind, id, data string }

// watcher reads a stream.
type watcher struct {
	response *http.Response
	events   chan said // closed at the end of the stream
	leave    func()
}

// next waits for an event that is no comment.
func (w *watcher) next() said {
	GinkgoHelper()
	for {
		var s said
		Eventually(w.events).WithTimeout(within).Should(Receive(&s))
		if s.kind != "" {
			return s
		}
	}
}

// told waits for an event of a kind, and passes over what comes before.
func (w *watcher) told(kind bridge.Kind) map[string]any {
	GinkgoHelper()
	for {
		if s := w.next(); s.kind == string(kind) {
			var data map[string]any
			Expect(json.Unmarshal([]byte(s.data), &data)).To(Succeed())
			Expect(data).To(HaveKeyWithValue("kind", s.kind))
			return data
		}
	}
}

// serving is an API behind a server, as a router has it.
type serving struct {
	api    *api.API
	server *process.HTTP
	signal chan os.Signal
	ended  chan error
}

func (s *serving) url(path string) string { return "http://" + s.server.Addr().String() + path }

// stop tells the server to stop and returns what its Run does.
func (s *serving) stop() error {
	GinkgoHelper()
	s.signal <- syscall.SIGTERM
	var err error
	Eventually(s.ended).WithTimeout(within).Should(Receive(&err))
	s.ended <- err
	return err
}

func (w *world) serve(change func(*process.HTTP)) *serving {
	GinkgoHelper()
	a, err := api.New(w.options)
	Expect(err).NotTo(HaveOccurred())
	return serveAPI(a, change)
}

func serveAPI(a *api.API, change func(*process.HTTP)) *serving {
	GinkgoHelper()
	s := &serving{api: a, signal: make(chan os.Signal, 2), ended: make(chan error, 1)}
	s.server = &process.HTTP{Bind: "127.0.0.1:0", Handler: a.Handler(), MaxConns: 2000, Drain: -1}
	if change != nil {
		change(s.server)
	}
	ready := make(chan struct{})
	go func() { s.ended <- s.server.Run(s.signal, ready) }()
	Eventually(ready).WithTimeout(within).Should(BeClosed())
	DeferCleanup(func() {
		s.signal <- os.Interrupt
		Eventually(s.ended).WithTimeout(within).Should(Receive(BeNil()))
	})
	return s
}

// watch opens a stream and reads it.
func (s *serving) watch(path, last string) *watcher {
	GinkgoHelper()
	ctx, cancel := context.WithCancel(context.Background())
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url(path), nil)
	Expect(err).NotTo(HaveOccurred())
	if last != "" {
		r.Header.Set("Last-Event-ID", last)
	}
	response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(r)
	Expect(err).NotTo(HaveOccurred())
	w := &watcher{response: response, events: make(chan said, 10_000)}
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer close(w.events)
		w.read()
	}()
	w.leave = sync.OnceFunc(func() {
		cancel()
		<-read
		response.Body.Close()
	})
	DeferCleanup(w.leave)
	return w
}

// read reads the stream as WHATWG HTML, section 9.2.6, has it.
func (w *watcher) read() {
	var s said
	lines := bufio.NewScanner(w.response.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case lines.Text() == "":
			if s != (said{}) {
				w.events <- s
			}
			s = said{}
		case name == "":
			w.events <- said{}
		case name == "event":
			s.kind = value
		case name == "id":
			s.id = value
		case name == "data":
			s.data = value
		}
	}
}

// healthOf is an event that says which one it is.
func healthOf(n int) bridge.Event {
	return bridge.Event{Kind: bridge.BackendHealth, At: epochStart, Host: "db.main",
		Health: &bridge.Health{Host: "db.main", Backend: "db-1", Healthy: n%2 == 0, Detail: strconv.Itoa(n)}}
}

var _ = Describe("GET /events", func() {
	var (
		w     *world
		clock *spec.Clock
	)

	BeforeEach(func() {
		spec.CheckLeaks()
		w = newWorld()
		clock = spec.NewClock()
		w.options.Clock = clock
	})

	// pass lets seconds pass, one after the other.
	pass := func(seconds int) {
		GinkgoHelper()
		for range seconds {
			Eventually(clock.Waiting).WithTimeout(within).Should(Equal(1))
			clock.Advance(time.Second)
		}
	}

	It("begins with the merged state, as GET /cluster has it", func() {
		s := w.serve(nil)
		watcher := s.watch("/events", "")
		Expect(watcher.response.StatusCode).To(Equal(http.StatusOK))
		Expect(watcher.response.Header).To(And(
			HaveKeyWithValue("Content-Type", []string{"text/event-stream"}), HaveKeyWithValue("Cache-Control", []string{"no-store"}),
			HaveKeyWithValue("X-Accel-Buffering", []string{"no"})))
		first := watcher.next()
		Expect(first.kind).To(Equal("snapshot"))
		Expect(first.id).To(MatchRegexp(`^[0-9a-f]{16}-0$`))
		Expect(first.data).To(MatchJSON(get(s.api.Handler(), "/cluster").Body.String()))
	})

	DescribeTable("tells a change in the members of GET /cluster",
		func(e bridge.Event, data string) {
			watcher := w.serve(nil).watch("/events", "")
			mark, _, _ := strings.Cut(watcher.next().id, "-")
			e.At = epochStart
			w.journal.Append(e)
			got := watcher.next()
			Expect(got.kind).To(Equal(string(e.Kind)))
			Expect(got.id).To(Equal(mark + "-1"))
			Expect(got.data).To(MatchJSON(data))
		},
		Entry("a failover", bridge.Event{Kind: bridge.NewActiveBackend, Host: "db.main", Active: &bridge.Active{
			Host: "db.main", Backend: &route.Backend{Name: "db-1", Address: "10.0.0.2:3306"}, Epoch: 4, Since: epochStart, Reason: "unhealthy: db-0: status 500"}},
			`{"kind": "NEW_ACTIVE_BACKEND", "at": "2026-03-01T12:00:00Z", "host": "db.main",
			"active": {"name": "db-1", "address": "10.0.0.2:3306"}, "epoch": 4, "since": "2026-03-01T12:00:00Z", "reason": "unhealthy: db-0: status 500"}`),
		Entry("nobody active", bridge.Event{Kind: bridge.NewActiveBackend, Host: "db.main", Active: &bridge.Active{Host: "db.main", Epoch: 5, Since: epochStart}},
			`{"kind": "NEW_ACTIVE_BACKEND", "at": "2026-03-01T12:00:00Z", "host": "db.main", "active": null, "epoch": 5, "since": "2026-03-01T12:00:00Z", "reason": ""}`),
		Entry("health", healthOf(7), `{"kind": "BACKEND_HEALTH", "at": "2026-03-01T12:00:00Z", "host": "db.main", "backend": "db-1", "healthy": false, "detail": "7"}`),
		Entry("the router's traffic", bridge.Event{Kind: bridge.TrafficDisabled, Traffic: &bridge.Traffic{Message: "two\nlines\u2028", LastUpdated: epochStart, DrainUntil: epochStart}},
			`{"kind": "TRAFFIC_DISABLED", "at": "2026-03-01T12:00:00Z", "trafficEnabled": false, "message": "two\nlines\u2028",
			"lastUpdated": "2026-03-01T12:00:00Z", "drainUntil": "2026-03-01T12:00:00Z"}`),
		Entry("a host's traffic", bridge.Event{Kind: bridge.TrafficEnabled, Host: "db.main", Traffic: &bridge.Traffic{Host: "db.main", Enabled: true}},
			`{"kind": "TRAFFIC_ENABLED", "at": "2026-03-01T12:00:00Z", "host": "db.main", "trafficEnabled": true, "message": "", "lastUpdated": null, "drainUntil": null}`),
		Entry("a pin", bridge.Event{Kind: bridge.Pinned, Host: "db.main", Pin: &bridge.Pin{Host: "db.main", Backend: "db-1", Message: "x"}},
			`{"kind": "PINNED", "at": "2026-03-01T12:00:00Z", "host": "db.main", "pin": "db-1", "message": "x"}`),
		Entry("the end of it", bridge.Event{Kind: bridge.Unpinned, Host: "db.main", Pin: &bridge.Pin{Host: "db.main"}},
			`{"kind": "UNPINNED", "at": "2026-03-01T12:00:00Z", "host": "db.main", "pin": null, "message": ""}`),
		Entry("weights", bridge.Event{Kind: bridge.WeightsChanged, Host: "*.shop", Weights: &bridge.Weights{Host: "*.shop", Set: map[string]int{"app-0": 2}, Message: "x"}},
			`{"kind": "WEIGHTS_CHANGED", "at": "2026-03-01T12:00:00Z", "host": "*.shop", "weights": {"app-0": 2}, "message": "x"}`),
		Entry("the table", bridge.Event{Kind: bridge.TableChanged, Table: &bridge.TableChange{Hosts: 3}},
			`{"kind": "TABLE_CHANGED", "at": "2026-03-01T12:00:00Z", "hosts": 3}`),
	)

	It("tells all watchers, in order", func() {
		s := w.serve(nil)
		var watchers []*watcher
		for range 20 {
			watchers = append(watchers, s.watch("/events", ""))
			Expect(watchers[len(watchers)-1].next().kind).To(Equal("snapshot"))
		}
		for n := range 100 {
			w.journal.Append(healthOf(n))
		}
		for _, watcher := range watchers {
			for n := range 100 {
				Expect(watcher.next().data).To(ContainSubstring(fmt.Sprintf(`"detail":"%d"`, n)))
			}
		}
	})

	It("begins with a state that is as new as the number that it has", func() {
		s := w.serve(nil)
		first := s.watch("/events", "")
		Expect(first.next().id).To(HaveSuffix("-0"))
		w.choose("db-1", "moving", "")
		w.journal.Append(healthOf(1))
		second := s.watch("/events", "").next()
		Expect(second.id).To(HaveSuffix("-1"))
		Expect(second.data).To(ContainSubstring(`"active":{"name":"db-1"`))
		Expect(first.next().id).To(Equal(second.id))
	})

	Context("when a watcher comes back", func() {
		It("goes on where it was, also with what happened while nobody watched", func() {
			s := w.serve(nil)
			watcher := s.watch("/events", "")
			watcher.next()
			w.journal.Append(healthOf(1))
			last := watcher.next().id
			watcher.leave()
			Eventually(s.api.Watchers).WithTimeout(within).Should(BeZero())
			for n := range 2 {
				w.journal.Append(healthOf(2 + n))
			}
			watcher = s.watch("/events", last)
			Expect(watcher.next().data).To(ContainSubstring(`"detail":"2"`))
			Expect(watcher.next().data).To(ContainSubstring(`"detail":"3"`))
			w.journal.Append(healthOf(4))
			again := s.watch("/events", watcher.next().id)
			w.journal.Append(healthOf(5))
			Expect(again.next().data).To(ContainSubstring(`"detail":"5"`), "nothing before it")
		})

		It("is told all counts, as they may have changed meanwhile", func() {
			s := w.serve(nil)
			watcher := s.watch("/events", "")
			last := watcher.next().id
			watcher = s.watch("/events", last)
			pass(1)
			Expect(watcher.told(bridge.SessionCount)).NotTo(HaveKey("host"))
			Expect(watcher.told(bridge.SessionCount)).To(HaveKeyWithValue("host", "db.main"))
		})

		DescribeTable("begins anew with an ID that is not ours, or too old",
			func(id func(mark string) string) {
				s := w.serve(nil)
				watcher := s.watch("/events", "")
				mark, _, _ := strings.Cut(watcher.next().id, "-")
				for n := range 1100 {
					w.journal.Append(healthOf(n))
				}
				for range 1100 {
					if watcher.next().id == mark+"-1100" {
						break
					}
				}
				Expect(s.watch("/events", id(mark)).next().kind).To(Equal("snapshot"))
			},
			Entry("of another run", func(string) string { return "0123456789abcdef-3" }),
			Entry("of the future", func(mark string) string { return mark + "-1101" }),
			Entry("forgotten", func(mark string) string { return mark + "-75" }),
			Entry("without a number", func(mark string) string { return mark }),
			Entry("that is no number", func(mark string) string { return mark + "--1" }),
			Entry("too great a number", func(mark string) string { return mark + "-18446744073709551615" }),
			Entry("too long a number", func(mark string) string { return mark + "-99999999999999999999" }),
		)

		It("never takes the ID of another run for its own", func() {
			one, other := w.serve(nil), w.serve(nil)
			w.journal.Append(healthOf(1))
			id := one.watch("/events", "").next().id
			Expect(other.watch("/events", id).next().kind).To(Equal("snapshot"))
		})
	})

	It("has a comment in it every ten seconds", func() {
		watcher := w.serve(nil).watch("/events", "")
		watcher.next()
		pass(1)
		for range 4 { // the counts, of the router and its hosts
			Expect(watcher.told(bridge.SessionCount)).To(HaveKey("currentSessionCount"))
		}
		pass(8)
		Consistently(watcher.events, "50ms").ShouldNot(Receive())
		pass(1)
		Eventually(watcher.events).WithTimeout(within).Should(Receive(Equal(said{})))
		pass(10)
		Eventually(watcher.events).WithTimeout(within).Should(Receive(Equal(said{})))
	})

	It("tells counts that have changed, once a second, and leaves the ID as it is", func() {
		var mu sync.Mutex
		sessions := 7
		set := func(n int) {
			mu.Lock()
			defer mu.Unlock()
			sessions = n
		}
		now := func() int {
			mu.Lock()
			defer mu.Unlock()
			return sessions
		}
		w.options.Sources.Sessions = now
		w.options.Sources.Hosts[0].Counts = func() bridge.Counts {
			n := now()
			return bridge.Counts{Sessions: n, Backends: map[string]int{"db-0": n}, Parked: 1}
		}
		watcher := w.serve(nil).watch("/events", "")
		watcher.next()
		pass(1)
		Expect(watcher.told(bridge.SessionCount)).NotTo(HaveKey("host"))
		for _, host := range []string{"db.main", "db.side", "*.shop"} {
			Expect(watcher.told(bridge.SessionCount)).To(HaveKeyWithValue("host", host), "all, a second after it has come")
		}
		set(8)
		set(9)
		pass(1)
		got := watcher.next()
		Expect(got.id).To(BeEmpty())
		Expect(got.data).To(MatchJSON(`{"kind": "SESSION_COUNT", "at": "2026-01-01T00:00:02Z", "currentSessionCount": 9, "parked": 0, "backends": {}}`))
		Expect(watcher.next().data).To(MatchJSON(`{"kind": "SESSION_COUNT", "at": "2026-01-01T00:00:02Z", "host": "db.main",
			"currentSessionCount": 9, "parked": 1, "backends": {"db-0": 9}}`))
		pass(3)
		Consistently(watcher.events, "50ms").ShouldNot(Receive())
	})

	It("shows one host and the router's own, if it is asked for that", func() {
		tableOf(w, accepting(nil))
		s := w.serve(nil)
		watcher := s.watch("/events?host=FAR.test", "")
		var snapshot api.Cluster
		Expect(json.Unmarshal([]byte(watcher.next().data), &snapshot)).To(Succeed())
		Expect(snapshot.Clusters).To(ConsistOf(HaveField("Host", "far.test")))
		Expect(snapshot.Table.Serial).To(BeEquivalentTo(7))
		w.journal.Append(healthOf(1))
		w.journal.Append(bridge.Event{Kind: bridge.TrafficEnabled, Host: "far.test", Traffic: &bridge.Traffic{Enabled: true}})
		w.journal.Append(bridge.Event{Kind: bridge.TrafficDisabled, Traffic: &bridge.Traffic{}})
		Expect(watcher.next().kind).To(Equal("TRAFFIC_ENABLED"))
		Expect(watcher.next().kind).To(Equal("TRAFFIC_DISABLED"))
		Expect(problemIn(get(s.api.Handler(), "/events?host=none.test"))).To(HaveField("Type", "urn:switchboard:problem:unknown-host"))
	})

	It("does nothing while nobody watches", func() {
		s := w.serve(nil)
		before := spec.NoteLeaks()
		Expect(clock.Waiting()).To(BeZero())
		watcher := s.watch("/events", "")
		watcher.next()
		Eventually(clock.Waiting).WithTimeout(within).Should(Equal(1))
		watcher.leave()
		Eventually(s.api.Watchers).WithTimeout(within).Should(BeZero())
		Expect(clock.Waiting()).To(BeZero())
		before.Expect()
	})

	It("refuses watchers beyond the limit, until one has left", func() {
		w.options.Streams = 2
		s := w.serve(nil)
		first := s.watch("/events", "")
		s.watch("/events", "")
		refused := get(s.api.Handler(), "/events")
		Expect(refused.Header().Get("Retry-After")).To(Equal("5"))
		Expect(problemIn(refused)).To(And(HaveField("Status", 503), HaveField("Type", "urn:switchboard:problem:too-many-streams")))
		Expect(get(s.api.Handler(), "/cluster").Code).To(Equal(http.StatusOK))
		first.leave()
		Eventually(s.api.Watchers).WithTimeout(within).Should(Equal(1))
		Expect(s.watch("/events", "").next().kind).To(Equal("snapshot"))
	})

	It("is not cut by the bounds that a server has for requests", func() {
		watcher := w.serve(func(h *process.HTTP) { h.ReadTimeout, h.WriteTimeout = 50*time.Millisecond, 50*time.Millisecond }).watch("/events", "")
		watcher.next()
		Consistently(watcher.events, "250ms").ShouldNot(BeClosed())
		w.journal.Append(healthOf(1))
		Expect(watcher.next().kind).To(Equal("BACKEND_HEALTH"))
	})

	It("answers HEAD, and a server that cannot stream", func() {
		h := w.handler()
		head := request{method: http.MethodHead, path: "/events"}.to(h)
		Expect(head.Code).To(Equal(http.StatusOK))
		Expect(head.Header().Get("Content-Type")).To(Equal("text/event-stream"))
		plain := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, "/events", nil)
		r.Host = "127.0.0.1"
		h.ServeHTTP(plain, r)
		Expect(problemIn(plain).Status).To(Equal(http.StatusInternalServerError))
		w.options.Sources.Journal = nil
		Expect(problemIn(get(w.handler(), "/events"))).To(HaveField("Type", "urn:switchboard:problem:no-events"))
	})

	Context("when the server stops", func() {
		It("ends at once", func() {
			s := w.serve(func(h *process.HTTP) { h.Drain = time.Hour })
			watcher := s.watch("/events", "")
			watcher.next()
			Expect(s.stop()).To(Succeed())
			Eventually(watcher.events).WithTimeout(within).Should(BeClosed())
		})

		It("ends for a watcher that reads nothing, when the server's patience does", func() {
			s := w.serve(func(h *process.HTTP) { h.Listener, h.Drain = narrowListener(), 50*time.Millisecond })
			dialDeaf(s.server.Addr().String())
			Eventually(s.api.Watchers).WithTimeout(within).Should(Equal(1))
			for n := range 1000 {
				w.journal.Append(healthOf(n))
			}
			Expect(s.stop()).To(Succeed())
			Eventually(s.api.Watchers).WithTimeout(within).Should(BeZero())
		})
	})

	It("gives a watcher that falls behind a new snapshot, and no queue", func() {
		s := w.serve(func(h *process.HTTP) { h.Listener = narrowListener() })
		conn := dialDeaf(s.server.Addr().String())
		Eventually(s.api.Watchers).WithTimeout(within).Should(Equal(1))
		const changes = 5000
		for n := range changes {
			w.journal.Append(healthOf(n))
			if n%500 == 0 {
				// Others see them, so they are all encoded and then forgotten.
				s.watch("/events", "").leave()
			}
		}
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		Expect(err).NotTo(HaveOccurred())
		reader := &watcher{response: response, events: make(chan said, changes)}
		go func() {
			defer close(reader.events)
			reader.read()
		}()
		snapshots, read := 0, 0
		for {
			got := reader.next()
			if got.kind == "snapshot" {
				snapshots++
			} else if read++; strings.Contains(got.data, strconv.Itoa(changes-1)) {
				break
			}
			if snapshots > 1 && strings.HasSuffix(got.id, "-"+strconv.Itoa(changes)) {
				break
			}
		}
		Expect(snapshots).To(BeNumerically(">", 1))
		Expect(read).To(BeNumerically("<", changes))
		conn.Close()
		Eventually(reader.events).WithTimeout(within).Should(BeClosed())
	})

	It("sends what is much to some at once, and to all, though others take nothing", func() {
		w.enlarge(1500, func() {})
		s := w.serve(nil)
		narrow := serveAPI(s.api, func(h *process.HTTP) { h.Listener = narrowListener() })
		for range 6 {
			dialDeaf(narrow.server.Addr().String())
		}
		Eventually(s.api.Watchers).WithTimeout(within).Should(Equal(6))
		var watchers []*watcher
		for range 6 {
			watchers = append(watchers, s.watch("/events", ""))
		}
		for _, watcher := range watchers {
			Expect(watcher.next().data).To(MatchJSON(get(s.api.Handler(), "/cluster").Body.String()))
		}
		pass(1)
		for _, watcher := range watchers {
			Expect(watcher.told(bridge.SessionCount)).NotTo(HaveKey("host"))
			for range 3 {
				watcher.next()
			}
			for n := range 1500 {
				Expect(watcher.next().data).To(ContainSubstring(fmt.Sprintf(`"host":"host-%d"`, n)))
			}
		}
	})

	It("drops a thousand watchers that never read, and tells the one that does (A11)", func() {
		const deaf = 1000
		w.options.Patience = time.Second
		s := w.serve(nil)
		narrow := serveAPI(s.api, func(h *process.HTTP) { h.Listener = narrowListener() })
		for range deaf {
			dialDeaf(narrow.server.Addr().String())
		}
		Eventually(s.api.Watchers).WithTimeout(within).Should(Equal(deaf))
		watcher := s.watch("/events", "")
		watcher.next()
		long := strings.Repeat("x", 2000)
		for n := range 40 {
			w.journal.Append(bridge.Event{Kind: bridge.TrafficEnabled, Traffic: &bridge.Traffic{Message: strconv.Itoa(n) + long}})
			Expect(watcher.next().data).To(ContainSubstring(fmt.Sprintf(`"message":"%dx`, n)))
		}
		Eventually(s.api.Watchers).WithTimeout(within).Should(Equal(1))
		w.journal.Append(healthOf(40))
		Expect(watcher.next().data).To(ContainSubstring(`"detail":"40"`))
	})
})

// narrow is a listener whose connections take little before a write waits.
type narrow struct{ net.Listener }

func narrowListener() net.Listener {
	GinkgoHelper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	Expect(err).NotTo(HaveOccurred())
	return narrow{l}
}

func (n narrow) Accept() (net.Conn, error) {
	conn, err := n.Listener.Accept()
	if err == nil {
		err = conn.(*net.TCPConn).SetWriteBuffer(4 << 10)
	}
	return conn, err
}

// dialDeaf asks for events and reads nothing.
func dialDeaf(address string) net.Conn {
	GinkgoHelper()
	dialer := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) {
			failed = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4<<10)
		})
		if err != nil {
			return err
		}
		return failed
	}}
	conn, err := dialer.Dial("tcp", address)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { conn.Close() })
	_, err = io.WriteString(conn, "GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
	Expect(err).NotTo(HaveOccurred())
	return conn
}
