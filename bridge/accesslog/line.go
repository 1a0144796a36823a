package accesslog

import (
	"bytes"
	"math"
	"strconv"
	"time"
	"unicode/utf8"
)

// Request is what is written of one HTTP request, when it has ended. Strings that
// are empty are written so, where nothing else is said.
type Request struct {
	// Ended is when the request ended; it is written in its own zone.
	Ended time.Time
	// Took is how long it took, from its whole head to the last byte of its answer.
	Took time.Duration
	// Upstream is how long the backend took that was asked last, from its choice to
	// the last byte of its answer; negative: no backend was reached.
	Upstream time.Duration
	// Type, Node and Instance are whom the backend is accounted to; "": nobody, which
	// is written as "null".
	Type, Node, Instance string
	// Code is the answer's status; 0: no answer was begun.
	Code int
	// ToClient and FromClient are bytes on the client's side, heads included.
	ToClient, FromClient int64
	// Attempts are how many backends were tried.
	Attempts int
	// ID names the request, as the API does while it is in flight.
	ID []byte
	// Listener, Host and Backend are names as configured or in the table, none of
	// them what the client said; "": there is none.
	Listener, Host, Backend string
	// Client is the client's address, ip:port. Protocol is "HTTP/1.1" or the like.
	Client, Protocol string
	// Method and Authority are what the client sent. Path is, too; what stands behind
	// a '?' in it is not written.
	Method, Authority, Path []byte
	// Reason says in one word why the request did not end well, and Detail says more.
	// "": nothing is written.
	Reason, Detail string
}

// Session is what is written of one connection that was bridged, or was to be, when
// it has ended.
type Session struct {
	// Ended is when the session ended; it is written in its own zone.
	Ended time.Time
	// Took is how long it was open, from its accept.
	Took time.Duration
	// Type, Node and Instance are as in [Request].
	Type, Node, Instance string
	// ID names the session, as the API does. That of an upgraded request is the
	// request's.
	ID string
	// Listener, Host and Backend are names; "": there is none.
	Listener, Host, Backend string
	// Epoch is that of the session's term, 0 if there was none.
	Epoch uint64
	// Client is the client's address, ip:port. Protocol is what kind of session it is.
	Client, Protocol string
	// ToBackend and ToClient are bytes that were passed on.
	ToBackend, ToClient int64
	// Reason says in one word why the session ended, and Detail says more, if it is
	// not "".
	Reason, Detail string
}

// The longest of what clients and errors can make long, in bytes. What is longer is
// cut.
const (
	maxAuthority = 255
	maxPath      = 1 << 10
	maxWord      = 512
)

// unknown stands for a key that is not known.
const unknown = "null"

// line is where a line is put together. It remembers the second that it wrote last,
// since most lines share theirs with the one before.
type line struct {
	bytes  []byte
	second int64
	clock  []byte // date and time of that second
	zone   []byte
}

func newLine() any {
	return &line{bytes: make([]byte, 0, 1<<10), second: math.MinInt64}
}

func (l *line) request(r *Request) {
	l.begin("request", r.Ended, r.Type, r.Node, r.Instance)
	l.int("bytes", r.ToClient)
	l.int("code", int64(r.Code))
	l.key("upstream_response_time")
	l.bytes = append(l.bytes, '"')
	if r.Upstream < 0 {
		l.bytes = append(l.bytes, '-')
	} else {
		l.bytes = appendDecimal(l.bytes, r.Upstream.Milliseconds())
	}
	l.bytes = append(l.bytes, '"')
	l.key("nginx_response_time")
	took := max(r.Took.Microseconds(), 0)
	l.bytes = appendThousandth(appendDecimal(l.bytes, took/1000), took%1000)
	l.key("id")
	l.bytes = appendString(l.bytes, r.ID, maxWord)
	l.names(r.Listener, r.Host, r.Backend)
	l.string("client", r.Client)
	l.string("protocol", r.Protocol)
	l.key("method")
	l.bytes = appendString(l.bytes, r.Method, maxWord)
	l.key("authority")
	l.bytes = appendString(l.bytes, r.Authority, maxAuthority)
	path := r.Path
	if query := bytes.IndexByte(path, '?'); query >= 0 {
		path = path[:query]
	}
	l.key("path")
	l.bytes = appendString(l.bytes, path, maxPath)
	l.int("bytesFromClient", r.FromClient)
	l.int("attempts", int64(r.Attempts))
	l.end(r.Reason, r.Detail)
}

func (l *line) session(s *Session) {
	l.begin("session", s.Ended, s.Type, s.Node, s.Instance)
	l.int("bytes", s.ToClient)
	l.string("id", s.ID)
	l.names(s.Listener, s.Host, s.Backend)
	l.key("epoch")
	l.bytes = strconv.AppendUint(l.bytes, s.Epoch, 10)
	l.string("client", s.Client)
	l.string("protocol", s.Protocol)
	l.int("bytesToBackend", s.ToBackend)
	l.int("bytesToClient", s.ToClient)
	l.key("tookMs")
	l.bytes = appendDecimal(l.bytes, s.Took.Microseconds())
	l.end(s.Reason, s.Detail)
}

// begin begins a line with what both kinds have.
func (l *line) begin(kind string, ended time.Time, typeID, node, instance string) {
	l.bytes = append(append(append(l.bytes[:0], `{"kind":"`...), kind...), `","time":"`...)
	if second := ended.Unix(); second != l.second {
		l.second = second
		l.clock = ended.AppendFormat(l.clock[:0], "2006-01-02T15:04:05")
		l.zone = ended.AppendFormat(l.zone[:0], "Z07:00")
	}
	ms := int64(ended.Nanosecond() / int(time.Millisecond))
	l.bytes = append(append(l.bytes, l.clock...), '.')
	l.bytes = append(appendThousandth(l.bytes, ms), l.zone...)
	l.bytes = append(l.bytes, `","timemsec":`...)
	l.bytes = appendThousandth(append(strconv.AppendInt(l.bytes, ended.Unix(), 10), '.'), ms)
	l.string("version_type_key", orUnknown(typeID))
	l.string("node_key", orUnknown(node))
	l.string("instance_key", orUnknown(instance))
}

func orUnknown(key string) string {
	if key == "" {
		return unknown
	}
	return key
}

func (l *line) names(listener, host, backend string) {
	l.string("listener", listener)
	l.string("host", host)
	l.string("backend", backend)
}

// end says why, if there is something to say, and ends the line.
func (l *line) end(reason, detail string) {
	if reason != "" {
		l.string("reason", reason)
	}
	if detail != "" {
		l.string("detail", detail)
	}
	l.bytes = append(l.bytes, "}\n"...)
}

func (l *line) key(name string) {
	l.bytes = append(append(append(l.bytes, `,"`...), name...), `":`...)
}

func (l *line) string(name, value string) {
	l.key(name)
	l.bytes = appendString(l.bytes, value, maxWord)
}

func (l *line) int(name string, value int64) {
	l.key(name)
	l.bytes = strconv.AppendInt(l.bytes, value, 10)
}

// appendDecimal appends a number of thousandths; what is negative is none.
func appendDecimal(dst []byte, thousandths int64) []byte {
	thousandths = max(thousandths, 0)
	dst = append(strconv.AppendInt(dst, thousandths/1000, 10), '.')
	return appendThousandth(dst, thousandths%1000)
}

// appendThousandth appends three digits.
func appendThousandth(dst []byte, n int64) []byte {
	return append(dst, byte('0'+n/100), byte('0'+n/10%10), byte('0'+n%10))
}

// appendString appends s as a string of JSON (RFC 8259, section 7), cut to most
// bytes. What is not valid UTF-8 becomes U+FFFD, as in encoding/json.
func appendString[S string | []byte](dst []byte, s S, most int) []byte {
	s = cut(s, most)
	dst = append(dst, '"')
	plain := 0 // where what needs no escape begins
	for i := 0; i < len(s); {
		b := s[i]
		if b < utf8.RuneSelf {
			if b >= ' ' && b != '"' && b != '\\' {
				i++
				continue
			}
			dst = appendEscape(append(dst, s[plain:i]...), b)
			i++
			plain = i
			continue
		}
		r, size := decode(s[i:])
		if r == utf8.RuneError && size == 1 {
			dst = append(append(dst, s[plain:i]...), "\ufffd"...)
			plain = i + 1
		}
		i += size
	}
	return append(append(dst, s[plain:]...), '"')
}

// cut returns the beginning of s, at most that long, and without the first part of a
// character.
func cut[S string | []byte](s S, most int) S {
	if len(s) <= most {
		return s
	}
	for at := most; at > most-utf8.UTFMax; at-- {
		if utf8.RuneStart(s[at]) {
			return s[:at]
		}
	}
	return s[:most]
}

// decode is utf8.DecodeRune for both.
func decode[S string | []byte](s S) (rune, int) {
	var first [utf8.UTFMax]byte
	n := copy(first[:], s)
	return utf8.DecodeRune(first[:n])
}

const hexDigits = "0123456789abcdef"

func appendEscape(dst []byte, b byte) []byte {
	switch b {
	case '"', '\\':
		return append(dst, '\\', b)
	default:
		return append(dst, '\\', 'u', '0', '0', hexDigits[b>>4], hexDigits[b&15])
	}
}
