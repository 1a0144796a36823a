package galera_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/bridge/route"
	"switchboard/fixtures/servers"
	"switchboard/fixtures/spec"
	"switchboard/monitor/check"
	"switchboard/monitor/check/galera"
)

func TestGalera(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "Galera Check Suite")
}

const (
	password   = "correct-horse"
	createUser = "CREATE USER probe@'%' IDENTIFIED BY '" + password + "'"
)

func options() check.Spec {
	return check.Spec{Type: "galera", Username: "probe", Password: password, Interval: 200 * time.Millisecond, Timeout: 2 * time.Second}
}

// checker is the checker of one backend.
type checker struct {
	check.Checker
	hints chan string
}

// build makes a checker that is closed when the spec ends.
func build(builder check.Builder, with check.Spec, name, address string) *checker {
	GinkgoHelper()
	c := &checker{hints: make(chan string, 100)}
	made, err := builder(with, check.Target{
		Host: "db.main", Backend: route.Backend{Name: name, Address: address}, Address: address, Own: true,
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		},
		Hint: func(detail string) { c.hints <- detail },
	})
	Expect(err).NotTo(HaveOccurred())
	c.Checker = made
	DeferCleanup(func() { Expect(made.Close()).To(Succeed()) })
	return c
}

// ask probes once within the timeout.
func (c *checker) ask() check.Result {
	ctx, cancel := context.WithTimeout(context.Background(), options().Timeout)
	defer cancel()
	return c.Check(ctx)
}

func (c *checker) says() string {
	result := c.ask()
	return result.Verdict.String() + ": " + result.Detail
}

func start(server interface {
	Run(signals <-chan os.Signal, ready chan<- struct{}) error
}) {
	GinkgoHelper()
	signals, ready, ended := make(chan os.Signal, 1), make(chan struct{}), make(chan error, 1)
	go func() { ended <- server.Run(signals, ready) }()
	select {
	case <-ready:
	case err := <-ended:
		Fail(fmt.Sprint("it ended before it was ready: ", err))
	case <-time.After(2 * time.Minute):
		Fail("it is not ready")
	}
	DeferCleanup(func() {
		signals <- os.Interrupt
		Eventually(ended).WithTimeout(time.Minute).Should(Receive(BeNil()))
	})
}

var _ = Describe("the galera check", func() {
	Context("with a real cluster of three", Ordered, func() {
		var nodes []*servers.GaleraNode

		query := func(node *servers.GaleraNode, sql string) string {
			GinkgoHelper()
			said, err := node.Query(sql)
			Expect(err).NotTo(HaveOccurred())
			return said
		}

		// watchAll makes a checker for each node, and waits until all are healthy.
		watchAll := func(with check.Spec) []*checker {
			GinkgoHelper()
			builder := galera.New()
			var all []*checker
			for i, node := range nodes {
				all = append(all, build(builder, with, fmt.Sprint("db-", i), node.Addr()))
			}
			for _, c := range all {
				Eventually(c.says).WithTimeout(20 * time.Second).Should(Equal("healthy: Synced, sees 3 nodes"))
			}
			return all
		}

		BeforeAll(func() {
			spec.Need("mariadbd", "mariadb-server")
			spec.Need("rsync", "rsync")
			if _, err := os.Stat(servers.GaleraLibrary); err != nil {
				spec.Need(servers.GaleraLibrary, "galera-4")
			}
			cluster := &servers.Galera{Init: []string{createUser, "CREATE DATABASE shop"}}
			start(cluster)
			nodes = cluster.Nodes()
		})

		It("takes synced nodes for healthy, each with its index and on one connection", func() {
			spec.CheckLeaks()
			indexes := map[int]bool{}
			for i, c := range watchAll(options()) {
				for range 100 {
					result := c.ask()
					Expect(result.Verdict).To(Equal(check.Healthy), result.Detail)
					Expect(result.Index).NotTo(BeNil())
					indexes[*result.Index] = true
				}
				Expect(query(nodes[i], "SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'probe'")).To(Equal("1"))
				Expect(c.hints).To(BeEmpty())
			}
			Expect(indexes).To(Equal(map[int]bool{0: true, 1: true, 2: true}))
		})

		It("leaves a node that is set read-only within one probe", func() {
			spec.CheckLeaks()
			all := watchAll(options())
			query(nodes[1], "SET GLOBAL read_only=ON")
			Expect(all[1].says()).To(Equal("unhealthy: read_only is on"))
			Expect(all[0].ask().Verdict).To(Equal(check.Healthy))
			query(nodes[1], "SET GLOBAL read_only=OFF")
			Eventually(all[1].ask).WithTimeout(10 * time.Second).Should(HaveField("Verdict", check.Healthy))
		})

		It("leaves a desynced donor within one probe, unless donors count", func() {
			spec.CheckLeaks()
			all := watchAll(options())
			tolerant := options()
			tolerant.Donors = true
			donor := build(galera.New(), tolerant, "db-1", nodes[1].Addr())
			query(nodes[1], "SET GLOBAL wsrep_desync=ON")
			Expect(all[1].says()).To(Equal("unhealthy: wsrep_local_state is 2 (Donor/Desynced)"))
			Expect(donor.says()).To(Equal("healthy: Donor/Desynced, sees 3 nodes"))
			query(nodes[1], "SET GLOBAL wsrep_desync=OFF")
			Eventually(all[1].ask).WithTimeout(10 * time.Second).Should(HaveField("Verdict", check.Healthy))
		})

		It("leaves a node whose writes would stay its own", func() {
			spec.CheckLeaks()
			all := watchAll(options())
			query(nodes[2], "SET GLOBAL wsrep_on=OFF")
			Expect(all[2].says()).To(Equal("unhealthy: wsrep_on is off: its writes reach no other node"))
			query(nodes[2], "SET GLOBAL wsrep_on=ON")
			Expect(all[2].ask().Verdict).To(Equal(check.Healthy))
		})

		It("sees kill -9 at once, keeps the others, and takes the node back", func() {
			all := watchAll(options())
			nodes[0].Kill()
			Eventually(all[0].hints).WithTimeout(time.Second).Should(Receive(ContainSubstring("kept connection")))
			Expect(all[0].says()).To(Equal("unhealthy: connection refused"))
			Eventually(func() string { return all[1].says() + " / " + all[2].says() }).WithTimeout(20 * time.Second).Should(
				Equal("healthy: Synced, sees 2 nodes / healthy: Synced, sees 2 nodes"))
			Expect(nodes[0].Start()).To(Succeed())
			for _, c := range all {
				Eventually(c.says).WithTimeout(20 * time.Second).Should(Equal("healthy: Synced, sees 3 nodes"))
			}
		})

		It("leaves a node that is cut off, and one that was made a cluster of its own", func() {
			spec.CheckLeaks()
			all := watchAll(options())
			query(nodes[2], "SET GLOBAL wsrep_provider_options='gmcast.isolate=1'")
			Eventually(all[2].says).WithTimeout(20 * time.Second).Should(Equal("unhealthy: wsrep_cluster_status is non-Primary, sees 1 nodes"))
			Eventually(func() string { return all[0].says() + " / " + all[1].says() }).WithTimeout(20 * time.Second).Should(
				Equal("healthy: Synced, sees 2 nodes / healthy: Synced, sees 2 nodes"))

			query(nodes[2], "SET GLOBAL wsrep_provider_options='pc.bootstrap=YES'")
			alone := build(galera.New(), options(), "db-2", nodes[2].Addr())
			Eventually(alone.says).WithTimeout(20*time.Second).Should(Equal("healthy: Synced, sees 1 nodes"), "asked without its peers")
			Expect(all[0].ask().Verdict).To(Equal(check.Healthy))
			Expect(all[2].says()).To(Equal("unhealthy: sees 1 of 2 nodes; db-0 sees 2"))
			Expect(all[0].says()).To(Equal("healthy: Synced, sees 2 nodes"))
			Expect(all[1].says()).To(Equal("healthy: Synced, sees 2 nodes"))
		})
	})

	Context("with a MariaDB that is no node", Ordered, func() {
		var server *servers.MariaDB

		BeforeAll(func() {
			spec.Need("mariadbd", "mariadb-server")
			server = &servers.MariaDB{Init: []string{createUser}}
			start(server)
		})

		BeforeEach(spec.CheckLeaks)

		It("says which check to use", func() {
			Expect(build(galera.New(), options(), "db-0", server.Addr()).says()).To(Equal(
				"failed: is not a Galera node: no wsrep_provider is loaded; use the mysql check"))
		})

		It("says what to do about a wrong password", func() {
			with := options()
			with.Password = "hunter2"
			Expect(build(galera.New(), with, "db-0", server.Addr()).says()).To(HavePrefix("failed: it refuses the username or password"))
		})

		It("is over at the deadline when the server is frozen", func() {
			c := build(galera.New(), options(), "db-0", server.Addr())
			Expect(c.ask().Verdict).To(Equal(check.Failed))
			server.Pause()
			DeferCleanup(server.Continue)
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
			defer cancel()
			Expect(c.Check(ctx)).To(Equal(check.Result{Verdict: check.Failed, Detail: "timed out"}))
		})
	})
})
