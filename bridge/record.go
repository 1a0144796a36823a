package bridge

import (
	"errors"
	"time"

	"switchboard/bridge/relay"
)

// Reason says why a connection ended. The list is closed: logs, records and
// metrics use no other word.
type Reason string

// Reasons of sessions, which had a backend.
const (
	// ClientClosed and BackendClosed are orderly ends of both directions, named
	// for the side that ended first.
	ClientClosed  Reason = "client_closed"
	BackendClosed Reason = "backend_closed"
	// ClientReset and BackendReset are resets and failures of that side's socket,
	// passed on to the other side as a reset.
	ClientReset  Reason = "client_reset"
	BackendReset Reason = "backend_reset"
	// Severed is the end of a session's term: by NEW_ACTIVE_BACKEND, or because its
	// backend went down or was taken away.
	Severed Reason = "severed"
	// Drained is the end by a drain whose grace had run out.
	Drained Reason = "drained"
	// Killed is the end by an operator who named the session.
	Killed Reason = "killed"
	// IdleTimeout and HalfCloseTimeout are the host's limits.
	IdleTimeout      Reason = "idle_timeout"
	HalfCloseTimeout Reason = "half_close_timeout"
)

// Reasons of connections that never reached a backend.
const (
	// NoBackend means that the host had no active backend.
	NoBackend Reason = "no_backend"
	// HoldExpired means that it had none for as long as the client could be held.
	HoldExpired Reason = "hold_expired"
	// DialFailed means that the active backend could not be reached.
	DialFailed Reason = "dial_failed"
	// ClientGone means that the client left while it was held.
	ClientGone Reason = "client_gone"
	// OverLimit means max_sessions or hold_max.
	OverLimit Reason = "over_limit"
	// NoHost means that it asked for no host, or for one that is not known.
	NoHost Reason = "no_host"
	// ProxyHeader means a missing, malformed or untrusted PROXY header.
	ProxyHeader Reason = "proxy_header"
)

// Reasons of both kinds.
const (
	// TrafficOff means that traffic was switched off, for the router or the host.
	TrafficOff Reason = "traffic_off"
	// Shutdown means that the router stopped.
	Shutdown Reason = "shutdown"
	// Internal means a defect of ours; the log has the stack.
	Internal Reason = "internal"
)

// Record is the story of one connection, complete when it has ended. There is
// exactly one for every connection that was accepted and speaks no HTTP, and for every one that
// was upgraded.
type Record struct {
	ID       string
	Protocol Protocol
	Listener string
	Host     string
	// Backend is empty if no backend was reached. Origin is the backend's, see
	// [switchboard/bridge/route.Backend].
	Backend, Origin string
	// Epoch is that of the session's term, 0 if there was none.
	Epoch uint64
	// Client is the client's address: what PROXY said, if it was believed.
	Client string
	// Began is when the connection was accepted.
	Began time.Time
	Took  time.Duration
	// ToBackend and ToClient count the client's and the backend's bytes that were
	// passed on.
	ToBackend, ToClient int64
	Reason              Reason
	// Err has more to say about Reason; nil for orderly ends.
	Err error
}

// Causes: why a term, a session or a wait was ended. They travel as
// context.Cause and become Reasons.
var (
	errSevered    = errors.New("the active backend has changed")
	errDown       = errors.New("the backend is down")
	errLeft       = errors.New("the backend has left the table")
	errTrafficOff = errors.New("traffic is off")
	errDrained    = errors.New("the drain has run out")
	errShutdown   = errors.New("the router is stopping")
	errKilled     = errors.New("ended by an operator")
	errNoBackend  = errors.New("no active backend")
	errHoldExpiry = errors.New("no active backend within the hold time")
	errOverLimit  = errors.New("too many sessions")
	errHeldFull   = errors.New("too many clients are waiting for a backend")
	errClientGone = errors.New("the client left while it was waiting")
	errPanicked   = errors.New("panicked")
	// errMoved is the cause of an admission's context when a newer admission has
	// taken its place.
	errMoved = errors.New("superseded")
)

// ReasonFor maps the cause that ended a session, or kept a connection or a request
// from becoming one, to its reason.
func ReasonFor(cause error) Reason {
	for _, known := range []struct {
		cause  error
		reason Reason
	}{
		{errSevered, Severed},
		{errDown, Severed},
		{errLeft, Severed},
		{errTrafficOff, TrafficOff},
		{errDrained, Drained},
		{errShutdown, Shutdown},
		{relay.ErrEngineClosed, Shutdown},
		{errKilled, Killed},
		{errNoBackend, NoBackend},
		{errHoldExpiry, HoldExpired},
		{errClientGone, ClientGone},
		{errOverLimit, OverLimit},
		{errHeldFull, OverLimit},
		{errNotTLS, NoHost},
		{errNoHost, NoHost},
		{errProxyHeader, ProxyHeader},
		{errPanicked, Internal},
		{relay.ErrIdle, IdleTimeout},
		{relay.ErrHalfClose, HalfCloseTimeout},
	} {
		if errors.Is(cause, known.cause) {
			return known.reason
		}
	}
	return DialFailed
}

// ErrDialTimeout is what a dial ends with after the host's dial timeout.
var ErrDialTimeout = errors.New("dialing timed out")

// reasonOf maps what the engine says of a session's end.
func reasonOf(o relay.Outcome) Reason {
	switch {
	case o.First == relay.Client && o.Err == nil:
		return ClientClosed
	case o.First == relay.Backend && o.Err == nil:
		return BackendClosed
	case o.First == relay.Client:
		return ClientReset
	case o.First == relay.Backend:
		return BackendReset
	default:
		return ReasonFor(o.Err)
	}
}
