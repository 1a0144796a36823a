package api

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/julienschmidt/httprouter"

	"switchboard/bridge"
	"switchboard/bridge/clock"
	"switchboard/runner/process"
)

// Defaults of [Options] for GET /events.
const (
	// MaxStreams is how many there may be at once.
	MaxStreams = 1024
	// DefaultPatience is how long a watcher may take for what it is sent.
	DefaultPatience = 30 * time.Second
)

const (
	// remembered is how many changes can be resumed from, or waited with for a watcher.
	remembered = 1024
	// countEvery is the least time between two SESSION_COUNT of a host, and the age at
	// which a snapshot is made anew for the next watcher.
	countEvery = time.Second
	// batches is how many of these a watcher may be behind before it is told all counts.
	batches = 8
	// beatEvery is how often a silent stream has a comment in it, so that whoever stands
	// between keeps it open, and a watcher that is gone is noticed.
	beatEvery = 10 * time.Second
	// retry tells a watcher how many milliseconds to wait before it connects again.
	retry = "retry: 1000\n\n"
	// retryStreams is in seconds, for who was refused a stream.
	retryStreams = "5"
)

// part is some events, as they are written.
type part struct {
	host string // "": of the whole router
	text []byte
}

// told is what watchers were last told of a host's counts.
type told struct {
	counts bridge.Counts
	text   []byte
}

// stream is what all watchers share: each change encoded once, at its place. A
// watcher has a position in it and no queue, so that adding never waits for one.
type stream struct {
	sources  Sources
	clock    clock.Clock
	patience time.Duration
	// mark is of this run and stands before every number, so that no other run's is
	// taken for ours.
	mark string
	// places has one in it for each watcher.
	places chan struct{}
	// shooting is held by who makes a snapshot, and owns shot, the last one.
	shooting chan struct{}
	shot     snapshot

	mu       sync.Mutex
	watchers int
	// stop is closed for follow to end, and ended when it has.
	stop, ended chan struct{}
	// more is closed when there is more of anything below.
	more chan struct{}
	// changes are those numbered from first to seq, at the place of their number modulo
	// their length; nil while nobody watches.
	changes    []part
	first, seq uint64
	// counts are the last batches of counts that have changed, likewise, of which gen is
	// the newest. all is what was told of every host, in their order.
	counts [batches][]part
	gen    uint64
	told   map[string]told
	all    []part
	// joined: somebody has come since the last batch, and is to be told all.
	joined bool
	// beats counts comments.
	beats uint64
}

// snapshot is the merged state of a moment, and the newest change then.
type snapshot struct {
	seq  uint64
	at   time.Time
	text []byte
}

// view is what a watcher has asked for.
type view struct {
	host    string // "": all
	sources Sources
}

// position is how far a watcher is.
type position struct {
	seq, gen, beats uint64
	// fresh: it has not been told counts yet.
	fresh bool
}

func newStream(o Options) *stream {
	if o.Sources.Journal == nil {
		return nil
	}
	var mark [8]byte
	_, _ = rand.Read(mark[:]) // it never fails
	return &stream{
		sources: o.Sources, clock: o.Clock, patience: o.Patience, mark: hex.EncodeToString(mark[:]),
		places: make(chan struct{}, o.Streams), shooting: make(chan struct{}, 1), more: make(chan struct{}), first: 1,
	}
}

func (a *API) getEvents(w http.ResponseWriter, r *http.Request, _ httprouter.Params) (any, error) {
	s := a.stream
	if s == nil {
		return nil, problem(http.StatusNotFound, "this router keeps no history of events").kind("no-events")
	}
	of := view{sources: s.sources}
	if query := r.URL.Query(); query.Has("host") {
		source, known := s.sources.find(query.Get("host"))
		if !known {
			return nil, bridge.ErrUnknownHost
		}
		of = view{source.Name, s.sources.only(source)}
	}
	if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(s.patience)); err != nil {
		return nil, fmt.Errorf("bounding a stream of events: %w", err)
	}
	if r.Method == http.MethodHead {
		return raw(func(w http.ResponseWriter, r *http.Request) { streamHeader(w, r) }), nil
	}
	if !s.enter() {
		return nil, problem(http.StatusServiceUnavailable, "there are as many streams of events as there may be; GET /cluster answers all the same").
			kind("too-many-streams").with("Retry-After", retryStreams).with("Connection", "close") // as in streamHeader
	}
	return raw(func(w http.ResponseWriter, r *http.Request) {
		defer s.leave()
		s.serve(w, r, of)
	}), nil
}

// only is what there is to see of the router and one host.
func (s Sources) only(host HostSource) Sources {
	s.Hosts = []HostSource{host}
	if s.Table != nil {
		table := *s.Table
		table.Hosts = func() []HostSource { return nil }
		s.Table = &table
	}
	return s
}

// enter takes a place, if there is one, and wakes what sleeps while nobody watches.
// Who was let in calls leave.
func (s *stream) enter() bool {
	select {
	case s.places <- struct{}{}:
	default:
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.watchers++; s.watchers == 1 {
		s.changes, s.told = make([]part, remembered), make(map[string]told)
		s.stop, s.ended = make(chan struct{}), make(chan struct{})
		go s.follow(s.stop, s.ended)
	}
	return true
}

// leave gives the place back. The last one turns out the light: it waits for follow.
func (s *stream) leave() {
	s.mu.Lock()
	s.watchers--
	last, ended := s.watchers == 0, s.ended
	if last {
		close(s.stop)
		s.changes, s.first, s.seq = nil, 1, 0
		s.counts, s.told, s.all = [batches][]part{}, nil, nil
	}
	s.mu.Unlock()
	if last {
		<-ended
		s.shooting <- struct{}{}
		s.shot = snapshot{}
		<-s.shooting
	}
	<-s.places
}

// follow adds what happens until stop is closed. It runs while somebody watches.
func (s *stream) follow(stop <-chan struct{}, ended chan<- struct{}) {
	defer close(ended)
	timer := s.clock.NewTimer(countEvery)
	defer timer.Stop()
	beaten := s.clock.Now()
	for {
		_, changed := s.pull()
		select {
		case <-changed:
		case <-timer.C():
			s.count()
			if now := s.clock.Now(); now.Sub(beaten) >= beatEvery {
				beaten = now
				s.beat()
			}
			timer.Reset(countEvery)
		case <-stop:
			return
		}
	}
}

// pull encodes the changes that have come, and returns the number of the newest, and
// a channel that is closed when there is another.
func (s *stream) pull() (seq uint64, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	entries, changed := s.sources.Journal.Since(s.seq)
	if s.watchers == 0 {
		return s.seq, changed
	}
	for _, e := range entries {
		if e.Seq != s.seq+1 {
			s.first = e.Seq
		}
		s.seq = e.Seq
		s.first = max(s.first, e.Seq-min(e.Seq, remembered)+1)
		s.changes[e.Seq%remembered] = part{e.Value.Host, s.encode(string(e.Value.Kind), e.Seq, wire(e.Value))}
	}
	if len(entries) > 0 {
		s.wake()
	}
	return s.seq, changed
}

// wake tells all watchers that there is more. mu is held.
func (s *stream) wake() {
	close(s.more)
	s.more = make(chan struct{})
}

func (s *stream) beat() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.beats++
	s.wake()
}

// count adds the counts that have changed since they were last told.
func (s *stream) count() {
	counts := []bridge.Counts{{Sessions: s.sources.Sessions(), Backends: map[string]int{}}}
	for _, source := range s.sources.Listed() {
		c := source.Counts()
		c.Host = source.Name
		counts = append(counts, c)
	}
	now := s.clock.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.watchers == 0 {
		return
	}
	var changed []part
	all := make([]part, 0, len(counts))
	for _, c := range counts {
		last, known := s.told[c.Host]
		if !known || last.counts.Sessions != c.Sessions || last.counts.Parked != c.Parked || !maps.Equal(last.counts.Backends, c.Backends) {
			last = told{c, s.encode(string(bridge.SessionCount), 0, wire(bridge.Event{Kind: bridge.SessionCount, At: now, Host: c.Host, Sessions: &c}))}
			s.told[c.Host] = last
			changed = append(changed, part{c.Host, last.text})
		}
		all = append(all, part{c.Host, last.text})
	}
	if len(s.told) > len(all) {
		s.forget(counts)
	}
	s.all = all
	if changed == nil && !s.joined {
		return
	}
	s.gen++
	s.counts[s.gen%batches], s.joined = changed, false
	s.wake()
}

// forget drops what was told of hosts that are listed no more.
func (s *stream) forget(counts []bridge.Counts) {
	listed := make(map[string]bool, len(counts))
	for _, c := range counts {
		listed[c.Host] = true
	}
	maps.DeleteFunc(s.told, func(host string, _ told) bool { return !listed[host] })
}

// serve is one watcher's stream, until it leaves or takes nothing, or we stop.
func (s *stream) serve(w http.ResponseWriter, r *http.Request, of view) {
	streamHeader(w, r)
	ctx, control := r.Context(), http.NewResponseController(w)
	// The server's bounds are for requests that come to an end.
	_ = control.SetReadDeadline(time.Time{})
	// A write that waits for the watcher hears of nothing else.
	defer context.AfterFunc(ctx, func() { _ = control.SetWriteDeadline(time.Unix(1, 0)) })()
	send := func(parts ...part) bool {
		if control.SetWriteDeadline(time.Now().Add(s.patience)) != nil || ctx.Err() != nil {
			return false
		}
		for _, p := range parts {
			if _, err := w.Write(p.text); err != nil {
				return false
			}
		}
		return control.Flush() == nil
	}
	at, resumed := s.resume(r.Header.Get("Last-Event-ID"))
	if !send(part{text: []byte(retry)}) {
		return
	}
	lost := !resumed
	for {
		if lost {
			shot := s.snapshot(of)
			if !send(part{text: shot.text}) {
				return
			}
			at.seq = shot.seq
		}
		parts, more, kept := s.after(&at, of)
		switch lost = !kept; {
		case lost:
			continue
		case len(parts) > 0:
			if !send(parts...) {
				return
			}
			continue
		}
		select {
		case <-more:
		case <-process.Stopping(ctx):
			return
		case <-ctx.Done():
			return
		}
	}
}

func streamHeader(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Content-Type", "text/event-stream")
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("X-Accel-Buffering", "no") // or NGINX would collect it
	if r.ProtoMajor == 1 {
		// Its deadlines would be those of the next request.
		header.Set("Connection", "close")
	}
}

// resume is the position that an ID stands for, if it is one of ours and what came
// after it is remembered.
func (s *stream) resume(id string) (at position, ok bool) {
	newest, _ := s.pull()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.joined = true
	at = position{gen: s.gen, beats: s.beats, fresh: true}
	mark, number, _ := strings.Cut(id, "-")
	seq, err := strconv.ParseUint(number, 10, 64)
	if err != nil || mark != s.mark || seq > newest || seq+1 < s.first {
		return at, false
	}
	at.seq = seq
	return at, true
}

// after returns what comes after a position, and moves it on; more is closed when
// there is more. It is not kept if some of that has been forgotten.
func (s *stream) after(at *position, of view) (parts []part, more <-chan struct{}, kept bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at.seq+1 < s.first {
		return nil, nil, false
	}
	wanted := func(p part) {
		if of.host == "" || p.host == "" || p.host == of.host {
			parts = append(parts, p)
		}
	}
	for ; at.seq < s.seq; at.seq++ {
		wanted(s.changes[(at.seq+1)%remembered])
	}
	if at.gen != s.gen {
		if at.fresh || s.gen-at.gen > batches {
			for _, p := range s.all {
				wanted(p)
			}
			at.gen, at.fresh = s.gen, false
		}
		for ; at.gen != s.gen; at.gen++ {
			for _, p := range s.counts[(at.gen+1)%batches] {
				wanted(p)
			}
		}
	}
	if at.beats != s.beats {
		at.beats = s.beats
		if len(parts) == 0 {
			parts = []part{{text: []byte(":\n\n")}}
		}
	}
	return parts, s.more, true
}

// snapshot is the merged state as it is now, at least as new as the change whose
// number it has. Those of everything are made one at a time, and whoever comes within
// countEvery, while nothing has changed, gets the same.
func (s *stream) snapshot(of view) snapshot {
	if of.host != "" {
		return s.shoot(of)
	}
	s.shooting <- struct{}{}
	defer func() { <-s.shooting }()
	if newest, _ := s.pull(); s.shot.text == nil || s.shot.seq != newest || s.clock.Now().Sub(s.shot.at) >= countEvery {
		s.shot = s.shoot(of)
	}
	return s.shot
}

func (s *stream) shoot(of view) snapshot {
	// The number first: what happens meanwhile is told again, and not missed.
	seq, _ := s.pull()
	return snapshot{seq, s.clock.Now(), s.encode("snapshot", seq, of.sources.Cluster())}
}

// encode is an event as it is on the wire. One that is no history has the number 0, and
// leaves the watcher the ID that it has; so has a snapshot before the first change.
func (s *stream) encode(event string, seq uint64, data any) []byte {
	var text bytes.Buffer
	text.WriteString("event: " + event + "\n")
	if seq > 0 || event == "snapshot" {
		text.WriteString("id: " + s.mark + "-" + strconv.FormatUint(seq, 10) + "\n")
	}
	text.WriteString("data: ")
	// Structs of plain values always encode, and to one line, which Encode ends.
	_ = json.NewEncoder(&text).Encode(data)
	text.WriteByte('\n')
	return bytes.Clone(text.Bytes())
}

// happened is what all events have.
type happened struct {
	Kind bridge.Kind `json:"kind"`
	At   *time.Time  `json:"at"`
	Host string      `json:"host,omitempty"`
}

// wire is an event in the members that GET /cluster has for what has changed.
func wire(e bridge.Event) any {
	h := happened{e.Kind, timeView(e.At), e.Host}
	switch {
	case e.Active != nil:
		return struct {
			happened
			Active *ActiveBackend `json:"active"`
			Epoch  uint64         `json:"epoch"`
			Since  *time.Time     `json:"since"`
			Reason string         `json:"reason"`
		}{h, activeView(e.Active.Backend), e.Active.Epoch, timeView(e.Active.Since), e.Active.Reason}
	case e.Health != nil:
		return struct {
			happened
			Backend string `json:"backend"`
			Healthy bool   `json:"healthy"`
			Detail  string `json:"detail"`
		}{h, e.Health.Backend, e.Health.Healthy, e.Health.Detail}
	case e.Traffic != nil:
		return struct {
			happened
			TrafficEnabled bool       `json:"trafficEnabled"`
			Message        string     `json:"message"`
			LastUpdated    *time.Time `json:"lastUpdated"`
			DrainUntil     *time.Time `json:"drainUntil"`
		}{h, e.Traffic.Enabled, e.Traffic.Message, timeView(e.Traffic.LastUpdated), timeView(e.Traffic.DrainUntil)}
	case e.Pin != nil:
		return struct {
			happened
			Pin     *string `json:"pin"`
			Message string  `json:"message"`
		}{h, pinView(e.Pin.Backend), e.Pin.Message}
	case e.Weights != nil:
		return struct {
			happened
			Weights map[string]int `json:"weights"`
			Message string         `json:"message"`
		}{h, e.Weights.Set, e.Weights.Message}
	case e.Table != nil:
		return struct {
			happened
			Hosts int `json:"hosts"`
		}{h, e.Table.Hosts}
	case e.Sessions != nil:
		return struct {
			happened
			CurrentSessionCount int            `json:"currentSessionCount"`
			Parked              int            `json:"parked"`
			Backends            map[string]int `json:"backends"`
		}{h, e.Sessions.Sessions, e.Sessions.Parked, e.Sessions.Backends}
	default:
		return h
	}
}
