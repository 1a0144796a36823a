package monitor_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	. "github.com/onsi/gomega"

	"switchboard/bridge"
	"switchboard/monitor"
	"switchboard/monitor/check"
)

func TestFirstElectionIsHeldWhenEveryBackendHasAVerdict(t *testing.T) {
	run(t, 3, func(r *rig, o *monitor.Options) {
		o.Initial.Epoch = 41
		for i, index := range []int{2, 1, 0} {
			r.checks[i].set(healthyAt(index))
		}
	}, func(r *rig) {
		r.Expect(r.now()).To(BeEmpty())
		cluster, put := r.cluster.Get()
		r.Expect(put).To(BeTrue(), "the cluster is known from the start")
		r.Expect(cluster.Active).To(Equal(bridge.Active{Host: "db.main", Epoch: 41}))
		r.Expect(r.m.FirstVerdicts()).NotTo(BeClosed())
		r.pass(3 * time.Millisecond)
		r.Expect(r.history()).To(Equal([]string{"db-2 (first election)"}))
		r.Expect(r.actives()[0].Epoch).To(BeEquivalentTo(42))
		r.Expect(r.actives()[0].Backend.Address).To(Equal("10.0.0.2:3306"))
		r.Expect(r.m.FirstVerdicts()).To(BeClosed())
	})
}

func TestFirstElectionPrefersWhoWasActiveLast(t *testing.T) {
	run(t, 3, func(_ *rig, o *monitor.Options) { o.Initial.LastActive = "db-2" }, func(r *rig) {
		r.pass(3 * time.Millisecond)
		r.Expect(r.history()).To(Equal([]string{"db-2 (first election)"}))
	})
}

func TestFirstElectionWaitsForTheGraceOnly(t *testing.T) {
	run(t, 2, func(r *rig, _ *monitor.Options) { r.checks[0].set(hung) }, func(r *rig) {
		r.pass(2*interval - time.Millisecond)
		r.Expect(r.now()).To(BeEmpty())
		r.pass(2 * time.Millisecond)
		r.Expect(r.history()).To(Equal([]string{"db-1 (first election)"}))
		r.Expect(r.m.FirstVerdicts()).NotTo(BeClosed())
		r.pass(2 * timeout)
		r.Expect(r.m.FirstVerdicts()).To(BeClosed())
	})
}

func TestTheGraceIsAtLeast100ms(t *testing.T) {
	run(t, 2, func(r *rig, o *monitor.Options) { r.checks[1].set(hung); o.Spec.Interval = 10 * time.Millisecond }, func(r *rig) {
		r.pass(99 * time.Millisecond)
		r.Expect(r.now()).To(BeEmpty())
		r.pass(2 * time.Millisecond)
		r.Expect(r.now()).To(Equal("db-0"))
	})
}

func TestNothingIsPublishedWhileNobodyHasEverBeenHealthy(t *testing.T) {
	run(t, 2, func(r *rig, _ *monitor.Options) { r.checks[0].set(unhealthy); r.checks[1].set(failed) }, func(r *rig) {
		r.pass(10 * time.Second)
		r.Expect(r.now()).To(BeEmpty())
		r.Expect(r.m.FirstVerdicts()).To(BeClosed())
	})
}

// M1: a third backend that hangs, in either way, delays nothing.
func TestAHungBackendDelaysNobody(t *testing.T) {
	deaf := func(context.Context) check.Result { <-time.After(time.Hour); return check.Result{} }
	for name, third := range map[string]func(context.Context) check.Result{"hung": hung, "deaf": deaf} {
		t.Run(name, func(t *testing.T) {
			run(t, 3, nil, func(r *rig) {
				r.pass(time.Second)
				r.Expect(r.now()).To(Equal("db-0"))
				r.checks[2].set(third)
				r.pass(500 * time.Millisecond) // in the middle of its probe
				r.checks[0].set(unhealthy)
				r.pass(interval)
				r.Expect(r.history()).To(Equal([]string{"db-0 (first election)", "db-1 (unhealthy: db-0: status 503)"}))
				if name == "hung" {
					return
				}
				err := r.stop()
				r.Expect(err).To(MatchError("monitoring db.main: stopping: the checks of db-2 have not returned"))
				r.pass(time.Hour)
			})
		})
	}
}

func TestOneLostProbeSeversNobody(t *testing.T) {
	run(t, 2, nil, func(r *rig) {
		r.pass(time.Second)
		r.checks[0].set(once(hung, healthy))
		r.pass(10 * time.Second)
		r.Expect(r.history()).To(Equal([]string{"db-0 (first election)"}))
		r.Expect(r.log.String()).To(ContainSubstring("probe failed"))
	})
}

func TestAHangIsFoundInFallTimesTimeout(t *testing.T) {
	run(t, 2, func(_ *rig, o *monitor.Options) { o.Spec.Fall = 3 }, func(r *rig) {
		r.pass(time.Second)
		r.checks[0].set(hung)
		probes := r.checks[0].probes()
		for r.checks[0].probes() == probes {
			r.pass(time.Millisecond)
		}
		r.pass(3*timeout - 2*time.Millisecond)
		r.Expect(r.now()).To(Equal("db-0"))
		r.pass(4 * time.Millisecond)
		r.Expect(r.history()[1:]).To(Equal([]string{"db-1 (unhealthy: db-0: timed out)"}))
	})
}

func TestFailuresAreProbedFast(t *testing.T) {
	run(t, 2, func(_ *rig, o *monitor.Options) { o.Spec.Fall = 4 }, func(r *rig) {
		r.pass(time.Second)
		r.checks[0].set(failed)
		probes := r.checks[0].probes()
		r.pass(2 * time.Second)
		starts := r.checks[0].starts[probes:]
		// At once, then every 50 ms, and once it is down at the interval.
		var gaps []time.Duration
		for i := range 5 {
			gaps = append(gaps, starts[i+1].Sub(starts[i]))
		}
		r.Expect(gaps).To(Equal([]time.Duration{0, 50 * time.Millisecond, 50 * time.Millisecond, interval, interval}))
	})
}

// M5 and M6: an answer that comes after its deadline is of no account, and no
// second probe begins before it has come.
func TestALateAnswerIsThrownAway(t *testing.T) {
	late := func(context.Context) check.Result {
		<-time.After(5*timeout + timeout/2)
		return check.Result{Verdict: check.Healthy, Detail: "late"}
	}
	run(t, 2, func(_ *rig, o *monitor.Options) { o.Spec.Rise = 1 }, func(r *rig) {
		r.pass(time.Second)
		r.checks[0].set(late)
		probes := r.checks[0].probes()
		for r.checks[0].probes() == probes {
			r.pass(time.Millisecond)
		}
		began := time.Now()
		r.pass(2*timeout + time.Millisecond)
		r.Expect(r.now()).To(Equal("db-1"), "fall × timeout, though there was one probe")
		r.Expect(r.actives()[1].Since.Sub(began)).To(BeNumerically("~", 2*timeout, 2*time.Millisecond))
		for range 20 {
			r.pass(timeout)
			r.Expect(r.state(0).Healthy).To(BeFalse())
			r.Expect(r.state(0).Detail).To(Equal("timed out"))
		}
		r.checks[0].set(healthy)
		r.pass(7 * timeout)
		r.Expect(r.state(0).Healthy).To(BeTrue())
		r.Expect(r.now()).To(Equal("db-1"))
	})
}

func TestStickyDoesNotPreempt(t *testing.T) {
	run(t, 2, func(r *rig, _ *monitor.Options) { r.checks[0].set(healthyAt(0)); r.checks[1].set(healthyAt(1)) }, func(r *rig) {
		r.pass(time.Second)
		r.checks[0].set(unhealthy)
		r.pass(time.Second)
		r.checks[0].set(healthyAt(0))
		r.pass(10 * time.Second)
		r.Expect(r.state(0).Healthy).To(BeTrue())
		r.Expect(r.history()).To(Equal([]string{"db-0 (first election)", "db-1 (unhealthy: db-0: status 503)"}))
	})
}

func TestLowestPreempts(t *testing.T) {
	run(t, 2, func(r *rig, o *monitor.Options) {
		o.Elect = monitor.Lowest
		o.Initial.LastActive = "db-0"
		r.checks[0].set(healthyAt(1))
		r.checks[1].set(healthyAt(0))
	}, func(r *rig) {
		r.pass(time.Second)
		r.checks[1].set(unhealthy)
		r.pass(time.Second)
		r.checks[1].set(healthyAt(0))
		r.pass(time.Second)
		r.Expect(r.history()).To(Equal([]string{"db-1 (first election)", "db-0 (unhealthy: db-1: status 503)", "db-1 (index)"}))
	})
}

// M7: equal indexes flap never and are warned of once.
func TestEqualIndexesDoNotFlap(t *testing.T) {
	for _, elect := range []monitor.Elect{monitor.Sticky, monitor.Lowest, monitor.Highest} {
		t.Run(string(elect), func(t *testing.T) {
			run(t, 3, func(r *rig, o *monitor.Options) {
				o.Elect = elect
				o.Rand = nil
				for _, s := range r.checks {
					s.set(healthyAt(0))
				}
			}, func(r *rig) {
				r.pass(time.Minute)
				r.Expect(r.history()).To(Equal([]string{"db-0 (first election)"}))
				r.Expect(strings.Count(r.log.String(), "claim the same index")).To(Equal(1))
			})
		})
	}
}

// M8 and T15: what alternates does not flap.
func TestAlternatingAnswersDoNotFlap(t *testing.T) {
	t.Run("failures", func(t *testing.T) {
		run(t, 2, nil, func(r *rig) {
			r.pass(time.Second)
			r.checks[0].set(inTurn(healthy, failed))
			r.pass(time.Minute)
			r.Expect(r.history()).To(HaveLen(1))
			r.Expect(strings.Count(r.log.String(), `level=INFO msg="probe failed"`)).To(Equal(1), "the first one, the others are for debugging")
		})
	})
	t.Run("explicit answers", func(t *testing.T) {
		run(t, 2, nil, func(r *rig) {
			r.pass(time.Second)
			r.checks[0].set(inTurn(healthy, unhealthy))
			r.pass(time.Minute)
			r.Expect(r.history()).To(HaveLen(2))
			r.Expect(r.state(0).Healthy).To(BeFalse())
		})
	})
	t.Run("a backend that goes up and down every 50 ms is held down", func(t *testing.T) {
		run(t, 1, func(_ *rig, o *monitor.Options) { o.Spec.Interval = 20 * time.Millisecond; o.Spec.Rise = 10 }, func(r *rig) {
			r.pass(time.Second)
			began := time.Now()
			r.checks[0].set(func(ctx context.Context) check.Result {
				if time.Since(began)/(50*time.Millisecond)%2 == 0 {
					return unhealthy(ctx)
				}
				return healthy(ctx)
			})
			r.pass(10 * time.Second)
			r.Expect(r.history()).To(Equal([]string{"db-0 (first election)", "none (unhealthy: db-0: status 503)"}))
		})
	})
}

func TestTheHoldDownIsRiseTimesInterval(t *testing.T) {
	run(t, 1, func(_ *rig, o *monitor.Options) { o.Spec.Rise = 5; o.Rand = nil }, func(r *rig) {
		r.pass(time.Second)
		r.checks[0].set(once(unhealthy, healthy))
		r.pass(10 * time.Second)
		r.Expect(r.history()).To(Equal([]string{
			"db-0 (first election)", "none (unhealthy: db-0: status 503)", "db-0 (recovered: db-0)",
		}))
		r.Expect(r.actives()[2].Since.Sub(r.actives()[1].Since)).To(Equal(5 * interval))
	})
}

// M15: when everything fails at once, which is our own network rather than all
// backends, the host goes to none once, and comes back once.
func TestAllFailingAtOnceIsOneEndAndOneReturn(t *testing.T) {
	t.Run("silently", func(t *testing.T) {
		run(t, 5, func(_ *rig, o *monitor.Options) { o.Rand = nil }, func(r *rig) {
			r.pass(time.Second)
			for _, s := range r.checks {
				s.set(hung)
			}
			r.pass(time.Minute)
			r.Expect(r.history()[1:]).To(Equal([]string{"none (unhealthy: db-0: timed out)"}))
			for _, s := range r.checks {
				s.set(healthy)
			}
			r.pass(time.Minute)
			r.Expect(r.history()[2:]).To(ConsistOf(HavePrefix("db-")))
		})
	})
	for name, answer := range map[string]func(context.Context) check.Result{"with errors": failed, "explicitly": unhealthy} {
		t.Run(name, func(t *testing.T) {
			run(t, 5, func(_ *rig, o *monitor.Options) { o.Rand = nil }, func(r *rig) {
				r.pass(time.Second)
				for _, s := range r.checks {
					s.set(answer)
				}
				r.pass(time.Minute)
				// On the way to none it may try each of the others, but none twice.
				r.Expect(len(r.history())).To(BeNumerically("<=", 1+5))
				r.Expect(r.now()).To(Equal("none"))
				before := len(r.history())
				for _, s := range r.checks {
					s.set(healthy)
				}
				r.pass(time.Minute)
				r.Expect(r.history()[before:]).To(ConsistOf(MatchRegexp(`^db-\d \(recovered: db-\d\)$`)))
			})
		})
	}
}

// M14: a thousand backends do not run in phase, and never more often than asked.
func TestAThousandBackendsAreProbedOutOfPhase(t *testing.T) {
	run(t, 1000, func(_ *rig, o *monitor.Options) { o.Rand = nil }, func(r *rig) {
		began := time.Now()
		r.pass(5 * time.Second)
		most := make(map[time.Duration]int)
		for _, s := range r.checks {
			r.Expect(s.starts[0].Sub(began)).To(BeNumerically("<=", interval))
			r.Expect(len(s.starts)).To(BeNumerically("~", 26, 3))
			for _, start := range s.starts {
				most[start.Sub(began)/time.Millisecond]++
			}
		}
		for ms, probes := range most {
			// Evenly it would be 5 a millisecond.
			r.Expect(probes).To(BeNumerically("<", 40), fmt.Sprint("at ms ", int(ms)))
		}
	})
}

// M19: a panic in a check fails the probe and takes nothing else with it.
func TestAPanicInACheckFailsTheProbe(t *testing.T) {
	run(t, 2, nil, func(r *rig) {
		r.pass(time.Second)
		r.checks[0].set(func(context.Context) check.Result { panic("nil map") })
		r.pass(time.Second)
		r.Expect(r.history()[1:]).To(Equal([]string{"db-1 (unhealthy: db-0: check panicked: nil map)"}))
		r.Expect(r.log.String()).To(ContainSubstring("TestAPanicInACheckFailsTheProbe"), "the stack is in the log")
		r.checks[0].set(healthy)
		r.pass(time.Second)
		r.Expect(r.state(0).Healthy).To(BeTrue())
	})
}

func TestWhatIsPublished(t *testing.T) {
	run(t, 2, func(r *rig, _ *monitor.Options) {
		r.checks[1].set(func(ctx context.Context) check.Result { <-time.After(30 * time.Millisecond); return failed(ctx) })
	}, func(r *rig) {
		r.pass(time.Second)
		first, second := r.state(0), r.state(1)
		r.Expect(first.Verdict && first.Healthy).To(BeTrue())
		r.Expect(first.CheckedAt).To(BeTemporally("~", time.Now(), interval))
		r.Expect(second.Verdict).To(BeTrue())
		r.Expect(second.Healthy).To(BeFalse())
		r.Expect(second.Took).To(Equal(30 * time.Millisecond))
		r.Expect(second.Detail).To(Equal("status 500"))

		entries, _ := r.journal.Since(0)
		var events []string
		for _, e := range entries {
			switch e.Value.Kind {
			case bridge.BackendHealth:
				events = append(events, fmt.Sprint(e.Value.Health.Backend, " ", e.Value.Health.Healthy, " ", e.Value.Health.Detail))
			case bridge.NewActiveBackend:
				events = append(events, "active "+e.Value.Active.Backend.Name)
			}
			r.Expect(e.Value.At).NotTo(BeZero())
		}
		r.Expect(events).To(Equal([]string{"db-0 true fine", "db-1 false status 500", "active db-0"}))

		// A published value does not change any more.
		before, _ := r.cluster.Get()
		checkedAt := before.Backends[0].CheckedAt
		r.pass(time.Second)
		r.Expect(before.Backends[0].CheckedAt).To(Equal(checkedAt))
		r.Expect(r.state(0).CheckedAt).To(BeTemporally(">", checkedAt))
	})
}

func TestStoppingCancelsProbes(t *testing.T) {
	run(t, 3, func(r *rig, _ *monitor.Options) {
		for _, s := range r.checks {
			s.set(hung)
		}
	}, func(r *rig) {
		r.pass(500 * time.Millisecond)
		began := time.Now()
		r.Expect(r.stop()).To(Succeed())
		r.Expect(time.Since(began)).To(BeZero())
		r.Expect(r.m.Run(r.signals, make(chan struct{}))).To(MatchError("monitoring db.main: a monitor runs only once"))
	})
}

func TestStoppingWaitsForADeafCheckNoLongerThanItsTimeout(t *testing.T) {
	run(t, 3, func(r *rig, _ *monitor.Options) {
		for _, s := range r.checks[1:] {
			s.set(func(context.Context) check.Result { <-time.After(time.Hour); return check.Result{} })
		}
	}, func(r *rig) {
		r.pass(500 * time.Millisecond)
		began := time.Now()
		r.Expect(r.stop()).To(MatchError("monitoring db.main: stopping: the checks of db-1, db-2 have not returned"))
		r.Expect(time.Since(began)).To(Equal(timeout))
		r.Expect(r.checks[1].closes()).To(BeZero(), "it is not closed under a running probe")
		r.pass(time.Hour)
		synctest.Wait()
	})
}

func TestAShortageOfOurOwnIsNoFailureOfTheBackend(t *testing.T) {
	run(t, 2, nil, func(r *rig) {
		r.pass(time.Second)
		before := r.checks[0].probes()
		r.checks[0].set(void)
		r.pass(time.Minute)
		r.Expect(r.history()).To(HaveLen(1))
		r.Expect(r.state(0)).To(And(HaveField("Healthy", true), HaveField("Detail", "too many open files")))
		r.Expect(r.checks[0].probes()-before).To(And(BeNumerically(">", 1), BeNumerically("<=", int(time.Minute/(50*time.Millisecond))+1)), "asked again soon, without spinning")

		r.checks[0].set(once(failed, void))
		r.pass(time.Minute)
		r.Expect(r.history()).To(HaveLen(1), "one failure is not made two by it")
		r.checks[0].set(unhealthy)
		r.pass(time.Second)
		r.Expect(r.now()).To(Equal("db-1"))
	})
}
