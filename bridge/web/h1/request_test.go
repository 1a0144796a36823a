package h1_test

import (
	"strconv"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	. "github.com/onsi/gomega/gstruct"

	"switchboard/bridge/web/h1"
)

var _ = Describe("Request", func() {
	It("reads a request as it is on the wire", func() {
		r, err := read("POST /a/../%2f//b\\?q=%00&r HTTP/1.1\r\nhOst: Example.COM:8080\r\nX-Empty:\r\nX-Text: \t a\tb \x80\xff \t\r\nContent-Length: 12\r\n\r\nbody")
		Expect(err).To(BeNil())
		Expect(string(r.Method)).To(Equal("POST"))
		Expect(string(r.Target)).To(Equal(`/a/../%2f//b\?q=%00&r`))
		Expect(string(r.Path)).To(Equal(`/a/../%2f//b\?q=%00&r`), "a path is byte-exact (H16)")
		Expect(r.Minor).To(Equal(1))
		Expect(lines(r.Fields)).To(Equal([]string{"hOst: Example.COM:8080", "X-Empty: ", "X-Text: a\tb \x80\xff", "Content-Length: 12"}))
		Expect(forwarded(r.Fields)).To(Equal([]string{"X-Empty: ", "X-Text: a\tb \x80\xff"}))
		Expect(string(r.Authority)).To(Equal("Example.COM:8080"))
		Expect(r.Framing).To(Equal(h1.Length))
		Expect(r.Length).To(BeEquivalentTo(12))
		Expect(r.KeepAlive).To(BeTrue())
		Expect(r.Idempotent()).To(BeFalse())
	})

	It("forgets what the last request had", func() {
		r := new(h1.Request)
		Expect(r.Parse([]byte(get("Expect: 100-continue", "Transfer-Encoding: chunked")), h1.Limits{})).To(BeNil())
		Expect(r.Continue).To(BeTrue())
		Expect(r.Framing).To(Equal(h1.Chunked))
		Expect(r.Parse([]byte("GET http://b HTTP/1.1\r\nHost: b\r\n\r\n"), h1.Limits{})).To(BeNil())
		Expect(r.Continue).To(BeFalse())
		Expect(r.Framing).To(Equal(h1.None))
		Expect(r.Fields).To(HaveLen(1))
		Expect(r.Parse([]byte(get()), h1.Limits{})).To(BeNil())
		Expect(string(r.Path)).To(Equal("/"))
		Expect(string(r.Authority)).To(Equal("a"))
	})

	DescribeTable("reads each form of target",
		func(line, host, authority, path string) {
			r, err := read(line + "\r\nHost: " + host + "\r\n\r\n")
			Expect(err).To(BeNil())
			Expect(string(r.Authority)).To(Equal(authority))
			Expect(string(r.Path)).To(Equal(path))
		},
		Entry("origin", "GET //b/c?d?e HTTP/1.1", "a", "a", "//b/c?d?e"),
		Entry("origin, with a port and the root's dot", "GET / HTTP/1.0", "A.b.:65535", "A.b.:65535", "/"),
		Entry("origin, of an IPv6 address", "GET / HTTP/1.1", "[2001:DB8::1]:80", "[2001:DB8::1]:80", "/"),
		Entry("asterisk", "OPTIONS * HTTP/1.1", "a", "a", "*"),
		Entry("absolute (H11)", "GET http://a/b?c HTTP/1.1", "a", "a", "/b?c"),
		Entry("absolute, with the case of Host changed (H11, H12)", "GET HTTP://A.B/ HTTP/1.1", "a.b", "A.B", "/"),
		Entry("absolute, without the root's dot (H12)", "GET http://a.b/ HTTP/1.1", "a.b.:80", "a.b", "/"),
		Entry("absolute, with the standard port (H12)", "GET https://a:443/ HTTP/1.1", "a", "a:443", "/"),
		Entry("absolute, without a path", "GET http://a HTTP/1.1", "a", "a", "/"),
		Entry("absolute, with a query only", "GET http://a?b/c HTTP/1.1", "a", "a", "/?b/c"),
		Entry("absolute, for OPTIONS of the whole server", "OPTIONS http://a:8001 HTTP/1.1", "a:8001", "a:8001", "*"),
		Entry("absolute, for OPTIONS with a query", "OPTIONS http://a?b HTTP/1.1", "a", "a", "/?b"),
		Entry("absolute, of an IPv6 address", "GET http://[::1]/ HTTP/1.1", "[::1]:80", "[::1]", "/"),
	)

	DescribeTable("refuses a request line",
		func(line string, status int, reason string) {
			_, err := read(line + "\r\nHost: a\r\n\r\n")
			Expect(err).To(PointTo(MatchFields(IgnoreExtras, Fields{"Status": Equal(status), "Reason": Equal(reason)})))
		},
		Entry("H14 CONNECT", "CONNECT a:80 HTTP/1.1", 405, "method_barred"),
		Entry("H14 TRACE", "TRACE / HTTP/1.1", 405, "method_barred"),
		Entry("H14 asterisk with GET", "GET * HTTP/1.1", 400, "target_asterisk"),
		Entry("H14 an asterisk and more", "OPTIONS *a HTTP/1.1", 400, "target"),
		Entry("H14 the HTTP/2 preface", "PRI * HTTP/2.0", 505, "preface"),
		Entry("H14 the method of the preface", "PRI / HTTP/1.1", 505, "preface"),
		Entry("H14 the HTTP/2 preface after an empty line", "\r\nPRI * HTTP/2.0", 505, "preface"),
		Entry("H15 authority-form", "GET a:80 HTTP/1.1", 400, "target"),
		Entry("H15 a fragment", "GET /a#b HTTP/1.1", 400, "target_fragment"),
		Entry("H15 bytes outside ASCII", "GET /\xc3\xa4 HTTP/1.1", 400, "target_byte"),
		Entry("H15 a user name", "GET http://u:p@a/ HTTP/1.1", 400, "userinfo"),
		Entry("H15 a scheme that is not HTTP's", "GET ftp://a/ HTTP/1.1", 400, "target"),
		Entry("H15 a scheme alone", "GET http:// HTTP/1.1", 400, "host"),
		Entry("H15 a relative path", "GET a HTTP/1.1", 400, "target"),
		Entry("H9 NUL in the target", "GET /\x00 HTTP/1.1", 400, "control_byte"),
		Entry("H9 HTAB in the target", "GET /\ta HTTP/1.1", 400, "target_byte"),
		Entry("H9 DEL in the target", "GET /\x7f HTTP/1.1", 400, "control_byte"),
		Entry("a space in the target", "GET /a b HTTP/1.1", 400, "target_byte"),
		Entry("no target", "GET  HTTP/1.1", 400, "request_line"),
		Entry("two spaces", "GET  / HTTP/1.1", 400, "target_byte"),
		Entry("HTAB for a space", "GET\t/ HTTP/1.1", 400, "method"),
		Entry("HTTP/0.9", "GET /", 400, "request_line"),
		Entry("a method alone", "GET", 400, "request_line"),
		Entry("a method that is no token", "G@T / HTTP/1.1", 400, "method"),
		Entry("a method that is too long", strings.Repeat("G", 33)+" / HTTP/1.1", 400, "method"),
		Entry("HTTP/1.2", "GET / HTTP/1.2", 505, "version_unsupported"),
		Entry("HTTP/2.0", "GET / HTTP/2.0", 505, "version_unsupported"),
		Entry("a version in lower case", "GET / http/1.1", 400, "version"),
		Entry("a version with a zero first", "GET / HTTP/01.1", 400, "version"),
		Entry("a version with a zero last", "GET / HTTP/1.10", 400, "version"),
		Entry("a space after the version", "GET / HTTP/1.1 ", 400, "target_byte"),
		Entry("H11 a target that differs from Host", "GET http://b/ HTTP/1.1", 400, "host_differs"),
		Entry("H11 a port that differs", "GET http://a:8080/ HTTP/1.1", 400, "host_differs"),
		Entry("H11 the other scheme's port", "GET https://a:80/ HTTP/1.1", 400, "host_differs"),
		Entry("H27 a target over the limit", "GET /"+strings.Repeat("a", 8<<10)+" HTTP/1.1", 414, "target_too_long"),
	)

	It("passes methods on that it does not know, of up to 32 bytes", func() {
		for _, method := range []string{"get", "PROPFIND", "x-!#$%&'*+.^_`|~09", strings.Repeat("G", 32)} {
			r, err := read(method + " / HTTP/1.1\r\nHost: a\r\n\r\n")
			Expect(err).To(BeNil(), method)
			Expect(string(r.Method)).To(Equal(method))
			Expect(r.Idempotent()).To(BeFalse())
		}
	})

	It("skips one empty line before a request", func() {
		r, err := read("\r\n" + get())
		Expect(err).To(BeNil())
		Expect(string(r.Path)).To(Equal("/"))
	})

	DescribeTable("refuses field lines",
		func(line string, status int, reason string) {
			_, err := read(get("A: b", line))
			Expect(err).To(PointTo(MatchFields(IgnoreExtras, Fields{"Status": Equal(status), "Reason": Equal(reason)})))
		},
		Entry("H1 length and chunked", "Content-Length: 1\r\nTransfer-Encoding: chunked", 400, "length_and_chunked"),
		Entry("H1 length 0 and chunked", "Transfer-Encoding: chunked\r\nContent-Length: 0", 400, "length_and_chunked"),
		Entry("H1 length and any coding", "Transfer-Encoding: x\r\nContent-Length: 0", 400, "length_and_chunked"),
		Entry("H2 a coding before chunked", "Transfer-Encoding: gzip, chunked", 501, "coding_unknown"),
		Entry("H2 a coding after chunked", "Transfer-Encoding: chunked, gzip", 501, "coding_unknown"),
		Entry("H2 an unknown coding", "Transfer-Encoding: x-chunked", 501, "coding_unknown"),
		Entry("H2 chunked twice", "Transfer-Encoding: chunked, chunked", 400, "coding"),
		Entry("H2 chunked in two fields", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 400, "coding_repeated"),
		Entry("H2 chunked and an empty element", "Transfer-Encoding: ,chunked", 400, "coding"),
		Entry("H2 nothing", "Transfer-Encoding:", 400, "coding"),
		Entry("H2 identity", "Transfer-Encoding: identity", 400, "coding"),
		Entry("H2 a parameter", "Transfer-Encoding: chunked;q=1", 400, "coding"),
		Entry("H2 quotes", `Transfer-Encoding: "chunked"`, 400, "coding"),
		Entry("H3 VT before the coding", "Transfer-Encoding: \x0bchunked", 400, "control_byte"),
		Entry("H3 FF after the coding", "Transfer-Encoding: chunked\x0c", 400, "control_byte"),
		Entry("H3 NUL", "Transfer-Encoding: chunked\x00", 400, "control_byte"),
		Entry("H3 a fold", "Transfer-Encoding:\r\n chunked", 400, "obs_fold"),
		Entry("H3 a byte outside ASCII", "Transfer-Encoding: chunked\xa0", 400, "coding"),
		Entry("H4 two lengths", "Content-Length: 1\r\nContent-Length: 2", 400, "length_repeated"),
		Entry("H4 two lengths that agree", "Content-Length: 1\r\nContent-Length: 1", 400, "length_repeated"),
		Entry("H4 a list", "Content-Length: 1, 1", 400, "length"),
		Entry("H4 plus", "Content-Length: +1", 400, "length"),
		Entry("H4 minus", "Content-Length: -1", 400, "length"),
		Entry("H4 hexadecimal", "Content-Length: 0x1", 400, "length"),
		Entry("H4 a space inside", "Content-Length: 1 1", 400, "length"),
		Entry("H4 a zero first", "Content-Length: 010", 400, "length"),
		Entry("H4 two zeros", "Content-Length: 00", 400, "length"),
		Entry("H4 nothing", "Content-Length:", 400, "length"),
		Entry("H4 2^63", "Content-Length: 9223372036854775808", 400, "length"),
		Entry("H4 2^64", "Content-Length: 18446744073709551616", 400, "length"),
		Entry("H4 a fraction", "Content-Length: 1.0", 400, "length"),
		Entry("H4 an underscore", "Content-Length: 1_0", 400, "length"),
		Entry("H6 LF alone", "A: b\nC: d", 400, "bare_lf"),
		Entry("H6 CR alone", "A: b\rC: d", 400, "bare_cr"),
		Entry("H6 CR CR LF", "A: b\r\r\nC: d", 400, "bare_cr"),
		Entry("H7 a fold", "A: b\r\n c", 400, "obs_fold"),
		Entry("H7 a fold with HTAB", "A: b\r\n\tc", 400, "obs_fold"),
		Entry("H7 a line of white space", "A: b\r\n \t", 400, "obs_fold"),
		Entry("H8 a space before the colon", "Host : b", 400, "space_before_colon"),
		Entry("H8 HTAB before the colon", "Content-Length\t: 1", 400, "space_before_colon"),
		Entry("H8 no name", ": b", 400, "name_empty"),
		Entry("H8 no colon", "A", 400, "name_byte"),
		Entry("H8 a space in the name", "A b: c", 400, "name_byte"),
		Entry("H9 NUL in a name", "A\x00: b", 400, "control_byte"),
		Entry("H9 a byte outside ASCII in a name", "A\xff: b", 400, "name_byte"),
		Entry("H9 NUL in a value", "A: \x00", 400, "control_byte"),
		Entry("H9 DEL in a value", "A: \x7f", 400, "control_byte"),
		Entry("H9 ESC in a value", "A: a\tb\x1bc", 400, "control_byte"),
		Entry("H10 two hosts", "Host: a", 400, "host_repeated"),
		Entry("H23 another expectation", "Expect: 200-ok", 417, "expectation"),
		Entry("H23 a list of expectations", "Expect: 100-continue, x", 417, "expectation"),
		Entry("H23 no expectation", "Expect:", 417, "expectation"),
		Entry("H23 two expectations", "Expect: 100-continue\r\nExpect: 100-continue", 417, "expectation"),
		Entry("H26 Transfer_Encoding", "Transfer_Encoding: chunked", 400, "underscore"),
		Entry("H26 content_length", "content_length: 1", 400, "underscore"),
		Entry("Connection that is no list of tokens", "Connection: close;x", 400, "connection"),
		Entry("Connection with very many names", "Connection: "+strings.Repeat("a,", 33), 400, "too_many_options"),
		Entry("H27 a hundred fields", strings.Repeat("A: b\r\n", 98)+"A: b", 431, "too_many_fields"),
	)

	It("refuses white space before the first field (H8)", func() {
		_, err := read("GET / HTTP/1.1\r\n Host: a\r\n\r\n")
		Expect(err.Reason).To(Equal("leading_space"))
	})

	It("accepts a hundred fields", func() {
		r, err := read(get(strings.Split(strings.Repeat("A: b\r\n", 98)+"A: b", "\r\n")...))
		Expect(err).To(BeNil())
		Expect(r.Fields).To(HaveLen(100))
	})

	DescribeTable("reads Content-Length (H4)",
		func(value string, length int) {
			r, err := read(get("Content-Length: " + value))
			Expect(err).To(BeNil())
			Expect(r.Framing).To(Equal(h1.Length))
			Expect(r.Length).To(BeEquivalentTo(length))
		},
		Entry(nil, "0", 0),
		Entry(nil, "10", 10),
		Entry("2^63-1", "9223372036854775807", 1<<63-1),
	)

	It("reads chunked in any case (H3)", func() {
		r, err := read(get("transfer-encoding: \tChUnKeD "))
		Expect(err).To(BeNil())
		Expect(r.Framing).To(Equal(h1.Chunked))
		Expect(forwarded(r.Fields)).To(BeEmpty())
	})

	It("refuses a coding in HTTP/1.0 (H5)", func() {
		_, err := read("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
		Expect(err.Status).To(Equal(400))
		Expect(err.Reason).To(Equal("coding_in_1_0"))
	})

	DescribeTable("refuses a Host (H10)",
		func(value, reason string) {
			_, err := read("GET / HTTP/1.1\r\nHost: " + value + "\r\n\r\n")
			Expect(err).To(PointTo(MatchFields(IgnoreExtras, Fields{"Status": Equal(400), "Reason": Equal(reason)})))
		},
		Entry("empty", "", "host"),
		Entry("a port alone", ":80", "host"),
		Entry("a comma", "a,b", "host"),
		Entry("a comma and a space", "a, b", "host"),
		Entry("a space", "a b", "host"),
		Entry("a user name", "u@a", "userinfo"),
		Entry("two ports", "a:80:90", "port"),
		Entry("no port", "a:", "port"),
		Entry("port 0", "a:0", "port"),
		Entry("a port with a zero first", "a:080", "port"),
		Entry("a port out of range", "a:65536", "port"),
		Entry("a port far out of range", "a:99999999999999999999", "port"),
		Entry("a port that is no number", "a:8o", "port"),
		Entry("a path", "a/b", "host"),
		Entry("a backslash", `a\b`, "host"),
		Entry("a query", "a?b", "host"),
		Entry("a fragment", "a#b", "host"),
		Entry("a percent sign", "a%2eb", "host"),
		Entry("a scheme", "http://a", "port"),
		Entry("a wildcard", "*.a", "host"),
		Entry("braces (H39)", "{a}", "host"),
		Entry("two dots", "a..b", "host"),
		Entry("a dot first", ".a", "host"),
		Entry("bytes outside ASCII", "\xc3\xa4", "host"),
		Entry("a name that is too long", strings.Repeat("a", 255), "host"),
		Entry("IPv6 without brackets", "::1", "host"),
		Entry("an open bracket", "[::1", "host"),
		Entry("brackets around a name", "[a.b]", "host"),
		Entry("brackets around IPv4", "[127.0.0.1]", "host"),
		Entry("eight groups and two colons", "[0:0:0:0::0:0:0:0]", "host"),
		Entry("a zone", "[fe80::1%25eth0]", "host"),
		Entry("IPvFuture", "[v1.a]", "host"),
		Entry("something after the bracket", "[::1]a", "host"),
		Entry("no port after the bracket", "[::1]:", "port"),
	)

	It("refuses a request without Host, of HTTP/1.0 too (H10)", func() {
		for _, text := range []string{"GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.0\r\nA: b\r\n\r\n", "GET http://a/ HTTP/1.1\r\n\r\n"} {
			_, err := read(text)
			Expect(err.Status).To(Equal(400))
			Expect(err.Reason).To(Equal("host_missing"))
		}
	})

	DescribeTable("knows whether the connection persists",
		func(minor int, lines string, persists bool) {
			r, err := read("GET / HTTP/1." + strconv.Itoa(minor) + "\r\nHost: a\r\n" + lines + "\r\n")
			Expect(err).To(BeNil())
			Expect(r.KeepAlive).To(Equal(persists))
			Expect(forwarded(r.Fields)).To(BeEmpty())
		},
		Entry(nil, 1, "", true),
		Entry(nil, 1, "Connection: close\r\n", false),
		Entry(nil, 1, "Connection: keep-alive, , CLOSE\r\n", false),
		Entry(nil, 1, "Connection: keep-alive\r\nConnection: close\r\n", false),
		Entry(nil, 0, "", false),
		Entry(nil, 0, "Connection: Keep-Alive\r\nKeep-Alive: timeout=5\r\n", true),
		Entry(nil, 0, "Connection: keep-alive, close\r\n", false),
		Entry(nil, 0, "Proxy-Connection: keep-alive\r\n", false),
	)

	It("keeps back what Connection names, but never Host (H25)", func() {
		r, err := read(get("Connection: X-Forwarded-For, HOST, Authorization, Content-Length, a", "x-forwarded-for: 1", "Authorization: b", "Content-Length: 0", "A: 1", "B: 2", "A: 3", "AA: 4"))
		Expect(err).To(BeNil())
		Expect(forwarded(r.Fields)).To(Equal([]string{"B: 2", "AA: 4"}))
		Expect(r.Fields[0].Hop).To(BeFalse())
		Expect(string(r.Authority)).To(Equal("a"))
		Expect(r.Framing).To(Equal(h1.Length))
	})

	It("keeps back what is for one hop (H25, H31)", func() {
		r, err := read(get("Connection: upgrade, http2-settings", "Upgrade: h2c", "HTTP2-Settings: AA", "Keep-Alive: 5", "Proxy-Connection: close", "TE: trailers",
			"Proxy-Authorization: b", "Proxy-Authenticate: c", "Trailer: d", "Via: 1.1 x"))
		Expect(err).To(BeNil())
		Expect(r.WebSocket).To(BeFalse())
		Expect(forwarded(r.Fields)).To(Equal([]string{"Trailer: d", "Via: 1.1 x"}))
	})

	DescribeTable("knows who waits for 100 Continue (H23)",
		func(line string, framing string, waits bool, passed []string) {
			r, err := read("POST / " + line + "\r\nHost: a\r\nExpect: 100-Continue\r\n" + framing + "\r\n\r\n")
			Expect(err).To(BeNil())
			Expect(r.Continue).To(Equal(waits))
			Expect(forwarded(r.Fields)).To(Equal(passed))
		},
		Entry("with a length", "HTTP/1.1", "Content-Length: 1", true, []string{"Expect: 100-Continue"}),
		Entry("chunked", "HTTP/1.1", "Transfer-Encoding: chunked", true, []string{"Expect: 100-Continue"}),
		Entry("without a body", "HTTP/1.1", "Content-Length: 0", false, nil),
		Entry("in HTTP/1.0", "HTTP/1.0", "Content-Length: 1", false, nil),
	)

	It("ignores an unknown expectation in HTTP/1.0 (H23)", func() {
		r, err := read("GET / HTTP/1.0\r\nHost: a\r\nExpect: x\r\nExpect: 100-continue\r\n\r\n")
		Expect(err).To(BeNil())
		Expect(r.Continue).To(BeFalse())
		Expect(forwarded(r.Fields)).To(BeEmpty())
	})

	Describe("an upgrade to websocket (H30)", func() {
		const key = "dGhlIHNhbXBsZSBub25jZQ=="
		upgrade := []string{"Connection: keep-alive, Upgrade", "Upgrade: WebSocket", "Sec-WebSocket-Version: 13"}

		It("is recognized", func() {
			r, err := read(get(append(upgrade, "Sec-WebSocket-Key: "+key)...))
			Expect(err).To(BeNil())
			Expect(r.WebSocket).To(BeTrue())
			Expect(forwarded(r.Fields)).To(Equal([]string{"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: " + key}))
		})

		DescribeTable("is refused",
			func(start string, lines ...string) {
				_, err := read(start + "\r\nHost: a\r\n" + strings.Join(append(upgrade, lines...), "\r\n") + "\r\n\r\n")
				Expect(err).To(PointTo(MatchFields(IgnoreExtras, Fields{"Status": Equal(400), "Reason": Equal("websocket")})))
			},
			Entry("without a key", "GET / HTTP/1.1"),
			Entry("with two keys", "GET / HTTP/1.1", "Sec-WebSocket-Key: "+key, "Sec-WebSocket-Key: "+key),
			Entry("with a key of 15 bytes", "GET / HTTP/1.1", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j"),
			Entry("with a key of 17 bytes", "GET / HTTP/1.1", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZWE="),
			Entry("with a key that is not base64", "GET / HTTP/1.1", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25-ZQ=="),
			Entry("over 1.0", "GET / HTTP/1.0", "Sec-WebSocket-Key: "+key),
			Entry("with POST", "POST / HTTP/1.1", "Sec-WebSocket-Key: "+key),
			Entry("with a body", "GET / HTTP/1.1", "Sec-WebSocket-Key: "+key, "Content-Length: 1"),
			Entry("with a chunked body", "GET / HTTP/1.1", "Sec-WebSocket-Key: "+key, "Transfer-Encoding: chunked"),
		)

		DescribeTable("is not what another one is (H31)",
			func(lines ...string) {
				r, err := read(get(append(lines, "Sec-WebSocket-Key: "+key)...))
				Expect(err).To(BeNil())
				Expect(r.WebSocket).To(BeFalse())
				Expect(forwarded(r.Fields)).To(Equal([]string{"Sec-WebSocket-Key: " + key}))
			},
			Entry(nil, "Connection: upgrade", "Upgrade: h2c"),
			Entry(nil, "Connection: upgrade", "Upgrade: TLS/1.0"),
			Entry("a list", "Connection: upgrade", "Upgrade: websocket, h2c"),
			Entry("a list in two fields", "Connection: upgrade", "Upgrade: websocket", "Upgrade: h2c"),
			Entry("not named by Connection", "Upgrade: websocket"),
			Entry("without Upgrade", "Connection: upgrade"),
		)
	})

	It("knows which methods may be sent again", func() {
		for method, may := range map[string]bool{"GET": true, "HEAD": true, "OPTIONS": true, "PUT": true, "DELETE": true, "POST": false, "PATCH": false, "LOCK": false, "Get": false} {
			r, err := read(method + " / HTTP/1.1\r\nHost: a\r\n\r\n")
			Expect(err).To(BeNil())
			Expect(r.Idempotent()).To(Equal(may), method)
		}
	})

	It("refuses what is not one whole head", func() {
		for _, text := range []string{"", "G", "GET / HTTP/1.1", "GET / HTTP/1.1\r", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost", "GET / HTTP/1.1\r\nHost: a", "GET / HTTP/1.1\r\nHost: a\r", "GET / HTTP/1.1\r\nHost: a\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r", get() + "x"} {
			Expect(new(h1.Request).Parse([]byte(text), h1.Limits{})).To(HaveField("Reason", "head_cut"), text)
		}
	})
})

var _ = Describe("SplitAuthority", func() {
	DescribeTable("splits",
		func(authority, host, port string) {
			h, p := h1.SplitAuthority([]byte(authority))
			Expect(string(h)).To(Equal(host))
			Expect(string(p)).To(Equal(port))
		},
		Entry(nil, "a.b", "a.b", ""),
		Entry(nil, "a.b:80", "a.b", "80"),
		Entry(nil, "[::1]", "::1", ""),
		Entry(nil, "[::1]:80", "::1", "80"),
	)
})

var _ = Describe("Lookup", func() {
	It("knows names in any case", func() {
		for name, id := range map[string]h1.ID{
			"Host": h1.Host, "HOST": h1.Host, "content-length": h1.ContentLength, "Te": h1.TE, "X-REAL-ip": h1.XRealIP, "HTTP2-Settings": h1.HTTP2Settings,
			"X-Forwarded-For": h1.XForwardedFor, "x-forwarded-server": h1.XForwarded, "x_forwarded-server": h1.Guarded,
			"X_Forwarded_For": h1.Guarded, "x-forwarded_proto": h1.Guarded, "X_Real_IP": h1.Guarded,
			"": h1.Other, "X": h1.Other, "X-Real-I": h1.Other, "X-Forwarded-": h1.Other, "Hosts": h1.Other, "X_Other": h1.Other, "content_type": h1.Other,
		} {
			Expect(h1.Lookup([]byte(name))).To(Equal(id), name)
		}
	})
})
