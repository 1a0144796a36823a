package bridge_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pires/go-proxyproto"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/bridge"
	"switchboard/bridge/relay"
	"switchboard/fixtures/spec"
)

// brokenListener fails to accept until it is mended, and then does what a real one
// does.
type brokenListener struct {
	relay.Listener
	failure  error
	failures atomic.Int64
	mended   atomic.Bool
}

func (b *brokenListener) Accept() (relay.Conn, error) {
	if !b.mended.Load() {
		b.failures.Add(1)
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", b.failure)}
	}
	return b.Listener.Accept()
}

var _ = Describe("Listener", func() {
	var (
		a      *spec.Backend
		r      *rig
		engine relay.Engine
	)
	BeforeEach(func() {
		engine = spec.NewEngine(relay.Options{})
		DeferCleanup(engine.Close)
		a = spec.StartBackend(spec.Named("a"))
		r = startRig(rigOptions{})
		r.activate("a", a.Addr())
	})

	breaking := func(failure error) (*brokenListener, func(context.Context, string) (relay.Listener, error)) {
		broken := &brokenListener{failure: failure}
		return broken, func(ctx context.Context, address string) (relay.Listener, error) {
			var err error
			broken.Listener, err = engine.Listen(ctx, address)
			return broken, err
		}
	}

	DescribeTable("waits, without spinning or flooding the log, while the system is short of something (T21)",
		func(failure syscall.Errno) {
			logger, lines := spec.Logs()
			clock := spec.NewClock()
			broken, listen := breaking(failure)
			l := startListener(r, func(o *bridge.ListenerOptions) { o.Listen, o.Log, o.Clock = listen, logger, clock })
			// 20 waits, the last of them of a second each.
			for range 20 {
				Eventually(clock.Waiting).Should(Equal(1))
				clock.Advance(time.Second)
			}
			Eventually(clock.Waiting).Should(Equal(1))
			Expect(broken.failures.Load()).To(BeEquivalentTo(21))
			Expect(lines.Count("cannot accept")).To(BeNumerically("<=", 3))

			broken.mended.Store(true)
			clock.Advance(time.Second)
			Expect(spec.Ask(l.Addr().String())).To(Equal("a"))
		},
		Entry("of descriptors", syscall.EMFILE),
		Entry("of descriptors, all processes together", syscall.ENFILE),
		Entry("of buffers", syscall.ENOBUFS),
		Entry("of memory", syscall.ENOMEM),
	)

	It("goes on after a client that left before it was accepted", func() {
		broken, listen := breaking(syscall.ECONNABORTED)
		go func() {
			for broken.failures.Load() < 3 {
			}
			broken.mended.Store(true)
		}()
		l := startListener(r, func(o *bridge.ListenerOptions) { o.Listen = listen })
		Expect(spec.Ask(l.Addr().String())).To(Equal("a"))
	})

	It("ends with an error when its socket fails", func() {
		_, listen := breaking(syscall.EINVAL)
		l := bridge.NewListener(bridge.ListenerOptions{Name: "front", Bind: "127.0.0.1:0", To: r.host, Listen: listen})
		err := l.Run(make(chan os.Signal), make(chan struct{}))
		Expect(err).To(MatchError(syscall.EINVAL))
		Expect(err).To(MatchError(HavePrefix(`listener "front": accepting: `)))
	})

	It("says which address is in use, and what to do", func() {
		taken := a.Addr()
		l := bridge.NewListener(bridge.ListenerOptions{Name: "front", Bind: taken, To: r.host, Listen: r.bridge.Engine().Listen})
		Expect(l.Addr()).To(BeNil())
		ready := make(chan struct{})
		Expect(l.Run(make(chan os.Signal), ready)).To(MatchError(fmt.Sprintf(
			`listener "front": listening on %s: address already in use: another process has this port; stop it or choose another`, taken)))
		Expect(ready).NotTo(BeClosed())
	})

	It("refuses those beyond its limit, and takes new ones when others have left", func() {
		l := startListener(r, func(o *bridge.ListenerOptions) { o.Sessions = bridge.NewBudget(2) })
		one, two := spec.DialFront(l.Addr().String()), spec.DialFront(l.Addr().String())
		Expect(spec.ReadLine(one)).To(Equal("a"))
		Expect(spec.ReadLine(two)).To(Equal("a"))
		spec.ExpectReset(spec.DialFront(l.Addr().String()))
		Eventually(r.reasons).Should(ConsistOf(bridge.OverLimit))
		one.Close()
		Eventually(r.open).Should(Equal(1))
		Expect(spec.Ask(l.Addr().String())).To(Equal("a"))
	})

	It("shares a limit with other listeners", func() {
		shared := bridge.NewBudget(1)
		limit := func(o *bridge.ListenerOptions) { o.Router = shared }
		one, two := startListener(r, limit), startListener(r, limit)
		client := spec.DialFront(one.Addr().String())
		Expect(spec.ReadLine(client)).To(Equal("a"))
		spec.ExpectReset(spec.DialFront(two.Addr().String()))
		client.Close()
		Eventually(r.open).Should(BeZero())
		Expect(spec.Ask(two.Addr().String())).To(Equal("a"))
	})

	It("gives a refused client's place back", func() {
		l := startListener(r, func(o *bridge.ListenerOptions) { o.Sessions = bridge.NewBudget(1) })
		r.activate("", "")
		for range 10 {
			spec.ExpectReset(spec.DialFront(l.Addr().String()))
		}
		Eventually(r.reasons).Should(HaveLen(10))
		Expect(r.reasons()).To(HaveEach(Or(Equal(bridge.NoBackend), Equal(bridge.OverLimit))))
		r.activate("a", a.Addr())
		Expect(spec.Ask(l.Addr().String())).To(Equal("a"))
	})

	It("serves IPv6 and names its addresses rightly (T32)", func() {
		l := startListener(r, func(o *bridge.ListenerOptions) { o.Bind = "[::1]:0" })
		client := spec.DialFront(l.Addr().String())
		Expect(spec.ReadLine(client)).To(Equal("a"))
		Expect(r.bridge.Sessions()).To(ConsistOf(And(HaveField("Client", client.LocalAddr().String()), HaveField("Client", HavePrefix("[::1]:")))))
	})

	It("can be closed under load", func() {
		signals, ready, ended := make(chan os.Signal, 1), make(chan struct{}), make(chan error, 1)
		l := bridge.NewListener(bridge.ListenerOptions{Name: "front", Bind: "127.0.0.1:0", To: r.host, Listen: r.bridge.Engine().Listen})
		go func() { ended <- l.Run(signals, ready) }()
		Eventually(ready).Should(BeClosed())
		addr := l.Addr().String()
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				if _, err := spec.Ask(addr); errors.Is(err, syscall.ECONNREFUSED) {
					return
				}
			}
		}()
		Eventually(a.Accepted).Should(BeNumerically(">", 20))
		signals <- syscall.SIGTERM
		Eventually(ended).Should(Receive(BeNil()))
		Eventually(done).Should(BeClosed())
		Eventually(r.open).Should(BeZero())
	})
})

var _ = Describe("PROXY protocol (T30)", func() {
	loopback := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	source := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 4711}
	destination := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 3306}
	announce := func(version byte) []byte {
		raw, err := proxyproto.HeaderProxyFromAddrs(version, source, destination).Format()
		Expect(err).NotTo(HaveOccurred())
		return raw
	}
	var (
		a *spec.Backend
		r *rig
	)
	start := func(accept bridge.ProxyAccept, send bridge.ProxyVersion) {
		a = spec.StartBackend(spec.Named("a"))
		r = startRig(rigOptions{
			host:     func(o *bridge.HostOptions) { o.SendProxy = send },
			listener: func(o *bridge.ListenerOptions) { o.Proxy = accept },
		})
		r.activate("a", a.Addr())
	}

	DescribeTable("believes a trusted proxy and passes on what comes behind the header",
		func(accept bridge.ProxyVersion, version byte) {
			start(bridge.ProxyAccept{Version: accept, Trusted: loopback}, bridge.ProxyOff)
			client := spec.DialFront(r.addr)
			client.Write(append(announce(version), "behind\n"...))
			Expect(spec.ReadLine(client)).To(Equal("a"))
			Expect(spec.ReadLine(client)).To(Equal("behind"))
			Expect(r.bridge.Sessions()).To(ConsistOf(HaveField("Client", source.String())))
		},
		Entry(nil, bridge.ProxyV1, byte(1)),
		Entry(nil, bridge.ProxyV2, byte(2)),
		Entry(nil, bridge.ProxyAny, byte(1)),
		Entry(nil, bridge.ProxyAny, byte(2)),
	)

	It("takes a header that comes byte by byte", func() {
		start(bridge.ProxyAccept{Version: bridge.ProxyAny, Trusted: loopback}, bridge.ProxyOff)
		client := spec.DialFront(r.addr)
		Expect(client.SetNoDelay(true)).To(Succeed())
		for _, b := range announce(1) {
			client.Write([]byte{b})
		}
		Expect(spec.ReadLine(client)).To(Equal("a"))
		Expect(r.bridge.Sessions()).To(ConsistOf(HaveField("Client", source.String())))
	})

	It("uses the real addresses when the proxy speaks for itself", func() {
		start(bridge.ProxyAccept{Version: bridge.ProxyAny, Trusted: loopback}, bridge.ProxyOff)
		for _, v := range []bridge.ProxyVersion{bridge.ProxyV1, bridge.ProxyV2} {
			header, err := v.LocalHeader()
			Expect(err).NotTo(HaveOccurred())
			client := spec.DialFront(r.addr)
			client.Write(header)
			Expect(spec.ReadLine(client)).To(Equal("a"))
			Expect(r.bridge.Sessions()).To(ContainElement(HaveField("Client", client.LocalAddr().String())))
		}
	})

	DescribeTable("refuses",
		func(accept bridge.ProxyAccept, sent []byte) {
			start(accept, bridge.ProxyOff)
			client := spec.DialFront(r.addr)
			client.Write(sent)
			client.CloseWrite()
			Eventually(r.reasons).Should(ConsistOf(bridge.ProxyHeader))
			Expect(a.Accepted()).To(BeZero())
		},
		Entry("a header from a stranger", bridge.ProxyAccept{Version: bridge.ProxyAny, Trusted: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}, []byte("PROXY TCP4 192.0.2.7 192.0.2.1 4711 3306\r\n")),
		Entry("no header", bridge.ProxyAccept{Version: bridge.ProxyAny, Trusted: loopback}, []byte("hello, this is something else\n")),
		Entry("half a header", bridge.ProxyAccept{Version: bridge.ProxyAny, Trusted: loopback}, []byte("PROXY TCP4 192.0.2.7")),
		Entry("an endless header", bridge.ProxyAccept{Version: bridge.ProxyAny, Trusted: loopback}, append([]byte("PROXY TCP4 "), make([]byte, 8192)...)),
		Entry("version 2 where version 1 is expected", bridge.ProxyAccept{Version: bridge.ProxyV1, Trusted: loopback}, []byte("\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00")),
		Entry("version 1 where version 2 is expected", bridge.ProxyAccept{Version: bridge.ProxyV2, Trusted: loopback}, []byte("PROXY UNKNOWN\r\n")),
	)

	It("gives up on a header that does not come when it stops", func() {
		start(bridge.ProxyAccept{Version: bridge.ProxyAny, Trusted: loopback}, bridge.ProxyOff)
		client := spec.DialFront(r.addr)
		client.Write([]byte("PROXY "))
		Consistently(r.reasons, still).Should(BeEmpty())
		r.signals <- syscall.SIGTERM
		spec.ExpectReset(client)
		Eventually(r.reasons).Should(ConsistOf(bridge.Shutdown))
	})

	DescribeTable("announces the client to the backend",
		func(accept bridge.ProxyAccept, send bridge.ProxyVersion, expected func(client *net.TCPConn) string) {
			start(accept, send)
			client := spec.DialFront(r.addr)
			if accept.Version != "" {
				client.Write(announce(2))
			}
			client.Write([]byte("payload\n"))
			Expect(spec.ReadLine(client)).To(Equal("a"))
			Expect(spec.ReadLine(client) + "\n").To(Equal(expected(client)))
			Expect(spec.ReadLine(client)).To(Equal("payload"))
		},
		Entry("as it is", bridge.ProxyAccept{}, bridge.ProxyV1, func(c *net.TCPConn) string {
			l, r := c.LocalAddr().(*net.TCPAddr), c.RemoteAddr().(*net.TCPAddr)
			return fmt.Sprintf("PROXY TCP4 127.0.0.1 127.0.0.1 %d %d\r\n", l.Port, r.Port)
		}),
		Entry("as the proxy before us has named it", bridge.ProxyAccept{Version: bridge.ProxyAny, Trusted: loopback}, bridge.ProxyV1, func(*net.TCPConn) string {
			return "PROXY TCP4 192.0.2.7 192.0.2.1 4711 3306\r\n"
		}),
	)

	It("writes both sides of a header in one address family", func() {
		header, err := bridge.ProxyV1.Header(source, &net.TCPAddr{IP: net.IPv6loopback, Port: 1})
		Expect(err).NotTo(HaveOccurred())
		Expect(string(header)).To(Equal("PROXY TCP6 ::ffff:192.0.2.7 ::1 4711 1\r\n"))
	})

	It("writes version 2 as it reads it", func() {
		header, err := bridge.ProxyV2.Header(source, destination)
		Expect(err).NotTo(HaveOccurred())
		Expect(header).To(Equal(announce(2)))
		Expect(bridge.ProxyOff.Header(source, destination)).To(BeEmpty())
	})
})
