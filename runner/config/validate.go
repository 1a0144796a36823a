package config

import (
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"

	"switchboard/bridge/route"
)

// validator checks what keys have to do with each other. A key that is bad in
// itself is left out, so that one mistake is reported once.
type validator struct {
	*decoder
	file *File
	// checks are the check types that are linked; nil: any.
	checks []string
}

func (v *validator) validate() {
	v.names()
	v.listeners()
	v.checkAll()
	v.api()
	v.addresses()
}

// wrong reports the key at path, at its place, or, if it is not set, at that of
// what it is in.
func (v *validator) wrong(path, format string, args ...any) {
	if !v.bad[path] {
		v.report(v.place(path), path, format, args...)
	}
}

func (v *validator) place(path string) place {
	for {
		if at, set := v.at[path]; set || path == "" {
			return at
		}
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
}

func (v *validator) warn(path, what string) {
	v.file.Warnings = append(v.file.Warnings, (&Error{Where: v.place(path).String(), Key: path, Problem: what}).Error())
}

// names: unique, and the machine's for a router without one.
func (v *validator) names() {
	unique(v, "listeners", v.file.Listeners, func(l Listener) string { return l.Name })
	unique(v, "hosts", v.file.Hosts, func(h Host) string { return h.Name })
	for i, h := range v.file.Hosts {
		unique(v, join(element("hosts", i), "backends"), h.Backends, func(b Backend) string { return b.Name })
	}
	if v.file.Name != "" || v.bad["name"] {
		return
	}
	machine, err := os.Hostname()
	if err == nil {
		err = route.ValidName(machine)
	}
	if err != nil {
		v.wrong("name", "the machine's name cannot be used (%v): set a name", err)
	}
	v.file.Name = machine
}

func unique[T any](v *validator, path string, elements []T, name func(T) string) {
	first := make(map[string]int)
	for i, e := range elements {
		if at, taken := first[name(e)]; taken && name(e) != "" {
			v.wrong(element(path, i)+".name", "%q is already the name of %s", name(e), element(path, at))
		} else {
			first[name(e)] = i
		}
	}
}

func (v *validator) listeners() {
	var hosts []string
	unknown := v.bad["hosts"]
	for i, h := range v.file.Hosts {
		hosts = append(hosts, h.Name)
		unknown = unknown || v.bad[element("hosts", i)] || v.bad[element("hosts", i)+".name"]
	}
	named := make(map[string]bool)
	for i, l := range v.file.Listeners {
		path := element("listeners", i)
		named[l.Host] = true
		if l.Host != "" && !unknown && !slices.Contains(hosts, l.Host) {
			v.wrong(path+".host", "there is no host %q: %s", l.Host, suggest(l.Host, hosts, "the hosts are "+strings.Join(hosts, ", ")))
		}
		proxy, trusted := path+".proxy_protocol", path+".trusted_proxies"
		switch expected := l.ProxyProtocol != "off"; {
		case v.bad[path] || v.bad[proxy] || v.bad[trusted]:
		case expected && len(l.TrustedProxies) == 0:
			v.wrong(proxy, "trusted_proxies is missing: list the networks whose PROXY header is believed")
		case !expected && len(l.TrustedProxies) > 0:
			v.wrong(trusted, "proxy_protocol is off, so nobody is believed: set it to v1, v2 or any, or remove trusted_proxies")
		}
	}
	for i, h := range v.file.Hosts {
		if h.Name != "" && !named[h.Name] {
			v.warn(element("hosts", i), "no listener names this host, so no client can reach it")
		}
	}
}

// known tells whether a check type is of this project. Which keys another's
// needs, only the program knows.
func known(checkType string) bool {
	return slices.Contains([]string{"http", "tcp", "exec", "mysql", "galera", "postgres", "redis"}, checkType)
}

func (v *validator) checkAll() {
	for i, h := range v.file.Hosts {
		path := element("hosts", i) + ".check"
		if h.Check != nil && !v.bad[path] && !v.bad[path+".type"] {
			v.check(h.Check, path)
		}
	}
}

func (v *validator) check(c *Check, path string) {
	if v.checks != nil && !slices.Contains(v.checks, c.Type) {
		v.wrong(path+".type", "%s", v.unlinked(c.Type))
	}
	if known(c.Type) {
		for _, f := range fieldsOf(reflect.TypeFor[Check]()) {
			types := strings.Fields(f.tag.Get("for"))
			_, set := v.at[join(path, f.key)]
			if set && len(types) > 0 && !slices.Contains(types, c.Type) && reflect.ValueOf(*c).Field(f.index).Len() > 0 {
				v.wrong(join(path, f.key), "this key is not for a check of type %s but for %s: remove it", c.Type, strings.Join(types, ", "))
			}
		}
	}
	if _, set := v.at[path+".path"]; !set && c.Type != "http" {
		c.Path = ""
	}
	switch {
	case c.Type == "http" && !strings.HasPrefix(c.Path, "/"):
		v.wrong(path+".path", "%s does not begin with a slash", quote(c.Path))
	case c.Type == "http" && strings.ContainsFunc(c.Path, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		v.wrong(path+".path", "%s cannot be sent: escape what is not printable ASCII, as in %%20", quote(c.Path))
	case c.Type == "exec" && (len(c.Command) == 0 || c.Command[0] == ""):
		v.wrong(path+".command", "an exec check needs a command: [program, argument, …]")
	}
	if c.PasswordFile != "" && !v.bad[path+".password_file"] {
		c.Password = v.password(path+".password_file", c.PasswordFile)
	}
}

// unlinked says what to do about a check type that is not linked: it may be
// misspelt.
func (v *validator) unlinked(name string) string {
	if meant := nearest(name, v.checks); meant != "" && !known(name) {
		return "unknown check type " + quote(name) + ": did you mean \"" + meant + "\"?"
	}
	return Unlinked(name)
}

func (v *validator) api() {
	a := &v.file.API
	fromFile := a.PasswordFile != "" && !v.bad["api.password_file"]
	secret := "api.password"
	switch {
	case fromFile && a.Password != "":
		v.wrong("api.password_file", "api.password is set too: remove one of them")
	case fromFile:
		secret = "api.password_file"
		a.Password = v.password(secret, a.PasswordFile)
	}
	if v.bad["api"] || v.bad["api.username"] || v.bad["api.password"] || v.bad["api.password_file"] {
		return
	}
	switch user, password := a.Username != "", a.Password != ""; {
	case user && !password:
		v.wrong("api.username", "there is no password: set api.password or api.password_file")
	case password && !user:
		v.wrong(secret, "there is no user name: set api.username")
	case !user && !v.bad["api.bind"] && !parseEndpoint(a.Bind).loopback():
		v.wrong("api.bind", "%s can be reached from other machines: set api.username and api.password (or api.password_file), or bind to 127.0.0.1", quote(a.Bind))
	}
}

// addresses: no two binds meet, and no backend is ourselves.
func (v *validator) addresses() {
	type bind struct {
		path string
		endpoint
	}
	var binds []bind
	listen := func(path, address string) {
		if address == "" || v.bad[path] {
			return
		}
		e := parseEndpoint(address)
		for _, b := range binds {
			if e.meets(b.endpoint) {
				v.wrong(path, "%s is already taken by %s: use another port or address", quote(address), b.path)
				return
			}
		}
		binds = append(binds, bind{path, e})
	}
	for i, l := range v.file.Listeners {
		listen(element("listeners", i)+".bind", l.Bind)
	}
	listen("api.bind", v.file.API.Bind)
	listen("health.bind", v.file.Health.Bind)
	for i, h := range v.file.Hosts {
		for j, b := range h.Backends {
			path := element(element("hosts", i)+".backends", j) + ".address"
			if b.Address == "" || v.bad[path] {
				continue
			}
			backend := parseEndpoint(b.Address)
			for _, own := range binds {
				if own.serves(backend) {
					v.wrong(path, "%s is our own %s: sessions would run in a circle", quote(b.Address), own.path)
				}
			}
		}
	}
}

// endpoint is an address that ParseAddress has accepted, for comparing.
type endpoint struct {
	// ip is not valid for a name.
	ip   netip.Addr
	name string
	port int
}

func parseEndpoint(address string) endpoint {
	host, port, _ := route.ParseAddress(address, true)
	e := endpoint{port: port}
	if ip, err := netip.ParseAddr(host); err == nil {
		e.ip = ip.Unmap()
	} else {
		e.name, _ = route.HostName(host)
	}
	return e
}

func (e endpoint) loopback() bool { return e.name == "localhost" || e.ip.IsLoopback() }
func (e endpoint) wildcard() bool { return e.ip.IsUnspecified() }

// same tells whether both are the same address; localhost is 127.0.0.1 and ::1.
func (e endpoint) same(f endpoint) bool {
	local := func(a, b endpoint) bool {
		return a.name == "localhost" && (b.ip == netip.IPv6Loopback() || b.ip == netip.AddrFrom4([4]byte{127, 0, 0, 1}))
	}
	return e.ip == f.ip && e.name == f.name || local(e, f) || local(f, e)
}

// meets tells whether e and f cannot be bound at the same time.
func (e endpoint) meets(f endpoint) bool {
	return e.port == f.port && e.port != 0 && (e.same(f) || e.wildcard() || f.wildcard())
}

// serves tells whether connecting to f reaches e, as far as can be told without
// asking the system for its addresses.
func (e endpoint) serves(f endpoint) bool {
	return e.port == f.port && (e.same(f) || e.wildcard() && f.loopback())
}
