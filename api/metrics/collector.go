package metrics

import (
	"maps"
	"math"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"switchboard/api"
	"switchboard/bridge"
	"switchboard/bridge/clock"
)

// family is one metric, at its place among all.
type family struct {
	place      int
	name, help string
	kind       dto.MetricType
}

// collector reads the state when it is asked.
type collector struct {
	sources api.Sources
	clock   clock.Clock
	build   []*dto.LabelPair
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
		build: []*dto.LabelPair{label("goversion", runtime.Version()), label("revision", o.Revision), label("version", o.Version)},
	}
	add := func(kind dto.MetricType, name, help string) family {
		f := family{len(c.families), "switchboard_" + name, help, kind}
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

// Gather reads the state, and has the others' metrics with it.
func (c *collector) Gather() ([]*dto.MetricFamily, error) {
	all, err := c.others.Gather()
	to := &page{metrics: make([][]*dto.Metric, len(c.families))}
	c.collect(to)
	for _, f := range c.families {
		if metrics := to.metrics[f.place]; len(metrics) > 0 {
			all = append(all, &dto.MetricFamily{Name: &f.name, Help: &f.help, Type: &f.kind, Metric: metrics})
		}
	}
	return all, err
}

func (c *collector) collect(to *page) {
	s := c.sources
	to.add(c.info, 1, c.build...)
	flag, _ := s.Traffic.Get()
	to.add(c.traffic, truth(flag.Enabled))
	to.add(c.ready, truth(s.Ready() == nil))
	to.add(c.sessions, float64(s.Sessions()))
	if s.Ended != nil {
		to.each(c.ended, "reason", s.Ended())
	}
	if s.Refusals != nil {
		to.each(c.unroutable, "reason", s.Refusals())
	}
	if s.AccessLog != nil {
		log := s.AccessLog()
		to.add(c.logLines, float64(log.Written))
		to.add(c.logFailing, truth(log.Error != ""))
		to.each(c.logDropped, "cause", log.Dropped)
	}
	listed := s.Listed()
	to.add(c.hosts, float64(len(listed)))
	leftOut := 0
	if s.Table != nil {
		leftOut = c.table(to, len(listed)-len(s.Hosts))
	}
	to.add(c.leftOut, float64(leftOut))
	for _, host := range listed {
		c.host(to, host)
	}
}

// table tells of the table, and returns how many of its hosts are not listed.
func (c *collector) table(to *page, listed int) (leftOut int) {
	t := c.sources.Table.State()
	staleFor := 0.0
	if t.Stale && t.Since != nil {
		staleFor = max(c.clock.Now().Sub(*t.Since).Seconds(), 0)
	}
	to.add(c.tableSerial, float64(t.Serial))
	to.add(c.tableHosts, float64(t.Hosts))
	to.add(c.tableLoaded, truth(t.Loaded))
	to.add(c.tableStale, truth(t.Stale))
	to.add(c.tableStaleFor, staleFor)
	to.add(c.tableAlarm, truth(t.Alarm != ""))
	to.each(c.tableRejected, "kind", map[string]int64{
		"host": int64(t.Rejected.Hosts), "member": int64(t.Rejected.Members), "option": int64(t.Rejected.Options),
	})
	to.add(c.tableChanges, float64(t.Changes))
	to.add(c.tableCompares, float64(t.Compares))
	to.add(c.tableErr, float64(t.Failures))
	return max(t.Hosts-listed, 0)
}

func (c *collector) host(to *page, source api.HostSource) {
	cluster, _ := source.Cluster()
	flag, _ := source.Traffic()
	counts := source.Counts()
	host := label("host", source.Name)
	healthy := 0
	for _, b := range cluster.Backends {
		if b.Verdict && b.Healthy {
			healthy++
		}
	}
	of := []*dto.LabelPair{host}
	to.add(c.hostTraffic, truth(flag.Enabled), of...)
	to.add(c.hostSessions, float64(counts.Sessions), of...)
	to.add(c.hostParked, float64(counts.Parked), of...)
	to.add(c.hostEpoch, float64(cluster.Active.Epoch), of...)
	to.add(c.hostBackends, float64(len(cluster.Backends)), of...)
	to.add(c.hostHealthy, float64(healthy), of...)
	c.backends(to, source, cluster, counts, host)
	if source.HTTP == nil {
		return
	}
	if h := source.HTTP(); h != nil {
		c.http(to, h, host)
	}
}

func (c *collector) backends(to *page, source api.HostSource, cluster bridge.Cluster, counts bridge.Counts, host *dto.LabelPair) {
	var weights map[string]int
	if source.Weights != nil {
		weights = source.Weights()
	}
	active := cluster.Active.Backend
	for _, b := range cluster.Backends {
		weight, set := weights[b.Name]
		if !set {
			weight = b.Weight
		}
		of := []*dto.LabelPair{label("backend", b.Name), host}
		to.add(c.up, truth(b.Verdict && b.Healthy), of...)
		to.add(c.active, truth(active != nil && active.Name == b.Name), of...)
		to.add(c.backendSessions, float64(counts.Backends[b.Name]), of...)
		to.add(c.weight, float64(weight), of...)
		if !b.CheckedAt.IsZero() {
			to.add(c.check, b.Took.Seconds(), of...)
		}
	}
}

func (c *collector) http(to *page, h *api.HTTP, host *dto.LabelPair) {
	to.add(c.requests, float64(h.Requests), host)
	to.add(c.received, float64(h.BytesFromClients), host)
	to.add(c.sent, float64(h.BytesToClients), host)
	to.add(c.retries, float64(h.Retries), host)
	for _, class := range slices.Sorted(maps.Keys(h.Classes)) {
		to.add(c.responses, float64(h.Classes[class]), label("class", class), host)
	}
	for _, reason := range slices.Sorted(maps.Keys(h.Refusals)) {
		to.add(c.refused, float64(h.Refusals[reason]), host, label("reason", reason))
	}
	sum, histogram := h.Latency.SumMs/1000, &dto.Histogram{}
	histogram.SampleSum = &sum
	for _, b := range h.Latency.Buckets {
		n, bound := uint64(b.Count), math.Inf(1)
		if b.LeMs != nil {
			bound = time.Duration(*b.LeMs * float64(time.Millisecond)).Seconds()
		}
		histogram.SampleCount = &n
		histogram.Bucket = append(histogram.Bucket, &dto.Bucket{CumulativeCount: &n, UpperBound: &bound})
	}
	to.metrics[c.duration.place] = append(to.metrics[c.duration.place], &dto.Metric{Label: []*dto.LabelPair{host}, Histogram: histogram})
}

// page is what a scrape has collected, by the places of the families.
type page struct {
	metrics  [][]*dto.Metric
	gauges   []gaugeSample
	counters []counterSample
}

// gaugeSample and counterSample are one each, with all that the library wants pointers to.
type gaugeSample struct {
	metric dto.Metric
	gauge  dto.Gauge
	value  float64
}

type counterSample struct {
	metric  dto.Metric
	counter dto.Counter
	value   float64
}

// chunk is how many samples are allocated at once.
const chunk = 256

// add adds a sample. The labels are in the order of their names; they may be shared.
func (p *page) add(f family, value float64, labels ...*dto.LabelPair) {
	var metric *dto.Metric
	if f.kind == dto.MetricType_COUNTER {
		if len(p.counters) == 0 {
			p.counters = make([]counterSample, chunk)
		}
		s := &p.counters[0]
		p.counters = p.counters[1:]
		s.value, s.counter.Value, s.metric.Counter = value, &s.value, &s.counter
		metric = &s.metric
	} else {
		if len(p.gauges) == 0 {
			p.gauges = make([]gaugeSample, chunk)
		}
		s := &p.gauges[0]
		p.gauges = p.gauges[1:]
		s.value, s.gauge.Value, s.metric.Gauge = value, &s.value, &s.gauge
		metric = &s.metric
	}
	metric.Label = labels
	p.metrics[f.place] = append(p.metrics[f.place], metric)
}

// each adds a sample for every entry, with its name as the label.
func (p *page) each(f family, name string, values map[string]int64) {
	for _, value := range slices.Sorted(maps.Keys(values)) {
		p.add(f, float64(values[value]), label(name, value))
	}
}

// label is one of a value that may be anything; the format has UTF-8 only.
func label(name, value string) *dto.LabelPair {
	value = strings.ToValidUTF8(value, "\uFFFD")
	return &dto.LabelPair{Name: &name, Value: &value}
}

func truth(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
