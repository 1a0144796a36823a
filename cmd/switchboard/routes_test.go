package main_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/gbytes"

	main "switchboard/cmd/switchboard"
	"switchboard/fixtures/servers"
	"switchboard/fixtures/spec"
)

var _ = Describe("switchboard routes", func() {
	var (
		redis *servers.Redis
		env   []string
	)
	BeforeEach(func() {
		spec.CheckLeaks()
		spec.Need("redis-server", "redis-server")
		redis = startRedis(new(servers.Redis))
		env = []string{"SWITCHBOARD_REDIS_URL=redis://" + redis.Addr()}
	})
	routes := func(args ...string) outcome {
		GinkgoHelper()
		return command(env, append([]string{"routes"}, args...)...)
	}
	// says runs what must work, and returns what it says.
	says := func(args ...string) string {
		GinkgoHelper()
		o := routes(args...)
		Expect(o).To(Equal(outcome{out: o.out}))
		return o.out
	}
	// fails runs what must fail with that code, and returns why.
	fails := func(code int, args ...string) string {
		GinkgoHelper()
		o := routes(args...)
		Expect(o).To(Equal(outcome{code: code, errs: o.errs}))
		return o.errs
	}
	answer := func(args ...string) (answer map[string]any) {
		GinkgoHelper()
		Expect(json.Unmarshal([]byte(says(append(args, "-o", "json")...)), &answer)).To(Succeed())
		return answer
	}
	// where is the second line of a failure.
	where := func() string {
		return fmt.Sprintf("(the table at redis://%s, prefix \"switchboard:\")\n", redis.Addr())
	}

	It("adds, shows and removes instances, and tells the serial of each change", func() {
		Expect(says("add", "Shop.Example.com", "10.0.0.1:8080", "--name", "shop-0")).To(
			Equal("shop.example.com: added shop-0 at 10.0.0.1:8080; the table is at serial 1\n"))
		Expect(says("add", "shop.example.com", "10.0.0.1:8080", "--name", "shop-0")).To(
			Equal("shop.example.com: nothing to change; the table is at serial 1\n"))
		Expect(answer("add", "shop.example.com", "10.0.0.2:8080", "--name", "shop-1", "--type", "12", "--node", "n3", "--weight", "0")).To(
			Equal(map[string]any{"host": "shop.example.com", "changed": true, "serial": 2.0}))
		says("add", "*.pets.example.com", "[2001:db8::1]:80")
		Expect(says("list")).To(Equal(`HOST                POLICY   CHOOSE  BACKEND                                     ADDRESS           WEIGHT  TYPE  NODE
*.pets.example.com  balance  random  2001-0db8-0000-0000-0000-0000-0000-0001-80  [2001:db8::1]:80  1       -     -
shop.example.com    balance  random  shop-0                                      10.0.0.1:8080     1       -     -
shop.example.com    balance  random  shop-1                                      10.0.0.2:8080     0       12    n3
hosts: 2, backends: 3, serial: 3
`))
		Expect(says("list", "--host", "sh?p.*")).To(HaveSuffix("hosts: 1, backends: 2, serial: 3\n"))
		hosts := answer("show", "shop.example.com")["hosts"].([]any)
		Expect(hosts).To(HaveLen(1))
		Expect(hosts[0]).To(And(HaveKeyWithValue("host", "shop.example.com"), HaveKeyWithValue("backends", ContainElement(Equal(map[string]any{
			"name": "shop-1", "address": "10.0.0.2:8080", "weight": 0.0, "type": "12", "node": "n3", "instance": "shop-1",
		})))))
		Expect(says("remove", "shop.example.com", "shop-0")).To(Equal("shop.example.com: removed shop-0 at 10.0.0.1:8080; the table is at serial 4\n"))
		Expect(says("remove", "shop.example.com", "10.0.0.2:8080")).To(Equal("shop.example.com: removed shop-1 at 10.0.0.2:8080; the table is at serial 5\n"))
		Expect(says("remove", "shop.example.com", "shop-0")).To(Equal("shop.example.com: nothing to change; the table is at serial 5\n"))
		Expect(fails(1, "show", "shop.example.com")).To(Equal(
			"switchboard routes show: shop.example.com is not in the table; \"switchboard routes list\" shows what is\n" + where()))
		Expect(says("drop", "*.pets.example.com")).To(Equal("*.pets.example.com: dropped; the table is at serial 6\n"))
		Expect(says("list")).To(HaveSuffix("hosts: 0, backends: 0, serial: 6\n"))
	})

	It("adds no second one of an address or a name by mistake", func() {
		says("add", "shop", "10.0.0.1:80", "--name", "shop-0")
		Expect(fails(1, "add", "shop", "10.0.0.1:80", "--name", "shop-1")).To(ContainSubstring(
			"10.0.0.1:80 is there already, as 10.0.0.1:80#null#null#shop-0: remove that first if it is to be another\n"))
		Expect(fails(1, "add", "shop", "10.0.0.2:80", "--name", "shop-0")).To(ContainSubstring(
			"shop-0 is there already, at 10.0.0.1:80: remove that first if it has moved, or give another --name\n"))
		Expect(says("list")).To(HaveSuffix("hosts: 1, backends: 1, serial: 1\n"))
	})

	It("sets weights of backends that are there, all in one step", func() {
		says("add", "shop", "10.0.0.1:80", "--name", "a")
		says("add", "shop", "10.0.0.2:80", "--name", "b")
		Expect(says("weight", "shop", "a=9", "b=0")).To(Equal("shop: weights are a=9, b=0; the table is at serial 3\n"))
		Expect(says("show", "shop")).To(MatchRegexp(`a +10\.0\.0\.1:80 +9 .*\n.*b +10\.0\.0\.2:80 +0 `))
		Expect(fails(1, "weight", "shop", "c=1", "a=1")).To(ContainSubstring("shop has no backend c; it has: a, b\n"))
		Expect(says("weight", "shop", "a=9")).To(Equal("shop: nothing to change; the table is at serial 3\n"))
	})

	It("sets what it is told and leaves the other options as they are", func() {
		says("add", "shop", "10.0.0.1:80", "--name", "a", "--weight", "3")
		Expect(says("set", "shop", "--choose", "sticky", "--sticky-by", "cookie:id", "--hold", "1500ms")).To(
			Equal("shop: options are set; the table is at serial 2\n"))
		says("set", "shop", "--hold", "2s")
		shown := func() map[string]any {
			GinkgoHelper()
			host := answer("show", "shop")["hosts"].([]any)[0].(map[string]any)
			Expect(host["backends"]).To(ContainElement(HaveKeyWithValue("weight", 3.0)))
			delete(host, "backends")
			return host
		}
		Expect(shown()).To(Equal(map[string]any{"host": "shop", "policy": "balance", "choose": "sticky", "stickyBy": "cookie:id", "hold": "2s"}))
		says("set", "shop", "--choose", "least_sessions")
		Expect(shown()).To(Equal(map[string]any{"host": "shop", "policy": "balance", "choose": "least_sessions", "hold": "2s"}))
		says("set", "shop", "--policy", "active", "--hold", "0s")
		Expect(shown()).To(Equal(map[string]any{"host": "shop", "policy": "active"}))
		says("set", "shop", "--policy", "")
		Expect(shown()).To(Equal(map[string]any{"host": "shop", "policy": "balance", "choose": "random"}))
		Expect(fails(1, "set", "shop", "--choose", "sticky")).To(HavePrefix(
			"switchboard routes set: host \"shop\": choose is \"sticky\", and sticky_by does not say what by\n"))
		Expect(fails(1, "set", "shpo", "--hold", "1s")).To(ContainSubstring("shpo is not in the table"))
	})

	It("tells what routers reject, and lets it be", func() {
		says("add", "shop", "10.0.0.1:80", "--name", "a")
		do(redis, "SADD", "switchboard:instances:shop", "169.254.169.254:80#1#2#3")
		do(redis, "SET", "switchboard:instances:broken", "x")
		shown := routes("list")
		Expect(shown.code).To(Equal(0))
		Expect(shown.out).To(HaveSuffix("hosts: 2, backends: 1, serial: 1\n"))
		Expect(shown.errs).To(And(
			ContainSubstring("rejected by routers: shop: member: 169.254.169.254:80 is refused: it is a link-local address\n"),
			ContainSubstring("rejected by routers: broken: host: a key of it has the wrong type")))
		Expect(fails(1, "add", "broken", "10.0.0.1:80")).To(ContainSubstring("reading broken: a key of it has the wrong type"))
	})

	It("dumps the table, and imports it again", func() {
		says("add", "shop", "10.0.0.1:80", "--name", "shop-0", "--node", "3")
		says("set", "shop", "--hold", "2s")
		says("add", "pets", "10.0.0.2:80", "--name", "pets-0")
		dump := says("dump")
		Expect(dump).To(MatchJSON(`{"serial": 3, "frontend_domain_postfix": "", "table": [
			{"hostname": "pets", "instances": ["pets-0"], "nodes": [], "application_id": 0, "routes": ["10.0.0.2:80#null#null#pets-0"]},
			{"hostname": "shop", "instances": ["shop-0"], "nodes": ["3"], "application_id": 0, "routes": ["10.0.0.1:80#null#3#shop-0"], "fields": {"hold": "2s"}}]}`))
		file := write("table.json", dump)
		says("drop", "shop")
		says("weight", "pets", "pets-0=5")
		says("add", "more", "10.0.0.3:80")
		Expect(says("import", file, "--dry-run", "--replace")).To(Equal(
			"nothing is written: dry run; hosts added: 1, changed: 1, dropped: 1, as they should be: 0; the table is at serial 6\n"))
		Expect(says("list")).To(HaveSuffix("hosts: 2, backends: 2, serial: 6\n"))
		Expect(says("import", file)).To(Equal("imported; hosts added: 1, changed: 1, dropped: 0, as they should be: 0; the table is at serial 7\n"))
		Expect(says("list")).To(HaveSuffix("hosts: 3, backends: 3, serial: 7\n"))

		By("filling a Redis again that has lost it, from the standard input")
		do(redis, "FLUSHALL")
		says("add", "more", "10.0.0.3:80")
		var out, errs bytes.Buffer
		code := main.Run(context.Background(), []string{"routes", "import", "-", "--replace", "--above", "41", "-o", "json"}, strings.NewReader(dump), &out, &errs, env)
		Expect(code).To(Equal(0), errs.String())
		Expect(out.String()).To(MatchJSON(`{"added": 2, "changed": 0, "dropped": 1, "equal": 0, "serial": 42, "dryRun": false}`))
		Expect(says("dump")).To(Equal(strings.Replace(dump, `"serial": 3`, `"serial": 42`, 1)))
	})

	It("imports nothing of what is not right", func() {
		says("add", "shop", "10.0.0.1:80")
		for text, words := range map[string]string{
			"{}": "it is JSON, but has no table",
			"{":  "reading a dump of the table",
			"":   "reading a dump of the table",
			"[]": "reading a dump of the table",
			`{"table": [{"hostname": "A", "routes": ["x"]}, {"hostname": "b"}, {"hostname": "b"}]}`: `host "A": "x" is not IP:PORT#TYPE#NODE#INSTANCE`,
		} {
			Expect(fails(1, "import", "--replace", write("table.json", text))).To(ContainSubstring(words))
		}
		Expect(fails(1, "import", filepath.Join(GinkgoT().TempDir(), "none.json"))).To(ContainSubstring("no such file or directory"))
		Expect(says("list")).To(HaveSuffix("hosts: 1, backends: 1, serial: 1\n"))
	})

	It("loses no change of two operators at once", func() {
		var all sync.WaitGroup
		const each = 20
		for n := range 2 {
			all.Go(func() {
				defer GinkgoRecover()
				for i := range each {
					says("add", "shop", fmt.Sprintf("10.0.%d.%d:80", n, i+1), "--weight", "7")
				}
			})
		}
		all.Wait()
		Expect(says("list")).To(HaveSuffix(fmt.Sprintf("hosts: 1, backends: %d, serial: %d\n", 2*each, 2*each)))
	})

	It("logs in with a password from a file or a variable, and shows none", func() {
		do(redis, "CONFIG", "SET", "requirepass", "s3cret")
		Expect(fails(1, "list")).To(Equal("switchboard routes list: dumping the table: Redis wants a password\n" + where()))
		Expect(says("list", "--redis-password-file", write("password", "s3cret\n"))).To(HaveSuffix("serial: 0\n"))
		for _, variable := range []string{
			"SWITCHBOARD_REDIS_PASSWORD_FILE=" + write("password", "s3cret"),
			"SWITCHBOARD_REDIS_URL=redis://:s3cret@" + redis.Addr(),
		} {
			Expect(command(append(env, variable), "routes", "list").code).To(Equal(0))
		}
		Expect(fails(1, "list", "--redis", "redis://:wr0ng@"+redis.Addr())).To(And(
			ContainSubstring("Redis refuses the user or the password"), Not(ContainSubstring("wr0ng"))))
	})

	It("says of a change that nobody knows of that nobody knows, and what to do", func() {
		says("add", "shop", "10.0.0.1:80")
		redis.Pause()
		Expect(fails(1, "drop", "shop", "--timeout", "200ms")).To(Equal(
			"switchboard routes drop: changing the table: Redis does not answer in time: it is unknown whether the table was changed\n" +
				where() + "Run the same again: what was done is not done twice.\n"))
		redis.Continue()
		Expect(says("drop", "shop")).To(HavePrefix("shop: "))
		Expect(says("list")).To(HaveSuffix("hosts: 0, backends: 0, serial: 2\n"))
	})

	It("says that nothing was changed if there is no Redis", func() {
		env = []string{"SWITCHBOARD_REDIS_URL=redis://" + spec.RefusedAddr()}
		Expect(fails(1, "drop", "shop")).To(And(
			HavePrefix("switchboard routes drop: changing the table: nothing listens at the address of Redis\n"), Not(ContainSubstring("unknown"))))
	})

	It("finds the table where a router's configuration has it", func() {
		do(redis, "CONFIG", "SET", "requirepass", "s3cret")
		config := func(lines string) string { return write("router.yaml", good+lines) }
		file := config(fmt.Sprintf("redis: {url: 'redis://%s', prefix: 'other:', password_file: %q}\n", redis.Addr(), write("password", "s3cret\n")))
		env = nil
		says("add", "shop", "10.0.0.1:80", "--config", file)
		Expect(says("show", "shop", "--redis", "redis://:s3cret@"+redis.Addr(), "--prefix", "other:")).To(HaveSuffix("serial: 1\n"))
		Expect(fails(1, "show", "shop", "--config", file, "--prefix", "switchboard:")).To(ContainSubstring("shop is not in the table"))
		Expect(fails(2, "list", "--config", config("redsi: {}\n"))).To(ContainSubstring(`unknown key "redsi": did you mean "redis"?`))
		Expect(fails(2, "list", "--config", config(""))).To(ContainSubstring("no Redis: name it with --redis URL"))
	})

	It("has another prefix if it is told", func() {
		says("add", "shop", "10.0.0.1:80", "--prefix", "other:")
		Expect(command(append(env, "SWITCHBOARD_REDIS_PREFIX=other:"), "routes", "show", "shop").code).To(Equal(0))
		Expect(fails(1, "show", "shop")).To(ContainSubstring("shop is not in the table"))
	})

	It("ends at once when it is interrupted", func() {
		// It listens, and never answers.
		silent, err := net.Listen("tcp", "127.0.0.1:0")
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(silent.Close)
		process := exec.Command(binary, "routes", "list", "--timeout", "1h", "--redis", "redis://"+silent.Addr().String())
		process.Env = environment()
		running := spec.StartProcess(process)
		conn, err := silent.Accept()
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(conn.Close)
		running.Signal(os.Interrupt)
		Expect(running.WaitExit(within)).To(Equal(1))
		Expect(running.Stderr).To(gbytes.Say("interrupted"))
	})

	DescribeTable("refuses a wrong command line",
		func(args []string, message string) {
			Expect(fails(2, args...)).To(ContainSubstring(message))
		},
		Entry("no host", []string{"add"}, "wanted: HOST ADDRESS"),
		Entry("one word too many", []string{"drop", "a", "b"}, `unexpected argument "b": wanted: HOST`),
		Entry("a name that is none", []string{"show", "a b"}, `"a b" is not a name`),
		Entry("an address that is a name", []string{"add", "shop", "localhost:80"}, "routers resolve no names that are in the table"),
		Entry("an address without a port", []string{"add", "shop", "10.0.0.1"}, "is not a numeric IP address and a port"),
		Entry("an address that may not be", []string{"add", "shop", "169.254.169.254:80"}, "it is a link-local address"),
		Entry("a key that is none", []string{"add", "shop", "10.0.0.1:80", "--name", "a#b"}, `"a#b" is not a key`),
		Entry("a weight that is none", []string{"add", "shop", "10.0.0.1:80", "--weight", "-1"}, "a weight is a number from 0 to 1000000, not -1"),
		Entry("a weight of nobody", []string{"weight", "shop"}, "wanted: HOST NAME=WEIGHT..."),
		Entry("a name without a weight", []string{"weight", "shop", "a"}, `"a" is not NAME=WEIGHT, as in shop-0=3`),
		Entry("two weights of one", []string{"weight", "shop", "a=1", "a=2"}, "a has two weights here"),
		Entry("nothing to set", []string{"set", "shop"}, "nothing to set: name at least one of --policy, --choose, --sticky-by, --hold"),
		Entry("a policy that is none", []string{"set", "shop", "--policy", "both"}, `--policy "both" is not one of active, balance`),
		Entry("a choice that is none", []string{"set", "shop", "--choose", "best"}, `--choose "best" is not one of random, least_sessions, sticky`),
		Entry("known by nothing", []string{"set", "shop", "--sticky-by", "moon"}, "--sticky-by: \"moon\" is not what a client is known by"),
		Entry("a hold before it began", []string{"set", "shop", "--hold=-1s"}, "--hold -1s is negative"),
		Entry("a pattern that is none", []string{"list", "--host", "["}, `--host "[" is not a pattern`),
		Entry("an output that there is not", []string{"list", "-o", "yaml"}, `--output "yaml" is not one of table, json`),
		Entry("no file", []string{"import"}, "wanted: one FILE, or - for the standard input"),
		Entry("no time", []string{"list", "--timeout", "0s"}, "--timeout 0s is no time to wait"),
		Entry("a Redis that is none", []string{"list", "--redis", "http://x"}, "http:// is no scheme of Redis"),
		Entry("a password file that is none", []string{"list", "--redis-password-file", "/nonexistent"}, "reading the password: open /nonexistent"),
		Entry("a command that is near another", []string{"lsit"}, `unknown command "lsit": did you mean list?`),
		Entry("an API that is none", []string{"accept", "--api", "ftp:s3cret"}, "the router's API is a URL such as http://127.0.0.1:9090"),
	)

	It("says that no Redis is named", func() {
		Expect(command(nil, "routes", "list")).To(Equal(outcome{code: 2, errs: "switchboard routes list: no Redis: name it with --redis URL or SWITCHBOARD_REDIS_URL, " +
			"as in redis://127.0.0.1:6379\nsee switchboard routes list --help\n"}))
	})

	It("teaches", func() {
		Expect(says()).To(Equal(says("--help")))
		for _, verb := range []string{"list", "show", "add", "remove", "weight", "set", "drop", "dump", "import", "accept"} {
			Expect(says("--help")).To(ContainSubstring("  " + verb + " "))
			Expect(says(verb, "--help")).To(MatchRegexp(`(?s)Examples:\n  switchboard routes ` + verb + ".*Flags:"))
		}
	})
})

var _ = Describe("switchboard routes accept", func() {
	BeforeEach(spec.CheckLeaks)

	// serve is a router's API that answers one way, and notes what it was asked.
	serve := func(status int, body string) (url string, asked *[]string) {
		asked = new([]string)
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			user, password, _ := r.BasicAuth()
			*asked = append(*asked, fmt.Sprint(r.Method, " ", r.URL.Path, " ", r.ContentLength, " ", user, ":", password))
			w.WriteHeader(status)
			fmt.Fprint(w, body)
		}))
		DeferCleanup(server.Close)
		return server.URL, asked
	}

	It("asks the router to take the table of Redis, and tells its state", func() {
		url, asked := serve(http.StatusOK, `{"serial":7,"hosts":3,"stale":false}`)
		Expect(command([]string{"SWITCHBOARD_API=" + url}, "routes", "accept")).To(
			Equal(outcome{out: "accepted: the router has the table of Redis; hosts: 3, serial: 7\n"}))
		Expect(*asked).To(Equal([]string{"POST /table/accept 0 :"}))
		Expect(command(nil, "routes", "accept", "--api", url+"/", "-o", "json").out).To(MatchJSON(`{"serial":7,"hosts":3,"stale":false}`))
	})

	It("ends the alarm of a router whose Redis was emptied", func() {
		spec.Need("redis-server", "redis-server")
		redis := startRedis(new(servers.Redis))
		env := []string{"SWITCHBOARD_REDIS_URL=redis://" + redis.Addr()}
		Expect(command(env, "routes", "add", "shop", "10.0.0.1:80").code).To(Equal(0))
		t := startTabled(redis, redis.Addr(), "")
		Eventually(func() any { return t.state()["serial"] }).WithTimeout(within).Should(Equal(1.0))
		Expect(command(nil, "routes", "accept", "--api", t.api).errs).To(ContainSubstring("there is nothing to accept"))
		do(redis, "FLUSHALL")
		Eventually(func() any { return t.state()["alarm"] }).WithTimeout(within).ShouldNot(BeEmpty())
		Expect(command(nil, "routes", "accept", "--api", t.api)).To(Equal(outcome{out: "accepted: the router has the table of Redis; hosts: 0, serial: 0\n"}))
		Expect(t.state()["alarm"]).To(BeEmpty())
	})

	It("logs in as it is told", func() {
		url, asked := serve(http.StatusOK, `{}`)
		file := write("password", "s3cret\n")
		command([]string{"SWITCHBOARD_API=" + url, "SWITCHBOARD_API_USERNAME=ann", "SWITCHBOARD_API_PASSWORD_FILE=" + file}, "routes", "accept")
		command(nil, "routes", "accept", "--api", strings.Replace(url, "//", "//bob:pw@", 1))
		Expect(*asked).To(Equal([]string{"POST /table/accept 0 ann:s3cret", "POST /table/accept 0 bob:pw"}))
	})

	DescribeTable("says why it has failed, and shows no password",
		func(status int, body, words string) {
			url, _ := serve(status, body)
			o := command(nil, "routes", "accept", "--api", strings.Replace(url, "//", "//bob:s3cret@", 1))
			Expect(o.code).To(Equal(1))
			Expect(o.errs).To(And(HavePrefix("switchboard routes accept: "+words+"\n(the router at http://bob:xxxxx@"), Not(ContainSubstring("s3cret"))))
			Expect(o.out).To(BeEmpty())
		},
		Entry("nothing to accept", 409, `{"detail":"there is nothing to accept: the table of Redis serves"}`, `there is nothing to accept: the table of Redis serves (409)`),
		Entry("no table", 404, "{}", `this router knows no such request: it is of another version (404)`),
		Entry("a wrong password", 401, "{}", "it wants a user name and a password: SWITCHBOARD_API_USERNAME and SWITCHBOARD_API_PASSWORD_FILE, or in the URL (401)"),
		Entry("something else", 500, "oops", "it answers 500 Internal Server Error"),
	)

	It("says that nobody listens", func() {
		Expect(command(nil, "routes", "accept", "--api", "http://"+spec.RefusedAddr()).errs).To(ContainSubstring("nothing listens there: is the router up?"))
	})

	It("says of an answer that does not come that nobody knows", func() {
		server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
		DeferCleanup(server.Close)
		o := command(nil, "routes", "accept", "--api", server.URL)
		Expect(o.code).To(Equal(1))
		Expect(o.errs).To(ContainSubstring("it is unknown whether the router has done it; its GET /cluster tells"))
	})
})
