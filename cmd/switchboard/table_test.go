package main_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/fixtures/servers"
	"switchboard/fixtures/spec"
	"switchboard/pacemaker/store"
	"switchboard/pacemaker/table"
)

// tabled is a router with a routing table, and the apps that it may lead to: one a
// host, which answers with the host's name.
type tabled struct {
	*router
	url    string
	client redis.UniversalClient
	writer *table.Writer
}

// startApps starts an app for each host, and returns its member of the table.
func startApps(hosts ...string) map[string]table.Member {
	GinkgoHelper()
	members := make(map[string]table.Member)
	for i, host := range hosts {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, host) }))
		DeferCleanup(server.Close)
		members[host] = table.Member{
			Address: netip.MustParseAddrPort(server.Listener.Addr().String()), Type: "web", Node: "n-1", Instance: fmt.Sprintf("i-%d", i),
		}
	}
	return members
}

func tableConfig(redis, state string) string {
	return write("router.yaml", fmt.Sprintf(`
listeners: [{name: web, bind: "127.0.0.1:0", protocol: http}]
redis: {url: %q}
state: %q
api: {bind: "127.0.0.1:0"}
`, redis, state))
}

// startTabled starts a router that reads the table of a Redis at an address, which may be
// another than that of the server it is written to.
func startTabled(server *servers.Redis, reads, state string) *tabled {
	GinkgoHelper()
	t := &tabled{url: "redis://" + server.Addr()}
	var err error
	t.client, err = store.Redis{URL: t.url}.Connect()
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(t.client.Close)
	t.writer, err = table.NewWriter(table.WriterOptions{Client: t.client})
	Expect(err).NotTo(HaveOccurred())
	t.router = startRouter(tableConfig("redis://"+reads, state))
	return t
}

func (t *tabled) apply(changes ...table.Change) {
	GinkgoHelper()
	_, err := t.writer.Apply(context.Background(), changes...)
	Expect(err).NotTo(HaveOccurred())
}

// visit asks for a host on a connection of its own.
func (r *router) visit(host string) (status int, body string, err error) {
	request, err := http.NewRequest(http.MethodGet, "http://"+r.clients+"/", nil)
	if err != nil {
		return 0, "", err
	}
	request.Host, request.Close = host, true
	response, err := new(http.Transport).RoundTrip(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response.StatusCode, string(text), err
}

// answers tells what a visit comes to, in a word.
func (r *router) answers(host string) string {
	status, body, err := r.visit(host)
	if err != nil {
		return err.Error()
	}
	if status != http.StatusOK {
		return fmt.Sprint(status)
	}
	return body
}

// state is what /cluster says of the table.
func (t *tabled) state() map[string]any {
	GinkgoHelper()
	var cluster struct{ Table map[string]any }
	Expect(json.Unmarshal([]byte(clusterText(t.api)), &cluster)).To(Succeed())
	return cluster.Table
}

// converge is how soon after the end of a trouble all is as Redis has it.
const converge = 2 * time.Second

// traffic asks for hosts until the spec ends, and fails it when an answer is not that of
// the host's own app.
func (t *tabled) traffic(hosts ...string) (served *atomic.Int64) {
	served = new(atomic.Int64)
	ctx, stop := context.WithCancel(context.Background())
	var asking sync.WaitGroup
	for _, host := range hosts {
		asking.Go(func() {
			defer GinkgoRecover()
			for ctx.Err() == nil {
				Expect(t.answers(host)).To(Equal(host))
				served.Add(1)
			}
		})
	}
	DeferCleanup(func() {
		stop()
		asking.Wait()
	})
	return served
}

// detour is a way to a Redis that can be made slow, or cut in the middle of an answer.
type detour struct {
	addr string
	// delay is how long each answer is held back; cut is how many bytes of answers go
	// through before the connection is cut, 0: all.
	delay, cut atomic.Int64
	mu         sync.Mutex
	open       []net.Conn
}

func newDetour(to string) *detour {
	GinkgoHelper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	Expect(err).NotTo(HaveOccurred())
	d := &detour{addr: listener.Addr().String()}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { d.serve(client, to) })
		}
	})
	DeferCleanup(func() {
		listener.Close()
		d.sever()
		serving.Wait()
	})
	return d
}

// sever cuts all connections.
func (d *detour) sever() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.open {
		c.Close()
	}
	d.open = nil
}

func (d *detour) serve(client net.Conn, to string) {
	defer client.Close()
	server, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer server.Close()
	d.mu.Lock()
	d.open = append(d.open, client, server)
	d.mu.Unlock()
	go func() {
		// Not by splice, whose pipes are kept until the collector runs.
		io.Copy(struct{ io.Writer }{server}, struct{ io.Reader }{client})
		server.Close()
	}()
	buffer := make([]byte, 32<<10)
	for passed := int64(0); ; {
		n, err := server.Read(buffer)
		if err != nil {
			return
		}
		if delay := time.Duration(d.delay.Load()); delay > 0 {
			timer := time.NewTimer(delay)
			<-timer.C
		}
		if cut := d.cut.Load(); cut > 0 && passed+int64(n) >= cut {
			client.Write(buffer[:max(0, cut-passed)])
			return
		}
		passed += int64(n)
		if _, err := client.Write(buffer[:n]); err != nil {
			return
		}
	}
}

var _ = Describe("router with a routing table", func() {
	BeforeEach(spec.CheckLeaks)

	It("routes on through whatever happens to its Redis, and never to a wrong app", func() {
		spec.Need("redis-server", "redis-server")
		server := startRedis(&servers.Redis{})
		way := newDetour(server.Addr())
		dir := GinkgoT().TempDir()
		apps := startApps("shop.test", "blog.test", "wiki.test")
		t := startTabled(server, way.addr, dir)
		// It answers 503 until it has the table, empty as that is.
		Eventually(t.answers).WithArguments("shop.test").WithTimeout(converge).Should(Equal("404"))
		t.apply(table.Add("shop.test", apps["shop.test"]), table.Add("blog.test", apps["blog.test"]))
		Eventually(t.answers).WithArguments("shop.test").WithTimeout(converge).Should(Equal("shop.test"))
		served := t.traffic("shop.test", "blog.test")
		wiki := false
		// turn changes what Redis has while that can be seen.
		turn := func() {
			GinkgoHelper()
			change := table.Add("wiki.test", apps["wiki.test"])
			if wiki = !wiki; !wiki {
				change = table.Drop("wiki.test")
			}
			t.apply(change)
		}
		converges := func() {
			GinkgoHelper()
			want := map[bool]string{true: "wiki.test", false: "404"}[wiki]
			Eventually(t.answers).WithArguments("wiki.test").WithTimeout(converge).WithPolling(10 * time.Millisecond).Should(Equal(want))
			Eventually(t.state).WithTimeout(converge).Should(And(HaveKeyWithValue("stale", false), HaveKeyWithValue("alarm", "")))
		}
		goesOn := func() {
			GinkgoHelper()
			at := served.Load()
			Eventually(served.Load).WithTimeout(within).Should(BeNumerically(">", at+20))
		}
		turn()
		converges()

		By("cutting its connections (D2, D20)")
		way.sever()
		turn()
		converges()

		By("answering after 2 s (D6)")
		way.delay.Store(int64(2 * time.Second))
		turn()
		Eventually(t.state).WithTimeout(within).Should(And(HaveKeyWithValue("stale", true), HaveKeyWithValue("reason", Not(BeEmpty()))))
		goesOn()
		way.delay.Store(0)
		converges()

		By("cutting answers in the middle (D7)")
		for cut := int64(1); cut < 200; cut += 37 {
			way.cut.Store(cut)
			way.sever()
			turn()
			goesOn()
			way.cut.Store(0)
			way.sever()
			converges()
		}

		By("giving the keys wrong types (D10)")
		Expect(t.client.Rename(context.Background(), "switchboard:instances:shop.test", "switchboard:away").Err()).To(Succeed())
		Expect(t.client.Set(context.Background(), "switchboard:instances:shop.test", "x", 0).Err()).To(Succeed())
		Expect(t.client.Incr(context.Background(), "switchboard:serial").Err()).To(Succeed())
		Eventually(t.state).WithTimeout(converge).Should(HaveKeyWithValue("rejected", HaveKeyWithValue("hosts", BeNumerically("==", 1))))
		goesOn()
		Expect(t.client.Rename(context.Background(), "switchboard:away", "switchboard:instances:shop.test").Err()).To(Succeed())
		Expect(t.client.Incr(context.Background(), "switchboard:serial").Err()).To(Succeed())
		Eventually(t.state).WithTimeout(converge).Should(HaveKeyWithValue("rejected", HaveKeyWithValue("hosts", BeNumerically("==", 0))))

		By("losing everything (D3, D18)")
		serial, err := t.client.Get(context.Background(), "switchboard:serial").Uint64()
		Expect(err).NotTo(HaveOccurred())
		Eventually(t.state).WithTimeout(converge).Should(HaveKeyWithValue("serial", BeNumerically("==", serial)))
		Expect(t.client.FlushAll(context.Background()).Err()).To(Succeed())
		Eventually(t.state).WithTimeout(converge).Should(And(HaveKeyWithValue("stale", true), HaveKeyWithValue("alarm", ContainSubstring("Redis is at serial 0"))))
		Expect(t.state()).To(HaveKeyWithValue("serial", BeNumerically("==", serial)))
		goesOn()

		By("coming back older (D4)")
		Expect(t.client.Set(context.Background(), "switchboard:serial", serial-1, 0).Err()).To(Succeed())
		Expect(t.client.SAdd(context.Background(), "switchboard:instances:shop.test", apps["blog.test"].String()).Err()).To(Succeed())
		Consistently(t.answers).WithArguments("shop.test").WithTimeout(time.Second).Should(Equal("shop.test"))

		By("being filled again, past the serial")
		t.apply(table.Replace("shop.test", table.Options{}, nil, apps["shop.test"]), table.Replace("blog.test", table.Options{}, nil, apps["blog.test"]))
		Expect(t.client.Set(context.Background(), "switchboard:serial", serial+10, 0).Err()).To(Succeed())
		wiki = false
		converges()
		turn()
		converges()

		By("being killed (D2)")
		server.Kill()
		Eventually(t.state).WithTimeout(within).Should(HaveKeyWithValue("stale", true))
		goesOn()
		Expect(t.entry("the table is stale")).NotTo(BeNil())
		Expect(t.entry("the table needs an operator")).To(HaveKeyWithValue("alarm", ContainSubstring("Redis is at serial 0")))
	})

	It("loses no request of 2,000 a second while the table changes a thousand times, and touches nobody else", func() {
		spec.Need("redis-server", "redis-server")
		server := startRedis(&servers.Redis{})
		apps := startApps("shop.test", "other.test")
		asked, release := make(chan struct{}, 1), make(chan struct{})
		slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			asked <- struct{}{}
			<-release
			io.WriteString(w, "slow.test")
		}))
		DeferCleanup(slow.Close)
		t := startTabled(server, server.Addr(), "")
		shop := []table.Member{apps["shop.test"], apps["other.test"]}
		t.apply(table.Add("shop.test", shop...),
			table.Add("slow.test", table.Member{Address: netip.MustParseAddrPort(slow.Listener.Addr().String()), Instance: "slow"}))
		Eventually(t.state).WithTimeout(converge).Should(HaveKeyWithValue("hosts", BeEquivalentTo(2)))
		answered := make(chan string, 1)
		go func() { answered <- t.answers("slow.test") }()
		Eventually(asked).WithTimeout(within).Should(Receive())

		var done atomic.Int64
		paced := make(chan error, 1)
		began := time.Now()
		go func() { paced <- t.pace("shop.test", 10_000, 2000, &done) }()
		for i := range 1000 {
			// Each change takes an instance out or lets it in, and makes a host.
			t.apply(table.Replace("shop.test", table.Options{}, nil, shop[:1+i%2]...), table.Add(fmt.Sprintf("h%d.test", i), shop[0]))
		}
		Eventually(paced).WithTimeout(time.Minute).Should(Receive(BeNil()))
		Expect(done.Load()).To(BeEquivalentTo(10_000))
		Eventually(t.state).WithTimeout(converge).Should(HaveKeyWithValue("hosts", BeEquivalentTo(1002)))
		Expect(clusterText(t.api)).To(MatchRegexp(`"host":"shop.test".*?"5xx":0`))
		Consistently(answered).WithTimeout(50 * time.Millisecond).ShouldNot(Receive())
		close(release)
		Eventually(answered).WithTimeout(within).Should(Receive(Equal("slow.test")))
		AddReportEntry("2,000 requests/s", fmt.Sprintf("10,000 in %v", time.Since(began).Round(time.Millisecond)))
	})

	It("starts with the last good table while Redis is away, and obeys an operator when it comes back empty (D1)", func() {
		spec.Need("redis-server", "redis-server")
		data := GinkgoT().TempDir()
		server := startRedis(&servers.Redis{Dir: data, Config: []string{"appendonly yes"}})
		dir := GinkgoT().TempDir()
		apps := startApps("shop.test")
		t := startTabled(server, server.Addr(), dir)
		t.apply(table.Add("shop.test", apps["shop.test"]))
		Eventually(t.answers).WithArguments("shop.test").WithTimeout(converge).Should(Equal("shop.test"))
		Eventually(os.ReadFile).WithArguments(filepath.Join(dir, "table.jsonl")).WithTimeout(within).Should(ContainSubstring("shop.test"))
		t.Kill()
		Expect(t.WaitExit(within)).To(Equal(-1))
		server.Kill()
		Eventually(server.PID).WithTimeout(within).Should(BeZero())

		t = &tabled{router: startRouter(tableConfig("redis://"+server.Addr(), dir))}
		t.awaitReady()
		Expect(t.answers("shop.test")).To(Equal("shop.test"))
		Expect(t.state()).To(And(HaveKeyWithValue("stale", true), HaveKeyWithValue("loaded", true), HaveKeyWithValue("reason", "nothing listens at the address of Redis")))
		Expect(t.accept()).To(Equal(http.StatusServiceUnavailable))

		empty := startRedis(&servers.Redis{Port: int(netip.MustParseAddrPort(server.Addr()).Port())})
		Eventually(t.state).WithTimeout(within).Should(HaveKeyWithValue("alarm", ContainSubstring("until Redis passes it or an operator accepts")))
		Expect(t.answers("shop.test")).To(Equal("shop.test"))
		Expect(t.accept()).To(Equal(http.StatusOK))
		Expect(t.answers("shop.test")).To(Equal("404"))
		Expect(t.accept()).To(Equal(http.StatusConflict))
		Expect(empty.PID()).NotTo(BeZero())
		t.Signal(syscall.SIGTERM)
		Expect(t.WaitExit(within)).To(Equal(0))
	})

	It("reads a table without a prefix, as the first routers of this family have it", func() {
		spec.Need("redis-server", "redis-server")
		server := startRedis(&servers.Redis{})
		client := tableClient(server)
		shop := startApps("shop.test")["shop.test"]
		Expect(client.SAdd(context.Background(), "instances:shop.test", shop.String()).Err()).To(Succeed())
		Expect(client.Set(context.Background(), "serial", 7, 0).Err()).To(Succeed())
		r := startRouter(write("router.yaml", fmt.Sprintf(`
listeners: [{name: web, bind: "127.0.0.1:0", protocol: http}]
redis: {url: "redis://%s", prefix: "-"}
api: {bind: "127.0.0.1:0"}
`, server.Addr())))
		Eventually(r.answers).WithArguments("shop.test").WithTimeout(converge).Should(Equal("shop.test"))
		listed := command(environment(), "routes", "list", "--redis", "redis://"+server.Addr(), "--prefix", "-")
		Expect(listed.code).To(Equal(0), listed.errs)
		Expect(listed.out).To(ContainSubstring("shop.test"))
		Expect(client.Keys(context.Background(), "*").Val()).To(ConsistOf("instances:shop.test", "serial"))
	})

	It("says what is wrong with its Redis, without the password", func() {
		config := write("router.yaml", `
listeners: [{name: web, bind: "127.0.0.1:0", protocol: http}]
redis: {url: "redis://:hunter2@127.0.0.1:1/0"}
api: {bind: "127.0.0.1:0"}
`)
		r := startRouter(config)
		Eventually(func() string { return clusterText(r.api) }).WithTimeout(within).Should(ContainSubstring("nothing listens"))
		Expect(status(r.api + "/readyz")).To(Equal(http.StatusServiceUnavailable))
		Expect(string(r.Stderr.Contents()) + clusterText(r.api)).NotTo(ContainSubstring("hunter2"))
		r.Signal(syscall.SIGTERM)
		Expect(r.WaitExit(within)).To(Equal(0))
	})
})

// accept says that what Redis has is right.
func (t *tabled) accept() (status int) {
	GinkgoHelper()
	response, err := http.Post(t.api+"/table/accept", "", nil)
	Expect(err).NotTo(HaveOccurred())
	defer response.Body.Close()
	defer http.DefaultClient.CloseIdleConnections()
	return response.StatusCode
}
