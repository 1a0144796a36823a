package table

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"switchboard/bridge/route"
)

// MaxKey is the longest key, in bytes, of a type, node or instance.
const MaxKey = 128

// Member is one element of the SET instances:<host>: an instance that serves the
// host. Its text, "IP:PORT#TYPE#NODE#INSTANCE", is what NGINX routers with Lua of
// this family read too.
type Member struct {
	// Address is where the instance listens. Its IP address is numeric by type, as the
	// readers resolve nothing, and has no zone.
	Address netip.AddrPort
	// Type, Node and Instance are the keys that access records account to: 1 to
	// [MaxKey] bytes as [route.ValidBackendName] has them. "" is written as
	// "null", which is also read as "".
	Type, Node, Instance string
}

// ParseMember reads a member strictly: what [Member.String] writes, and other
// spellings of an IPv6 address. Its errors never quote more than [MaxKey] bytes.
func ParseMember(text string) (Member, error) {
	if strings.Count(text, "#") != 3 {
		return Member{}, fmt.Errorf("%s is not IP:PORT#TYPE#NODE#INSTANCE", quote(text))
	}
	ipPort, rest, _ := strings.Cut(text, "#")
	address, err := netip.ParseAddrPort(ipPort)
	if err != nil {
		return Member{}, fmt.Errorf("%s is not a numeric IP address and a port", quote(ipPort))
	}
	if digits := ipPort[strings.LastIndexByte(ipPort, ':')+1:]; digits[0] == '0' && digits != "0" {
		return Member{}, fmt.Errorf("%s has a port that is not in its one spelling", quote(ipPort))
	}
	m := Member{Address: netip.AddrPortFrom(address.Addr().Unmap(), address.Port())}
	for _, key := range []*string{&m.Type, &m.Node, &m.Instance} {
		switch *key, rest, _ = strings.Cut(rest, "#"); *key {
		case "":
			return Member{}, fmt.Errorf("%s has an empty key: write %s", quote(text), route.NoKey)
		case route.NoKey:
			*key = ""
		}
	}
	return m, m.Validate()
}

// Validate returns what is wrong with m, whoever made it: bad keys, and addresses that
// no table may have, which are those with a zone, without a port, unspecified,
// link-local (that is where clouds keep their metadata) and multicast ones.
func (m Member) Validate() error {
	ip := m.Address.Addr()
	switch {
	case !ip.IsValid():
		return errors.New("the address is missing")
	case ip.Zone() != "":
		return fmt.Errorf("%s has a zone, which means something on one machine only", m.Address)
	case m.Address.Port() == 0:
		return fmt.Errorf("%s has port 0, to which nothing can connect", m.Address)
	case ip.Unmap().IsUnspecified():
		return fmt.Errorf("%s is refused: an unspecified address is the router's own machine", m.Address)
	case ip.Unmap().IsLinkLocalUnicast():
		return fmt.Errorf("%s is refused: it is a link-local address", m.Address)
	case ip.Unmap().IsMulticast():
		return fmt.Errorf("%s is refused: it is a multicast address", m.Address)
	}
	for _, key := range []string{m.Type, m.Node, m.Instance} {
		if len(key) > MaxKey {
			return fmt.Errorf("%s is too long for a key: at most %d bytes", quote(key), MaxKey)
		}
		if key == "" {
			continue
		}
		if err := route.ValidBackendName(key); err != nil {
			return fmt.Errorf("%s is not a key: use letters, digits, '.', '-', '_' and slashes inside, beginning with a letter or digit", quote(key))
		}
	}
	return nil
}

// String is the member as it is in the SET.
func (m Member) String() string { return m.address() + "#" + m.origin() }

// Name is that of the backend that m is: the instance's key, or [Member.AddressName]
// if it has none. A host's second backend of that name goes by its address.
func (m Member) Name() string {
	if name := m.instance(); name != "" {
		return name
	}
	return m.AddressName()
}

// AddressName is the name of a backend that has no other: its address and port in the
// letters that names are made of, as 10.0.0.1-8080.
func (m Member) AddressName() string {
	ip := m.Address.Addr().Unmap()
	return strings.ReplaceAll(ip.StringExpanded(), ":", "-") + "-" + strconv.Itoa(int(m.Address.Port()))
}

func (m Member) instance() string {
	if m.Instance == route.NoKey {
		return ""
	}
	return m.Instance
}

func (m Member) address() string {
	return netip.AddrPortFrom(m.Address.Addr().Unmap(), m.Address.Port()).String()
}

// origin is [route.Backend.Origin].
func (m Member) origin() string {
	return cmp.Or(m.Type, route.NoKey) + "#" + cmp.Or(m.Node, route.NoKey) + "#" + cmp.Or(m.Instance, route.NoKey)
}

// quote is text as it may stand in an error or a log line: Redis may hold 10 MB of
// anything.
func quote(text string) string {
	if len(text) > MaxKey {
		return strconv.QuoteToASCII(text[:MaxKey]) + "…"
	}
	return strconv.QuoteToASCII(text)
}
