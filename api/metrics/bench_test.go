package metrics_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"switchboard/api"
	"switchboard/api/metrics"
	"switchboard/bridge"
	"switchboard/bridge/feed"
	"switchboard/bridge/route"
)

// discarded is an answer that nobody reads.
type discarded struct {
	header http.Header
	bytes  int64
}

func (d *discarded) Header() http.Header { return d.header }
func (d *discarded) WriteHeader(int)     {}
func (d *discarded) Write(p []byte) (int, error) {
	n, err := io.Discard.Write(p)
	d.bytes += int64(n)
	return n, err
}

// BenchmarkScrape is a scrape of 10,000 hosts of two backends each.
func BenchmarkScrape(b *testing.B) {
	var traffic feed.Feed[bridge.Traffic]
	traffic.Put(bridge.Traffic{Enabled: true})
	s := api.Sources{Traffic: &traffic, Ready: func() error { return nil }, Sessions: func() int { return 0 }}
	for n := range 10_000 {
		name := fmt.Sprintf("host-%d.example.com", n)
		cluster := bridge.Cluster{Host: name, Backends: []bridge.BackendState{
			{Backend: route.NewBackend("b-0", "10.0.0.1:80"), Verdict: true, Healthy: true, CheckedAt: time.Unix(1, 0), Took: time.Millisecond},
			{Backend: route.NewBackend("b-1", "10.0.0.2:80"), Verdict: true, Healthy: true, CheckedAt: time.Unix(1, 0), Took: time.Millisecond},
		}}
		s.Hosts = append(s.Hosts, api.HostSource{
			Name: name, Policy: route.Balance,
			Cluster: func() (bridge.Cluster, bool) { return cluster, true },
			Traffic: func() (bridge.Traffic, bool) { return bridge.Traffic{Enabled: true}, true },
			Counts: func() bridge.Counts {
				return bridge.Counts{Sessions: 3, Backends: map[string]int{"b-0": 1, "b-1": 2}}
			},
			CountInto: func(c *bridge.Counts) { c.Sessions, c.Backends["b-0"], c.Backends["b-1"] = 3, 1, 2 },
		})
	}
	h := metrics.New(metrics.Options{Sources: s})
	for _, encoding := range []string{"identity", "gzip"} {
		b.Run(encoding, func(b *testing.B) {
			b.ReportAllocs()
			r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
			r.Header.Set("Accept-Encoding", encoding)
			var written int64
			for b.Loop() {
				w := &discarded{header: make(http.Header)}
				h.ServeHTTP(w, r)
				written = w.bytes
			}
			b.ReportMetric(float64(written), "answer-bytes")
		})
	}
}
