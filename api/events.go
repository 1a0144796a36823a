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
	"slices"
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
	// crowd is how many watchers are woken in one turn. Once all are, there is a rest of as
	// long as that took, times rests: who is told something else all the time is told less
	// often. sendingAtOnce is  how many are sent a snapshot or all counts at
	// once. Who takes none of it for longer than stuck is not
	// counted: it costs nothing meanwhile.
	crowd         = 8
	rests         = 3
	sendingAtOnce = 4
	stuck         = 100 * time.Millisecond
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
	part   part
}

// stream is what all watchers share: each change encoded once, at its place. A
// watcher has a position in it and no queue, so that adding never waits for one.
type stream struct {
	sources  Sources
	clock    clock.Clock
	patience time.Duration
	turns    *Turns
	buffers  Buffers
	// mark is of this run and stands before every number, so that no other run's is
	// taken for ours.
	mark string
	// places has one in it for each watcher.
	places chan struct{}
	// sending has one in it for each watcher that is being sent much.
	sending chan struct{}
	// shooting is held by who makes a snapshot, and owns shot, the last one.
	shooting chan struct{}
	shot     snapshot

	mu       sync.Mutex
	watchers int
	// stop ends follow and tally, and ended is waited for.
	stop  context.CancelFunc
	ended *sync.WaitGroup
	// more is closed when there is more of anything below: one for each crowd, by the
	// number of its watchers' places. follow closes them in turn once it is woken: one slot,
	// for one more round is enough.
	more  []chan struct{}
	woken chan struct{}
	// seats are the places that are free below the greatest in use.
	seats []int
	// changes are those numbered from first to seq, at the place of their number modulo
	// their length; nil while nobody watches.
	changes    []part
	first, seq uint64
	// counts are the last batches of counts that have changed, likewise, of which gen is
	// the newest. told is what was told of every host, and all what was told when the batch
	// allGen was made.
	counts      [batches][]part
	gen, allGen uint64
	told        map[string]*told
	all         []byte
	// joined: somebody has come since the last batch, and is to be told all.
	joined bool
	// beats counts comments.
	beats uint64
}

// snapshot is the merged state of a moment, and the newest change then.
type snapshot struct {
	seq  uint64
	at   time.Time
	took time.Duration
	text []byte
}

// view is what a watcher has asked for.
type view struct {
	host    string // "": all
	sources Sources
}

// position is how far a watcher is.
type position struct {
	seat            int
	seq, gen, beats uint64
	// fresh: it has not been told all counts yet, or not for too long.
	fresh bool
	// parts are those that came last, and all the counts that come before them.
	parts []part
	all   []byte
}

func newStream(o Options, turns *Turns, buffers Buffers) *stream {
	if o.Sources.Journal == nil {
		return nil
	}
	var mark [8]byte
	_, _ = rand.Read(mark[:]) // it never fails
	return &stream{
		sources: o.Sources, clock: o.Clock, patience: o.Patience, turns: turns, buffers: buffers, mark: hex.EncodeToString(mark[:]),
		places: make(chan struct{}, o.Streams), sending: make(chan struct{}, sendingAtOnce), shooting: make(chan struct{}, 1),
		woken: make(chan struct{}, 1), first: 1,
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
	seat, entered := s.enter()
	if !entered {
		return nil, problem(http.StatusServiceUnavailable, "there are as many streams of events as there may be; GET /cluster answers all the same").
			kind("too-many-streams").with("Retry-After", retryStreams).with("Connection", "close") // as in streamHeader
	}
	return raw(func(w http.ResponseWriter, r *http.Request) {
		defer s.leave(seat)
		s.serve(w, r, of, seat)
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
// Who was let in calls leave with its seat.
func (s *stream) enter() (seat int, ok bool) {
	select {
	case s.places <- struct{}{}:
	default:
		return 0, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.watchers++; s.watchers == 1 {
		s.changes, s.told = make([]part, remembered), make(map[string]*told)
		ctx, stop := context.WithCancel(context.Background())
		ended := new(sync.WaitGroup)
		s.stop, s.ended = stop, ended
		ended.Go(func() { s.follow(ctx) })
		ended.Go(func() { s.tally(ctx) })
	}
	if n := len(s.seats); n > 0 {
		seat, s.seats = s.seats[n-1], s.seats[:n-1]
		return seat, true
	}
	seat = s.watchers - 1
	if seat/crowd == len(s.more) {
		s.more = append(s.more, make(chan struct{}))
	}
	return seat, true
}

// leave gives the place back. The last one turns out the light: it waits for follow and
// tally.
func (s *stream) leave(seat int) {
	s.mu.Lock()
	s.watchers--
	s.seats = append(s.seats, seat)
	last, ended := s.watchers == 0, s.ended
	if last {
		s.stop()
		s.more, s.seats = nil, nil
		s.changes, s.first, s.seq = nil, 1, 0
		s.counts, s.told, s.all, s.allGen = [batches][]part{}, nil, nil, 0
	}
	s.mu.Unlock()
	if last {
		ended.Wait()
		s.shooting <- struct{}{}
		s.shot = snapshot{}
		<-s.shooting
	}
	<-s.places
}

// follow adds the changes that happen, and wakes the watchers, until ctx ends. It runs
// while somebody watches.
func (s *stream) follow(ctx context.Context) {
	turn, rest := s.turns.Begin(), time.NewTimer(0)
	defer rest.Stop()
	woken := s.woken
	for {
		_, changed := s.pull()
		select {
		case <-changed:
		case <-ctx.Done():
			return
		case <-rest.C:
			woken = s.woken
		case <-woken:
			began := time.Now()
			for crowd := 0; s.rouse(crowd); crowd++ {
				if turn.Pause(ctx) != nil {
					return
				}
				s.pull()
			}
			rest.Reset(rests * time.Since(began))
			woken = nil
		}
	}
}

// rouse wakes a crowd of watchers, and tells whether there is another behind it.
func (s *stream) rouse(crowd int) (another bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if crowd < len(s.more) {
		close(s.more[crowd])
		s.more[crowd] = make(chan struct{})
	}
	return crowd+1 < len(s.more)
}

// tally adds counts and comments when they are due, until ctx ends. It runs while
// somebody watches.
func (s *stream) tally(ctx context.Context) {
	timer := s.clock.NewTimer(countEvery)
	defer timer.Stop()
	beaten := s.clock.Now()
	for {
		select {
		case <-timer.C():
		case <-ctx.Done():
			return
		}
		if s.count(ctx) != nil {
			return
		}
		if now := s.clock.Now(); now.Sub(beaten) >= beatEvery {
			beaten = now
			s.beat()
		}
		timer.Reset(countEvery)
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

// wake has follow tell all watchers that there is more.
func (s *stream) wake() {
	select {
	case s.woken <- struct{}{}:
	default:
	}
}

func (s *stream) beat() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.beats++
	s.wake()
}

// count adds the counts that have changed since they were last told. It reads them in
// turns; its error is why ctx ended.
func (s *stream) count(ctx context.Context) error {
	turn, now := s.turns.Begin(), s.clock.Now()
	c := bridge.Counts{Sessions: s.sources.Sessions(), Backends: make(map[string]int)}
	var (
		changed []part
		all     []byte
	)
	s.mu.Lock()
	joined := s.joined
	s.joined = false
	s.mu.Unlock()
	tell := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		last := s.told[c.Host]
		if last == nil || last.counts.Sessions != c.Sessions || last.counts.Parked != c.Parked || !maps.Equal(last.counts.Backends, c.Backends) {
			last = &told{counts: c}
			last.counts.Backends = maps.Clone(c.Backends)
			text := s.encode(string(bridge.SessionCount), 0, wire(bridge.Event{Kind: bridge.SessionCount, At: now, Host: c.Host, Sessions: &last.counts}))
			last.part = part{c.Host, text}
			changed = append(changed, last.part)
			if s.told != nil {
				s.told[c.Host] = last
			}
		}
		if joined {
			all = append(all, last.part.text...)
		}
	}
	tell()
	listed := s.sources.Listed()
	for _, source := range listed {
		source.Count(&c)
		c.Host = source.Name
		tell()
		if err := turn.Rest(ctx); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.watchers == 0 {
		return nil
	}
	if len(s.told) > 1+len(listed) {
		s.forget(listed)
	}
	if changed == nil && !joined {
		return nil
	}
	s.gen++
	s.counts[s.gen%batches] = changed
	if joined {
		s.all, s.allGen = all, s.gen
	}
	s.wake()
	return nil
}

// forget drops what was told of hosts that are listed no more.
func (s *stream) forget(listed []HostSource) {
	kept := map[string]*told{"": s.told[""]}
	for _, source := range listed {
		kept[source.Name] = s.told[source.Name]
	}
	s.told = kept
}

// serve is one watcher's stream, until it leaves or takes nothing, or we stop.
func (s *stream) serve(w http.ResponseWriter, r *http.Request, of view, seat int) {
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
	at.seat = seat
	if !send(part{text: []byte(retry)}) {
		return
	}
	l := lane{stream: s, ctx: ctx}
	defer l.leave()
	lost := !resumed
	for {
		if lost {
			if !l.enter() {
				return
			}
			shot, err := s.snapshot(ctx, of)
			if err != nil {
				return
			}
			if !l.send(shot.text, send) {
				return
			}
			at.seq = shot.seq
		}
		more, kept := s.after(&at, of)
		if lost = !kept; lost {
			continue
		}
		if len(at.all) > 0 && (!l.enter() || !l.send(at.all, send)) {
			return
		}
		if len(at.parts) > 0 && !send(at.parts...) {
			return
		}
		if len(at.all) > 0 || len(at.parts) > 0 {
			continue
		}
		l.leave()
		select {
		case <-more:
		case <-process.Stopping(ctx):
			return
		case <-ctx.Done():
			return
		}
	}
}

// lane is where a watcher waits to be sent much: only some are at once.
type lane struct {
	*stream
	ctx  context.Context
	turn *Turn
	// out gives the place back, once; nil: the watcher has none. late does so when the
	// watcher takes nothing; nil: it was not sent anything yet.
	out  func()
	late *time.Timer
}

// enter waits for a place, if the watcher has none.
func (l *lane) enter() bool {
	if l.out != nil {
		return true
	}
	select {
	case l.sending <- struct{}{}:
	case <-process.Stopping(l.ctx):
		return false
	case <-l.ctx.Done():
		return false
	}
	l.out = sync.OnceFunc(func() { <-l.sending })
	l.turn = l.turns.Begin()
	return true
}

// send sends a text in turns, in pieces.
func (l *lane) send(text []byte, send func(...part) bool) bool {
	for text := range slices.Chunk(text, piece) {
		if l.turn.Rest(l.ctx) != nil {
			return false
		}
		if l.late == nil {
			l.late = time.AfterFunc(stuck, l.out)
		} else {
			l.late.Reset(stuck)
		}
		if !send(part{text: text}) {
			return false
		}
	}
	return true
}

func (l *lane) leave() {
	if l.late != nil {
		l.late.Stop()
	}
	if l.out != nil {
		l.out()
	}
	l.out, l.late = nil, nil
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

// after puts what comes next into a position, and moves it on; more is closed when there
// is more. It is not kept if some of that has been forgotten.
func (s *stream) after(at *position, of view) (more <-chan struct{}, kept bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at.seq+1 < s.first {
		return nil, false
	}
	at.parts, at.all = at.parts[:0], nil
	wanted := func(p part) {
		if of.host == "" || p.host == "" || p.host == of.host {
			at.parts = append(at.parts, p)
		}
	}
	for ; at.seq < s.seq; at.seq++ {
		wanted(s.changes[(at.seq+1)%remembered])
	}
	if s.gen-at.gen > batches && !at.fresh {
		at.fresh, s.joined = true, true
	}
	if at.fresh && s.allGen > at.gen {
		at.gen, at.fresh = s.allGen, false
		if of.host == "" {
			at.all = s.all
		} else {
			for _, host := range []string{"", of.host} {
				if last := s.told[host]; last != nil {
					wanted(last.part)
				}
			}
		}
	}
	for ; !at.fresh && at.gen != s.gen; at.gen++ {
		for _, p := range s.counts[(at.gen+1)%batches] {
			wanted(p)
		}
	}
	if at.beats != s.beats {
		at.beats = s.beats
		if len(at.parts) == 0 && at.all == nil {
			at.parts = append(at.parts, part{text: []byte(":\n\n")})
		}
	}
	return s.more[at.seat/crowd], true
}

// snapshot is the merged state as it is now, at least as new as the change whose
// number it has. Those of everything are made one at a time, and whoever comes within
// countEvery, while nothing has changed, gets the same; so does who comes within as long
// as it took to make, for what has changed is told after it. Its error is why ctx ended.
func (s *stream) snapshot(ctx context.Context, of view) (snapshot, error) {
	if of.host != "" {
		return s.shoot(ctx, of)
	}
	select {
	case s.shooting <- struct{}{}:
	case <-ctx.Done():
		return snapshot{}, context.Cause(ctx)
	}
	defer func() { <-s.shooting }()
	newest, _ := s.pull()
	age := s.clock.Now().Sub(s.shot.at)
	if s.shot.text != nil && (age < s.shot.took || age < countEvery && s.shot.seq == newest) {
		return s.shot, nil
	}
	shot, err := s.shoot(ctx, of)
	if err == nil {
		s.shot = shot
	}
	return shot, err
}

func (s *stream) shoot(ctx context.Context, of view) (snapshot, error) {
	// The number first: what happens meanwhile is told again, and not missed.
	seq, _ := s.pull()
	began := s.clock.Now()
	text, err := of.sources.appendCluster(ctx, s.turns.Begin(), s.head(s.buffers.Take(), "snapshot", seq))
	defer func() { s.buffers.Give(text) }()
	if err != nil {
		return snapshot{}, err
	}
	text = append(text, "\n\n"...)
	now := s.clock.Now()
	return snapshot{seq, now, now.Sub(began), bytes.Clone(text)}, nil
}

// encode is an event as it is on the wire.
func (s *stream) encode(event string, seq uint64, data any) []byte {
	var text bytes.Buffer
	text.Write(s.head(nil, event, seq))
	// Structs of plain values always encode, and to one line, which Encode ends.
	_ = json.NewEncoder(&text).Encode(data)
	text.WriteByte('\n')
	return bytes.Clone(text.Bytes())
}

// head appends an event up to its data. One that is no history has the number 0, and
// leaves the watcher the ID that it has; so has a snapshot before the first change.
func (s *stream) head(to []byte, event string, seq uint64) []byte {
	to = append(append(append(to, "event: "...), event...), '\n')
	if seq > 0 || event == "snapshot" {
		to = append(append(append(to, "id: "...), s.mark...), '-')
		to = append(strconv.AppendUint(to, seq, 10), '\n')
	}
	return append(to, "data: "...)
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
