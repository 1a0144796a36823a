package main_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/fixtures/servers"
	"switchboard/fixtures/spec"
)

// startPostgres runs a real server until the spec ends or it is killed.
func startPostgres(server *servers.Postgres) *servers.Postgres {
	GinkgoHelper()
	signals, ready, ended := make(chan os.Signal, 2), make(chan struct{}), make(chan error, 1)
	go func() { ended <- server.Run(signals, ready) }()
	DeferCleanup(func() {
		signals <- syscall.SIGTERM
		Eventually(ended).WithTimeout(within).Should(Receive())
	})
	Eventually(ready).WithTimeout(within).Should(BeClosed())
	return server
}

// psql asks whoever is behind addr.
func psql(addr, sql string) (string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", err
	}
	command := exec.Command(servers.PostgresProgram("psql"), "-X", "-A", "-t", "-q", "-h", host, "-p", port, "-U", "postgres", "-d", "postgres", "-c", sql)
	command.Env = append(environment(), "PGCONNECT_TIMEOUT=2")
	text, err := command.Output()
	return strings.TrimSpace(string(text)), err
}

// witness asks through the router, again and again, who answers, and returns what
// it was told once stop is called: a line for each time that the answer changed.
func witness(addr string) (stop func() []string) {
	enough := make(chan struct{})
	var told []string
	var asking sync.WaitGroup
	asking.Go(func() {
		for {
			select {
			case <-enough:
				return
			default:
			}
			said, err := psql(addr, "SELECT pg_is_in_recovery(), inet_server_port()")
			// Nobody need answer while there is no primary.
			if err == nil && (len(told) == 0 || told[len(told)-1] != said) {
				told = append(told, said)
			}
		}
	})
	stop = sync.OnceValue(func() []string {
		close(enough)
		asking.Wait()
		return told
	})
	DeferCleanup(func() { stop() })
	return stop
}

// pgbench writes to whoever is behind addr with four clients, until it is cut or
// more says that it is over.
func pgbench(addr string, more ...string) *spec.Process {
	GinkgoHelper()
	host, port, err := net.SplitHostPort(addr)
	Expect(err).NotTo(HaveOccurred())
	script := write("ledger.sql", "INSERT INTO ledger VALUES (inet_server_port());\n")
	command := exec.Command(servers.PostgresProgram("pgbench"), append([]string{
		"-n", "-c", "4", "-f", script, "-h", host, "-p", port, "-U", "postgres"}, append(more, "postgres")...)...)
	command.Env = environment()
	return spec.StartProcess(command)
}

var processed = regexp.MustCompile(`number of transactions actually processed: (\d+)`)

// committed is how many of pgbench's transactions it was told are committed.
func committed(bench *spec.Process) int {
	GinkgoHelper()
	found := processed.FindSubmatch(bench.Stdout.Contents())
	Expect(found).NotTo(BeNil(), "pgbench has counted nothing")
	count, err := strconv.Atoi(string(found[1]))
	Expect(err).NotTo(HaveOccurred())
	return count
}

var _ = Describe("router in front of PostgreSQL", func() {
	BeforeEach(spec.CheckLeaks)

	It("T38: follows the role under pgbench: a crash, a promotion, the old primary back as a standby, a freeze", func() {
		spec.Need(servers.PostgresProgram("postgres"), "postgresql")
		spec.Need(servers.PostgresProgram("pgbench"), "postgresql")
		first := startPostgres(new(servers.Postgres))
		Expect(first.Query("CREATE TABLE ledger (port int)")).To(BeEmpty())
		second := startPostgres(&servers.Postgres{StandbyOf: first.Addr()})
		// What is committed is on the standby, so that a crash loses nothing.
		Expect(first.Query("ALTER SYSTEM SET synchronous_standby_names = '*'")).To(BeEmpty())
		Expect(first.Query("SELECT pg_reload_conf()")).To(Equal("t"))
		Eventually(first.Query).WithArguments("SELECT sync_state FROM pg_stat_replication").WithTimeout(within).Should(Equal("sync"))

		r := startRouter(write("router.yaml", fmt.Sprintf(`
name: router-1
listeners: [{name: postgres, bind: "127.0.0.1:0", host: db}]
hosts:
  - name: db
    check: {type: postgres, username: postgres, interval: 100ms, timeout: 500ms}
    backends:
      - {name: pg-0, address: %q}
      - {name: pg-1, address: %q}
api: {bind: "127.0.0.1:0"}
shutdown: {drain: 0s}
`, first.Addr(), second.Addr())))
		active := func() string {
			if a, ok := get(r.api + "/hosts/db")["active"].(map[string]any); ok {
				return a["name"].(string)
			}
			return ""
		}
		health := func(name string) string {
			for _, b := range get(r.api + "/hosts/db")["backends"].([]any) {
				if backend := b.(map[string]any); backend["name"] == name {
					return fmt.Sprint(backend["healthy"], " ", backend["check"].(map[string]any)["detail"])
				}
			}
			return ""
		}
		// written is how many rows server has from whom.
		written := func(server, from *servers.Postgres) int {
			said, err := server.Query(fmt.Sprint("SELECT count(*) FROM ledger WHERE port = ", portOf(from.Addr())))
			if err != nil {
				return 0
			}
			count, err := strconv.Atoi(said)
			Expect(err).NotTo(HaveOccurred())
			return count
		}
		Eventually(active).WithTimeout(within).Should(Equal("pg-0"))
		Eventually(health).WithArguments("pg-1").WithTimeout(within).Should(Equal("false is a standby"))
		told := witness(r.clients)

		By("killing the primary under pgbench")
		bench := pgbench(r.clients, "-T", "600")
		Eventually(written).WithArguments(second, first).WithTimeout(within).Should(BeNumerically(">", 100), "pgbench writes")
		first.Kill()
		Expect(bench.WaitExit(within)).NotTo(BeZero(), "pgbench was cut")
		Eventually(active).WithTimeout(within).Should(BeEmpty(), "a standby is no primary")

		By("promoting the standby")
		Expect(second.Promote()).To(Succeed())
		Eventually(active).WithTimeout(within).Should(Equal("pg-1"))
		Expect(written(second, first)).To(BeNumerically(">=", committed(bench)), "what was reported as committed is there")
		bench = pgbench(r.clients, "-t", "50")
		Expect(bench.WaitExit(within)).To(BeZero())
		Expect(written(second, second)).To(Equal(4 * 50))

		By("bringing the old primary back as a standby")
		back := startPostgres(&servers.Postgres{Port: portOf(first.Addr()), StandbyOf: second.Addr()})
		Eventually(health).WithArguments("pg-0").WithTimeout(within).Should(Equal("false is a standby"))
		Expect(active()).To(Equal("pg-1"))

		By("freezing the new primary under pgbench, and promoting once more")
		bench = pgbench(r.clients, "-T", "600")
		Eventually(written).WithArguments(back, second).WithTimeout(within).Should(BeNumerically(">", 300), "pgbench writes")
		second.Pause()
		Expect(bench.WaitExit(within)).NotTo(BeZero(), "pgbench was cut")
		Eventually(active).WithTimeout(within).Should(BeEmpty())
		Expect(back.Promote()).To(Succeed())
		Eventually(active).WithTimeout(within).Should(Equal("pg-0"))
		bench = pgbench(r.clients, "-t", "50")
		Expect(bench.WaitExit(within)).To(BeZero())

		By("staying there when the frozen one thaws, still believing in itself")
		second.Continue()
		Eventually(health).WithArguments("pg-1").WithTimeout(within).Should(Equal("true is a primary"))
		before := written(second, second)
		bench = pgbench(r.clients, "-t", "50")
		Expect(bench.WaitExit(within)).To(BeZero())
		Expect(active()).To(Equal("pg-0"))
		Expect(written(second, second)).To(Equal(before), "no write reaches the other node")
		Expect(written(back, back)).To(BeNumerically(">=", 2*4*50))

		By("never having been anywhere else")
		Expect(told()).To(Equal([]string{
			fmt.Sprint("f|", portOf(first.Addr())), fmt.Sprint("f|", portOf(second.Addr())), fmt.Sprint("f|", portOf(back.Addr())),
		}))
		Expect(get(r.api + "/hosts/db")["epoch"]).To(BeEquivalentTo(5), "pg-0, none, pg-1, none, pg-0")
	})
})
