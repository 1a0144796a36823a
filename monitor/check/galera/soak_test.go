package galera_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/bridge/route"
	"switchboard/fixtures/servers"
	"switchboard/fixtures/spec"
	"switchboard/monitor/check"
	"switchboard/monitor/check/galera"
)

// The nodes of this spec let nobody in after one broken connect, and keep count of
// the address that the probes come from.
var _ = Describe("the galera check over 10,000 probes", func() {
	const routers = 2
	// All the variables that SHOW goes through make a probe ten times as dear to the
	// server as those of the other checks.
	probes := 10_000
	if os.Getenv("SOAK") != "" {
		probes = 100_000
	}

	var (
		nodes []*servers.GaleraNode
		// checkers are those of each node.
		checkers [][]check.Checker
	)

	query := func(node *servers.GaleraNode, sql string) string {
		GinkgoHelper()
		said, err := node.Query(sql)
		Expect(err).NotTo(HaveOccurred())
		return said
	}

	status := func(node *servers.GaleraNode, name string) (number int) {
		GinkgoHelper()
		_, err := fmt.Sscan(strings.TrimPrefix(query(node, "SHOW GLOBAL STATUS LIKE '"+name+"'"), name+"\t"), &number)
		Expect(err).NotTo(HaveOccurred())
		return number
	}

	ask := func(c check.Checker, timeout time.Duration) check.Result {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		return c.Check(ctx)
	}

	// each has every router probe every node at the same time.
	each := func(probing func(c check.Checker)) {
		GinkgoHelper()
		var all sync.WaitGroup
		for _, own := range checkers {
			for _, c := range own {
				all.Go(func() {
					defer GinkgoRecover()
					probing(c)
				})
			}
		}
		all.Wait()
	}

	synced := func(c check.Checker) {
		GinkgoHelper()
		Eventually(ask).WithArguments(c, options().Timeout).WithTimeout(20 * time.Second).Should(HaveField("Detail", "Synced, sees 3 nodes"))
	}

	// expectNothingLeft compares what each node has with one connection a router.
	expectNothingLeft := func() {
		GinkgoHelper()
		for _, node := range nodes {
			Eventually(query).WithArguments(node, "SELECT USER, COUNT(*) FROM information_schema.processlist WHERE USER = 'probe'").
				Should(Equal(fmt.Sprint("probe\t", routers)))
			// The one more is who asks.
			Eventually(status).WithArguments(node, "Threads_connected").Should(Equal(routers + 1))
			Expect(status(node, "Aborted_connects")).To(BeZero())
			for row := range strings.Lines(query(node, "SHOW GLOBAL STATUS LIKE 'Connection_errors_%'")) {
				Expect(strings.TrimSpace(row)).To(HaveSuffix("\t0"))
			}
			Expect(query(node, "SELECT SUM_CONNECT_ERRORS, COUNT_HOST_BLOCKED_ERRORS, COUNT_HANDSHAKE_ERRORS"+
				" FROM performance_schema.host_cache WHERE IP = '127.0.0.2'")).To(Equal("0\t0\t0"))
		}
	}

	It("leaves one connection a router on each node, no thread more, and no broken connect (M17)", func() {
		spec.CheckLeaks()
		spec.Need("mariadbd", "mariadb-server")
		spec.Need("rsync", "rsync")
		if _, err := os.Stat(servers.GaleraLibrary); err != nil {
			spec.Need(servers.GaleraLibrary, "galera-4")
		}
		cluster := &servers.Galera{Init: []string{createUser}, Config: []string{
			"skip_name_resolve=OFF", "performance_schema=ON", "max_connect_errors=1",
		}}
		start(cluster)
		nodes, checkers = cluster.Nodes(), make([][]check.Checker, 3)
		for range routers {
			builder := galera.New()
			for i, node := range nodes {
				c, err := builder(options(), check.Target{
					Host: "db.main", Backend: route.Backend{Name: fmt.Sprint("db-", i), Address: node.Addr()}, Address: node.Addr(), Own: true,
					Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
						return (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}).DialContext(ctx, network, address)
					},
					Hint: func(string) {},
				})
				Expect(err).NotTo(HaveOccurred())
				DeferCleanup(c.Close)
				checkers[i] = append(checkers[i], c)
			}
		}
		each(synced)
		if query(nodes[0], "SELECT host_validated FROM performance_schema.host_cache WHERE ip = '127.0.0.2'") != "YES" {
			Skip("the server cannot find out that 127.0.0.2 has no name, and so does not count")
		}
		expectNothingLeft()
		threads := make([]int, len(nodes))
		for i, node := range nodes {
			threads[i] = status(node, "Threads_created")
		}
		fds, goroutines := spec.FDs(), runtime.NumGoroutine()
		// Each probe has its connection watched anew, so only their number stays.
		expectNoneOfOurs := func() {
			GinkgoHelper()
			Eventually(spec.FDs).Should(BeNumerically("<=", fds))
			Eventually(runtime.NumGoroutine).Should(BeNumerically("<=", goroutines))
		}

		By("probing")
		each(func(c check.Checker) {
			for range probes / routers / len(nodes) {
				Expect(ask(c, options().Timeout).Verdict).To(Equal(check.Healthy))
			}
		})
		expectNothingLeft()
		expectNoneOfOurs()
		for i, node := range nodes {
			Expect(status(node, "Threads_created")).To(Equal(threads[i]))
		}

		By("probing with deadlines that are over too soon, over a crash of one node")
		const lateProbes = 500
		late := func(c check.Checker) {
			for try := range lateProbes {
				ask(c, time.Duration(try%20)*50*time.Microsecond)
			}
		}
		each(late)
		nodes[2].Kill()
		each(late)
		Expect(nodes[2].Start()).To(Succeed())
		each(late)
		each(synced)
		expectNothingLeft()
		expectNoneOfOurs()
		// A connection that is ending has its thread until then, which a busy machine makes long.
		// A connection a probe would be 3 * lateProbes a router.
		Expect(status(nodes[0], "Threads_created") - threads[0]).To(BeNumerically("<=", lateProbes/100*routers))
	})
})
