package check_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/fixtures/spec"
	"switchboard/monitor/check"
)

var _ = Describe("HTTP", func() {
	const json = "application/json"
	galera := check.Spec{Type: "http", Path: "/api/v1/status"}

	BeforeEach(spec.CheckLeaks)

	DescribeTable("what an answer is worth (M2, M10)",
		func(answer string, verdict check.Verdict, detail string) {
			result := probe(check.HTTP, galera, aim(serve(replyTo(answer))), time.Second)
			Expect(result.Verdict).To(Equal(verdict), result.Detail)
			Expect(result.Detail).To(ContainSubstring(detail))
			Expect(len(result.Detail)).To(BeNumerically("<", 250))
			Expect(result.Detail).NotTo(MatchRegexp(`[[:cntrl:]]`))
		},
		Entry("healthy JSON", ok(json, `{"healthy":true,"wsrep_local_index":0}`), check.Healthy, "healthy: true"),
		Entry("unhealthy JSON", ok(json, `{"healthy":false,"wsrep_local_index":1}`), check.Unhealthy, "healthy: false"),
		Entry("JSON by its look", ok("text/plain", ` {"healthy":false}`), check.Unhealthy, ""),
		Entry("JSON with a charset", ok(json+"; charset=utf-8", "[]"), check.Failed, "not the JSON"),
		Entry("a suffix of JSON", ok("application/health+json", "null"), check.Failed, `no "healthy"`),
		Entry("truncated JSON", ok(json, `{"healthy":tr`), check.Failed, "not the JSON"),
		Entry("JSON shorter than promised", "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"healthy\":true}",
			check.Failed, "ended before"),
		Entry("two JSON values", ok(json, `{"healthy":true}{}`), check.Failed, "not the JSON"),
		Entry("JSON without healthy", ok(json, `{"wsrep_local_index":0}`), check.Failed, `no "healthy"`),
		Entry("healthy of another type", ok(json, `{"healthy":"true"}`), check.Failed, "not the JSON"),
		Entry("empty where JSON was promised", ok(json, ""), check.Failed, "not the JSON"),
		Entry("HTML where JSON was promised", ok(json, "<html>"), check.Failed, "not the JSON"),
		Entry("plain OK", ok("text/plain", "OK\n"), check.Healthy, "status 200"),
		Entry("an empty 200", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", check.Healthy, "status 200"),
		Entry("503", "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\r\nbad\x07news\x1b[31m\n\nsecond line", check.Unhealthy, "status 503: bad?news?[31m"),
		Entry("503 with a long body", "HTTP/1.1 503 No\r\nConnection: close\r\n\r\n"+long, check.Unhealthy, "xxx…"),
		Entry("503 with a healthy body", "HTTP/1.1 503 No\r\nConnection: close\r\n\r\n{\"healthy\":true}", check.Unhealthy, "status 503"),
		Entry("500", "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", check.Failed, "status 500"),
		Entry("204", "HTTP/1.1 204 No Content\r\n\r\n", check.Failed, "status 204"),
		Entry("404", "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", check.Failed, "status 404"),
		Entry("a redirect", "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", check.Failed, "status 302"),
		Entry("no HTTP", "SSH-2.0-OpenSSH_9.2\r\n", check.Failed, "malformed"),
		Entry("nothing", "", check.Failed, "ended before"),
		Entry("an endless head", "HTTP/1.1 200 OK\r\nX: "+strings.Repeat("x", 100<<10), check.Failed, ""),
	)

	It("tells the index", func() {
		result := probe(check.HTTP, galera, aim(serve(replyTo(ok(json, `{"healthy":true,"wsrep_local_index":2}`)))), time.Second)
		Expect(result.Index).To(HaveValue(Equal(2)))
		result = probe(check.HTTP, galera, aim(serve(replyTo(ok(json, `{"healthy":true}`)))), time.Second)
		Expect(result.Index).To(BeNil())
	})

	It("reads the biggest JSON that fits and fails one that is a byte longer", func() {
		body := `{"healthy":true,"x":"` + strings.Repeat("x", check.MaxBody-len(`{"healthy":true,"x":""}`)) + `"}`
		Expect(body).To(HaveLen(check.MaxBody))
		Expect(probe(check.HTTP, galera, aim(serve(replyTo(ok(json, body)))), time.Second).Verdict).To(Equal(check.Healthy))
		result := probe(check.HTTP, galera, aim(serve(replyTo(ok(json, body+" ")))), time.Second)
		Expect(result.Verdict).To(Equal(check.Failed))
		Expect(result.Detail).To(ContainSubstring("longer than 65536"))
	})

	It("stops reading a body that does not end (M2)", func() {
		var written atomic.Int64
		address := serve(func(conn net.Conn) {
			_, _ = http.ReadRequest(bufio.NewReader(conn))
			_, _ = io.WriteString(conn, ok("text/plain", ""))
			chunk := make([]byte, 32<<10)
			for {
				n, err := conn.Write(chunk)
				if written.Add(int64(n)); err != nil {
					return
				}
			}
		})
		Expect(probe(check.HTTP, galera, aim(address), 5*time.Second).Verdict).To(Equal(check.Healthy))
		// What lies in the kernel's buffers is not ours to bound.
		Expect(written.Load()).To(BeNumerically("<", 64<<20))
	})

	It("bounds the whole answer, not each read (M9)", func() {
		address := serve(func(conn net.Conn) {
			_, _ = http.ReadRequest(bufio.NewReader(conn))
			_, _ = io.WriteString(conn, ok(json, ""))
			drip := time.NewTicker(10 * time.Millisecond)
			defer drip.Stop()
			for range drip.C {
				if _, err := io.WriteString(conn, " "); err != nil {
					return
				}
			}
		})
		began := time.Now()
		result := probe(check.HTTP, galera, aim(address), 150*time.Millisecond)
		Expect(result).To(Equal(check.Result{Verdict: check.Failed, Detail: "status 200, reading the body: timed out"}))
		Expect(time.Since(began)).To(BeNumerically("<", time.Second))
	})

	It("does not follow a redirect (M10)", func() {
		var followed atomic.Int64
		other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { followed.Add(1) }))
		DeferCleanup(other.Close)
		itself := httptest.NewServer(http.RedirectHandler(other.URL, http.StatusTemporaryRedirect))
		DeferCleanup(itself.Close)
		result := probe(check.HTTP, galera, aim(itself.Listener.Addr().String()), time.Second)
		Expect(result.Verdict).To(Equal(check.Failed))
		Expect(followed.Load()).To(BeZero())
	})

	It("asks for the path with its query, on a connection of its own, whatever HTTP_PROXY says", func() {
		GinkgoT().Setenv("HTTP_PROXY", "http://"+refusing())
		var asked []string
		server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			asked = append(asked, r.Method+" "+r.Host+r.RequestURI)
			if r.Close {
				asked = append(asked, "close")
			}
		}))
		DeferCleanup(server.Close)
		target := aim(server.Listener.Addr().String())
		Expect(probe(check.HTTP, check.Spec{Path: "/healthz?deep=1"}, target, time.Second).Verdict).To(Equal(check.Healthy))
		Expect(asked).To(Equal([]string{"GET " + target.Address + "/healthz?deep=1", "close"}))
	})

	It("takes a refused connect for a word on the backend's own port only", func() {
		target := aim(refusing())
		Expect(probe(check.HTTP, galera, target, time.Second)).To(Equal(check.Result{Verdict: check.Unhealthy, Detail: "connection refused"}))
		target.Own = false
		Expect(probe(check.HTTP, galera, target, time.Second)).To(Equal(check.Result{Verdict: check.Failed, Detail: "connection refused"}))
	})

	It("ends a dial with its probe", func() {
		target := aim("127.0.0.1:1")
		ended := make(chan error, 1)
		target.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			ended <- ctx.Err()
			return nil, ctx.Err()
		}
		result := probe(check.HTTP, galera, target, 50*time.Millisecond)
		Expect(result).To(Equal(check.Result{Verdict: check.Failed, Detail: "timed out"}))
		Eventually(ended).Should(Receive(MatchError(context.DeadlineExceeded)))
	})

	DescribeTable("refuses a path it cannot ask for",
		func(path, says string) {
			_, err := check.HTTP(check.Spec{Path: path}, aim("127.0.0.1:1"))
			Expect(err).To(MatchError(ContainSubstring(says)))
		},
		Entry("none", "", `must begin with "/"`),
		Entry("a relative one", "status", `must begin with "/"`),
		Entry("a URL", "http://other/", `must begin with "/"`),
		Entry("a fragment", "/status#top", "not the path"),
		Entry("a bad escape", "/%zz", "not the path"),
	)

	Context("when the endpoint speaks https", func() {
		var (
			server *httptest.Server
			ca     string // a file
			target check.Target
		)
		BeforeEach(func() {
			server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(w, `{"healthy":true}`)
			}))
			server.Config.ErrorLog = log.New(GinkgoWriter, "", 0)
			server.StartTLS()
			DeferCleanup(server.Close)
			target = aim(server.Listener.Addr().String())
			ca = filepath.Join(GinkgoT().TempDir(), "ca.pem")
			text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
			Expect(os.WriteFile(ca, text, 0o600)).To(Succeed())
		})

		DescribeTable("believes only the certificate it was told of",
			func(change func(*check.TLS), verdict check.Verdict, detail string) {
				secure := galera
				secure.TLS = check.TLS{Enabled: true, CA: ca}
				change(&secure.TLS)
				result := probe(check.HTTP, secure, target, 5*time.Second)
				Expect(result.Verdict).To(Equal(verdict), result.Detail)
				Expect(result.Detail).To(ContainSubstring(detail))
			},
			Entry("of the backend's address", func(*check.TLS) {}, check.Healthy, "healthy: true"),
			Entry("of a name", func(t *check.TLS) { t.ServerName = "example.com" }, check.Healthy, "healthy: true"),
			Entry("not of another name", func(t *check.TLS) { t.ServerName = "other.test" }, check.Failed, "not other.test"),
			Entry("not of another CA", func(t *check.TLS) { t.CA = "" }, check.Failed, "unknown authority"),
		)

		It("takes a TLS configuration from a program before that of the spec", func() {
			options := check.HTTPOptions{TLS: &tls.Config{RootCAs: server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}}
			Expect(probe(options.Build, galera, target, 5*time.Second).Verdict).To(Equal(check.Healthy))
			Expect(options.TLS.ServerName).To(BeEmpty(), "the caller's own was changed")
			options.TLS = &tls.Config{RootCAs: x509.NewCertPool()}
			Expect(probe(options.Build, galera, target, 5*time.Second).Verdict).To(Equal(check.Failed))
		})

		It("never speaks plain HTTP instead", func() {
			var asked atomic.Int64
			plain := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
			DeferCleanup(plain.Close)
			secure := galera
			secure.TLS = check.TLS{Enabled: true, CA: ca}
			result := probe(check.HTTP, secure, aim(plain.Listener.Addr().String()), 5*time.Second)
			Expect(result.Verdict).To(Equal(check.Failed))
			Expect(asked.Load()).To(BeZero())
		})

		It("refuses a CA that it cannot read", func() {
			secure := galera
			secure.TLS = check.TLS{Enabled: true, CA: ca + ".missing"}
			_, err := check.HTTP(secure, target)
			Expect(err).To(MatchError(And(HavePrefix("http check: reading the CA: "), ContainSubstring("no such file"))))
			Expect(os.WriteFile(ca, []byte("no PEM"), 0o600)).To(Succeed())
			secure.TLS.CA = ca
			_, err = check.HTTP(secure, target)
			Expect(err).To(MatchError(ContainSubstring("no PEM certificate")))
		})
	})

	DescribeTable("takes nothing but the status JSON if it is told so",
		func(answer string, verdict check.Verdict, index any) {
			result := probe(check.HTTPOptions{StatusOnly: true}.Build, galera, aim(serve(replyTo(answer))), time.Second)
			Expect(result.Verdict).To(Equal(verdict), result.Detail)
			if index == nil {
				Expect(result.Index).To(BeNil())
			} else {
				Expect(result.Index).To(HaveValue(Equal(index)))
			}
		},
		Entry("healthy with its index", ok(json, `{"healthy":true,"wsrep_local_index":2}`), check.Healthy, 2),
		Entry("healthy without an index", ok("text/plain", `{"healthy":true}`), check.Healthy, 0),
		Entry("plain OK", ok("text/plain", "OK\n"), check.Failed, nil),
		Entry("an empty 200", ok("text/plain", ""), check.Failed, nil),
		Entry("no healthy", ok("text/plain", `{"wsrep_local_index":2}`), check.Failed, nil),
		Entry("503", "HTTP/1.1 503 No\r\nConnection: close\r\n\r\n", check.Unhealthy, nil),
	)

	DescribeTable("tells as much of an unhealthy answer's body as it is told to",
		func(answer, detail string) {
			result := probe(check.HTTPOptions{StatusOnly: true, Body: 40}.Build, galera, aim(serve(replyTo(answer))), time.Second)
			Expect(result.Detail).To(Equal(detail))
		},
		Entry("not healthy", ok(json, "{\"healthy\": false,\n  \"why\": \"donor\"}\n"), `says healthy: false: {"healthy": false, "why": "donor"}`),
		Entry("no JSON", ok("text/html", "<p>\x00no</p>"), "status 200, but the body is not the JSON it should be: invalid character '<' looking for beginning of value: <p>?no</p>"),
		Entry("503", "HTTP/1.1 503 No\r\nConnection: close\r\n\r\n1\n2 3", "status 503: 1 2 3"),
		Entry("404 without a body", "HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", "status 404"),
		Entry("a longer one", "HTTP/1.1 500 No\r\nConnection: close\r\n\r\n"+strings.Repeat("x", 41), "status 500: "+strings.Repeat("x", 40)+"…"),
		Entry("healthy", ok(json, `{"healthy":true}`), "says healthy: true"),
	)

	It("keeps no descriptor over 2,000 checks (M17)", func() {
		address := serve(replyTo(ok(json, `{"healthy":true}`)))
		checker, err := check.HTTP(galera, aim(address))
		Expect(err).NotTo(HaveOccurred())
		before := spec.FDs()
		for range 2000 {
			Expect(checker.Check(context.Background()).Verdict).To(Equal(check.Healthy))
		}
		// The last connection's two ends may still be closing.
		Eventually(spec.FDs).Should(BeNumerically("<=", before))
		Expect(checker.Close()).To(Succeed())
	})
})
