package web

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"switchboard/bridge"
	"switchboard/bridge/relay"
	"switchboard/bridge/route"
	"switchboard/bridge/web/h1"
)

// client is the side that a request came from, whichever version it speaks. Its
// methods are called by the exchange's goroutine, but for those that say so.
type client interface {
	// next returns more of the request's body; done: that was the last of it. It is
	// called from the upload's goroutine. Its errors are *h1.Error for a client's
	// fault, or those of its connection.
	next() (p []byte, done bool, err error)
	// trailers are those that came behind the body, once it is done.
	trailers() []h1.Field
	// stopBody wakes a next that waits, and makes it fail. It is called from any
	// goroutine, at most once an exchange.
	stopBody()
	// inform passes an interim answer on.
	inform(res *h1.Response) error
	// begin begins the answer. Nothing need be sent before flush.
	begin(res *h1.Response) error
	// write passes on a part of the answer's body. It may keep it, but not p.
	write(p []byte) error
	// flush sends what was kept.
	flush() error
	// end completes the answer, and sends what was kept.
	end(trailers []h1.Field) error
	// refuse answers in the router's own words, of which nothing was begun, and returns
	// the status.
	refuse(r refusal) int
	// ends are the addresses that a PROXY header names.
	ends() (source, destination net.Addr)
	// abort lets the client see that its answer is incomplete. It is called from any
	// goroutine, and more than once.
	abort()
	// expire wakes whoever waits for the client. It is called from any goroutine.
	expire()
	// upgrade bridges the connection to the backend's, both being what comes after a
	// 101: head is that answer, rest what came behind it.
	upgrade(up *upstream, res *h1.Response, rest []byte) error
}

// request is what an exchange has to know of a request.
type request struct {
	// head is for a backend of HTTP/1.1, with the body behind it if that is short and
	// was there already.
	head []byte
	// parsed is the request itself, origin whom it comes from.
	parsed *h1.Request
	origin *origin
	// body: more of it is to come from the client. chunked: framed so.
	body, chunked bool
	toHEAD        bool
	idempotent    bool
	// webSocket is the key of an upgrade; nil: it is none.
	webSocket []byte
	// sticky is what the choice goes by; nil: nothing.
	sticky []byte
}

// exchange is one request on its way to a backend, and its answer on the way back. A
// connection uses one for all its requests.
//
//	client ── next ──▶ upload ──▶ backend      a goroutine, only if the body is not there yet
//	client ◀── begin, write, end ── answer ◀── backend
type exchange struct {
	server *Server
	client client
	claim  bridge.Claim

	// key is what the host was found by; host and target are those of the request.
	key    []byte
	host   *bridge.Host
	target *target
	req    request

	res    h1.Response
	chunks h1.Chunks
	framed []byte // a piece of a chunked body, with its framing

	// Of the buffer for what comes from the backend, lent while there is something.
	buffer *[]byte
	unread []byte

	uploading bool
	uploaded  chan error // one slot: the upload ends whether or not it is waited for
	uploadErr error      // of the last upload
	// sent: a part of the body has been taken from the client, so it cannot be sent
	// again. whole: all of it has.
	sent, whole atomic.Bool

	deadlines

	// gone is closed when the client has left.
	gone chan struct{}

	// broke: the backend has broken its answer off.
	broke bool

	record *Record // of the request; nil: there is none, or nobody wants it

	mu      sync.Mutex
	stage   stage
	over    error // why nothing is to go on; nil: it may
	left    bool  // the client has
	moved   bool  // the term has ended before the backend was reached
	backend aborter
}

// stage is how far an exchange has come, as to what severing it means.
type stage uint8

const (
	// idle: there is no request, or its answer is complete.
	idle stage = iota
	// waiting: no backend has been reached; another may be.
	waiting
	// reached: a backend has the request, or a part of it.
	reached
)

// aborter is a backend's side of a request.
type aborter interface {
	Abort()
	SetDeadline(time.Time) error
}

// deadlines are nanoseconds of the server's clock, 0 for none. They are set by whoever
// is about to wait, and kept by the server's sweep, so that no timer is set for a
// request.
type deadlines struct {
	clientBy, backendBy, totalBy atomic.Int64
	expired                      atomic.Int32
}

// What has expired.
const (
	notExpired int32 = iota
	clientExpired
	backendExpired
)

var errAnswer = errors.New("the backend's answer is not valid HTTP")

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

func (x *exchange) init(s *Server, c client) {
	x.server, x.client = s, c
	x.claim.Sever = x.Sever
	x.gone = make(chan struct{})
	x.uploaded = make(chan error, 1)
}

// after is a deadline d from now. The clock is that of the last sweep.
func (s *Server) after(d time.Duration) int64 {
	if d <= 0 {
		return 0
	}
	return s.clock.Load() + int64(d)
}

// expireAt is the sweep's look at the exchange. Its server's lock is held.
func (x *exchange) expireAt(now int64) {
	past := func(by *atomic.Int64) bool {
		at := by.Load()
		return at != 0 && at < now
	}
	switch {
	case past(&x.clientBy):
		if x.expired.CompareAndSwap(notExpired, clientExpired) {
			x.client.expire()
		}
	case past(&x.backendBy), past(&x.totalBy):
		if x.expired.CompareAndSwap(notExpired, backendExpired) {
			x.mu.Lock()
			defer x.mu.Unlock()
			if x.backend != nil {
				x.backend.SetDeadline(longAgo)
			}
		}
	}
}

// Sever is what the end of the request's term does: it ends the exchange on both
// sides, now. If no backend has been reached, the request goes to the next term, or is
// refused by it; if the answer is complete, there is nothing to end.
//
// Here and elsewhere the lock is held while the backend is aborted, so that it cannot
// be somebody else's by then.
func (x *exchange) Sever(cause error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case x.stage == idle:
	case x.stage == waiting && bridge.ReasonFor(cause) != bridge.Killed:
		x.moved = true
	default:
		x.breakOff(cause)
	}
}

// terminate ends the exchange and its client's connection, whatever they are at.
func (x *exchange) terminate(cause error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.breakOff(cause)
}

// breakOff is called with the lock held.
func (x *exchange) breakOff(cause error) {
	if x.over == nil {
		x.over = cause
	}
	x.client.abort()
	if x.backend != nil {
		x.backend.Abort()
	}
}

// clientLeft ends the backend's side of a request that nobody waits for any more.
func (x *exchange) clientLeft() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.left {
		return
	}
	x.left = true
	close(x.gone)
	if x.backend != nil {
		x.backend.Abort()
	}
}

// reach notes which backend is to be aborted; it returns why it must not be reached
// any more.
func (x *exchange) reach(b aborter) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case x.over != nil:
		return x.over
	case x.left:
		return errClientLeft
	case x.moved:
		return errMoved
	case x.expired.Load() != notExpired:
		return os.ErrDeadlineExceeded
	}
	x.backend, x.stage = b, reached
	return nil
}

var (
	errClientLeft = errors.New("the client has left")
	errMoved      = errors.New("the backend's term has ended")
)

// ended returns why the exchange must not go on, nil if it may.
func (x *exchange) ended() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.over == nil && x.left {
		return errClientLeft
	}
	return x.over
}

// let forgets the backend, which is about to be used by somebody else, or closed. It
// returns whether the backend has been aborted.
func (x *exchange) let(next stage) (aborted bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.backend, x.stage = nil, next
	return x.over != nil || x.left
}

// overtaken tells whether the term has ended before the backend was reached, and
// makes that forgotten.
func (x *exchange) overtaken() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	moved := x.moved
	x.moved, x.stage = false, waiting
	return moved
}

// find finds the host that a request is for, and returns why the request is refused
// if it is: then there is no target, or the host does not want it. room is for the
// host's name.
func (x *exchange) find(r *h1.Request, room []byte) (why refusal, found bool) {
	x.target = nil
	key, ok := route.Key(room, r.Authority)
	if !ok {
		why = refusal{http.StatusBadRequest, "host"}
		x.blame(&x.server.refusals, why.reason, nil)
		return why, false
	}
	if x.key = key; !x.locate() {
		why = unknownHost
		if !x.server.o.Bridge.Complete() {
			why = refusal{http.StatusServiceUnavailable, "no_table"}
		}
		x.blame(&x.server.refusals, why.reason, nil)
		return why, false
	}
	if limit := x.server.o.MaxBody; limit > 0 && r.Framing == h1.Length && r.Length > limit {
		why = refusal{h1.ErrBodyLong.Status, h1.ErrBodyLong.Reason}
		x.blame(&x.target.stats.refusals, why.reason, h1.ErrBodyLong)
		return why, false
	}
	return refusal{}, true
}

// locate finds the host of the request's key, and returns false if there is none.
func (x *exchange) locate() bool {
	h := x.server.o.Bridge.Lookup(x.key)
	if h == nil {
		return false
	}
	x.host, x.target = h, x.server.o.Upstream.target(h)
	if x.record != nil {
		x.record.Host = h.Name()
	}
	return true
}

// run takes the request to a backend and the answer back, and returns the answer's
// status: 0 if the client has had none. began is when the head was whole.
func (x *exchange) run(began time.Time) (status int) {
	x.target.stats.earn()
	if total := x.target.options.TotalTimeout; total > 0 {
		x.totalBy.Store(x.server.after(total))
	}
	x.sent.Store(false)
	x.whole.Store(false)
	x.uploadErr = nil
	// A backend that was too slow was that of the request before.
	x.expired.CompareAndSwap(backendExpired, notExpired)
	status = x.attempts(began)
	x.clientBy.Store(0)
	x.backendBy.Store(0)
	x.totalBy.Store(0)
	x.claim.Release()
	return status
}

// attempts tries backends until one has answered or no more may be tried. A term that
// ends before its backend is reached costs no attempt.
func (x *exchange) attempts(began time.Time) (status int) {
	x.overtaken()
	for attempt := 0; ; {
		if err := x.claimBackend(began); err != nil {
			return x.refuseFor(err)
		}
		x.attempted()
		o := x.once(attempt > 0)
		x.asked(o)
		if o.status != 0 {
			return o.status
		}
		// The term's end breaks off a dial a moment before it tells the claim.
		over := x.claim.Over()
		x.claim.Retry()
		switch {
		case (x.overtaken() || over) && !o.reached:
			continue
		case !x.again(attempt, o) && !x.held(began, o):
			return x.refuseFor(o.err)
		}
		attempt++
		x.target.stats.retries.Add(1)
	}
}

// claimBackend claims a backend, and waits for one if the host holds clients. A host
// that has left the table meanwhile is looked for again: it may be another one now, or a
// wildcard stands for it.
func (x *exchange) claimBackend(began time.Time) error {
	for {
		err := x.host.Claim(&x.claim, x.req.sticky)
		if err != nil && bridge.ReasonFor(err) == bridge.NoBackend {
			if err = x.host.Await(x.gone, began, 0); err == nil {
				continue
			}
		}
		if err == nil || bridge.ReasonFor(err) != bridge.NoHost || !x.locate() {
			return err
		}
	}
}

// dialAgain is how long a client that is held waits until a backend that could not be
// dialed is dialed again.
const dialAgain = 50 * time.Millisecond

// held waits if a backend could not be dialed and the host holds clients, and tells
// whether it is worth trying again.
func (x *exchange) held(began time.Time, o outcome) bool {
	return !o.reached && x.host.Holds() && x.ended() == nil && x.host.Await(x.gone, began, dialAgain) == nil
}

// outcome is what came of one attempt.
type outcome struct {
	// status is that of the answer that was begun; 0: none was.
	status int
	// err is why there was none. If a status is set it has been dealt with.
	err error
	// reached: something of the request may have come to the backend.
	reached bool
}

// again decides whether the request may be tried once more: if nothing of it can have
// reached a backend, or if the method is idempotent and it can be sent again whole
// (RFC 9110, section 9.2.2). An answer that is not valid is an answer: to ask again would
// be to have each of them asked for twice.
func (x *exchange) again(attempt int, o outcome) bool {
	var bad *h1.Error
	switch {
	case attempt >= x.target.options.Retries, x.ended() != nil, x.expired.Load() != notExpired:
		return false
	case x.sent.Load(), o.reached && !x.req.idempotent:
		return false
	case errors.As(o.err, &bad), errors.Is(o.err, errAnswer):
		return false
	}
	return !o.reached || x.target.stats.spend()
}

// once makes one attempt.
func (x *exchange) once(fresh bool) outcome {
	if x.target.options.Version == H2C {
		return x.onceH2()
	}
	proxied := x.host.SendProxy() != "" && x.host.SendProxy() != bridge.ProxyOff
	up, err := x.server.o.Upstream.connect(&x.claim, proxied, fresh)
	if err != nil {
		x.claim.Suspect(err)
		return outcome{err: err}
	}
	if err := x.reach(up.conn); err != nil {
		up.conn.Reset()
		return outcome{err: err}
	}
	o := x.converse(up)
	x.endUpload(up)
	x.returnBuffer()
	return o
}

// converse sends the request and passes the answer on.
func (x *exchange) converse(up *upstream) outcome {
	o := outcome{}
	head, err := x.announced(up)
	if err == nil {
		var n int
		n, err = up.conn.Write(head)
		o.reached = n > 0
	}
	if err != nil {
		return x.broken(up, o, err)
	}
	x.backendBy.Store(x.server.after(x.target.options.HeadTimeout))
	if x.req.body {
		x.uploading = true
		go x.upload(up.conn)
	}
	return x.answer(up, o)
}

// announced is the head with the PROXY header before it, if the backend wants one.
func (x *exchange) announced(up *upstream) ([]byte, error) {
	if up.pool != nil {
		return x.req.head, nil
	}
	source, destination := x.client.ends()
	header, err := x.host.SendProxy().Header(source, destination)
	return append(header, x.req.head...), err
}

// broken is the end of an attempt whose connection failed before there was an answer.
func (x *exchange) broken(up *upstream, o outcome, err error) outcome {
	x.let(waiting)
	up.conn.Reset()
	x.endUpload(up)
	switch why := x.ended(); {
	case why != nil:
		err = why
	case x.uploadErr != nil && !errors.Is(x.uploadErr, errBackendWrite):
		err = x.uploadErr
	case !up.reused && x.expired.Load() == notExpired:
		// A connection that had been idle may end at any time, for no reason at all.
		x.claim.Suspect(err)
	}
	o.err = err
	return o
}

// answer reads the answer and passes it on.
func (x *exchange) answer(up *upstream, o outcome) outcome {
	for informed := 0; ; informed++ {
		if err := x.readHead(up); err != nil {
			return x.broken(up, o, err)
		}
		if x.res.Status >= 200 {
			break
		}
		if x.res.Status == 101 {
			return x.upgrade(up, o)
		}
		if informed == maxInformed {
			return x.broken(up, o, errAnswer)
		}
		if err := x.client.inform(&x.res); err != nil {
			x.clientLeft()
			return x.broken(up, o, errClientLeft)
		}
	}
	o.status = x.res.Status
	x.backendBy.Store(x.server.after(x.target.options.Silence))
	x.clientBy.Store(x.server.after(x.server.o.Body))
	x.broke = false
	err := x.client.begin(&x.res)
	if err == nil {
		err = x.passBody(up)
	}
	aborted := x.let(idle)
	if err != nil {
		// Before the client is cut off, which looks as if it had left.
		x.unfinished(err)
		// The client must see that this is not the whole answer.
		x.client.abort()
		up.conn.Reset()
		return o
	}
	if !x.endUpload(up) || !x.res.KeepAlive || len(x.unread) > 0 || x.expired.Load() != notExpired || aborted {
		up.conn.Close()
		return o
	}
	x.server.o.Upstream.keep(up, &x.target.options)
	return o
}

// unfinished counts an answer that was broken off, and suspects the backend if it was
// the backend that did.
func (x *exchange) unfinished(err error) {
	reason := string(bridge.ClientGone)
	switch why := x.ended(); {
	case errors.Is(why, errClientLeft):
	case why != nil:
		reason, err = string(bridge.ReasonFor(why)), why
	case x.expired.Load() == clientExpired:
		reason = "client_timeout"
	case x.expired.Load() == backendExpired:
		reason = "backend_timeout"
	case x.broke:
		reason = "answer_broken"
		x.claim.Suspect(err)
	}
	x.blame(&x.target.stats.refusals, reason, err)
}

// maxInformed is how many interim answers are passed on.
const maxInformed = 10

// readHead reads the head of an answer, and leaves what comes behind it unread.
func (x *exchange) readHead(up *upstream) error {
	scanner := h1.Scanner{Response: true}
	for {
		if len(x.unread) > 0 {
			n, bad := scanner.Scan(x.unread, x.target.options.Limits)
			if bad != nil {
				return bad
			}
			if n > 0 {
				head := x.unread[:n]
				x.unread = x.unread[n:]
				if bad := x.res.Parse(head, x.target.options.Limits, x.req.toHEAD); bad != nil {
					return bad
				}
				return nil
			}
		}
		if err := x.readMore(up); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
}

// readMore adds to unread what comes from the backend.
func (x *exchange) readMore(up *upstream) error {
	if len(x.unread) == 0 {
		n, err := up.conn.ReadLent(x)
		if err != nil {
			return err
		}
		x.unread = (*x.buffer)[:n]
		return nil
	}
	b := *x.buffer
	have := len(x.unread)
	at := cap(b) - cap(x.unread) // where unread begins
	if at+have == len(b) {
		if at == 0 {
			grown := make([]byte, 2*len(b))
			copy(grown, b)
			x.buffer, b = &grown, grown
		} else {
			copy(b, x.unread)
			at = 0
		}
	}
	n, err := up.conn.Read(b[at+have:])
	x.unread = b[at : at+have+n]
	if n > 0 {
		return nil
	}
	return err
}

// Lend and Return are for [relay.Conn.ReadLent].
func (x *exchange) Lend() []byte {
	if x.buffer == nil {
		x.buffer = buffers.Get().(*[]byte)
	}
	return *x.buffer
}

// Return gives the buffer back.
func (x *exchange) Return() { x.returnBuffer() }

// bufferSize is how much of an answer is read at once.
const bufferSize = 64 << 10

var buffers = sync.Pool{New: func() any {
	b := make([]byte, bufferSize)
	return &b
}}

func (x *exchange) returnBuffer() {
	if x.buffer != nil && len(*x.buffer) == bufferSize {
		buffers.Put(x.buffer)
	}
	x.buffer, x.unread = nil, nil
}

// passBody passes the body of the answer on, piece by piece as it comes.
func (x *exchange) passBody(up *upstream) error {
	switch x.res.Framing {
	case h1.Length:
		if err := x.passLength(up, x.res.Length); err != nil {
			return err
		}
	case h1.Chunked:
		if err := x.passChunks(up); err != nil {
			return err
		}
	case h1.UntilClose:
		if err := x.passAll(up); err != nil {
			return err
		}
	}
	var trailers []h1.Field
	if x.res.Framing == h1.Chunked {
		trailers = x.chunks.Trailers()
	}
	return x.client.end(trailers)
}

func (x *exchange) passLength(up *upstream, left int64) error {
	for left > 0 {
		if len(x.unread) == 0 {
			if err := x.moreBody(up); err != nil {
				return err
			}
		}
		piece := x.unread[:min(int64(len(x.unread)), left)]
		x.unread = x.unread[len(piece):]
		left -= int64(len(piece))
		if err := x.client.write(piece); err != nil {
			return err
		}
	}
	return nil
}

func (x *exchange) passChunks(up *upstream) error {
	x.chunks = h1.Chunks{}
	for {
		for len(x.unread) > 0 {
			data, n, done, bad := x.chunks.Next(x.unread)
			if bad != nil {
				x.broke = true
				return bad
			}
			x.unread = x.unread[n:]
			if len(data) > 0 {
				if err := x.client.write(data); err != nil {
					return err
				}
			}
			if done {
				return nil
			}
		}
		if err := x.moreBody(up); err != nil {
			return err
		}
	}
}

func (x *exchange) passAll(up *upstream) error {
	for {
		if len(x.unread) > 0 {
			if err := x.client.write(x.unread); err != nil {
				return err
			}
			x.unread = nil
		}
		switch err := x.moreBody(up); {
		case err == io.ErrUnexpectedEOF:
			return nil
		case err != nil:
			return err
		}
	}
}

// moreBody sends what the client has not been sent yet, and reads on.
func (x *exchange) moreBody(up *upstream) error {
	if err := x.client.flush(); err != nil {
		return err
	}
	x.clientBy.Store(0)
	if silence := x.target.options.Silence; silence > 0 {
		x.backendBy.Store(x.server.after(silence))
	}
	x.unread = nil
	n, err := up.conn.ReadLent(x)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		x.broke = true
		return err
	}
	x.unread = (*x.buffer)[:n]
	x.clientBy.Store(x.server.after(x.server.o.Body))
	return nil
}

// upload passes the request's body on while the answer is waited for.
func (x *exchange) upload(to relay.Conn) {
	err := x.passRequest(to)
	x.clientBy.Store(0)
	if err != nil && !errors.Is(err, errBackendWrite) {
		// Nobody will answer half a request.
		to.Abort()
	}
	x.uploaded <- err
}

var errBackendWrite = errors.New("writing to the backend")

func (x *exchange) passRequest(to relay.Conn) error {
	for {
		x.clientBy.Store(x.server.after(x.server.o.Body))
		p, done, err := x.client.next()
		x.clientBy.Store(0)
		if err != nil {
			return err
		}
		x.sent.Store(true)
		x.whole.Store(done)
		if x.req.chunked {
			p = x.frame(p, done)
		}
		if len(p) > 0 {
			if _, err := to.Write(p); err != nil {
				return errBackendWrite
			}
			x.backendBy.Store(x.server.after(x.target.options.HeadTimeout))
		}
		if done {
			return nil
		}
	}
}

// frame is p as a chunk, with the last chunk behind it if that was all.
func (x *exchange) frame(p []byte, done bool) []byte {
	x.framed = x.framed[:0]
	if len(p) > 0 {
		x.framed = h1.AppendChunk(x.framed, len(p))
		x.framed = append(append(x.framed, p...), h1.CRLF...)
	}
	if done {
		x.framed = h1.AppendLastChunk(x.framed, x.client.trailers())
	}
	return x.framed
}

// endUpload ends an upload and says whether the whole body was passed on. Calling it
// again does nothing.
func (x *exchange) endUpload(up *upstream) (whole bool) {
	if !x.uploading {
		return x.uploadErr == nil
	}
	x.uploading = false
	if x.whole.Load() {
		// It is about to end, unless the backend takes nothing any more.
		up.conn.SetWriteDeadline(time.Now().Add(lastWrite))
		x.uploadErr = <-x.uploaded
		up.conn.SetWriteDeadline(time.Time{})
		return x.uploadErr == nil
	}
	select {
	case x.uploadErr = <-x.uploaded:
	default:
		x.client.stopBody()
		// What was not read yet is lost.
		x.sent.Store(true)
		up.conn.Abort()
		x.uploadErr = <-x.uploaded
		if x.uploadErr == nil || isTimeout(x.uploadErr) {
			// It was stopped, which is no fault of the client's.
			x.uploadErr = errBackendWrite
		}
	}
	return x.uploadErr == nil
}

// lastWrite is how long a backend that has answered may take to take the last of the
// request.
const lastWrite = 100 * time.Millisecond

// upgrade makes a session of an exchange whose backend has switched protocols.
func (x *exchange) upgrade(up *upstream, o outcome) outcome {
	if x.req.webSocket == nil || !x.res.Answers(x.req.webSocket) {
		return x.broken(up, o, errAnswer)
	}
	o.status = x.res.Status
	x.let(idle)
	if err := x.client.upgrade(up, &x.res, x.unread); err != nil {
		x.blame(&x.target.stats.refusals, string(bridge.ReasonFor(err)), err)
		up.conn.Reset()
		x.client.abort()
	}
	return o
}

// isTimeout: a deadline of ours has passed.
func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
