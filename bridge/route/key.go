package route

import (
	"bytes"
	"net/netip"
	"strings"
)

// Key returns the name that a table is asked for, given what a client sent: a
// Host field, an :authority or a server name. That is the spelling of [HostName]:
// lower case, without the port, without one trailing dot; an IPv6 address without
// its brackets. False is for what is no name, or has a port that is no number from
// 1 to 65535 in its one spelling.
//
// The key is a part of authority if that has it already, and else is written over
// dst, which is made longer if need be. Only for an IPv6 address or a short dst is
// anything allocated.
func Key(dst, authority []byte) ([]byte, bool) {
	host := authority
	if len(host) > 0 && host[0] == '[' {
		end := bytes.IndexByte(host, ']')
		if end < 0 || bytes.IndexByte(host[:end], ':') < 0 || host[end-1] == '.' {
			return nil, false
		}
		if rest := host[end+1:]; len(rest) > 0 && (rest[0] != ':' || !validPort(rest[1:])) {
			return nil, false
		}
		return addressKey(dst, host[1:end])
	}
	if colon := bytes.IndexByte(host, ':'); colon >= 0 {
		if bytes.IndexByte(host[colon+1:], ':') >= 0 {
			return addressKey(dst, bytes.TrimSuffix(host, dot))
		}
		if !validPort(host[colon+1:]) {
			return nil, false
		}
		host = host[:colon]
	}
	host = bytes.TrimSuffix(host, dot)
	if len(host) == 0 || len(host) > MaxName {
		return nil, false
	}
	upper, last := false, byte(0)
	for _, c := range host {
		switch kinds[c] {
		case nameUpper:
			upper = true
		case nameLower:
		case nameMark:
			if c == '.' && last == '.' {
				return nil, false
			}
		default:
			return nil, false
		}
		last = c
	}
	if kinds[host[0]] == nameMark || last == '.' {
		return nil, false
	}
	if !upper {
		return host, true
	}
	dst = append(dst[:0], host...)
	for i, c := range dst {
		if kinds[c] == nameUpper {
			dst[i] = c | 0x20
		}
	}
	return dst, true
}

var dot = []byte(".")

// addressKey is [Key] for an IPv6 address without brackets and port.
func addressKey(dst, address []byte) ([]byte, bool) {
	ip, err := netip.ParseAddr(string(address))
	if err != nil || ip.Zone() != "" {
		return nil, false
	}
	return ip.Unmap().AppendTo(dst[:0]), true
}

// validPort tells whether digits are a number from 1 to 65535 in its one spelling.
func validPort(digits []byte) bool {
	_, ok := parsePort(digits)
	return ok
}

// parsePort reads a number from 1 to 65535 in its one spelling.
func parsePort[T string | []byte](digits T) (port int, ok bool) {
	if len(digits) == 0 || len(digits) > 5 || digits[0] == '0' {
		return 0, false
	}
	for i := range len(digits) {
		c := digits[i]
		if c < '0' || c > '9' {
			return 0, false
		}
		port = port*10 + int(c-'0')
	}
	return port, port <= 65535
}

// literal tells whether key, which is a key, is an IP address.
func literal(key string) bool {
	if strings.IndexByte(key, ':') >= 0 {
		return true
	}
	octets, octet, digits := 1, 0, 0
	for _, c := range []byte(key) {
		switch {
		case c == '.' && digits > 0:
			octets, octet, digits = octets+1, 0, 0
		case c < '0' || c > '9' || digits > 0 && octet == 0:
			return false
		default:
			if octet, digits = octet*10+int(c-'0'), digits+1; octet > 255 {
				return false
			}
		}
	}
	return octets == 4 && digits > 0
}

// What a byte is in a name.
const (
	nameLower = iota + 1 // what may stand first, in lower case
	nameUpper
	nameMark // what may stand elsewhere
)

// kinds is what each byte is in a name, 0 if it has no place there.
var kinds = func() (all [256]byte) {
	for c := range all {
		switch {
		case 'a' <= c && c <= 'z' || '0' <= c && c <= '9':
			all[c] = nameLower
		case 'A' <= c && c <= 'Z':
			all[c] = nameUpper
		case c == '.' || c == '-' || c == '_':
			all[c] = nameMark
		}
	}
	return all
}()
