package h1

import (
	"bytes"
	"slices"
)

// Chunks decodes a chunked body (RFC 9112, section 7.1). The zero value is at the
// beginning of one.
type Chunks struct {
	state  chunkState
	err    *Error
	size   int64 // of the chunk that is read; then what is left of it
	digits int
	line   int   // bytes of the chunk's first line so far
	excess int64 // framing that there was no data for

	trailer  []byte // the trailer section so far
	begins   int    // where in it the last line begins
	trailers []Field
}

type chunkState uint8

const (
	inSize    chunkState = iota
	atExtName            // after ';': a token must follow
	inExtName
	atExtValue // after '=': a token or a quoted string must follow
	inExtValue
	inExtQuoted
	inExtEscaped
	afterExtQuoted
	afterSize // LF follows
	inData
	afterData    // CR follows
	afterDataEnd // LF follows
	inTrailers   // at the beginning of a line if trailer ends with LF
	afterBody    // LF follows
	atEnd
)

const (
	maxChunkLine = 1024     // bytes of a chunk's first line, without CRLF
	freeLine     = 16       // bytes of a chunk's framing that need no data
	maxExcess    = 16 << 10 // bytes of further framing without data
	maxTrailer   = 8 << 10  // bytes of a trailer section, with the empty line
	maxTrailers  = 32
)

// Next decodes from buf, of which n bytes are consumed: call it again with the rest.
// data is a part of buf, empty if only framing was consumed. done: the body has ended,
// and what is left in buf is no part of it. n == 0 and neither done nor an error: more
// is needed. An error is final.
//
// Strict where RFC 9112 says how to be lenient: no white space around a size or an
// extension, no line that does not end with CRLF. Extensions must be well-formed and are
// dropped (section 7.1.1). A body that is more framing than data is refused, by the rule
// that net/http has: 16 bytes a chunk and twice its data are free, 16 KiB more are borne.
func (c *Chunks) Next(buf []byte) (data []byte, n int, done bool, err *Error) {
	for c.err == nil && c.state != atEnd && n < len(buf) {
		switch c.state {
		case inData:
			data = buf[n:]
			if int64(len(data)) >= c.size {
				data = data[:c.size:c.size]
				c.state = afterData
			}
			c.size -= int64(len(data))
			return data, n + len(data), false, nil
		case inTrailers:
			n += c.collect(buf[n:])
		default:
			c.err = c.step(buf[n])
			n++
		}
	}
	return nil, n, c.state == atEnd && c.err == nil, c.err
}

// Trailers returns the trailers that may be passed on, once Next was done (RFC 9110,
// section 6.5.1). They lie in memory of their own, not in what Next was given.
func (c *Chunks) Trailers() []Field { return c.trailers }

// step takes one byte of framing.
func (c *Chunks) step(b byte) *Error {
	switch c.state {
	case inSize:
		if digit, ok := unhex(b); ok {
			c.digits++
			c.size = c.size<<4 | digit
			if c.line++; c.digits > 16 || c.size < 0 {
				return errChunkSize
			}
			return nil
		}
		switch {
		case c.digits == 0 || b != ';' && b != '\r' && b != '\n':
			return errChunkSize
		case b == '\n':
			return errBareLF
		}
		return c.extend(b)
	case atExtName, inExtName, atExtValue, inExtValue, inExtQuoted, inExtEscaped, afterExtQuoted:
		return c.extend(b)
	case afterSize:
		if b != '\n' {
			return errBareCR
		}
		return c.begin()
	case afterData:
		if b != '\r' {
			return errChunkEnd
		}
		c.state = afterDataEnd
	case afterDataEnd:
		if b != '\n' {
			return errChunkEnd
		}
		c.state, c.size, c.digits, c.line = inSize, 0, 0, 0
	case afterBody:
		if b != '\n' {
			return errBareCR
		}
		c.state = atEnd
	}
	return nil
}

// extend takes one byte of a chunk's first line after its size: of chunk-ext (RFC 9112,
// section 7.1.1), without the white space that it lets a recipient accept, or the CR.
func (c *Chunks) extend(b byte) *Error {
	if c.line++; c.line > maxChunkLine+1 {
		return errChunkLong
	}
	token := lower[b] != 0
	text := b >= ' ' && b != 0x7f || b == '\t'
	complete := c.state == inSize || c.state == inExtName || c.state == inExtValue || c.state == afterExtQuoted
	switch {
	case c.state == inExtQuoted && b == '"':
		c.state = afterExtQuoted
	case c.state == inExtQuoted && b == '\\':
		c.state = inExtEscaped
	case (c.state == inExtQuoted || c.state == inExtEscaped) && text:
		c.state = inExtQuoted
	case c.state == atExtValue && b == '"':
		c.state = inExtQuoted
	case (c.state == atExtName || c.state == inExtName) && token:
		c.state = inExtName
	case (c.state == atExtValue || c.state == inExtValue) && token:
		c.state = inExtValue
	case c.state == inExtName && b == '=':
		c.state = atExtValue
	case complete && b == ';':
		c.state = atExtName
	case complete && b == '\r':
		c.state = afterSize
	case b == '\n':
		return errBareLF
	default:
		return errChunkExt
	}
	return nil
}

// begin begins a chunk whose first line was read.
func (c *Chunks) begin() *Error {
	// As net/http counts: the line without its CRLF, which line has the CR of, and two
	// bytes more.
	c.excess += int64(c.line) + 1 - freeLine - 2*min(c.size, maxExcess)
	c.excess = max(c.excess, 0)
	switch {
	case c.excess > maxExcess:
		return errChunkExcess
	case c.size > 0:
		c.state = inData
	default:
		c.state = inTrailers
	}
	return nil
}

// collect takes bytes of the trailer section up to the end of a line, and returns how
// many. Without trailers there is nothing to keep.
func (c *Chunks) collect(buf []byte) int {
	if len(c.trailer) == 0 && buf[0] == '\r' {
		c.state = afterBody
		return 1
	}
	n := bytes.IndexByte(buf, '\n') + 1
	ended := n > 0
	if !ended {
		n = len(buf)
	}
	if len(c.trailer)+n > maxTrailer {
		c.err = errTrailersLong
		return n
	}
	c.trailer = append(c.trailer, buf[:n]...)
	if !ended {
		return n
	}
	end := len(c.trailer)
	switch {
	case end < 2 || c.trailer[end-2] != '\r':
		c.err = errBareLF
	case end-c.begins == len(CRLF):
		c.trailers, c.err = parseFields(make([]Field, 0, 4), c.trailer, maxTrailers)
		c.trailers = slices.DeleteFunc(c.trailers, unfit)
		c.state = atEnd
	}
	c.begins = end
	return n
}

// Fit tells whether f may be passed on as a trailer (RFC 9110, section 6.5.1).
func (f Field) Fit() bool { return !unfit(f) }

// unfit tells whether whoever comes next must not merge a trailer into the message: if it
// frames, routes, authenticates, modifies the request, controls the response or
// describes the content (RFC 9110, section 6.5.1), or is what the router itself may say
// in a head. All names that a router has something to do with are among them.
func unfit(f Field) bool {
	if f.Hop || f.ID != Other {
		return true
	}
	for _, low := range unfitNames {
		if equalFold(f.Name, low) {
			return true
		}
	}
	for _, low := range unfitPrefixes {
		if len(f.Name) > len(low) && equalFold(f.Name[:len(low)], low) {
			return true
		}
	}
	return false
}

var (
	unfitNames = []string{
		"age", "allow", "authentication-info", "expires", "max-forwards", "pragma", "vary", "warning", "www-authenticate",
	}
	unfitPrefixes = []string{"accept-", "access-control-", "content-", "if-", "proxy-", "sec-"}
)

func unhex(b byte) (digit int64, ok bool) {
	switch {
	case isDigit(b):
		return int64(b - '0'), true
	case isHex(b):
		return int64(b|0x20-'a') + 10, true
	}
	return 0, false
}
