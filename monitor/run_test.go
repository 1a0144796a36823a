package monitor_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/bridge"
	"switchboard/bridge/feed"
	"switchboard/bridge/route"
	"switchboard/fixtures/spec"
	"switchboard/monitor"
	"switchboard/monitor/check"
)

var _ = Describe("Monitor", func() {
	var (
		active  *feed.Feed[bridge.Active]
		cluster *feed.Feed[bridge.Cluster]
		signals chan os.Signal
		ended   chan error
	)

	BeforeEach(func() {
		spec.CheckLeaks()
		active, cluster = new(feed.Feed[bridge.Active]), new(feed.Feed[bridge.Cluster])
		signals, ended = make(chan os.Signal), make(chan error, 1)
	})

	start := func(o monitor.Options) *monitor.Monitor {
		GinkgoHelper()
		o.Host, o.Active, o.Cluster = "db.main", active, cluster
		if o.Log == nil {
			o.Log, _ = spec.Logs()
		}
		m, err := monitor.New(o)
		Expect(err).NotTo(HaveOccurred())
		ready := make(chan struct{})
		go func() { ended <- m.Run(signals, ready) }()
		Eventually(ready).Should(BeClosed())
		return m
	}

	stop := func() {
		GinkgoHelper()
		Eventually(signals).Should(BeSent(os.Interrupt))
		Eventually(ended).Should(Receive(BeNil()))
	}

	It("knows the backends of a host without a check when it is ready", func() {
		backends := []route.Backend{route.NewBackend("a", "127.0.0.1:1"), route.NewBackend("b", "127.0.0.1:2")}
		m := start(monitor.Options{Backends: backends, Elect: monitor.None})
		Expect(m.FirstVerdicts()).To(BeClosed())
		known, _ := cluster.Get()
		Expect(known.Backends).To(HaveEach(And(HaveField("Verdict", true), HaveField("Healthy", true))))
		_, elected := active.Get()
		Expect(elected).To(BeFalse(), "None elects nobody")
		_, err := m.Switch(context.Background(), "a", "try")
		Expect(err).To(MatchError(bridge.ErrBalance))
		_, err = m.Pin(context.Background(), "a", "try")
		Expect(err).To(MatchError(bridge.ErrBalance))
		stop()
	})

	name := func() string {
		a, _ := active.Get()
		if a.Backend == nil {
			return "none"
		}
		return a.Backend.Name
	}

	// oneBackend is a host with one backend that is probed by s.
	oneBackend := func(s *script) monitor.Options {
		return monitor.Options{
			Backends: []route.Backend{{Name: "db-0", Address: "127.0.0.1:1"}},
			Spec:     check.Spec{Type: "script", Interval: interval, Timeout: timeout, Fall: 1, Rise: 1},
			Checkers: []check.Checker{s},
		}
	}

	Context("when the process was stopped for a while (M13)", func() {
		It("repeats the probe that was in flight and does not count it", func() {
			asked, answers := make(chan struct{}), make(chan check.Result)
			s := &script{answer: func(context.Context) check.Result { asked <- struct{}{}; return <-answers }}
			o, clock := oneBackend(s), spec.NewClock()
			o.Clock = clock
			start(o)
			good, bad := check.Result{Verdict: check.Healthy}, check.Result{Detail: "timed out"}

			clock.Advance(interval)
			Eventually(asked).Should(Receive())
			answers <- good
			Eventually(name).Should(Equal("db-0"))
			before, _ := cluster.Get()

			Eventually(clock.Waiting).Should(BeNumerically(">=", 1))
			Eventually(func() bool {
				clock.Advance(interval)
				select {
				case <-asked:
					return true
				default:
					return false
				}
			}).Should(BeTrue())
			clock.Advance(30 * time.Second)
			answers <- bad
			// The next probe has begun, so the answer has been looked at.
			Eventually(asked).Should(Receive())
			Expect(name()).To(Equal("db-0"))
			after, _ := cluster.Get()
			Expect(after.Active).To(Equal(before.Active))

			// What is bad in its time counts, so the spec can fail.
			answers <- bad
			Eventually(name).Should(Equal("none"))

			go func() {
				for range asked {
					answers <- good
				}
			}()
			stop()
			close(asked)
		})
	})

	Context("when something of its own panics (M19)", func() {
		It("ends with an error if it is the loop", func() {
			o := oneBackend(&script{answer: healthy})
			o.Log = slog.New(trap{})
			m := start(o)
			Eventually(ended).Should(Receive(MatchError(And(HavePrefix("monitoring db.main: the monitor panicked: a trap"), ContainSubstring("goroutine")))))
			_, err := m.Switch(context.Background(), "db-0", "")
			Expect(err).To(MatchError(bridge.ErrStopped))
		})

		It("ends with an error if it is a prober", func() {
			o := oneBackend(&script{answer: healthy})
			var rolls atomic.Int64
			o.Rand = func() float64 {
				if rolls.Add(1) > 1 {
					panic("loaded dice")
				}
				return 0
			}
			start(o)
			Eventually(ended).Should(Receive(MatchError(HavePrefix("monitoring db.main: the prober of db-0 panicked: loaded dice"))))
		})
	})

	Context("with real checks", func() {
		var (
			backends []*spec.Health
			o        monitor.Options
		)

		// A backend is the port of a listener, its status page another one.
		listen := func() net.Listener {
			GinkgoHelper()
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			Expect(err).NotTo(HaveOccurred())
			DeferCleanup(func() { _ = listener.Close() })
			return listener
		}

		dialer := new(net.Dialer)
		var ports []net.Listener

		BeforeEach(func() {
			backends, ports = nil, nil
			o = monitor.Options{
				Spec: check.Spec{Type: "http", Path: "/api/v1/status", Interval: 20 * time.Millisecond, Timeout: time.Second, Fall: 2, Rise: 2},
				DialOwn: func(ctx context.Context, address string) error {
					conn, err := dialer.DialContext(ctx, "tcp", address)
					if err != nil {
						return fmt.Errorf("dialing %s: %w", address, err)
					}
					return conn.Close()
				},
				ChecksOwnPort: []bool{false, false, false},
			}
			for i := range 3 {
				health, port := spec.StartHealth(), listen()
				health.Healthy(i)
				backends, ports = append(backends, health), append(ports, port)
				backend := route.Backend{Name: fmt.Sprintf("db-%d", i), Address: port.Addr().String()}
				checker, err := check.HTTP(o.Spec, check.Target{Host: "db.main", Backend: backend, Address: health.Addr(), Dial: dialer.DialContext})
				Expect(err).NotTo(HaveOccurred())
				o.Backends, o.Checkers = append(o.Backends, backend), append(o.Checkers, checker)
			}
		})

		It("switches when the active backend says that it is unhealthy, though another one hangs (M1)", func() {
			backends[2].Hang()
			start(o)
			Eventually(name).Should(Equal("db-0"))
			backends[0].Unhealthy()
			Eventually(name).WithTimeout(500 * time.Millisecond).WithPolling(time.Millisecond).Should(Equal("db-1"))
			a, _ := active.Get()
			Expect(a.Reason).To(Equal("unhealthy: db-0: says healthy: false"))
			stop()
			Expect(backends[2].MostAtOnce()).To(Equal(1))
		})

		It("takes a backend for unhealthy whose status page is dead, though its port is not (M4)", func() {
			start(o)
			Eventually(name).Should(Equal("db-0"))
			backends[0].Stop()
			Eventually(name).Should(Equal("db-1"))
			a, _ := active.Get()
			Expect(a.Reason).To(Equal("unhealthy: db-0: connection refused"))
			stop()
		})

		It("finds out by a hint that the port is dead while the status page is green (M3)", func() {
			m := start(o)
			Eventually(name).Should(Equal("db-0"))
			Expect(ports[0].Close()).To(Succeed())
			m.Hint(bridge.Hint{Host: "db.main", Backend: "db-0", Detail: "many sessions ended at once"})
			Eventually(name).WithPolling(time.Millisecond).Should(Equal("db-1"))
			Consistently(func() bool {
				c, _ := cluster.Get()
				return c.Backends[0].Healthy
			}).WithTimeout(200 * time.Millisecond).Should(BeFalse())
			stop()
		})

		It("keeps no descriptor over 1,500 probes (M17)", func() {
			o.Spec.Interval = time.Millisecond
			start(o)
			Eventually(name).Should(Equal("db-0"))
			Eventually(backends[0].Probes).Should(BeNumerically(">", 100))
			before := spec.FDs()
			Eventually(func() int { return backends[0].Probes() + backends[1].Probes() + backends[2].Probes() }).
				WithTimeout(30 * time.Second).Should(BeNumerically(">", 1500))
			// Three probes are in flight at most, each with two ends here.
			Expect(spec.FDs()).To(BeNumerically("<=", before+3*2*2))
			stop()
		})
	})

	It("publishes an explicit answer within a moment of the probe's end", func() {
		var answered atomic.Pointer[time.Time]
		turn := 0
		s := &script{answer: func(context.Context) check.Result {
			turn++
			now := time.Now()
			answered.Store(&now)
			if turn%2 == 0 {
				return check.Result{Verdict: check.Unhealthy}
			}
			return check.Result{Verdict: check.Healthy}
		}}
		o := oneBackend(s)
		o.Spec.Interval = time.Millisecond
		published, cancel := active.Subscribe()
		defer cancel()
		start(o)
		took := make([]time.Duration, 0, 50)
		for len(took) < cap(took) {
			Eventually(published).Should(Receive())
			a, _ := active.Get()
			took = append(took, a.Since.Sub(*answered.Load()))
		}
		stop()
		// The median, since a busy machine may hold up any single one.
		median := slices.Sorted(slices.Values(took))[len(took)/2]
		AddReportEntry("from the answer to the decision, median", median.String())
		Expect(median).To(BeNumerically("<", 5*time.Millisecond))
	})
})

// trap is a log handler that panics when an active backend is logged.
type trap struct{}

func (trap) Enabled(context.Context, slog.Level) bool { return true }

func (trap) Handle(_ context.Context, r slog.Record) error {
	if strings.Contains(r.Message, "active") {
		panic("a trap")
	}
	return nil
}

func (t trap) WithAttrs([]slog.Attr) slog.Handler { return t }
func (t trap) WithGroup(string) slog.Handler      { return t }
