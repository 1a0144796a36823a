package bridge_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/bridge"
	"switchboard/bridge/feed"
	"switchboard/bridge/route"
	"switchboard/fixtures/spec"
)

// tabled is a rig with a table, and a listener of protocol tls by which clients ask.
type tabled struct {
	*rig
	tables feed.Feed[*route.Table]
	table  *route.Table
	addr   string
}

func startTabled(change func(*bridge.Options)) *tabled {
	GinkgoHelper()
	t := &tabled{}
	tables, cancel := t.tables.Subscribe()
	DeferCleanup(cancel)
	var sniffer *bridge.Sniffer
	t.rig = startRig(rigOptions{
		bridge: func(o *bridge.Options) {
			o.Tables = tables
			if change != nil {
				change(o)
			}
		},
		built: func(b *bridge.Bridge) { sniffer = bridge.NewSniffer(b) },
	})
	t.addr = startListener(t.rig, func(o *bridge.ListenerOptions) { o.Name, o.To = "tls", sniffer }).Addr().String()
	return t
}

// put changes the table, without waiting for the bridge to follow.
func (t *tabled) put(hosts ...*route.Host) {
	GinkgoHelper()
	next, err := t.table.With(hosts, nil)
	Expect(err).NotTo(HaveOccurred())
	t.table = next
	t.tables.Put(next)
}

func (t *tabled) drop(names ...string) {
	GinkgoHelper()
	next, err := t.table.With(nil, names)
	Expect(err).NotTo(HaveOccurred())
	t.table = next
	t.tables.Put(next)
}

// follows waits until the bridge has the table.
func (t *tabled) follows() {
	GinkgoHelper()
	for h := range t.table.All() {
		Eventually(func() *route.Host { return t.bridge.Table().Get(h.Name) }).ShouldNot(BeNil())
	}
	Eventually(func() int { return t.bridge.Table().Len() }).Should(Equal(t.table.Len() + 1))
	Eventually(func() []*route.Host { // What is left is the host that the bridge was made with.
		var gone []*route.Host
		for h := range t.bridge.Table().Gone(t.table) {
			gone = append(gone, h)
		}
		return gone
	}).Should(HaveLen(1))
}

// lookup returns the host that a client of that name is for.
func (t *tabled) lookup(name string) *bridge.Host { return t.bridge.Lookup([]byte(name)) }

// claim makes a request for that name; backend is "" if there is none.
func (t *tabled) claim(name string) (c *bridge.Claim, backend string, err error) {
	c = &bridge.Claim{Sever: func(error) {}}
	h := t.lookup(name)
	if h == nil {
		return nil, "", bridge.ErrUnknownHost
	}
	if err := h.Claim(c, nil); err != nil {
		return nil, "", err
	}
	DeferCleanup(c.Release)
	return c, c.Backend(), nil
}

// dial opens a session with the host of that name, whose backend echoes.
func (t *tabled) dial(name string) net.Conn {
	GinkgoHelper()
	hello := helloTo(name)
	client := spec.DialFront(t.addr)
	_, err := client.Write(hello)
	Expect(err).NotTo(HaveOccurred())
	_, err = io.ReadFull(client, make([]byte, len(hello)))
	Expect(err).NotTo(HaveOccurred())
	return client
}

// helloTo is what a client of that name says first.
func helloTo(name string) []byte {
	GinkgoHelper()
	ours, theirs := net.Pipe()
	go tls.Client(ours, &tls.Config{ServerName: name, InsecureSkipVerify: true}).Handshake()
	hello := make([]byte, 16<<10)
	n, err := theirs.Read(hello)
	Expect(err).NotTo(HaveOccurred())
	theirs.Close()
	return hello[:n]
}

// stay is a client that counts itself when it is served, and stays until it is cut or
// ctx ends.
func stay(ctx context.Context, addr string, hello []byte, served *atomic.Int64) {
	client, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	defer client.Close()
	defer context.AfterFunc(ctx, func() { client.SetDeadline(time.Now()) })()
	if _, err := client.Write(hello); err != nil {
		return
	}
	if _, err := io.ReadFull(client, make([]byte, len(hello))); err != nil {
		return
	}
	served.Add(1)
	client.Read(make([]byte, 1))
}

// echoes tells that a session still is one.
func echoes(client net.Conn) {
	GinkgoHelper()
	_, err := client.Write([]byte("still here"))
	Expect(err).NotTo(HaveOccurred())
	answer := make([]byte, len("still here"))
	_, err = io.ReadFull(client, answer)
	Expect(err).NotTo(HaveOccurred())
	Expect(string(answer)).To(Equal("still here"))
}

func routed(name string, backends ...*spec.Backend) *route.Host {
	h := &route.Host{Name: name, Policy: route.Balance}
	for i, b := range backends {
		h.Backends = append(h.Backends, route.Backend{Name: string(rune('a' + i)), Address: b.Addr(), Weight: 1})
	}
	return h
}

var _ = Describe("a table", func() {
	It("brings hosts and takes them away", func() {
		echo := spec.StartBackend(spec.Echo)
		t := startTabled(nil)
		Expect(t.lookup("shop.test")).To(BeNil())
		t.put(routed("shop.test", echo), routed("*.pets.test", echo))
		t.follows()
		shop, cat := t.dial("shop.test"), t.dial("cat.pets.test")
		Expect(t.bridge.TableHosts()).To(Equal([]string{"*.pets.test", "shop.test"}))
		Expect(t.bridge.Sessions()).To(ConsistOf(HaveField("Host", "shop.test"), HaveField("Host", "*.pets.test")))
		left := t.lookup("shop.test")
		t.drop("shop.test")
		spec.ExpectReset(shop)
		Eventually(func() *bridge.Host { return t.lookup("shop.test") }).Should(BeNil())
		Eventually(left.Gone).Should(BeTrue())
		Expect(bridge.ReasonFor(left.Claim(&bridge.Claim{Sever: func(error) {}}, nil))).To(Equal(bridge.NoHost))
		echoes(cat)
		Expect(t.reasons()).To(ConsistOf(bridge.Severed))
	})

	It("does not stand before what the bridge was made with", func() {
		configured, other := spec.StartBackend(spec.Named("configured")), spec.StartBackend(spec.Named("table"))
		t := startTabled(nil)
		t.activate("a", configured.Addr())
		t.put(routed("db", other), routed("x.test", other))
		Eventually(func() *bridge.Host { return t.lookup("x.test") }).ShouldNot(BeNil())
		Expect(t.lookup("db")).To(BeIdenticalTo(t.host))
		Expect(t.bridge.Host("db")).To(BeIdenticalTo(t.host))
		t.drop("db")
		t.put(routed("y.test", other))
		Eventually(func() *bridge.Host { return t.lookup("y.test") }).ShouldNot(BeNil())
		Expect(t.lookup("db")).To(BeIdenticalTo(t.host))
		Expect(t.host.Gone()).To(BeFalse())
	})

	It("severs the sessions of a backend that leaves, and of no other (T36)", func() {
		one, two := spec.StartBackend(spec.Echo), spec.StartBackend(spec.Echo)
		t := startTabled(nil)
		t.put(routed("shop.test", one), routed("blog.test", one))
		t.follows()
		before, other := t.dial("shop.test"), t.dial("blog.test")
		both := routed("shop.test", one, two)
		t.put(both)
		t.follows()
		echoes(before)
		gone := routed("shop.test", one, two)
		gone.Backends = gone.Backends[1:]
		t.put(gone)
		spec.ExpectReset(before)
		echoes(other)
		echoes(t.dial("shop.test"))
		Expect(two.Accepted()).To(BeEquivalentTo(1))
	})

	It("leaves no session of what has left, though clients come all the time (T36)", func() {
		one, two := spec.StartBackend(spec.Echo), spec.StartBackend(spec.Echo)
		t := startTabled(nil)
		both := routed("shop.test", one, two)
		first, second := routed("shop.test", one), routed("shop.test", two)
		second.Backends[0].Name = both.Backends[1].Name
		t.put(both)
		t.follows()
		hello := helloTo("shop.test")
		ctx, cancel := context.WithCancel(timely())
		defer cancel()
		var clients sync.WaitGroup
		var served atomic.Int64
		for range 16 {
			clients.Go(func() {
				for ctx.Err() == nil {
					stay(ctx, t.addr, hello, &served)
				}
			})
		}
		for range 20 {
			before := served.Load()
			Eventually(served.Load).Should(BeNumerically(">", before))
			t.put(first)
			Eventually(two.Open).Should(BeZero())
			t.put(second)
			Eventually(one.Open).Should(BeZero())
			t.drop("shop.test")
			Eventually(two.Open).Should(BeZero())
			t.put(both)
		}
		cancel()
		clients.Wait()
		Eventually(t.open).Should(BeZero())
		Eventually(func() int { return one.Open() + two.Open() }).Should(BeZero())
	})

	It("lets requests in flight come to their end when their backend, or their host, leaves", func() {
		backend := spec.StartBackend(spec.Echo)
		t := startTabled(nil)
		t.put(routed("shop.test", backend))
		t.follows()
		var severed atomic.Int64
		c := &bridge.Claim{Sever: func(error) { severed.Add(1) }}
		Expect(t.lookup("shop.test").Claim(c, nil)).To(Succeed())
		t.drop("shop.test")
		t.follows()
		Expect(severed.Load()).To(BeZero())
		Expect(t.bridge.Sessions()).To(ConsistOf(HaveField("Host", "shop.test")))
		// It is still one that an operator can see and end.
		Expect(t.bridge.EndSession(c.ID())).To(Succeed())
		Expect(severed.Load()).To(BeEquivalentTo(1))
		c.Release()
		Expect(t.bridge.Sessions()).To(BeEmpty())
	})

	It("changes weights without touching a session, and 0 lets none in", func() {
		one, two := spec.StartBackend(spec.Echo), spec.StartBackend(spec.Echo)
		t := startTabled(nil)
		t.put(routed("shop.test", one, two))
		t.follows()
		sessions := []net.Conn{t.dial("shop.test"), t.dial("shop.test"), t.dial("shop.test")}
		drained := routed("shop.test", one, two)
		drained.Backends[0].Weight = 0
		t.put(drained)
		t.follows()
		for _, s := range sessions {
			echoes(s)
		}
		for range 20 {
			_, backend, err := t.claim("shop.test")
			Expect(err).NotTo(HaveOccurred())
			Expect(backend).To(Equal("b"))
		}
		Expect(t.lookup("shop.test").SetWeights(context.Background(), nil)).To(MatchError(bridge.ErrFromTable))
	})

	It("changes how backends are chosen, and how long clients may wait", func() {
		backend := spec.StartBackend(spec.Echo)
		t := startTabled(nil)
		t.put(routed("shop.test", backend))
		t.follows()
		h := t.lookup("shop.test")
		_, sticky := h.StickyBy()
		Expect([]bool{sticky, h.Holds()}).To(Equal([]bool{false, false}))
		next := routed("shop.test", backend)
		next.Choose, next.StickyBy, next.Hold = route.Sticky, route.StickyBy{Kind: route.ByCookie, Name: "s"}, time.Minute
		t.put(next)
		Eventually(h.Holds).Should(BeTrue())
		by, sticky := h.StickyBy()
		Expect(sticky).To(BeTrue())
		Expect(by.String()).To(Equal("cookie:s"))
		next = routed("shop.test")
		next.Hold = time.Minute
		t.put(next)
		Eventually(h.Usable).Should(BeFalse())
		waited := make(chan error, 1)
		go func() { waited <- h.Await(nil, time.Now(), 0) }()
		Eventually(func() int { return h.Counts().Parked }).Should(Equal(1))
		t.put(routed("shop.test", backend))
		Eventually(waited).Should(Receive(BeNil()))
	})

	It("says which backend is active: the first with a weight", func() {
		one, two := spec.StartBackend(spec.Echo), spec.StartBackend(spec.Echo)
		t := startTabled(nil)
		active := func(weights ...int) *route.Host {
			h := routed("db.test", one, two)
			h.Policy = route.Active
			for i, w := range weights {
				h.Backends[i].Weight = w
			}
			return h
		}
		t.put(active(1, 1))
		t.follows()
		before := t.dial("db.test")
		Expect(one.Accepted()).To(BeEquivalentTo(1))
		t.put(active(1, 0))
		t.follows()
		echoes(before)
		t.put(active(0, 1))
		spec.ExpectReset(before)
		after := t.dial("db.test")
		Expect(two.Accepted()).To(BeEquivalentTo(1))
		t.put(routed("db.test", one, two))
		spec.ExpectReset(after)
		Eventually(func() bool { return t.lookup("db.test").Policy() == route.Balance }).Should(BeTrue())
		t.put(active(0, 0))
		Eventually(func() string { _, _, err := t.claim("db.test"); return fmt.Sprint(err) }).Should(Equal("no active backend"))
	})

	It("keeps a flag that an operator has set while the host is away", func() {
		backend := spec.StartBackend(spec.Echo)
		t := startTabled(func(o *bridge.Options) {
			o.TableTraffic = map[string]bridge.Traffic{"old.test": {Message: "since yesterday"}}
		})
		t.put(routed("shop.test", backend), routed("old.test", backend))
		t.follows()
		_, _, err := t.claim("old.test")
		Expect(bridge.ReasonFor(err)).To(Equal(bridge.TrafficOff))
		session := t.dial("shop.test")
		h := t.lookup("shop.test")
		answer, err := h.SetTraffic(context.Background(), bridge.TrafficChange{Message: "sale is over"})
		Expect(err).NotTo(HaveOccurred())
		Expect(answer.Severed).To(Equal(1))
		spec.ExpectReset(session)
		t.drop("shop.test")
		Eventually(h.Gone).Should(BeTrue())
		_, err = h.SetTraffic(context.Background(), bridge.TrafficChange{Enabled: true})
		Expect(err).To(MatchError(bridge.ErrUnknownHost))
		t.put(routed("shop.test", backend))
		t.follows()
		_, _, err = t.claim("shop.test")
		Expect(bridge.ReasonFor(err)).To(Equal(bridge.TrafficOff))
		Expect(t.bridge.TableTraffic()).To(HaveKeyWithValue("shop.test", HaveField("Message", "sale is over")))
	})

	It("obeys the router's flag, whether a host was in use before or is after", func() {
		backend := spec.StartBackend(spec.Echo)
		t := startTabled(nil)
		t.put(routed("shop.test", backend), routed("blog.test", backend))
		t.follows()
		session := t.dial("shop.test")
		answer, err := t.bridge.SetTraffic(context.Background(), bridge.TrafficChange{Message: "off"})
		Expect(err).NotTo(HaveOccurred())
		Expect(answer.Severed).To(Equal(1))
		spec.ExpectReset(session)
		for _, name := range []string{"shop.test", "blog.test"} {
			_, _, err := t.claim(name)
			Expect(bridge.ReasonFor(err)).To(Equal(bridge.TrafficOff))
		}
		_, err = t.bridge.SetTraffic(context.Background(), bridge.TrafficChange{Enabled: true})
		Expect(err).NotTo(HaveOccurred())
		echoes(t.dial("blog.test"))
	})

	It("ends a host's drain in time", func() {
		clock := spec.NewClock()
		backend := spec.StartBackend(spec.Echo)
		t := startTabled(func(o *bridge.Options) { o.Clock = clock })
		t.put(routed("shop.test", backend))
		t.follows()
		session := t.dial("shop.test")
		_, err := t.lookup("shop.test").SetTraffic(context.Background(), bridge.TrafficChange{Grace: time.Minute, Message: "soon"})
		Expect(err).NotTo(HaveOccurred())
		clock.Advance(59 * time.Second)
		echoes(session)
		clock.Advance(time.Second)
		spec.ExpectReset(session)
		Eventually(t.reasons).Should(ConsistOf(bridge.Drained))
	})

	It("is announced once a second, however often it changes", func() {
		clock := spec.NewClock()
		t := startTabled(func(o *bridge.Options) { o.Clock = clock })
		changes := func() (hosts []int) {
			entries, _ := t.journal.Since(0)
			for _, e := range entries {
				if e.Value.Kind == bridge.TableChanged {
					hosts = append(hosts, e.Value.Table.Hosts)
				}
			}
			return hosts
		}
		t.put(routed("h0.test"))
		Eventually(changes).Should(Equal([]int{1}))
		for i := range 10 {
			t.put(routed(fmt.Sprintf("h%d.test", i)))
			t.follows()
		}
		Expect(changes()).To(Equal([]int{1}))
		clock.Advance(time.Second)
		Eventually(changes).Should(Equal([]int{1, 10}))
	})

	It("stops with sessions and requests of its hosts, and serves none afterwards", func() {
		backend := spec.StartBackend(spec.Echo)
		t := startTabled(nil)
		t.put(routed("shop.test", backend), routed("late.test", backend))
		t.follows()
		session := t.dial("shop.test")
		severed := make(chan error, 1)
		c := &bridge.Claim{Sever: func(cause error) { severed <- cause }}
		Expect(t.lookup("shop.test").Claim(c, nil)).To(Succeed())
		t.signals <- syscall.SIGTERM
		Eventually(t.ended).Should(Receive(BeNil()))
		t.ended <- nil
		spec.ExpectReset(session)
		var cause error
		Eventually(severed).Should(Receive(&cause))
		Expect(bridge.ReasonFor(cause)).To(Equal(bridge.Shutdown))
		c.Release()
		for _, name := range []string{"shop.test", "late.test"} {
			_, _, err := t.claim(name)
			Expect(bridge.ReasonFor(err)).To(Equal(bridge.Shutdown), name)
		}
	})

	It("changes a thousand times under requests, of which none fails", func() {
		one, two := spec.StartBackend(spec.Echo), spec.StartBackend(spec.Echo)
		t := startTabled(nil)
		names := make([]string, 20)
		for i := range names {
			names[i] = fmt.Sprintf("h%d.test", i)
			t.put(routed(names[i], one, two))
		}
		t.follows()
		untouched := t.dial(names[0])
		stop := make(chan struct{})
		var asking sync.WaitGroup
		var claims atomic.Int64
		for range 4 {
			asking.Go(func() {
				defer GinkgoRecover()
				c := bridge.Claim{Sever: func(error) { Fail("a request was severed") }}
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					h := t.lookup(names[i%len(names)])
					Expect(h).NotTo(BeNil())
					Expect(h.Claim(&c, nil)).To(Succeed())
					c.Release()
					claims.Add(1)
				}
			})
		}
		for i := range 1000 {
			h := routed(names[1+i%(len(names)-1)], one, two)
			if i%2 == 0 {
				h.Backends = h.Backends[i/2%2 : i/2%2+1]
			}
			t.put(h)
			if i%50 == 0 {
				t.follows()
			}
		}
		t.follows()
		close(stop)
		asking.Wait()
		echoes(untouched)
		Expect(claims.Load()).To(BeNumerically(">", 1000))
	})
})
