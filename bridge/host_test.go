package bridge_test

import (
	"context"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/bridge"
	"switchboard/bridge/feed"
	"switchboard/bridge/relay"
	"switchboard/bridge/route"
	"switchboard/fixtures/spec"
)

// still is how long a spec watches that something does not happen.
const still = 50 * time.Millisecond

var _ = Describe("Host that holds clients", func() {
	hold := func(d time.Duration, most int) func(*bridge.HostOptions) {
		return func(o *bridge.HostOptions) { o.Hold, o.HoldMax = d, most }
	}
	parked := func(r *rig) func() int { return func() int { return r.host.Counts().Parked } }

	It("serves a client that came before there was a backend, with what it had sent", func() {
		a := spec.StartBackend(spec.Named("a"))
		r := startRig(rigOptions{host: hold(time.Minute, 10)})
		client := spec.DialFront(r.addr)
		client.Write([]byte("early\n"))
		Eventually(parked(r)).Should(Equal(1))
		r.activate("a", a.Addr())
		Expect(spec.ReadLine(client)).To(Equal("a"))
		Expect(spec.ReadLine(client)).To(Equal("early"))
		Expect(r.host.Counts().Parked).To(BeZero())
	})

	It("takes a client whose backend refused to the next active one", func() {
		b := spec.StartBackend(spec.Named("b"))
		r := startRig(rigOptions{host: hold(time.Minute, 10)})
		r.activate("a", spec.RefusedAddr())
		client := spec.DialFront(r.addr)
		Eventually(parked(r)).Should(Equal(1))
		r.activate("", "")
		Consistently(parked(r), still).Should(Equal(1))
		r.activate("b", b.Addr())
		Expect(spec.ReadLine(client)).To(Equal("b"))
	})

	It("dials the same backend again for a client that it holds", func() {
		a := spec.StartBackend(spec.Named("a"))
		var dials atomic.Int64
		r := startRig(rigOptions{host: hold(time.Minute, 10), dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			if dials.Add(1) <= 2 {
				return nil, syscall.EHOSTUNREACH
			}
			return new(net.Dialer).DialContext(ctx, network, address)
		}})
		r.activate("a", a.Addr())
		Expect(spec.Ask(r.addr)).To(Equal("a"))
		Expect(dials.Load()).To(BeEquivalentTo(3))
	})

	It("says why the last dial failed when the hold has run out", func() {
		r := startRig(rigOptions{host: hold(200*time.Millisecond, 10)})
		r.activate("a", spec.RefusedAddr())
		spec.ExpectReset(spec.DialFront(r.addr))
		Eventually(r.reasons).Should(ConsistOf(bridge.DialFailed))
		Expect(len(r.hinted())).To(BeNumerically(">", 1))
	})

	It("refuses a client whose hold has run out", func() {
		r := startRig(rigOptions{host: hold(50*time.Millisecond, 10)})
		spec.ExpectReset(spec.DialFront(r.addr))
		Eventually(r.reasons).Should(ConsistOf(bridge.HoldExpired))
	})

	It("refuses those beyond hold_max", func() {
		r := startRig(rigOptions{host: hold(time.Minute, 2)})
		spec.DialFront(r.addr)
		spec.DialFront(r.addr)
		Eventually(parked(r)).Should(Equal(2))
		spec.ExpectReset(spec.DialFront(r.addr))
		Eventually(r.reasons).Should(ConsistOf(bridge.OverLimit))
		Expect(parked(r)()).To(Equal(2))
	})

	It("notices that a held client has left, whether it had sent something or not", func() {
		r := startRig(rigOptions{host: hold(time.Minute, 10)})
		closing, resetting := spec.DialFront(r.addr), spec.DialFront(r.addr)
		resetting.Write([]byte("unread"))
		Eventually(parked(r)).Should(Equal(2))
		closing.Close()
		resetting.SetLinger(0)
		resetting.Close()
		Eventually(r.reasons).Should(ConsistOf(bridge.ClientGone, bridge.ClientGone))
		Expect(parked(r)()).To(BeZero())
	})

	It("lets held clients go when traffic is switched off", func() {
		r := startRig(rigOptions{host: hold(time.Minute, 10)})
		client := spec.DialFront(r.addr)
		Eventually(parked(r)).Should(Equal(1))
		_, err := r.bridge.SetTraffic(timely(), bridge.TrafficChange{Message: "maintenance"})
		Expect(err).NotTo(HaveOccurred())
		spec.ExpectReset(client)
		Eventually(r.reasons).Should(ConsistOf(bridge.TrafficOff))
	})

	It("lets held clients go when it stops", func() {
		r := startRig(rigOptions{host: hold(time.Minute, 10)})
		client := spec.DialFront(r.addr)
		Eventually(parked(r)).Should(Equal(1))
		r.signals <- syscall.SIGTERM
		spec.ExpectReset(client)
		Eventually(r.reasons).Should(ConsistOf(bridge.Shutdown))
	})
})

var _ = Describe("Traffic", func() {
	var (
		a      *spec.Backend
		r      *rig
		clock  *spec.Clock
		client *net.TCPConn
	)
	off := bridge.TrafficChange{Message: "maintenance"}
	on := bridge.TrafficChange{Enabled: true}
	drain := bridge.TrafficChange{Message: "maintenance", Grace: time.Minute}

	BeforeEach(func() {
		clock = spec.NewClock()
		a = spec.StartBackend(spec.Named("a"))
		r = startRig(rigOptions{bridge: func(o *bridge.Options) { o.Clock = clock }})
		r.activate("a", a.Addr())
		client = spec.DialFront(r.addr)
		Expect(spec.ReadLine(client)).To(Equal("a"))
	})

	// Both flags behave alike; set changes one of them.
	for _, flag := range []struct {
		name string
		set  func(bridge.TrafficChange) (bridge.TrafficAnswer, error)
		get  func() bridge.Traffic
	}{
		{
			name: "of the router",
			set: func(c bridge.TrafficChange) (bridge.TrafficAnswer, error) {
				return r.bridge.SetTraffic(timely(), c)
			},
			get: func() bridge.Traffic { t, _ := r.bridge.Traffic().Get(); return t },
		},
		{
			name: "of a host",
			set: func(c bridge.TrafficChange) (bridge.TrafficAnswer, error) {
				return r.host.SetTraffic(timely(), c)
			},
			get: func() bridge.Traffic { t, _ := r.host.Traffic().Get(); return t },
		},
	} {
		Describe(flag.name, func() {
			change := func(c bridge.TrafficChange) bridge.TrafficAnswer {
				GinkgoHelper()
				answer, err := flag.set(c)
				Expect(err).NotTo(HaveOccurred())
				Expect(flag.get()).To(Equal(answer.Traffic))
				return answer
			}

			It("severs and refuses when it goes off, and serves again when it is on", func() {
				answer := change(off)
				Expect(answer.Severed).To(Equal(1))
				Expect(answer.Traffic).To(And(HaveField("Enabled", false), HaveField("Message", "maintenance"), HaveField("LastUpdated", clock.Now())))
				spec.ExpectReset(client)
				spec.ExpectReset(spec.DialFront(r.addr))
				Eventually(r.reasons).Should(ConsistOf(bridge.TrafficOff, bridge.TrafficOff))

				Expect(change(on).Severed).To(BeZero())
				Expect(spec.Ask(r.addr)).To(Equal("a"))
			})

			It("severs nobody when it is switched on again", func() {
				Expect(change(on).Severed).To(BeZero())
				spec.SayHello(client)
			})

			It("drains: refuses at once, severs when the grace is over", func() {
				answer := change(drain)
				Expect(answer.Severed).To(BeZero())
				Expect(answer.Traffic.DrainUntil).To(Equal(clock.Now().Add(time.Minute)))
				spec.ExpectReset(spec.DialFront(r.addr))
				spec.SayHello(client)

				clock.Advance(59 * time.Second)
				spec.SayHello(client)
				clock.Advance(time.Second)
				spec.ExpectReset(client)
				Eventually(r.reasons).Should(ConsistOf(bridge.TrafficOff, bridge.Drained))
				Eventually(flag.get).Should(HaveField("DrainUntil", BeZero()))
			})

			It("keeps the sessions when traffic goes on again during a drain", func() {
				change(drain)
				change(on)
				clock.Advance(time.Hour)
				spec.SayHello(client)
				Expect(spec.Ask(r.addr)).To(Equal("a"))
			})

			It("takes the grace of the latest change", func() {
				change(drain)
				longer := drain
				longer.Grace = time.Hour
				change(longer)
				clock.Advance(2 * time.Minute)
				spec.SayHello(client)
				Expect(change(off).Severed).To(Equal(1))
				spec.ExpectReset(client)
			})

			It("severs what drains when the active backend changes", func() {
				b := spec.StartBackend(spec.Named("b"))
				change(drain)
				r.activate("b", b.Addr())
				spec.ExpectReset(client)
				spec.ExpectReset(spec.DialFront(r.addr))
				change(on)
				Expect(spec.Ask(r.addr)).To(Equal("b"))
			})

			It("writes history", func() {
				change(off)
				change(on)
				entries, _ := r.journal.Since(0)
				Expect(entries).To(HaveLen(2))
				Expect(entries[0].Value).To(And(HaveField("Kind", bridge.TrafficDisabled), HaveField("Host", flag.get().Host), HaveField("Traffic.Message", "maintenance")))
				Expect(entries[1].Value.Kind).To(Equal(bridge.TrafficEnabled))
			})
		})
	}

	It("is on only if both flags are", func() {
		ctx := timely()
		_, err := r.host.SetTraffic(ctx, off)
		Expect(err).NotTo(HaveOccurred())
		_, err = r.bridge.SetTraffic(ctx, off)
		Expect(err).NotTo(HaveOccurred())
		_, err = r.bridge.SetTraffic(ctx, on)
		Expect(err).NotTo(HaveOccurred())
		spec.ExpectReset(spec.DialFront(r.addr))
		_, err = r.host.SetTraffic(ctx, on)
		Expect(err).NotTo(HaveOccurred())
		Expect(spec.Ask(r.addr)).To(Equal("a"))
	})

	It("bridges nobody while it is off, and severs nobody after it is on, under a stream of clients (T34)", func() {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		done := make(chan struct{})
		go func() {
			defer close(done)
			for ctx.Err() == nil {
				spec.Ask(r.addr)
			}
		}()
		for range 50 {
			_, err := r.bridge.SetTraffic(ctx, off)
			Expect(err).NotTo(HaveOccurred())
			accepted := a.Accepted()
			Expect(r.open()).To(BeZero())
			Consistently(a.Accepted, 5*time.Millisecond, time.Millisecond).Should(BeNumerically("<=", accepted+1), "one dial may have been in flight")
			Expect(r.open()).To(BeZero())
			_, err = r.bridge.SetTraffic(ctx, on)
			Expect(err).NotTo(HaveOccurred())
			kept, err := net.Dial("tcp", r.addr)
			Expect(err).NotTo(HaveOccurred())
			Expect(spec.ReadLine(kept)).To(Equal("a"))
			spec.SayHello(kept)
			kept.Close()
		}
		cancel()
		<-done
	})

	It("answers every change, and says so when the bridge has stopped", func() {
		ctx := timely()
		for range 1000 {
			_, err := r.bridge.SetTraffic(ctx, on)
			Expect(err).NotTo(HaveOccurred())
		}
		r.stop()
		r.ended = make(chan error, 1)
		r.ended <- nil
		_, err := r.bridge.SetTraffic(timely(), on)
		Expect(err).To(MatchError(bridge.ErrStopped))
		_, err = r.host.SetTraffic(timely(), on)
		Expect(err).To(MatchError(bridge.ErrStopped))
		_, err = r.host.AwaitEpoch(timely(), 99)
		Expect(err).To(MatchError(bridge.ErrStopped))
	})

	It("gives up on a command when the asker does", func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		defer cancel()
		_, err := r.host.AwaitEpoch(ctx, 99)
		Expect(err).To(MatchError(context.DeadlineExceeded))
	})
})

var _ = Describe("Bridge that stops", func() {
	It("lets sessions end by themselves and ends with the last one", func() {
		a := spec.StartBackend(spec.Named("a"))
		r := startRig(rigOptions{bridge: func(o *bridge.Options) { o.Drain = time.Minute }})
		r.activate("a", a.Addr())
		one, two := spec.DialFront(r.addr), spec.DialFront(r.addr)
		Expect(spec.ReadLine(one)).To(Equal("a"))
		Expect(spec.ReadLine(two)).To(Equal("a"))
		r.signals <- syscall.SIGTERM
		one.Close()
		Consistently(r.ended, still).ShouldNot(Receive())
		spec.SayHello(two)
		two.Close()
		Eventually(r.ended).Should(Receive(BeNil()))
		r.ended <- nil
		Expect(r.reasons()).To(ConsistOf(bridge.ClientClosed, bridge.ClientClosed))
	})

	It("severs what is left when the drain is over", func() {
		a, clock := spec.StartBackend(spec.Named("a")), spec.NewClock()
		r := startRig(rigOptions{bridge: func(o *bridge.Options) { o.Drain, o.Clock = time.Minute, clock }})
		r.activate("a", a.Addr())
		client := spec.DialFront(r.addr)
		Expect(spec.ReadLine(client)).To(Equal("a"))
		r.signals <- syscall.SIGTERM
		Eventually(clock.Waiting).Should(Equal(1))
		clock.Advance(time.Minute)
		spec.ExpectReset(client)
		Eventually(r.ended).Should(Receive(BeNil()))
		r.ended <- nil
		Expect(r.reasons()).To(ConsistOf(bridge.Shutdown))
	})

	It("follows elections and obeys commands while it drains", func() {
		a, b := spec.StartBackend(spec.Named("a")), spec.StartBackend(spec.Named("b"))
		r := startRig(rigOptions{bridge: func(o *bridge.Options) { o.Drain = time.Minute }})
		r.activate("a", a.Addr())
		client := spec.DialFront(r.addr)
		Expect(spec.ReadLine(client)).To(Equal("a"))
		r.signals <- syscall.SIGTERM
		_, err := r.bridge.SetTraffic(timely(), bridge.TrafficChange{Enabled: true})
		Expect(err).NotTo(HaveOccurred())
		Expect(r.activate("b", b.Addr())).To(Equal(1))
		spec.ExpectReset(client)
	})

	It("severs now at a second signal", func() {
		a := spec.StartBackend(spec.Named("a"))
		r := startRig(rigOptions{bridge: func(o *bridge.Options) { o.Drain = time.Hour }})
		r.activate("a", a.Addr())
		client := spec.DialFront(r.addr)
		Expect(spec.ReadLine(client)).To(Equal("a"))
		r.signals <- syscall.SIGTERM
		r.signals <- syscall.SIGTERM
		spec.ExpectReset(client)
		Eventually(r.ended).Should(Receive(BeNil()))
		r.ended <- nil
	})
})

var _ = Describe("Run", func() {
	It("serves what its feeds had before, when it is ready", func() {
		for range 20 {
			var active feed.Feed[bridge.Active]
			active.Put(bridge.Active{Host: "db", Epoch: 1, Backend: &route.Backend{Name: "a", Address: "127.0.0.1:1"}})
			follow, cancel := active.Subscribe()
			defer cancel()
			engine := spec.NewEngine(relay.Options{})
			defer engine.Close()
			b, err := bridge.New(bridge.Options{
				Engine: engine, Traffic: bridge.Traffic{Enabled: true},
				Hosts: []bridge.HostOptions{{Name: "db", Active: follow, Traffic: bridge.Traffic{Enabled: true}}},
			})
			Expect(err).NotTo(HaveOccurred())
			signals, ready, ended := make(chan os.Signal, 1), make(chan struct{}), make(chan error, 1)
			go func() { ended <- b.Run(signals, ready) }()
			<-ready
			Expect(b.Host("db").Usable()).To(BeTrue())
			signals <- syscall.SIGTERM
			Eventually(ended).Should(Receive(BeNil()))
		}
	})
})

var _ = Describe("New", func() {
	It("refuses what it cannot run", func() {
		_, err := bridge.New(bridge.Options{})
		Expect(err).To(MatchError("a bridge needs an engine"))
		engine := spec.NewEngine(relay.Options{})
		DeferCleanup(engine.Close)
		_, err = bridge.New(bridge.Options{Engine: engine, Hosts: []bridge.HostOptions{{Name: "db"}, {Name: "db"}}})
		Expect(err).To(MatchError(`naming the hosts: two hosts are named "db"`))
		_, err = bridge.New(bridge.Options{Engine: engine, Hosts: []bridge.HostOptions{{Name: "d b"}}})
		Expect(err).To(MatchError(ContainSubstring("is not a name")))
	})
})
