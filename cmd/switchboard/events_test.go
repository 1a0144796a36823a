package main_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/fixtures/spec"
)

var _ = Describe("switchboard router, watched", func() {
	BeforeEach(spec.CheckLeaks)

	var r *router
	BeforeEach(func() {
		first, second := spec.StartBackend(spec.Named("db-0")), spec.StartBackend(spec.Named("db-1"))
		r = startRouter(write("router.yaml", fmt.Sprintf(`
listeners: [{name: db, bind: '127.0.0.1:0', host: db.main}]
hosts:
  - name: db.main
    check: {type: tcp, interval: 50ms}
    backends: [{name: db-0, address: '%s'}, {name: db-1, address: '%s'}]
api: {bind: '127.0.0.1:0'}
shutdown: {drain: 1s}
`, first.Addr(), second.Addr())))
		r.awaitReady()
	})

	// watch opens GET /events and returns its lines, closed at its end.
	watch := func() <-chan string {
		GinkgoHelper()
		ctx, cancel := context.WithCancel(context.Background())
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, r.api+"/events", nil)
		Expect(err).NotTo(HaveOccurred())
		response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
		Expect(err).NotTo(HaveOccurred())
		Expect(response.StatusCode).To(Equal(http.StatusOK))
		lines, read := make(chan string, 10_000), make(chan struct{})
		go func() {
			defer close(read)
			defer close(lines)
			for scanner := bufio.NewScanner(response.Body); scanner.Scan(); {
				lines <- scanner.Text()
			}
		}()
		DeferCleanup(func() {
			cancel()
			<-read
			response.Body.Close()
		})
		return lines
	}

	It("tells what an operator does, and ends in time and with 0 though somebody watches", func() {
		lines := watch()
		Eventually(lines).WithTimeout(within).Should(Receive(Equal("event: snapshot")))
		patch(r.api+"/hosts/db.main", `{"active":"db-1","pin":"db-1","message":"upgrade"}`)
		Eventually(lines).WithTimeout(within).Should(Receive(Equal("event: NEW_ACTIVE_BACKEND")))
		Eventually(lines).WithTimeout(within).Should(Receive(ContainSubstring(`"active":{"name":"db-1"`)))
		Eventually(lines).WithTimeout(within).Should(Receive(Equal("event: PINNED")))
		patch(r.api+"/traffic", `{"trafficEnabled":false,"message":"maintenance"}`)
		Eventually(lines).WithTimeout(within).Should(Receive(Equal("event: TRAFFIC_DISABLED")))

		r.Signal(syscall.SIGTERM)
		Expect(r.WaitExit(within)).To(Equal(0))
		Eventually(lines).WithTimeout(within).Should(BeClosed())
	})

	It("shows metrics, of itself and of the process", func() {
		conn, _ := connect(r.clients)
		defer conn.Close()
		scrape := func() string {
			response, err := (&http.Client{Timeout: within, Transport: &http.Transport{DisableKeepAlives: true}}).Get(r.api + "/metrics")
			Expect(err).NotTo(HaveOccurred())
			defer response.Body.Close()
			text, err := io.ReadAll(response.Body)
			Expect(err).NotTo(HaveOccurred())
			return string(text)
		}
		Eventually(scrape).WithTimeout(within).Should(ContainSubstring("\nswitchboard_host_sessions{host=\"db.main\"} 1\n"))
		text := scrape()
		Expect(text).To(MatchRegexp(`(?m)^switchboard_build_info\{goversion="go\S+",revision="\S*",version="\S+"\} 1$`))
		Expect(text).To(MatchRegexp(`(?m)^switchboard_backend_up\{backend="db-1",host="db.main"\} 1$`))
		Expect(text).To(MatchRegexp(`(?m)^process_open_fds \d+$`))

		before := len(text)
		for n := range 50 {
			_, _, err := request(http.MethodGet, fmt.Sprintf("http://%s/hosts/stranger-%d.test", strings.TrimPrefix(r.api, "http://"), n), "")
			Expect(err).NotTo(HaveOccurred())
		}
		Expect(scrape()).NotTo(ContainSubstring("stranger"))
		Expect(len(scrape())).To(BeNumerically("<", before+1000))
	})
})
