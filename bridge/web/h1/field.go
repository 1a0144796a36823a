package h1

import "bytes"

// Field is one field line (RFC 9112, section 5).
type Field struct {
	Name  []byte // a token, as on the wire
	Value []byte // without white space around it; may be empty
	ID    ID
	// Hop: not to be forwarded. It is for the next hop only (RFC 9110, section 7.6.1),
	// by its name or because Connection names it; or it frames the message, and who
	// forwards the message frames it anew. Host is never Hop.
	Hop bool
}

// ID is a name of a field that a router has something to do with.
type ID uint8

// The names. Each is spelled as its constant, with hyphens.
const (
	Other ID = iota // any name that is not below
	// Guarded is a name that becomes that of a forwarding field when '_' is read as '-',
	// as CGI and what came after it do. It is to be dropped at the edge.
	Guarded
	// XForwarded is any name that begins with X-Forwarded- and is not below.
	XForwarded

	Host
	ContentLength
	TransferEncoding
	Connection
	KeepAlive
	ProxyConnection
	ProxyAuthenticate
	ProxyAuthorization
	TE
	Trailer
	Upgrade
	HTTP2Settings
	Expect
	Forwarded
	XForwardedFor
	XForwardedHost
	XForwardedProto
	XForwardedPort
	XRealIP
	XRequestID
	Traceparent
	Tracestate
	Via
	Cookie
	SetCookie
	Authorization
	SecWebSocketKey
	SecWebSocketVersion
	SecWebSocketAccept
	SecWebSocketProtocol
	SecWebSocketExtensions
	ContentType
	ContentEncoding
	Accept
	AcceptEncoding
	UserAgent
	Date
	Server
	Location
	RetryAfter
	CacheControl
	Range
	Origin

	ids // how many there are
)

// names has each ID's name, in lower case.
var names = [ids]string{
	Host:                   "host",
	ContentLength:          "content-length",
	TransferEncoding:       "transfer-encoding",
	Connection:             "connection",
	KeepAlive:              "keep-alive",
	ProxyConnection:        "proxy-connection",
	ProxyAuthenticate:      "proxy-authenticate",
	ProxyAuthorization:     "proxy-authorization",
	TE:                     "te",
	Trailer:                "trailer",
	Upgrade:                "upgrade",
	HTTP2Settings:          "http2-settings",
	Expect:                 "expect",
	Forwarded:              "forwarded",
	XForwardedFor:          "x-forwarded-for",
	XForwardedHost:         "x-forwarded-host",
	XForwardedProto:        "x-forwarded-proto",
	XForwardedPort:         "x-forwarded-port",
	XRealIP:                "x-real-ip",
	XRequestID:             "x-request-id",
	Traceparent:            "traceparent",
	Tracestate:             "tracestate",
	Via:                    "via",
	Cookie:                 "cookie",
	SetCookie:              "set-cookie",
	Authorization:          "authorization",
	SecWebSocketKey:        "sec-websocket-key",
	SecWebSocketVersion:    "sec-websocket-version",
	SecWebSocketAccept:     "sec-websocket-accept",
	SecWebSocketProtocol:   "sec-websocket-protocol",
	SecWebSocketExtensions: "sec-websocket-extensions",
	ContentType:            "content-type",
	ContentEncoding:        "content-encoding",
	Accept:                 "accept",
	AcceptEncoding:         "accept-encoding",
	UserAgent:              "user-agent",
	Date:                   "date",
	Server:                 "server",
	Location:               "location",
	RetryAfter:             "retry-after",
	CacheControl:           "cache-control",
	Range:                  "range",
	Origin:                 "origin",
}

// hop has the names that are never forwarded: those of RFC 9110, section 7.6.1, what
// section 11.7 has for the next proxy, what frames, and HTTP2-Settings, which belongs
// to an upgrade that is not passed on (RFC 7540, section 3.2.1).
var hop = [ids]bool{
	ContentLength: true, TransferEncoding: true, Connection: true, KeepAlive: true, ProxyConnection: true,
	ProxyAuthenticate: true, ProxyAuthorization: true, TE: true, Upgrade: true, HTTP2Settings: true,
}

// Hop tells whether a field of that name is never forwarded.
func (id ID) Hop() bool { return hop[id] }

// slots finds an ID by a hash of its name: the first slot from the hash on that has the
// name or nothing.
var slots = index()

func index() (table [256]ID) {
	for id := Host; id < ids; id++ {
		at := hash([]byte(names[id]))
		for table[at] != Other {
			at++
		}
		table[at] = id
	}
	return table
}

func hash(name []byte) uint8 {
	n := len(name)
	return uint8(n)*7 + lower[name[0]]*31 + lower[name[n-1]]*5 + lower[name[n/2]]*17
}

// Lookup returns the ID of a name in any case. An empty name is Other.
func Lookup(name []byte) ID {
	if len(name) == 0 {
		return Other
	}
	for at := hash(name); slots[at] != Other; at++ {
		if equalFold(name, names[slots[at]]) {
			return slots[at]
		}
	}
	const forwarded = "x-forwarded-"
	if len(name) < len("x-real-ip") || lower[name[0]] != 'x' {
		return Other
	}
	plain := bytes.IndexByte(name, '_') < 0
	switch {
	case len(name) > len(forwarded) && hyphened(name[:len(forwarded)], forwarded):
		if plain {
			return XForwarded
		}
		return Guarded
	case !plain && hyphened(name, names[XRealIP]):
		return Guarded
	}
	return Other
}

// hyphened compares a token with one in lower case, reading '_' as '-'.
func hyphened(b []byte, low string) bool {
	if len(b) != len(low) {
		return false
	}
	for i, c := range b {
		if lower[c] != low[i] && (c != '_' || low[i] != '-') {
			return false
		}
	}
	return true
}

// parseFields appends the field lines of b, which ends with an empty line and has nothing
// after it.
//
// Strict where RFC 9112 gives a choice: obs-fold is refused (section 5.2), and so is
// white space before the first field (section 2.2) and before a colon (section 5.1). A
// name that only '_' tells from one that frames is refused, since what is behind the
// backend may not tell them apart.
func parseFields(fields []Field, b []byte, limit int) ([]Field, *Error) {
	for first := true; ; first = false {
		if len(b) > 0 && b[0] == '\r' {
			if len(b) == 2 && b[1] == '\n' {
				return fields, nil
			}
			if len(b) > 1 && b[1] != '\n' {
				return fields, errBareCR
			}
			return fields, errHeadCut
		}
		if len(fields) == limit {
			return fields, errManyFields
		}
		colon := 0
		for colon < len(b) && lower[b[colon]] != 0 {
			colon++
		}
		if colon == len(b) {
			return fields, errHeadCut
		}
		if b[colon] != ':' || colon == 0 {
			return fields, badName(b, colon, first)
		}
		name, rest := b[:colon:colon], b[colon+1:]
		end := text(rest)
		if end == len(rest) || end+1 == len(rest) && rest[end] == '\r' {
			return fields, errHeadCut
		}
		if rest[end] != '\r' || rest[end+1] != '\n' {
			return fields, badByte(rest, end)
		}
		value := trim(rest[:end:end])
		b = rest[end+2:]
		id := Lookup(name)
		if id == Other && (hyphened(name, names[ContentLength]) || hyphened(name, names[TransferEncoding])) {
			return fields, errUnderscore
		}
		fields = append(fields, Field{Name: name, Value: value, ID: id, Hop: hop[id]})
	}
}

// badName says what is wrong where a colon should be.
func badName(b []byte, at int, first bool) *Error {
	blank := b[at] == ' ' || b[at] == '\t'
	switch {
	case b[at] == ':':
		return errNameEmpty
	case blank && at == 0 && first:
		return errLeadingSpace
	case blank && at == 0:
		return errFold
	case blank:
		if rest := trim(b[at:]); len(rest) > 0 && rest[0] == ':' {
			return errSpaceColon
		}
	case b[at] == '\r' && at+1 < len(b) && b[at+1] == '\n':
		return errNameByte
	case b[at] < 0x20 || b[at] == 0x7f:
		return badByte(b, at)
	}
	return errNameByte
}
