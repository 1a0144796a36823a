package web

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"switchboard/bridge"
	"switchboard/bridge/web/h1"
)

// http2Back speaks HTTP/2 to backends that want it, by way of the standard library's
// transport, which keeps the connections.
type http2Back struct{ transport *http.Transport }

func newHTTP2Back(b *bridge.Bridge) *http2Back {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return &http2Back{transport: &http.Transport{
		Protocols: protocols, DisableCompression: true, IdleConnTimeout: DefaultPoolIdle,
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) { return b.Dial(ctx, address) },
	}}
}

func (b *http2Back) close() { b.transport.CloseIdleConnections() }

// cancellation is the aborter of a request of HTTP/2, which shares its connection.
type cancellation context.CancelFunc

// Abort resets the request's stream.
func (c cancellation) Abort() { c() }

// SetDeadline is only asked for with one that has passed.
func (c cancellation) SetDeadline(time.Time) error {
	c()
	return nil
}

// onceH2 makes one attempt with HTTP/2.
func (x *exchange) onceH2() (o outcome) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if err := x.reach(cancellation(cancel)); err != nil {
		return outcome{err: err}
	}
	defer x.let()
	var reached atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { reached.Store(true) }})
	r, body := x.asHTTP2(ctx)
	x.backendBy.Store(x.server.after(x.target.options.HeadTimeout))
	res, err := x.server.o.Upstream.h2.transport.RoundTrip(r)
	if err == nil {
		o.status = res.StatusCode
		x.backendBy.Store(x.server.after(x.target.options.Silence))
		err = x.passHTTP2(res)
		res.Body.Close()
	}
	cancel()
	x.endHTTP2Body(body)
	o.reached = reached.Load()
	switch {
	case err == nil:
	case o.status != 0:
		x.client.abort()
	default:
		o.err = err
		if why := x.ended(); why != nil {
			o.err = why
		} else if x.uploadErr == nil && x.expired.Load() == notExpired {
			x.claim.Suspect(err)
		}
	}
	return o
}

// asHTTP2 is the request as the transport takes it.
func (x *exchange) asHTTP2(ctx context.Context) (*http.Request, *body) {
	from := x.req.parsed
	target := "http://" + x.claim.Address() + string(from.Path)
	r, err := http.NewRequestWithContext(ctx, string(from.Method), target, nil)
	if err != nil {
		// A path that net/url cannot read is passed on as it is.
		r, _ = http.NewRequestWithContext(ctx, string(from.Method), "http://"+x.claim.Address()+"/", nil)
		r.URL.Opaque = string(from.Path)
	}
	r.Host = string(from.Authority)
	// The head for HTTP/1.1 has all that is to be said.
	for line := range strings.SplitSeq(string(x.req.head), h1.CRLF) {
		name, value, ok := strings.Cut(line, ": ")
		if line == "" {
			break
		}
		if !ok || strings.HasPrefix(line, string(from.Method)+" ") {
			continue
		}
		switch h1.Lookup([]byte(name)) {
		case h1.Host, h1.ContentLength, h1.TransferEncoding, h1.Connection, h1.Upgrade, h1.Expect:
			continue
		}
		r.Header.Add(name, value)
	}
	if r.Header.Get("User-Agent") == "" {
		r.Header["User-Agent"] = nil
	}
	r.Header.Set("Te", "trailers")
	var b *body
	switch {
	case x.req.body:
		b = &body{x: x, closed: make(chan struct{})}
		r.Body, r.ContentLength = b, -1
		if from.Framing == h1.Length {
			r.ContentLength = from.Length
		}
	case from.Framing == h1.Length && from.Length > 0:
		sent := x.req.head[len(x.req.head)-int(from.Length):]
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(sent)), from.Length
	}
	return r, b
}

// passHTTP2 passes an answer on.
func (x *exchange) passHTTP2(from *http.Response) error {
	x.res = h1.Response{Status: from.StatusCode, Minor: 1, Framing: h1.Chunked, KeepAlive: true, Fields: x.res.Fields[:0]}
	for name, values := range from.Header {
		field := h1.Field{Name: []byte(name), ID: h1.Lookup([]byte(name))}
		field.Hop = field.ID == h1.ContentLength || field.ID == h1.Connection || field.ID == h1.TransferEncoding
		for _, value := range values {
			field.Value = []byte(value)
			x.res.Fields = append(x.res.Fields, field)
		}
	}
	if from.ContentLength >= 0 {
		x.res.Length, x.res.HasLength, x.res.Framing = from.ContentLength, true, h1.Length
	}
	if x.req.toHEAD || from.StatusCode == http.StatusNoContent || from.StatusCode == http.StatusNotModified {
		x.res.Framing = h1.None
	}
	if err := x.client.begin(&x.res); err != nil {
		return err
	}
	buffer := x.Lend()
	defer x.returnBuffer()
	for {
		n, err := from.Body.Read(buffer)
		if n > 0 {
			x.clientBy.Store(x.server.after(x.server.o.Body))
			if err := x.client.write(buffer[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return x.client.end(fieldsOf(from.Trailer))
		}
		if err != nil {
			return err
		}
		if err := x.client.flush(); err != nil {
			return err
		}
		x.clientBy.Store(0)
		x.backendBy.Store(x.server.after(x.target.options.Silence))
	}
}

func fieldsOf(header http.Header) []h1.Field {
	var fields []h1.Field
	for name, values := range header {
		for _, value := range values {
			fields = append(fields, h1.Field{Name: []byte(name), Value: []byte(value)})
		}
	}
	return fields
}

// body is a request's body as the transport reads it, from a goroutine of its own.
type body struct {
	x      *exchange
	rest   []byte
	done   bool
	once   sync.Once
	closed chan struct{}
}

// Read takes what the client has sent.
func (b *body) Read(p []byte) (int, error) {
	for len(b.rest) == 0 {
		if b.done {
			return 0, io.EOF
		}
		rest, done, err := b.x.client.next()
		b.x.sent.Store(true)
		b.x.whole.Store(done)
		b.rest, b.done = rest, done
		if err != nil {
			b.x.uploadErr = err
			return 0, err
		}
		b.x.backendBy.Store(b.x.server.after(b.x.target.options.HeadTimeout))
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

// Close is called by the transport when it reads no more.
func (b *body) Close() error {
	b.once.Do(func() { close(b.closed) })
	return nil
}

// endHTTP2Body returns when the transport has left the body alone.
func (x *exchange) endHTTP2Body(b *body) {
	if b == nil {
		return
	}
	select {
	case <-b.closed:
		return
	default:
	}
	if !x.whole.Load() {
		x.client.stopBody()
	}
	<-b.closed
}
