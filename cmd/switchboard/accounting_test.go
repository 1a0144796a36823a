package main_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/fixtures/servers"
	"switchboard/fixtures/spec"
	"switchboard/pacemaker/stats"
	"switchboard/pacemaker/table"
)

// startReader runs `switchboard stats follow` as a process, which can be killed.
func startReader(log, url string) *spec.Process {
	GinkgoHelper()
	command := exec.Command(binary, "stats", "follow", "--log", log, "--node", "router-1", "--redis", url)
	command.Env = environment()
	return spec.StartProcess(command)
}

// pace sends requests over kept connections, as many a second, and expects an answer to
// each. It returns when all are answered.
func (r *router) pace(host string, requests, perSecond int, done *atomic.Int64) error {
	const connections = 8
	began := time.Now()
	errs := make([]error, connections)
	var sending sync.WaitGroup
	for i := range connections {
		sending.Go(func() {
			errs[i] = func() error {
				conn, err := net.Dial("tcp", r.clients)
				if err != nil {
					return err
				}
				defer conn.Close()
				answers := bufio.NewReader(conn)
				request := []byte("GET /a/path?with=query HTTP/1.1\r\nHost: " + host + "\r\n\r\n")
				for n := i; n < requests; n += connections {
					due := time.NewTimer(time.Until(began.Add(time.Duration(n) * time.Second / time.Duration(perSecond))))
					<-due.C
					if _, err := conn.Write(request); err != nil {
						return err
					}
					answer, err := http.ReadResponse(answers, nil)
					if err != nil {
						return err
					}
					if _, err := io.Copy(io.Discard, answer.Body); err != nil {
						return err
					}
					if answer.StatusCode != http.StatusOK {
						return fmt.Errorf("status %d", answer.StatusCode)
					}
					done.Add(1)
				}
				return nil
			}()
		})
	}
	sending.Wait()
	return errors.Join(errs...)
}

var _ = Describe("every request", func() {
	BeforeEach(spec.CheckLeaks)

	It("is accounted for, through rotations of the log and kills of its reader", func() {
		spec.Need("redis-server", "redis-server")
		// As many as fit into a second on a busy machine, unless the environment says more.
		requests, perSecond := 20_000, 10_000
		if text := os.Getenv("SOAK_REQUESTS"); text != "" {
			var err error
			requests, err = strconv.Atoi(text)
			Expect(err).NotTo(HaveOccurred())
		}
		server := startRedis(&servers.Redis{})
		log := filepath.Join(GinkgoT().TempDir(), "access.log")
		apps := startApps("shop.test")
		t := &tabled{router: startRouter(write("router.yaml", fmt.Sprintf(`
listeners: [{name: web, bind: "127.0.0.1:0", protocol: http}]
redis: {url: "redis://%s"}
api: {bind: "127.0.0.1:0"}
log: {access: %q}
`, server.Addr(), log)))}
		client := tableClient(server)
		writer, err := table.NewWriter(table.WriterOptions{Client: client})
		Expect(err).NotTo(HaveOccurred())
		_, err = writer.Apply(context.Background(), table.Add("shop.test", apps["shop.test"]))
		Expect(err).NotTo(HaveOccurred())
		Eventually(t.answers).WithArguments("shop.test").WithTimeout(converge).Should(Equal("shop.test"))
		// What was asked for until there was a route is in the log too.
		before := t.accountLog()

		url := "redis://" + server.Addr()
		reader := startReader(log, url)
		var done atomic.Int64
		paced := make(chan error, 1)
		began := time.Now()
		go func() { paced <- t.pace("shop.test", requests, perSecond, &done) }()
		for i := range 4 {
			part := int64(requests) * int64(i+1) / 5
			Eventually(done.Load).WithTimeout(10 * time.Minute).Should(BeNumerically(">=", part))
			if i%2 == 0 {
				reader.Kill()
				Expect(reader.WaitExit(within)).To(Equal(-1))
				reader = startReader(log, url)
				continue
			}
			Expect(os.Rename(log, fmt.Sprint(log, ".", 2-i/2))).To(Succeed())
			t.Signal(syscall.SIGUSR1)
		}
		Eventually(paced).WithTimeout(10 * time.Minute).Should(Receive(BeNil()))
		took := time.Since(began)

		query, err := stats.NewQuery(stats.QueryOptions{Client: client, Timeout: within})
		Expect(err).NotTo(HaveOccurred())
		counted := func(kind stats.Kind, id string) int64 {
			totals, err := query.Totals(context.Background(), kind, id)
			Expect(err).NotTo(HaveOccurred())
			return totals.Requests
		}
		// One of those before has found the route.
		Eventually(counted).WithArguments(stats.Host, "shop.test").WithTimeout(within).Should(BeEquivalentTo(requests + 1))
		Expect(counted(stats.VersionType, "web")).To(BeEquivalentTo(requests + 1))
		Expect(counted(stats.Node, "n-1")).To(BeEquivalentTo(requests + 1))
		Expect(counted(stats.Uncaught, "")).To(Equal(before - 1))
		written := t.accountLog()
		Expect(written).To(Equal(before + int64(requests)))
		reader.Signal(syscall.SIGTERM)
		Expect(reader.WaitExit(within)).To(Equal(0), string(reader.Stderr.Contents()))
		AddReportEntry("soak", fmt.Sprintf("%d requests in %v, all counted", requests, took.Round(time.Millisecond)))
	})
})

// accountLog is how many lines the router has written, none having been dropped.
func (t *tabled) accountLog() int64 {
	GinkgoHelper()
	var state struct {
		AccessLog struct {
			Written int64
			Dropped map[string]int64
		}
	}
	last := int64(-1)
	Eventually(func() bool {
		Expect(json.Unmarshal([]byte(clusterText(t.api)), &state)).To(Succeed())
		settled := state.AccessLog.Written == last && last > 0
		last = state.AccessLog.Written
		return settled
	}).WithTimeout(within).WithPolling(200 * time.Millisecond).Should(BeTrue())
	Expect(state.AccessLog.Dropped).To(BeEmpty())
	return last
}
