package h1

// Framing is how the length of a body is known (RFC 9112, section 6.3).
type Framing uint8

const (
	None       Framing = iota // there is no body
	Length                    // as many bytes as Content-Length says, which may be 0
	Chunked                   // to be read with [Chunks]
	UntilClose                // to the end of the connection; responses only
)

// message is what requests and responses have in common.
type message struct {
	minor                int
	lengths, codings     int // how many fields there are
	length               int64
	close, keep, upgrade bool // what Connection says
	websocket            bool // Upgrade is websocket and nothing else
}

// firstLine cuts the first line off a head.
func firstLine(head []byte) (line, fields []byte, err *Error) {
	end := text(head)
	if end+len(CRLF) > len(head) {
		return nil, nil, errHeadCut
	}
	if head[end] != '\r' || head[end+1] != '\n' {
		return nil, nil, badByte(head, end)
	}
	return head[:end:end], head[end+len(CRLF):], nil
}

// version reads HTTP-version (RFC 9112, section 2.3). It is case-sensitive.
func version(b []byte) (minor int, err *Error) {
	switch string(b) {
	case "HTTP/1.1":
		return 1, nil
	case "HTTP/1.0":
		return 0, nil
	}
	if len(b) == len("HTTP/1.1") && string(b[:5]) == "HTTP/" && isDigit(b[5]) && b[6] == '.' && isDigit(b[7]) {
		return 0, errVersionOther
	}
	return 0, errVersion
}

// frame reads the fields that frame the message and those about its connection, and
// marks what Connection names.
func (m *message) frame(fields []Field) *Error {
	var coding []byte
	connections, upgrades := 0, 0
	for i := range fields {
		switch f := &fields[i]; f.ID {
		case ContentLength:
			if m.lengths++; m.lengths == 1 {
				length, ok := decimal(f.Value)
				if !ok {
					return errLength
				}
				m.length = length
			}
		case TransferEncoding:
			m.codings++
			coding = f.Value
		case Connection:
			connections++
		case Upgrade:
			upgrades++
			m.websocket = upgrades == 1 && equalFold(f.Value, "websocket")
		}
	}
	if connections > 0 {
		if err := m.options(fields); err != nil {
			return err
		}
	}
	switch {
	case m.lengths > 0 && m.codings > 0:
		return errBothFramings
	case m.lengths > 1:
		return errLengthRepeated
	case m.codings > 1:
		return errCodingRepeated
	case m.codings == 1 && m.minor == 0:
		return errCodingOld
	case m.codings == 1 && !equalFold(coding, "chunked"):
		return badCoding(coding)
	}
	return nil
}

// decimal reads the value of Content-Length: digits only, without a zero that some
// reader could take for the mark of an octal number, up to the largest int64 (RFC 9110,
// section 8.6).
func decimal(b []byte) (n int64, ok bool) {
	if len(b) == 0 || len(b) > 19 || b[0] == '0' && len(b) > 1 {
		return 0, false
	}
	for _, c := range b {
		if !isDigit(c) {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, n >= 0 // 19 digits are less than 2^64, and those over 2^63 are negative
}

// badCoding says why a Transfer-Encoding that is not chunked is refused: 501 for a
// coding that exists somewhere (RFC 9112, section 6.1), 400 for what is malformed,
// for chunked twice, and for identity, which RFC 7230 took out.
func badCoding(list []byte) *Error {
	unknown := false
	for len(list) > 0 {
		var coding []byte
		coding, list = next(list)
		if !isToken(coding) {
			return errCoding
		}
		unknown = unknown || !equalFold(coding, "chunked") && !equalFold(coding, "identity")
	}
	if unknown {
		return errCodingUnknown
	}
	return errCoding
}

// maxOptions bounds the work that Connection can make: each name in it is looked for
// among all fields.
const maxOptions = 32

// options reads Connection (RFC 9110, section 7.6.1). It can name any field for the next
// hop only, except Host, without which the message would mean another host.
func (m *message) options(fields []Field) *Error {
	named := 0
	for _, f := range fields {
		if f.ID != Connection {
			continue
		}
		for list := f.Value; len(list) > 0; {
			var option []byte
			option, list = next(list)
			switch {
			case len(option) == 0:
			case !isToken(option):
				return errConnection
			case equalFold(option, "close"):
				m.close = true
			case equalFold(option, "keep-alive"):
				m.keep = true
			case equalFold(option, "upgrade"):
				m.upgrade = true
			default:
				if named++; named > maxOptions {
					return errManyOptions
				}
				drop(fields, option)
			}
		}
	}
	return nil
}

// drop marks the fields of a name.
func drop(fields []Field, name []byte) {
	for i := range fields {
		if f := &fields[i]; f.ID != Host && sameToken(f.Name, name) {
			f.Hop = true
		}
	}
}

// sameToken compares two tokens, in any case.
func sameToken(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i, c := range a {
		if lower[c] != lower[b[i]] {
			return false
		}
	}
	return true
}

// keepAlive tells whether the connection persists after the message (RFC 9112, section
// 9.3).
func (m *message) keepAlive() bool { return !m.close && (m.minor == 1 || m.keep) }
