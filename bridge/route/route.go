package route

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Backend is an address that can serve a host. Its identity is the host and
// Name; the address may change under it. Backends are values: copy them freely.
type Backend struct {
	// Name is unique in its host; see [ValidName].
	Name string `json:"name"`
	// Address is host:port as [ParseAddress] accepts it.
	Address string `json:"address"`
	// Weight is the share of new sessions under a policy that chooses; 0 is
	// read as 1.
	Weight int `json:"weight"`
}

// Policy is how a host uses its backends.
type Policy string

// Active sends every session to one backend at a time.
const Active Policy = "active"

// MaxName is the longest name, in bytes, that [ValidName] accepts: that of a
// DNS name (RFC 1035, section 2.3.4).
const MaxName = 253

// ValidName checks the name of a router, listener, host or backend: 1 to
// [MaxName] ASCII letters, digits, dots, hyphens and underscores, beginning with
// a letter or digit. Names are case-sensitive except where the wire says
// otherwise, so upper case is left alone here.
func ValidName(name string) error {
	switch {
	case name == "":
		return errors.New("a name must not be empty")
	case len(name) > MaxName:
		return fmt.Errorf("a name has at most %d characters, this one has %d", MaxName, len(name))
	}
	for i, c := range []byte(name) {
		letter := 'a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9'
		if !letter && (i == 0 || c != '.' && c != '-' && c != '_') {
			return fmt.Errorf("%q is not a name: use letters, digits, '.', '-' and '_', beginning with a letter or digit", name)
		}
	}
	return nil
}

// ParseAddress splits host:port. The host is an IP literal (IPv6 in brackets,
// with its zone if it has one) or a DNS name; the port is a number from 1 to
// 65535, or 0 if zeroPort allows it (a listener that asks for any free port).
func ParseAddress(address string, zeroPort bool) (host string, port int, err error) {
	at := strings.LastIndexByte(address, ':')
	if at < 0 {
		return "", 0, fmt.Errorf("%q has no port: write host:port", address)
	}
	host, digits := address[:at], address[at+1:]
	port, err = strconv.Atoi(digits)
	switch {
	case err != nil || strconv.Itoa(port) != digits || port < 0 || port > 65535:
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
		return bracketed, port, nil
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
	if last := host[strings.LastIndexByte(host, '.')+1:]; last == "" || strings.Trim(last, "0123456789") == "" {
		// A last label of digits makes it an IPv4 address for some resolvers and a
		// name for others (RFC 3696, section 2).
		return "", 0, fmt.Errorf("%q is neither an IP address nor a DNS name", host)
	}
	return host, port, nil
}

// HostName returns the one spelling of a host's name: lower case, no trailing
// dot. An IP literal is a host name too.
func HostName(name string) (string, error) {
	canonical := strings.ToLower(strings.TrimSuffix(name, "."))
	if ip, err := netip.ParseAddr(canonical); err == nil {
		return ip.String(), nil
	}
	return canonical, ValidName(canonical)
}
