package bridge

import (
	"errors"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"switchboard/bridge/relay"
)

// Claim is a request in flight as a session of its host: it belongs to a term and
// is severed with it. A connection that carries one request after the other uses
// one Claim for all of them, with [Host.Claim] and [Claim.Release] around each.
// Nothing is allocated for that.
//
// The exported fields are set before the first [Host.Claim] and not changed while
// the claim is held.
type Claim struct {
	// Sever ends the request at once, on both sides, with a reset where the
	// connection is its alone. It is called at most once a claim, from any goroutine,
	// while a lock of the term is held: it must not block nor call anything of the
	// claim or its host. Required.
	Sever func(cause error)
	// Listener and Client are for [SessionInfo].
	Listener, Client string

	host  *Host
	term  *term
	tried []*term
	id    uint64
	since time.Time

	// Of the term's list of claims.
	prev, next *Claim
	member     bool
}

// Claim makes c a session of the host's: on its active backend, or on one that its
// policy chooses. key decides where the choice is sticky; nil: at random. Backends
// that c was [Claim.Retry]-ed away from are chosen only if there is no other. What
// it returns can be told apart by [ReasonFor].
func (h *Host) Claim(c *Claim, key []byte) error {
	for {
		a := h.admission.Load()
		if a.refusal != nil {
			return a.refusal
		}
		t := a.pick(choice{key: key, tried: c.tried, random: rand.Uint64()})
		if t == nil {
			return errNoBackend
		}
		// A term that is being ended takes claims until all dials have heard of it.
		if t.ctx.Err() == nil {
			if err := h.enter(t, c); err == nil || t.ctx.Err() == nil {
				return err
			}
		}
		if h.stopping.Err() != nil {
			return errShutdown
		}
		// The loop is replacing this admission now.
		select {
		case <-a.ctx.Done():
		case <-h.stopping.Done():
			return errShutdown
		}
	}
}

// enter makes c a session in t.
func (h *Host) enter(t *term, c *Claim) error {
	c.host, c.term = h, t
	c.id, c.since = h.shared.ids.Add(1), time.Now()
	h.shared.open.Add(1)
	err := t.claims.join(c)
	if err != nil {
		h.shared.leave()
		c.term = nil
	}
	return err
}

// Release ends the claim's session, and forgets which backends were tried. A claim
// that is not held may be released.
func (c *Claim) Release() {
	c.let()
	c.tried = c.tried[:0]
}

// Retry ends the claim's session and remembers its backend as tried: the next
// [Host.Claim] chooses another if there is one.
func (c *Claim) Retry() {
	if c.term != nil {
		c.tried = append(c.tried, c.term)
	}
	c.let()
}

func (c *Claim) let() {
	if c.term == nil {
		return
	}
	c.term.claims.leave(c)
	c.term = nil
	c.host.shared.leave()
}

// ID names the session, as [SessionInfo] does.
func (c *Claim) ID() string { return strconv.FormatUint(c.id, 10) }

// AppendID appends that to dst.
func (c *Claim) AppendID(dst []byte) []byte { return strconv.AppendUint(dst, c.id, 10) }

// NextID is an ID for what is no session but is recorded like one.
func (b *Bridge) NextID() uint64 { return b.shared.ids.Add(1) }

// Since is when the claim was made.
func (c *Claim) Since() time.Time { return c.since }

// Backend and Address are those of the backend that was claimed.
func (c *Claim) Backend() string { return c.term.backend.Name }

// Origin is the claimed backend's; see [route.Backend].
func (c *Claim) Origin() string { return c.term.backend.Origin }

// Address is the claimed backend's, as configured.
func (c *Claim) Address() string { return c.term.backend.Address }

// Dial connects to the claimed backend, for as long as its term lasts and within
// the host's dial timeout.
func (c *Claim) Dial() (relay.Conn, error) {
	return c.host.dial(c.term, c.host.shared.engine.ForRequests())
}

// Over tells whether the claimed backend's term has ended.
func (c *Claim) Over() bool { return c.term != nil && c.term.ctx.Err() != nil }

// Suspect is for a backend that could not be dialed or has broken a connection:
// the monitor is told to look, and others are chosen for a moment. An error that
// is no fault of the backend's is ignored.
func (c *Claim) Suspect(err error) {
	if c.term.ctx.Err() == nil {
		c.host.suspect(c.term, "request failed", err)
	}
}

// Upgrade makes a relayed session of a request whose both sides are to be bridged
// from now on, in the claim's term, and releases the claim. It takes in's place
// among the limits of its listener. If it fails, both sockets stay the caller's.
func (c *Claim) Upgrade(in *Inbound, p relay.Pair) error {
	h, t := c.host, c.term
	s := &session{
		shared: h.shared, host: h, term: t, door: in.door, inside: in.inside, id: c.id,
		client: c.Client, began: c.since, protocol: speaksWebSocket,
	}
	p.Limits, p.Owner = h.options.Limits, s
	h.shared.open.Add(1)
	// From here to Open it is in no list, so that nobody sees or severs it twice. If the
	// term ends meanwhile, it does not open.
	c.Release()
	if _, err := t.set.Open(p); err != nil {
		h.shared.leave()
		return err
	}
	in.inside = false
	s.opened()
	return nil
}

// Await waits until it is worth claiming again, for as long as the host holds
// clients, counted from since: until the host has a backend, or, after a backend that
// it has could not be dialed, until it has another or pause is over. gone ends it when
// the client has left.
func (h *Host) Await(gone <-chan struct{}, since time.Time, pause time.Duration) error {
	a := h.admission.Load()
	switch {
	case a.refusal == nil && pause == 0:
		return nil
	case a.refusal != nil && !errors.Is(a.refusal, errNoBackend):
		return a.refusal
	}
	left := time.Until(since.Add(a.hold))
	if a.hold == 0 || left <= 0 {
		return a.expired()
	}
	again := a.refusal == nil && pause < left
	if again {
		left = pause
	}
	if h.parked.Add(1) > int64(h.options.HoldMax) {
		h.parked.Add(-1)
		return errHeldFull
	}
	defer h.parked.Add(-1)
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-a.ctx.Done():
		if h.stopping.Err() != nil {
			return errShutdown
		}
		return nil
	case <-timer.C:
		if again {
			return nil
		}
		return errHoldExpiry
	case <-gone:
		return errClientGone
	}
}

// Holds tells whether clients may wait for a backend.
func (h *Host) Holds() bool { return h.admission.Load().hold > 0 }

// claims are the requests in flight of one term.
type claims struct {
	mu      sync.Mutex
	refused error
	ended   error
	first   *Claim
	n       int
}

func (f *claims) join(c *Claim) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended != nil {
		return f.ended
	}
	if f.refused != nil {
		return f.refused
	}
	c.prev, c.next, c.member = nil, f.first, true
	if f.first != nil {
		f.first.prev = c
	}
	f.first = c
	f.n++
	return nil
}

// leave takes c out, unless end has.
func (f *claims) leave(c *Claim) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c.member {
		f.unlink(c)
	}
}

func (f *claims) unlink(c *Claim) {
	if c.prev != nil {
		c.prev.next = c.next
	} else {
		f.first = c.next
	}
	if c.next != nil {
		c.next.prev = c.prev
	}
	c.prev, c.next, c.member = nil, nil, false
	f.n--
}

func (f *claims) refuse(cause error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refused = cause
}

// end severs every member and returns how many there were. A claim cannot leave,
// and so cannot be on another request, while it is severed: the lock is held.
func (f *claims) end(cause error) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = cause
	n := f.n
	for f.first != nil {
		c := f.first
		f.unlink(c)
		c.Sever(cause)
	}
	return n
}

func (f *claims) len() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.n
}

// each calls do for every member, with the lock held, until it returns false.
func (f *claims) each(do func(*Claim) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := f.first; c != nil; c = c.next {
		if !do(c) {
			return
		}
	}
}

// kill severs the request of that ID.
func (f *claims) kill(id string) (found bool) {
	f.each(func(c *Claim) bool {
		if found = c.ID() == id; found {
			f.unlink(c)
			c.Sever(errKilled)
		}
		return !found
	})
	return found
}

func (c *Claim) info() SessionInfo {
	return SessionInfo{
		ID: c.ID(), Protocol: HTTP, Host: c.host.name, Listener: c.Listener, Backend: c.term.backend.Name,
		Client: c.Client, Since: c.since,
	}
}
