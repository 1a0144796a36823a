package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"switchboard/api"
	"switchboard/bridge"
	"switchboard/bridge/clock"
)

// family is one metric with its help and the names of its labels.
type family struct {
	desc    *prometheus.Desc
	counter bool
}

// collector reads the state when it is asked.
type collector struct {
	sources api.Sources
	clock   clock.Clock

	traffic, ready, sessions, ended, unroutable                      family
	logLines, logDropped, logFailing                                 family
	hosts, leftOut                                                   family
	tableSerial, tableHosts, tableLoaded, tableStale, tableStaleFor  family
	tableAlarm, tableRejected, tableChanges, tableCompares, tableErr family

	hostTraffic, hostSessions, hostParked, hostEpoch, hostBackends, hostHealthy family
	requests, responses, received, sent, retries, refused                       family
	duration                                                                    *prometheus.Desc

	up, active, backendSessions, weight, check family
}

func newCollector(o Options) *collector {
	gauge := func(name, help string, labels ...string) family {
		return family{desc: prometheus.NewDesc("switchboard_"+name, help, labels, nil)}
	}
	counter := func(name, help string, labels ...string) family {
		f := gauge(name+"_total", help, labels...)
		f.counter = true
		return f
	}
	return &collector{
		sources: o.Sources, clock: o.Clock,

		traffic:    gauge("traffic_enabled", "Whether the router routes: its own traffic flag."),
		ready:      gauge("ready", "Whether the router is ready, as GET /readyz says."),
		sessions:   gauge("sessions", "Open sessions of all hosts, requests in flight among them."),
		ended:      counter("connections", "Connections that have ended, by reason: sessions, and those that were refused. HTTP requests are none.", "reason"),
		unroutable: counter("unroutable_requests", "HTTP requests that were refused before it was known which host they were for, by reason.", "reason"),
		logLines:   counter("accesslog_lines", "Lines of the access log that were written."),
		logDropped: counter("accesslog_dropped_lines", "Lines of the access log that were lost, by cause.", "cause"),
		logFailing: gauge("accesslog_failing", "Whether the access log cannot be written now."),

		hosts:         gauge("hosts", "Hosts that have series here."),
		leftOut:       gauge("hosts_left_out", "Hosts of the routing table that have no series here, since there are too many."),
		tableSerial:   gauge("table_serial", "Serial of the routing table that serves."),
		tableHosts:    gauge("table_hosts", "Hosts in the routing table."),
		tableLoaded:   gauge("table_loaded", "Whether there is a routing table, be it one from disk."),
		tableStale:    gauge("table_stale", "Whether Redis may have a newer routing table."),
		tableStaleFor: gauge("table_stale_seconds", "For how long the routing table has been stale; 0 if it is not."),
		tableAlarm:    gauge("table_alarm", "Whether Redis has lost what the routing table has kept."),
		tableRejected: gauge("table_rejected", "What is in Redis and not in the routing table, by kind.", "kind"),
		tableChanges:  counter("table_changes", "Change records of the routing table that were read."),
		tableCompares: counter("table_compares", "Compares of the whole routing table."),
		tableErr:      counter("table_failures", "Calls of the routing table's Redis that have failed."),

		hostTraffic:  gauge("host_traffic_enabled", "Whether the host's own traffic flag is on.", "host"),
		hostSessions: gauge("host_sessions", "Open sessions of the host, requests in flight among them.", "host"),
		hostParked:   gauge("host_parked_clients", "Clients that wait for an active backend.", "host"),
		hostEpoch:    gauge("host_epoch", "Epoch of the host: how often it has had a new active backend, over restarts.", "host"),
		hostBackends: gauge("host_backends", "Backends of the host.", "host"),
		hostHealthy:  gauge("host_healthy_backends", "Backends of the host that are healthy.", "host"),
		requests:     counter("host_requests", "HTTP requests of the host that have been answered or given up.", "host"),
		responses:    counter("host_responses", "Answers to HTTP requests, by the first digit of their status.", "class", "host"),
		received:     counter("host_received_bytes", "Bytes of HTTP requests from clients, heads included.", "host"),
		sent:         counter("host_sent_bytes", "Bytes of answers to HTTP clients, heads included.", "host"),
		retries:      counter("host_retries", "Attempts of HTTP requests beyond the first.", "host"),
		refused:      counter("host_refused_requests", "HTTP requests that the router has answered itself, by reason.", "host", "reason"),
		duration: prometheus.NewDesc("switchboard_host_request_duration_seconds",
			"How long HTTP requests took, from the whole head to the last byte of the answer.", []string{"host"}, nil),

		up:              gauge("backend_up", "Whether the backend is healthy.", "backend", "host"),
		active:          gauge("backend_active", "Whether the backend is its host's active one.", "backend", "host"),
		backendSessions: gauge("backend_sessions", "Open sessions of the backend, requests in flight among them.", "backend", "host"),
		weight:          gauge("backend_weight", "Weight of the backend that is in force.", "backend", "host"),
		check:           gauge("backend_check_duration_seconds", "How long the last probe of the backend took.", "backend", "host"),
	}
}

// Describe describes nothing, so that the registry does not compare every sample of a
// scrape with its description once more.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// Collect reads the state.
func (c *collector) Collect(to chan<- prometheus.Metric) {
	s := c.sources
	flag, _ := s.Traffic.Get()
	to <- c.traffic.of(truth(flag.Enabled))
	to <- c.ready.of(truth(s.Ready() == nil))
	to <- c.sessions.of(float64(s.Sessions()))
	if s.Ended != nil {
		c.ended.each(to, "reason", s.Ended())
	}
	if s.Refusals != nil {
		c.unroutable.each(to, "reason", s.Refusals())
	}
	if s.AccessLog != nil {
		log := s.AccessLog()
		to <- c.logLines.of(float64(log.Written))
		to <- c.logFailing.of(truth(log.Error != ""))
		c.logDropped.each(to, "cause", log.Dropped)
	}
	listed := s.Listed()
	to <- c.hosts.of(float64(len(listed)))
	leftOut := 0
	if s.Table != nil {
		leftOut = c.table(to, len(listed)-len(s.Hosts))
	}
	to <- c.leftOut.of(float64(leftOut))
	for _, host := range listed {
		c.host(to, host)
	}
}

// table tells of the table, and returns how many of its hosts are not listed.
func (c *collector) table(to chan<- prometheus.Metric, listed int) (leftOut int) {
	t := c.sources.Table.State()
	staleFor := 0.0
	if t.Stale && t.Since != nil {
		staleFor = max(c.clock.Now().Sub(*t.Since).Seconds(), 0)
	}
	to <- c.tableSerial.of(float64(t.Serial))
	to <- c.tableHosts.of(float64(t.Hosts))
	to <- c.tableLoaded.of(truth(t.Loaded))
	to <- c.tableStale.of(truth(t.Stale))
	to <- c.tableStaleFor.of(staleFor)
	to <- c.tableAlarm.of(truth(t.Alarm != ""))
	c.tableRejected.each(to, "kind", map[string]int64{
		"host": int64(t.Rejected.Hosts), "member": int64(t.Rejected.Members), "option": int64(t.Rejected.Options),
	})
	to <- c.tableChanges.of(float64(t.Changes))
	to <- c.tableCompares.of(float64(t.Compares))
	to <- c.tableErr.of(float64(t.Failures))
	return max(t.Hosts-listed, 0)
}

func (c *collector) host(to chan<- prometheus.Metric, source api.HostSource) {
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
	to <- c.hostTraffic.of(truth(flag.Enabled), of...)
	to <- c.hostSessions.of(float64(counts.Sessions), of...)
	to <- c.hostParked.of(float64(counts.Parked), of...)
	to <- c.hostEpoch.of(float64(cluster.Active.Epoch), of...)
	to <- c.hostBackends.of(float64(len(cluster.Backends)), of...)
	to <- c.hostHealthy.of(float64(healthy), of...)
	c.backends(to, source, cluster, counts, host)
	if source.HTTP == nil {
		return
	}
	if h := source.HTTP(); h != nil {
		c.http(to, source.Name, h, host)
	}
}

func (c *collector) backends(to chan<- prometheus.Metric, source api.HostSource, cluster bridge.Cluster, counts bridge.Counts, host *dto.LabelPair) {
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
		to <- c.up.of(truth(b.Verdict && b.Healthy), of...)
		to <- c.active.of(truth(active != nil && active.Name == b.Name), of...)
		to <- c.backendSessions.of(float64(counts.Backends[b.Name]), of...)
		to <- c.weight.of(float64(weight), of...)
		if !b.CheckedAt.IsZero() {
			to <- c.check.of(b.Took.Seconds(), of...)
		}
	}
}

func (c *collector) http(to chan<- prometheus.Metric, name string, h *api.HTTP, host *dto.LabelPair) {
	to <- c.requests.of(float64(h.Requests), host)
	to <- c.received.of(float64(h.BytesFromClients), host)
	to <- c.sent.of(float64(h.BytesToClients), host)
	to <- c.retries.of(float64(h.Retries), host)
	for class, n := range h.Classes {
		to <- c.responses.of(float64(n), label("class", class), host)
	}
	for reason, n := range h.Refusals {
		to <- c.refused.of(float64(n), host, label("reason", reason))
	}
	var all uint64
	buckets := make(map[float64]uint64, len(h.Latency.Buckets))
	for _, b := range h.Latency.Buckets {
		if all = uint64(b.Count); b.LeMs != nil {
			buckets[(time.Duration(*b.LeMs * float64(time.Millisecond))).Seconds()] = all
		}
	}
	to <- prometheus.MustNewConstHistogram(c.duration, all, h.Latency.SumMs/1000, buckets, name)
}

// of is a sample of the family. The labels are in the order of their names.
func (f family) of(value float64, labels ...*dto.LabelPair) *sample {
	return &sample{family: f, labels: labels, value: value}
}

// each sends a sample for every entry.
func (f family) each(to chan<- prometheus.Metric, name string, values map[string]int64) {
	for value, n := range values {
		to <- f.of(float64(n), label(name, value))
	}
}

// sample is a value as it was when it was read.
type sample struct {
	family
	labels []*dto.LabelPair
	value  float64
}

// Desc and Write are a [prometheus.Metric]'s.
func (s *sample) Desc() *prometheus.Desc { return s.desc }

func (s *sample) Write(to *dto.Metric) error {
	to.Label = s.labels
	if s.counter {
		to.Counter = &dto.Counter{Value: &s.value}
	} else {
		to.Gauge = &dto.Gauge{Value: &s.value}
	}
	return nil
}

func label(name, value string) *dto.LabelPair {
	return &dto.LabelPair{Name: &name, Value: &value}
}

func truth(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
