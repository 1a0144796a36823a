package relay_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/bridge/relay"
)

// await runs AwaitGone in a goroutine of its own.
func await(ctx context.Context, c relay.Conn) <-chan error {
	gone := make(chan error, 1)
	go func() { gone <- c.AwaitGone(ctx) }()
	return gone
}

var _ = withEngines(func(newEngine maker) {
	Describe("AwaitGone", func() {
		const little = 50 * time.Millisecond
		var (
			peer *net.TCPConn
			conn relay.Conn
			ctx  context.Context
			end  context.CancelCauseFunc
		)
		BeforeEach(func() {
			expectNoLeaks()
			var accepted *net.TCPConn
			peer, accepted = tcpPair(GinkgoTB())
			conn = newEngine(relay.Options{}).Adopt(accepted)
			DeferCleanup(func() { _ = conn.Close() })
			ctx, end = context.WithCancelCause(context.Background())
			DeferCleanup(func() { end(nil) })
		})

		It("returns when the peer closes", func() {
			gone := await(ctx, conn)
			Consistently(gone, little).ShouldNot(Receive())
			Expect(peer.Close()).To(Succeed())
			Eventually(gone, soon).Should(Receive(BeNil()))
		})

		It("returns when the peer had closed before", func() {
			Expect(peer.Close()).To(Succeed())
			Eventually(await(ctx, conn), soon).Should(Receive(BeNil()))
		})

		It("returns when the peer resets, whatever it has sent", func() {
			send(peer, "hello")
			gone := await(ctx, conn)
			Consistently(gone, little).ShouldNot(Receive())
			resetBy(peer)
			Eventually(gone, soon).Should(Receive(BeNil()))
		})

		It("waits for a peer that has sent something and half-closed, and leaves what it sent", func() {
			gone := await(ctx, conn)
			send(peer, "question")
			Expect(peer.CloseWrite()).To(Succeed())
			Consistently(gone, little).ShouldNot(Receive())
			end(errSevered)
			Eventually(gone, soon).Should(Receive(Equal(errSevered)))
			Expect(io.ReadAll(conn)).To(BeEquivalentTo("question"))
			send(conn, "answer")
			expect(peer, "answer")
		})

		It("returns the context's cause and leaves the Conn as it was", func() {
			for range 50 {
				ctx, end := context.WithCancelCause(context.Background())
				gone := await(ctx, conn)
				go end(errSevered)
				Eventually(gone, soon).Should(Receive(Equal(errSevered)))
				send(peer, "more")
				expect(conn, "more")
			}
			Expect(conn.AwaitGone(canceled())).To(Equal(context.Canceled))
		})

		It("leaves no deadline behind when the peer goes as the context ends", func() {
			for range 50 {
				peer, accepted := tcpPair(GinkgoTB())
				conn := newEngine(relay.Options{}).Adopt(accepted)
				DeferCleanup(conn.Close)
				ctx, end := context.WithCancelCause(context.Background())
				gone := await(ctx, conn)
				go end(errSevered)
				Expect(peer.CloseWrite()).To(Succeed())
				Eventually(gone, soon).Should(Receive(Or(BeNil(), Equal(errSevered))))
				_, err := conn.Read(make([]byte, 1))
				Expect(err).To(Equal(io.EOF))
			}
		})

		It("returns when the Conn is closed", func() {
			gone := await(ctx, conn)
			Consistently(gone, little).ShouldNot(Receive())
			Expect(conn.Close()).To(Succeed())
			Eventually(gone, soon).Should(Receive(MatchError(net.ErrClosed)))
		})

		It("waits for its context if the Conn is no socket", func() {
			near, far := net.Pipe()
			conn := newEngine(relay.Options{}).Adopt(near)
			gone := await(ctx, conn)
			Expect(far.Close()).To(Succeed())
			Consistently(gone, little).ShouldNot(Receive())
			end(errSevered)
			Eventually(gone, soon).Should(Receive(Equal(errSevered)))
			Expect(conn.Reset()).To(Succeed())
		})
	})
})

func canceled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

var _ = withEngines(func(newEngine maker) {
	Describe("dialing", func() {
		BeforeEach(expectNoLeaks)

		It("says what the system said", func() {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			Expect(err).NotTo(HaveOccurred())
			address := l.Addr().String()
			Expect(l.Close()).To(Succeed())
			_, err = newEngine(relay.Options{}).Dial(context.Background(), address)
			Expect(err).To(MatchError(syscall.ECONNREFUSED))
		})

		It("says why the context ended", func() {
			// The backlog of this listener is full, so that a SYN to it is not answered.
			address := blackHole()
			ctx, cancel := context.WithCancelCause(context.Background())
			engine := newEngine(relay.Options{})
			dialed := make(chan error, 1)
			go func() {
				_, err := engine.Dial(ctx, address)
				dialed <- err
			}()
			Consistently(dialed, 50*time.Millisecond).ShouldNot(Receive())
			cancel(errSevered)
			Eventually(dialed, soon).Should(Receive(MatchError(errSevered)))

			late := errors.New("too late")
			timed, stop := context.WithTimeoutCause(context.Background(), 30*time.Millisecond, late)
			defer stop()
			_, err := engine.Dial(timed, address)
			Expect(err).To(MatchError(late))
		})

		It("uses the Dial it was given", func() {
			near, far := net.Pipe()
			engine := newEngine(relay.Options{
				Dial: func(_ context.Context, network, address string) (net.Conn, error) {
					Expect([]string{network, address}).To(Equal([]string{"tcp", "192.0.2.1:1"}))
					return near, nil
				},
			})
			c, err := engine.Dial(context.Background(), "192.0.2.1:1")
			Expect(err).NotTo(HaveOccurred())
			go func() { _, _ = io.WriteString(far, "hi") }()
			expect(c, "hi")
			Expect(c.Reset()).To(Succeed())
			_, err = far.Read(make([]byte, 1))
			Expect(err).To(Equal(io.EOF))
		})
	})
})

// blackHole returns an address whose listener has its queue full.
func blackHole() string {
	GinkgoHelper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { _ = syscall.Close(fd) })
	Expect(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})).To(Succeed())
	Expect(syscall.Listen(fd, 0)).To(Succeed())
	name, err := syscall.Getsockname(fd)
	Expect(err).NotTo(HaveOccurred())
	address := (&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: name.(*syscall.SockaddrInet4).Port}).String()
	for range 8 {
		c, err := net.DialTimeout("tcp", address, 50*time.Millisecond)
		if err != nil {
			return address
		}
		DeferCleanup(c.Close)
	}
	Skip("the queue of a listener does not fill on this kernel")
	return ""
}

// wrapped hides what kind of connection it is; with halfClose it can be
// half-closed.
type wrapped struct{ net.Conn }

type halfClose struct{ wrapped }

func (h halfClose) CloseWrite() error { return h.Conn.(*net.TCPConn).CloseWrite() }

type panics struct{ net.Conn }

func (panics) Read([]byte) (int, error) { panic("a bug") }

var _ = withEngines(func(newEngine maker) {
	Describe("an adopted connection that is not a TCP socket", func() {
		var (
			engine relay.Engine
			set    relay.Set
		)
		BeforeEach(func() {
			expectNoLeaks()
			engine = newEngine(relay.Options{SpliceAfter: 1})
			set = engine.NewSet()
		})
		// plugPipe puts the near end of a pipe in the client's place.
		plugPipe := func(wrap func(net.Conn) net.Conn) (net.Conn, *link) {
			near, far := net.Pipe()
			DeferCleanup(far.Close)
			return far, plug(GinkgoTB(), engine, set, func(p *relay.Pair) {
				_ = p.Client.Close()
				p.Client = engine.Adopt(wrap(near))
			})
		}
		plain := func(c net.Conn) net.Conn { return c }

		It("is relayed both ways", func() {
			client, l := plugPipe(plain)
			const size = 4 << 20
			go func() { _, _ = io.CopyN(client, noise(1), size) }()
			Expect(sum(l.backend, size)).To(Equal(sum(noise(1), size)))
			go func() { _, _ = io.CopyN(l.backend, noise(2), size) }()
			Expect(sum(client, size)).To(Equal(sum(noise(2), size)))
			Expect(client.Close()).To(Succeed())
			_, err := l.backend.Read(make([]byte, 1))
			Expect(err).To(Equal(io.EOF))
			Consistently(l.outcome, 50*time.Millisecond).ShouldNot(Receive(), "the backend's side has not ended")
			Expect(l.backend.Close()).To(Succeed())
			Eventually(l.outcome, soon).Should(Receive(Equal(relay.Outcome{
				ToBackend: size, ToClient: size, First: relay.Client,
			})))
		})

		It("ends with the direction towards it if it cannot be half-closed", func() {
			client, l := plugPipe(plain)
			send(l.backend, "")
			go func() { _, _ = io.WriteString(l.backend, "bye"); _ = l.backend.CloseWrite() }()
			Expect(io.ReadAll(client)).To(BeEquivalentTo("bye"))
			Eventually(l.outcome, soon).Should(Receive(Equal(relay.Outcome{ToClient: 3, First: relay.Backend})))
			_, err := l.backend.Read(make([]byte, 1))
			Expect(err).To(Equal(io.EOF))
		})

		It("is half-closed through CloseWrite if it has one", func() {
			peer, accepted := tcpPair(GinkgoTB())
			l := plug(GinkgoTB(), engine, set, func(p *relay.Pair) {
				_ = p.Client.Close()
				p.Client = engine.Adopt(halfClose{wrapped{accepted}})
			})
			send(l.backend, "reply")
			Expect(l.backend.CloseWrite()).To(Succeed())
			Expect(io.ReadAll(peer)).To(BeEquivalentTo("reply"))
			send(peer, "later")
			expect(l.backend, "later")
			Expect(peer.Close()).To(Succeed())
			Eventually(l.outcome, soon).Should(Receive(Equal(relay.Outcome{
				ToBackend: 5, ToClient: 5, First: relay.Backend,
			})))
		})

		It("is closed by End, in the middle of a write as well", func() {
			client, l := plugPipe(plain)
			send(l.backend, "nobody reads this")
			Eventually(func() int64 { // the engine has it
				var one [1]byte
				n, _ := client.Read(one[:])
				return int64(n)
			}, soon).Should(BeEquivalentTo(1))
			Expect(set.End(errSevered)).To(Equal(1))
			Expect(l.outcome).To(Receive(HaveField("Err", errSevered)))
			_, err := l.backend.Read(make([]byte, 1))
			Expect(err).To(MatchError(syscall.ECONNRESET))
		})

		It("ends only its own session by a panic (T33)", func() {
			other := plug(GinkgoTB(), engine, set, nil)
			_, l := plugPipe(func(c net.Conn) net.Conn { return panics{c} })
			var o relay.Outcome
			Eventually(l.outcome, soon).Should(Receive(&o))
			Expect(o.Err).To(MatchError(relay.ErrPanic))
			Expect(o.Err).To(MatchError(And(ContainSubstring("a bug"), ContainSubstring("conns_test.go"))))
			_, err := l.backend.Read(make([]byte, 1))
			Expect(err).To(MatchError(syscall.ECONNRESET))
			send(other.client, "alive")
			expect(other.backend, "alive")
		})

		It("may come from a listener that is not the engine's", func() {
			inner, err := net.Listen("tcp", "127.0.0.1:0")
			Expect(err).NotTo(HaveOccurred())
			l := engine.AdoptListener(inner)
			DeferCleanup(l.Close)
			peer, err := net.Dial("tcp", l.Addr().String())
			Expect(err).NotTo(HaveOccurred())
			DeferCleanup(peer.Close)
			c, err := l.Accept()
			Expect(err).NotTo(HaveOccurred())
			Expect(c.Reset()).To(Succeed())
			_, err = peer.Read(make([]byte, 1))
			Expect(err).To(MatchError(syscall.ECONNRESET))
		})
	})
})

var _ = withEngines(func(newEngine maker) {
	It("does not let a deadline from before the session end it", func() {
		expectNoLeaks()
		engine := newEngine(relay.Options{})
		l := plug(GinkgoTB(), engine, engine.NewSet(), func(p *relay.Pair) {
			Expect(p.Client.SetDeadline(time.Now().Add(-time.Second))).To(Succeed())
			_, err := p.Client.Read(make([]byte, 1))
			Expect(err).To(MatchError(os.ErrDeadlineExceeded))
		})
		send(l.client, "fine")
		expect(l.backend, "fine")
	})
})
