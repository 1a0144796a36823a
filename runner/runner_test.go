package runner_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/tedsuo/ifrit"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/api"
	"switchboard/bridge"
	"switchboard/bridge/accesslog"
	"switchboard/fixtures/spec"
	"switchboard/monitor"
	"switchboard/monitor/check"
	"switchboard/runner"
)

// still is how long a spec watches that something does not happen.
const still = 10 * interval

var _ = Describe("Router", func() {
	It("cuts every client from a backend that says it is unhealthy and serves the next", func() {
		nodes := startNodes(3)
		r := start(config(nodes))
		Eventually(r.active).Should(Equal("db-0"))
		var clients []*net.TCPConn
		for range 50 {
			client := spec.DialFront(r.front())
			Expect(spec.ReadLine(client)).To(Equal("db-0"))
			clients = append(clients, client)
		}
		nodes[0].health.Unhealthy()
		for _, client := range clients {
			spec.ExpectReset(client)
		}
		Eventually(func() (string, error) { return spec.Ask(r.front()) }).Should(Equal("db-1"))
		Expect(r.db().Reason).To(HavePrefix("unhealthy: db-0"))
	})

	It("is not delayed by a third backend that hangs", func() {
		nodes := startNodes(3)
		nodes[2].health.Hang()
		c := config(nodes)
		c.Hosts[0].Check.Timeout = 5 * time.Second
		r := start(c)
		Eventually(r.active, "1s").Should(Equal("db-0"))
		nodes[0].health.Unhealthy()
		Eventually(r.active, "1s").Should(Equal("db-1"))
	})

	It("severs nobody after one lost probe", func() {
		nodes := startNodes(2)
		r := start(config(nodes))
		Eventually(r.active).Should(Equal("db-0"))
		client := spec.DialFront(r.front())
		Expect(spec.ReadLine(client)).To(Equal("db-0"))
		epoch := r.db().Epoch
		for range 5 {
			before := nodes[0].health.Probes()
			nodes[0].health.Once(spec.Answer{Status: http.StatusInternalServerError})
			Eventually(nodes[0].health.Probes).Should(BeNumerically(">=", before+4))
		}
		spec.SayHello(client)
		Expect(r.db().Epoch).To(Equal(epoch))
	})

	It("stays with its backend when one of a lower index has recovered", func() {
		nodes := startNodes(2)
		r := start(config(nodes))
		Eventually(r.active).Should(Equal("db-0"))
		nodes[0].health.Unhealthy()
		Eventually(r.active).Should(Equal("db-1"))
		client := spec.DialFront(r.front())
		Expect(spec.ReadLine(client)).To(Equal("db-1"))
		nodes[0].health.Healthy(0)
		Eventually(func() bool { return r.db().Backends[0].Healthy }).Should(BeTrue())
		Consistently(r.active, still).Should(Equal("db-1"))
		spec.SayHello(client)
	})

	It("does not flap between backends of the same index", func() {
		nodes := startNodes(3)
		for _, n := range nodes {
			n.health.Healthy(0)
		}
		c := config(nodes)
		c.Hosts[0].Elect = monitor.Lowest
		r := start(c)
		Eventually(r.active).Should(Equal("db-0"))
		epoch := r.db().Epoch
		Consistently(func() uint64 { return r.db().Epoch }, still).Should(Equal(epoch))
	})

	It("keeps the sessions of an active and an inactive port over the same backends apart", func() {
		nodes := startNodes(2)
		c := config(nodes)
		inactive := host("db-inactive", nodes)
		inactive.Elect = monitor.Highest
		c.Hosts = append(c.Hosts, inactive)
		c.Listeners = append(c.Listeners, runner.Listener{Name: "inactive", Bind: "127.0.0.1:0", Host: "db-inactive"})
		r := start(c)
		Eventually(r.active).Should(Equal("db-0"))
		Eventually(func() (string, error) { return spec.Ask(r.Addr("inactive").String()) }).Should(Equal("db-1"))
		writer, reader := spec.DialFront(r.front()), spec.DialFront(r.Addr("inactive").String())
		Expect(spec.ReadLine(writer)).To(Equal("db-0"))
		Expect(spec.ReadLine(reader)).To(Equal("db-1"))

		nodes[1].health.Unhealthy()
		spec.ExpectReset(reader)
		Eventually(func() (string, error) { return spec.Ask(r.Addr("inactive").String()) }).Should(Equal("db-0"))
		nodes[1].health.Healthy(1)
		Eventually(func() (string, error) { return spec.Ask(r.Addr("inactive").String()) }).Should(Equal("db-1"))
		spec.SayHello(writer)
	})

	It("leaves a killed backend at once, whatever the interval", func() {
		nodes := startNodes(2)
		c := config(nodes)
		c.Hosts[0].Check = &check.Spec{Type: "tcp", Interval: time.Hour, Timeout: time.Second}
		for i := range c.Hosts[0].Backends {
			c.Hosts[0].Backends[i].CheckPort = 0
		}
		r := start(c)
		Eventually(r.active).Should(Equal("db-0"))
		clients := make([]*net.TCPConn, 10)
		for i := range clients {
			clients[i] = spec.DialFront(r.front())
			Expect(spec.ReadLine(clients[i])).To(Equal("db-0"))
		}
		nodes[0].Stop()
		Eventually(r.active, "1s").Should(Equal("db-1"))
		Expect(r.db().Reason).To(ContainSubstring("connection refused"))
		Expect(spec.Ask(r.front())).To(Equal("db-1"))
	})

	It("does not come back to a backend whose status page is green and whose port is dead", func() {
		nodes := startNodes(2)
		r := start(config(nodes))
		Eventually(r.active).Should(Equal("db-0"))
		nodes[0].Stop()
		Eventually(func() (string, error) { return spec.Ask(r.front()) }).Should(Equal("db-1"))
		epoch := r.db().Epoch
		Consistently(func() uint64 { return r.db().Epoch }, still).Should(Equal(epoch))
		nodes[0].Restart()
		Eventually(func() bool { return r.db().Backends[0].Healthy }).Should(BeTrue())
	})

	It("routes to backends without a check until the data path fails, and then lets them rest", func() {
		nodes := startNodes(2)
		c := config(nodes)
		c.Hosts[0].Check = nil
		r := start(c)
		Eventually(r.active).Should(Equal("db-0"))
		nodes[0].Stop()
		Eventually(func() (string, error) { return spec.Ask(r.front()) }).Should(Equal("db-1"))
		Expect(nodes[0].health.Probes()).To(BeZero())
	})

	It("has no backend when all have failed, and one again when one is back", func() {
		nodes := startNodes(2)
		r := start(config(nodes))
		Eventually(r.active).Should(Equal("db-0"))
		nodes[0].health.Unhealthy()
		nodes[1].health.Unhealthy()
		Eventually(r.active).Should(BeEmpty())
		spec.ExpectReset(spec.DialFront(r.front()))
		nodes[1].health.Healthy(1)
		Eventually(func() (string, error) { return spec.Ask(r.front()) }).Should(Equal("db-1"))
	})

	It("spreads the rush of clients after a failover, and serves them all", func() {
		const rush = 900
		nodes := startNodes(2)
		c := config(nodes)
		c.Hosts[0].Hold = 10 * time.Second
		// The rush keeps this machine busy, and a late answer is not what this is about.
		c.Hosts[0].Check.Timeout = 10 * time.Second
		ends := make(chan bridge.Record, 2*rush)
		c.Records = func(r bridge.Record) { ends <- r }
		r := start(c)
		Eventually(r.active).Should(Equal("db-0"))
		nodes[0].health.Unhealthy()
		nodes[1].health.Unhealthy()
		Eventually(r.active).Should(BeEmpty())
		var clients sync.WaitGroup
		names := make(chan string, rush)
		for range rush {
			clients.Go(func() {
				name, err := spec.Ask(r.front())
				if err != nil {
					name = err.Error()
				}
				names <- name
			})
		}
		Eventually(r.Parked, "10s").Should(Equal(rush))
		nodes[1].health.Healthy(1)
		clients.Wait()
		close(names)
		for name := range names {
			Expect(name).To(Equal("db-1"))
		}
		for range rush {
			var r bridge.Record
			Eventually(ends).Should(Receive(&r))
			Expect(r).To(HaveField("Reason", bridge.ClientClosed))
		}
	})

	Describe("its API", func() {
		It("shows the cluster and takes commands", func() {
			nodes := startNodes(2)
			r := start(config(nodes))
			Eventually(r.active).Should(Equal("db-0"))
			client := spec.DialFront(r.front())
			Expect(spec.ReadLine(client)).To(Equal("db-0"))
			url := "http://" + r.APIAddr().String()
			Expect(get(url + "/cluster")).To(Equal(200))

			body := `{"active": "db-1", "message": "moving"}`
			request, err := http.NewRequest("PATCH", url+"/hosts/db", bytes.NewBufferString(body))
			Expect(err).NotTo(HaveOccurred())
			request.Header.Set("Content-Type", "application/merge-patch+json")
			response, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(request)
			Expect(err).NotTo(HaveOccurred())
			defer response.Body.Close()
			Expect(response.StatusCode).To(Equal(200))
			var answer struct {
				Active  struct{ Name string }
				Severed int
				Reason  string
			}
			Expect(json.NewDecoder(response.Body).Decode(&answer)).To(Succeed())
			Expect(answer.Active.Name).To(Equal("db-1"))
			Expect(answer.Severed).To(Equal(1))
			Expect(answer.Reason).To(Equal("operator: moving"))
			spec.ExpectReset(client)
			Expect(spec.Ask(r.front())).To(Equal("db-1"))
		})

		It("has as many watchers of events as are configured, and answers others all the same", func() {
			c := config(startNodes(1))
			c.API.Streams = 30 // more than the API has connections by itself
			r := start(c)
			url := "http://" + r.APIAddr().String()
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
			for range c.API.Streams {
				response, err := client.Get(url + "/events")
				Expect(err).NotTo(HaveOccurred())
				DeferCleanup(response.Body.Close)
				Expect(response.StatusCode).To(Equal(200))
			}
			Expect(get(url + "/events")).To(Equal(503))
			Expect(get(url + "/cluster")).To(Equal(200))
		})

		It("refuses to start with more of them than there are descriptors for", func() {
			c := config(startNodes(1))
			c.API.Streams = 1 << 40
			_, err := runner.New(c)
			Expect(err).To(MatchError(ContainSubstring("files may be open")))
		})

		It("answers, and commands fail, after the router has stopped", func() {
			r := start(config(startNodes(1)))
			Eventually(r.active).Should(Equal("db-0"))
			r.stop()
			recorder := httptest.NewRecorder()
			request := httptest.NewRequest("PATCH", "/traffic", bytes.NewBufferString(`{"trafficEnabled": false, "message": "late"}`))
			request.Header.Set("Content-Type", "application/json")
			request.Host = "localhost"
			r.Handler().ServeHTTP(recorder, request)
			Expect(recorder.Code).To(Equal(503))
			_, err := r.Switch(timely(), "db", "db-0", "late")
			Expect(err).To(MatchError(bridge.ErrStopped))
			_, err = r.SetTraffic(timely(), "", bridge.TrafficChange{Enabled: true})
			Expect(err).To(MatchError(bridge.ErrStopped))
		})

		It("refuses commands about what is not there", func() {
			r := start(config(startNodes(1)))
			_, err := r.Switch(timely(), "web", "db-0", "")
			Expect(err).To(MatchError(bridge.ErrUnknownHost))
			_, err = r.Pin(timely(), "db", "db-7", "")
			Expect(err).To(MatchError(bridge.ErrUnknownBackend))
			_, err = r.SetTraffic(timely(), "web", bridge.TrafficChange{})
			Expect(err).To(MatchError(bridge.ErrUnknownHost))
			Expect(r.EndSession(timely(), "17")).To(MatchError(bridge.ErrUnknownSession))
		})
	})

	Describe("readiness", func() {
		It("is red until there are verdicts, while traffic is off, and when it stops", func() {
			nodes := startNodes(1)
			nodes[0].health.Hang()
			c := config(nodes)
			c.Health = "127.0.0.1:0"
			c.Hosts[0].Check.Timeout = time.Hour
			c.Delay = time.Hour
			r := start(c)
			url := "http://" + r.APIAddr().String()
			Expect(get(url + "/healthz")).To(Equal(200))
			Expect(get(url + "/readyz")).To(Equal(503))
			Expect(r.Ready()).To(MatchError(ContainSubstring("have not been checked yet")))
			nodes[0].health.Healthy(0)
			nodes[0].health.Stop()
			nodes[0].health.Restart()
			Eventually(r.Ready).Should(Succeed())
			// The first verdict may be that its check was refused while it restarted.
			Eventually(r.active).Should(Equal("db-0"))
			Expect(get(url + "/readyz")).To(Equal(200))
			Expect(get("http://" + r.HealthAddr().String() + "/anything")).To(Equal(200))

			_, err := r.SetTraffic(timely(), "", bridge.TrafficChange{Message: "maintenance"})
			Expect(err).NotTo(HaveOccurred())
			Expect(r.Ready()).To(MatchError("traffic is off"))
			Expect(get("http://" + r.HealthAddr().String() + "/anything")).To(Equal(503))
			_, err = r.SetTraffic(timely(), "", bridge.TrafficChange{Enabled: true})
			Expect(err).NotTo(HaveOccurred())
			Expect(r.Ready()).To(Succeed())

			r.signal()
			Eventually(r.Ready).Should(MatchError("stopping"))
			Expect(get(url + "/readyz")).To(Equal(503))
			Expect(get(url + "/healthz")).To(Equal(200))
			Expect(spec.Ask(r.front())).To(Equal("db-0"), "it accepts on for Delay")
		})

		It("does not need a healthy backend", func() {
			nodes := startNodes(1)
			nodes[0].health.Unhealthy()
			r := start(config(nodes))
			Eventually(r.Ready).Should(Succeed())
		})
	})

	Describe("stopping", func() {
		It("accepts on for the delay, drains, severs, and follows elections all the while", func() {
			nodes, clock := startNodes(2), spec.NewClock()
			c := config(nodes)
			c.Hosts[0].Check = nil
			c.Clock, c.Delay, c.Drain = clock, time.Minute, time.Minute
			r := start(c)
			Eventually(r.active).Should(Equal("db-0"))
			before := clock.Waiting()
			r.signal()
			Eventually(clock.Waiting).Should(Equal(before + 1))
			client := spec.DialFront(r.front())
			Expect(spec.ReadLine(client)).To(Equal("db-0"))

			clock.Advance(time.Minute)
			Eventually(func() error {
				conn, err := net.Dial("tcp", r.front())
				if err == nil {
					conn.Close()
				}
				return err
			}).Should(MatchError(syscall.ECONNREFUSED))
			spec.SayHello(client)
			severed, err := r.Switch(timely(), "db", "db-1", "while draining")
			Expect(err).NotTo(HaveOccurred())
			Expect(severed).To(Equal(1))
			spec.ExpectReset(client)
			Eventually(r.ended).Should(Receive(BeNil()))
		})

		It("means now at the second signal", func() {
			c := config(startNodes(1))
			c.Delay, c.Drain = time.Hour, time.Hour
			r := start(c)
			Eventually(r.active).Should(Equal("db-0"))
			client := spec.DialFront(r.front())
			Expect(spec.ReadLine(client)).To(Equal("db-0"))
			r.signal()
			spec.SayHello(client)
			r.signal()
			spec.ExpectReset(client)
			Eventually(r.ended).Should(Receive(BeNil()))
		})

		It("ends with an error that names the part that could not start", func() {
			taken := spec.StartBackend(spec.Echo)
			c := config(startNodes(1))
			c.Listeners[0].Bind = taken.Addr()
			router, err := runner.New(c)
			Expect(err).NotTo(HaveOccurred())
			process := ifrit.Background(router)
			Eventually(process.Wait(), "5s").Should(Receive(MatchError(ContainSubstring(fmt.Sprintf(
				`listener "front": listening on %s: address already in use: another process has this port; stop it or choose another`, taken.Addr())))))
		})
	})

	Describe("state", func() {
		var (
			c     runner.Config
			nodes []node
		)
		BeforeEach(func() {
			nodes = startNodes(3)
			c = config(nodes)
			c.State = filepath.Join(GinkgoT().TempDir(), "state")
		})

		It("keeps the traffic switches, pins, the last active backend and the epoch over a restart", func() {
			r := start(c)
			Eventually(r.active).Should(Equal("db-0"))
			_, err := r.Switch(timely(), "db", "db-2", "moving")
			Expect(err).NotTo(HaveOccurred())
			_, err = r.SetTraffic(timely(), "", bridge.TrafficChange{Message: "maintenance"})
			Expect(err).NotTo(HaveOccurred())
			epoch := r.db().Epoch
			r.stop()

			r = start(c)
			Expect(r.Cluster().Traffic.TrafficEnabled).To(BeFalse())
			Expect(r.Cluster().Traffic.Message).To(Equal("maintenance"))
			spec.ExpectReset(spec.DialFront(r.front()))
			Eventually(r.active).Should(Equal("db-2"))
			Expect(r.db().Epoch).To(Equal(epoch + 1))
			_, err = r.SetTraffic(timely(), "", bridge.TrafficChange{Enabled: true})
			Expect(err).NotTo(HaveOccurred())
			_, err = r.Pin(timely(), "db", "db-1", "pinning")
			Expect(err).NotTo(HaveOccurred())
			nodes[1].health.Unhealthy()
			Eventually(r.active).Should(BeEmpty())
			r.stop()

			r = start(c)
			Expect(*r.db().Pin).To(Equal("db-1"))
			Consistently(r.active, still).Should(BeEmpty())
			nodes[1].health.Healthy(1)
			Eventually(r.active).Should(Equal("db-1"))
			_, err = r.Pin(timely(), "db", "", "unpinning")
			Expect(err).NotTo(HaveOccurred())
			r.stop()
			r = start(c)
			Expect(r.db().Pin).To(BeNil())
		})

		It("drops what it knows of a backend that is configured no more", func() {
			r := start(c)
			Eventually(r.active).Should(Equal("db-0"))
			_, err := r.Pin(timely(), "db", "db-2", "pinning")
			Expect(err).NotTo(HaveOccurred())
			r.stop()
			logger, lines := spec.Logs()
			c.Log = logger
			c.Hosts[0].Backends = c.Hosts[0].Backends[:2]
			r = start(c)
			Eventually(r.active).Should(Equal("db-0"))
			Expect(lines.Count("dropping a stored pin to a backend that is not configured")).To(Equal(1))
		})

		It("belongs to one router at a time", func() {
			start(c)
			_, err := runner.New(c)
			Expect(err).To(MatchError(ContainSubstring("in use")))
		})

		It("refuses to start with a traffic file that cannot be read", func() {
			r := start(c)
			r.stop()
			Expect(os.WriteFile(filepath.Join(c.State, "traffic.json"), []byte("{"), 0o600)).To(Succeed())
			_, err := runner.New(c)
			Expect(err).To(MatchError(ContainSubstring("traffic.json")))
		})

		It("says when a change is in force but not durable", func() {
			r := start(c)
			Eventually(r.active).Should(Equal("db-0"))
			Expect(os.RemoveAll(c.State)).To(Succeed())
			answer, err := r.SetTraffic(timely(), "", bridge.TrafficChange{Message: "maintenance"})
			Expect(err).To(MatchError(bridge.ErrNotDurable))
			Expect(answer.Traffic.Enabled).To(BeFalse())
			Expect(r.Cluster().Traffic.TrafficEnabled).To(BeFalse())
		})
	})

	Describe("Events", func() {
		It("yields history and then what happens", func() {
			nodes := startNodes(2)
			r := start(config(nodes))
			Eventually(r.active).Should(Equal("db-0"))
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			events := make(chan bridge.Event, 100)
			done := make(chan struct{})
			go func() {
				defer close(done)
				for _, e := range r.Events(ctx, 0) {
					events <- e
				}
			}()
			Eventually(events).Should(Receive(And(HaveField("Kind", bridge.NewActiveBackend), HaveField("Active.Backend.Name", "db-0"), HaveField("Active.Reason", "first election"))))
			client := spec.DialFront(r.front())
			Expect(spec.ReadLine(client)).To(Equal("db-0"))
			Eventually(events).Should(Receive(And(HaveField("Kind", bridge.SessionCount), HaveField("Sessions.Sessions", 1))))
			nodes[0].health.Unhealthy()
			Eventually(events).Should(Receive(And(HaveField("Kind", bridge.NewActiveBackend), HaveField("Active.Backend.Name", "db-1"))))
			_, err := r.SetTraffic(timely(), "db", bridge.TrafficChange{Message: "maintenance"})
			Expect(err).NotTo(HaveOccurred())
			Eventually(events).Should(Receive(And(HaveField("Kind", bridge.TrafficDisabled), HaveField("Host", "db"))))
			cancel()
			Eventually(done).Should(BeClosed())
		})
	})

	Describe("Metrics", func() {
		It("gets the state that the API shows, and how connections have ended", func() {
			c := config(startNodes(1))
			var sources api.Sources
			c.Metrics = func(s api.Sources) http.Handler {
				sources = s
				return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "up 1\n") })
			}
			r := start(c)
			Eventually(r.active).Should(Equal("db-0"))
			client := spec.DialFront(r.front())
			Expect(spec.ReadLine(client)).To(Equal("db-0"))
			Expect(sources.Sessions()).To(Equal(1))
			client.Close()
			Eventually(sources.Ended).Should(HaveKeyWithValue("client_closed", BeEquivalentTo(1)))
			answer := httptest.NewRecorder()
			request := httptest.NewRequest(http.MethodGet, "/metrics", nil)
			request.Host = "127.0.0.1"
			r.Handler().ServeHTTP(answer, request)
			Expect(answer.Body.String()).To(Equal("up 1\n"))
		})
	})

	Describe("access log", func() {
		It("has one line a connection", func() {
			var log lockedBuffer
			c := config(startNodes(1))
			c.Access = accesslog.New(accesslog.Options{Writer: &log})
			r := start(c)
			Eventually(r.active).Should(Equal("db-0"))
			client := spec.DialFront(r.front())
			Expect(spec.ReadLine(client)).To(Equal("db-0"))
			spec.SayHello(client)
			client.Close()
			Eventually(log.String).ShouldNot(BeEmpty())
			var line map[string]any
			Expect(json.Unmarshal([]byte(log.String()), &line)).To(Succeed())
			Expect(line).To(And(
				HaveKeyWithValue("kind", "session"), HaveKeyWithValue("protocol", "tcp"),
				HaveKeyWithValue("host", "db"), HaveKeyWithValue("listener", "front"), HaveKeyWithValue("backend", "db-0"),
				HaveKeyWithValue("client", client.LocalAddr().String()), HaveKeyWithValue("reason", "client_closed"),
				HaveKeyWithValue("epoch", BeNumerically("==", 1)), HaveKey("time"), HaveKey("id"), HaveKey("tookMs"),
				HaveKeyWithValue("version_type_key", "null"), HaveKeyWithValue("node_key", "null"), HaveKeyWithValue("instance_key", "null"),
				HaveKeyWithValue("bytesToBackend", BeNumerically(">", 0)), HaveKeyWithValue("bytesToClient", BeNumerically(">", 5))))
			Expect(line).NotTo(Or(HaveKey("code"), HaveKey("upstream_response_time"), HaveKey("nginx_response_time")))
			Expect(line["bytes"]).To(Equal(line["bytesToClient"]))
			Eventually(func() *api.AccessLog { return r.Cluster().AccessLog }).Should(Equal(&api.AccessLog{Written: 1, Dropped: map[string]int64{}}))
		})

		It("is written to the end when the router stops", func() {
			var log lockedBuffer
			c := config(startNodes(1))
			c.Access = accesslog.New(accesslog.Options{Writer: &log})
			r := start(c)
			Eventually(r.active).Should(Equal("db-0"))
			for range 100 {
				spec.DialFront(r.front())
			}
			Eventually(func() int { return r.Cluster().CurrentSessionCount }).Should(Equal(100))
			r.stop()
			Expect(bytes.Count([]byte(log.String()), []byte(`"reason":"shutdown"`))).To(Equal(100))
		})

		It("is why the router does not start, if it cannot be opened", func() {
			c := config(startNodes(1))
			c.State = GinkgoT().TempDir()
			c.Access = accesslog.New(accesslog.Options{Path: filepath.Join(GinkgoT().TempDir(), "no", "access.log")})
			router, err := runner.New(c)
			Expect(err).NotTo(HaveOccurred())
			err = router.Run(make(chan os.Signal), make(chan struct{}))
			Expect(err).To(MatchError(fs.ErrNotExist))
			Expect(err).To(MatchError(HavePrefix("opening the access log: ")))
			Expect(router.Addr("front")).To(BeNil(), "nothing else has been opened")
			c.Access = nil
			again, err := runner.New(c)
			Expect(err).NotTo(HaveOccurred(), "the state directory has been given back")
			Expect(again.Close()).To(Succeed())
		})

		It("shows in GET /cluster that lines are lost, and why", func() {
			log, release := stuck()
			c := config(startNodes(1))
			c.Access = accesslog.New(accesslog.Options{Writer: log, Stop: time.Millisecond})
			r := start(c)
			DeferCleanup(release)
			Expect(r.Cluster().AccessLog).To(Equal(&api.AccessLog{Dropped: map[string]int64{}}))
			c.Access.Session(&accesslog.Session{Ended: time.Now()})
			Eventually(func() *api.AccessLog { return r.Cluster().AccessLog }, "5s").Should(And(
				HaveField("Error", "a write has not returned"), HaveField("ErrorSince", HaveValue(BeTemporally("~", time.Now(), time.Minute)))))
			for range 100_000 {
				c.Access.Session(&accesslog.Session{Ended: time.Now()})
			}
			Expect(r.Cluster().AccessLog.Dropped).To(HaveKeyWithValue("slow", BeNumerically(">", 0)))
			Expect(r.Cluster().AccessLog.Written).To(BeZero())
		})
	})

	Describe("injection", func() {
		It("accepts from an injected listener and dials with an injected dialer", func() {
			nodes := startNodes(1)
			inner, err := net.Listen("tcp", "127.0.0.1:0")
			Expect(err).NotTo(HaveOccurred())
			var asked string
			dialed := make(chan string, 10)
			c := config(nodes)
			c.Hosts[0].Check = nil
			c.Listen = func(_ context.Context, network, address string) (net.Listener, error) {
				asked = network + " " + address
				return inner, nil
			}
			c.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
				dialed <- network + " " + address
				return new(net.Dialer).DialContext(ctx, network, address)
			}
			r := start(c)
			Expect(spec.Ask(inner.Addr().String())).To(Equal("db-0"))
			Expect(asked).To(Equal("tcp 127.0.0.1:0"))
			Expect(dialed).To(Receive(Equal("tcp " + nodes[0].Addr())))
			Expect(r.Addr("front")).To(Equal(inner.Addr()))
			Expect(r.Addr("other")).To(BeNil())
		})
	})

	It("gives back what it has opened if it is never run", func() {
		c := config(startNodes(1))
		c.State = GinkgoT().TempDir()
		router, err := runner.New(c)
		Expect(err).NotTo(HaveOccurred())
		Expect(router.Close()).To(Succeed())
		Expect(router.Close()).To(Succeed())
		again, err := runner.New(c)
		Expect(err).NotTo(HaveOccurred())
		Expect(again.Close()).To(Succeed())
	})
})

// lockedBuffer is a buffer that two goroutines may use.
type lockedBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

// writerFunc is a function as a writer.
type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// stuck is a writer whose writes return when they are released.
func stuck() (to io.Writer, release func()) {
	released := make(chan struct{})
	to = writerFunc(func(p []byte) (int, error) {
		<-released
		return len(p), nil
	})
	return to, func() { close(released) }
}
