package route_test

import (
	"net"
	"net/netip"
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
	"\u212a", "\u0130", "a\x00", "a\xff", "xn--a:1", "{a}:1", "a\r\nb", "[[::1]]:80", "]:80", "[:80", "db:\u0661",
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
