package compat_test

import (
	"fmt"
	"os"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/runner/compat"
)

// good is a configuration with nothing that could be left out.
const good = `Proxy:
  Port: 3306
  HealthcheckTimeoutMillis: 5000
  Backends:
  - {Host: 10.0.0.1, Port: 3306, StatusPort: 9200, StatusEndpoint: api/v1/status, Name: a}
  - {Host: 10.0.0.2, Port: 3306, StatusPort: 9200, StatusEndpoint: /api/v1/status, Name: b}
API: {Port: 8080, AggregatorPort: 8082, Username: u, Password: p}
HealthPort: 1936
StaticDir: /static
`

// changed is good with one text in place of another, which must be there.
func changed(old, text string) string {
	GinkgoHelper()
	Expect(good).To(ContainSubstring(old))
	return strings.Replace(good, old, text, 1)
}

// problems are the lines of a refusal.
func problems(text string) []string {
	GinkgoHelper()
	_, err := compat.Parse([]byte(text))
	var invalid compat.Invalid
	Expect(err).To(BeAssignableToTypeOf(invalid))
	lines := strings.Split(err.Error(), "\n")
	Expect(lines[0]).To(Equal("Validation errors:"))
	return lines[1:]
}

var _ = Describe("Parse", func() {
	It("reads YAML and fills in the original's defaults", func() {
		c, err := compat.Parse([]byte(good))
		Expect(err).NotTo(HaveOccurred())
		Expect(c).To(Equal(compat.Config{
			Proxy: compat.Proxy{Port: 3306, HealthcheckTimeoutMillis: 5000, Backends: []compat.Backend{
				{Host: "10.0.0.1", Port: 3306, StatusPort: 9200, StatusEndpoint: "api/v1/status", Name: "a"},
				{Host: "10.0.0.2", Port: 3306, StatusPort: 9200, StatusEndpoint: "/api/v1/status", Name: "b"},
			}},
			API:        compat.API{Port: 8080, AggregatorPort: 8082, Username: "u", Password: "p"},
			HealthPort: 1936,
			StaticDir:  "/static",
			Metrics:    compat.Metrics{Port: compat.DefaultMetricsPort},
			StatusLog:  compat.StatusLog{Interval: compat.DefaultStatusInterval},
		}))
	})

	It("reads JSON with every key, also with tabs and quoted numbers", func() {
		text, err := os.ReadFile("../../fixtures/examples/compat.json")
		Expect(err).NotTo(HaveOccurred())
		c, err := compat.Parse([]byte(strings.ReplaceAll(string(text), "  ", "\t")))
		Expect(err).NotTo(HaveOccurred())
		Expect(c.Proxy.Backends).To(HaveLen(2))
		Expect(c.Proxy.Backends[0].StatusPort).To(BeEquivalentTo(9201))
		Expect(c.Proxy.Backends[0].Name).To(HavePrefix("mysql/"))
		Expect(c.API.ForceHttps).To(BeTrue())
		Expect(c.API.ProxyURIs).To(HaveLen(2))
		Expect(c.Metrics).To(Equal(compat.Metrics{Enabled: true, Port: 9999}))
		Expect(c.StatusLog).To(Equal(compat.StatusLog{Enabled: true, Interval: time.Minute}))
	})

	It("reads the same from JSON and from YAML", func() {
		text, err := os.ReadFile("../../fixtures/examples/compat.json")
		Expect(err).NotTo(HaveOccurred())
		fromJSON, err := compat.Parse(text)
		Expect(err).NotTo(HaveOccurred())
		// A comment makes it YAML, and JSON no more.
		fromYAML, err := compat.Parse(append([]byte("# YAML\n"), text...))
		Expect(err).NotTo(HaveOccurred())
		Expect(fromYAML).To(Equal(fromJSON))
	})

	It("ignores keys that it does not know", func() {
		_, err := compat.Parse([]byte(good + "Logger: {x: [1]}\nPidFile: x\nProfilerPort: 1\n"))
		Expect(err).NotTo(HaveOccurred())
	})

	It("follows anchors, and takes digits as they were written", func() {
		c, err := compat.Parse([]byte(changed("Password: p", "Password: 0123") + "Anchor: &x {Enabled: yes}\nMetrics: *x\nStatusLog: {<<: *x, Interval: 90}\n"))
		Expect(err).NotTo(HaveOccurred())
		Expect(c.API.Password).To(Equal("0123"))
		Expect(c.Metrics.Enabled).To(BeTrue())
		Expect(c.StatusLog).To(Equal(compat.StatusLog{Enabled: true, Interval: 90 * time.Second}))
	})

	DescribeTable("an interval of the status log",
		func(text string, interval time.Duration) {
			c, err := compat.Parse([]byte(good + "StatusLog: {Enabled: true, Interval: " + text + "}\n"))
			Expect(err).NotTo(HaveOccurred())
			Expect(c.StatusLog.Interval).To(Equal(interval))
		},
		Entry("with a unit", "30s", 30*time.Second),
		Entry("in seconds", "30", 30*time.Second),
		Entry("in nanoseconds, as Go writes it", "30000000000", 30*time.Second),
		Entry("of nothing", "0", time.Minute),
		Entry("below nothing", "-5s", time.Minute),
		Entry("that is null", "null", time.Minute),
	)

	DescribeTable("what is wrong is told by the original's name",
		func(old, text string, lines ...string) { Expect(problems(changed(old, text))).To(Equal(lines)) },
		Entry(nil, "  Port: 3306", "  Port: 0", "Proxy.Port : zero value"),
		Entry(nil, "  Port: 3306", "  Port: 65536", "Proxy.Port : 65536 is not a port"),
		Entry(nil, "  Port: 3306", "  Port: -1", "Proxy.Port : must be a whole number, 0 or more"),
		Entry(nil, "  Port: 3306", "  Port: [1]", "Proxy.Port : must be a whole number, 0 or more"),
		Entry(nil, "  Port: 3306", "  Port: 3306\n  InactiveMysqlPort: 70000", "Proxy.InactiveMysqlPort : 70000 is not a port"),
		Entry(nil, "  Port: 3306", "  Port: 3306\n  InactiveMysqlPort: 3306", "Proxy.InactiveMysqlPort : 3306 is Proxy.Port already"),
		Entry(nil, "HealthcheckTimeoutMillis: 5000\n", "\n", "Proxy.HealthcheckTimeoutMillis : zero value"),
		Entry(nil, "Millis: 5000", "Millis: 0", "Proxy.HealthcheckTimeoutMillis : zero value"),
		Entry(nil, "Millis: 5000", "Millis: 4", "Proxy.HealthcheckTimeoutMillis : 4 is too short: at least 5"),
		Entry(nil, "Millis: 5000", "Millis: 5000\n  ShutdownDelaySeconds: 4000000000", "Proxy.ShutdownDelaySeconds : 4000000000 is too long: at most 86400"),
		Entry(nil, "Host: 10.0.0.1, ", "", "Proxy.Backends[0].Host : zero value"),
		Entry(nil, "Host: 10.0.0.2", "Host: a b", `Proxy.Backends[1].Host : "a b" is neither an IP address nor a DNS name`),
		Entry(nil, "Host: 10.0.0.2", "Host: 0.0.0.0", `Proxy.Backends[1].Host : 0.0.0.0 is no address of a backend`),
		Entry(nil, "Host: 10.0.0.2", "Host: localhost", `Proxy.Backends[1].Port : 3306 is a port of this proxy: sessions would run in a circle`),
		Entry(nil, "StatusPort: 9200, ", "", "Proxy.Backends[0].StatusPort : zero value"),
		Entry(nil, "StatusEndpoint: api/v1/status, ", "", "Proxy.Backends[0].StatusEndpoint : zero value"),
		Entry(nil, "StatusEndpoint: api/v1/status", "StatusEndpoint: a%zz", `Proxy.Backends[0].StatusEndpoint : "a%zz" is not the path of a URL`),
		Entry(nil, "Name: a}", "Name: ''}", "Proxy.Backends[0].Name : zero value"),
		Entry(nil, "Name: a}", "Name: a/}", `Proxy.Backends[0].Name : "a/" is not a name: a slash stands between two parts`),
		Entry(nil, "Name: b}", "Name: a}", `Proxy.Backends[1].Name : "a" is the name of Proxy.Backends[0] already`),
		Entry(nil, "Port: 8080, ", "", "API.Port : zero value"),
		Entry(nil, "AggregatorPort: 8082, ", "", "API.AggregatorPort : zero value"),
		Entry(nil, "Username: u, ", "", "API.Username : zero value"),
		Entry(nil, "Username: u,", "Username: {},", "API.Username : must be text"),
		Entry(nil, ", Password: p", "", "API.Password : zero value"),
		Entry(nil, "Password: p", "Password: p, ForceHttps: 2", "API.ForceHttps : must be true or false"),
		Entry(nil, "Password: p", "Password: p, ProxyURIs: x", "API.ProxyURIs : must be a list"),
		Entry(nil, "Password: p", "Password: p, ProxyURIs: [a, {}]", "API.ProxyURIs[1] : must be text"),
		Entry(nil, "HealthPort: 1936\n", "", "HealthPort : zero value"),
		Entry(nil, "HealthPort: 1936", "HealthPort: 8082", "HealthPort : 8082 is API.AggregatorPort already"),
		Entry(nil, "StaticDir: /static\n", "", "StaticDir : zero value"),
		Entry(nil, "HealthPort: 1936", "HealthPort: 1936\nBindAddress: a b", `BindAddress : "a b" is neither an IP address nor a name`),
		Entry(nil, "HealthPort: 1936", "HealthPort: 1936\nGaleraAgentTLS: {Enabled: true, CA: x}", "GaleraAgentTLS.CA : Failed to Parse CA."),
		Entry(nil, "HealthPort: 1936", "HealthPort: 1936\nMetrics: {Enabled: true, Port: 0}", "Metrics.Port : zero value"),
		Entry(nil, "HealthPort: 1936", "HealthPort: 1936\nStatusLog: {Interval: soon}", "StatusLog.Interval : must be a duration such as 60s"),
		Entry(nil, "API: {", "API: x #", "API : must be an object with keys"),
		Entry(nil, "Name: a}", "Name: a}\n  - c", "Proxy.Backends[1] : must be an object with keys"),
	)

	It("tells all that is wrong at once", func() {
		for _, text := range []string{"", "{}", "# nothing\n"} {
			Expect(problems(text)).To(Equal([]string{
				"Proxy.Port : zero value", "Proxy.HealthcheckTimeoutMillis : zero value", "Proxy.Backends : less than min",
				"API.Port : zero value", "API.AggregatorPort : zero value", "API.Username : zero value", "API.Password : zero value",
				"HealthPort : zero value", "StaticDir : zero value",
			}))
		}
	})

	It("lets health have the API's port", func() {
		_, err := compat.Parse([]byte(changed("HealthPort: 1936", "HealthPort: 8080")))
		Expect(err).NotTo(HaveOccurred())
	})

	DescribeTable("text that is no configuration, which may hold a password",
		func(text, says string) {
			_, err := compat.Parse([]byte(text))
			Expect(err).To(MatchError(ContainSubstring(says)))
			Expect(err.Error()).NotTo(ContainSubstring("hunter2"))
		},
		Entry("broken YAML", "API: {Password: hunter2\nx: [", "not valid YAML"),
		Entry("broken JSON", `{"API": {"Password": "hunter2"`, "not valid YAML"),
		Entry("a key twice", "Password: hunter2\nPassword: hunter2\n", "not valid YAML"),
		Entry("a list", "[hunter2]", "not an object"),
		Entry("a word", "hunter2", "not an object"),
		Entry("an alias of nothing", "API: *hunter", "alias"),
		Entry("too long", "# hunter2"+strings.Repeat(" ", compat.MaxSize), "longer than 1048576 bytes"),
		Entry("too deep in blocks", strings.Repeat("- ", 40)+"hunter2", "levels"),
		Entry("too deep", strings.Repeat("[", 40)+strings.Repeat("]", 40)+" # hunter2", "levels"),
	)

	It("names no secret in a problem", func() {
		text := changed("Password: p", "Password: hunter2, TLS: {Enabled: true, Certificate: hunter2, PrivateKey: hunter2}")
		Expect(problems(text)).To(ConsistOf(And(HavePrefix("API.TLS : Failed to load Certificate and PrivateKey: "), Not(ContainSubstring("hunter2")))))
	})
})

func ExampleParse() {
	_, err := compat.Parse([]byte(`{"Proxy": {"Port": 3306, "HealthcheckTimeoutMillis": 5000, "Backends": [{"Host": "10.0.0.1"}]}}`))
	fmt.Println(err)
	// Output:
	// Validation errors:
	// Proxy.Backends[0].Port : zero value
	// Proxy.Backends[0].StatusPort : zero value
	// Proxy.Backends[0].StatusEndpoint : zero value
	// Proxy.Backends[0].Name : zero value
	// API.Port : zero value
	// API.AggregatorPort : zero value
	// API.Username : zero value
	// API.Password : zero value
	// HealthPort : zero value
	// StaticDir : zero value
}
