package main_test

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"

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

	Context("when somebody reads its log", func() {
		// told waits for a line and expects its level and its data's keys.
		told := func(o *original, message string, level float64, names ...string) keys {
			GinkgoHelper()
			data := o.awaitLine(message)
			Expect(o.find(message)).To(HaveKeyWithValue("log_level", level), message)
			for _, name := range names {
				Expect(data).To(HaveKey(name), message)
			}
			return data
		}
		const info, failure = 1.0, 2.0

		DescribeTable("says what operators look for",
			func(format, timestamp string, level bool) {
				agents[1].Unhealthy()
				o := startOriginal(with(inactivePort), "-timeFormat="+format)
				o.awaitActive("mysql/0", 1)
				_, port, _ := net.SplitHostPort(nodes[0].Addr())
				number, err := strconv.Atoi(port)
				Expect(err).NotTo(HaveOccurred())
				first := keys{"host": "127.0.0.1", "port": float64(number), "status_port": float64(agents[0].Port()), "name": "mysql/0"}
				second := HaveKeyWithValue("backend", HaveKeyWithValue("name", "mysql/1"))
				isFirst, isNone := HaveKeyWithValue("backend", Equal(first)), HaveKeyWithValue("backend", BeNil())

				config := told(o, "switchboard.Proxy started", info, "proxyConfig")["proxyConfig"]
				Expect(config).To(And(HaveKeyWithValue("Port", float64(o.mysql)), HaveKeyWithValue("Backends", HaveLen(2))))
				told(o, "switchboard.active-bridge-runner.Proxy listening on "+local(o.mysql), info)
				told(o, "switchboard.inactive-bridge-runner.Proxy listening on "+local(o.inactive), info)
				for _, which := range []string{"active", "inactive"} {
					Expect(told(o, "switchboard."+which+"-monitor.New active backend", info)).To(isFirst)
					Expect(told(o, "switchboard."+which+"-bridge-runner.Done severing connections, new active backend:", info)).To(isFirst)
					failed := told(o, "switchboard."+which+"-monitor.Healthcheck failed on backend", failure)
					Expect(failed).To(And(second,
						HaveKeyWithValue("endpoint", fmt.Sprintf("http://127.0.0.1:%d/api/v1/status", agents[1].Port())),
						HaveKeyWithValue("error", `says healthy: false: {"wsrep_local_state":2,"wsrep_local_state_comment":"Donor/Desynced","wsrep_local_index":0,"healthy":false}`)))
				}
				Expect(told(o, "switchboard.Done updating Cluster Api, new active backend:", info)).To(isFirst)
				Expect(told(o, "switchboard.Previously unhealthy backend became healthy.", info)).To(isFirst)

				agents[0].Set(spec.Answer{Status: 503, Body: strings.Repeat("x", 2000)})
				Expect(told(o, "switchboard.Previously healthy backend became unhealthy.", info)).To(isFirst)
				Expect(told(o, "switchboard.active-monitor.Healthcheck failed on backend", failure)).
					To(And(isFirst, HaveKeyWithValue("error", "status 503: "+strings.Repeat("x", 1024)+"…")))
				for _, message := range []string{
					"switchboard.active-bridge-runner.Done severing connections, new active backend:",
					"switchboard.inactive-bridge-runner.Done severing connections, new active backend:",
					"switchboard.Done updating Cluster Api, new active backend:",
				} {
					Eventually(func() any { return o.find(message)["data"] }).WithTimeout(within).Should(isNone, message)
				}
				for _, port := range []int{o.mysql, o.inactive} {
					spec.ExpectReset(spec.DialFront(local(port)))
				}
				told(o, "switchboard.active-bridge-runner.No active backend", failure, "error")
				told(o, "switchboard.inactive-bridge-runner.No active backend", failure, "error")

				agents[0].Healthy(0)
				o.awaitActive("mysql/0", 1)
				nodes[0].Stop()
				spec.ExpectReset(spec.DialFront(local(o.mysql)))
				Expect(told(o, "switchboard.active-bridge-runner.Error routing to backend", failure)).To(HaveKeyWithValue("error", ContainSubstring("connection refused")))

				o.ask("PATCH", o.api, "/v0/cluster?trafficEnabled=false&message=some+work", operator)
				Expect(told(o, "switchboard.Disabling traffic for cluster", info)).To(Equal(keys{"message": "some work"}))
				o.ask("PATCH", o.api, "/v0/cluster?trafficEnabled=true&message=done", operator)
				Expect(told(o, "switchboard.Enabling traffic for cluster", info)).To(Equal(keys{"message": "done"}))

				o.Signal(syscall.SIGTERM)
				Expect(o.WaitExit(within)).To(Equal(0))
				for _, which := range []string{"active", "inactive"} {
					Expect(told(o, "switchboard."+which+"-bridge-runner.Received signal", info)).To(Equal(keys{"signal": "terminated"}))
					told(o, "switchboard."+which+"-bridge-runner.Proxy runner has exited", info)
				}
				names := map[float64]string{info: "info", failure: "error"}
				for _, line := range o.lines() {
					Expect(line).To(And(HaveKeyWithValue("timestamp", MatchRegexp(timestamp)), HaveKeyWithValue("source", "switchboard"), HaveKey("data")))
					Expect(line["log_level"]).To(BeElementOf(info, failure))
					if level {
						Expect(line).To(HaveKeyWithValue("level", names[line["log_level"].(float64)]))
					} else {
						Expect(line).NotTo(HaveKey("level"))
					}
				}
			},
			Entry("in seconds since 1970", "unix-epoch", `^\d{10}\.\d{9}$`, false),
			Entry("in RFC 3339", "rfc3339", `^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$`, true),
		)

		It("says that it cannot accept", func() {
			o := startOriginal(with())
			o.awaitActive("mysql/0", 2)
			var limit unix.Rlimit
			Expect(unix.Prlimit(o.PID(), unix.RLIMIT_NOFILE, nil, &limit)).To(Succeed())
			none := unix.Rlimit{Cur: 1, Max: limit.Max}
			Expect(unix.Prlimit(o.PID(), unix.RLIMIT_NOFILE, &none, nil)).To(Succeed())
			client := spec.DialFront(local(o.mysql))
			Expect(told(o, "switchboard.active-bridge-runner.Error accepting client connection", failure)).To(HaveKeyWithValue("error", ContainSubstring("too many open files")))

			Expect(unix.Prlimit(o.PID(), unix.RLIMIT_NOFILE, &limit, nil)).To(Succeed())
			Expect(client.Close()).To(Succeed())
			connect(local(o.mysql))
		})

		It("tells sessions, probes and requests at debug, without credentials", func() {
			o := startOriginal(with(), "-logLevel=debug", "-timeFormat=rfc3339", "-redactSecrets", "-redactPatterns=secret-[0-9]+")
			o.awaitActive("mysql/0", 2)
			conn, _ := connect(local(o.mysql))
			between := "from client at " + conn.LocalAddr().String() + " to backend at " + nodes[0].Addr()
			Expect(told(o, "switchboard.Session established "+between, 0)).To(Equal(keys{"port": "active", "backend": "mysql/0"}))
			Expect(o.said("switchboard.Session closed " + between)).To(BeFalse())
			spec.SayHello(conn)
			Expect(conn.Close()).To(Succeed())
			Expect(told(o, "switchboard.Session closed "+between, 0, "took")).
				To(And(HaveKeyWithValue("port", "active"), HaveKeyWithValue("backend", "mysql/0"),
					HaveKeyWithValue("reason", "client_closed"), HaveKeyWithValue("bytes_to_backend", 6.0), HaveKeyWithValue("bytes_to_client", 14.0)))
			Expect(told(o, "switchboard.active-monitor.Querying Backend", 0, "endpoint")).To(HaveKeyWithValue("backend", HaveKey("status_port")))
			Expect(told(o, "switchboard.active-monitor.Healthcheck succeeded", 0)).To(HaveKeyWithValue("endpoint", MatchRegexp(`^http://127\.0\.0\.1:\d+/api/v1/status$`)))

			// The line of a request has no words.
			const dump = "switchboard."
			line := func(asked ...any) keys {
				GinkgoHelper()
				matching := func() keys {
					data, _ := o.find(dump)["data"].(keys)
					return data
				}
				Eventually(matching).WithTimeout(within).Should(HaveKeyWithValue("request", And(HaveKeyWithValue("Method", asked[0]), HaveKeyWithValue("URL", asked[1]))))
				Expect(o.find(dump)).To(And(HaveKeyWithValue("log_level", 0.0), HaveKeyWithValue("level", "debug")))
				return matching()
			}
			o.ask("PATCH", o.api, "/v0/cluster?trafficEnabled=true&message=secret-123", operator, "Cookie: x=hunter2")
			Expect(told(o, "switchboard.Enabling traffic for cluster", info)).To(Equal(keys{"message": "*REDACTED*"}))
			Expect(line("PATCH", "*REDACTED*")["response"]).To(And(HaveKeyWithValue("StatusCode", 200.0), HaveKey("Header")))
			o.patchForm(url.Values{"trafficEnabled": {"true"}})
			Expect(line("PATCH", "/v0/cluster")["request"]).To(And(HaveKey("Host"), HaveKey("RemoteAddr"), HaveKey("Header"), HaveKeyWithValue("Body", "trafficEnabled=true")))
			// Who is refused is logged as well; pages are not.
			o.ask("GET", o.api, "/v0/backends?x", "")
			Expect(line("GET", "/v0/backends?x")["response"]).To(HaveKeyWithValue("StatusCode", 401.0))
			o.ask("GET", o.api, "/page", operator)
			o.ask("GET", o.aggregator, "/page", operator)
			o.ask("GET", o.health, "/page", "")
			body := o.ask("GET", o.api, "/v0/backends", operator).body
			Expect(line("GET", "/v0/backends")["response"]).To(HaveKeyWithValue("Body", body))
			logged := string(o.Stdout.Contents())
			for _, secret := range []string{"a-password", `"Authorization"`, "hunter2", "cHJveHk6YS1wYXNzd29yZA", "/page"} {
				Expect(logged).NotTo(ContainSubstring(secret))
			}
		})

		It("logs redirects to https, which come before the password", func() {
			o := startOriginal(with(set(true, "API", "ForceHttps")), "-logLevel=debug")
			Expect(o.ask("GET", o.api, "/v0/cluster", "").status).To(Equal(http.StatusFound))
			Expect(o.awaitLine("switchboard.")["response"]).To(HaveKeyWithValue("StatusCode", 302.0))
		})

		It("says nothing at level fatal", func() {
			agents[1].Unhealthy()
			o := startOriginal(with(), "-logLevel=fatal")
			o.awaitActive("mysql/0", 1)
			o.Signal(syscall.SIGTERM)
			Expect(o.WaitExit(within)).To(Equal(0))
			Expect(o.lines()).To(BeEmpty())
		})

		It("says only what is wrong at level error", func() {
			agents[1].Unhealthy()
			o := startOriginal(with(), "-logLevel=error")
			o.awaitActive("mysql/0", 1)
			o.awaitLine("switchboard.active-monitor.Healthcheck failed on backend")
			for _, line := range o.lines() {
				Expect(line["log_level"]).To(BeNumerically(">=", 2))
			}
		})

		It("sums up every minute unless it is told an interval", func() {
			o := startOriginal(with(set(keys{"Enabled": true, "Interval": 0}, "StatusLog")))
			Expect(o.awaitLine("switchboard.active-status-logger.Status logger starting")).To(HaveKeyWithValue("interval", "1m0s"))
			for _, line := range o.lines() {
				Expect(line["message"]).NotTo(HavePrefix("switchboard.inactive-"))
			}
		})

		It("sums up when it is told to", func() {
			o := startOriginal(with(inactivePort, set(keys{"Enabled": true, "Interval": "100ms"}, "StatusLog")))
			o.awaitActive("mysql/0", 2)
			connect(local(o.mysql))
			Expect(o.awaitLine("switchboard.active-status-logger.Status logger starting")).To(Equal(keys{"interval": "100ms", "backend_count": 2.0}))
			o.Stdout.Clear()
			line := func() any { return o.find("switchboard.active-status-logger.Status update")["data"] }
			Eventually(line).WithTimeout(within).Should(Equal(keys{
				"total_connections": 1.0, "healthy_backends": 2.0, "total_backends": 2.0, "active_backend": "mysql/0",
			}))
			agents[0].Unhealthy()
			Eventually(line).WithTimeout(within).Should(And(
				HaveKeyWithValue("active_backend", "mysql/1"), HaveKeyWithValue("total_connections", 0.0), HaveKeyWithValue("healthy_backends", 1.0),
				HaveKeyWithValue("unhealthy_backends", []any{"mysql/0"}), HaveKeyWithValue("last_failover_from", "mysql/0"),
				HaveKeyWithValue("total_failovers", 1.0), HaveKeyWithValue("last_failover_at", MatchRegexp(`^\d{4}-\d\d-\d\dT`))))
			agents[1].Unhealthy()
			Eventually(line).WithTimeout(within).Should(And(HaveKeyWithValue("active_backend", "none"), HaveKeyWithValue("total_failovers", 2.0)))
			Expect(o.awaitLine("switchboard.inactive-status-logger.Status update")).To(HaveKeyWithValue("total_backends", 2.0))
		})
	})
})
