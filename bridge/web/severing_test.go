package web_test

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/bridge"
)

var _ = Describe("Severing", func() {
	// waiting is a backend that begins its answers as told, and goes no further.
	waiting := func(answer string) *recorder {
		GinkgoHelper()
		return startRecorder(func(_ int, c *recorded) {
			for c.head() != "" {
				c.say(answer)
			}
		})
	}

	DescribeTable("H37: a new active backend cuts requests in flight, and gets the next", func(request, answer string) {
		one, two := waiting(answer), startScript(ok)
		r := startRig(rigOptions{hosts: []hostSpec{{name: "a.test", backends: []string{one.addr}, bridge: active}}})
		c := r.dial()
		c.send(request)
		Eventually(one.Requests).Should(Equal(1))
		if answer != "" {
			c.upTo("\r\n\r\n")
		}
		r.activate("a.test", 2, two.addr)
		c.cut()
		Eventually(one.all()[0].Ended).Should(BeTrue())
		severed, err := r.bridge.Host("a.test").AwaitEpoch(context.Background(), 2)
		Expect(err).NotTo(HaveOccurred())
		Expect(severed).To(Equal(1))
		Expect(two.Connections()).To(BeZero(), "what was cut is not asked for again")
		Expect(r.status(getHead())).To(Equal(200))
		Expect(one.Requests()).To(Equal(1))
		Eventually(func() int { return r.bridge.Host("a.test").Counts().Sessions }).Should(BeZero())
	},
		Entry("before the answer", getHead(), ""),
		Entry("within a body", post("123", "Content-Length: 100000"), ""),
		Entry("within an answer", getHead(), "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello"),
		Entry("within an answer that ends with the connection", getHead(), "HTTP/1.1 200 OK\r\n\r\nhello"),
		Entry("within an answer that has begun before the body has come", post("123", "Content-Length: 100000"), "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello"),
	)

	It("leaves client connections alone that have no request in flight, and does not use the old backend's", func() {
		one, two := startScript(ok), startScript(ok)
		r := startRig(rigOptions{hosts: []hostSpec{{name: "a.test", backends: []string{one.addr}, bridge: active}}})
		c := r.dial()
		c.send(getHead())
		c.answer("GET")
		Eventually(r.upstream.Idle).Should(Equal(1))
		r.activate("a.test", 2, two.addr)
		_, err := r.bridge.Host("a.test").AwaitEpoch(context.Background(), 2)
		Expect(err).NotTo(HaveOccurred())
		c.send(getHead())
		response, _ := c.answer("GET")
		Expect(response.StatusCode).To(Equal(200))
		Expect(one.Requests()).To(Equal(1))
		Expect(two.Requests()).To(Equal(1))
	})

	It("cuts what is in flight when traffic goes off, and answers 503", func() {
		b := waiting("")
		r := front(b.addr)
		c := r.dial()
		c.send(getHead())
		Eventually(b.Requests).Should(Equal(1))
		answer, err := r.bridge.Host("a.test").SetTraffic(context.Background(), bridge.TrafficChange{Message: "off"})
		Expect(err).NotTo(HaveOccurred())
		Expect(answer.Severed).To(Equal(1))
		c.cut()
		Expect(r.status(getHead())).To(Equal(503))
	})

	It("ends a request that an operator names", func() {
		b := waiting("")
		r := front(b.addr)
		c := r.dial()
		c.send(getHead())
		Eventually(b.Requests).Should(Equal(1))
		sessions := r.bridge.Sessions()
		Expect(sessions).To(HaveLen(1))
		Expect(sessions[0].Protocol).To(Equal(bridge.HTTP))
		Expect(r.bridge.EndSession(sessions[0].ID)).To(Succeed())
		c.cut()
		Eventually(b.all()[0].Ended).Should(BeTrue())
	})

	It("holds a request while there is no active backend, and lets go of one whose client leaves", func() {
		b := startScript(ok)
		r := startRig(rigOptions{hosts: []hostSpec{{name: "a.test", bridge: func(o *bridge.HostOptions) {
			active(o)
			o.Hold = 10 * time.Second
		}}}})
		parked := func() int { return r.bridge.Host("a.test").Counts().Parked }
		stays, leaves := r.dial(), r.dial()
		stays.send(post("hello", "Content-Length: 5"))
		leaves.send(getHead())
		Eventually(parked).Should(Equal(2))
		leaves.Close()
		Eventually(parked).Should(Equal(1))
		r.activate("a.test", 2, b.addr)
		response, _ := stays.answer("POST")
		Expect(response.StatusCode).To(Equal(200))
		Expect(b.Requests()).To(Equal(1))
	})

	It("H37: lets a request end on the backend that it is on, of many, when that goes out of the table", func() {
		answer := make(chan struct{})
		one := startRecorder(func(_ int, c *recorded) {
			c.head()
			<-answer
			c.say(ok)
			c.drain()
		})
		two := startScript(ok)
		r := front(one.addr)
		c := r.dial()
		c.send(getHead())
		Eventually(one.Requests).Should(Equal(1))
		r.up("a.test", "", two.addr)
		Eventually(func() int { return r.status(getHead()) }).Should(Equal(200))
		Eventually(two.Requests).ShouldNot(BeZero())
		close(answer)
		response, body := c.answer("GET")
		Expect(response.StatusCode).To(Equal(200))
		Expect(body).To(Equal("ok"))
		Expect(one.Requests()).To(Equal(1))
	})
})
