package web_test

import (
	"io"
	"runtime"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/bridge/web"
)

var _ = Describe("Limits", func() {
	DescribeTable("H27: a head over a limit is refused, and the backend hears nothing", func(status int, heads ...string) {
		b := startScript(ok)
		front(b.addr).refused(b, status, heads...)
	},
		Entry("a field of 100 KiB", 431, getHead("X: "+strings.Repeat("y", 100<<10))),
		Entry("10,000 fields", 431, getHead(strings.Split(strings.Repeat("X: y\n", 10_000), "\n")[:10_000]...)),
		Entry("a field too many", 431, getHead(strings.Split(strings.Repeat("X: y\n", 100), "\n")[:100]...)),
		Entry("a target of 1 MiB", 414, "GET /"+strings.Repeat("x", 1<<20)+" HTTP/1.1\r\nHost: a.test\r\n\r\n"),
		Entry("a byte of target too many", 414, "GET /"+strings.Repeat("x", 8<<10)+" HTTP/1.1\r\nHost: a.test\r\n\r\n"),
		Entry("a method that is too long", 400, strings.Repeat("M", 33)+" / HTTP/1.1\r\nHost: a.test\r\n\r\n"),
	)

	DescribeTable("H27: a head just within the limits is passed on", func(head string) {
		b := startScript(ok)
		r := front(b.addr)
		Expect(r.status(head)).To(Equal(200))
	},
		Entry("32 KiB", getHead("X: "+strings.Repeat("y", 32<<10-len(getHead("X: "))))),
		Entry("100 fields", getHead(strings.Split(strings.Repeat("X: y\n", 99), "\n")[:99]...)),
		Entry("8 KiB of target", "GET /"+strings.Repeat("x", 8<<10-1)+" HTTP/1.1\r\nHost: a.test\r\n\r\n"),
	)

	It("H27: does not keep what a head goes on with that never ends", func() {
		r := front()
		before := heap()
		for range 20 {
			c := r.dial()
			c.send("GET / HTTP/1.1\r\nHost: a.test\r\n")
			// It may be refused and closed before all of this is sent.
			_, _ = io.WriteString(c, strings.Repeat("X: "+strings.Repeat("y", 1000)+"\r\n", 1000))
		}
		Expect(heap()).To(BeNumerically("<", before+10<<20))
	})

	Context("when a client is slow", func() {
		slow := func(b *recorder) *rig {
			GinkgoHelper()
			return startRig(rigOptions{
				hosts: []hostSpec{{name: "a.test", backends: []string{b.addr}}},
				server: func(o *web.Options) {
					o.Head, o.Body, o.Idle = 200*time.Millisecond, 200*time.Millisecond, 200*time.Millisecond
				},
			})
		}

		It("H28: answers 408 to a head that comes drop by drop, however steadily", func() {
			b := startScript(ok)
			r := slow(b)
			c := r.dial()
			stop := make(chan struct{})
			dripping := make(chan struct{})
			go func() {
				defer close(dripping)
				ticks := time.NewTicker(20 * time.Millisecond)
				defer ticks.Stop()
				for {
					select {
					case <-ticks.C:
						io.WriteString(c, "G")
					case <-stop:
						return
					}
				}
			}()
			response, _ := c.answer("GET")
			close(stop)
			<-dripping
			Expect(response.StatusCode).To(Equal(408))
			Expect(response.Close).To(BeTrue())
			Expect(b.Connections()).To(BeZero())
		})

		DescribeTable("H28: answers 408 to a body that does not go on, and ends the backend's side", func(raw string) {
			b := startRecorder(func(_ int, c *recorded) { c.drain() })
			r := slow(b)
			c := r.dial()
			c.send(raw)
			response, _ := c.answer("POST")
			Expect(response.StatusCode).To(Equal(408))
			Expect(response.Close).To(BeTrue())
			c.ended()
			Eventually(b.all()[0].Ended).Should(BeTrue())
			Expect(b.Requests()).To(Equal(1))
		},
			Entry("by length", post("123", "Content-Length: 100000")),
			Entry("in chunks", post("5\r\nhello\r\n", "Transfer-Encoding: chunked")),
		)

		It("H28: cuts a client that takes nothing of its answer", func() {
			b := startRecorder(func(_ int, c *recorded) {
				c.head()
				c.say("HTTP/1.1 200 OK\r\n\r\n")
				io.Copy(c, endless{})
			})
			r := slow(b)
			c := r.dial()
			c.send(getHead())
			Eventually(b.Connections).Should(Equal(1))
			Eventually(b.all()[0].Ended, 5*time.Second).Should(BeTrue())
			Eventually(r.server.Connections, 5*time.Second).Should(BeZero())
		})

		It("H28: cuts a client that asks and asks and takes none of the router's own answers", func() {
			r := slow(startScript(ok))
			c := r.dial()
			asking := make(chan struct{})
			go func() {
				defer close(asking)
				for many := strings.Repeat(host("unknown.test"), 1000); ; {
					if _, err := io.WriteString(c, many); err != nil {
						return
					}
				}
			}()
			Eventually(r.server.Connections, 5*time.Second).Should(Equal(1))
			Eventually(r.server.Connections, 5*time.Second).Should(BeZero())
			Eventually(asking, 5*time.Second).Should(BeClosed())
		})

		It("ends a connection that is idle, without a word", func() {
			b := startScript(ok)
			r := slow(b)
			c := r.dial()
			c.ended()
			c = r.dial()
			c.send(getHead())
			c.answer("GET")
			c.ended()
		})

		It("has a client wait for a slow backend, though it is silent itself", func() {
			answer := make(chan struct{})
			b := startRecorder(func(_ int, c *recorded) {
				c.request()
				<-answer
				c.say(ok)
				c.drain()
			})
			r := slow(b)
			c := r.dial()
			c.send(post("hello", "Content-Length: 5"))
			Eventually(b.Requests).Should(Equal(1))
			Consistently(r.server.Connections, "500ms").Should(Equal(1))
			close(answer)
			response, _ := c.answer("POST")
			Expect(response.StatusCode).To(Equal(200))
		})
	})

	It("H29: serves requests that come byte by byte", func() {
		b := startScript(ok)
		r := front(b.addr)
		c := r.dial()
		for range 20 {
			for _, one := range []byte(getHead()) {
				c.send(string(one))
			}
		}
		for range 20 {
			response, _ := c.answer("GET")
			Expect(response.StatusCode).To(Equal(200))
		}
	})

	It("answers 413 to a body over the limit, before the backend hears of it where the length is known", func() {
		b := startScript(ok)
		r := startRig(rigOptions{
			hosts:  []hostSpec{{name: "a.test", backends: []string{b.addr}}},
			server: func(o *web.Options) { o.MaxBody = 10 },
		})
		Expect(r.status(post("0123456789", "Content-Length: 10"))).To(Equal(200))
		n := b.Requests()
		Expect(r.status(post("0123456789a", "Content-Length: 11"))).To(Equal(413))
		Expect(b.Requests()).To(Equal(n))
		Expect(r.status(post("a\r\n0123456789\r\n0\r\n\r\n", "Transfer-Encoding: chunked"))).To(Equal(200))
		Expect(r.status(post("8\r\n01234567\r\n8\r\n89abcdef\r\n0\r\n\r\n", "Transfer-Encoding: chunked"))).To(Equal(413))
		Expect(b.Got()).NotTo(ContainSubstring("89abcdef"))
	})
})

// endless is read for ever.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// heap is how much of it is in use.
func heap() int64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}
