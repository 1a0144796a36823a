package metrics

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

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
func New(o Options) http.Handler { return newHandler(o) }

// Gatherer returns what New's handler writes, for a program with a handler of its own.
func Gatherer(o Options) prometheus.Gatherer { return gatherer{newHandler(o)} }

// handler answers scrapes.
type handler struct {
	*collector
	log   *slog.Logger
	turns *api.Turns
	// pages are those that scrapes have written, for the next ones.
	pages chan *page
	zips  sync.Pool // of *gzip.Writer
}

func newHandler(o Options) *handler {
	if o.Clock == nil {
		o.Clock = clock.System{}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return &handler{
		collector: newCollector(o, registry), log: o.Log, turns: api.NewTurns(clock.System{}), pages: make(chan *page, api.MaxScrapes),
	}
}

// ServeHTTP collects a page, in turns, and then writes it, likewise. Who leaves meanwhile is
// not answered.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, turn, p := r.Context(), h.turns.Begin(), h.take()
	defer h.give(p)
	if err := h.fill(ctx, turn, p); err != nil {
		panic(http.ErrAbortHandler)
	}
	header := w.Header()
	header.Set("Content-Type", string(expfmt.NewFormat(expfmt.TypeTextPlain)))
	header.Set("Vary", "Accept-Encoding")
	if !takesGzip(r) {
		header.Set("Content-Length", strconv.Itoa(p.size()))
		// A client that has left needs no answer.
		_ = p.write(ctx, turn, w)
		return
	}
	header.Set("Content-Encoding", "gzip")
	zip, _ := h.zips.Get().(*gzip.Writer)
	if zip == nil {
		// It fails for a level that there is not.
		zip, _ = gzip.NewWriterLevel(w, gzip.BestSpeed)
	}
	zip.Reset(w)
	if p.write(ctx, turn, zip) == nil {
		_ = zip.Close()
	}
	zip.Reset(io.Discard) // so that it does not keep w
	h.zips.Put(zip)
}

// fill collects all metrics. Those of the runtime and the process that cannot be had are
// left out: one bad series is no reason to show none.
func (h *handler) fill(ctx context.Context, turn *api.Turn, p *page) error {
	others, err := h.others.Gather()
	to := bytes.NewBuffer(p.others)
	for _, family := range others {
		if _, failed := expfmt.MetricFamilyToText(to, family); failed != nil && err == nil {
			err = failed
		}
	}
	if p.others = to.Bytes(); err != nil {
		h.log.Error("metrics are missing", "cause", err)
	}
	if err := turn.Rest(ctx); err != nil {
		return err
	}
	return h.collect(ctx, turn, p)
}

// take returns an empty page.
func (h *handler) take() *page {
	select {
	case p := <-h.pages:
		p.clear()
		return p
	default:
		return &page{families: h.families, texts: make([][]byte, len(h.families))}
	}
}

// give keeps a page for the next scrape, if there are not enough.
func (h *handler) give(p *page) {
	select {
	case h.pages <- p:
	default:
	}
}

// takesGzip tells whether the answer may be compressed: RFC 9110, section 12.5.3.
func takesGzip(r *http.Request) bool {
	for coding := range strings.SplitSeq(strings.Join(r.Header.Values("Accept-Encoding"), ","), ",") {
		name, weight, _ := strings.Cut(coding, ";")
		if !strings.EqualFold(strings.TrimSpace(name), "gzip") {
			continue
		}
		_, q, weighed := strings.Cut(weight, "=")
		n, err := strconv.ParseFloat(strings.TrimSpace(q), 64)
		return !weighed || err == nil && n > 0
	}
	return false
}

// gatherer reads what a handler writes.
type gatherer struct{ *handler }

// Gather is [prometheus.Gatherer]'s.
func (g gatherer) Gather() ([]*dto.MetricFamily, error) {
	p := g.take()
	defer g.give(p)
	if err := g.fill(context.Background(), g.turns.Begin(), p); err != nil {
		return nil, err
	}
	var text bytes.Buffer
	_ = p.write(context.Background(), g.turns.Begin(), &text) // a buffer takes all
	parser := expfmt.NewTextParser(model.UTF8Validation)
	byName, err := parser.TextToMetricFamilies(&text)
	if err != nil {
		return nil, fmt.Errorf("reading our own metrics: %w", err)
	}
	all := make([]*dto.MetricFamily, 0, len(byName))
	for _, family := range byName {
		all = append(all, family)
	}
	return all, nil
}
