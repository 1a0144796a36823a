package api_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/api"
	"switchboard/bridge"
	"switchboard/bridge/feed"
)

const hostJSON = `{
  "host": "db.main", "policy": "active", "active": {"name": "db-0", "address": "10.0.0.1:3306"},
  "epoch": 3, "since": "2026-03-01T12:00:00Z", "reason": "first election", "pin": null,
  "trafficEnabled": true, "message": "", "lastUpdated": null, "drainUntil": null, "currentSessionCount": 7,
  "backends": [
    {"name": "db-0", "address": "10.0.0.1:3306", "healthy": true, "active": true, "weight": 1, "currentSessionCount": 7,
     "check": {"at": "2026-03-01T12:00:00Z", "tookMs": 1.5, "detail": "synced"}},
    {"name": "db-1", "address": "10.0.0.2:3306", "healthy": true, "active": false, "weight": 2, "currentSessionCount": 0,
     "check": {"at": "2026-03-01T12:00:00Z", "tookMs": 0, "detail": ""}},
    {"name": "db-2", "address": "[fd00::3]:3306", "healthy": false, "active": false, "weight": 1, "currentSessionCount": 0,
     "check": {"at": null, "tookMs": 0, "detail": ""}}
  ]}`

const unknownHostJSON = `{
  "host": "db.side", "policy": "active", "active": null, "epoch": 0, "since": null, "reason": "", "pin": null,
  "trafficEnabled": false, "message": "", "lastUpdated": null, "drainUntil": null, "currentSessionCount": 2, "backends": []}`

const shopJSON = `{
  "host": "*.shop", "policy": "balance", "active": null, "epoch": 0, "since": null, "reason": "", "pin": null,
  "trafficEnabled": true, "message": "", "lastUpdated": null, "drainUntil": null, "currentSessionCount": 0, "backends": [
    {"name": "app-0", "address": "10.0.1.1:80", "healthy": true, "active": false, "weight": 2, "currentSessionCount": 0,
     "check": {"at": null, "tookMs": 0, "detail": ""}},
    {"name": "app/1", "address": "10.0.1.2:80", "healthy": true, "active": false, "weight": 1, "currentSessionCount": 0,
     "check": {"at": null, "tookMs": 0, "detail": ""}}
  ]}`

const trafficJSON = `{"trafficEnabled": true, "message": "", "lastUpdated": null, "drainUntil": null, "currentSessionCount": 9}`

var _ = Describe("Reading", func() {
	var (
		w *world
		h http.Handler
	)

	BeforeEach(func() {
		w = newWorld()
		h = w.handler()
	})

	DescribeTable("answers exactly",
		func(path, body string) {
			answer := get(h, path)
			Expect(answer.Code).To(Equal(http.StatusOK))
			Expect(answer.Body.String()).To(MatchJSON(body))
			Expect(answer.Header().Get("Content-Type")).To(Equal("application/json"))
			Expect(answer.Header().Get("X-Content-Type-Options")).To(Equal("nosniff"))
			Expect(answer.Header().Get("Cache-Control")).To(Equal("no-store"))
		},
		Entry("the cluster", "/cluster", `{"name": "router-1", "traffic": `+trafficJSON+`,
			"clusters": [`+hostJSON+`, `+unknownHostJSON+`, `+shopJSON+`], "currentSessionCount": 9}`),
		Entry("the traffic", "/traffic", trafficJSON),
		Entry("the hosts", "/hosts", `{"hosts": [`+hostJSON+`, `+unknownHostJSON+`, `+shopJSON+`]}`),
		Entry("a host that uses all its backends, with the weights in force", "/hosts/*.shop", shopJSON),
		Entry("a host", "/hosts/db.main", hostJSON),
		Entry("a host in capitals, as DNS has it", "/hosts/DB.Main", hostJSON),
		Entry("a host that nothing is known of yet", "/hosts/db.side", unknownHostJSON),
		Entry("no sessions", "/sessions", `{"sessions": []}`),
		Entry("health", "/healthz", `{"status": "alive"}`),
		Entry("readiness", "/readyz", `{"status": "ready"}`),
	)

	It("lists every backend with its host", func() {
		body := get(h, "/backends").Body.String()
		Expect(body).To(HavePrefix(`{"backends":[{"host":"db.main","name":"db-0","address":"10.0.0.1:3306","healthy":true,`))
		Expect(strings.Count(body, `"host":"db.main"`)).To(Equal(3))
	})

	It("shows a pin, a drain and a change as soon as their owners have said so", func() {
		w.choose("db-1", "moving", "db-1")
		until := epochStart.Add(30 * time.Second)
		w.host.Put(bridge.Traffic{Host: "db.main", Message: "off", LastUpdated: epochStart, DrainUntil: until})
		body := get(h, "/hosts/db.main").Body.String()
		Expect(body).To(ContainSubstring(`"active":{"name":"db-1","address":"10.0.0.2:3306"},"epoch":4,`))
		Expect(body).To(ContainSubstring(`"pin":"db-1","trafficEnabled":false,"message":"off",` +
			`"lastUpdated":"2026-03-01T12:00:00Z","drainUntil":"2026-03-01T12:00:30Z"`))
		w.counts.Sessions = 1
		Expect(get(h, "/cluster").Body.String()).To(ContainSubstring(`"currentSessionCount":3`))
	})

	It("shows what became of the lines of the access log, if there is one", func() {
		Expect(get(h, "/cluster").Body.String()).NotTo(ContainSubstring("accessLog"))
		log := &api.AccessLog{Written: 7, Dropped: map[string]int64{}}
		w.options.Sources.AccessLog = func() *api.AccessLog { return log }
		h = w.handler()
		Expect(get(h, "/cluster").Body.String()).To(ContainSubstring(`"accessLog":{"written":7,"dropped":{}}`))
		since := epochStart
		log = &api.AccessLog{Written: 7, Dropped: map[string]int64{"failed": 2}, Error: "no space left on device", ErrorSince: &since}
		Expect(get(h, "/cluster").Body.String()).To(ContainSubstring(
			`"accessLog":{"written":7,"dropped":{"failed":2},"error":"no space left on device","errorSince":"2026-03-01T12:00:00Z"}`))
	})

	It("shows what requests came to, of a host that was asked, and of the router if it speaks HTTP", func() {
		Expect(get(h, "/cluster").Body.String()).NotTo(ContainSubstring("refusals"))
		w.options.Sources.Refusals = func() map[string]int64 { return map[string]int64{"no_host": 3} }
		h = w.handler()
		half := 0.5
		w.http = &api.HTTP{
			Requests: 4, Classes: map[string]int64{"1xx": 0, "2xx": 3, "3xx": 0, "4xx": 0, "5xx": 1}, BytesFromClients: 5, BytesToClients: 6,
			Latency: api.Latency{SumMs: 7.5, Buckets: []api.Bucket{{LeMs: &half, Count: 3}, {Count: 4}}},
			Retries: 1, Refusals: map[string]int64{"no_backend": 1},
		}
		counted := `"http": {"requests": 4, "classes": {"1xx": 0, "2xx": 3, "3xx": 0, "4xx": 0, "5xx": 1}, "bytesFromClients": 5, "bytesToClients": 6,
			"latency": {"sumMs": 7.5, "buckets": [{"leMs": 0.5, "count": 3}, {"leMs": null, "count": 4}]}, "retries": 1, "refusals": {"no_backend": 1}}}`
		shop := strings.TrimSuffix(shopJSON, "}") + ", " + counted
		Expect(get(h, "/hosts/*.shop").Body.String()).To(MatchJSON(shop))
		Expect(get(h, "/cluster").Body.String()).To(MatchJSON(`{"name": "router-1", "traffic": ` + trafficJSON + `,
			"clusters": [` + hostJSON + `, ` + unknownHostJSON + `, ` + shop + `], "currentSessionCount": 9, "refusals": {"no_host": 3}}`))
	})

	It("writes times in UTC whatever zone they were taken in", func() {
		zone := time.FixedZone("somewhere", 3600)
		w.traffic.Put(bridge.Traffic{LastUpdated: epochStart.In(zone)})
		Expect(get(h, "/traffic").Body.String()).To(ContainSubstring(`"2026-03-01T12:00:00Z"`))
	})

	It("lists sessions, oldest first, by host and backend if asked", func() {
		w.commands.sessions = func() []bridge.SessionInfo {
			return []bridge.SessionInfo{
				{ID: "s-2", Protocol: bridge.WebSocket, Host: "db.main", Listener: "mysql", Backend: "db-1", Client: "192.0.2.7:1", Since: epochStart.Add(time.Second), ToBackend: 5, ToClient: 6},
				{ID: "s-3", Host: "db.side", Backend: "db-0", Since: epochStart.Add(time.Second)},
				{ID: "s-1", Host: "db.main", Backend: "db-0", Since: epochStart},
			}
		}
		Expect(get(h, "/sessions?host=db.main&backend=db-1").Body.String()).To(MatchJSON(`{"sessions": [{"id": "s-2", "protocol": "websocket", "host": "db.main",
			"listener": "mysql", "backend": "db-1", "client": "192.0.2.7:1", "since": "2026-03-01T12:00:01Z", "bytesToBackend": 5, "bytesToClient": 6}]}`))
		Expect(get(h, "/sessions").Body.String()).To(MatchRegexp(`"s-1".*"s-2".*"s-3"`))
		Expect(get(h, "/sessions?backend=db-0").Body.String()).To(MatchRegexp(`"s-1".*"s-3"`))
		Expect(get(h, "/sessions?host=nobody").Body.String()).To(MatchJSON(`{"sessions": []}`))
	})

	It("ends a session", func() {
		ended := make(chan string, 1)
		w.commands.endSession = func(_ context.Context, id string) error { ended <- id; return nil }
		answer := request{method: http.MethodDelete, path: "/sessions/s-1"}.to(h)
		Expect(answer.Code).To(Equal(http.StatusNoContent))
		Expect(answer.Body.Len()).To(BeZero())
		Expect(ended).To(Receive(Equal("s-1")))
		w.commands.endSession = func(context.Context, string) error { return bridge.ErrUnknownSession }
		answer = request{method: http.MethodDelete, path: "/sessions/s-1"}.to(h)
		Expect(answer.Code).To(Equal(http.StatusNotFound))
		Expect(problemIn(answer).Type).To(Equal("urn:switchboard:problem:unknown-session"))
	})

	It("says why it is not ready, and lives", func() {
		w.ready = errors.New("the listener mysql is not bound")
		answer := get(h, "/readyz")
		Expect(answer.Code).To(Equal(http.StatusServiceUnavailable))
		Expect(answer.Header().Get("Retry-After")).NotTo(BeEmpty())
		Expect(problemIn(answer).Detail).To(ContainSubstring("the listener mysql is not bound"))
		Expect(get(h, "/healthz").Code).To(Equal(http.StatusOK))
	})

	It("answers 304 to who has the newest state, and not after a change", func() {
		for _, path := range []string{"/traffic", "/hosts/db.main"} {
			tag := get(h, path).Header().Get("ETag")
			Expect(tag).To(MatchRegexp(`^"[0-9a-f]{24}"$`))
			for _, list := range []string{tag, "W/" + tag, `"other", ` + tag, "*"} {
				answer := request{method: http.MethodGet, path: path, header: map[string]string{"If-None-Match": list}}.to(h)
				Expect(answer.Code).To(Equal(http.StatusNotModified), list)
				Expect(answer.Body.Len()).To(BeZero())
				Expect(answer.Header().Get("ETag")).To(Equal(tag))
			}
			Expect(patch(h, path, `{"trafficEnabled":true}`).Code).To(Equal(http.StatusOK))
			answer := request{method: http.MethodGet, path: path, header: map[string]string{"If-None-Match": tag}}.to(h)
			Expect(answer.Code).To(Equal(http.StatusOK))
		}
	})

	It("keeps the ETag while only counts and check times change", func() {
		tag := get(h, "/hosts/db.main").Header().Get("ETag")
		w.counts = bridge.Counts{Sessions: 99}
		c, _ := w.cluster.Get()
		c.Backends = []bridge.BackendState{{Backend: c.Backends[0].Backend, CheckedAt: epochStart.Add(time.Hour)}}
		w.cluster.Put(c)
		Expect(get(h, "/hosts/db.main").Header().Get("ETag")).To(Equal(tag))
		c.Active.Epoch++
		w.cluster.Put(c)
		Expect(get(h, "/hosts/db.main").Header().Get("ETag")).NotTo(Equal(tag))
	})

	It("changes the ETag with everything an operator can write", func() {
		tags := map[string]bool{}
		note := func() { tags[get(h, "/hosts/db.main").Header().Get("ETag")] = true }
		note()
		c, _ := w.cluster.Get()
		c.Pin = "db-0"
		w.cluster.Put(c)
		note()
		c.Active.Backend = nil
		w.cluster.Put(c)
		note()
		for _, flag := range []bridge.Traffic{
			{Enabled: false},
			{Enabled: false, Message: "m"},
			{Enabled: false, Message: "m", LastUpdated: epochStart},
			{Enabled: false, Message: "m", LastUpdated: epochStart, DrainUntil: epochStart.Add(time.Second)},
		} {
			w.host.Put(flag)
			note()
		}
		Expect(tags).To(HaveLen(7))

		tag := get(h, "/hosts/*.shop").Header().Get("ETag")
		w.http = &api.HTTP{Requests: 1}
		Expect(get(h, "/hosts/*.shop").Header().Get("ETag")).To(Equal(tag))
		w.set = map[string]int{"app-0": 3}
		Expect(get(h, "/hosts/*.shop").Header().Get("ETag")).NotTo(Equal(tag))
	})

	It("answers HEAD as GET, without the body", func() {
		for _, path := range []string{"/cluster", "/traffic", "/hosts", "/hosts/db.main", "/backends", "/sessions", "/healthz", "/readyz"} {
			whole := get(h, path)
			head := request{method: http.MethodHead, path: path}.to(h)
			Expect(head.Code).To(Equal(http.StatusOK), path)
			Expect(head.Body.Len()).To(BeZero(), path)
			Expect(head.Header()).To(Equal(whole.Header()), path)
		}
	})

	DescribeTable("refuses what is not there",
		func(method, path string, status int, allow string) {
			answer := request{method: method, path: path, body: `{"trafficEnabled":false,"message":"x"}`,
				header: map[string]string{"X-HTTP-Method-Override": "PATCH"}}.to(h)
			Expect(answer.Code).To(Equal(status))
			Expect(answer.Header().Get("Allow")).To(Equal(allow))
			Expect(answer.Header()).NotTo(HaveKey("Location"))
			if method != http.MethodHead {
				problemIn(answer)
			}
			Expect(w.commands.calls.Load()).To(BeZero())
		},
		Entry("the dashboard", "GET", "/", 404, ""),
		Entry("an unknown path", "GET", "/nothing", 404, ""),
		Entry("a trailing slash", "GET", "/traffic/", 404, ""),
		Entry("a trailing slash on a write", "PATCH", "/traffic/", 404, ""),
		Entry("a host without a name", "GET", "/hosts/", 404, ""),
		Entry("an unknown host", "GET", "/hosts/nobody", 404, ""),
		Entry("a write to an unknown host", "PATCH", "/hosts/nobody", 404, ""),
		Entry("another case", "GET", "/Traffic", 404, ""),
		Entry("two slashes", "GET", "//traffic", 404, ""),
		Entry("a path that climbs", "GET", "/hosts/../../etc/passwd", 404, ""),
		Entry("an encoded path that climbs", "GET", "/hosts/..%2f..%2fetc%2fpasswd", 404, ""),
		Entry("a NUL", "GET", "/hosts/db.main%00", 404, ""),
		Entry("profiling", "GET", "/debug/pprof/", 404, ""),
		Entry("variables", "GET", "/debug/vars", 404, ""),
		Entry("POST with an override", "POST", "/traffic", 405, "GET, HEAD, PATCH"),
		Entry("OPTIONS", "OPTIONS", "/traffic", 405, "GET, HEAD, PATCH"),
		Entry("PUT on a host", "PUT", "/hosts/db.main", 405, "GET, HEAD, PATCH"),
		Entry("PATCH of what cannot be changed", "PATCH", "/cluster", 405, "GET, HEAD"),
		Entry("GET of one session", "GET", "/sessions/s-1", 405, "DELETE"),
		Entry("TRACE", "TRACE", "/traffic", 405, "GET, HEAD, PATCH"),
		Entry("a method nobody knows", "FROB", "/traffic", 405, "GET, HEAD, PATCH"),
		Entry("a parameter", "GET", "/traffic?x=1", 400, ""),
		Entry("a parameter that looks like a change", "PATCH", "/traffic?trafficEnabled=false", 400, ""),
		Entry("an unknown parameter of sessions", "GET", "/sessions?node=1", 400, ""),
		Entry("a parameter twice", "GET", "/sessions?host=a&host=b", 400, ""),
		Entry("a query that cannot be read", "GET", "/sessions?host=%zz", 400, ""),
	)

	It("answers a panic with one problem and no stack", func() {
		w.commands.sessions = func() []bridge.SessionInfo { panic("the secret is 42") }
		answer := get(h, "/sessions")
		Expect(answer.Code).To(Equal(http.StatusInternalServerError))
		Expect(answer.Body.String()).NotTo(ContainSubstring("secret"))
		Expect(answer.Body.String()).NotTo(ContainSubstring(".go"))
		problemIn(answer)
		Expect(w.log.String()).To(ContainSubstring("the secret is 42"))
	})

	It("lets a handler abort a connection", func() {
		w.commands.sessions = func() []bridge.SessionInfo { panic(http.ErrAbortHandler) }
		Expect(func() { get(h, "/sessions") }).To(PanicWith(http.ErrAbortHandler))
	})
})

var _ = Describe("GET /metrics", func() {
	var w *world
	BeforeEach(func() { w = newWorld() })

	It("is what the router's program makes of it", func() {
		Expect(problemIn(get(w.handler(), "/metrics"))).To(And(HaveField("Status", 404), HaveField("Type", "urn:switchboard:problem:no-metrics")))
		w.options.Metrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("up 1\n")) })
		answer := get(w.handler(), "/metrics")
		Expect(answer.Code).To(Equal(http.StatusOK))
		Expect(answer.Body.String()).To(Equal("up 1\n"))
		Expect(request{method: http.MethodGet, path: "/metrics", host: "evil.test"}.to(w.handler()).Code).To(Equal(http.StatusMisdirectedRequest))
	})

	It("is answered to so many at once, and the others wait for as long as a command may take", func() {
		begun, finish := make(chan struct{}), make(chan struct{})
		w.options.CommandTimeout = 50 * time.Millisecond
		w.options.Metrics = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			begun <- struct{}{}
			<-finish
		})
		h := w.handler()
		var scrapes sync.WaitGroup
		for range api.MaxScrapes {
			scrapes.Go(func() { get(h, "/metrics") })
			<-begun
		}
		Expect(problemIn(get(h, "/metrics"))).To(And(HaveField("Status", 503), HaveField("Type", "urn:switchboard:problem:busy")))
		close(finish)
		scrapes.Wait()
		scrapes.Go(func() { get(h, "/metrics") })
		Eventually(begun).Should(Receive())
		scrapes.Wait()
	})
})

var _ = Describe("New", func() {
	DescribeTable("refuses options that cannot work",
		func(spoil func(*api.Options), words string) {
			w := newWorld()
			spoil(&w.options)
			a, err := api.New(w.options)
			Expect(a).To(BeNil())
			Expect(err).To(MatchError(ContainSubstring(words)))
		},
		Entry("no commands", func(o *api.Options) { o.Commands = nil }, "Commands is needed"),
		Entry("no traffic", func(o *api.Options) { o.Sources.Traffic = nil }, "Sources.Traffic is needed"),
		Entry("no readiness", func(o *api.Options) { o.Sources.Ready = nil }, "Sources.Ready is needed"),
		Entry("a host without feeds", func(o *api.Options) { o.Sources.Hosts[0].Cluster = nil }, `the host "db.main"`),
		Entry("a host twice", func(o *api.Options) { o.Sources.Hosts[1].Name = "DB.main" }, "is there twice"),
		Entry("a username alone", func(o *api.Options) { o.Username = "admin" }, "both Username and Password"),
		Entry("a password alone", func(o *api.Options) { o.Password = "secret" }, "both Username and Password"),
		Entry("a negative timeout", func(o *api.Options) { o.CommandTimeout = -1 }, "must not be negative"),
		Entry("a negative number of streams", func(o *api.Options) { o.Streams = -1 }, "set Streams to 0 or more"),
		Entry("no patience", func(o *api.Options) { o.Patience = time.Microsecond }, "1ms at least"),
	)

	It("needs neither log nor clock", func() {
		w := newWorld()
		w.options.Log, w.options.Clock = nil, nil
		Expect(get(w.handler(), "/cluster").Code).To(Equal(http.StatusOK))
	})

	It("shows a router without hosts", func() {
		w := newWorld()
		w.options.Sources = api.Sources{Traffic: new(feed.Feed[bridge.Traffic]), Ready: func() error { return nil }, Sessions: func() int { return 0 }}
		answer := get(w.handler(), "/cluster")
		Expect(answer.Body.String()).To(ContainSubstring(`"clusters":[]`))
	})
})
