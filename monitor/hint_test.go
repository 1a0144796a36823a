package monitor_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	. "github.com/onsi/gomega"

	"switchboard/bridge"
	"switchboard/monitor"
	"switchboard/monitor/check"
)

var errRefused = fmt.Errorf("dialing: %w", &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)})

// port is what DialOwn says of all backends' own ports.
type port struct {
	err   atomic.Pointer[error]
	asked atomic.Int64
}

func (p *port) dial(context.Context, string) error {
	p.asked.Add(1)
	if err := p.err.Load(); err != nil {
		return *err
	}
	return nil
}

// elsewhere makes the checks look at another port than the backend's own.
func elsewhere(own *port) func(*rig, *monitor.Options) {
	return func(_ *rig, o *monitor.Options) {
		o.Spec.Port = 9200
		o.DialOwn = own.dial
	}
}

func (r *rig) hint(refused bool) {
	r.m.Hint(bridge.Hint{Host: "db.main", Backend: "db-0", Refused: refused, Detail: "seen by a session"})
}

func TestARefusalOfTheOwnPortCountsAtOnce(t *testing.T) {
	run(t, 2, nil, func(r *rig) {
		r.pass(time.Second)
		began := time.Now()
		r.hint(true)
		r.Expect(r.history()[1:]).To(Equal([]string{"db-1 (unhealthy: db-0: seen by a session)"}))
		r.Expect(time.Since(began)).To(BeZero())
		// The check is on the own port and says what is so.
		r.pass(2*interval - time.Millisecond)
		r.Expect(r.state(0).Healthy).To(BeFalse(), "the hold-down counts from the hint")
		r.pass(2 * time.Millisecond)
		r.Expect(r.state(0).Healthy).To(BeTrue())
	})
}

func TestARefusalDuringAProbeOutweighsItsAnswer(t *testing.T) {
	run(t, 2, func(_ *rig, o *monitor.Options) { o.Spec.Rise = 1 }, func(r *rig) {
		slow := func(ctx context.Context) check.Result { <-time.After(150 * time.Millisecond); return healthy(ctx) }
		r.checks[0].set(slow)
		r.pass(time.Second)
		for r.checks[0].busy() == 0 {
			r.pass(time.Millisecond)
		}
		r.hint(true)
		r.pass(150 * time.Millisecond)
		r.Expect(r.state(0).Healthy).To(BeFalse(), "the probe is older than the hint")
		r.pass(interval + 150*time.Millisecond)
		r.Expect(r.state(0).Healthy).To(BeTrue())
	})
}

// M3: the status page is green, the backend's own port is dead.
func TestAGreenStatusPageDoesNotReviveADeadPort(t *testing.T) {
	own := new(port)
	run(t, 2, elsewhere(own), func(r *rig) {
		r.pass(time.Second)
		r.Expect(own.asked.Load()).To(BeZero(), "it is asked after hints only")
		own.err.Store(&errRefused)
		r.hint(true)
		r.pass(time.Minute)
		r.Expect(r.history()[1:]).To(Equal([]string{"db-1 (unhealthy: db-0: seen by a session)"}))
		r.Expect(r.state(0).Detail).To(Equal("its own port: connection refused"))
		own.err.Store(nil)
		r.pass(time.Second)
		r.Expect(r.state(0).Healthy).To(BeTrue())
		asked := own.asked.Load()
		r.pass(time.Minute)
		r.Expect(own.asked.Load()).To(Equal(asked), "it has worked, so it is asked no more")
	})
}

func TestAHintAsksTheOwnPort(t *testing.T) {
	for name, c := range map[string]struct {
		err    error
		detail string
		took   time.Duration
	}{
		"refused": {errRefused, "its own port: connection refused", 0},
		"silent":  {context.DeadlineExceeded, "its own port: timed out", 0},
	} {
		t.Run(name, func(t *testing.T) {
			own := new(port)
			run(t, 2, elsewhere(own), func(r *rig) {
				r.pass(time.Second)
				own.err.Store(&c.err)
				r.hint(false)
				r.Expect(r.history()[1:]).To(Equal([]string{"db-1 (unhealthy: db-0: " + c.detail + ")"}))
				r.pass(time.Minute)
				r.Expect(r.state(0).Healthy).To(BeFalse(), "the status page is green, the port is not")
			})
		})
	}
	t.Run("fine", func(t *testing.T) {
		own := new(port)
		run(t, 2, elsewhere(own), func(r *rig) {
			r.pass(time.Second)
			probes := r.checks[0].probes()
			r.hint(false)
			r.Expect(r.now()).To(Equal("db-0"))
			r.Expect(r.checks[0].probes()).To(Equal(probes+1), "the probe comes at once")
			r.Expect(own.asked.Load()).To(BeEquivalentTo(1))
		})
	})
}

func TestHintsAreRateLimited(t *testing.T) {
	run(t, 1, nil, func(r *rig) {
		r.pass(time.Second)
		probes := r.checks[0].probes()
		for range 1000 {
			r.hint(false)
			r.pass(time.Millisecond)
		}
		r.Expect(r.checks[0].probes() - probes).To(BeNumerically("~", 1000/50, 1))
		for range 1000 {
			r.hint(false)
		}
		synctest.Wait()
	})
}

func TestHintsDoNotHastenARecovery(t *testing.T) {
	run(t, 1, func(_ *rig, o *monitor.Options) { o.Spec.Rise = 5 }, func(r *rig) {
		r.pass(time.Second)
		r.checks[0].set(once(unhealthy, healthy))
		for range 10_000 {
			r.hint(false)
			r.pass(time.Millisecond)
		}
		r.Expect(r.actives()).To(HaveLen(3))
		r.Expect(r.actives()[2].Since.Sub(r.actives()[1].Since)).To(Equal(5 * interval))
	})
}

func TestHintsForOthersAreIgnored(t *testing.T) {
	run(t, 1, nil, func(r *rig) {
		r.pass(time.Second)
		r.m.Hint(bridge.Hint{Host: "db.other", Backend: "db-0", Refused: true})
		r.m.Hint(bridge.Hint{Host: "db.main", Backend: "db-7", Refused: true})
		r.pass(time.Second)
		r.Expect(r.history()).To(HaveLen(1))
	})
}

func unchecked(own *port) func(*rig, *monitor.Options) {
	return func(_ *rig, o *monitor.Options) {
		o.Checkers, o.Spec = nil, check.Spec{}
		if own != nil {
			o.DialOwn = own.dial
		}
	}
}

func TestAHostWithoutCheckIsUpUntilTheDataPathFails(t *testing.T) {
	run(t, 2, unchecked(nil), func(r *rig) {
		r.Expect(r.history()).To(Equal([]string{"db-0 (first election)"}))
		r.Expect(r.m.FirstVerdicts()).To(BeClosed())
		r.pass(time.Hour)
		r.hint(true)
		r.Expect(r.history()[1:]).To(Equal([]string{"db-1 (unhealthy: db-0: seen by a session)"}))
		r.pass(time.Second - time.Millisecond)
		r.Expect(r.state(0).Healthy).To(BeFalse())
		r.pass(2 * time.Millisecond)
		r.Expect(r.state(0).Healthy).To(BeTrue())
		r.hint(false)
		r.Expect(r.state(0).Healthy).To(BeFalse(), "nobody can be asked, so any failure counts")
		r.pass(2 * time.Second)
		r.Expect(r.state(0).Healthy).To(BeTrue())
		r.Expect(r.now()).To(Equal("db-1"))
	})
}

func TestAHostWithoutCheckAsksTheOwnPort(t *testing.T) {
	own := new(port)
	run(t, 2, unchecked(own), func(r *rig) {
		r.pass(time.Hour)
		r.Expect(own.asked.Load()).To(BeZero(), "it is not probed")
		r.hint(false)
		r.Expect(r.now()).To(Equal("db-0"), "the port is fine")
		r.Expect(own.asked.Load()).To(BeEquivalentTo(1))
		own.err.Store(&errRefused)
		r.pass(time.Second)
		r.hint(false)
		r.Expect(r.now()).To(Equal("db-1"))
		r.pass(time.Minute)
		r.Expect(r.state(0).Healthy).To(BeFalse(), "it rests for as long as the port is dead")
		r.Expect(own.asked.Load()).To(BeNumerically("~", 62, 1), "once a second")
		own.err.Store(nil)
		r.pass(time.Second)
		r.Expect(r.state(0).Healthy).To(BeTrue())
		asked := own.asked.Load()
		r.pass(time.Hour)
		r.Expect(own.asked.Load()).To(Equal(asked))
	})
}
