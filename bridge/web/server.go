package web

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"switchboard/bridge"
	"switchboard/bridge/web/h1"
)

// Defaults of [Options].
const (
	DefaultHeadTimeout = 10 * time.Second
	DefaultIdleTimeout = 60 * time.Second
	DefaultBodyTimeout = 60 * time.Second
)

// Options describe a server to [New]: one HTTP listener's way of serving.
type Options struct {
	// Bridge has the hosts. Required.
	Bridge *bridge.Bridge
	// Upstream has the connections to backends, which servers may share. Required.
	Upstream *Upstream
	// TLS is what a listener of protocol https speaks, with certificates; nil: http.
	// Protocols to negotiate are the server's to fill in.
	TLS *tls.Config
	// Trusted are the networks whose X-Forwarded-* and Forwarded are believed.
	Trusted []netip.Prefix
	// Head is how long a client may take to send a head, and to shake hands under
	// TLS; Idle how long it may be silent between requests; Body how long it may be
	// silent within one, and how long it may take nothing of an answer. 0: the
	// defaults.
	Head, Idle, Body time.Duration
	// Limits bound heads; MaxBody a request's body in bytes, 0: no limit.
	Limits  h1.Limits
	MaxBody int64
	// Records is called with the record of every request when that has ended, from many
	// goroutines; it must not block, nor keep the record or what its slices are of. nil:
	// nobody, and then none is made.
	Records func(*Record)
	// Log is for changes of state; nil discards.
	Log *slog.Logger
}

// Server takes requests to hosts by their names. It is the front of listeners of
// protocol http or https. Make one with [New]; everything exported may be called from
// any goroutine.
type Server struct {
	o        Options
	log      *slog.Logger
	start    time.Time
	clock    atomic.Int64 // nanoseconds since start, as of the last sweep
	refusals reasons
	h2       *http2Front

	serving  sync.WaitGroup
	stopping atomic.Bool
	stopped  context.Context
	stop     context.CancelFunc

	mu     sync.Mutex
	closed bool
	conns  map[*conn]struct{}
}

// New returns a server and attaches it to its bridge.
func New(o Options) (*Server, error) {
	if o.Bridge == nil || o.Upstream == nil {
		return nil, errors.New("an HTTP server needs a bridge and an upstream")
	}
	o.Head = orDefault(o.Head, DefaultHeadTimeout)
	o.Idle = orDefault(o.Idle, DefaultIdleTimeout)
	o.Body = orDefault(o.Body, DefaultBodyTimeout)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{o: o, log: o.Log, start: time.Now(), conns: map[*conn]struct{}{}}
	s.stopped, s.stop = context.WithCancel(context.Background())
	s.h2 = newHTTP2Front(s)
	if o.TLS != nil {
		s.o.TLS = o.TLS.Clone()
		s.o.TLS.NextProtos = []string{"h2", "http/1.1"}
	}
	o.Bridge.Attach(s)
	return s, nil
}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return d
}

// Run keeps time for the connections until a signal comes: it ends those that are
// past a deadline. Connections are the bridge's to end, see [bridge.Front].
func (s *Server) Run(signals <-chan os.Signal, ready chan<- struct{}) error {
	ticks := time.NewTicker(s.tick())
	defer ticks.Stop()
	close(ready)
	for {
		select {
		case <-ticks.C:
			s.sweep()
		case <-signals:
			return nil
		}
	}
}

// tick is how often deadlines are looked at: a hundredth of the shortest, within
// reason.
func (s *Server) tick() time.Duration {
	shortest := min(s.o.Head, s.o.Idle, s.o.Body)
	return max(10*time.Millisecond, min(shortest/100, 250*time.Millisecond))
}

// sweep ends what is past a deadline, and sets the clock that deadlines are set by.
func (s *Server) sweep() {
	now := int64(time.Since(s.start))
	s.clock.Store(now)
	s.h2.sweep(now)
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.expireAt(now)
	}
}

// Take serves a connection; see [bridge.Handler].
func (s *Server) Take(in *bridge.Inbound) {
	c := newConn(s, in)
	if !s.enter(c) {
		in.Client().Reset()
		in.Release()
		return
	}
	go s.serve(c)
}

// TurnAway refuses a connection that there is no room for; see [bridge.Handler].
func (s *Server) TurnAway(in *bridge.Inbound) {
	s.refusals.add("over_limit")
	in.Client().Reset()
}

// Shut ends connections that are between requests, and those that are not when their
// answer is complete; see [bridge.Front].
func (s *Server) Shut() {
	s.stopping.Store(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.shut()
	}
	s.h2.shut()
}

// Finish ends all connections and returns when nothing of the server is left; see
// [bridge.Front]. The hosts have severed what was in flight before.
func (s *Server) Finish() {
	s.stopping.Store(true)
	s.h2.settle()
	s.stop()
	s.mu.Lock()
	s.closed = true
	for c := range s.conns {
		c.finish()
	}
	s.mu.Unlock()
	s.h2.finish()
	s.serving.Wait()
}

// Connections is how many client connections are open, not counting those that were
// upgraded and are sessions of their own.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// Refusals counts by reason the requests that were refused before a host was known.
func (s *Server) Refusals() map[string]int64 { return s.refusals.snapshot() }

// enter takes c in, unless the server is closed.
func (s *Server) enter(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.conns[c] = struct{}{}
	s.serving.Add(1)
	return true
}

func (s *Server) leave(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// serve is a connection's goroutine. A defect on its way costs one connection, not
// the router.
func (s *Server) serve(c *conn) {
	defer s.serving.Done()
	defer s.leave(c)
	defer func() {
		if p := recover(); p != nil {
			s.refusals.add("internal")
			s.log.Error("serving a client panicked", "listener", c.in.Listener(), "client", c.remote, "panic", p, "stack", string(debug.Stack()))
			c.terminate(fmt.Errorf("panicked: %v", p))
			c.reportPanic(c.from, c.to)
		}
		c.close()
	}()
	c.serve()
}

// proto is the scheme that clients of this server use.
func (s *Server) proto() string {
	if s.o.TLS != nil {
		return "https"
	}
	return "http"
}

var _ bridge.Front = (*Server)(nil)
var _ http.Handler = (*http2Front)(nil)
