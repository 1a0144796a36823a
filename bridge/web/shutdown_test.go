package web_test

import (
	"strings"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/bridge"
)

var _ = Describe("Shutdown", func() {
	// drainable is a rig with one backend whose requests may go on for drain.
	drainable := func(b *recorder, drain time.Duration) *rig {
		GinkgoHelper()
		return startRig(rigOptions{
			hosts:  []hostSpec{{name: "a.test", backends: []string{b.addr}}},
			bridge: func(o *bridge.Options) { o.Drain = drain },
		})
	}

	// held is a backend that answers when it is let.
	held := func(answer string) (*recorder, chan<- struct{}) {
		GinkgoHelper()
		let := make(chan struct{})
		b := startRecorder(func(_ int, c *recorded) {
			for c.request() != nil {
				<-let
				c.say(answer)
			}
		})
		DeferCleanup(func() {
			select {
			case <-let:
			default:
				close(let)
			}
		})
		return b, let
	}

	It("ends connections that are idle at once", func() {
		b, let := held(ok)
		close(let)
		r := drainable(b, 10*time.Second)
		idle, used := r.dial(), r.dial()
		used.send(getHead())
		used.answer("GET")
		Eventually(r.server.Connections).Should(Equal(2))
		r.signals <- syscall.SIGTERM
		idle.ended()
		used.ended()
		Eventually(r.ended).Should(Receive(BeNil()))
		r.ended <- nil
	})

	It("lets a request in flight end within the drain, and says that the connection ends", func() {
		b, let := held(ok)
		r := drainable(b, 10*time.Second)
		c, idle := r.dial(), r.dial()
		c.send(getHead() + getHead())
		Eventually(b.Requests).Should(Equal(1))
		r.signals <- syscall.SIGTERM
		idle.ended()
		close(let)
		response, body := c.answer("GET")
		Expect(response.StatusCode).To(Equal(200))
		Expect(response.Close).To(BeTrue())
		Expect(body).To(Equal("ok"))
		c.ended()
		// Until then it is waited for, for a second: it might not have read all.
		c.Close()
		Expect(b.Requests()).To(Equal(1))
		Eventually(r.ended).Should(Receive(BeNil()))
		r.ended <- nil
	})

	It("loses nothing of an answer that a client reads only after the end", func() {
		big := strings.Repeat("0123456789abcdef", 8<<10)
		b, let := held("HTTP/1.1 200 OK\r\nContent-Length: 131072\r\n\r\n" + big)
		r := drainable(b, 10*time.Second)
		c := r.dial()
		c.send(getHead())
		Eventually(b.Requests).Should(Equal(1))
		r.signals <- syscall.SIGTERM
		close(let)
		Eventually(r.ended, 5*time.Second).Should(Receive(BeNil()))
		r.ended <- nil
		response, body := c.answer("GET")
		Expect(response.StatusCode).To(Equal(200))
		Expect(body == big).To(BeTrue(), "%d bytes", len(body))
		c.ended()
	})

	It("cuts a request that goes on after the drain", func() {
		b, _ := held(ok)
		r := drainable(b, 200*time.Millisecond)
		c := r.dial()
		c.send(getHead())
		Eventually(b.Requests).Should(Equal(1))
		r.signals <- syscall.SIGTERM
		c.cut()
		Eventually(r.ended).Should(Receive(BeNil()))
		r.ended <- nil
	})

	It("cuts all with a second signal", func() {
		b, _ := held(ok)
		r := drainable(b, time.Hour)
		c := r.dial()
		c.send(getHead())
		Eventually(b.Requests).Should(Equal(1))
		r.signals <- syscall.SIGTERM
		Consistently(r.ended, "100ms").ShouldNot(Receive())
		r.signals <- syscall.SIGTERM
		c.cut()
		Eventually(r.ended).Should(Receive(BeNil()))
		r.ended <- nil
	})

	It("ends with a client that is within a head, or has been refused and does not leave", func() {
		b, _ := held(ok)
		r := drainable(b, 0)
		head, refused := r.dial(), r.dial()
		head.send("GET / HT")
		refused.send("\x00")
		refused.answer("GET")
		Eventually(r.server.Connections).Should(Equal(2))
		r.signals <- syscall.SIGTERM
		Eventually(r.ended, 5*time.Second).Should(Receive(BeNil()))
		r.ended <- nil
	})
})
