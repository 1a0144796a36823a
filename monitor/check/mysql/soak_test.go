package mysql_test

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/fixtures/servers"
	"switchboard/fixtures/spec"
)

// The servers of this spec let nobody in after one broken connect, and keep count
// of the address that the probes come from.
var _ = Describe("the mysql check over 100,000 probes", func() {
	const (
		routers = 4
		probes  = 100_000
	)

	var (
		db       *server
		checkers []*checker
	)

	// each has every router probe at the same time.
	each := func(probing func(c *checker)) {
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
	// now before the question, now before the log-in, until one is answered in time.
	late := func(c *checker, tries int) {
		for try := range tries {
			c.askWithin(time.Duration(try%20) * 20 * time.Microsecond)
		}
		Expect(c.ask()).To(Equal(healthy))
	}

	// expectNothingLeft compares what the server has with one connection a router.
	expectNothingLeft := func() {
		GinkgoHelper()
		Eventually(db.query).WithArguments("SELECT USER, COUNT(*) FROM information_schema.processlist WHERE USER <> 'root' AND USER <> 'system user' GROUP BY USER").
			Should(Equal(fmt.Sprint("probe\t", routers)))
		// The one more is who asks.
		Eventually(db.status).WithArguments("Threads_connected").Should(Equal(routers + 1))
		Expect(db.status("Aborted_connects")).To(BeZero())
		for row := range strings.Lines(db.query("SHOW GLOBAL STATUS LIKE 'Connection_errors_%'")) {
			Expect(strings.TrimSpace(row)).To(HaveSuffix("\t0"))
		}
		Expect(db.query("SELECT SUM_CONNECT_ERRORS, COUNT_HOST_BLOCKED_ERRORS, COUNT_HANDSHAKE_ERRORS, COUNT_AUTHENTICATION_ERRORS" +
			" FROM performance_schema.host_cache WHERE IP = '127.0.0.2'")).To(Equal("0\t0\t0\t0"))
	}

	It("leaves one connection a router, no thread more, and no broken connect (M17)", func() {
		spec.CheckLeaks()
		spec.Need("mariadbd", "mariadb-server")
		db = &server{MariaDB: servers.MariaDB{
			Dir: GinkgoT().TempDir(), Init: users(),
			Config: []string{"skip_ssl", "skip_name_resolve=OFF", "performance_schema=ON", "max_connect_errors=1"},
		}}
		db.start()
		checkers = nil
		for range routers {
			t := aim(db.Addr())
			t.Hint = func(string) {}
			t.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
				return (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}).DialContext(ctx, network, address)
			}
			checkers = append(checkers, build(probe(), t))
		}
		each(func(c *checker) { Expect(c.ask()).To(Equal(healthy)) })
		if db.query("SELECT host_validated FROM performance_schema.host_cache WHERE ip = '127.0.0.2'") != "YES" {
			Skip("the server cannot find out that 127.0.0.2 has no name, and so does not count")
		}
		expectNothingLeft()
		made, threads := db.status("Connections"), db.status("Threads_created")
		fds, goroutines := spec.FDs(), runtime.NumGoroutine()
		// Each probe has its connection watched anew, so only their number stays.
		expectNoneOfOurs := func() {
			GinkgoHelper()
			Eventually(spec.FDs).Should(BeNumerically("<=", fds))
			Eventually(runtime.NumGoroutine).Should(BeNumerically("<=", goroutines))
		}

		By("probing")
		each(func(c *checker) {
			for range probes / routers / 2 {
				Expect(c.ask()).To(Equal(healthy))
			}
		})
		expectNothingLeft()
		expectNoneOfOurs()
		Expect(db.status("Threads_created")).To(Equal(threads))
		Expect(db.status("Connections")-made).To(BeNumerically("<", 30), "those of the questions asked here")

		By("probing with deadlines that are over too soon, and with a server that hangs")
		each(func(c *checker) { late(c, 1000) })
		db.Pause()
		each(func(c *checker) {
			for range 50 {
				c.askWithin(time.Millisecond)
			}
		})
		db.Continue()
		each(func(c *checker) { Eventually(c.ask).Should(Equal(healthy)) })
		expectNothingLeft()
		expectNoneOfOurs()
		Expect(db.status("Threads_created")-threads).To(BeNumerically("<=", 2*routers), "a connection that is ending has its thread until then")

		By("going on over a crash")
		db.kill()
		each(func(c *checker) { Expect(c.ask()).To(Equal(refused)) })
		ctx, enough := context.WithCancel(context.Background())
		var going sync.WaitGroup
		// Should the server not come back.
		DeferCleanup(func() {
			enough()
			going.Wait()
		})
		going.Go(func() {
			defer GinkgoRecover()
			each(func(c *checker) {
				for answered := 0; answered < probes/routers/2 && ctx.Err() == nil; {
					if c.ask() == healthy {
						answered++
					}
				}
			})
		})
		db.start()
		going.Wait()
		each(func(c *checker) { late(c, 1000) })
		expectNothingLeft()
		expectNoneOfOurs()

		By("leaving")
		aborted := db.status("Aborted_clients")
		for _, c := range checkers {
			c.close()
		}
		Eventually(db.connections).Should(Equal("0"))
		Expect(db.status("Aborted_clients")).To(Equal(aborted), "the farewell was not polite")
		Expect(db.status("Aborted_connects")).To(BeZero())
	})
})
