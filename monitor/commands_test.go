package monitor_test

import (
	"context"
	"os"
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

func TestSwitch(t *testing.T) {
	run(t, 3, func(r *rig, o *monitor.Options) { o.Initial.Epoch = 7; r.checks[2].set(unhealthy) }, func(r *rig) {
		ctx := r.t.Context()
		r.pass(time.Second)

		epoch, err := r.m.Switch(ctx, "db-1", "maintenance of db-0")
		r.Expect(err).NotTo(HaveOccurred())
		r.Expect(epoch).To(BeEquivalentTo(9))
		// It is in the feeds when it is answered.
		active, _ := r.active.Get()
		r.Expect(active.Epoch).To(BeEquivalentTo(9))
		r.Expect(active.Backend.Name).To(Equal("db-1"))

		epoch, err = r.m.Switch(ctx, "db-1", "again")
		r.Expect(err).NotTo(HaveOccurred())
		r.Expect(epoch).To(BeEquivalentTo(9), "it was active already")

		_, err = r.m.Switch(ctx, "db-2", "")
		r.Expect(err).To(MatchError(bridge.ErrUnhealthy))
		for _, nobody := range []string{"db-9", ""} {
			_, err = r.m.Switch(ctx, nobody, "")
			r.Expect(err).To(MatchError(bridge.ErrUnknownBackend))
		}
		epoch, err = r.m.Switch(ctx, "db-0", "")
		r.Expect(err).NotTo(HaveOccurred())
		r.Expect(epoch).To(BeEquivalentTo(10))
		r.pass(10 * time.Second)
		r.Expect(r.history()).To(Equal([]string{"db-0 (first election)", "db-1 (operator: maintenance of db-0)", "db-0 (operator)"}))
		cluster, _ := r.cluster.Get()
		r.Expect(cluster.Pin).To(BeEmpty(), "sticky keeps it without a pin")
	})
}

func TestSwitchUnderLowestPins(t *testing.T) {
	run(t, 2, func(_ *rig, o *monitor.Options) { o.Elect = monitor.Lowest }, func(r *rig) {
		r.pass(time.Second)
		_, err := r.m.Switch(r.t.Context(), "db-1", "try it")
		r.Expect(err).NotTo(HaveOccurred())
		cluster, _ := r.cluster.Get()
		r.Expect(cluster.Pin).To(Equal("db-1"))
		_, err = r.m.Switch(r.t.Context(), "db-0", "and back")
		r.Expect(err).To(MatchError(bridge.ErrPinned))
		r.pass(10 * time.Second)
		r.Expect(r.now()).To(Equal("db-1"))
		_, err = r.m.Pin(r.t.Context(), "", "done")
		r.Expect(err).NotTo(HaveOccurred())
		r.Expect(r.history()[1:]).To(Equal([]string{"db-1 (operator: try it)", "db-0 (unpinned: done)"}))
		r.Expect(r.pins()).To(HaveExactElements(
			HaveField("Pin", HaveValue(Equal(bridge.Pin{Host: "db.main", Backend: "db-1", Message: "try it"}))), HaveField("Kind", bridge.Unpinned)))
	})
}

func TestPin(t *testing.T) {
	run(t, 2, nil, func(r *rig) {
		ctx := r.t.Context()
		r.pass(time.Second)
		_, err := r.m.Pin(ctx, "db-9", "")
		r.Expect(err).To(MatchError(bridge.ErrUnknownBackend))

		epoch, err := r.m.Pin(ctx, "db-1", "the big one")
		r.Expect(err).NotTo(HaveOccurred())
		r.Expect(epoch).To(BeEquivalentTo(2))
		cluster, _ := r.cluster.Get()
		r.Expect(cluster.Pin).To(Equal("db-1"))
		epoch, err = r.m.Pin(ctx, "db-1", "again")
		r.Expect(err).NotTo(HaveOccurred())
		r.Expect(epoch).To(BeEquivalentTo(2))

		r.checks[1].set(unhealthy)
		r.pass(10 * time.Second)
		r.Expect(r.now()).To(Equal("none"), "a host that is pinned waits")
		_, err = r.m.Switch(ctx, "db-0", "")
		r.Expect(err).To(MatchError(bridge.ErrPinned))
		r.checks[1].set(healthy)
		r.pass(10 * time.Second)
		r.Expect(r.now()).To(Equal("db-1"))

		r.checks[0].set(unhealthy)
		r.pass(time.Second)
		_, err = r.m.Pin(ctx, "db-0", "")
		r.Expect(err).NotTo(HaveOccurred(), "one that is down can be pinned")
		r.Expect(r.now()).To(Equal("none"))
		_, err = r.m.Pin(ctx, "", "")
		r.Expect(err).NotTo(HaveOccurred())
		cluster, _ = r.cluster.Get()
		r.Expect(cluster.Pin).To(BeEmpty())
		r.Expect(r.history()).To(Equal([]string{
			"db-0 (first election)", "db-1 (pinned: the big one)", "none (unhealthy: db-1: status 503)", "db-1 (pinned)",
			"none (pinned)", "db-1 (unpinned)",
		}))
		r.Expect(r.pins()).To(Equal([]bridge.Event{
			{Kind: bridge.Pinned, Host: "db.main", Pin: &bridge.Pin{Host: "db.main", Backend: "db-1", Message: "the big one"}},
			{Kind: bridge.Pinned, Host: "db.main", Pin: &bridge.Pin{Host: "db.main", Backend: "db-0"}},
			{Kind: bridge.Unpinned, Host: "db.main", Pin: &bridge.Pin{Host: "db.main"}},
		}), "those that changed something")
	})
}

func TestThePinOfBeforeIsKept(t *testing.T) {
	run(t, 2, func(_ *rig, o *monitor.Options) { o.Initial.Pin = "db-1" }, func(r *rig) {
		r.pass(time.Second)
		r.Expect(r.history()).To(Equal([]string{"db-1 (pinned)"}))
	})
	run(t, 2, func(_ *rig, o *monitor.Options) { o.Initial.Pin = "db-9" }, func(r *rig) {
		r.pass(time.Second)
		r.Expect(r.history()).To(Equal([]string{"db-0 (first election)"}))
		r.Expect(r.log.String()).To(ContainSubstring("the pin is dropped"))
	})
}

func TestCommandsNeverHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewWithT(t)
		m, err := monitor.New(monitor.Options{
			Host: "db.main", Backends: []route.Backend{{Name: "db-0", Address: "10.0.0.1:1"}},
			Active: new(feed.Feed[bridge.Active]), Cluster: new(feed.Feed[bridge.Cluster]),
		})
		g.Expect(err).NotTo(HaveOccurred())
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = m.Switch(ctx, "db-0", "before Run")
		g.Expect(err).To(MatchError(context.DeadlineExceeded))

		waiting := make(chan error)
		go func() {
			_, err := m.Pin(t.Context(), "db-0", "before Run, and patient")
			waiting <- err
		}()
		synctest.Wait()
		signals, ended := make(chan os.Signal), make(chan error)
		go func() { ended <- m.Run(signals, make(chan struct{})) }()
		g.Expect(<-waiting).To(Succeed())
		signals <- os.Interrupt
		g.Expect(<-ended).To(Succeed())

		_, err = m.Switch(t.Context(), "db-0", "after Run")
		g.Expect(err).To(MatchError(bridge.ErrStopped))
		_, err = m.Pin(ctx, "db-0", "after Run")
		g.Expect(err).To(MatchError(bridge.ErrStopped))
		m.Hint(bridge.Hint{Host: "db.main", Backend: "db-0"})
	})
}

func TestOptionsAreChecked(t *testing.T) {
	good := func() monitor.Options {
		return monitor.Options{
			Host:     "db.main",
			Backends: []route.Backend{{Name: "db-0"}, {Name: "db-1"}},
			Spec:     check.Spec{Interval: 1, Timeout: 1, Fall: 1, Rise: 1},
			Checkers: []check.Checker{&script{}, &script{}},
			Active:   new(feed.Feed[bridge.Active]),
			Cluster:  new(feed.Feed[bridge.Cluster]),
		}
	}
	g := NewWithT(t)
	_, err := monitor.New(good())
	g.Expect(err).NotTo(HaveOccurred())
	for says, spoil := range map[string]func(*monitor.Options){
		`elect is "random"`:              func(o *monitor.Options) { o.Elect = "random" },
		"feeds Active and Cluster":       func(o *monitor.Options) { o.Active = nil },
		"the same name":                  func(o *monitor.Options) { o.Backends[1].Name = "db-0" },
		"one checker for each":           func(o *monitor.Options) { o.Checkers = o.Checkers[1:] },
		"the checker of db-1 is missing": func(o *monitor.Options) { o.Checkers[1] = nil },
		"one entry for each":             func(o *monitor.Options) { o.ChecksOwnPort = []bool{true} },
		"interval and timeout":           func(o *monitor.Options) { o.Spec.Interval = 0 },
		"fall and rise":                  func(o *monitor.Options) { o.Spec.Rise = 0 },
	} {
		o := good()
		spoil(&o)
		_, err := monitor.New(o)
		g.Expect(err).To(MatchError(And(HavePrefix("monitoring db.main: "), ContainSubstring(says))))
	}
}
