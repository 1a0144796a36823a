package web_test

import (
	"context"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/bridge/web"
)

var _ = Describe("Upstream", func() {
	// ask is on a connection that stays: when a client leaves, so does its backend's.
	ask := func(r *rig, host string) string {
		GinkgoHelper()
		c := r.dial()
		c.send("GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n")
		_, body := c.answer("GET")
		return body
	}

	It("closes idle connections to make room for one that there is no descriptor for", func() {
		one, two := startBackend("one", nil), startBackend("two", nil)
		var short atomic.Bool
		dialer := new(net.Dialer)
		r := startRig(rigOptions{
			hosts: []hostSpec{{name: "one.test", backends: []string{one.addr}}, {name: "two.test", backends: []string{two.addr}}},
			dial: func(ctx context.Context, network, address string) (net.Conn, error) {
				if short.Swap(false) {
					return nil, &net.OpError{Op: "dial", Err: os.NewSyscallError("socket", syscall.EMFILE)}
				}
				return dialer.DialContext(ctx, network, address)
			},
		})
		Expect(ask(r, "one.test")).To(Equal("one"))
		Eventually(r.upstream.Idle).Should(Equal(1))
		short.Store(true)
		Expect(ask(r, "two.test")).To(Equal("two"))
		Eventually(r.upstream.Idle).Should(Equal(1))
		Expect(r.hints).To(BeEmpty())
	})

	It("closes what has been idle for too long, and what backends have closed", func() {
		young, closing := startBackend("young", nil), startBackend("closing", nil)
		r := startRig(rigOptions{hosts: []hostSpec{
			{name: "young.test", backends: []string{young.addr}, web: web.HostOptions{PoolIdle: 100 * time.Millisecond}},
			{name: "closing.test", backends: []string{closing.addr}},
		}})
		ask(r, "young.test")
		ask(r, "closing.test")
		Eventually(r.upstream.Idle, 5*time.Second).Should(Equal(1))
		closing.server.SetKeepAlivesEnabled(false)
		Eventually(r.upstream.Idle, 5*time.Second).Should(BeZero())
	})

	It("keeps as many as it may, and none where it may not", func() {
		b := startBackend("b", nil)
		r := startRig(rigOptions{hosts: []hostSpec{{name: "a.test", backends: []string{b.addr}, web: web.HostOptions{Pool: -1}}}})
		ask(r, "a.test")
		Consistently(r.upstream.Idle, "50ms").Should(BeZero())
	})
})
