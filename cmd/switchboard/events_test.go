package main_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

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

	Describe("switchboard events", func() {
		It("says how the router is", func() {
			told := command(nil, "events", "--api", r.api)
			Expect(told.code).To(Equal(0), told.errs)
			Expect(told.out).To(MatchRegexp(`(?m)^\d\d:\d\d:\d\d  db\.main: db-0 is active \(epoch 1\): first election$`))
			var cluster map[string]any
			Expect(json.Unmarshal([]byte(command([]string{"SWITCHBOARD_API=" + r.api}, "events", "-o", "json").out), &cluster)).To(Succeed())
			Expect(cluster).To(HaveKey("clusters"))
		})

		It("goes on with what happens, until it is interrupted", func() {
			follower := exec.Command(binary, "events", "--follow", "--api", r.api)
			follower.Env = environment()
			f := spec.StartProcess(follower)
			told := func() string { return string(f.Stdout.Contents()) }
			Eventually(told).WithTimeout(within).Should(ContainSubstring("db-0 is active"))
			patch(r.api+"/hosts/db.main", `{"pin":"db-1","message":"upgrade"}`)
			Eventually(told).WithTimeout(within).Should(And(
				ContainSubstring("db.main: db-1 is active (epoch 2): pinned: upgrade\n"), ContainSubstring("db.main: pinned to db-1: \"upgrade\"\n")))
			conn, _ := connect(r.clients)
			Eventually(told).WithTimeout(within).Should(ContainSubstring("db.main: 1 session is open, on db-1\n"))
			conn.Close()
			Eventually(told).WithTimeout(within).Should(ContainSubstring("db.main: no session is open\n"))
			f.Signal(os.Interrupt)
			Expect(f.WaitExit(within)).To(Equal(0))
		})

		It("waits for a router that has gone", func() {
			follower := exec.Command(binary, "events", "--follow", "-o", "json", "--host", "db.main", "--api", r.api)
			follower.Env = environment()
			f := spec.StartProcess(follower)
			Eventually(func() string { return string(f.Stdout.Contents()) }).WithTimeout(within).Should(ContainSubstring(`"clusters"`))
			r.Signal(syscall.SIGTERM)
			Expect(r.WaitExit(within)).To(Equal(0))
			Consistently(f.Exited()).WithTimeout(200 * time.Millisecond).ShouldNot(BeClosed())
			f.Signal(syscall.SIGTERM)
			Expect(f.WaitExit(within)).To(Equal(0))
		})

		It("says why it cannot", func() {
			unknown := command(nil, "events", "--api", r.api, "--host", "nobody")
			Expect(unknown).To(Equal(outcome{code: 1, errs: "switchboard events: there is no such host (404)\n(the router at " + r.api + ")\n"}))
			Expect(command(nil, "events", "--api", "http://"+spec.RefusedAddr()).errs).To(ContainSubstring("nothing listens there: is the router up?"))
			Expect(command(nil, "events", "-o", "yaml").code).To(Equal(2))
		})
	})
})
