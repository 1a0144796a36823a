package stats

import (
	"slices"
	"strconv"
	"time"
)

// What is counted of each version type, node and host. Times are in milliseconds.
const (
	// Requests are those that were answered or broken off.
	Requests = "requests"
	// Bytes were sent to clients, heads included, by requests and sessions.
	Bytes = "bytes"
	// Time is how long backends took, and TimeCount how many requests had one.
	Time      = "time"
	TimeCount = "timecount"
	// NGINXTime is how long requests took in all, in whichever router.
	NGINXTime = "nginxtime"
	// Sessions are those that ended: TCP, TLS, upgraded connections.
	Sessions = "sessions"
)

// Metrics are what a history can be asked for, the classes of status among them: 1xx to
// 5xx. The result is the caller's.
func Metrics() []string {
	return []string{Requests, Bytes, Time, TimeCount, NGINXTime, Sessions, "1xx", "2xx", "3xx", "4xx", "5xx"}
}

// class is the metric of a status, "" if it is of none.
func class(code int) string {
	switch {
	case code >= 100 && code < 200:
		return "1xx"
	case code >= 200 && code < 300:
		return "2xx"
	case code >= 300 && code < 400:
		return "3xx"
	case code >= 400 && code < 500:
		return "4xx"
	case code >= 500 && code < 600:
		return "5xx"
	}
	return ""
}

// The lengths of what history is kept in, in seconds.
const (
	minute = 60
	hour   = 3600
	day    = 86400
)

// subject is what counters are about.
type subject struct {
	// what is "vt", "node" or "host", as it stands in keys.
	what, id string
}

// null is the ID of what has none: requests without a route.
const null = "null"

// keys spells the keys of the statistics; nobody else does.
type keys struct{ prefix string }

// position is where the reader of a node is in its log.
func (k keys) position(node string) string { return k.prefix + "position:" + node }

// due are the hours of history that will be folded, by the time when.
func (k keys) due() string { return k.prefix + "history_due" }

func (k keys) totals(s subject) string { return k.prefix + "stat_" + s.what + ":" + s.id }

// seconds has the values of one hour, by the second or minute that they begin with.
func (k keys) seconds(s subject, at int64, metric string) string {
	return k.prefix + "history_" + s.what + ":" + s.id + ":" + strconv.FormatInt(at, 10) + ":" + metric
}

// hours has the values of one day, by the hour.
func (k keys) hours(s subject, at int64, metric string) string {
	return k.prefix + "history_" + s.what + ":" + s.id + ":day" + strconv.FormatInt(at, 10) + ":" + metric
}

// group is the set of the version types of a workspace, an application or a version.
func (k keys) group(kind Kind, id string) string { return k.prefix + string(kind) + ":" + id }

// floor is the beginning of the length that at is in.
func floor(at, length int64) int64 {
	rest := at % length
	if rest < 0 {
		rest += length
	}
	return at - rest
}

// seconds is d in whole seconds.
func seconds(d time.Duration) int64 { return int64(d / time.Second) }

// Kind is what is asked about.
type Kind string

// The kinds.
const (
	// Host is a host, by its name in the table or the configuration.
	Host Kind = "host"
	// VersionType is an instance type of an application's version.
	VersionType Kind = "version_type"
	// Node is the machine that served.
	Node Kind = "node"
	// Workspace, Application and Version are the sums over their version types.
	Workspace   Kind = "workspace"
	Application Kind = "application"
	Version     Kind = "version"
	// Uncaught are the requests that had no route. It has no ID.
	Uncaught Kind = "uncaught"
	// Pacemaker is the traffic of the pacemakers' own pages. It has no ID.
	Pacemaker Kind = "pacemaker"
)

// Kinds are all of them. The result is the caller's.
func Kinds() []Kind {
	return []Kind{Host, VersionType, Node, Workspace, Application, Version, Uncaught, Pacemaker}
}

// Needs tells whether a kind needs an ID.
func (k Kind) Needs() bool { return k != Uncaught && k != Pacemaker }

// known tells whether there is such a kind.
func (k Kind) known() bool { return slices.Contains(Kinds(), k) }
