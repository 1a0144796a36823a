package h1_test

import (
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	. "github.com/onsi/gomega/gstruct"

	"switchboard/bridge/web/h1"
)

var _ = Describe("Response", func() {
	It("reads a response as it is on the wire", func() {
		r, err := readResponse("HTTP/1.1 404 Not  Found \xff\r\nserver: x\r\nX-A:\r\nContent-Length: 3\r\n\r\nabc", false)
		Expect(err).To(BeNil())
		Expect(r.Status).To(Equal(404))
		Expect(r.Minor).To(Equal(1))
		Expect(string(r.Reason)).To(Equal("Not  Found \xff"))
		Expect(forwarded(r.Fields)).To(Equal([]string{"server: x", "X-A: "}), "nothing is added (P10)")
		Expect(r.Framing).To(Equal(h1.Length))
		Expect(r.Length).To(BeEquivalentTo(3))
		Expect(r.KeepAlive).To(BeTrue())
	})

	DescribeTable("refuses with 502",
		func(text, reason string) {
			_, err := readResponse(text, false)
			Expect(err).To(PointTo(MatchFields(IgnoreExtras, Fields{"Status": Equal(502), "Reason": Equal(reason)})))
		},
		Entry("P1 length and chunked", ok("Content-Length: 1", "Transfer-Encoding: chunked"), "length_and_chunked"),
		Entry("P1 lengths that differ", ok("Content-Length: 1", "Content-Length: 2"), "length_repeated"),
		Entry("P1 lengths that agree", ok("Content-Length: 1", "Content-Length: 1"), "length_repeated"),
		Entry("P1 a list of lengths", ok("Content-Length: 1, 2"), "length"),
		Entry("P1 LF alone", ok("A: b\nC: d"), "bare_lf"),
		Entry("P1 LF after the status line", "HTTP/1.1 200 OK\nA: b\r\n\r\n", "bare_lf"),
		Entry("P1 a fold", ok("A: b", " c"), "obs_fold"),
		Entry("P1 NUL", ok("A: \x00"), "control_byte"),
		Entry("P1 a space before the colon", ok("A : b"), "space_before_colon"),
		Entry("P1 another coding", ok("Transfer-Encoding: gzip"), "coding_unknown"),
		Entry("P1 a coding in HTTP/1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "coding_in_1_0"),
		Entry("P5 status 099", "HTTP/1.1 099 x\r\n\r\n", "status"),
		Entry("P5 status 600", "HTTP/1.1 600 x\r\n\r\n", "status"),
		Entry("P5 status 1000", "HTTP/1.1 1000 x\r\n\r\n", "status"),
		Entry("P5 status -1", "HTTP/1.1 -1 x\r\n\r\n", "status"),
		Entry("P5 status +20", "HTTP/1.1 +20 x\r\n\r\n", "status"),
		Entry("P5 status 20", "HTTP/1.1 20\r\n\r\n", "status"),
		Entry("P5 no status", "HTTP/1.1 \r\n\r\n", "status"),
		Entry("P5 no status and no space", "HTTP/1.1\r\n\r\n", "status_line"),
		Entry("P5 two spaces", "HTTP/1.1  200 OK\r\n\r\n", "status"),
		Entry("P5 HTAB for a space", "HTTP/1.1 200\tOK\r\n\r\n", "status"),
		Entry("P5 HTTP/2.0", "HTTP/2.0 200 OK\r\n\r\n", "version_unsupported"),
		Entry("P5 HTTP/1.2", "HTTP/1.2 200 OK\r\n\r\n", "version_unsupported"),
		Entry("P5 ICY", "HTTX/1.1 200 OK\r\n\r\n", "version"),
	)

	DescribeTable("reads a status line",
		func(line string, status int, reason string) {
			r, err := readResponse(line+"\r\n\r\n", false)
			Expect(err).To(BeNil())
			Expect(r.Status).To(Equal(status))
			Expect(string(r.Reason)).To(Equal(reason))
		},
		Entry(nil, "HTTP/1.0 100 Continue", 100, "Continue"),
		Entry(nil, "HTTP/1.1 599 x", 599, "x"),
		Entry("without a reason", "HTTP/1.1 200 ", 200, ""),
		Entry("without the space before it", "HTTP/1.1 200", 200, ""),
	)

	type framing struct {
		Framing   h1.Framing
		Length    int64
		HasLength bool
		KeepAlive bool
	}
	DescribeTable("knows where the body ends",
		func(text string, toHEAD bool, want framing) {
			r, err := readResponse(text, toHEAD)
			Expect(err).To(BeNil())
			Expect(framing{r.Framing, r.Length, r.HasLength, r.KeepAlive}).To(Equal(want))
			Expect(forwarded(r.Fields)).To(BeEmpty())
		},
		Entry("a length", ok("Content-Length: 5"), false, framing{h1.Length, 5, true, true}),
		Entry("length 0", ok("Content-Length: 0"), false, framing{h1.Length, 0, true, true}),
		Entry("chunked", ok("Transfer-Encoding: Chunked"), false, framing{h1.Chunked, 0, false, true}),
		Entry("neither", ok(), false, framing{h1.UntilClose, 0, false, false}),
		Entry("Connection: close", ok("Connection: close", "Content-Length: 5"), false, framing{h1.Length, 5, true, false}),
		Entry("HTTP/1.0", "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", false, framing{h1.Length, 5, true, false}),
		Entry("HTTP/1.0 that persists", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\n", false, framing{h1.Length, 5, true, true}),
		Entry("HTTP/1.0 that persists, without a length", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n", false, framing{h1.UntilClose, 0, false, false}),
		Entry("P4 an answer to HEAD", ok("Content-Length: 5"), true, framing{h1.None, 5, true, true}),
		Entry("P4 an answer to HEAD, chunked", ok("Transfer-Encoding: chunked"), true, framing{h1.None, 0, false, true}),
		Entry("P4 an answer to HEAD, with neither", ok(), true, framing{h1.None, 0, false, true}),
		Entry("P4 304", "HTTP/1.1 304 x\r\nContent-Length: 5\r\n\r\n", false, framing{h1.None, 5, true, true}),
		Entry("P4 204", "HTTP/1.1 204 x\r\n\r\n", false, framing{h1.None, 0, false, true}),
		Entry("P4 204 with length 0", "HTTP/1.1 204 x\r\nContent-Length: 0\r\n\r\n", false, framing{h1.None, 0, false, true}),
		Entry("P4 204 with a length", "HTTP/1.1 204 x\r\nContent-Length: 5\r\n\r\n", false, framing{h1.None, 0, false, false}),
		Entry("P4 204, chunked", "HTTP/1.1 204 x\r\nTransfer-Encoding: chunked\r\n\r\n", false, framing{h1.None, 0, false, false}),
		Entry("P6 1xx", "HTTP/1.1 103 x\r\n\r\n", false, framing{h1.None, 0, false, true}),
		Entry("P6 1xx with a length", "HTTP/1.1 100 x\r\nContent-Length: 5\r\n\r\n", false, framing{h1.None, 0, false, false}),
	)

	It("keeps back what Connection names", func() {
		r, err := readResponse(ok("Connection: a, close", "A: b", "C: d", "Keep-Alive: 5"), false)
		Expect(err).To(BeNil())
		Expect(forwarded(r.Fields)).To(Equal([]string{"C: d"}))
	})

	DescribeTable("knows an answer to an upgrade (H30, H32)",
		func(text string, key string, answers bool) {
			r, err := readResponse(text, false)
			Expect(err).To(BeNil())
			Expect(r.Answers([]byte(key))).To(Equal(answers))
		},
		Entry("as RFC 6455, section 1.3, has it", switching("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "dGhlIHNhbXBsZSBub25jZQ==", true),
		Entry("of another key", switching("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "AAAAAAAAAAAAAAAAAAAAAA==", false),
		Entry("of no key", switching("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "", false),
		Entry("without an accept", "HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", "dGhlIHNhbXBsZSBub25jZQ==", false),
		Entry("with two", switching("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "dGhlIHNhbXBsZSBub25jZQ==", false),
		Entry("200", ok("Connection: upgrade", "Upgrade: websocket", "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "dGhlIHNhbXBsZSBub25jZQ==", false),
		Entry("another protocol", "HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: h2c\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n", "dGhlIHNhbXBsZSBub25jZQ==", false),
		Entry("over 1.0", "HTTP/1.0 101 x\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n", "dGhlIHNhbXBsZSBub25jZQ==", false),
	)
})

// switching is a response that switches to websocket.
func switching(accept string) string {
	return "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Accept: " + accept + "\r\n\r\n"
}
