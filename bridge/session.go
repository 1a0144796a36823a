package bridge

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"switchboard/bridge/relay"
)

// session is one connection from accept to its record: first on its way to a
// backend, then as the tag of a relayed pair.
type session struct {
	shared  *shared
	host    *Host      // nil until it is known
	term    *term      // nil until it has one
	budgets [2]*Budget // the listener's and the router's
	record  Record
	opening sync.Once
}

// Take takes a connection to a session on the host; see [Handler].
func (h *Host) Take(in *Inbound) {
	s := h.newSession(in)
	if !h.lobby.serve(func() { s.serve(in, h.stopping, h.join) }) {
		s.refuse(in.client, errShutdown)
	}
}

// TurnAway refuses a connection that there is no room for; see [Handler].
func (h *Host) TurnAway(in *Inbound) { h.newSession(in).refuse(in.client, errOverLimit) }

func (h *Host) newSession(in *Inbound) *session {
	s := h.shared.newSession(in)
	s.host, s.record.Host = h, h.name
	return s
}

func (sh *shared) newSession(in *Inbound) *session {
	return &session{shared: sh, budgets: in.budgets, record: Record{
		ID: sh.nextID(), Protocol: TCP, Listener: in.listener, Client: in.client.RemoteAddr().String(), Began: in.began,
	}}
}

// serve learns who the client is and takes it to its session by way of join, or
// refuses it. A defect on this path costs one connection, not the router.
func (s *session) serve(in *Inbound, stopping context.Context, join func(in *Inbound, s *session) error) {
	defer func() {
		if p := recover(); p != nil {
			s.shared.panics.Add(1)
			s.shared.log.Error("serving a client panicked", "host", s.record.Host, "client", s.record.Client, "panic", p, "stack", string(debug.Stack()))
			s.refuse(in.client, fmt.Errorf("%w: %v", errPanicked, p))
		}
	}()
	if err := in.Introduce(stopping); err != nil {
		s.refuse(in.client, err)
		return
	}
	if in.proxy.expected() {
		s.record.Client = in.source.String()
	}
	if err := join(in, s); err != nil {
		s.refuse(in.client, err)
	}
}

// join makes a session of the connection, or says why not. A client without a
// session has had no byte read but its PROXY header, so it can be taken to
// another backend: once if its dial was overtaken by a change of the active
// backend, and as long as the host holds clients if there is none to dial.
func (h *Host) join(in *Inbound, s *session) error {
	pause := minPause
	pick := h.choice(in)
	for overtaken := 0; ; {
		a := h.admission.Load()
		until := in.began.Add(a.hold)
		switch {
		case errors.Is(a.refusal, errNoBackend):
			if err := h.park(a, in.client, until); err != nil {
				return err
			}
			continue
		case a.refusal != nil:
			return a.refusal
		}
		t := a.pick(pick)
		err := h.attempt(t, in, s)
		if err == nil {
			return nil
		}
		if ended := context.Cause(t.ctx); ended != nil {
			// The loop is replacing this admission now.
			if overtaken++; overtaken > 1 && a.hold == 0 {
				return ended
			}
			select {
			case <-a.ctx.Done():
				continue
			case <-h.stopping.Done():
				return errShutdown
			}
		}
		if errors.Is(err, errTrafficOff) {
			return err
		}
		h.suspect(t, "dialing", err)
		if pick.tried = append(pick.tried, t); h.balances() && len(pick.tried) <= dialRetries {
			continue
		}
		if a.hold == 0 {
			return err
		}
		again := time.Now().Add(pause)
		pause = min(2*pause, maxPause)
		switch held := h.park(a, in.client, earlier(until, again)); {
		case errors.Is(held, errHoldExpiry) && again.Before(until):
		case errors.Is(held, errHoldExpiry):
			return err
		case held != nil:
			return held
		}
	}
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
	if from, ok := addrPort(in.source); ok {
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
	backend, err := h.dial(t)
	if err != nil {
		return err
	}
	header, err := h.options.SendProxy.Header(in.source, in.destination)
	if err != nil {
		backend.Close()
		return err
	}
	s.term = t
	s.record.Backend, s.record.Origin, s.record.Epoch = t.backend.Name, t.backend.Origin, t.epoch
	h.shared.open.Add(1)
	_, err = t.set.Open(relay.Pair{
		Client: in.client, Backend: backend,
		ToBackend: append(header, in.rest...), Headers: len(header),
		Limits:     h.options.Limits,
		HalfClosed: s.halfClosed,
		Done:       s.done,
		Tag:        s,
	})
	if err != nil {
		backend.Reset()
		s.shared.leave()
		s.term = nil
		s.record.Backend, s.record.Origin, s.record.Epoch = "", "", 0
		return err
	}
	s.opened()
	return nil
}

// opened tells that the session is open: from the goroutine that opened it, or
// from its end if that comes first, which it may as soon as it is open.
func (s *session) opened() {
	if s.shared.opened != nil {
		s.opening.Do(func() { s.shared.opened(s.record) })
	}
}

// dial connects to the term's backend, for as long as the term lasts.
func (h *Host) dial(t *term) (relay.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(t.ctx, h.options.DialTimeout, ErrDialTimeout)
	defer cancel()
	select {
	case h.dialing <- struct{}{}:
		defer func() { <-h.dialing }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	conn, err := h.shared.dial(ctx, t.backend.Address)
	if err == nil {
		return conn, nil
	}
	if cause := context.Cause(ctx); cause != nil {
		return nil, cause
	}
	return nil, err
}

// dial connects to the first of an address's addresses that can be connected to.
func (sh *shared) dial(ctx context.Context, address string) (relay.Conn, error) {
	addresses, err := sh.resolve(ctx, address)
	if err != nil {
		return nil, err
	}
	for i, a := range addresses {
		var conn relay.Conn
		if conn, err = sh.dialOne(ctx, a, len(addresses)-i); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

// dialOne gives one of a name's addresses its share of the time that is left.
func (sh *shared) dialOne(ctx context.Context, address string, share int) (relay.Conn, error) {
	if deadline, ok := ctx.Deadline(); ok && share > 1 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, time.Until(deadline)/time.Duration(share), ErrDialTimeout)
		defer cancel()
	}
	return sh.engine.Dial(ctx, address)
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
	s.record.Reason, s.record.Err = ReasonFor(cause), cause
	s.end()
}

// halfClosed is the end of one direction of a session that goes on in the other: a
// server that was killed looks so from here, until its client has closed too.
func (s *session) halfClosed(first relay.Side) {
	if first == relay.Backend {
		s.host.lost(s.term, nil)
	}
}

// done is the end of a session that was open.
func (s *session) done(o relay.Outcome) {
	s.opened()
	s.record.ToBackend, s.record.ToClient = o.ToBackend, o.ToClient
	s.record.Reason, s.record.Err = reasonOf(o), o.Err
	s.shared.leave()
	if o.First == relay.Backend && o.Err != nil {
		s.host.lost(s.term, o.Err)
	}
	s.end()
}

func (s *session) info(r relay.Session) SessionInfo {
	toBackend, toClient := r.Counts()
	return SessionInfo{
		ID: s.record.ID, Protocol: s.record.Protocol, Host: s.record.Host, Listener: s.record.Listener, Backend: s.record.Backend,
		Client: s.record.Client, Since: s.record.Began, ToBackend: toBackend, ToClient: toClient,
	}
}

func (s *session) end() {
	for _, b := range s.budgets {
		b.release()
	}
	s.record.Took = s.shared.clock.Now().Sub(s.record.Began)
	s.shared.records(s.record)
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
