package runner

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"switchboard/bridge"
	"switchboard/bridge/clock"
	"switchboard/monitor"
	"switchboard/monitor/check"
)

// Config says what a router does. The zero value of a field is its default.
type Config struct {
	// Name is the router's in API and logs; "": the machine's.
	Name string
	// Listeners are the addresses to accept on.
	Listeners []Listener
	// Hosts are what listeners serve.
	Hosts []Host
	// State is the directory that traffic switches, pins, the last active backends
	// and the epochs are kept in over restarts; "": none are kept.
	State string
	// API is where operators read and change state.
	API API
	// Health is an extra plain listener: 200 to anything while ready, 503 otherwise.
	// "": none.
	Health string
	// Delay is how long the router accepts on, not ready, after it was told to
	// stop; Drain is how long open sessions may then go on before they are severed.
	Delay, Drain time.Duration
	// Checks are the builders of check types beyond the built-in http, tcp and exec,
	// by type name: {"redis": redis.New}.
	Checks map[string]check.Builder
	// Access gets one JSON line a connection when it has ended; nil: none. It is
	// written to by one goroutine at a time, and never waited for by a session: if it
	// is too slow for very long, records are dropped and counted in the log.
	Access io.Writer
	// Records is called with every connection's record, from many goroutines; it
	// must not block. nil: nobody.
	Records func(bridge.Record)
	// Opened is called with every session's record, as far as it has come, when the
	// session opens: before Records is, and under the same rules. nil: nobody.
	Opened func(bridge.Record)
	// Log is for changes of state; nil discards.
	Log *slog.Logger
	// Listen and Dial replace the machine's network for listeners and for sessions
	// and network checks; nil is the machine's. Sessions over injected connections
	// work as any, if not as fast.
	Listen func(ctx context.Context, network, address string) (net.Listener, error)
	Dial   func(ctx context.Context, network, address string) (net.Conn, error)
	// Clock is for probes, elections and drains; nil is the machine's.
	Clock clock.Clock
}

// Listener is an address that a router accepts TCP connections on.
type Listener struct {
	// Name is unique in the router.
	Name string
	// Bind is host:port; port 0 takes any free one, see [Router.Addr].
	Bind string
	// Host names the host that it serves.
	Host string
	// ProxyProtocol is the PROXY header that every connection must begin with; "":
	// none.
	ProxyProtocol bridge.ProxyVersion
	// TrustedProxies are the networks that such connections may come from; required
	// with ProxyProtocol.
	TrustedProxies []netip.Prefix
	// MaxSessions limits the listener; 0: only what file descriptors allow to all of
	// them, (RLIMIT_NOFILE - 64) / 2.
	MaxSessions int
}

// Host is a name with the backends that can serve it, one at a time.
type Host struct {
	// Name is unique in the router, in lower case.
	Name string
	// Elect is how the active backend is chosen; "": monitor.Sticky.
	Elect monitor.Elect
	// Hold is how long a new client may wait for an active backend; 0: not at all.
	Hold time.Duration
	// HoldMax is how many may wait at once; 0: 1000. Hold 0 turns waiting off.
	HoldMax int
	// DialTimeout bounds one dial, at least 1 ms; 0: 1 s.
	DialTimeout time.Duration
	// IdleTimeout ends a session without a byte in either direction; 0: never.
	IdleTimeout time.Duration
	// HalfCloseTimeout ends a session one side of which has ended and the other is
	// silent, at least 1 ms: it is always bounded; 0: 30 s.
	HalfCloseTimeout time.Duration
	// SendProxy is the PROXY header that sessions to backends, and probes on their
	// own port, begin with; "": none.
	SendProxy bridge.ProxyVersion
	// Check is how backends are probed; nil: not at all. A backend without a check
	// is up until the data path fails, and then rests a while.
	Check *check.Spec
	// Backends are in order of preference where nothing else decides.
	Backends []Backend
}

// Backend is an address that can serve a host.
type Backend struct {
	// Name is unique in its host.
	Name string
	// Address is host:port; the host may be a DNS name.
	Address string
	// CheckPort overrides Check.Port; 0: it does not.
	CheckPort int
}

// API is the router's HTTP API.
type API struct {
	// Bind is host:port; "": no listener of its own, see [Router.Handler].
	Bind string
	// Username and Password are asked for if set. Without them only a loopback
	// address can be bound.
	Username, Password string
}
