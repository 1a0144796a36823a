package web_test

import (
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("Expect: 100-continue", func() {
	expecting := func(length string) string { return post("", "Expect: 100-continue", "Content-Length: "+length) }

	It("H23: passes the backend's 100 on, then the body", func() {
		b := startRecorder(func(_ int, c *recorded) {
			c.head()
			c.say("HTTP/1.1 100 Continue\r\n\r\n")
			c.exactly(5)
			c.say(ok)
			c.drain()
		})
		r := front(b.addr)
		c := r.dial()
		c.send(expecting("5"))
		response, _ := c.answer("POST")
		Expect(response.StatusCode).To(Equal(100))
		c.send("hello")
		response, body := c.answer("POST")
		Expect(response.StatusCode).To(Equal(200))
		Expect(body).To(Equal("ok"))
		Expect(response.Close).To(BeFalse())
		Expect(b.Plain()).To(Equal("POST / HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n" + about + "hello"))
		Eventually(r.upstream.Idle).Should(Equal(1))
	})

	It("H23: passes an early answer on and ends both connections, though the client sends nothing", func() {
		b := startRecorder(func(_ int, c *recorded) {
			c.head()
			c.say("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
			c.drain()
		})
		r := front(b.addr)
		c := r.dial()
		c.send(expecting("5"))
		response, body := c.answer("POST")
		Expect(response.StatusCode).To(Equal(403))
		Expect(body).To(Equal("no"))
		Expect(response.Close).To(BeTrue())
		c.ended()
		Eventually(b.all()[0].Ended).Should(BeTrue())
		Expect(r.upstream.Idle()).To(BeZero())
		Expect(b.Got()).To(HaveSuffix("\r\n\r\n"))
	})

	It("H23: does not take what a client sends after an early answer for a request", func() {
		b := startRecorder(func(_ int, c *recorded) {
			c.head()
			c.say("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n")
			c.drain()
		})
		r := front(b.addr)
		c := r.dial()
		c.send(expecting("480"))
		response, _ := c.answer("POST")
		Expect(response.StatusCode).To(Equal(417))
		c.send("GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n")
		c.ended()
		Eventually(b.all()[0].Ended).Should(BeTrue())
		Expect(b.Connections()).To(Equal(1), "what has come of it is the body of the first, to the backend too")
		Expect(r.upstream.Idle()).To(BeZero())
	})

	It("H23: passes on the body of a client that does not wait", func() {
		b := startScript(ok)
		r := front(b.addr)
		c := r.dial()
		c.send(expecting("5") + "hello" + getHead())
		for range 2 {
			response, _ := c.answer("POST")
			Expect(response.StatusCode).To(Equal(200))
		}
		Expect(b.Plain()).To(Equal("POST / HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n" + about + "hello" +
			"GET / HTTP/1.1\r\nHost: a.test\r\n" + about))
	})

	It("H23: answers 417 to what else is expected, and the backend hears nothing", func() {
		b := startScript(ok)
		front(b.addr).refused(b, 417,
			post("", "Expect: 200-ok", "Content-Length: 5"), post("", "Expect: 100-continue, x", "Content-Length: 5"),
			post("", "Expect: 100-continue", "Expect: 100-continue", "Content-Length: 5"), post("", "Expect:", "Content-Length: 5"),
		)
	})

	It("H23: forgets the expectation of HTTP/1.0 and of requests without a body", func() {
		b := startScript(ok)
		r := front(b.addr)
		Expect(r.status(getHead("Expect: 100-continue"))).To(Equal(200))
		Expect(r.status("POST / HTTP/1.0\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello")).To(Equal(200))
		Expect(strings.ToLower(b.Got())).NotTo(ContainSubstring("expect"))
	})

	It("tells a client of HTTP/1.0 nothing in the meantime", func() {
		b := startScript("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + ok)
		r := front(b.addr)
		c := r.dial()
		c.send("GET / HTTP/1.0\r\nHost: a.test\r\n\r\n")
		Expect(c.all()).To(Equal("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"))
	})
})
