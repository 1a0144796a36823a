package h1

import "bytes"

// Request is the head of a request. Its slices are of the buffer that was parsed, and
// of memory of its own that the next Parse uses again.
type Request struct {
	Method []byte // a token, case-sensitive; never CONNECT or TRACE
	Target []byte // as on the wire
	Minor  int    // of the version 1.x: 0 or 1
	Fields []Field

	// Authority is the host that is asked for, with its port if there is one, as on the
	// wire: that of the target if it has one, else that of Host. The two agree. Forward it
	// as Host (RFC 9112, section 3.2.2).
	Authority []byte
	// Path is what to forward as target: a path that begins with '/' and the query, as on
	// the wire, or "*" (for OPTIONS only).
	Path []byte

	Framing Framing // None, Length or Chunked
	Length  int64   // bytes of the body if Framing is Length

	// KeepAlive: the client lets the connection go on (RFC 9112, section 9.3).
	KeepAlive bool
	// Continue: the client waits for 100 Continue before it sends the body (RFC 9110,
	// section 10.1.1). Where there is no body or in HTTP/1.0 the expectation means nothing
	// and its field is Hop.
	Continue bool
	// WebSocket: a valid upgrade to websocket (RFC 6455, section 4.2.1), whatever version
	// of that it asks for. Any other upgrade is ignored, as RFC 9110, section 7.8, allows.
	WebSocket bool

	path []byte // holds Path where the target does not
}

// Parse reads a whole head, as [Scanner.Scan] found it. After an error the Request
// holds nothing of use.
func (r *Request) Parse(head []byte, l Limits) *Error {
	*r = Request{Fields: r.Fields[:0], path: r.path[:0]}
	if len(head) > l.head() {
		return errHeadLong
	}
	if bytes.HasPrefix(head, []byte(CRLF)) {
		head = head[len(CRLF):]
	}
	line, fields, err := firstLine(head)
	if err != nil {
		return err
	}
	if err := r.line(line, l); err != nil {
		return err
	}
	if r.Fields, err = parseFields(r.Fields, fields, l.fields()); err != nil {
		return err
	}
	m := message{minor: r.Minor}
	if err := m.frame(r.Fields); err != nil {
		return err
	}
	switch {
	case m.codings == 1:
		r.Framing = Chunked
	case m.lengths == 1:
		r.Framing, r.Length = Length, m.length
	}
	r.KeepAlive = m.keepAlive()
	if err := r.route(); err != nil {
		return err
	}
	if err := r.expect(); err != nil {
		return err
	}
	if m.websocket && m.upgrade {
		return r.webSocket()
	}
	return nil
}

// Idempotent tells whether the method may be sent again if it is not known whether a
// backend acted on it (RFC 9110, section 9.2.2). Unknown methods may not.
func (r *Request) Idempotent() bool {
	switch string(r.Method) {
	case "GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE":
		return true
	}
	return false
}

// line reads the request line: exactly one space between its parts (RFC 9112, section 3).
func (r *Request) line(line []byte, l Limits) *Error {
	space := bytes.IndexByte(line, ' ')
	if space < 0 {
		return errRequestLine
	}
	r.Method = line[:space:space]
	if len(r.Method) > maxMethod || !isToken(r.Method) {
		return errMethod
	}
	line = line[space+1:]
	space = bytes.IndexByte(line, ' ')
	if space < 0 {
		return errRequestLine
	}
	r.Target = line[:space:space]
	if len(r.Target) > l.target() {
		return errTargetLong
	}
	var err *Error
	if r.Minor, err = version(line[space+1:]); err != nil {
		switch {
		case string(r.Method) == "PRI":
			return ErrPreface
		case bytes.IndexByte(line[space+1:], ' ') >= 0:
			return errTargetByte
		}
		return err
	}
	switch string(r.Method) {
	case "CONNECT", "TRACE":
		return errMethodBarred
	case "PRI":
		return ErrPreface
	}
	return r.target()
}

// target reads the request target (RFC 9112, section 3.2): origin-form, absolute-form
// or asterisk-form.
func (r *Request) target() *Error {
	for _, c := range r.Target {
		if c <= ' ' || c >= 0x7f {
			return errTargetByte
		}
		if c == '#' {
			return errFragment
		}
	}
	switch {
	case len(r.Target) == 0:
		return errRequestLine
	case r.Target[0] == '/':
		r.Path = r.Target
		return nil
	case string(r.Target) == "*":
		if string(r.Method) != "OPTIONS" {
			return errAsterisk
		}
		r.Path = r.Target
		return nil
	}
	after := len(scheme(r.Target))
	if after == 0 {
		return errTarget
	}
	rest := r.Target[after:]
	end := bytes.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	r.Authority = rest[:end:end]
	if err := checkAuthority(r.Authority); err != nil {
		return err
	}
	switch {
	case end < len(rest) && rest[end] == '/':
		r.Path = rest[end:]
	case end == len(rest) && string(r.Method) == "OPTIONS":
		// RFC 9112, section 3.2.4.
		r.path = append(r.path, '*')
		r.Path = r.path
	default:
		r.path = append(append(r.path, '/'), rest[end:]...)
		r.Path = r.path
	}
	return nil
}

// scheme returns the beginning of an absolute-form up to its authority, "" if the target
// is none. Schemes are case-insensitive (RFC 3986, section 3.1).
func scheme(target []byte) string {
	for _, s := range [...]string{"http://", "https://"} {
		if len(target) >= len(s) && bytes.EqualFold(target[:len(s)], []byte(s)) {
			return s
		}
	}
	return ""
}

// route finds the one Host that each request must have (RFC 9112, section 3.2; for
// HTTP/1.0 too, since there is nothing else to route by), and compares it with that of
// the target.
func (r *Request) route() *Error {
	var host []byte
	for i := range r.Fields {
		if r.Fields[i].ID != Host {
			continue
		}
		if host != nil {
			return errHostRepeated
		}
		host = r.Fields[i].Value
	}
	if host == nil {
		return errHostMissing
	}
	if err := checkAuthority(host); err != nil {
		return err
	}
	if r.Authority == nil {
		r.Authority = host
		return nil
	}
	port := "80"
	if scheme(r.Target) == "https://" {
		port = "443"
	}
	if !sameAuthority(r.Authority, host, port) {
		return errHostDiffers
	}
	return nil
}

// expect reads Expect (RFC 9110, section 10.1.1).
func (r *Request) expect() *Error {
	for i := range r.Fields {
		f := &r.Fields[i]
		switch {
		case f.ID != Expect:
			continue
		case r.Minor == 0:
			f.Hop = true
			continue
		case r.Continue || !equalFold(f.Value, "100-continue"):
			return errExpectation
		}
		r.Continue = true
	}
	if r.Continue && !r.body() {
		r.Continue = false
		for i := range r.Fields {
			if f := &r.Fields[i]; f.ID == Expect {
				f.Hop = true
			}
		}
	}
	return nil
}

// body tells whether a body follows.
func (r *Request) body() bool { return r.Framing == Chunked || r.Length > 0 }

// webSocket checks an upgrade to websocket (RFC 6455, section 4.2.1).
func (r *Request) webSocket() *Error {
	keys := 0
	for i := range r.Fields {
		if f := &r.Fields[i]; f.ID == SecWebSocketKey {
			keys++
			if !isKey(f.Value) {
				return errWebSocket
			}
		}
	}
	if keys != 1 || r.Minor == 0 || string(r.Method) != "GET" || r.body() {
		return errWebSocket
	}
	r.WebSocket = true
	return nil
}

// isKey: 16 bytes in base64 (RFC 6455, section 4.1).
func isKey(b []byte) bool {
	if len(b) != 24 || b[22] != '=' || b[23] != '=' {
		return false
	}
	for _, c := range b[:22] {
		if !isDigit(c) && (c|0x20 < 'a' || 'z' < c|0x20) && c != '+' && c != '/' {
			return false
		}
	}
	return true
}
