package monitor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"switchboard/bridge"
	"switchboard/bridge/clock"
	"switchboard/bridge/feed"
	"switchboard/bridge/route"
	"switchboard/monitor/check"
)

// leastElectionGrace is the least time that a first election waits for verdicts
// once there is a healthy backend.
const leastElectionGrace = 100 * time.Millisecond

// refreshEvery is the shortest time between two publications of the cluster in
// which no verdict has changed.
const refreshEvery = 10 * time.Millisecond

// Options are what a [Monitor] needs. They are not to be changed afterwards.
type Options struct {
	// Host is the name of the host.
	Host string
	// Elect is how the active backend is chosen; "": Sticky.
	Elect Elect
	// Backends are the host's, in configuration order; their names differ.
	Backends []route.Backend
	// Spec says how to probe; Interval, Timeout, Fall and Rise are required if
	// there are Checkers, and the rest is for who built those.
	Spec check.Spec
	// Checkers are one for each backend, in the order of Backends. They are the
	// Monitor's from New on, and Run closes them. nil: the host has no check.
	Checkers []check.Checker
	// ChecksOwnPort tells for each backend whether its checker connects to the
	// backend's own port, so that a hint needs no further connect. nil: those whose
	// Spec.Port is 0 or their own port, except under an exec check.
	ChecksOwnPort []bool
	// DialOwn connects to a backend's own address before ctx ends, and hangs up. It
	// returns nil if that worked, else an error that unwraps to what the system
	// said. It is called from many goroutines. nil: never asked.
	DialOwn func(ctx context.Context, address string) error
	// Initial is what was known before this process.
	Initial Initial

	// Active gets NEW_ACTIVE_BACKEND, on change only. Required.
	Active *feed.Feed[bridge.Active]
	// Cluster gets what is known, with every probe and command; mere times of
	// probes at most every 10 ms. Required.
	Cluster *feed.Feed[bridge.Cluster]
	// Journal gets NEW_ACTIVE_BACKEND, BACKEND_HEALTH, PINNED and UNPINNED; nil: nobody
	// reads them.
	Journal *bridge.Journal
	// Log gets one line per change; nil: discarded.
	Log *slog.Logger
	// Clock is what probes are timed by; nil: the system's. The contexts of probes
	// run on real time always.
	Clock clock.Clock
	// Rand returns numbers from 0 to 1, without 1, for jitter. It is called from
	// many goroutines. nil: math/rand/v2.
	Rand func() float64
}

// Initial is what a host's monitor goes on from after a restart.
type Initial struct {
	// Epoch is the last one; the next NEW_ACTIVE_BACKEND has Epoch + 1.
	Epoch uint64
	// LastActive is the name of the last active backend, "" for none. One that is
	// not in Backends is ignored.
	LastActive string
	// Pin is the name of the pinned backend, "" for none. One that is not in
	// Backends is logged and dropped.
	Pin string
}

// Monitor decides which backends of one host are healthy and which one is
// active. Make one with [New], and call its methods from any goroutine.
type Monitor struct {
	o       Options
	log     *slog.Logger
	clock   clock.Clock
	probers []*prober
	places  map[string]int

	ran           atomic.Bool
	reports       chan report
	commands      chan command
	died          chan error // one slot a prober, so that none waits to tell
	stopped       chan struct{}
	firstVerdicts chan struct{}

	// What follows is the loop's own.

	candidates []candidate
	states     []bridge.BackendState
	active     bridge.Active
	// incumbent, last and pin are places in o.Backends, or nobody.
	incumbent, last, pin int
	// elected: there has been an active backend since the start.
	elected bool
	// decided: every backend has a verdict.
	decided   bool
	graceOver bool
	grace     clock.Timer // nil until the first healthy verdict
	// published is when the cluster was, and refresh, if it runs, when it will be.
	published  time.Time
	refresh    clock.Timer
	refreshing bool
	// noted: failures of this backend have been logged since it was last well;
	// well counts its good answers since then.
	noted     []bool
	well      []int
	tieWarned bool
}

// New returns a monitor that does nothing before Run. Its errors are those of
// the options.
func New(o Options) (*Monitor, error) {
	if o.Elect == "" {
		o.Elect = Sticky
	}
	m := &Monitor{
		o:             o,
		log:           o.Log,
		clock:         o.Clock,
		places:        make(map[string]int, len(o.Backends)),
		reports:       make(chan report),
		commands:      make(chan command),
		died:          make(chan error, len(o.Backends)),
		stopped:       make(chan struct{}),
		firstVerdicts: make(chan struct{}),
		candidates:    make([]candidate, len(o.Backends)),
		states:        make([]bridge.BackendState, len(o.Backends)),
		noted:         make([]bool, len(o.Backends)),
		well:          make([]int, len(o.Backends)),
		active:        bridge.Active{Host: o.Host, Epoch: o.Initial.Epoch},
		incumbent:     nobody,
	}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	m.log = m.log.With("host", o.Host)
	if m.clock == nil {
		m.clock = clock.System{}
	}
	if m.o.Rand == nil {
		m.o.Rand = rand.Float64
	}
	for place, backend := range o.Backends {
		m.places[backend.Name] = place
		m.states[place].Backend = backend
	}
	if err := m.validate(); err != nil {
		return nil, fmt.Errorf("monitoring %s: %w", o.Host, err)
	}
	m.last, m.pin = m.place(o.Initial.LastActive), m.place(o.Initial.Pin)
	if o.Initial.Pin != "" && m.pin == nobody {
		m.log.Warn("the pin is dropped: the host has no such backend", "backend", o.Initial.Pin)
	}
	for place := range o.Backends {
		m.probers = append(m.probers, m.newProber(place))
	}
	return m, nil
}

func (m *Monitor) validate() error {
	o := &m.o
	switch o.Elect {
	case Sticky, Lowest, Highest, None:
	default:
		return fmt.Errorf("elect is %q, but must be %s, %s, %s or %s", o.Elect, Sticky, Lowest, Highest, None)
	}
	switch {
	case o.Active == nil || o.Cluster == nil:
		return errors.New("the feeds Active and Cluster are required")
	case len(m.places) != len(o.Backends):
		return errors.New("two backends have the same name")
	case o.ChecksOwnPort != nil && len(o.ChecksOwnPort) != len(o.Backends):
		return errors.New("ChecksOwnPort must have one entry for each backend")
	case o.Checkers == nil:
		return nil
	case len(o.Checkers) != len(o.Backends):
		return errors.New("there must be one checker for each backend")
	case o.Spec.Interval <= 0 || o.Spec.Timeout <= 0:
		return errors.New("the check's interval and timeout must be more than 0")
	case o.Spec.Fall < 1 || o.Spec.Rise < 1:
		return errors.New("the check's fall and rise must be at least 1")
	}
	for place, checker := range o.Checkers {
		if checker == nil {
			return fmt.Errorf("the checker of %s is missing", o.Backends[place].Name)
		}
	}
	return nil
}

func (m *Monitor) newProber(place int) *prober {
	o := &m.o
	p := &prober{
		place:   place,
		backend: o.Backends[place],
		dialOwn: o.DialOwn,
		// A rest takes the place of the interval, see run.
		interval: rest,
		timeout:  ownTimeout,
		verdict:  verdict{fall: 1, rise: 1},
		clock:    m.clock,
		random:   o.Rand,
		log:      m.log,
		reports:  m.reports,
		wake:     make(chan struct{}, 1),
		probes:   make(chan probe, 1),
		answers:  make(chan answer, 1),
		returned: make(chan struct{}),
	}
	if o.Checkers == nil {
		return p
	}
	p.checker = o.Checkers[place]
	p.interval, p.timeout = o.Spec.Interval, o.Spec.Timeout
	p.verdict = verdict{fall: o.Spec.Fall, rise: o.Spec.Rise}
	if m.checksOwnPort(place) {
		p.dialOwn = nil
	}
	// The first probes of a host begin within min(interval, 1 ms a backend).
	spread := min(p.interval, time.Duration(len(o.Backends))*time.Millisecond)
	p.first = time.Duration((float64(place) + o.Rand()) / float64(len(o.Backends)) * float64(spread))
	return p
}

func (m *Monitor) checksOwnPort(place int) bool {
	switch o := &m.o; {
	case o.ChecksOwnPort != nil:
		return o.ChecksOwnPort[place]
	case o.Spec.Type == "exec":
		return false
	case o.Spec.Port == 0:
		return true
	default:
		_, port, err := net.SplitHostPort(o.Backends[place].Address)
		return err == nil && port == strconv.Itoa(o.Spec.Port)
	}
}

func (m *Monitor) place(name string) int {
	if place, ok := m.places[name]; ok {
		return place
	}
	return nobody
}

// FirstVerdicts is closed once every backend has been found healthy or
// unhealthy. It stays open if Run ends before.
func (m *Monitor) FirstVerdicts() <-chan struct{} { return m.firstVerdicts }

// Hint takes what the data path has seen of a backend. It never blocks: of
// several hints for one backend that come faster than they are looked at, the
// weightiest counts. Hints for other hosts and unknown backends are ignored.
func (m *Monitor) Hint(h bridge.Hint) {
	if place := m.place(h.Backend); place != nobody && h.Host == m.o.Host {
		m.probers[place].hint(h)
	}
}

// Run probes and elects until a signal comes, and then returns nil once all
// probes have returned and all checkers are closed. It closes ready when the
// probers run; who waits for verdicts uses FirstVerdicts. A host without a check has
// them by then.
//
// Probes in flight are cancelled when Run ends. A checker that has not returned
// after the check's timeout is left behind, and named in the error. A panic in
// the monitor itself ends Run with an error. Run can be called once.
func (m *Monitor) Run(signals <-chan os.Signal, ready chan<- struct{}) error {
	if m.ran.Swap(true) {
		return fmt.Errorf("monitoring %s: a monitor runs only once", m.o.Host)
	}
	defer close(m.stopped)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for _, p := range m.probers {
		go p.work()
		go m.supervise(p, ctx)
	}
	err := m.loop(signals, ready)
	cancel()
	if err = errors.Join(err, m.await()); err != nil {
		return fmt.Errorf("monitoring %s: %w", m.o.Host, err)
	}
	return nil
}

// supervise runs a prober, and ends the monitor if it panics.
func (m *Monitor) supervise(p *prober, ctx context.Context) {
	defer func() {
		if cause := recover(); cause != nil {
			m.died <- fmt.Errorf("the prober of %s panicked: %v\n%s", p.backend.Name, cause, debug.Stack())
		}
	}()
	p.run(ctx)
}

// await waits for the workers, and so for the probers, who end before them.
func (m *Monitor) await() error {
	var left []string
	patience := m.clock.NewTimer(max(m.o.Spec.Timeout, ownTimeout))
	defer patience.Stop()
	expired := patience.C()
	for _, p := range m.probers {
		select {
		case <-p.returned:
			continue
		default:
		}
		if expired != nil {
			select {
			case <-p.returned:
				continue
			case <-expired:
				expired = nil
			}
		}
		left = append(left, p.backend.Name)
	}
	if left != nil {
		return fmt.Errorf("stopping: the checks of %s have not returned", strings.Join(left, ", "))
	}
	return nil
}

// loop owns the host's state.
func (m *Monitor) loop(signals <-chan os.Signal, ready chan<- struct{}) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("the monitor panicked: %v\n%s", cause, debug.Stack())
		}
		if m.grace != nil {
			m.grace.Stop()
		}
		if m.refresh != nil {
			m.refresh.Stop()
		}
	}()
	m.refresh = m.clock.NewTimer(refreshEvery)
	m.publishCluster()
	m.closeFirstVerdicts()
	for m.o.Checkers == nil && !m.decided {
		select {
		case r := <-m.reports:
			m.take(r)
		case err := <-m.died:
			return err
		case <-signals:
			return nil
		}
	}
	close(ready)
	for {
		var grace <-chan time.Time
		if m.grace != nil {
			grace = m.grace.C()
		}
		select {
		case r := <-m.reports:
			m.take(r)
		case c := <-m.commands:
			c.reply <- m.obey(c)
		case <-grace:
			m.graceOver = true
			if m.elect("") {
				m.tellActive()
			}
		case <-m.refresh.C():
			m.publishCluster()
		case err := <-m.died:
			return err
		case <-signals:
			return nil
		}
	}
}

// take takes a prober's report: the state first, then the election, and then,
// when those who wait have heard, journal and log.
func (m *Monitor) take(r report) {
	c, s := &m.candidates[r.place], &m.states[r.place]
	reindexed := r.index != nil && (c.index == nil || *c.index != *r.index)
	*c = candidate{known: r.known, healthy: r.healthy, suspect: r.suspect, index: r.index}
	s.Verdict, s.Healthy, s.Detail = r.known, r.healthy, r.detail
	if !r.at.IsZero() {
		s.CheckedAt, s.Took = r.at, r.took
	}
	if r.healthy && m.grace == nil {
		m.grace = m.clock.NewTimer(max(2*m.o.Spec.Interval, leastElectionGrace))
	}
	elected := m.elect("")
	if !elected {
		m.refreshCluster(r.changed)
	}
	m.tellHealth(r)
	if elected {
		m.tellActive()
	}
	if r.changed || reindexed {
		m.warnOfTie()
	}
	m.closeFirstVerdicts()
}

// elect holds an election and tells whether the active backend has changed.
// because is the reason if a command asked for it.
func (m *Monitor) elect(because string) (changed bool) {
	return m.activate(ballot{
		elect:      m.o.Elect,
		candidates: m.candidates,
		incumbent:  m.incumbent,
		last:       m.last,
		pin:        m.pin,
		graceOver:  m.graceOver,
	}.winner(), because)
}

// activate makes the backend at place, or nobody, the active one and publishes
// that, unless it is so already.
func (m *Monitor) activate(place int, because string) (changed bool) {
	if place == m.incumbent {
		return false
	}
	if because == "" {
		because = m.reason(m.incumbent, place)
	}
	m.incumbent = place
	m.active = bridge.Active{
		Host:   m.o.Host,
		Epoch:  m.active.Epoch + 1,
		Since:  m.clock.Now(),
		Reason: because,
	}
	if place != nobody {
		backend := m.o.Backends[place]
		m.active.Backend = &backend
		m.last, m.elected = place, true
	}
	m.o.Active.Put(m.active)
	m.publishCluster()
	return true
}

// reason says why an election that no command asked for went from one place to
// another.
func (m *Monitor) reason(from, to int) string {
	switch {
	case from != nobody && !m.candidates[from].healthy:
		return "unhealthy: " + m.o.Backends[from].Name + ": " + m.states[from].Detail
	case to != nobody && to == m.pin:
		return "pinned"
	case from != nobody:
		return "index"
	case !m.elected:
		return "first election"
	default:
		return "recovered: " + m.o.Backends[to].Name
	}
}

// refreshCluster publishes what a probe has told: at once if it matters, or if
// nothing was published for a while, else soon. The copy is as long as the host
// has backends, so one for each probe would be quadratic.
func (m *Monitor) refreshCluster(changed bool) {
	switch since := m.clock.Now().Sub(m.published); {
	case changed || since >= refreshEvery:
		m.publishCluster()
	case !m.refreshing:
		m.refreshing = true
		m.refresh.Reset(refreshEvery - since)
	}
}

// publishCluster publishes a copy, since published values never change.
func (m *Monitor) publishCluster() {
	m.published, m.refreshing = m.clock.Now(), false
	m.refresh.Stop()
	c := bridge.Cluster{Host: m.o.Host, Active: m.active, Backends: slices.Clone(m.states)}
	if m.pin != nobody {
		c.Pin = m.o.Backends[m.pin].Name
	}
	m.o.Cluster.Put(c)
}

func (m *Monitor) closeFirstVerdicts() {
	if m.decided {
		return
	}
	for _, c := range m.candidates {
		if !c.known {
			return
		}
	}
	m.decided = true
	close(m.firstVerdicts)
}

func (m *Monitor) tellActive() {
	active := m.active
	m.append(bridge.Event{Kind: bridge.NewActiveBackend, At: active.Since, Host: m.o.Host, Active: &active})
	name := ""
	if active.Backend != nil {
		name = active.Backend.Name
	}
	m.log.Info("new active backend", "backend", name, "epoch", active.Epoch, "reason", active.Reason)
}

// tellHealth logs one line per change of verdict, and of failures that change
// none the first since the backend was last well; the others are for debugging.
func (m *Monitor) tellHealth(r report) {
	name := m.o.Backends[r.place].Name
	if r.answer == check.Healthy {
		m.well[r.place]++
		if m.well[r.place] >= m.o.Spec.Rise {
			m.noted[r.place] = false
		}
	} else {
		m.well[r.place] = 0
	}
	switch {
	case r.changed:
		m.append(bridge.Event{Kind: bridge.BackendHealth, At: m.clock.Now(), Host: m.o.Host,
			Health: &bridge.Health{Host: m.o.Host, Backend: name, Healthy: r.healthy, Detail: r.detail}})
		m.log.Info("backend health has changed", "backend", name, "healthy", r.healthy, "detail", r.detail, "took", r.took)
	case r.answer == check.Healthy:
		return
	case m.noted[r.place]:
		m.log.Debug("probe failed", "backend", name, "detail", r.detail, "took", r.took)
	default:
		m.log.Info("probe failed", "backend", name, "detail", r.detail, "took", r.took)
	}
	m.noted[r.place] = r.answer != check.Healthy || m.noted[r.place]
}

func (m *Monitor) tellPin(message string) {
	event := bridge.Event{Kind: bridge.Unpinned, At: m.clock.Now(), Host: m.o.Host, Pin: &bridge.Pin{Host: m.o.Host, Message: message}}
	if m.pin != nobody {
		event.Kind, event.Pin.Backend = bridge.Pinned, m.o.Backends[m.pin].Name
	}
	m.append(event)
}

func (m *Monitor) append(event bridge.Event) {
	if m.o.Journal != nil {
		m.o.Journal.Append(event)
	}
}

// warnOfTie warns once of two backends that claim the same index, as after a
// split brain.
func (m *Monitor) warnOfTie() {
	if m.tieWarned {
		return
	}
	if first, second, tied := tie(m.candidates); tied {
		m.tieWarned = true
		m.log.Warn("two healthy backends claim the same index; the first of the configuration goes before",
			"backend", m.o.Backends[first].Name, "other", m.o.Backends[second].Name, "index", *m.candidates[first].index)
	}
}
