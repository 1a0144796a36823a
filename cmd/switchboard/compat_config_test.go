package main_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/fixtures/spec"
)

// release is the first backend of compat.json.
const release = "mysql/0f3ba1a8-5b1f-4c0a-9d3e-0d7c2f5c1c11"

var _ = Describe("switchboard compat", func() {
	BeforeEach(spec.CheckLeaks)

	var (
		nodes  []*spec.Backend
		agents []*spec.Health
		with   func(...change) func(ports) string
		static string
	)
	BeforeEach(func() {
		p := startTwoNodes()
		nodes, agents, with, static = p.nodes, p.agents, p.with, p.static
	})

	Context("when it is configured", func() {
		// The ways to give a configuration.
		text := func(text string) *exec.Cmd { return compatCommand(nil, "-config="+text) }
		path := func(text string) *exec.Cmd {
			return compatCommand(nil, "--configPath="+write("proxy.yml", text), "--logLevel=info")
		}
		variable := func(text string) *exec.Cmd { return compatCommand([]string{"CONFIG=" + text}) }
		variablePath := func(text string) *exec.Cmd { return compatCommand([]string{"CONFIG_PATH=" + write("proxy.yml", text)}) }

		// compat.json has the shape of pxc-release's jobs/proxy/templates/proxy.yml.erb, and
		// "Logger" of what its own specs pass in -config; compat.yml that of the fork's
		// config/fixtures/validConfig.yml; compat-cf-mysql.yml that of cf-mysql-release's
		// jobs/proxy/templates/switchboard.yml.erb over the years.
		DescribeTable("starts with the original's examples",
			func(name, first string, give func(text string) *exec.Cmd) {
				text, err := os.ReadFile(filepath.Join("../../fixtures/examples", name))
				Expect(err).NotTo(HaveOccurred())
				port := func(addr string) string { _, p, _ := net.SplitHostPort(addr); return p }
				o := startGiven(give, func(p ports) string {
					// Only ports, the directory, and the pace.
					return strings.NewReplacer(
						"6033", port(nodes[0].Addr()), "6034", port(nodes[1].Addr()),
						"9201", strconv.Itoa(agents[0].Port()), "9202", strconv.Itoa(agents[1].Port()),
						"3306", strconv.Itoa(p.mysql), "3307", strconv.Itoa(p.inactive), "8080", strconv.Itoa(p.api), "8082", strconv.Itoa(p.aggregator),
						"1936", strconv.Itoa(p.health), "9999", strconv.Itoa(p.metrics), "5000", "500",
						"/var/vcap/packages/proxy/static", static, "/var/vcap/packages/switchboard/static", static,
					).Replace(string(text))
				})
				Eventually(func() string { return o.ask("GET", o.api, "/v0/cluster", operator, "X-Forwarded-Proto: https").body }).
					WithTimeout(within).Should(ContainSubstring(`"name":"` + first + `"}`))
				_, greeting := connect(local(o.mysql))
				Expect(greeting).To(Equal("mysql/0"))
				o.Signal(syscall.SIGTERM)
				Expect(o.WaitExit(within)).To(Equal(0))
			},
			Entry("JSON in -config", "compat.json", release, text),
			Entry("JSON in -configPath", "compat.json", release, path),
			Entry("JSON in CONFIG", "compat.json", release, variable),
			Entry("JSON in CONFIG_PATH", "compat.json", release, variablePath),
			Entry("YAML in -config", "compat.yml", "backend-0", text),
			Entry("YAML in -configPath", "compat.yml", "backend-0", path),
			Entry("YAML in CONFIG", "compat.yml", "backend-0", variable),
			Entry("YAML in CONFIG_PATH", "compat.yml", "backend-0", variablePath),
			Entry("cf-mysql-release's YAML in -configPath", "compat-cf-mysql.yml", "backend-0", path),
		)

		It("ignores keys that it does not know, misspelt ones too", func() {
			o := startOriginal(with(set(keys{"Enabled": true, "Port": 6060}, "Profiling"), set("/run/x.pid", "PidFile"), set(true, "API", "ForceHTTPS"),
				set(keys{"Enabled": true, "Port": "none"}, "metrics"), set([]string{"x"}, "Proxy", "BackendIPs"), set(nil, "Logger")))
			Expect(o.ask("GET", o.api, "/v0/cluster", operator).status).To(Equal(http.StatusOK))
		})

		It("needs none of the optional keys", func() {
			o := startOriginal(func(p ports) string {
				var t keys
				Expect(json.Unmarshal([]byte(with()(p)), &t)).To(Succeed())
				delete(t, "BindAddress")
				delete(t["API"].(keys), "ProxyURIs")
				text, err := json.Marshal(t)
				Expect(err).NotTo(HaveOccurred())
				return string(text)
			})
			o.awaitActive("mysql/0", 2)
			page := o.ask("GET", o.aggregator, "/", operator)
			Expect(page.status).To(Equal(http.StatusOK))
			Expect(page.body).NotTo(ContainSubstring("href"))
			// Neither the inactive port, metrics nor the status log.
			for _, port := range []int{o.inactive, o.metrics} {
				_, err := net.Dial("tcp", local(port))
				Expect(err).To(MatchError(syscall.ECONNREFUSED))
			}
			for _, line := range o.lines() {
				Expect(line["message"]).NotTo(ContainSubstring("status-logger"))
			}
		})

		It("prefers -config to -configPath to CONFIG to CONFIG_PATH", func() {
			// Each is wrong in another way.
			at := func(field string) string { return fmt.Sprintf(`{"Proxy": {%q: []}}`, field) }
			flag, path := "-config="+at("Port"), "-configPath="+write("flag.json", at("InactiveMysqlPort"))
			env := []string{"CONFIG=" + at("HealthcheckTimeoutMillis"), "CONFIG_PATH=" + write("env.json", at("ShutdownDelaySeconds"))}
			named := func(env []string, args ...string) string {
				o := command(env, append([]string{"compat"}, args...)...)
				Expect(o.code).To(Equal(2))
				for _, line := range strings.Split(o.errs, "\n") {
					if field, wrong := strings.CutSuffix(line, " : must be a whole number, 0 or more"); wrong {
						return field
					}
				}
				return o.errs
			}
			Expect(named(env, path, flag)).To(Equal("Proxy.Port"))
			Expect(named(env, path)).To(Equal("Proxy.InactiveMysqlPort"))
			Expect(named(env)).To(Equal("Proxy.HealthcheckTimeoutMillis"))
			Expect(named(env[1:])).To(Equal("Proxy.ShutdownDelaySeconds"))
			Expect(named(env, "-config", "")).To(Equal("Proxy.HealthcheckTimeoutMillis"))
			Expect(named(env, "--config", at("Port"))).To(Equal("Proxy.Port"))
		})

		It("binds all addresses unless it is told one, and metrics on localhost", func() {
			metrics := func(p ports, t keys) { t["Metrics"] = keys{"Enabled": true, "Port": p.metrics} }
			elsewhere := func(port int) string { return net.JoinHostPort("127.0.0.2", strconv.Itoa(port)) }
			o := startOriginal(with(set("", "BindAddress"), inactivePort, metrics))
			for _, port := range []int{o.mysql, o.inactive, o.api, o.aggregator, o.health} {
				spec.DialFront(elsewhere(port))
			}
			spec.DialFront(local(o.metrics))
			_, err := net.Dial("tcp", elsewhere(o.metrics))
			Expect(err).To(MatchError(syscall.ECONNREFUSED))
			o.Signal(syscall.SIGTERM)
			Expect(o.WaitExit(within)).To(Equal(0))

			o = startOriginal(with(inactivePort, set("127.0.0.2", "BindAddress"), metrics), "-logLevel=info")
			for _, port := range []int{o.mysql, o.inactive, o.api, o.aggregator, o.health} {
				spec.DialFront(elsewhere(port))
				_, err := net.Dial("tcp", local(port))
				Expect(err).To(MatchError(syscall.ECONNREFUSED))
			}
			spec.DialFront(local(o.metrics))
		})
	})

	Context("when it cannot run", func() {
		It("exits 1 without a configuration", func() {
			p := spec.StartProcess(compatCommand(nil))
			Expect(p.WaitExit(within)).To(Equal(1))
			Expect(string(p.Stderr.Contents())).To(Equal("no configuration: set -config, -configPath, CONFIG or CONFIG_PATH\n"))
			Expect(string(p.Stdout.Contents())).To(ContainSubstring(`"log_level":3`))
		})

		DescribeTable("exits 2 for a wrong configuration, and names the fields",
			func(wrong change, fields ...string) {
				p := spec.StartProcess(compatCommand(nil, "-config="+with(wrong)(freePorts())))
				Expect(p.WaitExit(within)).To(Equal(2))
				Expect(string(p.Stderr.Contents())).To(HavePrefix("Validation errors:\n"))
				var line keys
				Expect(json.Unmarshal(p.Stdout.Contents(), &line)).To(Succeed())
				Expect(line).To(And(HaveKeyWithValue("message", "switchboard.Error validating config:"), HaveKeyWithValue("log_level", 3.0)))
				Expect(string(p.Stdout.Contents())).NotTo(ContainSubstring("a-password"))
				for _, field := range fields {
					Expect(string(p.Stderr.Contents())).To(ContainSubstring("\n" + field + " : "))
					Expect(string(p.Stdout.Contents())).To(ContainSubstring(field + " : "))
				}
			},
			Entry(nil, set(0, "Proxy", "Port"), "Proxy.Port"),
			Entry(nil, set(nil, "Proxy", "HealthcheckTimeoutMillis"), "Proxy.HealthcheckTimeoutMillis"),
			Entry(nil, set([]keys{}, "Proxy", "Backends"), "Proxy.Backends"),
			Entry(nil, set([]keys{{"Name": "a"}}, "Proxy", "Backends"),
				"Proxy.Backends[0].Host", "Proxy.Backends[0].Port", "Proxy.Backends[0].StatusPort", "Proxy.Backends[0].StatusEndpoint"),
			Entry(nil, set([]keys{{"Host": "10.0.0.1", "Port": 3306, "StatusPort": 9200, "StatusEndpoint": "x"}}, "Proxy", "Backends"), "Proxy.Backends[0].Name"),
			Entry(nil, set(keys{}, "API"), "API.Port", "API.AggregatorPort", "API.Username", "API.Password"),
			Entry(nil, set(nil, "HealthPort"), "HealthPort"),
			Entry(nil, set("", "StaticDir"), "StaticDir"),
			Entry(nil, set(keys{"Enabled": true}, "API", "TLS"), "API.TLS"),
			Entry(nil, set(keys{"Enabled": true, "CA": "none"}, "GaleraAgentTLS"), "GaleraAgentTLS.CA"),
			Entry(nil, set(keys{"Enabled": true, "Port": 0}, "Metrics"), "Metrics.Port"),
			// What the original finds out later, or never.
			Entry(nil, change(func(p ports, t keys) { t["HealthPort"] = p.aggregator }), "HealthPort"),
			Entry(nil, change(func(_ ports, t keys) {
				for _, b := range t["Proxy"].(keys)["Backends"].([]keys) {
					b["Name"] = "same"
				}
			}), "Proxy.Backends[1].Name"),
			Entry(nil, set(70000, "Proxy", "Port"), "Proxy.Port"),
			Entry(nil, set("a b", "BindAddress"), "BindAddress"),
		)

		It("exits 2 without its StaticDir", func() {
			p := spec.StartProcess(compatCommand(nil, "-config="+with(set("/no/such/dir", "StaticDir"))(freePorts())))
			Expect(p.WaitExit(within)).To(Equal(2))
			Expect(string(p.Stdout.Contents())).To(ContainSubstring(`"message":"switchboard.staticDir: /no/such/dir does not exist","log_level":3`))
		})

		DescribeTable("exits 2 when a port is in use",
			func(key ...string) {
				taken := spec.StartBackend(spec.Echo)
				_, port, _ := net.SplitHostPort(taken.Addr())
				p := spec.StartProcess(compatCommand(nil, "-config="+with(inactivePort, set(true, "Metrics", "Enabled"), set(freePorts().metrics, "Metrics", "Port"), set(port, key...))(freePorts())))
				Expect(p.WaitExit(within)).To(Equal(2))
				Expect(string(p.Stdout.Contents())).To(And(ContainSubstring("switchboard.Switchboard exited unexpectedly"), ContainSubstring(port+": address already in use")))
				Expect(string(p.Stdout.Contents())).NotTo(ContainSubstring("Proxy started"))
			},
			Entry(nil, "Proxy", "Port"), Entry(nil, "Proxy", "InactiveMysqlPort"), Entry(nil, "API", "Port"),
			Entry(nil, "API", "AggregatorPort"), Entry(nil, "HealthPort"), Entry(nil, "Metrics", "Port"),
		)

		DescribeTable("exits 2 for a wrong command line",
			func(says string, args ...string) {
				Expect(command(nil, append([]string{"compat"}, args...)...)).To(Equal(outcome{code: 2, errs: "switchboard compat: " + says + "\nsee switchboard compat -help\n"}))
			},
			Entry(nil, "flag provided but not defined: -cofnig", "-cofnig=x"),
			Entry(nil, "unknown log level: warn", "-logLevel=warn"),
			Entry(nil, `invalid value "ms" for flag -timeFormat: use unix-epoch or rfc3339`, "-timeFormat=ms"),
			Entry(nil, "invalid value \"(\" for flag -redactPatterns: error parsing regexp: missing closing ): `(`", "-redactPatterns=("),
			Entry(nil, `unexpected argument "proxy.yml"`, "proxy.yml"),
		)

		It("has metrics on port 9999 unless they are told one", func() {
			// If somebody else has it, that will do.
			if taken, err := net.Listen("tcp", "localhost:9999"); err == nil {
				DeferCleanup(taken.Close)
			}
			p := spec.StartProcess(compatCommand(nil, "-config="+with(set(true, "Metrics", "Enabled"))(freePorts())))
			Expect(p.WaitExit(within)).To(Equal(2))
			Expect(string(p.Stdout.Contents())).To(ContainSubstring(":9999: address already in use"))
		})

		It("exits 2 when the file cannot be read, and 0 for help", func() {
			missing := command(nil, "compat", "-configPath=/no/such/file")
			Expect(missing.code).To(Equal(2))
			Expect(missing.errs).To(Equal("reading the configuration: open /no/such/file: no such file or directory\n"))
			help := command(nil, "compat", "-help")
			Expect(help.code).To(Equal(0))
			Expect(help.out).To(And(ContainSubstring("-configPath file"), ContainSubstring("-redactPatterns regexp"), ContainSubstring("CONFIG_PATH")))
			Expect(command(nil, "help", "compat")).To(Equal(help))
		})
	})
})
