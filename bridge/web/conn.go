package web

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"switchboard/bridge"
	"switchboard/bridge/relay"
	"switchboard/bridge/route"
	"switchboard/bridge/web/h1"
)

// conn is a client connection that speaks HTTP/1. One goroutine serves it, request by
// request; it is the client of its exchange.
type conn struct {
	exchange

	in      *bridge.Inbound
	raw     relay.Conn
	net     net.Conn // raw, or TLS over it
	remote  string
	origin  origin
	waiting atomic.Bool // for the first byte of a request
	halted  atomic.Bool // the rest of the request's body is not waited for
	handed  bool        // the connection is somebody else's

	d *desk // while there is a request, or a part of one

	// Of the request that is served.
	keep      bool  // the connection may go on afterwards
	old       bool  // the client speaks HTTP/1.0
	chunking  bool  // the answer is sent in chunks
	remains   int64 // bytes of the body that are to come, if its length is known
	requested h1.Framing
	took      int64 // bytes of the body that were taken
	from, to  int64
}

// desk is what a request is worked on with: a connection that waits has none.
type desk struct {
	in       []byte // what was read
	r, w     int    // of it, what is not used
	out      []byte // of the answer, what is not sent
	head     []byte // for the backend
	key      []byte // room for a host's name
	req      h1.Request
	incoming h1.Chunks
	record   Record // if somebody wants one
	quoted   []byte // what it quotes of the client
}

const (
	deskIn  = 8 << 10
	deskOut = 4 << 10
	// mostKept is the largest buffer that is used again.
	mostKept = 64 << 10
	// wholeBody is the longest body that is sent with the head, if it is there.
	wholeBody = 16 << 10
	// together is the longest piece that is put behind an answer's head, to be sent with
	// it.
	together = 16 << 10
)

var desks = sync.Pool{New: func() any {
	return &desk{
		in: make([]byte, deskIn), out: make([]byte, 0, deskOut), head: make([]byte, 0, deskOut),
		key: make([]byte, 0, route.MaxName+1),
	}
}}

func newConn(s *Server, in *bridge.Inbound) *conn {
	c := &conn{in: in, raw: in.Client(), net: in.Client()}
	c.init(s, c)
	return c
}

// serve is the connection's life.
func (c *conn) serve() {
	c.raw.OnGone(c.clientLeft)
	if err := c.in.Introduce(c.server.stopped); err != nil {
		c.server.refusals.add(string(bridge.ReasonFor(err)))
		c.raw.Reset()
		return
	}
	c.remote = c.in.Source().String()
	c.claim.Listener, c.claim.Client = c.in.Listener(), c.remote
	c.origin = originOf(c.server, c.in)
	if !c.shakeHands() {
		return
	}
	for c.await() && c.request() {
	}
}

// shakeHands does the TLS handshake, if there is one to do, and hands a client of
// HTTP/2 over. It returns whether the connection is to be served here.
func (c *conn) shakeHands() bool {
	rest := c.in.Rest()
	if c.server.o.TLS == nil {
		if len(rest) > 0 {
			c.d = desks.Get().(*desk)
			c.d.w = copy(c.d.in, rest)
		}
		return true
	}
	shaken := tls.Server(&prefixed{Conn: c.raw, rest: rest}, c.server.o.TLS)
	c.net = shaken
	c.clientBy.Store(c.server.after(c.server.o.Head))
	if err := shaken.HandshakeContext(c.server.stopped); err != nil {
		c.server.refusals.add("handshake")
		c.server.log.Debug("TLS handshake failed", "listener", c.in.Listener(), "client", c.remote, "cause", err)
		return false
	}
	c.clientBy.Store(0)
	if shaken.ConnectionState().NegotiatedProtocol == "h2" {
		c.handOver(shaken)
		return false
	}
	return true
}

// handOver gives the connection to the HTTP/2 server, and returns when that is done
// with it.
func (c *conn) handOver(to net.Conn) {
	c.clientBy.Store(0)
	c.clearDesk()
	c.server.h2.serve(c, to)
}

// await waits for the first byte of a request, and returns whether there is one.
func (c *conn) await() bool {
	if c.d != nil && c.d.r < c.d.w {
		return true
	}
	c.clientBy.Store(c.server.after(c.server.o.Idle))
	c.waiting.Store(true)
	defer c.waiting.Store(false)
	if c.server.stopping.Load() && c.from > 0 {
		return false
	}
	for {
		n, err := c.readFirst()
		if n > 0 {
			c.d.r, c.d.w = 0, n
			c.clientBy.Store(0)
			// What has come in time is served.
			c.expired.Store(notExpired)
			return true
		}
		if !isTimeout(err) || c.server.stopping.Load() || c.due() {
			return false
		}
	}
}

// readFirst reads into a desk that is taken only when there is something, where that
// can be told.
func (c *conn) readFirst() (int, error) {
	if c.net == net.Conn(c.raw) {
		return c.raw.ReadLent(firstRead{c})
	}
	n, err := c.net.Read(firstRead{c}.Lend())
	if n == 0 {
		firstRead{c}.Return()
	}
	return n, err
}

// firstRead lends a desk's buffer.
type firstRead struct{ c *conn }

func (f firstRead) Lend() []byte {
	if f.c.d == nil {
		f.c.d = desks.Get().(*desk)
	}
	return f.c.d.in
}

func (f firstRead) Return() { f.c.clearDesk() }

// clearDesk gives the desk back.
func (c *conn) clearDesk() {
	d := c.d
	if d == nil {
		return
	}
	c.d = nil
	if cap(d.in) > mostKept || cap(d.out) > mostKept || cap(d.head) > mostKept || cap(d.quoted) > mostKept {
		return
	}
	d.r, d.w, d.out, d.head = 0, 0, d.out[:0], d.head[:0]
	desks.Put(d)
}

// fill reads more of what the client sends.
func (c *conn) fill() error {
	if c.d.r == c.d.w {
		c.d.r, c.d.w = 0, 0
	}
	if c.d.w == len(c.d.in) {
		if c.d.r > 0 {
			c.d.w = copy(c.d.in, c.d.in[c.d.r:c.d.w])
			c.d.r = 0
		} else {
			grown := make([]byte, 2*len(c.d.in))
			copy(grown, c.d.in)
			c.d.in = grown
		}
	}
	for {
		n, err := c.net.Read(c.d.in[c.d.w:])
		c.d.w += n
		switch {
		case n > 0:
			return nil
		case !isTimeout(err) || c.due():
			return err
		}
	}
}

// due tells whether a read was woken for a reason. If not, the deadline was meant for
// the wait before. Whoever wakes a read says why and then sets the deadline, so it is
// cleared before the reasons are looked at.
func (c *conn) due() bool {
	c.raw.SetReadDeadline(time.Time{})
	return c.expired.Load() != notExpired || c.halted.Load() || c.stopped()
}

// request serves one request, and returns whether the connection goes on.
func (c *conn) request() (again bool) {
	n, err := c.parse()
	if err != nil {
		return c.refuseHead(err)
	}
	c.d.r += n
	c.from, c.to = int64(n), 0
	c.chunking, c.took = false, 0
	c.old = c.d.req.Minor == 0
	c.requested, c.remains = c.d.req.Framing, c.d.req.Length
	c.d.incoming = h1.Chunks{}
	c.keep = c.d.req.KeepAlive && !c.server.stopping.Load()
	began := time.Now()
	if c.account(&c.d.record, began, c.protocol()); c.record != nil {
		c.d.quote(&c.d.req)
	}
	status := c.dispatch(began)
	ended := time.Now()
	if c.target != nil {
		c.target.stats.answered(status, ended.Sub(began), c.from, c.to)
	}
	c.report(ended, status, c.from, c.to)
	if c.handed || status == 0 {
		return false
	}
	if !c.keep || c.halted.Load() || c.bodyLeft() {
		c.linger()
		return false
	}
	if c.d.r == c.d.w {
		c.clearDesk()
	}
	return true
}

// parse reads a head and parses it; n is how long it is.
func (c *conn) parse() (n int, err error) {
	// What is refused is not answered as the request before it would be.
	c.d.req.Method, c.d.req.Fields = nil, c.d.req.Fields[:0]
	var scanner h1.Scanner
	for {
		n, bad := scanner.Scan(c.d.in[c.d.r:c.d.w], c.server.o.Limits)
		if bad != nil {
			return 0, bad
		}
		if n > 0 {
			if bad := c.d.req.Parse(c.d.in[c.d.r:c.d.r+n], c.server.o.Limits); bad != nil {
				return 0, bad
			}
			c.clientBy.Store(0)
			return n, nil
		}
		if c.clientBy.Load() == 0 {
			c.clientBy.Store(c.server.after(c.server.o.Head))
		}
		if err := c.fill(); err != nil {
			return 0, err
		}
	}
}

// protocol is what the client of the request speaks.
func (c *conn) protocol() string {
	if c.old {
		return "HTTP/1.0"
	}
	return "HTTP/1.1"
}

// refuseHead answers a head that is none.
func (c *conn) refuseHead(err error) bool {
	var bad *h1.Error
	refuse := func(r refusal, err error) {
		c.from, c.to = int64(c.d.w-c.d.r), 0
		now := time.Now()
		c.account(&c.d.record, now, "HTTP/1.1")
		c.blame(&c.server.refusals, r.reason, err)
		c.keep = false
		status := c.refuse(r)
		c.report(now, status, c.from, c.to)
	}
	switch {
	case errors.As(err, &bad) && bad == h1.ErrPreface && c.server.o.TLS == nil:
		c.handOver(&prefixed{Conn: c.raw, rest: bytes.Clone(c.d.in[c.d.r:c.d.w])})
		return false
	case errors.As(err, &bad):
		refuse(refusal{status: bad.Status, reason: bad.Reason}, bad)
	case isTimeout(err) && c.expired.Load() == clientExpired:
		c.raw.SetDeadline(time.Time{})
		refuse(refusal{status: 408, reason: "head_timeout"}, nil)
	default:
		return false
	}
	c.linger()
	return false
}

// dispatch finds the host and takes the request to it. It returns the status that was
// answered.
func (c *conn) dispatch(began time.Time) (status int) {
	r := &c.d.req
	if why, found := c.find(r, c.d.key[:0]); !found {
		c.keep = c.keep && why.status != http.StatusBadRequest
		return c.refuse(why)
	}
	c.prepare(r)
	return c.run(began)
}

// prepare makes the exchange's request of r.
func (c *conn) prepare(r *h1.Request) {
	c.describe(r, &c.origin)
	c.d.head = appendHead(c.d.head[:0], r, &c.origin)
	if r.Framing == h1.Length && r.Length <= wholeBody && int64(c.d.w-c.d.r) >= r.Length {
		c.d.head = append(c.d.head, c.d.in[c.d.r:c.d.r+int(r.Length)]...)
		c.d.r += int(r.Length)
		c.from += r.Length
		c.remains = 0
	}
	c.exchange.req.head = c.d.head
	c.exchange.req.body = c.remains > 0 || r.Framing == h1.Chunked
}

// bodyLeft tells whether a part of the request's body is still to come, so that where
// the next request begins is not known.
func (c *conn) bodyLeft() bool { return c.requested == h1.Chunked || c.remains > 0 }

// next is a part of the request's body; see client.
func (c *conn) next() (p []byte, done bool, err error) {
	for {
		if c.d.r < c.d.w {
			p, done, err = c.decode()
			if err != nil || done || len(p) > 0 {
				return p, done, err
			}
		}
		if err := c.fill(); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, false, err
		}
	}
}

// decode takes a piece of the body from what was read.
func (c *conn) decode() (p []byte, done bool, err error) {
	unread := c.d.in[c.d.r:c.d.w]
	if c.requested == h1.Length {
		p = unread[:min(int64(len(unread)), c.remains)]
		c.d.r += len(p)
		c.remains -= int64(len(p))
		c.from += int64(len(p))
		return p, c.remains == 0, nil
	}
	for len(unread) > 0 {
		data, n, done, bad := c.d.incoming.Next(unread)
		if bad != nil {
			return nil, false, bad
		}
		c.d.r += n
		c.from += int64(n)
		unread = unread[n:]
		if c.took += int64(len(data)); c.server.o.MaxBody > 0 && c.took > c.server.o.MaxBody {
			return nil, false, h1.ErrBodyLong
		}
		if done {
			c.requested, c.remains = h1.None, 0
		}
		if done || len(data) > 0 {
			return data, done, nil
		}
	}
	return nil, false, nil
}

// trailers came behind the request's body.
func (c *conn) trailers() []h1.Field { return c.d.incoming.Trailers() }

// stopBody wakes a next that waits.
func (c *conn) stopBody() {
	c.halted.Store(true)
	c.raw.SetReadDeadline(longAgo)
}

// send writes what was kept of the answer, and p.
func (c *conn) send(p []byte) error {
	n, err := c.net.Write(p)
	c.to += int64(n)
	return err
}

// inform passes an interim answer on. HTTP/1.0 has none.
func (c *conn) inform(res *h1.Response) error {
	if c.old {
		return nil
	}
	out := h1.AppendStatusLine(c.d.out[:0], res.Status, res.Reason)
	out = appendEndToEnd(out, res.Fields)
	out = append(out, h1.CRLF...)
	c.d.out = out[:0]
	return c.send(out)
}

// begin composes the head of the answer.
func (c *conn) begin(res *h1.Response) error {
	out := h1.AppendStatusLine(c.d.out[:0], res.Status, res.Reason)
	out = appendEndToEnd(out, res.Fields)
	switch {
	case res.Framing == h1.Length, res.Framing == h1.None && res.HasLength:
		out = h1.AppendLength(out, res.Length)
	case res.Framing == h1.None:
	case c.old:
		c.keep = false
	default:
		c.chunking = true
		out = h1.AppendChunked(out)
	}
	if c.uploading && !c.whole.Load() {
		// Where the next request would begin is not known yet.
		c.keep = false
	}
	c.d.out = append(c.appendConnection(out), h1.CRLF...)
	return nil
}

// appendConnection says whether the connection goes on.
func (c *conn) appendConnection(out []byte) []byte {
	switch {
	case c.server.stopping.Load():
		c.keep = false
		fallthrough
	case !c.keep:
		return append(out, "Connection: close\r\n"...)
	case c.old:
		return append(out, "Connection: keep-alive\r\n"...)
	}
	return out
}

// write passes on a piece of the body. A short one waits for flush.
func (c *conn) write(p []byte) error {
	if c.chunking {
		c.d.out = h1.AppendChunk(c.d.out, len(p))
	}
	if len(p) <= together {
		c.d.out = append(c.d.out, p...)
		if c.chunking {
			c.d.out = append(c.d.out, h1.CRLF...)
		}
		if len(c.d.out) <= 2*together {
			return nil
		}
		return c.flush()
	}
	out := c.d.out
	c.d.out = out[:0]
	var err error
	if c.net == net.Conn(c.raw) {
		var n int
		n, err = c.raw.WriteBoth(out, p)
		c.to += int64(n)
	} else if err = c.flushed(out); err == nil {
		err = c.send(p)
	}
	if c.chunking {
		c.d.out = append(c.d.out, h1.CRLF...)
	}
	return err
}

func (c *conn) flush() error {
	out := c.d.out
	c.d.out = out[:0]
	return c.flushed(out)
}

// flushed sends what was kept, if there is anything.
func (c *conn) flushed(out []byte) error {
	if len(out) == 0 {
		return nil
	}
	return c.send(out)
}

func (c *conn) end(trailers []h1.Field) error {
	if c.chunking {
		c.d.out = h1.AppendLastChunk(c.d.out, trailers)
	}
	return c.flush()
}

// abort resets the connection: whoever reads it sees that something is missing.
func (c *conn) abort() { c.raw.Abort() }

// expire makes the connection's goroutine notice.
func (c *conn) expire() { c.raw.SetDeadline(longAgo) }

// shut ends the connection if it waits for a request. The server's lock is held.
func (c *conn) shut() {
	if c.waiting.Load() {
		c.raw.SetReadDeadline(longAgo)
	}
}

// finish ends the connection, which has no request in flight any more. It is not reset:
// that would take back what the client was answered and has not read yet. The server's
// lock is held.
func (c *conn) finish() {
	c.raw.SetReadDeadline(longAgo)
	c.raw.SetWriteDeadline(time.Now().Add(lingerTime))
}

// stopped tells whether the server has ended everything.
func (c *conn) stopped() bool { return c.server.stopped.Err() != nil }

// upgrade bridges the connection: from here on it is a session of its host's.
func (c *conn) upgrade(up *upstream, res *h1.Response, rest []byte) error {
	head := h1.AppendStatusLine(nil, res.Status, res.Reason)
	head = appendEndToEnd(head, res.Fields)
	head = append(head, "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"...)
	pair := relay.Pair{
		Client: c.raw, Backend: up.conn,
		ToBackend: bytes.Clone(c.d.in[c.d.r:c.d.w]),
		ToClient:  append(head, rest...),
	}
	if c.net != net.Conn(c.raw) {
		pair.Client = c.server.o.Bridge.Engine().Adopt(c.net)
	}
	c.to += int64(len(head))
	err := c.claim.Upgrade(c.in, pair)
	c.handed = err == nil
	return err
}

const (
	// lingerTime and lingerBytes bound what is read of a client that is not listened to
	// any more. A connection that is closed with something unread is reset, and then the
	// client may lose the answer (RFC 9112, section 9.6).
	lingerTime  = time.Second
	lingerBytes = 256 << 10
)

// linger lets the client read the last answer before the connection is closed.
func (c *conn) linger() {
	c.clientBy.Store(0)
	if t, ok := c.net.(*tls.Conn); ok {
		t.SetWriteDeadline(time.Now().Add(lingerTime))
		t.CloseWrite()
	}
	if c.raw.CloseWrite() != nil {
		return
	}
	c.raw.SetReadDeadline(time.Now().Add(lingerTime))
	io.CopyN(io.Discard, c.raw, lingerBytes)
}

// close closes what is still the connection's own.
func (c *conn) close() {
	c.clearDesk()
	if c.handed {
		return
	}
	c.raw.Close()
	c.in.Release()
}

// prefixed reads bytes that were read before.
type prefixed struct {
	net.Conn
	rest []byte
}

func (p *prefixed) Read(b []byte) (int, error) {
	if len(p.rest) > 0 {
		n := copy(b, p.rest)
		p.rest = p.rest[n:]
		return n, nil
	}
	return p.Conn.Read(b)
}

// ends are the addresses that a PROXY header names.
func (c *conn) ends() (source, destination net.Addr) { return c.in.Source(), c.in.Destination() }

// address is the IP address of a TCP address.
func address(a net.Addr) (netip.AddrPort, bool) {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}, false
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port()), ap.IsValid()
}
