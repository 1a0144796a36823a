package main_test

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/fixtures/servers"
	"switchboard/fixtures/spec"
	"switchboard/pacemaker/table"
)

// soaking is a router under a mixed load, whose backends are killed and started, and
// which operators change all the time.
type soaking struct {
	*soakRouter
	*load
	db, secret, web *crew
	traffic         turmoil // of the whole router; it is turmoil of each crew too
	access          string
	writer          *table.Writer
	pool            *x509.CertPool
	// apps serve the hosts of the table, each of which is two of them.
	apps  []table.Member
	names []string
	sites []*spec.Backend
	// transports are those of the load.
	transports []*http.Transport
	down       string // the backend that is killed, if one is
}

// tableHosts are how many hosts the table has.
const tableHosts = 40

func tableHost(i int) string { return fmt.Sprintf("t-%d.test", i) }

// pairOf are the two apps of a host of the table.
func (s *soaking) pairOf(host int) (members []table.Member, names []string) {
	a, b := host%len(s.apps), (host+1)%len(s.apps)
	return []table.Member{s.apps[a], s.apps[b]}, []string{s.names[a], s.names[b]}
}

// startSoaking starts all there is, and waits until it is ready.
func startSoaking() *soaking {
	GinkgoHelper()
	s := &soaking{access: filepath.Join(GinkgoT().TempDir(), "access.log")}
	redis := spec.StartRedis(&servers.Redis{})
	cert, key, pool := spec.WriteCertificate("web.test", "secret.test")
	s.pool = pool
	pair, err := tls.LoadX509KeyPair(cert, key)
	Expect(err).NotTo(HaveOccurred())
	s.db = startCrew(func(name string) *spec.Backend { return spec.StartBackend(spec.Named(name)) }, "db-0", "db-1", "db-2")
	s.secret = startCrew(startSecret(&tls.Config{Certificates: []tls.Certificate{pair}}), "secret-0", "secret-1")
	s.web = startCrew(startInstance, "web-0", "web-1", "web-2")
	for i := range 4 {
		name := fmt.Sprintf("app-%d", i)
		site := startInstance(name)
		s.sites, s.names = append(s.sites, site), append(s.names, name)
		s.apps = append(s.apps, table.Member{Address: netip.MustParseAddrPort(site.Addr()), Type: "web", Node: "n-1", Instance: name})
	}
	s.writer, err = table.NewWriter(table.WriterOptions{Client: tableClient(redis.Redis)})
	Expect(err).NotTo(HaveOccurred())
	for i := range tableHosts {
		members, _ := s.pairOf(i)
		s.apply(table.Add(tableHost(i), members...))
	}
	s.soakRouter = startSoakRouter(write("router.yaml", fmt.Sprintf(`
name: soak
listeners:
  - {name: db, bind: "127.0.0.1:0", host: db.main}
  - {name: names, bind: "127.0.0.1:0", protocol: tls}
  - {name: web, bind: "127.0.0.1:0", protocol: http}
  - {name: webs, bind: "127.0.0.1:0", protocol: https, tls: {certificates: [{cert: %q, key: %q}]}}
hosts:
  - {name: db.main, check: {type: tcp, interval: 100ms, timeout: 5s}, backends: %s}
  - {name: secret.test, check: {type: tcp, interval: 100ms, timeout: 5s}, backends: %s}
  - name: web.test
    policy: balance
    http: {pool_idle: 2s, retries: 2}
    check: {type: http, path: /healthz, interval: 100ms, timeout: 5s}
    backends: %s
redis: {url: %q}
state: %q
api: {bind: "127.0.0.1:0"}
log: {access: %q}
`, cert, key, s.db.yaml(), s.secret.yaml(), s.web.yaml(), redis.URL(), filepath.Join(GinkgoT().TempDir(), "state"), s.access)))
	Eventually(status).WithArguments(s.api + "/readyz").WithTimeout(within).Should(Equal(http.StatusOK))
	for host, c := range s.crews() {
		for _, name := range c.names {
			s.awaitHealth(host, name, true)
		}
	}
	return s
}

// begin begins the load.
func (s *soaking) begin() {
	GinkgoHelper()
	secret := &tls.Dialer{Config: &tls.Config{RootCAs: s.pool, ServerName: "secret.test"}}
	s.load = newLoad()
	s.addSessions("db", s.db, dialer(s.listeners["db"]))
	s.addSessions("TLS", s.secret, func(ctx context.Context) (net.Conn, error) {
		return secret.DialContext(ctx, "tcp", s.listeners["names"])
	})
	plain := s.transport(&http.Transport{MaxIdleConnsPerHost: 8})
	encrypted := s.transport(&http.Transport{
		MaxIdleConnsPerHost: 8, ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: s.pool, ServerName: "web.test"},
	})
	s.addVisitors("HTTP/1.1", s.web, &s.traffic, "http://"+s.listeners["web"], "web.test", plain)
	s.addVisitors("HTTP/2", s.web, &s.traffic, "https://"+s.listeners["webs"], "web.test", encrypted)
	s.addSockets(s.web, s.listeners["web"], "web.test", plain)
	s.add("reset request", 1, 200*time.Millisecond, &s.traffic, func(context.Context) error {
		conn, err := net.Dial("tcp", s.listeners["web"])
		if err == nil {
			_, err = fmt.Fprintf(conn, "POST /echo HTTP/1.1\r\nHost: web.test\r\nContent-Length: 100000\r\n\r\n%s", noise(50_000))
			reset(conn)
		}
		return err
	})
	s.add("table GET", 4, 200*time.Millisecond, &s.traffic, func(context.Context) error {
		host := rand.IntN(tableHosts)
		_, names := s.pairOf(host)
		return visit(plain, "http://"+s.listeners["web"], tableHost(host), names)
	})
	s.add("table change", 1, 100*time.Millisecond, new(turmoil), func(context.Context) error { return s.reroute() })
	asking := s.transport(new(http.Transport))
	s.add("API GET", 1, 200*time.Millisecond, new(turmoil), func(context.Context) error { return s.readAPI(asking) })
	s.add("API events", 1, 2*time.Second, new(turmoil), func(ctx context.Context) error { return s.followEvents(ctx, asking) })
}

// transport has its connections closed when the load ends.
func (s *soaking) transport(t *http.Transport) *http.Transport {
	s.transports = append(s.transports, t)
	return t
}

func (s *soaking) crews() map[string]*crew {
	return map[string]*crew{"db.main": s.db, "secret.test": s.secret, "web.test": s.web}
}

func (s *soaking) apply(changes ...table.Change) {
	GinkgoHelper()
	_, err := s.writer.Apply(context.Background(), changes...)
	Expect(err).NotTo(HaveOccurred())
}

// reroute gives a host of the table the one, the other or both of its apps, and has
// another host come or go.
func (s *soaking) reroute() error {
	host := rand.IntN(tableHosts)
	members, _ := s.pairOf(host)
	some := [][]table.Member{members, members[:1], members[1:]}[rand.IntN(3)]
	passing := []table.Change{table.Add("passing.test", members...), table.Drop("passing.test")}[rand.IntN(2)]
	_, err := s.writer.Apply(context.Background(), table.Replace(tableHost(host), table.Options{}, nil, some...), passing)
	return err
}

// readAPI reads something of the API.
func (s *soaking) readAPI(transport *http.Transport) error {
	paths := []string{"/cluster", "/sessions", "/backends", "/hosts", "/hosts/web.test", "/traffic", "/v0/cluster", "/healthz", "/metrics"}
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	return s.readPath(ctx, transport, paths[rand.IntN(len(paths))])
}

// followEvents follows the events for a while.
func (s *soaking) followEvents(ctx context.Context, transport *http.Transport) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := s.readPath(ctx, transport, "/events"); ctx.Err() == nil || errors.Is(err, errWrong) {
		return err
	}
	return nil
}

func (s *soaking) readPath(ctx context.Context, transport *http.Transport, path string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.api+path, nil)
	if err != nil {
		return err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%w: %s answers %d", errWrong, path, response.StatusCode)
	}
	_, err = io.Copy(io.Discard, response.Body)
	return err
}

// awaitHealth waits until the router finds a backend healthy, or not.
func (s *soaking) awaitHealth(host, name string, healthy bool) {
	GinkgoHelper()
	Eventually(func() any { return get(s.api + "/hosts/" + host)["backends"] }).WithTimeout(within).WithPolling(20 * time.Millisecond).
		Should(ContainElement(And(HaveKeyWithValue("name", name), HaveKeyWithValue("healthy", healthy))))
}

// turn makes another backend of a crew the active one, if another is there.
func (s *soaking) turn(host string, c *crew) {
	GinkgoHelper()
	others := slices.DeleteFunc(slices.Clone(c.names), func(name string) bool {
		active := c.active.Load()
		return name == s.down || active != nil && name == *active
	})
	if len(others) == 0 {
		return
	}
	to := others[rand.IntN(len(others))]
	during(func() {
		patch(s.api+"/hosts/"+host, fmt.Sprintf(`{"active":%q,"message":"a soak"}`, to))
		c.active.Store(&to)
	}, &c.turmoil)
}

// kill ends a backend, and waits until the router knows, and serves another.
func (s *soaking) kill(host string, c *crew) {
	GinkgoHelper()
	s.down = c.names[rand.IntN(len(c.names))]
	during(func() {
		c.active.Store(nil)
		c.backends[s.down].Stop()
		s.awaitHealth(host, s.down, false)
		if c == s.web {
			return
		}
		Eventually(func() any { return get(s.api + "/hosts/" + host)["active"] }).WithTimeout(within).
			Should(And(Not(BeNil()), Not(HaveKeyWithValue("name", s.down))))
	}, &c.turmoil)
}

// revive starts the backend that was killed.
func (s *soaking) revive() {
	GinkgoHelper()
	for host, c := range s.crews() {
		if b := c.backends[s.down]; b != nil {
			b.Restart()
			s.awaitHealth(host, s.down, true)
		}
	}
	s.down = ""
}

// offAndOn switches all traffic off for a moment.
func (s *soaking) offAndOn() {
	GinkgoHelper()
	during(func() {
		patch(s.api+"/traffic", `{"trafficEnabled":false,"message":"a soak"}`)
		<-time.After(200 * time.Millisecond)
		patch(s.api+"/traffic", `{"trafficEnabled":true,"message":"a soak"}`)
	}, &s.db.turmoil, &s.secret.turmoil, &s.web.turmoil, &s.traffic)
}

// rotate renames the access log, and has it opened anew.
func (s *soaking) rotate() {
	GinkgoHelper()
	Expect(os.Rename(s.access, s.access+".1")).To(Succeed())
	s.Signal(syscall.SIGUSR1)
	Eventually(s.access).WithTimeout(within).Should(BeAnExistingFile())
}

// run is what operators do, and what becomes of backends, for so long. It calls look
// every so often.
func (s *soaking) run(length, every time.Duration, look func()) {
	GinkgoHelper()
	began := time.Now()
	looked := began
	ticks := time.NewTicker(100 * time.Millisecond)
	defer ticks.Stop()
	victims := []string{"db.main", "web.test", "secret.test"}
	// No two fall on the same tick.
	for n := 0; time.Since(began) < length; n++ {
		<-ticks.C
		switch {
		case n%10 == 0:
			s.turn("db.main", s.db)
		case n%40 == 5:
			s.turn("secret.test", s.secret)
		case n%30 == 3:
			patch(s.api+"/hosts/web.test", fmt.Sprintf(`{"weights":{"web-0":%d,"web-1":%d},"message":"a soak"}`, 1+rand.IntN(9), 1+rand.IntN(9)))
		case n%50 == 17:
			host := victims[n/50%len(victims)]
			s.kill(host, s.crews()[host])
		case n%50 == 37:
			s.revive()
		case n%100 == 44:
			s.rotate()
		case n%200 == 62:
			s.offAndOn()
		}
		if time.Since(looked) >= every {
			looked = time.Now()
			look()
		}
		Expect(s.Exited()).NotTo(BeClosed(), "the router has ended")
	}
	if s.down != "" {
		s.revive()
	}
}

// end ends the load, and returns what the router has when all clients have left, and
// backends have closed what it keeps open to them.
func (s *soaking) end() holdings {
	GinkgoHelper()
	s.load.finish()
	for _, t := range s.transports {
		t.CloseIdleConnections()
	}
	s.transports = nil
	Eventually(sessionsOf).WithArguments(get, s.api).WithTimeout(within).Should(BeZero())
	for _, b := range append(slices.Collect(maps.Values(s.web.backends)), s.sites...) {
		b.CloseAll()
	}
	// Ends are noticed some time later: wait until there is no less for a while.
	var least holdings
	since := time.Now()
	Eventually(func() time.Duration {
		if now := s.holdings(collectHoldings); least.fds == 0 || now.fds < least.fds || now.Goroutines < least.Goroutines {
			least, since = now, time.Now()
		}
		return time.Since(since)
	}).WithTimeout(time.Minute).WithPolling(200 * time.Millisecond).Should(BeNumerically(">", 3*time.Second))
	return least
}

// sample is what the router had at a time.
type sample struct {
	at time.Duration
	holdings
	sessions int
}

// tabulate writes samples as Markdown, some 40 of them.
func tabulate(samples []sample) string {
	var text strings.Builder
	text.WriteString("| at | sessions | descriptors | pipes | goroutines | threads | resident, KiB | live heap, KiB |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n")
	for i, one := range samples {
		if i%(1+len(samples)/40) == 0 {
			fmt.Fprintf(&text, "| %v | %d | %d | %d | %d | %d | %d | %d |\n",
				one.at.Round(time.Second), one.sessions, one.fds, one.pipes, one.Goroutines, one.threads, one.resident>>10, one.Live>>10)
		}
	}
	return text.String()
}

// trend is how much a value grows from the first sample to the last, and its median: the
// median of the slopes between all pairs (Theil, Sen), which some that stand out do not move.
func trend(samples []sample, value func(sample) int) (grown, median float64) {
	var slopes, values []float64
	for i, a := range samples {
		values = append(values, float64(value(a)))
		for _, b := range samples[i+1:] {
			slopes = append(slopes, float64(value(b)-value(a))/float64(b.at-a.at))
		}
	}
	middle := func(of []float64) float64 {
		slices.Sort(of)
		return of[len(of)/2]
	}
	return middle(slopes) * float64(samples[len(samples)-1].at-samples[0].at), middle(values)
}

// expectFlat expects that nothing grows, once it is warm.
func expectFlat(samples []sample) (summary string) {
	GinkgoHelper()
	var grows []string
	for _, one := range []struct {
		what  string
		value func(sample) int
		// It may have grown by this part, or by this much.
		part, much float64
	}{
		{"descriptors", func(s sample) int { return s.fds }, 0.02, 8},
		{"goroutines", func(s sample) int { return s.Goroutines }, 0.02, 8},
		{"threads", func(s sample) int { return s.threads }, 0, 4},
		{"resident bytes", func(s sample) int { return s.resident }, 0.05, 4 << 20},
		{"bytes of live heap", func(s sample) int { return s.Live }, 0.05, 4 << 20},
	} {
		grown, median := trend(samples, one.value)
		summary += fmt.Sprintf("%s: %.0f, trend %+.1f; ", one.what, median, grown)
		if grown > max(one.part*median, one.much) {
			grows = append(grows, one.what)
		}
	}
	Expect(grows).To(BeEmpty(), summary)
	return strings.TrimSuffix(summary, "; ")
}

var _ = Describe("soak", func() {
	BeforeEach(spec.CheckLeaks)

	It("has no more of anything after a mixed load through switches, kills, PATCHes and changes of the table", func() {
		spec.Need("redis-server", "redis-server")
		// Long enough for each thing to happen, unless the environment says more.
		length, err := time.ParseDuration(cmp.Or(os.Getenv("SOAK_TIME"), "10s"))
		Expect(err).NotTo(HaveOccurred())
		every := min(max(length/120, time.Second), 30*time.Second)
		s := startSoaking()
		By("warming it up: what it has then without clients is what it may keep")
		s.begin()
		DeferCleanup(func() { s.load.finish() })
		s.run(2*time.Second, time.Hour, func() {})
		warm := s.end()

		By("having it work for " + length.String())
		s.begin()
		began := time.Now()
		var samples []sample
		s.run(length, every, func() {
			one := sample{time.Since(began), s.holdings(tellHoldings), sessionsOf(get, s.api)}
			samples = append(samples, one)
			GinkgoWriter.Printf("%v: %d sessions, %s\n", one.at.Round(time.Second), one.sessions, one.holdings)
		})
		worked := time.Since(began)
		left := s.end()
		AddReportEntry("soak", fmt.Sprintf("in %v, with %v of processor time\n%s%s\nwarm and without clients: %s\nat the end, without clients: %s",
			worked.Round(time.Second), cpu(s.PID()), s.load, tabulate(samples), warm, left))
		Expect(s.wrong).To(BeEmpty(), "%d failures", s.fails)
		Expect(s.readLog()).To(BeEmpty(), "errors in its log")
		Expect(left.fds).To(BeNumerically("<=", warm.fds), func() string { return fmt.Sprint(s.descriptors()) })
		// Two ends each, and its stdin, stdout and stderr.
		Expect(left.pipes).To(BeNumerically("<=", 2*16+3))
		Expect(left.Goroutines).To(BeNumerically("<=", warm.Goroutines), s.stacks)
		if length >= time.Minute {
			AddReportEntry("flat", expectFlat(samples[len(samples)/10:]))
		}
		s.stop()
	})
})
