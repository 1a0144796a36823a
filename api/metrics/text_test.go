package metrics_test

import (
	"compress/gzip"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"switchboard/api"
	"switchboard/api/metrics"
	"switchboard/bridge"
	"switchboard/bridge/route"
	"switchboard/fixtures/spec"
)

var _ = Describe("The text", func() {
	var options metrics.Options

	BeforeEach(func() {
		spec.CheckLeaks()
		clock := spec.NewClock()
		options = metrics.Options{Sources: full(clock), Version: "v1", Clock: clock}
	})

	// rewritten is the text as the library writes what it has read of it.
	rewritten := func(text string) (lines []string) {
		GinkgoHelper()
		parser := expfmt.NewTextParser(model.UTF8Validation)
		families, err := parser.TextToMetricFamilies(strings.NewReader(text))
		Expect(err).NotTo(HaveOccurred())
		var again strings.Builder
		for _, name := range slices.Sorted(maps.Keys(families)) {
			_, err := expfmt.MetricFamilyToText(&again, families[name])
			Expect(err).NotTo(HaveOccurred())
		}
		return ours(again.String())
	}

	It("is what the library writes of the same samples, to the byte", func() {
		text := scrape(metrics.New(options))
		Expect(rewritten(text)).To(ConsistOf(ours(text)))
	})

	It("escapes what names may have in them", func() {
		name := "a\\b\"c\nd\xffé{}"
		options.Sources.Hosts = []api.HostSource{{
			Name: name,
			Cluster: func() (bridge.Cluster, bool) {
				return bridge.Cluster{Backends: []bridge.BackendState{{Backend: route.NewBackend(name, "10.0.0.1:80")}}}, true
			},
			Traffic: func() (bridge.Traffic, bool) { return bridge.Traffic{}, false },
			Counts:  func() bridge.Counts { return bridge.Counts{Sessions: 12_345_678} },
		}}
		text := scrape(metrics.New(options))
		Expect(rewritten(text)).To(ConsistOf(ours(text)))
		Expect(ours(text)).To(ContainElements(
			`switchboard_host_sessions{host="a\\b\"c\nd�é{}"} 1.2345678e+07`,
			`switchboard_backend_weight{backend="a\\b\"c\nd�é{}",host="a\\b\"c\nd�é{}"} 1`,
		))
	})

	It("has all of a family in one place, and is the same when its buffers are used again", func() {
		h := metrics.New(options)
		first := scrape(h)
		Expect(ours(scrape(h))).To(Equal(ours(first)))
		options.Sources.Hosts = options.Sources.Hosts[:1]
		Expect(ours(scrape(h))).To(Equal(ours(first)), "what it was made with")
		seen, last := map[string]bool{}, ""
		for line := range strings.Lines(first) {
			if name, found := strings.CutPrefix(line, "# HELP "); found {
				last, _, _ = strings.Cut(name, " ")
				Expect(seen).NotTo(HaveKey(last))
				seen[last] = true
			} else if !strings.HasPrefix(line, "#") {
				Expect(line).To(HavePrefix(last))
			}
		}
	})

	DescribeTable("is compressed for who takes that",
		func(accepted, encoding string) {
			h, r := metrics.New(options), httptest.NewRequest(http.MethodGet, "/metrics", nil)
			r.Header.Set("Accept-Encoding", accepted)
			for range 2 {
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				Expect(w.Header().Get("Content-Encoding")).To(Equal(encoding))
				text := io.Reader(w.Body)
				if encoding == "gzip" {
					var err error
					text, err = gzip.NewReader(w.Body)
					Expect(err).NotTo(HaveOccurred())
				} else {
					Expect(w.Header().Get("Content-Length")).NotTo(BeEmpty())
				}
				whole, err := io.ReadAll(text)
				Expect(err).NotTo(HaveOccurred())
				Expect(ours(string(whole))).To(ContainElement("switchboard_sessions 9"))
			}
		},
		Entry("nobody", "", ""),
		Entry("another coding", "deflate, br", ""),
		Entry("gzip", "gzip", "gzip"),
		Entry("gzip among others", "br;q=1.0, GZIP ; q=0.5", "gzip"),
		Entry("anything but gzip", "gzip;q=0, br", ""),
		Entry("a weight that cannot be read", "gzip;q=x", ""),
	)
})
