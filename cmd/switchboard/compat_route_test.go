package main_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/fixtures/spec"
)

var _ = Describe("switchboard compat", func() {
	BeforeEach(spec.CheckLeaks)

	var (
		nodes  []*spec.Backend
		agents []*spec.Health
		with   func(...change) func(ports) string
	)
	BeforeEach(func() {
		p := startTwoNodes()
		nodes, agents, with = p.nodes, p.agents, p.with
	})

	Context("when it routes", func() {
		It("takes the lowest index first, and keeps it although a lower one comes back", func() {
			agents[0].Healthy(7)
			agents[1].Healthy(3)
			o := startOriginal(with())
			o.awaitActive("mysql/1", 2)
			conn, greeting := connect(local(o.mysql))
			Expect(greeting).To(Equal("mysql/1"))

			agents[1].Unhealthy()
			spec.ExpectReset(conn)
			o.awaitActive("mysql/0", 1)
			conn, greeting = connect(local(o.mysql))
			Expect(greeting).To(Equal("mysql/0"))

			agents[1].Healthy(3)
			o.awaitActive("mysql/0", 2)
			spec.SayHello(conn)
		})

		It("does not flap between equal indexes", func() {
			agents[0].Healthy(3)
			agents[1].Healthy(3)
			o := startOriginal(with(inactivePort))
			o.awaitActive("mysql/0", 2)
			onActive, _ := connect(local(o.mysql))
			onInactive, _ := connect(local(o.inactive))
			seen := agents[1].Probes()
			Eventually(agents[1].Probes).WithTimeout(within).Should(BeNumerically(">", seen+8))
			spec.SayHello(onActive)
			spec.SayHello(onInactive)
		})

		It("probes every fifth of the timeout, a little sooner at most", func() {
			o := startOriginal(with())
			o.awaitActive("mysql/0", 2)
			seen, began := agents[0].Probes(), time.Now()
			Eventually(agents[0].Probes).WithTimeout(within).Should(BeNumerically(">=", seen+10))
			Expect(time.Since(began)).To(BeNumerically(">", 9*150*time.Millisecond))
		})

		It("does not wait for a node that hangs", func() {
			var asked, given atomic.Int64
			hung := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				asked.Add(1)
				<-r.Context().Done()
				given.Add(1)
			}))
			DeferCleanup(hung.Close)
			o := startOriginal(with(set(6000, "Proxy", "HealthcheckTimeoutMillis"), func(_ ports, t keys) {
				proxy := t["Proxy"].(keys)
				third := maps.Clone(proxy["Backends"].([]keys)[0])
				third["Name"], third["StatusPort"] = "mysql/2", hung.Listener.Addr().(*net.TCPAddr).Port
				proxy["Backends"] = append(proxy["Backends"].([]keys), third)
			}))
			o.awaitActive("mysql/0", 2)
			conn, _ := connect(local(o.mysql))
			// Once a probe has been given up, the next one is asked at once.
			Eventually(given.Load).WithTimeout(within).Should(BeNumerically(">", 0))
			before := given.Load()
			Eventually(asked.Load).WithTimeout(within).Should(BeNumerically(">", before))
			agents[0].Unhealthy()
			spec.ExpectReset(conn)
			Expect(given.Load()).To(Equal(before), "the verdict has waited for the node that hangs")
			_, greeting := connect(local(o.mysql))
			Expect(greeting).To(Equal("mysql/1"))
		})

		It("passes the end of either side on, and what the other side still has to say", func() {
			o := startOriginal(with())
			o.awaitActive("mysql/0", 2)
			conn, _ := connect(local(o.mysql))
			_, err := io.WriteString(conn, "last words")
			Expect(err).NotTo(HaveOccurred())
			Expect(conn.CloseWrite()).To(Succeed())
			Expect(conn.SetReadDeadline(time.Now().Add(within))).To(Succeed())
			Expect(io.ReadAll(conn)).To(Equal([]byte("last words")))

			conn, _ = connect(local(o.mysql))
			Eventually(nodes[0].Open).WithTimeout(within).Should(Equal(1))
			nodes[0].CloseAll()
			spec.ExpectEOF(conn)
		})

		It("does not cut anybody off for one failed probe", func() {
			o := startOriginal(with())
			o.awaitActive("mysql/0", 2)
			conn, _ := connect(local(o.mysql))
			agents[0].Once(spec.Answer{Status: 500})
			seen := agents[0].Probes()
			Eventually(agents[0].Probes).WithTimeout(within).Should(BeNumerically(">", seen+3))
			spec.SayHello(conn)
			failed := o.find("switchboard.active-monitor.Healthcheck failed on backend")
			Expect(failed).To(HaveKeyWithValue("log_level", 2.0))
			Expect(failed["data"]).To(HaveKeyWithValue("error", ContainSubstring("status 500")))
			Expect(o.said("switchboard.Previously healthy backend became unhealthy.")).To(BeFalse())
		})

		It("keeps a node's index through an answer that has none", func() {
			agents[1].Healthy(7)
			o := startOriginal(with(inactivePort))
			o.awaitActive("mysql/0", 2)
			var conn net.Conn
			Eventually(func() (greeting string) { conn, greeting = connect(local(o.inactive)); return greeting }).WithTimeout(within).Should(Equal("mysql/1"))
			// Both monitors ask; once it is the inactive one that gets that answer.
			for range 100 {
				agents[1].Once(spec.Answer{Status: 500})
				seen := agents[1].Probes()
				Eventually(agents[1].Probes).WithTimeout(within).Should(BeNumerically(">", seen+6))
				if o.said("switchboard.inactive-monitor.Healthcheck failed on backend") {
					break
				}
			}
			Expect(o.said("switchboard.inactive-monitor.Healthcheck failed on backend")).To(BeTrue())
			spec.SayHello(conn)
		})

		DescribeTable("takes nothing but 200 with healthy: true for health",
			func(answer spec.Answer) {
				o := startOriginal(with())
				o.awaitActive("mysql/0", 2)
				agents[0].Set(answer)
				o.awaitActive("mysql/1", 1)
			},
			Entry("healthy: false", spec.Answer{Body: `{"healthy":false}`}),
			Entry("no healthy", spec.Answer{Body: `{"wsrep_local_index":0}`}),
			Entry("a body that is not JSON", spec.Answer{Body: "fine"}),
			Entry("503", spec.Answer{Status: 503, Body: `{"healthy":true}`}),
			Entry("404", spec.Answer{Status: 404, Body: `{"healthy":true}`}),
			Entry("no answer", spec.Answer{Hang: true}),
		)

		It("takes a page that is 200 and no JSON for no health, and a missing index for 0", func() {
			answers := []string{"OK", `{"healthy":true,"wsrep_local_index":1}`, `{"healthy":true}`}
			o := startOriginal(with(func(_ ports, t keys) {
				proxy := t["Proxy"].(keys)
				var backends []keys
				for i, answer := range answers {
					server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, answer) }))
					DeferCleanup(server.Close)
					b := maps.Clone(proxy["Backends"].([]keys)[0])
					b["Name"], b["StatusPort"] = fmt.Sprintf("mysql/%d", i), server.Listener.Addr().(*net.TCPAddr).Port
					backends = append(backends, b)
				}
				proxy["Backends"] = backends
			}))
			o.awaitActive("mysql/2", 2)
			Expect(o.backends()).To(ContainSubstring(`"healthy":false,"name":"mysql/0"`))
		})

		It("asks each backend's own endpoint, with or without the slash", func() {
			var asked [2]atomic.Pointer[string]
			var servers []*httptest.Server
			for i := range asked {
				servers = append(servers, httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					path := r.Method + " " + r.RequestURI
					asked[i].Store(&path)
					fmt.Fprintf(w, `{"healthy":true,"wsrep_local_index":%d}`, i)
				})))
				DeferCleanup(servers[i].Close)
			}
			o := startOriginal(with(func(_ ports, t keys) {
				for i, b := range t["Proxy"].(keys)["Backends"].([]keys) {
					b["StatusEndpoint"] = []string{"galera_healthcheck?x=1", "/api/v1/status"}[i]
					b["StatusPort"] = servers[i].Listener.Addr().(*net.TCPAddr).Port
				}
			}))
			o.awaitActive("mysql/0", 2)
			Expect(*asked[0].Load()).To(Equal("GET /galera_healthcheck?x=1"))
			Expect(*asked[1].Load()).To(Equal("GET /api/v1/status"))
		})

		It("offers the highest index on the inactive port, and each port severs its own sessions only", func() {
			o := startOriginal(with(inactivePort))
			o.awaitActive("mysql/0", 2)
			onActive, greeting := connect(local(o.mysql))
			Expect(greeting).To(Equal("mysql/0"))
			var onInactive net.Conn
			Eventually(func() string { onInactive, greeting = connect(local(o.inactive)); return greeting }).WithTimeout(within).Should(Equal("mysql/1"))

			agents[1].Unhealthy()
			spec.ExpectReset(onInactive)
			onInactive, greeting = connect(local(o.inactive))
			Expect(greeting).To(Equal("mysql/0"))
			spec.SayHello(onActive)

			// Both are on mysql/0 now; the return of mysql/1 moves one of them.
			agents[1].Healthy(1)
			spec.ExpectReset(onInactive)
			_, greeting = connect(local(o.inactive))
			Expect(greeting).To(Equal("mysql/1"))
			spec.SayHello(onActive)
		})

		It("has no inactive port unless it is told one", func() {
			o := startOriginal(with())
			_, err := net.Dial("tcp", local(o.inactive))
			Expect(err).To(MatchError(syscall.ECONNREFUSED))
		})

		It("cuts both ports off with the traffic flag, and forgets it in a restart", func() {
			o := startOriginal(with(inactivePort))
			o.awaitActive("mysql/0", 2)
			first, _ := connect(local(o.mysql))
			second, _ := connect(local(o.inactive))
			o.ask("PATCH", o.api, "/v0/cluster?trafficEnabled=false&message=maintenance", operator)
			for _, conn := range []net.Conn{first, second} {
				spec.ExpectReset(conn)
			}
			for _, port := range []int{o.mysql, o.inactive} {
				spec.ExpectReset(spec.DialFront(local(port)))
			}
			Expect(o.backends()).NotTo(ContainSubstring(`"trafficEnabled":true`))
			for _, line := range o.lines() {
				Expect(line["log_level"]).To(BeNumerically("<", 2), "clients are refused silently")
			}
			Expect(o.awaitLine("switchboard.Disabling traffic for cluster")).To(Equal(keys{"message": "maintenance"}))
			o.ask("PATCH", o.api, "/v0/cluster?trafficEnabled=true&message=done", operator)
			Expect(o.awaitLine("switchboard.Enabling traffic for cluster")).To(Equal(keys{"message": "done"}))
			first, _ = connect(local(o.mysql))
			connect(local(o.inactive))
			o.ask("PATCH", o.api, "/v0/cluster?trafficEnabled=true", operator)
			spec.SayHello(first)

			o.ask("PATCH", o.api, "/v0/cluster?trafficEnabled=false&message=again", operator)
			o.Kill()
			Expect(o.WaitExit(within)).To(Equal(-1))
			o = startOriginal(with())
			Expect(o.cluster()).To(ContainSubstring(`"trafficEnabled":true,"message":"","lastUpdated":"0001-01-01T00:00:00Z"`))
		})

		It("accepts and closes before the first verdict", func() {
			agents[0].Hang()
			agents[1].Hang()
			o := startOriginal(with(set(60_000, "Proxy", "HealthcheckTimeoutMillis")))
			Expect(o.cluster()).To(HavePrefix(`{"activeBackend":null,`))
			Expect(o.backends()).NotTo(ContainSubstring(`"healthy":true`))
			spec.ExpectReset(spec.DialFront(local(o.mysql)))
			o.awaitLine("switchboard.active-bridge-runner.No active backend")
		})

		It("accepts and closes without a backend, and does not flood its log", func() {
			agents[0].Unhealthy()
			agents[1].Unhealthy()
			o := startOriginal(with())
			Eventually(func() int { return strings.Count(o.backends(), `"healthy":false`) }).WithTimeout(within).Should(Equal(2))
			Expect(o.cluster()).To(HavePrefix(`{"activeBackend":null,`))
			for range 50 {
				spec.ExpectReset(spec.DialFront(local(o.mysql)))
			}
			Expect(o.awaitLine("switchboard.active-bridge-runner.No active backend")).To(HaveKeyWithValue("error", "no active backend"))
			Expect(strings.Count(string(o.Stdout.Contents()), "No active backend")).To(BeNumerically("<", 10))
		})

		It("asks agents over https with its CA and the name, and never over plain HTTP", func() {
			ca, other := newCA(), newCA()
			secure := func(issuer authority, name string) int {
				certificate, key := issuer.issue(name)
				pair, err := tls.X509KeyPair([]byte(certificate), []byte(key))
				Expect(err).NotTo(HaveOccurred())
				server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					_, _ = io.WriteString(w, `{"healthy":true,"wsrep_local_index":0}`)
				}))
				server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
				server.Config.ErrorLog = log.New(io.Discard, "", 0)
				server.StartTLS()
				DeferCleanup(server.Close)
				return server.Listener.Addr().(*net.TCPAddr).Port
			}
			good, wrongName, wrongCA := secure(ca, "galera-agent"), secure(ca, "somebody"), secure(other, "galera-agent")
			statusPorts := []int{wrongName, wrongCA, agents[1].Port(), good}
			o := startOriginal(with(set(keys{"Enabled": true, "CA": ca.pem, "ServerName": "galera-agent"}, "GaleraAgentTLS"), func(_ ports, t keys) {
				proxy := t["Proxy"].(keys)
				var backends []keys
				for i, port := range statusPorts {
					b := maps.Clone(proxy["Backends"].([]keys)[0])
					b["Name"], b["StatusPort"] = fmt.Sprintf("mysql/%d", i), port
					backends = append(backends, b)
				}
				proxy["Backends"] = backends
			}))
			o.awaitActive("mysql/3", 1)
			for i := range 3 {
				Expect(o.backends()).To(MatchRegexp(fmt.Sprintf(`"healthy":false,"name":"mysql/%d"`, i)))
			}
			// A plain agent that would have said healthy was never asked.
			Expect(agents[1].Probes()).To(BeZero())
			var said []string
			for _, line := range o.lines() {
				if line["message"] == "switchboard.active-monitor.Healthcheck failed on backend" {
					said = append(said, line["data"].(keys)["error"].(string))
				}
			}
			Expect(said).To(ContainElements(ContainSubstring("not galera-agent"), ContainSubstring("unknown authority"), ContainSubstring("does not look like a TLS handshake")))
		})
	})

	Context("when it is told to stop", func() {
		It("accepts on for the delay with red health, and still fails over", func() {
			o := startOriginal(with(inactivePort, set(3, "Proxy", "ShutdownDelaySeconds")))
			o.awaitActive("mysql/0", 2)
			conn, _ := connect(local(o.mysql))
			o.Signal(syscall.SIGTERM)
			began := time.Now()
			Eventually(func() int { return o.ask("GET", o.health, "/", "").status }).WithTimeout(within).Should(Equal(http.StatusServiceUnavailable))
			Expect(o.awaitLine("switchboard.active-bridge-runner.Received signal")).To(HaveKeyWithValue("signal", "terminated"))
			spec.SayHello(conn)
			late, greeting := connect(local(o.mysql))
			Expect(greeting).To(Equal("mysql/0"))
			_, greeting = connect(local(o.inactive))
			Expect(greeting).To(Equal("mysql/1"))

			agents[0].Unhealthy()
			spec.ExpectReset(late)
			spec.ExpectReset(conn)
			o.awaitActive("mysql/1", 1)
			late, greeting = connect(local(o.mysql))
			Expect(greeting).To(Equal("mysql/1"))
			for _, port := range []int{o.api, o.aggregator} {
				Expect(o.ask("GET", port, "/", operator).status).To(Equal(http.StatusOK))
			}

			spec.ExpectReset(late)
			Expect(time.Since(began)).To(BeNumerically(">=", 3*time.Second))
			Expect(o.WaitExit(within)).To(Equal(0))
			Expect(o.said("switchboard.active-bridge-runner.Proxy runner has exited")).To(BeTrue())
		})

		It("ends now on a second signal", func() {
			o := startOriginal(with(set(3600, "Proxy", "ShutdownDelaySeconds")))
			conn, _ := connect(local(o.mysql))
			o.Signal(syscall.SIGINT)
			o.awaitLine("switchboard.active-bridge-runner.Received signal")
			o.Signal(syscall.SIGINT)
			spec.ExpectReset(conn)
			Expect(o.WaitExit(within)).To(Equal(0))
		})

		It("does not wait for a request that does not end", func() {
			o := startOriginal(with())
			conn := spec.DialFront(local(o.api))
			request, err := http.NewRequest("PATCH", "http://"+local(o.api)+"/v0/cluster", nil)
			Expect(err).NotTo(HaveOccurred())
			request.SetBasicAuth("proxy", "a-password")
			_, err = fmt.Fprintf(conn, "PATCH /v0/cluster HTTP/1.1\r\nHost: x\r\nAuthorization: %s\r\n"+
				"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 99\r\n\r\ntraffic", request.Header.Get("Authorization"))
			Expect(err).NotTo(HaveOccurred())
			o.Signal(syscall.SIGTERM)
			Expect(o.WaitExit(within)).To(Equal(0))
		})

		It("ends at once without a delay, and not by the signal that rotates logs", func() {
			o := startOriginal(with())
			o.Signal(syscall.SIGUSR1)
			conn, _ := connect(local(o.mysql))
			o.Signal(syscall.SIGTERM)
			spec.ExpectReset(conn)
			Expect(o.WaitExit(within)).To(Equal(0))
		})
	})
})
