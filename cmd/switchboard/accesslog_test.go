package main_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"

	"switchboard/fixtures/spec"
)

var _ = Describe("The access log", func() {
	BeforeEach(spec.CheckLeaks)

	// serving is a router of one web app, whose access log is that file.
	serving := func(access string) *router {
		GinkgoHelper()
		app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, r.URL.Path)
		}))
		DeferCleanup(app.Close)
		r := startRouter(write("router.yaml", fmt.Sprintf(`
listeners: [{name: web, bind: '127.0.0.1:0', protocol: http}]
hosts: [{name: shop.test, policy: balance, hold: 20s, backends: [{name: shop-0, address: '%s'}]}]
api: {bind: '127.0.0.1:0'}
log: {access: '%s'}
`, app.Listener.Addr(), access)))
		r.awaitReady()
		return r
	}

	It("loses no line and writes none twice when its file is rotated while requests flow", func() {
		const clients = 4
		path := filepath.Join(GinkgoT().TempDir(), "access.log")
		r := serving(path)
		enough := make(chan struct{})
		asked := make([]int, clients)
		failed := make(chan error, clients) // one slot each
		var asking sync.WaitGroup
		for g := range clients {
			asking.Go(func() {
				client := &http.Client{Transport: &http.Transport{}, Timeout: within}
				defer client.CloseIdleConnections()
				for i := 0; ; i++ {
					select {
					case <-enough:
						asked[g] = i
						return
					default:
					}
					if err := askFor(client, r.clients, fmt.Sprintf("/%d/%d", g, i)); err != nil {
						failed <- err
						return
					}
				}
			})
		}
		files := []string{path}
		for i := range 6 {
			before := writtenBy(r)
			Eventually(writtenBy).WithArguments(r).WithTimeout(within).Should(BeNumerically(">", before+100))
			old := fmt.Sprint(path, ".", i)
			Expect(os.Rename(path, old)).To(Succeed())
			files = append(files, old)
			if i%2 == 0 {
				r.Signal(syscall.SIGUSR1)
			}
			Eventually(func() error {
				_, err := os.Stat(path)
				return err
			}).WithTimeout(within).Should(Succeed(), "it goes on in a new file")
		}
		close(enough)
		asking.Wait()
		Expect(failed).NotTo(Receive())
		r.Signal(syscall.SIGTERM)
		Expect(r.WaitExit(within)).To(Equal(0))

		want, got := map[string]int{}, map[string]int{}
		for g, n := range asked {
			for i := range n {
				want[fmt.Sprintf("/%d/%d 200", g, i)] = 1
			}
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			Expect(err).NotTo(HaveOccurred())
			for line := range strings.Lines(string(text)) {
				var one struct {
					Path string
					Code int
				}
				Expect(json.Unmarshal([]byte(line), &one)).To(Succeed(), line)
				got[fmt.Sprint(one.Path, " ", one.Code)]++
			}
		}
		AddReportEntry("requests", len(want))
		Expect(len(got)).To(Equal(len(want)))
		Expect(got).To(Equal(want))
	})

	It("is rotated by logrotate as the recipe has it", func() {
		spec.Need("logrotate", "logrotate")
		directory := GinkgoT().TempDir()
		path := filepath.Join(directory, "access.log")
		r := serving(path)
		config := write("switchboard", recipe("logrotate/switchboard",
			"/var/log/switchboard/access.log", path, "systemctl kill --signal=USR1 switchboard.service", fmt.Sprint("kill -USR1 ", r.PID())))
		for i := range 3 {
			Expect(askFor(http.DefaultClient, r.clients, fmt.Sprint("/", i))).To(Succeed())
			Eventually(writtenBy).WithArguments(r).WithTimeout(within).Should(Equal(i + 1))
			out, err := exec.Command("logrotate", "--force", "--state", filepath.Join(directory, "state"), config).CombinedOutput()
			Expect(err).NotTo(HaveOccurred(), string(out))
			Eventually(func() error {
				_, err := os.Stat(path)
				return err
			}).WithTimeout(within).Should(Succeed(), string(out))
		}
		Expect(askFor(http.DefaultClient, r.clients, "/3")).To(Succeed())
		r.Signal(syscall.SIGTERM)
		Expect(r.WaitExit(within)).To(Equal(0))
		Expect(lines(path)).To(HaveExactElements(ContainSubstring(`"path":"/3"`)))
		Expect(lines(path + ".1")).To(HaveExactElements(ContainSubstring(`"path":"/2"`)))
		Expect(filepath.Join(directory, "access.log.2.gz")).To(BeARegularFile())
		Expect(filepath.Join(directory, "access.log.3.gz")).To(BeARegularFile())
	})

	It("may not be there, and then the signal that rotates it does nothing", func() {
		r := serving("")
		r.Signal(syscall.SIGUSR1)
		r.Signal(syscall.SIGUSR1)
		Expect(askFor(http.DefaultClient, r.clients, "/")).To(Succeed())
		Expect(get(r.api + "/cluster")).NotTo(HaveKey("accessLog"))
		r.Signal(syscall.SIGTERM)
		Expect(r.WaitExit(within)).To(Equal(0))
	})

	It("on a full disk costs no request and no clean end, and is shown to be lost", func() {
		r := serving("/dev/full")
		for range 10 {
			Expect(askFor(http.DefaultClient, r.clients, "/")).To(Succeed())
		}
		Eventually(accessLogOf).WithArguments(r).WithTimeout(within).Should(And(
			HaveKeyWithValue("error", ContainSubstring("no space left on device")), HaveKey("errorSince"), HaveKeyWithValue("written", BeZero())))
		Expect(askFor(http.DefaultClient, r.clients, "/")).To(Succeed())
		r.Signal(syscall.SIGTERM)
		Expect(r.WaitExit(within)).To(Equal(0))
		Expect(r.entry("access log is in trouble")).To(HaveKeyWithValue("cause", ContainSubstring("no space left on device")))
		Expect(r.entry("access log could not be written to the end")).To(HaveKeyWithValue("lost", BeNumerically("==", 11)))
	})

	It("on a disk that takes nothing holds up no request, nor the end for long", func() {
		path := filepath.Join(GinkgoT().TempDir(), "access.log")
		Expect(unix.Mkfifo(path, 0o600)).To(Succeed())
		idle, err := os.OpenFile(path, os.O_RDWR, 0)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(idle.Close)
		_, err = unix.FcntlInt(idle.Fd(), unix.F_SETPIPE_SZ, 4096)
		Expect(err).NotTo(HaveOccurred())
		r := serving(path)
		for range 100 {
			Expect(askFor(http.DefaultClient, r.clients, "/")).To(Succeed())
		}
		Eventually(accessLogOf).WithArguments(r).WithTimeout(within).Should(HaveKeyWithValue("error", "a write has not returned"))
		Expect(askFor(http.DefaultClient, r.clients, "/")).To(Succeed())
		r.Signal(syscall.SIGUSR1)
		stopping := time.Now()
		r.Signal(syscall.SIGTERM)
		Expect(r.WaitExit(within)).To(Equal(0))
		AddReportEntry("the end took", time.Since(stopping))
		Expect(r.entry("access log could not be written to the end")).To(HaveKeyWithValue("lost", BeNumerically(">", 50)))
	})
})

// askFor asks the web app of a router for a path, which it answers with.
func askFor(client *http.Client, addr, path string) error {
	request, err := http.NewRequest(http.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		return err
	}
	request.Host = "shop.test"
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && string(body) != path {
		err = fmt.Errorf("%s answered %d %q", path, response.StatusCode, body)
	}
	return err
}

// accessLogOf is what a router says of its access log.
func accessLogOf(r *router) map[string]any {
	GinkgoHelper()
	return get(r.api + "/cluster")["accessLog"].(map[string]any)
}

// writtenBy is how many lines are in a router's access log.
func writtenBy(r *router) int {
	GinkgoHelper()
	return int(accessLogOf(r)["written"].(float64))
}
