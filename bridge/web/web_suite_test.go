package web_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/bridge"
	"switchboard/bridge/feed"
	"switchboard/bridge/relay"
	"switchboard/bridge/route"
	"switchboard/bridge/web"
	"switchboard/fixtures/spec"
)

func TestWeb(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "Web Suite")
}

var _ = BeforeEach(spec.CheckLeaks)

// rig is a bridge with HTTP hosts behind one listener.
type rig struct {
	bridge   *bridge.Bridge
	upstream *web.Upstream
	server   *web.Server
	addr     string
	clusters map[string]*feed.Feed[bridge.Cluster]
	actives  map[string]*feed.Feed[bridge.Active]
	signals  chan os.Signal
	ended    chan error

	mu      sync.Mutex
	hints   []bridge.Hint
	records []bridge.Record
}

// hostSpec is a host of a rig: its backends are all healthy to begin with, or under
// policy active the first is the active one.
type hostSpec struct {
	name     string
	backends []string // addresses; their names are b0, b1, …
	bridge   func(*bridge.HostOptions)
	web      web.HostOptions
}

// rigOptions change what startRig builds.
type rigOptions struct {
	hosts    []hostSpec
	server   func(*web.Options)
	listener func(*bridge.ListenerOptions)
	bridge   func(*bridge.Options)
	dial     func(ctx context.Context, network, address string) (net.Conn, error)
}

// startRig runs a bridge, its upstream, an HTTP server and a listener until the spec
// ends.
func startRig(o rigOptions) *rig {
	GinkgoHelper()
	r := &rig{
		clusters: map[string]*feed.Feed[bridge.Cluster]{}, actives: map[string]*feed.Feed[bridge.Active]{},
		signals: make(chan os.Signal, 2), ended: make(chan error, 1),
	}
	engine := spec.NewEngine(relay.Options{Dial: o.dial})
	DeferCleanup(engine.Close)
	bo := bridge.Options{Engine: engine, Traffic: bridge.Traffic{Enabled: true}, Hints: r.hint, Records: r.record}
	uo := web.UpstreamOptions{Hosts: map[string]web.HostOptions{}}
	for _, h := range o.hosts {
		cluster, active := new(feed.Feed[bridge.Cluster]), new(feed.Feed[bridge.Active])
		r.clusters[h.name], r.actives[h.name] = cluster, active
		clusters, cancel := cluster.Subscribe()
		DeferCleanup(cancel)
		actives, cancel := active.Subscribe()
		DeferCleanup(cancel)
		ho := bridge.HostOptions{
			Name: h.name, Policy: route.Balance, Cluster: clusters, Active: actives, Traffic: bridge.Traffic{Enabled: true},
		}
		for i := range h.backends {
			ho.Backends = append(ho.Backends, backendName(i))
		}
		if h.bridge != nil {
			h.bridge(&ho)
		}
		bo.Hosts = append(bo.Hosts, ho)
		uo.Hosts[h.name] = h.web
	}
	if o.bridge != nil {
		o.bridge(&bo)
	}
	var err error
	r.bridge, err = bridge.New(bo)
	Expect(err).NotTo(HaveOccurred())
	uo.Bridge = r.bridge
	r.upstream = web.NewUpstream(uo)
	so := web.Options{Bridge: r.bridge, Upstream: r.upstream}
	if o.server != nil {
		o.server(&so)
	}
	r.server, err = web.New(so)
	Expect(err).NotTo(HaveOccurred())
	run(r.upstream.Run)
	run(r.server.Run)
	ready := make(chan struct{})
	go func() { r.ended <- r.bridge.Run(r.signals, ready) }()
	Eventually(ready).Should(BeClosed())
	DeferCleanup(r.stop)
	for _, h := range o.hosts {
		r.up(h.name, h.backends...)
		r.activate(h.name, 1, h.backends...)
	}
	lo := bridge.ListenerOptions{Name: "web", Bind: "127.0.0.1:0", To: r.server, Listen: engine.ForRequests().Listen}
	if o.listener != nil {
		o.listener(&lo)
	}
	l := bridge.NewListener(lo)
	run(l.Run)
	r.addr = l.Addr().String()
	for _, h := range o.hosts {
		if len(h.backends) > 0 {
			Eventually(func() bool {
				host := r.bridge.Host(h.name)
				return host.Usable()
			}).Should(BeTrue())
		}
	}
	return r
}

// run runs something in the shape of an ifrit runner until the spec ends.
func run(what func(<-chan os.Signal, chan<- struct{}) error) {
	GinkgoHelper()
	signals, ready, ended := make(chan os.Signal, 1), make(chan struct{}), make(chan error, 1)
	go func() { ended <- what(signals, ready) }()
	Eventually(ready).Should(BeClosed())
	DeferCleanup(func() {
		signals <- syscall.SIGTERM
		Eventually(ended).Should(Receive(BeNil()))
	})
}

// stop ends the bridge now, if it has not ended.
func (r *rig) stop() {
	GinkgoHelper()
	for range 2 {
		select {
		case r.signals <- syscall.SIGTERM:
		default:
		}
	}
	Eventually(r.ended, 5*time.Second).Should(Receive(BeNil()))
	r.ended <- nil
}

func backendName(i int) string { return "b" + string(rune('0'+i)) }

// up makes exactly these addresses the host's healthy backends; "" is one that is
// down.
func (r *rig) up(host string, addresses ...string) {
	c := bridge.Cluster{Host: host}
	for i, a := range addresses {
		c.Backends = append(c.Backends, bridge.BackendState{
			Backend: route.Backend{Name: backendName(i), Address: a, Weight: 1}, Verdict: true, Healthy: a != "",
		})
	}
	r.clusters[host].Put(c)
}

// activate makes the first address the host's active backend.
func (r *rig) activate(host string, epoch uint64, addresses ...string) {
	a := bridge.Active{Host: host, Epoch: epoch}
	if len(addresses) > 0 {
		a.Backend = &route.Backend{Name: "b0", Address: addresses[0], Weight: 1}
	}
	r.actives[host].Put(a)
}

func (r *rig) hint(h bridge.Hint) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hints = append(r.hints, h)
}

func (r *rig) record(record bridge.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.records = append(r.records, record)
}

// ends are the records of the sessions that have ended.
func (r *rig) ends() []bridge.Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.records)
}

// active is for hostSpec.bridge: the host has policy active.
func active(o *bridge.HostOptions) { o.Policy = route.Active }

// backend is an HTTP server of net/http's that says its name.
type backend struct {
	addr     string
	name     string
	requests atomic.Int64
	server   *http.Server
}

// startBackend serves handler, or its name, until the spec ends.
func startBackend(name string, handler http.HandlerFunc) *backend {
	GinkgoHelper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	Expect(err).NotTo(HaveOccurred())
	b := &backend{addr: listener.Addr().String(), name: name}
	if handler == nil {
		handler = func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			io.WriteString(w, name)
		}
	}
	b.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.requests.Add(1)
		handler(w, r)
	})}
	go b.server.Serve(listener)
	DeferCleanup(b.server.Close)
	return b
}

// get asks for a path of a host, on a connection of its own.
func (r *rig) get(host, path string) (status int, body string) {
	GinkgoHelper()
	request, err := http.NewRequest("GET", "http://"+r.addr+path, nil)
	Expect(err).NotTo(HaveOccurred())
	request.Host = host
	request.Close = true
	response, err := new(http.Transport).RoundTrip(request)
	Expect(err).NotTo(HaveOccurred())
	defer response.Body.Close()
	all, err := io.ReadAll(response.Body)
	Expect(err).NotTo(HaveOccurred())
	return response.StatusCode, string(all)
}

// client is a raw connection to the rig.
type client struct {
	net.Conn
	reader *bufio.Reader
}

func (r *rig) dial() *client {
	GinkgoHelper()
	c, err := net.Dial("tcp", r.addr)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Second))
	return &client{Conn: c, reader: bufio.NewReader(c)}
}

// dialTLS is dial with a handshake that offers these protocols.
func (r *rig) dialTLS(protocols ...string) *client {
	GinkgoHelper()
	c := tls.Client(r.dial().Conn, &tls.Config{InsecureSkipVerify: true, NextProtos: protocols})
	Expect(c.Handshake()).To(Succeed())
	return &client{Conn: c, reader: bufio.NewReader(c)}
}

// CloseWrite ends what is sent.
func (c *client) CloseWrite() {
	GinkgoHelper()
	Expect(c.Conn.(*net.TCPConn).CloseWrite()).To(Succeed())
}

// reset ends the connection with RST.
func (c *client) reset() {
	GinkgoHelper()
	Expect(c.Conn.(*net.TCPConn).SetLinger(0)).To(Succeed())
	Expect(c.Close()).To(Succeed())
}

// send writes bytes as they are.
func (c *client) send(raw string) {
	GinkgoHelper()
	_, err := io.WriteString(c, raw)
	Expect(err).NotTo(HaveOccurred())
}

// answer reads one answer to a request of that method.
func (c *client) answer(method string) (*http.Response, string) {
	GinkgoHelper()
	response, err := http.ReadResponse(c.reader, &http.Request{Method: method})
	Expect(err).NotTo(HaveOccurred())
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	Expect(err).NotTo(HaveOccurred())
	return response, string(body)
}

// status sends raw bytes on a connection of its own and returns the answer's status.
func (r *rig) status(raw string) int {
	GinkgoHelper()
	c := r.dial()
	c.send(raw)
	response, _ := c.answer(strings.SplitN(raw, " ", 2)[0])
	return response.StatusCode
}

// certificate is one that no client trusts by itself.
func certificate() tls.Certificate {
	s := httptest.NewUnstartedServer(nil)
	s.StartTLS()
	defer s.Close()
	return s.TLS.Certificates[0]
}
