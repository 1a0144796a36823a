package bridge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"switchboard/bridge/clock"
	"switchboard/bridge/relay"
)

// ListenerOptions describe a listener to [NewListener].
type ListenerOptions struct {
	Name string
	// Bind is the address, host:port; port 0 takes any free one.
	Bind string
	// To gets the connections: a [Host], or what finds out from their first bytes
	// which host they are for. Required.
	To Handler
	// Listen binds, mostly the engine's own Listen. Required.
	Listen func(ctx context.Context, address string) (relay.Listener, error)
	// Proxy says whose PROXY header is believed.
	Proxy ProxyAccept
	// Sessions limits this listener, Router all listeners that share it; nil: no
	// limit.
	Sessions, Router *Budget
	// Log is for changes of state; nil discards.
	Log *slog.Logger
	// Clock is for back-off; nil is the machine's.
	Clock clock.Clock
}

// Handler takes over what a listener has accepted. Its methods are called by the
// accept loop, or by one of the engine's, and must not block. A handler owns the connection, and calls
// [Inbound.Release] when it has closed it.
type Handler interface {
	// Take serves a connection.
	Take(in *Inbound)
	// TurnAway refuses one that there is no room for.
	TurnAway(in *Inbound)
}

// Listener accepts connections for a handler.
type Listener struct {
	options ListenerOptions
	door    door
	log     *slog.Logger
	clock   clock.Clock
	bound   chan struct{} // closed when listener is set
	inner   relay.Listener
	errors  limited
	refused limited
}

// NewListener makes a listener. It opens nothing.
func NewListener(o ListenerOptions) *Listener {
	l := &Listener{
		options: o, log: o.Log, clock: o.Clock, bound: make(chan struct{}),
		door: door{name: o.Name, proxy: o.Proxy, budgets: [2]*Budget{o.Sessions, o.Router}},
	}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	if l.clock == nil {
		l.clock = clock.System{}
	}
	return l
}

// Name returns the listener's name.
func (l *Listener) Name() string { return l.options.Name }

// Addr returns the address that was bound, nil before Run is ready.
func (l *Listener) Addr() net.Addr {
	select {
	case <-l.bound:
		return l.inner.Addr()
	default:
		return nil
	}
}

// Run binds, is ready when the address accepts, and accepts until a signal comes.
// What was accepted is the handler's; Run does not wait for it. A listener that
// fails on its own is an error.
func (l *Listener) Run(signals <-chan os.Signal, ready chan<- struct{}) error {
	inner, err := l.options.Listen(context.Background(), l.options.Bind)
	if err != nil {
		return fmt.Errorf("listener %q: listening on %s: %w", l.options.Name, l.options.Bind, advise(err))
	}
	l.inner = inner
	close(l.bound)
	l.log.Info("listening", "listener", l.options.Name, "address", inner.Addr().String())
	ctx, cancel := context.WithCancel(context.Background())
	failed := make(chan error, 1) // one slot: the accept loop ends once, heard or not
	var accepting sync.WaitGroup
	accepting.Go(func() { failed <- l.acceptLoop(ctx, inner) })
	close(ready)
	defer func() {
		cancel()
		inner.Close()
		accepting.Wait()
		l.log.Info("stopped listening", "listener", l.options.Name)
	}()
	select {
	case err := <-failed:
		return fmt.Errorf("listener %q: accepting: %w", l.options.Name, err)
	case <-signals:
		return nil
	}
}

const (
	minBackoff = 5 * time.Millisecond
	maxBackoff = time.Second
)

// acceptLoop accepts until the listener is closed. When the system has no
// descriptor or memory for one more connection, it waits, longer each time; the
// clients wait in the kernel's queue meanwhile.
func (l *Listener) acceptLoop(ctx context.Context, inner relay.Listener) error {
	backoff := time.Duration(0)
	for {
		some, err := l.accept(inner)
		if some {
			backoff = 0
		}
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return nil
		case passing(err):
		case Shortage(err):
			backoff = min(max(2*backoff, minBackoff), maxBackoff)
			if skipped, ok := l.errors.allow(l.clock.Now()); ok {
				l.log.Error("cannot accept", "listener", l.options.Name, "cause", err, "retry", backoff, "skipped", skipped)
			}
			l.wait(ctx, backoff)
		default:
			return err
		}
	}
}

// accept takes what is accepted: one connection, or as many as there are until the
// engine cannot accept any more. some says that there was one.
func (l *Listener) accept(inner relay.Listener) (some bool, err error) {
	server, ok := inner.(relay.Server)
	if !ok {
		client, err := inner.Accept()
		if err != nil {
			return false, err
		}
		l.take(client)
		return true, nil
	}
	var taken atomic.Bool
	err = server.Serve(func(client relay.Conn) {
		if !taken.Load() {
			taken.Store(true)
		}
		l.take(client)
	})
	return taken.Load(), err
}

// take hands a connection over if there is room for it.
func (l *Listener) take(client relay.Conn) {
	in := &Inbound{client: client, door: &l.door, began: l.clock.Now()}
	if full := l.door.enter(); full != nil {
		if skipped, ok := l.refused.allow(l.clock.Now()); ok {
			l.log.Warn("too many sessions, refusing clients", "listener", l.options.Name, "limit", full.limit, "skipped", skipped)
		}
		l.options.To.TurnAway(in)
		return
	}
	in.inside = true
	l.options.To.Take(in)
}

func (l *Listener) wait(ctx context.Context, d time.Duration) {
	timer := l.clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C():
	case <-ctx.Done():
	}
}

// passing errors are one client's: it left before it was accepted.
func passing(err error) bool {
	return errors.Is(err, syscall.ECONNABORTED) || errors.Is(err, syscall.EINTR) || errors.Is(err, syscall.EPROTO)
}

// Shortage tells whether an error is this machine's own want of descriptors, ports or
// memory, which says nothing about the peer and may pass.
func Shortage(err error) bool {
	for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EAGAIN, syscall.EADDRNOTAVAIL} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// advise adds to a failed bind what the operator can do.
func advise(err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%w: another process has this port; stop it or choose another", syscall.EADDRINUSE)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%w: ports below 1024 need CAP_NET_BIND_SERVICE", syscall.EACCES)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%w: no interface of this machine has it", syscall.EADDRNOTAVAIL)
	default:
		return err
	}
}

// limited lets one line every ten seconds through and counts the others.
type limited struct {
	mu      sync.Mutex
	last    time.Time
	skipped int
}

// quiet is how long a line that repeats itself is kept back.
const quiet = 10 * time.Second

func (l *limited) allow(now time.Time) (skipped int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.last.IsZero() && now.Sub(l.last) < quiet {
		l.skipped++
		return 0, false
	}
	skipped, l.skipped, l.last = l.skipped, 0, now
	return skipped, true
}
