package web_test

import (
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("Framing of requests", func() {
	// smuggled is a request that would be the backend's next, if it were read so.
	const smuggled = "GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n"

	DescribeTable("what is malformed or ambiguous never reaches a backend", func(status int, heads ...string) {
		b := startScript(ok)
		front(b.addr).refused(b, status, heads...)
	},
		Entry("H1: both a length and a coding", 400,
			post("0\r\n\r\n"+smuggled, "Content-Length: 5", "Transfer-Encoding: chunked"),
			post("0\r\n\r\n"+smuggled, "Transfer-Encoding: chunked", "Content-Length: 0"),
			post("", "transfer-encoding: chunked", "CONTENT-LENGTH: 5"),
		),
		Entry("H2: codings other than chunked alone", 400,
			post("0\r\n\r\n", "Transfer-Encoding: chunked, identity"),
			post("0\r\n\r\n", "Transfer-Encoding: identity"),
			post("0\r\n\r\n", "Transfer-Encoding: chunked, chunked"),
			post("0\r\n\r\n", "Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
			post("0\r\n\r\n", "Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
			post("0\r\n\r\n", "Transfer-Encoding:"),
			post("0\r\n\r\n", "Transfer-Encoding: ,chunked"),
			post("0\r\n\r\n", "Transfer-Encoding: chunked,"),
			post("0\r\n\r\n", "Transfer-Encoding: chunked;q=1"),
		),
		Entry("H2: codings that are not known", 501,
			post("0\r\n\r\n", "Transfer-Encoding: gzip, chunked"),
			post("0\r\n\r\n", "Transfer-Encoding: chunked, gzip"),
			post("0\r\n\r\n", "Transfer-Encoding: xchunked"),
		),
		Entry("H3: codings in disguise", 400,
			post("0\r\n\r\n", "Transfer-Encoding: \vchunked"),
			post("0\r\n\r\n", "Transfer-Encoding: \fchunked"),
			post("0\r\n\r\n", "Transfer-Encoding: chunked\x00"),
			post("0\r\n\r\n", "Transfer-Encoding : chunked"),
			post("0\r\n\r\n", "Transfer-Encoding\t: chunked"),
			post("0\r\n\r\n", "Transfer-Encoding:\r\n chunked"),
			post("0\r\n\r\n", "Transfer-Encoding: chunked\r\n\t, identity"),
			post("0\r\n\r\n", "Transfer_Encoding: chunked"),
			post("0\r\n\r\n", "Transfer-Encoding: \"chunked\""),
			post("0\r\n\r\n", "Transfer-Encoding: chun\xa0ked"),
			post("0\r\n\r\n", "X: y\nTransfer-Encoding: chunked"),
		),
		Entry("H4: lengths that are not one plain number", 400,
			post("12345", "Content-Length: 5", "Content-Length: 6"),
			post("12345", "Content-Length: 5", "Content-Length: 5"),
			post("12345", "Content-Length: 5, 5"),
			post("12345", "Content-Length: 5,6"),
			post("12345", "Content-Length: +5"),
			post("12345", "Content-Length: -5"),
			post("12345", "Content-Length: 0x5"),
			post("12345", "Content-Length: 5 "+"5"),
			post("12345", "Content-Length: 05"),
			post("12345", "Content-Length: 5_0"),
			post("12345", "Content-Length: 5.0"),
			post("12345", "Content-Length: 5e0"),
			post("12345", "Content-Length: 9223372036854775808"),
			post("12345", "Content-Length: 18446744073709551621"),
			post("12345", "Content-Length:"),
			post("12345", "Content_Length: 5"),
			post("12345", "Content-Length: 5", "content-length: 5"),
		),
		Entry("H5: a coding in HTTP/1.0", 400,
			lines("POST / HTTP/1.0", "Host: a.test", "Transfer-Encoding: chunked")+"0\r\n\r\n",
			lines("POST / HTTP/1.0", "Host: a.test", "Connection: keep-alive", "Transfer-Encoding: chunked")+"0\r\n\r\n"+smuggled,
		),
		Entry("H6: LF or CR alone", 400,
			"GET / HTTP/1.1\nHost: a.test\n\n",
			"GET / HTTP/1.1\r\nHost: a.test\n\r\n",
			"GET / HTTP/1.1\r\nHost: a.test\r\n\n",
			"GET / HTTP/1.1\nHost: a.test\r\n\r\n",
			"\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
			"GET / HTTP/1.1\rHost: a.test\r\r",
			"GET / HTTP/1.1\r\nHost: a.test\rX: y\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: a.test\r\nX: y\rz\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: a.test\r\r\n\r\n",
			"GET /\r HTTP/1.1\r\nHost: a.test\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: a.test\r\nX\r: y\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: a.test\r\nX: y\nContent-Length: 5\r\n\r\n",
			"\r\r\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
			"\r\n\r\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
		),
		Entry("H7: a value over two lines", 400,
			getHead("X: a\r\n b"),
			getHead("X: a\r\n\tb"),
			getHead("X: a\r\n "),
			"GET / HTTP/1.1\r\nHost: a.test\r\n .evil\r\n\r\n",
		),
		Entry("H8: lines that are no fields", 400,
			getHead("X : y"),
			getHead("X\t: y"),
			getHead(": y"),
			getHead("X"),
			getHead("X y: z"),
			"GET / HTTP/1.1\r\n Host: a.test\r\n\r\n",
			"GET / HTTP/1.1\r\n\tX: y\r\nHost: a.test\r\n\r\n",
			getHead("X(y): z"),
			getHead("X\"y: z"),
			getHead("Föö: z"),
		),
		Entry("H9: NUL and control bytes", 400,
			getHead("X\x00: y"), getHead("X: y\x00z"), getHead("X\x01: y"), getHead("X: \x01"), getHead("X: \x7f"), getHead("X: \x1b[31m"),
			"GET /\x00 HTTP/1.1\r\nHost: a.test\r\n\r\n",
			"GET /\x7f HTTP/1.1\r\nHost: a.test\r\n\r\n",
			"GET /\t HTTP/1.1\r\nHost: a.test\r\n\r\n",
			"G\x00T / HTTP/1.1\r\nHost: a.test\r\n\r\n",
			"\x00GET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: a.te\x00st\r\n\r\n",
		),
	)

	DescribeTable("H3: coding is told in any case, and written anew", func(field string) {
		b := startScript(ok)
		r := front(b.addr)
		Expect(r.status(post("5\r\nhello\r\n0\r\n\r\n", field))).To(Equal(200))
		Expect(b.Plain()).To(Equal("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n" + about + "5\r\nhello\r\n0\r\n\r\n"))
	},
		Entry("upper case", "TRANSFER-ENCODING: CHUNKED"),
		Entry("white space around", "Transfer-Encoding:\t chunked \t"),
	)

	DescribeTable("H17, H18, H19: a malformed chunk ends both sides", func(status int, bodies ...string) {
		b := startScript(ok)
		r := front(b.addr)
		for n, body := range bodies {
			c := r.dial()
			c.send(post(body, "Transfer-Encoding: chunked"))
			response, _ := c.answer("POST")
			Expect(response.StatusCode).To(Equal(status), "%.100q", body)
			Expect(response.Close).To(BeTrue(), "%.100q", body)
			c.ended()
			c.Close()
			Expect(b.Connections()).To(BeNumerically("<=", n+1))
		}
		for _, c := range b.all() {
			Eventually(c.Ended).Should(BeTrue())
			Expect(c.Got()).NotTo(ContainSubstring("smuggled"))
			Expect(c.Got()).NotTo(ContainSubstring("\r\n0\r\n"), "nobody is told that the body is whole")
		}
		Expect(r.upstream.Idle()).To(BeZero())
	},
		Entry("H17: sizes", 400,
			"+5\r\nhello\r\n0\r\n\r\n", "-5\r\nhello\r\n0\r\n\r\n", "0x5\r\nhello\r\n0\r\n\r\n", "5_0\r\nhello\r\n0\r\n\r\n",
			" 5\r\nhello\r\n0\r\n\r\n", "5 \r\nhello\r\n0\r\n\r\n", "5\t\r\nhello\r\n0\r\n\r\n", "\r\n5\r\nhello\r\n0\r\n\r\n",
			"00000000000000005\r\nhello\r\n0\r\n\r\n", "8000000000000000\r\nhello", "fffffffffffffffff\r\nhello", "5,5\r\nhello\r\n0\r\n\r\n",
			"g\r\nhello\r\n0\r\n\r\n", "\xd9\xa5\r\nhello\r\n0\r\n\r\n", "5\rhello\r\n0\r\n\r\n", "5\nhello\r\n0\r\n\r\n"+smuggled, "5\r\nhello\n0\r\n\r\n",
		),
		Entry("H18: extensions", 400,
			"5;\r\nhello\r\n0\r\n\r\n", "5;a\nb\r\nhello\r\n0\r\n\r\n", "5;a\rb\r\nhello\r\n0\r\n\r\n", "5;a=\"\r\n\"\r\nhello\r\n0\r\n\r\n",
			"5;a=\r\nhello\r\n0\r\n\r\n", "5 ;a=b\r\nhello\r\n0\r\n\r\n", "5;;a\r\nhello\r\n0\r\n\r\n", "5;a=\x00\r\nhello\r\n0\r\n\r\n",
			"5;a="+strings.Repeat("b", 2000)+"\r\nhello\r\n0\r\n\r\n",
		),
		Entry("H18: more framing than data", 400,
			strings.Repeat("1;a="+strings.Repeat("b", 200)+"\r\nx\r\n", 200)+"0\r\n\r\n",
		),
		Entry("H19: data longer or shorter than its size", 400,
			"5\r\nhello!\r\n0\r\n\r\n", "5\r\nhell\r\n0\r\n\r\n"+smuggled, "5\r\nhello0\r\n\r\n"+smuggled, "5\r\nhello\r\n\r\n0\r\n\r\n",
		),
	)

	It("H18: drops extensions that are well-formed", func() {
		b := startScript(ok)
		r := front(b.addr)
		Expect(r.status(post("5;a;b=c;d=\"e;\\\"f\"\r\nhello\r\n0;last\r\n\r\n", "Transfer-Encoding: chunked"))).To(Equal(200))
		Expect(b.Plain()).To(Equal("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n" + about + "5\r\nhello\r\n0\r\n\r\n"))
	})

	It("H19: aborts the backend's side of a body that is cut short", func() {
		b := startRecorder(func(_ int, c *recorded) { c.drain() })
		r := front(b.addr)
		for n, raw := range []string{post("123", "Content-Length: 100000"), post("5\r\nhello\r\n", "Transfer-Encoding: chunked")} {
			c := r.dial()
			c.send(raw)
			Eventually(b.Connections).Should(Equal(n + 1))
			c.Close()
			Eventually(b.all()[n].Ended).Should(BeTrue())
		}
		Expect(r.upstream.Idle()).To(BeZero())
	})

	It("H20: drops trailers that would frame, route or authenticate", func() {
		b := startScript(ok)
		r := front(b.addr)
		trailers := []string{
			"Content-Length: 5", "Transfer-Encoding: chunked", "Host: evil.test", "Authorization: Basic x", "Cookie: a=b", "X-Forwarded-For: 1.2.3.4",
			"X-Real-IP: 1.2.3.4", "X-Request-Id: abc", "Content-Type: text/html", "Connection: close", "Checksum: 1234",
		}
		Expect(r.status(post("5\r\nhello\r\n0\r\n"+lines(trailers...), "Transfer-Encoding: chunked"))).To(Equal(200))
		Expect(b.Plain()).To(Equal("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n" + about + "5\r\nhello\r\n0\r\nChecksum: 1234\r\n\r\n"))
	})

	DescribeTable("H21: a body is the request's, whatever the method", func(method, fields, body string) {
		b := startScript("HTTP/1.1 204 No Content\r\n\r\n")
		r := front(b.addr)
		c := r.dial()
		head := method + " /1 HTTP/1.1\r\nHost: a.test\r\n" + fields + "\r\n"
		c.send(head + body + "GET /2 HTTP/1.1\r\nHost: a.test\r\n\r\n")
		for range 2 {
			response, _ := c.answer(method)
			Expect(response.StatusCode).To(Equal(204))
		}
		Expect(b.Plain()).To(Equal(method + " /1 HTTP/1.1\r\nHost: a.test\r\n" + fields + about + body + "GET /2 HTTP/1.1\r\nHost: a.test\r\n" + about))
	},
		Entry("GET", "GET", "Content-Length: 43\r\n", "GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n123"),
		Entry("HEAD", "HEAD", "Content-Length: 5\r\n", "GET /"),
		Entry("OPTIONS", "OPTIONS", "Content-Length: 5\r\n", "GET /"),
		Entry("DELETE", "DELETE", "Content-Length: 5\r\n", "GET /"),
		Entry("a method of no RFC", "FROB", "Content-Length: 5\r\n", "GET /"),
		Entry("GET in chunks", "GET", "Transfer-Encoding: chunked\r\n", "5\r\nGET /\r\n0\r\n\r\n"),
	)

	It("H21: passes no body on with a length of 0 (CL.0)", func() {
		b := startScript(ok)
		r := front(b.addr)
		c := r.dial()
		c.send(post("", "Content-Length: 0") + getHead())
		for range 2 {
			response, _ := c.answer("GET")
			Expect(response.StatusCode).To(Equal(200))
		}
		Expect(b.Plain()).To(Equal("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n" + about + "GET / HTTP/1.1\r\nHost: a.test\r\n" + about))
	})

	DescribeTable("H22: answers the first of two requests, and refuses the second that is malformed", func(first, second string) {
		b := startScript(ok)
		r := front(b.addr)
		c := r.dial()
		c.send(first + second)
		method := strings.SplitN(first, " ", 2)[0]
		response, body := c.answer(method)
		Expect(response.StatusCode).To(Equal(200))
		if method != "HEAD" {
			Expect(body).To(Equal("ok"))
		}
		response, body = c.answer("GET")
		Expect(response.StatusCode).To(Equal(400))
		Expect(response.Close).To(BeTrue())
		Expect(body).To(HavePrefix("400 Bad Request: "), "what was known of the request before is not this one's")
		c.ended()
		Expect(b.Requests()).To(Equal(1))
	},
		Entry("two lengths", getHead(), post("12345", "Content-Length: 5", "Content-Length: 6")),
		Entry("garbage", getHead(), "\x00\x01\x02"),
		Entry("garbage behind a HEAD", "HEAD / HTTP/1.1\r\nHost: a.test\r\nAccept: text/html\r\n\r\n", "(garbage"),
		Entry("a bare LF behind a body", post("hello", "Content-Length: 5"), "GET / HTTP/1.1\nHost: a.test\n\n"),
	)
})
