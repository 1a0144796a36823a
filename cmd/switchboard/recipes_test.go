package main_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/fixtures/servers"
	"switchboard/fixtures/spec"
)

const recipes = "../../fixtures/recipes"

// recipe is a file of the recipes as people copy it, with nothing but addresses,
// passwords and paths changed: each old text, which must be there, to its new one.
func recipe(name string, changes ...string) string {
	GinkgoHelper()
	text, err := os.ReadFile(filepath.Join(recipes, name))
	Expect(err).NotTo(HaveOccurred())
	for i := 0; i < len(changes); i += 2 {
		Expect(string(text)).To(ContainSubstring(changes[i]), name)
	}
	return strings.NewReplacer(changes...).Replace(string(text))
}

// settings are the lines of a server's file that say something.
func settings(text string) []string {
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "[") {
			lines = append(lines, line)
		}
	}
	return lines
}

// sqlStatements are those of an SQL file, each on one line.
func sqlStatements(text string) []string {
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); !strings.HasPrefix(line, "--") {
			lines = append(lines, line)
		}
	}
	return strings.Split(strings.TrimSuffix(strings.Join(lines, " "), ";"), "; ")
}

// run runs an SQL file of the recipes at one server.
func run(server interface {
	Query(sql string) (string, error)
}, name string) {
	GinkgoHelper()
	_, err := server.Query(recipe(name))
	Expect(err).NotTo(HaveOccurred())
}

// ordered expects that the recipes tell operators to send that.
func ordered(body string) string {
	GinkgoHelper()
	Expect(recipe("README.md")).To(ContainSubstring("'" + body + "'"))
	return body
}

// site is a router of a recipe, and its host.
type site struct {
	*router
	host, config string
}

// startSite starts a router with a recipe's configuration, in front of addresses
// instead of those that stand there.
func startSite(name, host string, port int, addresses ...string) *site {
	GinkgoHelper()
	kinds := map[string]string{"galera": "mysql", "mariadb": "mysql", "postgres": "postgres", "redis": "redis"}
	changes := []string{
		fmt.Sprint("0.0.0.0:", port), "127.0.0.1:0", "127.0.0.1:9090", "127.0.0.1:0",
		"/etc/switchboard/" + kinds[name] + ".password", write("password", checkPassword+"\n"),
		"/var/lib/switchboard", GinkgoT().TempDir(),
	}
	for i, address := range addresses {
		changes = append(changes, fmt.Sprintf("10.0.0.%d:%d", i+1, port), address)
	}
	config := write("router.yaml", recipe(name+"/router.yaml", changes...))
	return &site{router: startRouter(config), host: host, config: config}
}

// checkPassword takes the place of the recipes' change-me.
const checkPassword = "correct-horse"

func (s *site) url() string { return s.api + "/hosts/" + s.host }

func (s *site) active() string {
	GinkgoHelper()
	if a, ok := get(s.url())["active"].(map[string]any); ok {
		return a["name"].(string)
	}
	return ""
}

// says is whether a backend is healthy, and what its check said last.
func (s *site) says(name string) string {
	GinkgoHelper()
	for _, b := range get(s.url())["backends"].([]any) {
		if backend := b.(map[string]any); backend["name"] == name {
			return fmt.Sprint(backend["healthy"], ": ", backend["check"].(map[string]any)["detail"])
		}
	}
	return ""
}

func (s *site) awaitActive(name string) {
	GinkgoHelper()
	Eventually(s.active).WithTimeout(2 * within).Should(Equal(name))
}

func (s *site) awaitSays(name, words string) {
	GinkgoHelper()
	Eventually(s.says).WithArguments(name).WithTimeout(2 * within).Should(Equal(words))
}

// drain turns the host's traffic off with a grace, and waits until nobody is left.
func (s *site) drain(body string) {
	GinkgoHelper()
	code, answer, err := request(http.MethodPatch, s.url(), ordered(body))
	Expect(err).NotTo(HaveOccurred())
	Expect(code).To(Equal(http.StatusAccepted), "%v", answer)
	Eventually(func() any { return get(s.url())["currentSessionCount"] }).WithTimeout(2 * within).Should(BeZero())
}

// mariadbClient is a client that waits as long as it takes.
func mariadbClient(addr, sql string) *spec.Process {
	GinkgoHelper()
	host, port, err := net.SplitHostPort(addr)
	Expect(err).NotTo(HaveOccurred())
	command := exec.Command("mariadb", "--no-defaults", "-h", host, "-P", port, "-u", "app", "--password=app", "--protocol=tcp", "-N", "-B", "-e", sql)
	command.Env = environment()
	return spec.StartProcess(command)
}

// waiting is how many clients of the database app has at a server.
func waiting(server interface {
	Query(sql string) (string, error)
}) string {
	GinkgoHelper()
	said, err := server.Query("SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'app'")
	Expect(err).NotTo(HaveOccurred())
	return said
}

// clientUser is whom clients of MariaDB log in as.
func clientUser() []string {
	return []string{"CREATE USER app@'%' IDENTIFIED BY 'app'", "CREATE DATABASE shop", "GRANT ALL ON shop.* TO app@'%'"}
}

// nearby changes a check's SQL to routers on this machine.
var nearby = []string{"10.0.1.%", "127.0.0.%", "change-me", checkPassword}

var _ = Describe("The recipes", func() {
	BeforeEach(spec.CheckLeaks)

	DescribeTable("are configurations without a mistake",
		func(name string, keys ...string) {
			env := []string{"SWITCHBOARD_STATE=" + GinkgoT().TempDir()}
			for _, key := range keys {
				env = append(env, key+"="+write("password", checkPassword))
			}
			result := command(env, "router", "--check", "--config", filepath.Join(recipes, name, "router.yaml"))
			Expect(result.errs).To(BeEmpty())
			Expect(result.code).To(Equal(0))
		},
		Entry("Galera", "galera", "SWITCHBOARD_HOSTS_0_CHECK_PASSWORD_FILE"),
		Entry("MariaDB", "mariadb", "SWITCHBOARD_HOSTS_0_CHECK_PASSWORD_FILE"),
		Entry("PostgreSQL", "postgres", "SWITCHBOARD_HOSTS_0_CHECK_PASSWORD_FILE"),
		Entry("Redis", "redis", "SWITCHBOARD_HOSTS_0_CHECK_PASSWORD_FILE"),
		Entry("the original's", "original", "SWITCHBOARD_API_PASSWORD_FILE"),
	)

	It("work for Galera", func() {
		spec.Need("mariadbd", "mariadb-server")
		spec.Need("mariadb", "mariadb-client")
		spec.Need("rsync", "rsync")
		if _, err := os.Stat(servers.GaleraLibrary); err != nil {
			spec.Need(servers.GaleraLibrary, "galera-4")
		}
		cluster := &servers.Galera{Init: append(clientUser(), sqlStatements(recipe("galera/check.sql", nearby...))...)}
		for _, line := range settings(recipe("galera/server.cnf")) {
			// The fixture has options of its own on that line.
			if options, ok := strings.CutPrefix(line, "wsrep_provider_options = "); ok {
				cluster.Options = append(cluster.Options, strings.Trim(options, `"`))
			} else {
				cluster.Config = append(cluster.Config, line)
			}
		}
		startMariaDB(cluster)
		nodes := cluster.Nodes()
		s := startSite("galera", "db.main", 3306, nodes[0].Addr(), nodes[1].Addr(), nodes[2].Addr())
		for i := range nodes {
			s.awaitSays(fmt.Sprint("db-", i), "true: Synced, sees 3 nodes")
		}
		Expect(nodes[0].Query("SHOW GRANTS FOR switchboard@'127.0.0.%'")).To(And(
			HavePrefix("GRANT USAGE ON *.* TO "), Not(ContainSubstring("\n"))))
		at := func() (string, error) { return mariadb(s.clients, "SELECT @@wsrep_node_name") }

		By("switching, with a client that is cut")
		patch(s.url(), `{"active":"db-0","message":"where the story begins"}`)
		Eventually(at).WithTimeout(within).Should(Equal("db-0"))
		client := mariadbClient(s.clients, "SELECT SLEEP(600)")
		Eventually(waiting).WithArguments(nodes[0]).WithTimeout(within).Should(Equal("1"))
		Expect(patch(s.url(), ordered(`{"active":"db-1","message":"kernel update of db-0"}`))["severed"]).To(BeEquivalentTo(1))
		Expect(client.WaitExit(within)).NotTo(BeZero())
		Eventually(at).WithTimeout(within).Should(Equal("db-1"))

		By("draining before a switch")
		client = mariadbClient(s.clients, "SELECT SLEEP(1)")
		Eventually(waiting).WithArguments(nodes[1]).WithTimeout(within).Should(Equal("1"))
		s.drain(`{"trafficEnabled":false,"message":"kernel update of db-1","grace":"30s"}`)
		Expect(client.WaitExit(within)).To(BeZero(), "it was let finish")
		_, err := at()
		Expect(err).To(HaveOccurred(), "nobody new is let in")
		patch(s.url(), ordered(`{"active":"db-2","trafficEnabled":true,"message":"kernel update of db-1"}`))
		Eventually(at).WithTimeout(within).Should(Equal("db-2"))

		By("losing a node, the others being left to find out")
		client = mariadbClient(s.clients, "SELECT SLEEP(600)")
		Eventually(waiting).WithArguments(nodes[2]).WithTimeout(within).Should(Equal("1"))
		nodes[2].Kill()
		Expect(client.WaitExit(within)).NotTo(BeZero(), "its session is cut")
		s.awaitSays("db-2", "false: connection refused")
		Eventually(s.active).WithTimeout(2 * within).Should(Or(Equal("db-0"), Equal("db-1")))
		next := s.active()
		Eventually(func() error {
			_, err := mariadb(s.clients, "CREATE TABLE IF NOT EXISTS ledger (id INT)")
			return err
		}).WithTimeout(2 * within).WithPolling(100 * time.Millisecond).Should(Succeed())
		Eventually(at).WithTimeout(within).Should(Equal(next))

		By("staying there when the node is back, with its data from another")
		donors := map[string]string{"db-0": "db-1", "db-1": "db-0"}
		nodes[2].Config = append(nodes[2].Config, "wsrep_sst_donor="+donors[next])
		Expect(nodes[2].Start()).To(Succeed())
		s.awaitSays("db-2", "true: Synced, sees 3 nodes")
		Expect(s.active()).To(Equal(next))

		By("pinning")
		patch(s.url(), ordered(`{"pin":"db-0","message":"only db-0 has the big disk"}`))
		Eventually(at).WithTimeout(within).Should(Equal("db-0"))
		nodes[0].Kill()
		s.awaitSays("db-0", "false: connection refused")
		s.awaitSays("db-1", "true: Synced, sees 2 nodes")
		Expect(s.active()).To(BeEmpty(), "no other takes its place")
		patch(s.url(), ordered(`{"pin":null}`))
		Eventually(s.active).WithTimeout(within).ShouldNot(BeEmpty())
		Eventually(at).WithTimeout(within).Should(Equal(s.active()))
	})

	It("work for a MariaDB primary and its replica", func() {
		spec.Need("mariadbd", "mariadb-server")
		spec.Need("mariadb", "mariadb-client")
		// The fixture's servers lose what was committed last when they are killed.
		config := append(settings(recipe("mariadb/server.cnf")), "innodb_flush_log_at_trx_commit=1")
		first := &servers.MariaDB{Dir: GinkgoT().TempDir(), ServerID: 1, Config: config}
		startMariaDB(first)
		for _, sql := range append(append(clientUser(), sqlStatements(recipe("mariadb/check.sql", nearby...))...),
			"CREATE USER repl@'%' IDENTIFIED BY 'secret'", "GRANT REPLICATION SLAVE ON *.* TO repl@'%'",
			"CREATE TABLE shop.ledger (id INT PRIMARY KEY)") {
			_, err := first.Query(sql)
			Expect(err).NotTo(HaveOccurred())
		}
		second := &servers.MariaDB{ServerID: 2, ReplicaOf: first.Addr(), ReplicaUser: "repl", ReplicaPassword: "secret", Config: config}
		startMariaDB(second)
		s := startSite("mariadb", "db.main", 3306, first.Addr(), second.Addr())
		s.awaitSays("db-0", "false: read_only is on")
		Eventually(second.Query).WithArguments("SHOW TABLES FROM shop").WithTimeout(within).Should(Equal("ledger"))
		s.awaitSays("db-1", "false: read_only is on")
		Expect(second.Query("SHOW GRANTS FOR switchboard@'127.0.0.%'")).To(And(
			HavePrefix("GRANT USAGE ON *.* TO "), Not(ContainSubstring("\n"))))
		run(first, "mariadb/promote.sql")
		s.awaitActive("db-0")
		port := func(server *servers.MariaDB) string { return strconv.Itoa(portOf(server.Addr())) }
		Expect(mariadb(s.clients, "SELECT @@port")).To(Equal(port(first)))

		By("refusing to be switched to a replica")
		code, _, err := request(http.MethodPatch, s.url(), `{"active":"db-1","message":"by mistake"}`)
		Expect(err).NotTo(HaveOccurred())
		Expect(code).To(Equal(http.StatusConflict))

		By("failing over when the primary is lost, with clients that wait")
		Expect(mariadb(s.clients, "INSERT INTO ledger VALUES (1)")).To(BeEmpty())
		Eventually(second.Query).WithArguments("SELECT COUNT(*) FROM shop.ledger").WithTimeout(within).Should(Equal("1"))
		client := mariadbClient(s.clients, "SELECT SLEEP(600)")
		Eventually(waiting).WithArguments(first).WithTimeout(within).Should(Equal("1"))
		first.Kill()
		Expect(client.WaitExit(within)).NotTo(BeZero(), "its session is cut")
		s.awaitActive("")
		client = mariadbClient(s.clients, "SELECT @@port")
		run(second, "mariadb/promote.sql")
		s.awaitActive("db-1")
		Expect(client.WaitExit(within)).To(BeZero(), "it waited for the new primary")
		Expect(strings.TrimSpace(string(client.Stdout.Contents()))).To(Equal(port(second)))

		By("not falling for the old primary")
		Eventually(first.PID).WithTimeout(within).Should(BeZero())
		startMariaDB(first)
		s.awaitSays("db-0", "false: read_only is on")
		Expect(s.active()).To(Equal("db-1"))

		By("switching over as planned, after the old primary was made a replica")
		host, at, err := net.SplitHostPort(second.Addr())
		Expect(err).NotTo(HaveOccurred())
		position, err := first.Query("SELECT @@gtid_binlog_pos")
		Expect(err).NotTo(HaveOccurred())
		_, err = first.Query(fmt.Sprintf("SET GLOBAL gtid_slave_pos='%s'; CHANGE MASTER TO MASTER_HOST='%s', MASTER_PORT=%s, MASTER_USER='repl',"+
			" MASTER_PASSWORD='secret', MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1; START SLAVE", position, host, at))
		Expect(err).NotTo(HaveOccurred())
		Expect(mariadb(s.clients, "INSERT INTO ledger VALUES (2)")).To(BeEmpty())
		run(second, "mariadb/demote.sql")
		s.awaitActive("")
		client = mariadbClient(s.clients, "SELECT @@port, COUNT(*) FROM shop.ledger")
		written, err := second.Query("SELECT @@gtid_binlog_pos")
		Expect(err).NotTo(HaveOccurred())
		Expect(first.Query("SELECT MASTER_GTID_WAIT('" + written + "', 20)")).To(Equal("0"))
		run(first, "mariadb/promote.sql")
		s.awaitActive("db-0")
		Expect(client.WaitExit(within)).To(BeZero())
		Expect(strings.TrimSpace(string(client.Stdout.Contents()))).To(Equal(port(first)+"\t2"), "nothing is lost")
	})

	It("work for PostgreSQL with a streaming standby", func() {
		spec.Need(servers.PostgresProgram("postgres"), "postgresql")
		spec.Need(servers.PostgresProgram("psql"), "postgresql-client")
		config := settings(recipe("postgres/postgresql.conf"))
		hba := append(settings(recipe("postgres/pg_hba.conf", "10.0.1.0/24", "127.0.0.0/8")), "host postgres postgres 127.0.0.1/32 trust")
		first := startPostgres(&servers.Postgres{Config: config, HBA: hba})
		_, err := first.Query(recipe("postgres/check.sql", "change-me", checkPassword))
		Expect(err).NotTo(HaveOccurred())
		Expect(first.Query("CREATE TABLE ledger (id int)")).To(BeEmpty())
		second := startPostgres(&servers.Postgres{StandbyOf: first.Addr(), Config: config, HBA: hba})
		s := startSite("postgres", "db.main", 5432, first.Addr(), second.Addr())
		s.awaitActive("pg-0")
		s.awaitSays("pg-1", "false: is a standby")
		Expect(first.Query("SELECT rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls FROM pg_roles WHERE rolname = 'switchboard'")).To(Equal("f|f|f|f|f"))
		whole := "SELECT inet_server_port(), count(*) FROM ledger"

		By("switching over as planned: drain, stop, promote")
		Expect(psql(s.clients, "INSERT INTO ledger VALUES (1)")).To(BeEmpty())
		s.drain(`{"trafficEnabled":false,"message":"moving to pg-1","grace":"30s"}`)
		Expect(syscall.Kill(first.PID(), syscall.SIGINT)).To(Succeed(), "as pg_ctl stop -m fast does")
		Eventually(first.PID).WithTimeout(within).Should(BeZero())
		s.awaitActive("")
		run(second, "postgres/promote.sql")
		s.awaitActive("pg-1")
		patch(s.url(), ordered(`{"trafficEnabled":true,"message":"moved to pg-1"}`))
		Expect(psql(s.clients, whole)).To(Equal(fmt.Sprint(portOf(second.Addr()), "|1")), "nothing is lost")

		By("failing over, with a client that waits")
		third := startPostgres(&servers.Postgres{Port: portOf(first.Addr()), StandbyOf: second.Addr(), Config: config, HBA: hba})
		s.awaitSays("pg-0", "false: is a standby")
		Expect(psql(s.clients, "INSERT INTO ledger VALUES (2)")).To(BeEmpty())
		Eventually(third.Query).WithArguments("SELECT count(*) FROM ledger").WithTimeout(within).Should(Equal("2"))
		second.Kill()
		s.awaitActive("")
		host, port, err := net.SplitHostPort(s.clients)
		Expect(err).NotTo(HaveOccurred())
		patient := exec.Command(servers.PostgresProgram("psql"), "-X", "-A", "-t", "-q", "-h", host, "-p", port, "-U", "postgres", "-d", "postgres", "-c", whole)
		patient.Env = environment()
		client := spec.StartProcess(patient)
		run(third, "postgres/promote.sql")
		s.awaitActive("pg-0")
		Expect(client.WaitExit(within)).To(BeZero())
		Expect(strings.TrimSpace(string(client.Stdout.Contents()))).To(Equal(fmt.Sprint(portOf(third.Addr()), "|2")))
	})

	It("keep to the last primary over a restart, when two believe in themselves", func() {
		spec.Need(servers.PostgresProgram("postgres"), "postgresql")
		config := settings(recipe("postgres/postgresql.conf"))
		hba := append(settings(recipe("postgres/pg_hba.conf", "10.0.1.0/24", "127.0.0.0/8")), "host postgres postgres 127.0.0.1/32 trust")
		first := startPostgres(&servers.Postgres{Config: config, HBA: hba})
		_, err := first.Query(recipe("postgres/check.sql", "change-me", checkPassword))
		Expect(err).NotTo(HaveOccurred())
		second := startPostgres(&servers.Postgres{StandbyOf: first.Addr(), Config: config, HBA: hba})
		s := startSite("postgres", "db.main", 5432, first.Addr(), second.Addr())
		s.awaitActive("pg-0")
		first.Pause()
		s.awaitActive("")
		run(second, "postgres/promote.sql")
		s.awaitActive("pg-1")
		first.Continue()
		s.awaitSays("pg-0", "true: is a primary")
		Expect(s.active()).To(Equal("pg-1"))
		s.Kill()
		s.WaitExit(within)
		s.router = startRouter(s.config)
		s.awaitSays("pg-0", "true: is a primary")
		s.awaitActive("pg-1")
	})

	It("work for Redis with Sentinel", func() {
		spec.Need("redis-server", "redis-server")
		spec.Need("redis-cli", "redis-tools")
		config := settings(recipe("redis/redis.conf", "change-me", checkPassword))
		master := &servers.Redis{Config: config}
		startRedis(master)
		redises := []*servers.Redis{master}
		for range 2 {
			redises = append(redises, startRedis(&servers.Redis{ReplicaOf: master.Addr(), Config: config}))
		}
		host, port, err := net.SplitHostPort(master.Addr())
		Expect(err).NotTo(HaveOccurred())
		var sentinels []*servers.Redis
		for range 3 {
			sentinels = append(sentinels, startRedis(&servers.Redis{
				Sentinel: true, Config: settings(recipe("redis/sentinel.conf", "10.0.0.1 6379", host+" "+port)),
			}))
		}
		// ask asks whoever is at addr, and cli does as a client.
		ask := func(addr string, args ...string) string {
			GinkgoHelper()
			host, port, err := net.SplitHostPort(addr)
			Expect(err).NotTo(HaveOccurred())
			command := exec.Command("redis-cli", append([]string{"-h", host, "-p", port}, args...)...)
			command.Env = environment()
			text, _ := command.CombinedOutput()
			return strings.TrimSpace(string(text))
		}
		cli := func(addr string, args ...string) string {
			GinkgoHelper()
			return ask(addr, append([]string{"--no-auth-warning", "-a", "clients-password"}, args...)...)
		}
		for _, sentinel := range sentinels {
			Eventually(ask).WithArguments(sentinel.Addr(), "SENTINEL", "CKQUORUM", "cache").WithTimeout(2 * within).Should(ContainSubstring("OK 3 usable Sentinels"))
			Eventually(ask).WithArguments(sentinel.Addr(), "SENTINEL", "REPLICAS", "cache").WithTimeout(2 * within).Should(And(
				ContainSubstring(redises[1].Addr()), ContainSubstring(redises[2].Addr())))
		}
		s := startSite("redis", "cache.main", 6379, redises[0].Addr(), redises[1].Addr(), redises[2].Addr())
		s.awaitActive("redis-0")
		s.awaitSays("redis-1", "false: role slave")
		Expect(cli(master.Addr(), "ACL", "GETUSER", "switchboard")).To(ContainSubstring("-@all +role"))

		By("refusing to be switched to a replica")
		code, _, err := request(http.MethodPatch, s.url(), `{"active":"redis-1","message":"by mistake"}`)
		Expect(err).NotTo(HaveOccurred())
		Expect(code).To(Equal(http.StatusConflict))

		By("failing over when the master is lost")
		Expect(cli(s.clients, "SET", "before", "kept")).To(Equal("OK"))
		Expect(cli(s.clients, "WAIT", "2", "5000")).To(Equal("2"))
		master.Kill()
		s.awaitActive("")
		Eventually(s.active).WithTimeout(3 * within).Should(Or(Equal("redis-1"), Equal("redis-2")))
		next := s.active()
		Expect(cli(s.clients, "GET", "before")).To(Equal("kept"))
		Eventually(cli).WithArguments(s.clients, "SET", "after", "written").WithTimeout(within).Should(Equal("OK"), "once the other replica follows")

		By("not falling for the old master")
		back := startRedis(&servers.Redis{Port: portOf(master.Addr()), Config: config})
		Eventually(s.says).WithArguments("redis-0").WithTimeout(2 * within).Should(Equal("false: role slave"))
		Expect(s.active()).To(Equal(next))
		Eventually(cli).WithArguments(back.Addr(), "GET", "after").WithTimeout(within).Should(Equal("written"))

		By("switching over as planned")
		s.drain(`{"trafficEnabled":false,"message":"moving to another master","grace":"30s"}`)
		current := func() string {
			return strings.Join(strings.Fields(ask(sentinels[0].Addr(), "SENTINEL", "GET-MASTER-ADDR-BY-NAME", "cache")), ":")
		}
		was := current()
		// A Sentinel that got no processor time for two seconds does nothing for thirty,
		// and gives up what it had begun.
		Eventually(func() string {
			if current() == was {
				ask(sentinels[0].Addr(), "SENTINEL", "FAILOVER", "cache")
			}
			return current()
		}).WithTimeout(6 * within).WithPolling(200 * time.Millisecond).ShouldNot(Equal(was))
		for i, server := range redises {
			if server.Addr() == current() {
				next = fmt.Sprint("redis-", i)
			}
		}
		s.awaitSays(next, "true: role master")
		patch(s.url(), strings.Replace(ordered(`{"active":"redis-2","trafficEnabled":true,"message":"Sentinel made it the master"}`), "redis-2", next, 1))
		Expect(s.active()).To(Equal(next))
		Expect(cli(s.clients, "GET", "after")).To(Equal("written"))

		By("refusing writes to a master that has no replica")
		redises[0] = back
		for i, server := range redises {
			if s.active() != fmt.Sprint("redis-", i) {
				server.Kill()
			}
		}
		Eventually(cli).WithArguments(s.clients, "SET", "alone", "lost").WithTimeout(within).Should(HavePrefix("NOREPLICAS"))
	})

	It("work for the original's configuration, moved over or as it is", func() {
		spec.Need("mariadbd", "mariadb-server")
		spec.Need("mariadb", "mariadb-client")
		var (
			nodes  []*servers.MariaDB
			agents []*spec.Health
			moved  = []string{
				"0.0.0.0:3306", "127.0.0.1:0", "0.0.0.0:3307", "127.0.0.1:0", "0.0.0.0:8080", "127.0.0.1:0", "0.0.0.0:1936", "127.0.0.1:0",
				"/etc/switchboard/api.password", write("password", checkPassword), "/var/lib/switchboard", GinkgoT().TempDir(),
			}
			asItIs = []string{"/var/vcap/packages/proxy/static", GinkgoT().TempDir(), "change-me", checkPassword}
		)
		for i := range 2 {
			node, agent := &servers.MariaDB{Init: clientUser()}, spec.StartHealth()
			startMariaDB(node)
			agent.Healthy(i)
			nodes, agents = append(nodes, node), append(agents, agent)
			moved = append(moved, fmt.Sprintf("10.0.0.%d:3306, check_port: 9200", i+1), fmt.Sprintf("%s, check_port: %d", node.Addr(), agent.Port()))
			asItIs = append(asItIs, fmt.Sprintf("Host: 10.0.0.%d, Port: 3306, StatusPort: 9200", i+1),
				fmt.Sprintf("Host: 127.0.0.1, Port: %d, StatusPort: %d", portOf(node.Addr()), agent.Port()))
		}
		o := startOriginal(func(p ports) string {
			return "BindAddress: 127.0.0.1\n" + recipe("original/proxy.yml", append(asItIs,
				"Port: 3306\n", fmt.Sprintf("Port: %d\n", p.mysql), "Port: 3307", fmt.Sprint("Port: ", p.inactive), "Port: 8080", fmt.Sprint("Port: ", p.api),
				"Port: 8082", fmt.Sprint("Port: ", p.aggregator), "Port: 1936", fmt.Sprint("Port: ", p.health))...)
		})
		config := write("router.yaml", recipe("original/router.yaml", moved...))
		r := startRouter(config)
		at := func(listener string) string {
			GinkgoHelper()
			for _, entry := range r.entries() {
				if entry["msg"] == "listening" && entry["listener"] == listener {
					return entry["address"].(string)
				}
			}
			return ""
		}
		base := func() string { return strings.Replace(r.api, "http://", "http://proxy:"+checkPassword+"@", 1) }
		Expect(status(r.api + "/v0/cluster")).To(Equal(http.StatusUnauthorized))

		expectSame := func(active, inactive *servers.MariaDB) {
			GinkgoHelper()
			for addr, node := range map[string]*servers.MariaDB{
				at("active"): active, local(o.mysql): active, at("inactive"): inactive, local(o.inactive): inactive,
			} {
				Eventually(mariadb).WithArguments(addr, "SELECT @@port").WithTimeout(within).Should(Equal(strconv.Itoa(portOf(node.Addr()))))
			}
			for _, path := range []string{"/v0/cluster", "/v0/backends"} {
				Eventually(func(g Gomega) {
					response, err := http.Get(base() + path)
					g.Expect(err).NotTo(HaveOccurred())
					defer response.Body.Close()
					text, err := io.ReadAll(response.Body)
					g.Expect(err).NotTo(HaveOccurred())
					g.Expect(string(text)).To(Equal(o.ask("GET", o.api, path, "proxy:"+checkPassword).body))
				}).WithTimeout(within).Should(Succeed(), path)
			}
		}
		expectSame(nodes[0], nodes[1])

		By("failing over when an agent says so")
		agents[0].Unhealthy()
		expectSame(nodes[1], nodes[1])

		By("being looked at on its data port after a hint, which the server counts")
		broken := func() (number int) {
			GinkgoHelper()
			said, err := nodes[1].Query("SHOW GLOBAL STATUS LIKE 'Aborted_connects'")
			Expect(err).NotTo(HaveOccurred())
			_, err = fmt.Sscan(strings.TrimPrefix(said, "Aborted_connects\t"), &number)
			Expect(err).NotTo(HaveOccurred())
			return number
		}
		client := mariadbClient(at("active"), "SELECT SLEEP(600)")
		Eventually(waiting).WithArguments(nodes[1]).WithTimeout(within).Should(Equal("1"))
		before := broken()
		_, err := nodes[1].Query("KILL USER app")
		Expect(err).NotTo(HaveOccurred())
		Expect(client.WaitExit(within)).NotTo(BeZero())
		Eventually(broken).WithTimeout(within).Should(BeNumerically(">", before))

		By("remembering, once moved over, that traffic is off")
		code, _, err := request(http.MethodPatch, base()+"/v0/cluster?trafficEnabled=false&message=moving", "")
		Expect(err).NotTo(HaveOccurred())
		Expect(code).To(Equal(http.StatusOK))
		r.Signal(syscall.SIGTERM)
		Expect(r.WaitExit(within)).To(BeZero())
		r = startRouter(config)
		Expect(get(base() + "/v0/cluster")).To(And(HaveKeyWithValue("trafficEnabled", false), HaveKeyWithValue("message", "moving")))
	})
})
