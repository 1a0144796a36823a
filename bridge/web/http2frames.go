package web

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"

	"golang.org/x/net/http2/hpack"
)

// frames is a connection of HTTP/2 as its server reads it. It makes up for where the
// standard library's server is not as strict, or stricter, than RFC 9113 wants:
//
//   - A field that belongs to a connection, and a TE that is not "trailers", make a
//     request malformed (section 8.2.2), which the library answers with 400. Here they
//     end the connection.
//   - An answer that is broken off is reset with INTERNAL_ERROR by the library. Here that
//     is CANCEL, which is what it means: to gRPC the other one is an error of its own
//     (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md, Errors).
//   - A setting may be there more than once (section 6.5.3), which the library refuses.
//     Here only the last one is passed on.
type frames struct {
	net.Conn
	from     *bufio.Reader
	preface  int    // bytes of it that are still to come
	ready    []byte // of a frame that was read whole
	whole    []byte // holds it
	passing  int    // bytes of a frame that are passed on as they come
	fields   *hpack.Decoder
	settings int   // frames of them that have come
	failure  error // what the fields are to be refused for
	lost     bool  // the fields cannot be read, as the server will notice
	out      outgoing
}

// RFC 9113, sections 4.1 and 6.
const (
	frameHeader       = 9
	frameMax          = 16384
	frameHeaders      = 1
	frameReset        = 3
	frameSettings     = 4
	frameContinuation = 9
	flagAck           = 1
	flagPadded        = 8
	flagPriority      = 32
	prefaceLength     = 24
	codeInternal      = 2
	codeCancel        = 8
	headerTable       = 4096 // bytes, as the standard library's server announces
)

// mostSettingsFrames are more than any client has a use for. Each is answered, so that a
// flood of them is work for nothing, which the library would go on doing.
const mostSettingsFrames = 1000

var errSettings = errors.New("a client of HTTP/2 sends nothing but settings")

var errConnectionField = errors.New("a request of HTTP/2 has a field that belongs to a connection")

// newFrames reads from c. longest bounds a name and a value, as the server does.
func newFrames(c net.Conn, longest int) *frames {
	f := &frames{Conn: c, from: bufio.NewReaderSize(c, frameHeader+frameMax), preface: prefaceLength}
	f.fields = hpack.NewDecoder(headerTable, f.look)
	f.fields.SetMaxStringLength(longest)
	return f
}

// Read passes frames on.
func (f *frames) Read(p []byte) (int, error) {
	if len(f.ready) == 0 && f.preface+f.passing == 0 {
		if err := f.next(); err != nil {
			return 0, err
		}
	}
	if len(f.ready) > 0 {
		n := copy(p, f.ready)
		f.ready = f.ready[n:]
		return n, nil
	}
	left := &f.passing
	if f.preface > 0 {
		left = &f.preface
	}
	n, err := f.from.Read(p[:min(len(p), *left)])
	*left -= n
	return n, err
}

// next begins the next frame: one that is looked at is read whole.
func (f *frames) next() error {
	header, err := f.from.Peek(frameHeader)
	if err != nil {
		if len(header) > 0 && err == io.EOF {
			return io.ErrUnexpectedEOF
		}
		return err
	}
	length := frameLength(header)
	kind, flags := header[3], header[4]
	looked := kind == frameHeaders || kind == frameContinuation || kind == frameSettings && flags&flagAck == 0
	if !looked || length > frameMax {
		f.passing = frameHeader + length
		return nil
	}
	if f.whole == nil {
		f.whole = make([]byte, frameHeader+frameMax)
	}
	f.ready = f.whole[:frameHeader+length]
	if _, err := io.ReadFull(f.from, f.ready); err != nil {
		f.ready = nil
		return err
	}
	if kind == frameSettings {
		if f.settings++; f.settings > mostSettingsFrames {
			f.ready = nil
			return errSettings
		}
		f.ready = lastSettings(f.ready)
		return nil
	}
	if err := f.inspect(kind, flags, f.ready[frameHeader:]); err != nil {
		f.ready = nil
		return err
	}
	return nil
}

func frameLength(header []byte) int { return int(header[0])<<16 | int(header[1])<<8 | int(header[2]) }

// inspect reads the fields in a frame.
func (f *frames) inspect(kind, flags byte, payload []byte) error {
	if kind == frameHeaders {
		var ok bool
		if payload, ok = fragment(flags, payload); !ok {
			return nil
		}
	}
	if f.lost {
		return nil
	}
	if _, err := f.fields.Write(payload); err != nil {
		f.lost = true
		return nil
	}
	const endHeaders = 4
	if flags&endHeaders != 0 && f.fields.Close() != nil {
		f.lost = true
	}
	return f.failure
}

// fragment is the field block fragment of a HEADERS frame (RFC 9113, section 6.2).
func fragment(flags byte, payload []byte) ([]byte, bool) {
	padding := 0
	if flags&flagPadded != 0 {
		if len(payload) == 0 {
			return nil, false
		}
		padding, payload = int(payload[0]), payload[1:]
	}
	if flags&flagPriority != 0 {
		const priority = 5
		if len(payload) < priority {
			return nil, false
		}
		payload = payload[priority:]
	}
	if padding > len(payload) {
		return nil, false
	}
	return payload[:len(payload)-padding], true
}

// look is called for every field.
func (f *frames) look(field hpack.HeaderField) {
	switch field.Name {
	case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade":
		f.failure = errConnectionField
	case "te":
		if field.Value != "trailers" {
			f.failure = errConnectionField
		}
	}
}

// mostSettings is how many a frame may have: the standard library refuses more.
const mostSettings = 100

// lastSettings takes out of a SETTINGS frame what a later setting of it replaces.
func lastSettings(frame []byte) []byte {
	const size = 6
	payload := frame[frameHeader:]
	if len(payload)%size != 0 || len(payload) > mostSettings*size {
		return frame
	}
	kept := frame[:frameHeader]
	for at := 0; at < len(payload); at += size {
		setting := payload[at : at+size]
		if !hasSetting(payload[at+size:], binary.BigEndian.Uint16(setting)) {
			kept = append(kept, setting...)
		}
	}
	length := len(kept) - frameHeader
	kept[0], kept[1], kept[2] = byte(length>>16), byte(length>>8), byte(length)
	return kept
}

func hasSetting(payload []byte, id uint16) bool {
	for ; len(payload) > 0; payload = payload[6:] {
		if binary.BigEndian.Uint16(payload) == id {
			return true
		}
	}
	return false
}

// outgoing is where in its frames a connection is that is written to.
type outgoing struct {
	head [frameHeader]byte
	have int // bytes of head
	left int // bytes of the frame behind it
}

// Write passes frames on, and says CANCEL where the server resets a stream for no
// reason of its own. The library writes such a frame at once, so it is not in two pieces.
func (f *frames) Write(p []byte) (int, error) {
	out := &f.out
	patched, changed := p, false
	for at := 0; at < len(p); {
		if out.left > 0 {
			n := min(out.left, len(p)-at)
			out.left -= n
			at += n
			continue
		}
		n := copy(out.head[out.have:], p[at:])
		out.have += n
		at += n
		if out.have < frameHeader {
			break
		}
		out.have, out.left = 0, frameLength(out.head[:])
		code := p[at:min(at+4, len(p))]
		if out.head[3] == frameReset && bytes.Equal(code, []byte{0, 0, 0, codeInternal}) {
			if !changed {
				patched, changed = bytes.Clone(p), true
			}
			patched[at+3] = codeCancel
		}
	}
	return f.Conn.Write(patched)
}
