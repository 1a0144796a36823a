package route_test

import (
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"switchboard/bridge/route"
)

// seeds are what the parsers must tell apart.
var seeds = []string{
	"", ".", ":", "::", "a", "A.b-C_d.", "a..", "a..b", "-a", "db:80", "db:080", "db:0", ":80", "db:65535", "db:65536", "db.:80", "::1", "[::1]:80", "[::1%eth0]:80",
	"[::1%\n]:80", "::1:80", "[1.2.3.4]:80", "1.2.3.4:80", "010.0.0.1:80", "0x7f.1:80", "1.0x1:80", "[::ffff:1.2.3.4]:80", "::FFFF:1.2.3.4", "fe80::1%x", "1.2.3.4.",
	"\u212a", "\u0130", "a\x00", "a\xff", "xn--a:1", "{a}:1", "a\r\nb", "[::1].", "[::1.]", "::1.", "A.b.:80", "a..:80", "a:", "[::1]", "[[::1]]:80", "]:80", "[:80", "db:\u0661",
}

func FuzzParseAddress(f *testing.F) {
	for _, seed := range seeds {
		f.Add(seed, true)
		f.Add(seed, false)
	}
	f.Fuzz(func(t *testing.T, address string, zeroPort bool) {
		host, port, err := route.ParseAddress(address, zeroPort)
		if err != nil {
			if host != "" || port != 0 {
				t.Fatalf("%q is refused with %q and %d", address, host, port)
			}
			return
		}
		if port < 0 || port > 65535 || port == 0 && !zeroPort {
			t.Fatalf("%q has port %d", address, port)
		}
		plain(t, address)
		// What was accepted has one spelling, and means the same in net.
		spelling := net.JoinHostPort(host, strconv.Itoa(port))
		again, samePort, err := route.ParseAddress(spelling, zeroPort)
		if err != nil || again != host || samePort != port {
			t.Fatalf("%q is %q, which is %q, %d, %v", address, spelling, again, samePort, err)
		}
		if h, p, err := net.SplitHostPort(address); err != nil || p != strconv.Itoa(port) {
			t.Fatalf("%q is %q, %q, %v to net", address, h, p, err)
		} else if ip, err := netip.ParseAddr(h); err == nil {
			if ip.String() != host {
				t.Fatalf("%q has IP address %s and host %q", address, ip, host)
			}
		} else if h != host {
			t.Fatalf("%q has host %q to net and %q to us", address, h, host)
		}
	})
}

func FuzzHostName(f *testing.F) {
	for _, seed := range seeds {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		canonical, err := route.HostName(name)
		if err != nil {
			if canonical != "" {
				t.Fatalf("%q is refused with %q", name, canonical)
			}
			return
		}
		plain(t, name)
		if strings.HasSuffix(canonical, ".") || canonical != strings.ToLower(canonical) || canonical == "" {
			t.Fatalf("%q is %q", name, canonical)
		}
		for _, other := range []string{canonical, strings.ToUpper(canonical), canonical + ".", strings.ToUpper(name)} {
			if strings.HasSuffix(other, "..") {
				continue
			}
			if again, err := route.HostName(other); err != nil || again != canonical {
				t.Fatalf("%q is %q, but %q is %q, %v", name, canonical, other, again, err)
			}
		}
	})
}

func FuzzValidName(f *testing.F) {
	for _, seed := range seeds {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		const first = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
		want := name != "" && len(name) <= route.MaxName &&
			strings.Trim(name, first+".-_") == "" && strings.ContainsRune(first, rune(name[0]))
		if err := route.ValidName(name); (err == nil) != want {
			t.Fatalf("%q: %v", name, err)
		}
	})
}

func FuzzKey(f *testing.F) {
	for _, seed := range seeds {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, authority []byte) {
		sent := string(authority)
		dst := make([]byte, 0, 300)
		result, ok := route.Key(dst, authority)
		key := string(result)
		canonical, err := route.HostName(sent)
		switch {
		case string(authority) != sent:
			t.Fatalf("%q was changed to %q", sent, authority)
		case !ok && result != nil:
			t.Fatalf("%q is refused with %q", sent, key)
		case err == nil && (!ok || key != canonical):
			t.Fatalf("%q is the host name %q and the key %q", sent, canonical, key)
		case !ok:
			return
		}
		plain(t, key)
		if again, err := route.HostName(key); err != nil || again != key {
			t.Fatalf("%q has key %q, which as a host name is %q, %v", sent, key, again, err)
		}
		if again, ok := route.Key(nil, []byte(key)); !ok || string(again) != key {
			t.Fatalf("%q has key %q, which has key %q", sent, key, again)
		}
		// Whatever is left out is a port, brackets or a dot.
		port := ""
		if strings.Count(sent, ":") == 1 || strings.Contains(sent, "]:") {
			sent, port = sent[:strings.LastIndexByte(sent, ':')], sent[strings.LastIndexByte(sent, ':'):]
		}
		if bracketed, ok := strings.CutPrefix(sent, "["); ok {
			sent, ok = strings.CutSuffix(bracketed, "]")
			if ip, err := netip.ParseAddr(sent); !ok || err != nil || !ip.Is6() {
				t.Fatalf("%q has key %q", authority, key)
			}
		}
		if name, err := route.HostName(sent); err != nil || name != key {
			t.Fatalf("%q has key %q, but its host is %q, %v", authority, key, name, err)
		}
		if _, _, err := route.ParseAddress("a"+port, false); port != "" && err != nil {
			t.Fatalf("%q has key %q, but %v", authority, key, err)
		}
	})
}

// model is what a table does, without any thought of speed.
type model struct {
	depth int
	hosts map[string]*route.Host
}

func (m model) lookup(name string) *route.Host {
	if h := m.hosts[name]; h != nil {
		return h
	}
	if _, err := netip.ParseAddr(name); err != nil {
		for rest, depth := name, 0; depth < m.depth; depth++ {
			_, after, ok := strings.Cut(rest, ".")
			if !ok {
				break
			}
			if h := m.hosts["*."+after]; h != nil {
				return h
			}
			rest = after
		}
	}
	return m.hosts["*"]
}

// check compares table with the model: what it has, and what name is.
func (m model) check(t fatalist, table *route.Table, names ...string) {
	t.Helper()
	if table.Len() != len(m.hosts) {
		t.Fatalf("the table has %d hosts, not %d", table.Len(), len(m.hosts))
	}
	seen := 0
	for h := range table.All() {
		if seen++; m.hosts[h.Name] != h {
			t.Fatalf("the table has %q, which is not there", h.Name)
		}
	}
	if seen != len(m.hosts) {
		t.Fatalf("the table has %d hosts of %d", seen, len(m.hosts))
	}
	for _, name := range names {
		if got, want := table.LookupString(name), m.lookup(name); got != want {
			t.Fatalf("%q is %v, not %v", name, got, want)
		}
		if got, want := table.Get(name), m.hosts[name]; got != want {
			t.Fatalf("%q gets %v, not %v", name, got, want)
		}
	}
}

// fatalist is what testing.T and rapid.T have in common.
type fatalist interface {
	Helper()
	Fatalf(format string, args ...any)
}

func FuzzLookup(f *testing.F) {
	f.Add("a.example.com *.example.com * b.a.example.com", "x.example.com", uint8(2))
	f.Add("*.0.0.1 10.0.0.1 2001:db8::1 * *.db8::1", "10.0.0.1", uint8(1))
	f.Add("a *.a a.a *.a.a", "a.a.a", uint8(0))
	f.Fuzz(func(t *testing.T, words, authority string, depth uint8) {
		m := model{depth: max(int(depth), 1), hosts: map[string]*route.Host{}}
		table, err := route.NewTable(route.Options{Depth: int(depth)})
		if err != nil {
			t.Fatal(err)
		}
		names := strings.Fields(words)
		for _, name := range names {
			h := &route.Host{Name: name, Policy: route.Balance}
			next, err := table.With([]*route.Host{h}, nil)
			if err != nil {
				if next != nil {
					t.Fatalf("%q is refused with a table", name)
				}
				continue
			}
			m.hosts[name], table = h, next
		}
		if key, ok := route.Key(nil, []byte(authority)); ok {
			names = append(names, string(key))
		}
		m.check(t, table, names...)
	})
}

// Whatever happens to a table, it is what the model is, and so are those it was.
func TestTablesFollowTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.Custom(func(t *rapid.T) string {
			prefix := rapid.SampledFrom([]string{"", "", "", "*.", "a.", "*.a.", "a.b."}).Draw(t, "prefix")
			long := rapid.SampledFrom([]string{"", "", strings.Repeat("l", 47), strings.Repeat("l", 200)}).Draw(t, "long")
			return prefix + long + strconv.Itoa(rapid.IntRange(0, 500).Draw(t, "number")) + "x"
		})
		type step struct {
			model
			table *route.Table
		}
		o := route.Options{Depth: rapid.IntRange(0, 3).Draw(t, "depth")}
		table, err := route.NewTable(o)
		if err != nil {
			t.Fatal(err)
		}
		steps := []step{{model{max(o.Depth, 1), map[string]*route.Host{}}, table}}
		for range rapid.IntRange(1, 10).Draw(t, "steps") {
			// Not always the last one: a table may have more than one that comes after it.
			last := steps[max(0, len(steps)-1-rapid.SampledFrom([]int{0, 0, 0, 1, 2}).Draw(t, "back"))]
			next := step{model: model{last.depth, maps.Clone(last.hosts)}}
			var put []*route.Host
			var drop []string
			for _, name := range rapid.SliceOfN(names, 0, 30).Draw(t, "drop") {
				drop = append(drop, name)
				delete(next.hosts, name)
			}
			if rapid.Bool().Draw(t, "drop many") {
				for name := range last.hosts {
					if len(name)%2 == 0 {
						drop = append(drop, name)
						delete(next.hosts, name)
					}
				}
			}
			many := rapid.SampledFrom([]int{0, 0, 1, 10, 400}).Draw(t, "many")
			added := rapid.SliceOfNDistinct(names, 0, 30, rapid.ID).Draw(t, "put")
			for i := range many {
				if name := strconv.Itoa(len(steps)) + "-" + strconv.Itoa(i) + ".many"; !slices.Contains(added, name) {
					added = append(added, name)
				}
			}
			for _, name := range added {
				h := &route.Host{Name: name, Policy: route.Balance}
				put = append(put, h)
				next.hosts[name] = h
			}
			if next.table, err = last.table.With(put, drop); err != nil {
				t.Fatal(err)
			}
			steps = append(steps, next)
		}
		for _, s := range steps {
			s.check(t, s.table, rapid.SliceOfN(names, 10, 10).Draw(t, "names")...)
			for name, h := range s.hosts {
				if s.table.Get(name) != h {
					t.Fatalf("%q is lost", name)
				}
			}
		}
	})
}

// plain fails if something that was accepted could be read as more than one word
// in a log line, a path or a Redis key.
func plain(t *testing.T, accepted string) {
	t.Helper()
	for _, c := range []byte(accepted) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`/\{}*?"'`, c) >= 0 {
			t.Fatalf("%q is accepted with byte %#x", accepted, c)
		}
	}
}

// All addresses there are survive being written and read.
func TestAddressesSurvive(t *testing.T) {
	label := rapid.StringMatching(`[a-z][a-z0-9_-]{0,20}`)
	hosts := rapid.OneOf(
		rapid.Custom(func(t *rapid.T) string {
			return strings.Join(rapid.SliceOfN(label, 1, 5).Draw(t, "labels"), ".")
		}),
		rapid.Custom(func(t *rapid.T) string {
			return netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "octets"))).String()
		}),
		rapid.Custom(func(t *rapid.T) string {
			ip := netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "octets")))
			return ip.WithZone(rapid.SampledFrom([]string{"", "eth0", "br-1.100", "7"}).Draw(t, "zone")).String()
		}),
	)
	rapid.Check(t, func(t *rapid.T) {
		host, port := hosts.Draw(t, "host"), rapid.IntRange(1, 65535).Draw(t, "port")
		address := net.JoinHostPort(host, strconv.Itoa(port))
		gotHost, gotPort, err := route.ParseAddress(address, false)
		if err != nil || gotHost != host || gotPort != port {
			t.Fatalf("%q is %q, %d, %v", address, gotHost, gotPort, err)
		}
	})
}
