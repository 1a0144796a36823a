package galera

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"switchboard/monitor/check"
	"switchboard/monitor/check/mysql"
)

// SHOW is what a node answers whatever state it is in; a SELECT is refused while
// it is not ready.
const (
	askStatus = "SHOW GLOBAL STATUS WHERE Variable_name IN ('wsrep_ready', 'wsrep_cluster_status', 'wsrep_local_state'," +
		" 'wsrep_local_state_comment', 'wsrep_local_index', 'wsrep_cluster_size', 'wsrep_cluster_conf_id', 'wsrep_cluster_state_uuid')"
	askVariables = "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('read_only', 'super_read_only', 'wsrep_on', 'wsrep_provider')"
)

const (
	synced = "4"
	donor  = "2"
	// settle is how long a view may take to reach all nodes.
	settle = 50 * time.Millisecond
)

// New returns the builder of the "galera" check. The checkers that it builds for
// one host share what they have seen, so use one builder for all backends of a
// host; hosts do not mix. Spec.Username and Spec.Password log in; the user needs no
// right beyond that. Spec.Donors, Spec.Database and Spec.TLS may be set. The
// builder may be called from any goroutine.
func New() check.Builder {
	seen := &sightings{views: map[place]sighting{}}
	return func(spec check.Spec, target check.Target) (check.Checker, error) {
		conn, err := mysql.NewConn("galera", spec, target)
		if err != nil {
			return nil, err
		}
		return &checker{
			conn: conn, seen: seen, donors: spec.Donors,
			place:  place{target.Host, target.Backend.Name},
			settle: min(settle, spec.Timeout/4),
			fresh:  3*spec.Interval + spec.Timeout,
		}, nil
	}
}

type checker struct {
	conn   *mysql.Conn
	seen   *sightings
	place  place
	donors bool
	// settle is how long to wait before a node that seems behind is asked again, and
	// fresh how long what a peer has said counts.
	settle, fresh time.Duration
}

func (c *checker) Check(ctx context.Context) check.Result {
	result, node := c.ask(ctx)
	if result.Verdict != check.Healthy {
		return result
	}
	if c.seen.ahead(c.place, node.view, c.fresh) == "" {
		return result
	}
	again := time.NewTimer(c.settle)
	defer again.Stop()
	select {
	case <-again.C:
	case <-ctx.Done():
		return c.conn.Failure(ctx, context.Cause(ctx))
	}
	if result, node = c.ask(ctx); result.Verdict != check.Healthy {
		return result
	}
	if behind := c.seen.ahead(c.place, node.view, c.fresh); behind != "" {
		result.Verdict, result.Detail = check.Unhealthy, behind
	}
	return result
}

func (c *checker) Close() error {
	c.seen.forget(c.place)
	return c.conn.Close()
}

// ask asks the node about itself, and notes what it sees.
func (c *checker) ask(ctx context.Context) (check.Result, node) {
	rows, err := c.conn.Ask(ctx, askStatus, askVariables)
	if err != nil {
		c.seen.forget(c.place)
		return c.conn.Failure(ctx, err), node{}
	}
	n := read(rows)
	if n.primary() {
		c.seen.note(c.place, n.view)
	} else {
		c.seen.forget(c.place)
	}
	return n.judge(c.donors), n
}

// node is what a node says of itself.
type node struct {
	values map[string]string
	view   view
}

func read(rows [][]string) node {
	n := node{values: make(map[string]string, len(rows))}
	for _, row := range rows {
		if len(row) == 2 {
			n.values[row[0]] = row[1]
		}
	}
	n.view.history = n.values["wsrep_cluster_state_uuid"]
	n.view.number, _ = strconv.ParseUint(n.values["wsrep_cluster_conf_id"], 10, 64)
	n.view.size, _ = strconv.Atoi(n.values["wsrep_cluster_size"])
	return n
}

func (n node) primary() bool { return n.values["wsrep_cluster_status"] == "Primary" }

// index is nil while the node is in no cluster, when its answer is a huge number.
func (n node) index() *int {
	index, err := strconv.ParseInt(n.values["wsrep_local_index"], 10, 32)
	if err != nil || index < 0 {
		return nil
	}
	i := int(index)
	return &i
}

func (n node) judge(donors bool) check.Result {
	say := func(verdict check.Verdict, format string, values ...any) check.Result {
		return check.Result{Verdict: verdict, Index: n.index(), Detail: fmt.Sprintf(format, values...)}
	}
	value := func(name string) string { return check.Line(n.values[name]) }
	if provider := value("wsrep_provider"); provider == "" || provider == "none" {
		return say(check.Failed, "is not a Galera node: no wsrep_provider is loaded; use the mysql check")
	}
	if on, has := n.values["wsrep_on"]; has && mysql.Off(on) {
		return say(check.Unhealthy, "wsrep_on is off: its writes reach no other node")
	}
	if !n.primary() {
		return say(check.Unhealthy, "wsrep_cluster_status is %s, sees %d nodes", orNothing(value("wsrep_cluster_status")), n.view.size)
	}
	// Before the state: a node that is being set read-only is desynced for a moment.
	for _, name := range []string{"read_only", "super_read_only"} {
		if on, has := n.values[name]; has && !mysql.Off(on) {
			return say(check.Unhealthy, "%s is on", name)
		}
	}
	if state := value("wsrep_local_state"); state != synced && (state != donor || !donors) {
		return say(check.Unhealthy, "wsrep_local_state is %s (%s)", orNothing(state), orNothing(value("wsrep_local_state_comment")))
	}
	if value("wsrep_ready") != "ON" {
		return say(check.Unhealthy, "wsrep_ready is %s", orNothing(value("wsrep_ready")))
	}
	return say(check.Healthy, "%s, sees %d nodes", value("wsrep_local_state_comment"), n.view.size)
}

func orNothing(value string) string {
	if value == "" {
		return "not told"
	}
	return value
}
