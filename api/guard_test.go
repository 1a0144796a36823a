package api_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/api"
)

const anyChange = `{"trafficEnabled":true,"message":"x"}`

// as sets the Authorization header.
func as(username, password string) map[string]string {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.SetBasicAuth(username, password)
	return map[string]string{"Authorization": r.Header.Get("Authorization")}
}

var _ = Describe("The guard", func() {
	var w *world

	BeforeEach(func() { w = newWorld() })

	Context("when there is a password", func() {
		var (
			a *api.API
			h http.Handler
		)

		BeforeEach(func() {
			w.options.Username, w.options.Password = "admin", "correct horse"
			tableOf(w, accepting(nil))
			w.options.Stats = fakeStats{}
			w.options.Metrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "up 1\n") })
			var err error
			a, err = api.New(w.options)
			Expect(err).NotTo(HaveOccurred())
			h = a.Handler()
		})

		It("asks for it on every route but health and readiness", func() {
			Expect(len(a.Routes())).To(BeNumerically(">", 25))
			for _, route := range append(a.Routes(),
				[2]string{"GET", "/"}, [2]string{"GET", "/nothing"}, [2]string{"POST", "/healthz"}, [2]string{"GET", "/healthz/"},
				[2]string{"OPTIONS", "/traffic"}, [2]string{"FROB", "/v0/backends"}, [2]string{"GET", "/hosts/nobody"},
			) {
				method, path := route[0], route[1]
				open := (method == "GET" || method == "HEAD") && (path == "/healthz" || path == "/readyz")
				answer := request{method: method, path: path, body: anyChange}.to(h)
				if open {
					Expect(answer.Code).To(Equal(http.StatusOK), "%s", route)
					continue
				}
				Expect(answer.Code).To(Equal(http.StatusUnauthorized), "%s", route)
				Expect(answer.Header().Get("WWW-Authenticate")).To(Equal(`Basic realm="Authorization Required"`))
				switch {
				case strings.HasPrefix(path, "/v0/"):
					Expect(answer.Header().Get("Content-Type")).To(Equal("text/plain; charset=utf-8"))
				case method != "HEAD":
					problemIn(answer)
				}
			}
			Expect(w.commands.calls.Load()).To(BeZero())
		})

		It("lets every route through with it", func() {
			for _, route := range a.Routes() {
				header := as("admin", "correct horse")
				if route[1] == "/v0/cluster" && route[0] == "PATCH" {
					route[1] += "?trafficEnabled=true"
				}
				body := anyChange
				if route[0] == "POST" {
					body = ""
				}
				answer := request{method: route[0], path: route[1], body: body, header: header, gone: route[1] == "/events"}.to(h)
				Expect(answer.Code).To(BeElementOf(http.StatusOK, http.StatusNoContent), "%s", route)
			}
		})

		DescribeTable("refuses",
			func(header map[string]string) {
				answer := request{method: http.MethodPatch, path: "/traffic", body: anyChange, header: header}.to(h)
				Expect(answer.Code).To(Equal(http.StatusUnauthorized))
				Expect(w.commands.calls.Load()).To(BeZero())
			},
			Entry("nothing", nil),
			Entry("both empty", as("", "")),
			Entry("a wrong password", as("admin", "correct hors")),
			Entry("a longer password", as("admin", "correct horse ")),
			Entry("a wrong username", as("Admin", "correct horse")),
			Entry("the two exchanged", as("correct horse", "admin")),
			Entry("another scheme", map[string]string{"Authorization": "Bearer correct horse"}),
			Entry("broken base64", map[string]string{"Authorization": "Basic %%%"}),
			Entry("no colon", map[string]string{"Authorization": "Basic YWRtaW4="}),
		)

		It("stops answering a guesser as it likes, and never locks out the owner", func() {
			wrong := request{method: http.MethodGet, path: "/traffic", header: as("admin", "guess")}
			right := request{method: http.MethodGet, path: "/traffic", header: as("admin", "correct horse")}
			codes := map[int]int{}
			for range 20_000 {
				answer := wrong.to(h)
				codes[answer.Code]++
				if answer.Code == http.StatusTooManyRequests {
					Expect(answer.Header().Get("Connection")).To(Equal("close"))
					Expect(answer.Header().Get("Retry-After")).NotTo(BeEmpty())
				}
			}
			Expect(codes).To(Equal(map[int]int{401: 10, 429: 19_990}))
			Expect(right.to(h).Code).To(Equal(http.StatusOK))
			Expect(strings.Count(w.log.String(), "\n")).To(Equal(10), "no more log lines than 401s")
			Expect(get(h, "/traffic").Code).To(Equal(http.StatusUnauthorized), "who sends none is asked for one")
			w.clock.advance(3 * time.Second)
			codes = map[int]int{}
			for range 5 {
				codes[wrong.to(h).Code]++
			}
			Expect(codes).To(Equal(map[int]int{401: 3, 429: 2}))
		})

		It("lets the owner in while guessers are at work", func() {
			stop := make(chan struct{})
			var guessers sync.WaitGroup
			for range 4 {
				guessers.Go(func() {
					for {
						select {
						case <-stop:
							return
						default:
							request{method: http.MethodGet, path: "/traffic", header: as("admin", "guess")}.to(h)
						}
					}
				})
			}
			for range 200 {
				Expect(request{method: http.MethodGet, path: "/traffic", header: as("admin", "correct horse")}.to(h).Code).To(Equal(http.StatusOK))
			}
			close(stop)
			guessers.Wait()
		})

		It("tells nobody the password", func() {
			for _, header := range []map[string]string{as("admin", "correct horse"), as("admin", "correct hors")} {
				answer := request{method: http.MethodPatch, path: "/traffic", body: anyChange, header: header}.to(h)
				Expect(answer.Body.String()).NotTo(ContainSubstring("hors"))
				Expect(w.log.String()).NotTo(ContainSubstring("hors"))
				Expect(w.log.String()).NotTo(ContainSubstring(strings.TrimPrefix(header["Authorization"], "Basic ")))
			}
			Expect(strings.Count(w.log.String(), "\n")).To(Equal(2))
		})

		It("does not mind the Host header, since a browser keeps the password for another one", func() {
			Expect(request{method: http.MethodGet, path: "/traffic", host: "router.example", header: as("admin", "correct horse")}.to(h).Code).
				To(Equal(http.StatusOK))
		})
	})

	Context("when there is no password", func() {
		DescribeTable("answers to",
			func(host string, status int) {
				w.options.AllowedHosts = []string{"Router-1.example"}
				h := w.handler()
				for _, path := range []string{"/traffic", "/v0/backends", "/nothing"} {
					answer := request{method: http.MethodGet, path: path, host: host}.to(h)
					Expect(answer.Code == http.StatusMisdirectedRequest).To(Equal(status == http.StatusMisdirectedRequest), path)
				}
				Expect(request{method: http.MethodGet, path: "/readyz", host: host}.to(h).Code).To(Equal(http.StatusOK))
				answer := request{method: http.MethodPatch, path: "/traffic", host: host, body: anyChange}.to(h)
				Expect(answer.Code).To(Equal(status))
				if status != http.StatusOK {
					problemIn(answer)
					Expect(w.commands.calls.Load()).To(BeZero())
				}
			},
			Entry("an IPv4 address", "127.0.0.1:9090", 200),
			Entry("an IPv4 address without port", "127.0.0.1", 200),
			Entry("an IPv6 address", "[::1]:9090", 200),
			Entry("an IPv6 address without port", "[::1]", 200),
			Entry("localhost", "LocalHost:9090", 200),
			Entry("localhost with a dot", "localhost.:9090", 200),
			Entry("an allowed host", "router-1.EXAMPLE:80", 200),
			Entry("a name that was made to resolve to us", "evil.example:9090", 421),
			Entry("a name that ends in ours", "evil.localhost", 421),
			Entry("a name that begins as an address", "127.0.0.1.evil.example", 421),
			Entry("a number", "2130706433", 421),
		)

		It("does not answer without a Host", func() {
			r := httptest.NewRequest(http.MethodGet, "/traffic", nil)
			r.Host = ""
			answer := httptest.NewRecorder()
			w.handler().ServeHTTP(answer, r)
			Expect(answer.Code).To(Equal(http.StatusMisdirectedRequest))
		})
	})

	DescribeTable("refuses a write from another site",
		func(header map[string]string, status int) {
			h := w.handler()
			for _, q := range []request{
				{method: http.MethodPatch, path: "/traffic", body: anyChange},
				{method: http.MethodPatch, path: "/hosts/db.main", body: anyChange},
				{method: http.MethodDelete, path: "/sessions/s-1"},
				{method: http.MethodPatch, path: "/v0/cluster?trafficEnabled=true"},
			} {
				w.commands.calls.Store(0)
				q.header = header
				answer := q.to(h)
				if status == http.StatusOK {
					Expect(answer.Code).To(BeElementOf(http.StatusOK, http.StatusNoContent))
					continue
				}
				Expect(answer.Code).To(Equal(status))
				Expect(w.commands.calls.Load()).To(BeZero())
			}
			Expect(request{method: http.MethodGet, path: "/traffic", header: header}.to(h).Header()).
				NotTo(HaveKey("Access-Control-Allow-Origin"))
		},
		Entry("a cross-site page", map[string]string{"Sec-Fetch-Site": "cross-site"}, 403),
		Entry("a page of the same site on another port", map[string]string{"Sec-Fetch-Site": "same-site"}, 403),
		Entry("an old browser", map[string]string{"Origin": "https://evil.example"}, 403),
		Entry("a sandboxed page", map[string]string{"Origin": "null"}, 403),
		Entry("not one from our own page", map[string]string{"Sec-Fetch-Site": "same-origin"}, 200),
		Entry("not one from our own page in an old browser", map[string]string{"Origin": "http://127.0.0.1:9090"}, 200),
		Entry("not one that is from no browser", nil, 200),
	)
})
