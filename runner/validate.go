package runner

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"switchboard/bridge"
	"switchboard/bridge/clock"
	"switchboard/bridge/route"
	"switchboard/monitor"
	"switchboard/monitor/check"
)

// Invalid is one thing that is wrong with a [Config].
type Invalid struct {
	// Key is where, as a path in the words of the configuration file:
	// "hosts[0].backends[1].address".
	Key string
	// Problem says what is wrong and what to do.
	Problem string
}

// Error returns "key: problem".
func (i *Invalid) Error() string { return i.Key + ": " + i.Problem }

// Validate returns everything that is wrong with the configuration, as *[Invalid]
// errors joined in the order of the configuration, or nil. It opens nothing.
func (c Config) Validate() error {
	_, err := c.complete()
	return err
}

// Defaults of [check.Spec] in a [Host].
const (
	DefaultInterval = 200 * time.Millisecond
	DefaultTimeout  = time.Second
	DefaultFall     = 2
	DefaultRise     = 2
)

// builtin are the checks that every router has.
func builtin() map[string]check.Builder {
	return map[string]check.Builder{"http": check.HTTP, "tcp": check.TCP, "exec": check.Exec}
}

// complete returns the configuration with its defaults filled in, and all that is
// wrong with it.
func (c Config) complete() (Config, error) {
	if c.Name == "" {
		c.Name, _ = os.Hostname()
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Clock == nil {
		c.Clock = clock.System{}
	}
	checks := builtin()
	maps.Copy(checks, c.Checks)
	c.Checks = checks
	c.Hosts = slices.Clone(c.Hosts)
	for i := range c.Hosts {
		c.Hosts[i].fill()
	}

	v := &validation{config: c}
	v.name("name", c.Name, nil)
	listeners, hosts := map[string]bool{}, map[string]bool{}
	for i, h := range c.Hosts {
		v.host(fmt.Sprintf("hosts[%d]", i), h, hosts)
	}
	for i, l := range c.Listeners {
		v.listener(fmt.Sprintf("listeners[%d]", i), l, listeners, hosts)
	}
	v.api(c.API)
	if c.Health != "" {
		v.address("health.bind", c.Health, true)
	}
	v.duration("shutdown.delay", c.Delay)
	v.duration("shutdown.drain", c.Drain)
	v.binds()
	return c, errors.Join(v.found...)
}

// fill sets the defaults that are decided here; those of 0 that mean something to
// the bridge are the bridge's.
func (h *Host) fill() {
	if h.Elect == "" {
		h.Elect = monitor.Sticky
	}
	if h.Check == nil {
		return
	}
	s := *h.Check
	h.Check = &s
	if s.Interval == 0 {
		s.Interval = DefaultInterval
	}
	if s.Timeout == 0 {
		s.Timeout = DefaultTimeout
	}
	if s.Fall == 0 {
		s.Fall = DefaultFall
	}
	if s.Rise == 0 {
		s.Rise = DefaultRise
	}
}

// validation collects what is wrong.
type validation struct {
	config Config
	found  []error
}

func (v *validation) wrong(key, format string, args ...any) {
	v.found = append(v.found, &Invalid{Key: key, Problem: fmt.Sprintf(format, args...)})
}

// name checks a name and, where names must differ, that it is not taken.
func (v *validation) name(key, name string, taken map[string]bool) {
	if err := route.ValidName(name); err != nil {
		v.wrong(key, "%v", err)
		return
	}
	if taken[name] {
		v.wrong(key, "%q is there twice; names must differ", name)
	}
	if taken != nil {
		taken[name] = true
	}
}

func (v *validation) address(key, address string, zeroPort bool) (host string, port int, ok bool) {
	host, port, err := route.ParseAddress(address, zeroPort)
	if err != nil {
		v.wrong(key, "%v", err)
	}
	return host, port, err == nil
}

func (v *validation) duration(key string, d time.Duration) {
	if d < 0 {
		v.wrong(key, "%s is negative; a duration is at least 0s", d)
	}
}

func (v *validation) count(key string, n, least int) {
	if n < least {
		v.wrong(key, "%d is too small; at least %d", n, least)
	}
}

func (v *validation) port(key string, port int) {
	if port < 0 || port > 65535 {
		v.wrong(key, "%d is not a port; a port is a number from 1 to 65535", port)
	}
}

func (v *validation) listener(key string, l Listener, taken, hosts map[string]bool) {
	v.name(key+".name", l.Name, taken)
	v.address(key+".bind", l.Bind, true)
	if !hosts[l.Host] {
		v.wrong(key+".host", "there is no host %q; name one of hosts", l.Host)
	}
	v.count(key+".max_sessions", l.MaxSessions, 0)
	switch l.ProxyProtocol {
	case "", bridge.ProxyOff:
		if len(l.TrustedProxies) > 0 {
			v.wrong(key+".trusted_proxies", "has no effect without proxy_protocol; set that or remove this")
		}
	case bridge.ProxyV1, bridge.ProxyV2, bridge.ProxyAny:
		if len(l.TrustedProxies) == 0 {
			v.wrong(key+".trusted_proxies", "is required with proxy_protocol, or anybody could claim any address; list the networks of your proxies")
		}
	default:
		v.wrong(key+".proxy_protocol", "%q is not one of off, v1, v2, any", l.ProxyProtocol)
	}
}

func (v *validation) host(key string, h Host, taken map[string]bool) {
	v.name(key+".name", h.Name, taken)
	switch h.Elect {
	case monitor.Sticky, monitor.Lowest, monitor.Highest:
	default:
		v.wrong(key+".elect", "%q is not one of sticky, lowest, highest", h.Elect)
	}
	v.duration(key+".hold", h.Hold)
	v.count(key+".hold_max", h.HoldMax, 0)
	v.duration(key+".dial_timeout", h.DialTimeout)
	v.duration(key+".idle_timeout", h.IdleTimeout)
	v.duration(key+".half_close_timeout", h.HalfCloseTimeout)
	switch h.SendProxy {
	case "", bridge.ProxyOff, bridge.ProxyV1, bridge.ProxyV2:
	default:
		v.wrong(key+".send_proxy", "%q is not one of off, v1, v2", h.SendProxy)
	}
	if h.Check != nil {
		v.check(key+".check", h)
	}
	if len(h.Backends) == 0 {
		v.wrong(key+".backends", "no backends; a host needs at least one")
	}
	names := map[string]bool{}
	for i, b := range h.Backends {
		key := fmt.Sprintf("%s.backends[%d]", key, i)
		v.name(key+".name", b.Name, names)
		v.port(key+".check_port", b.CheckPort)
		host, _, ok := v.address(key+".address", b.Address, false)
		if ip, err := netip.ParseAddr(host); ok && err == nil && ip.IsUnspecified() {
			v.wrong(key+".address", "%s is no address of a backend; name the one it has", b.Address)
		}
	}
}

func (v *validation) check(key string, h Host) {
	before, s := len(v.found), h.Check
	v.port(key+".port", s.Port)
	if s.Interval < time.Millisecond {
		v.wrong(key+".interval", "%s is too short; at least 1ms", s.Interval)
	}
	if s.Timeout < time.Millisecond {
		v.wrong(key+".timeout", "%s is too short; at least 1ms", s.Timeout)
	}
	v.count(key+".fall", s.Fall, 1)
	v.count(key+".rise", s.Rise, 1)
	build, known := v.config.Checks[s.Type]
	switch {
	case s.Type == "":
		v.wrong(key+".type", "is missing; this program has %s", strings.Join(slices.Sorted(maps.Keys(v.config.Checks)), ", "))
	case !known:
		v.wrong(key+".type", "%q is not linked into this program, which has %s; a program that embeds the router adds the builder of its package, switchboard/monitor/check/%s, to Config.Checks",
			s.Type, strings.Join(slices.Sorted(maps.Keys(v.config.Checks)), ", "), s.Type)
	case len(v.found) > before || len(h.Backends) == 0:
	default:
		// A builder opens nothing; it is only asked what it thinks of the spec.
		probe := target(h, h.Backends[0])
		probe.Dial, probe.Hint = new(net.Dialer).DialContext, func(string) {}
		checker, err := build(*s, probe)
		if err != nil {
			v.wrong(key, "%v", err)
			return
		}
		checker.Close()
	}
}

func (v *validation) api(a API) {
	if (a.Username == "") != (a.Password == "") {
		v.wrong("api", "username and password go together; set both or neither")
	}
	if a.Bind == "" {
		return
	}
	host, _, ok := v.address("api.bind", a.Bind, true)
	ip, err := netip.ParseAddr(host)
	if ok && a.Username == "" && host != "localhost" && (err != nil || !ip.IsLoopback()) {
		v.wrong("api.bind", "%s can be reached from outside; set username and password, or bind a loopback address", a.Bind)
	}
}

// binds checks the addresses that the router opens against each other and against
// its backends: a session to a backend that is one of the router's own addresses
// would come back as a new client, and so on until there are no descriptors left.
func (v *validation) binds() {
	type bound struct{ key, address string }
	var own []bound
	for i, l := range v.config.Listeners {
		own = append(own, bound{fmt.Sprintf("listeners[%d].bind", i), l.Bind})
	}
	for _, b := range []bound{{"api.bind", v.config.API.Bind}, {"health.bind", v.config.Health}} {
		if b.address != "" {
			own = append(own, b)
		}
	}
	for i, b := range own {
		for _, other := range own[:i] {
			if reaches(b.address, other.address) || reaches(other.address, b.address) {
				v.wrong(b.key, "%s is taken by %s; choose another port", b.address, other.key)
			}
		}
		for j, h := range v.config.Hosts {
			for k, backend := range h.Backends {
				if reaches(backend.Address, b.address) {
					v.wrong(fmt.Sprintf("hosts[%d].backends[%d].address", j, k), "%s is the router's own %s; name a backend", backend.Address, b.key)
				}
			}
		}
	}
}

// reaches tells if a connection to address arrives at bind on this machine, as far
// as the two can tell: it is the same address, or a loopback address and bind is
// unspecified. Port 0 meets nothing.
func reaches(address, bind string) bool {
	host, port, err := route.ParseAddress(address, true)
	boundHost, boundPort, errBind := route.ParseAddress(bind, true)
	if err != nil || errBind != nil || port != boundPort || port == 0 {
		return false
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	if boundHost == "localhost" {
		boundHost = "127.0.0.1"
	}
	ip, err := netip.ParseAddr(host)
	at, errBind := netip.ParseAddr(boundHost)
	if err != nil || errBind != nil {
		return host == boundHost
	}
	ip, at = ip.Unmap(), at.Unmap()
	return ip == at || at.IsUnspecified() && (ip.IsLoopback() || ip.IsUnspecified())
}
