package postgres_test

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/fixtures/servers"
	"switchboard/fixtures/spec"
	"switchboard/monitor/check"
)

var _ = Describe("the postgres check over 100,000 probes", func() {
	const (
		routers = 4
		probes  = 100_000
	)

	var (
		db       *servers.Postgres
		checkers []check.Checker
	)

	// each has every router probe at the same time.
	each := func(probing func(c check.Checker)) {
		GinkgoHelper()
		var all sync.WaitGroup
		for _, c := range checkers {
			all.Go(func() {
				defer GinkgoRecover()
				probing(c)
			})
		}
		all.Wait()
	}

	// late has a router probe with deadlines that are over before the server answers,
	// now before the question, now before the log-in.
	late := func(c check.Checker) {
		for try := range 500 {
			askWithin(c, time.Duration(try%20)*50*time.Microsecond)
		}
		Expect(ask(c)).To(Equal(isPrimary))
	}

	number := func(sql string) func() string {
		return func() string {
			said, err := db.Query(sql)
			Expect(err).NotTo(HaveOccurred())
			return said
		}
	}

	// expectNothingLeft compares what the server has with one connection a router. A
	// connection is a process there.
	expectNothingLeft := func() {
		GinkgoHelper()
		Eventually(number(connections)).WithTimeout(patient).Should(Equal(fmt.Sprint(routers)))
		// The one more is who asks.
		Eventually(number("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")).WithTimeout(patient).Should(Equal(fmt.Sprint(routers + 1)))
	}

	It("leaves one connection a router, and no process more (M17)", func() {
		spec.CheckLeaks()
		needShared()
		db = &servers.Postgres{Dir: reachableDir()}
		ended := start(db)
		checkers = nil
		for range routers {
			checkers = append(checkers, build(anybody, aim(db.Addr())))
		}
		each(func(c check.Checker) { Expect(ask(c)).To(Equal(isPrimary)) })
		expectNothingLeft()
		fds, goroutines := spec.FDs(), runtime.NumGoroutine()
		// Each probe has its connection watched anew, so only their number stays.
		expectNoneOfOurs := func() {
			GinkgoHelper()
			// Fewer is no leak: something that was about to end was counted before.
			Eventually(spec.FDs).WithTimeout(patient).Should(BeNumerically("<=", fds))
			Eventually(runtime.NumGoroutine).WithTimeout(patient).Should(BeNumerically("<=", goroutines))
		}

		By("probing")
		who := number("SELECT string_agg(pid::text, ' ' ORDER BY pid) FROM pg_stat_activity WHERE application_name = 'switchboard'")
		before := who()
		each(func(c check.Checker) {
			for range probes / routers / 2 {
				Expect(ask(c)).To(Equal(isPrimary))
			}
		})
		Expect(who()).To(Equal(before), "the same connections")
		expectNothingLeft()
		expectNoneOfOurs()

		By("probing with deadlines that are over too soon, and with a server that hangs")
		each(late)
		db.Pause()
		each(func(c check.Checker) {
			for range 10 {
				Expect(askWithin(c, time.Millisecond)).To(Equal(timedOut))
			}
		})
		db.Continue()
		each(func(c check.Checker) { Eventually(ask).WithArguments(c).WithTimeout(patient).Should(Equal(isPrimary)) })
		expectNothingLeft()
		expectNoneOfOurs()

		By("going on over a crash")
		db.Kill()
		Eventually(ended).WithTimeout(patient).Should(Receive(HaveOccurred()))
		each(func(c check.Checker) { Expect(ask(c)).To(Equal(refused)) })
		ctx, enough := context.WithCancel(context.Background())
		var going sync.WaitGroup
		// Should the server not come back.
		DeferCleanup(func() {
			enough()
			going.Wait()
		})
		going.Go(func() {
			defer GinkgoRecover()
			each(func(c check.Checker) {
				for answered := 0; answered < probes/routers/2 && ctx.Err() == nil; {
					if ask(c) == isPrimary {
						answered++
					}
				}
			})
		})
		start(db)
		going.Wait()
		each(late)
		expectNothingLeft()
		expectNoneOfOurs()

		By("leaving")
		for _, c := range checkers {
			Expect(c.Close()).To(Succeed())
		}
		Eventually(number(connections)).WithTimeout(patient).Should(Equal("0"))
	})
})
