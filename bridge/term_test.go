package bridge_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/bridge"
	"switchboard/bridge/relay"
	"switchboard/fixtures/spec"
)

var _ = Describe("Term", func() {
	It("serves the active backend and severs its sessions when another takes over", func() {
		a, b := spec.StartBackend(spec.Named("a")), spec.StartBackend(spec.Named("b"))
		r := startRig(rigOptions{})
		r.activate("a", a.Addr())
		client := spec.DialFront(r.addr)
		Expect(spec.ReadLine(client)).To(Equal("a"))
		spec.SayHello(client)
		Expect(r.host.Counts().Backends).To(Equal(map[string]int{"a": 1, "b": 0}))

		Expect(r.activate("b", b.Addr())).To(Equal(1))
		spec.ExpectReset(client)
		Eventually(a.Open).Should(BeZero())
		Expect(spec.Ask(r.addr)).To(Equal("b"))
		Eventually(r.reasons).Should(ContainElement(bridge.Severed))
	})

	It("severs when the host is left without a backend, and refuses until there is one", func() {
		a := spec.StartBackend(spec.Named("a"))
		r := startRig(rigOptions{})
		r.activate("a", a.Addr())
		client := spec.DialFront(r.addr)
		Expect(spec.ReadLine(client)).To(Equal("a"))

		Expect(r.activate("", "")).To(Equal(1))
		spec.ExpectReset(client)
		spec.ExpectReset(spec.DialFront(r.addr))
		Eventually(r.reasons).Should(ConsistOf(bridge.Severed, bridge.NoBackend))

		r.activate("a", a.Addr())
		Expect(spec.Ask(r.addr)).To(Equal("a"))
	})

	It("does not let the end of an old term touch a new one of the same backend (T16)", func() {
		a, b := spec.StartBackend(spec.Named("a")), spec.StartBackend(spec.Named("b"))
		r := startRig(rigOptions{})
		r.activate("a", a.Addr())
		old := make([]*net.TCPConn, 50)
		for i := range old {
			old[i] = spec.DialFront(r.addr)
			Expect(spec.ReadLine(old[i])).To(Equal("a"))
		}
		r.announce("b", b.Addr())
		r.activate("a", a.Addr())
		fresh := spec.DialFront(r.addr)
		Expect(spec.ReadLine(fresh)).To(Equal("a"))
		for _, client := range old {
			spec.ExpectReset(client)
		}
		spec.SayHello(fresh)
		Expect(r.open()).To(Equal(1))
	})

	It("does not cut the sessions of another host over the same backends", func() {
		a, b := spec.StartBackend(spec.Named("a")), spec.StartBackend(spec.Named("b"))
		active, inactive := startRig(rigOptions{}), startRig(rigOptions{})
		active.activate("a", a.Addr())
		inactive.activate("b", b.Addr())
		writer, reader := spec.DialFront(active.addr), spec.DialFront(inactive.addr)
		Expect(spec.ReadLine(writer)).To(Equal("a"))
		Expect(spec.ReadLine(reader)).To(Equal("b"))

		inactive.activate("a", a.Addr())
		spec.ExpectReset(reader)
		again := spec.DialFront(inactive.addr)
		Expect(spec.ReadLine(again)).To(Equal("a"))
		inactive.activate("b", b.Addr())
		spec.ExpectReset(again)
		spec.SayHello(writer)
		Expect(active.open()).To(Equal(1))
	})

	Context("when a dial is in flight", func() {
		// A dial that a spec lets go on.
		type held struct {
			address string
			release chan struct{}
		}
		var (
			dials chan held
			dial  func(ctx context.Context, network, address string) (net.Conn, error)
		)
		BeforeEach(func() {
			dials = make(chan held, 100)
			dial = func(ctx context.Context, network, address string) (net.Conn, error) {
				h := held{address, make(chan struct{})}
				dials <- h
				<-h.release // longer than ctx: a dialer that is deaf to its context
				return new(net.Dialer).DialContext(context.WithoutCancel(ctx), network, address)
			}
		})

		It("never bridges to a backend whose term has ended meanwhile, and dials the new one once (T10)", func() {
			a, b := spec.StartBackend(spec.Named("a")), spec.StartBackend(spec.Named("b"))
			r := startRig(rigOptions{dial: dial})
			r.activate("a", a.Addr())
			client := spec.DialFront(r.addr)
			first := <-dials
			Expect(first.address).To(Equal(a.Addr()))
			Expect(r.activate("b", b.Addr())).To(BeZero())
			close(first.release)
			second := <-dials
			Expect(second.address).To(Equal(b.Addr()))
			close(second.release)
			Expect(spec.ReadLine(client)).To(Equal("b"))
			Eventually(a.Open).Should(BeZero())
			Expect(r.host.Counts().Backends).To(Equal(map[string]int{"a": 0, "b": 1}))
		})

		It("never dials a backend whose term has ended before it was dialed (T11)", func() {
			a, b := spec.StartBackend(spec.Named("a")), spec.StartBackend(spec.Named("b"))
			asked, answers := make(chan string, 2), make(chan string)
			r := startRig(rigOptions{bridge: func(o *bridge.Options) {
				o.Resolve = func(_ context.Context, name string) ([]string, error) {
					asked <- name
					return []string{<-answers}, nil // longer than its context
				}
			}})
			r.activate("a", "a.test:1")
			client := spec.DialFront(r.addr)
			Expect(<-asked).To(Equal("a.test:1"))
			Expect(r.activate("b", "b.test:1")).To(BeZero())
			answers <- a.Addr()
			Expect(<-asked).To(Equal("b.test:1"))
			answers <- b.Addr()
			Expect(spec.ReadLine(client)).To(Equal("b"))
			Expect(a.Accepted()).To(BeZero())
			Expect(r.host.Counts().Backends).To(Equal(map[string]int{"a": 0, "b": 1}))
		})

		It("bridges to the newest of several, or not at all (T12)", func() {
			a, b := spec.StartBackend(spec.Named("a")), spec.StartBackend(spec.Named("b"))
			r := startRig(rigOptions{dial: dial})
			r.activate("a", a.Addr())
			client := spec.DialFront(r.addr)
			first := <-dials
			r.activate("b", b.Addr())
			r.activate("a", a.Addr())
			close(first.release)
			second := <-dials
			Expect(second.address).To(Equal(a.Addr()))
			close(second.release)
			Expect(spec.ReadLine(client)).To(Equal("a"))
			Expect(r.host.Sessions()).To(HaveLen(1))
			Eventually(a.Open).Should(Equal(1))
		})

		It("closes a client that was overtaken twice and may not be held", func() {
			a := spec.StartBackend(spec.Named("a"))
			r := startRig(rigOptions{dial: dial})
			r.activate("a", a.Addr())
			client := spec.DialFront(r.addr)
			first := <-dials
			r.activate("a", a.Addr())
			close(first.release)
			second := <-dials
			r.activate("a", a.Addr())
			close(second.release)
			spec.ExpectReset(client)
			Eventually(r.reasons).Should(ConsistOf(bridge.Severed))
			Expect(r.open()).To(BeZero())
		})

		It("gives the client up when traffic is switched off", func() {
			a := spec.StartBackend(spec.Named("a"))
			r := startRig(rigOptions{dial: dial})
			r.activate("a", a.Addr())
			client := spec.DialFront(r.addr)
			first := <-dials
			answer, err := r.host.SetTraffic(timely(), bridge.TrafficChange{Message: "maintenance"})
			Expect(err).NotTo(HaveOccurred())
			Expect(answer.Severed).To(BeZero())
			close(first.release)
			spec.ExpectReset(client)
			Eventually(r.reasons).Should(ConsistOf(bridge.TrafficOff))
			Eventually(a.Open).Should(BeZero())
		})
	})

	It("leaves no session on a backend that is not active after 10,000 flips under dial chaos", func() {
		backends := map[string]*spec.Backend{"a": spec.StartBackend(spec.Named("a")), "b": spec.StartBackend(spec.Named("b"))}
		const flips = 10_000
		var seed atomic.Uint64
		dialer := new(net.Dialer)
		r := startRig(rigOptions{
			host: func(o *bridge.HostOptions) { o.DialTimeout = 20 * time.Millisecond },
			dial: func(ctx context.Context, network, address string) (net.Conn, error) {
				switch n := rand.New(rand.NewPCG(seed.Add(1), 7)).IntN(10); {
				case n < 2: // hangs
					<-ctx.Done()
					return nil, context.Cause(ctx)
				case n < 4:
					return nil, syscall.ECONNREFUSED
				case n < 6: // slow, and deaf to the end of its term
					<-time.After(time.Duration(n) * time.Millisecond)
					return dialer.DialContext(context.WithoutCancel(ctx), network, address)
				default:
					return dialer.DialContext(ctx, network, address)
				}
			},
		})
		r.activate("a", backends["a"].Addr())
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		var clients sync.WaitGroup
		var served atomic.Int64
		for range 16 {
			clients.Go(func() {
				for ctx.Err() == nil {
					if _, err := spec.Ask(r.addr); err == nil {
						served.Add(1)
					}
				}
			})
		}
		for i := range flips {
			name := []string{"a", "b"}[i%2]
			other := []string{"b", "a"}[i%2]
			r.activate(name, backends[name].Addr())
			Expect(r.host.Counts().Backends[other]).To(BeZero(), "after flip %d", i)
			if i%100 == 0 {
				// Give a client the time to be served in between.
				before := served.Load()
				Eventually(served.Load, "10s").Should(BeNumerically(">", before))
			}
		}
		cancel()
		clients.Wait()
		Eventually(r.open).Should(BeZero())
		Eventually(func() int { return backends["a"].Open() + backends["b"].Open() }).Should(BeZero())
		Expect(served.Load()).To(BeNumerically(">", 100))
	})

	It("does not grow by a goroutine in 1,000 switches without traffic (T14)", func() {
		a := spec.StartBackend(spec.Named("a"))
		r := startRig(rigOptions{})
		r.activate("a", a.Addr())
		before := runtime.NumGoroutine()
		for range 1000 {
			r.activate("a", a.Addr())
		}
		Expect(runtime.NumGoroutine()).To(BeNumerically("<=", before))
	})

	It("ignores an announcement that is older than the one it follows", func() {
		a, b := spec.StartBackend(spec.Named("a")), spec.StartBackend(spec.Named("b"))
		r := startRig(rigOptions{})
		r.epoch = 10
		r.activate("a", a.Addr())
		r.epoch = 4
		r.announce("b", b.Addr())
		_, err := r.host.SetTraffic(timely(), bridge.TrafficChange{Enabled: true})
		Expect(err).NotTo(HaveOccurred())
		Expect(spec.Ask(r.addr)).To(Equal("a"))
	})

	It("keeps a panic on the way to a backend to the one connection (T33)", func() {
		a := spec.StartBackend(spec.Named("a"))
		logger, lines := spec.Logs()
		var panicking atomic.Bool
		r := startRig(rigOptions{bridge: func(o *bridge.Options) {
			o.Log = logger
			o.Resolve = func(context.Context, string) ([]string, error) {
				if panicking.CompareAndSwap(true, false) {
					panic("the resolver is broken")
				}
				return []string{a.Addr()}, nil
			}
		}})
		r.activate("a", "a.test:1")
		panicking.Store(true)
		spec.ExpectReset(spec.DialFront(r.addr))
		Eventually(r.reasons).Should(ConsistOf(bridge.Internal))
		Expect(r.bridge.Panics()).To(BeEquivalentTo(1))
		Expect(lines.String()).To(ContainSubstring("the resolver is broken"))
		Expect(spec.Ask(r.addr)).To(Equal("a"))
	})
})

var _ = Describe("Session", func() {
	It("delivers the reply after the client has shut its write side", func() {
		a := spec.StartBackend(func(conn *net.TCPConn) {
			sum := 0
			buffer := make([]byte, 4096)
			for {
				n, err := conn.Read(buffer)
				sum += n
				if err != nil {
					break
				}
			}
			fmt.Fprintf(conn, "%d\n", sum)
			conn.Close()
		})
		r := startRig(rigOptions{})
		r.activate("a", a.Addr())
		for range 100 {
			client := spec.DialFront(r.addr)
			_, err := client.Write([]byte("request"))
			Expect(err).NotTo(HaveOccurred())
			Expect(client.CloseWrite()).To(Succeed())
			Expect(spec.ReadLine(client)).To(Equal("7"))
			spec.ExpectEOF(client)
		}
		Eventually(r.reasons).Should(HaveLen(100))
		Expect(r.reasons()).To(HaveEach(bridge.ClientClosed))
	})

	DescribeTable("makes one record with a reason",
		func(behave spec.Behaviour, leave func(client *net.TCPConn), reason bridge.Reason) {
			a := spec.StartBackend(behave)
			r := startRig(rigOptions{host: func(o *bridge.HostOptions) {
				o.Limits = relay.Limits{Idle: 200 * time.Millisecond, HalfClose: 100 * time.Millisecond}
			}})
			r.activate("a", a.Addr())
			client := spec.DialFront(r.addr)
			if leave != nil {
				leave(client)
			}
			Eventually(r.reasons, "2s").Should(ConsistOf(reason))
			Expect(r.open()).To(BeZero())
			r.mu.Lock()
			defer r.mu.Unlock()
			Expect(r.records[0]).To(And(
				HaveField("ID", Not(BeEmpty())), HaveField("Host", "db"), HaveField("Listener", "front"),
				HaveField("Backend", "a"), HaveField("Origin", "7#3#a"), HaveField("Protocol", bridge.TCP), HaveField("Epoch", r.epoch), HaveField("Client", client.LocalAddr().String()),
				HaveField("Took", BeNumerically(">", 0))))
		},
		Entry("when the client closes", spec.Behaviour(spec.Echo), func(c *net.TCPConn) { c.Close() }, bridge.ClientClosed),
		Entry("when the client resets", spec.Behaviour(spec.Echo), func(c *net.TCPConn) {
			spec.SayHello(c)
			c.SetLinger(0)
			c.Close()
		}, bridge.ClientReset),
		Entry("when the backend closes (T20)", spec.Behaviour(spec.CloseAfterAccept), func(c *net.TCPConn) {
			spec.ExpectEOF(c)
			c.Close()
		}, bridge.BackendClosed),
		// It waits for the client: a reset that is there before the dial is seen to have
		// come to its end would have failed the dial.
		Entry("when the backend resets", spec.Behaviour(func(conn *net.TCPConn) {
			conn.Read(make([]byte, 1))
			conn.SetLinger(0)
		}), func(c *net.TCPConn) { c.Write([]byte("x")) }, bridge.BackendReset),
		Entry("when nobody says anything", spec.Behaviour(spec.Hang), nil, bridge.IdleTimeout),
		Entry("when one side ends and the other is silent", spec.Behaviour(spec.Hang), func(c *net.TCPConn) { c.CloseWrite() }, bridge.HalfCloseTimeout),
	)

	It("counts the client's and the backend's bytes", func() {
		a := spec.StartBackend(spec.Named("a"))
		r := startRig(rigOptions{host: func(o *bridge.HostOptions) { o.SendProxy = bridge.ProxyV1 }})
		r.activate("a", a.Addr())
		client := spec.DialFront(r.addr)
		Expect(spec.ReadLine(client)).To(Equal("a"))
		header := spec.ReadLine(client) // the echo of the PROXY header
		client.Write([]byte("12345\n"))
		Expect(spec.ReadLine(client)).To(Equal("12345"))
		Eventually(r.bridge.Sessions).Should(ConsistOf(HaveField("ToClient", BeEquivalentTo(len("a\n")+len(header)+1+6))))
		client.Close()
		Eventually(r.reasons).Should(HaveLen(1))
		r.mu.Lock()
		defer r.mu.Unlock()
		Expect(r.records[0].ToBackend).To(BeEquivalentTo(6))
	})

	It("is told of when it opens, and before its end", func() {
		var mu sync.Mutex
		var told []string
		story := func() []string {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(told)
		}
		tell := func(what string, r bridge.Record) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, what+" "+r.Backend)
		}
		opening := make(chan struct{})
		a := spec.StartBackend(spec.CloseAfterAccept)
		r := startRig(rigOptions{bridge: func(o *bridge.Options) {
			o.Opened = func(r bridge.Record) {
				<-opening
				tell("opened", r)
			}
			o.Records = func(r bridge.Record) { tell("ended", r) }
			o.Resolve = func(context.Context, string) ([]string, error) { return []string{a.Addr()}, nil }
		}})
		spec.ExpectReset(spec.DialFront(r.addr))
		Eventually(story).Should(Equal([]string{"ended "}), "a client that is refused has no session")

		// By a name, so that a goroutine opens the session, and can be slower than its end.
		r.activate("a", "a.test:1")
		client := spec.DialFront(r.addr)
		spec.ExpectEOF(client)
		Expect(client.Close()).To(Succeed())
		const briefly = 50 * time.Millisecond
		Consistently(story, briefly).Should(HaveLen(1))
		close(opening)
		Eventually(story).Should(Equal([]string{"ended ", "opened a", "ended a"}))
	})

	It("is ended alone by its ID", func() {
		a := spec.StartBackend(spec.Named("a"))
		r := startRig(rigOptions{})
		r.activate("a", a.Addr())
		one, two := spec.DialFront(r.addr), spec.DialFront(r.addr)
		Expect(spec.ReadLine(one)).To(Equal("a"))
		Expect(spec.ReadLine(two)).To(Equal("a"))
		for _, s := range r.bridge.Sessions() {
			if s.Client == one.LocalAddr().String() {
				Expect(r.bridge.EndSession(s.ID)).To(Succeed())
				Expect(r.bridge.EndSession(s.ID)).To(MatchError(bridge.ErrUnknownSession))
			}
		}
		spec.ExpectReset(one)
		spec.SayHello(two)
		// The record is made after the reset.
		Eventually(r.reasons).Should(ConsistOf(bridge.Killed))
	})

	Context("when the backend cannot be reached", func() {
		It("closes the client at once after a refusal, and tells the monitor (T17)", func() {
			r := startRig(rigOptions{})
			r.activate("a", spec.RefusedAddr())
			spec.ExpectReset(spec.DialFront(r.addr))
			Eventually(r.reasons).Should(ConsistOf(bridge.DialFailed))
			Expect(r.hinted()).To(ConsistOf(And(HaveField("Backend", "a"), HaveField("Refused", true))))
		})

		It("does not blame the backend for a shortage of ours", func() {
			r := startRig(rigOptions{dial: func(context.Context, string, string) (net.Conn, error) {
				return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.EMFILE}
			}})
			r.activate("a", "127.0.0.1:1")
			spec.ExpectReset(spec.DialFront(r.addr))
			Eventually(r.reasons).Should(ConsistOf(bridge.DialFailed))
			Expect(r.hinted()).To(BeEmpty())
		})

		It("gives up a dial that nobody answers after the dial timeout (T18)", func() {
			r := startRig(rigOptions{
				host:     func(o *bridge.HostOptions) { o.DialTimeout = 50 * time.Millisecond },
				listener: func(o *bridge.ListenerOptions) { o.Sessions = bridge.NewBudget(1) },
			})
			r.activate("a", spec.SilentAddr())
			spec.ExpectReset(spec.DialFront(r.addr))
			Eventually(r.reasons).Should(ConsistOf(bridge.DialFailed))
			Expect(r.hinted()).To(ConsistOf(And(HaveField("Refused", false), HaveField("Detail", ContainSubstring("timed out")))))
			Eventually(func() []bridge.Reason {
				spec.ExpectReset(spec.DialFront(r.addr))
				return r.reasons()
			}).Should(ContainElements(bridge.DialFailed, bridge.DialFailed), "its place is free again")
		})

		It("bridges to one that accepts and hangs, and severs it (T19)", func() {
			a := spec.StartBackend(spec.Hang)
			r := startRig(rigOptions{})
			r.activate("a", a.Addr())
			client := spec.DialFront(r.addr)
			Eventually(r.open).Should(Equal(1))
			r.activate("", "")
			spec.ExpectReset(client)
		})
	})

	Context("when the backend ends sessions", func() {
		It("hints after a burst of orderly ends, as of a server that was killed", func() {
			a := spec.StartBackend(spec.Named("a"))
			r := startRig(rigOptions{})
			r.activate("a", a.Addr())
			for range 10 {
				Expect(spec.ReadLine(spec.DialFront(r.addr))).To(Equal("a"))
			}
			a.CloseAll()
			Eventually(r.hinted).ShouldNot(BeEmpty())
			Expect(r.hinted()[0]).To(And(HaveField("Backend", "a"), HaveField("Refused", false)))
		})

		It("hints after a reset", func() {
			a := spec.StartBackend(spec.Named("a"))
			r := startRig(rigOptions{})
			r.activate("a", a.Addr())
			for range 5 {
				Expect(spec.ReadLine(spec.DialFront(r.addr))).To(Equal("a"))
			}
			lost := a.Conns()[0]
			lost.SetLinger(0)
			lost.Close()
			Eventually(r.hinted).ShouldNot(BeEmpty())
		})

		It("does not hint when clients leave", func() {
			a := spec.StartBackend(spec.Named("a"))
			r := startRig(rigOptions{})
			r.activate("a", a.Addr())
			for range 10 {
				Expect(spec.Ask(r.addr)).To(Equal("a"))
			}
			Eventually(r.reasons).Should(HaveLen(10))
			Expect(r.hinted()).To(BeEmpty())
		})
	})
})
