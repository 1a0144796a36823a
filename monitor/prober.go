package monitor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"switchboard/bridge"
	"switchboard/bridge/clock"
	"switchboard/bridge/route"
	"switchboard/monitor/check"
)

const (
	// fast is the longest time between probes while a verdict is not clear, and
	// the shortest between two that hints asked for.
	fast = 50 * time.Millisecond
	// rest is how long a backend without a check stays down after the data path
	// has failed.
	rest = time.Second
	// ownTimeout bounds the connect to a backend without a check.
	ownTimeout = time.Second
	// leastGrace is the least lateness that voids a probe.
	leastGrace = time.Second
)

// prober owns one backend's verdict. Its goroutine schedules the probes; a
// second one, the worker, makes them, so that a checker that does not return
// holds up nobody but itself.
type prober struct {
	place    int
	backend  route.Backend
	checker  check.Checker // nil: never probed
	dialOwn  func(ctx context.Context, address string) error
	interval time.Duration
	timeout  time.Duration
	// first is when the first probe is due after the start.
	first   time.Duration
	clock   clock.Clock
	random  func() float64
	log     *slog.Logger
	reports chan<- report

	// pending is the hint nobody has looked at yet; wake tells that there is one.
	mu      sync.Mutex
	pending *bridge.Hint
	wake    chan struct{} // one slot: newest wins

	// probes goes to the worker and answers comes back. One slot each: there is
	// never a second probe in flight, so neither side waits for the other.
	probes  chan probe
	answers chan answer
	// returned is closed when the checker has returned for the last time and is
	// closed.
	returned chan struct{}

	// What follows is the goroutine's own.

	verdict verdict
	index   *int
	// inFlight: the worker has a probe. overdue: and it was given up. stale: and a
	// hint has been explicit since it began.
	inFlight, overdue, stale bool
	started, deadline        time.Time
	giveUp                   context.CancelFunc
	// void: the last probe could not be made.
	void bool
	// fell: a verdict of unhealthy is new, and the next probe not scheduled yet.
	fell bool
	// askOwn: probes connect to the backend's own port until that has worked.
	askOwn bool
	// hinted: a hint wants a probe that has not begun; lastHinted is when the last
	// such began.
	hinted     bool
	lastHinted time.Time
	timer      clock.Timer
}

// report is what a prober tells the monitor's loop.
type report struct {
	place                   int
	known, healthy, suspect bool
	// changed: the verdict has.
	changed bool
	index   *int
	answer  check.Verdict
	detail  string
	// at and took are the probe's; at is zero if there was none, but a hint.
	at   time.Time
	took time.Duration
}

type probe struct {
	ctx context.Context
	// own: connect to the backend's own port first.
	own bool
}

type answer struct {
	result check.Result
	// own is true if the backend's own port was asked and did accept.
	own   bool
	ended time.Time
}

// hint takes what the data path has seen. It never blocks.
func (p *prober) hint(h bridge.Hint) {
	p.mu.Lock()
	if p.pending == nil || h.Refused || !p.pending.Refused {
		p.pending = &h
	}
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// run probes until ctx ends.
func (p *prober) run(ctx context.Context) {
	defer close(p.probes)
	p.timer = p.clock.NewTimer(p.first)
	defer p.timer.Stop()
	defer func() {
		if p.giveUp != nil {
			p.giveUp()
		}
	}()
	if p.checker == nil {
		p.timer.Stop()
		p.observe(ctx, check.Healthy, "not checked", time.Time{}, 0)
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
			p.consider(ctx)
		case a := <-p.answers:
			p.take(ctx, a)
		case <-p.timer.C():
			switch {
			case p.inFlight:
				p.abandon(ctx)
			case p.checker == nil && p.dialOwn == nil:
				p.observe(ctx, check.Healthy, "not checked, has rested", time.Time{}, 0)
			default:
				p.begin(ctx)
			}
		}
	}
}

// begin hands a probe to the worker.
func (p *prober) begin(ctx context.Context) {
	now := p.clock.Now()
	if p.hinted {
		p.hinted, p.lastHinted = false, now
	}
	p.inFlight, p.overdue, p.stale = true, false, false
	p.started, p.deadline = now, now.Add(p.timeout)
	ctx, p.giveUp = context.WithTimeout(ctx, p.timeout)
	p.probes <- probe{ctx: ctx, own: p.checker == nil || p.askOwn}
	p.timer.Reset(p.timeout)
}

// take takes the worker's answer.
func (p *prober) take(ctx context.Context, a answer) {
	p.giveUp()
	p.inFlight = false
	now := p.clock.Now()
	switch {
	case p.overdue, p.stale:
		// It was counted when it was given up, or is older than what we know.
	case p.late(now):
		p.begin(ctx)
		return
	default:
		if a.own && !p.hinted {
			p.askOwn = false
		}
		if a.result.Verdict == check.Healthy && a.ended.After(p.deadline) {
			a.result = check.Result{Verdict: check.Failed, Detail: "timed out"}
		}
		if a.result.Index != nil {
			p.index = a.result.Index
		}
		p.observe(ctx, a.result.Verdict, a.result.Detail, a.ended, a.ended.Sub(p.started))
	}
	p.schedule()
}

// abandon gives up the probe in flight at its deadline, and again each timeout
// for as long as its checker does not return.
func (p *prober) abandon(ctx context.Context) {
	p.giveUp()
	p.overdue = true
	now := p.clock.Now()
	if !p.late(now) && !p.stale {
		p.observe(ctx, check.Failed, "timed out", now, now.Sub(p.started))
	}
	p.deadline = now.Add(p.timeout)
	p.timer.Reset(p.timeout)
}

// late is true if so much time has passed since the deadline that this process
// must have been stopped meanwhile, so that nothing is known of the backend.
func (p *prober) late(now time.Time) bool {
	return now.Sub(p.deadline) > max(p.timeout, leastGrace)
}

// consider looks at the pending hint.
func (p *prober) consider(ctx context.Context) {
	p.mu.Lock()
	h := p.pending
	p.pending = nil
	p.mu.Unlock()
	if h == nil {
		return
	}
	switch {
	case h.Refused, p.checker == nil && p.dialOwn == nil:
		p.askOwn = p.dialOwn != nil
		p.stale = p.inFlight
		p.hinted = false
		changed := p.observe(ctx, check.Unhealthy, orElse(h.Detail, "connection refused"), time.Time{}, 0)
		if changed && !p.inFlight {
			p.schedule()
		}
	case p.verdict.down():
		// It is probed as often as the hold-down wants already.
	default:
		p.askOwn = p.dialOwn != nil
		p.hinted = true
		if !p.inFlight {
			p.schedule()
		}
	}
}

// schedule sets the timer to when the next probe is due.
func (p *prober) schedule() {
	now := p.clock.Now()
	interval := p.interval
	switch {
	case p.void:
		interval = min(interval, fast)
	case p.verdict.suspect() && p.verdict.failures == 1:
		interval = 0
	case p.verdict.suspect():
		interval = min(interval, fast)
	case p.fell:
		// The hold-down counts from the verdict.
		p.fell = false
		p.timer.Reset(interval)
		return
	case p.verdict.down():
		// Without jitter, so that the hold-down is what was asked for.
	case p.checker == nil && !p.hinted:
		p.timer.Stop()
		return
	default:
		// Only shorter, never longer, and enough for probes that began together to
		// drift apart.
		interval -= time.Duration(p.random() * float64(interval) / 10)
	}
	due := p.started.Add(interval)
	if p.hinted {
		if soon := p.lastHinted.Add(fast); p.checker == nil || soon.Before(due) {
			due = soon
		}
	}
	p.timer.Reset(max(due.Sub(now), 0))
}

// observe counts an answer and tells the loop.
func (p *prober) observe(ctx context.Context, answered check.Verdict, detail string, at time.Time, took time.Duration) (changed bool) {
	changed = p.verdict.observe(answered)
	p.void = answered == check.Void
	p.fell = p.verdict.down() && (changed || p.fell)
	r := report{
		place: p.place,
		known: p.verdict.known, healthy: p.verdict.healthy, suspect: p.verdict.suspect(),
		changed: changed, index: p.index,
		answer: answered, detail: detail, at: at, took: took,
	}
	select {
	case p.reports <- r:
	case <-ctx.Done():
	}
	return changed
}

// work makes the probes, and closes the checker when there will be no more.
func (p *prober) work() {
	defer close(p.returned)
	for next := range p.probes {
		result, own := p.probe(next)
		p.answers <- answer{result: result, own: own, ended: p.clock.Now()}
	}
	if p.checker != nil {
		p.closeChecker()
	}
}

func (p *prober) closeChecker() {
	defer func() {
		if cause := recover(); cause != nil {
			p.log.Error("closing the check panicked", "backend", p.backend.Name, "cause", cause, "stack", string(debug.Stack()))
		}
	}()
	if err := p.checker.Close(); err != nil {
		p.log.Warn("closing the check failed", "backend", p.backend.Name, "cause", err)
	}
}

func (p *prober) probe(next probe) (result check.Result, own bool) {
	defer func() {
		if cause := recover(); cause != nil {
			result = check.Result{Verdict: check.Failed, Detail: fmt.Sprintf("check panicked: %v", cause)}
			p.log.Error("check panicked", "backend", p.backend.Name, "cause", cause, "stack", string(debug.Stack()))
		}
	}()
	if next.own {
		err := p.dialOwn(next.ctx, p.backend.Address)
		switch {
		case errors.Is(err, syscall.ECONNREFUSED):
			return check.Result{Verdict: check.Unhealthy, Detail: "its own port: connection refused"}, false
		case check.Short(err):
			return check.Result{Verdict: check.Void, Detail: check.Words(err)}, false
		case err != nil:
			return check.Result{Verdict: check.Failed, Detail: "its own port: " + check.Words(err)}, false
		case p.checker == nil:
			return check.Result{Verdict: check.Healthy, Detail: "not checked, its own port accepts"}, true
		}
	}
	return p.checker.Check(next.ctx), next.own
}

func orElse(said, otherwise string) string {
	if said == "" {
		return otherwise
	}
	return said
}
