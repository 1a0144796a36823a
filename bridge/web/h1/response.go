package h1

import (
	"crypto/sha1"
	"encoding/base64"
)

// Response is the head of a response. Its slices are of the buffer that was parsed; the
// next Parse uses Fields again.
type Response struct {
	Status int    // from 100 to 599
	Minor  int    // of the version 1.x: 0 or 1
	Reason []byte // may be empty
	Fields []Field

	// Framing is None for an answer to HEAD, and for 1xx, 204 and 304, whatever the fields
	// say (RFC 9112, section 6.3).
	Framing Framing
	// Length is what Content-Length says, if HasLength. It is that of the body if Framing
	// is Length; in an answer to HEAD and in 304 it is that of the body that there would be
	// (RFC 9110, section 8.6). 1xx and 204 never have one.
	Length    int64
	HasLength bool

	// KeepAlive: the backend lets the connection go on after the body (RFC 9112, section
	// 9.3), and where the body ends is beyond doubt.
	KeepAlive bool
	// WebSocket: 101, and what it switches to is websocket. See [Response.Answers].
	WebSocket bool
}

// Parse reads a whole head, as a [Scanner] for responses found it. toHEAD: it is the
// answer to a HEAD. The status of every error is 502. After an error the Response holds
// nothing of use.
func (r *Response) Parse(head []byte, l Limits, toHEAD bool) *Error {
	*r = Response{Fields: r.Fields[:0]}
	if err := r.parse(head, l, toHEAD); err != nil {
		return err.gateway
	}
	return nil
}

func (r *Response) parse(head []byte, l Limits, toHEAD bool) *Error {
	if len(head) > l.head() {
		return errHeadLong
	}
	line, fields, err := firstLine(head)
	if err != nil {
		return err
	}
	if err := r.line(line); err != nil {
		return err
	}
	if r.Fields, err = parseFields(r.Fields, fields, l.fields()); err != nil {
		return err
	}
	m := message{minor: r.Minor}
	if err := m.frame(r.Fields); err != nil {
		return err
	}
	r.KeepAlive = m.keepAlive()
	r.Length, r.HasLength = m.length, m.lengths == 1
	switch {
	case r.Status < 200 || r.Status == 204:
		// RFC 9110, section 8.6, and RFC 9112, section 6.1: neither has a body nor says how
		// long it is. One that does may send it.
		r.KeepAlive = r.KeepAlive && m.codings == 0 && m.length == 0
		r.Length, r.HasLength = 0, false
	case toHEAD || r.Status == 304:
	case m.codings == 1:
		r.Framing = Chunked
	case r.HasLength:
		r.Framing = Length
	default:
		r.Framing, r.KeepAlive = UntilClose, false
	}
	r.WebSocket = r.Status == 101 && r.Minor == 1 && m.upgrade && m.websocket
	return nil
}

// line reads the status line (RFC 9112, section 4). A missing space after the status is
// all that is forgiven, since it is common and means nothing else.
func (r *Response) line(line []byte) *Error {
	const status = len("HTTP/1.1 ")
	if len(line) < status || line[status-1] != ' ' {
		return errStatusLine
	}
	var err *Error
	if r.Minor, err = version(line[:status-1]); err != nil {
		return err
	}
	line = line[status:]
	if len(line) < 3 || !isDigit(line[0]) || !isDigit(line[1]) || !isDigit(line[2]) || len(line) > 3 && line[3] != ' ' {
		return errStatus
	}
	r.Status = int(line[0]-'0')*100 + int(line[1]-'0')*10 + int(line[2]-'0')
	if r.Status < 100 || r.Status > 599 {
		return errStatus
	}
	if len(line) > 3 {
		r.Reason = line[4:]
	}
	return nil
}

// Answers tells whether the response accepts the upgrade to websocket that was asked for
// with this key (RFC 6455, section 4.1).
func (r *Response) Answers(key []byte) bool {
	if !r.WebSocket {
		return false
	}
	const guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
	var asked [24 + len(guid)]byte
	if len(key) != 24 {
		return false
	}
	copy(asked[:], key)
	copy(asked[24:], guid)
	sum := sha1.Sum(asked[:])
	var want [28]byte
	base64.StdEncoding.Encode(want[:], sum[:])
	answers := 0
	for i := range r.Fields {
		if f := &r.Fields[i]; f.ID == SecWebSocketAccept {
			answers++
			if string(f.Value) != string(want[:]) {
				return false
			}
		}
	}
	return answers == 1
}
