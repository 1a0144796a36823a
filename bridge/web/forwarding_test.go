package web_test

import (
	"crypto/tls"
	"net/netip"
	"regexp"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/bridge/web"
)

var _ = Describe("Forwarding of heads", func() {
	// forwarded sends a request with these fields, and returns what the backend got.
	forwarded := func(trusted bool, fields ...string) string {
		GinkgoHelper()
		b := startScript(ok)
		r := startRig(rigOptions{
			hosts: []hostSpec{{name: "a.test", backends: []string{b.addr}}},
			server: func(o *web.Options) {
				if trusted {
					o.Trusted = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
				}
			},
		})
		Expect(r.status(getHead(fields...))).To(Equal(200))
		return b.Plain()
	}

	// plain is what a backend gets with these fields and nothing to say but who the
	// client is.
	plain := func(fields ...string) string {
		head := "GET / HTTP/1.1\r\nHost: a.test\r\n"
		for _, f := range fields {
			head += f + "\r\n"
		}
		return head + about
	}

	It("passes on what is for the backend as it is, in its order", func() {
		fields := []string{
			"aCCept: */*", "Cookie: a=b", "cookie: c=d", "X-Empty: ", "Via: 1.1 before", "Cache-Control: no-cache", "Authorization: Basic x",
			"Accept-Encoding: gzip", "Trailer: Checksum", "X-Weird: \"\\,;=\xff\t tab",
		}
		Expect(forwarded(false, fields...)).To(Equal(plain(fields...)))
	})

	It("H25: drops what Connection names, but neither Host nor what the router itself says", func() {
		Expect(forwarded(false,
			"Connection: X-Forwarded-For, Host, Authorization, x-mine, X-Request-Id, Forwarded, close", "Authorization: Basic x", "X-Mine: 1", "X-MINE: 2", "X-Other: 3",
		)).To(Equal(plain("X-Other: 3")))
	})

	It("drops what is for the next hop only, named or not", func() {
		Expect(forwarded(false,
			"Keep-Alive: timeout=5", "Proxy-Connection: keep-alive", "Proxy-Authorization: Basic x", "TE: trailers", "Upgrade: foo", "HTTP2-Settings: x", "X: y",
		)).To(Equal(plain("X: y")))
	})

	It("H26: believes nothing of a client that is not trusted", func() {
		Expect(forwarded(false,
			"X-Forwarded-For: 1.2.3.4", "X-Forwarded-Host: evil.test", "X-Forwarded-Proto: https", "X-Forwarded-Port: 443", "X-Forwarded-Prefix: /evil",
			"X-Forwarded-Anything: x", "Forwarded: for=1.2.3.4;host=evil.test", "X-Real-IP: 1.2.3.4", "X_Forwarded_For: 1.2.3.4", "X-Forwarded_For: 1.2.3.4",
			"x_real-ip: 1.2.3.4", "X_FORWARDED_PREFIX: /evil", "X: y",
		)).To(Equal(plain("X: y")))
	})

	It("H26: adds to what a trusted client says", func() {
		Expect(forwarded(true,
			"X-Forwarded-For: 1.2.3.4", "X-Forwarded-For: 5.6.7.8, 9.9.9.9", "X-Forwarded-Host: outer.test", "X-Forwarded-Proto: https", "X-Forwarded-Port: 443",
			"X-Forwarded-Prefix: /app", "Forwarded: for=1.2.3.4;proto=https", "X-Real-IP: 1.2.3.4", "X_Forwarded_For: 6.6.6.6", "X: y",
		)).To(Equal("GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-Prefix: /app\r\nX-Real-IP: 1.2.3.4\r\nX: y\r\n" +
			"X-Forwarded-For: 1.2.3.4, 5.6.7.8, 9.9.9.9, 127.0.0.1\r\nX-Forwarded-Host: outer.test\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Port: PORT\r\n" +
			"Forwarded: for=1.2.3.4;proto=https, for=127.0.0.1;host=a.test;proto=http\r\nX-Request-Id: ID\r\n\r\n"))
	})

	It("H26: takes of a trusted client that says a thing twice what it said first", func() {
		got := forwarded(true, "X-Forwarded-Host: outer.test", "X-Forwarded-Host: evil.test", "X-Forwarded-Proto: https", "X-Forwarded-Proto: http")
		Expect(got).To(ContainSubstring("X-Forwarded-Host: outer.test\r\nX-Forwarded-Proto: https\r\n"))
		Expect(got).NotTo(ContainSubstring("evil.test"))
	})

	It("names a host with a port in Forwarded as RFC 7239 has it", func() {
		b := startScript(ok)
		r := front(b.addr)
		Expect(r.status(host("a.test:8080"))).To(Equal(200))
		Expect(b.Got()).To(ContainSubstring("\r\nForwarded: for=127.0.0.1;host=\"a.test:8080\";proto=http\r\n"))
		Expect(b.Got()).To(ContainSubstring("\r\nX-Forwarded-Host: a.test:8080\r\n"))
	})

	It("tells a backend that its client speaks TLS", func() {
		b := startScript(ok)
		r := startRig(rigOptions{
			hosts:  []hostSpec{{name: "a.test", backends: []string{b.addr}}},
			server: func(o *web.Options) { o.TLS = &tls.Config{Certificates: []tls.Certificate{certificate()}} },
		})
		c := r.dialTLS("http/1.1")
		c.send(getHead("X-Forwarded-Proto: http", "Connection: close"))
		Expect(c.all()).To(HavePrefix("HTTP/1.1 200 OK\r\n"))
		Expect(b.Plain()).To(Equal("GET / HTTP/1.1\r\nHost: a.test\r\n" + strings.NewReplacer("Proto: http", "Proto: https", "proto=http", "proto=https").Replace(about)))
	})

	DescribeTable("X-Request-Id is kept if a log line can hold it, and made else", func(sent, want string) {
		b := startScript(ok)
		r := front(b.addr)
		Expect(r.status(getHead(sent))).To(Equal(200))
		ids := regexp.MustCompile(`(?m)^X-Request-Id: (.*)\r$`).FindAllStringSubmatch(b.Got(), -1)
		Expect(ids).To(HaveLen(1))
		Expect(ids[0][1]).To(MatchRegexp("^(" + want + ")$"))
	},
		Entry("none", "X: y", "[0-9a-f]{32}"),
		Entry("a plain one", "X-Request-Id: Abc-123_4.5:6/7+8=", `Abc-123_4\.5:6/7\+8=`),
		Entry("one in lower case", "x-request-id: abc", "abc"),
		Entry("the first of two", "X-Request-Id: a\r\nX-Request-Id: b", "a"),
		Entry("one with a space", "X-Request-Id: a b", "[0-9a-f]{32}"),
		Entry("one with a quote", `X-Request-Id: a"b`, "[0-9a-f]{32}"),
		Entry("one that is too long", "X-Request-Id: "+strings.Repeat("a", 129), "[0-9a-f]{32}"),
	)

	It("passes trace context on as it is", func() {
		trace := []string{"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate: a=1", "tracestate: b=2"}
		Expect(forwarded(false, trace...)).To(Equal(plain(trace...)))
	})

	It("drops from answers what is for the router only, named or not", func() {
		b := startScript("HTTP/1.1 200 Fine\r\nConnection: X-Mine, keep-alive\r\nX-Mine: 1\r\nKeep-Alive: timeout=5\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n" +
			"Set-Cookie: a=b\r\nset-cookie: c=d\r\nX-Other: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n")
		r := front(b.addr)
		c := r.dial()
		c.send(getHead("Connection: close"))
		Expect(c.all()).To(Equal("HTTP/1.1 200 Fine\r\nSet-Cookie: a=b\r\nset-cookie: c=d\r\nX-Other: 2\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\nok\r\n0\r\n\r\n"))
	})
})
