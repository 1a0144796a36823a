package relay_test

import (
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/bridge/relay"
)

var errSevered = errors.New("severed")

var _ = withEngines(func(newEngine maker) {
	Describe("a set", func() {
		var (
			engine relay.Engine
			set    relay.Set
		)
		BeforeEach(func() {
			expectNoLeaks()
			engine = newEngine(relay.Options{})
			set = engine.NewSet()
		})

		It("severs a thousand sessions in one End", func() {
			const sessions = 1000
			var done atomic.Int32
			var links []*link
			DeferCleanup(func() {
				for _, l := range links {
					l.close()
				}
			})
			for range sessions {
				l, p := connect(GinkgoTB(), engine)
				links = append(links, l)
				p.Owner.(*owner).done = func(o relay.Outcome) {
					if o.Err == errSevered && o.First == relay.Neither {
						done.Add(1)
					}
				}
				_, err := set.Open(p)
				Expect(err).NotTo(HaveOccurred())
			}
			Expect(set.Len()).To(Equal(sessions))
			Expect(set.Sessions()).To(HaveLen(sessions))
			Expect(set.End(errSevered)).To(Equal(sessions))
			Expect(done.Load()).To(BeEquivalentTo(sessions))
			Expect(set.Len()).To(BeZero())
			Expect(set.Sessions()).To(BeEmpty())
			one := make([]byte, 1)
			for _, l := range links {
				for _, c := range []net.Conn{l.client, l.backend} {
					_, err := c.Read(one)
					Expect(err).To(MatchError(syscall.ECONNRESET))
				}
			}
			Expect(set.End(errors.New("again"))).To(BeZero())
		})

		It("resets both sides of a session, however soon after its beginning it is ended", func() {
			for range 300 {
				l, p := connect(GinkgoTB(), engine)
				DeferCleanup(l.close)
				session, err := set.Open(p)
				Expect(err).NotTo(HaveOccurred())
				Expect(session.End(errSevered)).To(Succeed())
				for _, c := range []net.Conn{l.client, l.backend} {
					Expect(c.SetReadDeadline(time.Now().Add(soon))).To(Succeed())
					_, err := c.Read(make([]byte, 1))
					Expect(err).To(MatchError(syscall.ECONNRESET))
				}
			}
		})

		It("ends a session whose write has long been blocked (T8)", func() {
			l := plug(GinkgoTB(), engine, set, nil)
			floodUntilBlocked(l.backend)
			begun := time.Now()
			Expect(set.End(errSevered)).To(Equal(1))
			Expect(time.Since(begun)).To(BeNumerically("<", time.Second))
			Expect(l.outcome).To(Receive(HaveField("Err", errSevered)))
			// What the engine had queued for the client is gone, and what had arrived
			// there is followed by a reset.
			Eventually(receive(l.client), soon).Should(Receive(HaveField("Err", MatchError(syscall.ECONNRESET))))
		})

		It("stops in the middle of splicing a gigabyte (T9)", func() {
			engine := newEngine(relay.Options{SpliceAfter: 1})
			set := engine.NewSet()
			l := plug(GinkgoTB(), engine, set, nil)
			const size = 1 << 30
			go func() { _, _ = io.CopyN(onlyWrite{l.backend}, noise(1), size) }()
			h := sha256.New()
			const head = 64 << 20
			n, err := io.CopyN(h, l.client, head)
			Expect(err).NotTo(HaveOccurred())
			begun := time.Now()
			Expect(set.End(errSevered)).To(Equal(1))
			Expect(time.Since(begun)).To(BeNumerically("<", time.Second))
			var o relay.Outcome
			Expect(l.outcome).To(Receive(&o))
			Expect(o.ToClient).To(And(BeNumerically(">=", n), BeNumerically("<", size)))
			rest, err := io.Copy(h, l.client)
			Expect(err).To(MatchError(syscall.ECONNRESET))
			Expect(h.Sum(nil)).To(Equal(sum(noise(1), n+rest)))
		})

		It("leaves no session that an Open racing with End has made", func() {
			for range 30 {
				set := engine.NewSet()
				const openers = 4
				var all sync.WaitGroup
				var opened, done atomic.Int32
				for range openers {
					_, p := prepare(GinkgoTB(), engine)
					p.Owner.(*owner).done = func(relay.Outcome) { done.Add(1) }
					all.Go(func() {
						defer GinkgoRecover()
						_, err := set.Open(p)
						if err == nil {
							opened.Add(1)
							return
						}
						Expect(err).To(Equal(errSevered))
						// Refused, so the sockets are still ours.
						Expect(p.Client.Reset()).To(Succeed())
						Expect(p.Backend.Reset()).To(Succeed())
					})
				}
				ended := set.End(errSevered)
				Expect(set.Len()).To(BeZero())
				finished := done.Load()
				all.Wait()
				Expect(finished).To(BeEquivalentTo(ended))
				Expect(opened.Load()).To(BeEquivalentTo(ended))
				Expect(done.Load()).To(BeEquivalentTo(ended))
			}
		})

		It("waits for members that are just ending by themselves", func() {
			for range 20 {
				set := engine.NewSet()
				var done atomic.Int32
				const sessions = 8
				for range sessions {
					l := plug(GinkgoTB(), engine, set, func(p *relay.Pair) {
						p.Owner.(*owner).done = func(relay.Outcome) { done.Add(1) }
					})
					go func() { _ = l.client.Close(); _ = l.backend.Close() }()
				}
				Expect(set.End(errSevered)).To(BeNumerically("<=", sessions))
				Expect(done.Load()).To(BeEquivalentTo(sessions))
				Expect(set.Len()).To(BeZero())
			}
		})

		It("refuses and admits again, but not after it has ended", func() {
			paused := errors.New("paused")
			set.Refuse(paused)
			l, p := prepare(GinkgoTB(), engine)
			_, err := set.Open(p)
			Expect(err).To(Equal(paused))
			set.Refuse(nil)
			s, err := set.Open(p)
			Expect(err).NotTo(HaveOccurred())
			Expect(s.Owner()).To(BeIdenticalTo(p.Owner))
			Expect(set.Sessions()).To(ConsistOf(s))
			set.End(nil)
			Expect(l.outcome).To(Receive(HaveField("Err", relay.ErrEnded)))
			set.Refuse(nil)
			_, p = prepare(GinkgoTB(), engine)
			_, err = set.Open(p)
			Expect(err).To(Equal(relay.ErrEnded))
			Expect(p.Client.Close()).To(Succeed())
			Expect(p.Backend.Close()).To(Succeed())
		})

		It("ends only the session whose HalfClosed panics (T33)", func() {
			other := plug(GinkgoTB(), engine, set, nil)
			l := plug(GinkgoTB(), engine, set, func(p *relay.Pair) {
				p.Owner.(*owner).halfClosed = func(relay.Side) { panic("a bug") }
			})
			Expect(l.client.CloseWrite()).To(Succeed())
			var o relay.Outcome
			Eventually(l.outcome, soon).Should(Receive(&o))
			Expect(o.Err).To(MatchError(relay.ErrPanic))
			Expect(o.Err).To(MatchError(And(ContainSubstring("a bug"), ContainSubstring("sets_test.go"))))
			_, err := l.client.Read(make([]byte, 1))
			Expect(err).To(MatchError(syscall.ECONNRESET))
			send(other.client, "alive")
			expect(other.backend, "alive")
		})

		It("loses one session to Session.End and keeps the others", func() {
			a, b := plug(GinkgoTB(), engine, set, nil), plug(GinkgoTB(), engine, set, nil)
			Expect(a.session.End(errSevered)).To(Succeed())
			Expect(a.session.End(errSevered)).To(MatchError(relay.ErrEnded))
			_, err := a.client.Read(make([]byte, 1))
			Expect(err).To(MatchError(syscall.ECONNRESET))
			Eventually(a.outcome, soon).Should(Receive(Equal(relay.Outcome{Err: errSevered})))
			Expect(set.Sessions()).To(ConsistOf(b.session))
			send(b.client, "still here")
			expect(b.backend, "still here")
		})

		It("is ended by the engine's Close, and so is one made later", func() {
			other := engine.NewSet()
			a, b := plug(GinkgoTB(), engine, set, nil), plug(GinkgoTB(), engine, other, nil)
			Expect(engine.Close()).To(Succeed())
			Expect(a.outcome).To(Receive(HaveField("Err", relay.ErrEngineClosed)))
			Expect(b.outcome).To(Receive(HaveField("Err", relay.ErrEngineClosed)))
			_, p := prepare(GinkgoTB(), engine)
			_, err := engine.NewSet().Open(p)
			Expect(err).To(Equal(relay.ErrEngineClosed))
			Expect(p.Client.Reset()).To(Succeed())
			Expect(p.Backend.Reset()).To(Succeed())
		})
	})
})

var _ = withEngines(func(newEngine maker) {
	Describe("a limit", func() {
		var (
			engine relay.Engine
			set    relay.Set
		)
		BeforeEach(func() {
			expectNoLeaks()
			engine = newEngine(relay.Options{})
			set = engine.NewSet()
		})
		const limit = 300 * time.Millisecond

		It("ends a session that was silent so long, and none sooner", func() {
			begun := time.Now()
			l := plug(GinkgoTB(), engine, set, func(p *relay.Pair) { p.Limits.Idle = limit })
			for range 20 {
				send(l.client, "tick")
				expect(l.backend, "tick")
				Consistently(l.outcome, limit/15).ShouldNot(Receive())
			}
			Expect(time.Since(begun)).To(BeNumerically(">", limit), "the session was kept alive by its bytes")
			send(l.backend, "last")
			last := time.Now()
			expect(l.client, "last")
			Eventually(l.outcome, soon).Should(Receive(Equal(relay.Outcome{
				ToBackend: 80, ToClient: 4, Err: relay.ErrIdle,
			})))
			Expect(time.Since(last)).To(BeNumerically("~", limit+limit/4, limit/4))
			_, err := l.client.Read(make([]byte, 1))
			Expect(err).To(MatchError(syscall.ECONNRESET))
		})

		It("takes a window that stays shut for silence (T7)", func() {
			l := plug(GinkgoTB(), engine, set, func(p *relay.Pair) { p.Limits.Idle = limit })
			go func() { _ = flood(l.backend) }()
			var o relay.Outcome
			Eventually(l.outcome, soon).Should(Receive(&o))
			Expect(o.Err).To(Equal(relay.ErrIdle))
			Expect(o.ToClient).To(BeNumerically(">", 0))
		})

		It("bounds what is left after one side has ended", func() {
			l := plug(GinkgoTB(), engine, set, func(p *relay.Pair) { p.Limits.HalfClose = limit })
			Consistently(l.outcome, limit+limit/2).ShouldNot(Receive(), "nothing has ended yet")
			Expect(l.client.CloseWrite()).To(Succeed())
			begun := time.Now()
			for range 20 {
				send(l.backend, "tick")
				Consistently(l.outcome, limit/15).ShouldNot(Receive())
			}
			Expect(time.Since(begun)).To(BeNumerically(">", limit))
			Eventually(l.outcome, soon).Should(Receive(Equal(relay.Outcome{ToClient: 80, Err: relay.ErrHalfClose})))
			Expect(time.Since(begun)).To(BeNumerically(">", 2*limit))
		})
	})
})

var _ = withEngines(func(newEngine maker) {
	It("keeps a listener's errors and leaves its sessions alone when it is closed under load (T26)", func() {
		expectNoLeaks()
		engine := newEngine(relay.Options{})
		set := engine.NewSet()
		front, err := engine.Listen(GinkgoT().Context(), "127.0.0.1:0")
		Expect(err).NotTo(HaveOccurred())
		established := plug(GinkgoTB(), engine, set, nil)
		var clients sync.WaitGroup
		stop := make(chan struct{})
		for range 4 {
			clients.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					if c, err := net.Dial("tcp", front.Addr().String()); err == nil {
						_ = c.(*net.TCPConn).SetLinger(0)
						_ = c.Close()
					}
				}
			})
		}
		accepted := make(chan error, 1)
		served := make(chan struct{}, 1)
		go func() {
			for {
				c, err := front.Accept()
				if err != nil {
					accepted <- err
					return
				}
				_ = c.Reset()
				select {
				case served <- struct{}{}:
				default:
				}
			}
		}()
		for range 100 {
			Eventually(served, soon).Should(Receive())
		}
		Expect(front.Close()).To(Succeed())
		Eventually(accepted, soon).Should(Receive(MatchError(net.ErrClosed)))
		close(stop)
		clients.Wait()
		send(established.client, "alive")
		expect(established.backend, "alive")
	})
})
