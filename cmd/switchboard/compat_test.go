package main_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/fixtures/spec"
)

// ports are those of one original.
type ports struct{ mysql, inactive, api, aggregator, health, metrics int }

// freePorts takes free ports and lets go of them: the original cannot choose its
// own. Who loses one of them to another process tries again.
func freePorts() ports {
	GinkgoHelper()
	var taken []int
	for range 6 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		Expect(err).NotTo(HaveOccurred())
		defer l.Close()
		taken = append(taken, l.Addr().(*net.TCPAddr).Port)
	}
	return ports{taken[0], taken[1], taken[2], taken[3], taken[4], taken[5]}
}

func local(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// keys is a part of a configuration.
type keys = map[string]any

// original is a switchboard compat that runs as a process.
type original struct {
	*spec.Process
	ports
	scheme string
	client *http.Client
}

// compatCommand is a command line with variables of its own.
func compatCommand(env []string, args ...string) *exec.Cmd {
	command := exec.Command(binary, append([]string{"compat"}, args...)...)
	command.Env = append(environment(), env...)
	return command
}

// startOriginal starts one with free ports, and waits until it has started.
func startOriginal(configure func(p ports) string, args ...string) *original {
	GinkgoHelper()
	for try := 0; ; try++ {
		p := freePorts()
		o := &original{
			Process: spec.StartProcess(compatCommand(nil, append([]string{"-config=" + configure(p)}, args...)...)),
			ports:   p, scheme: "http",
			client: &http.Client{
				Timeout:       within,
				Transport:     &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}},
				CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			},
		}
		Eventually(func() bool {
			select {
			case <-o.Exited():
				return true
			default:
				return o.said("switchboard.Proxy started") || slices.Contains(args, "-logLevel=error") && status("http://"+local(p.health)) == http.StatusOK
			}
		}).WithTimeout(within).Should(BeTrue(), "it does not start")
		select {
		case <-o.Exited():
			Expect(string(o.Stderr.Contents())).To(ContainSubstring("address already in use"))
			Expect(try).To(BeNumerically("<", 3))
		default:
			return o
		}
	}
}

// lines are the lines of the log.
func (o *original) lines() []keys {
	GinkgoHelper()
	var lines []keys
	for text := range strings.Lines(string(o.Stdout.Contents())) {
		if !strings.HasSuffix(text, "\n") {
			break
		}
		var line keys
		Expect(json.Unmarshal([]byte(text), &line)).To(Succeed(), text)
		lines = append(lines, line)
	}
	return lines
}

// find is the last line with that message, nil if there is none.
func (o *original) find(message string) keys {
	GinkgoHelper()
	for _, line := range slices.Backward(o.lines()) {
		if line["message"] == message {
			return line
		}
	}
	return nil
}

func (o *original) said(message string) bool {
	GinkgoHelper()
	return o.find(message) != nil
}

// awaitLine waits for a line and returns its data.
func (o *original) awaitLine(message string) keys {
	GinkgoHelper()
	Eventually(o.find).WithArguments(message).WithTimeout(within).ShouldNot(BeNil(), message)
	return o.find(message)["data"].(keys)
}

// reply is an HTTP answer.
type reply struct {
	status int
	header http.Header
	body   string
}

// ask makes a request; user is "name:password", "" for none.
func (o *original) ask(method string, port int, path, user string, header ...string) reply {
	GinkgoHelper()
	answer, err := o.try(method, port, path, user, header...)
	Expect(err).NotTo(HaveOccurred())
	return answer
}

func (o *original) try(method string, port int, path, user string, header ...string) (reply, error) {
	request, err := http.NewRequest(method, o.scheme+"://"+local(port)+path, nil)
	if err != nil {
		return reply{}, err
	}
	if name, password, given := strings.Cut(user, ":"); given {
		request.SetBasicAuth(name, password)
	}
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		request.Header.Add(name, value)
		if name == "Host" {
			request.Host = value
		}
	}
	response, err := o.client.Do(request)
	if err != nil {
		return reply{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return reply{response.StatusCode, response.Header, string(body)}, err
}

const operator = "proxy:a-password"

// cluster and backends are what /v0 says.
func (o *original) cluster() string {
	GinkgoHelper()
	return o.ask("GET", o.api, "/v0/cluster", operator).body
}

func (o *original) backends() string {
	GinkgoHelper()
	return o.ask("GET", o.api, "/v0/backends", operator).body
}

// awaitActive waits until a backend is active and all the others are as healthy as
// said.
func (o *original) awaitActive(name string, healthy int) {
	GinkgoHelper()
	Eventually(o.cluster).WithTimeout(within).Should(ContainSubstring(`"name":"` + name + `"}`))
	Eventually(func() int { return strings.Count(o.backends(), `"healthy":true`) }).WithTimeout(within).Should(Equal(healthy))
}

var _ = Describe("switchboard compat", func() {
	BeforeEach(spec.CheckLeaks)

	var (
		nodes  []*spec.Backend
		agents []*spec.Health
		static string
	)
	BeforeEach(func() {
		nodes, agents = nil, nil
		for i := range 2 {
			nodes = append(nodes, spec.StartBackend(spec.Named(fmt.Sprintf("mysql/%d", i))))
			agents = append(agents, spec.StartHealth())
			agents[i].Healthy(i)
		}
		static = GinkgoT().TempDir()
		Expect(os.WriteFile(filepath.Join(static, "index.html"), []byte("<h1>dashboard</h1>"), 0o600)).To(Succeed())
	})

	// tree is a configuration with both nodes.
	tree := func(p ports) keys {
		var backends []keys
		for i := range nodes {
			_, port, _ := net.SplitHostPort(nodes[i].Addr())
			backends = append(backends, keys{
				"Host": "127.0.0.1", "Port": port, "StatusPort": agents[i].Port(), "StatusEndpoint": "api/v1/status", "Name": fmt.Sprintf("mysql/%d", i),
			})
		}
		return keys{
			"BindAddress": "127.0.0.1",
			"Proxy":       keys{"Port": p.mysql, "HealthcheckTimeoutMillis": 1000, "Backends": backends},
			"API": keys{
				"Port": p.api, "AggregatorPort": p.aggregator, "Username": "proxy", "Password": "a-password",
				"ProxyURIs": []string{"0-proxy.example.com", "1-proxy.example.com"},
			},
			"HealthPort": p.health,
			"StaticDir":  static,
		}
	}
	// with is that configuration with changes.
	with := func(changes ...func(p ports, tree keys)) func(ports) string {
		return func(p ports) string {
			t := tree(p)
			for _, change := range changes {
				change(p, t)
			}
			text, _ := json.Marshal(t)
			return string(text)
		}
	}
	// set changes the value at a path of keys.
	set := func(value any, path ...string) func(ports, keys) {
		return func(_ ports, t keys) {
			for _, key := range path[:len(path)-1] {
				if t[key] == nil {
					t[key] = keys{}
				}
				t = t[key].(keys)
			}
			t[path[len(path)-1]] = value
		}
	}
	inactivePort := func(p ports, t keys) { t["Proxy"].(keys)["InactiveMysqlPort"] = p.inactive }

	Context("when it is configured", func() {
		DescribeTable("starts with the original's examples",
			func(name, first string) {
				text, err := os.ReadFile(filepath.Join("../../fixtures/examples", name))
				Expect(err).NotTo(HaveOccurred())
				port := func(addr string) string { _, p, _ := net.SplitHostPort(addr); return p }
				o := startOriginal(func(p ports) string {
					// Only ports, the directory, and the pace.
					return strings.NewReplacer(
						"6033", port(nodes[0].Addr()), "6034", port(nodes[1].Addr()),
						"9201", strconv.Itoa(agents[0].Port()), "9202", strconv.Itoa(agents[1].Port()),
						"3306", strconv.Itoa(p.mysql), "3307", strconv.Itoa(p.inactive), "8080", strconv.Itoa(p.api), "8082", strconv.Itoa(p.aggregator),
						"1936", strconv.Itoa(p.health), "9999", strconv.Itoa(p.metrics), "5000", "500",
						"/var/vcap/packages/proxy/static", static,
					).Replace(string(text))
				})
				Eventually(func() string { return o.ask("GET", o.api, "/v0/cluster", operator, "X-Forwarded-Proto: https").body }).
					WithTimeout(within).Should(ContainSubstring(`"name":"` + first + `"}`))
				_, greeting := connect(local(o.mysql))
				Expect(greeting).To(Equal("mysql/0"))
				o.Signal(syscall.SIGTERM)
				Expect(o.WaitExit(within)).To(Equal(0))
			},
			Entry("JSON", "compat.json", "mysql/0f3ba1a8-5b1f-4c0a-9d3e-0d7c2f5c1c11"),
			Entry("YAML", "compat.yml", "backend-0"),
		)

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

		It("binds all addresses unless it is told one", func() {
			o := startOriginal(with(set("", "BindAddress")))
			for _, port := range []int{o.mysql, o.api, o.aggregator, o.health} {
				spec.DialFront(net.JoinHostPort("127.0.0.2", strconv.Itoa(port)))
			}
			o.Signal(syscall.SIGTERM)
			Expect(o.WaitExit(within)).To(Equal(0))

			o = startOriginal(with())
			for _, port := range []int{o.mysql, o.api, o.aggregator, o.health} {
				_, err := net.Dial("tcp", net.JoinHostPort("127.0.0.2", strconv.Itoa(port)))
				Expect(err).To(MatchError(syscall.ECONNREFUSED))
			}
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
			func(change func(ports, keys), field string) {
				p := spec.StartProcess(compatCommand(nil, "-config="+with(change)(freePorts())))
				Expect(p.WaitExit(within)).To(Equal(2))
				Expect(string(p.Stderr.Contents())).To(And(HavePrefix("Validation errors:\n"), ContainSubstring("\n"+field+" : ")))
				var line keys
				Expect(json.Unmarshal(p.Stdout.Contents(), &line)).To(Succeed())
				Expect(line).To(And(HaveKeyWithValue("message", "switchboard.Error validating config:"), HaveKeyWithValue("log_level", 3.0)))
				Expect(string(p.Stdout.Contents())).To(And(ContainSubstring(field), Not(ContainSubstring("a-password"))))
			},
			Entry(nil, set(0, "Proxy", "Port"), "Proxy.Port"),
			Entry(nil, set([]keys{}, "Proxy", "Backends"), "Proxy.Backends"),
			Entry(nil, set([]keys{{"Name": "a"}}, "Proxy", "Backends"), "Proxy.Backends[0].Host"),
			Entry(nil, set("", "API", "Username"), "API.Username"),
			Entry(nil, set(nil, "HealthPort"), "HealthPort"),
			Entry(nil, set(keys{"Enabled": true}, "API", "TLS"), "API.TLS"),
			Entry(nil, set(keys{"Enabled": true, "CA": "none"}, "GaleraAgentTLS"), "GaleraAgentTLS.CA"),
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

	Context("when operators ask", func() {
		It("speaks /v0 to the byte", func() {
			o := startOriginal(with())
			o.awaitActive("mysql/0", 2)
			_, first, _ := net.SplitHostPort(nodes[0].Addr())
			_, second, _ := net.SplitHostPort(nodes[1].Addr())
			active := `"activeBackend":{"host":"127.0.0.1","port":` + first + `,"name":"mysql/0"}`
			exactly := func(r reply, body string) {
				GinkgoHelper()
				Expect(r.status).To(Equal(http.StatusOK))
				Expect(r.header.Get("Content-Type")).To(Equal("application/json; charset=utf-8"))
				Expect(r.body).To(Equal(body))
			}
			exactly(o.ask("GET", o.api, "/v0/cluster", operator), `{`+active+`,"trafficEnabled":true,"message":"","lastUpdated":"0001-01-01T00:00:00Z"}`)
			connect(local(o.mysql))
			both := `[{"host":"127.0.0.1","port":` + first + `,"healthy":true,"name":"mysql/0","currentSessionCount":1,"active":true,"trafficEnabled":true},` +
				`{"host":"127.0.0.1","port":` + second + `,"healthy":true,"name":"mysql/1","currentSessionCount":0,"active":false,"trafficEnabled":true}]`
			for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
				exactly(o.ask(method, o.api, "/v0/backends", operator), both)
			}
			for _, method := range []string{"HEAD", "POST", "PUT", "DELETE", "OPTIONS"} {
				Expect(o.ask(method, o.api, "/v0/cluster", operator).status).To(Equal(http.StatusMethodNotAllowed), method)
			}
			for _, query := range []string{"", "?trafficEnabled=maybe", "?trafficEnabled=false", "?trafficEnabled=0&message="} {
				Expect(o.ask("PATCH", o.api, "/v0/cluster"+query, operator).status).To(Equal(http.StatusBadRequest), query)
			}
			off := o.ask("PATCH", o.api, "/v0/cluster?trafficEnabled=F&message=some+work", operator)
			Expect(off.status).To(Equal(http.StatusOK))
			Expect(off.body).To(MatchRegexp(`^\{` + active + `,"trafficEnabled":false,"message":"some work","lastUpdated":"20[^"]+"\}$`))
			Expect(o.ask("PATCH", o.api, "/v0/cluster?trafficEnabled=T", operator).body).To(ContainSubstring(`"trafficEnabled":true,"message":""`))
			// The router's other answers are not the original's.
			Expect(o.ask("GET", o.api, "/cluster", operator).status).To(Equal(http.StatusNotFound))
		})

		It("asks for the password on every page but health", func() {
			o := startOriginal(with())
			for _, port := range []int{o.api, o.aggregator} {
				for _, path := range []string{"/", "/v0/cluster", "/v0/backends", "/nowhere"} {
					// More wrong ones than any limit on guessing.
					for _, user := range slices.Concat([]string{"", "proxy:", "proxy:wrong", "nobody:a-password"}, slices.Repeat([]string{"x:y"}, 12)) {
						r := o.ask("GET", port, path, user)
						Expect(r.status).To(Equal(http.StatusUnauthorized), path+" "+user)
						Expect(r.header.Get("WWW-Authenticate")).To(Equal(`Basic realm="Authorization Required"`))
					}
				}
				Expect(o.ask("GET", port, "/", operator, "Host: 0-proxy.example.com").status).To(Equal(http.StatusOK))
			}
			Expect(o.ask("GET", o.api, "/v0/cluster", operator, "Host: 0-proxy.example.com").status).To(Equal(http.StatusOK))
			Expect(o.ask("GET", o.health, "/", "").status).To(Equal(http.StatusOK))
		})

		It("redirects to https before it asks for the password", func() {
			o := startOriginal(with(set(true, "API", "ForceHttps")))
			for _, port := range []int{o.api, o.aggregator} {
				for _, proto := range []string{"", "http", "https,http", "http, https", "HTTPS", "https,"} {
					header := []string{"Host: proxy.example.com"}
					if proto != "" {
						header = append(header, "X-Forwarded-Proto: "+proto)
					}
					r := o.ask("GET", port, "/v0/cluster?a=b", "", header...)
					Expect(r.status).To(Equal(http.StatusFound), proto)
					Expect(r.header.Get("Location")).To(Equal("https://proxy.example.com/v0/cluster?a=b"))
				}
				Expect(o.ask("GET", port, "/", operator, "X-Forwarded-Proto: https", "X-Forwarded-Proto: http").status).To(Equal(http.StatusFound))
				Expect(o.ask("GET", port, "/", "", "X-Forwarded-Proto: https").status).To(Equal(http.StatusUnauthorized))
				Expect(o.ask("GET", port, "/", operator, "X-Forwarded-Proto: https , https").status).To(Equal(http.StatusOK))
			}
			Expect(o.ask("GET", o.health, "/", "").status).To(Equal(http.StatusOK))
		})

		It("shows dashboard and aggregator", func() {
			o := startOriginal(with(set([]string{"0-proxy.example.com", "<script>"}, "API", "ProxyURIs")))
			r := o.ask("GET", o.api, "/", operator)
			Expect(r.body).To(Equal("<h1>dashboard</h1>"))
			Expect(r.header.Get("Content-Type")).To(HavePrefix("text/html"))
			Expect(o.ask("GET", o.api, "/../../etc/passwd", operator).status).NotTo(Equal(http.StatusOK))
			for _, path := range []string{"/", "/any/path"} {
				r = o.ask("POST", o.aggregator, path, operator)
				Expect(r.status).To(Equal(http.StatusOK))
				Expect(r.body).To(And(ContainSubstring("<title>Proxy Springboard</title>"), ContainSubstring(`<a href="http://0-proxy.example.com">0-proxy.example.com</a>`), Not(ContainSubstring("<script>"))))
			}
		})

		It("is healthy for any method, path and state", func() {
			o := startOriginal(with())
			agents[0].Unhealthy()
			agents[1].Unhealthy()
			o.ask("PATCH", o.api, "/v0/cluster?trafficEnabled=false&message=m", operator)
			for _, method := range []string{"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"} {
				r := o.ask(method, o.health, "/any/path?x", "")
				Expect(r.status).To(Equal(http.StatusOK), method)
				Expect(r.body).To(BeEmpty())
			}
		})

		It("has no health port of its own where that is the API's", func() {
			o := startOriginal(with(func(p ports, t keys) { t["HealthPort"] = p.api }))
			Expect(o.ask("GET", o.api, "/", "").status).To(Equal(http.StatusUnauthorized))
			_, err := net.Dial("tcp", local(o.health))
			Expect(err).To(MatchError(syscall.ECONNREFUSED))
		})

		It("exports its gauge", func() {
			o := startOriginal(with(inactivePort, func(p ports, t keys) { t["Metrics"] = keys{"Enabled": true, "Port": p.metrics} }))
			o.awaitActive("mysql/0", 2)
			connect(local(o.mysql))
			connect(local(o.mysql))
			connect(local(o.inactive))
			for _, path := range []string{"/metrics", "/"} {
				r, err := o.try("GET", o.metrics, path, "")
				Expect(err).NotTo(HaveOccurred())
				Expect(r.status).To(Equal(http.StatusOK))
				Expect(r.header.Get("Content-Type")).To(HavePrefix("text/plain; version=0.0.4"))
				Expect(r.body).To(HaveSuffix("# TYPE backend_sessions_total gauge\nbackend_sessions_total{backend=\"mysql/0\"} 2\nbackend_sessions_total{backend=\"mysql/1\"} 1\n"))
			}
		})

		It("serves every page over TLS when the API does", func() {
			ca := newCA()
			certificate, key := ca.issue("127.0.0.1")
			o := startOriginal(with(set(keys{"Enabled": true, "Certificate": certificate, "PrivateKey": key}, "API", "TLS"),
				func(p ports, t keys) { t["Metrics"] = keys{"Enabled": true, "Port": p.metrics} }))
			for _, port := range []int{o.api, o.aggregator, o.health, o.metrics} {
				Expect(o.ask("GET", port, "/", operator).status).To(Equal(http.StatusBadRequest), "plain HTTP is served")
			}
			o.scheme = "https"
			o.client.Transport = &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: ca.pool}}
			for _, port := range []int{o.api, o.aggregator, o.health, o.metrics} {
				Expect(o.ask("GET", port, "/", operator).status).To(Equal(http.StatusOK))
			}
			_, err := tls.Dial("tcp", local(o.api), &tls.Config{RootCAs: ca.pool, MaxVersion: tls.VersionTLS11})
			Expect(err).To(HaveOccurred())
		})
	})

	Context("when it routes", func() {
		It("takes the lowest index first, and keeps it although a lower one comes back", func() {
			agents[0].Healthy(7)
			agents[1].Healthy(3)
			o := startOriginal(with())
			o.awaitActive("mysql/1", 2)
			conn, greeting := connect(local(o.mysql))
			Expect(greeting).To(Equal("mysql/1"))

			agents[1].Unhealthy()
			spec.ExpectReset(conn)
			o.awaitActive("mysql/0", 1)
			conn, greeting = connect(local(o.mysql))
			Expect(greeting).To(Equal("mysql/0"))

			agents[1].Healthy(3)
			o.awaitActive("mysql/0", 2)
			spec.SayHello(conn)
		})

		It("does not cut anybody off for one failed probe", func() {
			o := startOriginal(with())
			o.awaitActive("mysql/0", 2)
			conn, _ := connect(local(o.mysql))
			agents[0].Once(spec.Answer{Status: 500})
			seen := agents[0].Probes()
			Eventually(agents[0].Probes).WithTimeout(within).Should(BeNumerically(">", seen+3))
			spec.SayHello(conn)
			failed := o.find("switchboard.active-monitor.Healthcheck failed on backend")
			Expect(failed).To(HaveKeyWithValue("log_level", 2.0))
			Expect(failed["data"]).To(HaveKeyWithValue("error", ContainSubstring("status 500")))
			Expect(o.said("switchboard.Previously healthy backend became unhealthy.")).To(BeFalse())
		})

		DescribeTable("takes nothing but 200 with healthy: true for health",
			func(answer spec.Answer) {
				o := startOriginal(with())
				o.awaitActive("mysql/0", 2)
				agents[0].Set(answer)
				o.awaitActive("mysql/1", 1)
			},
			Entry("healthy: false", spec.Answer{Body: `{"healthy":false}`}),
			Entry("no healthy", spec.Answer{Body: `{"wsrep_local_index":0}`}),
			Entry("a body that is not JSON", spec.Answer{Body: "fine"}),
			Entry("503", spec.Answer{Status: 503, Body: `{"healthy":true}`}),
			Entry("404", spec.Answer{Status: 404, Body: `{"healthy":true}`}),
			Entry("no answer", spec.Answer{Hang: true}),
		)

		It("takes a page that is 200 and no JSON for no health, and a missing index for 0", func() {
			answers := []string{"OK", `{"healthy":true,"wsrep_local_index":1}`, `{"healthy":true}`}
			o := startOriginal(with(func(_ ports, t keys) {
				proxy := t["Proxy"].(keys)
				var backends []keys
				for i, answer := range answers {
					server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, answer) }))
					DeferCleanup(server.Close)
					b := maps.Clone(proxy["Backends"].([]keys)[0])
					b["Name"], b["StatusPort"] = fmt.Sprintf("mysql/%d", i), server.Listener.Addr().(*net.TCPAddr).Port
					backends = append(backends, b)
				}
				proxy["Backends"] = backends
			}))
			o.awaitActive("mysql/2", 2)
			Expect(o.backends()).To(ContainSubstring(`"healthy":false,"name":"mysql/0"`))
		})

		It("asks each backend's own endpoint, with or without the slash", func() {
			var asked [2]atomic.Pointer[string]
			var servers []*httptest.Server
			for i := range asked {
				servers = append(servers, httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					path := r.Method + " " + r.RequestURI
					asked[i].Store(&path)
					fmt.Fprintf(w, `{"healthy":true,"wsrep_local_index":%d}`, i)
				})))
				DeferCleanup(servers[i].Close)
			}
			o := startOriginal(with(func(_ ports, t keys) {
				for i, b := range t["Proxy"].(keys)["Backends"].([]keys) {
					b["StatusEndpoint"] = []string{"galera_healthcheck?x=1", "/api/v1/status"}[i]
					b["StatusPort"] = servers[i].Listener.Addr().(*net.TCPAddr).Port
				}
			}))
			o.awaitActive("mysql/0", 2)
			Expect(*asked[0].Load()).To(Equal("GET /galera_healthcheck?x=1"))
			Expect(*asked[1].Load()).To(Equal("GET /api/v1/status"))
		})

		It("offers the highest index on the inactive port, and each port severs its own sessions only", func() {
			o := startOriginal(with(inactivePort))
			o.awaitActive("mysql/0", 2)
			onActive, greeting := connect(local(o.mysql))
			Expect(greeting).To(Equal("mysql/0"))
			var onInactive net.Conn
			Eventually(func() string { onInactive, greeting = connect(local(o.inactive)); return greeting }).WithTimeout(within).Should(Equal("mysql/1"))

			agents[1].Unhealthy()
			spec.ExpectReset(onInactive)
			onInactive, greeting = connect(local(o.inactive))
			Expect(greeting).To(Equal("mysql/0"))
			spec.SayHello(onActive)

			// Both are on mysql/0 now; the return of mysql/1 moves one of them.
			agents[1].Healthy(1)
			spec.ExpectReset(onInactive)
			_, greeting = connect(local(o.inactive))
			Expect(greeting).To(Equal("mysql/1"))
			spec.SayHello(onActive)
		})

		It("has no inactive port unless it is told one", func() {
			o := startOriginal(with())
			_, err := net.Dial("tcp", local(o.inactive))
			Expect(err).To(MatchError(syscall.ECONNREFUSED))
		})

		It("cuts both ports off with the traffic flag, and forgets it in a restart", func() {
			o := startOriginal(with(inactivePort))
			o.awaitActive("mysql/0", 2)
			first, _ := connect(local(o.mysql))
			second, _ := connect(local(o.inactive))
			o.ask("PATCH", o.api, "/v0/cluster?trafficEnabled=false&message=maintenance", operator)
			for _, conn := range []net.Conn{first, second} {
				spec.ExpectReset(conn)
			}
			for _, port := range []int{o.mysql, o.inactive} {
				spec.ExpectReset(spec.DialFront(local(port)))
			}
			Expect(o.backends()).NotTo(ContainSubstring(`"trafficEnabled":true`))
			Expect(o.awaitLine("switchboard.Disabling traffic for cluster")).To(Equal(keys{"message": "maintenance"}))
			o.ask("PATCH", o.api, "/v0/cluster?trafficEnabled=true&message=done", operator)
			connect(local(o.mysql))
			connect(local(o.inactive))
			Expect(o.awaitLine("switchboard.Enabling traffic for cluster")).To(Equal(keys{"message": "done"}))

			o.ask("PATCH", o.api, "/v0/cluster?trafficEnabled=false&message=again", operator)
			o.Kill()
			Expect(o.WaitExit(within)).To(Equal(-1))
			o = startOriginal(with())
			Expect(o.cluster()).To(ContainSubstring(`"trafficEnabled":true,"message":"","lastUpdated":"0001-01-01T00:00:00Z"`))
		})

		It("accepts and closes without a backend, and does not flood its log", func() {
			agents[0].Unhealthy()
			agents[1].Unhealthy()
			o := startOriginal(with())
			Eventually(func() int { return strings.Count(o.backends(), `"healthy":false`) }).WithTimeout(within).Should(Equal(2))
			Expect(o.cluster()).To(HavePrefix(`{"activeBackend":null,`))
			for range 50 {
				spec.ExpectReset(spec.DialFront(local(o.mysql)))
			}
			Expect(o.awaitLine("switchboard.active-bridge-runner.No active backend")).To(HaveKeyWithValue("error", "no active backend"))
			Expect(strings.Count(string(o.Stdout.Contents()), "No active backend")).To(BeNumerically("<", 10))
		})

		It("asks agents over https with its CA and the name, and never over plain HTTP", func() {
			ca, other := newCA(), newCA()
			secure := func(issuer authority, name string) int {
				certificate, key := issuer.issue(name)
				pair, err := tls.X509KeyPair([]byte(certificate), []byte(key))
				Expect(err).NotTo(HaveOccurred())
				server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					_, _ = io.WriteString(w, `{"healthy":true,"wsrep_local_index":0}`)
				}))
				server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
				server.Config.ErrorLog = log.New(io.Discard, "", 0)
				server.StartTLS()
				DeferCleanup(server.Close)
				return server.Listener.Addr().(*net.TCPAddr).Port
			}
			good, wrongName, wrongCA := secure(ca, "galera-agent"), secure(ca, "somebody"), secure(other, "galera-agent")
			statusPorts := []int{wrongName, wrongCA, agents[1].Port(), good}
			o := startOriginal(with(set(keys{"Enabled": true, "CA": ca.pem, "ServerName": "galera-agent"}, "GaleraAgentTLS"), func(_ ports, t keys) {
				proxy := t["Proxy"].(keys)
				var backends []keys
				for i, port := range statusPorts {
					b := maps.Clone(proxy["Backends"].([]keys)[0])
					b["Name"], b["StatusPort"] = fmt.Sprintf("mysql/%d", i), port
					backends = append(backends, b)
				}
				proxy["Backends"] = backends
			}))
			o.awaitActive("mysql/3", 1)
			for i := range 3 {
				Expect(o.backends()).To(MatchRegexp(fmt.Sprintf(`"healthy":false,"name":"mysql/%d"`, i)))
			}
			// A plain agent that would have said healthy was never asked.
			Expect(agents[1].Probes()).To(BeZero())
			var said []string
			for _, line := range o.lines() {
				if line["message"] == "switchboard.active-monitor.Healthcheck failed on backend" {
					said = append(said, line["data"].(keys)["error"].(string))
				}
			}
			Expect(said).To(ContainElements(ContainSubstring("not galera-agent"), ContainSubstring("unknown authority"), ContainSubstring("does not look like a TLS handshake")))
		})
	})

	Context("when it is told to stop", func() {
		It("accepts on for the delay with red health, and still fails over", func() {
			o := startOriginal(with(inactivePort, set(3, "Proxy", "ShutdownDelaySeconds")))
			o.awaitActive("mysql/0", 2)
			conn, _ := connect(local(o.mysql))
			o.Signal(syscall.SIGTERM)
			began := time.Now()
			Eventually(func() int { return o.ask("GET", o.health, "/", "").status }).WithTimeout(within).Should(Equal(http.StatusServiceUnavailable))
			Expect(o.awaitLine("switchboard.active-bridge-runner.Received signal")).To(HaveKeyWithValue("signal", "terminated"))
			spec.SayHello(conn)
			late, greeting := connect(local(o.mysql))
			Expect(greeting).To(Equal("mysql/0"))

			agents[0].Unhealthy()
			spec.ExpectReset(late)
			spec.ExpectReset(conn)
			o.awaitActive("mysql/1", 1)
			late, greeting = connect(local(o.mysql))
			Expect(greeting).To(Equal("mysql/1"))
			for _, port := range []int{o.api, o.aggregator} {
				Expect(o.ask("GET", port, "/", operator).status).To(Equal(http.StatusOK))
			}

			spec.ExpectReset(late)
			Expect(time.Since(began)).To(BeNumerically(">=", 3*time.Second))
			Expect(o.WaitExit(within)).To(Equal(0))
			Expect(o.said("switchboard.active-bridge-runner.Proxy runner has exited")).To(BeTrue())
		})

		It("ends now on a second signal", func() {
			o := startOriginal(with(set(3600, "Proxy", "ShutdownDelaySeconds")))
			conn, _ := connect(local(o.mysql))
			o.Signal(syscall.SIGINT)
			o.awaitLine("switchboard.active-bridge-runner.Received signal")
			o.Signal(syscall.SIGINT)
			spec.ExpectReset(conn)
			Expect(o.WaitExit(within)).To(Equal(0))
		})

		It("ends at once without a delay", func() {
			o := startOriginal(with())
			conn, _ := connect(local(o.mysql))
			o.Signal(syscall.SIGTERM)
			spec.ExpectReset(conn)
			Expect(o.WaitExit(within)).To(Equal(0))
		})
	})

	Context("when somebody reads its log", func() {
		It("says what operators look for", func() {
			agents[1].Unhealthy()
			o := startOriginal(with())
			o.awaitActive("mysql/0", 1)
			_, port, _ := net.SplitHostPort(nodes[0].Addr())
			number, err := strconv.Atoi(port)
			Expect(err).NotTo(HaveOccurred())
			first := keys{"host": "127.0.0.1", "port": float64(number), "status_port": float64(agents[0].Port()), "name": "mysql/0"}

			started := o.find("switchboard.Proxy started")
			Expect(started).To(And(HaveKeyWithValue("source", "switchboard"), HaveKeyWithValue("log_level", 1.0), HaveKeyWithValue("timestamp", MatchRegexp(`^\d{10}\.\d{9}$`))))
			Expect(started["data"]).To(HaveKeyWithValue("proxyConfig", HaveKeyWithValue("Port", float64(o.mysql))))
			Expect(o.said("switchboard.active-bridge-runner.Proxy listening on " + local(o.mysql))).To(BeTrue())
			Expect(o.awaitLine("switchboard.active-monitor.New active backend")).To(HaveKeyWithValue("backend", Equal(first)))
			Expect(o.awaitLine("switchboard.active-bridge-runner.Done severing connections, new active backend:")).To(HaveKeyWithValue("backend", Equal(first)))
			Expect(o.awaitLine("switchboard.Done updating Cluster Api, new active backend:")).To(HaveKeyWithValue("backend", Equal(first)))
			Expect(o.awaitLine("switchboard.Previously unhealthy backend became healthy.")).To(HaveKeyWithValue("backend", Equal(first)))
			failed := o.awaitLine("switchboard.active-monitor.Healthcheck failed on backend")
			Expect(failed).To(And(HaveKeyWithValue("backend", HaveKeyWithValue("name", "mysql/1")), HaveKeyWithValue("error", "says healthy: false")))
			Expect(o.find("switchboard.active-monitor.Healthcheck failed on backend")).To(HaveKeyWithValue("log_level", 2.0))

			agents[0].Unhealthy()
			Expect(o.awaitLine("switchboard.Previously healthy backend became unhealthy.")).To(HaveKeyWithValue("backend", Equal(first)))
			Eventually(func() any {
				return o.find("switchboard.active-bridge-runner.Done severing connections, new active backend:")["data"]
			}).
				WithTimeout(within).Should(HaveKeyWithValue("backend", BeNil()))

			agents[0].Healthy(0)
			o.awaitActive("mysql/0", 1)
			nodes[0].Stop()
			spec.ExpectReset(spec.DialFront(local(o.mysql)))
			Expect(o.awaitLine("switchboard.active-bridge-runner.Error routing to backend")).To(HaveKeyWithValue("error", ContainSubstring("connection refused")))
			for _, line := range o.lines() {
				Expect(line["log_level"]).To(BeNumerically(">", 0))
			}
		})

		It("tells sessions, probes and requests at debug, without credentials", func() {
			o := startOriginal(with(), "-logLevel=debug", "-timeFormat=rfc3339", "-redactSecrets", "-redactPatterns=secret-[0-9]+")
			o.awaitActive("mysql/0", 2)
			conn, _ := connect(local(o.mysql))
			client := conn.LocalAddr().String()
			spec.SayHello(conn)
			Expect(conn.Close()).To(Succeed())
			Expect(o.awaitLine("switchboard.active-bridge-runner.Session closed from client at " + client + " to backend at " + nodes[0].Addr())).
				To(And(HaveKeyWithValue("reason", "client_closed"), HaveKeyWithValue("bytes_to_backend", 6.0), HaveKeyWithValue("bytes_to_client", 14.0)))
			o.awaitLine("switchboard.active-monitor.Querying Backend")
			Expect(o.awaitLine("switchboard.active-monitor.Healthcheck succeeded")).To(HaveKeyWithValue("endpoint", HaveSuffix("/api/v1/status")))

			o.ask("PATCH", o.api, "/v0/cluster?trafficEnabled=true&message=secret-123", operator, "Cookie: x=hunter2")
			Expect(o.awaitLine("switchboard.Enabling traffic for cluster")).To(Equal(keys{"message": "*REDACTED*"}))
			line := o.find("switchboard.request")
			Expect(line["level"]).To(Equal("debug"))
			_, err := time.Parse(time.RFC3339, line["timestamp"].(string))
			Expect(err).NotTo(HaveOccurred())
			Expect(line["data"]).To(HaveKeyWithValue("request", And(HaveKeyWithValue("Method", "PATCH"), HaveKeyWithValue("URL", "*REDACTED*"))))
			Expect(line["data"]).To(HaveKeyWithValue("response", HaveKeyWithValue("StatusCode", 200.0)))
			logged := string(o.Stdout.Contents())
			for _, secret := range []string{"a-password", "Authorization", "hunter2", "cHJveHk6YS1wYXNzd29yZA"} {
				Expect(logged).NotTo(ContainSubstring(secret))
			}
		})

		It("says only what is wrong at level error", func() {
			agents[1].Unhealthy()
			o := startOriginal(with(), "-logLevel=error")
			o.awaitActive("mysql/0", 1)
			o.awaitLine("switchboard.active-monitor.Healthcheck failed on backend")
			for _, line := range o.lines() {
				Expect(line["log_level"]).To(BeNumerically(">=", 2))
			}
		})

		It("sums up when it is told to", func() {
			o := startOriginal(with(inactivePort, set(keys{"Enabled": true, "Interval": "100ms"}, "StatusLog")))
			o.awaitActive("mysql/0", 2)
			connect(local(o.mysql))
			o.Stdout.Clear()
			line := func() any { return o.find("switchboard.active-status-logger.Status update")["data"] }
			Eventually(line).WithTimeout(within).Should(Equal(keys{
				"total_connections": 1.0, "healthy_backends": 2.0, "total_backends": 2.0, "active_backend": "mysql/0",
			}))
			agents[0].Unhealthy()
			Eventually(line).WithTimeout(within).Should(And(
				HaveKeyWithValue("active_backend", "mysql/1"), HaveKeyWithValue("total_connections", 0.0), HaveKeyWithValue("healthy_backends", 1.0),
				HaveKeyWithValue("unhealthy_backends", []any{"mysql/0"}), HaveKeyWithValue("last_failover_from", "mysql/0"),
				HaveKeyWithValue("total_failovers", 1.0), HaveKeyWithValue("last_failover_at", MatchRegexp(`^\d{4}-\d\d-\d\dT`))))
			agents[1].Unhealthy()
			Eventually(line).WithTimeout(within).Should(And(HaveKeyWithValue("active_backend", "none"), HaveKeyWithValue("total_failovers", 2.0)))
			Expect(o.awaitLine("switchboard.inactive-status-logger.Status update")).To(HaveKeyWithValue("total_backends", 2.0))
		})
	})
})

// authority is a CA for one spec.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pem         string
	pool        *x509.CertPool
}

func newCA() authority {
	GinkgoHelper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	Expect(err).NotTo(HaveOccurred())
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	Expect(err).NotTo(HaveOccurred())
	certificate, err := x509.ParseCertificate(der)
	Expect(err).NotTo(HaveOccurred())
	pool := x509.NewCertPool()
	pool.AddCert(certificate)
	return authority{certificate, key, encode("CERTIFICATE", der), pool}
}

// issue is a certificate for a name or an address, and its key, as PEM.
func (a authority) issue(name string) (certificate, key string) {
	GinkgoHelper()
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	Expect(err).NotTo(HaveOccurred())
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	if ip := net.ParseIP(name); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{name}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, &own.PublicKey, a.key)
	Expect(err).NotTo(HaveOccurred())
	private, err := x509.MarshalPKCS8PrivateKey(own)
	Expect(err).NotTo(HaveOccurred())
	return encode("CERTIFICATE", der), encode("PRIVATE KEY", private)
}

func encode(kind string, der []byte) string {
	var out bytes.Buffer
	_ = pem.Encode(&out, &pem.Block{Type: kind, Bytes: der})
	return out.String()
}
