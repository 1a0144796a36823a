package runner_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/api"
	"switchboard/bridge"
	"switchboard/bridge/accesslog"
	"switchboard/bridge/route"
	"switchboard/bridge/web"
	"switchboard/fixtures/spec"
	"switchboard/monitor/check"
	"switchboard/runner"
)

// app is an instance of a web app that answers with its name.
type app struct {
	name, addr string
	sick       atomic.Bool
	// asked gets /slow requests, which are answered when release is closed.
	asked, release chan struct{}
}

func startApp(name string) *app {
	a := &app{name: name, asked: make(chan struct{}, 10), release: make(chan struct{})}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/healthz":
			if a.sick.Load() {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			return
		case "/for":
			io.WriteString(w, r.Header.Get("X-Forwarded-For"))
			return
		case "/slow":
			a.asked <- struct{}{}
			<-a.release
		}
		io.WriteString(w, name)
	}))
	DeferCleanup(server.Close)
	a.addr = server.Listener.Addr().String()
	return a
}

// webHost is a host of policy balance whose instances are named app-0, app-1, …
func webHost(name string, apps ...*app) runner.Host {
	h := runner.Host{Name: name, Policy: route.Balance, Hold: 5 * time.Second, Check: &check.Spec{
		Type: "http", Path: "/healthz", Interval: interval, Timeout: time.Second, Fall: 1, Rise: 1,
	}}
	for _, a := range apps {
		h.Backends = append(h.Backends, runner.Backend{Name: a.name, Address: a.addr})
	}
	return h
}

// webConfig is a router whose listener "front" speaks HTTP.
func webConfig(hosts ...runner.Host) runner.Config {
	return runner.Config{
		Name: "router-1", Hosts: hosts, API: runner.API{Bind: "127.0.0.1:0"},
		Listeners: []runner.Listener{{Name: "front", Bind: "127.0.0.1:0", Protocol: runner.HTTP}},
	}
}

// ask asks the router for a path of a host, on a connection of its own.
func (r *running) ask(host, path string, header ...string) (status int, body string, err error) {
	request, err := http.NewRequest(http.MethodGet, "http://"+r.front()+path, nil)
	if err != nil {
		return 0, "", err
	}
	request.Host, request.Close = host, true
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err := new(http.Transport).RoundTrip(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response.StatusCode, string(text), err
}

// served are the names that so many requests were answered with.
func (r *running) served(host string, n int) map[string]int {
	GinkgoHelper()
	names := make(map[string]int)
	for range n {
		status, name, err := r.ask(host, "/")
		Expect(err).NotTo(HaveOccurred())
		Expect(status).To(Equal(http.StatusOK), name)
		names[name]++
	}
	return names
}

// host is the state of a host by its name.
func (r *running) host(name string) api.Host {
	for _, h := range r.Cluster().Clusters {
		if h.Host == name {
			return h
		}
	}
	return api.Host{}
}

// healthy waits until so many backends of a host are, in the bridge too.
func (r *running) healthy(host string, n int) {
	GinkgoHelper()
	Eventually(func() (count int) {
		for _, b := range r.host(host).Backends {
			if b.Healthy {
				count++
			}
		}
		return count
	}, "5s").Should(Equal(n))
}

func number(n int) *int { return &n }

var _ = Describe("Router over HTTP", func() {
	It("takes each request to the host that it names, and each host to its own instances", func() {
		shop, pets, rest := startApp("shop"), startApp("pets"), startApp("rest")
		c := webConfig(webHost("shop.example.com", shop), webHost("*.pets.example.com", pets), webHost("*", rest))
		c.WildcardDepth = 2
		r := start(c)
		for host, name := range map[string]string{
			"shop.example.com": "shop", "SHOP.example.com:8080": "shop", "a.pets.example.com": "pets", "b.a.pets.example.com": "pets",
			"pets.example.com": "rest", "127.0.0.1": "rest",
		} {
			_, body, err := r.ask(host, "/")
			Expect(err).NotTo(HaveOccurred())
			Expect(body).To(Equal(name), host)
		}
		Expect(r.host("shop.example.com")).To(And(
			HaveField("Policy", "balance"), HaveField("Active", BeNil()), HaveField("Epoch", BeZero()),
			HaveField("Since", BeNil()), HaveField("Reason", BeEmpty()), HaveField("Pin", BeNil())))
	})

	It("counts what requests came to, by host, and by router those of no host", func() {
		r := start(webConfig(webHost("shop", startApp("app-0")), webHost("idle", startApp("idle-0"))))
		Expect(r.host("shop").HTTP).To(BeNil())
		Expect(r.served("shop", 5)).To(Equal(map[string]int{"app-0": 5}))
		status, _, err := r.ask("nobody", "/")
		Expect(err).NotTo(HaveOccurred())
		Expect(status).To(Equal(http.StatusNotFound))

		// A request is counted when its connection is done with it.
		Eventually(func() *api.HTTP { return r.host("shop").HTTP }).Should(HaveValue(HaveField("Requests", BeNumerically("==", 5))))
		counted := r.host("shop").HTTP
		Expect(counted.Classes).To(Equal(map[string]int64{"1xx": 0, "2xx": 5, "3xx": 0, "4xx": 0, "5xx": 0}))
		Expect(counted.BytesFromClients).To(BeNumerically(">", 0))
		Expect(counted.BytesToClients).To(BeNumerically(">", 0))
		Expect(counted.Latency.SumMs).To(BeNumerically(">", 0))
		last := api.Bucket{}
		for i, b := range counted.Latency.Buckets {
			Expect(b.Count).To(BeNumerically(">=", last.Count))
			if last.LeMs != nil && b.LeMs != nil {
				Expect(*b.LeMs).To(BeNumerically(">", *last.LeMs))
			}
			Expect(b.LeMs == nil).To(Equal(i == len(counted.Latency.Buckets)-1))
			last = b
		}
		Expect(last.Count).To(Equal(counted.Requests))
		Expect(r.Cluster().Refusals).To(HaveKeyWithValue("unknown_host", BeNumerically("==", 1)))
		Expect(r.host("idle").HTTP).To(BeNil())
	})

	It("writes a line a request into the access log, and keeps queries out of it", func() {
		var log lockedBuffer
		c := webConfig(webHost("*.pets", startApp("app-0")))
		c.Access = accesslog.New(accesslog.Options{Writer: &log})
		var also atomic.Int64
		c.Requests = func(*web.Record) { also.Add(1) }
		r := start(c)
		r.healthy("*.pets", 1)
		_, _, err := r.ask("cats.pets", "/one?token=secret")
		Expect(err).NotTo(HaveOccurred())
		// A request is recorded when its connection is done with it.
		Eventually(also.Load).Should(BeNumerically("==", 1))
		_, _, err = r.ask("nobody", "/two")
		Expect(err).NotTo(HaveOccurred())
		r.stop()
		Expect(log.String()).NotTo(ContainSubstring("secret"))
		Expect(also.Load()).To(BeNumerically("==", 2))
		decoder := json.NewDecoder(strings.NewReader(log.String()))
		var routed, unrouted map[string]any
		Expect(decoder.Decode(&routed)).To(Succeed())
		Expect(decoder.Decode(&unrouted)).To(Succeed())
		Expect(routed).To(And(
			HaveKeyWithValue("kind", "request"), HaveKeyWithValue("code", BeNumerically("==", 200)), HaveKeyWithValue("host", "*.pets"),
			HaveKeyWithValue("authority", "cats.pets"), HaveKeyWithValue("path", "/one"), HaveKeyWithValue("method", "GET"),
			HaveKeyWithValue("backend", "app-0"), HaveKeyWithValue("listener", "front"), HaveKeyWithValue("protocol", "HTTP/1.1"),
			HaveKeyWithValue("upstream_response_time", MatchRegexp(`^\d+\.\d{3}$`)), HaveKeyWithValue("attempts", BeNumerically("==", 1)),
			Not(HaveKey("reason"))))
		Expect(unrouted).To(And(
			HaveKeyWithValue("code", BeNumerically("==", 404)), HaveKeyWithValue("host", ""), HaveKeyWithValue("authority", "nobody"),
			HaveKeyWithValue("upstream_response_time", "-"), HaveKeyWithValue("version_type_key", "null"), HaveKeyWithValue("backend", ""),
			HaveKeyWithValue("attempts", BeNumerically("==", 0)), HaveKeyWithValue("reason", "unknown_host")))
	})

	It("leaves out an instance that is sick, until it is well", func() {
		apps := []*app{startApp("app-0"), startApp("app-1")}
		r := start(webConfig(webHost("shop", apps...)))
		r.healthy("shop", 2)
		Eventually(func() map[string]int { return r.served("shop", 20) }).Should(HaveLen(2))
		apps[0].sick.Store(true)
		r.healthy("shop", 1)
		Eventually(func() map[string]int { return r.served("shop", 20) }).Should(Equal(map[string]int{"app-1": 20}))
		apps[0].sick.Store(false)
		r.healthy("shop", 2)
		Eventually(func() map[string]int { return r.served("shop", 20) }).Should(HaveLen(2))
	})

	It("switches the traffic of one host off, and not that of another", func() {
		r := start(webConfig(webHost("shop", startApp("shop")), webHost("pets", startApp("pets"))))
		_, err := r.SetTraffic(timely(), "shop", bridge.TrafficChange{Message: "upgrade"})
		Expect(err).NotTo(HaveOccurred())
		status, _, err := r.ask("shop", "/")
		Expect(err).NotTo(HaveOccurred())
		Expect(status).To(Equal(http.StatusServiceUnavailable))
		Expect(r.served("pets", 1)).To(HaveLen(1))
		Expect(r.host("shop").HTTP.Refusals).To(HaveKeyWithValue("traffic_off", BeNumerically("==", 1)))
	})

	It("serves a host with one active backend, which is switched as any", func() {
		h := webHost("shop", startApp("app-0"), startApp("app-1"))
		h.Policy = route.Active
		r := start(webConfig(h))
		Expect(r.served("shop", 5)).To(Equal(map[string]int{"app-0": 5}))
		_, err := r.Switch(timely(), "shop", "app-1", "moving")
		Expect(err).NotTo(HaveOccurred())
		Expect(r.served("shop", 5)).To(Equal(map[string]int{"app-1": 5}))
	})

	It("limits how many clients a listener has", func() {
		c := webConfig(webHost("shop", startApp("app-0")))
		c.Listeners[0].MaxSessions = 1
		r := start(c)
		first := spec.DialFront(r.front())
		spec.ExpectReset(spec.DialFront(r.front()))
		Expect(first.Close()).To(Succeed())
		Eventually(func() error {
			_, _, err := r.ask("shop", "/")
			return err
		}).Should(Succeed())
	})

	It("believes what a trusted proxy says of its client, and nobody else", func() {
		c := webConfig(webHost("shop", startApp("app-0")))
		trusting := c.Listeners[0]
		trusting.Name, trusting.TrustedProxies = "trusting", []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		c.Listeners = append(c.Listeners, trusting)
		r := start(c)
		_, said, err := r.ask("shop", "/for", "X-Forwarded-For", "192.0.2.7")
		Expect(err).NotTo(HaveOccurred())
		Expect(said).To(Equal("127.0.0.1"))
		request, err := http.NewRequest(http.MethodGet, "http://"+r.Addr("trusting").String()+"/for", nil)
		Expect(err).NotTo(HaveOccurred())
		request.Host, request.Close = "shop", true
		request.Header.Set("X-Forwarded-For", "192.0.2.7")
		response, err := new(http.Transport).RoundTrip(request)
		Expect(err).NotTo(HaveOccurred())
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		Expect(err).NotTo(HaveOccurred())
		Expect(string(text)).To(Equal("192.0.2.7, 127.0.0.1"))
	})

	Describe("weights", func() {
		var (
			c    runner.Config
			apps []*app
		)

		BeforeEach(func() {
			apps = []*app{startApp("app-0"), startApp("app-1"), startApp("app-2")}
			h := webHost("shop", apps...)
			h.Backends[2].Weight = number(0)
			c = webConfig(h, host("db", startNodes(1)))
			c.State = filepath.Join(GinkgoT().TempDir(), "state")
		})

		weights := func(r *running) (all []int) {
			for _, b := range r.host("shop").Backends {
				all = append(all, b.Weight)
			}
			return all
		}

		It("are changed by an operator, and those that are not named stay", func() {
			r := start(c)
			r.healthy("shop", 3)
			Expect(weights(r)).To(Equal([]int{1, 1, 0}))
			Eventually(func() map[string]int { return r.served("shop", 20) }).Should(And(HaveLen(2), Not(HaveKey("app-2"))))
			Expect(r.SetWeights(timely(), "shop", map[string]*int{"app-0": number(0)}, "upgrade")).To(Succeed())
			Expect(r.served("shop", 20)).To(Equal(map[string]int{"app-1": 20}))
			Expect(r.SetWeights(timely(), "shop", map[string]*int{"app-1": number(0), "app-2": number(5)}, "upgrade")).To(Succeed())
			Expect(weights(r)).To(Equal([]int{0, 0, 5}))
			Expect(r.served("shop", 20)).To(Equal(map[string]int{"app-2": 20}))
			Expect(r.SetWeights(timely(), "shop", map[string]*int{"app-0": nil, "app-2": nil}, "done")).To(Succeed())
			Expect(weights(r)).To(Equal([]int{1, 0, 0}))
			Expect(r.served("shop", 20)).To(Equal(map[string]int{"app-0": 20}))
		})

		It("are told when they have changed", func() {
			r := start(c)
			r.healthy("shop", 3)
			Expect(r.SetWeights(timely(), "shop", map[string]*int{"app-0": number(0), "app-1": number(3)}, "upgrade")).To(Succeed())
			for _, e := range r.Events(timely(), 0) {
				if e.Kind == bridge.WeightsChanged {
					Expect(*e.Weights).To(Equal(bridge.Weights{Host: "shop", Set: map[string]int{"app-0": 0, "app-1": 3}, Message: "upgrade"}))
					return
				}
			}
			Fail("nothing was told")
		})

		It("outlive a restart, and not their backend", func() {
			r := start(c)
			r.healthy("shop", 3)
			Expect(r.SetWeights(timely(), "shop", map[string]*int{"app-0": number(0), "app-2": number(7)}, "upgrade")).To(Succeed())
			r.stop()

			r = start(c)
			Expect(r.SetWeights(timely(), "shop", nil, "")).To(Succeed())
			r.healthy("shop", 3)
			Expect(weights(r)).To(Equal([]int{0, 1, 7}))
			Eventually(func() map[string]int { return r.served("shop", 40) }).Should(And(HaveLen(2), Not(HaveKey("app-0"))))
			r.stop()

			logger, lines := spec.Logs()
			all := c.Hosts[0].Backends
			c.Log, c.Hosts[0].Backends = logger, all[:2]
			r = start(c)
			r.healthy("shop", 2)
			Expect(weights(r)).To(Equal([]int{0, 1}))
			Expect(lines.Count("dropping a stored weight that has no backend of policy balance any more")).To(Equal(1))
			r.stop()
			c.Hosts[0].Backends = all
			r = start(c)
			r.healthy("shop", 3)
			Expect(weights(r)).To(Equal([]int{0, 1, 0}))
		})

		It("are refused whole if one is wrong", func() {
			r := start(c)
			r.healthy("shop", 3)
			Expect(r.SetWeights(timely(), "shop", map[string]*int{"app-0": number(2), "app-9": nil}, "")).To(MatchError(bridge.ErrUnknownBackend))
			Expect(r.SetWeights(timely(), "shop", map[string]*int{"app-0": number(2), "app-1": number(-1)}, "")).To(MatchError(bridge.ErrWeight))
			Expect(r.SetWeights(timely(), "nobody", nil, "")).To(MatchError(bridge.ErrUnknownHost))
			Expect(r.SetWeights(timely(), "db", map[string]*int{"db-0": number(2)}, "")).To(MatchError(bridge.ErrNoChoice))
			_, err := r.Switch(timely(), "shop", "app-1", "moving")
			Expect(err).To(MatchError(bridge.ErrBalance))
			_, err = r.Pin(timely(), "shop", "app-1", "pinning")
			Expect(err).To(MatchError(bridge.ErrBalance))
			Expect(weights(r)).To(Equal([]int{1, 1, 0}))
		})
	})

	Describe("stopping", func() {
		// slow asks for what takes its time, and says what came of it.
		slow := func(r *running) chan string {
			answered := make(chan string, 1)
			go func() {
				_, body, err := r.ask("shop", "/slow")
				if err != nil {
					body = "error"
				}
				answered <- body
			}()
			return answered
		}

		It("lets requests end, and connections between two requests at once", func() {
			a := startApp("app-0")
			c := webConfig(webHost("shop", a))
			c.Drain = time.Minute
			r := start(c)
			idle := spec.DialFront(r.front())
			_, err := io.WriteString(idle, "GET / HTTP/1.1\r\nHost: shop\r\n\r\n")
			Expect(err).NotTo(HaveOccurred())
			Expect(spec.ReadLine(idle)).To(HavePrefix("HTTP/1.1 200"))
			answered := slow(r)
			Eventually(a.asked).Should(Receive())
			Expect(r.Sessions()).To(ConsistOf(And(HaveField("Protocol", bridge.HTTP), HaveField("Backend", "app-0"))))
			r.signal()
			_, err = io.ReadAll(idle)
			Expect(err).NotTo(HaveOccurred())
			Consistently(r.ended, still).ShouldNot(Receive())
			close(a.release)
			Eventually(answered).Should(Receive(Equal("app-0")))
			Eventually(r.ended, "5s").Should(Receive(BeNil()))
		})

		It("cuts them at the second signal", func() {
			a := startApp("app-0")
			defer close(a.release)
			c := webConfig(webHost("shop", a))
			c.Drain = time.Minute
			r := start(c)
			answered := slow(r)
			Eventually(a.asked).Should(Receive())
			r.signal()
			Consistently(r.ended, still).ShouldNot(Receive())
			r.signal()
			Eventually(answered).Should(Receive(Equal("error")))
			Eventually(r.ended, "5s").Should(Receive(BeNil()))
		})
	})

	Describe("TLS", func() {
		// overTLS asks with a server name, and HTTP/2 if that is spoken.
		overTLS := func(addr, name string, pool *x509.CertPool) (string, string, error) {
			transport := &http.Transport{
				TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: name}, ForceAttemptHTTP2: true, DisableKeepAlives: true,
			}
			defer transport.CloseIdleConnections()
			request, err := http.NewRequest(http.MethodGet, "https://"+addr+"/", nil)
			if err != nil {
				return "", "", err
			}
			request.Host = name
			response, err := transport.RoundTrip(request)
			if err != nil {
				return "", "", err
			}
			defer response.Body.Close()
			text, err := io.ReadAll(response.Body)
			return response.Proto, string(text), err
		}

		It("ends at the router, with the certificate of the name that was asked for", func() {
			c := webConfig(webHost("*.example.com", startApp("app-0")))
			shopCert, shopKey, shop := spec.WriteCertificate("shop.example.com")
			petsCert, petsKey, pets := spec.WriteCertificate("pets.example.com")
			c.Listeners[0].Protocol = runner.HTTPS
			c.Listeners[0].Certificates = []runner.Certificate{{Cert: shopCert, Key: shopKey}, {Cert: petsCert, Key: petsKey}}
			r := start(c)
			for name, pool := range map[string]*x509.CertPool{"shop.example.com": shop, "pets.example.com": pets} {
				proto, body, err := overTLS(r.front(), name, pool)
				Expect(err).NotTo(HaveOccurred())
				Expect([]string{proto, body}).To(Equal([]string{"HTTP/2.0", "app-0"}))
			}
		})

		It("is not begun with a certificate that cannot be read", func() {
			c := webConfig(webHost("shop", startApp("app-0")))
			c.Listeners[0].Protocol, c.Listeners[0].Certificates = runner.HTTPS, []runner.Certificate{{Cert: "/none/such", Key: "/none/such"}}
			_, err := runner.New(c)
			Expect(err).To(MatchError(And(ContainSubstring(`listener "front"`), ContainSubstring("/none/such"))))
		})

		It("is passed through to the host of the server name", func() {
			cert, key, pool := spec.WriteCertificate("shop.example.com")
			pair, err := tls.LoadX509KeyPair(cert, key)
			Expect(err).NotTo(HaveOccurred())
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "behind") }))
			server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
			server.StartTLS()
			DeferCleanup(server.Close)
			c := webConfig(runner.Host{
				Name: "shop.example.com", Policy: route.Balance, Hold: 5 * time.Second,
				Backends: []runner.Backend{{Name: "app-0", Address: server.Listener.Addr().String()}},
			})
			c.Listeners[0].Protocol = runner.TLS
			r := start(c)
			_, body, err := overTLS(r.front(), "shop.example.com", pool)
			Expect(err).NotTo(HaveOccurred())
			Expect(body).To(Equal("behind"))
			_, _, err = overTLS(r.front(), "other.example.com", pool)
			Expect(err).To(HaveOccurred())
		})
	})
})
