package web_test

import (
	"net"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/bridge/web"
)

var _ = Describe("Retries", func() {
	// counters are those of a.test.
	counters := func(r *rig) web.Counters { return r.upstream.Counters(r.bridge.Host("a.test")) }

	It("P12: asks again, on a new connection, if a backend dies before it has answered a GET", func() {
		b := startScript(hangUp, ok)
		r := front(b.addr)
		Expect(r.status(getHead())).To(Equal(200))
		Expect(b.Requests()).To(Equal(2))
		Expect(b.Connections()).To(Equal(2))
		Expect(counters(r).Retries).To(Equal(int64(1)))
	})

	It("P12: asks another backend if there is one", func() {
		bad, good := startScript(hangUp), startScript(ok)
		r := front(bad.addr, good.addr)
		for range 20 {
			Expect(r.status(getHead())).To(Equal(200))
		}
		Expect(bad.Requests()).To(BeNumerically("<=", 20))
		Expect(good.Requests()).To(Equal(20))
	})

	It("P12: asks no more often than it may", func() {
		b := startScript(hangUp)
		r := startRig(rigOptions{hosts: []hostSpec{{name: "a.test", backends: []string{b.addr}, web: web.HostOptions{Retries: 3}}}})
		Expect(r.status(getHead())).To(Equal(502))
		Expect(b.Requests()).To(Equal(4))
		none := startScript(hangUp)
		r = startRig(rigOptions{hosts: []hostSpec{{name: "a.test", backends: []string{none.addr}, web: web.HostOptions{Retries: -1}}}})
		Expect(r.status(getHead())).To(Equal(502))
		Expect(none.Requests()).To(Equal(1))
	})

	DescribeTable("P13: delivers a request once that may have been acted on", func(raw string) {
		b := startScript(hangUp)
		r := front(b.addr)
		Expect(r.status(raw)).To(Equal(502))
		Expect(b.Requests()).To(Equal(1))
		Expect(counters(r).Retries).To(BeZero())
	},
		Entry("POST without a body", post("", "Content-Length: 0")),
		Entry("POST", post("hello", "Content-Length: 5")),
		Entry("POST in chunks", post("5\r\nhello\r\n0\r\n\r\n", "Transfer-Encoding: chunked")),
		Entry("PATCH", strings.Replace(post("hello", "Content-Length: 5"), "POST", "PATCH", 1)),
		Entry("a method that nobody knows", strings.Replace(getHead(), "GET", "FROB", 1)),
		Entry("PUT whose body has been passed on", strings.Replace(post("5\r\nhello\r\n0\r\n\r\n", "Transfer-Encoding: chunked"), "POST", "PUT", 1)),
		Entry("PUT with more than is kept", strings.Replace(post(strings.Repeat("x", 100<<10), "Content-Length: 102400"), "POST", "PUT", 1)),
	)

	It("sends a short PUT again, whole", func() {
		b := startScript(hangUp, ok)
		r := front(b.addr)
		put := strings.Replace(post("hello", "Content-Length: 5"), "POST", "PUT", 1)
		Expect(r.status(put)).To(Equal(200))
		Expect(b.Plain()).To(Equal(strings.Repeat("PUT / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n"+about+"hello", 2)))
	})

	It("tries a POST elsewhere if nothing of it can have arrived", func() {
		good := startScript(ok)
		r := front(nobody(), good.addr)
		for range 10 {
			Expect(r.status(post(strings.Repeat("x", 100<<10), "Content-Length: 102400"))).To(Equal(200))
		}
		Expect(good.Requests()).To(Equal(10))
	})

	It("answers 502 to a client that waits to send a body that nobody will take", func() {
		b := startRecorder(func(_ int, c *recorded) { c.head() })
		r := front(b.addr)
		c := r.dial()
		c.send(strings.Replace(post("", "Content-Length: 5", "Expect: 100-continue"), "POST", "PUT", 1))
		response, _ := c.answer("PUT")
		Expect(response.StatusCode).To(Equal(502))
		Expect(response.Close).To(BeTrue())
		c.ended()
	})

	Context("P14: when an idle connection ends as it is used again", func() {
		// ending answers a first request, and ends the connection when the second has come.
		ending := func() *recorder {
			return startRecorder(func(n int, c *recorded) {
				for i := 0; c.request() != nil; i++ {
					if n == 0 && i == 1 {
						return
					}
					c.say(ok)
				}
			})
		}

		It("sends a GET again", func() {
			b := ending()
			r := front(b.addr)
			c := r.dial()
			for range 3 {
				c.send(getHead())
				response, _ := c.answer("GET")
				Expect(response.StatusCode).To(Equal(200))
			}
			Expect(b.Requests()).To(Equal(4))
			Expect(b.Connections()).To(Equal(2))
		})

		It("does not send a POST again", func() {
			b := ending()
			r := front(b.addr)
			c := r.dial()
			for _, status := range []int{200, 502, 200} {
				c.send(post("hello", "Content-Length: 5"))
				response, _ := c.answer("POST")
				Expect(response.StatusCode).To(Equal(status))
			}
			Expect(strings.Count(b.Got(), "hello")).To(Equal(3))
		})

		It("uses none that has ended already", func() {
			b := startRecorder(func(_ int, c *recorded) {
				if c.request() != nil {
					c.say(ok)
				}
			})
			r := front(b.addr)
			c := r.dial()
			for n := range 10 {
				c.send(post("hello", "Content-Length: 5"))
				response, _ := c.answer("POST")
				Expect(response.StatusCode).To(Equal(200))
				Eventually(b.all()[n].Ended).Should(BeTrue())
			}
			Expect(b.Connections()).To(Equal(10))
		})
	})

	It("P15: does not multiply the requests that all backends fail", func() {
		fail := func(_ int, c *recorded) { c.head() }
		one, two := startRecorder(fail), startRecorder(fail)
		r := front(one.addr, two.addr)
		const n, saved = 1300, 1000
		c := r.dial()
		c.SetDeadline(time.Now().Add(30 * time.Second))
		for range n {
			c.send(getHead())
			response, _ := c.answer("GET")
			Expect(response.StatusCode).To(Equal(502))
		}
		// What a backend that goes down may cost is saved up; beyond it is a tenth.
		Expect(one.Connections() + two.Connections()).To(BeNumerically("<=", n+saved+n/10))
		Expect(counters(r).Retries).To(BeNumerically("<=", saved+n/10))
	})

	It("H24: ends both connections if the backend answers before it has the body, and takes no byte of that for a request", func() {
		b := startRecorder(func(_ int, c *recorded) {
			c.head()
			c.say("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly")
			c.drain()
		})
		r := front(b.addr)
		c := r.dial()
		c.send(post("GET /smuggled HTTP/1.1\r\n", "Content-Length: 600"))
		response, body := c.answer("POST")
		Expect(response.StatusCode).To(Equal(200))
		Expect(response.Close).To(BeTrue())
		Expect(body).To(Equal("early"))
		c.send("Host: a.test\r\n\r\nGET /canary HTTP/1.1\r\nHost: a.test\r\n\r\n")
		c.ended()
		Eventually(b.all()[0].Ended).Should(BeTrue())
		Expect(b.Connections()).To(Equal(1), "what has come of it is the body of the first, to the backend too")
		Expect(r.upstream.Idle()).To(BeZero())
	})

	It("H24: does not use a backend's connection again that says it will end", func() {
		b := startScript("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
		r := front(b.addr)
		c := r.dial()
		for range 3 {
			c.send(getHead())
			response, _ := c.answer("GET")
			Expect(response.Close).To(BeFalse())
		}
		Expect(b.Connections()).To(Equal(3))
	})
})

// nobody is an address that refuses connections.
func nobody() string {
	GinkgoHelper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	Expect(err).NotTo(HaveOccurred())
	defer listener.Close()
	return listener.Addr().String()
}
