package main_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/fixtures/spec"
	"switchboard/monitor/check"
	"switchboard/monitor/check/redis"
	"switchboard/runner/config"
)

const (
	oneListener = "listeners: [{name: l, bind: '127.0.0.1:3306', host: db}]\n"
	oneHost     = "hosts: [{name: db, backends: [{name: a, address: '10.0.0.1:3306'}]}]\n"
	good        = oneListener + oneHost
)

var _ = Describe("switchboard", func() {
	BeforeEach(spec.CheckLeaks)

	It("teaches when it is called alone", func() {
		alone := command(nil)
		Expect(alone.code).To(Equal(0))
		Expect(alone.errs).To(BeEmpty())
		Expect(alone.out).To(And(ContainSubstring("switchboard dev "), ContainSubstring("completion"), ContainSubstring("Exit codes:")))
		Expect(alone.out).NotTo(ContainSubstring("demo-backend"))
		Expect(command(nil, "--help")).To(Equal(alone))
	})

	DescribeTable("refuses a wrong command line",
		func(args string, message string) {
			Expect(command(nil, strings.Fields(args)...)).To(Equal(outcome{code: 2, errs: message}))
		},
		Entry("a command that is near another", "rooter",
			"switchboard: unknown command \"rooter\" for \"switchboard\"\n\nDid you mean this?\n\trouter\n\troutes\nsee switchboard --help\n"),
		Entry("a command that is near none", "xyzzy",
			"switchboard: unknown command \"xyzzy\" for \"switchboard\"\nsee switchboard --help\n"),
		Entry("a flag that is near another", "router --cofnig x.yaml",
			"switchboard router: unknown flag: --cofnig: did you mean --config?\nsee switchboard router --help\n"),
		Entry("a flag that is near none", "router --xyzzy",
			"switchboard router: unknown flag: --xyzzy\nsee switchboard router --help\n"),
		Entry("a short flag", "router -x",
			"switchboard router: unknown shorthand flag: 'x' in -x\nsee switchboard router --help\n"),
		Entry("a missing file name", "router --config",
			"switchboard router: flag needs an argument: --config\nsee switchboard router --help\n"),
		Entry("a file without its flag", "router router.yaml",
			"switchboard router: unexpected argument \"router.yaml\"; name the configuration with --config FILE\nsee switchboard router --help\n"),
		Entry("no configuration at all", "router --check",
			"no configuration: name a file with --config FILE or SWITCHBOARD_CONFIG, or set the keys in the environment (see switchboard help keys)\n"),
		Entry("an output that there is not", "version -o yaml",
			"switchboard version: --output \"yaml\" is not one of text, json\nsee switchboard version --help\n"),
		Entry("a port that there is not", "dev --port 70000",
			"switchboard dev: 70000 is not a port: choose one from 1 to 65535, or 0 for any free one\nsee switchboard dev --help\n"),
	)

	It("says its version", func() {
		Expect(command(nil, "version").out).To(MatchRegexp(`^switchboard \S+ .*` + runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH + "\n$"))
		asJSON := command(nil, "version", "-o", "json")
		Expect(asJSON.code).To(Equal(0))
		var info map[string]any
		Expect(json.Unmarshal([]byte(asJSON.out), &info)).To(Succeed())
		Expect(info).To(And(HaveKeyWithValue("go", runtime.Version()), HaveKeyWithValue("os", runtime.GOOS), HaveKey("revision"), HaveKey("modified")))
		Expect(command(nil, "--version").out).To(Equal(command(nil, "version").out))
	})

	It("has a flag for every key that may have one, and names every key", func() {
		help, keys := command(nil, "router", "--help").out, command(nil, "help", "keys").out
		for _, key := range config.Keys() {
			if key.Flag != "" {
				Expect(help).To(ContainSubstring("--" + key.Flag + " "))
			}
			Expect(keys).To(And(ContainSubstring("  "+key.Path+" ("), ContainSubstring(key.Env+"\n"), ContainSubstring(key.Doc)))
		}
		Expect(help).NotTo(ContainSubstring("--api-password "))
	})

	It("completes commands and the values of flags", func() {
		Expect(command(nil, "completion", "bash").out).To(ContainSubstring("bash completion"))
		Expect(command(nil, "__complete", "router", "--log-level", "").out).To(HavePrefix("debug\ninfo\nwarn\nerror\n"))
	})
})

var _ = Describe("switchboard router --check", func() {
	BeforeEach(spec.CheckLeaks)

	// check checks a configuration that stands in router.yaml.
	check := func(text string, env []string, args ...string) outcome {
		GinkgoHelper()
		path := write("router.yaml", text)
		result := command(env, append([]string{"router", "--check", "--config", path}, args...)...)
		result.errs = strings.ReplaceAll(result.errs, path, "router.yaml")
		return result
	}

	It("accepts a good configuration and opens nothing", func() {
		dir := GinkgoT().TempDir()
		text := good + "state: " + dir + "/state\nlog: {access: " + dir + "/access}\n"
		Expect(check(text, nil)).To(Equal(outcome{out: "the configuration is good: listeners: 1, hosts: 1\n"}))
		Expect(os.ReadDir(dir)).To(BeEmpty())
	})

	It("prints warnings", func() {
		text := oneListener + "hosts: [{name: db, backends: [{name: a, address: '10.0.0.1:1'}]}, {name: db2, backends: [{name: a, address: '10.0.0.1:1'}]}]\n"
		Expect(check(text, nil)).To(Equal(outcome{
			out:  "the configuration is good: listeners: 1, hosts: 2\n",
			errs: "warning: router.yaml:2:67: hosts[1]: no listener names this host, so no client can reach it\n",
		}))
	})

	DescribeTable("refuses a wrong configuration with all that is wrong",
		func(text string, messages ...string) {
			Expect(check(text, nil)).To(Equal(outcome{code: 2, errs: strings.Join(messages, "\n") + "\n"}))
		},
		Entry("an unknown key", good+"listeneers: []\n",
			`router.yaml:3:1: listeneers: unknown key "listeneers": did you mean "listeners"?`),
		Entry("a table that is nowhere", good+"redis: {url: x}\n",
			`router.yaml:3:14: redis.url: a URL of Redis begins with redis://, rediss://, unix://, redis-sentinel:// or redis-cluster://`),
		Entry("a wrong type", good+"shutdown: {drain: [1s]}\n",
			"router.yaml:3:19: shutdown.drain: a list is not allowed here: write a duration such as 500ms, 10s or 2m"),
		Entry("a duplicate name", "listeners: [{name: l, bind: '127.0.0.1:1', host: db}, {name: l, bind: '127.0.0.1:2', host: db}]\n"+oneHost,
			`router.yaml:1:62: listeners[1].name: "l" is already the name of listeners[0]`),
		Entry("impossible durations", good+"shutdown: {drain: -1s, delay: 10}\n",
			`router.yaml:3:19: shutdown.drain: "-1s" is negative: a duration is 0s or more`,
			`router.yaml:3:31: shutdown.delay: "10" has no unit: write a duration such as 500ms, 10s or 2m`),
		Entry("no backends", oneListener+"hosts: [{name: db, backends: []}]\n",
			"router.yaml:2:30: hosts[0].backends: no backends: at least one is needed"),
		Entry("a check type of nobody's", oneListener+"hosts: [{name: db, check: {type: mongo}, backends: [{name: a, address: '10.0.0.1:3306'}]}]\n",
			`router.yaml:2:34: hosts[0].check.type: "mongo" is not a check of this program, which has exec, galera, http, mysql, postgres, redis, tcp`),
		Entry("a misspelt check type", oneListener+"hosts: [{name: db, check: {type: redsi}, backends: [{name: a, address: '10.0.0.1:3306'}]}]\n",
			`router.yaml:2:34: hosts[0].check.type: "redsi" is not a check of this program, which has exec, galera, http, mysql, postgres, redis, tcp`),
		Entry("a backend that is ourselves", oneListener+"hosts: [{name: db, backends: [{name: a, address: 'localhost:3306'}]}]\n",
			`router.yaml:2:50: hosts[0].backends[0].address: "localhost:3306" is our own listeners[0].bind: sessions would run in a circle`),
		Entry("several mistakes", good+"nmae: x\nhealth: {bind: 99}\n",
			`router.yaml:3:1: nmae: unknown key "nmae": did you mean "name"?`,
			`router.yaml:4:16: health.bind: "99" has no port: write host:port`),
	)

	It("refuses files that cannot be read", func() {
		dir := GinkgoT().TempDir()
		Expect(command(nil, "router", "--check", "--config", dir)).To(Equal(outcome{code: 2, errs: dir + ": cannot be read: it is a directory; name a file in it\n"}))
		missing := filepath.Join(dir, "router.yaml")
		Expect(command(nil, "router", "--check", "--config", missing)).To(Equal(outcome{code: 2, errs: missing + ": cannot be read: no such file or directory\n"}))
	})

	It("takes flags before the environment before the file", func() {
		text := good + "shutdown: {drain: file}\nlog: {level: file, format: file}\n"
		env := []string{"SWITCHBOARD_SHUTDOWN_DRAIN=env", "SWITCHBOARD_LOG_LEVEL=env"}
		Expect(check(text, env, "--shutdown-drain", "flag")).To(Equal(outcome{code: 2, errs: `router.yaml:4:28: log.format: "file" is not a value of this key: use json, text
SWITCHBOARD_LOG_LEVEL: log.level: "env" is not a value of this key: use debug, info, warn, error
--shutdown-drain: shutdown.drain: "flag" is not a duration: write one such as 500ms, 10s or 2m
`}))
	})

	It("finds the file through the environment, or does without one", func() {
		path := write("router.yaml", good)
		Expect(command([]string{"SWITCHBOARD_CONFIG=" + path}, "router", "--check").code).To(Equal(0))
		Expect(command([]string{
			"SWITCHBOARD_LISTENERS_0_NAME=l", "SWITCHBOARD_LISTENERS_0_BIND=127.0.0.1:3306", "SWITCHBOARD_LISTENERS_0_HOST=db",
			"SWITCHBOARD_HOSTS_0_NAME=db", "SWITCHBOARD_HOSTS_0_BACKENDS_0_NAME=a", "SWITCHBOARD_HOSTS_0_BACKENDS_0_ADDRESS=10.0.0.1:3306",
		}, "router", "--check").code).To(Equal(0))
	})

	It("knows which variables are no keys", func() {
		kubernetes := []string{"SWITCHBOARD_PORT=tcp://10.0.0.1:3306", "SWITCHBOARD_PORT_3306_TCP=tcp://10.0.0.1:3306", "SWITCHBOARD_SERVICE_HOST=10.0.0.1"}
		Expect(check(good, kubernetes).code).To(Equal(0))
		Expect(check(good, []string{"SWITCHBOARD_LOG_LEVLE=x"})).To(Equal(outcome{
			code: 2, errs: "SWITCHBOARD_LOG_LEVLE: unknown variable: did you mean SWITCHBOARD_LOG_LEVEL?\n",
		}))
	})

	It("accepts every example", func() {
		examples, err := filepath.Glob("../../fixtures/examples/*.yaml")
		Expect(err).NotTo(HaveOccurred())
		Expect(examples).To(HaveLen(4))
		for _, example := range examples {
			result := command(nil, "router", "--check", "--config", example)
			Expect(result.errs).To(BeEmpty())
			Expect(result.code).To(Equal(0))
		}
	})
})

var _ = Describe("The examples", func() {
	load := func(name string) *config.File {
		GinkgoHelper()
		file, err := config.Load(config.Source{Path: "../../fixtures/examples/" + name, Checks: map[string]check.Builder{"redis": redis.New}})
		Expect(err).NotTo(HaveOccurred())
		return file
	}

	It("say what they are for", func() {
		single := load("single.yaml")
		Expect(single.Hosts).To(HaveLen(1))
		Expect(single.Hosts[0].Check.Type).To(Equal("http"))

		redis := load("redis.yaml")
		Expect(redis.Hosts[0].Check.Type).To(Equal("redis"))
		Expect(redis.State).NotTo(BeEmpty())

		web := load("http.yaml")
		Expect(web.Listeners[0].Protocol).To(Equal("http"))
		Expect([]string{web.Hosts[0].Policy, web.Hosts[1].StickyBy, web.Hosts[2].Name}).To(Equal([]string{"balance", "cookie:session", "*"}))

		pair := load("pair.yaml")
		Expect(pair.Hosts).To(HaveLen(2))
		Expect(pair.Hosts[0].Backends).To(Equal(pair.Hosts[1].Backends))
		Expect([]string{pair.Hosts[0].Elect, pair.Hosts[1].Elect}).To(Equal([]string{"lowest", "highest"}))
		for i := range pair.Hosts {
			Expect(pair.Listeners[i].ProxyProtocol).To(Equal("v2"))
			Expect(pair.Hosts[i].SendProxy).To(Equal("v2"))
		}
	})
})
