package h1

import "bytes"

// maxHost is the longest host, in bytes: that of a DNS name with the dot of the root
// (RFC 1035, section 2.3.4).
const maxHost = 254

// SplitAuthority splits an authority that Parse accepted. An IPv6 address comes without
// its brackets; port is empty if there is none.
func SplitAuthority(authority []byte) (host, port []byte) {
	host = authority
	if at := bytes.LastIndexByte(authority, ':'); at >= 0 && authority[len(authority)-1] != ']' {
		host, port = authority[:at], authority[at+1:]
	}
	if len(host) > 0 && host[0] == '[' {
		host = host[1 : len(host)-1]
	}
	return host, port
}

// checkAuthority checks host [":" port] (RFC 3986, section 3.2). A host is an IPv6
// address in brackets, or letters, digits, hyphens, underscores and dots, none of them
// at the beginning or next to another. What else RFC 3986 lets a reg-name have is no
// host's name: percent signs and sub-delims, the comma of two joined Host fields among
// them. A user name must not be there (RFC 9110, section 4.2.4).
func checkAuthority(b []byte) *Error {
	if bytes.IndexByte(b, '@') >= 0 {
		return errUserinfo
	}
	host, port := b, []byte(nil)
	if len(b) > 0 && b[0] == '[' {
		end := bytes.IndexByte(b, ']')
		if end < 0 || !isIPv6(b[1:end]) {
			return errHost
		}
		host, port = nil, b[end+1:]
		if len(port) > 0 && port[0] != ':' {
			return errHost
		}
	} else {
		if colon := bytes.IndexByte(b, ':'); colon >= 0 {
			host, port = b[:colon], b[colon:]
		}
		if !isName(host) {
			return errHost
		}
	}
	if len(port) > 0 && !isPort(port[1:]) {
		return errPort
	}
	return nil
}

func isName(b []byte) bool {
	if len(b) == 0 || len(b) > maxHost {
		return false
	}
	before := byte('.')
	for _, c := range b {
		letter := 'a' <= c|0x20 && c|0x20 <= 'z' || isDigit(c) || c == '-' || c == '_'
		if !letter && (c != '.' || before == '.') {
			return false
		}
		before = c
	}
	return true
}

// isPort: from 1 to 65535, in one spelling.
func isPort(b []byte) bool {
	if len(b) == 0 || len(b) > 5 || b[0] == '0' {
		return false
	}
	n := 0
	for _, c := range b {
		if !isDigit(c) {
			return false
		}
		n = n*10 + int(c-'0')
	}
	return n <= 65535
}

// isIPv6: IPv6address of RFC 3986, section 3.2.2, so without a zone. "::" stands for one
// group of zeros or more.
func isIPv6(b []byte) bool {
	groups, compressed := 0, false
	if len(b) >= 2 && b[0] == ':' && b[1] == ':' {
		compressed = true
		b = b[2:]
	}
	for len(b) > 0 {
		end := 0
		for end < len(b) && isHex(b[end]) {
			end++
		}
		if end < len(b) && b[end] == '.' {
			groups += 2
			return isIPv4(b) && (compressed && groups < 8 || !compressed && groups == 8)
		}
		if end == 0 || end > 4 {
			return false
		}
		groups++
		if b = b[end:]; len(b) == 0 {
			break
		}
		if b[0] != ':' || len(b) == 1 {
			return false
		}
		if b = b[1:]; b[0] == ':' {
			if compressed {
				return false
			}
			compressed = true
			b = b[1:]
		}
	}
	return compressed && groups < 8 || !compressed && groups == 8
}

// isIPv4: four numbers up to 255, without leading zeros.
func isIPv4(b []byte) bool {
	for i := range 4 {
		end, n := 0, 0
		for end < len(b) && end < 3 && isDigit(b[end]) {
			n = n*10 + int(b[end]-'0')
			end++
		}
		if end == 0 || n > 255 || end > 1 && b[0] == '0' {
			return false
		}
		b = b[end:]
		if i < 3 {
			if len(b) == 0 || b[0] != '.' {
				return false
			}
			b = b[1:]
		}
	}
	return len(b) == 0
}

func isHex(c byte) bool { return isDigit(c) || 'a' <= c|0x20 && c|0x20 <= 'f' }

// sameAuthority tells whether two valid authorities mean the same: in any case, with or
// without the dot of the root and the port that scheme has anyway (RFC 9110, section
// 4.2.3).
func sameAuthority(a, b []byte, standardPort string) bool {
	hostA, portA := SplitAuthority(a)
	hostB, portB := SplitAuthority(b)
	if string(portA) == standardPort {
		portA = nil
	}
	if string(portB) == standardPort {
		portB = nil
	}
	return bytes.Equal(portA, portB) && sameHost(bytes.TrimSuffix(hostA, []byte(".")), bytes.TrimSuffix(hostB, []byte(".")))
}

// sameHost compares two valid hosts, in any case. The bytes that a host has beside
// letters have bit 5 set, except '_', which with it is no byte of a host.
func sameHost(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i, c := range a {
		if c|0x20 != b[i]|0x20 {
			return false
		}
	}
	return true
}
