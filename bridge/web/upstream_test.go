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
		_, body := r.get("one.test", "/")
		Expect(body).To(Equal("one"))
		Eventually(r.upstream.Idle).Should(Equal(1))
		short.Store(true)
		_, body = r.get("two.test", "/")
		Expect(body).To(Equal("two"))
		Eventually(r.upstream.Idle).Should(Equal(1))
		Expect(r.hints).To(BeEmpty())
	})

	It("closes what has been idle for too long, and what backends have closed", func() {
		young, closing := startBackend("young", nil), startBackend("closing", nil)
		r := startRig(rigOptions{hosts: []hostSpec{
			{name: "young.test", backends: []string{young.addr}, web: web.HostOptions{PoolIdle: 100 * time.Millisecond}},
			{name: "closing.test", backends: []string{closing.addr}},
		}})
		r.get("young.test", "/")
		r.get("closing.test", "/")
		Eventually(r.upstream.Idle).Should(Equal(2))
		Eventually(r.upstream.Idle, 5*time.Second).Should(Equal(1))
		closing.server.SetKeepAlivesEnabled(false)
		Eventually(r.upstream.Idle, 5*time.Second).Should(BeZero())
	})

	It("keeps as many as it may, and none where it may not", func() {
		b := startBackend("b", nil)
		r := startRig(rigOptions{hosts: []hostSpec{{name: "a.test", backends: []string{b.addr}, web: web.HostOptions{Pool: -1}}}})
		r.get("a.test", "/")
		Expect(r.upstream.Idle()).To(BeZero())
	})
})
