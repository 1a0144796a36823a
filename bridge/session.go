package bridge

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime/debug"
	"strconv"
	"sync"
	"syscall"
	"time"

	"switchboard/bridge/relay"
)

// session is one connection from accept to its record: first on its way to a
// backend, then as the owner of a relayed pair. There may be very many.
type session struct {
	shared   *shared
	host     *Host // nil until it is known
	term     *term // nil until it has one
	door     *door // of the listener
	id       uint64
	client   string // its address: what PROXY said, if it was believed
	began    time.Time
	opening  sync.Once
	inside   bool // it has a place among the limits of the door
	protocol spoken
}

// spoken is a Protocol that a session may have, in a byte.
type spoken uint8

const (
	speaksTCP spoken = iota
	speaksTLS
	speaksWebSocket
)

func (s spoken) protocol() Protocol {
	return [...]Protocol{speaksTCP: TCP, speaksTLS: TLS, speaksWebSocket: WebSocket}[s]
}

// Take takes a connection to a session on the host; see [Handler]. The engine does
// that if it can, and whatever else there is to do is done in a goroutine.
func (h *Host) Take(in *Inbound) {
	s := h.newSession(in)
	if !in.door.proxy.expected() && h.begin(in, s) {
		return
	}
	if !h.lobby.serve(func() { s.serve(in, h.stopping, h.join) }) {
		s.refuse(in.client, errShutdown)
	}
}

// TurnAway refuses a connection that there is no room for; see [Handler].
func (h *Host) TurnAway(in *Inbound) { h.newSession(in).refuse(in.client, errOverLimit) }

func (h *Host) newSession(in *Inbound) *session {
	s := h.shared.newSession(in)
	s.host = h
	return s
}

func (sh *shared) newSession(in *Inbound) *session {
	return &session{
		shared: sh, door: in.door, inside: in.inside, id: sh.ids.Add(1),
		client: in.client.RemoteAddr().String(), began: in.began,
	}
}

// record is as much of the session's story as there is before its end. It is made when
// it is asked for: there may be very many sessions.
func (s *session) record() Record {
	r := Record{ID: strconv.FormatUint(s.id, 10), Protocol: s.protocol.protocol(), Listener: s.door.name, Client: s.client, Began: s.began}
	if s.host != nil {
		r.Host = s.host.name
	}
	if s.term != nil {
		r.Backend, r.Origin, r.Epoch = s.term.backend.Name, s.term.backend.Origin, s.term.epoch
	}
	return r
}

// serve learns who the client is and takes it to its session by way of join, or
// refuses it. A defect on this path costs one connection, not the router.
func (s *session) serve(in *Inbound, stopping context.Context, join func(in *Inbound, s *session) error) {
	defer func() {
		if p := recover(); p != nil {
			s.shared.panics.Add(1)
			s.shared.log.Error("serving a client panicked", "host", s.record().Host, "client", s.client, "panic", p, "stack", string(debug.Stack()))
			s.refuse(in.client, fmt.Errorf("%w: %v", errPanicked, p))
		}
	}()
	if err := in.Introduce(stopping); err != nil {
		s.refuse(in.client, err)
		return
	}
	if in.door.proxy.expected() {
		s.client = in.Source().String()
	}
	if err := join(in, s); err != nil {
		s.refuse(in.client, err)
	}
}

// quest is how far a client has come in its search for a backend.
type quest struct {
	pick      choice
	pause     time.Duration // before it is dialed for again
	overtaken int           // dials that a change of the active backend was faster than
}

func (h *Host) newQuest(in *Inbound) *quest {
	return &quest{pick: h.choice(in), pause: minPause}
}

// join makes a session of the connection, or says why not. A client without a
// session has had no byte read but its PROXY header, so it can be taken to
// another backend: once if its dial was overtaken by a change of the active
// backend, and as long as the host holds clients if there is none to dial.
func (h *Host) join(in *Inbound, s *session) error { return h.seek(h.newQuest(in), in, s) }

func (h *Host) seek(q *quest, in *Inbound, s *session) error {
	for {
		a := h.admission.Load()
		switch {
		case errors.Is(a.refusal, errNoBackend):
			if err := h.park(a, in.client, in.began.Add(a.hold)); err != nil {
				return err
			}
			continue
		case a.refusal != nil:
			return a.refusal
		}
		t := a.pick(q.pick)
		err := h.attempt(t, in, s)
		if err == nil {
			return nil
		}
		if err := h.failed(q, a, t, in, err); err != nil {
			return err
		}
	}
}

// failed is told that the client could not be taken to a term, and why. It returns nil
// when it is time to try another, or the same again, and else what the client is
// refused with.
func (h *Host) failed(q *quest, a *admission, t *term, in *Inbound, err error) error {
	if ended := context.Cause(t.ctx); ended != nil {
		// The loop is replacing this admission now.
		if q.overtaken++; q.overtaken > 1 && a.hold == 0 {
			return ended
		}
		select {
		case <-a.ctx.Done():
			return nil
		case <-h.stopping.Done():
			return errShutdown
		}
	}
	if errors.Is(err, errTrafficOff) {
		return err
	}
	h.suspect(t, "dialing", err)
	if q.pick.tried = append(q.pick.tried, t); h.balances() && len(q.pick.tried) <= dialRetries {
		return nil
	}
	if a.hold == 0 {
		return err
	}
	until := in.began.Add(a.hold)
	again := time.Now().Add(q.pause)
	q.pause = min(2*q.pause, maxPause)
	switch held := h.park(a, in.client, earlier(until, again)); {
	case errors.Is(held, errHoldExpiry) && again.Before(until):
	case errors.Is(held, errHoldExpiry):
		return err
	case held != nil:
		return held
	}
	return nil
}

// begin has the engine dial and open the session, and returns false if that is not to
// be done without a goroutine. It does not wait. If it comes to nothing, what a client
// can be offered then is offered in a goroutine.
func (h *Host) begin(in *Inbound, s *session) bool {
	a := h.admission.Load()
	if a.refusal != nil || h.options.SendProxy.sent() {
		return false
	}
	t := a.pick(h.choice(in))
	starter, ok := t.set.(relay.Starter)
	if !ok || !t.address.IsValid() {
		return false
	}
	select {
	case h.dialing <- struct{}{}:
	default:
		return false
	}
	if !h.lobby.enter() {
		<-h.dialing
		return false
	}
	s.enter(t)
	err := starter.Start(s.pair(in.client, in.rest), t.address, h.options.DialTimeout, func(_ relay.Session, err error) {
		<-h.dialing
		defer h.lobby.leave()
		if err == nil {
			s.opened()
			return
		}
		s.leave()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = ErrDialTimeout
		}
		join := func(in *Inbound, s *session) error {
			q := h.newQuest(in)
			if err := h.failed(q, a, t, in, err); err != nil {
				return err
			}
			return h.seek(q, in, s)
		}
		if !h.lobby.serve(func() { s.serve(in, h.stopping, join) }) {
			s.refuse(in.client, errShutdown)
		}
	})
	if err != nil {
		<-h.dialing
		h.lobby.leave()
		s.leave()
		return false
	}
	return true
}

// dialRetries is how many more backends a client of a host that balances is taken
// to when one could not be dialed. Nothing of the client's has reached any.
const dialRetries = 1

// choice is what a client without a request is chosen a backend by: its address.
func (h *Host) choice(in *Inbound) choice {
	c := choice{random: rand.Uint64()}
	if _, sticky := h.StickyBy(); !sticky {
		return c
	}
	if from, ok := addrPort(in.Source()); ok {
		c.key = from.Addr().AppendTo(nil)
	}
	return c
}

// A client that is held because its dial failed is not left to the next epoch
// alone: the backend may have been slow for a moment only, and then there is none.
const (
	minPause = 50 * time.Millisecond
	maxPause = time.Second
)

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// park waits until the admission is superseded; nil means that it was.
func (h *Host) park(a *admission, client relay.Conn, until time.Time) error {
	left := time.Until(until)
	if left <= 0 {
		return a.expired()
	}
	if h.parked.Add(1) > int64(h.options.HoldMax) {
		h.parked.Add(-1)
		return errHeldFull
	}
	defer h.parked.Add(-1)
	ctx, cancel := context.WithTimeoutCause(a.ctx, left, errHoldExpiry)
	defer cancel()
	switch err := client.AwaitGone(ctx); {
	case err == nil:
		return errClientGone
	case errors.Is(err, errMoved):
		return nil
	case errors.Is(err, errHoldExpiry):
		return a.expired()
	default:
		return err
	}
}

// expired is what a client is told that may not wait, or not any longer.
func (a *admission) expired() error {
	if a.hold == 0 {
		return a.refusal
	}
	return errHoldExpiry
}

// attempt dials the term's backend and opens a session in it.
func (h *Host) attempt(t *term, in *Inbound, s *session) error {
	backend, err := h.dial(t, h.shared.engine)
	if err != nil {
		return err
	}
	first := in.rest
	headers := 0
	if h.options.SendProxy.sent() {
		header, err := h.options.SendProxy.Header(in.Source(), in.Destination())
		if err != nil {
			backend.Close()
			return err
		}
		first, headers = append(header, in.rest...), len(header)
	}
	s.enter(t)
	pair := s.pair(in.client, first)
	pair.Backend, pair.Headers = backend, headers
	if _, err = t.set.Open(pair); err != nil {
		backend.Reset()
		s.leave()
		return err
	}
	s.opened()
	return nil
}

// enter puts s down for a term; leave takes that back.
func (s *session) enter(t *term) {
	s.term = t
	s.shared.open.Add(1)
}

func (s *session) leave() {
	s.shared.leave()
	s.term = nil
}

// pair is what becomes of s, but for its backend. first is what the client has said.
func (s *session) pair(client relay.Conn, first []byte) relay.Pair {
	return relay.Pair{
		Client: client, ToBackend: first, Limits: s.host.options.Limits, Owner: s,
	}
}

// opened tells that the session is open: from the goroutine that opened it, or
// from its end if that comes first, which it may as soon as it is open.
func (s *session) opened() {
	if s.shared.opened != nil {
		s.opening.Do(func() { s.shared.opened(s.record()) })
	}
}

// dial connects to the term's backend by an engine, for as long as the term lasts.
func (h *Host) dial(t *term, engine relay.Engine) (relay.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(t.ctx, h.options.DialTimeout, ErrDialTimeout)
	defer cancel()
	select {
	case h.dialing <- struct{}{}:
		defer func() { <-h.dialing }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	conn, err := h.shared.dial(ctx, engine, t.backend.Address)
	if err == nil {
		return conn, nil
	}
	if cause := context.Cause(ctx); cause != nil {
		return nil, cause
	}
	return nil, err
}

// dial connects to the first of an address's addresses that can be connected to.
func (sh *shared) dial(ctx context.Context, engine relay.Engine, address string) (relay.Conn, error) {
	if _, err := netip.ParseAddrPort(address); err == nil {
		return engine.Dial(ctx, address)
	}
	addresses, err := sh.resolve(ctx, address)
	if err != nil {
		return nil, err
	}
	for i, a := range addresses {
		var conn relay.Conn
		if conn, err = dialOne(ctx, engine, a, len(addresses)-i); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

// dialOne gives one of a name's addresses its share of the time that is left.
func dialOne(ctx context.Context, engine relay.Engine, address string, share int) (relay.Conn, error) {
	if deadline, ok := ctx.Deadline(); ok && share > 1 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, time.Until(deadline)/time.Duration(share), ErrDialTimeout)
		defer cancel()
	}
	return engine.Dial(ctx, address)
}

// suspect gives the monitor a hint about a backend that has failed, in words what
// with, and lets it rest, unless the fault is ours.
func (h *Host) suspect(t *term, what string, err error) {
	if Shortage(err) {
		return
	}
	t.rest(h)
	h.shared.hints(Hint{
		Host: h.name, Backend: t.backend.Name,
		Refused: errors.Is(err, syscall.ECONNREFUSED),
		Detail:  what + ": " + plain(err),
	})
}

// refuse resets a client that has no session and makes its record.
func (s *session) refuse(client relay.Conn, cause error) {
	client.Reset()
	r := s.record()
	r.Reason, r.Err = ReasonFor(cause), cause
	s.end(r)
}

// HalfClosed is the end of one direction of a session that goes on in the other: a
// server that was killed looks so from here, until its client has closed too.
func (s *session) HalfClosed(first relay.Side) {
	if first == relay.Backend {
		s.host.lost(s.term, nil)
	}
}

// Done is the end of a session that was open.
func (s *session) Done(o relay.Outcome) {
	s.opened()
	r := s.record()
	r.ToBackend, r.ToClient = o.ToBackend, o.ToClient
	r.Reason, r.Err = reasonOf(o), o.Err
	s.shared.leave()
	if o.First == relay.Backend && o.Err != nil {
		s.host.lost(s.term, o.Err)
	}
	s.end(r)
}

func (s *session) info(r relay.Session) SessionInfo {
	toBackend, toClient := r.Counts()
	is := s.record()
	return SessionInfo{
		ID: is.ID, Protocol: is.Protocol, Host: is.Host, Listener: is.Listener, Backend: is.Backend,
		Client: is.Client, Since: is.Began, ToBackend: toBackend, ToClient: toClient,
	}
}

func (s *session) end(r Record) {
	if s.inside {
		s.door.leave()
	}
	r.Took = s.shared.clock.Now().Sub(s.began)
	s.shared.records(r)
}

// lost decides whether the end of a session by its backend deserves a hint: a
// reset does, and so does a burst of orderly ends, which is how a server that was
// killed looks from here. One client's goodbye does not, unless it was the only
// one.
func (h *Host) lost(t *term, err error) {
	if t.ctx.Err() != nil {
		return
	}
	detail := "sessions closed by the backend"
	if err != nil {
		detail = "session lost: " + plain(err)
	} else if !h.fins.reached(time.Now(), int64(t.set.Len())) {
		return
	}
	h.shared.hints(Hint{Host: h.name, Backend: t.backend.Name, Detail: detail})
}

const (
	burstWindow = 10 * time.Millisecond
	burstSize   = 3
)

// burst counts orderly ends in a short window.
type burst struct {
	mu    sync.Mutex
	began time.Time
	ends  int64
	open  int64 // when the window began
}

// reached counts one end and tells if there have been enough of them: burstSize,
// or every session there was.
func (b *burst) reached(now time.Time, open int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if now.Sub(b.began) > burstWindow {
		b.began, b.ends, b.open = now, 0, max(open, 1)
	}
	b.ends++
	return b.ends >= min(burstSize, b.open)
}

// plain is an error without the addresses and calls that Go's network errors
// carry.
func plain(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno.Error()
	}
	return err.Error()
}
