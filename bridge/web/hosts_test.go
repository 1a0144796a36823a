package web_test

import (
	"fmt"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("Hosts and targets of requests", func() {
	DescribeTable("what names no host, or none beyond doubt, never reaches a backend", func(status int, heads ...string) {
		b := startScript(ok)
		front(b.addr).refused(b, status, heads...)
	},
		Entry("H10: no Host, two, or one that is none", 400,
			"GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.0\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: a.test\r\nHost: a.test\r\n\r\n", "GET / HTTP/1.1\r\nHost: a.test\r\nhost: b.test\r\n\r\n",
			host(""), host("a.test,b.test"), host("a.test, a.test"), host("user@a.test"), host("user:pw@a.test"), host("a.test:80:90"),
			host("a.test:"), host("a.test:0"), host("a.test:65536"), host("a.test:080"), host("a.test:http"), host(":80"), host("a.test/"),
			host("a.test?"), host("a.test#"), host("a..test"), host(".a.test"), host("a.test\\"), host("a test"), host("a%2etest"), host("http://a.test"),
			host("ä.test"), host("[::1"), host("::1"), host("[::1%eth0]"), host("[::1]x"), host("[]"), host("*.test"), host(strings.Repeat("a", 255)),
		),
		Entry("H11: a target of another host than Host", 400,
			"GET http://b.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
			"GET http://a.test:81/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
			"GET http://a.test@b.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
			"GET http://a.test/ HTTP/1.1\r\n\r\n",
		),
		Entry("H14: CONNECT and TRACE", 405,
			"CONNECT a.test:80 HTTP/1.1\r\nHost: a.test\r\n\r\n", "TRACE / HTTP/1.1\r\nHost: a.test\r\n\r\n", "CONNECT / HTTP/1.1\r\nHost: a.test\r\n\r\n",
		),
		Entry("H14: * for another method than OPTIONS", 400, "GET * HTTP/1.1\r\nHost: a.test\r\n\r\n"),
		Entry("H14: other versions", 505, "GET / HTTP/2.0\r\nHost: a.test\r\n\r\n", "GET / HTTP/1.2\r\nHost: a.test\r\n\r\n", "GET / HTTP/3.0\r\nHost: a.test\r\n\r\n"),
		Entry("H14: versions that are none", 400,
			"GET /\r\n\r\n", "GET / HTTP/1.10\r\nHost: a.test\r\n\r\n", "GET / http/1.1\r\nHost: a.test\r\n\r\n", "GET / HTTP/01.1\r\nHost: a.test\r\n\r\n",
			"GET / ICY/1.1\r\nHost: a.test\r\n\r\n", "GET  / HTTP/1.1\r\nHost: a.test\r\n\r\n", "GET /  HTTP/1.1\r\nHost: a.test\r\n\r\n",
			"GET / HTTP/1.1 \r\nHost: a.test\r\n\r\n", "GET /a b HTTP/1.1\r\nHost: a.test\r\n\r\n", " GET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
		),
		Entry("H15: an authority, a fragment or bytes outside ASCII as target", 400,
			"GET a.test:80 HTTP/1.1\r\nHost: a.test\r\n\r\n", "GET a.test HTTP/1.1\r\nHost: a.test\r\n\r\n", "GET /#x HTTP/1.1\r\nHost: a.test\r\n\r\n",
			"GET http://a.test/#x HTTP/1.1\r\nHost: a.test\r\n\r\n", "GET /ä HTTP/1.1\r\nHost: a.test\r\n\r\n", "GET /\xff HTTP/1.1\r\nHost: a.test\r\n\r\n",
			"GET ftp://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n", "GET ?x HTTP/1.1\r\nHost: a.test\r\n\r\n", "GET http:///x HTTP/1.1\r\nHost: a.test\r\n\r\n",
		),
	)

	DescribeTable("H11: an absolute target is forwarded as path and Host, which agree", func(line, path, host string) {
		b := startScript(ok)
		r := front(b.addr)
		Expect(r.status(line + " HTTP/1.1\r\nHost: a.test\r\n\r\n")).To(Equal(200))
		Expect(b.Got()).To(HavePrefix(strings.SplitN(line, " ", 2)[0] + " " + path + " HTTP/1.1\r\nHost: " + host + "\r\n"))
	},
		Entry("with a path", "GET http://a.test/p?q", "/p?q", "a.test"),
		Entry("without one", "GET http://a.test", "/", "a.test"),
		Entry("with a query only", "GET http://a.test?q", "/?q", "a.test"),
		Entry("with the port that the scheme has", "GET http://a.test:80/", "/", "a.test:80"),
		Entry("in upper case", "GET HTTP://A.TEST/", "/", "A.TEST"),
		Entry("OPTIONS for all of the host", "OPTIONS http://a.test", "*", "a.test"),
		Entry("OPTIONS *", "OPTIONS *", "*", "a.test"),
	)

	It("H12: takes all spellings of a name to the same host", func() {
		names := map[string][]string{
			"a.test":           {"a.test", "A.TEST", "a.test.", "a.test:80", "A.Test.:8080"},
			"xn--bcher-kva.de": {"xn--bcher-kva.de", "XN--BCHER-KVA.DE:80"},
			"127.0.0.1":        {"127.0.0.1", "127.0.0.1:8080"},
			"[2001:db8::1]":    {"[2001:db8::1]", "[2001:DB8::1]:80", "[2001:db8:0:0:0:0:0:1]", "[2001:0db8::0001]"},
			"under_score.test": {"under_score.test"},
		}
		var hosts []hostSpec
		for name := range names {
			hosts = append(hosts, hostSpec{name: strings.Trim(name, "[]"), backends: []string{startBackend(name, nil).addr}})
		}
		r := startRig(rigOptions{hosts: hosts})
		for name, spellings := range names {
			for _, spelling := range spellings {
				status, body := r.get(spelling, "/")
				Expect(status).To(Equal(200), spelling)
				Expect(body).To(Equal(name), spelling)
			}
		}
	})

	DescribeTable("H16: a path is forwarded byte for byte, and routes nothing", func(path string) {
		b := startScript(ok)
		r := front(b.addr)
		Expect(r.status("GET " + path + " HTTP/1.1\r\nHost: a.test\r\n\r\n")).To(Equal(200))
		Expect(b.Got()).To(HavePrefix("GET " + path + " HTTP/1.1\r\nHost: a.test\r\n"))
	},
		Entry("dots", "/a/../../b/./"), Entry("slashes", "//b.test//"), Entry("coded", "/%2f%2e%00%0d%0a%ff%c0%ae?%zz"), Entry("backslashes", `/\..\b`),
		Entry("a URL", "/http://b.test/@c?http://d.test"), Entry("semicolons", "/;a=b?;&=;"), Entry("what browsers would not send", "/<>\"{}|^`[]"),
	)

	It("H35: answers 404 for a host that nobody knows, and goes on", func() {
		b := startScript(ok)
		r := front(b.addr)
		c := r.dial()
		for range 100 {
			c.send("GET /<script> HTTP/1.1\r\nHost: unknown.test\r\n\r\n")
			response, body := c.answer("GET")
			Expect(response.StatusCode).To(Equal(404))
			Expect(response.Close).To(BeFalse())
			Expect(body).To(Equal("404 Not Found: no host of that name is known here.\n"))
		}
		c.send("POST / HTTP/1.1\r\nHost: unknown.test\r\nContent-Length: 40\r\n\r\n" + getHead())
		response, _ := c.answer("POST")
		Expect(response.StatusCode).To(Equal(404))
		Expect(response.Close).To(BeTrue(), "the body was not read, so what follows is no request")
		c.ended()
		Expect(b.Connections()).To(BeZero())
		Expect(r.server.Refusals()).To(HaveKeyWithValue("unknown_host", int64(101)))
	})

	It("H36: answers 503 and when to try again if a host has no backend", func() {
		r := startRig(rigOptions{hosts: []hostSpec{{name: "a.test"}}})
		c := r.dial()
		for range 2 {
			c.send(getHead())
			response, _ := c.answer("GET")
			Expect(response.StatusCode).To(Equal(503))
			Expect(response.Header.Get("Retry-After")).To(Equal("1"))
			Expect(response.Close).To(BeFalse())
		}
	})

	It("H38: takes two hosts' requests on one connection each to its own, and carries nothing over", func() {
		one, two := startScript(ok), startScript(ok)
		r := startRig(rigOptions{hosts: []hostSpec{
			{name: "a.test", backends: []string{one.addr}}, {name: "b.test", backends: []string{two.addr}},
		}})
		c := r.dial()
		c.send("POST /1 HTTP/1.1\r\nHost: a.test\r\nCookie: secret\r\nX-Request-Id: mine\r\nContent-Length: 5\r\n\r\nhello" +
			"GET /2 HTTP/1.1\r\nHost: b.test\r\n\r\n" + "GET /3 HTTP/1.1\r\nHost: a.test\r\n\r\n")
		for range 3 {
			response, _ := c.answer("GET")
			Expect(response.StatusCode).To(Equal(200))
		}
		ofB := strings.ReplaceAll(about, "a.test", "b.test")
		Expect(one.Plain()).To(Equal("POST /1 HTTP/1.1\r\nHost: a.test\r\nCookie: secret\r\nContent-Length: 5\r\n" + strings.Replace(about, "ID", "mine", 1) + "hello" +
			"GET /3 HTTP/1.1\r\nHost: a.test\r\n" + about))
		Expect(two.Plain()).To(Equal("GET /2 HTTP/1.1\r\nHost: b.test\r\n" + ofB))
	})
})

// host is a request with that Host.
func host(name string) string { return fmt.Sprintf("GET / HTTP/1.1\r\nHost: %s\r\n\r\n", name) }
