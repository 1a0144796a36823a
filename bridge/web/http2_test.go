package web_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/net/http2"

	"switchboard/bridge"
	"switchboard/bridge/web"
	"switchboard/fixtures/spec"
)

var _ = Describe("HTTP/2", func() {
	for _, scheme := range []string{"http", "https"} {
		Describe("over "+scheme, func() {
			// start runs a rig with one backend of a.test.
			start := func(address string, more ...func(*web.Options)) *rig {
				GinkgoHelper()
				secure := func(*web.Options) {}
				if scheme == "https" {
					secure = overTLS()
				}
				return startRig(rigOptions{
					hosts: []hostSpec{{name: "a.test", backends: []string{address}}},
					server: func(o *web.Options) {
						secure(o)
						for _, change := range more {
							change(o)
						}
					},
				})
			}
			request := func(method, path string, body io.Reader) *http.Request {
				GinkgoHelper()
				return must(http.NewRequest(method, scheme+"://a.test"+path, body))
			}

			It("makes each request one of strict HTTP/1.1", func() {
				b := startFixed("HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nConnection: X-Hop\r\nX-Hop: 1\r\nContent-Length: 2\r\n\r\nok", false)
				r := start(b.addr)
				asked := request("GET", "/a%2Fb//c?d=%20&e", nil)
				asked.Header = http.Header{
					"Cookie": {"one=1", "two=2"}, "X-Many": {"1", "2"}, "Te": {"trailers"}, "User-Agent": {"spec"}, "X-Forwarded-For": {"10.0.0.1"},
				}
				response, body := exchange(r.http2Transport(), asked)
				Expect(response.Proto).To(Equal("HTTP/2.0"))
				Expect(response.StatusCode).To(Equal(200))
				Expect(body).To(Equal("ok"))
				Expect(response.Header).To(Equal(http.Header{"Set-Cookie": {"a=1", "b=2"}, "Content-Length": {"2"}}))
				head := strings.Split(strings.TrimSuffix(b.text(), "\r\n\r\n"), "\r\n")
				Expect(head[:2]).To(Equal([]string{"GET /a%2Fb//c?d=%20&e HTTP/1.1", "Host: a.test"}))
				Expect(head[2:]).To(ConsistOf(
					"Cookie: one=1; two=2", "X-Many: 1", "X-Many: 2", "User-Agent: spec",
					"X-Forwarded-For: 127.0.0.1", "X-Forwarded-Host: a.test", "X-Forwarded-Proto: "+scheme, HavePrefix("X-Forwarded-Port: "),
					"Forwarded: for=127.0.0.1;host=a.test;proto="+scheme, HavePrefix("X-Request-Id: "),
				))
			})

			DescribeTable("passes bodies whole, both ways", func(size int, known bool) {
				b := startBackend("b", func(w http.ResponseWriter, r *http.Request) {
					if known {
						w.Header().Set("Content-Length", fmt.Sprint(r.ContentLength))
					}
					http.NewResponseController(w).EnableFullDuplex()
					io.Copy(w, r.Body)
				})
				r := start(b.addr)
				content := make([]byte, size)
				rand.Read(content)
				var body io.Reader = bytes.NewReader(content)
				if !known {
					body = io.MultiReader(body)
				}
				response, got := exchange(r.http2Transport(), request("POST", "/", body))
				if known {
					Expect(response.ContentLength).To(BeEquivalentTo(size))
				}
				Expect(sha256.Sum256([]byte(got))).To(Equal(sha256.Sum256(content)))
			},
				Entry("0 bytes", 0, true), Entry("1 byte", 1, true), Entry("100 KiB", 100<<10, true), Entry("5 MiB", 5<<20, true),
				Entry("1 byte of unknown length", 1, false), Entry("5 MiB of unknown length", 5<<20, false),
			)

			It("passes trailers, both ways", func() {
				b := startBackend("b", func(w http.ResponseWriter, r *http.Request) {
					io.Copy(io.Discard, r.Body)
					w.Header().Set("Trailer", "X-Sum")
					io.WriteString(w, "body")
					w.Header().Set("X-Sum", r.Trailer.Get("X-Asked"))
					w.Header().Set(http.TrailerPrefix+"X-Late", "unannounced")
				})
				r := start(b.addr)
				asked := request("POST", "/", io.MultiReader(strings.NewReader("x")))
				asked.Trailer = http.Header{"X-Asked": {"seven"}, "X-Forwarded-For": {"10.0.0.1"}}
				response, body := exchange(r.http2Transport(), asked)
				Expect(body).To(Equal("body"))
				Expect(response.Trailer).To(Equal(http.Header{"X-Sum": {"seven"}, "X-Late": {"unannounced"}}))
			})

			DescribeTable("passes answers without a body", func(method, answer string, status int, length int64) {
				r := start(startFixed(answer, false).addr)
				t := r.http2Transport()
				for range 2 {
					response, body := exchange(t, request(method, "/", nil))
					Expect(response.StatusCode).To(Equal(status))
					Expect(response.Header.Get("Content-Length")).To(Equal(map[bool]string{true: fmt.Sprint(length)}[length >= 0]))
					Expect(body).To(BeEmpty())
				}
			},
				Entry("to HEAD", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n", 200, int64(7)),
				Entry("204", "GET", "HTTP/1.1 204 No Content\r\n\r\n", 204, int64(-1)),
				Entry("304", "GET", "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n", 304, int64(-1)),
				Entry("of length 0", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, int64(0)),
			)

			It("passes interim answers", func() {
				r := start(startFixed("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", false).addr)
				var hints []string
				asked := request("GET", "/", nil)
				asked = asked.WithContext(httptrace.WithClientTrace(asked.Context(), &httptrace.ClientTrace{
					Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
						hints = append(hints, fmt.Sprint(code, header))
						return nil
					},
				}))
				response, _ := exchange(r.http2Transport(), asked)
				Expect(hints).To(Equal([]string{"103 map[Link:[</a.css>]]"}))
				Expect(response.Header).To(Equal(http.Header{"Content-Length": {"2"}}))
			})

			It("refuses a body over the limit, announced or not", func() {
				b := startBackend("b", nil)
				r := start(b.addr, func(o *web.Options) { o.MaxBody = 1000 })
				t := r.http2Transport()
				long := strings.Repeat("x", 1001)
				response, _ := exchange(t, request("POST", "/", strings.NewReader(long)))
				Expect(response.StatusCode).To(Equal(413))
				response, _ = exchange(t, request("POST", "/", io.MultiReader(strings.NewReader(long))))
				Expect(response.StatusCode).To(Equal(413))
				response, body := exchange(t, request("POST", "/", strings.NewReader(long[1:])))
				Expect(response.StatusCode).To(Equal(200))
				Expect(body).To(Equal("b"))
			})
		})
	}

	// get asks for a path of a.test.
	get := func(ctx context.Context, t http.RoundTripper, host, path string) (*http.Response, error) {
		return t.RoundTrip(must(http.NewRequestWithContext(ctx, "GET", "http://"+host+path, nil)))
	}

	It("answers itself what no backend does", func() {
		hang := startBackend("hang", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		garbage := startFixed("SSH-2.0-OpenSSH\r\n\r\n", true)
		r := startRig(rigOptions{hosts: []hostSpec{
			{name: "hang.test", backends: []string{hang.addr}, web: web.HostOptions{HeadTimeout: 100 * time.Millisecond}},
			{name: "garbage.test", backends: []string{garbage.addr}},
			{name: "none.test"},
		}})
		t := r.http2Transport()
		for host, status := range map[string]int{"unknown.test": 404, "garbage.test": 502, "none.test": 503, "hang.test": 504} {
			response, body := exchange(t, must(http.NewRequest("GET", "http://"+host+"/", nil)))
			Expect(response.StatusCode).To(Equal(status), host)
			Expect(body).To(HavePrefix(fmt.Sprint(status, " ")), host)
		}
	})

	It("lets the client see that an answer is incomplete", func() {
		b := startFixed("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", true)
		r := startRig(rigOptions{hosts: []hostSpec{{name: "a.test", backends: []string{b.addr}}}})
		response, err := get(context.Background(), r.http2Transport(), "a.test", "/")
		Expect(err).NotTo(HaveOccurred())
		defer response.Body.Close()
		_, err = io.ReadAll(response.Body)
		Expect(err).To(MatchError(ContainSubstring("stream error")))
	})

	It("tells the backend when the client has cancelled", func() {
		began, ended := make(chan struct{}), make(chan struct{})
		b := startBackend("b", func(_ http.ResponseWriter, r *http.Request) {
			close(began)
			<-r.Context().Done()
			close(ended)
		})
		r := startRig(rigOptions{hosts: []hostSpec{{name: "a.test", backends: []string{b.addr}}}})
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		go func() {
			<-began
			cancel()
		}()
		_, err := get(ctx, r.http2Transport(), "a.test", "/")
		Expect(err).To(MatchError(context.Canceled))
		Eventually(ended).Should(BeClosed())
		Eventually(func() int64 { return r.upstream.Counters(r.bridge.Host("a.test")).Refusals["client_gone"] }).Should(BeEquivalentTo(1))
	})

	It("reads no more from a backend than a slow client takes", func() {
		var written atomic.Int64
		const whole = 64 << 20
		b := startBackend("b", func(w http.ResponseWriter, _ *http.Request) {
			piece := make([]byte, 64<<10)
			for written.Load() < whole {
				n, err := w.Write(piece)
				if written.Add(int64(n)); err != nil {
					return
				}
			}
		})
		r := startRig(rigOptions{hosts: []hostSpec{{name: "a.test", backends: []string{b.addr}}}})
		f := r.dialFramer()
		Expect(f.request(1, "GET", true)).To(Succeed())
		// 64 KiB is what the client has not taken, the rest is the sockets'.
		Eventually(written.Load).Should(BeNumerically(">", 64<<10))
		Consistently(written.Load, "300ms").Should(BeNumerically("<", 32<<20))
	})

	It("carries 250 streams at once on one connection", func() {
		const streams = 250
		var waiting sync.WaitGroup
		waiting.Add(streams)
		b := startBackend("b", func(w http.ResponseWriter, r *http.Request) {
			waiting.Done()
			waiting.Wait()
			io.WriteString(w, r.URL.Path)
		})
		r := startRig(rigOptions{hosts: []hostSpec{{name: "a.test", backends: []string{b.addr}}}})
		f := r.dialFramer()
		for i := range streams {
			Expect(f.request(uint32(2*i+1), "GET", true)).To(Succeed())
		}
		for ended := 0; ended < streams; {
			frame, err := f.ReadFrame()
			Expect(err).NotTo(HaveOccurred())
			switch frame := frame.(type) {
			case *http2.MetaHeadersFrame:
				Expect(frame.PseudoValue("status")).To(Equal("200"))
			case *http2.DataFrame:
				if frame.StreamEnded() {
					ended++
				}
			}
		}
		Expect(r.server.Connections()).To(Equal(1))
	})

	It("resets the streams of a host that fails over, and no other on the connection", func() {
		began := make(chan struct{}, 2)
		release := make(chan struct{})
		stream := func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "one")
			w.(http.Flusher).Flush()
			began <- struct{}{}
			select {
			case <-r.Context().Done():
			case <-release:
				io.WriteString(w, " two")
			}
		}
		old, next, other := startBackend("old", stream), startBackend("next", nil), startBackend("other", stream)
		r := startRig(rigOptions{hosts: []hostSpec{
			{name: "db.test", backends: []string{old.addr, next.addr}, bridge: active}, {name: "web.test", backends: []string{other.addr}},
		}})
		t := r.http2Transport()
		severed, err := get(context.Background(), t, "db.test", "/")
		Expect(err).NotTo(HaveOccurred())
		defer severed.Body.Close()
		stays, err := get(context.Background(), t, "web.test", "/")
		Expect(err).NotTo(HaveOccurred())
		defer stays.Body.Close()
		Eventually(began).Should(Receive())
		Eventually(began).Should(Receive())
		r.activate("db.test", 2, next.addr)
		_, err = io.ReadAll(severed.Body)
		Expect(err).To(MatchError(ContainSubstring("stream error")))
		close(release)
		Expect(io.ReadAll(stays.Body)).To(BeEquivalentTo("one two"))
		Eventually(func() string {
			response, err := get(context.Background(), t, "db.test", "/")
			if err != nil {
				return err.Error()
			}
			defer response.Body.Close()
			body, _ := io.ReadAll(response.Body)
			return string(body)
		}).Should(Equal("next"))
	})

	Describe("when the router stops", func() {
		var (
			r       *rig
			f       *framer
			release chan struct{}
		)
		BeforeEach(func() {
			began := make(chan struct{})
			release = make(chan struct{})
			b := startBackend("b", func(w http.ResponseWriter, r *http.Request) {
				close(began)
				select {
				case <-release:
					io.WriteString(w, "finished")
				case <-r.Context().Done():
				}
			})
			r = startRig(rigOptions{
				hosts:  []hostSpec{{name: "a.test", backends: []string{b.addr}}},
				bridge: func(o *bridge.Options) { o.Drain = time.Minute },
			})
			f = r.dialFramer()
			Expect(f.request(1, "GET", true)).To(Succeed())
			Eventually(began).Should(BeClosed())
			r.signals <- syscall.SIGTERM
		})

		It("tells clients with GOAWAY, and lets streams in flight finish", func() {
			for {
				frame, err := f.ReadFrame()
				Expect(err).NotTo(HaveOccurred())
				if away, ok := frame.(*http2.GoAwayFrame); ok {
					Expect(away.ErrCode).To(Equal(http2.ErrCodeNo))
					break
				}
			}
			close(release)
			e := f.outcome(1)
			Expect(e.status).To(Equal("200"))
			Expect(e.reset).To(BeNil())
			Eventually(r.ended, 5*time.Second).Should(Receive(BeNil()))
			r.ended <- nil
		})

		It("cuts them at a second signal", func() {
			Consistently(r.ended, "100ms").ShouldNot(Receive())
			r.signals <- syscall.SIGTERM
			e := f.outcome(1)
			Expect(e.status).To(BeEmpty())
			Expect(e.closed || e.reset != nil).To(BeTrue())
		})
	})

	It("ends a connection that is idle, one whose preface does not come, and a stream whose body does not", func() {
		b := startBackend("b", nil)
		short := func(o *web.Options) {
			o.Head, o.Idle, o.Body = 200*time.Millisecond, 200*time.Millisecond, 200*time.Millisecond
		}
		r := startRig(rigOptions{hosts: []hostSpec{{name: "a.test", backends: []string{b.addr}}}, server: short})
		idle := r.dialFramer()
		Expect(idle.request(1, "GET", true)).To(Succeed())
		Expect(idle.outcome(1).status).To(Equal("200"))
		Expect(idle.outcome(3).closed).To(BeTrue())
		half := r.dial()
		half.send(http2.ClientPreface[:20])
		_, err := io.Copy(io.Discard, half)
		Expect(err).To(Or(Not(HaveOccurred()), MatchError(syscall.ECONNRESET)))
		stalled := r.dialFramer()
		Expect(stalled.request(1, "POST", false)).To(Succeed())
		e := stalled.outcome(1)
		Expect(e.status == "408" || e.reset != nil).To(BeTrue(), "%+v", e)
	})

	It("gives a stream up whose client takes nothing of the answer, however short it is", func() {
		r := startRig(rigOptions{server: func(o *web.Options) { o.Body = 200 * time.Millisecond }})
		f := r.dialFramer(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
		Expect(f.request(1, "GET", true)).To(Succeed())
		e := f.outcome(1)
		Expect(e.status).To(Equal("404"))
		Expect(e.reset).NotTo(BeNil())
	})

	It("speaks to curl", func() {
		spec.Need("curl", "curl")
		b := startBackend("b", nil)
		r := startRig(rigOptions{hosts: []hostSpec{{name: "a.test", backends: []string{b.addr}}}})
		out, err := exec.Command("curl", "-sS", "--max-time", "10", "--http2-prior-knowledge", "-w", " %{http_version}", "-d", "x=1",
			"--connect-to", "a.test:80:"+r.addr, "http://a.test/").CombinedOutput()
		Expect(err).NotTo(HaveOccurred(), string(out))
		Expect(string(out)).To(Equal("b 2"))
	})

	// startCounting runs a backend of a.test that counts requests, and a rig.
	startCounting := func(change func(*web.Options)) (*backend, *rig) {
		GinkgoHelper()
		b := startBackend("b", nil)
		return b, startRig(rigOptions{hosts: []hostSpec{{name: "a.test", backends: []string{b.addr}}}, server: change})
	}

	DescribeTable("P17 lets nothing through to HTTP/1.1 that is not allowed in HTTP/2", func(method string, end bool, pairs ...string) {
		b, r := startCounting(nil)
		f := r.dialFramer()
		Expect(f.request(1, method, end, pairs...)).To(Succeed())
		e := f.outcome(1)
		Expect(e.refused()).To(BeTrue(), "%+v", e)
		Expect(b.requests.Load()).To(BeZero())
	},
		Entry("Connection", "GET", true, "connection", "close"),
		Entry("Keep-Alive", "GET", true, "keep-alive", "1"),
		Entry("Proxy-Connection", "GET", true, "proxy-connection", "close"),
		Entry("Transfer-Encoding", "POST", false, "transfer-encoding", "chunked"),
		Entry("Upgrade", "GET", true, "upgrade", "websocket"),
		Entry("TE that is not trailers", "GET", true, "te", "gzip"),
		Entry("a name in upper case", "GET", true, "X-Upper", "1"),
		Entry("a name with a space", "GET", true, "x upper", "1"),
		Entry("a name with a colon", "GET", true, "x:y", "1"),
		Entry("an empty name", "GET", true, "", "1"),
		Entry("Host that is not :authority", "GET", true, "host", "b.test"),
		Entry("Host twice, of which one is not", "GET", true, "host", "a.test", "host", "b.test"),
		Entry("CR LF in a value", "GET", true, "x-a", "1\r\nX-B: 2"),
		Entry("LF in a value", "GET", true, "x-a", "1\nX-B: 2"),
		Entry("NUL in a value", "GET", true, "x-a", "1\x00"),
		Entry("a value that begins with a space", "GET", true, "x-a", " 1"),
		Entry("a value that ends with a tab", "GET", true, "x-a", "1\t"),
		Entry("Content-Length without a body", "POST", true, "content-length", "5"),
		Entry("Content-Length twice", "POST", false, "content-length", "5", "content-length", "5"),
		Entry("Content-Length that is no number", "POST", false, "content-length", "+5"),
		Entry("an unknown pseudo-header field", "GET", true, ":unknown", "1"),
		Entry("a pseudo-header field twice", "GET", true, ":path", "/b"),
		Entry(":protocol", "CONNECT", true, ":protocol", "websocket"),
	)

	DescribeTable("P17 lets no pseudo-header field through that would be something else in HTTP/1.1", func(method, path, authority string) {
		b, r := startCounting(nil)
		f := r.dialFramer()
		Expect(f.WriteHeaders(http2.HeadersFrameParam{
			StreamID: 1, EndHeaders: true, EndStream: true,
			BlockFragment: f.fields(":method", method, ":scheme", "http", ":path", path, ":authority", authority),
		})).To(Succeed())
		e := f.outcome(1)
		Expect(e.refused()).To(BeTrue(), "%+v", e)
		Expect(b.requests.Load()).To(BeZero())
	},
		Entry("CR LF in :path", "GET", "/ HTTP/1.1\r\nX-A: 1", "a.test"),
		Entry("a space in :path", "GET", "/a b", "a.test"),
		Entry("a fragment in :path", "GET", "/a#b", "a.test"),
		Entry("no :path", "GET", "", "a.test"),
		Entry("a :path of another host", "GET", "http://b.test/", "a.test"),
		Entry("a space in :method", "GET /x HTTP/1.1", "/", "a.test"),
		Entry("CR LF in :method", "GET / HTTP/1.1\r\nX: ", "/", "a.test"),
		Entry("CONNECT", "CONNECT", "/", "a.test"),
		Entry("TRACE", "TRACE", "/", "a.test"),
		Entry("CR LF in :authority", "GET", "/", "a.test\r\nX-A: 1"),
		Entry("a space in :authority", "GET", "/", "a.test b"),
		Entry("a user in :authority", "GET", "/", "user@a.test"),
		Entry("a list in :authority", "GET", "/", "a.test,b.test"),
		Entry("no :authority", "GET", "/", ""),
	)

	DescribeTable("P17 gives no backend a body that is not as long as was said", func(data string, end bool) {
		b := startFixed("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", false)
		r := startRig(rigOptions{hosts: []hostSpec{{name: "a.test", backends: []string{b.addr}}}})
		f := r.dialFramer()
		Expect(f.request(1, "POST", false, "content-length", "5")).To(Succeed())
		Expect(f.WriteData(1, end, []byte(data))).To(Succeed())
		e := f.outcome(1)
		Expect(e.refused()).To(BeTrue(), "%+v", e)
		Expect(b.text()).NotTo(ContainSubstring("12345"))
	}, Entry("too short", "123", true), Entry("too long", "123456789", true), Entry("too long, and more to come", "123456789", false))

	Describe("P16, when a client floods", func() {
		// floods sends until the connection has ended; it must end, and all the while
		// another client is served and memory stays bounded.
		floods := func(r *rig, settings []http2.Setting, flood func(f *framer, i int) error) {
			GinkgoHelper()
			before := heap()
			f := r.dialFramer(settings...)
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				io.Copy(io.Discard, f.Conn)
			}()
			var err error
			sent := 0
			for ; err == nil && sent < 2_000_000; sent++ {
				err = flood(f, sent)
			}
			Expect(err).To(HaveOccurred(), "the client goes on")
			var timeout net.Error
			Expect(errors.As(err, &timeout) && timeout.Timeout()).To(BeFalse(), "the connection is open after %d", sent)
			Eventually(ended, 10*time.Second).Should(BeClosed())
			Expect(heap() - before).To(BeNumerically("<", 32<<20))
			status, _ := r.get("a.test", "/")
			Expect(status).To(Equal(200))
		}

		It("ends it for CONTINUATION without end", func() {
			b, r := startCounting(nil)
			more := bytes.Repeat([]byte{0x40, 1, 'a', 1, 'b'}, 3000)
			floods(r, nil, func(f *framer, i int) error {
				if i == 0 {
					return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.fields(":method", "GET")})
				}
				return f.WriteContinuation(1, false, more)
			})
			Expect(b.requests.Load()).To(BeEquivalentTo(1), "only the other client's")
		})

		It("ends it for a value without end", func() {
			_, r := startCounting(nil)
			floods(r, nil, func(f *framer, i int) error {
				if i == 0 {
					// The length of the value is 1 GiB.
					return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x40, 1, 'a', 0x7f, 0x81, 0xff, 0xff, 0xff, 3}})
				}
				return f.WriteContinuation(1, false, make([]byte, 16000))
			})
		})

		It("ends it for a table that is read out again and again", func() {
			b, r := startCounting(nil)
			bomb := bytes.Repeat([]byte{0x80 | 62}, 16000)
			floods(r, nil, func(f *framer, i int) error {
				if i == 0 {
					// One field of 4 KB in the table, to be named by one byte.
					return f.request(1, "GET", true, "x-bomb", strings.Repeat("x", 3900))
				}
				stream := uint32(2*i + 1)
				if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: bomb}); err != nil {
					return err
				}
				for range 50 {
					if err := f.WriteContinuation(stream, false, bomb); err != nil {
						return err
					}
				}
				return nil
			})
			Expect(b.requests.Load()).To(BeNumerically("<=", 2))
		})

		It("ends it for PING whose answers it does not read", func() {
			_, r := startCounting(func(o *web.Options) { o.Body = time.Second })
			floodUnread(r, func(f *framer) error { return f.WritePing(false, [8]byte{}) })
		})

		It("ends it for SETTINGS whose answers it does not read", func() {
			_, r := startCounting(func(o *web.Options) { o.Body = time.Second })
			floodUnread(r, func(f *framer) error { return f.WriteSettings(http2.Setting{ID: http2.SettingEnablePush, Val: 0}) })
		})

		It("ends it for a frame of SETTINGS that repeats one thousands of times", func() {
			_, r := startCounting(nil)
			many := make([]http2.Setting, 2700)
			for i := range many {
				many[i] = http2.Setting{ID: http2.SettingInitialWindowSize, Val: 65535}
			}
			floods(r, nil, func(f *framer, _ int) error { return f.WriteSettings(many...) })
		})

		It("has no more requests at backends than streams are allowed, however fast they are reset", func() {
			var now, most atomic.Int64
			b := startBackend("b", func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/" {
					return
				}
				n := now.Add(1)
				defer now.Add(-1)
				for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				}
				<-r.Context().Done()
			})
			r := startRig(rigOptions{hosts: []hostSpec{{name: "a.test", backends: []string{b.addr}}}})
			before := heap()
			f := r.dialFramer()
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				io.Copy(io.Discard, f.Conn)
			}()
			for i := range 5000 {
				stream := uint32(2*i + 1)
				if f.request(stream, "GET", true) != nil || f.WriteRSTStream(stream, http2.ErrCodeCancel) != nil {
					break
				}
			}
			f.Close()
			<-ended
			// A backend learns a little late that a request is over.
			Expect(most.Load()).To(BeNumerically("<=", 2*250))
			Eventually(now.Load, 10*time.Second).Should(BeZero())
			Expect(heap() - before).To(BeNumerically("<", 64<<20))
			status, _ := r.get("a.test", "/other")
			Expect(status).To(Equal(200))
		})
	})

	Describe("P18, where it is not spoken", func() {
		It("refuses the preface on a connection that has negotiated HTTP/1.1", func() {
			r := startRig(rigOptions{server: overTLS()})
			c := r.dialTLS("http/1.1")
			c.send(http2.ClientPreface)
			response, _ := c.answer("GET")
			Expect(response.StatusCode).To(Equal(505))
			_, err := c.Read(make([]byte, 1))
			Expect(err).To(HaveOccurred())
		})

		It("refuses the preface in the clear on a port that speaks https", func() {
			r := startRig(rigOptions{server: overTLS()})
			c := r.dial()
			c.send(http2.ClientPreface)
			got, _ := io.ReadAll(c)
			Expect(string(got)).NotTo(ContainSubstring("HTTP"))
		})

		It("takes no notice of an upgrade to it", func() {
			b := startFixed("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", false)
			r := startRig(rigOptions{hosts: []hostSpec{{name: "a.test", backends: []string{b.addr}}}})
			c := r.dial()
			c.send("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n")
			response, body := c.answer("GET")
			Expect(response.StatusCode).To(Equal(200))
			Expect(body).To(Equal("ok"))
			Expect(b.text()).NotTo(Or(ContainSubstring("h2c"), ContainSubstring("HTTP2")))
		})
	})
})
