package runner_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"syscall"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/api"
	"switchboard/fixtures/spec"
	"switchboard/monitor/check"
	"switchboard/runner"
)

func TestRunner(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "Runner Suite")
}

var _ = BeforeEach(spec.CheckLeaks)

// interval is how often the routers here probe.
const interval = 20 * time.Millisecond

// node is a backend and its health endpoint.
type node struct {
	*spec.Backend
	health *spec.Health
	name   string
}

// startNodes starts healthy nodes called db-0, db-1, ... with those indexes.
func startNodes(n int) []node {
	GinkgoHelper()
	var nodes []node
	for i := range n {
		name := fmt.Sprintf("db-%d", i)
		nodes = append(nodes, node{spec.StartBackend(spec.Named(name)), spec.StartHealth(), name})
		nodes[i].health.Healthy(i)
	}
	return nodes
}

// host is a host over nodes, probed through their health endpoints.
func host(name string, nodes []node) runner.Host {
	h := runner.Host{Name: name, Check: &check.Spec{
		Type: "http", Path: "/api/v1/status", Interval: interval, Timeout: 200 * time.Millisecond, Fall: 2, Rise: 2,
	}}
	for _, n := range nodes {
		h.Backends = append(h.Backends, runner.Backend{Name: n.name, Address: n.Addr(), CheckPort: n.health.Port()})
	}
	return h
}

// config is a router with one host, "db", behind the listener "front", and an API.
func config(nodes []node) runner.Config {
	return runner.Config{
		Name:      "router-1",
		Hosts:     []runner.Host{host("db", nodes)},
		Listeners: []runner.Listener{{Name: "front", Bind: "127.0.0.1:0", Host: "db"}},
		API:       runner.API{Bind: "127.0.0.1:0"},
	}
}

// running is a router that runs until it is stopped, or the spec ends.
type running struct {
	*runner.Router
	signals chan os.Signal
	ended   chan error
}

func start(c runner.Config) *running {
	GinkgoHelper()
	router, err := runner.New(c)
	Expect(err).NotTo(HaveOccurred())
	r := &running{router, make(chan os.Signal, 2), make(chan error, 1)}
	ready := make(chan struct{})
	go func() {
		defer close(r.ended)
		r.ended <- router.Run(r.signals, ready)
	}()
	Eventually(ready, "5s").Should(BeClosed())
	DeferCleanup(r.stop)
	return r
}

// stop ends the router, if it has not ended.
func (r *running) stop() {
	GinkgoHelper()
	r.signal()
	r.signal()
	Eventually(r.ended, "10s").Should(Or(Receive(BeNil()), BeClosed()))
}

func (r *running) signal() {
	select {
	case r.signals <- syscall.SIGTERM:
	default:
	}
}

func (r *running) front() string { return r.Addr("front").String() }

func (r *running) db() api.Host { return r.Cluster().Clusters[0] }

// active is the name of the active backend of the first host, "" if it has none.
func (r *running) active() string {
	if a := r.db().Active; a != nil {
		return a.Name
	}
	return ""
}

// get asks the API for a status.
func get(url string) (status int) {
	GinkgoHelper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	response, err := client.Get(url)
	if err != nil {
		return 0
	}
	defer response.Body.Close()
	return response.StatusCode
}

func timely() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	DeferCleanup(cancel)
	return ctx
}
