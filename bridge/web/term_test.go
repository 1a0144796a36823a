package web_test

import (
	"context"
	"net"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/bridge"
	"switchboard/bridge/web"
	"switchboard/fixtures/spec"
)

var _ = Describe("a term that ends before its backend is reached", func() {
	const request = "POST / HTTP/1.1\r\nHost: db.test\r\nContent-Length: 2\r\n\r\nhi"

	It("takes the request to the next one, whatever its method", func() {
		old, young := startBackend("old", nil), startBackend("young", nil)
		dialing := make(chan struct{})
		chaos := spec.NewChaos(spec.Until(dialing))
		r := startRig(rigOptions{
			hosts: []hostSpec{{name: "db.test", backends: []string{old.addr}, bridge: active, web: web.HostOptions{Retries: -1}}},
			dial:  chaos.Dial,
		})
		c := r.dial()
		c.send(request)
		Eventually(chaos.Held).Should(Equal(1))
		r.activate("db.test", 2, young.addr)
		response, body := c.answer("POST")
		Expect(response.StatusCode).To(Equal(200))
		Expect(body).To(Equal("young"))
		Expect(old.requests.Load()).To(BeZero())
		close(dialing)
	})

	It("does so in whatever moment of a dial it ends", func() {
		old, young := startBackend("old", nil), startBackend("young", nil)
		var held atomic.Int64
		var network net.Dialer
		r := startRig(rigOptions{
			hosts: []hostSpec{{name: "db.test", backends: []string{old.addr}, bridge: active, web: web.HostOptions{Retries: -1}}},
			dial: func(ctx context.Context, kind, address string) (net.Conn, error) {
				if address != old.addr {
					return network.DialContext(ctx, kind, address)
				}
				held.Add(1)
				return nil, spec.Stall(ctx, kind, address)
			},
		})
		for round := range 100 {
			c := r.dial()
			c.send(request)
			Eventually(held.Load).WithPolling(time.Millisecond).Should(BeEquivalentTo(round + 1))
			r.activate("db.test", uint64(2*round+2), young.addr)
			response, body := c.answer("POST")
			Expect(response.StatusCode).To(Equal(200), "round %d", round)
			Expect(body).To(Equal("young"))
			c.Close()
			r.activate("db.test", uint64(2*round+3), old.addr)
			Expect(r.bridge.Host("db.test").AwaitEpoch(context.Background(), uint64(2*round+3))).Error().NotTo(HaveOccurred())
		}
	})

	It("holds a request while there is no backend, and when the one there is cannot be dialed", func() {
		gone := spec.RefusedAddr()
		young := startBackend("young", nil)
		r := startRig(rigOptions{hosts: []hostSpec{{name: "db.test", backends: []string{gone}, bridge: func(o *bridge.HostOptions) {
			active(o)
			o.Hold = time.Minute
		}}}})
		c := r.dial()
		c.send(request)
		Eventually(func() int { return r.bridge.Host("db.test").Counts().Parked }).Should(Equal(1))
		r.activate("db.test", 2)
		Eventually(func() int { return r.bridge.Host("db.test").Counts().Parked }).Should(Equal(1))
		r.activate("db.test", 3, young.addr)
		_, body := c.answer("POST")
		Expect(body).To(Equal("young"))
	})

	It("answers 503 when traffic goes off instead", func() {
		backend := startBackend("b", nil)
		dialing := make(chan struct{})
		chaos := spec.NewChaos(spec.Until(dialing))
		r := startRig(rigOptions{hosts: []hostSpec{{name: "db.test", backends: []string{backend.addr}, bridge: active}}, dial: chaos.Dial})
		c := r.dial()
		c.send(request)
		Eventually(chaos.Held).Should(Equal(1))
		_, err := r.bridge.Host("db.test").SetTraffic(GinkgoT().Context(), bridge.TrafficChange{Message: "off"})
		Expect(err).NotTo(HaveOccurred())
		response, _ := c.answer("POST")
		Expect(response.StatusCode).To(Equal(503))
		close(dialing)
	})
})
