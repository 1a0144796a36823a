package process

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// HTTP serves a handler: a runner that is ready when its port is bound.
//
// On a signal it accepts no more, waits up to Drain for the requests in flight,
// then cancels their contexts, waits a moment for handlers that hear this, and
// closes what is left. On a second signal it closes everything at once. Either way
// Run returns nil. A handler that does not hear its context may outlive Run, and
// connections that a handler has hijacked are the handler's to close.
//
// An endless handler, such as an event stream, ends itself when [Stopping] is
// closed, or else delays every stop by Drain; it lifts WriteTimeout with
// [http.ResponseController.SetWriteDeadline].
type HTTP struct {
	// Bind is the address, host:port; port 0 is any free one. See Addr.
	Bind string
	// Listener is used instead of Bind if it is not nil; Run closes it.
	Listener net.Listener
	// TLS serves HTTP/1.1 over TLS with this configuration, which has a certificate;
	// nil: plain HTTP.
	TLS *tls.Config
	// Handler serves the requests.
	Handler http.Handler
	// MaxConns is how many connections are open at once, 0: 32, since a router keeps
	// 64 descriptors for its API and its probes together. Those that come beyond it
	// wait in the kernel's queue.
	MaxConns int
	// Bounds on one connection; 0: the default, below 0: none. ReadHeaderTimeout: 5 s
	// for the head of a request; ReadTimeout: 10 s for all of it; WriteTimeout: 30 s
	// from there to the end of the answer; IdleTimeout: 60 s between requests.
	ReadHeaderTimeout, ReadTimeout, WriteTimeout, IdleTimeout time.Duration
	// Drain is how long requests in flight may go on after a signal, 0: 2 s, below 0:
	// not at all.
	Drain time.Duration
	// Log gets, at debug, what the server has to say of its connections; nil: none.
	Log *slog.Logger

	addr atomic.Pointer[net.Addr]
}

const (
	defaultMaxConns = 32
	// lastMoment is for handlers to return after their contexts have been cancelled.
	lastMoment = 250 * time.Millisecond
)

// errStopped is the cause of requests cut by a stop.
var errStopped = errors.New("the server is stopping")

// Addr is the address that is bound, nil before Run is ready. It may be called
// from any goroutine.
func (h *HTTP) Addr() net.Addr {
	if addr := h.addr.Load(); addr != nil {
		return *addr
	}
	return nil
}

// Run is [Runner]'s. It returns an error if the address cannot be bound or the
// server ends unasked.
func (h *HTTP) Run(signals <-chan os.Signal, ready chan<- struct{}) error {
	listener := h.Listener
	if listener == nil {
		var err error
		if listener, err = net.Listen("tcp", h.Bind); err != nil {
			return bindError(h.Bind, err)
		}
	}
	addr := listener.Addr()
	h.addr.Store(&addr)

	stopping := make(chan struct{})
	base, cancel := context.WithCancelCause(context.WithValue(context.Background(), stoppingKey{}, (<-chan struct{})(stopping)))
	defer cancel(errStopped)
	server := h.server(base)
	// One slot, so that Serve can leave; it is always received.
	served := make(chan error, 1)
	accepting := limit(listener, h.maxConns())
	if h.TLS != nil {
		// Outside of the limit: net/http bounds the handshake of a *tls.Conn only.
		accepting = tls.NewListener(accepting, h.TLS)
	}
	go func() { served <- server.Serve(accepting) }()
	close(ready)

	select {
	case err := <-served:
		cancel(errStopped)
		server.Close()
		return fmt.Errorf("serving on %s: %w", addr, err)
	case <-signals:
	}
	close(stopping)
	if unfinished(server, orDefault(h.Drain, 2*time.Second), signals) {
		cancel(errStopped)
		unfinished(server, lastMoment, signals)
	}
	cancel(errStopped)
	server.Close()
	<-served
	return nil
}

// unfinished shuts the server down, and returns true if there still were requests
// in flight when the time was over. It gives up, with false, on a signal.
func unfinished(server *http.Server, within time.Duration, signals <-chan os.Signal) bool {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	done := make(chan error)
	go func() { done <- server.Shutdown(ctx) }()
	select {
	case err := <-done:
		return errors.Is(err, context.DeadlineExceeded)
	case <-signals:
		cancel()
		<-done
		return false
	}
}

func (h *HTTP) server(base context.Context) *http.Server {
	log := h.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &http.Server{
		Handler:           h.Handler,
		ReadHeaderTimeout: orDefault(h.ReadHeaderTimeout, 5*time.Second),
		ReadTimeout:       orDefault(h.ReadTimeout, 10*time.Second),
		WriteTimeout:      orDefault(h.WriteTimeout, 30*time.Second),
		IdleTimeout:       orDefault(h.IdleTimeout, 60*time.Second),
		MaxHeaderBytes:    64 << 10,
		BaseContext:       func(net.Listener) context.Context { return base },
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

func (h *HTTP) maxConns() int {
	if h.MaxConns <= 0 {
		return defaultMaxConns
	}
	return h.MaxConns
}

func orDefault(d, otherwise time.Duration) time.Duration {
	return max(cmp.Or(d, otherwise), 0)
}

type stoppingKey struct{}

// Stopping returns a channel that is closed when the [HTTP] that serves the
// request of ctx has been told to stop. It is nil, and so never closed, for a
// context of any other server.
func Stopping(ctx context.Context) <-chan struct{} {
	stopping, _ := ctx.Value(stoppingKey{}).(<-chan struct{})
	return stopping
}

// bindError says which address it was and what to do.
func bindError(address string, err error) error {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return fmt.Errorf("listening on %s: %w", address, err)
	}
	switch errno {
	case syscall.EADDRINUSE:
		return fmt.Errorf("listening on %s: %w: another process has this port", address, errno)
	case syscall.EADDRNOTAVAIL:
		return fmt.Errorf("listening on %s: %w: this machine does not have this address", address, errno)
	case syscall.EACCES:
		return fmt.Errorf("listening on %s: %w: a port below 1024 needs CAP_NET_BIND_SERVICE", address, errno)
	default:
		return fmt.Errorf("listening on %s: %w", address, errno)
	}
}

// limited is a listener with at most cap(slots) connections open.
type limited struct {
	net.Listener
	slots  chan struct{} // one in it for each open connection
	closed chan struct{}
	once   sync.Once
}

func limit(l net.Listener, conns int) net.Listener {
	return &limited{Listener: l, slots: make(chan struct{}, conns), closed: make(chan struct{})}
}

// Accept waits for a slot first, so that what does not fit stays in the kernel's
// queue and costs us no descriptor.
func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	conn, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &slotted{Conn: conn, free: sync.OnceFunc(func() { <-l.slots })}, nil
}

func (l *limited) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

type slotted struct {
	net.Conn
	free func()
}

func (s *slotted) Close() error {
	err := s.Conn.Close()
	s.free()
	return err
}
