package web_test

import (
	"io"
	"strings"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// soon is when a backend must have heard that its client has left. It takes well under
// 100 ms; the bound is one that a busy machine keeps too.
const soon = 2 * time.Second

var _ = Describe("Aborts", func() {
	DescribeTable("P11: a client that leaves is heard of by the backend at once", func(request, answer string) {
		b := startRecorder(func(_ int, c *recorded) {
			c.head()
			c.say(answer)
			c.drain()
		})
		r := front(b.addr)
		c := r.dial()
		c.send(request)
		if answer != "" {
			c.upTo("\r\n\r\n")
		}
		Eventually(b.Requests).Should(Equal(1))
		c.Close()
		Eventually(b.all()[0].Ended, soon).Should(BeTrue())
		Eventually(r.server.Connections).Should(BeZero())
		Expect(r.upstream.Idle()).To(BeZero())
		Expect(b.Requests()).To(Equal(1), "nobody waits for another answer")
		Eventually(func() map[string]int64 { return r.upstream.Counters(r.bridge.Host("a.test")).Refusals }).
			Should(Equal(map[string]int64{"client_gone": 1}))
	},
		Entry("before the answer", getHead(), ""),
		Entry("within its body", post("123", "Content-Length: 100000"), ""),
		Entry("within a body in chunks", post("5\r\nhello\r\n", "Transfer-Encoding: chunked"), ""),
		Entry("within an answer by length", getHead(), "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello"),
		Entry("within an answer in chunks", getHead(), "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
		Entry("within a stream of events", getHead(), "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n"),
	)

	It("P11: a client that resets is heard of by the backend", func() {
		b := startRecorder(func(_ int, c *recorded) { c.drain() })
		r := front(b.addr)
		c := r.dial()
		c.send(getHead())
		Eventually(b.Requests).Should(Equal(1))
		c.reset()
		Eventually(b.all()[0].Ended, soon).Should(BeTrue())
	})

	It("P8: has a backend wait for a client that is slow", func() {
		const size = 64 << 20
		var sent atomic.Int64
		b := startRecorder(func(_ int, c *recorded) {
			c.head()
			c.say("HTTP/1.1 200 OK\r\nContent-Length: 67108864\r\n\r\n")
			piece := []byte(strings.Repeat("x", 64<<10))
			for sent.Load() < size {
				n, err := c.Write(piece)
				if sent.Add(int64(n)); err != nil {
					return
				}
			}
			c.drain()
		})
		r := front(b.addr)
		c := r.dial()
		before := heap()
		c.send(getHead())
		c.upTo("\r\n\r\n")
		// What the two sockets' buffers in the kernel take is all that the backend gets rid of.
		last := int64(-1)
		Eventually(func() bool {
			now := sent.Load()
			defer func() { last = now }()
			return now == last
		}, "5s", "200ms").Should(BeTrue())
		Expect(sent.Load()).To(BeNumerically("<", size/2))
		Expect(heap()).To(BeNumerically("<", before+4<<20))
		n, err := io.CopyN(io.Discard, c.reader, size)
		Expect(err).NotTo(HaveOccurred())
		Expect(n).To(BeEquivalentTo(size))
		c.send(getHead())
	})

	It("P8: has a client wait for a backend that is slow", func() {
		release := make(chan struct{})
		b := startRecorder(func(_ int, c *recorded) {
			<-release
			c.request()
			c.say(ok)
		})
		r := front(b.addr)
		c := r.dial()
		const size = 32 << 20
		before := heap()
		c.send(post("", "Content-Length: 33554432"))
		var sent atomic.Int64
		uploaded := make(chan error, 1)
		go func() {
			piece := []byte(strings.Repeat("x", 64<<10))
			for sent.Load() < size {
				n, err := c.Write(piece)
				if sent.Add(int64(n)); err != nil {
					uploaded <- err
					return
				}
			}
			uploaded <- nil
		}()
		last := int64(-1)
		Eventually(func() bool {
			now := sent.Load()
			defer func() { last = now }()
			return now == last
		}, "5s", "200ms").Should(BeTrue())
		Expect(sent.Load()).To(BeNumerically("<", size))
		Expect(heap()).To(BeNumerically("<", before+4<<20))
		c.Close()
		Eventually(uploaded, soon).Should(Receive())
		close(release)
	})
})
