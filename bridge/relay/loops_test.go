package relay_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/bridge/relay"
)

var _ = Describe("Loops", func() {
	const little = 50 * time.Millisecond
	var (
		engine *relay.Loops
		set    relay.Set
	)
	BeforeEach(func() {
		expectNoLeaks()
		engine = relay.NewLoops(relay.Options{})
		DeferCleanup(engine.Close)
		set = engine.NewSet()
	})

	It("is what New makes", func() {
		made := relay.New(relay.Options{})
		DeferCleanup(made.Close)
		Expect(made).To(BeAssignableToTypeOf(engine))
		Expect(made.ForRequests()).To(BeAssignableToTypeOf(&relay.Portable{}))
	})

	Describe("a set", func() {
		// all opens a session of every kind of pair.
		all := func() []*link {
			other := engine.ForRequests()
			links := []*link{plug(GinkgoTB(), engine, set, nil), plug(GinkgoTB(), other, set, nil)}
			// The client of one engine, the backend of the other.
			a, p := prepare(GinkgoTB(), engine)
			b, q := prepare(GinkgoTB(), other)
			Expect(q.Client.Reset()).To(Succeed())
			Expect(p.Backend.Reset()).To(Succeed())
			q.Client = p.Client
			s, err := set.Open(q)
			Expect(err).NotTo(HaveOccurred())
			return append(links, &link{client: a.client, backend: b.backend, session: s, outcome: b.outcome})
		}

		It("relays pairs of either engine, and of both", func() {
			links := all()
			Expect(set.Len()).To(Equal(3))
			Expect(set.Sessions()).To(ConsistOf(BeIdenticalTo(links[0].session), BeIdenticalTo(links[1].session), BeIdenticalTo(links[2].session)))
			for _, l := range links {
				send(l.client, "question")
				expect(l.backend, "question")
				send(l.backend, "answer")
				expect(l.client, "answer")
				Expect(l.client.CloseWrite()).To(Succeed())
				Eventually(receive(l.backend), soon).Should(Receive(Equal(received{Data: []byte{}})))
				Expect(l.backend.Close()).To(Succeed())
				Eventually(l.outcome, soon).Should(Receive(Equal(relay.Outcome{ToBackend: 8, ToClient: 6, First: relay.Client})))
			}
			Expect(set.Len()).To(BeZero())
		})

		It("severs all of them in one End, and refuses both kinds then", func() {
			links := all()
			Expect(set.End(errSevered)).To(Equal(3))
			for _, l := range links {
				Expect(l.outcome).To(Receive(HaveField("Err", errSevered)))
				for _, c := range []net.Conn{l.client, l.backend} {
					_, err := c.Read(make([]byte, 1))
					Expect(err).To(MatchError(syscall.ECONNRESET))
				}
			}
			for _, e := range []relay.Engine{engine, engine.ForRequests()} {
				_, p := prepare(GinkgoTB(), e)
				_, err := set.Open(p)
				Expect(err).To(Equal(errSevered))
				Expect(p.Client.Reset()).To(Succeed())
				Expect(p.Backend.Reset()).To(Succeed())
			}
		})

		It("refuses both kinds and admits them again", func() {
			paused := errors.New("paused")
			all()
			set.Refuse(paused)
			for _, e := range []relay.Engine{engine, engine.ForRequests()} {
				_, p := prepare(GinkgoTB(), e)
				_, err := set.Open(p)
				Expect(err).To(Equal(paused))
				set.Refuse(nil)
				_, err = set.Open(p)
				Expect(err).NotTo(HaveOccurred())
				set.Refuse(paused)
			}
			Expect(set.Len()).To(Equal(5))
		})
	})

	Describe("Start", func() {
		type result struct {
			Session relay.Session
			Err     error
		}
		var (
			client *net.TCPConn
			conn   relay.Conn
			pair   relay.Pair
			opened chan result
			ended  chan relay.Outcome
		)
		BeforeEach(func() {
			front, err := engine.Listen(context.Background(), "127.0.0.1:0")
			Expect(err).NotTo(HaveOccurred())
			defer front.Close()
			c, err := net.Dial("tcp", front.Addr().String())
			Expect(err).NotTo(HaveOccurred())
			client = c.(*net.TCPConn)
			conn, err = front.Accept()
			Expect(err).NotTo(HaveOccurred())
			DeferCleanup(func() { _ = client.Close(); _ = conn.Close() })
			ended = make(chan relay.Outcome, 1)
			pair = relay.Pair{
				Client: conn, ToBackend: []byte("first "), ToClient: []byte("hello "),
				Owner: &owner{done: func(o relay.Outcome) { ended <- o }},
			}
			opened = make(chan result, 1)
		})
		start := func(to string, within time.Duration) error {
			return set.(relay.Starter).Start(pair, netip.MustParseAddrPort(to), within, func(s relay.Session, err error) {
				opened <- result{s, err}
			})
		}
		// stillOurs expects that nothing has become of the client.
		stillOurs := func() {
			GinkgoHelper()
			send(client, "still here")
			expect(conn, "still here")
			Expect(set.Len()).To(BeZero())
			Expect(ended).NotTo(Receive())
		}

		It("dials, and opens a session", func() {
			back, err := net.Listen("tcp", "127.0.0.1:0")
			Expect(err).NotTo(HaveOccurred())
			DeferCleanup(back.Close)
			send(client, "question")
			Expect(start(back.Addr().String(), soon)).To(Succeed())
			backend, err := back.Accept()
			Expect(err).NotTo(HaveOccurred())
			DeferCleanup(backend.Close)
			var r result
			Eventually(opened, soon).Should(Receive(&r))
			Expect(r.Err).NotTo(HaveOccurred())
			Expect(r.Session.Owner()).To(BeIdenticalTo(pair.Owner))
			Expect(set.Sessions()).To(ConsistOf(r.Session))
			expect(backend, "first question")
			send(backend, "answer")
			expect(client, "hello answer")
			_, err = conn.Read(make([]byte, 1))
			Expect(err).To(MatchError(net.ErrClosed), "the session has it")
			Expect(set.End(errSevered)).To(Equal(1))
			Expect(ended).To(Receive(Equal(relay.Outcome{ToBackend: 14, ToClient: 12, Err: errSevered})))
		})

		It("leaves the client to its owner when the backend refuses", func() {
			back, err := net.Listen("tcp", "127.0.0.1:0")
			Expect(err).NotTo(HaveOccurred())
			Expect(back.Close()).To(Succeed())
			Expect(start(back.Addr().String(), soon)).To(Succeed())
			Eventually(opened, soon).Should(Receive(HaveField("Err", MatchError(syscall.ECONNREFUSED))))
			stillOurs()
		})

		It("gives up when it takes too long", func() {
			begun := time.Now()
			Expect(start(blackHole(), 100*time.Millisecond)).To(Succeed())
			Eventually(opened, soon).Should(Receive(HaveField("Err", MatchError(os.ErrDeadlineExceeded))))
			Expect(time.Since(begun)).To(BeNumerically(">=", 100*time.Millisecond))
			stillOurs()
		})

		It("is ended by End while it dials, which does not count it and waits for it", func() {
			Expect(start(blackHole(), soon)).To(Succeed())
			Consistently(opened, little).ShouldNot(Receive())
			Expect(set.Len()).To(BeZero())
			Expect(set.Sessions()).To(BeEmpty())
			Expect(set.End(errSevered)).To(BeZero())
			Expect(opened).To(Receive(HaveField("Err", errSevered)))
			stillOurs()
			Expect(start("127.0.0.1:1", soon)).To(Equal(errSevered))
		})

		It("makes no session of a client that was closed meanwhile", func() {
			Expect(conn.Close()).To(Succeed())
			back, err := net.Listen("tcp", "127.0.0.1:0")
			Expect(err).NotTo(HaveOccurred())
			DeferCleanup(back.Close)
			Expect(start(back.Addr().String(), soon)).To(Succeed())
			Eventually(opened, soon).Should(Receive(HaveField("Err", MatchError(net.ErrClosed))))
			Expect(set.Len()).To(BeZero())
		})

		It("does not take what is no socket of its own", func() {
			near, far := net.Pipe()
			DeferCleanup(far.Close)
			pair.Client = engine.Adopt(near)
			Expect(start("127.0.0.1:1", soon)).To(Equal(relay.ErrStarter))
			Expect(pair.Client.Close()).To(Succeed())
		})
	})

	Describe("Serve", func() {
		var (
			front  relay.Server
			served chan error
		)
		BeforeEach(func() {
			l, err := engine.Listen(context.Background(), "127.0.0.1:0")
			Expect(err).NotTo(HaveOccurred())
			front, served = l.(relay.Server), make(chan error, 1)
			DeferCleanup(func() { _ = front.Close() })
		})
		serve := func(accepted func(relay.Conn)) {
			front, served := front, served
			go func() { served <- front.Serve(accepted) }()
		}

		It("hands over every connection, until the listener is closed", func() {
			const connections = 100
			var count atomic.Int64
			serve(func(c relay.Conn) {
				count.Add(1)
				_ = c.Reset()
			})
			for range connections {
				c, err := net.Dial("tcp", front.Addr().String())
				if err == nil {
					_, err = c.Read(make([]byte, 1))
					_ = c.Close()
				}
				Expect(err).To(MatchError(syscall.ECONNRESET))
			}
			Expect(count.Load()).To(BeEquivalentTo(connections))
			Expect(front.Close()).To(Succeed())
			Eventually(served, soon).Should(Receive(MatchError(net.ErrClosed)))
			Expect(front.Serve(nil)).To(MatchError(net.ErrClosed))
			_, err := front.Accept()
			Expect(err).To(MatchError(net.ErrClosed))
		})

		It("returns what kept it from accepting, and goes on when it is called again", func() {
			c, err := net.Dial("tcp", front.Addr().String())
			Expect(err).NotTo(HaveOccurred())
			DeferCleanup(c.Close)
			// The loops begin, so that it is the connection that there is no descriptor for.
			first := plug(GinkgoTB(), engine, set, nil)
			var limit syscall.Rlimit
			Expect(syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit)).To(Succeed())
			restore := func() error { return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit) }
			DeferCleanup(restore)
			Expect(syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 3, Max: limit.Max})).To(Succeed())
			serve(func(c relay.Conn) { _ = c.Reset() })
			Eventually(served, soon).Should(Receive(MatchError(syscall.EMFILE)))
			Expect(restore()).To(Succeed())
			serve(func(c relay.Conn) { _ = c.Reset() })
			_, err = c.Read(make([]byte, 1))
			Expect(err).To(MatchError(syscall.ECONNRESET))
			send(first.client, "alive")
			expect(first.backend, "alive")
		})

		It("is ended by the engine's Close", func() {
			serve(func(relay.Conn) {})
			Consistently(served, little).ShouldNot(Receive())
			Expect(engine.Close()).To(Succeed())
			Eventually(served, soon).Should(Receive(MatchError(relay.ErrEngineClosed)))
		})
	})

	It("wakes whoever waits for a Conn when the engine is closed", func() {
		peer, accepted := tcpPair(GinkgoTB())
		conn := engine.Adopt(accepted)
		DeferCleanup(conn.Close)
		reading := make(chan error, 1)
		go func() {
			_, err := conn.Read(make([]byte, 1))
			reading <- err
		}()
		Consistently(reading, little).ShouldNot(Receive())
		Expect(engine.Close()).To(Succeed())
		Eventually(reading, soon).Should(Receive(Equal(relay.ErrEngineClosed)))
		send(peer, "x")
		Eventually(func() error {
			_, err := conn.Read(make([]byte, 1))
			return err
		}, soon).Should(Succeed(), "what is there can be read")
	})

	It("takes the socket out of a connection that it adopts", func() {
		peer, accepted := tcpPair(GinkgoTB())
		conn := engine.Adopt(accepted)
		DeferCleanup(conn.Close)
		_, err := accepted.Write([]byte("x"))
		Expect(err).To(MatchError(net.ErrClosed))
		send(conn, "ours")
		expect(peer, "ours")
		Expect(conn.RemoteAddr().String()).To(Equal(peer.LocalAddr().String()))
		Expect(conn.LocalAddr().String()).To(Equal(peer.RemoteAddr().String()))
		Expect(engine.Adopt(conn)).To(BeIdenticalTo(conn))
		_, err = io.WriteString(conn, "")
		Expect(err).NotTo(HaveOccurred())
	})
})
