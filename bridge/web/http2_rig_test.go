package web_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"switchboard/bridge/web"
)

// overTLS is for rigOptions.server: the listener speaks https.
func overTLS() func(*web.Options) {
	GinkgoHelper()
	certificates := startCertificates(GinkgoT().TempDir(), []string{"a.test", "*.test"})
	return func(o *web.Options) { o.TLS = certificates.Config() }
}

// http2Transport speaks HTTP/2 to the rig, whatever host a request is for: by prior
// knowledge to http: and as negotiated to https:.
func (r *rig) http2Transport() *http.Transport {
	GinkgoHelper()
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	t := &http.Transport{
		Protocols: protocols, DisableCompression: true,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", r.addr)
		},
	}
	DeferCleanup(t.CloseIdleConnections)
	return t
}

// exchange sends a request and reads the answer to its end.
func exchange(t http.RoundTripper, request *http.Request) (*http.Response, string) {
	GinkgoHelper()
	response, err := t.RoundTrip(request)
	Expect(err).NotTo(HaveOccurred())
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	Expect(err).NotTo(HaveOccurred())
	return response, string(body)
}

// fixed is a backend of HTTP/1.1 that answers every request with the same bytes and
// keeps what it was sent, as it was sent.
type fixed struct {
	addr string

	mu   sync.Mutex
	seen bytes.Buffer
}

// startFixed serves connections until the spec ends. answer may be cut short by the
// end of the connection: close says whether it is closed behind it.
func startFixed(answer string, close bool) *fixed {
	GinkgoHelper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	Expect(err).NotTo(HaveOccurred())
	s := &fixed{addr: listener.Addr().String()}
	var serving sync.WaitGroup
	var conns sync.Map
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			conns.Store(conn, nil)
			serving.Go(func() {
				defer conn.Close()
				s.serve(conn, answer, close)
			})
		}
	})
	DeferCleanup(func() {
		listener.Close()
		conns.Range(func(conn, _ any) bool { conn.(net.Conn).Close(); return true })
		serving.Wait()
	})
	return s
}

func (s *fixed) serve(conn net.Conn, answer string, close bool) {
	from := bufio.NewReader(io.TeeReader(conn, s))
	for {
		request, err := http.ReadRequest(from)
		if err != nil {
			return
		}
		if _, err := io.Copy(io.Discard, request.Body); err != nil {
			return
		}
		if _, err := io.WriteString(conn, answer); err != nil || close {
			return
		}
	}
}

// Write keeps what was read.
func (s *fixed) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen.Write(p)
}

// text is all that came.
func (s *fixed) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen.String()
}

// framer is a client of HTTP/2 that may send what no decent client would.
type framer struct {
	net.Conn
	*http2.Framer
	block   bytes.Buffer
	encoder *hpack.Encoder
}

// dialFramer connects to a cleartext rig and sends the preface and settings.
func (r *rig) dialFramer(settings ...http2.Setting) *framer {
	GinkgoHelper()
	conn, err := net.Dial("tcp", r.addr)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	f := &framer{Conn: conn, Framer: http2.NewFramer(conn, bufio.NewReader(conn))}
	f.AllowIllegalWrites = true
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	f.encoder = hpack.NewEncoder(&f.block)
	_, err = io.WriteString(conn, http2.ClientPreface)
	Expect(err).NotTo(HaveOccurred())
	Expect(f.WriteSettings(settings...)).To(Succeed())
	return f
}

// fields encodes name and value by turns.
func (f *framer) fields(pairs ...string) []byte {
	f.block.Reset()
	for i := 0; i < len(pairs); i += 2 {
		f.encoder.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
	}
	return bytes.Clone(f.block.Bytes())
}

// request begins a stream with a request to a.test; more are further fields.
func (f *framer) request(stream uint32, method string, end bool, more ...string) error {
	pairs := append([]string{":method", method, ":scheme", "http", ":path", "/", ":authority", "a.test"}, more...)
	return f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: f.fields(pairs...), EndHeaders: true, EndStream: end})
}

// ending is how a stream or its connection ended.
type ending struct {
	status string         // of an answer
	reset  *http2.ErrCode // of the stream
	goAway *http2.ErrCode
	closed bool // the connection is
}

// outcome reads until the stream or the connection has ended.
func (f *framer) outcome(stream uint32) (e ending) {
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			var timeout net.Error
			e.closed = !errors.As(err, &timeout) || !timeout.Timeout()
			return e
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			if frame.StreamID == stream && len(frame.PseudoFields()) > 0 {
				e.status = frame.PseudoValue("status")
			}
			if frame.StreamID == stream && frame.StreamEnded() {
				return e
			}
		case *http2.DataFrame:
			if frame.StreamID == stream && frame.StreamEnded() {
				return e
			}
		case *http2.RSTStreamFrame:
			if frame.StreamID == stream {
				e.reset = &frame.ErrCode
				return e
			}
		case *http2.GoAwayFrame:
			e.goAway = &frame.ErrCode
		}
	}
}

// refused: the request was answered by nobody but the router, or ended with its stream
// or its connection.
func (e ending) refused() bool {
	return e.closed || e.reset != nil || strings.HasPrefix(e.status, "4")
}

// floodUnread sends frames that are answered, and reads no answer, until the connection
// has ended.
func floodUnread(r *rig, flood func(*framer) error) {
	GinkgoHelper()
	before := heap()
	f := r.dialFramer()
	var err error
	for err == nil {
		err = flood(f)
	}
	var timeout net.Error
	Expect(errors.As(err, &timeout) && timeout.Timeout()).To(BeFalse(), "the connection is still open")
	Expect(heap() - before).To(BeNumerically("<", 32<<20))
	status, _ := r.get("a.test", "/")
	Expect(status).To(Equal(200))
}
