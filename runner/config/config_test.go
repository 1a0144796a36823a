package config_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/bridge"
	"switchboard/bridge/route"
	"switchboard/bridge/web"
	"switchboard/fixtures/spec"
	"switchboard/monitor/check"
	"switchboard/monitor/check/redis"
	"switchboard/runner"
	"switchboard/runner/config"
)

// design is the example of the design page, without what this version lacks.
const design = `name: router-1                    # default: the machine's name
listeners:
  - name: mysql
    bind: 127.0.0.1:3306
    protocol: tcp                 # tcp | tls | http | https
    host: db.main                 # tcp only: the one host it serves
    proxy_protocol: off           # off | v1 | v2 | any, accepted from trusted_proxies only
    trusted_proxies: []
    max_sessions: 0               # 0: what file descriptors allow
hosts:
  - name: db.main
    policy: active                # active | balance
    elect: sticky                 # active only: sticky | lowest | highest
    choose: random                # balance only: random | least_sessions | sticky
    sticky_by: ""                 # "cookie:NAME" | "header:NAME" | "client"
    hold: 0s
    hold_max: 1000
    dial_timeout: 1s
    idle_timeout: 0s              # 0: never
    half_close_timeout: 30s
    send_proxy: off
    http: {head_timeout: 60s, total_timeout: 0s, pool: 100, pool_idle: 60s, retries: 1}
    check:
      type: http
      port: 9200                  # default: the backend's own port
      path: /api/v1/status
      interval: 200ms
      timeout: 1s
      fall: 2
      rise: 2
      username: ""                # mysql, galera, postgres, redis
      password_file: ""
      command: []                 # exec
    backends:
      - {name: db-0, address: 10.0.0.1:3306, check_port: 9200}
      - {name: db-1, address: 10.0.0.2:3306, weight: 1}
state: /var/lib/switchboard
api:
  bind: 127.0.0.1:9090
  username: ""
  password: ""
health:
  bind: ""
shutdown:
  delay: 0s
  drain: 10s
log:
  level: info
  format: json
  access: ""
redis:
  url: redis://127.0.0.1:6379/0
  prefix: "switchboard:"
stats:
  redis: {url: "redis://127.0.0.1:6380"}
  log: access.log
`

// small is the least that a router needs, in JSON.
const small = `{"name": "r", "listeners": [{"name": "l", "bind": "127.0.0.1:3306", "host": "h"}],
 "hosts": [{"name": "h", "backends": [{"name": "b", "address": "10.0.0.1:3306"}]}]}`

func load(data string, env ...string) (*config.File, error) {
	return config.Load(config.Source{Path: "f.yaml", Data: []byte(data), Env: env, Checks: linked()})
}

// linked are checks of a program's own, and two that the schema knows.
func linked() map[string]check.Builder {
	return map[string]check.Builder{"ours": check.TCP, "x": check.TCP, "mysql": check.TCP, "redis": redis.New}
}

func mustLoad(data string, env ...string) *config.File {
	GinkgoHelper()
	file, err := load(data, env...)
	Expect(err).NotTo(HaveOccurred())
	return file
}

// lines are the lines of an error.
func lines(err error) []string {
	if err == nil {
		return nil
	}
	return strings.Split(err.Error(), "\n")
}

// with is the example with one piece of it replaced.
func with(old, replacement string) string {
	GinkgoHelper()
	Expect(strings.Count(design, old)).To(Equal(1), "%q must be in the example once", old)
	return strings.Replace(design, old, replacement, 1)
}

var _ = Describe("Load", func() {
	It("reads the example", func() {
		Expect(mustLoad(design)).To(Equal(&config.File{
			Name: "router-1",
			Listeners: []config.Listener{{
				Name: "mysql", Bind: "127.0.0.1:3306", Protocol: "tcp", Host: "db.main",
				ProxyProtocol: "off", TrustedProxies: []netip.Prefix{},
			}},
			Hosts: []config.Host{{
				Name: "db.main", Policy: "active", Elect: "sticky", Choose: "random", HoldMax: 1000,
				DialTimeout: time.Second, HalfCloseTimeout: 30 * time.Second, SendProxy: "off",
				HTTP: config.HostHTTP{Version: "http/1.1", HeadTimeout: time.Minute, Pool: 100, PoolIdle: time.Minute, Retries: 1},
				Check: &config.Check{
					Type: "http", Port: 9200, Path: "/api/v1/status", Interval: 200 * time.Millisecond,
					Timeout: time.Second, Fall: 2, Rise: 2, Command: []string{},
				},
				Backends: []config.Backend{
					{Name: "db-0", Address: "10.0.0.1:3306", Weight: 1, CheckPort: 9200},
					{Name: "db-1", Address: "10.0.0.2:3306", Weight: 1},
				},
			}},
			WildcardDepth: 1,

			Redis: config.Redis{URL: "redis://127.0.0.1:6379/0", Prefix: "switchboard:"},
			Stats: config.Stats{
				Redis: config.Redis{URL: "redis://127.0.0.1:6380", Prefix: "switchboard:"}, Log: "access.log", Interval: 500 * time.Millisecond,
			},
			State:    "/var/lib/switchboard",
			API:      config.API{Bind: "127.0.0.1:9090"},
			Shutdown: config.Shutdown{Drain: 10 * time.Second},
			Log:      config.Log{Level: "info", Format: "json"},
		}))
	})

	It("fills in the defaults, which are those of the example", func() {
		file, example := mustLoad(small), mustLoad(design)
		Expect(file.API).To(Equal(example.API))
		Expect(file.Health).To(Equal(example.Health))
		Expect(file.Shutdown).To(Equal(example.Shutdown))
		Expect(file.Log).To(Equal(example.Log))
		host := example.Hosts[0]
		host.Name, host.Check, host.Backends = "h", nil, []config.Backend{{Name: "b", Address: "10.0.0.1:3306", Weight: 1}}
		Expect(file.Hosts).To(Equal([]config.Host{host}))
		Expect(file.Listeners[0].Protocol).To(Equal("tcp"))
		Expect(file.Listeners[0].ProxyProtocol).To(Equal("off"))
		Expect(file.State).To(BeEmpty())

		withCheck := mustLoad(small, "SWITCHBOARD_HOSTS_0_CHECK_TYPE=http").Hosts[0].Check
		check := *example.Hosts[0].Check
		check.Port, check.Command = 0, nil
		Expect(*withCheck).To(Equal(check))
		Expect(mustLoad(small, "SWITCHBOARD_HOSTS_0_CHECK_TYPE=tcp").Hosts[0].Check.Path).To(BeEmpty())
	})

	It("takes the machine's name for a router without one", func() {
		machine, err := os.Hostname()
		Expect(err).NotTo(HaveOccurred())
		Expect(mustLoad(strings.Replace(small, `"name": "r", `, "", 1)).Name).To(Equal(machine))
	})

	It("counts the access log where statistics name no other", func() {
		file := mustLoad(small, "SWITCHBOARD_STATS_REDIS_URL=redis://127.0.0.1", "SWITCHBOARD_LOG_ACCESS=/x/access.log")
		Expect(file.Stats.Log).To(Equal("/x/access.log"))
		Expect(file.Stats.Redis.Store().String()).To(Equal("redis://127.0.0.1"))
		Expect(mustLoad(small).Stats.Log).To(BeEmpty())
	})

	It("reads JSON that is indented with tabs, and a byte order mark", func() {
		var value any
		Expect(json.Unmarshal([]byte(small), &value)).To(Succeed())
		indented, err := json.MarshalIndent(value, "", "\t")
		Expect(err).NotTo(HaveOccurred())
		Expect(mustLoad("\ufeff" + string(indented))).To(Equal(mustLoad(small)))
	})

	It("gives host names their one spelling", func() {
		file := mustLoad(with("    host: db.main", "    host: DB.main."))
		Expect(file.Listeners[0].Host).To(Equal("db.main"))
	})

	It("reads a file with Windows line ends", func() {
		Expect(mustLoad(strings.ReplaceAll(design, "\n", "\r\n"))).To(Equal(mustLoad(design)))
	})

	It("finds a backend behind a bind on all addresses", func() {
		_, err := load(small, "SWITCHBOARD_LISTENERS_0_BIND=[::]:3306", "SWITCHBOARD_HOSTS_0_BACKENDS_1_NAME=c", "SWITCHBOARD_HOSTS_0_BACKENDS_1_ADDRESS=127.0.0.2:3306")
		Expect(lines(err)).To(Equal([]string{
			`SWITCHBOARD_HOSTS_0_BACKENDS_1_ADDRESS: hosts[0].backends[1].address: "127.0.0.2:3306" is our own listeners[0].bind: sessions would run in a circle`,
		}))
	})

	It("does not mistake port 0 for the same address twice", func() {
		Expect(load(with("bind: 127.0.0.1:3306", "bind: 127.0.0.1:0"), "SWITCHBOARD_API_BIND=127.0.0.1:0")).NotTo(BeNil())
	})

	It("accepts a 0 without a unit", func() {
		Expect(mustLoad(with("drain: 10s", "drain: 0")).Shutdown.Drain).To(BeZero())
	})

	It("accepts every key for a check type of another's, and keeps its own", func() {
		file := mustLoad(with("type: http", "type: ours"), "SWITCHBOARD_HOSTS_0_CHECK_COMMAND=a,b")
		Expect(file.Hosts[0].Check.Command).To(Equal([]string{"a", "b"}))
		Expect(file.Hosts[0].Check.Path).To(Equal("/api/v1/status"))
	})

	It("reports everything at once, in order", func() {
		_, err := load(`lisners: []
redis: {url: "redis://127.0.0.1", prefix: x}
listeners:
- bind: "9"
  name: l
  prtocol: tcp
  host: h
hosts:
- backends: []
  name: h
api: {bind: 10.0.0.1:1, username: u}
`, "SWITCHBOARD_LOG_LEVEL=loud", "SWITCHBOARD_API_BNID=", "SWITCHBOARD_HEALTH_BIND=x")
		Expect(lines(err)).To(Equal([]string{
			`f.yaml:1:1: lisners: unknown key "lisners": did you mean "listeners"?`,
			`f.yaml:4:9: listeners[0].bind: "9" has no port: write host:port`,
			`f.yaml:6:3: listeners[0].prtocol: unknown key "prtocol": did you mean "protocol"?`,
			`f.yaml:9:13: hosts[0].backends: no backends: at least one is needed`,
			`f.yaml:11:35: api.username: there is no password: set api.password or api.password_file`,
			`SWITCHBOARD_API_BNID: unknown variable: did you mean SWITCHBOARD_API_BIND?`,
			`SWITCHBOARD_HEALTH_BIND: health.bind: "x" has no port: write host:port`,
			`SWITCHBOARD_LOG_LEVEL: log.level: "loud" is not a value of this key: use debug, info, warn, error`,
		}))
		var all config.Errors
		Expect(errors.As(err, &all)).To(BeTrue())
		Expect(all[1]).To(HaveField("Where", "f.yaml:4:9"))
		Expect(all[1]).To(HaveField("Key", "listeners[0].bind"))
		Expect(all[1]).To(HaveField("Problem", HavePrefix(`"9" has no port`)))
	})
})

var _ = DescribeTable("a wrong line in the example", func(old, replacement string, wrong ...string) {
	file, err := load(with(old, replacement))
	Expect(lines(err)).To(Equal(wrong))
	Expect(file).To(BeNil())
},
	// Keys.
	Entry("an unknown key that is near to none", "state: /var", "frobnicate: 1\nstate: /var",
		`f.yaml:37:1: frobnicate: unknown key "frobnicate": the keys here are name, listeners, hosts, wildcard_depth, redis, state, api, health, shutdown, log, stats`),
	Entry("a key of another mapping", "  drain: 10s", "  drian: 10s",
		`f.yaml:46:3: shutdown.drian: unknown key "drian": did you mean "drain"?`),
	Entry("a key that breaks lines", "state: /var", "\"a\\nb\": 1\nstate: /var",
		`f.yaml:37:1: "a\nb": unknown key "a\nb": the keys here are name, listeners, hosts, wildcard_depth, redis, state, api, health, shutdown, log, stats`),
	Entry("a key in upper case", "state: /var", "State: /var",
		`f.yaml:37:1: State: unknown key "State": did you mean "state"?`),
	Entry("a key set twice", "  drain: 10s", "  drain: 10s\n  drain: 11s",
		`f.yaml:47:3: shutdown.drain: the key is set twice, first on line 46: remove one`),
	Entry("a mapping set twice", "health:\n", "api: {}\nhealth:\n",
		`f.yaml:42:1: api: the key is set twice, first on line 38: remove one`),
	Entry("a table that is nowhere", "url: redis://127.0.0.1:6379/0", "url: http://u:hunter2@x",
		`f.yaml:52:8: redis.url: http:// is no scheme of Redis: use redis, rediss, unix, redis-sentinel or redis-cluster`),
	Entry("a prefix without a hash tag", "url: redis://127.0.0.1:6379/0", "url: redis-cluster://x",
		`f.yaml:53:11: redis.prefix: on a Redis Cluster the prefix must carry a hash tag, as in "{switchboard}:": "switchboard:" has none`),
	Entry("a prefix of no table", "  url: redis://127.0.0.1:6379/0\n", "",
		`f.yaml:52:11: redis.prefix: there is no redis.url: set it, or remove this key`),
	Entry("statistics that are nowhere", "redis://127.0.0.1:6380", "redis://",
		`f.yaml:55:16: stats.redis.url: an address of Redis is HOST or HOST:PORT, an IPv6 address being in brackets`),
	Entry("statistics of no log", "\n  log: access.log", "",
		`f.yaml:55:3: stats: there is no file to count: set log.access, or stats.log`),
	Entry("statistics of stdout", "log: access.log", `log: "-"`,
		`f.yaml:55:3: stats: what goes to stdout cannot be counted: let log.access, or stats.log, be a file`),
	Entry("a log without statistics", `redis: {url: "redis://127.0.0.1:6380"}`, "interval: 1s",
		`f.yaml:56:8: stats.log: there is no stats.redis.url: set it, or remove this key`),
	Entry("tls without a certificate", "    bind: 127.0.0.1:3306", "    bind: 127.0.0.1:3306\n    tls: {certificates: []}",
		`f.yaml:5:25: listeners[0].tls.certificates: no certificates: at least one is needed`),
	Entry("a certificate without a key", "    protocol: tcp                 # tcp | tls | http | https\n    host: db.main ", "    protocol: https\n    tls: {certificates: [{cert: /none/such}]} ",
		`f.yaml:6:26: listeners[0].tls.certificates[0].key: the key is missing: PEM file with its private key`),
	Entry("certificates that are not there", "    protocol: tcp                 # tcp | tls | http | https\n    host: db.main ", "    protocol: https\n    tls: {certificates: [{cert: /none/such, key: config_test.go}]} ",
		`f.yaml:6:33: listeners[0].tls.certificates[0].cert: "/none/such" cannot be read: no such file or directory`),
	Entry("certificates that are none", "    protocol: tcp                 # tcp | tls | http | https\n    host: db.main ", "    protocol: https\n    tls: {certificates: [{cert: doc.go, key: doc.go}]} ",
		`f.yaml:6:26: listeners[0].tls.certificates[0]: "doc.go" and "doc.go" are no certificate and its key: tls: failed to find any PEM data in certificate input`),
	Entry("timeouts of tcp", "    bind: 127.0.0.1:3306", "    bind: 127.0.0.1:3306\n    timeouts: {head: 5s}",
		`f.yaml:5:15: listeners[0].timeouts: these are for the protocols http and https: remove timeouts`),
	Entry("a timeout of 0", "    protocol: tcp                 # tcp | tls | http | https\n    host: db.main ", "    protocol: http\n    timeouts: {idle: 0s} ",
		`f.yaml:6:22: listeners[0].timeouts.idle: "0s" is too short: use 1ms or more`),
	Entry("a limit", "    protocol: tcp                 # tcp | tls | http | https\n    host: db.main ", "    protocol: http\n    limits: {head: 255} ",
		`f.yaml:6:20: listeners[0].limits.head: 255 is too small: use 256 or more`),
	Entry("a host of http", "protocol: tcp  ", "protocol: http  ",
		`f.yaml:6:11: listeners[0].host: clients of protocol http ask for the host by its name: remove host`),
	Entry("a choice under active", "choose: random", "choose: least_sessions",
		`f.yaml:14:13: hosts[0].choose: policy active has one backend, so there is nothing to choose: remove choose, or set policy to balance`),
	Entry("a weight under active", "weight: 1", "weight: 2",
		`f.yaml:36:54: hosts[0].backends[1].weight: policy active has one backend, which gets everything: remove weight, or set policy to balance`),
	Entry("a weight too great", "weight: 1", "weight: 1000001",
		`f.yaml:36:54: hosts[0].backends[1].weight: 1000001 is out of range: use 0 to 1000000`),
	Entry("a negative pool", "pool: 100", "pool: -1", `f.yaml:22:56: hosts[0].http.pool: -1 is too small: use 0 or more`),
	Entry("a depth", "state: /var", "wildcard_depth: 0\nstate: /var", `f.yaml:37:17: wildcard_depth: 0 is too small: use 1 or more`),
	Entry("a check's database", "      fall: 2", "      database: x",
		`f.yaml:29:17: hosts[0].check.database: this key is not for a check of type http but for postgres, mysql, galera: remove it`),
	Entry("a truth that is none", "      fall: 2", "      donors: yes", `f.yaml:29:15: hosts[0].check.donors: the value must be true or false`),
	Entry("a truth in quotes", "      fall: 2", `      donors: "true"`, `f.yaml:29:15: hosts[0].check.donors: the value must be true or false`),
	Entry("a text that looks like a truth", "      fall: 2", "      database: true", `f.yaml:29:17: hosts[0].check.database: the value must be text: put it in quotes`),
	Entry("a number that is a truth", "      fall: 2", "      fall: true", `f.yaml:29:13: hosts[0].check.fall: the value has the wrong type: write a number`),
	Entry("a wrong key of tls", "      fall: 2", "      tls: {enable: true}", `f.yaml:29:13: hosts[0].check.tls.enable: unknown key "enable": did you mean "enabled"?`),
	// Kinds.
	Entry("a number for text", "router-1 ", "1 ", `f.yaml:1:7: name: the value must be text: put it in quotes`),
	Entry("a boolean for text", "router-1 ", "true ", `f.yaml:1:7: name: the value must be text: put it in quotes`),
	Entry("nothing for text", "router-1 ", " ", `f.yaml:1:6: name: the value is empty: write text, or remove the key`),
	Entry("null for a mapping", "health:\n  bind: \"\"", "health: ~",
		`f.yaml:42:9: health: the value is empty: write a mapping (key: value), or remove the key`),
	Entry("text for a mapping", "health:\n  bind: \"\"", "health: x",
		`f.yaml:42:9: health: a single value is not allowed here: write a mapping (key: value)`),
	Entry("a mapping for text", "state: /var/lib/switchboard", "state: {dir: /var}",
		`f.yaml:37:8: state: a mapping is not allowed here: write text`),
	Entry("a list for a number", "hold_max: 1000", "hold_max: [1]",
		`f.yaml:17:15: hosts[0].hold_max: a list is not allowed here: write a number`),
	Entry("text for a number", "hold_max: 1000", `hold_max: "1000"`,
		`f.yaml:17:15: hosts[0].hold_max: the value must be a number, without quotes`),
	Entry("a word for a number", "hold_max: 1000", `hold_max: many`,
		`f.yaml:17:15: hosts[0].hold_max: the value must be a number, without quotes`),
	Entry("a fraction for a number", "hold_max: 1000", `hold_max: 1.5`,
		`f.yaml:17:15: hosts[0].hold_max: the value has the wrong type: write a number`),
	Entry("an octal number", "hold_max: 1000", `hold_max: 010`,
		`f.yaml:17:15: hosts[0].hold_max: "010" is not a plain decimal number`),
	Entry("text for a list", "trusted_proxies: []", "trusted_proxies: 10.0.0.0/8",
		`f.yaml:8:22: listeners[0].trusted_proxies: a single value is not allowed here: write a list`),
	Entry("a list in a list", "trusted_proxies: []", "trusted_proxies: [[]]",
		`f.yaml:8:23: listeners[0].trusted_proxies[0]: a list is not allowed here: write a network such as 10.0.0.0/8`),
	Entry("text for a backend", "{name: db-1, address: 10.0.0.2:3306, weight: 1}", "10.0.0.2:3306",
		`f.yaml:36:9: hosts[0].backends[1]: a single value is not allowed here: write a mapping (key: value)`),
	// Numbers and durations.
	Entry("a negative number", "hold_max: 1000", "hold_max: -1", `f.yaml:17:15: hosts[0].hold_max: -1 is too small: use 1 or more`),
	Entry("nobody who may wait", "hold_max: 1000", "hold_max: 0", `f.yaml:17:15: hosts[0].hold_max: 0 is too small: use 1 or more`),
	Entry("a half-close timeout of 0", "half_close_timeout: 30s", "half_close_timeout: 0s", `f.yaml:20:25: hosts[0].half_close_timeout: "0s" is too short: use 1ms or more`),
	Entry("negative sessions", "max_sessions: 0", "max_sessions: -5", `f.yaml:9:19: listeners[0].max_sessions: -5 is too small: use 0 or more`),
	Entry("fall 0", "fall: 2", "fall: 0", `f.yaml:29:13: hosts[0].check.fall: 0 is too small: use 1 or more`),
	Entry("rise 0", "rise: 2", "rise: 0", `f.yaml:30:13: hosts[0].check.rise: 0 is too small: use 1 or more`),
	Entry("port 0", "port: 9200  ", "port: 0  ", `f.yaml:25:13: hosts[0].check.port: 0 is out of range: use 1 to 65535`),
	Entry("port 65536", "check_port: 9200", "check_port: 65536", `f.yaml:35:58: hosts[0].backends[0].check_port: 65536 is out of range: use 1 to 65535`),
	Entry("a number too large for the machine", "hold_max: 1000", "hold_max: 9999999999999999999",
		`f.yaml:17:15: hosts[0].hold_max: "9999999999999999999" is not a plain decimal number`),
	Entry("a duration without a unit", "interval: 200ms", "interval: 200",
		`f.yaml:27:17: hosts[0].check.interval: "200" has no unit: write a duration such as 500ms, 10s or 2m`),
	Entry("a duration without a unit in quotes", "interval: 200ms", "interval: '1.5'",
		`f.yaml:27:17: hosts[0].check.interval: "1.5" has no unit: write a duration such as 500ms, 10s or 2m`),
	Entry("a duration in days", "drain: 10s", "drain: 1d", `f.yaml:46:10: shutdown.drain: "1d" is not a duration: write one such as 500ms, 10s or 2m`),
	Entry("a negative duration", "hold: 0s", "hold: -1s", `f.yaml:16:11: hosts[0].hold: "-1s" is negative: a duration is 0s or more`),
	Entry("a timeout of 0", "timeout: 1s\n      fall", "timeout: 0s\n      fall", `f.yaml:28:16: hosts[0].check.timeout: "0s" is too short: use 1ms or more`),
	Entry("an interval of nanoseconds", "interval: 200ms", "interval: 200ns", `f.yaml:27:17: hosts[0].check.interval: "200ns" is too short: use 1ms or more`),
	Entry("a dial timeout of 0", "dial_timeout: 1s", "dial_timeout: 0s", `f.yaml:18:19: hosts[0].dial_timeout: "0s" is too short: use 1ms or more`),
	Entry("an endless duration", "drain: 10s", "drain: 9999999999h",
		`f.yaml:46:10: shutdown.drain: "9999999999h" is not a duration: write one such as 500ms, 10s or 2m`),
	// Choices.
	Entry("an unknown protocol", "protocol: tcp  ", "protocol: udp  ", `f.yaml:5:15: listeners[0].protocol: "udp" is not a value of this key: use tcp, tls, http, https`),
	Entry("an unknown policy", "policy: active", "policy: both", `f.yaml:12:13: hosts[0].policy: "both" is not a value of this key: use active, balance`),
	Entry("a misspelt election", "elect: sticky", "elect: stiky", `f.yaml:13:12: hosts[0].elect: "stiky" is not a value of this key: did you mean "sticky"?`),
	Entry("PROXY version 3", "send_proxy: off", "send_proxy: v3", `f.yaml:21:17: hosts[0].send_proxy: "v3" is not a value of this key: did you mean "v1"?`),
	Entry("an empty level", "level: info", `level: ""`, `f.yaml:48:10: log.level: "" is not a value of this key: use debug, info, warn, error`),
	// Names and addresses.
	Entry("a name with a space", "router-1 ", "router 1 ", `f.yaml:1:7: name: "router 1" is not a name: use letters, digits, '.', '-' and '_', beginning with a letter or digit`),
	Entry("an empty name", "- name: mysql", `- name: ""`, `f.yaml:3:11: listeners[0].name: the value must not be empty`),
	Entry("a listener without a bind", "    bind: 127.0.0.1:3306\n", "", `f.yaml:3:5: listeners[0].bind: the key is missing: host:port to listen on; port 0 is any free one`),
	Entry("a listener without a host", "    host: db.main ", "    #", `f.yaml:3:5: listeners[0].host: the key is missing: name the host that it serves, one of db.main`),
	Entry("a listener with another host", "host: db.main ", "host: db.mian ", `f.yaml:6:11: listeners[0].host: there is no host "db.mian": the hosts are db.main`),
	Entry("a bind of a port alone", "bind: 127.0.0.1:3306", `bind: ":3306"`, `f.yaml:4:11: listeners[0].bind: ":3306" has no address: write 0.0.0.0:3306 to listen on all`),
	Entry("a bind of a number", "bind: 127.0.0.1:3306", `bind: 3306`, `f.yaml:4:11: listeners[0].bind: "3306" has no port: write host:port`),
	Entry("a host of a number that nobody names", "  - name: db.main", "  - name: 1", `f.yaml:6:11: listeners[0].host: there is no host "db.main": the hosts are 1`,
		`f.yaml:11:11: hosts[0].name: the value must be text: put it in quotes`),
	Entry("a host that is IPv6", "  - name: db.main", "  - name: '::1'", `f.yaml:11:11: hosts[0].name: "::1" is not a name: use letters, digits, '.', '-' and '_', beginning with a letter or digit`),
	Entry("a host without a backend to read", "backends:\n      - {name: db-0, address: 10.0.0.1:3306, check_port: 9200}\n      - {name: db-1, address: 10.0.0.2:3306, weight: 1}", "backends: x",
		`f.yaml:34:15: hosts[0].backends: a single value is not allowed here: write a list`),
	Entry("a host that cannot be read", "  - name: db.main", "  - db.main\n  - name: db.mian", `f.yaml:11:5: hosts[0]: a single value is not allowed here: write a mapping (key: value)`),
	Entry("a bind without a port", "bind: 127.0.0.1:3306", `bind: localhost`, `f.yaml:4:11: listeners[0].bind: "localhost" has no port: write host:port`),
	Entry("a backend with port 0", "10.0.0.1:3306", "10.0.0.1:0", `f.yaml:35:31: hosts[0].backends[0].address: "10.0.0.1:0" has port 0, to which nothing can connect`),
	Entry("a backend that is IPv6 without brackets", "10.0.0.1:3306", `"::1:3306"`, `f.yaml:35:31: hosts[0].backends[0].address: "::1:3306" is ambiguous: write an IPv6 address in brackets, as in [::1]:3306`),
	Entry("a backend that is no address", "10.0.0.1:3306", "0.0.0.0:3306", `f.yaml:35:31: hosts[0].backends[0].address: "0.0.0.0:3306" is no address that can be connected to: write the backend's own`),
	Entry("a backend that is no IPv6 address", "10.0.0.1:3306", `"[::]:3306"`, `f.yaml:35:31: hosts[0].backends[0].address: "[::]:3306" is no address that can be connected to: write the backend's own`),
	Entry("a backend without an address", ", address: 10.0.0.2:3306", "", `f.yaml:36:9: hosts[0].backends[1].address: the key is missing: host:port to connect to`),
	Entry("two backends of a name", "name: db-1", "name: db-0", `f.yaml:36:16: hosts[0].backends[1].name: "db-0" is already the name of hosts[0].backends[0]`),
	Entry("two hosts of a name", "state: /var", "  - {name: DB.MAIN, backends: [{name: a, address: 10.0.0.3:1}]}\nstate: /var",
		`f.yaml:37:12: hosts[1].name: "db.main" is already the name of hosts[0]`),
	Entry("two listeners of a name and a bind", "hosts:\n", "  - {name: mysql, bind: 127.0.0.1:3306, host: db.main}\nhosts:\n",
		`f.yaml:10:12: listeners[1].name: "mysql" is already the name of listeners[0]`,
		`f.yaml:10:25: listeners[1].bind: "127.0.0.1:3306" is already taken by listeners[0].bind: use another port or address`),
	Entry("a bind within another", "bind: 127.0.0.1:3306", "bind: 0.0.0.0:9090",
		`f.yaml:39:9: api.bind: "127.0.0.1:9090" is already taken by listeners[0].bind: use another port or address`),
	Entry("health on the API's bind", "health:\n  bind: \"\"", "health:\n  bind: localhost:9090",
		`f.yaml:43:9: health.bind: "localhost:9090" is already taken by api.bind: use another port or address`),
	Entry("a backend that is our listener", "10.0.0.1:3306", "localhost:3306",
		`f.yaml:35:31: hosts[0].backends[0].address: "localhost:3306" is our own listeners[0].bind: sessions would run in a circle`),
	Entry("a backend that is our API", "10.0.0.1:3306", "'[::ffff:127.0.0.1]:9090'",
		`f.yaml:35:31: hosts[0].backends[0].address: "[::ffff:127.0.0.1]:9090" is our own api.bind: sessions would run in a circle`),
	// Proxies.
	Entry("PROXY from nobody", "proxy_protocol: off", "proxy_protocol: v2",
		`f.yaml:7:21: listeners[0].proxy_protocol: trusted_proxies is missing: list the networks whose PROXY header is believed`),
	Entry("trust without PROXY", "trusted_proxies: []", "trusted_proxies: [10.0.0.0/8]",
		`f.yaml:8:22: listeners[0].trusted_proxies: proxy_protocol is off, so nobody is believed: set it to v1, v2 or any, or remove trusted_proxies`),
	Entry("an address for a network", "trusted_proxies: []", "trusted_proxies: [10.0.0.0/8, 10.0.0.1]",
		`f.yaml:8:35: listeners[0].trusted_proxies[1]: "10.0.0.1" is an address, not a network: write 10.0.0.1/32`),
	Entry("a network with bits too many", "trusted_proxies: []", "trusted_proxies: [10.0.0.1/8]",
		`f.yaml:8:23: listeners[0].trusted_proxies[0]: "10.0.0.1/8" has bits beyond its length: write 10.0.0.0/8`),
	Entry("an IPv4 network in IPv6", "trusted_proxies: []", `trusted_proxies: ["::ffff:10.0.0.0/104"]`,
		`f.yaml:8:23: listeners[0].trusted_proxies[0]: "::ffff:10.0.0.0/104" is an IPv4 network in IPv6 spelling: write it as IPv4`),
	Entry("PROXY from who cannot be read", "proxy_protocol: off           # off | v1 | v2 | any, accepted from trusted_proxies only\n    trusted_proxies: []", "proxy_protocol: v1\n    trusted_proxies: all",
		`f.yaml:8:22: listeners[0].trusted_proxies: a single value is not allowed here: write a list`),
	Entry("trust in what cannot be read", "proxy_protocol: off           # off | v1 | v2 | any, accepted from trusted_proxies only\n    trusted_proxies: []", "proxy_protocol: v3\n    trusted_proxies: [10.0.0.0/8]",
		`f.yaml:7:21: listeners[0].proxy_protocol: "v3" is not a value of this key: did you mean "v1"?`),
	Entry("no network", "trusted_proxies: []", `trusted_proxies: [all]`,
		`f.yaml:8:23: listeners[0].trusted_proxies[0]: "all" is not a network: write one such as 10.0.0.0/8 or fd00::/8`),
	// Checks.
	Entry("a check without a type", "      type: http\n", "", `f.yaml:24:7: hosts[0].check.type: the key is missing: http, tcp, exec, or a type that the program links`),
	Entry("a check type that is none", "type: http", "type: HTTP", `f.yaml:24:13: hosts[0].check.type: "HTTP" is not a check of this program, which has exec, http, mysql, ours, redis, tcp, x`),
	Entry("a path without a slash", "path: /api/v1/status", "path: api", `f.yaml:24:7: hosts[0].check: http check: the path "api" must begin with "/"`),
	Entry("a path that would end the request", "path: /api/v1/status", `path: "/a\r\nb"`, `f.yaml:24:7: hosts[0].check: http check: "/a\r\nb" is not the path of a URL`),
	Entry("a path for tcp", "type: http", "type: tcp", `f.yaml:26:13: hosts[0].check.path: this key is not for a check of type tcp but for http: remove it`),
	Entry("a login for http", `username: ""                # mysql`, "username: u # mysql", `f.yaml:31:17: hosts[0].check.username: this key is not for a check of type http but for mysql, galera, postgres, redis: remove it`),
	Entry("an exec check without a command", "type: http", "type: exec",
		`f.yaml:24:7: hosts[0].check: exec check: the command is missing: list the program and its arguments`,
		`f.yaml:26:13: hosts[0].check.path: this key is not for a check of type exec but for http: remove it`),
	Entry("a command for http", "command: []", "command: [a]", `f.yaml:33:16: hosts[0].check.command: this key is not for a check of type http but for exec: remove it`),
	// API.
	Entry("an API for all without a password", "bind: 127.0.0.1:9090", "bind: 0.0.0.0:9090",
		`f.yaml:39:9: api.bind: "0.0.0.0:9090" can be reached from other machines: set api.username and api.password (or api.password_file), or bind to 127.0.0.1`),
	Entry("an API on a name without a password", "bind: 127.0.0.1:9090", "bind: router-1:9090",
		`f.yaml:39:9: api.bind: "router-1:9090" can be reached from other machines: set api.username and api.password (or api.password_file), or bind to 127.0.0.1`),
	Entry("a user without a password", "username: \"\"\n", "username: u\n", `f.yaml:40:13: api.username: there is no password: set api.password or api.password_file`),
	Entry("a password without a user", `password: ""`, `password: hunter2`, `f.yaml:41:13: api.password: there is no user name: set api.username`),
	Entry("a user name with a colon", "username: \"\"\n", "username: \"u:v\"\n", `f.yaml:40:13: api.username: a user name cannot hold a colon (RFC 7617)`),
	Entry("an API for all with a user name that cannot be read", "bind: 127.0.0.1:9090\n  username: \"\"", "bind: 0.0.0.0:9090\n  username: [u]",
		`f.yaml:40:13: api.username: a list is not allowed here: write text`),
	Entry("a negative number of streams", "bind: 127.0.0.1:9090", "bind: 127.0.0.1:9090\n  streams: -1", `f.yaml:40:12: api.streams: -1 is too small: use 0 or more`),
	Entry("an API without a bind", "bind: 127.0.0.1:9090", `bind: ""`, `f.yaml:39:9: api.bind: the value must not be empty`),
	Entry("two passwords", `password: ""`, "password: hunter2\n  password_file: /run/secret",
		`f.yaml:42:18: api.password_file: api.password is set too: remove one of them`),
	Entry("a password that is a number", `password: ""`, "password: 12345", `f.yaml:41:13: api.password: the value must be text: put it in quotes`),
	// YAML.
	Entry("a tab", "  drain: 10s", "\tdrain: 10s", `f.yaml:46:1: a tab cannot indent: use spaces`),
	Entry("an anchor, an alias and a merge key", "  drain: 10s", "  drain: &a 10s\n  <<: *a",
		`f.yaml:46:10: anchors (&) are not supported: write the value out where it is needed, and quote text that begins with &`,
		`f.yaml:47:3: merge keys (<<) are not supported: write the keys out where they are needed`,
		`f.yaml:47:7: aliases (*) are not supported: write the value out where it is needed, and quote text that begins with *`),
	Entry("a tag", "drain: 10s", "drain: !!str 10s", `f.yaml:46:10: tags (!) are not supported: quote text that begins with !`),
	Entry("a complex key", "  drain: 10s", "  ? drain\n  : 10s", `f.yaml:46:3: complex keys (?) are not supported: write key: value`),
	Entry("a second document", "state: /var", "---\nstate: /var", `f.yaml:38:1: the file holds a second document: a configuration is one`),
	Entry("bytes that are not UTF-8", "router-1 ", "röuter-\xff1 ", `f.yaml:1:14: the file is not text in UTF-8`),
	Entry("a control character", "router-1 ", "router-\x001 ", `f.yaml:1:14: the file holds the control character U+0000`),
	Entry("a bracket that stays open", "trusted_proxies: []", "trusted_proxies: [", `f.yaml:10:1: ',' or ']' must be specified`),
)

var _ = DescribeTable("a file that is none", func(data, wrong string) {
	_, err := load(data)
	Expect(lines(err)).To(Equal([]string{wrong}))
},
	Entry("an empty one", "", `f.yaml:1:1: the file is empty: a router needs at least listeners and hosts`),
	Entry("one of comments", "# x\n", `f.yaml:1:1: the file is empty: a router needs at least listeners and hosts`),
	Entry("null", "null", `f.yaml:1:1: the file is empty: a router needs at least listeners and hosts`),
	Entry("a list", "- a\n", `f.yaml:1:1: the file is not a mapping: write key: value, one key a line`),
	Entry("text", "router", `f.yaml:1:1: the file is not a mapping: write key: value, one key a line`),
	Entry("a directive", "%YAML 1.2\n---\nname: a\n", `f.yaml:1:1: directives (%) are not supported: quote text that begins with %`),
	Entry("deep brackets", "a: "+strings.Repeat("[", 1<<17), `f.yaml:1:36: mappings and lists are nested more than 32 deep`),
	Entry("deep dashes", strings.Repeat("- ", 1<<16), `f.yaml:1:65: mappings and lists are nested more than 32 deep`),
	Entry("one a byte too large", strings.Repeat("#", config.MaxSize+1), `f.yaml: cannot be read: it is larger than 1048576 bytes`),
)

var _ = Describe("the file", func() {
	It("is read, up to its largest size", func() {
		path := filepath.Join(GinkgoT().TempDir(), "f.yaml")
		padded := design + strings.Repeat("#", config.MaxSize-len(design))
		Expect(os.WriteFile(path, []byte(padded), 0o600)).To(Succeed())
		file, err := config.Load(config.Source{Path: path})
		Expect(err).NotTo(HaveOccurred())
		Expect(file).To(Equal(mustLoad(design)))

		Expect(os.WriteFile(path, []byte(padded+"#"), 0o600)).To(Succeed())
		_, err = config.Load(config.Source{Path: path})
		Expect(err).To(MatchError(path + ": cannot be read: it is larger than 1048576 bytes"))
	})

	It("is missed, with a sentence", func() {
		path := filepath.Join(GinkgoT().TempDir(), "f.yaml")
		_, err := config.Load(config.Source{Path: path})
		Expect(err).To(MatchError(path + ": cannot be read: no such file or directory"))
		Expect(err).To(MatchError(fs.ErrNotExist))
	})

	It("is no directory", func() {
		path := GinkgoT().TempDir()
		_, err := config.Load(config.Source{Path: path})
		Expect(err).To(MatchError(path + ": cannot be read: it is a directory; name a file in it"))
	})

	It("is not needed, if the rest says it all", func() {
		var env []string
		for path, value := range flatten(mustLoad(design)) {
			env = append(env, variable(path)+"="+value)
		}
		file, err := config.Load(config.Source{Env: env})
		Expect(err).NotTo(HaveOccurred())
		Expect(file).To(Equal(mustLoad(design)))

		_, err = config.Load(config.Source{})
		Expect(lines(err)).To(Equal([]string{
			"configuration: listeners: no listeners: at least one is needed",
			"configuration: hosts: no hosts: at least one is needed, or redis.url, where they come from",
		}))
	})
})

var _ = Describe("the configuration of the runner", func() {
	It("has all that the file says of HTTP", func() {
		cert, key, _ := spec.WriteCertificate("shop.example.com")
		c := mustLoad(`wildcard_depth: 2
listeners:
  - name: web
    bind: 127.0.0.1:8443
    protocol: https
    tls: {certificates: [{cert: ` + cert + `, key: ` + key + `}]}
    timeouts: {head: 5s, body: 30s}
    limits: {fields: 50, body: 1000000}
    trusted_proxies: [10.0.0.0/8]
  - {name: sni, bind: "127.0.0.1:9443", protocol: tls}
hosts:
  - name: "*.Shop.Example.com."
    policy: balance
    choose: sticky
    sticky_by: cookie:session
    http: {version: h2c, head_timeout: 5s, total_timeout: 1m, pool: 0, retries: 0}
    backends: [{name: a, address: "10.0.0.1:80", weight: 0}, {name: b, address: "10.0.0.2:80"}]
`).Runner()
		none, one := 0, 1
		Expect(c.WildcardDepth).To(Equal(2))
		Expect(c.Listeners).To(Equal([]runner.Listener{{
			Name: "web", Bind: "127.0.0.1:8443", Protocol: runner.HTTPS, Certificates: []runner.Certificate{{Cert: cert, Key: key}},
			Timeouts:      runner.Timeouts{Head: 5 * time.Second, Idle: time.Minute, Body: 30 * time.Second},
			Limits:        runner.Limits{Head: 32 << 10, Target: 8 << 10, Fields: 50, Body: 1000000},
			ProxyProtocol: bridge.ProxyOff, TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
		}, {Name: "sni", Bind: "127.0.0.1:9443", Protocol: runner.TLS, ProxyProtocol: bridge.ProxyOff}}))
		host := c.Hosts[0]
		Expect(host).To(HaveField("Name", "*.shop.example.com"))
		Expect(host).To(And(HaveField("Policy", route.Balance), HaveField("Choose", route.Sticky), HaveField("StickyBy", "cookie:session")))
		Expect(host.HTTP).To(Equal(runner.HostHTTP{
			Version: web.H2C, HeadTimeout: 5 * time.Second, TotalTimeout: time.Minute, Pool: -1, PoolIdle: time.Minute, Retries: -1,
		}))
		Expect(host.Backends).To(Equal([]runner.Backend{
			{Name: "a", Address: "10.0.0.1:80", Weight: &none}, {Name: "b", Address: "10.0.0.2:80", Weight: &one},
		}))
	})
})

var _ = Describe("warnings", func() {
	It("tell of a host that nobody can reach", func() {
		file := mustLoad(with("state: /var", "  - {name: spare, backends: [{name: a, address: 10.0.0.3:1}]}\nstate: /var"))
		Expect(file.Warnings).To(Equal([]string{"f.yaml:37:5: hosts[1]: no listener names this host, so no client can reach it"}))
	})

	It("are not given without need", func() {
		Expect(mustLoad(design).Warnings).To(BeEmpty())
		Expect(mustLoad(strings.Replace(small, `"host": "h"`, `"protocol": "tls"`, 1)).Warnings).To(BeEmpty())
	})
})

var _ = Describe("password files", func() {
	var path string

	write := func(content string, mode fs.FileMode) {
		GinkgoHelper()
		Expect(os.WriteFile(path, []byte(content), mode)).To(Succeed())
		Expect(os.Chmod(path, mode)).To(Succeed())
	}
	loadAPI := func() (*config.File, error) {
		return load(small, "SWITCHBOARD_API_USERNAME=u", "SWITCHBOARD_API_PASSWORD_FILE="+path)
	}

	BeforeEach(func() { path = filepath.Join(GinkgoT().TempDir(), "secret") })

	DescribeTable("are read without the newline at their end", func(content, password string) {
		write(content, 0o600)
		file, err := loadAPI()
		Expect(err).NotTo(HaveOccurred())
		Expect(string(file.API.Password)).To(Equal(password))
		Expect(file.Warnings).To(BeEmpty())
	},
		Entry("none", "hunter2", "hunter2"),
		Entry("one", "hunter2\n", "hunter2"),
		Entry("one of Windows", "hunter2\r\n", "hunter2"),
		Entry("spaces are the password's", " hunter2 \n", " hunter2 "),
	)

	DescribeTable("are refused", func(content, wrong string) {
		write(content, 0o600)
		_, err := loadAPI()
		Expect(lines(err)).To(Equal([]string{"SWITCHBOARD_API_PASSWORD_FILE: api.password_file: " + strconv.Quote(path) + wrong}))
	},
		Entry("empty", "\n", " is empty: it must hold the password"),
		Entry("of two lines", "hunter2\nhunter3\n", " holds more than one line: it must hold the password alone"),
		Entry("too large", strings.Repeat("x", 4097), " cannot be read: it is larger than 4096 bytes"),
	)

	It("are refused if they are not there, and only once", func() {
		_, err := loadAPI()
		Expect(lines(err)).To(Equal([]string{"SWITCHBOARD_API_PASSWORD_FILE: api.password_file: " + strconv.Quote(path) + " cannot be read: no such file or directory"}))
	})

	It("are the place of a password without a user", func() {
		write("hunter2", 0o600)
		_, err := load(with("  password: \"\"", "  password_file: "+path))
		Expect(lines(err)).To(Equal([]string{"f.yaml:41:18: api.password: there is no user name: set api.username"}))
	})

	It("are warned of if everybody can read them", func() {
		write("hunter2", 0o644)
		file, err := loadAPI()
		Expect(err).NotTo(HaveOccurred())
		Expect(file.Warnings).To(ConsistOf("SWITCHBOARD_API_PASSWORD_FILE: api.password_file: " + strconv.Quote(path) + " can be read by every user of this machine: chmod o-r it"))
	})

	It("serve the checks that log in", func() {
		write("hunter2\n", 0o600)
		file := mustLoad(small, "SWITCHBOARD_HOSTS_0_CHECK_TYPE=mysql", "SWITCHBOARD_HOSTS_0_CHECK_USERNAME=probe", "SWITCHBOARD_HOSTS_0_CHECK_PASSWORD_FILE="+path)
		Expect(string(file.Hosts[0].Check.Password)).To(Equal("hunter2"))
	})
})

var _ = Describe("secrets", func() {
	It("are never in what is printed", func() {
		file := mustLoad(small, "SWITCHBOARD_API_USERNAME=u", "SWITCHBOARD_API_PASSWORD=hunter2")
		Expect(string(file.API.Password)).To(Equal("hunter2"))
		encoded, err := json.Marshal(file)
		Expect(err).NotTo(HaveOccurred())
		for _, printed := range []string{fmt.Sprint(file), fmt.Sprintf("%+v", *file), fmt.Sprintf("%#v", file.API), string(encoded)} {
			Expect(printed).NotTo(ContainSubstring("hunter2"))
		}
	})

	DescribeTable("are never in errors", func(password string) {
		_, err := load(with(`password: ""`, "password: "+password))
		Expect(err).To(HaveOccurred())
		Expect(err.Error()).NotTo(ContainSubstring("hunter2"))
		_, err = load("name: r\napi: {username: u, password: " + password + "}\n")
		Expect(err).To(HaveOccurred())
		Expect(err.Error()).NotTo(ContainSubstring("hunter2"))
	},
		Entry("without a user", "hunter2"),
		Entry("with an open quote", "'hunter2"),
		Entry("with an unknown escape", `"\hunter2"`),
		Entry("with a colon", "x: hunter2"),
		Entry("as a list", "[hunter2]"),
		Entry("as an alias", "*hunter2"),
		Entry("as an anchor", "&hunter2 x"),
		Entry("as a tag", "!hunter2"),
		Entry("with a reserved character", "@hunter2"),
		Entry("with a comma in a flow mapping", "x, hunter2"),
	)
})

var _ = Describe("check types", func() {
	loadType := func(checkType string, checks map[string]check.Builder, env ...string) []string {
		_, err := config.Load(config.Source{
			Path: "f.yaml", Data: []byte(small), Checks: checks, Env: append(env, "SWITCHBOARD_HOSTS_0_CHECK_TYPE="+checkType),
		})
		return lines(err)
	}

	It("are the built-in ones and those that the program links", func() {
		Expect(loadType("tcp", nil)).To(BeEmpty())
		Expect(loadType("redis", linked())).To(BeEmpty())
		Expect(loadType("mongo", nil)).To(Equal([]string{
			`SWITCHBOARD_HOSTS_0_CHECK_TYPE: hosts[0].check.type: "mongo" is not a check of this program, which has exec, http, tcp`,
		}))
		Expect(loadType("redis", nil)).To(Equal([]string{
			`SWITCHBOARD_HOSTS_0_CHECK_TYPE: hosts[0].check.type: "redis" is not a check of this program, which has exec, http, tcp: a program that embeds the router adds it to Config.Checks, from switchboard/monitor/check/redis`,
		}))
	})

	It("say themselves what is wrong, and it gets a place", func() {
		Expect(loadType("redis", linked(), "SWITCHBOARD_HOSTS_0_CHECK_USERNAME=u")).To(Equal([]string{
			`SWITCHBOARD_HOSTS_0_CHECK_TYPE: hosts[0].check: redis check: there is a username but no password`,
		}))
	})

	It("are not asked about what could not be read", func() {
		Expect(loadType("redis", linked(), "SWITCHBOARD_HOSTS_0_CHECK_USERNAME=u", "SWITCHBOARD_HOSTS_0_CHECK_PASSWORD_FILE=/none/such")).To(Equal([]string{
			`SWITCHBOARD_HOSTS_0_CHECK_PASSWORD_FILE: hosts[0].check.password_file: "/none/such" cannot be read: no such file or directory`,
		}))
	})
})

var _ = Describe("environment and flags", func() {
	It("win: flag over environment over file over default", func() {
		source := config.Source{Path: "f.yaml", Data: []byte("")}
		level := func() string {
			GinkgoHelper()
			file, err := config.Load(source)
			Expect(err).NotTo(HaveOccurred())
			return file.Log.Level
		}
		source.Data = []byte(small)
		Expect(level()).To(Equal("info"))
		source.Data = []byte(with("level: info", "level: warn"))
		Expect(level()).To(Equal("warn"))
		source.Env = []string{"SWITCHBOARD_LOG_LEVEL=error", "PATH=/bin"}
		Expect(level()).To(Equal("error"))
		source.Flags = map[string]string{"log.level": "debug"}
		Expect(level()).To(Equal("debug"))
	})

	It("replace a value that is wrong", func() {
		Expect(mustLoad(with("drain: 10s", "drain: 10"), "SWITCHBOARD_SHUTDOWN_DRAIN=1m").Shutdown.Drain).To(Equal(time.Minute))
	})

	It("extend lists by their next index", func() {
		var env []string
		for i := 2; i < 13; i++ {
			env = append(env, fmt.Sprintf("SWITCHBOARD_HOSTS_0_BACKENDS_%d_NAME=b%d", i, i), fmt.Sprintf("SWITCHBOARD_HOSTS_0_BACKENDS_%d_ADDRESS=10.0.0.%d:1", i, i+1))
		}
		backends := mustLoad(design, env...).Hosts[0].Backends
		Expect(backends).To(HaveLen(13))
		Expect(backends[12]).To(Equal(config.Backend{Name: "b12", Address: "10.0.0.13:1", Weight: 1}))
		Expect(backends[0].Name).To(Equal("db-0"))
	})

	It("replace lists of single values whole", func() {
		file := mustLoad(with("proxy_protocol: off", "proxy_protocol: any"), "SWITCHBOARD_LISTENERS_0_TRUSTED_PROXIES=10.0.0.0/8, fd00::/8")
		Expect(file.Listeners[0].TrustedProxies).To(Equal([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}))
	})

	DescribeTable("are wrong", func(source config.Source, wrong ...string) {
		source.Path, source.Data = "f.yaml", []byte(design)
		_, err := config.Load(source)
		Expect(lines(err)).To(Equal(wrong))
	},
		Entry("a bad value", config.Source{Env: []string{"SWITCHBOARD_HOSTS_0_HOLD=5"}},
			`SWITCHBOARD_HOSTS_0_HOLD: hosts[0].hold: "5" has no unit: write a duration such as 500ms, 10s or 2m`),
		Entry("a bad element", config.Source{Env: []string{"SWITCHBOARD_LISTENERS_0_TRUSTED_PROXIES=10.0.0.0/8,x"}},
			`SWITCHBOARD_LISTENERS_0_TRUSTED_PROXIES: listeners[0].trusted_proxies[1]: "x" is not a network: write one such as 10.0.0.0/8 or fd00::/8`),
		Entry("a misspelt variable", config.Source{Env: []string{"SWITCHBOARD_HOSTS_0_BACKENDS_1_ADRESS=x"}},
			`SWITCHBOARD_HOSTS_0_BACKENDS_1_ADRESS: unknown variable: did you mean SWITCHBOARD_HOSTS_0_BACKENDS_1_ADDRESS?`),
		Entry("an unknown variable", config.Source{Env: []string{"SWITCHBOARD_FROBNICATE=hunter2"}},
			`SWITCHBOARD_FROBNICATE: unknown variable: no key has this name; unset it`),
		Entry("a mapping", config.Source{Env: []string{"SWITCHBOARD_API=hunter2"}},
			`SWITCHBOARD_API: unknown variable: no key has this name; unset it`),
		Entry("an index with a zero before it", config.Source{Env: []string{"SWITCHBOARD_HOSTS_00_HOLD=1s"}},
			`SWITCHBOARD_HOSTS_00_HOLD: unknown variable: did you mean SWITCHBOARD_HOSTS_0_HOLD?`),
		Entry("a gap", config.Source{Env: []string{"SWITCHBOARD_HOSTS_2_NAME=x"}},
			`SWITCHBOARD_HOSTS_2_NAME: hosts[2]: the list would have a gap: its next index is 1`),
		Entry("a new element that lacks keys", config.Source{Env: []string{"SWITCHBOARD_LISTENERS_1_NAME=x"}},
			`SWITCHBOARD_LISTENERS_1_NAME: listeners[1].bind: the key is missing: host:port to listen on; port 0 is any free one`,
			`SWITCHBOARD_LISTENERS_1_NAME: listeners[1].host: the key is missing: name the host that it serves, one of db.main`),
		Entry("a flag", config.Source{Flags: map[string]string{"shutdown.drain": "x"}},
			`--shutdown-drain: shutdown.drain: "x" is not a duration: write one such as 500ms, 10s or 2m`),
		Entry("a flag of a list", config.Source{Flags: map[string]string{"listeners[0].bind": "x"}},
			`--listeners[0].bind: listeners[0].bind: "x" has no port: write host:port`),
		Entry("an unknown flag", config.Source{Flags: map[string]string{"API_BIND": "x"}},
			`--API-BIND: unknown flag: no key has the path "API_BIND"`),
	)

	It("leave alone what is somebody else's", func() {
		_, err := config.Load(config.Source{
			Data: []byte(small), Allow: []string{"SWITCHBOARD_API", "SWITCHBOARD_PORT*"},
			Env: []string{"SWITCHBOARD_API=http://x", "SWITCHBOARD_PORT=tcp://10.0.0.1:80", "SWITCHBOARD_PORT_80_TCP=x"},
		})
		Expect(err).NotTo(HaveOccurred())
	})
})

var _ = Describe("Keys", func() {
	// Every key with a value of its own kind, valid all together and each on its
	// own over the rest of a full configuration.
	full := `name: a
listeners:
- {name: l, bind: "127.0.0.1:1", protocol: tcp, host: h, proxy_protocol: v1, trusted_proxies: [10.0.0.0/8], max_sessions: 1}
- {name: m, bind: "127.0.0.1:3", protocol: http}
- {name: n, bind: "127.0.0.1:4", protocol: https, tls: {certificates: [{cert: CERT, key: KEY}]}}
hosts:
- {name: h, backends: [{name: b, address: "10.0.0.1:1"}]}
- {name: g, backends: [{name: b, address: "10.0.0.1:1"}]}
- name: i
  policy: balance
  choose: sticky
  sticky_by: client
  check: {type: ours, port: 1, path: /a, command: [a]}
  backends: [{name: b, address: "10.0.0.1:1", check_port: 1}]
api: {bind: "127.0.0.1:2", username: a, password: ""}
redis: {url: "redis://127.0.0.1:3"}
stats: {redis: {url: "redis://127.0.0.1:3"}, log: access.log}
`
	var cert, key string
	BeforeEach(func() { cert, key, _ = spec.WriteCertificate("a") })
	// place is an element that the key can be set in, whatever the others are.
	place := func(path string) string {
		listener := "listeners[0]"
		switch {
		case strings.Contains(path, ".tls."):
			listener = "listeners[2]"
		case strings.HasSuffix(path, ".protocol"), strings.Contains(path, ".timeouts."), strings.Contains(path, ".limits."):
			listener = "listeners[1]"
		}
		host := "hosts[2]" // which has no listener of its own, so it may be renamed
		if strings.HasSuffix(path, ".elect") {
			host = "hosts[1]"
		}
		path = strings.NewReplacer("listeners[]", listener, "hosts[]", host).Replace(path)
		return strings.ReplaceAll(path, "[]", "[0]")
	}
	secret := func() string {
		path := filepath.Join(GinkgoT().TempDir(), "secret")
		Expect(os.WriteFile(path, []byte("hunter2"), 0o600)).To(Succeed())
		return path
	}
	sample := func(k config.Key) string {
		switch name := k.Path[strings.LastIndexAny(k.Path, ".")+1:]; {
		case name == "protocol":
			return "http"
		case name == "cert":
			return cert
		case name == "key":
			return key
		case name == "sticky_by":
			return "cookie:a"
		case name == "url":
			return "unix:///x"
		case strings.Contains(k.Type, " | "):
			return k.Type[strings.LastIndex(k.Type, " ")+1:]
		case k.Type == "duration":
			return "1h2m3s"
		case k.Type == "number":
			return "777"
		case k.Type == "list":
			return "x,y"
		case k.Type == "list of CIDRs":
			return "192.168.0.0/16,fd00::/8"
		case k.Path == "listeners[].host":
			return "g"
		case name == "bind", name == "address":
			return "127.0.0.1:77"
		case name == "path", name == "state":
			return "/x"
		case name == "password_file":
			return secret()
		default:
			return "x"
		}
	}

	It("lists every key once, with a type and a line of help", func() {
		paths, variables, flags := map[string]bool{}, map[string]bool{}, map[string]bool{}
		for _, k := range config.Keys() {
			Expect(k.Doc).NotTo(BeEmpty(), k.Path)
			Expect(k.Doc).NotTo(HaveSuffix("."), k.Path)
			Expect(k.Type).NotTo(BeEmpty(), k.Path)
			Expect(paths).NotTo(HaveKey(k.Path))
			Expect(variables).NotTo(HaveKey(k.Env))
			if k.Flag != "" {
				Expect(flags).NotTo(HaveKey(k.Flag))
				flags[k.Flag] = true
			}
			paths[k.Path], variables[k.Env] = true, true
		}
		Expect(paths).To(HaveLen(75))
		Expect(flags).To(HaveKey("api-password-file"))
		Expect(flags).NotTo(HaveKey("api-password"))
		Expect(variables).To(HaveKey("SWITCHBOARD_HOSTS_N_BACKENDS_N_CHECK_PORT"))
	})

	It("lists nothing that the environment and flags cannot set", func() {
		full := strings.NewReplacer("CERT", cert, "KEY", key).Replace(full)
		for _, k := range config.Keys() {
			path := place(k.Path)
			value := sample(k)
			env := []string{"SWITCHBOARD_API_PASSWORD=x"}
			if k.Path == "api.password_file" {
				env[0] = "SWITCHBOARD_API_PASSWORD="
			}
			file, err := load(full, append(env, variable(path)+"="+value)...)
			Expect(err).NotTo(HaveOccurred(), path)
			Expect(flatten(file)).To(HaveKeyWithValue(path, value), k.Env)
			if k.Path == "api.password" {
				continue
			}
			file, err = config.Load(config.Source{Data: []byte(full), Env: env, Checks: linked(), Flags: map[string]string{path: value}})
			Expect(err).NotTo(HaveOccurred(), path)
			Expect(flatten(file)).To(HaveKeyWithValue(path, value), path)
		}
	})

	It("gives the defaults that Load fills in", func() {
		values := flatten(mustLoad(small, "SWITCHBOARD_HOSTS_0_CHECK_TYPE=http"))
		overHTTP := strings.Replace(small, `"host": "h"`, `"protocol": "http", "timeouts": {}, "limits": {}`, 1)
		for path, value := range flatten(mustLoad(overHTTP)) {
			if _, has := values[path]; !has {
				values[path] = value
			}
		}
		for _, k := range config.Keys() {
			standard := k.Default
			if duration, err := time.ParseDuration(standard); err == nil && k.Type == "duration" {
				standard = duration.String()
			}
			if standard != "" {
				Expect(values).To(HaveKeyWithValue(strings.ReplaceAll(k.Path, "[]", "[0]"), standard))
			}
		}
	})
})

// variable is the environment variable of a path.
func variable(path string) string {
	return config.EnvPrefix + strings.ToUpper(strings.NewReplacer("[", "_", "].", "_", ".", "_").Replace(path))
}

// flatten spells every value of a configuration as a flag or variable would.
func flatten(file *config.File) map[string]string {
	values := make(map[string]string)
	var walk func(v reflect.Value, path string)
	walk = func(v reflect.Value, path string) {
		switch value := v.Interface().(type) {
		case time.Duration:
			values[path] = value.String()
			return
		case []netip.Prefix:
			values[path] = strings.Trim(strings.ReplaceAll(fmt.Sprint(value), " ", ","), "[]")
			return
		case []string:
			values[path] = strings.Join(value, ",")
			return
		}
		switch v.Kind() {
		case reflect.Pointer:
			if !v.IsNil() {
				walk(v.Elem(), path)
			}
		case reflect.Slice:
			for i := range v.Len() {
				walk(v.Index(i), fmt.Sprintf("%s[%d]", path, i))
			}
		case reflect.Struct:
			for i := range v.NumField() {
				if key := v.Type().Field(i).Tag.Get("key"); key != "" {
					walk(v.Field(i), strings.TrimPrefix(path+"."+key, "."))
				}
			}
		case reflect.Bool:
			values[path] = strconv.FormatBool(v.Bool())
		case reflect.Int:
			// No port is a key that is not set: 0 cannot be written.
			if !v.IsZero() || !strings.HasSuffix(path, "port") {
				values[path] = strconv.Itoa(int(v.Int()))
			}
		default:
			values[path] = v.String()
		}
	}
	walk(reflect.ValueOf(*file), "")
	return values
}

// located matches an error line that says where.
var located = regexp.MustCompile(`^(f\.yaml:[1-9]\d*:[1-9]\d*|SWITCHBOARD_[!-~]*|"SWITCHBOARD_.*"…?): .`)
