package metrics

import (
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"switchboard/api"
	"switchboard/bridge/clock"
)

// Options are what the metrics of a router are made of.
type Options struct {
	// Sources is the state to show, as the API has it. It is needed.
	Sources api.Sources
	// Version and Revision are the program's, for switchboard_build_info.
	Version, Revision string
	// Log gets what goes wrong in a scrape. Nil: nobody.
	Log *slog.Logger
	// Clock is what the age of a stale table is measured by. Nil: the machine's.
	Clock clock.Clock
}

// New returns the handler of GET /metrics.
func New(o Options) http.Handler {
	log := o.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return promhttp.HandlerFor(Gatherer(o), promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelError),
		// One bad series is no reason to show none.
		ErrorHandling: promhttp.ContinueOnError,
	})
}

// Gatherer returns what New's handler writes, for a program with a handler of its own.
func Gatherer(o Options) prometheus.Gatherer {
	if o.Clock == nil {
		o.Clock = clock.System{}
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return newCollector(o, registry)
}
