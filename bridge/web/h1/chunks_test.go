package h1_test

import (
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/bridge/web/h1"
)

// bytewise makes a text come a byte at a time.
func bytewise(text string) []byte { return []byte(strings.Repeat("\x01", len(text))) }

var _ = Describe("Chunks", func() {
	DescribeTable("decodes, in one piece and by bytes,",
		func(text, data string, trailers ...string) {
			want := chunked{Data: data, Rest: "GET", Done: true, Trailers: strings.Join(trailers, "\n")}
			Expect(decode([]byte(text+"GET"), nil)).To(Equal(want))
			Expect(decode([]byte(text+"GET"), bytewise(text))).To(Equal(want))
		},
		Entry("nothing", "0\r\n\r\n", ""),
		Entry("several chunks", "5\r\nhello\r\n1\r\n,\r\n6\r\n world\r\n0\r\n\r\n", "hello, world"),
		Entry("sizes in both cases", "a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", "01234567890123456789"),
		Entry("sizes with zeros", "0000000000000001\r\na\r\n0000\r\n\r\n", "a"),
		Entry("data with CRLF", "4\r\n\r\n\r\n\r\n0\r\n\r\n", "\r\n\r\n"),
		Entry("H18 extensions, which are dropped", "1;a;b=c;d=\"e\\\"\t \xff\";f\r\nx\r\n0;a=b\r\n\r\n", "x"),
		Entry("trailers", "0\r\nA: b\r\nC:\td \r\n\r\n", "", "A: b", "C: d"),
		Entry("H20 trailers that must not be passed on",
			"0\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nHost: a\r\nAuthorization: b\r\nContent-Foo: c\r\nTrailer: d\r\nSet-Cookie: e\r\nCookie: f\r\n"+
				"Connection: close\r\nTE: g\r\nIf-Match: h\r\nWWW-Authenticate: i\r\nProxy-Foo: j\r\nX-Forwarded-For: k\r\nX_Real_IP: l\r\nCache-Control: m\r\nAge: n\r\n"+
				"Sec-Foo: o\r\nX-OK: p\r\n\r\n", "", "X-OK: p"),
	)

	DescribeTable("refuses, in one piece and by bytes,",
		func(text, reason string) {
			whole := decode([]byte(text+"x\r\n\r\n"), nil)
			Expect(whole.Err).NotTo(BeNil())
			Expect(whole.Err.Reason).To(Equal(reason))
			Expect(decode([]byte(text), bytewise(text))).To(Equal(whole), "as soon as it is there")
		},
		Entry("H17 no size", "\r", "chunk_size"),
		Entry("H17 an extension without a size", ";", "chunk_size"),
		Entry("H17 plus", "+", "chunk_size"),
		Entry("H17 minus", "-", "chunk_size"),
		Entry("H17 0x", "0x", "chunk_size"),
		Entry("H17 an underscore", "1_", "chunk_size"),
		Entry("H17 17 digits", "00000000000000000", "chunk_size"),
		Entry("H17 2^63", "8000000000000000", "chunk_size"),
		Entry("H17 a space before", " ", "chunk_size"),
		Entry("H17 a space after", "1 ", "chunk_size"),
		Entry("H17 HTAB after", "1\t", "chunk_size"),
		Entry("H17 not hexadecimal", "g", "chunk_size"),
		Entry("H6 LF after the size", "1\n", "bare_lf"),
		Entry("H6 CR after the size", "1\r1", "bare_cr"),
		Entry("H18 a semicolon alone", "1;\r", "chunk_extension"),
		Entry("H18 two semicolons", "1;;", "chunk_extension"),
		Entry("H18 a space", "1; ", "chunk_extension"),
		Entry("H18 no value", "1;a=\r", "chunk_extension"),
		Entry("H18 a value with a space", "1;a=b ", "chunk_extension"),
		Entry("H18 LF inside", "1;a\n", "bare_lf"),
		Entry("H18 LF before the name", "1;\n", "bare_lf"),
		Entry("H18 CR inside", "1;a\rb", "bare_cr"),
		Entry("H18 LF in quotes", "1;a=\"\n", "bare_lf"),
		Entry("H18 CRLF in quotes", "1;a=\"\r", "chunk_extension"),
		Entry("H18 an escaped CR", "1;a=\"\\\r", "chunk_extension"),
		Entry("H18 something after quotes", "1;a=\"b\"c", "chunk_extension"),
		Entry("H18 a control byte", "1;a\x00", "chunk_extension"),
		Entry("H18 a long one", "1;"+strings.Repeat("a", 1024), "chunk_line_too_long"),
		Entry("H18 many", strings.Repeat("1;"+strings.Repeat("a", 1022)+"\r\nx\r\n", 16)+"1;"+strings.Repeat("a", 1022)+"\r\n", "chunk_excess"),
		Entry("H19 data longer than its size", "1\r\nab", "chunk_end"),
		Entry("H19 data shorter than its size", "3\r\na\r\n1", "chunk_end"),
		Entry("H19 LF after the data", "1\r\na\n", "chunk_end"),
		Entry("H19 CR after the data", "1\r\na\ra", "chunk_end"),
		Entry("H6 CR after the last chunk", "0\r\n\rx", "bare_cr"),
		Entry("H6 LF after the last chunk", "0\r\n\n", "bare_lf"),
		Entry("H6 LF after a trailer", "0\r\nA: b\n", "bare_lf"),
		Entry("H7 a trailer that is folded", "0\r\nA: b\r\n c\r\n\r\n", "obs_fold"),
		Entry("H8 a trailer without a name", "0\r\n: b\r\n\r\n", "name_empty"),
		Entry("H9 NUL in a trailer", "0\r\nA: \x00\r\n\r\n", "control_byte"),
		Entry("H26 Content_Length in a trailer", "0\r\nContent_Length: 1\r\n\r\n", "underscore"),
		Entry("trailers that are too long", "0\r\nA: "+strings.Repeat("b", 8<<10), "trailers_too_long"),
		Entry("too many trailers", "0\r\n"+strings.Repeat("A: b\r\n", 33)+"\r\n", "too_many_fields"),
	)

	It("bears a byte a chunk for ever", func() {
		var c h1.Chunks
		for range 100_000 {
			data, n, done, err := c.Next([]byte("1\r\nx"))
			Expect(err).To(BeNil())
			Expect(done).To(BeFalse())
			Expect(string(data)).To(Equal("x"))
			Expect(n).To(Equal(4))
			_, _, _, err = c.Next([]byte("\r\n"))
			Expect(err).To(BeNil())
		}
	})

	It("hands on a chunk of the greatest size as it comes", func() {
		var c h1.Chunks
		data, _, _, err := c.Next([]byte("7fffffffffffffff\r\nabc"))
		Expect(err).To(BeNil())
		Expect(string(data)).To(Equal("abc"))
	})

	It("asks for more", func() {
		var c h1.Chunks
		data, n, done, err := c.Next(nil)
		Expect(data).To(BeEmpty())
		Expect(n).To(BeZero())
		Expect(done).To(BeFalse())
		Expect(err).To(BeNil())
	})

	It("stays at its end", func() {
		var c h1.Chunks
		_, _, done, _ := c.Next([]byte("0\r\n\r\n"))
		Expect(done).To(BeTrue())
		data, n, done, err := c.Next([]byte("1\r\na"))
		Expect(data).To(BeEmpty())
		Expect(n).To(BeZero())
		Expect(done).To(BeTrue())
		Expect(err).To(BeNil())
	})

	It("stays refused", func() {
		var c h1.Chunks
		_, _, _, first := c.Next([]byte("x"))
		_, n, done, err := c.Next([]byte("0\r\n\r\n"))
		Expect(err).To(BeIdenticalTo(first))
		Expect(n).To(BeZero())
		Expect(done).To(BeFalse())
	})
})
