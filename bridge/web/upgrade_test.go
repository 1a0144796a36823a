package web_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/bridge"
)

var _ = Describe("Upgrades", func() {
	const (
		key    = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
		accept = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" // RFC 6455, section 1.3
	)
	upgrade := getHead("Connection: keep-alive, Upgrade", "Upgrade: WebSocket", key, "Sec-WebSocket-Version: 13", "Sec-WebSocket-Protocol: chat")
	switching := lines("HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade", accept, "Sec-WebSocket-Protocol: chat")
	forwarded := "GET / HTTP/1.1\r\nHost: a.test\r\n" + key + "\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: chat\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" + about

	It("H30: bridges both ways, byte for byte, after a 101 that matches", func() {
		b := startRecorder(func(_ int, c *recorded) {
			c.head()
			c.say(switching + "from the backend")
			if c.exactly(len("from the client")) == "from the client" {
				c.say("\x00\r\nHTTP/1.1 400 no head\r\n\r\n")
			}
		})
		r := front(b.addr)
		c := r.dial()
		c.send(upgrade)
		Expect(c.upTo("\r\n\r\n")).To(Equal(lines("HTTP/1.1 101 Switching Protocols", accept, "Sec-WebSocket-Protocol: chat", "Connection: Upgrade", "Upgrade: websocket")))
		Expect(c.upTo("from the backend")).To(Equal("from the backend"))
		Eventually(r.bridge.Sessions).Should(HaveExactElements(HaveField("Protocol", bridge.WebSocket)))
		c.send("from the client")
		Expect(c.upTo("head\r\n\r\n")).To(Equal("\x00\r\nHTTP/1.1 400 no head\r\n\r\n"))
		c.CloseWrite()
		c.ended()
		Expect(b.Plain()).To(Equal(forwarded + "from the client"))
		Eventually(func() int { return len(r.bridge.Sessions()) }).Should(BeZero())
		Expect(r.upstream.Idle()).To(BeZero())
	})

	DescribeTable("H30: an upgrade that is none never reaches a backend", func(heads ...string) {
		b := startScript(ok)
		front(b.addr).refused(b, 400, heads...)
	},
		Entry("bad keys", getHead("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: short"), getHead("Connection: Upgrade", "Upgrade: websocket"),
			getHead("Connection: Upgrade", "Upgrade: websocket", key, key)),
		Entry("with a body", getHead("Connection: Upgrade", "Upgrade: websocket", key, "Content-Length: 5")+"hello"),
		Entry("another method", "POST"+strings.TrimPrefix(upgrade, "GET")),
		Entry("over HTTP/1.0", strings.Replace(upgrade, "HTTP/1.1", "HTTP/1.0", 1)),
	)

	DescribeTable("H31: another protocol is not passed on, and the request is an ordinary one", func(fields ...string) {
		b := startScript(ok)
		r := front(b.addr)
		Expect(r.status(getHead(fields...))).To(Equal(200))
		Expect(b.Plain()).To(Equal("GET / HTTP/1.1\r\nHost: a.test\r\n" + about))
	},
		Entry("h2c", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"),
		Entry("TLS", "Connection: Upgrade", "Upgrade: TLS/1.0"),
		Entry("websocket among others", "Connection: Upgrade", "Upgrade: h2c, websocket"),
		Entry("websocket without Connection", "Upgrade: websocket"),
		Entry("websocket beside another", "Connection: Upgrade", "Upgrade: websocket", "Upgrade: h2c"),
	)

	It("H32: passes an answer on that is no 101, and goes on with HTTP", func() {
		b := startScript(ok)
		r := front(b.addr)
		c := r.dial()
		c.send(upgrade)
		response, body := c.answer("GET")
		Expect(response.StatusCode).To(Equal(200))
		Expect(body).To(Equal("ok"))
		c.send(getHead())
		response, _ = c.answer("GET")
		Expect(response.StatusCode).To(Equal(200))
		Expect(b.Plain()).To(Equal(forwarded + "GET / HTTP/1.1\r\nHost: a.test\r\n" + about))
	})

	DescribeTable("H32: a 101 that does not match is 502, and bridges nothing", func(fields ...string) {
		b := startScript(lines(append([]string{"HTTP/1.1 101 Switching Protocols"}, fields...)...) + "evil")
		r := front(b.addr)
		c := r.dial()
		c.send(upgrade)
		response, body := c.answer("GET")
		Expect(response.StatusCode).To(Equal(502))
		Expect(body).NotTo(ContainSubstring("evil"))
		Expect(b.Requests()).To(Equal(1))
		Eventually(b.all()[0].Ended).Should(BeTrue())
	},
		Entry("another key's", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA="),
		Entry("no key's", "Connection: Upgrade", "Upgrade: websocket"),
		Entry("two keys'", "Connection: Upgrade", "Upgrade: websocket", accept, accept),
		Entry("another protocol", "Connection: Upgrade", "Upgrade: h2c", accept),
		Entry("no Connection", "Upgrade: websocket", accept),
	)

	It("H33: passes what comes before the 101 on behind it, and nothing without one", func() {
		answer := make(chan string, 1)
		b := startRecorder(func(_ int, c *recorded) {
			c.head()
			c.say(<-answer)
			c.drain()
		})
		r := front(b.addr)
		c := r.dial()
		c.send(upgrade + "early")
		Eventually(b.Plain).Should(Equal(forwarded))
		answer <- switching
		Eventually(b.Plain).Should(Equal(forwarded + "early"))
		c.Close()

		c = r.dial()
		c.send(upgrade + "\x00early")
		answer <- "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
		response, _ := c.answer("GET")
		Expect(response.StatusCode).To(Equal(403))
		response, _ = c.answer("GET")
		Expect(response.StatusCode).To(Equal(400), "it is read as the next request, and is none")
		Expect(strings.Count(b.Got(), "early")).To(Equal(1))
	})

	It("H34: leaves nothing of upgrades that new active backends overtake", func() {
		play := func(_ int, c *recorded) {
			c.head()
			c.say(switching)
			c.drain()
		}
		addresses := []string{startRecorder(play).addr, startRecorder(play).addr}
		r := startRig(rigOptions{hosts: []hostSpec{{name: "a.test", backends: addresses[:1], bridge: active}}})
		var clients sync.WaitGroup
		stop := make(chan struct{})
		for range 16 {
			clients.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					c, err := net.Dial("tcp", r.addr)
					if err != nil {
						return
					}
					c.SetDeadline(time.Now().Add(5 * time.Second))
					io.WriteString(c, upgrade)
					response, err := http.ReadResponse(bufio.NewReader(c), nil)
					if err == nil && response.StatusCode == http.StatusSwitchingProtocols {
						// It is cut, sooner or later.
						io.Copy(io.Discard, c)
					}
					c.Close()
				}
			})
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		for epoch := range uint64(100) {
			Eventually(r.bridge.Sessions, "5s", "1ms").ShouldNot(BeEmpty())
			r.activate("a.test", epoch+2, addresses[(epoch+1)%2])
			_, err := r.bridge.Host("a.test").AwaitEpoch(ctx, epoch+2)
			Expect(err).NotTo(HaveOccurred())
		}
		close(stop)
		r.activate("a.test", 300)
		clients.Wait()
		Eventually(r.server.Connections).Should(BeZero())
		Eventually(r.bridge.Sessions).Should(BeEmpty())
		Expect(r.bridge.Panics()).To(BeZero())
	})

	Context("with a server and a client of another hand", func() {
		// dialSocket opens a WebSocket to the rig.
		dialSocket := func(r *rig) *websocket.Conn {
			GinkgoHelper()
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			transport := &http.Transport{}
			DeferCleanup(transport.CloseIdleConnections)
			socket, _, err := websocket.Dial(ctx, "ws://"+r.addr+"/", &websocket.DialOptions{Host: "a.test", HTTPClient: &http.Client{Transport: transport}})
			Expect(err).NotTo(HaveOccurred())
			DeferCleanup(func() { socket.CloseNow() })
			socket.SetReadLimit(1 << 20)
			return socket
		}

		// echo sends and gets back.
		echo := func(socket *websocket.Conn, message string) {
			GinkgoHelper()
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			Expect(socket.Write(ctx, websocket.MessageBinary, []byte(message))).To(Succeed())
			_, back, err := socket.Read(ctx)
			Expect(err).NotTo(HaveOccurred())
			Expect(string(back) == message).To(BeTrue(), "%d bytes", len(back))
		}

		It("echoes messages, and ends in order", func() {
			b := startBackend("b", echoSocket)
			r := front(b.addr)
			socket := dialSocket(r)
			for _, size := range []int{0, 1, 125, 126, 65535, 65536, 300_000} {
				echo(socket, strings.Repeat("x", size))
			}
			Expect(socket.Close(websocket.StatusNormalClosure, "bye")).To(Succeed())
			Eventually(r.ends).Should(HaveLen(1))
			Expect(r.ends()[0].Host).To(Equal("a.test"))
			Expect(r.ends()[0].ToBackend).To(BeNumerically(">", 400_000))
		})

		It("H34: a new active backend cuts it at once, on both sides, and is counted", func() {
			gone := make(chan error, 1)
			one := startBackend("one", func(w http.ResponseWriter, req *http.Request) {
				socket, err := websocket.Accept(w, req, nil)
				if err != nil {
					return
				}
				defer socket.CloseNow()
				_, _, err = socket.Read(context.Background())
				gone <- err
			})
			two := startBackend("two", echoSocket)
			r := startRig(rigOptions{hosts: []hostSpec{{name: "a.test", backends: []string{one.addr}, bridge: active}}})
			socket := dialSocket(r)
			Eventually(func() int { return r.bridge.Host("a.test").Counts().Sessions }).Should(Equal(1))
			r.activate("a.test", 2, two.addr)
			_, _, err := socket.Read(context.Background())
			Expect(err).To(HaveOccurred())
			Expect(errors.Is(err, io.EOF)).To(BeFalse(), "it is cut, not ended: %v", err)
			Eventually(gone, 5*time.Second).Should(Receive(HaveOccurred()))
			severed, err := r.bridge.Host("a.test").AwaitEpoch(context.Background(), 2)
			Expect(err).NotTo(HaveOccurred())
			Expect(severed).To(Equal(1))
			Eventually(r.ends).Should(HaveLen(1))
			Expect(r.ends()[0].Reason).To(Equal(bridge.Severed))
			echo(dialSocket(r), "hello")
		})
	})
})

// echoSocket is a handler that sends a WebSocket's messages back.
func echoSocket(w http.ResponseWriter, r *http.Request) {
	socket, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer socket.CloseNow()
	socket.SetReadLimit(1 << 20)
	for {
		kind, message, err := socket.Read(context.Background())
		if err != nil {
			return
		}
		if socket.Write(context.Background(), kind, message) != nil {
			return
		}
	}
}
