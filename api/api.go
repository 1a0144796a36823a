package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/julienschmidt/httprouter"

	"switchboard/bridge"
	"switchboard/bridge/clock"
)

// Options are what an [API] is made of.
type Options struct {
	// Sources is the state to show. Every field is needed.
	Sources Sources
	// Commands does what operators ask for. It is needed.
	Commands Commands
	// Stats answers what was counted. Nil: nothing is.
	Stats Stats
	// Metrics answers GET /metrics, as api/metrics makes it; nil: that is not there. It is
	// called for [MaxScrapes] requests at once.
	Metrics http.Handler
	// Streams is how many GET /events there may be at once; 0: [MaxStreams]. Each takes
	// a connection of the server's.
	Streams int
	// Patience is how long a watcher of GET /events may take for what it is sent before
	// it is dropped, at least 1 ms; 0: [DefaultPatience].
	Patience time.Duration
	// Username and Password are what callers must know. Both empty: nobody is
	// asked, which is for loopback listeners only.
	Username, Password string
	// AllowedHosts are names, beside localhost and IP addresses, that a Host header
	// may have where there is no password. Without port.
	AllowedHosts []string
	// CommandTimeout is the longest a write waits for the write before it, and
	// then for its commands. Default 5 s.
	CommandTimeout time.Duration
	// Log gets a line a write, and at debug one a read. Nil: none.
	Log *slog.Logger
	// Clock is what wrong passwords are limited by, and when counts and comments are due
	// in streams of events. Nil: the machine's.
	Clock clock.Clock
}

// API answers operators. Make one with [New].
type API struct {
	sources  Sources
	commands Commands
	stats    Stats
	stream   *stream // nil: there is no journal
	turns    *Turns
	buffers  Buffers
	metrics  http.Handler
	scrapes  chan struct{} // one in it for each that is being answered
	timeout  time.Duration
	log      *slog.Logger
	guard    *guard
	router   *resource
	hosts    []*resource
	// slots are those of the table's hosts, of which there may be many: two of them may
	// share one.
	slots   [64]chan struct{}
	handler http.Handler
}

// New returns an API. Its errors are those of the options.
func New(o Options) (*API, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	if o.CommandTimeout == 0 {
		o.CommandTimeout = 5 * time.Second
	}
	if o.Streams == 0 {
		o.Streams = MaxStreams
	}
	if o.Patience == 0 {
		o.Patience = DefaultPatience
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = clock.System{}
	}
	a := &API{
		sources:  o.Sources,
		commands: o.Commands,
		stats:    o.Stats,
		turns:    NewTurns(clock.System{}),
		buffers:  NewBuffers(MaxScrapes),
		metrics:  o.Metrics,
		scrapes:  make(chan struct{}, MaxScrapes),
		timeout:  o.CommandTimeout,
		log:      o.Log,
		guard:    newGuard(o),
		router:   newRouterResource(o.Sources),
	}
	a.stream = newStream(o, a.turns, a.buffers)
	for _, source := range o.Sources.Hosts {
		a.hosts = append(a.hosts, newHostResource(source, make(chan struct{}, 1)))
	}
	for i := range a.slots {
		a.slots[i] = make(chan struct{}, 1)
	}
	a.handler = a.newRouter()
	return a, nil
}

// Handler returns the handler of all routes. It may be served by any number of
// servers at once.
func (a *API) Handler() http.Handler { return a.handler }

func (o Options) check() error {
	var all []error
	needed := func(name string, missing bool) {
		if missing {
			all = append(all, fmt.Errorf("%s is needed", name))
		}
	}
	needed("Commands", o.Commands == nil)
	needed("Sources.Traffic", o.Sources.Traffic == nil)
	needed("Sources.Ready", o.Sources.Ready == nil)
	needed("Sources.Sessions", o.Sources.Sessions == nil)
	if t := o.Sources.Table; t != nil {
		needed("every function of Sources.Table", t.State == nil || t.Accept == nil || t.Hosts == nil || t.Host == nil)
	}
	for i, h := range o.Sources.Hosts {
		needed(fmt.Sprintf("every function of the host %q", h.Name), h.Cluster == nil || h.Traffic == nil || h.Counts == nil)
		same := func(other HostSource) bool { return strings.EqualFold(other.Name, h.Name) }
		if slices.ContainsFunc(o.Sources.Hosts[:i], same) {
			all = append(all, fmt.Errorf("the host %q is there twice", h.Name))
		}
	}
	if (o.Username == "") != (o.Password == "") {
		all = append(all, errors.New("set both Username and Password, or neither"))
	}
	if o.CommandTimeout < 0 {
		all = append(all, errors.New("CommandTimeout must not be negative"))
	}
	if o.Streams < 0 {
		all = append(all, errors.New("set Streams to 0 or more"))
	}
	if o.Patience != 0 && o.Patience < time.Millisecond {
		all = append(all, errors.New("set Patience to 0, or to 1ms at least"))
	}
	if err := errors.Join(all...); err != nil {
		return fmt.Errorf("making the API: %w", err)
	}
	return nil
}

// handler returns what to answer: nil for 204, an [answer] for another status
// than 200, a raw that writes the answer itself, anything else as JSON.
type handler func(w http.ResponseWriter, r *http.Request, p httprouter.Params) (any, error)

// answer is a body with a status of its own.
type answer struct {
	status int
	body   any
}

// raw writes an answer that is no JSON, or one without an end. It is called in any case.
type raw func(w http.ResponseWriter, r *http.Request)

// long is an answer that grows with the router: it appends itself to a buffer, in turns.
// Its error is why ctx ended.
type long func(ctx context.Context, turn *Turn, to []byte) ([]byte, error)

// row is one row of the route table.
type row struct {
	method, path string
	// query names the parameters that are known.
	query  []string
	handle handler
	// open ones answer everybody.
	open bool
	// write ones leave a line in the log.
	write bool
	// v0 ones answer as Cloud Foundry's switchboard does.
	v0 bool
}

// routes is the table of all there is. HEAD is added to every GET outside /v0.
func (a *API) routes() []row {
	table := []row{
		{method: http.MethodGet, path: "/cluster", handle: a.getCluster},
		{method: http.MethodGet, path: "/traffic", handle: a.getTraffic},
		{method: http.MethodPatch, path: "/traffic", handle: a.patchTraffic, write: true},
		{method: http.MethodGet, path: "/hosts", handle: a.getHosts},
		{method: http.MethodGet, path: "/hosts/:host", handle: a.getHost},
		{method: http.MethodPatch, path: "/hosts/:host", handle: a.patchHost, write: true},
		{method: http.MethodGet, path: "/backends", handle: a.getBackends},
		{method: http.MethodGet, path: "/sessions", handle: a.getSessions, query: []string{"host", "backend"}},
		{method: http.MethodDelete, path: "/sessions/:id", handle: a.deleteSession, write: true},
		{method: http.MethodPost, path: "/table/accept", handle: a.postAccept, write: true},
		{method: http.MethodGet, path: "/events", handle: a.getEvents, query: []string{"host"}},
		{method: http.MethodGet, path: "/metrics", handle: a.getMetrics},
		{method: http.MethodGet, path: "/stats/:kind", handle: a.getTotals},
		{method: http.MethodGet, path: "/stats/:kind/:id", handle: a.getTotals},
		{method: http.MethodGet, path: "/stats/:kind/:id/history", handle: a.getHistory, query: []string{"metrics", "from", "to", "step"}},
		{method: http.MethodGet, path: "/healthz", handle: a.getHealth, open: true},
		{method: http.MethodGet, path: "/readyz", handle: a.getReady, open: true},
		{method: http.MethodGet, path: "/v0/cluster", handle: a.getV0Cluster, v0: true},
		{method: http.MethodPatch, path: "/v0/cluster", handle: a.patchV0Cluster, v0: true, write: true},
	}
	for _, get := range table {
		if get.method == http.MethodGet && !get.v0 {
			get.method = http.MethodHead
			table = append(table, get)
		}
	}
	for _, method := range []string{
		http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch,
		http.MethodDelete, http.MethodOptions, http.MethodTrace, http.MethodConnect,
	} {
		table = append(table, row{method: method, path: "/v0/backends", handle: a.getV0Backends, v0: true})
	}
	return table
}

func (a *API) newRouter() *httprouter.Router {
	router := httprouter.New()
	// A path that is nearly right is wrong: a redirect would turn a PATCH into a
	// second request that a client may send as something else.
	router.RedirectTrailingSlash, router.RedirectFixedPath = false, false
	router.HandleOPTIONS = false
	for _, r := range a.routes() {
		router.Handle(r.method, r.path, a.serve(r))
	}
	router.NotFound = a.refuse(func(http.ResponseWriter, *http.Request, httprouter.Params) (any, error) {
		return nil, problem(http.StatusNotFound, "there is nothing at this path")
	})
	router.MethodNotAllowed = a.refuse(func(w http.ResponseWriter, r *http.Request, _ httprouter.Params) (any, error) {
		// httprouter adds OPTIONS whether or not it is handled.
		allowed := strings.Split(w.Header().Get("Allow"), ", ")
		allowed = slices.DeleteFunc(allowed, func(method string) bool { return method == http.MethodOptions })
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		if r.URL.Path == "/v0/cluster" {
			return nil, problem(http.StatusMethodNotAllowed, "Method not allowed")
		}
		return nil, problem(http.StatusMethodNotAllowed, "this path does not know the method; Allow lists those it does")
	})
	router.PanicHandler = func(w http.ResponseWriter, r *http.Request, what any) {
		if what == http.ErrAbortHandler {
			panic(what)
		}
		a.log.Error("panic in an API handler", "method", r.Method, "path", r.URL.Path, "panic", what, "stack", string(debug.Stack()))
		e := problemOf(errors.New("panic"))
		write(w, r, strings.HasPrefix(r.URL.Path, "/v0/"), e.Status, e)
	}
	return router
}

// refuse makes a handler for requests that match no row.
func (a *API) refuse(handle handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.serve(row{handle: handle, v0: strings.HasPrefix(r.URL.Path, "/v0/")})(w, r, nil)
	})
}

// serve is what all handlers are wrapped in: who may call, which parameters,
// what it came to, one line in the log.
func (a *API) serve(to row) httprouter.Handle {
	return func(w http.ResponseWriter, r *http.Request, p httprouter.Params) {
		begun := time.Now()
		note := new(notes)
		r = r.WithContext(context.WithValue(r.Context(), notesKey{}, note))
		level := slog.LevelDebug
		result, err := func() (any, error) {
			if !to.open {
				if err := a.guard.admit(r); err != nil {
					return nil, err
				}
			}
			if !to.open && !to.v0 && to.method != "" {
				if err := checkQuery(r.URL, to.query); err != nil {
					return nil, err
				}
			}
			if to.write {
				level = slog.LevelInfo
			}
			return to.handle(w, r, p)
		}()
		status, body := http.StatusOK, result
		var e *Error
		switch result := result.(type) {
		case nil:
			status = http.StatusNoContent
		case answer:
			status, body = result.status, result.body
		}
		if err != nil {
			e = problemOf(err)
			status, body = e.Status, e
			note.add("problem", e.Detail)
			if e.cause != nil {
				note.add("cause", e.cause)
			}
			switch {
			case status == http.StatusInternalServerError:
				level = slog.LevelError
			case status == http.StatusUnauthorized && r.Header.Get("Authorization") != "":
				level = slog.LevelWarn
			}
		}
		// Before the answer is written, which may take as long as the client likes.
		phrase := "api read"
		if to.write {
			phrase = "api write"
		}
		a.log.LogAttrs(r.Context(), level, phrase, append([]slog.Attr{
			slog.String("remote", r.RemoteAddr),
			slog.String("method", r.Method),
			slog.String("path", r.URL.Path),
			slog.Int("status", status),
			slog.Duration("took", time.Since(begun)),
		}, note.attrs...)...)
		switch body := body.(type) {
		case raw:
			body(w, r)
			return
		case long:
			a.writeLong(w, r, body)
			return
		}
		write(w, r, to.v0, status, body)
	}
}

// notes are what a handler wants in the log line of its request.
type notes struct{ attrs []slog.Attr }

type notesKey struct{}

func (n *notes) add(key string, value any) { n.attrs = append(n.attrs, slog.Any(key, value)) }

func note(r *http.Request, key string, value any) {
	r.Context().Value(notesKey{}).(*notes).add(key, value)
}

// checkQuery refuses parameters that the route does not know: who sends
// ?trafficEnabled=false to the wrong path should hear that nothing was done.
func checkQuery(u *url.URL, known []string) error {
	values, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return problem(http.StatusBadRequest, "the query cannot be read")
	}
	for name, all := range values {
		if !slices.Contains(known, name) || len(all) > 1 {
			detail := "no parameter is known here"
			if len(known) > 0 {
				detail = "known parameters, at most once each: " + strings.Join(known, ", ")
			}
			return problem(http.StatusBadRequest, detail)
		}
	}
	return nil
}

// writeLong is write for what may be long. Who leaves meanwhile is not answered.
func (a *API) writeLong(w http.ResponseWriter, r *http.Request, body long) {
	ctx, turn := r.Context(), a.turns.Begin()
	text, err := body(ctx, turn, a.buffers.Take())
	defer func() { a.buffers.Give(text) }()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	text = append(text, '\n') // as all answers end
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Content-Type", "application/json")
	header.Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		// A client that has left needs no answer.
		_ = turn.Write(ctx, w, text)
	}
}

// write sends one status and one body, composed before the first byte is sent.
func write(w http.ResponseWriter, r *http.Request, v0 bool, status int, body any) {
	header := w.Header()
	e, failed := body.(*Error)
	if failed {
		for name, values := range e.header {
			header[name] = values
		}
	}
	var text []byte
	switch {
	case v0 && failed:
		header.Set("Content-Type", "text/plain; charset=utf-8")
		header.Set("X-Content-Type-Options", "nosniff")
		text = []byte(e.Detail + "\n")
	case v0:
		// Exactly the headers and the bytes of the original: no newline at the end.
		header.Set("Content-Type", "application/json; charset=utf-8")
		text, _ = json.Marshal(body)
	default:
		header.Set("Cache-Control", "no-store")
		header.Set("X-Content-Type-Options", "nosniff")
		if status == http.StatusNoContent || status == http.StatusNotModified {
			w.WriteHeader(status)
			return
		}
		header.Set("Content-Type", "application/json")
		if failed {
			header.Set("Content-Type", "application/problem+json")
		}
		// The answers are structs of plain values: they always encode.
		var composed bytes.Buffer
		_ = json.NewEncoder(&composed).Encode(body)
		text = composed.Bytes()
	}
	header.Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		// A client that has left needs no answer.
		_, _ = w.Write(text)
	}
}

func (a *API) getCluster(http.ResponseWriter, *http.Request, httprouter.Params) (any, error) {
	return long(a.sources.appendCluster), nil
}

func (a *API) getTraffic(w http.ResponseWriter, r *http.Request, _ httprouter.Params) (any, error) {
	return a.get(w, r, a.router)
}

func (a *API) getHosts(http.ResponseWriter, *http.Request, httprouter.Params) (any, error) {
	return long(func(ctx context.Context, turn *Turn, to []byte) (_ []byte, err error) {
		to, err = appendHosts(ctx, turn, append(to, `{"hosts":`...), a.sources.Listed())
		return append(to, '}'), err
	}), nil
}

func (a *API) getHost(w http.ResponseWriter, r *http.Request, p httprouter.Params) (any, error) {
	res, err := a.host(p)
	if err != nil {
		return nil, err
	}
	return a.get(w, r, res)
}

// getBackends is every backend of every host, flat.
func (a *API) getBackends(http.ResponseWriter, *http.Request, httprouter.Params) (any, error) {
	return long(func(ctx context.Context, turn *Turn, to []byte) ([]byte, error) {
		to = append(to, `{"backends":[`...)
		first := len(to)
		var v viewer
		for _, source := range a.sources.Listed() {
			h := v.view(source)
			for i := range h.Backends {
				if len(to) > first {
					to = append(to, ',')
				}
				h.Backends[i].Host = h.Host
				to = appendBackend(to, &h.Backends[i])
			}
			if err := turn.Rest(ctx); err != nil {
				return to, err
			}
		}
		return append(to, "]}"...), nil
	}), nil
}

func (a *API) getSessions(_ http.ResponseWriter, r *http.Request, _ httprouter.Params) (any, error) {
	query := r.URL.Query()
	wanted := func(name, value string) bool { return !query.Has(name) || query.Get(name) == value }
	sessions := slices.DeleteFunc(a.commands.Sessions(), func(s bridge.SessionInfo) bool {
		return !wanted("host", s.Host) || !wanted("backend", s.Backend)
	})
	return long(func(ctx context.Context, turn *Turn, to []byte) ([]byte, error) {
		slices.SortFunc(sessions, oldestFirst)
		to = append(to, `{"sessions":[`...)
		for i, s := range sessions {
			if i > 0 {
				to = append(to, ',')
			}
			view := sessionView(s)
			to = appendSession(to, &view)
			if err := turn.Rest(ctx); err != nil {
				return to, err
			}
		}
		return append(to, "]}"...), nil
	}), nil
}

// MaxScrapes is how many GET /metrics are answered at once. Those beyond it wait.
const MaxScrapes = 2

func (a *API) getMetrics(_ http.ResponseWriter, r *http.Request, _ httprouter.Params) (any, error) {
	if a.metrics == nil {
		return nil, problem(http.StatusNotFound, "this router has no metrics: its program links none").kind("no-metrics")
	}
	wait, cancel := context.WithTimeout(r.Context(), a.timeout)
	defer cancel()
	select {
	case a.scrapes <- struct{}{}:
	case <-wait.Done():
		return nil, problem(http.StatusServiceUnavailable, "too many are asking for metrics at once").kind("busy").with("Retry-After", retryAfter)
	}
	return raw(func(w http.ResponseWriter, r *http.Request) {
		defer func() { <-a.scrapes }()
		a.metrics.ServeHTTP(w, r)
	}), nil
}

func (a *API) getHealth(http.ResponseWriter, *http.Request, httprouter.Params) (any, error) {
	return map[string]string{"status": "alive"}, nil
}

func (a *API) getReady(http.ResponseWriter, *http.Request, httprouter.Params) (any, error) {
	if err := a.sources.Ready(); err != nil {
		return nil, problem(http.StatusServiceUnavailable, "not ready: "+err.Error()).kind("not-ready").with("Retry-After", retryAfter)
	}
	return map[string]string{"status": "ready"}, nil
}
