package web_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/bridge"
	"switchboard/bridge/route"
	"switchboard/bridge/web"
	"switchboard/fixtures/spec"
)

// said is a record with strings of its own.
type said struct {
	web.Record
	ID, Method, Authority, Target string
}

// book keeps records.
type book struct {
	mu      sync.Mutex
	records []said
}

// keep is for rigOptions.server.
func (b *book) keep(o *web.Options) {
	o.Records = func(r *web.Record) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.records = append(b.records, said{*r, string(r.ID), string(r.Method), string(r.Authority), string(r.Target)})
	}
}

func (b *book) all() []said {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]said(nil), b.records...)
}

// only waits for the one record that there is to be.
func (b *book) only() said {
	GinkgoHelper()
	Eventually(b.all).WithTimeout(5 * time.Second).ShouldNot(BeEmpty())
	Expect(b.all()).To(HaveLen(1))
	return b.all()[0]
}

var _ = Describe("Records", func() {
	// noted is a rig with one host, and the records of its requests.
	noted := func(o rigOptions) (*rig, *book) {
		GinkgoHelper()
		b := new(book)
		server := o.server
		o.server = func(so *web.Options) {
			if server != nil {
				server(so)
			}
			b.keep(so)
		}
		return startRig(o), b
	}
	to := func(addresses ...string) rigOptions {
		return rigOptions{hosts: []hostSpec{{name: "*.test", backends: addresses}}}
	}

	It("tell of a request what it asked for, and who served it", func() {
		backend := startScript("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		r, b := noted(to(backend.addr))
		r.clusters["*.test"].Put(bridge.Cluster{Host: "*.test", Backends: []bridge.BackendState{{
			Backend: route.Backend{Name: "app", Address: backend.addr, Weight: 1, Origin: "7#3#42"}, Verdict: true, Healthy: true,
		}}})
		Eventually(func() map[string]int { return r.bridge.Host("*.test").Weights() }).Should(HaveKey("app"))
		began := time.Now()
		c := r.dial()
		head := "GET /path?query HTTP/1.1\r\nHost: a.test:80\r\n\r\n"
		c.send(head)
		_, body := c.answer("GET")
		Expect(body).To(Equal("ok"))
		one := b.only()
		Expect(one).To(And(
			HaveField("Listener", "web"), HaveField("Host", "*.test"), HaveField("Backend", "app"), HaveField("Origin", "7#3#42"),
			HaveField("Client", c.LocalAddr().String()), HaveField("Protocol", "HTTP/1.1"), HaveField("Method", "GET"),
			HaveField("Authority", "a.test:80"), HaveField("Target", "/path?query"), HaveField("Attempts", 1), HaveField("Status", 200),
			HaveField("FromClient", int64(len(head))), HaveField("ToClient", int64(len("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))),
			HaveField("Reason", ""), HaveField("Err", BeNil())))
		Expect(one.ID).To(MatchRegexp(`^\d+$`))
		Expect(one.Ended).To(BeTemporally(">=", began))
		Expect(one.Took).To(And(BeNumerically(">", 0), BeNumerically("<=", time.Since(began))))
		Expect(one.Upstream).To(And(BeNumerically(">", 0), BeNumerically("<=", one.Took)))
	})

	It("are one a request, in their order, on a connection that goes on", func() {
		backend := startScript(ok)
		r, b := noted(to(backend.addr))
		c := r.dial()
		want := []string{}
		ids := map[string]bool{}
		for _, target := range []string{"/1", "/2", "/3"} {
			c.send("GET " + target + " HTTP/1.1\r\nHost: a.test\r\n\r\n")
			c.answer("GET")
			c.send("GET " + target + " HTTP/1.1\r\nHost: other\r\n\r\n")
			c.answer("GET")
			want = append(want, target+" OK *.test b0 ", target+" Not Found   unknown_host")
		}
		Eventually(b.all).Should(HaveLen(6))
		got := []string{}
		for _, one := range b.all() {
			ids[one.ID] = true
			got = append(got, strings.Join([]string{one.Target, http.StatusText(one.Status), one.Host, one.Backend, one.Reason}, " "))
		}
		Expect(got).To(Equal(want))
		Expect(ids).To(HaveLen(6), "each has an ID of its own")
	})

	It("quote a request right whose body was read over it", func() {
		backend := startScript(ok)
		r, b := noted(to(backend.addr))
		c := r.dial()
		c.send("POST /upload HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1000000\r\n\r\n")
		Eventually(func() int { return r.bridge.Host("*.test").Counts().Sessions }).Should(Equal(1))
		c.send(strings.Repeat("x", 1_000_000))
		c.answer("POST")
		Expect(b.only()).To(And(HaveField("Method", "POST"), HaveField("Authority", "a.test"), HaveField("Target", "/upload"),
			HaveField("FromClient", BeNumerically(">", 1_000_000)), HaveField("Reason", "")))
	})

	DescribeTable("tell why a request was refused", func(status int, reason string, raw string) {
		backend := startScript(ok)
		o := to(backend.addr)
		o.server = func(o *web.Options) { o.MaxBody, o.Head = 10, 200*time.Millisecond }
		r, b := noted(o)
		c := r.dial()
		c.send(raw)
		got, _ := c.answer("GET")
		Expect(got.StatusCode).To(Equal(status))
		one := b.only()
		Expect(one).To(And(HaveField("Status", status), HaveField("Reason", reason), HaveField("Upstream", BeNumerically("<", 0)),
			HaveField("ToClient", BeNumerically(">", 0)), HaveField("FromClient", BeNumerically(">", 0)), HaveField("Listener", "web"),
			HaveField("Client", c.LocalAddr().String()), HaveField("ID", Not(BeEmpty())), HaveField("Attempts", 0), HaveField("Backend", "")))
		Expect(backend.Connections()).To(BeZero())
	},
		Entry("as ambiguous", 400, "host_repeated", "GET / HTTP/1.1\r\nHost: a.test\r\nHost: a.test\r\n\r\n"),
		Entry("for no host", 404, "unknown_host", "GET / HTTP/1.1\r\nHost: other\r\n\r\n"),
		Entry("for a name that is none", 400, "host", "GET / HTTP/1.1\r\nHost: "+strings.Repeat("a", 255)+"\r\n\r\n"),
		Entry("for its method", 405, "method_barred", "TRACE / HTTP/1.1\r\nHost: a.test\r\n\r\n"),
		Entry("that was not all there in time", 408, "head_timeout", "GET / HTTP/1.1\r\n"),
		Entry("for its body", 413, "body_too_long", "PUT / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 11\r\n\r\n"),
		Entry("for its target", 414, "target_too_long", "GET /"+strings.Repeat("x", 9000)+" HTTP/1.1\r\nHost: a.test\r\n\r\n"),
		Entry("for its head", 431, "head_too_long", "GET / HTTP/1.1\r\nX: "+strings.Repeat("y", 40<<10)+"\r\n\r\n"),
		Entry("for its version", 505, "version_unsupported", "GET / HTTP/3.0\r\nHost: a.test\r\n\r\n"),
	)

	It("tell that there was no backend, or that it could not be reached, and how often it was tried", func() {
		r, b := noted(to(spec.RefusedAddr(), spec.RefusedAddr()))
		Expect(r.status("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")).To(Equal(502))
		one := b.only()
		Expect(one).To(And(HaveField("Status", 502), HaveField("Reason", "backend_failed"), HaveField("Attempts", 2),
			HaveField("Upstream", BeNumerically("<", 0)), HaveField("Backend", HavePrefix("b")), HaveField("Err", MatchError(ContainSubstring("refused")))))
		r.up("*.test", "", "")
		Eventually(func() bool { return r.bridge.Host("*.test").Usable() }).Should(BeFalse())
		Expect(r.status("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")).To(Equal(503))
		Eventually(b.all).Should(HaveLen(2))
		Expect(b.all()[1]).To(And(HaveField("Status", 503), HaveField("Reason", "no_backend"), HaveField("Attempts", 0),
			HaveField("Host", "*.test"), HaveField("Backend", "")))
	})

	It("have the attempt that was answered, and no reason if it went well in the end", func() {
		backend := startScript(hangUp, ok)
		r, b := noted(to(backend.addr))
		Expect(r.status("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")).To(Equal(200))
		Expect(b.only()).To(And(HaveField("Status", 200), HaveField("Attempts", 2), HaveField("Reason", ""), HaveField("Upstream", BeNumerically(">", 0))))
	})

	DescribeTable("tell how an answer was broken off", func(answer string, status int, end func(r *rig, c *client, backend *recorded), reason string) {
		backend := startRecorder(func(_ int, c *recorded) {
			c.head()
			c.say(answer)
			c.drain()
		})
		r, b := noted(rigOptions{hosts: []hostSpec{{name: "a.test", backends: []string{backend.addr}, bridge: active}}})
		c := r.dial()
		c.send(getHead())
		Eventually(backend.Requests).Should(Equal(1))
		if answer != "" {
			c.upTo("\r\n\r\n")
		}
		end(r, c, backend.all()[0])
		Expect(b.only()).To(And(HaveField("Status", status), HaveField("Reason", reason), HaveField("Backend", "b0"), HaveField("Upstream", BeNumerically(">", 0))))
	},
		Entry("before it began, by the client", "", 0, func(_ *rig, c *client, _ *recorded) { c.Close() }, "client_gone"),
		Entry("by the client", partial, 200, func(_ *rig, c *client, _ *recorded) { c.Close() }, "client_gone"),
		Entry("before it began, by a new active backend", "", 0, func(r *rig, _ *client, _ *recorded) { r.activate("a.test", 2) }, "severed"),
		Entry("by a new active backend", partial, 200, func(r *rig, _ *client, _ *recorded) { r.activate("a.test", 2) }, "severed"),
		Entry("by an operator", partial, 200, func(r *rig, _ *client, _ *recorded) {
			Expect(r.bridge.EndSession(r.bridge.Sessions()[0].ID)).To(Succeed())
		}, "killed"),
		Entry("by the backend", partial, 200, func(_ *rig, _ *client, b *recorded) { b.Close() }, "answer_broken"),
	)

	It("have the ID that the request had while it was in flight", func() {
		release := make(chan struct{})
		backend := startRecorder(func(_ int, c *recorded) {
			c.head()
			<-release
			c.say(ok)
			c.drain()
		})
		r, b := noted(to(backend.addr))
		c := r.dial()
		c.send(getHead())
		Eventually(r.bridge.Sessions).Should(HaveLen(1))
		id := r.bridge.Sessions()[0].ID
		close(release)
		c.answer("GET")
		Expect(b.only().ID).To(Equal(id))
	})

	It("tell of an upgrade when it is made, and the session's record has the same ID", func() {
		backend := startRecorder(func(_ int, c *recorded) {
			c.head()
			c.say("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
			c.drain()
		})
		r, b := noted(to(backend.addr))
		c := r.dial()
		c.send(getHead("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"))
		c.upTo("\r\n\r\n")
		one := b.only()
		Expect(one).To(And(HaveField("Status", 101), HaveField("Reason", ""), HaveField("Backend", "b0"), HaveField("ToClient", BeNumerically(">", 0))))
		Expect(r.ends()).To(BeEmpty())
		c.Close()
		Eventually(r.ends).Should(HaveExactElements(And(
			HaveField("ID", one.ID), HaveField("Protocol", bridge.WebSocket), HaveField("Host", "*.test"), HaveField("Backend", "b0"))))
		Expect(b.all()).To(HaveLen(1))
	})

	It("tell of HTTP/1.0 that it is that", func() {
		r, b := noted(to(startScript(ok).addr))
		Expect(r.status("GET / HTTP/1.0\r\nHost: a.test\r\n\r\n")).To(Equal(200))
		Expect(b.only()).To(HaveField("Protocol", "HTTP/1.0"))
	})

	It("are one a request of HTTP/2, refused ones too", func() {
		r, b := noted(to(startScript(ok).addr))
		t := r.http2Transport()
		for _, url := range []string{"http://a.test/one?two", "http://nobody/three"} {
			request, err := http.NewRequest("GET", url, nil)
			Expect(err).NotTo(HaveOccurred())
			exchange(t, request)
		}
		Eventually(b.all).Should(HaveLen(2))
		Expect(b.all()[0]).To(And(
			HaveField("Protocol", "HTTP/2"), HaveField("Method", "GET"), HaveField("Authority", "a.test"), HaveField("Target", "/one?two"),
			HaveField("Host", "*.test"), HaveField("Backend", "b0"), HaveField("Status", 200), HaveField("Reason", ""), HaveField("Attempts", 1),
			HaveField("ToClient", BeNumerically(">", len("HTTP/1.1 200 OK\r\n\r\nok"))), HaveField("FromClient", BeNumerically(">", 0)),
			HaveField("Listener", "web"), HaveField("Client", HavePrefix("127.0.0.1:")), HaveField("Upstream", BeNumerically(">", 0))))
		Expect(b.all()[1]).To(And(
			HaveField("Authority", "nobody"), HaveField("Target", "/three"), HaveField("Host", ""), HaveField("Status", 404),
			HaveField("Reason", "unknown_host"), HaveField("ToClient", BeNumerically(">", 0))))
	})

	It("tell of a stream of HTTP/2 that its client has given up", func() {
		backend := startRecorder(func(_ int, c *recorded) { c.drain() })
		r, b := noted(to(backend.addr))
		ctx, cancel := context.WithCancel(context.Background())
		request, err := http.NewRequestWithContext(ctx, "GET", "http://a.test/", nil)
		Expect(err).NotTo(HaveOccurred())
		failed := make(chan error, 1)
		go func() {
			_, err := r.http2Transport().RoundTrip(request)
			failed <- err
		}()
		Eventually(backend.Requests).Should(Equal(1))
		cancel()
		var got error
		Eventually(failed).Should(Receive(&got))
		Expect(errors.Is(got, context.Canceled)).To(BeTrue())
		Expect(b.only()).To(And(HaveField("Status", 0), HaveField("Reason", "client_gone")))
	})

	It("cost no allocation", func() {
		if raceDetector {
			Skip("under the race detector a sync.Pool loses some of what it is given")
		}
		backend := startStill(ok)
		r := startRig(rigOptions{hosts: []hostSpec{{name: "a.test", backends: []string{backend}}}, server: func(o *web.Options) {
			n := 0
			o.Records = func(r *web.Record) { n += len(r.Target) }
		}})
		c := r.dial()
		request, answer := []byte(getHead()), make([]byte, len(ok))
		ask := func() {
			if _, err := c.Write(request); err != nil {
				panic(err)
			}
			if _, err := io.ReadFull(c.Conn, answer); err != nil {
				panic(err)
			}
		}
		ask()
		Expect(testing.AllocsPerRun(1000, ask)).To(BeZero())
	})
})

// partial is the beginning of an answer.
const partial = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello"

// startStill is a backend that answers each head with the same bytes and allocates
// nothing for that.
func startStill(answer string) string {
	GinkgoHelper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	Expect(err).NotTo(HaveOccurred())
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				in, out := bufio.NewReader(conn), []byte(answer)
				for {
					line, err := in.ReadSlice('\n')
					if err != nil {
						return
					}
					if bytes.Equal(line, []byte("\r\n")) {
						if _, err := conn.Write(out); err != nil {
							return
						}
					}
				}
			})
		}
	})
	DeferCleanup(func() {
		listener.Close()
		serving.Wait()
	})
	return listener.Addr().String()
}
