package route

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// Backend is an address that can serve a host. Its identity is the host and
// Name; the address may change under it. Backends are values: copy them freely.
type Backend struct {
	// Name is unique in its host; see [ValidBackendName].
	Name string `json:"name"`
	// Address is host:port as [ParseAddress] accepts it.
	Address string `json:"address"`
	// Weight is its part of the new sessions under [Balance], from 0 to [MaxWeight];
	// 0 is none: the backend is drained. [NewBackend] gives 1.
	Weight int `json:"weight"`
	// Origin is whom an access record accounts the backend to, "TYPE#NODE#INSTANCE" as a
	// routing table in Redis spells it; empty for a backend of a configuration. It is one
	// string because a table may have millions of them; [Backend.Keys] takes it apart.
	Origin string `json:"origin,omitempty"`
}

// NoKey is what stands in an access record where nothing is known.
const NoKey = "null"

// Keys are the parts of Origin: the version's type, the node and the instance that an
// access record names, each [NoKey] if it is not known.
func (b Backend) Keys() (typeID, nodeID, instanceID string) {
	typeID, rest, _ := strings.Cut(b.Origin, "#")
	nodeID, instanceID, _ = strings.Cut(rest, "#")
	return cmp.Or(typeID, NoKey), cmp.Or(nodeID, NoKey), cmp.Or(instanceID, NoKey)
}

// NewBackend is a backend of weight 1, which is what a backend has whose weight
// nobody speaks of.
func NewBackend(name, address string) Backend {
	return Backend{Name: name, Address: address, Weight: 1}
}

// Policy is how a host uses its backends.
type Policy string

const (
	// Active sends every session to one backend at a time.
	Active Policy = "active"
	// Balance chooses a backend for each session; see [Choose].
	Balance Policy = "balance"
)

// MaxName is the longest name, in bytes, that [ValidName] accepts: that of a
// DNS name (RFC 1035, section 2.3.4).
const MaxName = 253

// ValidName checks the name of a router, listener, host or backend: 1 to
// [MaxName] ASCII letters, digits, dots, hyphens and underscores, beginning with
// a letter or digit. Names are case-sensitive except where the wire says
// otherwise, so upper case is left alone here.
func ValidName(name string) error { return validName(name, false) }

func validName(name string, slashes bool) error {
	switch {
	case name == "":
		return errors.New("a name must not be empty")
	case len(name) > MaxName:
		return fmt.Errorf("a name has at most %d characters, this one has %d", MaxName, len(name))
	}
	for i, c := range []byte(name) {
		letter := 'a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9'
		if !letter && (i == 0 || c != '.' && c != '-' && c != '_' && (c != '/' || !slashes)) {
			return fmt.Errorf("%q is not a name: use letters, digits, '.', '-' and '_', beginning with a letter or digit", name)
		}
	}
	return nil
}

// ValidBackendName is [ValidName] for the name of a backend, which may have slashes
// inside: BOSH names its instances GROUP/ID.
func ValidBackendName(name string) error {
	if strings.HasPrefix(name, "/") || strings.HasSuffix(name, "/") || strings.Contains(name, "//") {
		return fmt.Errorf("%q is not a name: a slash stands between two parts", name)
	}
	return validName(name, true)
}

// ParseAddress splits host:port. The host is an IP literal (IPv6 in brackets,
// with its zone if it has one), returned in its one spelling, or a DNS name; the
// port is a number from 1 to 65535, or 0 if zeroPort allows it (a listener that
// asks for any free port).
func ParseAddress(address string, zeroPort bool) (host string, port int, err error) {
	at := strings.LastIndexByte(address, ':')
	if at < 0 {
		return "", 0, fmt.Errorf("%q has no port: write host:port", address)
	}
	host, digits := address[:at], address[at+1:]
	port, ok := parsePort(digits)
	switch {
	case !ok && digits != "0":
		return "", 0, fmt.Errorf("%q has no valid port: a port is a number from 1 to 65535", address)
	case port == 0 && !zeroPort:
		return "", 0, fmt.Errorf("%q has port 0, to which nothing can connect", address)
	}
	if bracketed, ok := strings.CutPrefix(host, "["); ok {
		bracketed, ok = strings.CutSuffix(bracketed, "]")
		ip, err := netip.ParseAddr(bracketed)
		if !ok || err != nil || !ip.Is6() {
			return "", 0, fmt.Errorf("%q is not an IPv6 address in brackets", host)
		}
		if zone := ip.Zone(); zone != "" && ValidName(zone) != nil {
			return "", 0, fmt.Errorf("%q has a zone that is no network interface's name", host)
		}
		return ip.String(), port, nil
	}
	if strings.ContainsRune(host, ':') {
		return "", 0, fmt.Errorf("%q is ambiguous: write an IPv6 address in brackets, as in [::1]:%d", address, port)
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return host, port, nil
	}
	if err := ValidName(host); err != nil {
		return "", 0, fmt.Errorf("%q has no valid host: %w", address, err)
	}
	if last := host[strings.LastIndexByte(host, '.')+1:]; last == "" || number(last) {
		// A last label that is a number makes it an IPv4 address for some resolvers
		// (inet_aton reads 127.1 and 0x7f000001) and a name for others (RFC 3696,
		// section 2).
		return "", 0, fmt.Errorf("%q is neither an IP address nor a DNS name", host)
	}
	return host, port, nil
}

// number tells whether label is digits, or hexadecimal after 0x.
func number(label string) bool {
	digits := "0123456789"
	if lower := strings.ToLower(label); strings.HasPrefix(lower, "0x") {
		label, digits = lower[2:], "0123456789abcdef"
	}
	return strings.Trim(label, digits) == ""
}

// HostName returns the one spelling of a host's name: lower case, no trailing
// dot. An IP literal is a host name too, without a zone, since a zone means
// something on one machine only.
func HostName(name string) (string, error) {
	name = strings.TrimSuffix(name, ".")
	if spelled(name) {
		return name, nil
	}
	if ip, err := netip.ParseAddr(name); err == nil && ip.Zone() == "" {
		return ip.Unmap().String(), nil
	}
	// Before the case is changed, since there are letters outside ASCII whose lower case
	// is inside.
	if err := ValidName(name); err != nil {
		return "", err
	}
	if strings.Contains(name+".", "..") {
		return "", fmt.Errorf("%q is not a host name: two dots with nothing between them", name)
	}
	return strings.ToLower(name), nil
}

// spelled tells at one glance whether name, which has no trailing dot, is that of a host in
// its one spelling. False says nothing: it may be, or may be an IP address.
func spelled(name string) bool {
	if name == "" || len(name) > MaxName {
		return false
	}
	last := byte('.')
	for _, c := range []byte(name) {
		if kind := kinds[c]; kind != nameLower && (kind != nameMark || c == '.' && last == '.') {
			return false
		}
		last = c
	}
	// An IPv4 address ends in a digit.
	return kinds[name[0]] == nameLower && 'a' <= last && last <= 'z'
}
