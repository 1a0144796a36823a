package web_test

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/bridge/web"
	"switchboard/bridge/web/h1"
)

var _ = Describe("Answers of backends", func() {
	DescribeTable("what is malformed or ambiguous is 502 before the client has had a byte of it, and not asked for again", func(answers ...string) {
		for _, answer := range answers {
			b := startScript(answer)
			r := front(b.addr)
			c := r.dial()
			c.send(getHead())
			response, body := c.answer("GET")
			Expect(response.StatusCode).To(Equal(502), "%.100q", answer)
			Expect(body).To(Equal("502 Bad Gateway: the server behind this router failed to answer.\n"))
			Expect(b.Requests()).To(Equal(1), "%.100q", answer)
			Eventually(b.all()[0].Ended).Should(BeTrue())
			Expect(r.upstream.Idle()).To(BeZero())
			c.send("GET / HTTP/1.1\r\nHost: unknown.test\r\n\r\n")
			response, _ = c.answer("GET")
			Expect(response.StatusCode).To(Equal(404), "the client's connection goes on")
			c.Close()
		}
	},
		Entry("P1: a length and a coding, or two of one", whole("Content-Length: 2", "Transfer-Encoding: chunked"),
			whole("Content-Length: 2", "Content-Length: 3"), whole("Content-Length: 2", "Content-Length: 2"), whole("Content-Length: 2, 2"), whole("Content-Length: +2"),
			whole("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), whole("Transfer-Encoding: gzip, chunked"), whole("Transfer-Encoding: identity")),
		Entry("P1: lines that do not end as they should", "HTTP/1.1 200 OK\nContent-Length: 2\n\nok", "HTTP/1.1 200 OK\r\nContent-Length: 2\n\r\nok",
			"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 2\r\n\r\nok"),
		Entry("P1: lines that are no fields", whole("X: a\x00b"), whole("X : y"), whole("X"), whole(": y"), whole("X y: z"), whole("Content_Length: 2")),
		Entry("P5: statuses that are none", "HTTP/1.1 099 X\r\n\r\n", "HTTP/1.1 1000 X\r\n\r\n", "HTTP/1.1 -1 X\r\n\r\n", "HTTP/1.1 600 X\r\n\r\n", "HTTP/1.1 000 X\r\n\r\n",
			"HTTP/1.1 2OO OK\r\n\r\n", "HTTP/1.1 OK\r\n\r\n", "HTTP/1.1  200 OK\r\n\r\n", "HTTP/1.1 20\r\n\r\n"),
		Entry("P5: what is not HTTP/1", "<html>no head at all</html>"+hangUp, "HTTP/0.9 200 OK\r\n\r\n", "HTTP/2.0 200 OK\r\n\r\n", "ICY 200 OK\r\n\r\n", "SSH-2.0-x\r\n",
			"http/1.1 200 OK\r\n\r\n", "\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"),
		Entry("P7: a head over the limits", "HTTP/1.1 200 OK\r\nX: "+strings.Repeat("y", 40<<10)+"\r\n\r\n", "HTTP/1.1 200 OK\r\n"+strings.Repeat("X: y\r\n", 101)+"\r\n",
			"HTTP/1.1 200 "+strings.Repeat("O", 40<<10)+"\r\n\r\n"),
		Entry("H32: 101 that nobody asked for", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"+getHead()),
	)

	DescribeTable("P2: an answer that is cut short is cut for the client, so that it sees it", func(answer, seen string) {
		b := startScript(answer + hangUp)
		r := front(b.addr)
		c := r.dial()
		c.send(getHead())
		Expect(c.cut()).To(SatisfyAny(BeEmpty(), HavePrefix(seen)))
		Expect(b.Requests()).To(Equal(1))
	},
		Entry("by length", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhel"),
		Entry("in chunks, within one", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
		Entry("in chunks, between two", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
		Entry("in chunks, before the last line", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
		Entry("by a malformed chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n+5\r\nworld\r\n0\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
	)

	It("P2: passes a body on that ends with the connection, and resets with one that was reset", func() {
		b := startRecorder(func(n int, c *recorded) {
			c.head()
			c.say("HTTP/1.1 200 OK\r\n\r\nhello")
			if n == 1 {
				c.drain()
			}
		})
		r := front(b.addr)
		c := r.dial()
		c.send(getHead())
		response, body := c.answer("GET")
		Expect(body).To(Equal("hello"))
		Expect(response.TransferEncoding).To(Equal([]string{"chunked"}))
		Expect(response.Close).To(BeFalse())
		c.send(getHead())
		Eventually(b.Connections).Should(Equal(2))
		head := c.upTo("hello\r\n")
		Expect(head).To(HaveSuffix("\r\n\r\n5\r\nhello\r\n"))
		b.all()[1].SetLinger(0)
		b.all()[1].Close()
		Expect(c.cut()).NotTo(ContainSubstring("0\r\n\r\n"))
	})

	DescribeTable("P3, P4: what comes behind an answer is no other's, and its connection is not used again", func(method, answer, want string) {
		b := startScript(answer)
		r := front(b.addr)
		c := r.dial()
		for range 2 {
			c.send(method + " / HTTP/1.1\r\nHost: a.test\r\n\r\n")
			head := c.upTo("\r\n\r\n")
			if strings.Contains(head, "chunked") {
				head += c.upTo("0\r\n\r\n")
			} else {
				head += c.upTo(strings.TrimPrefix(want, head))
			}
			Expect(head).To(Equal(want))
			Eventually(r.upstream.Idle).Should(BeZero())
		}
		Expect(b.Connections()).To(Equal(2))
		c.send("GET / HTTP/1.1\r\nHost: unknown.test\r\n\r\n")
		response, _ := c.answer("GET")
		Expect(response.StatusCode).To(Equal(404), "the client's connection goes on, with nothing else on it")
	},
		Entry("P3: behind a length", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nX: evil\r\n\r\n", ok),
		Entry("P3: behind the last chunk", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
			"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
		Entry("P4: behind 204", "GET", "HTTP/1.1 204 No Content\r\n\r\nevil", "HTTP/1.1 204 No Content\r\n\r\n"),
		Entry("P4: behind 204 that has a length", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nevil", "HTTP/1.1 204 No Content\r\n\r\n"),
		Entry("P4: behind 304", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\nevil", "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n"),
		Entry("P4: behind an answer to HEAD", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"),
	)

	It("P3: does not use a connection again on which a backend speaks unasked", func() {
		spoken := make(chan struct{})
		b := startRecorder(func(n int, c *recorded) {
			c.head()
			c.say(ok)
			if n == 0 {
				<-spoken
				c.say("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
			}
			c.drain()
		})
		r := front(b.addr)
		c := r.dial()
		c.send(getHead())
		c.answer("GET")
		Eventually(r.upstream.Idle).Should(Equal(1))
		close(spoken)
		Eventually(b.all()[0].Ended, 5*time.Second).Should(BeTrue(), "the pool is looked at every second")
		c.send(getHead())
		_, body := c.answer("GET")
		Expect(body).To(Equal("ok"))
		Expect(b.Connections()).To(Equal(2))
	})

	It("P6: passes ten answers on that come in the meantime, and then no more", func() {
		early := "HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n"
		b := startScript(strings.Repeat(early, 10)+ok, strings.Repeat(early, 11)+ok)
		r := front(b.addr)
		c := r.dial()
		c.send(getHead())
		for range 10 {
			response, _ := c.answer("GET")
			Expect(response.StatusCode).To(Equal(103))
			Expect(response.Header.Get("Link")).To(Equal("</x>; rel=preload"))
		}
		response, body := c.answer("GET")
		Expect(response.StatusCode).To(Equal(200))
		Expect(body).To(Equal("ok"))
		c.send(getHead())
		for range 10 {
			response, _ := c.answer("GET")
			Expect(response.StatusCode).To(Equal(103))
		}
		response, _ = c.answer("GET")
		Expect(response.StatusCode).To(Equal(502))
		Expect(b.Requests()).To(Equal(2))
	})

	It("P10: makes up neither Content-Type nor Date nor Server", func() {
		b := startScript(ok)
		r := front(b.addr)
		c := r.dial()
		c.send(getHead())
		Expect(c.upTo("ok")).To(HaveSuffix("\r\n\r\nok"))
		c.send(getHead())
		Expect(c.upTo("\r\n\r\nok")).To(Equal(ok))
	})

	It("P19: passes a coded body on as it is", func() {
		coded := "\x1f\x8b\x08\x00not a gzip at all\x00\xff"
		b := startScript(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s", len(coded), coded))
		r := front(b.addr)
		c := r.dial()
		c.send(getHead("Accept-Encoding: gzip, br", "Connection: close"))
		Expect(c.all()).To(HaveSuffix("\r\n\r\n" + coded))
		Expect(b.Got()).To(ContainSubstring("\r\nAccept-Encoding: gzip, br\r\n"))
	})

	DescribeTable("P20: the router's own answers have nothing of the request in them", func(accept, contentType string) {
		r := startRig(rigOptions{hosts: []hostSpec{{name: "a.test"}}, server: func(o *web.Options) {
			o.Limits = h1.Limits{Head: 2 << 10}
			o.Trusted = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		}})
		const evil = "evil<script>alert(1)</script>"
		for status, raw := range map[int]string{
			404: "GET /" + evil + " HTTP/1.1\r\nHost: evil.test\r\nAccept: " + accept + "\r\nX-Evil: " + evil + "\r\n\r\n",
			503: "GET /" + evil + " HTTP/1.1\r\nHost: a.test\r\nAccept: " + accept + "\r\nX-Request-Id: evil\r\nX-Forwarded-Host: " + evil + "\r\n\r\n",
			417: "PUT /" + evil + " HTTP/1.1\r\nHost: a.test\r\nAccept: " + accept + "\r\nContent-Length: 1\r\nExpect: " + evil + "\r\n\r\n",
		} {
			c := r.dial()
			c.send(raw)
			response, body := c.answer("GET")
			Expect(response.StatusCode).To(Equal(status))
			Expect(response.Header.Get("Content-Type")).To(Equal(contentType))
			Expect(response.Header.Get("X-Content-Type-Options")).To(Equal("nosniff"))
			Expect(body).NotTo(ContainSubstring("evil"))
			for name, values := range response.Header {
				Expect(name + strings.Join(values, "")).NotTo(ContainSubstring("evil"))
			}
			c.Close()
		}
	},
		Entry("as text", "*/*", "text/plain; charset=utf-8"),
		Entry("as a page", "text/html,*/*;q=0.8", "text/html; charset=utf-8"),
		Entry("as JSON", "application/json", "application/problem+json"),
		Entry("as text for what is not known", "evil<script>", "text/plain; charset=utf-8"),
	)

	It("answers 504 if the backend does not begin in time, and serves what comes behind on the connection", func() {
		hung := make(chan struct{})
		defer close(hung)
		b := startRecorder(func(n int, c *recorded) {
			for c.request() != nil {
				if n == 0 {
					<-hung
					return
				}
				c.say(ok)
			}
		})
		r := startRig(rigOptions{hosts: []hostSpec{{name: "a.test", backends: []string{b.addr}, web: web.HostOptions{HeadTimeout: 100 * time.Millisecond}}}})
		c := r.dial()
		c.send(getHead() + getHead() + getHead())
		response, _ := c.answer("GET")
		Expect(response.StatusCode).To(Equal(504))
		for range 2 {
			response, _ = c.answer("GET")
			Expect(response.StatusCode).To(Equal(200))
		}
		Expect(b.Requests()).To(Equal(3), "a backend that may still be at work on it is not asked again")
	})
})

// whole is an answer with that head and a body of two bytes.
func whole(fields ...string) string {
	return lines(append([]string{"HTTP/1.1 200 OK"}, fields...)...) + "ok"
}
