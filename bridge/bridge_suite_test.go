package bridge_test

import (
	"context"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/bridge"
	"switchboard/bridge/feed"
	"switchboard/bridge/relay"
	"switchboard/bridge/route"
	"switchboard/fixtures/spec"
)

func TestBridge(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "Bridge Suite")
}

var _ = BeforeEach(spec.CheckLeaks)

// rig is a bridge with one host, "db", behind one listener.
type rig struct {
	bridge  *bridge.Bridge
	host    *bridge.Host
	addr    string
	active  feed.Feed[bridge.Active]
	epoch   uint64
	journal *bridge.Journal
	signals chan os.Signal
	ended   chan error

	mu      sync.Mutex
	records []bridge.Record
	hints   []bridge.Hint
}

// rigOptions change what startRig builds.
type rigOptions struct {
	host     func(*bridge.HostOptions)
	bridge   func(*bridge.Options)
	listener func(*bridge.ListenerOptions)
	built    func(*bridge.Bridge) // before it runs
	dial     func(ctx context.Context, network, address string) (net.Conn, error)
	splice   int // relay.Options.SpliceAfter
}

// startRig runs a bridge and its listener until the spec ends.
func startRig(options rigOptions) *rig {
	GinkgoHelper()
	r := &rig{journal: feed.NewRing[bridge.Event](100), ended: make(chan error, 1), signals: make(chan os.Signal, 2)}
	engine := spec.NewEngine(relay.Options{Dial: options.dial, SpliceAfter: options.splice})
	DeferCleanup(engine.Close)
	active, cancel := r.active.Subscribe()
	DeferCleanup(cancel)
	ho := bridge.HostOptions{
		Name: "db", Active: active, Backends: []string{"a", "b"}, Traffic: bridge.Traffic{Enabled: true},
	}
	if options.host != nil {
		options.host(&ho)
	}
	bo := bridge.Options{
		Engine: engine, Hosts: []bridge.HostOptions{ho}, Traffic: bridge.Traffic{Enabled: true}, Journal: r.journal,
		Records: r.record, Hints: r.hint,
	}
	if options.bridge != nil {
		options.bridge(&bo)
	}
	b, err := bridge.New(bo)
	Expect(err).NotTo(HaveOccurred())
	r.bridge, r.host = b, b.Host(bo.Hosts[0].Name)
	if options.built != nil {
		options.built(b)
	}
	ready := make(chan struct{})
	go func() { r.ended <- b.Run(r.signals, ready) }()
	Eventually(ready).Should(BeClosed())
	DeferCleanup(r.stop)
	r.addr = startListener(r, options.listener).Addr().String()
	return r
}

// startListener runs a listener for the rig's host until the spec ends.
func startListener(r *rig, change func(*bridge.ListenerOptions)) *bridge.Listener {
	GinkgoHelper()
	o := bridge.ListenerOptions{Name: "front", Bind: "127.0.0.1:0", To: r.host, Listen: r.bridge.Engine().Listen}
	if change != nil {
		change(&o)
	}
	l := bridge.NewListener(o)
	signals, ready, ended := make(chan os.Signal, 1), make(chan struct{}), make(chan error, 1)
	go func() { ended <- l.Run(signals, ready) }()
	Eventually(ready).Should(BeClosed())
	DeferCleanup(func() {
		signals <- syscall.SIGTERM
		Eventually(ended).Should(Receive(BeNil()))
	})
	return l
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
	Eventually(r.ended, "5s").Should(Receive(BeNil()))
	close(r.ended)
}

func (r *rig) record(record bridge.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.records = append(r.records, record)
}

func (r *rig) hint(h bridge.Hint) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hints = append(r.hints, h)
}

// reasons lists the reasons of the records so far.
func (r *rig) reasons() []bridge.Reason {
	r.mu.Lock()
	defer r.mu.Unlock()
	var reasons []bridge.Reason
	for _, record := range r.records {
		reasons = append(reasons, record.Reason)
	}
	return reasons
}

func (r *rig) hinted() []bridge.Hint {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]bridge.Hint(nil), r.hints...)
}

// announce publishes a new active backend, none if address is "", without waiting.
func (r *rig) announce(name, address string) uint64 {
	r.epoch++
	a := bridge.Active{Host: "db", Epoch: r.epoch, Since: time.Now(), Reason: "the spec"}
	if address != "" {
		a.Backend = &route.Backend{Name: name, Address: address, Origin: "7#3#" + name}
	}
	r.active.Put(a)
	return r.epoch
}

// activate is announce, and waits until the bridge has followed. It returns how
// many sessions were severed.
func (r *rig) activate(name, address string) int {
	GinkgoHelper()
	// Not timely: a cleanup each would slow down the specs that do this 10,000 times.
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	severed, err := r.host.AwaitEpoch(ctx, r.announce(name, address))
	Expect(err).NotTo(HaveOccurred())
	return severed
}

func (r *rig) open() int { return r.host.Counts().Sessions }

// timely is a context that ends long after anything here should have.
func timely() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	DeferCleanup(cancel)
	return ctx
}
