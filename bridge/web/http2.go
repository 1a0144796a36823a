package web

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"switchboard/bridge/web/h1"
)

// http2Front serves clients of HTTP/2: the standard library's server speaks it, and
// each request is made one of HTTP/1.1, held to the same rules, and takes the same way
// to a backend.
type http2Front struct {
	server *Server
	http   *http.Server
	conns  chan net.Conn
	ended  chan struct{} // closed when the standard library's server has ended; nil: not begun

	mu      sync.Mutex
	serving map[net.Conn]*served
	streams map[*stream]struct{}
	begun   bool
	// shutting: clients have been told. shutOff: there is no more serving.
	shutting, shutOff bool
}

// served is a connection that the standard library's server has.
type served struct {
	conn  *conn
	ended chan struct{}
}

const maxStreams = 250

func newHTTP2Front(s *Server) *http2Front {
	f := &http2Front{
		server: s, conns: make(chan net.Conn), ended: make(chan struct{}),
		serving: map[net.Conn]*served{}, streams: map[*stream]struct{}{},
	}
	protocols := new(http.Protocols)
	// TLS has been taken off already.
	protocols.SetUnencryptedHTTP2(true)
	f.http = &http.Server{
		Handler: f, Protocols: protocols, MaxHeaderBytes: s.o.Limits.MaxHead(),
		// Before the preface there is no other limit than that for a head.
		ReadHeaderTimeout: s.o.Head, IdleTimeout: s.o.Idle,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: maxStreams, MaxReadFrameSize: frameMax, MaxDecoderHeaderTableSize: headerTable,
			SendPingTimeout: s.o.Idle, WriteByteTimeout: s.o.Body,
		},
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, f.of(c))
		},
		ConnState: f.changed,
	}
	return f
}

type connKey struct{}

// of returns our connection of one of the standard library's server's.
func (f *http2Front) of(c net.Conn) *conn {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.serving[c]; s != nil {
		return s.conn
	}
	return nil
}

// serve has a connection served, and returns when it is closed.
func (f *http2Front) serve(c *conn, raw net.Conn) {
	to := newFrames(raw, f.http.MaxHeaderBytes)
	s := &served{conn: c, ended: make(chan struct{})}
	f.mu.Lock()
	if f.shutOff {
		f.mu.Unlock()
		return
	}
	if !f.begun {
		f.begun = true
		go f.run()
	}
	f.serving[to] = s
	f.mu.Unlock()
	select {
	case f.conns <- to:
		<-s.ended
	case <-f.server.stopped.Done():
	}
}

func (f *http2Front) run() {
	defer close(f.ended)
	// It ends when it is told to, by Shutdown or Close.
	_ = f.http.Serve(f)
}

// Accept, Close and Addr make the front the listener of its own server.
func (f *http2Front) Accept() (net.Conn, error) {
	select {
	case c := <-f.conns:
		return c, nil
	case <-f.server.stopped.Done():
		return nil, net.ErrClosed
	}
}

// Close does nothing: what is accepted ends with the server.
func (f *http2Front) Close() error { return nil }

// Addr is nobody's.
func (f *http2Front) Addr() net.Addr { return &net.TCPAddr{} }

func (f *http2Front) changed(c net.Conn, state http.ConnState) {
	if state != http.StateClosed {
		return
	}
	f.mu.Lock()
	s := f.serving[c]
	delete(f.serving, c)
	f.mu.Unlock()
	if s != nil {
		close(s.ended)
	}
}

// shut tells clients to send no more requests on their connections.
func (f *http2Front) shut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.begun && !f.shutOff && !f.shutting {
		f.shutting = true
		go f.http.Shutdown(f.server.stopped)
	}
}

// settle waits until the connections are closed, as they are once their streams have
// ended and been sent. A stream is over for its host before its last bytes are: the
// standard library's server has those. A client that does not take them is not waited
// for longer than one of HTTP/1.1 is.
func (f *http2Front) settle() {
	f.mu.Lock()
	open := slices.Collect(maps.Values(f.serving))
	f.mu.Unlock()
	if len(open) == 0 {
		return
	}
	f.shut()
	enough := time.NewTimer(lingerTime)
	defer enough.Stop()
	for _, s := range open {
		select {
		case <-s.ended:
		case <-enough.C:
			return
		}
	}
}

func (f *http2Front) finish() {
	f.mu.Lock()
	f.shutOff = true
	begun := f.begun
	f.mu.Unlock()
	if begun {
		f.http.Close()
		<-f.ended
	}
}

// sweep ends streams that are past a deadline.
func (f *http2Front) sweep(now int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for s := range f.streams {
		s.expireAt(now)
	}
}

// ServeHTTP takes one request to its backend.
func (f *http2Front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c, _ := r.Context().Value(connKey{}).(*conn)
	if c == nil {
		panic(http.ErrAbortHandler)
	}
	s := &stream{w: w, r: r, control: http.NewResponseController(w)}
	s.init(f.server, s)
	s.claim.Listener, s.claim.Client = c.in.Listener(), c.remote
	f.mu.Lock()
	f.streams[s] = struct{}{}
	f.mu.Unlock()
	stop := context.AfterFunc(r.Context(), s.clientLeft)
	defer func() {
		stop()
		f.mu.Lock()
		delete(f.streams, s)
		f.mu.Unlock()
		s.finish()
		s.reportPanic(s.from, s.to)
	}()
	s.serve(&c.origin)
	if s.aborted.Load() {
		panic(http.ErrAbortHandler)
	}
}

// stream is one request of HTTP/2; it is the client of its exchange.
type stream struct {
	exchange
	w       http.ResponseWriter
	r       *http.Request
	control *http.ResponseController

	parsed   h1.Request
	head     []byte
	chunk    *[]byte
	from, to int64
	aborted  atomic.Bool

	usable sync.Mutex // guards done, and with it the control
	done   bool
}

// serve makes a request of HTTP/1.1 of the stream's, and takes it to a backend.
func (s *stream) serve(o *origin) {
	began := time.Now()
	if s.account(new(Record), began, "HTTP/2"); s.record != nil {
		s.record.Method, s.record.Authority, s.record.Target = []byte(s.r.Method), []byte(s.r.Host), []byte(s.r.RequestURI)
	}
	status := s.dispatch(o, began)
	ended := time.Now()
	if s.target != nil {
		s.target.stats.answered(status, ended.Sub(began), s.from, s.to)
	}
	s.report(ended, status, s.from, s.to)
}

// dispatch finds the host and takes the request to it. It returns the status that was
// answered.
func (s *stream) dispatch(o *origin, began time.Time) (status int) {
	if s.malformed() {
		s.blame(&s.server.refusals, "malformed", nil)
		return s.refuse(refusal{http.StatusBadRequest, "malformed"})
	}
	s.head = s.appendAsHTTP1(nil)
	s.from = int64(len(s.head))
	if bad := s.parsed.Parse(s.head, s.server.o.Limits); bad != nil {
		s.blame(&s.server.refusals, bad.Reason, bad)
		return s.refuse(refusal{bad.Status, bad.Reason})
	}
	if why, found := s.find(&s.parsed, nil); !found {
		return s.refuse(why)
	}
	s.describe(&s.parsed, o)
	s.req.head = appendHead(nil, &s.parsed, o)
	s.req.body = s.parsed.Framing == h1.Chunked || s.parsed.Length > 0
	return s.run(began)
}

// malformed tells of what RFC 9113 forbids, the standard library lets pass, and cannot
// be seen any more once the request is one of HTTP/1.1: a Host that is not :authority
// (section 8.3.1), a Content-Length that is not the body's (section 8.1.1), and spaces
// around a value (section 8.2.1).
func (s *stream) malformed() bool {
	for name, values := range s.r.Header {
		for _, value := range values {
			switch {
			case name == "Host" && !strings.EqualFold(value, s.r.Host),
				name == "Content-Length" && (len(values) > 1 || value != strconv.FormatInt(s.r.ContentLength, 10)),
				strings.Trim(value, " \t") != value:
				return true
			}
		}
	}
	return false
}

// appendAsHTTP1 writes the request down as one of HTTP/1.1, to be read by the parser
// that all requests are read by: what is not allowed there comes in by no other way.
func (s *stream) appendAsHTTP1(dst []byte) []byte {
	r := s.r
	dst = h1.AppendRequestLine(dst, []byte(r.Method), []byte(r.RequestURI))
	dst = h1.AppendField(dst, []byte("Host"), []byte(r.Host))
	for name, values := range r.Header {
		switch name {
		case "Content-Length", "Host", "Te":
			continue
		}
		for _, value := range values {
			dst = h1.AppendField(dst, []byte(name), []byte(value))
		}
	}
	for name := range r.Trailer {
		dst = h1.AppendField(dst, []byte("Trailer"), []byte(name))
	}
	switch {
	case r.ContentLength > 0:
		dst = h1.AppendLength(dst, r.ContentLength)
	case r.ContentLength < 0:
		dst = h1.AppendChunked(dst)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		dst = h1.AppendLength(dst, 0)
	}
	return append(dst, h1.CRLF...)
}

func (s *stream) next() (p []byte, done bool, err error) {
	if s.chunk == nil {
		s.chunk = buffers.Get().(*[]byte)
	}
	n, err := s.r.Body.Read(*s.chunk)
	s.from += int64(n)
	if limit := s.server.o.MaxBody; limit > 0 && s.from > limit+int64(len(s.head)) {
		return nil, false, h1.ErrBodyLong
	}
	if err == io.EOF {
		return (*s.chunk)[:n], true, nil
	}
	return (*s.chunk)[:n], false, err
}

// trailers are those that the client has announced: the standard library drops others.
func (s *stream) trailers() []h1.Field { return trailersOf(s.r.Trailer) }

// trailersOf are the trailers that may be passed on.
func trailersOf(header http.Header) []h1.Field {
	var fields []h1.Field
	for name, values := range header {
		field := h1.Field{Name: []byte(name), ID: h1.Lookup([]byte(name))}
		for _, value := range values {
			if field.Value = []byte(value); field.Fit() {
				fields = append(fields, field)
			}
		}
	}
	return fields
}

// use calls do unless the handler has returned: the control is nobody's then.
func (s *stream) use(do func()) {
	s.usable.Lock()
	defer s.usable.Unlock()
	if !s.done {
		do()
	}
}

func (s *stream) stopBody() { s.use(func() { s.control.SetReadDeadline(longAgo) }) }

func (s *stream) expire() { s.wake() }

func (s *stream) abort() {
	s.aborted.Store(true)
	s.wake()
}

func (s *stream) wake() {
	s.use(func() {
		s.control.SetReadDeadline(longAgo)
		s.control.SetWriteDeadline(longAgo)
	})
}

// finish leaves the stream to the standard library's server, which has yet to send what
// it kept of the answer. The client may take its time for that, but not for ever.
func (s *stream) finish() {
	s.use(func() {
		if s.r.Context().Err() == nil {
			s.control.SetWriteDeadline(time.Now().Add(s.server.o.Body))
		}
		s.done = true
	})
	if s.chunk != nil {
		buffers.Put(s.chunk)
		s.chunk = nil
	}
}

// inform passes an interim answer on. The standard library's server says 100 itself
// when the body is asked for.
func (s *stream) inform(res *h1.Response) error {
	if res.Status == http.StatusContinue {
		return nil
	}
	header := s.w.Header()
	for i := range res.Fields {
		if f := &res.Fields[i]; !f.Hop {
			header.Add(string(f.Name), string(f.Value))
		}
	}
	s.w.WriteHeader(res.Status)
	clear(header)
	return nil
}

func (s *stream) begin(res *h1.Response) error {
	if s.aborted.Load() {
		return errors.New("aborted")
	}
	header := s.w.Header()
	// What the backend has not said is not made up.
	header["Content-Type"], header["Date"] = nil, nil
	for i := range res.Fields {
		if f := &res.Fields[i]; !f.Hop {
			header.Add(string(f.Name), string(f.Value))
		}
	}
	if res.HasLength {
		header.Set("Content-Length", strconv.FormatInt(res.Length, 10))
	}
	s.sent(res.Status, header)
	s.w.WriteHeader(res.Status)
	return nil
}

// sent counts a head as it would be in HTTP/1.1.
func (s *stream) sent(status int, header http.Header) {
	s.to += int64(len("HTTP/1.1 200 \r\n\r\n") + len(http.StatusText(status)))
	for name, values := range header {
		for _, value := range values {
			s.to += int64(len(name) + len(": \r\n") + len(value))
		}
	}
}

func (s *stream) write(p []byte) error {
	if s.aborted.Load() {
		return errors.New("aborted")
	}
	n, err := s.w.Write(p)
	s.to += int64(n)
	return err
}

func (s *stream) flush() error { return s.control.Flush() }

func (s *stream) end(trailers []h1.Field) error {
	for i := range trailers {
		s.w.Header().Add(http.TrailerPrefix+string(trailers[i].Name), string(trailers[i].Value))
	}
	return nil
}

func (s *stream) refuse(r refusal) int {
	if s.expired.Load() == clientExpired {
		s.use(func() { s.control.SetWriteDeadline(time.Now().Add(lingerTime)) })
	}
	contentType, body := r.page([]byte(s.r.Header.Get("Accept")))
	header := s.w.Header()
	header.Set("Content-Type", contentType)
	header.Set("Content-Length", strconv.Itoa(len(body)))
	for _, f := range r.fields() {
		header.Set(f[0], f[1])
	}
	s.sent(r.status, header)
	s.w.WriteHeader(r.status)
	if s.r.Method != http.MethodHead {
		n, _ := io.WriteString(s.w, body)
		s.to += int64(n)
	}
	return r.status
}

// upgrade is not asked for: an upgrade has no meaning in HTTP/2 (RFC 9113, section 8.6).
func (s *stream) upgrade(*upstream, *h1.Response, []byte) error {
	return errors.New("a stream is not upgraded")
}

func (s *stream) ends() (source, destination net.Addr) {
	c := s.r.Context().Value(connKey{}).(*conn)
	return c.ends()
}
