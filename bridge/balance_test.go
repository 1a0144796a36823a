package bridge_test

import (
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/bridge"
	"switchboard/bridge/feed"
	"switchboard/bridge/route"
	"switchboard/fixtures/spec"
)

// balanced is a rig whose host uses all its healthy backends.
type balanced struct {
	*rig
	cluster feed.Feed[bridge.Cluster]
	names   []string
	addrs   []string
}

// startBalanced runs a host with these backends, all of them healthy.
func startBalanced(backends []*spec.Backend, change func(*bridge.HostOptions)) *balanced {
	GinkgoHelper()
	b := &balanced{}
	clusters, cancel := b.cluster.Subscribe()
	DeferCleanup(cancel)
	for i, backend := range backends {
		b.names = append(b.names, string(rune('a'+i)))
		b.addrs = append(b.addrs, backend.Addr())
	}
	b.rig = startRig(rigOptions{host: func(o *bridge.HostOptions) {
		o.Policy, o.Cluster, o.Backends = route.Balance, clusters, b.names
		if change != nil {
			change(o)
		}
	}})
	b.up(b.names...)
	return b
}

// up makes exactly these backends healthy, and returns when the host follows.
func (b *balanced) up(names ...string) {
	GinkgoHelper()
	healthy := map[string]bool{}
	for _, n := range names {
		healthy[n] = true
	}
	c := bridge.Cluster{Host: "db"}
	for i, n := range b.names {
		c.Backends = append(c.Backends, bridge.BackendState{
			Backend: route.Backend{Name: n, Address: b.addrs[i], Weight: 1}, Verdict: true, Healthy: healthy[n],
		})
	}
	b.cluster.Put(c)
	Eventually(func() []string { return b.answering(64) }).Should(ConsistOf(names))
}

// answering names the backends that a number of claims are given.
func (b *balanced) answering(claims int) []string {
	seen := map[string]bool{}
	for range claims {
		c := bridge.Claim{Sever: func(error) {}}
		if b.host.Claim(&c, nil) == nil {
			seen[c.Backend()] = true
			c.Release()
		}
	}
	var names []string
	for n := range seen {
		names = append(names, n)
	}
	return names
}

func startNamed(names ...string) []*spec.Backend {
	GinkgoHelper()
	var all []*spec.Backend
	for _, n := range names {
		all = append(all, spec.StartBackend(spec.Named(n)))
	}
	return all
}

var _ = Describe("a host of policy balance", func() {
	It("spreads clients over the healthy backends, and severs those of one that goes down", func() {
		b := startBalanced(startNamed("a", "b", "c"), nil)
		clients := map[string]int{}
		var onA []net.Conn
		onB := 0
		for range 60 {
			c := spec.DialFront(b.addr)
			name := spec.ReadLine(c)
			clients[name]++
			switch name {
			case "a":
				onA = append(onA, c)
			case "b":
				onB++
			}
		}
		Expect(clients).To(HaveLen(3))
		Expect(b.host.Counts().Backends).To(Equal(clients))
		b.up("b", "c")
		for _, c := range onA {
			_, err := c.Read(make([]byte, 1))
			Expect(err).To(MatchError(ContainSubstring("reset")))
		}
		Expect(b.host.Counts()).To(And(HaveField("Sessions", 60-len(onA)), HaveField("Backends", HaveKeyWithValue("b", onB))))
	})

	It("refuses when no backend is up, and holds clients if it may", func() {
		b := startBalanced(startNamed("a"), func(o *bridge.HostOptions) { o.Hold = time.Minute })
		b.up()
		client := spec.DialFront(b.addr)
		Eventually(func() int { return b.host.Counts().Parked }).Should(Equal(1))
		b.up("a")
		Expect(spec.ReadLine(client)).To(Equal("a"))
		none := startBalanced(startNamed("a"), nil)
		none.up()
		spec.ExpectReset(spec.DialFront(none.addr))
	})

	It("takes a client to another backend when one refuses", func() {
		backends := startNamed("a", "b")
		b := startBalanced(backends, nil)
		backends[0].Stop()
		for range 20 {
			Expect(spec.Ask(b.addr)).To(Equal("b"))
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		Expect(b.hints).To(ContainElement(And(HaveField("Backend", "a"), HaveField("Refused", true))))
	})

	It("keeps a client of a sticky host to one backend", func() {
		b := startBalanced(startNamed("a", "b", "c"), func(o *bridge.HostOptions) {
			o.Choose, o.StickyBy = route.Sticky, route.StickyBy{Kind: route.ByClient}
		})
		first, err := spec.Ask(b.addr)
		Expect(err).NotTo(HaveOccurred())
		for range 10 {
			Expect(spec.Ask(b.addr)).To(Equal(first))
		}
	})

	It("prefers the backend with the fewest sessions", func() {
		b := startBalanced(startNamed("a", "b"), func(o *bridge.HostOptions) { o.Choose = route.LeastSessions })
		for range 10 {
			spec.ReadLine(spec.DialFront(b.addr))
		}
		Expect(b.host.Counts().Backends).To(Equal(map[string]int{"a": 5, "b": 5}))
	})

	It("goes by the weights that an operator sets, and cuts nobody off for them", func() {
		b := startBalanced(startNamed("a", "b"), nil)
		Expect(b.host.Weights()).To(Equal(map[string]int{"a": 1, "b": 1}))
		var onA int
		for range 20 {
			if spec.ReadLine(spec.DialFront(b.addr)) == "a" {
				onA++
			}
		}
		Expect(b.host.SetWeights(timely(), map[string]int{"a": 0})).To(Succeed())
		Expect(b.host.Weights()).To(Equal(map[string]int{"a": 0, "b": 1}))
		for range 20 {
			Expect(spec.Ask(b.addr)).To(Equal("b"))
		}
		Expect(b.host.Counts().Backends["a"]).To(Equal(onA))
		Expect(b.host.SetWeights(timely(), map[string]int{"a": 0, "b": 0})).To(Succeed())
		Expect(b.host.Usable()).To(BeFalse())
		Expect(b.host.SetWeights(timely(), nil)).To(Succeed())
		Expect(b.host.Usable()).To(BeTrue())
		Expect(b.host.SetWeights(timely(), map[string]int{"x": 1})).To(MatchError(bridge.ErrUnknownBackend))
		Expect(b.host.SetWeights(timely(), map[string]int{"a": -1})).To(MatchError(bridge.ErrWeight))
	})

	It("has no weights under policy active", func() {
		r := startRig(rigOptions{})
		Expect(r.host.SetWeights(timely(), nil)).To(MatchError(bridge.ErrNoChoice))
		Expect(r.host.Weights()).To(BeNil())
	})

	It("severs everybody when its traffic goes off, and nobody of the others", func() {
		b := startBalanced(startNamed("a", "b"), nil)
		client := spec.DialFront(b.addr)
		spec.ReadLine(client)
		answer, err := b.host.SetTraffic(timely(), bridge.TrafficChange{Message: "off"})
		Expect(err).NotTo(HaveOccurred())
		Expect(answer.Severed).To(Equal(1))
		spec.ExpectReset(client)
		spec.ExpectReset(spec.DialFront(b.addr))
		_, err = b.host.SetTraffic(timely(), bridge.TrafficChange{Enabled: true})
		Expect(err).NotTo(HaveOccurred())
		Expect(spec.Ask(b.addr)).To(BeElementOf("a", "b"))
	})
})

var _ = Describe("Claim", func() {
	// claim makes one that notes what it is severed for.
	claim := func(h *bridge.Host) (*bridge.Claim, *atomic.Pointer[error]) {
		GinkgoHelper()
		severed := new(atomic.Pointer[error])
		c := &bridge.Claim{Sever: func(err error) { severed.Store(&err) }, Listener: "web", Client: "1.2.3.4:5"}
		Expect(h.Claim(c, nil)).To(Succeed())
		return c, severed
	}

	It("is a session of its host's", func() {
		b := startBalanced(startNamed("a"), nil)
		c, _ := claim(b.host)
		Expect(b.host.Counts()).To(And(HaveField("Sessions", 1), HaveField("Backends", HaveKeyWithValue("a", 1))))
		Expect(b.bridge.Sessions()).To(ConsistOf(And(
			HaveField("Protocol", bridge.HTTP), HaveField("ID", c.ID()), HaveField("Backend", "a"), HaveField("Listener", "web"), HaveField("Client", "1.2.3.4:5"),
		)))
		c.Release()
		c.Release()
		Expect(b.host.Counts().Sessions).To(BeZero())
	})

	It("is severed with its term under policy active, and by an operator", func() {
		backends := startNamed("a", "b")
		r := startRig(rigOptions{})
		r.activate("a", backends[0].Addr())
		first, severed := claim(r.host)
		r.activate("b", backends[1].Addr())
		Expect(bridge.ReasonFor(*severed.Load())).To(Equal(bridge.Severed))
		first.Release()
		second, killed := claim(r.host)
		Expect(second.Backend()).To(Equal("b"))
		Expect(r.bridge.EndSession(second.ID())).To(Succeed())
		Expect(bridge.ReasonFor(*killed.Load())).To(Equal(bridge.Killed))
		Expect(r.bridge.EndSession(second.ID())).To(MatchError(bridge.ErrUnknownSession))
		second.Release()
		Expect(r.host.Counts().Sessions).To(BeZero())
	})

	It("outlives a backend that goes down under policy balance, and is counted on, until traffic goes off", func() {
		b := startBalanced(startNamed("a", "b"), nil)
		Expect(b.host.SetWeights(timely(), map[string]int{"b": 0})).To(Succeed())
		c, severed := claim(b.host)
		Expect(b.host.SetWeights(timely(), nil)).To(Succeed())
		b.up("b")
		Expect(severed.Load()).To(BeNil())
		Expect(b.host.Counts().Backends).To(HaveKeyWithValue("a", 1))
		answer, err := b.host.SetTraffic(timely(), bridge.TrafficChange{Message: "off"})
		Expect(err).NotTo(HaveOccurred())
		Expect(answer.Severed).To(Equal(1))
		Expect(bridge.ReasonFor(*severed.Load())).To(Equal(bridge.TrafficOff))
		c.Release()
		Expect(b.host.Claim(&bridge.Claim{Sever: func(error) {}}, nil)).To(MatchError(ContainSubstring("traffic is off")))
	})

	It("is chosen another backend when it is tried again, as long as there is one", func() {
		b := startBalanced(startNamed("a", "b"), nil)
		c, _ := claim(b.host)
		first := c.Backend()
		c.Retry()
		Expect(b.host.Claim(c, nil)).To(Succeed())
		second := c.Backend()
		Expect(second).NotTo(Equal(first))
		c.Retry()
		Expect(b.host.Claim(c, nil)).To(Succeed())
		c.Release()
	})

	It("leaves a backend alone for a moment that has failed, unless there is no other", func() {
		b := startBalanced(startNamed("a", "b"), nil)
		c, _ := claim(b.host)
		failed := c.Backend()
		c.Suspect(errors.New("it broke"))
		c.Release()
		Expect(b.answering(64)).NotTo(ContainElement(failed))
		Expect(b.hintsOf(failed)).To(ContainElement(HaveField("Detail", "request failed: it broke")))
		Eventually(func() []string { return b.answering(64) }, 5*time.Second).Should(ConsistOf("a", "b"))
		b.up(failed)
		c, _ = claim(b.host)
		c.Suspect(errors.New("it broke"))
		c.Release()
		Expect(b.answering(8)).To(ConsistOf(failed))
	})

	It("waits for a backend as long as the host holds clients", func() {
		b := startBalanced(startNamed("a"), func(o *bridge.HostOptions) { o.Hold = time.Minute })
		b.up()
		waited := make(chan error, 1)
		gone := make(chan struct{})
		go func() { waited <- b.host.Await(gone, time.Now(), 0) }()
		Eventually(func() int { return b.host.Counts().Parked }).Should(Equal(1))
		b.up("a")
		Eventually(waited).Should(Receive(BeNil()))
		b.up()
		go func() { waited <- b.host.Await(gone, time.Now(), 0) }()
		Eventually(func() int { return b.host.Counts().Parked }).Should(Equal(1))
		close(gone)
		var err error
		Eventually(waited).Should(Receive(&err))
		Expect(bridge.ReasonFor(err)).To(Equal(bridge.ClientGone))
		Expect(bridge.ReasonFor(b.host.Await(nil, time.Now().Add(-time.Hour), 0))).To(Equal(bridge.HoldExpired))
	})

	It("costs no allocation", func() {
		b := startBalanced(startNamed("a", "b"), nil)
		c := &bridge.Claim{Sever: func(error) {}}
		Expect(testing.AllocsPerRun(1000, func() {
			if b.host.Claim(c, nil) != nil {
				panic("no backend")
			}
			c.Release()
		})).To(BeZero())
	})
})

// hintsOf are the hints that a backend was given.
func (r *rig) hintsOf(backend string) []bridge.Hint {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []bridge.Hint
	for _, h := range r.hints {
		if h.Backend == backend {
			found = append(found, h)
		}
	}
	return found
}
