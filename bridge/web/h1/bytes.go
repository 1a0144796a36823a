package h1

import (
	"encoding/binary"
	"math/bits"
)

// lower is a token's byte in lower case, 0 for a byte that no token has (RFC 9110,
// section 5.6.2).
var lower = tokenBytes()

func tokenBytes() (table [256]byte) {
	for _, c := range []byte("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz") {
		table[c] = c
	}
	for c := byte('a'); c <= 'z'; c++ {
		table[c-0x20] = c
	}
	return table
}

func isToken(b []byte) bool {
	for _, c := range b {
		if lower[c] == 0 {
			return false
		}
	}
	return len(b) > 0
}

// equalFold compares a token with one in lower case.
func equalFold(b []byte, low string) bool {
	if len(b) != len(low) {
		return false
	}
	for i, c := range b {
		if lower[c] != low[i] {
			return false
		}
	}
	return true
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// control returns the index of the first control byte, HTAB among them, or len(b).
// It looks at eight bytes at a time: with its top bit off, a byte from 0x20 on gets it
// back when 0x60 is added, and only DEL does when 1 is added, so no sum spills over into
// the next byte. Those that had it are no control bytes.
func control(b []byte) int {
	const (
		ones = 0x0101010101010101
		tops = 0x8080808080808080
	)
	rest := b
	for ; len(rest) >= 8; rest = rest[8:] {
		word := binary.LittleEndian.Uint64(rest)
		low := word &^ tops
		if marks := (^(low + 0x60*ones) | (low + ones)) &^ word & tops; marks != 0 {
			return len(b) - len(rest) + bits.TrailingZeros64(marks)/8
		}
	}
	for i, c := range rest {
		if c < 0x20 || c == 0x7f {
			return len(b) - len(rest) + i
		}
	}
	return len(b)
}

// text returns how many bytes at the start of b may stand in a field value or a reason:
// VCHAR, SP, HTAB and obs-text (RFC 9110, section 5.5; RFC 9112, section 4).
func text(b []byte) int {
	i := control(b)
	for i < len(b) && b[i] == '\t' {
		i++
		i += control(b[i:])
	}
	return i
}

// badByte says what is wrong with the control byte at b[i].
func badByte(b []byte, i int) *Error {
	switch b[i] {
	case '\n':
		return errBareLF
	case '\r':
		return errBareCR
	}
	return errControl
}

// trim removes OWS, SP and HTAB, from both ends (RFC 9110, section 5.6.3).
func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

// next cuts the first element off a list (RFC 9110, section 5.6.1). Elements may be
// empty.
func next(list []byte) (element, rest []byte) {
	for i, c := range list {
		if c == ',' {
			return trim(list[:i]), list[i+1:]
		}
	}
	return trim(list), nil
}
