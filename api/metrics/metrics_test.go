package metrics_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"switchboard/api"
	"switchboard/api/metrics"
	"switchboard/bridge"
	"switchboard/bridge/feed"
	"switchboard/bridge/route"
	"switchboard/fixtures/spec"
)

// full is all that a router can have: a database, web apps, a table and an access log.
func full(clock *spec.Clock) api.Sources {
	var traffic feed.Feed[bridge.Traffic]
	traffic.Put(bridge.Traffic{Enabled: true})
	db0, db1 := route.NewBackend("db-0", "10.0.0.1:3306"), route.NewBackend("db-1", "10.0.0.2:3306")
	on := func() (bridge.Traffic, bool) { return bridge.Traffic{Enabled: true}, true }
	half, since := 0.5, clock.Now()
	return api.Sources{
		Name: "router-1", Traffic: &traffic, Ready: func() error { return nil }, Sessions: func() int { return 9 },
		Hosts: []api.HostSource{
			{
				Name: "db.main", Policy: route.Active,
				Cluster: func() (bridge.Cluster, bool) {
					return bridge.Cluster{Active: bridge.Active{Backend: &db0, Epoch: 3}, Backends: []bridge.BackendState{
						{Backend: db0, Verdict: true, Healthy: true, CheckedAt: since, Took: 1500 * time.Microsecond},
						{Backend: db1, Healthy: true},
					}}, true
				},
				Traffic: on,
				Counts: func() bridge.Counts {
					return bridge.Counts{Sessions: 7, Parked: 2, Backends: map[string]int{"db-0": 7, "db-1": 0}}
				},
			},
			{
				Name: "*.shop", Policy: route.Balance,
				Cluster: func() (bridge.Cluster, bool) {
					return bridge.Cluster{Backends: []bridge.BackendState{{Backend: route.NewBackend("app/1", "10.0.1.1:80"), Verdict: true, Healthy: true}}}, true
				},
				Traffic: func() (bridge.Traffic, bool) { return bridge.Traffic{}, false },
				Counts:  func() bridge.Counts { return bridge.Counts{} },
				Weights: func() map[string]int { return map[string]int{"app/1": 0} },
				HTTP: func() *api.HTTP {
					return &api.HTTP{
						Requests: 4, Classes: map[string]int64{"2xx": 3, "5xx": 1}, BytesFromClients: 5, BytesToClients: 6, Retries: 1,
						Refusals: map[string]int64{"no_backend": 1},
						Latency:  api.Latency{SumMs: 7.5, Buckets: []api.Bucket{{LeMs: &half, Count: 3}, {Count: 4}}},
					}
				},
			},
		},
		Table: &api.TableSource{
			State: func() api.Table {
				return api.Table{Serial: 12, Hosts: 5000, Loaded: true, Stale: true, Since: &since, Alarm: "lost", Rejected: api.Rejected{Members: 2}, Changes: 3, Compares: 4, Failures: 5}
			},
			Accept: func(context.Context) error { return nil },
			Hosts:  func() []api.HostSource { return nil },
			Host:   func(string) (api.HostSource, bool) { return api.HostSource{}, false },
		},
		Refusals: func() map[string]int64 { return map[string]int64{"no_host": 3} },
		AccessLog: func() *api.AccessLog {
			return &api.AccessLog{Written: 8, Dropped: map[string]int64{"failed": 2}, Error: "full"}
		},
		Ended: func() map[string]int64 { return map[string]int64{"severed": 5} },
	}
}

// scrape asks as Prometheus does.
func scrape(h http.Handler) string {
	GinkgoHelper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	Expect(w.Code).To(Equal(http.StatusOK), w.Body.String())
	Expect(w.Header().Get("Content-Type")).To(HavePrefix("text/plain; version=0.0.4"))
	return w.Body.String()
}

// ours are the lines of the router's own metrics, without their help.
func ours(text string) (lines []string) {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "switchboard_") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

var _ = Describe("Metrics", func() {
	var (
		clock   *spec.Clock
		options metrics.Options
	)

	BeforeEach(func() {
		spec.CheckLeaks()
		clock = spec.NewClock()
		options = metrics.Options{Sources: full(clock), Version: "v1.2.3", Revision: "abc", Clock: clock}
		clock.Advance(90 * time.Second)
	})

	It("are the state as it is when it is asked for", func() {
		lines := ours(scrape(metrics.New(options)))
		Expect(lines).To(ContainElement(MatchRegexp(`^switchboard_build_info\{goversion="go1\.\S+",revision="abc",version="v1\.2\.3"\} 1$`)))
		Expect(lines).To(ContainElements(
			`switchboard_traffic_enabled 1`,
			`switchboard_ready 1`,
			`switchboard_sessions 9`,
			`switchboard_connections_total{reason="severed"} 5`,
			`switchboard_unroutable_requests_total{reason="no_host"} 3`,
			`switchboard_accesslog_lines_total 8`,
			`switchboard_accesslog_dropped_lines_total{cause="failed"} 2`,
			`switchboard_accesslog_failing 1`,
			`switchboard_hosts 2`,
			`switchboard_hosts_left_out 5000`,
			`switchboard_table_serial 12`,
			`switchboard_table_hosts 5000`,
			`switchboard_table_loaded 1`,
			`switchboard_table_stale 1`,
			`switchboard_table_stale_seconds 90`,
			`switchboard_table_alarm 1`,
			`switchboard_table_rejected{kind="member"} 2`,
			`switchboard_table_changes_total 3`,
			`switchboard_table_compares_total 4`,
			`switchboard_table_failures_total 5`,
		))
		Expect(lines).To(ContainElements(
			`switchboard_host_traffic_enabled{host="db.main"} 1`,
			`switchboard_host_traffic_enabled{host="*.shop"} 0`,
			`switchboard_host_sessions{host="db.main"} 7`,
			`switchboard_host_parked_clients{host="db.main"} 2`,
			`switchboard_host_epoch{host="db.main"} 3`,
			`switchboard_host_backends{host="db.main"} 2`,
			`switchboard_host_healthy_backends{host="db.main"} 1`,
			`switchboard_host_requests_total{host="*.shop"} 4`,
			`switchboard_host_responses_total{class="2xx",host="*.shop"} 3`,
			`switchboard_host_responses_total{class="5xx",host="*.shop"} 1`,
			`switchboard_host_received_bytes_total{host="*.shop"} 5`,
			`switchboard_host_sent_bytes_total{host="*.shop"} 6`,
			`switchboard_host_retries_total{host="*.shop"} 1`,
			`switchboard_host_refused_requests_total{host="*.shop",reason="no_backend"} 1`,
			`switchboard_host_request_duration_seconds_bucket{host="*.shop",le="0.0005"} 3`,
			`switchboard_host_request_duration_seconds_bucket{host="*.shop",le="+Inf"} 4`,
			`switchboard_host_request_duration_seconds_sum{host="*.shop"} 0.0075`,
			`switchboard_host_request_duration_seconds_count{host="*.shop"} 4`,
			`switchboard_backend_up{backend="db-0",host="db.main"} 1`,
			`switchboard_backend_up{backend="db-1",host="db.main"} 0`,
			`switchboard_backend_active{backend="db-0",host="db.main"} 1`,
			`switchboard_backend_active{backend="db-1",host="db.main"} 0`,
			`switchboard_backend_sessions{backend="db-0",host="db.main"} 7`,
			`switchboard_backend_weight{backend="db-1",host="db.main"} 1`,
			`switchboard_backend_weight{backend="app/1",host="*.shop"} 0`,
			`switchboard_backend_check_duration_seconds{backend="db-0",host="db.main"} 0.0015`,
		))
		Expect(lines).NotTo(ContainElement(HavePrefix(`switchboard_backend_check_duration_seconds{backend="db-1"`)), "it has not been probed")
	})

	It("are left out where there is nothing to tell", func() {
		s := options.Sources
		s.Table, s.Refusals, s.AccessLog, s.Ended, s.Ready = nil, nil, nil, nil, func() error { return errors.New("starting") }
		options.Sources = s
		lines := ours(scrape(metrics.New(options)))
		Expect(lines).To(ContainElements("switchboard_ready 0", "switchboard_hosts_left_out 0"))
		Expect(strings.Join(lines, "\n")).NotTo(Or(ContainSubstring("_table_"), ContainSubstring("accesslog"), ContainSubstring("unroutable"), ContainSubstring("connections")))
	})

	It("are named as Prometheus would have it", func() {
		problems, err := testutil.GatherAndLint(metrics.Gatherer(options))
		Expect(err).NotTo(HaveOccurred())
		Expect(problems).To(BeEmpty())
	})

	It("have those of the Go runtime and the process with them", func() {
		Expect(scrape(metrics.New(options))).To(And(ContainSubstring("\ngo_goroutines "), ContainSubstring("\nprocess_open_fds "), ContainSubstring("\nprocess_resident_memory_bytes ")))
	})

	It("have no series for hosts that are not listed, however many there are (A14)", func() {
		const listed, table = 1000, 1_000_000
		source := func(name string) api.HostSource {
			return api.HostSource{
				Name: name, Policy: route.Balance, FromTable: true,
				Cluster: func() (bridge.Cluster, bool) { return bridge.Cluster{}, true },
				Traffic: func() (bridge.Traffic, bool) { return bridge.Traffic{Enabled: true}, true },
				Counts:  func() bridge.Counts { return bridge.Counts{} },
			}
		}
		options.Sources.Table.State = func() api.Table { return api.Table{Hosts: table, Loaded: true} }
		options.Sources.Table.Hosts = func() (hosts []api.HostSource) {
			for n := range listed {
				hosts = append(hosts, source(fmt.Sprintf("app-%d.test", n)))
			}
			return hosts
		}
		lines := ours(scrape(metrics.New(options)))
		Expect(lines).To(ContainElements("switchboard_hosts 1002", "switchboard_hosts_left_out 999000"))
		Expect(len(lines)).To(BeNumerically("<", 6*listed+100))
	})

	It("may be asked for by many at once", func() {
		h := metrics.New(options)
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				defer GinkgoRecover()
				Expect(ours(scrape(h))).To(ContainElement("switchboard_sessions 9"))
			})
		}
		all.Wait()
	})

	It("of two routers in one program do not meet", func() {
		other := options
		other.Sources.Sessions = func() int { return 1 }
		one, two := metrics.New(options), metrics.New(other)
		Expect(ours(scrape(one))).To(ContainElement("switchboard_sessions 9"))
		Expect(ours(scrape(two))).To(ContainElement("switchboard_sessions 1"))
	})
})
