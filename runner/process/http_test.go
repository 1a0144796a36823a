package process_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/gbytes"
	"github.com/tedsuo/ifrit"

	"switchboard/runner/process"
)

var _ = Describe("HTTP", func() {
	var (
		server *process.HTTP
		client *http.Client
	)

	hello := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") })

	BeforeEach(func() {
		server = &process.HTTP{Bind: "127.0.0.1:0", Handler: hello}
		transport := &http.Transport{}
		client = &http.Client{Transport: transport}
		DeferCleanup(transport.CloseIdleConnections)
	})

	serve := func() ifrit.Process {
		GinkgoHelper()
		p := begin(server)
		Eventually(p.Ready()).Should(BeClosed())
		return p
	}

	url := func() string { return "http://" + server.Addr().String() + "/" }

	// get asks in the background and sends the answer's body or the error.
	get := func() <-chan any {
		answers, at := make(chan any, 1), url()
		go func() {
			answer, err := client.Get(at)
			if err != nil {
				answers <- err
				return
			}
			defer answer.Body.Close()
			body, err := io.ReadAll(answer.Body)
			if err != nil {
				answers <- err
				return
			}
			answers <- string(body)
		}()
		return answers
	}

	dial := func() net.Conn {
		GinkgoHelper()
		conn, err := net.Dial("tcp", server.Addr().String())
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() { conn.Close() })
		return conn
	}

	It("serves when it is ready, and ends with nil on a signal", func() {
		Expect(server.Addr()).To(BeNil())
		p := serve()
		Eventually(get()).Should(Receive(Equal("hello")))
		p.Signal(os.Interrupt)
		Eventually(p.Wait()).Should(Receive(BeNil()))
		_, err := net.Dial("tcp", server.Addr().String())
		Expect(err).To(MatchError(syscall.ECONNREFUSED))
	})

	It("serves TLS, and nothing else, where it has a certificate", func() {
		// httptest is only asked for its certificate.
		certified := httptest.NewTLSServer(hello)
		DeferCleanup(certified.Close)
		server.TLS = &tls.Config{Certificates: certified.TLS.Certificates}
		server.MaxConns, server.ReadHeaderTimeout = 1, 100*time.Millisecond
		p := serve()
		// It never begins its handshake, and has the only slot.
		silent := dial()
		answer, err := certified.Client().Get("https://" + server.Addr().String())
		Expect(err).NotTo(HaveOccurred())
		Expect(io.ReadAll(answer.Body)).To(BeEquivalentTo("hello"))
		Expect(answer.Body.Close()).To(Succeed())
		certified.Client().CloseIdleConnections()
		Expect(silent.SetReadDeadline(time.Now().Add(time.Second))).To(Succeed())
		_, err = silent.Read(make([]byte, 1))
		Expect(err).To(MatchError(io.EOF))

		plain, err := client.Get(url())
		Expect(err).NotTo(HaveOccurred())
		Expect(plain.Body.Close()).To(Succeed())
		Expect(plain.StatusCode).To(Equal(http.StatusBadRequest))
		p.Signal(os.Interrupt)
		Eventually(p.Wait()).Should(Receive(BeNil()))
	})

	It("serves on a listener it is given", func() {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		Expect(err).NotTo(HaveOccurred())
		server.Bind, server.Listener = "", listener
		serve()
		Expect(server.Addr()).To(Equal(listener.Addr()))
		Eventually(get()).Should(Receive(Equal("hello")))
	})

	DescribeTable("says why an address cannot be bound, and is never ready",
		func(bind string, errno syscall.Errno, text string) {
			if bind == "taken" {
				taken, err := net.Listen("tcp", "127.0.0.1:0")
				Expect(err).NotTo(HaveOccurred())
				DeferCleanup(taken.Close)
				bind = taken.Addr().String()
			}
			server.Bind = bind
			p := ifrit.Background(server)
			var err error
			Eventually(p.Wait()).Should(Receive(&err))
			Expect(err).To(MatchError(errno))
			Expect(err).To(MatchError("listening on " + bind + ": " + text))
			Expect(p.Ready()).NotTo(BeClosed())
			Expect(server.Addr()).To(BeNil())
		},
		Entry("when it is in use", "taken", syscall.EADDRINUSE,
			"address already in use: another process has this port"),
		Entry("when it is another machine's", "192.0.2.1:9090", syscall.EADDRNOTAVAIL,
			"cannot assign requested address: this machine does not have this address"),
	)

	It("returns an error if serving fails on its own", func() {
		accepts := &failing{closed: make(chan struct{})}
		server.Listener = accepts
		p := begin(server)
		var err error
		Eventually(p.Wait()).Should(Receive(&err))
		Expect(err).To(MatchError(errBroken))
		Expect(err).To(MatchError(HavePrefix("serving on ")))
		Expect(accepts.closed).To(BeClosed())
	})

	Describe("stopping", func() {
		var (
			entered chan context.Context
			release chan struct{}
			left    atomic.Int32
			causes  chan error // why a request's context ended
		)

		BeforeEach(func() {
			entered, release = make(chan context.Context, 1), make(chan struct{})
			left.Store(0)
			causes = make(chan error, 1)
			server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				defer left.Add(1)
				entered <- r.Context()
				select {
				case <-release:
					io.WriteString(w, "finished")
				case <-r.Context().Done():
					causes <- context.Cause(r.Context())
					io.WriteString(w, "cut short")
				}
			})
		})

		It("lets a request in flight finish (L1)", func() {
			p := serve()
			answers := get()
			var ctx context.Context
			Eventually(entered).Should(Receive(&ctx))
			p.Signal(os.Interrupt)
			Eventually(process.Stopping(ctx)).Should(BeClosed())
			Consistently(ctx.Done(), short).ShouldNot(BeClosed())
			Expect(p.Wait()).NotTo(Receive())
			close(release)
			Eventually(answers).Should(Receive(Equal("finished")))
			Eventually(p.Wait()).Should(Receive(BeNil()))
		})

		It("ends a handler that never ends when Drain is over", func() {
			server.Drain = short
			p := serve()
			answers := get()
			Eventually(entered).Should(Receive())
			p.Signal(os.Interrupt)
			Eventually(p.Wait()).WithTimeout(time.Second).Should(Receive(BeNil()))
			Expect(left.Load()).To(BeEquivalentTo(1), "the handler has returned before Run has")
			Expect(causes).To(Receive(MatchError("the server is stopping")))
			Eventually(answers).Should(Receive(Equal("cut short")), "it had a moment for its last words")
		})

		It("does not wait for a handler that does not hear its context", func() {
			server.Drain = -1
			deaf := make(chan struct{})
			DeferCleanup(func() { close(deaf) })
			server.Handler = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				entered <- r.Context()
				<-deaf
			})
			p := serve()
			answers := get()
			Eventually(entered).Should(Receive())
			p.Signal(os.Interrupt)
			Eventually(p.Wait()).WithTimeout(time.Second).Should(Receive(BeNil()))
			Eventually(answers).Should(Receive(MatchError(io.EOF)))
		})

		It("closes everything at once on a second signal (L2)", func() {
			server.Drain = time.Hour
			p := serve()
			answers := get()
			Eventually(entered).Should(Receive())
			p.Signal(os.Interrupt)
			Consistently(p.Wait(), short).ShouldNot(Receive())
			p.Signal(os.Interrupt)
			Eventually(p.Wait()).Should(Receive(BeNil()))
			Eventually(answers).Should(Receive())
			Eventually(causes).Should(Receive(MatchError("the server is stopping")))
		})

		It("ends endless streams that listen for Stopping without waiting for Drain", func() {
			server.Drain = time.Hour
			server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.(http.Flusher).Flush()
				entered <- r.Context()
				<-process.Stopping(r.Context())
				io.WriteString(w, "bye")
			})
			p := serve()
			answers := get()
			Eventually(entered).Should(Receive())
			p.Signal(os.Interrupt)
			Eventually(answers).Should(Receive(Equal("bye")))
			Eventually(p.Wait()).Should(Receive(BeNil()))
		})

		It("has no Stopping for requests of another server", func() {
			Expect(process.Stopping(context.Background())).To(BeNil())
		})
	})

	Describe("MaxConns", func() {
		BeforeEach(func() { server.MaxConns = 2 })

		ask := func(conn net.Conn) *gbytes.Buffer {
			GinkgoHelper()
			_, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: api\r\n\r\n")
			Expect(err).NotTo(HaveOccurred())
			return gbytes.BufferReader(conn)
		}

		It("leaves those beyond it waiting until one has left", func() {
			serve()
			first, second := dial(), dial()
			Eventually(ask(first)).Should(gbytes.Say("hello"))
			Eventually(ask(second)).Should(gbytes.Say("hello"))
			third := ask(dial())
			Consistently(third, short).ShouldNot(gbytes.Say("hello"))
			first.Close()
			Eventually(third).Should(gbytes.Say("hello"))
		})

		It("stops although accept is blocked by it", func() {
			p := serve()
			for range 2 {
				Eventually(ask(dial())).Should(gbytes.Say("hello"))
			}
			p.Signal(os.Interrupt)
			Eventually(p.Wait()).Should(Receive(BeNil()))
		})

		It("has a limit by default", func() {
			server.MaxConns = 0
			serve()
			for range 32 {
				Eventually(ask(dial())).Should(gbytes.Say("hello"))
			}
			Consistently(ask(dial()), short).ShouldNot(gbytes.Say("hello"))
		})
	})

	It("closes a connection that does not finish its head", func() {
		server.ReadHeaderTimeout = short
		serve()
		conn := dial()
		_, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost:")
		Expect(err).NotTo(HaveOccurred())
		closed := make(chan error, 1)
		go func() {
			_, err := io.Copy(io.Discard, conn)
			closed <- err
		}()
		Eventually(closed).Should(Receive())
	})

	It("logs what the server says at debug", func() {
		output := gbytes.NewBuffer()
		server.Log = slog.New(slog.NewTextHandler(output, &slog.HandlerOptions{Level: slog.LevelDebug}))
		server.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusOK)
			w.WriteHeader(http.StatusOK)
		})
		serve()
		Eventually(get()).Should(Receive(Equal("")))
		Eventually(output).Should(gbytes.Say("level=DEBUG.*superfluous"))
	})

	It("serves beside others in a group", func() {
		p := begin(process.Ordered(
			process.Member{Name: "api", Runner: server},
			process.Member{Name: "monitor", Runner: newScripted(1).readied()},
		))
		Eventually(p.Ready()).Should(BeClosed())
		conn := dial()
		fmt.Fprintf(conn, "GET / HTTP/1.0\r\n\r\n")
		line, err := bufio.NewReader(conn).ReadString('\n')
		Expect(err).NotTo(HaveOccurred())
		Expect(line).To(ContainSubstring("200 OK"))
		p.Signal(os.Interrupt)
		Eventually(p.Wait()).Should(Receive(BeNil()))
	})
})

// failing is a listener whose accept fails for good.
type failing struct{ closed chan struct{} }

func (f *failing) Accept() (net.Conn, error) { return nil, errBroken }
func (f *failing) Addr() net.Addr            { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }
func (f *failing) Close() error {
	select {
	case <-f.closed:
		return errors.New("closed twice")
	default:
		close(f.closed)
		return nil
	}
}
