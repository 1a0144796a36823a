package main_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/alicebob/miniredis/v2"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/fixtures/spec"
)

var _ = Describe("switchboard stats", func() {
	BeforeEach(spec.CheckLeaks)

	// start runs a Redis, and returns it with the environment that names it.
	start := func() (*miniredis.Miniredis, []string) {
		GinkgoHelper()
		mini := miniredis.NewMiniRedis()
		Expect(mini.Start()).To(Succeed())
		DeferCleanup(mini.Close)
		return mini, []string{"SWITCHBOARD_STATS_REDIS_URL=redis://" + mini.Addr()}
	}
	line := func(host string, code int) string {
		return fmt.Sprintf(`{"timemsec":%d.5,"version_type_key":"12","node_key":"3","host":%q,"bytes":100,"code":%d,"upstream_response_time":"0.004","nginx_response_time":0.006}`+"\n",
			time.Now().Unix(), host, code)
	}

	It("counts a log as a daemon, and tells what was counted", func() {
		mini, env := start()
		log := filepath.Join(GinkgoT().TempDir(), "access.log")
		follow := exec.Command(binary, "stats", "follow", "--log", log, "--node", "nginx-1", "--interval", "5ms")
		follow.Env = append(environment(), env...)
		daemon := spec.StartProcess(follow)
		Expect(os.WriteFile(log, []byte(line("shop", 200)+line("shop", 200)+line("shop", 503)+line("", 404)), 0o600)).To(Succeed())
		Eventually(func() bool { return mini.Exists("switchboard:position:nginx-1") }).WithTimeout(within).Should(BeTrue())

		totals := command(env, "stats", "totals", "host", "shop")
		Expect(totals.code).To(BeZero(), totals.errs)
		Expect(totals.out).To(And(MatchRegexp(`requests +3\n`), MatchRegexp(`2xx +2 \(66.67 %\)`), MatchRegexp(`status 503 +1\n`), MatchRegexp(`time in all +6.0 ms`)))
		var all struct {
			Requests int
			Percent  float64 `json:"5xx_percentage"`
		}
		Expect(json.Unmarshal([]byte(command(env, "stats", "totals", "version_type", "12", "-o", "json").out), &all)).To(Succeed())
		Expect(all.Requests).To(Equal(4))
		Expect(all.Percent).To(Equal(25.0))

		history := command(env, "stats", "history", "node", "3", "--metrics", "requests,4xx", "--step", "1h")
		Expect(history.out).To(MatchRegexp(`^time +requests +4xx\n\S+ +[1-4] `))
		asJSON := command(env, "stats", "history", "uncaught", "-o", "json")
		Expect(asJSON.code).To(Equal(0), asJSON.errs)
		Expect(asJSON.out).To(ContainSubstring(`"metrics":{`))

		daemon.Signal(syscall.SIGTERM)
		Expect(daemon.WaitExit(within)).To(BeZero())
		Expect(daemon.Stderr.Contents()).To(ContainSubstring(`"msg":"stopped"`))
	})

	It("counts the log of a router, whose API tells", func() {
		mini, _ := start()
		dir := GinkgoT().TempDir()
		config := filepath.Join(dir, "router.yaml")
		log := filepath.Join(dir, "counted.log")
		text := strings.ReplaceAll(good, "127.0.0.1:3306", "127.0.0.1:0") + "name: r1\napi: {bind: '127.0.0.1:0'}\n" +
			"stats: {redis: {url: 'redis://" + mini.Addr() + "', prefix: 's:'}, log: " + log + ", interval: 5ms}\n"
		Expect(os.WriteFile(config, []byte(text), 0o600)).To(Succeed())
		Expect(os.WriteFile(log, []byte(line("shop", 200)), 0o600)).To(Succeed())
		r := &router{Process: spec.StartProcess(routerCommand(config))}
		Eventually(r.entry).WithArguments("started").WithTimeout(within).ShouldNot(BeNil(), "the router does not start")
		api := "http://" + r.entry("started")["api"].(string)
		Eventually(func() any { return get(api + "/stats/host/shop")["requests"] }).WithTimeout(within).Should(BeEquivalentTo(1))
		Expect(mini.Exists("s:position:r1")).To(BeTrue())
		history := get(api + "/stats/host/shop/history?metrics=requests&step=1h")
		Expect(history["metrics"].(map[string]any)["requests"]).To(HaveLen(1))
		code, answer, err := request(http.MethodGet, api+"/stats/job/1", "")
		Expect(err).NotTo(HaveOccurred())
		Expect(code).To(Equal(http.StatusBadRequest))
		Expect(answer["detail"]).To(ContainSubstring("there is no kind"))
		mini.Close()
		Eventually(status).WithArguments(api + "/stats/host/shop").WithTimeout(within).Should(Equal(http.StatusServiceUnavailable))
		Expect(status(api + "/readyz")).To(Equal(http.StatusOK))
		r.Signal(syscall.SIGTERM)
		Expect(r.WaitExit(within)).To(BeZero())
	})

	DescribeTable("refuses a wrong command line",
		func(args, message string) {
			answer := command([]string{"SWITCHBOARD_STATS_REDIS_URL=redis://127.0.0.1:1"}, append([]string{"stats"}, strings.Fields(args)...)...)
			Expect(answer.code).To(Equal(2))
			Expect(answer.errs).To(ContainSubstring(message))
		},
		Entry("a verb", "total host a", `unknown command "total"`),
		Entry("no kind", "totals", "wanted: KIND [ID]"),
		Entry("a kind", "totals job 1", `"job" is not one of host, version_type`),
		Entry("no ID", "history host", "wanted: host ID"),
		Entry("too much", "totals host a b", `unexpected argument "b"`),
		Entry("an output", "totals host a -o yaml", `--output "yaml" is not one of table, json`),
		Entry("a metric", "history host a --metrics 404", `there is no metric "404"`),
		Entry("a step", "history host a --step 1ms", "a step is whole seconds"),
		Entry("no time", "history host a --last 0s", "--last 0s is no time"),
		Entry("no Redis", "totals host a --redis cache:6379", "begins with redis://"),
		Entry("a prefix", "totals host a --redis redis-cluster://a --prefix x", "hash tag"),
		Entry("no log", "follow --node n", "name it with --log"),
		Entry("no node", "follow --log x", "name it with --node"),
	)

	It("says why there is no answer, without a password", func() {
		answer := command(nil, "stats", "totals", "host", "a", "--redis", "redis://:s3cret@127.0.0.1:1")
		Expect(answer.code).To(Equal(1))
		Expect(answer.errs).To(And(ContainSubstring("refused"), ContainSubstring("(the statistics at redis://127.0.0.1:1, prefix \"switchboard:\")"), Not(ContainSubstring("s3cret"))))
		Expect(command(nil, "stats", "totals", "host", "a").errs).To(ContainSubstring("SWITCHBOARD_STATS_REDIS_URL"))
	})
})
