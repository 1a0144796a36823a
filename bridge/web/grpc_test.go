package web_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"switchboard/bridge/web"
)

// plainCodec has strings for messages.
type plainCodec struct{}

func (plainCodec) Marshal(v any) ([]byte, error) { return []byte(*v.(*string)), nil }

func (plainCodec) Unmarshal(data []byte, v any) error {
	*v.(*string) = string(data)
	return nil
}

func (plainCodec) Name() string { return "plain" }

// grpcBackend is a gRPC server.
type grpcBackend struct {
	name, addr string
	server     *grpc.Server
	// waiting has one for each call of Wait that has begun, left the cause of its end.
	waiting, left chan struct{}
}

// startGRPC serves until the spec ends.
func startGRPC(name string) *grpcBackend {
	GinkgoHelper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	Expect(err).NotTo(HaveOccurred())
	b := &grpcBackend{name: name, addr: listener.Addr().String(), waiting: make(chan struct{}, 10), left: make(chan struct{}, 10)}
	b.server = grpc.NewServer(grpc.ForceServerCodec(plainCodec{}), grpc.UnknownServiceHandler(b.call))
	go b.server.Serve(listener)
	DeferCleanup(b.server.Stop)
	return b
}

// call is every method of every service.
func (b *grpcBackend) call(_ any, s grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(s)
	method = method[strings.LastIndexByte(method, '/')+1:]
	said, _ := metadata.FromIncomingContext(s.Context())
	s.SetHeader(metadata.MD{"asked": said.Get("ask"), "raw-bin": said.Get("raw-bin")})
	s.SetTrailer(metadata.Pairs("by", b.name))
	var message string
	switch method {
	case "Fail":
		return status.Error(codes.FailedPrecondition, "not now: ä")
	case "Wait":
		s.SendHeader(nil)
		b.waiting <- struct{}{}
		<-s.Context().Done()
		b.left <- struct{}{}
		return s.Context().Err()
	case "Hang":
		b.waiting <- struct{}{}
		<-s.Context().Done()
		return s.Context().Err()
	case "Collect":
		var all string
		for s.RecvMsg(&message) == nil {
			all += message
		}
		return s.SendMsg(&all)
	case "List":
		for i := range 1000 {
			message = strings.Repeat(fmt.Sprint(i), 100)
			if err := s.SendMsg(&message); err != nil {
				return err
			}
		}
		return nil
	}
	for {
		err := s.RecvMsg(&message)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.SendMsg(&message); err != nil {
			return err
		}
	}
}

// dialGRPC returns a client whose calls go to a.test.
func (r *rig) dialGRPC(secure bool) *grpc.ClientConn {
	GinkgoHelper()
	with := insecure.NewCredentials()
	if secure {
		with = credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})
	}
	conn, err := grpc.NewClient("passthrough:///"+r.addr, grpc.WithTransportCredentials(with), grpc.WithAuthority("a.test"),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(plainCodec{})))
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(conn.Close)
	return conn
}

// toGRPC is the hosts of a rig with gRPC backends.
func toGRPC(backends ...*grpcBackend) []hostSpec {
	h := hostSpec{name: "a.test", web: web.HostOptions{Version: web.H2C}}
	for _, b := range backends {
		h.backends = append(h.backends, b.addr)
	}
	return []hostSpec{h}
}

var _ = Describe("gRPC", func() {
	for _, scheme := range []string{"http", "https"} {
		Describe("over "+scheme, func() {
			var (
				b      *grpcBackend
				r      *rig
				client *grpc.ClientConn
				ctx    context.Context
			)
			BeforeEach(func() {
				b = startGRPC("one")
				o := rigOptions{hosts: toGRPC(b)}
				if scheme == "https" {
					o.server = overTLS()
				}
				r = startRig(o)
				client = r.dialGRPC(scheme == "https")
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(context.Background(), 20*time.Second)
				DeferCleanup(cancel)
			})

			It("carries a call, and what is said beside it", func() {
				var header, trailer metadata.MD
				in, out := strings.Repeat("hello", 100_000), ""
				asking := metadata.AppendToOutgoingContext(ctx, "ask", "one", "ask", "two", "raw-bin", "\x00\xff")
				Expect(client.Invoke(asking, "/spec.S/Echo", &in, &out, grpc.Header(&header), grpc.Trailer(&trailer))).To(Succeed())
				Expect(out == in).To(BeTrue())
				Expect(header.Get("asked")).To(Equal([]string{"one", "two"}))
				Expect(header.Get("raw-bin")).To(Equal([]string{"\x00\xff"}))
				Expect(trailer.Get("by")).To(Equal([]string{"one"}))
			})

			It("carries a stream from the server", func() {
				s, err := client.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/spec.S/List")
				Expect(err).NotTo(HaveOccurred())
				in := ""
				Expect(s.SendMsg(&in)).To(Succeed())
				Expect(s.CloseSend()).To(Succeed())
				var message string
				for i := range 1000 {
					Expect(s.RecvMsg(&message)).To(Succeed())
					Expect(message).To(Equal(strings.Repeat(fmt.Sprint(i), 100)))
				}
				Expect(s.RecvMsg(&message)).To(MatchError(io.EOF))
			})

			It("carries a stream from the client", func() {
				s, err := client.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, "/spec.S/Collect")
				Expect(err).NotTo(HaveOccurred())
				for range 1000 {
					message := "ab"
					Expect(s.SendMsg(&message)).To(Succeed())
				}
				Expect(s.CloseSend()).To(Succeed())
				var all string
				Expect(s.RecvMsg(&all)).To(Succeed())
				Expect(all).To(Equal(strings.Repeat("ab", 1000)))
			})

			It("carries a conversation, message by message", func() {
				s, err := client.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/spec.S/Echo")
				Expect(err).NotTo(HaveOccurred())
				for i := range 100 {
					message, answer := fmt.Sprint(i), ""
					Expect(s.SendMsg(&message)).To(Succeed())
					Expect(s.RecvMsg(&answer)).To(Succeed())
					Expect(answer).To(Equal(message))
				}
				Expect(s.CloseSend()).To(Succeed())
				Expect(s.RecvMsg(new(string))).To(MatchError(io.EOF))
			})

			It("carries a head before the first message", func() {
				stopping, cancel := context.WithCancel(ctx)
				s, err := client.NewStream(stopping, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/spec.S/Wait")
				Expect(err).NotTo(HaveOccurred())
				_, err = s.Header()
				Expect(err).NotTo(HaveOccurred())
				cancel()
				Eventually(b.left).Should(Receive())
			})

			It("carries a status without an answer", func() {
				in, out := "", ""
				err := client.Invoke(ctx, "/spec.S/Fail", &in, &out)
				Expect(status.Code(err)).To(Equal(codes.FailedPrecondition))
				Expect(status.Convert(err).Message()).To(Equal("not now: ä"))
			})

			It("carries a deadline, and a cancellation, to the server", func() {
				in, out := "", ""
				soon, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
				defer cancel()
				// The server knows the deadline too, and may be the first to reset the stream.
				Expect(status.Code(client.Invoke(soon, "/spec.S/Wait", &in, &out))).To(Equal(codes.DeadlineExceeded))
				Eventually(b.left).Should(Receive())
				stopping, stop := context.WithCancel(ctx)
				defer stop()
				Eventually(b.waiting).Should(Receive())
				go func() {
					<-b.waiting
					stop()
				}()
				Expect(status.Code(client.Invoke(stopping, "/spec.S/Wait", &in, &out))).To(Equal(codes.Canceled))
				Eventually(b.left).Should(Receive())
			})
		})
	}

	It("is unavailable at once when the instance is killed, and the next call is another's", func() {
		one, two := startGRPC("one"), startGRPC("two")
		r := startRig(rigOptions{hosts: toGRPC(one, two)})
		client := r.dialGRPC(false)
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		in, out := "", ""
		failed := make(chan error, 1)
		go func() { failed <- client.Invoke(ctx, "/spec.S/Hang", &in, new(string)) }()
		killed, other := one, two
		select {
		case <-one.waiting:
		case <-two.waiting:
			killed, other = two, one
		}
		killed.server.Stop()
		var err error
		Eventually(failed).Should(Receive(&err))
		Expect(status.Code(err)).To(Equal(codes.Unavailable))
		for range 20 {
			var trailer metadata.MD
			Expect(client.Invoke(ctx, "/spec.S/Echo", &in, &out, grpc.Trailer(&trailer))).To(Succeed())
			Expect(trailer.Get("by")).To(Equal([]string{other.name}))
		}
	})

	It("is unavailable where there is no backend", func() {
		r := startRig(rigOptions{hosts: toGRPC()})
		in, out := "", ""
		err := r.dialGRPC(false).Invoke(context.Background(), "/spec.S/Echo", &in, &out)
		Expect(status.Code(err)).To(Equal(codes.Unavailable))
	})
})

// startH2C is [startBackend] for a backend that speaks HTTP/2 only.
func startH2C(handler http.HandlerFunc) *backend {
	GinkgoHelper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	Expect(err).NotTo(HaveOccurred())
	b := &backend{addr: listener.Addr().String()}
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	b.server = &http.Server{Protocols: protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.requests.Add(1)
		handler(w, r)
	})}
	go b.server.Serve(listener)
	DeferCleanup(b.server.Close)
	return b
}

var _ = Describe("A backend of HTTP/2", func() {
	var b *backend
	start := func(handler http.HandlerFunc) *rig {
		GinkgoHelper()
		b = startH2C(handler)
		return startRig(rigOptions{hosts: []hostSpec{{name: "a.test", backends: []string{b.addr}, web: web.HostOptions{Version: web.H2C}}}})
	}
	// echo answers with the body, and says in the head what the request was.
	echo := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Was", strings.Join([]string{r.Proto, r.Method, r.RequestURI, r.Host, r.Header.Get("Cookie"), r.Header.Get("X-Forwarded-For"), r.Header.Get("Te")}, " "))
		w.Header().Set("Trailer", "X-Sum")
		w.WriteHeader(http.StatusOK)
		io.Copy(w, r.Body)
		w.Header().Set("X-Sum", r.Trailer.Get("X-Asked"))
	}

	It("serves clients of HTTP/1.1", func() {
		c := start(echo).dial()
		c.send("POST //a%2Fb\\c?d HTTP/1.1\r\nHost: a.test:80\r\nCookie: x=1\r\nTE: gzip\r\nKeep-Alive: 1\r\nTrailer: X-Asked, Host\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Asked: seven\r\nX-Not: 1\r\n\r\n")
		response, body := c.answer("POST")
		Expect(response.StatusCode).To(Equal(200))
		Expect(response.Status).To(Equal("200 OK"))
		Expect(response.Header.Get("X-Was")).To(Equal(`HTTP/2.0 POST //a%2Fb\c?d a.test:80 x=1 127.0.0.1 trailers`))
		Expect(body).To(Equal("hello"))
		Expect(response.Trailer).To(Equal(http.Header{"X-Sum": {"seven"}}))
		c.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nagain")
		_, body = c.answer("POST")
		Expect(body).To(Equal("again"), "on the same connection")
	})

	It("is asked for the server as a whole", func() {
		c := start(echo).dial()
		c.send("OPTIONS * HTTP/1.1\r\nHost: a.test\r\n\r\n")
		response, _ := c.answer("OPTIONS")
		Expect(response.StatusCode).To(Equal(200))
	})

	It("gets the body of a client that waits to be asked for it", func() {
		c := start(echo).dial()
		c.send("POST / HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
		response, err := http.ReadResponse(c.reader, nil)
		Expect(err).NotTo(HaveOccurred())
		Expect(response.StatusCode).To(Equal(100))
		c.send("hello")
		_, body := c.answer("POST")
		Expect(body).To(Equal("hello"))
	})

	DescribeTable("answers without a body", func(method string, code int, head http.Header, want string) {
		c := start(func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Date"], w.Header()["Content-Type"] = nil, nil
			for name, values := range head {
				w.Header()[name] = values
			}
			w.WriteHeader(code)
		}).dial()
		c.send(method + " / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
		all, err := io.ReadAll(c)
		Expect(err).NotTo(HaveOccurred())
		Expect(string(all)).To(Equal(want + "Connection: close\r\n\r\n"))
	},
		Entry("204", "GET", 204, nil, "HTTP/1.1 204 No Content\r\n"),
		Entry("304", "GET", 304, nil, "HTTP/1.1 304 Not Modified\r\n"),
		Entry("to HEAD", "HEAD", 200, http.Header{"Content-Length": {"7"}}, "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n"),
		Entry("of length 0", "GET", 200, nil, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"),
		Entry("with a field that belongs to a connection", "GET", 204, http.Header{"Keep-Alive": {"1"}, "Upgrade": {"h2c"}}, "HTTP/1.1 204 No Content\r\n"),
	)

	It("has its interim answers passed on", func() {
		c := start(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Link", "</a.css>")
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(http.StatusOK)
		}).dial()
		c.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
		response, err := http.ReadResponse(c.reader, nil)
		Expect(err).NotTo(HaveOccurred())
		Expect(response.StatusCode).To(Equal(103))
		Expect(response.Header.Get("Link")).To(Equal("</a.css>"))
		response, _ = c.answer("GET")
		Expect(response.StatusCode).To(Equal(200))
	})

	It("may answer before the whole request has come", func() {
		r := start(func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", http.StatusForbidden) })
		t := r.http2Transport()
		for range 20 {
			content := strings.Repeat("x", 1<<20)
			response, body := exchange(t, must(http.NewRequest("POST", "http://a.test/", strings.NewReader(content))))
			Expect(response.StatusCode).To(Equal(403))
			Expect(body).To(Equal("no\n"))
		}
		reader, writer := io.Pipe()
		response, err := t.RoundTrip(must(http.NewRequest("POST", "http://a.test/", reader)))
		Expect(err).NotTo(HaveOccurred())
		response.Body.Close()
		writer.Close()
		Expect(response.StatusCode).To(Equal(403))
	})

	It("is not waited for when it cannot be dialed", func() {
		r := start(echo)
		b.server.Close()
		status, _ := r.get("a.test", "/")
		Expect(status).To(Equal(502))
	})
})
