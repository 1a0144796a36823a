package runner

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"switchboard/api"
	"switchboard/bridge"
	"switchboard/bridge/accesslog"
	"switchboard/bridge/clock"
	"switchboard/bridge/route"
	"switchboard/bridge/web"
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
	// Table is where more hosts come from, which come and go; nil: Hosts are all. Where
	// both have one of a name, that of Hosts is served. Its backends are not probed.
	Table *Table
	// WildcardDepth is how many levels a host "*.suffix" stands for; 0: one.
	WildcardDepth int
	// State is the directory that traffic switches, pins, the last active backends
	// and the epochs are kept in over restarts; "": none are kept.
	State string
	// Stats answers what was counted, for the API; nil: nothing is.
	Stats api.Stats
	// Metrics makes what answers GET /metrics of the API from the state that it shows;
	// nil: it is not there. The Prometheus library is linked by programs that name it, as
	// with api/metrics.New, and by no others.
	Metrics func(api.Sources) http.Handler
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
	// Access gets one JSON line a connection and a request when it has ended; nil:
	// none. It is this router's alone, which runs it: until the last of them has ended
	// and what waited was written. No traffic ever waits for it.
	Access *accesslog.Log
	// Records is called with every connection's record, from many goroutines; it
	// must not block. nil: nobody.
	Records func(bridge.Record)
	// Requests is called with every request's record, under the rules of
	// [web.Options].Records. nil: nobody.
	Requests func(*web.Record)
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

// Protocol is what the clients of a listener speak.
type Protocol string

// The protocols.
const (
	// TCP is any: all connections are for the listener's host.
	TCP Protocol = "tcp"
	// TLS is passed through unread to the host that a client names in its ClientHello
	// (SNI, RFC 6066, section 3).
	TLS Protocol = "tls"
	// HTTP is HTTP/1.1, and HTTP/2 by prior knowledge: each request is for the host
	// that it names.
	HTTP Protocol = "http"
	// HTTPS is that over TLS, which ends here.
	HTTPS Protocol = "https"
)

// web tells whether a listener of the protocol reads requests.
func (p Protocol) web() bool { return p == HTTP || p == HTTPS }

// Listener is an address that a router accepts TCP connections on.
type Listener struct {
	// Name is unique in the router.
	Name string
	// Bind is host:port; port 0 takes any free one, see [Router.Addr].
	Bind string
	// Protocol is what clients speak; "": TCP.
	Protocol Protocol
	// Host names the host that it serves; for TCP only, where it is required.
	Host string
	// Certificates are chosen from by the server name that a client asks for; a client
	// that asks for another gets the first. Required for HTTPS, and for that only. They
	// are read by [New], and again when their files have changed.
	Certificates []Certificate
	// Timeouts and Limits are those of HTTP and HTTPS.
	Timeouts Timeouts
	Limits   Limits
	// ProxyProtocol is the PROXY header that every connection must begin with; "":
	// none.
	ProxyProtocol bridge.ProxyVersion
	// TrustedProxies are the networks that such connections may come from; required
	// with ProxyProtocol. Under HTTP and HTTPS what they say in X-Forwarded-* and
	// Forwarded is believed too.
	TrustedProxies []netip.Prefix
	// MaxSessions limits the client connections of the listener; 0: only what file
	// descriptors allow to all of them, (RLIMIT_NOFILE - 64) / 2, less what
	// [API].Streams takes of it.
	MaxSessions int
}

// Certificate is a pair of PEM files.
type Certificate struct {
	// Cert holds the certificate, with those that lead to its authority behind it.
	Cert string
	// Key holds its private key.
	Key string
}

// Timeouts bound what clients of HTTP take their time for; each at least 1 ms.
type Timeouts struct {
	// Head is how long a client may take to send a request's head, and to shake hands
	// under HTTPS; 0: 10 s.
	Head time.Duration
	// Idle is how long it may be silent between two requests; 0: 60 s.
	Idle time.Duration
	// Body is how long it may be silent within a request's body, and how long it may
	// take nothing of an answer; 0: 60 s.
	Body time.Duration
}

// Limits bound what clients of HTTP send.
type Limits struct {
	// Head is the longest head of a request, in bytes, at least 256; 0: 32 KiB.
	Head int
	// Target is the longest request target in it, in bytes; 0: 8 KiB.
	Target int
	// Fields is the greatest number of its fields; 0: 100.
	Fields int
	// Body is the longest body, in bytes; 0: any.
	Body int64
}

// Host is a name with the backends that can serve it.
type Host struct {
	// Name is unique in the router, in lower case. Clients that ask by name may also be
	// served by "*.suffix", for the names one level below suffix (see
	// Config.WildcardDepth), and by "*", for those that no other host has.
	Name string
	// Policy is whether it has one active backend at a time, or uses all that are
	// healthy; "": route.Active.
	Policy route.Policy
	// Elect is how the active backend is chosen; "": monitor.Sticky. For route.Active
	// only.
	Elect monitor.Elect
	// Choose is how one of the healthy backends is chosen for a session or request;
	// "": route.Random. For route.Balance only.
	Choose route.Choose
	// StickyBy is what a client is known by under route.Sticky, where it is required:
	// "cookie:NAME", "header:NAME" or "client", which is its address. A client that
	// does not send it is served by any.
	StickyBy string
	// Hold is how long a new client may wait for a backend that can be used; 0: not at
	// all.
	Hold time.Duration
	// HoldMax is how many may wait at once; 0: 1000. Hold 0 turns waiting off.
	HoldMax int
	// DialTimeout bounds one dial, at least 1 ms; 0: 1 s.
	DialTimeout time.Duration
	// IdleTimeout ends a session without a byte in either direction, and a request
	// whose backend is silent for so long within its answer; 0: never.
	IdleTimeout time.Duration
	// HalfCloseTimeout ends a session one side of which has ended and the other is
	// silent, at least 1 ms: it is always bounded; 0: 30 s.
	HalfCloseTimeout time.Duration
	// SendProxy is the PROXY header that sessions to backends, and probes on their
	// own port, begin with; "": none.
	SendProxy bridge.ProxyVersion
	// HTTP says how requests go to the backends.
	HTTP HostHTTP
	// Check is how backends are probed; nil: not at all. A backend without a check
	// is up until the data path fails, and then rests a while.
	Check *check.Spec
	// Backends are in order of preference where nothing else decides.
	Backends []Backend
}

// HostHTTP says how requests of a host go to its backends.
type HostHTTP struct {
	// Version is what the backends speak; "": web.HTTP1.
	Version web.Version
	// HeadTimeout is how long a backend may take to begin its answer, at least 1 ms;
	// 0: 60 s.
	HeadTimeout time.Duration
	// TotalTimeout bounds a request from its head to the last byte of its answer;
	// 0: it does not.
	TotalTimeout time.Duration
	// Pool is how many idle connections to each backend are kept; 0: 100, negative:
	// none.
	Pool int
	// PoolIdle is how long they are kept, at least 1 ms; 0: 60 s.
	PoolIdle time.Duration
	// Retries are how many more attempts a request may have, beyond the first; 0: 1,
	// negative: none.
	Retries int
}

// Backend is an address that can serve a host.
type Backend struct {
	// Name is unique in its host.
	Name string
	// Address is host:port; the host may be a DNS name.
	Address string
	// Weight is its part of new sessions and requests, from 0, which is none, to
	// [route.MaxWeight]; nil: 1. Another than 1 is for route.Balance only.
	Weight *int
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
	// Streams is how many GET /events there may be at once. Those beyond 16 have descriptors
	// of their own, which sessions have not. 0: 16, and one for each 64 descriptors beyond
	// 4,096, until there are [api.MaxStreams].
	Streams int
}
