package web_test

import (
	"fmt"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/bridge/web"
)

var _ = Describe("Streams of events", func() {
	DescribeTable("P9: the head and each event are passed on at once", func(framing, event, want string) {
		events := make(chan string)
		defer close(events)
		b := startRecorder(func(_ int, c *recorded) {
			c.head()
			c.say("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" + framing + "\r\n")
			for e := range events {
				c.say(e)
			}
		})
		r := front(b.addr)
		c := r.dial()
		c.send(getHead("Accept: text/event-stream"))
		Expect(c.upTo("\r\n\r\n")).To(HavePrefix("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"))
		for n := range 10 {
			// The next is not sent before this one has come.
			events <- fmt.Sprintf(event, n)
			Expect(c.upTo(fmt.Sprintf(want, n))).NotTo(BeEmpty())
		}
	},
		Entry("in chunks", "Transfer-Encoding: chunked\r\n", "9\r\ndata: %d\n\n\r\n", "9\r\ndata: %d\n\n\r\n"),
		Entry("to the connection's end", "", "data: %d\n\n", "9\r\ndata: %d\n\n\r\n"),
		Entry("by length", "Content-Length: 1000\r\n", "data: %d\n\n", "data: %d\n\n"),
	)

	It("P9: may be silent for as long as it likes", func() {
		event := make(chan struct{})
		b := startRecorder(func(_ int, c *recorded) {
			c.head()
			c.say("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
			<-event
			c.say("data: 1\n\n")
		})
		// Neither is the client's silence one that is timed, nor does the time that a backend
		// has to begin bind it afterwards.
		r := startRig(rigOptions{
			hosts: []hostSpec{{name: "a.test", backends: []string{b.addr}, web: web.HostOptions{HeadTimeout: 200 * time.Millisecond}}},
			server: func(o *web.Options) {
				o.Idle, o.Head, o.Body = 200*time.Millisecond, 200*time.Millisecond, 200*time.Millisecond
			},
		})
		c := r.dial()
		c.send(getHead())
		c.upTo("\r\n\r\n")
		Consistently(r.server.Connections, "600ms").Should(Equal(1))
		close(event)
		c.upTo("data: 1\n\n")
	})

	It("P9: is cut after the silence that its host allows", func() {
		b := startRecorder(func(_ int, c *recorded) {
			c.head()
			c.say("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
			c.drain()
		})
		r := startRig(rigOptions{hosts: []hostSpec{{name: "a.test", backends: []string{b.addr}, web: web.HostOptions{Silence: 100 * time.Millisecond}}}})
		c := r.dial()
		c.send(getHead())
		Expect(c.cut()).To(SatisfyAny(BeEmpty(), ContainSubstring("data: 1")))
		Eventually(b.all()[0].Ended).Should(BeTrue())
	})
})
