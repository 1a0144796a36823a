package web_test

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"switchboard/bridge/web"
)

var _ = Describe("Framing of requests in HTTP/2", func() {
	// plain is a valid request's fields.
	plain := []string{":method=GET", ":scheme=http", ":path=/", ":authority=a.test"}

	DescribeTable("P17: what HTTP/1.1 could read in another way never reaches a backend", func(requests ...[]string) {
		b := startScript(ok)
		r := front(b.addr)
		for _, fields := range requests {
			c := r.dialHTTP2()
			c.ask(1, true, fields...)
			status, refused := c.outcome(1)
			Expect(refused || status == "400" || status == "405").To(BeTrue(), "%.100q: %s", fields, status)
			c.Close()
		}
		Expect(b.Connections()).To(BeZero(), func() string { return b.Got() })
	},
		Entry("fields about the connection", with(plain, "connection=close"), with(plain, "transfer-encoding=chunked"), with(plain, "upgrade=h2c"),
			with(plain, "keep-alive=1"), with(plain, "proxy-connection=close"), with(plain, "te=gzip")),
		Entry("names in upper case, or that are none", with(plain, "X-Mine=1"), with(plain, "x mine=1"), with(plain, "x:mine=1"), with(plain, "x\r\nhost=1"), with(plain, "=1")),
		Entry("CR, LF and NUL in values", with(plain, "x=a\r\nhost: evil.test"), with(plain, "x=a\nb"), with(plain, "x=a\x00b"), with(plain, "x=a\rb")),
		Entry("a host that is none", with(plain[:3], ":authority=a.test,b.test"), with(plain[:3], ":authority=u@a.test"),
			with(plain[:3], ":authority="), plain[:3], with(plain[:3], ":authority=a.test\r\nx: y")),
		Entry("lines in pseudo-fields", with(plain[1:], ":method=GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"), []string{":method=GET", ":scheme=http", ":path=/ HTTP/1.1\r\nx: y", ":authority=a.test"},
			[]string{":method=GET", ":scheme=http", ":path=/a b", ":authority=a.test"}, []string{":method=GET", ":scheme=http", ":path=", ":authority=a.test"},
			[]string{":method=GET", ":scheme=http", ":path=/#x", ":authority=a.test"}, []string{":method=GET", ":scheme=http", ":path=x", ":authority=a.test"}),
		Entry("pseudo-fields that are missing, repeated, unknown or late", plain[1:], with(plain, ":path=/x"), with(plain, ":evil=1"), []string{":method=GET", ":scheme=http", "x=y", ":path=/", ":authority=a.test"}),
		Entry("CONNECT and TRACE", []string{":method=CONNECT", ":authority=a.test:80"}, with(plain[1:], ":method=TRACE")),
		Entry("a name that means a length or a coding where _ is -", with(plain, "content_length=5"), with(plain, "transfer_encoding=chunked")),
	)

	It("P17: never passes on more or less than the length that was said", func() {
		b := startScript(ok)
		r := front(b.addr)
		for _, body := range []string{"1234", "123456", "12345GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n"} {
			c := r.dialHTTP2()
			c.ask(1, false, ":method=POST", ":scheme=http", ":path=/", ":authority=a.test", "content-length=5")
			Expect(c.framer.WriteData(1, true, []byte(body))).To(Succeed())
			status, refused := c.outcome(1)
			Expect(refused || status >= "400").To(BeTrue(), "%q: %s", body, status)
			c.Close()
		}
		Expect(b.Got()).NotTo(ContainSubstring("smuggled"))
		Expect(b.Got()).NotTo(ContainSubstring("12345"))
	})

	It("P17: passes on neither a Host that is not the authority's nor a length that is not the body's", func() {
		b := startScript(ok)
		r := front(b.addr)
		bad := [][]string{with(plain, "host=evil.test"), with(plain, "content-length=5"), with(plain, "content-length=+0"), with(plain, "content-length=0", "content-length=1")}
		for _, fields := range bad {
			c := r.dialHTTP2()
			c.ask(1, true, fields...)
			// The standard library's server takes some of them for a request without these fields,
			// which means the same to everybody.
			c.outcome(1)
			c.Close()
		}
		Expect(strings.ReplaceAll(b.Plain(), "GET / HTTP/1.1\r\nHost: a.test\r\n"+about, "")).To(BeEmpty())
	})

	It("P17: writes down anew what it passes on", func() {
		b := startScript(ok)
		r := front(b.addr)
		c := r.dialHTTP2()
		c.ask(1, true, with(plain, "te=trailers", "x-forwarded-for=1.2.3.4", "x-real-ip=1.2.3.4", "host=a.test", "cookie=a=b", "cookie=c=d")...)
		status, _ := c.outcome(1)
		Expect(status).To(Equal("200"))
		Expect(b.Plain()).To(Equal("GET / HTTP/1.1\r\nHost: a.test\r\nCookie: a=b; c=d\r\n" + about))
	})

	It("P18: answers the preface where HTTP/2 was not agreed on with 505", func() {
		b := startScript(ok)
		r := startRig(rigOptions{
			hosts:  []hostSpec{{name: "a.test", backends: []string{b.addr}}},
			server: func(o *web.Options) { o.TLS = &tls.Config{Certificates: []tls.Certificate{certificate()}} },
		})
		c := r.dialTLS("http/1.1")
		c.send(http2.ClientPreface)
		Expect(c.all()).To(HavePrefix("HTTP/1.1 505 HTTP Version Not Supported\r\n"))
		Expect(b.Connections()).To(BeZero())
	})
})

func with(fields []string, more ...string) []string {
	return append(append([]string(nil), fields...), more...)
}

// clientHTTP2 is a connection that speaks HTTP/2 frame by frame, by prior knowledge.
type clientHTTP2 struct {
	net.Conn
	framer  *http2.Framer
	encoded bytes.Buffer
	encoder *hpack.Encoder
}

func (r *rig) dialHTTP2() *clientHTTP2 {
	GinkgoHelper()
	c := &clientHTTP2{Conn: r.dial().Conn}
	_, err := io.WriteString(c, http2.ClientPreface)
	Expect(err).NotTo(HaveOccurred())
	c.framer = http2.NewFramer(c, c)
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.encoder = hpack.NewEncoder(&c.encoded)
	Expect(c.framer.WriteSettings()).To(Succeed())
	return c
}

// ask begins a stream with fields of the form name=value, however bad they are.
func (c *clientHTTP2) ask(stream uint32, ends bool, fields ...string) {
	GinkgoHelper()
	c.encoded.Reset()
	for _, f := range fields {
		name, value, _ := strings.Cut(f, "=")
		Expect(c.encoder.WriteField(hpack.HeaderField{Name: name, Value: value})).To(Succeed())
	}
	Expect(c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: c.encoded.Bytes(), EndStream: ends, EndHeaders: true})).To(Succeed())
}

// outcome is the status of the answer to a stream; refused: it was reset, or the
// connection ended.
func (c *clientHTTP2) outcome(stream uint32) (status string, refused bool) {
	GinkgoHelper()
	for {
		frame, err := c.framer.ReadFrame()
		switch f := frame.(type) {
		case *http2.MetaHeadersFrame:
			if f.StreamID == stream && f.PseudoValue("status") >= "200" {
				return f.PseudoValue("status"), false
			}
		case *http2.RSTStreamFrame:
			if f.StreamID == stream {
				return "", true
			}
		case *http2.GoAwayFrame:
			return "", true
		}
		if err != nil {
			Expect(err).NotTo(MatchError(ContainSubstring("timeout")))
			return "", true
		}
	}
}
