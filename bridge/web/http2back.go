package web

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
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

// newHTTP2Back takes answers' heads of up to longest bytes.
func newHTTP2Back(b *bridge.Bridge, longest int) *http2Back {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return &http2Back{transport: &http.Transport{
		Protocols: protocols, DisableCompression: true, IdleConnTimeout: DefaultPoolIdle, MaxResponseHeaderBytes: int64(longest),
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			within, _ := ctx.Value(dialTimeoutKey{}).(time.Duration)
			ctx, cancel := context.WithTimeoutCause(ctx, within, bridge.ErrDialTimeout)
			defer cancel()
			conn, err := b.Dial(ctx, address)
			if err != nil && ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			return conn, err
		},
	}}
}

// dialTimeoutKey has the dial timeout of the host that a request is for.
type dialTimeoutKey struct{}

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
	defer func() {
		if o.status != 0 {
			x.let(idle)
		} else {
			x.let(waiting)
		}
	}()
	ctx = context.WithValue(ctx, dialTimeoutKey{}, x.host.DialTimeout())
	var reached atomic.Bool
	var informed interim
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn:        func(httptrace.GotConnInfo) { reached.Store(true) },
		Got1xxResponse: informed.add,
	})
	r, body := x.asHTTP2(ctx)
	if body != nil && x.req.parsed.Continue {
		// The transport asks for the body at once.
		x.req.parsed.Continue = false
		if err := x.informHTTP2([]h1.Response{{Status: http.StatusContinue}}); err != nil {
			return outcome{err: errClientLeft}
		}
	}
	x.uploading = body != nil
	x.broke = false
	x.backendBy.Store(x.server.after(x.target.options.HeadTimeout))
	res, err := x.server.o.Upstream.h2.transport.RoundTrip(r)
	if err == nil {
		o.status = res.StatusCode
		x.backendBy.Store(x.server.after(x.target.options.Silence))
		if err = x.informHTTP2(informed.take()); err == nil {
			err = x.passHTTP2(res)
		}
		body.end()
		res.Body.Close()
	}
	cancel()
	body.end()
	x.uploading = false
	o.reached = reached.Load()
	switch {
	case err == nil:
	case o.status != 0:
		x.unfinished(err)
		x.client.abort()
	default:
		o.err = err
		if why := x.ended(); why != nil {
			o.err = why
		} else if (x.uploadErr == nil || x.uploadErr == errBackendWrite) && x.expired.Load() == notExpired {
			x.claim.Suspect(err)
		}
	}
	return o
}

// interim are answers before the one that counts. They are passed on with that: what
// the transport tells of them comes from the goroutine that reads for all streams of a
// backend's connection, and no client may keep that waiting.
type interim struct {
	mu      sync.Mutex
	answers []h1.Response
}

func (i *interim) add(status int, header textproto.MIMEHeader) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.answers) == maxInformed {
		return errAnswer
	}
	i.answers = append(i.answers, h1.Response{Status: status, Minor: 1, Fields: fieldsOf(nil, http.Header(header))})
	return nil
}

func (i *interim) take() []h1.Response {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.answers
}

func (x *exchange) informHTTP2(answers []h1.Response) error {
	for i := range answers {
		answers[i].Reason = []byte(http.StatusText(answers[i].Status))
		if err := x.client.inform(&answers[i]); err != nil {
			return err
		}
	}
	return nil
}

// asHTTP2 is the request as the transport takes it.
func (x *exchange) asHTTP2(ctx context.Context) (*http.Request, *body) {
	from := x.req.parsed
	r := (&http.Request{Method: string(from.Method), Host: string(from.Authority), Header: http.Header{}}).WithContext(ctx)
	// The transport takes scheme and host off what is opaque, and leaves the rest as it
	// is.
	r.URL = &url.URL{Scheme: "http", Host: x.claim.Address(), Opaque: "//" + r.Host + string(from.Path)}
	// The head for HTTP/1.1 has all that is to be said.
	for line := range strings.SplitSeq(string(x.req.head), h1.CRLF) {
		name, value, ok := strings.Cut(line, ": ")
		if line == "" {
			break
		}
		if !ok || strings.HasPrefix(line, string(from.Method)+" ") {
			continue
		}
		switch id := h1.Lookup([]byte(name)); {
		case id == h1.Trailer && x.req.body:
			r.Trailer = announce(r.Trailer, value)
		case id == h1.Trailer, id == h1.Host, id == h1.Expect, id.Hop():
		default:
			r.Header.Add(name, value)
		}
	}
	if r.Header.Get("User-Agent") == "" {
		r.Header["User-Agent"] = nil
	}
	r.Header.Set("Te", "trailers")
	var b *body
	switch {
	case x.req.body:
		b = &body{x: x, trailer: r.Trailer}
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
	x.res.Reason = []byte(http.StatusText(from.StatusCode))
	x.res.Fields = fieldsOf(x.res.Fields, from.Header)
	bodiless := from.StatusCode == http.StatusNoContent || from.StatusCode == http.StatusNotModified
	if _, said := from.Header["Content-Length"]; from.ContentLength >= 0 && (said || !bodiless) && from.StatusCode != http.StatusNoContent {
		x.res.Length, x.res.HasLength, x.res.Framing = from.ContentLength, true, h1.Length
	}
	switch {
	case x.req.toHEAD, bodiless:
		x.res.Framing = h1.None
	case len(from.Trailer) > 0:
		// HTTP/1.1 has trailers only behind chunks.
		x.res.Framing, x.res.HasLength = h1.Chunked, false
	}
	if err := x.client.begin(&x.res); err != nil {
		return err
	}
	if from.ContentLength != 0 {
		// What comes behind the head may take its time.
		if err := x.client.flush(); err != nil {
			return err
		}
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
			return x.client.end(trailersOf(from.Trailer))
		}
		if err != nil {
			x.broke = true
			return err
		}
		if err := x.client.flush(); err != nil {
			return err
		}
		x.clientBy.Store(0)
		x.backendBy.Store(x.server.after(x.target.options.Silence))
	}
}

// fieldsOf appends the fields of an answer.
func fieldsOf(fields []h1.Field, header http.Header) []h1.Field {
	for name, values := range header {
		id := h1.Lookup([]byte(name))
		field := h1.Field{Name: []byte(name), ID: id, Hop: id.Hop()}
		for _, value := range values {
			field.Value = []byte(value)
			fields = append(fields, field)
		}
	}
	return fields
}

// announce adds the names of a Trailer field to a request's trailers, which are sent
// only if they were announced.
func announce(trailer http.Header, names string) http.Header {
	if trailer == nil {
		trailer = http.Header{}
	}
	for name := range strings.SplitSeq(names, ",") {
		name = strings.TrimSpace(name)
		if field := (h1.Field{Name: []byte(name), ID: h1.Lookup([]byte(name))}); name != "" && field.Fit() {
			trailer[http.CanonicalHeaderKey(name)] = nil
		}
	}
	return trailer
}

// body is a request's body as the transport reads it, from a goroutine of its own.
type body struct {
	x       *exchange
	trailer http.Header // those that were announced

	stopped atomic.Bool // while it was read

	mu   sync.Mutex // held while it is read
	over bool       // it is not to be read any more: its client is on to something else
	rest []byte
	done bool
}

// Read takes what the client has sent.
func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		return 0, io.ErrClosedPipe
	}
	for len(b.rest) == 0 {
		if b.done {
			return 0, io.EOF
		}
		rest, done, err := b.x.client.next()
		b.x.sent.Store(true)
		b.x.whole.Store(done)
		b.rest, b.done = rest, done
		if err != nil {
			if b.x.uploadErr = err; b.stopped.Load() && isTimeout(err) {
				// That is no fault of the client's.
				b.x.uploadErr = errBackendWrite
			}
			return 0, err
		}
		if done {
			b.takeTrailers()
		}
		b.x.backendBy.Store(b.x.server.after(b.x.target.options.HeadTimeout))
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

func (b *body) takeTrailers() {
	for _, field := range b.x.client.trailers() {
		name := http.CanonicalHeaderKey(string(field.Name))
		if values, announced := b.trailer[name]; announced {
			b.trailer[name] = append(values, string(field.Value))
		}
	}
}

// Close is called by the transport when it wants no more. It may do so while it reads,
// and then waits until it does not.
func (b *body) Close() error {
	switch {
	case b.mu.TryLock():
		b.over = true
		b.mu.Unlock()
	case b.stopped.CompareAndSwap(false, true):
		// What was not read yet is lost.
		b.x.sent.Store(true)
		b.x.client.stopBody()
	}
	return nil
}

// end returns when nobody reads any more, nor will. There may be no body.
func (b *body) end() {
	if b == nil {
		return
	}
	b.Close()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.over = true
}
