package api

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"time"

	"switchboard/bridge"
	"switchboard/bridge/route"
)

// Cluster is the merged state of a whole router: GET /cluster.
type Cluster struct {
	// Name is the router's.
	Name string `json:"name"`
	// Traffic is the router's own flag.
	Traffic Traffic `json:"traffic"`
	// Clusters are the hosts, in configuration order, and then those of the table; never
	// nil.
	Clusters []Host `json:"clusters"`
	// Table is left out by a router that has none.
	Table *Table `json:"table,omitempty"`
	// CurrentSessionCount is the sum of the hosts', those that are not listed too.
	CurrentSessionCount int `json:"currentSessionCount"`
	// Refusals counts by reason the HTTP requests that were refused before it was
	// known which host they were for; left out by a router that speaks no HTTP.
	Refusals map[string]int64 `json:"refusals,omitzero"`
	// AccessLog is what became of the access log's lines; nil, and left out, by a
	// router that has none.
	AccessLog *AccessLog `json:"accessLog,omitempty"`
}

// AccessLog counts lines of the access log since the start.
type AccessLog struct {
	// Written lines are in what is written to.
	Written int64 `json:"written"`
	// Dropped are those that were lost, by cause: "slow", "failed" or "stopped". Never
	// nil.
	Dropped map[string]int64 `json:"dropped"`
	// Error is what is wrong with writing now, and ErrorSince since when; left out
	// while all is well.
	Error      string     `json:"error,omitempty"`
	ErrorSince *time.Time `json:"errorSince,omitempty"`
}

// Traffic is a routing-enabled flag: GET /traffic, and part of a [Host].
type Traffic struct {
	// TrafficEnabled is false too while its owner has not said anything yet.
	TrafficEnabled bool `json:"trafficEnabled"`
	// Message is the operator's, of the last change.
	Message string `json:"message"`
	// LastUpdated is nil until the first change.
	LastUpdated *time.Time `json:"lastUpdated"`
	// DrainUntil is when the sessions still open will be severed; nil when no drain
	// is running.
	DrainUntil *time.Time `json:"drainUntil"`
	// CurrentSessionCount is the number of open sessions of the host or router.
	CurrentSessionCount int `json:"currentSessionCount"`
	// Severed counts the sessions that a PATCH severed; nil in all other answers.
	Severed *int `json:"severed,omitempty"`
}

// Host is one host's cluster: GET /hosts/{host}.
type Host struct {
	Host   string `json:"host"`
	Policy string `json:"policy"`
	// FromTable tells a host of the routing table's; left out for one that is configured.
	FromTable bool `json:"fromTable,omitempty"`
	// Active is nil when the host has no active backend; under policy balance it
	// never has one, and Epoch, Since, Reason and Pin say nothing either.
	Active *ActiveBackend `json:"active"`
	// Epoch counts the host's NEW_ACTIVE_BACKENDs.
	Epoch uint64 `json:"epoch"`
	// Since is when Active was chosen, nil before the first choice; Reason says why.
	Since  *time.Time `json:"since"`
	Reason string     `json:"reason"`
	// Pin is the backend the host is kept to, nil for none.
	Pin *string `json:"pin"`
	// Traffic is the host's own flag, and its session count.
	Traffic
	// Backends are in configuration order; never nil.
	Backends []Backend `json:"backends"`
	// HTTP is what requests came to; nil, and left out, if there were none.
	HTTP *HTTP `json:"http,omitempty"`
}

// HTTP is what the requests of one host came to since the start.
type HTTP struct {
	// Requests have been answered, or given up; those in flight are not among them.
	Requests int64 `json:"requests"`
	// Classes are the answers by the first digit of their status, "1xx" to "5xx".
	// Requests that were given up without an answer are in none.
	Classes map[string]int64 `json:"classes"`
	// Bytes on clients' side, heads included.
	BytesFromClients int64   `json:"bytesFromClients"`
	BytesToClients   int64   `json:"bytesToClients"`
	Latency          Latency `json:"latency"`
	// Retries are attempts beyond the first.
	Retries int64 `json:"retries"`
	// Refusals count by reason the requests that the router answered itself.
	Refusals map[string]int64 `json:"refusals"`
}

// Latency is how long requests took, from the whole head to the last byte of the
// answer.
type Latency struct {
	// SumMs is the sum, in milliseconds.
	SumMs float64 `json:"sumMs"`
	// Buckets are cumulative, as Prometheus has them.
	Buckets []Bucket `json:"buckets"`
}

// Bucket counts the requests that took no longer than its bound.
type Bucket struct {
	// LeMs is the bound in milliseconds, nil in the last bucket, which counts all.
	LeMs  *float64 `json:"leMs"`
	Count int64    `json:"count"`
}

// ActiveBackend names the backend that serves a host.
type ActiveBackend struct {
	Name    string `json:"name"`
	Address string `json:"address"`
}

// Backend is one backend of a host.
type Backend struct {
	// Host is set in the flat list of GET /backends only; inside a [Host] it is
	// empty and left out.
	Host    string `json:"host,omitempty"`
	Name    string `json:"name"`
	Address string `json:"address"`
	// Healthy is false until there is a verdict.
	Healthy bool `json:"healthy"`
	Active  bool `json:"active"`
	// Weight is the one in force: an operator's, or else the configured one.
	Weight              int   `json:"weight"`
	CurrentSessionCount int   `json:"currentSessionCount"`
	Check               Check `json:"check"`
}

// Check is the last probe of a backend.
type Check struct {
	// At is when it was answered or given up, nil before the first.
	At *time.Time `json:"at"`
	// TookMs is how long it took, in milliseconds.
	TookMs float64 `json:"tookMs"`
	// Detail is its answer in words.
	Detail string `json:"detail"`
}

// Session is one open session: GET /sessions.
type Session struct {
	ID string `json:"id"`
	// Protocol is "tcp", "tls", "http" for a request in flight, or "websocket" for a
	// connection that was upgraded.
	Protocol string `json:"protocol"`
	Host     string `json:"host"`
	Listener string `json:"listener"`
	Backend  string `json:"backend"`
	// Client is the client's address.
	Client string     `json:"client"`
	Since  *time.Time `json:"since"`
	// Bytes relayed so far; 0 for a request in flight.
	BytesToBackend int64 `json:"bytesToBackend"`
	BytesToClient  int64 `json:"bytesToClient"`
}

// Cluster merges the newest value of every feed. It waits for nothing.
func (s Sources) Cluster() Cluster {
	sources := s.Listed()
	c := s.cluster(len(sources) - len(s.Hosts))
	c.Clusters = make([]Host, 0, len(sources))
	for _, source := range sources {
		c.Clusters = append(c.Clusters, source.View())
	}
	return c
}

// cluster is [Sources.Cluster] without its hosts, of which so many are the table's.
func (s Sources) cluster(listed int) Cluster {
	c := Cluster{Name: s.Name, Clusters: []Host{}, Table: s.table(listed), Traffic: s.RouterTraffic()}
	c.CurrentSessionCount = c.Traffic.CurrentSessionCount
	if s.Refusals != nil {
		c.Refusals = s.Refusals()
	}
	if s.AccessLog != nil {
		c.AccessLog = s.AccessLog()
	}
	return c
}

// Listed are the hosts that GET /cluster lists: all that are configured, and then those
// of the table, if they are few, or else some of them.
func (s Sources) Listed() []HostSource {
	if s.Table == nil {
		return s.Hosts
	}
	return slices.Concat(s.Hosts, s.Table.Hosts())
}

// RouterTraffic is the traffic part of [Sources.Cluster].
func (s Sources) RouterTraffic() Traffic {
	flag, _ := s.Traffic.Get()
	return trafficView(flag, s.Sessions())
}

// View merges the newest values of one host's feeds.
func (s HostSource) View() Host { return *new(viewer).view(s) }

// viewer views one host after the other, and leaves nothing to collect.
type viewer struct {
	host   Host
	active ActiveBackend
	pin    string
	times  []time.Time
	counts bridge.Counts
}

// view is [HostSource.View], until the next call.
func (v *viewer) view(s HostSource) *Host {
	cluster, _ := s.Cluster()
	flag, _ := s.Traffic()
	s.Count(&v.counts)
	v.times = v.times[:0]
	v.host = Host{
		Host:      s.Name,
		Policy:    string(s.Policy),
		FromTable: s.FromTable,
		Epoch:     cluster.Active.Epoch,
		Since:     v.time(cluster.Active.Since),
		Reason:    cluster.Active.Reason,
		Traffic: Traffic{
			TrafficEnabled: flag.Enabled, Message: flag.Message, LastUpdated: v.time(flag.LastUpdated), DrainUntil: v.time(flag.DrainUntil),
			CurrentSessionCount: v.counts.Sessions,
		},
		Backends: v.host.Backends[:0],
	}
	h := &v.host
	if b := cluster.Active.Backend; b != nil {
		v.active = ActiveBackend{Name: b.Name, Address: b.Address}
		h.Active = &v.active
	}
	if cluster.Pin != "" {
		v.pin = cluster.Pin
		h.Pin = &v.pin
	}
	var weights map[string]int
	if s.Weights != nil {
		weights = s.Weights()
	}
	if s.HTTP != nil {
		h.HTTP = s.HTTP()
	}
	h.Backends = slices.Grow(h.Backends, len(cluster.Backends))
	if h.Backends == nil {
		h.Backends = []Backend{} // never null
	}
	for i := range cluster.Backends {
		b := &cluster.Backends[i]
		weight, set := weights[b.Name]
		if !set {
			weight = b.Weight
		}
		h.Backends = append(h.Backends, Backend{
			Name:                b.Name,
			Address:             b.Address,
			Healthy:             b.Verdict && b.Healthy,
			Active:              h.Active != nil && h.Active.Name == b.Name,
			Weight:              weight,
			CurrentSessionCount: v.counts.Backends[b.Name],
			Check: Check{
				At:     v.time(b.CheckedAt),
				TookMs: float64(b.Took.Microseconds()) / 1000,
				Detail: b.Detail,
			},
		})
	}
	return h
}

// time is [timeView]. What it points to is left alone until the next view.
func (v *viewer) time(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	v.times = append(v.times, t.UTC())
	return &v.times[len(v.times)-1]
}

// backend finds a backend by its name.
func (h Host) backend(name string) (Backend, bool) {
	i := slices.IndexFunc(h.Backends, func(b Backend) bool { return b.Name == name })
	if i < 0 {
		return Backend{}, false
	}
	return h.Backends[i], true
}

// ETag is a strong validator of what an operator can write: flag, message, drain,
// and when they were written, so that writing the same again is a change.
func (t Traffic) ETag() string {
	return etag(t.TrafficEnabled, t.Message, t.LastUpdated, t.DrainUntil)
}

// ETag is a strong validator of what an operator can write, and of the epoch.
func (h Host) ETag() string {
	var weights []int // under policy active nobody can write them
	if h.Policy == string(route.Balance) {
		for _, b := range h.Backends {
			weights = append(weights, b.Weight)
		}
	}
	return etag(h.Host, h.Active, h.Epoch, h.Pin, weights, h.Traffic.ETag())
}

func etag(parts ...any) string {
	// Strings, numbers, times and pointers to them always encode.
	text, _ := json.Marshal(parts)
	sum := sha256.Sum256(text)
	return `"` + hex.EncodeToString(sum[:12]) + `"`
}

// activeView is null for a host without an active backend.
func activeView(b *route.Backend) *ActiveBackend {
	if b == nil {
		return nil
	}
	return &ActiveBackend{Name: b.Name, Address: b.Address}
}

// pinView is null for a host that is not pinned.
func pinView(backend string) *string {
	if backend == "" {
		return nil
	}
	return &backend
}

func trafficView(t bridge.Traffic, sessions int) Traffic {
	return Traffic{
		TrafficEnabled:      t.Enabled,
		Message:             t.Message,
		LastUpdated:         timeView(t.LastUpdated),
		DrainUntil:          timeView(t.DrainUntil),
		CurrentSessionCount: sessions,
	}
}

func sessionView(s bridge.SessionInfo) Session {
	return Session{
		ID: s.ID, Protocol: string(s.Protocol), Host: s.Host, Listener: s.Listener, Backend: s.Backend, Client: s.Client,
		Since: timeView(s.Since), BytesToBackend: s.ToBackend, BytesToClient: s.ToClient,
	}
}

// timeView is RFC 3339 in UTC on the wire, and null for a time not yet set.
func timeView(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	utc := t.UTC()
	return &utc
}
