package web_test

import (
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/bridge/web"
)

var _ = Describe("Counters", func() {
	It("counts requests by class and time, and the bytes of both ways", func() {
		answers := []string{
			ok, "HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n",
			"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n",
			"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
		}
		b := startScript(answers...)
		r := front(b.addr)
		c := r.dial()
		requests := []string{
			getHead(), post("hello", "Content-Length: 5"), getHead(), getHead(), getHead(), post("5\r\nhello\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
		}
		for _, request := range requests {
			c.send(request)
			c.answer("GET")
		}
		counters := func() web.Counters { return r.upstream.Counters(r.bridge.Host("a.test")) }
		Eventually(func() int64 { return counters().Requests }).Should(Equal(int64(6)))
		got := counters()
		Expect(got.Classes).To(Equal([6]int64{0, 0, 3, 1, 1, 1}))
		Expect(got.FromClients).To(BeEquivalentTo(len(strings.Join(requests, ""))))
		// The answers are passed on as they came: they have nothing that is left out.
		Expect(got.ToClients).To(BeEquivalentTo(len(strings.Join(answers, ""))))
		timed := int64(0)
		for _, n := range got.Latency {
			timed += n
		}
		Expect(timed).To(Equal(int64(6)))
		Expect(got.Took).To(BeNumerically(">", 0))
		Expect(got.Retries).To(BeZero())
		Expect(got.Refusals).To(BeEmpty())
	})

	It("counts by reason what the router answers itself", func() {
		down := startScript(hangUp)
		r := startRig(rigOptions{hosts: []hostSpec{{name: "a.test", backends: []string{down.addr}}, {name: "none.test"}}})
		for _, raw := range []string{getHead(), host("none.test"), host("unknown.test"), host(""), "\x16\x03\x01", "GET / HTTP/1.1\n\n"} {
			r.status(raw)
		}
		Expect(r.server.Refusals()).To(Equal(map[string]int64{"unknown_host": 1, "host": 1, "tls": 1, "bare_lf": 1}))
		of := func(name string) web.Counters { return r.upstream.Counters(r.bridge.Host(name)) }
		Eventually(func() int64 { return of("a.test").Requests }).Should(Equal(int64(1)))
		Expect(of("a.test").Refusals).To(Equal(map[string]int64{"backend_failed": 1}))
		Expect(of("a.test").Classes).To(Equal([6]int64{0, 0, 0, 0, 0, 1}))
		Eventually(func() int64 { return of("none.test").Requests }).Should(Equal(int64(1)))
		Expect(of("none.test").Refusals).To(Equal(map[string]int64{"no_backend": 1}))
	})

	It("counts requests that had no answer", func() {
		b := startRecorder(func(_ int, c *recorded) { c.drain() })
		r := front(b.addr)
		c := r.dial()
		c.send(getHead())
		Eventually(b.Requests).Should(Equal(1))
		Expect(r.bridge.Host("a.test").Counts().Backends).To(Equal(map[string]int{"b0": 1}))
		c.Close()
		counters := func() web.Counters { return r.upstream.Counters(r.bridge.Host("a.test")) }
		Eventually(func() int64 { return counters().Requests }).Should(Equal(int64(1)))
		Expect(counters().Classes[0]).To(Equal(int64(1)))
		Expect(r.bridge.Host("a.test").Counts().Sessions).To(BeZero())
	})
})
