package runner_test

import (
	"errors"
	"net/netip"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/bridge"
	"switchboard/bridge/route"
	"switchboard/bridge/web"
	"switchboard/monitor"
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

// byName makes the host of a configuration one of policy balance, whose clients
// ask for it over HTTP.
func byName(c *runner.Config) *runner.Host {
	c.Listeners[0].Protocol, c.Listeners[0].Host = runner.HTTP, ""
	c.Hosts[0].Policy = route.Balance
	return &c.Hosts[0]
}

func weight(n int) *int { return &n }

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
		c.API.Bind, c.API.Streams, c.Health = "0.0.0.0:9090", -1, "9091"
		c.Drain = -1
		want := []string{
			`name: "-" is not a name: use letters, digits, '.', '-' and '_', beginning with a letter or digit`,
			`listeners[0].host: there is no host "bd": the hosts are db`,
			`listeners[0].max_sessions: -1 is too small: use 0 or more`,
			`hosts[0].hold: "-1s" is negative: a duration is 0s or more`,
			`hosts[0].check.type: "mongo" is not a check of this program, which has exec, http, tcp`,
			`hosts[0].check.fall: -1 is too small: use 1 or more`,
			`hosts[0].backends[1].name: "a" is already the name of hosts[0].backends[0]`,
			`api.streams: -1 is too small: use 0 or more`,
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
	Entry("a PROXY header on connections that clients share", func(c *runner.Config) {
		c.Hosts[0].HTTP.Version, c.Hosts[0].SendProxy = web.H2C, bridge.ProxyV2
	}, "hosts[0].send_proxy: a connection of h2c is shared by clients, and a PROXY header names one: set it to off, or http.version to http/1.1"),
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
	Entry("a protocol", func(c *runner.Config) { c.Listeners[0].Protocol = "udp" },
		`listeners[0].protocol: "udp" is not a value of this key: use tcp, tls, http, https`),
	Entry("a listener of no host", func(c *runner.Config) { c.Listeners[0].Host = "" },
		"listeners[0].host: the key is missing: name the host that it serves, one of db"),
	Entry("a listener of a host that stands for names", func(c *runner.Config) {
		c.Hosts[0].Name, c.Listeners[0].Host = "*.db", "*.db"
	}, `listeners[0].host: "*.db" stands for names that clients ask for, and those of protocol tcp ask for none: name another host`),
	Entry("a host where clients ask for one", func(c *runner.Config) { c.Listeners[0].Protocol = runner.TLS },
		"listeners[0].host: clients of protocol tls ask for the host by its name: remove host"),
	Entry("https without a certificate", func(c *runner.Config) { c.Listeners[0].Protocol, c.Listeners[0].Host = runner.HTTPS, "" },
		"listeners[0].tls.certificates: no certificates: protocol https needs at least one, as {cert: FILE, key: FILE}"),
	Entry("a certificate without files", func(c *runner.Config) {
		c.Listeners[0] = runner.Listener{Name: "l", Bind: "127.0.0.1:1", Protocol: runner.HTTPS, Certificates: []runner.Certificate{{}}}
	}, "listeners[0].tls.certificates[0].cert: the name of a PEM file is missing",
		"listeners[0].tls.certificates[0].key: the name of a PEM file is missing"),
	Entry("what is for http alone", func(c *runner.Config) {
		c.Listeners[0].Certificates = []runner.Certificate{{Cert: "c", Key: "k"}}
		c.Listeners[0].Timeouts.Idle, c.Listeners[0].Limits.Head = time.Second, 1000
	}, "listeners[0].tls.certificates: certificates are for protocol https: protocol tcp shows none, remove tls",
		"listeners[0].timeouts: these are for the protocols http and https: remove timeouts",
		"listeners[0].limits: these are for the protocols http and https: remove limits"),
	Entry("timeouts and limits", func(c *runner.Config) {
		c.Listeners[0] = runner.Listener{
			Name: "l", Bind: "127.0.0.1:1", Protocol: runner.HTTP, Timeouts: runner.Timeouts{Head: -1, Idle: 1, Body: 1},
			Limits: runner.Limits{Head: 255, Target: -1, Fields: -1, Body: -1},
		}
	}, `listeners[0].timeouts.head: "-1ns" is negative: a duration is 0s or more`,
		`listeners[0].timeouts.idle: "1ns" is too short: use 1ms or more`,
		`listeners[0].timeouts.body: "1ns" is too short: use 1ms or more`,
		"listeners[0].limits.head: 255 is too small: use 256 or more",
		"listeners[0].limits.target: -1 is too small: use 1 or more",
		"listeners[0].limits.fields: -1 is too small: use 1 or more",
		"listeners[0].limits.body: -1 is too small: use 0 or more"),
	Entry("trust in a listener that reads nothing", func(c *runner.Config) {
		c.Listeners[0].Protocol, c.Listeners[0].Host = runner.TLS, ""
		c.Listeners[0].TrustedProxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	}, "listeners[0].trusted_proxies: proxy_protocol is off, so nobody is believed: set it to v1, v2 or any, or remove trusted_proxies"),
	// Hosts.
	Entry("two hosts of a name", func(c *runner.Config) { c.Hosts = append(c.Hosts, c.Hosts[0]) }, `hosts[1].name: "db" is already the name of hosts[0]`),
	Entry("a host in upper case", func(c *runner.Config) { c.Hosts[0].Name = "DB" }, `hosts[0].name: "DB" is not how a host is spelled: write "db"`),
	Entry("a host with two dots", func(c *runner.Config) { c.Hosts[0].Name = "d..b" },
		`hosts[0].name: "d..b" is not a host name: two dots with nothing between them`),
	Entry("a wildcard in upper case", func(c *runner.Config) { byName(c).Name = "*.DB" },
		`hosts[0].name: "*.DB" is not how a host is spelled: write "*.db"`),
	Entry("a wildcard in the middle", func(c *runner.Config) { byName(c).Name = "a.*.db" },
		`hosts[0].name: "a.*.db" is not a name: use letters, digits, '.', '-' and '_', beginning with a letter or digit`),
	Entry("a wildcard over an address", func(c *runner.Config) { byName(c).Name = "*.10.0.0.1" },
		`hosts[0].name: "*.10.0.0.1" stands for no name: an IP address has none below it`),
	Entry("a policy", func(c *runner.Config) { c.Hosts[0].Policy = "both" },
		`hosts[0].policy: "both" is not a value of this key: use active, balance`),
	Entry("what is for the other policy, under active", func(c *runner.Config) {
		c.Hosts[0].Choose, c.Hosts[0].StickyBy, c.Hosts[0].Backends[1].Weight = route.LeastSessions, "client", weight(0)
	}, "hosts[0].choose: policy active has one backend, so there is nothing to choose: remove choose, or set policy to balance",
		"hosts[0].sticky_by: this is for policy balance with choose sticky: remove sticky_by, or set both",
		"hosts[0].backends[1].weight: policy active has one backend, which gets everything: remove weight, or set policy to balance"),
	Entry("what is for the other policy, under balance", func(c *runner.Config) {
		c.Hosts[0].Policy, c.Hosts[0].Elect, c.Hosts[0].StickyBy = route.Balance, monitor.Lowest, "client"
	}, "hosts[0].elect: policy balance uses all healthy backends and elects none: remove elect, or set policy to active",
		"hosts[0].sticky_by: this is for policy balance with choose sticky: remove sticky_by, or set both"),
	Entry("a choice", func(c *runner.Config) { c.Hosts[0].Policy, c.Hosts[0].Choose = route.Balance, "first" },
		`hosts[0].choose: "first" is not a value of this key: use random, least_sessions, sticky`),
	Entry("sticky by nothing", func(c *runner.Config) { c.Hosts[0].Policy, c.Hosts[0].Choose = route.Balance, route.Sticky },
		"hosts[0].sticky_by: the key is missing: choose sticky needs to know clients, by cookie:NAME, header:NAME or client"),
	Entry("sticky by what is unknown", func(c *runner.Config) {
		h := byName(c)
		h.Choose, h.StickyBy = route.Sticky, "session"
	}, `hosts[0].sticky_by: "session" is not what a client is known by: write cookie:NAME, header:NAME or client`),
	Entry("sticky by a cookie over tcp", func(c *runner.Config) {
		c.Hosts[0].Policy, c.Hosts[0].Choose, c.Hosts[0].StickyBy = route.Balance, route.Sticky, "cookie:a"
	}, "hosts[0].sticky_by: a listener of protocol tcp serves this host, and its clients send no cookie: use client"),
	Entry("weights", func(c *runner.Config) {
		h := byName(c)
		h.Backends[0].Weight, h.Backends[1].Weight = weight(-1), weight(route.MaxWeight+1)
	}, "hosts[0].backends[0].weight: -1 is out of range: use 0 to 1000000",
		"hosts[0].backends[1].weight: 1000001 is out of range: use 0 to 1000000"),
	Entry("no weight at all", func(c *runner.Config) {
		h := byName(c)
		h.Backends[0].Weight, h.Backends[1].Weight = weight(0), weight(0)
	}, "hosts[0].backends: all weights are 0, so nobody serves the host: give at least one backend a weight of 1 or more"),
	Entry("what requests go by", func(c *runner.Config) {
		byName(c).HTTP = runner.HostHTTP{Version: "h3", HeadTimeout: 1, TotalTimeout: -1, PoolIdle: 1}
	}, `hosts[0].http.version: "h3" is not a value of this key: use http/1.1, h2c`,
		`hosts[0].http.head_timeout: "1ns" is too short: use 1ms or more`,
		`hosts[0].http.total_timeout: "-1ns" is negative: a duration is 0s or more`,
		`hosts[0].http.pool_idle: "1ns" is too short: use 1ms or more`),
	Entry("a depth", func(c *runner.Config) { c.WildcardDepth = -1 }, "wildcard_depth: -1 is too small: use 1 or more"),
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
	Entry("names that clients ask for", func(c *runner.Config) {
		c.WildcardDepth = 2
		byName(c).Name = "*"
		c.Hosts = append(c.Hosts, c.Hosts[0], c.Hosts[0])
		c.Hosts[1].Name, c.Hosts[2].Name = "*.db", "nobody.asks.for.this"
	}),
	Entry("a host of balance over http", func(c *runner.Config) {
		h := byName(c)
		h.Choose, h.StickyBy, h.Hold = route.Sticky, "header:X-User", time.Second
		h.Backends[0].Weight, h.Backends[1].Weight = weight(0), weight(route.MaxWeight)
		h.HTTP = runner.HostHTTP{Version: web.H2C, HeadTimeout: time.Millisecond, PoolIdle: time.Millisecond, Pool: -1, Retries: -1}
		c.Listeners[0].Timeouts = runner.Timeouts{Head: time.Millisecond, Idle: time.Millisecond, Body: time.Millisecond}
		c.Listeners[0].Limits = runner.Limits{Head: 256, Target: 1, Fields: 1, Body: 1}
		c.Listeners[0].TrustedProxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	}),
	Entry("https, whose files are not opened", func(c *runner.Config) {
		byName(c)
		c.Listeners[0].Protocol, c.Listeners[0].Certificates = runner.HTTPS, []runner.Certificate{{Cert: "/none/cert", Key: "/none/key"}}
	}),
	Entry("sticky by client over tcp", func(c *runner.Config) {
		c.Hosts[0].Policy, c.Hosts[0].Choose, c.Hosts[0].StickyBy = route.Balance, route.Sticky, "client"
	}),
	Entry("defaults that are spelt out under the other policy", func(c *runner.Config) {
		c.Hosts[0].Choose, c.Hosts[0].Backends[0].Weight = route.Random, weight(1)
		c.Hosts = append(c.Hosts, c.Hosts[0])
		c.Hosts[1].Name, c.Hosts[1].Policy, c.Hosts[1].Elect = "db2", route.Balance, monitor.Sticky
	}),
	Entry("two hosts with the same backends", func(c *runner.Config) {
		c.Hosts = append(c.Hosts, c.Hosts[0])
		c.Hosts[1].Name = "db2"
	}),
)
