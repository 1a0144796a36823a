package bridge

import (
	"errors"
	"fmt"
	"time"

	"switchboard/bridge/feed"
	"switchboard/bridge/route"
)

// Kind names an event; the spelling is that of logs and JSON.
type Kind string

// The kinds of events.
const (
	NewActiveBackend Kind = "NEW_ACTIVE_BACKEND"
	BackendHealth    Kind = "BACKEND_HEALTH"
	SessionCount     Kind = "SESSION_COUNT"
	TrafficEnabled   Kind = "TRAFFIC_ENABLED"
	TrafficDisabled  Kind = "TRAFFIC_DISABLED"
	TableChanged     Kind = "TABLE_CHANGED"
	Pinned           Kind = "PINNED"
	Unpinned         Kind = "UNPINNED"
	WeightsChanged   Kind = "WEIGHTS_CHANGED"
)

// Event is one change, as history and embedders see it. Of the pointers the one
// that goes with Kind is set.
type Event struct {
	Kind Kind      `json:"kind"`
	At   time.Time `json:"at"`
	// Host is empty for a change of the whole router.
	Host     string   `json:"host,omitempty"`
	Active   *Active  `json:"active,omitempty"`
	Health   *Health  `json:"health,omitempty"`
	Traffic  *Traffic `json:"traffic,omitempty"`
	Sessions *Counts  `json:"sessions,omitempty"`
	// Table is that of the last change within a second.
	Table   *TableChange `json:"table,omitempty"`
	Pin     *Pin         `json:"pin,omitempty"`
	Weights *Weights     `json:"weights,omitempty"`
}

// Pin is PINNED and UNPINNED: an operator keeps a host to one backend, or does so no
// more.
type Pin struct {
	Host string `json:"host"`
	// Backend is empty for UNPINNED.
	Backend string `json:"backend"`
	Message string `json:"message"`
}

// Weights is WEIGHTS_CHANGED: an operator's weights of a host.
type Weights struct {
	Host string `json:"host"`
	// Set are those that operators have set, by backend name; the others have the
	// configured one.
	Set     map[string]int `json:"set"`
	Message string         `json:"message"`
}

// TableChange is TABLE_CHANGED: the table is another one.
type TableChange struct {
	// Hosts is how many there are in it.
	Hosts int `json:"hosts"`
}

// Journal is the bounded history of a router's events. They are appended by those who
// make them, once the state that they tell of can be read.
type Journal = feed.Ring[Event]

// Active is NEW_ACTIVE_BACKEND: which backend serves a host from now on.
type Active struct {
	Host string `json:"host"`
	// Backend is nil when the host has no active backend.
	Backend *route.Backend `json:"backend"`
	// Epoch counts the host's NEW_ACTIVE_BACKENDs and never goes back.
	Epoch uint64 `json:"epoch"`
	// Since is when the choice was made.
	Since time.Time `json:"since"`
	// Reason is for people: "first election", "unhealthy: …", "operator: …",
	// "pinned", "index", "removed", "table".
	Reason string `json:"reason"`
}

// Health is BACKEND_HEALTH: a backend's verdict has changed.
type Health struct {
	Host    string `json:"host"`
	Backend string `json:"backend"`
	Healthy bool   `json:"healthy"`
	// Detail says why, in words.
	Detail string `json:"detail"`
}

// Cluster is the monitor's view of one host: its backends and which is active.
// It is a value that is replaced whole; nobody changes one that was published.
type Cluster struct {
	Host   string
	Active Active
	// Pin is the name of the backend an operator wants to be kept, "" for none.
	Pin string
	// Backends are in configuration order.
	Backends []BackendState
}

// BackendState is what the monitor knows of one backend.
type BackendState struct {
	route.Backend
	// Verdict is true once the backend has been found healthy or unhealthy.
	Verdict bool
	Healthy bool
	// CheckedAt is when the last probe was answered or given up, zero before the
	// first.
	CheckedAt time.Time
	// Took is how long that probe took.
	Took time.Duration
	// Detail is that probe's answer in words.
	Detail string
}

// Traffic is the routing-enabled flag of a router or of one host.
type Traffic struct {
	// Host is empty for the router's own flag.
	Host    string `json:"host,omitempty"`
	Enabled bool   `json:"trafficEnabled"`
	// Message is the operator's, of the last change.
	Message string `json:"message"`
	// LastUpdated is zero until the first change.
	LastUpdated time.Time `json:"lastUpdated"`
	// DrainUntil is when the sessions that are still open will be severed; zero
	// when no drain is running. A drain that has ended stays zero.
	DrainUntil time.Time `json:"drainUntil,omitzero"`
}

// TrafficChange is what SetTraffic is asked for.
type TrafficChange struct {
	Enabled bool
	Message string
	// Grace is how long sessions may go on after a disable before they are
	// severed; 0 severs at once. It replaces that of a running drain.
	Grace time.Duration
}

// TrafficAnswer is what SetTraffic did.
type TrafficAnswer struct {
	Traffic Traffic
	// Severed counts the sessions that this change severed before it was answered.
	Severed int
}

// Counts is SESSION_COUNT: how many sessions a host has.
type Counts struct {
	Host string `json:"host"`
	// Sessions are the open ones, in all and by backend name.
	Sessions int            `json:"currentSessionCount"`
	Backends map[string]int `json:"backends"`
	// Parked clients wait for an active backend.
	Parked int `json:"parked"`
}

// Protocol says what kind of session one is.
type Protocol string

// The kinds of sessions.
const (
	// TCP is a connection.
	TCP Protocol = "tcp"
	// TLS is one that is passed through to the host whose name it asks for.
	TLS Protocol = "tls"
	// HTTP is a request in flight.
	HTTP Protocol = "http"
	// WebSocket is a connection that was upgraded.
	WebSocket Protocol = "websocket"
)

// SessionInfo describes one open session.
type SessionInfo struct {
	ID       string
	Protocol Protocol
	Host     string
	Listener string
	Backend  string
	// Client is the client's address: what PROXY said, if it was believed.
	Client string
	Since  time.Time
	// ToBackend and ToClient are bytes so far; 0 for a request in flight.
	ToBackend, ToClient int64
}

// Hint tells the monitor what the data path has seen of a backend.
type Hint struct {
	Host, Backend string
	// Refused is true if the backend's own port refused a connect, which is an
	// explicit answer; everything else only asks for a probe at once.
	Refused bool
	// Detail says what was seen, in words.
	Detail string
}

// Errors that commands return. An operator reads them: each says what to do.
var (
	ErrStopped        = errors.New("the router is stopping and takes no more commands")
	ErrUnknownHost    = errors.New("there is no such host")
	ErrUnknownBackend = errors.New("the host has no such backend")
	ErrUnknownSession = errors.New("there is no such session, or it has ended")
	ErrUnhealthy      = errors.New("the backend is not healthy; pin it if you want the host to wait for it")
	ErrNoChoice       = errors.New("the host has one active backend at a time, so there are no weights: switch it, or pin it")
	ErrWeight         = fmt.Errorf("a weight is a number from 0 to %d", route.MaxWeight)
	ErrBalance        = errors.New("the host uses all its backends: there is none to switch or pin; set weights")
	ErrFromTable      = errors.New("the host comes from the table in Redis: change it there, as with switchboard routes")
	ErrPinned         = errors.New("the host is pinned to another backend; unpin it first, or pin this one")
	// ErrNotDurable wraps what storing said: the change is in force, but a restart
	// would forget it.
	ErrNotDurable = errors.New("the change is in force but could not be stored, so a restart would undo it")
)
