package web_test

import (
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
