package main_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/coder/websocket"
	"github.com/redis/go-redis/v9"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/fixtures/servers"
	"switchboard/fixtures/spec"
	"switchboard/pacemaker/store"
	"switchboard/pacemaker/table"
)

// tableRouter is a router of whatever make that routes by a table in Redis.
type tableRouter struct {
	// addr is where its clients connect, log the path of its access log.
	addr, log string
	// reopen asks it to open its log anew.
	reopen func()
}

// The makes of routers.
const (
	ours   = "Switchboard"
	theirs = "NGINX with Lua"
)

// routerKinds are the makes. start starts one that reads the table in redis, which
// need not run yet, under the prefix.
var routerKinds = []struct {
	name  string
	start func(redis *servers.Redis, prefix string) tableRouter
}{
	{ours, startSwitchboard},
	{theirs, func(redis *servers.Redis, prefix string) tableRouter { return startNGINX(redis, prefix) }},
}

// startSwitchboard starts a router of ours that has no hosts but those in the table.
func startSwitchboard(redis *servers.Redis, prefix string) tableRouter {
	GinkgoHelper()
	url := strings.Replace(redis.Network(), "tcp", "redis", 1) + "://" + redis.Addr()
	log := filepath.Join(GinkgoT().TempDir(), "access.log")
	r := startRouter(write("router.yaml", fmt.Sprintf(`
name: router-1
listeners: [{name: web, bind: "127.0.0.1:0", protocol: http}]
redis: {url: %q, prefix: %q}
api: {bind: "127.0.0.1:0"}
shutdown: {drain: 0s}
log: {access: %q}
`, url, prefix, log)))
	return tableRouter{r.clients, log, func() { r.Signal(syscall.SIGUSR1) }}
}

// startNGINX starts an NGINX with the recipe's files, and with changes as [recipe]
// makes them.
func startNGINX(redis *servers.Redis, prefix string, changes ...string) tableRouter {
	GinkgoHelper()
	needNGINXWithLua()
	lua, err := filepath.Abs(filepath.Join(recipes, "nginx-lua"))
	Expect(err).NotTo(HaveOccurred())
	at := fmt.Sprintf(`{%q}`, "unix:"+redis.Addr())
	if host, port, err := net.SplitHostPort(redis.Addr()); err == nil {
		at = fmt.Sprintf(`{%q, %s}`, host, port)
	}
	const listen = "0.0.0.0:8080"
	config := recipe("nginx-lua/switchboard.conf", append(changes,
		"/etc/nginx/switchboard", lua, "/var/log/nginx/", "", `{"10.0.0.1", 6379}`, at, `"switchboard:"`, strconv.Quote(prefix), listen, listen)...)
	nginx := &servers.NGINX{
		Dir: GinkgoT().TempDir(), Modules: []string{servers.NGINXKit, servers.NGINXLua},
		HTTP: func(addr string) string { return strings.ReplaceAll(config, listen, addr) },
	}
	signals, ready, ended := make(chan os.Signal, 2), make(chan struct{}), make(chan error, 1)
	go func() { ended <- nginx.Run(signals, ready) }()
	Eventually(ready).WithTimeout(within).Should(BeClosed())
	DeferCleanup(func() {
		GinkgoWriter.Println(nginx.Log())
		signals <- syscall.SIGTERM
		Eventually(ended).WithTimeout(within).Should(Receive(BeNil()))
	})
	return tableRouter{nginx.Addr(), nginx.Path("switchboard.log"), nginx.Reopen}
}

// needNGINXWithLua is [spec.Need] for all that the recipe needs.
func needNGINXWithLua() {
	GinkgoHelper()
	spec.Need("nginx", "nginx")
	for path, debianPackage := range map[string]string{
		servers.NGINXKit: "libnginx-mod-http-ndk", servers.NGINXLua: "libnginx-mod-http-lua", "/usr/share/lua/5.1/nginx/redis.lua": "lua-nginx-redis",
	} {
		if _, err := os.Stat(path); err != nil {
			spec.Need(path, debianPackage)
		}
	}
}

// webApp is one instance of a web app, which says its name, and what it was sent.
type webApp struct {
	name string
	addr netip.AddrPort
}

func startWebApp(name string) webApp {
	GinkgoHelper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/echo":
			echoSocket(w, r)
			return
		case "/slow":
			select {
			case <-time.After(20 * time.Millisecond):
			case <-r.Context().Done():
			}
		}
		r.Header.Set("Host", r.Host)
		r.Header.Set("Instance", name)
		_ = json.NewEncoder(w).Encode(r.Header)
	}))
	DeferCleanup(server.Close)
	return webApp{name, server.Listener.Addr().(*net.TCPAddr).AddrPort()}
}

// member is the instance as the table has it.
func (a webApp) member() table.Member {
	return table.Member{Address: a.addr, Type: "12", Node: "3", Instance: a.name}
}

// echoSocket sends a WebSocket's messages back.
func echoSocket(w http.ResponseWriter, r *http.Request) {
	socket, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer socket.CloseNow()
	for {
		kind, message, err := socket.Read(context.Background())
		if err != nil || socket.Write(context.Background(), kind, message) != nil {
			return
		}
	}
}

// answer is a response of a router, and what the instance was sent.
type answer struct {
	code int
	sent http.Header
}

// ask asks for a path of a host, as the client wrote that.
func (t tableRouter) ask(host, path string) answer {
	GinkgoHelper()
	return t.send("GET " + path + " HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n")
}

// send sends a request as it stands.
func (t tableRouter) send(request string) answer {
	GinkgoHelper()
	conn, err := net.DialTimeout("tcp", t.addr, within)
	Expect(err).NotTo(HaveOccurred())
	defer conn.Close()
	Expect(conn.SetDeadline(time.Now().Add(within))).To(Succeed())
	_, err = io.WriteString(conn, request)
	Expect(err).NotTo(HaveOccurred())
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	Expect(err).NotTo(HaveOccurred())
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	Expect(err).NotTo(HaveOccurred())
	a := answer{code: response.StatusCode}
	if response.StatusCode == http.StatusOK {
		Expect(json.Unmarshal(text, &a.sent)).To(Succeed(), "%s", text)
	}
	return a
}

// code is the status of a GET of / of a host.
func (t tableRouter) code(host string) int {
	GinkgoHelper()
	return t.ask(host, "/").code
}

// socket opens a WebSocket, has a message sent back, and ends it.
func (t tableRouter) socket(host string) {
	GinkgoHelper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	socket, _, err := websocket.Dial(ctx, "ws://"+t.addr+"/echo", &websocket.DialOptions{Host: host, HTTPClient: &http.Client{Transport: transport}})
	Expect(err).NotTo(HaveOccurred())
	defer socket.CloseNow()
	Expect(socket.Write(ctx, websocket.MessageText, []byte("hello"))).To(Succeed())
	_, message, err := socket.Read(ctx)
	Expect(err).NotTo(HaveOccurred())
	Expect(string(message)).To(Equal("hello"))
	Expect(socket.Close(websocket.StatusNormalClosure, "")).To(Succeed())
}

// asks is how often a host is asked to see all its instances. One of four, which is
// the most there are, is missed once in ten million times.
const asks = 60

// routed is how a router answers a request: with which statuses, and by which
// instances.
func (t tableRouter) routed(request string) []string {
	GinkgoHelper()
	seen := make(map[string]bool)
	for range asks {
		a := t.send(request)
		said := fmt.Sprint(a.code)
		if a.sent != nil {
			said += " " + a.sent.Get("Instance")
		}
		seen[said] = true
	}
	return slices.Sorted(maps.Keys(seen))
}

// requestLine is a line of the access log, as every router of this family writes it.
type requestLine struct {
	Kind         string   `json:"kind"`
	Type         *string  `json:"version_type_key"`
	Node         *string  `json:"node_key"`
	Instance     *string  `json:"instance_key"`
	Bytes        *int64   `json:"bytes"`
	Code         *int     `json:"code"`
	UpstreamTime *string  `json:"upstream_response_time"`
	Time         *string  `json:"time"`
	TimeMsec     *float64 `json:"timemsec"`
	TotalTime    *float64 `json:"nginx_response_time"`
}

// records are the requests that are logged.
func (t tableRouter) records() []requestLine {
	GinkgoHelper()
	text, err := os.ReadFile(t.log)
	Expect(err).NotTo(HaveOccurred())
	var records []requestLine
	for line := range strings.Lines(string(text)) {
		if !strings.HasSuffix(line, "\n") {
			break
		}
		var r requestLine
		Expect(json.Unmarshal([]byte(line), &r)).To(Succeed(), line)
		if r.Kind == "" || r.Kind == "request" {
			Expect([]any{r.Type, r.Node, r.Instance, r.Bytes, r.Code, r.UpstreamTime, r.Time, r.TimeMsec, r.TotalTime}).NotTo(
				ContainElement(BeNil()), line)
			records = append(records, r)
		}
	}
	return records
}

// String is who served a request, and how it ended.
func (r requestLine) String() string {
	return fmt.Sprintf("%s %s %s %d", *r.Type, *r.Node, *r.Instance, *r.Code)
}

// sadd adds a member and moves the serial, as writers of the older kind do.
func sadd(client *redis.Client, host string, member table.Member) {
	GinkgoHelper()
	oldStep(client, func(pipe redis.Pipeliner) {
		pipe.SAdd(context.Background(), store.DefaultPrefix+"instances:"+host, member.String())
	})
}

// srem removes a member in the same way.
func srem(client *redis.Client, host string, member table.Member) {
	GinkgoHelper()
	oldStep(client, func(pipe redis.Pipeliner) {
		pipe.SRem(context.Background(), store.DefaultPrefix+"instances:"+host, member.String())
	})
}

func oldStep(client *redis.Client, step func(pipe redis.Pipeliner)) {
	GinkgoHelper()
	_, err := client.TxPipelined(context.Background(), func(pipe redis.Pipeliner) error {
		step(pipe)
		pipe.Incr(context.Background(), store.DefaultPrefix+"serial")
		return nil
	})
	Expect(err).NotTo(HaveOccurred())
}

// tableClient connects to the Redis with the table.
func tableClient(server *servers.Redis) *redis.Client {
	client := redis.NewClient(&redis.Options{Network: server.Network(), Addr: server.Addr(), DisableIdentity: true})
	DeferCleanup(client.Close)
	return client
}

var _ = Describe("A router of a table in Redis", func() {
	BeforeEach(func() {
		spec.CheckLeaks()
		spec.Need("redis-server", "redis-server")
	})

	for _, kind := range routerKinds {
		Context("being "+kind.name, func() {
			It("routes by what is there, over a restart of Redis, and logs each request", func() {
				server := &servers.Redis{
					Dir: GinkgoT().TempDir(), Socket: filepath.Join(GinkgoT().TempDir(), "redis.sock"),
					Config: []string{"appendonly yes", "appendfsync always"},
				}
				app := startWebApp("shop-0")
				r := kind.start(server, store.DefaultPrefix)
				sent := make(map[string]int)
				eventually := func(host string, code int) {
					GinkgoHelper()
					Eventually(func() int {
						a := r.ask(host, "/slow")
						who := "null null null"
						if a.sent != nil {
							who = "12 3 shop-0"
						}
						sent[fmt.Sprint(who, " ", a.code)]++
						return a.code
					}).WithTimeout(within).Should(Equal(code))
				}

				By("having no table")
				code := r.code("shop.test")
				Expect(code).To(BeNumerically(">=", 500))
				sent[fmt.Sprint("null null null ", code)]++

				By("having an empty one")
				startRedis(server)
				eventually("shop.test", http.StatusNotFound)

				By("having an instance, for a name and for others")
				client := tableClient(server)
				sadd(client, "shop.test", app.member())
				sadd(client, "*.shop.test", app.member())
				eventually("shop.test", http.StatusOK)
				server.Kill()
				Eventually(server.PID).WithTimeout(within).Should(BeZero())
				startRedis(server)
				eventually("shop.test:8080", http.StatusOK)
				eventually("www.shop.test", http.StatusOK)
				r.socket("shop.test")
				sent["12 3 shop-0 101"]++

				By("having logged all of it")
				Eventually(func() map[string]int {
					counts := make(map[string]int)
					for _, record := range r.records() {
						counts[record.String()]++
					}
					return counts
				}).WithTimeout(within).Should(Equal(sent))
				for _, record := range r.records() {
					_, err := time.Parse(time.RFC3339, *record.Time)
					Expect(err).NotTo(HaveOccurred())
					Expect(*record.TimeMsec).To(BeNumerically("~", time.Now().Unix(), 60))
					Expect(*record.TotalTime).To(And(BeNumerically(">=", 0), BeNumerically("<", within.Seconds())))
					Expect(*record.Bytes).To(BeNumerically(">", 100))
					if *record.Type == "null" {
						Expect(*record.UpstreamTime).To(Equal("-"))
					} else {
						Expect(*record.UpstreamTime).To(MatchRegexp(`^[0-9]+\.[0-9]{3}$`))
					}
				}
				expectCounted(r)
			})

			It("tells instances what the client asked for", func() {
				server := startRedis(&servers.Redis{})
				app := startWebApp("shop-0")
				sadd(tableClient(server), "shop.test", app.member())
				r := kind.start(server, store.DefaultPrefix)
				Eventually(r.code).WithArguments("shop.test").WithTimeout(within).Should(Equal(http.StatusOK))
				_, port, err := net.SplitHostPort(r.addr)
				Expect(err).NotTo(HaveOccurred())
				got := r.ask("Shop.test:8080", "/").sent
				Expect(got.Get("Host")).To(Equal("Shop.test:8080"))
				Expect(got.Get("X-Forwarded-For")).To(Equal("127.0.0.1"))
				Expect(got.Get("X-Forwarded-Host")).To(Equal("Shop.test:8080"))
				Expect(got.Get("X-Forwarded-Port")).To(Equal(port))
				Expect(got.Get("X-Forwarded-Proto")).To(Equal("http"))
			})

			It("writes to a new log after a rotation", func() {
				server := startRedis(&servers.Redis{})
				sadd(tableClient(server), "shop.test", startWebApp("shop-0").member())
				r := kind.start(server, store.DefaultPrefix)
				Eventually(r.code).WithArguments("shop.test").WithTimeout(within).Should(Equal(http.StatusOK))
				Eventually(r.records).WithTimeout(within).Should(ContainElement(HaveField("String()", "12 3 shop-0 200")))
				Expect(os.Rename(r.log, r.log+".1")).To(Succeed())
				r.reopen()
				Eventually(r.log).WithTimeout(within).Should(BeAnExistingFile())
				Expect(r.code("nope.test")).To(Equal(http.StatusNotFound))
				Eventually(r.records).WithTimeout(within).Should(HaveExactElements(HaveField("String()", "null null null 404")))
			})
		})
	}

	It("routes as all others do, whatever their make, and hears of the same changes", func() {
		server := startRedis(&servers.Redis{})
		client := tableClient(server)
		writer, err := table.NewWriter(table.WriterOptions{Client: client, Timeout: within})
		Expect(err).NotTo(HaveOccurred())
		apply := func(changes ...table.Change) {
			GinkgoHelper()
			_, err := writer.Apply(context.Background(), changes...)
			Expect(err).NotTo(HaveOccurred())
		}
		apps := make(map[string]webApp)
		for _, name := range []string{"shop-0", "shop-1", "shop-2", "pets-0", "pets-1", "cats-0", "four-0", "six-0", "rest-0"} {
			apps[name] = startWebApp(name)
		}
		member := func(name string) table.Member { return apps[name].member() }
		apply(
			table.Add("shop.test", member("shop-0"), member("shop-1"), member("shop-2")),
			table.Add("*.pets.test", member("pets-0"), member("pets-1")),
			table.Add("cats.pets.test", member("cats-0")),
			table.Add("10.1.2.3", member("four-0")),
			table.Add("2001:db8::1", member("six-0")),
		)
		routers := make(map[string]tableRouter)
		for _, kind := range routerKinds {
			routers[kind.name] = kind.start(server, store.DefaultPrefix)
		}
		expectAll := func(request string, want ...string) {
			GinkgoHelper()
			for name, r := range routers {
				Eventually(r.routed).WithArguments(request).WithTimeout(within).Should(Equal(want), "%s answers %q", name, request)
			}
		}
		get := func(host string) string { return "GET / HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n" }
		shop := []string{"200 shop-0", "200 shop-1", "200 shop-2"}
		pets := []string{"200 pets-0", "200 pets-1"}

		By("asking for names in all their spellings")
		expectAll(get("shop.test"), shop...)
		expectAll(get("SHOP.Test"), shop...)
		expectAll(get("shop.test:8080"), shop...)
		expectAll(get("shop.test."), shop...)
		expectAll("GET http://shop.test/ HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n", shop...)
		expectAll("GET / HTTP/1.0\r\nHost: shop.test\r\n\r\n", shop...)
		expectAll(get("dogs.pets.test"), pets...)
		expectAll(get("Dogs.Pets.test:80"), pets...)
		expectAll(get("cats.pets.test"), "200 cats-0")
		expectAll(get("10.1.2.3:80"), "200 four-0")
		expectAll(get("[2001:db8::1]:80"), "200 six-0")

		By("asking for what is not there")
		for _, host := range []string{"nope.test", "test", "pets.test", "big.dogs.pets.test", "10.1.2.4", "[::1]"} {
			expectAll(get(host), "404")
		}
		expectAll("GET / HTTP/1.1\r\nConnection: close\r\n\r\n", "400")
		expectAll("GET / HTTP/1.0\r\n\r\n", "400")

		By("changing the table as Switchboard does")
		apply(table.Remove("shop.test", member("shop-2")), table.Drop("cats.pets.test"), table.Add("*", member("rest-0")))
		expectAll(get("shop.test"), "200 shop-0", "200 shop-1")
		expectAll(get("cats.pets.test"), pets...)
		expectAll(get("nope.test"), "200 rest-0")
		expectAll(get("test"), "200 rest-0")
		expectAll(get("big.dogs.pets.test"), "200 rest-0")

		By("changing it as older writers do")
		srem(client, "*", member("rest-0"))
		sadd(client, "shop.test", member("shop-2"))
		srem(client, "shop.test", member("shop-0"))
		sadd(client, "cats.pets.test", member("cats-0"))
		expectAll(get("nope.test"), "404")
		expectAll(get("shop.test"), "200 shop-1", "200 shop-2")
		expectAll(get("cats.pets.test"), "200 cats-0")

		By("taking out the last instance, so that a wildcard stands for the name")
		srem(client, "cats.pets.test", member("cats-0"))
		expectAll(get("cats.pets.test"), pets...)

		By("differing in weights alone, which NGINX does not read")
		apply(table.SetWeights("shop.test", map[string]int{"shop-1": 0}))
		Eventually(routers[ours].routed).WithArguments(get("shop.test")).WithTimeout(within).Should(Equal([]string{"200 shop-2"}))
		Expect(routers[theirs].routed(get("shop.test"))).To(Equal([]string{"200 shop-1", "200 shop-2"}))
	})
})

var _ = Describe("An NGINX with the recipe's Lua", func() {
	BeforeEach(func() {
		spec.CheckLeaks()
		spec.Need("redis-server", "redis-server")
	})

	It("reads a table without a prefix, of a Redis with a password", func() {
		server := startRedis(&servers.Redis{Config: []string{"requirepass " + checkPassword}})
		client := redis.NewClient(&redis.Options{Addr: server.Addr(), Password: checkPassword, DisableIdentity: true})
		DeferCleanup(client.Close)
		Expect(client.SAdd(context.Background(), "instances:shop.test", startWebApp("shop-0").member().String()).Err()).NotTo(HaveOccurred())
		r := startNGINX(server, "", "password = nil", fmt.Sprintf("password = %q", checkPassword))
		for range 3 {
			Expect(r.ask("shop.test", "/").sent.Get("Instance")).To(Equal("shop-0"))
		}
		Expect(r.code("nope.test")).To(Equal(http.StatusNotFound))
		Expect(connectionsOf(client)).To(Equal(2), "its connection is kept, and this one")
	})

	It("answers 500 for what it cannot read, and for nothing else", func() {
		server := startRedis(&servers.Redis{})
		client := tableClient(server)
		sadd(client, "shop.test", startWebApp("shop-0").member())
		Expect(client.SAdd(context.Background(), store.DefaultPrefix+"instances:broken.test", "10.0.0.1:80").Err()).NotTo(HaveOccurred())
		Expect(client.Set(context.Background(), store.DefaultPrefix+"instances:odd.test", "text", 0).Err()).NotTo(HaveOccurred())
		r := startNGINX(server, store.DefaultPrefix)
		Expect(r.code("broken.test")).To(Equal(http.StatusInternalServerError))
		Expect(r.code("odd.test")).To(Equal(http.StatusInternalServerError))
		Expect(r.code("shop.test")).To(Equal(http.StatusOK))
		server.Pause()
		Expect(r.code("shop.test")).To(Equal(http.StatusInternalServerError), "Redis does not answer in time")
		server.Continue()
		Expect(r.code("shop.test")).To(Equal(http.StatusOK))
	})

	It("tries no other instance than the one it chose", func() {
		server := startRedis(&servers.Redis{})
		gone := startWebApp("shop-0").member()
		gone.Address = netip.MustParseAddrPort(spec.RefusedAddr())
		sadd(tableClient(server), "shop.test", gone)
		r := startNGINX(server, store.DefaultPrefix)
		Expect(r.code("shop.test")).To(Equal(http.StatusBadGateway))
		Eventually(r.records).WithTimeout(within).Should(HaveLen(1))
		Expect(r.records()[0].String()).To(Equal("12 3 shop-0 502"))
	})
})

// connectionsOf is how many connections the Redis of a client has.
func connectionsOf(client *redis.Client) int {
	GinkgoHelper()
	list, err := client.ClientList(context.Background()).Result()
	Expect(err).NotTo(HaveOccurred())
	return strings.Count(list, "\n")
}
