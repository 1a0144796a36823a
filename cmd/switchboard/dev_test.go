package main_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/fixtures/spec"
)

// cluster is a dev cluster that runs as a process.
type cluster struct {
	*spec.Process
	clients, web, api string
	redis             string
	pids              map[string]int
}

func dev(args ...string) *spec.Process {
	GinkgoHelper()
	command := exec.Command(binary, append([]string{"dev"}, args...)...)
	command.Env = environment()
	return spec.StartProcess(command)
}

func startCluster(args ...string) *cluster {
	GinkgoHelper()
	return startClusterWith("", args...)
}

// startClusterWith starts a cluster with one more variable in its environment.
func startClusterWith(variable string, args ...string) *cluster {
	GinkgoHelper()
	command := exec.Command(binary, append([]string{"dev", "--port", "0", "--web-port", "0", "--api-port", "0"}, args...)...)
	command.Env = environment()
	if variable != "" {
		command.Env = append(command.Env, variable)
	}
	c := &cluster{Process: spec.StartProcess(command), pids: make(map[string]int)}
	Eventually(c.output).WithTimeout(within).Should(ContainSubstring("Ctrl-C ends it all."))
	c.clients = c.find(`clients +(\S+)`)
	c.web = c.find(`curl -H 'Host: shop\.localhost' http://(\S+)/`)
	c.api = c.find(`API +(http://\S+)/cluster`)
	c.redis = c.find(`table +(\S+)`)
	for _, kind := range []string{"backend", "shop", "pets"} {
		for i := range 3 {
			name := fmt.Sprintf("%s-%d", kind, i)
			pid, err := strconv.Atoi(c.find(name + ` +\S+  pid (\d+)`))
			Expect(err).NotTo(HaveOccurred())
			c.pids[name] = pid
		}
	}
	return c
}

// visit asks a web app who serves, on a connection of its own.
func (c *cluster) visit(host, cookie string) (status int, name string) {
	GinkgoHelper()
	request, err := http.NewRequest(http.MethodGet, "http://"+c.web+"/", nil)
	Expect(err).NotTo(HaveOccurred())
	request.Host, request.Close = host, true
	if cookie != "" {
		request.Header.Set("Cookie", cookie)
	}
	response, err := new(http.Transport).RoundTrip(request)
	Expect(err).NotTo(HaveOccurred())
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	Expect(err).NotTo(HaveOccurred())
	name, _, _ = strings.Cut(string(body), " pid ")
	return response.StatusCode, name
}

// visits are who has served so many visits, all of which were served.
func (c *cluster) visits(host, cookie string, n int) map[string]int {
	GinkgoHelper()
	served := make(map[string]int)
	for range n {
		status, name := c.visit(host, cookie)
		Expect(status).To(Equal(http.StatusOK), name)
		served[name]++
	}
	return served
}

func (c *cluster) output() string { return string(c.Stdout.Contents()) }

// find is what the group of a pattern has matched in the output.
func (c *cluster) find(pattern string) string {
	GinkgoHelper()
	found := regexp.MustCompile(pattern).FindStringSubmatch(c.output())
	Expect(found).To(HaveLen(2), c.output())
	return found[1]
}

// says waits until the output has a line that matches.
func (c *cluster) says(pattern string) {
	GinkgoHelper()
	Eventually(c.output).WithTimeout(within).Should(MatchRegexp(`(?m)^\d\d:\d\d:\d\d  ` + pattern + `$`))
}

// clusterText is what GET /cluster answers.
func clusterText(api string) string {
	response, err := http.Get(api + "/cluster")
	if err != nil {
		return err.Error()
	}
	defer response.Body.Close()
	defer http.DefaultClient.CloseIdleConnections()
	body, _ := io.ReadAll(response.Body)
	return string(body)
}

// run runs one of our verbs, for the cluster's Redis.
func (c *cluster) run(line string) {
	GinkgoHelper()
	command := exec.Command(binary, strings.Fields(line)...)
	command.Env = append(environment(), "SWITCHBOARD_REDIS_URL="+c.redis)
	p := spec.StartProcess(command)
	Expect(p.WaitExit(within)).To(Equal(0), string(p.Stderr.Contents()))
}

// alive tells whether a process runs. One that has ended and that nobody has
// waited for yet does not.
func alive(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, state, _ := strings.Cut(string(text), ") ")
	return !strings.HasPrefix(state, "Z") && !strings.HasPrefix(state, "X")
}

var _ = Describe("switchboard dev", func() {
	BeforeEach(spec.CheckLeaks)

	It("does what it says can be tried, and leaves nothing behind", func() {
		c := startCluster()
		conn, greeting := connect(c.clients)
		active, pid, _ := strings.Cut(greeting, " pid ")
		Expect(pid).To(Equal(strconv.Itoa(c.pids[active])))
		c.says(`db\.demo: ` + active + ` is active \(epoch 1\): first election`)
		c.says(`db\.demo: 1 session is open, on ` + active)
		spec.SayHello(conn)

		By("switching traffic off and on")
		off := c.find(`-d '(\{"trafficEnabled":false.*\})'`)
		Expect(patch(c.api+"/traffic", off)).To(HaveKeyWithValue("severed", BeEquivalentTo(1)))
		spec.ExpectReset(conn)
		spec.ExpectReset(spec.DialFront(c.clients))
		c.says(`router: traffic is off: "trying it"`)
		c.says(`db\.demo: no session is open`)
		patch(c.api+"/traffic", c.find(`-d '(\{"trafficEnabled":true.*\})'`))
		c.says(`router: traffic is on: "trying it"`)
		conn, again := connect(c.clients)
		Expect(again).To(Equal(greeting))

		By("killing the active backend")
		Expect(c.find(`kill -9 (\d+)`)).To(Equal(pid))
		Expect(syscall.Kill(c.pids[active], syscall.SIGKILL)).To(Succeed())
		// The kernel ends a killed process's connections with FIN or RST; the router
		// then cuts both ways.
		Eventually(func() error {
			_, err := conn.Write([]byte("hello\n"))
			return err
		}).WithTimeout(within).Should(Or(MatchError(syscall.ECONNRESET), MatchError(syscall.EPIPE)))
		_, greeting = connect(c.clients)
		next, _, _ := strings.Cut(greeting, " pid ")
		Expect(next).NotTo(Equal(active))
		c.says(active + ` with pid ` + pid + ` has ended \(signal: killed\); it comes back in a few seconds`)
		c.says(`db\.demo: ` + active + ` is unhealthy: .+`)
		c.says(`db\.demo: ` + next + ` is active \(epoch 2\): unhealthy: ` + active + `: .+`)

		By("waiting for it to come back")
		c.says(active + ` is back with pid \d+`)
		back, err := strconv.Atoi(c.find(active + ` is back with pid (\d+)`))
		Expect(err).NotTo(HaveOccurred())
		Eventually(c.output).WithTimeout(within).Should(MatchRegexp(`(?s)` + active + ` is back with .*` + active + ` is healthy`))
		c.pids[active] = back

		By("ending it")
		for _, pid := range c.pids {
			Expect(alive(pid)).To(BeTrue())
			// A terminal's Ctrl-C is for the cluster and not for each backend.
			group, err := syscall.Getpgid(pid)
			Expect(err).NotTo(HaveOccurred())
			Expect(group).To(Equal(pid))
		}
		c.Signal(os.Interrupt)
		Expect(c.WaitExit(within)).To(Equal(0))
		for _, pid := range c.pids {
			Expect(alive(pid)).To(BeFalse())
		}
		Expect(c.Stderr.Contents()).To(BeEmpty())
	})

	It("does what it says can be tried with the web apps", func() {
		const shop, cats = "shop.localhost", "cats.pets.localhost"
		c := startCluster()
		Eventually(func() map[string]int { return c.visits(shop, "", 10) }).WithTimeout(within).Should(HaveLen(3))
		Eventually(func() map[string]int { return c.visits(cats, "", 10) }).WithTimeout(within).Should(HaveLen(3))

		By("saying what the README says")
		readme, err := os.ReadFile("../../README.md")
		Expect(err).NotTo(HaveOccurred())
		_, clients, _ := net.SplitHostPort(c.clients)
		standard := strings.NewReplacer(binary, "go run ./cmd/switchboard", c.redis, "unix:///tmp/switchboard-dev-1/redis.sock",
			c.find(`shop-0 +(\S+)`), "127.0.0.1:7021", c.web, "127.0.0.1:8080", c.api, "http://127.0.0.1:9090", "127.0.0.1 "+clients, "127.0.0.1 7000")
		tried := regexp.MustCompile(`(?m)^ {7}(\S.*)$`).FindAllStringSubmatch(c.output(), -1)
		Expect(tried).To(HaveLen(15))
		for _, command := range tried {
			line := regexp.MustCompile(`^kill -9 \d+`).ReplaceAllString(standard.Replace(command[1]), "kill -9 PID")
			Expect(string(readme)).To(ContainSubstring("\n" + line + "\n"))
		}

		By("being known by a cookie")
		cookie := c.find(`-b (\S+) http://`)
		Expect(c.visits(cats, cookie, 10)).To(HaveLen(1))

		By("adding a host")
		status, _ := c.visit("blog.localhost", "")
		Expect(status).To(Equal(http.StatusNotFound))
		c.run(c.find(`(routes add .+)`))
		Eventually(func() int { status, _ := c.visit("blog.localhost", ""); return status }).WithTimeout(within).Should(Equal(http.StatusOK))
		c.says(`the routing table has changed; hosts: 3`)

		By("taking an instance out and back in")
		c.run(c.find(`(routes weight .+=0)`))
		Eventually(func() map[string]int { return c.visits(shop, "", 20) }).WithTimeout(within).ShouldNot(HaveKey("shop-0"))
		c.run(c.find(`(routes weight .+=1)`))
		Eventually(func() map[string]int { return c.visits(shop, "", 10) }).WithTimeout(within).Should(HaveLen(3))

		of := c.api + "/hosts/" + shop
		By("switching one host off and on")
		patch(of, c.find(`-d '(\{"trafficEnabled":false.*\})' \S+/hosts/shop.localhost`))
		status, _ = c.visit(shop, "")
		Expect(status).To(Equal(http.StatusServiceUnavailable))
		Expect(c.visits(cats, "", 1)).To(HaveLen(1))
		c.says(`shop\.localhost: traffic is off: "trying it"`)
		patch(of, c.find(`-d '(\{"trafficEnabled":true.*\})' \S+/hosts/shop.localhost`))

		By("killing an instance while somebody asks")
		Expect(c.find(`(?s)while curl.* kill -9 (\d+)`)).To(Equal(strconv.Itoa(c.pids["shop-0"])))
		c.visits(shop, "", 20)
		Expect(syscall.Kill(c.pids["shop-0"], syscall.SIGKILL)).To(Succeed())
		c.visits(shop, "", 100)
		c.says(`shop-0 with pid \d+ has ended \(signal: killed\); it comes back in a few seconds`)
		c.says(`shop-0 is back with pid \d+`)
		Eventually(func() map[string]int { return c.visits(shop, "", 10) }).WithTimeout(within).Should(HaveLen(3))

		By("ending it")
		c.Signal(os.Interrupt)
		Expect(c.WaitExit(within)).To(Equal(0))
		Expect(c.Stderr.Contents()).To(BeEmpty())
	})

	It("takes its backends along when it is killed", func() {
		c := startCluster()
		c.Kill()
		Expect(c.WaitExit(within)).To(Equal(-1))
		for _, pid := range c.pids {
			Eventually(alive).WithArguments(pid).WithTimeout(within).Should(BeFalse())
		}
	})

	It("keeps state in a directory", func() {
		dir := GinkgoT().TempDir()
		c := startCluster("--dir", dir)
		patch(c.api+"/hosts/db.demo", `{"active":"backend-2","message":"trying it"}`)
		c.says(`db\.demo: backend-2 is active \(epoch 2\): operator: trying it`)
		c.Signal(syscall.SIGTERM)
		Expect(c.WaitExit(within)).To(Equal(0))

		c = startCluster("--dir", dir)
		c.says(`db\.demo: backend-2 is active \(epoch 3\): first election`)
		Expect(c.find(`kill -9 (\d+)`)).To(Equal(strconv.Itoa(c.pids["backend-2"])))
	})

	It("needs no redis-server, and goes on when that is killed", func() {
		c := startCluster()
		pid, err := strconv.Atoi(c.find(`table +\S+  pid (\d+)`))
		Expect(err).NotTo(HaveOccurred())
		Expect(syscall.Kill(pid, syscall.SIGKILL)).To(Succeed())
		c.says(`redis has ended \(.*signal: killed.*`)
		c.visits("shop.localhost", "", 20)
		Eventually(func() string { return clusterText(c.api) }).WithTimeout(within).Should(ContainSubstring(`"stale":true`))
		Eventually(func() string { return clusterText(c.api) }).WithTimeout(within).Should(ContainSubstring(`"stale":false`))
		c.visits("shop.localhost", "", 20)
		c.Signal(os.Interrupt)
		Expect(c.WaitExit(within)).To(Equal(0))

		c = startClusterWith("PATH=" + GinkgoT().TempDir())
		c.find(`(table +redis://\S+  in this process)`)
		c.visits("shop.localhost", "", 20)
		c.Signal(os.Interrupt)
		Expect(c.WaitExit(within)).To(Equal(0))
	})

	It("says so when the port that was asked for is taken", func() {
		_, port, err := net.SplitHostPort(spec.StartBackend(spec.Echo).Addr())
		Expect(err).NotTo(HaveOccurred())
		p := dev("--port", port, "--web-port", "0", "--api-port", "0")
		Expect(p.WaitExit(within)).To(Equal(1))
		Expect(string(p.Stderr.Contents())).To(And(HavePrefix("switchboard dev: "), ContainSubstring("127.0.0.1:"+port), ContainSubstring("address already in use")))
	})

	It("takes free ports where its own are taken", func() {
		// Whoever has them, this process or another: they are taken.
		for _, port := range []string{"7000", "8080", "9090"} {
			if listener, err := net.Listen("tcp", "127.0.0.1:"+port); err == nil {
				DeferCleanup(listener.Close)
			}
		}
		p := dev()
		output := func() string { return string(p.Stdout.Contents()) }
		Eventually(output).WithTimeout(within).Should(ContainSubstring("Ctrl-C ends it all."))
		Expect(output()).To(And(
			HavePrefix("Port 7000 is taken; clients get another one.\nPort 8080 is taken; the web apps get another one.\nPort 9090 is taken; the API gets another one.\n"),
			MatchRegexp(`clients +127\.0\.0\.1:\d+\n`)))
		Expect(output()).NotTo(Or(ContainSubstring("127.0.0.1:7000"), ContainSubstring("127.0.0.1:8080"), ContainSubstring("127.0.0.1:9090")))
		p.Signal(os.Interrupt)
		Expect(p.WaitExit(within)).To(Equal(0))
	})
})
