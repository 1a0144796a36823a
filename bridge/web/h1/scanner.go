package h1

import "bytes"

// Scanner finds the end of a head in a buffer that grows, without looking at a byte
// twice. The zero value is at the beginning of a request.
type Scanner struct {
	// Response: the head is that of a response. Set it before the first Scan.
	Response bool

	begun bool // the first byte is one that a message begins with
	lined bool // the first line has ended
	start int  // where the message begins: 2 after an empty line
	line  int  // where the line of pos begins
	pos   int  // the first byte that was not looked at
}

// Scan looks at what buf has more than at the last call; buf begins with the head
// each time. n > 0: buf[:n] is a whole head, and the Scanner is ready for another.
// n == 0 and no error: more is needed.
//
// What no head can have is refused as soon as it is there: a first byte that is none of
// a method's (RFC 9112, section 3), as the first of TLS is none, a line that does
// not end with CRLF (section 2.2, which lets a recipient accept LF alone), control
// bytes, a head over the limit. The HTTP/2 preface is [ErrPreface].
//
// One empty line before a request is skipped, as section 2.2 asks: it belongs to the
// head that is returned, and [Request.Parse] skips it again.
func (s *Scanner) Scan(buf []byte, l Limits) (n int, err *Error) {
	if !s.begun {
		err = s.begin(buf)
	}
	if s.begun {
		n, err = s.lines(buf, l)
	}
	if n > 0 {
		*s = Scanner{Response: s.Response}
	}
	if err != nil && s.Response {
		err = err.gateway
	}
	return n, err
}

// begin looks at what comes before the message, and at its first byte.
func (s *Scanner) begin(buf []byte) *Error {
	if !s.Response && s.start == 0 && len(buf) > 0 && buf[0] == '\r' {
		switch {
		case len(buf) == 1:
			return nil
		case buf[1] != '\n':
			return errBareCR
		}
		s.start, s.line, s.pos = 2, 2, 2
	}
	if len(buf) <= s.start {
		return nil
	}
	switch first := buf[s.start]; {
	case s.Response && first != 'H':
		return errFirstByte
	case s.Response:
	case first == 0x16:
		return errTLS
	case first == '\n':
		return errBareLF
	case first == '\r':
		return errBlankLines
	case lower[first] == 0:
		return errFirstByte
	case s.start == 0 && len(buf) < len(preface) && bytes.HasPrefix([]byte(preface), buf):
		return nil
	case s.start == 0 && bytes.HasPrefix(buf, []byte(preface)):
		return ErrPreface
	}
	s.begun = true
	return nil
}

const preface = "PRI "

// lines looks for the empty line that ends the head.
func (s *Scanner) lines(buf []byte, l Limits) (int, *Error) {
	for {
		limit := l.head()
		if !s.lined && !s.Response {
			limit = min(limit, s.start+l.requestLine()+len("\r\n"))
		}
		// A limit may be less than the empty line that was skipped.
		end := max(s.pos, min(len(buf), limit))
		s.pos += text(buf[s.pos:end])
		switch {
		case s.pos+1 < end && buf[s.pos] == '\r' && buf[s.pos+1] == '\n':
			empty := s.pos == s.line
			s.pos += 2
			s.line = s.pos
			s.lined = true
			if empty {
				return s.pos, nil
			}
		case s.pos+1 == end && buf[s.pos] == '\r' || s.pos == end:
			if end < limit {
				return 0, nil
			}
			if !s.lined && !s.Response {
				return 0, errTargetLong
			}
			return 0, errHeadLong
		default:
			return 0, badByte(buf, s.pos)
		}
	}
}
