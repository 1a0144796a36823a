package web

import (
	"bytes"
	"encoding/hex"
	"math/rand/v2"
	"net/netip"
	"strconv"

	"switchboard/bridge"
	"switchboard/bridge/route"
	"switchboard/bridge/web/h1"
)

// origin is what a backend is told of a client: the same for all requests of its
// connection.
type origin struct {
	// trusted: what the client says of whom it speaks for is believed.
	trusted bool
	// key is the client's address, for sticky choices.
	key []byte
	// address is how the client is named, node how in Forwarded (RFC 7239, section 6).
	address, node []byte
	proto, port   string
}

func originOf(s *Server, in *bridge.Inbound) origin {
	o := origin{proto: s.proto()}
	if from, ok := address(in.Source()); ok {
		o.trusted = trusts(s.o.Trusted, from.Addr())
		o.key = from.Addr().AppendTo(nil)
		o.address = o.key
		o.node = o.key
		if from.Addr().Is6() {
			o.node = append(append([]byte(`"[`), o.key...), `]"`...)
		}
	} else {
		o.address, o.node = []byte("unknown"), []byte("unknown")
	}
	if to, ok := address(in.Destination()); ok {
		o.port = strconv.Itoa(int(to.Port()))
	}
	return o
}

func trusts(networks []netip.Prefix, ip netip.Addr) bool {
	for _, n := range networks {
		if n.Contains(ip) {
			return true
		}
	}
	return false
}

// describe takes from a request what the exchange has to know of it.
func (x *exchange) describe(r *h1.Request, o *origin) {
	x.req = request{
		parsed:     r,
		origin:     o,
		toHEAD:     string(r.Method) == "HEAD",
		idempotent: r.Idempotent(),
		chunked:    r.Framing == h1.Chunked,
	}
	by, sticky := x.host.StickyBy()
	if sticky && by.Kind == route.ByClient {
		x.req.sticky = o.key
	}
	for i := range r.Fields {
		switch f := &r.Fields[i]; {
		case r.WebSocket && f.ID == h1.SecWebSocketKey:
			x.req.webSocket = f.Value
		case sticky && by.Kind == route.ByCookie && f.ID == h1.Cookie && x.req.sticky == nil:
			x.req.sticky = cookie(f.Value, by.Name)
		case sticky && by.Kind == route.ByHeader && x.req.sticky == nil && bytes.EqualFold(f.Name, []byte(by.Name)):
			x.req.sticky = f.Value
		}
	}
}

// cookie finds the value of a cookie in a field (RFC 6265, section 4.2.1), nil if it is
// not there.
func cookie(field []byte, name string) []byte {
	for len(field) > 0 {
		pair, rest, _ := bytes.Cut(field, []byte(";"))
		field = rest
		n, value, ok := bytes.Cut(bytes.TrimLeft(pair, " "), []byte("="))
		if ok && string(n) == name {
			return value
		}
	}
	return nil
}

// appendHead composes the head for a backend: the client's fields that are for it, the
// framing anew, and who the client is.
func appendHead(dst []byte, r *h1.Request, o *origin) []byte {
	dst = h1.AppendRequestLine(dst, r.Method, r.Path)
	dst = h1.AppendField(dst, []byte("Host"), r.Authority)
	f := forwarding{origin: o, authority: r.Authority}
	for i := range r.Fields {
		field := &r.Fields[i]
		if field.Hop || field.ID == h1.Host || f.takes(field) {
			continue
		}
		dst = h1.AppendField(dst, field.Name, field.Value)
	}
	switch {
	case r.WebSocket:
		dst = append(dst, "Connection: Upgrade\r\nUpgrade: websocket\r\n"...)
	case r.Framing == h1.Length:
		dst = h1.AppendLength(dst, r.Length)
	case r.Framing == h1.Chunked:
		dst = h1.AppendChunked(dst)
	}
	return append(f.append(dst), h1.CRLF...)
}

// forwarding is what a request says of whom it is forwarded for. Of a client that is
// not trusted nothing of it is believed, and all of it is taken out (RFC 7239, section
// 8.1).
type forwarding struct {
	*origin
	authority []byte

	chain, forwarded, host, proto, port []byte
	id                                  []byte
}

// takes tells whether a field is left out of the head, because append writes it anew
// or nobody is to believe it.
func (f *forwarding) takes(field *h1.Field) bool {
	switch field.ID {
	case h1.XForwardedFor:
		f.chain = f.join(f.chain, field.Value)
	case h1.Forwarded:
		f.forwarded = f.join(f.forwarded, field.Value)
	case h1.XForwardedHost:
		f.host = f.only(f.host, field.Value)
	case h1.XForwardedProto:
		f.proto = f.only(f.proto, field.Value)
	case h1.XForwardedPort:
		f.port = f.only(f.port, field.Value)
	case h1.XRequestID:
		if f.id == nil && validID(field.Value) {
			f.id = field.Value
		}
	case h1.Guarded:
	case h1.XForwarded, h1.XRealIP:
		return !f.trusted
	default:
		return false
	}
	return true
}

func (f *forwarding) join(list, more []byte) []byte {
	switch {
	case !f.trusted || len(more) == 0:
		return list
	case len(list) == 0:
		return more
	}
	return bytes.Join([][]byte{list, more}, []byte(", "))
}

func (f *forwarding) only(before, value []byte) []byte {
	if !f.trusted || before != nil {
		return before
	}
	return value
}

// append writes the fields.
func (f *forwarding) append(dst []byte) []byte {
	dst = append(dst, "X-Forwarded-For: "...)
	if len(f.chain) > 0 {
		dst = append(append(dst, f.chain...), ", "...)
	}
	dst = append(append(dst, f.address...), "\r\nX-Forwarded-Host: "...)
	dst = append(dst, either(f.host, f.authority)...)
	dst = append(dst, "\r\nX-Forwarded-Proto: "...)
	dst = append(dst, either(f.proto, []byte(f.origin.proto))...)
	if port := either(f.port, []byte(f.origin.port)); len(port) > 0 {
		dst = append(append(dst, "\r\nX-Forwarded-Port: "...), port...)
	}
	dst = append(dst, "\r\nForwarded: "...)
	if len(f.forwarded) > 0 {
		dst = append(append(dst, f.forwarded...), ", "...)
	}
	dst = append(append(append(dst, "for="...), f.node...), ";host="...)
	if bytes.IndexByte(f.authority, ':') >= 0 {
		// A colon is no byte of a token (RFC 7239, section 4).
		dst = append(append(append(dst, '"'), f.authority...), '"')
	} else {
		dst = append(dst, f.authority...)
	}
	dst = append(append(dst, ";proto="...), f.origin.proto...)
	dst = append(dst, "\r\nX-Request-Id: "...)
	if f.id != nil {
		dst = append(dst, f.id...)
	} else {
		dst = appendID(dst)
	}
	return append(dst, h1.CRLF...)
}

func either(a, b []byte) []byte {
	if len(a) > 0 {
		return a
	}
	return b
}

// maxID is the longest request ID of a client's that is kept.
const maxID = 128

// validID: an ID is kept if it can stand in a log line as it is.
func validID(id []byte) bool {
	for _, b := range id {
		letter := 'a' <= b|0x20 && b|0x20 <= 'z' || '0' <= b && b <= '9'
		if !letter && bytes.IndexByte([]byte("-_.:/+="), b) < 0 {
			return false
		}
	}
	return 0 < len(id) && len(id) <= maxID
}

// appendID makes a request ID: 128 random bits.
func appendID(dst []byte) []byte {
	var id [16]byte
	for i, half := range [...]uint64{rand.Uint64(), rand.Uint64()} {
		for j := range 8 {
			id[8*i+j] = byte(half >> (8 * j))
		}
	}
	return hex.AppendEncode(dst, id[:])
}

// appendEndToEnd writes the fields of an answer that are for the client.
func appendEndToEnd(dst []byte, fields []h1.Field) []byte {
	for i := range fields {
		if f := &fields[i]; !f.Hop {
			dst = h1.AppendField(dst, f.Name, f.Value)
		}
	}
	return dst
}
