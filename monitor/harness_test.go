package monitor_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	. "github.com/onsi/gomega"

	"switchboard/bridge"
	"switchboard/bridge/feed"
	"switchboard/bridge/route"
	"switchboard/monitor"
	"switchboard/monitor/check"
)

const (
	interval = 200 * time.Millisecond
	timeout  = time.Second
)

// script is a checker that answers what it is told to.
type script struct {
	mu     sync.Mutex
	answer func(ctx context.Context) check.Result
	starts []time.Time
	// inFlight and most count probes at once; closed counts calls of Close.
	inFlight, most, closed int
}

func (s *script) Check(ctx context.Context) check.Result {
	s.mu.Lock()
	s.inFlight++
	s.most = max(s.most, s.inFlight)
	s.starts = append(s.starts, time.Now())
	answer := s.answer
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.inFlight--
		s.mu.Unlock()
	}()
	return answer(ctx)
}

func (s *script) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed++
	return nil
}

func (s *script) set(answer func(context.Context) check.Result) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

func (s *script) probes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.starts)
}

func (s *script) busy() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.inFlight
}

func (s *script) closes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// The answers that scripts give.

func healthy(context.Context) check.Result {
	return check.Result{Verdict: check.Healthy, Detail: "fine"}
}

func healthyAt(index int) func(context.Context) check.Result {
	return func(context.Context) check.Result {
		return check.Result{Verdict: check.Healthy, Index: &index, Detail: "fine"}
	}
}

func failed(context.Context) check.Result { return check.Result{Detail: "status 500"} }

func unhealthy(context.Context) check.Result {
	return check.Result{Verdict: check.Unhealthy, Detail: "status 503"}
}

func void(context.Context) check.Result {
	return check.Result{Verdict: check.Void, Detail: "too many open files"}
}

// hung answers nothing before its deadline.
func hung(ctx context.Context) check.Result {
	<-ctx.Done()
	return check.Result{Detail: "timed out"}
}

// inTurn gives one answer after the other, over and over.
func inTurn(answers ...func(context.Context) check.Result) func(context.Context) check.Result {
	turn := -1
	return func(ctx context.Context) check.Result {
		turn = (turn + 1) % len(answers)
		return answers[turn](ctx)
	}
}

// once gives one answer and then another one for good.
func once(first, then func(context.Context) check.Result) func(context.Context) check.Result {
	asked := false
	return func(ctx context.Context) check.Result {
		if asked {
			return then(ctx)
		}
		asked = true
		return first(ctx)
	}
}

// rig is a monitor that runs in a bubble of testing/synctest, where time only
// passes when everybody waits.
type rig struct {
	*WithT
	t       *testing.T
	m       *monitor.Monitor
	checks  []*script
	active  feed.Feed[bridge.Active]
	cluster feed.Feed[bridge.Cluster]
	journal *bridge.Journal
	log     strings.Builder
	signals chan os.Signal
	ended   chan error
	over    bool
}

// run runs test in a bubble with a monitor over n backends, db-0 and so on, that
// answer healthy. change may change the options.
func run(t *testing.T, n int, change func(*rig, *monitor.Options), test func(*rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &rig{WithT: NewWithT(t), t: t, journal: feed.NewRing[bridge.Event](10_000), signals: make(chan os.Signal), ended: make(chan error, 1)}
		o := monitor.Options{
			Host:    "db.main",
			Spec:    check.Spec{Type: "script", Interval: interval, Timeout: timeout, Fall: 2, Rise: 2},
			Active:  &r.active,
			Cluster: &r.cluster,
			Journal: r.journal,
			Log:     slog.New(slog.NewTextHandler(&r.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
			Rand:    func() float64 { return 0 },
		}
		for i := range n {
			s := &script{answer: healthy}
			r.checks = append(r.checks, s)
			o.Checkers = append(o.Checkers, s)
			o.Backends = append(o.Backends, route.Backend{Name: fmt.Sprintf("db-%d", i), Address: fmt.Sprintf("10.0.0.%d:3306", i)})
		}
		if change != nil {
			change(r, &o)
		}
		var err error
		r.m, err = monitor.New(o)
		r.Expect(err).NotTo(HaveOccurred())
		ready := make(chan struct{})
		go func() { r.ended <- r.m.Run(r.signals, ready) }()
		<-ready
		test(r)
		if !r.over {
			r.Expect(r.stop()).To(Succeed())
		}
		for _, s := range r.checks {
			r.Expect(s.most).To(BeNumerically("<=", 1), "probes in flight at once")
			if o.Checkers != nil {
				r.Expect(s.closes()).To(Equal(1), "calls of Close")
			}
		}
		r.expectSound()
	})
}

func (r *rig) stop() error {
	r.over = true
	r.signals <- os.Interrupt
	return <-r.ended
}

// pass lets d pass and everybody come to rest.
func (r *rig) pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// now is the name of the active backend, "none", or "" if nothing was published.
func (r *rig) now() string {
	synctest.Wait()
	active, put := r.active.Get()
	switch {
	case !put:
		return ""
	case active.Backend == nil:
		return "none"
	default:
		return active.Backend.Name
	}
}

// history is NEW_ACTIVE_BACKEND after NEW_ACTIVE_BACKEND, as "db-0 (reason)".
func (r *rig) history() (history []string) {
	synctest.Wait()
	for _, a := range r.actives() {
		name := "none"
		if a.Backend != nil {
			name = a.Backend.Name
		}
		history = append(history, name+" ("+a.Reason+")")
	}
	return history
}

func (r *rig) actives() (actives []bridge.Active) {
	entries, _ := r.journal.Since(0)
	for _, e := range entries {
		if e.Value.Kind == bridge.NewActiveBackend {
			actives = append(actives, *e.Value.Active)
		}
	}
	return actives
}

// pins are the pins and their ends that were told, without their times.
func (r *rig) pins() (pins []bridge.Event) {
	entries, _ := r.journal.Since(0)
	for _, e := range entries {
		if e.Value.Pin != nil {
			e.Value.At = time.Time{}
			pins = append(pins, e.Value)
		}
	}
	return pins
}

func (r *rig) state(place int) bridge.BackendState {
	synctest.Wait()
	cluster, _ := r.cluster.Get()
	return cluster.Backends[place]
}

// expectSound checks what must hold of every history: an epoch more each time,
// a change each time, and nobody active who was not healthy then.
func (r *rig) expectSound() {
	r.t.Helper()
	entries, _ := r.journal.Since(0)
	up := make(map[string]bool)
	var before *bridge.Active
	for _, e := range entries {
		switch event := e.Value; event.Kind {
		case bridge.BackendHealth:
			r.Expect(up).NotTo(HaveKeyWithValue(event.Health.Backend, event.Health.Healthy), "a verdict that is no change")
			up[event.Health.Backend] = event.Health.Healthy
		case bridge.NewActiveBackend:
			a := event.Active
			r.Expect(event.Host).To(Equal("db.main"))
			r.Expect(a.Host).To(Equal("db.main"))
			r.Expect(a.Reason).NotTo(BeEmpty())
			r.Expect(a.Since).NotTo(BeZero())
			if a.Backend != nil {
				r.Expect(up).To(HaveKeyWithValue(a.Backend.Name, true), "an active backend that is not healthy")
			}
			if before != nil {
				r.Expect(a.Epoch).To(Equal(before.Epoch + 1))
				r.Expect(a.Backend).NotTo(Equal(before.Backend), "a NEW_ACTIVE_BACKEND that is no change")
			}
			before = a
		}
	}
	cluster, _ := r.cluster.Get()
	if active, put := r.active.Get(); put {
		r.Expect(*before).To(Equal(active))
		r.Expect(cluster.Active).To(Equal(active))
	}
}
