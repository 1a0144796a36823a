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
	"switchboard/bridge/web"
	"switchboard/monitor"
	"switchboard/monitor/check"
)

// Invalid is one thing that is wrong with a [Config].
type Invalid struct {
	// Key is where, as a path in the words of the configuration file:
	// "hosts[0].backends[1].address".
	Key string
	// Besides are the other keys that it is about, if the rule compares some.
	Besides []string
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
	named := c.Name != ""
	if !named {
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
	maps.DeleteFunc(checks, func(_ string, b check.Builder) bool { return b == nil })
	c.Checks = checks
	c.Hosts = slices.Clone(c.Hosts)
	for i := range c.Hosts {
		c.Hosts[i].fill()
	}
	c.Listeners = slices.Clone(c.Listeners)
	for i, l := range c.Listeners {
		if l.Protocol == "" {
			c.Listeners[i].Protocol = TCP
		}
	}

	v := &validation{config: c, binds: c.binds()}
	for _, h := range c.Hosts {
		v.hosts = append(v.hosts, h.Name)
		v.unsure = v.unsure || hostName(h.Name) != nil
	}
	v.router(named)
	listeners, hosts := make(map[string]string), make(map[string]string)
	for i, l := range c.Listeners {
		v.listener(fmt.Sprintf("listeners[%d]", i), l, listeners)
	}
	if len(c.Hosts) == 0 && len(c.Listeners) > 0 && c.Table == nil {
		v.wrong("hosts", "no hosts: at least one is needed")
	}
	if c.Table != nil && c.Table.Tables == nil {
		v.wrong("redis", "there is no channel that tables come from")
	}
	for i, h := range c.Hosts {
		v.host(fmt.Sprintf("hosts[%d]", i), h, hosts)
	}
	v.count("wildcard_depth", c.WildcardDepth, 1)
	v.api(c.API)
	if c.Health != "" {
		v.bind("health.bind", c.Health)
	}
	v.duration("shutdown.delay", c.Delay, 0)
	v.duration("shutdown.drain", c.Drain, 0)
	return c, errors.Join(v.found...)
}

// fill sets the defaults that are decided here; those of 0 that mean something to
// the bridge are the bridge's.
func (h *Host) fill() {
	if h.Policy == "" {
		h.Policy = route.Active
	}
	if h.Policy == route.Active && h.Elect == "" {
		h.Elect = monitor.Sticky
	}
	if h.Policy == route.Balance && h.Choose == "" {
		h.Choose = route.Random
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
	// binds are all addresses to listen on that can be read.
	binds []bind
	// hosts are all names of hosts. If one is wrong, it is unsure which of them a
	// listener means.
	hosts  []string
	unsure bool
	found  []error
}

func (v *validation) wrong(key, format string, args ...any) *Invalid {
	i := &Invalid{Key: key, Problem: fmt.Sprintf(format, args...)}
	v.found = append(v.found, i)
	return i
}

// named checks the name of what is at key, and that no other has it.
func (v *validation) named(key, name string, rule func(string) error, taken map[string]string) {
	first, twice := taken[name]
	switch err := rule(name); {
	case err != nil:
		v.wrong(key+".name", "%v", err)
	case twice:
		v.wrong(key+".name", "%q is already the name of %s", name, first)
	default:
		taken[name] = key
	}
}

// hostName is the rule for names of hosts, which have one spelling.
func hostName(name string) error {
	if name == route.CatchAll {
		return nil
	}
	suffix, wildcard := strings.CutPrefix(name, "*.")
	if err := route.ValidName(suffix); err != nil {
		return err
	}
	spelled, err := route.HostName(suffix)
	switch {
	case err != nil:
		return err
	case spelled != suffix:
		return fmt.Errorf("%q is not how a host is spelled: write %q", name, strings.TrimSuffix(name, suffix)+spelled)
	}
	if _, err := netip.ParseAddr(suffix); wildcard && err == nil {
		return fmt.Errorf("%q stands for no name: an IP address has none below it", name)
	}
	return nil
}

// duration checks one that is 0 for its default, or for none.
func (v *validation) duration(key string, d, least time.Duration) {
	switch {
	case d < 0:
		v.wrong(key, "%q is negative: a duration is 0s or more", d)
	case d != 0 && d < least:
		v.wrong(key, "%q is too short: use %s or more", d, least)
	}
}

// count checks a number that is 0 for its default, or for none.
func (v *validation) count(key string, n, least int) {
	if n != 0 && n < least {
		v.wrong(key, "%d is too small: use %d or more", n, least)
	}
}

func (v *validation) port(key string, port int) {
	if port < 0 || port > 65535 {
		v.wrong(key, "%d is out of range: use 1 to 65535", port)
	}
}

// choose checks a value that is "" for its default.
func choose[T ~string](v *validation, key string, value T, choices ...T) bool {
	if value == "" || slices.Contains(choices, value) {
		return true
	}
	v.wrong(key, "%q is not a value of this key: use %s", value, listed(choices))
	return false
}

func listed[T ~string](all []T) string {
	texts := make([]string, len(all))
	for i, s := range all {
		texts[i] = string(s)
	}
	return strings.Join(texts, ", ")
}

func (v *validation) router(named bool) {
	switch err := route.ValidName(v.config.Name); {
	case err != nil && named:
		v.wrong("name", "%v", err)
	case err != nil:
		v.wrong("name", "the machine's name cannot be used (%v): set a name", err)
	}
}

func (v *validation) listener(key string, l Listener, taken map[string]string) {
	v.named(key, l.Name, route.ValidName, taken)
	v.bind(key+".bind", l.Bind)
	if choose(v, key+".protocol", l.Protocol, TCP, TLS, HTTP, HTTPS) {
		v.protocol(key, l)
	}
	proxy, trusted := key+".proxy_protocol", key+".trusted_proxies"
	known := choose(v, proxy, l.ProxyProtocol, bridge.ProxyOff, bridge.ProxyV1, bridge.ProxyV2, bridge.ProxyAny)
	switch expected := l.ProxyProtocol != "" && l.ProxyProtocol != bridge.ProxyOff; {
	case !known:
	case expected && len(l.TrustedProxies) == 0:
		v.wrong(proxy, "trusted_proxies is missing: list the networks whose PROXY header is believed").Besides = []string{trusted}
	case !expected && len(l.TrustedProxies) > 0 && !l.Protocol.web():
		v.wrong(trusted, "proxy_protocol is off, so nobody is believed: set it to v1, v2 or any, or remove trusted_proxies").Besides = []string{proxy, key + ".protocol"}
	}
	v.count(key+".max_sessions", l.MaxSessions, 0)
}

// protocol checks what goes with the listener's protocol, and that nothing is set
// that does not.
func (v *validation) protocol(key string, l Listener) {
	protocol := []string{key + ".protocol"}
	switch {
	case l.Protocol != TCP && l.Host != "":
		v.wrong(key+".host", "clients of protocol %s ask for the host by its name: remove host", l.Protocol).Besides = protocol
	case l.Protocol == TCP && len(v.hosts) > 0 && !v.unsure:
		v.bound(key+".host", l.Host)
	}
	certificates := key + ".tls.certificates"
	switch {
	case l.Protocol == HTTPS && len(l.Certificates) == 0:
		v.wrong(certificates, "no certificates: protocol https needs at least one, as {cert: FILE, key: FILE}").Besides = protocol
	case l.Protocol != HTTPS && len(l.Certificates) > 0:
		v.wrong(certificates, "certificates are for protocol https: protocol %s shows none, remove tls", l.Protocol).Besides = protocol
	}
	for i, c := range l.Certificates {
		for _, file := range [][2]string{{"cert", c.Cert}, {"key", c.Key}} {
			if file[1] == "" {
				v.wrong(fmt.Sprintf("%s[%d].%s", certificates, i, file[0]), "the name of a PEM file is missing")
			}
		}
	}
	if !l.Protocol.web() {
		for _, part := range []struct {
			name string
			set  bool
		}{{"timeouts", l.Timeouts != Timeouts{}}, {"limits", l.Limits != Limits{}}} {
			if part.set {
				v.wrong(key+"."+part.name, "these are for the protocols http and https: remove %s", part.name).Besides = protocol
			}
		}
		return
	}
	v.duration(key+".timeouts.head", l.Timeouts.Head, time.Millisecond)
	v.duration(key+".timeouts.idle", l.Timeouts.Idle, time.Millisecond)
	v.duration(key+".timeouts.body", l.Timeouts.Body, time.Millisecond)
	v.count(key+".limits.head", l.Limits.Head, 256)
	v.count(key+".limits.target", l.Limits.Target, 1)
	v.count(key+".limits.fields", l.Limits.Fields, 1)
	if l.Limits.Body < 0 {
		v.wrong(key+".limits.body", "%d is too small: use 0 or more", l.Limits.Body)
	}
}

// bound checks the name of the host that a listener of protocol tcp serves.
func (v *validation) bound(key, name string) {
	switch {
	case name == "":
		v.wrong(key, "the key is missing: name the host that it serves, one of %s", listed(v.hosts))
	case !slices.Contains(v.hosts, name):
		v.wrong(key, "there is no host %q: the hosts are %s", name, listed(v.hosts))
	case strings.HasPrefix(name, "*"):
		v.wrong(key, "%q stands for names that clients ask for, and those of protocol tcp ask for none: name another host", name)
	}
}

func (v *validation) host(key string, h Host, taken map[string]string) {
	v.named(key, h.Name, hostName, taken)
	if choose(v, key+".policy", h.Policy, route.Active, route.Balance) {
		v.policy(key, h)
	}
	v.duration(key+".hold", h.Hold, 0)
	v.count(key+".hold_max", h.HoldMax, 1)
	v.duration(key+".dial_timeout", h.DialTimeout, time.Millisecond)
	v.duration(key+".idle_timeout", h.IdleTimeout, 0)
	v.duration(key+".half_close_timeout", h.HalfCloseTimeout, time.Millisecond)
	choose(v, key+".send_proxy", h.SendProxy, bridge.ProxyOff, bridge.ProxyV1, bridge.ProxyV2)
	if choose(v, key+".http.version", h.HTTP.Version, web.HTTP1, web.H2C) && h.HTTP.Version == web.H2C && h.SendProxy != bridge.ProxyOff && h.SendProxy != "" {
		v.wrong(key+".send_proxy", "a connection of h2c is shared by clients, and a PROXY header names one: set it to off, or http.version to http/1.1")
	}
	v.duration(key+".http.head_timeout", h.HTTP.HeadTimeout, time.Millisecond)
	v.duration(key+".http.total_timeout", h.HTTP.TotalTimeout, 0)
	v.duration(key+".http.pool_idle", h.HTTP.PoolIdle, time.Millisecond)
	if h.Check != nil {
		v.check(key+".check", h)
	}
	if len(h.Backends) == 0 {
		v.wrong(key+".backends", "no backends: at least one is needed")
	}
	names := make(map[string]string)
	for i, b := range h.Backends {
		v.backend(fmt.Sprintf("%s.backends[%d]", key, i), b, names)
	}
	v.weights(key+".backends", h)
}

// policy checks what goes with the host's policy. What is set to its default is
// allowed under either: it changes nothing.
func (v *validation) policy(key string, h Host) {
	policy := []string{key + ".policy"}
	elect := choose(v, key+".elect", h.Elect, monitor.Sticky, monitor.Lowest, monitor.Highest)
	chosen := choose(v, key+".choose", h.Choose, route.Random, route.LeastSessions, route.Sticky)
	if h.Policy == route.Balance && elect && h.Elect != "" && h.Elect != monitor.Sticky {
		v.wrong(key+".elect", "policy balance uses all healthy backends and elects none: remove elect, or set policy to active").Besides = policy
	}
	if h.Policy == route.Active && chosen && h.Choose != "" && h.Choose != route.Random {
		v.wrong(key+".choose", "policy active has one backend, so there is nothing to choose: remove choose, or set policy to balance").Besides = policy
	}
	by, sticky := key+".sticky_by", h.Policy == route.Balance && h.Choose == route.Sticky
	parsed, err := route.ParseStickyBy(h.StickyBy)
	switch {
	case !chosen:
	case sticky && h.StickyBy == "":
		v.wrong(by, "the key is missing: choose sticky needs to know clients, by cookie:NAME, header:NAME or client").Besides = []string{key + ".choose"}
	case h.StickyBy != "" && err != nil:
		v.wrong(by, "%v", err)
	case !sticky && h.StickyBy != "":
		v.wrong(by, "this is for policy balance with choose sticky: remove sticky_by, or set both").Besides = append(policy, key+".choose")
	case sticky && parsed.Kind != route.ByClient && v.overTCP(h.Name):
		v.wrong(by, "a listener of protocol tcp serves this host, and its clients send no %s: use client", h.StickyBy[:strings.IndexByte(h.StickyBy, ':')])
	}
}

// overTCP tells whether clients reach the host without saying more than bytes.
func (v *validation) overTCP(host string) bool {
	return slices.ContainsFunc(v.config.Listeners, func(l Listener) bool { return l.Protocol == TCP && l.Host == host })
}

// weights checks the weights of a host's backends.
func (v *validation) weights(key string, h Host) {
	sum := 0
	for i, b := range h.Backends {
		at, weight := fmt.Sprintf("%s[%d].weight", key, i), b.weight()
		switch {
		case weight < 0 || weight > route.MaxWeight:
			v.wrong(at, "%d is out of range: use 0 to %d", weight, route.MaxWeight)
			weight = 1
		case h.Policy == route.Active && weight != 1:
			v.wrong(at, "policy active has one backend, which gets everything: remove weight, or set policy to balance").Besides = []string{strings.TrimSuffix(key, "backends") + "policy"}
		}
		sum += weight
	}
	if h.Policy == route.Balance && sum == 0 && len(h.Backends) > 0 {
		v.wrong(key, "all weights are 0, so nobody serves the host: give at least one backend a weight of 1 or more")
	}
}

func (v *validation) check(key string, h Host) {
	before, s := len(v.found), h.Check
	linked := listed(slices.Sorted(maps.Keys(v.config.Checks)))
	build, has := v.config.Checks[s.Type]
	switch {
	case s.Type == "":
		v.wrong(key+".type", "the key is missing: this program has %s", linked)
	case !has && slices.Contains([]string{"mysql", "galera", "postgres", "redis"}, s.Type):
		v.wrong(key+".type", "%q is not a check of this program, which has %s: a program that embeds the router adds it to Config.Checks, from switchboard/monitor/check/%s", s.Type, linked, s.Type)
	case !has:
		v.wrong(key+".type", "%q is not a check of this program, which has %s", s.Type, linked)
	}
	v.port(key+".port", s.Port)
	v.duration(key+".interval", s.Interval, time.Millisecond)
	v.duration(key+".timeout", s.Timeout, time.Millisecond)
	v.count(key+".fall", s.Fall, 1)
	v.count(key+".rise", s.Rise, 1)
	if len(v.found) > before || len(h.Backends) == 0 {
		return
	}
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

func (v *validation) backend(key string, b Backend, taken map[string]string) {
	v.named(key, b.Name, route.ValidBackendName, taken)
	at, err := parseEndpoint(b.Address, false)
	own := slices.IndexFunc(v.binds, func(b bind) bool { return b.serves(at) })
	switch {
	case err != nil:
		v.wrong(key+".address", "%v", err)
	case at.wildcard():
		v.wrong(key+".address", "%q is no address that can be connected to: write the backend's own", b.Address)
	case own >= 0:
		// A session would come back as a new client, and so on until there are no
		// descriptors left.
		v.wrong(key+".address", "%q is our own %s: sessions would run in a circle", b.Address, v.binds[own].key)
	}
	v.port(key+".check_port", b.CheckPort)
}

func (v *validation) api(a API) {
	v.count("api.streams", a.Streams, 0)
	reachable := false
	if a.Bind != "" {
		at, ok := v.bind("api.bind", a.Bind)
		reachable = ok && !at.loopback()
	}
	switch {
	case strings.Contains(a.Username, ":"):
		v.wrong("api.username", "a user name cannot hold a colon (RFC 7617)")
	case a.Username != "" && a.Password == "":
		v.wrong("api.username", "there is no password: set api.password or api.password_file").Besides = []string{"api.password"}
	case a.Username == "" && a.Password != "":
		v.wrong("api.password", "there is no user name: set api.username").Besides = []string{"api.username"}
	case a.Username == "" && reachable:
		v.wrong("api.bind", "%q can be reached from other machines: set api.username and api.password (or api.password_file), or bind to 127.0.0.1", a.Bind).Besides = []string{"api.username", "api.password"}
	}
}

// bind checks an address to listen on, which must not meet those before it.
func (v *validation) bind(key, address string) (at endpoint, ok bool) {
	before := len(v.found)
	at, err := parseEndpoint(address, true)
	earlier := slices.IndexFunc(v.binds, func(b bind) bool { return b.key == key || b.meets(at) })
	switch {
	case strings.HasPrefix(address, ":"):
		v.wrong(key, "%q has no address: write 0.0.0.0%s to listen on all", address, address)
	case err != nil:
		v.wrong(key, "%v", err)
	case v.binds[earlier].key != key:
		v.wrong(key, "%q is already taken by %s: use another port or address", address, v.binds[earlier].key)
	}
	return at, len(v.found) == before
}

// bind is an address that the router listens on.
type bind struct {
	key string
	endpoint
}

func (c Config) binds() (all []bind) {
	add := func(key, address string) {
		if e, err := parseEndpoint(address, true); err == nil {
			all = append(all, bind{key, e})
		}
	}
	for i, l := range c.Listeners {
		add(fmt.Sprintf("listeners[%d].bind", i), l.Bind)
	}
	add("api.bind", c.API.Bind)
	add("health.bind", c.Health)
	return all
}

// endpoint is an address for comparing.
type endpoint struct {
	// ip is not valid for a name.
	ip   netip.Addr
	name string
	port int
}

func parseEndpoint(address string, zeroPort bool) (endpoint, error) {
	host, port, err := route.ParseAddress(address, zeroPort)
	if err != nil {
		return endpoint{}, err
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return endpoint{ip: ip.Unmap(), port: port}, nil
	}
	return endpoint{name: strings.ToLower(host), port: port}, nil
}

func (e endpoint) loopback() bool { return e.name == "localhost" || e.ip.IsLoopback() }

// same tells whether both are the same address; localhost is 127.0.0.1 and ::1.
func (e endpoint) same(f endpoint) bool {
	local := func(a, b endpoint) bool {
		return a.name == "localhost" && (b.ip == netip.IPv6Loopback() || b.ip == netip.AddrFrom4([4]byte{127, 0, 0, 1}))
	}
	return e.ip == f.ip && e.name == f.name || local(e, f) || local(f, e)
}

// wildcard tells whether e stands for all addresses: Go opens 0.0.0.0 for IPv6 too.
func (e endpoint) wildcard() bool { return e.ip.IsUnspecified() }

// meets tells whether e and f cannot be bound at the same time.
func (e endpoint) meets(f endpoint) bool {
	return e.port == f.port && e.port != 0 && (e.same(f) || e.wildcard() || f.wildcard())
}

// serves tells whether connecting to f reaches e, as far as can be told without
// asking the system for its addresses.
func (e endpoint) serves(f endpoint) bool {
	return e.port == f.port && e.port != 0 && (e.same(f) || e.wildcard() && f.loopback())
}
