package main_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/gexec"
	"golang.org/x/sys/unix"

	"switchboard/fixtures/spec"
)

var _ = Describe("switchboard router, when things go wrong", func() {
	BeforeEach(spec.CheckLeaks)

	Context("when there are very many clients", func() {
		It("T13: severs 9,500 sessions at once, and accepts meanwhile", func() {
			var files unix.Rlimit
			Expect(unix.Getrlimit(unix.RLIMIT_NOFILE, &files)).To(Succeed())
			// This process has the other end of both sockets of each session.
			n := 9500
			if files.Max < 20_000 {
				n = (int(files.Max) - 1000) / 2
			}
			if n < 9500 {
				AddReportEntry("T13: fewer sessions, since few files may be open", n)
			}
			old, health := listenRaw(), spec.StartHealth()
			r := startRouter(setup{
				check: probed, backends: []string{backend("db-0", old.addr, health), backend("db-1", spec.StartBackend(spec.Named("db-1")).Addr(), health)},
			}.write())
			Eventually(activeOf).WithArguments(get, r.api).WithTimeout(within).Should(Equal("db-0"))
			var clients, served crowd
			DeferCleanup(clients.leave)
			DeferCleanup(served.leave)
			for left := n; left > 0; left -= 100 {
				clients.dial(r.clients, min(left, 100))
				served.accept(old, min(left, 100))
			}
			Eventually(sessionsOf).WithArguments(get, r.api).WithTimeout(within).Should(Equal(n))

			answered := make(chan map[string]any, 1)
			began := time.Now()
			go func() {
				defer GinkgoRecover()
				defer close(answered)
				answered <- patch(r.api+"/hosts/db.main", `{"active":"db-1","message":"db-0 is being repaired"}`)
			}()
			clients.await()
			_, greeting := connect(r.clients)
			Expect(greeting).To(Equal("db-1"))
			next := time.Since(began)
			Eventually(clients.settled).WithTimeout(within).WithPolling(time.Millisecond).Should(Equal(outcomes{reset: n}))
			AddReportEntry("T13", fmt.Sprintf("%d sessions: a new client was served after %s, the last one was cut after %s", n, next, time.Since(began)))
			Eventually(served.settled).WithTimeout(within).Should(Equal(outcomes{reset: n}))
			var answer map[string]any
			Eventually(answered).WithTimeout(within).Should(Receive(&answer))
			Expect(answer["severed"]).To(BeEquivalentTo(n))
			Expect(sessionsOf(get, r.api)).To(Equal(1))
		})

		It("T24: keeps to max_sessions in a flood of idle clients, and serves others as soon as it can", func() {
			const limit, flood = 100, 2000
			held, health := spec.StartBackend(spec.Named("db-0")), spec.StartHealth()
			r := startRouter(setup{
				listener: fmt.Sprintf("max_sessions: %d", limit), host: "idle_timeout: 4s", check: probed,
				backends: []string{backend("db-0", held.Addr(), health)},
			}.write())
			conn, _ := connect(r.clients)
			before := memory(r.PID())

			var clients crowd
			DeferCleanup(clients.leave)
			clients.dial(r.clients, flood)
			full := limit - 1
			flooded := outcomes{waiting: full, reset: flood - full, bytes: full * len("db-0\n")}
			Eventually(clients.settled).WithTimeout(within).Should(Equal(flooded))
			Expect(sessionsOf(get, r.api)).To(Equal(limit))
			Expect(held.Open()).To(Equal(limit))
			Expect(held.Accepted()).To(Equal(limit))
			spec.SayHello(conn)

			By("serving one as soon as one has left")
			Expect(conn.Close()).To(Succeed())
			conn, _ = connect(r.clients)
			spec.SayHello(conn)
			Expect(clients.settled()).To(Equal(flooded), "nobody had to go for that")

			By("freeing the places of the idle")
			Eventually(held.Open).WithTimeout(within).Should(BeZero())
			Eventually(func() int { return clients.settled().waiting }).WithTimeout(within).Should(BeZero())
			_, greeting := connect(r.clients)
			Expect(greeting).To(Equal("db-0"))
			grown := memory(r.PID()) - before
			AddReportEntry("T24: resident memory grew by", fmt.Sprintf("%d KiB", grown>>10))
			Expect(grown).To(BeNumerically("<", 64<<20))
		})
	})

	Context("when the network has less room than it wants", func() {
		var lan *network
		BeforeEach(func() { lan = makeNetwork() })

		DescribeTable("T23: fails fast and says why without a free port to dial from, cuts nobody, and recovers", func(check string) {
			const ports, clients = 20, 40
			access := filepath.Join(GinkgoT().TempDir(), "access.log")
			var held *spec.Backend
			var health *spec.Health
			lan.inside(func() { held, health = spec.StartBackend(spec.Named("db-0")), spec.StartHealth() })
			one := "{name: db-0, address: '" + held.Addr() + "'}"
			if check == probed {
				one = backend("db-0", held.Addr(), health)
			}
			r := startRouter(setup{check: check, backends: []string{one}, more: "log: {access: '" + access + "'}"}.write(), lan.exec()...)
			Eventually(activeOf).WithArguments(lan.get, r.api).WithTimeout(within).Should(Equal("db-0"))
			lan.set("net/ipv4/ip_local_port_range", fmt.Sprintf("40000 %d", 40000+ports-1))

			var open []net.Conn
			refused := 0
			began := time.Now()
			for range clients {
				conn, greeting := lan.ask(r.clients)
				if greeting == "db-0" {
					open = append(open, conn)
				} else {
					refused++
				}
			}
			AddReportEntry("T23", fmt.Sprintf("%d clients served, %d refused, in %s", len(open), refused, time.Since(began)))
			Expect(len(open)).To(And(BeNumerically(">", 0), BeNumerically("<=", ports)))
			Expect(refused).To(BeNumerically(">=", clients-ports))
			Eventually(records).WithArguments(access).WithTimeout(within).Should(ContainElement(And(
				HaveField("Reason", "dial_failed"), HaveField("Detail", ContainSubstring("cannot assign requested address")),
				HaveField("TookMs", BeNumerically("<", 500)),
			)))
			Consistently(sessionsOf).WithArguments(lan.get, r.api).WithTimeout(time.Second).WithPolling(50*time.Millisecond).
				Should(Equal(len(open)), "a lack of our own is no fault of the backend's")

			for _, conn := range open {
				Expect(conn.Close()).To(Succeed())
			}
			Eventually(func() string {
				_, greeting := lan.ask(r.clients)
				return greeting
			}).WithTimeout(within).Should(Equal("db-0"))
		},
			Entry("probed on another port", probed),
			Entry("probed on the same port", "{type: tcp, interval: 50ms, timeout: 1s}"),
			Entry("not probed", ""),
		)

		It("T25: goes on after its accept queue has run over", func() {
			const queue, flood = 16, 200
			lan.set("net/core/somaxconn", strconv.Itoa(queue))
			var held *spec.Backend
			var health *spec.Health
			lan.inside(func() { held, health = spec.StartBackend(spec.Named("db-0")), spec.StartHealth() })
			// The backend's own queue is as short: it may take a moment longer.
			r := startRouter(setup{
				host: "dial_timeout: 10s", check: probed, backends: []string{backend("db-0", held.Addr(), health)},
			}.write(), lan.exec()...)
			Eventually(activeOf).WithArguments(lan.get, r.api).WithTimeout(within).Should(Equal("db-0"))

			r.Signal(syscall.SIGSTOP)
			var clients crowd
			DeferCleanup(clients.leave)
			lan.inside(func() { clients.dial(r.clients, flood) })
			Eventually(func() int { return lan.overflows() }).WithTimeout(within).Should(BeNumerically(">", 0))
			Expect(clients.settled()).To(Equal(outcomes{waiting: flood}))
			r.Signal(syscall.SIGCONT)

			// Those that found the queue full go on asking, rarer each time, and all at once,
			// so that it takes long for the last; those that were in it need not wait.
			Eventually(func() int { return clients.settled().bytes }).WithTimeout(within).Should(BeNumerically(">=", queue*len("db-0\n")))
			conn, greeting := lan.ask(r.clients)
			Expect(greeting).To(Equal("db-0"))
			spec.SayHello(conn)
			Expect(clients.settled().waiting).To(Equal(flood), "nobody is refused")
			clients.leave()
			Eventually(sessionsOf).WithArguments(lan.get, r.api).WithTimeout(within).Should(Equal(1))
		})
	})

	Context("when its backend is a listener of its own", func() {
		It("T31: refuses the configuration, by another name too", func() {
			for _, address := range []string{"127.0.0.1:7001", "localhost:7001"} {
				command := routerCommand(setup{bind: "127.0.0.1:7001", backends: []string{"{name: db-0, address: '" + address + "'}"}}.write())
				command.Args = append(command.Args, "--check")
				p := spec.StartProcess(command)
				Expect(p.WaitExit(within)).To(Equal(2))
				Expect(string(p.Stderr.Contents())).To(ContainSubstring(fmt.Sprintf("%q is our own listeners[0].bind: sessions would run in a circle", address)))
			}
		})

		DescribeTable("T31: is full, and no worse, where it cannot know", func(before func(*network), pairs ...string) {
			const limit = 50
			lan := makeNetwork()
			before(lan)
			var routers []*router
			for i := 0; i < len(pairs); i += 2 {
				routers = append(routers, startRouter(setup{
					bind: pairs[i], listener: fmt.Sprintf("max_sessions: %d", limit), check: "{type: tcp, interval: 50ms, timeout: 1s}",
					backends: []string{"{name: db-0, address: '" + pairs[i+1] + "'}"}, more: "shutdown: {drain: 100ms}",
				}.write(), lan.exec()...))
			}
			bounded := func(g Gomega) {
				for _, r := range routers {
					g.Expect(fds(r.PID())).To(BeNumerically("<=", 2*limit+64))
					g.Expect(sessionsOf(lan.get, r.api)).To(BeNumerically("<=", limit))
				}
			}
			Eventually(func() (refusing bool) {
				lan.ask(strings.Replace(pairs[0], "0.0.0.0", "127.0.0.1", 1))
				for _, r := range routers {
					refusing = refusing || r.entry("too many sessions, refusing clients") != nil
				}
				return refusing
			}).WithTimeout(within).Should(BeTrue())
			Consistently(bounded).WithTimeout(time.Second).WithPolling(50 * time.Millisecond).Should(Succeed())
			for _, r := range routers {
				r.Signal(syscall.SIGTERM)
			}
			for _, r := range routers {
				Expect(r.WaitExit(within)).To(Equal(0))
			}
		},
			Entry("two routers in a circle", func(*network) {}, "127.0.0.1:7001", "127.0.0.1:7002", "127.0.0.1:7002", "127.0.0.1:7001"),
			Entry("one, by another address of the machine", func(lan *network) { lan.ip("addr", "add", "10.9.9.9/32", "dev", "lo") },
				"0.0.0.0:7001", "10.9.9.9:7001"),
		)
	})

	It("T32: tells clients' addresses as they are, over IPv4, IPv6, both and with a zone", func() {
		lan := makeNetwork()
		lan.ip("addr", "add", "fe80::1/64", "dev", "lo", "nodad")
		access := filepath.Join(GinkgoT().TempDir(), "access.log")
		var held *spec.Backend
		lan.inside(func() { held = spec.StartBackend(spec.Named("db-0")) })
		for _, bind := range []string{"[::]:0", "[::1]:0", "[fe80::1%lo]:0", "0.0.0.0:0"} {
			r := startRouter(setup{
				bind: bind, backends: []string{"{name: db-0, address: '" + held.Addr() + "'}"}, more: "log: {access: '" + access + "'}",
			}.write(), lan.exec()...)
			_, port, err := net.SplitHostPort(r.clients)
			Expect(err).NotTo(HaveOccurred())
			froms := map[string][]string{
				"[::]:0": {"127.0.0.1", "::1", "fe80::1%lo"}, "[::1]:0": {"::1"}, "[fe80::1%lo]:0": {"fe80::1%lo"}, "0.0.0.0:0": {"127.0.0.1"},
			}[bind]
			for _, from := range froms {
				conn, greeting := lan.ask(net.JoinHostPort(from, port))
				Expect(greeting).To(Equal("db-0"), "%s on %s", from, bind)
				spec.SayHello(conn)
				client := conn.LocalAddr().String()
				Expect(client).To(HavePrefix(strings.TrimSuffix(net.JoinHostPort(from, ""), ":")))
				Expect(lan.get(r.api + "/sessions")["sessions"]).To(ConsistOf(HaveKeyWithValue("client", client)))
				Expect(conn.Close()).To(Succeed())
				Eventually(records).WithArguments(access).WithTimeout(within).Should(ContainElement(HaveField("Client", client)))
				Eventually(sessionsOf).WithArguments(lan.get, r.api).WithTimeout(within).Should(BeZero())
			}
		}
	})

	It("T34: has no session while traffic is off, and cuts none by turning it on, with clients coming all the time", func() {
		const turns = 50
		access := filepath.Join(GinkgoT().TempDir(), "access.log")
		held, health := spec.StartBackend(spec.Named("db-0")), spec.StartHealth()
		r := startRouter(setup{
			check: probed, backends: []string{backend("db-0", held.Addr(), health)},
			more: "log: {access: '" + access + "'}\nshutdown: {drain: 100ms}",
		}.write())
		connect(r.clients)
		came, leave := comers(r.clients)

		severed := 0.0
		began := time.Now()
		for range turns {
			severed += patch(r.api+"/traffic", `{"trafficEnabled":false,"message":"moving"}`)["severed"].(float64)
			none := And(HaveKeyWithValue("trafficEnabled", false), HaveKeyWithValue("currentSessionCount", BeZero()))
			Expect(get(r.api + "/traffic")).To(none)
			Eventually(held.Open).WithTimeout(within).WithPolling(time.Millisecond).Should(BeZero())
			Expect(get(r.api + "/traffic")).To(none)
			Expect(held.Open()).To(BeZero())
			Expect(patch(r.api+"/traffic", `{"trafficEnabled":true,"message":"moved"}`)).To(HaveKeyWithValue("severed", BeZero()))
			conn, _ := connect(r.clients)
			spec.SayHello(conn)
		}
		rate := float64(came.Load()) / time.Since(began).Seconds()
		leave()
		AddReportEntry("T34", fmt.Sprintf("%d switches with %.0f clients/s, %.0f sessions severed", 2*turns, rate, severed))
		Expect(rate).To(BeNumerically(">=", 200))
		Expect(severed).To(BeNumerically(">=", turns), "there was somebody to cut every time")

		r.Signal(syscall.SIGTERM)
		Expect(r.WaitExit(within)).To(Equal(0))
		cut := 0.0
		for _, record := range records(access) {
			if record.Backend == "" || record.Reason == "client_reset" || record.Reason == "client_closed" || record.Reason == "shutdown" {
				continue
			}
			Expect(record.Reason).To(Equal("traffic_off"), record.Detail)
			cut++
		}
		Expect(cut).To(Equal(severed), "who was cut, was cut by turning traffic off")
	})

	It("T35: refuses fast while no backend is healthy, and serves a check period after one is", func() {
		const interval, rise = 200 * time.Millisecond, 2
		held, health := spec.StartBackend(spec.Named("db-0")), spec.StartHealth()
		health.Unhealthy()
		dead := spec.StartHealth()
		dead.Unhealthy()
		access := filepath.Join(GinkgoT().TempDir(), "access.log")
		r := startRouter(setup{
			check:    fmt.Sprintf("{type: http, port: 1, path: /, interval: %s, timeout: 5s, rise: %d}", interval, rise),
			backends: []string{backend("db-0", held.Addr(), health), backend("db-1", spec.RefusedAddr(), dead)},
			more:     "log: {access: '" + access + "'}",
		}.write())
		r.awaitReady()
		var clients crowd
		DeferCleanup(clients.leave)
		began := time.Now()
		clients.dial(r.clients, 200)
		Eventually(clients.settled).WithTimeout(within).Should(Equal(outcomes{reset: 200}))
		refused := time.Since(began)
		Expect(refused).To(BeNumerically("<", 2*time.Second))
		Expect(held.Accepted()).To(BeZero())
		Eventually(records).WithArguments(access).WithTimeout(within).Should(And(HaveLen(200), HaveEach(HaveField("Reason", "no_backend"))))

		began = time.Now()
		health.Healthy(0)
		_, greeting := connect(r.clients)
		served := time.Since(began)
		Expect(greeting).To(Equal("db-0"))
		AddReportEntry("T35", fmt.Sprintf("200 clients refused in %s; the first served %s after its backend was healthy, with %d probes %s apart", refused, served, rise, interval))
		Expect(served).To(BeNumerically("<", (rise+1)*interval+2*time.Second))
	})

	It("T36: serves another backend when the active one has left the configuration, and forgets the pin to it", func() {
		first, second := spec.StartBackend(spec.Named("db-0")), spec.StartBackend(spec.Named("db-1"))
		both := pair(first, second, "state: "+filepath.Join(GinkgoT().TempDir(), "state"))
		one := both
		one.backends = both.backends[:1]
		r := startRouter(both.write())
		r.awaitReady()
		patch(r.api+"/hosts/db.main", `{"pin":"db-1","message":"db-0 is being repaired"}`)
		_, greeting := connect(r.clients)
		Expect(greeting).To(Equal("db-1"))
		before := get(r.api + "/hosts/db.main")
		r.Kill()
		Expect(r.WaitExit(within)).To(Equal(-1))

		r = startRouter(one.write())
		_, greeting = connect(r.clients)
		Expect(greeting).To(Equal("db-0"))
		after := get(r.api + "/hosts/db.main")
		Expect(after["epoch"]).To(BeNumerically(">", before["epoch"]))
		Expect(after["pin"]).To(BeNil())
		Expect(r.entry("dropping a stored pin to a backend that is not configured")).To(And(
			HaveKeyWithValue("level", "WARN"), HaveKeyWithValue("host", "db.main"), HaveKeyWithValue("backend", "db-1")))
	})

	It("T36: does not go back to a pin that it has dropped when its backend is configured again", func() {
		first, second := spec.StartBackend(spec.Named("db-0")), spec.StartBackend(spec.Named("db-1"))
		both := pair(first, second, "state: "+filepath.Join(GinkgoT().TempDir(), "state"))
		one := both
		one.backends = both.backends[:1]
		r := startRouter(both.write())
		r.awaitReady()
		patch(r.api+"/hosts/db.main", `{"pin":"db-1","message":"db-0 is being repaired"}`)
		stop := func() {
			r.Signal(syscall.SIGTERM)
			Expect(r.WaitExit(within)).To(Equal(0))
		}
		stop()
		r = startRouter(one.write())
		Eventually(activeOf).WithArguments(get, r.api).WithTimeout(within).Should(Equal("db-0"))
		Expect(r.entry("dropping a stored pin to a backend that is not configured")).NotTo(BeNil())
		stop()

		r = startRouter(both.write())
		Eventually(activeOf).WithArguments(get, r.api).WithTimeout(within).ShouldNot(BeEmpty())
		Expect(get(r.api + "/hosts/db.main")).To(And(HaveKeyWithValue("pin", BeNil()), HaveKeyWithValue("active", HaveKeyWithValue("name", "db-0"))))
	})

	It("M13: does not act on what it finds after it was stopped for many timeouts", func() {
		held, health := spec.StartBackend(spec.Named("db-0")), spec.StartHealth()
		r := startRouter(setup{
			check: "{type: http, port: 1, path: /, interval: 50ms, timeout: 500ms, fall: 1}",
			backends: []string{
				backend("db-0", held.Addr(), health), backend("db-1", spec.StartBackend(spec.Named("db-1")).Addr(), spec.StartHealth()),
			},
		}.write())
		conn, greeting := connect(r.clients)
		Expect(greeting).To(Equal("db-0"))
		before := get(r.api + "/hosts/db.main")

		// A probe is in flight when the router stops, and its time has long run out when
		// it goes on: with fall 1, counting it would be a failover.
		health.Hang()
		probes := health.Probes()
		Eventually(health.Probes).WithTimeout(within).WithPolling(time.Millisecond).Should(BeNumerically(">", probes))
		r.Signal(syscall.SIGSTOP)
		probes = health.Probes()
		health.Healthy(0)
		Consistently(health.Probes).WithTimeout(2 * time.Second).Should(Equal(probes))
		r.Signal(syscall.SIGCONT)

		Eventually(health.Probes).WithTimeout(within).Should(BeNumerically(">", probes+5))
		after := get(r.api + "/hosts/db.main")
		Expect(after["active"]).To(Equal(before["active"]))
		Expect(after["epoch"]).To(Equal(before["epoch"]))
		spec.SayHello(conn)
	})

	It("L11: has no more of anything after thousands of sessions, hundreds of switches and PATCHes", func() {
		// The race detector's memory is not the router's.
		plain, err := gexec.Build("switchboard/cmd/switchboard")
		Expect(err).NotTo(HaveOccurred())
		r := startRouter(pair(spec.StartBackend(spec.Named("db-0")), spec.StartBackend(spec.Named("db-1")), "").write(),
			"sh", "-c", `shift; exec "$0" "$@"`, plain)
		r.awaitReady()
		sessions := int64(0)
		soak := func() {
			came, leave := comers(r.clients)
			for i := range 100 {
				patch(r.api+"/hosts/db.main", fmt.Sprintf(`{"active":"db-%d","message":"a soak"}`, (i+1)%2))
				for _, enabled := range []bool{false, true} {
					patch(r.api+"/traffic", fmt.Sprintf(`{"trafficEnabled":%t,"message":"a soak"}`, enabled))
				}
				if i%2 == 0 {
					patch(r.api+"/hosts/db.main", `{"trafficEnabled":true,"message":"a soak"}`)
				}
				for _, path := range []string{"/cluster", "/sessions", "/backends"} {
					get(r.api + path)
				}
			}
			enough := came.Load() + 1000
			Eventually(came.Load).WithTimeout(within).Should(BeNumerically(">", enough))
			leave()
			sessions += came.Load()
			Eventually(sessionsOf).WithArguments(get, r.api).WithTimeout(within).Should(BeZero())
		}
		conn, _ := connect(r.clients)
		Expect(conn.Close()).To(Succeed())
		Eventually(sessionsOf).WithArguments(get, r.api).WithTimeout(within).Should(BeZero())
		before := fds(r.PID())
		soak()
		first := memory(r.PID())
		soak()
		second := memory(r.PID())
		AddReportEntry("L11", fmt.Sprintf("%d sessions; resident after the first half %d KiB, after the second %d KiB; %d threads, %d files",
			sessions, first>>10, second>>10, threads(r.PID()), before))
		Eventually(fds).WithArguments(r.PID()).WithTimeout(within).Should(BeNumerically("<=", before))
		Expect(second).To(BeNumerically("<", first+first/10))
		Expect(threads(r.PID())).To(BeNumerically("<", 32))
	})
})

// probed is a check of the health endpoints that backends name.
const probed = "{type: http, port: 1, path: /, interval: 100ms, timeout: 5s}"

// setup is what a configuration of one listener and one host needs to say.
type setup struct {
	// bind is "" for any port; listener, host and more are further keys.
	bind, listener, host, check string
	backends                    []string
	more                        string
}

// write writes it to a file.
func (s setup) write() string {
	GinkgoHelper()
	if s.bind == "" {
		s.bind = "127.0.0.1:0"
	}
	if s.check != "" {
		s.check = "check: " + s.check
	}
	return write("router.yaml", fmt.Sprintf(`
listeners:
  - name: db
    bind: '%s'
    host: db.main
    %s
hosts:
  - name: db.main
    %s
    %s
    backends: [%s]
api: {bind: '127.0.0.1:0'}
%s
`, s.bind, s.listener, s.host, s.check, strings.Join(s.backends, ", "), s.more))
}

// backend is one that a health endpoint speaks for.
func backend(name, addr string, health *spec.Health) string {
	return fmt.Sprintf("{name: %s, address: '%s', check_port: %d}", name, addr, health.Port())
}

// pair is a setup of two backends that are probed on their own ports.
func pair(first, second *spec.Backend, more string) setup {
	bare := func(name string, b *spec.Backend) string {
		return fmt.Sprintf("{name: %s, address: '%s'}", name, b.Addr())
	}
	return setup{check: "{type: tcp, interval: 50ms, timeout: 5s}", backends: []string{bare("db-0", first), bare("db-1", second)}, more: more}
}

// activeOf names the active backend, "" for none.
func activeOf(get func(url string) map[string]any, api string) string {
	GinkgoHelper()
	active, _ := get(api + "/hosts/db.main")["active"].(map[string]any)
	name, _ := active["name"].(string)
	return name
}

// sessionsOf counts the open sessions.
func sessionsOf(get func(url string) map[string]any, api string) int {
	GinkgoHelper()
	return int(get(api + "/cluster")["currentSessionCount"].(float64))
}

// record is a line of the access log.
type record struct {
	TookMs                          float64
	Backend, Client, Reason, Detail string
}

// records are those of an access log so far.
func records(path string) []record {
	GinkgoHelper()
	text, err := os.ReadFile(path)
	Expect(err).NotTo(HaveOccurred())
	var all []record
	for line := range strings.Lines(string(text)) {
		if !strings.HasSuffix(line, "\n") {
			break
		}
		var one record
		Expect(json.Unmarshal([]byte(line), &one)).To(Succeed(), line)
		all = append(all, one)
	}
	return all
}

// comers are clients that come and go all the time, four lines of them, each of
// which keeps the last few. It counts them, until they are told to leave.
func comers(addr string) (came *atomic.Int64, leave func()) {
	came = new(atomic.Int64)
	enough := make(chan struct{})
	var lines sync.WaitGroup
	line := func() {
		var kept []net.Conn
		part := func(conn net.Conn) {
			// Without TIME_WAIT, or ports run out.
			_ = conn.(*net.TCPConn).SetLinger(0)
			_ = conn.Close()
		}
		for {
			select {
			case <-enough:
				for _, conn := range kept {
					part(conn)
				}
				return
			default:
			}
			conn, err := net.DialTimeout("tcp", addr, within)
			if err != nil {
				// Reset before it was seen to be connected.
				continue
			}
			came.Add(1)
			_ = conn.SetReadDeadline(time.Now().Add(within))
			_, _ = conn.Read(make([]byte, 16))
			if kept = append(kept, conn); len(kept) > 10 {
				part(kept[0])
				kept = kept[1:]
			}
		}
	}
	for range 4 {
		lines.Go(line)
	}
	leave = sync.OnceFunc(func() { close(enough); lines.Wait() })
	DeferCleanup(leave)
	return came, leave
}

// memory is what a process has resident, in bytes.
func memory(pid int) int { return 1024 * statusOf(pid, "VmRSS:") }

func threads(pid int) int { return statusOf(pid, "Threads:") }

func statusOf(pid int, key string) int {
	GinkgoHelper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	Expect(err).NotTo(HaveOccurred())
	for line := range strings.Lines(string(text)) {
		if rest, is := strings.CutPrefix(line, key); is {
			n, err := strconv.Atoi(strings.Fields(rest)[0])
			Expect(err).NotTo(HaveOccurred())
			return n
		}
	}
	Fail("no " + key)
	return 0
}

// crowd are many connections, as bare descriptors: what Go keeps for each would
// be more than what the router does.
type crowd struct {
	fds []unix.PollFd
	so  outcomes
}

// outcomes are what has become of a crowd so far.
type outcomes struct {
	// waiting are those with neither an end nor a reset; bytes is what all have read.
	waiting, reset, ended, bytes int
}

// dial lets n more of them connect, without waiting for it.
func (c *crowd) dial(addr string, n int) {
	GinkgoHelper()
	to, err := netip.ParseAddrPort(addr)
	Expect(err).NotTo(HaveOccurred())
	for range n {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		Expect(err).NotTo(HaveOccurred())
		c.fds = append(c.fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
		err = unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())})
		Expect(err).To(Or(Succeed(), Equal(unix.EINPROGRESS)))
	}
}

// accept adds the next n connections of a listener.
func (c *crowd) accept(l *rawListener, n int) {
	GinkgoHelper()
	for range n {
		look := []unix.PollFd{{Fd: int32(l.fd), Events: unix.POLLIN}}
		poll(look, within)
		fd, _, err := unix.Accept4(l.fd, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		Expect(err).NotTo(HaveOccurred())
		c.fds = append(c.fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
}

// await waits until something has happened to one of them.
func (c *crowd) await() {
	GinkgoHelper()
	poll(c.fds, within)
}

// settled reads what there is to read, closes those that are over, and tells what
// has become of all.
func (c *crowd) settled() outcomes {
	GinkgoHelper()
	_, err := unix.Poll(c.fds, 0)
	Expect(err).To(Or(Succeed(), Equal(unix.EINTR)))
	var left []unix.PollFd
	var some [512]byte
	for _, one := range c.fds {
		if one.Revents == 0 {
			left = append(left, one)
			continue
		}
		n, err := unix.Read(int(one.Fd), some[:])
		switch {
		case err == unix.EAGAIN, err == unix.EINTR, n > 0:
			c.so.bytes += max(n, 0)
			left = append(left, one)
			continue
		case err == unix.ECONNRESET:
			c.so.reset++
		default:
			Expect(err).NotTo(HaveOccurred())
			c.so.ended++
		}
		Expect(unix.Close(int(one.Fd))).To(Succeed())
	}
	c.fds = left
	c.so.waiting = len(left)
	return c.so
}

// leave closes them all.
func (c *crowd) leave() {
	for _, one := range c.fds {
		_ = unix.Close(int(one.Fd))
	}
	c.fds = nil
}

// poll waits until one is ready.
func poll(fds []unix.PollFd, within time.Duration) {
	GinkgoHelper()
	for until := time.Now().Add(within); ; {
		n, err := unix.Poll(fds, int(time.Until(until).Milliseconds()))
		if err == unix.EINTR {
			continue
		}
		Expect(err).NotTo(HaveOccurred())
		Expect(n).To(BeNumerically(">", 0), "nothing has happened")
		return
	}
}

// rawListener is a listener that nobody accepts from but a crowd.
type rawListener struct {
	fd   int
	addr string
}

func listenRaw() *rawListener {
	GinkgoHelper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { Expect(unix.Close(fd)).To(Succeed()) })
	Expect(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})).To(Succeed())
	Expect(unix.Listen(fd, 4096)).To(Succeed())
	bound, err := unix.Getsockname(fd)
	Expect(err).NotTo(HaveOccurred())
	return &rawListener{fd, fmt.Sprintf("127.0.0.1:%d", bound.(*unix.SockaddrInet4).Port)}
}

// network is a network of its own: nothing but a loopback interface, with ports
// and limits that are nobody else's.
type network struct {
	name string
	fd   int // of the namespace
	port int // where the last client came from
}

var networks atomic.Int64

// makeNetwork makes one that lasts as long as the spec.
func makeNetwork() *network {
	GinkgoHelper()
	spec.NeedRoot("making a network namespace")
	spec.Need("ip", "iproute2")
	n := &network{name: fmt.Sprintf("switchboard-%d-%d", os.Getpid(), networks.Add(1)), port: 10000}
	run := func(args ...string) {
		GinkgoHelper()
		out, err := exec.Command("ip", args...).CombinedOutput()
		Expect(err).NotTo(HaveOccurred(), "ip %v: %s", args, out)
	}
	run("netns", "add", n.name)
	DeferCleanup(run, "netns", "delete", n.name)
	fd, err := unix.Open("/run/netns/"+n.name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	Expect(err).NotTo(HaveOccurred())
	n.fd = fd
	DeferCleanup(func() { Expect(unix.Close(fd)).To(Succeed()) })
	n.ip("link", "set", "lo", "up")
	return n
}

// ip configures it.
func (n *network) ip(args ...string) {
	GinkgoHelper()
	out, err := exec.Command("ip", append([]string{"-n", n.name}, args...)...).CombinedOutput()
	Expect(err).NotTo(HaveOccurred(), "ip %v: %s", args, out)
}

// exec is what stands before a command that is to run inside.
func (n *network) exec() []string { return []string{"ip", "netns", "exec", n.name} }

// inside does something whose sockets are to be inside. A socket stays in the
// network of the thread that has made it.
func (n *network) inside(do func()) {
	GinkgoHelper()
	runtime.LockOSThread()
	outside, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	Expect(err).NotTo(HaveOccurred())
	defer unix.Close(outside)
	Expect(unix.Setns(n.fd, unix.CLONE_NEWNET)).To(Succeed())
	defer func() {
		// A thread that cannot go back ends with its goroutine, since it is locked.
		if unix.Setns(outside, unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
	}()
	do()
}

// set sets a limit, a path in /proc/sys.
func (n *network) set(key, value string) {
	GinkgoHelper()
	n.inside(func() { Expect(os.WriteFile("/proc/sys/"+key, []byte(value), 0)).To(Succeed()) })
}

// overflows counts the connections that found an accept queue full.
func (n *network) overflows() (count int) {
	GinkgoHelper()
	n.inside(func() {
		text, err := os.ReadFile("/proc/thread-self/net/netstat")
		Expect(err).NotTo(HaveOccurred())
		var keys []string
		for line := range strings.Lines(string(text)) {
			fields := strings.Fields(line)
			if fields[0] != "TcpExt:" {
				continue
			}
			if keys == nil {
				keys = fields
				continue
			}
			for i, key := range keys {
				if key == "ListenOverflows" {
					count, err = strconv.Atoi(fields[i])
					Expect(err).NotTo(HaveOccurred())
				}
			}
		}
	})
	return count
}

// dial connects inside, from a port that is no ephemeral one: those are the
// router's.
func (n *network) dial(addr string) (conn net.Conn, err error) {
	GinkgoHelper()
	n.port++
	dialer := net.Dialer{Timeout: within}
	if strings.HasPrefix(addr, "127.") {
		dialer.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: n.port}
	}
	n.inside(func() { conn, err = dialer.Dial("tcp", addr) })
	return conn, err
}

// ask connects inside and reads what greets; "" if nobody does.
func (n *network) ask(addr string) (conn net.Conn, greeting string) {
	GinkgoHelper()
	conn, err := n.dial(addr)
	if err != nil {
		Expect(err).To(MatchError(syscall.ECONNRESET))
		return nil, ""
	}
	// Closing twice is a client's right.
	DeferCleanup(func() { _ = conn.Close() })
	Expect(conn.SetReadDeadline(time.Now().Add(within))).To(Succeed())
	greeting, err = bufio.NewReaderSize(conn, 16).ReadString('\n')
	if err != nil {
		return conn, ""
	}
	return conn, strings.TrimSuffix(greeting, "\n")
}

// get is get, inside.
func (n *network) get(url string) map[string]any {
	GinkgoHelper()
	request, err := http.NewRequest(http.MethodGet, url, nil)
	Expect(err).NotTo(HaveOccurred())
	request.Close = true
	conn, err := n.dial(request.URL.Host)
	Expect(err).NotTo(HaveOccurred())
	defer conn.Close()
	Expect(conn.SetDeadline(time.Now().Add(within))).To(Succeed())
	Expect(request.Write(conn)).To(Succeed())
	response, err := http.ReadResponse(bufio.NewReader(conn), request)
	Expect(err).NotTo(HaveOccurred())
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	Expect(err).NotTo(HaveOccurred())
	Expect(response.StatusCode).To(Equal(http.StatusOK), "%s", text)
	answer := make(map[string]any)
	Expect(json.Unmarshal(text, &answer)).To(Succeed())
	return answer
}
