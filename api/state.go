package api

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"time"

	"switchboard/bridge"
)

// Cluster is the merged state of a whole router: GET /cluster.
type Cluster struct {
	// Name is the router's.
	Name string `json:"name"`
	// Traffic is the router's own flag.
	Traffic Traffic `json:"traffic"`
	// Clusters are the hosts, in configuration order; never nil.
	Clusters []Host `json:"clusters"`
	// CurrentSessionCount is the sum of the hosts'.
	CurrentSessionCount int `json:"currentSessionCount"`
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
	// Active is nil when the host has no active backend.
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
	Healthy             bool  `json:"healthy"`
	Active              bool  `json:"active"`
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
	ID       string `json:"id"`
	Host     string `json:"host"`
	Listener string `json:"listener"`
	Backend  string `json:"backend"`
	// Client is the client's address.
	Client string     `json:"client"`
	Since  *time.Time `json:"since"`
	// Bytes relayed so far.
	BytesToBackend int64 `json:"bytesToBackend"`
	BytesToClient  int64 `json:"bytesToClient"`
}

// Cluster merges the newest value of every feed. It waits for nothing.
func (s Sources) Cluster() Cluster {
	c := Cluster{Name: s.Name, Clusters: make([]Host, 0, len(s.Hosts))}
	for _, source := range s.Hosts {
		host := source.View()
		c.Clusters = append(c.Clusters, host)
		c.CurrentSessionCount += host.CurrentSessionCount
	}
	flag, _ := s.Traffic.Get()
	c.Traffic = trafficView(flag, c.CurrentSessionCount)
	return c
}

// RouterTraffic is the traffic part of [Sources.Cluster].
func (s Sources) RouterTraffic() Traffic {
	sessions := 0
	for _, source := range s.Hosts {
		sessions += source.Counts().Sessions
	}
	flag, _ := s.Traffic.Get()
	return trafficView(flag, sessions)
}

// View merges the newest values of one host's feeds.
func (s HostSource) View() Host {
	cluster, _ := s.Cluster.Get()
	flag, _ := s.Traffic.Get()
	counts := s.Counts()
	h := Host{
		Host:     s.Name,
		Policy:   s.Policy,
		Epoch:    cluster.Active.Epoch,
		Since:    timeView(cluster.Active.Since),
		Reason:   cluster.Active.Reason,
		Traffic:  trafficView(flag, counts.Sessions),
		Backends: make([]Backend, 0, len(cluster.Backends)),
	}
	if cluster.Pin != "" {
		h.Pin = &cluster.Pin
	}
	active := cluster.Active.Backend
	if active != nil {
		h.Active = &ActiveBackend{Name: active.Name, Address: active.Address}
	}
	for _, b := range cluster.Backends {
		h.Backends = append(h.Backends, Backend{
			Name:                b.Name,
			Address:             b.Address,
			Healthy:             b.Verdict && b.Healthy,
			Active:              active != nil && active.Name == b.Name,
			Weight:              b.Weight,
			CurrentSessionCount: counts.Backends[b.Name],
			Check: Check{
				At:     timeView(b.CheckedAt),
				TookMs: float64(b.Took.Microseconds()) / 1000,
				Detail: b.Detail,
			},
		})
	}
	return h
}

// backends is every backend of every host, flat.
func (c Cluster) backends() []Backend {
	all := []Backend{}
	for _, host := range c.Clusters {
		for _, b := range host.Backends {
			b.Host = host.Host
			all = append(all, b)
		}
	}
	return all
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
	return etag(h.Host, h.Active, h.Epoch, h.Pin, h.Traffic.ETag())
}

func etag(parts ...any) string {
	// Strings, numbers, times and pointers to them always encode.
	text, _ := json.Marshal(parts)
	sum := sha256.Sum256(text)
	return `"` + hex.EncodeToString(sum[:12]) + `"`
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
		ID: s.ID, Host: s.Host, Listener: s.Listener, Backend: s.Backend, Client: s.Client,
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
