package metrics

import (
	"context"
	"maps"
	"runtime"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"switchboard/api"
	"switchboard/bridge"
	"switchboard/bridge/clock"
)

// collector reads the state when it is asked.
type collector struct {
	sources api.Sources
	clock   clock.Clock
	build   []byte
	// others are the metrics of the runtime and the process.
	others   prometheus.Gatherer
	families []family

	info, traffic, ready, sessions, ended, unroutable                family
	logLines, logDropped, logFailing                                 family
	hosts, leftOut                                                   family
	tableSerial, tableHosts, tableLoaded, tableStale, tableStaleFor  family
	tableAlarm, tableRejected, tableChanges, tableCompares, tableErr family

	hostTraffic, hostSessions, hostParked, hostEpoch, hostBackends, hostHealthy family
	requests, responses, received, sent, retries, refused                       family
	duration                                                                    family

	up, active, backendSessions, weight, check family
}

func newCollector(o Options, others prometheus.Gatherer) *collector {
	c := &collector{
		sources: o.Sources, clock: o.Clock, others: others,
		build: appendLabel(appendLabel(appendLabel(nil, "goversion", runtime.Version()), "revision", o.Revision), "version", o.Version),
	}
	add := func(kind dto.MetricType, name, help string) family {
		f := newFamily(len(c.families), kind, "switchboard_"+name, help)
		c.families = append(c.families, f)
		return f
	}
	gauge := func(name, help string) family { return add(dto.MetricType_GAUGE, name, help) }
	counter := func(name, help string) family { return add(dto.MetricType_COUNTER, name+"_total", help) }
	c.info = gauge("build_info", "What runs: 1, with its version as labels.")
	c.traffic = gauge("traffic_enabled", "Whether the router routes: its own traffic flag.")
	c.ready = gauge("ready", "Whether the router is ready, as GET /readyz says.")
	c.sessions = gauge("sessions", "Open sessions of all hosts, requests in flight among them.")
	c.ended = counter("connections", "Connections that have ended, by reason: sessions, and those that were refused. HTTP requests are none.")
	c.unroutable = counter("unroutable_requests", "HTTP requests that were refused before it was known which host they were for, by reason.")
	c.logLines = counter("accesslog_lines", "Lines of the access log that were written.")
	c.logDropped = counter("accesslog_dropped_lines", "Lines of the access log that were lost, by cause.")
	c.logFailing = gauge("accesslog_failing", "Whether the access log cannot be written now.")

	c.hosts = gauge("hosts", "Hosts that have series here.")
	c.leftOut = gauge("hosts_left_out", "Hosts of the routing table that have no series here, since there are too many.")
	c.tableSerial = gauge("table_serial", "Serial of the routing table that serves.")
	c.tableHosts = gauge("table_hosts", "Hosts in the routing table.")
	c.tableLoaded = gauge("table_loaded", "Whether there is a routing table, be it one from disk.")
	c.tableStale = gauge("table_stale", "Whether Redis may have a newer routing table.")
	c.tableStaleFor = gauge("table_stale_seconds", "For how long the routing table has been stale; 0 if it is not.")
	c.tableAlarm = gauge("table_alarm", "Whether Redis has lost what the routing table has kept.")
	c.tableRejected = gauge("table_rejected", "What is in Redis and not in the routing table, by kind.")
	c.tableChanges = counter("table_changes", "Change records of the routing table that were read.")
	c.tableCompares = counter("table_compares", "Compares of the whole routing table.")
	c.tableErr = counter("table_failures", "Calls of the routing table's Redis that have failed.")

	c.hostTraffic = gauge("host_traffic_enabled", "Whether the host's own traffic flag is on.")
	c.hostSessions = gauge("host_sessions", "Open sessions of the host, requests in flight among them.")
	c.hostParked = gauge("host_parked_clients", "Clients that wait for an active backend.")
	c.hostEpoch = gauge("host_epoch", "Epoch of the host: how often it has had a new active backend, over restarts.")
	c.hostBackends = gauge("host_backends", "Backends of the host.")
	c.hostHealthy = gauge("host_healthy_backends", "Backends of the host that are healthy.")
	c.requests = counter("host_requests", "HTTP requests of the host that have been answered or given up.")
	c.responses = counter("host_responses", "Answers to HTTP requests, by the first digit of their status.")
	c.received = counter("host_received_bytes", "Bytes of HTTP requests from clients, heads included.")
	c.sent = counter("host_sent_bytes", "Bytes of answers to HTTP clients, heads included.")
	c.retries = counter("host_retries", "Attempts of HTTP requests beyond the first.")
	c.refused = counter("host_refused_requests", "HTTP requests that the router has answered itself, by reason.")
	c.duration = add(dto.MetricType_HISTOGRAM, "host_request_duration_seconds", "How long HTTP requests took, from the whole head to the last byte of the answer.")

	c.up = gauge("backend_up", "Whether the backend is healthy.")
	c.active = gauge("backend_active", "Whether the backend is its host's active one.")
	c.backendSessions = gauge("backend_sessions", "Open sessions of the backend, requests in flight among them.")
	c.weight = gauge("backend_weight", "Weight of the backend that is in force.")
	c.check = gauge("backend_check_duration_seconds", "How long the last probe of the backend took.")
	return c
}

// collect reads the state into a page, host by host in turns. Its error is why ctx ended.
func (c *collector) collect(ctx context.Context, turn *api.Turn, to *page) error {
	s := c.sources
	to.add(c.info, 1, c.build)
	flag, _ := s.Traffic.Get()
	to.add(c.traffic, truth(flag.Enabled), nil)
	to.add(c.ready, truth(s.Ready() == nil), nil)
	to.add(c.sessions, float64(s.Sessions()), nil)
	if s.Ended != nil {
		to.each(c.ended, "reason", s.Ended())
	}
	if s.Refusals != nil {
		to.each(c.unroutable, "reason", s.Refusals())
	}
	if s.AccessLog != nil {
		log := s.AccessLog()
		to.add(c.logLines, float64(log.Written), nil)
		to.add(c.logFailing, truth(log.Error != ""), nil)
		to.each(c.logDropped, "cause", log.Dropped)
	}
	listed := s.Listed()
	to.add(c.hosts, float64(len(listed)), nil)
	leftOut := 0
	if s.Table != nil {
		leftOut = c.table(to, len(listed)-len(s.Hosts))
	}
	to.add(c.leftOut, float64(leftOut), nil)
	var counts bridge.Counts
	for _, host := range listed {
		host.Count(&counts)
		c.host(to, host, counts)
		if err := turn.Rest(ctx); err != nil {
			return err
		}
	}
	return nil
}

// table tells of the table, and returns how many of its hosts are not listed.
func (c *collector) table(to *page, listed int) (leftOut int) {
	t := c.sources.Table.State()
	staleFor := 0.0
	if t.Stale && t.Since != nil {
		staleFor = max(c.clock.Now().Sub(*t.Since).Seconds(), 0)
	}
	to.add(c.tableSerial, float64(t.Serial), nil)
	to.add(c.tableHosts, float64(t.Hosts), nil)
	to.add(c.tableLoaded, truth(t.Loaded), nil)
	to.add(c.tableStale, truth(t.Stale), nil)
	to.add(c.tableStaleFor, staleFor, nil)
	to.add(c.tableAlarm, truth(t.Alarm != ""), nil)
	to.each(c.tableRejected, "kind", map[string]int64{
		"host": int64(t.Rejected.Hosts), "member": int64(t.Rejected.Members), "option": int64(t.Rejected.Options),
	})
	to.add(c.tableChanges, float64(t.Changes), nil)
	to.add(c.tableCompares, float64(t.Compares), nil)
	to.add(c.tableErr, float64(t.Failures), nil)
	return max(t.Hosts-listed, 0)
}

func (c *collector) host(to *page, source api.HostSource, counts bridge.Counts) {
	cluster, _ := source.Cluster()
	flag, _ := source.Traffic()
	to.host = appendLabel(to.host[:0], "host", source.Name)
	healthy := 0
	for i := range cluster.Backends {
		if b := &cluster.Backends[i]; b.Verdict && b.Healthy {
			healthy++
		}
	}
	to.add(c.hostTraffic, truth(flag.Enabled), to.host)
	to.add(c.hostSessions, float64(counts.Sessions), to.host)
	to.add(c.hostParked, float64(counts.Parked), to.host)
	to.add(c.hostEpoch, float64(cluster.Active.Epoch), to.host)
	to.add(c.hostBackends, float64(len(cluster.Backends)), to.host)
	to.add(c.hostHealthy, float64(healthy), to.host)
	c.backends(to, source, cluster, counts)
	if source.HTTP == nil {
		return
	}
	if h := source.HTTP(); h != nil {
		c.http(to, h)
	}
}

func (c *collector) backends(to *page, source api.HostSource, cluster bridge.Cluster, counts bridge.Counts) {
	var weights map[string]int
	if source.Weights != nil {
		weights = source.Weights()
	}
	active := cluster.Active.Backend
	for i := range cluster.Backends {
		b := &cluster.Backends[i]
		weight, set := weights[b.Name]
		if !set {
			weight = b.Weight
		}
		to.backend = append(append(appendLabel(to.backend[:0], "backend", b.Name), ','), to.host...)
		to.add(c.up, truth(b.Verdict && b.Healthy), to.backend)
		to.add(c.active, truth(active != nil && active.Name == b.Name), to.backend)
		to.add(c.backendSessions, float64(counts.Backends[b.Name]), to.backend)
		to.add(c.weight, float64(weight), to.backend)
		if !b.CheckedAt.IsZero() {
			to.add(c.check, b.Took.Seconds(), to.backend)
		}
	}
}

func (c *collector) http(to *page, h *api.HTTP) {
	to.add(c.requests, float64(h.Requests), to.host)
	to.add(c.received, float64(h.BytesFromClients), to.host)
	to.add(c.sent, float64(h.BytesToClients), to.host)
	to.add(c.retries, float64(h.Retries), to.host)
	var labels [256]byte
	for _, class := range slices.Sorted(maps.Keys(h.Classes)) {
		of := append(append(appendLabel(labels[:0], "class", class), ','), to.host...)
		to.add(c.responses, float64(h.Classes[class]), of)
	}
	for _, reason := range slices.Sorted(maps.Keys(h.Refusals)) {
		of := appendLabel(append(labels[:0], to.host...), "reason", reason)
		to.add(c.refused, float64(h.Refusals[reason]), of)
	}
	text, name, n := to.texts[c.duration.place], c.duration.name, 0.0
	for _, b := range h.Latency.Buckets {
		n = float64(b.Count)
		of := append(append(labels[:0], to.host...), `,le="`...)
		if b.LeMs != nil {
			of = appendValue(of, time.Duration(*b.LeMs*float64(time.Millisecond)).Seconds())
		} else {
			of = append(of, "+Inf"...)
		}
		text = appendSample(text, name, "_bucket", append(of, '"'), n)
	}
	text = appendSample(text, name, "_sum", to.host, h.Latency.SumMs/1000)
	to.texts[c.duration.place] = appendSample(text, name, "_count", to.host, n)
}

func truth(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
