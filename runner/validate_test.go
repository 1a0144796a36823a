package runner_test

import (
	"errors"
	"net/netip"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/bridge"
	"switchboard/monitor/check"
	"switchboard/runner"
)

// valid is a configuration with a bit of everything.
func valid() runner.Config {
	return runner.Config{
		Name:      "router-1",
		Listeners: []runner.Listener{{Name: "front", Bind: "127.0.0.1:3306", Host: "db"}},
		Hosts: []runner.Host{{
			Name:     "db",
			Check:    &check.Spec{Type: "tcp"},
			Backends: []runner.Backend{{Name: "a", Address: "10.0.0.1:3306"}, {Name: "b", Address: "db-1.local:3306"}},
		}},
		API:    runner.API{Bind: "127.0.0.1:9090"},
		Health: "127.0.0.1:9091",
	}
}

// wrongs are the keys and problems of all that is wrong.
func wrongs(err error) (all []string) {
	GinkgoHelper()
	if err == nil {
		return nil
	}
	for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
		var invalid *runner.Invalid
		Expect(errors.As(e, &invalid)).To(BeTrue())
		Expect(e).To(MatchError(invalid.Key + ": " + invalid.Problem))
		all = append(all, e.Error())
	}
	return all
}

var _ = Describe("Config", func() {
	It("is validated without anything being opened, and not changed", func() {
		c := valid()
		c.State = "/none/such"
		Expect(c.Validate()).To(Succeed())
		Expect(c.Hosts[0]).To(Equal(valid().Hosts[0]))
		Expect(*c.Hosts[0].Check).To(Equal(check.Spec{Type: "tcp"}))
	})

	It("gives the defaults to a builder, and the backend's own port", func() {
		var asked check.Spec
		var target check.Target
		c := valid()
		c.Hosts[0].Check = &check.Spec{Type: "ours"}
		c.Checks = map[string]check.Builder{"ours": func(s check.Spec, t check.Target) (check.Checker, error) {
			asked, target = s, t
			return check.TCP(s, t)
		}}
		Expect(c.Validate()).To(Succeed())
		Expect(asked).To(Equal(check.Spec{
			Type: "ours", Interval: runner.DefaultInterval, Timeout: runner.DefaultTimeout, Fall: runner.DefaultFall, Rise: runner.DefaultRise,
		}))
		Expect(target).To(And(HaveField("Address", "10.0.0.1:3306"), HaveField("Own", true), HaveField("Host", "db")))
		Expect(target.Dial).NotTo(BeNil())
		Expect(target.Hint).NotTo(BeNil())
	})

	It("says all that is wrong at once, in its order, and a router is not made of it", func() {
		c := valid()
		c.Name = "-"
		c.Listeners[0].Host, c.Listeners[0].MaxSessions = "bd", -1
		c.Hosts[0].Hold = -time.Second
		c.Hosts[0].Check = &check.Spec{Type: "mongo", Fall: -1}
		c.Hosts[0].Backends[1].Name = "a"
		c.API.Bind, c.Health = "0.0.0.0:9090", "9091"
		c.Drain = -1
		want := []string{
			`name: "-" is not a name: use letters, digits, '.', '-' and '_', beginning with a letter or digit`,
			`listeners[0].host: there is no host "bd": the hosts are db`,
			`listeners[0].max_sessions: -1 is too small: use 0 or more`,
			`hosts[0].hold: "-1s" is negative: a duration is 0s or more`,
			`hosts[0].check.type: "mongo" is not a check of this program, which has exec, http, tcp`,
			`hosts[0].check.fall: -1 is too small: use 1 or more`,
			`hosts[0].backends[1].name: "a" is already the name of hosts[0].backends[0]`,
			`api.bind: "0.0.0.0:9090" can be reached from other machines: set api.username and api.password (or api.password_file), or bind to 127.0.0.1`,
			`health.bind: "9091" has no port: write host:port`,
			`shutdown.drain: "-1ns" is negative: a duration is 0s or more`,
		}
		Expect(wrongs(c.Validate())).To(Equal(want))
		router, err := runner.New(c)
		Expect(wrongs(err)).To(Equal(want))
		Expect(router).To(BeNil())
	})

	It("names the other keys of a rule that compares", func() {
		c := valid()
		c.Listeners[0].ProxyProtocol, c.API.Username = bridge.ProxyAny, "u"
		var besides [][]string
		for _, err := range c.Validate().(interface{ Unwrap() []error }).Unwrap() {
			besides = append(besides, err.(*runner.Invalid).Besides)
		}
		Expect(besides).To(Equal([][]string{{"listeners[0].trusted_proxies"}, {"api.password"}}))
	})
})

var _ = DescribeTable("a wrong field", func(change func(*runner.Config), want ...string) {
	c := valid()
	change(&c)
	Expect(wrongs(c.Validate())).To(Equal(want))
},
	// Listeners.
	Entry("no hosts", func(c *runner.Config) { c.Hosts = nil }, "hosts: no hosts: at least one is needed"),
	Entry("a listener without a name", func(c *runner.Config) { c.Listeners[0].Name = "" }, "listeners[0].name: a name must not be empty"),
	Entry("two listeners of a name", func(c *runner.Config) {
		c.Listeners = append(c.Listeners, runner.Listener{Name: "front", Bind: "127.0.0.1:0", Host: "db"})
	}, `listeners[1].name: "front" is already the name of listeners[0]`),
	Entry("a listener of a host that may be one with a wrong name", func(c *runner.Config) { c.Hosts[0].Name = "d b" },
		`hosts[0].name: "d b" is not a name: use letters, digits, '.', '-' and '_', beginning with a letter or digit`),
	Entry("a bind that is empty", func(c *runner.Config) { c.Listeners[0].Bind = "" }, `listeners[0].bind: "" has no port: write host:port`),
	Entry("a bind of a port alone", func(c *runner.Config) { c.Listeners[0].Bind = ":3306" },
		`listeners[0].bind: ":3306" has no address: write 0.0.0.0:3306 to listen on all`),
	Entry("a PROXY version", func(c *runner.Config) { c.Listeners[0].ProxyProtocol = "v3" },
		`listeners[0].proxy_protocol: "v3" is not a value of this key: use off, v1, v2, any`),
	Entry("PROXY from nobody", func(c *runner.Config) { c.Listeners[0].ProxyProtocol = bridge.ProxyV1 },
		"listeners[0].proxy_protocol: trusted_proxies is missing: list the networks whose PROXY header is believed"),
	Entry("trust without PROXY", func(c *runner.Config) {
		c.Listeners[0].TrustedProxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	}, "listeners[0].trusted_proxies: proxy_protocol is off, so nobody is believed: set it to v1, v2 or any, or remove trusted_proxies"),
	// Hosts.
	Entry("two hosts of a name", func(c *runner.Config) { c.Hosts = append(c.Hosts, c.Hosts[0]) }, `hosts[1].name: "db" is already the name of hosts[0]`),
	Entry("a host in upper case", func(c *runner.Config) { c.Hosts[0].Name = "DB" }, `hosts[0].name: "DB" is not how a host is spelled: write "db"`),
	Entry("a host with two dots", func(c *runner.Config) { c.Hosts[0].Name = "d..b" },
		`hosts[0].name: "d..b" is not a host name: two dots with nothing between them`),
	Entry("an election", func(c *runner.Config) { c.Hosts[0].Elect = "first" },
		`hosts[0].elect: "first" is not a value of this key: use sticky, lowest, highest`),
	Entry("hold_max", func(c *runner.Config) { c.Hosts[0].HoldMax = -1 }, "hosts[0].hold_max: -1 is too small: use 1 or more"),
	Entry("a dial timeout", func(c *runner.Config) { c.Hosts[0].DialTimeout = 999 * time.Microsecond },
		`hosts[0].dial_timeout: "999µs" is too short: use 1ms or more`),
	Entry("an idle timeout", func(c *runner.Config) { c.Hosts[0].IdleTimeout = -1 },
		`hosts[0].idle_timeout: "-1ns" is negative: a duration is 0s or more`),
	Entry("a half-close timeout", func(c *runner.Config) { c.Hosts[0].HalfCloseTimeout = 1 },
		`hosts[0].half_close_timeout: "1ns" is too short: use 1ms or more`),
	Entry("a PROXY version to send", func(c *runner.Config) { c.Hosts[0].SendProxy = bridge.ProxyAny },
		`hosts[0].send_proxy: "any" is not a value of this key: use off, v1, v2`),
	// Checks.
	Entry("a check without a type", func(c *runner.Config) { c.Hosts[0].Check.Type = "" },
		"hosts[0].check.type: the key is missing: this program has exec, http, tcp"),
	Entry("a check of this project's that is not linked", func(c *runner.Config) { c.Hosts[0].Check.Type = "redis" },
		`hosts[0].check.type: "redis" is not a check of this program, which has exec, http, tcp: a program that embeds the router adds it to Config.Checks, from switchboard/monitor/check/redis`),
	Entry("a builder that is nil", func(c *runner.Config) {
		c.Hosts[0].Check.Type, c.Checks = "ours", map[string]check.Builder{"ours": nil}
	}, `hosts[0].check.type: "ours" is not a check of this program, which has exec, http, tcp`),
	Entry("what a builder says", func(c *runner.Config) { c.Hosts[0].Check = &check.Spec{Type: "http", Path: "status"} },
		`hosts[0].check: http check: the path "status" must begin with "/"`),
	Entry("a check's numbers, about which no builder is asked", func(c *runner.Config) {
		c.Hosts[0].Check = &check.Spec{Type: "exec", Port: 65536, Interval: 1, Timeout: -1, Rise: -2}
	}, "hosts[0].check.port: 65536 is out of range: use 1 to 65535",
		`hosts[0].check.interval: "1ns" is too short: use 1ms or more`,
		`hosts[0].check.timeout: "-1ns" is negative: a duration is 0s or more`,
		"hosts[0].check.rise: -2 is too small: use 1 or more"),
	// Backends.
	Entry("no backends", func(c *runner.Config) { c.Hosts[0].Backends = nil }, "hosts[0].backends: no backends: at least one is needed"),
	Entry("a backend with port 0", func(c *runner.Config) { c.Hosts[0].Backends[1].Address = "10.0.0.1:0" },
		`hosts[0].backends[1].address: "10.0.0.1:0" has port 0, to which nothing can connect`),
	Entry("a backend that is no address", func(c *runner.Config) { c.Hosts[0].Backends[1].Address = "[::ffff:0.0.0.0]:3306" },
		`hosts[0].backends[1].address: "[::ffff:0.0.0.0]:3306" is no address that can be connected to: write the backend's own`),
	Entry("a check port", func(c *runner.Config) { c.Hosts[0].Backends[0].CheckPort = -1 },
		"hosts[0].backends[0].check_port: -1 is out of range: use 1 to 65535"),
	Entry("a backend that is our listener", func(c *runner.Config) { c.Hosts[0].Backends[0].Address = "LOCALHOST:3306" },
		`hosts[0].backends[0].address: "LOCALHOST:3306" is our own listeners[0].bind: sessions would run in a circle`),
	Entry("a backend that is our API", func(c *runner.Config) { c.Hosts[0].Backends[0].Address = "[::ffff:127.0.0.1]:9090" },
		`hosts[0].backends[0].address: "[::ffff:127.0.0.1]:9090" is our own api.bind: sessions would run in a circle`),
	Entry("a backend behind a bind on all addresses", func(c *runner.Config) {
		c.Listeners[0].Bind, c.Hosts[0].Backends[0].Address = "0.0.0.0:3306", "[::1]:3306"
	}, `hosts[0].backends[0].address: "[::1]:3306" is our own listeners[0].bind: sessions would run in a circle`),
	// API, health and shutdown.
	Entry("a user name with a colon", func(c *runner.Config) { c.API.Username = "u:v" }, "api.username: a user name cannot hold a colon (RFC 7617)"),
	Entry("a user without a password", func(c *runner.Config) { c.API.Username = "u" },
		"api.username: there is no password: set api.password or api.password_file"),
	Entry("a password without a user, and no bind", func(c *runner.Config) { c.API = runner.API{Password: "hunter2"} },
		"api.password: there is no user name: set api.username"),
	Entry("an API on a name", func(c *runner.Config) { c.API.Bind = "router-1:9090" },
		`api.bind: "router-1:9090" can be reached from other machines: set api.username and api.password (or api.password_file), or bind to 127.0.0.1`),
	Entry("an API on our listener", func(c *runner.Config) { c.API.Bind = "localhost:3306" },
		`api.bind: "localhost:3306" is already taken by listeners[0].bind: use another port or address`),
	Entry("health within the API", func(c *runner.Config) {
		c.API, c.Health = runner.API{Bind: "[::]:9090", Username: "u", Password: "p"}, "10.0.0.9:9090"
	},
		`health.bind: "10.0.0.9:9090" is already taken by api.bind: use another port or address`),
	Entry("health around the API", func(c *runner.Config) { c.Health = "0.0.0.0:9090" },
		`health.bind: "0.0.0.0:9090" is already taken by api.bind: use another port or address`),
	Entry("a delay", func(c *runner.Config) { c.Delay = -time.Minute }, `shutdown.delay: "-1m0s" is negative: a duration is 0s or more`),
)

var _ = DescribeTable("a field at the edge", func(change func(*runner.Config)) {
	c := valid()
	change(&c)
	Expect(c.Validate()).To(Succeed())
},
	Entry("the machine's name", func(c *runner.Config) { c.Name = "" }),
	Entry("nothing at all", func(c *runner.Config) { *c = runner.Config{} }),
	Entry("no API", func(c *runner.Config) { c.API.Bind = "" }),
	Entry("an API for all with a password", func(c *runner.Config) { c.API = runner.API{Bind: "0.0.0.0:9090", Username: "u", Password: "p"} }),
	Entry("an API on IPv6 loopback", func(c *runner.Config) { c.API.Bind = "[::1]:9090" }),
	Entry("port 0 everywhere", func(c *runner.Config) {
		c.Listeners[0].Bind, c.API.Bind, c.Health = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	}),
	Entry("one port on two addresses", func(c *runner.Config) { c.API.Bind, c.Health = "127.0.0.1:9090", "127.0.0.2:9090" }),
	Entry("a backend on the port of a bind elsewhere", func(c *runner.Config) { c.Listeners[0].Bind, c.API.Bind = "10.0.0.2:3306", "127.0.0.1:3306" }),
	Entry("the shortest timeouts", func(c *runner.Config) {
		c.Hosts[0].DialTimeout, c.Hosts[0].HalfCloseTimeout = time.Millisecond, time.Millisecond
		c.Hosts[0].Check = &check.Spec{Type: "tcp", Interval: time.Millisecond, Timeout: time.Millisecond, Fall: 1, Rise: 1, Port: 65535}
		c.Hosts[0].HoldMax, c.Hosts[0].IdleTimeout = 1, 1
	}),
	Entry("PROXY from a network", func(c *runner.Config) {
		c.Listeners[0].ProxyProtocol, c.Listeners[0].TrustedProxies = bridge.ProxyV2, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	}),
	Entry("two hosts with the same backends", func(c *runner.Config) {
		c.Hosts = append(c.Hosts, c.Hosts[0])
		c.Hosts[1].Name = "db2"
	}),
)
