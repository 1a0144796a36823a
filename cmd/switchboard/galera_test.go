package main_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/fixtures/child"
	"switchboard/fixtures/servers"
	"switchboard/fixtures/spec"
)

const (
	// accounts are two for each of as many tellers as a spec starts.
	accounts = 6
	opening  = 1000
	// pace is the least time between two transactions of one teller: it leaves the
	// machine to the cluster.
	pace = 10 * time.Millisecond
)

// ledger is what a cluster is set up with: users, a database for sysbench, and
// accounts to move money between. A transfer has two rows, one an account.
func ledger() []string {
	statements := append(mariadbUsers(),
		"CREATE DATABASE sbtest", "CREATE USER sbtest@'%' IDENTIFIED BY 'sbtest'", "GRANT ALL ON sbtest.* TO sbtest@'%'",
		"CREATE TABLE shop.account (id INT PRIMARY KEY, balance INT NOT NULL)",
		"CREATE TABLE shop.transfer (id VARCHAR(20), account INT, amount INT NOT NULL, PRIMARY KEY (id, account))")
	for id := range accounts {
		statements = append(statements, fmt.Sprintf("INSERT INTO shop.account VALUES (%d, %d)", id, opening))
	}
	return statements
}

// client is the command line of a mariadb client of whoever is behind addr.
func client(addr string, more ...string) *exec.Cmd {
	GinkgoHelper()
	host, port, err := net.SplitHostPort(addr)
	Expect(err).NotTo(HaveOccurred())
	command := exec.Command("mariadb", append([]string{"--no-defaults", "-h", host, "-P", port, "-u", "app", "--password=app",
		"--protocol=tcp", "--connect-timeout=20", "-N", "-B", "shop"}, more...)...)
	command.Env = environment()
	return command
}

// teller moves money through the router, a transaction at a time. It keeps its
// connection until that is cut or a transaction fails, and then makes another one.
type teller struct {
	name, addr string
	// first is the first of its two accounts.
	first int

	mu sync.Mutex
	// tried is how many transactions were begun; their IDs are the name and a number
	// from 1. acknowledged are the IDs of those that the client was told are
	// committed.
	tried        int
	acknowledged []string
	// cut is how many connections have ended under a transaction.
	cut int
}

// startTellers starts tellers that work until stop is called, or the spec ends.
func startTellers(addr, prefix string, count int) (tellers []*teller, stop func()) {
	GinkgoHelper()
	enough := make(chan struct{})
	var working sync.WaitGroup
	for i := range count {
		t := &teller{name: fmt.Sprintf("%s%d", prefix, i), addr: addr, first: 2 * i}
		tellers = append(tellers, t)
		working.Go(func() {
			defer GinkgoRecover()
			t.work(enough)
		})
	}
	stop = sync.OnceFunc(func() {
		close(enough)
		working.Wait()
	})
	DeferCleanup(stop)
	return tellers, stop
}

func (t *teller) work(enough <-chan struct{}) {
	for {
		select {
		case <-enough:
			return
		default:
			t.connect(enough)
		}
	}
}

// connect transfers over one connection for as long as that is good.
func (t *teller) connect(enough <-chan struct{}) {
	command := client(t.addr, "--unbuffered")
	statements, err := command.StdinPipe()
	Expect(err).NotTo(HaveOccurred())
	answers, said := io.Pipe()
	command.Stdout = said
	process, err := child.Start(command)
	Expect(err).NotTo(HaveOccurred())
	defer func() {
		statements.Close()
		answers.Close()
		process.Signal(os.Kill)
		<-process.Exited()
	}()
	go func() {
		<-process.Exited()
		said.Close()
	}()
	pause := time.NewTicker(pace)
	defer pause.Stop()
	for lines := bufio.NewScanner(answers); ; {
		select {
		case <-enough:
			return
		case <-pause.C:
		}
		id, transaction := t.next()
		_, _ = io.WriteString(statements, transaction)
		if !lines.Scan() {
			t.mu.Lock()
			t.cut++
			t.mu.Unlock()
			return
		}
		Expect(lines.Text()).To(Equal(id))
		t.mu.Lock()
		t.acknowledged = append(t.acknowledged, id)
		t.mu.Unlock()
	}
}

// next is another transaction, which says its ID when it is committed. Each teller
// has two accounts of its own: with one that waits for another's row, a server that
// is set read-only waits for both, until the first gives up after 50 s.
func (t *teller) next() (id, transaction string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tried++
	id = t.id(t.tried)
	amount := 1 - 2*(t.tried%2)
	return id, fmt.Sprintf("BEGIN; UPDATE account SET balance = balance - %[4]d WHERE id = %[2]d; INSERT INTO transfer VALUES ('%[1]s', %[2]d, -(%[4]d));"+
		" UPDATE account SET balance = balance + %[4]d WHERE id = %[3]d; INSERT INTO transfer VALUES ('%[1]s', %[3]d, %[4]d); COMMIT; SELECT '%[1]s';\n",
		id, t.first, t.first+1, amount)
}

func (t *teller) id(number int) string { return fmt.Sprintf("%s-%d", t.name, number) }

func (t *teller) done() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.acknowledged)
}

// awaitTransfers waits until every teller has been told of so many more.
func awaitTransfers(tellers []*teller, more int) {
	GinkgoHelper()
	for _, t := range tellers {
		Eventually(t.done).WithTimeout(3*within).Should(BeNumerically(">=", t.done()+more), "%s gets on", t.name)
	}
}

// expectWhole expects of each node, once it has all that was committed, that
// no transfer is there by half, that none that was acknowledged is missing, that
// none is there that nobody has tried, and that all nodes have the same.
func expectWhole(nodes []*servers.GaleraNode, tellers []*teller) {
	GinkgoHelper()
	var first string
	for _, node := range nodes {
		ask := func(sql string) string {
			GinkgoHelper()
			said, err := node.Query("SET SESSION wsrep_sync_wait = 1; " + sql)
			Expect(err).NotTo(HaveOccurred())
			return said
		}
		Expect(ask("SELECT id FROM shop.transfer GROUP BY id HAVING COUNT(*) <> 2 OR SUM(amount) <> 0")).To(BeEmpty(), "half a transfer")
		Expect(ask("SELECT SUM(balance) FROM shop.account")).To(Equal(strconv.Itoa(accounts * opening)))
		Expect(ask(fmt.Sprintf("SELECT id FROM shop.account WHERE balance <> %d +"+
			" (SELECT COALESCE(SUM(amount), 0) FROM shop.transfer WHERE account = shop.account.id)", opening))).To(BeEmpty(), "a balance without its transfers")
		transfers := ask("SELECT DISTINCT id FROM shop.transfer ORDER BY id")
		if first == "" {
			first = transfers
		}
		Expect(transfers == first).To(BeTrue(), "two nodes differ")
		there := map[string]bool{}
		for _, id := range strings.Fields(transfers) {
			there[id] = true
		}
		for _, t := range tellers {
			Expect(t.acknowledged).NotTo(BeEmpty())
			for _, id := range t.acknowledged {
				if !there[id] {
					Fail(id + " was acknowledged, and is lost")
				}
			}
			for i := range t.tried {
				delete(there, t.id(i+1))
			}
		}
		for id := range there {
			for _, t := range tellers {
				if strings.HasPrefix(id, t.name+"-") {
					Fail("nobody has tried " + id)
				}
			}
		}
	}
}

// statement is one that a node has logged as it came in from a client, over TCP or
// its socket. What is replicated from another node is not logged so.
type statement struct {
	at         time.Time
	node, user string
	text       string
}

const loggedTime = "2006-01-02 15:04:05.000000"

// logged is a row of mysql.general_log as the server writes it: time, user, thread,
// server, kind of command, text.
var logged = regexp.MustCompile(`^"([^"]+)","(\w+)\[[^"]*",\d+,(\d+),"Query","(.*)"$`)

// statements are what the nodes have logged. A node that joins anew gets a copy of
// another one's log in place of its own, so a killed node's is read before it is
// started again.
type statements struct {
	nodes []*servers.GaleraNode
	seen  map[string]bool
	// from is how a line of the log begins that is written now.
	from string
}

// newStatements is the log of the nodes from now on.
func newStatements(nodes []*servers.GaleraNode) *statements {
	return &statements{nodes: nodes, seen: map[string]bool{}, from: time.Now().Format(`"` + loggedTime)}
}

// read reads what the nodes have logged until now, in the order of time.
func (s *statements) read() []statement {
	GinkgoHelper()
	var all []statement
	for _, node := range s.nodes {
		text, err := os.ReadFile(filepath.Join(node.Dir, "data", "mysql", "general_log.CSV"))
		Expect(err).NotTo(HaveOccurred())
		for line := range strings.Lines(string(text)) {
			// A time is written so that the later one is the greater one.
			if line > s.from {
				s.seen[strings.TrimSpace(line)] = true
			}
		}
	}
	for line := range s.seen {
		row := logged.FindStringSubmatch(line)
		if row == nil {
			continue
		}
		at, err := time.ParseInLocation(loggedTime, row[1], time.Local)
		Expect(err).NotTo(HaveOccurred())
		id, err := strconv.Atoi(row[3])
		Expect(err).NotTo(HaveOccurred())
		all = append(all, statement{at, fmt.Sprint("db-", id-1), row[2], row[4]})
	}
	slices.SortFunc(all, func(a, b statement) int { return a.at.Compare(b.at) })
	return all
}

// writes is what a statement is like that changes something, or makes it durable.
var writes = regexp.MustCompile(`^(INSERT|UPDATE|DELETE|REPLACE|COMMIT)\b`)

// terms are the nodes that users have written to, in the order of time: one that is
// left and written to again is there twice, and so would two be that were written
// to at the same time.
func (s *statements) terms(users ...string) []string {
	GinkgoHelper()
	var terms []string
	for _, one := range s.read() {
		if slices.Contains(users, one.user) && writes.MatchString(one.text) && (len(terms) == 0 || terms[len(terms)-1] != one.node) {
			terms = append(terms, one.node)
		}
	}
	return terms
}

// probes are when the check has begun to ask a node, after one time and not after
// another.
func (s *statements) probes(node string, after, until time.Time) (at []time.Time) {
	GinkgoHelper()
	for _, one := range s.read() {
		if one.node == node && one.user == "probe" && strings.HasPrefix(one.text, "SHOW GLOBAL STATUS") && one.at.After(after) && !one.at.After(until) {
			at = append(at, one.at)
		}
	}
	return at
}

// reign is one active backend of the router.
type reign struct {
	backend, reason string
	epoch           float64
	since           time.Time
}

// reigns are all active backends that there were, "" for none.
func (r *router) reigns() []reign {
	GinkgoHelper()
	var reigns []reign
	for _, entry := range r.entries() {
		if entry["msg"] != "new active backend" {
			continue
		}
		since, err := time.Parse(time.RFC3339Nano, entry["time"].(string))
		Expect(err).NotTo(HaveOccurred())
		reigns = append(reigns, reign{entry["backend"].(string), entry["reason"].(string), entry["epoch"].(float64), since})
	}
	return reigns
}

// severed is how many sessions ended with the term before that epoch, -1 if it has
// not ended.
func (r *router) severed(epoch float64) int {
	GinkgoHelper()
	for _, entry := range r.entries() {
		if entry["msg"] == "following the active backend" && entry["epoch"] == epoch {
			return int(entry["severed"].(float64))
		}
	}
	return -1
}

// served are the router's active backends as terms tells them.
func (r *router) served() []string {
	GinkgoHelper()
	var names []string
	for _, one := range r.reigns() {
		if one.backend != "" {
			names = append(names, one.backend)
		}
	}
	return slices.Compact(names)
}

// holdSession is a client that only waits, and its node knows it.
func holdSession(r *router, node *servers.GaleraNode) *spec.Process {
	GinkgoHelper()
	process := spec.StartProcess(client(r.clients, "-e", "SELECT SLEEP(600)"))
	Eventually(node.Query).WithArguments("SELECT COUNT(*) FROM information_schema.processlist WHERE info = 'SELECT SLEEP(600)'").
		WithTimeout(within).Should(Equal("1"))
	return process
}

// sysbench is the command line of one that works through the router.
func sysbench(r *router, what string) *exec.Cmd {
	GinkgoHelper()
	host, port, err := net.SplitHostPort(r.clients)
	Expect(err).NotTo(HaveOccurred())
	command := exec.Command("sysbench", "oltp_read_write", "--db-driver=mysql", "--db-ps-mode=disable",
		"--mysql-host="+host, "--mysql-port="+port, "--mysql-user=sbtest", "--mysql-password=sbtest", "--mysql-db=sbtest",
		"--tables=1", "--table-size=200", "--threads=2", "--rate=20", "--time=0", "--events=0", what)
	command.Env = environment()
	return command
}

// keepSysbench runs sysbench, and again when a cut has ended it, until stop is
// called, or the spec ends. It is not left to connect anew by itself: built with
// MariaDB's client library it crashes then.
func keepSysbench(r *router) (stop func()) {
	GinkgoHelper()
	enough := make(chan struct{})
	var working sync.WaitGroup
	working.Go(func() {
		defer GinkgoRecover()
		for {
			command := sysbench(r, "run")
			command.Stdout, command.Stderr = GinkgoWriter, GinkgoWriter
			process, err := child.Start(command)
			Expect(err).NotTo(HaveOccurred())
			select {
			case <-enough:
				process.Signal(os.Kill)
				<-process.Exited()
				return
			case <-process.Exited():
			}
		}
	})
	stop = sync.OnceFunc(func() {
		close(enough)
		working.Wait()
	})
	DeferCleanup(stop)
	return stop
}

// expectOneProber expects that each node has one connection of the check's user.
func expectOneProber(nodes []*servers.GaleraNode) {
	GinkgoHelper()
	for _, node := range nodes {
		said, err := node.Query("SHOW PROCESSLIST")
		Expect(err).NotTo(HaveOccurred())
		Expect(strings.Count(said, "\tprobe\t")).To(Equal(1), said)
	}
}

var _ = Describe("router in front of a Galera cluster", func() {
	Context("with three nodes under load", Ordered, func() {
		var nodes []*servers.GaleraNode

		node := func(name string) *servers.GaleraNode {
			GinkgoHelper()
			i, err := strconv.Atoi(strings.TrimPrefix(name, "db-"))
			Expect(err).NotTo(HaveOccurred(), "there is no active backend")
			return nodes[i]
		}

		// start starts a router that probes once an interval, and waits until it has
		// an active backend and found all nodes healthy.
		start := func(interval time.Duration) *router {
			GinkgoHelper()
			backends := ""
			for i, node := range nodes {
				backends += fmt.Sprintf("      - {name: db-%d, address: %q}\n", i, node.Addr())
			}
			r := startRouter(write("router.yaml", fmt.Sprintf(`
name: router-1
listeners: [{name: mysql, bind: "127.0.0.1:0", host: db}]
hosts:
  - name: db
    hold: 10s
    check: {type: galera, username: probe, password_file: %q, interval: %s, timeout: 2s, fall: 3, rise: 1}
    backends:
%sapi: {bind: "127.0.0.1:0"}
shutdown: {drain: 0s}
`, write("secret", mariadbSecret), interval, backends)))
			Eventually(r.active).WithTimeout(within).ShouldNot(BeEmpty())
			return r
		}
		awaitAll := func(r *router) {
			GinkgoHelper()
			for i := range nodes {
				Eventually(r.says).WithArguments(fmt.Sprint("db-", i)).WithTimeout(within).Should(Equal("true: Synced, sees 3 nodes"))
			}
		}

		BeforeAll(func() {
			spec.CheckLeaks()
			spec.Need("mariadbd", "mariadb-server")
			spec.Need("mariadb", "mariadb-client")
			spec.Need("rsync", "rsync")
			spec.Need("sysbench", "sysbench")
			if _, err := os.Stat(servers.GaleraLibrary); err != nil {
				spec.Need(servers.GaleraLibrary, "galera-4")
			}
			// In a table the general log has microseconds.
			cluster := &servers.Galera{Init: ledger(), Config: []string{"general_log=ON", "log_output=TABLE"}}
			startMariaDB(cluster)
			nodes = cluster.Nodes()
		})

		It("T38: loses and halves nothing when the active node is killed, and the next, and both come back", func() {
			r := start(200 * time.Millisecond)
			awaitAll(r)
			Expect(spec.StartProcess(sysbench(r, "prepare")).WaitExit(within)).To(BeZero())
			log := newStatements(nodes)
			stopSysbench := keepSysbench(r)
			tellers, stop := startTellers(r.clients, "kill", 3)
			awaitTransfers(tellers, 10)

			// kill kills the active node under a client that waits, and waits until its
			// sessions are cut and another one is active.
			kill := func() (killed string) {
				GinkgoHelper()
				killed = r.active()
				waiting := holdSession(r, node(killed))
				epoch := get(r.api + "/hosts/db")["epoch"].(float64)
				node(killed).Kill()
				Expect(waiting.WaitExit(within)).NotTo(BeZero(), "its session is cut")
				Eventually(r.severed).WithArguments(epoch + 1).WithTimeout(within).Should(BeNumerically(">=", 0))
				log.read()
				return killed
			}
			By("killing the active node, and starting it again")
			killed := kill()
			awaitTransfers(tellers, 10)
			for i := range nodes {
				if name := fmt.Sprint("db-", i); name != killed {
					Eventually(r.says).WithArguments(name).WithTimeout(within).Should(Equal("true: Synced, sees 2 nodes"))
				}
			}
			Expect(node(killed).Start()).To(Succeed())
			awaitAll(r)
			awaitTransfers(tellers, 10)

			By("killing the active node, and the next, which leaves one that may not serve, and starting both again")
			dead := []string{kill()}
			awaitTransfers(tellers, 10)
			dead = append(dead, kill())
			Eventually(r.active).WithTimeout(within).Should(BeEmpty())
			var starting sync.WaitGroup
			errors := make([]error, len(dead))
			for i, name := range dead {
				starting.Go(func() { errors[i] = node(name).Start() })
			}
			starting.Wait()
			Expect(errors).To(HaveEach(BeNil()))
			awaitAll(r)
			awaitTransfers(tellers, 10)

			By("counting what is there")
			stop()
			stopSysbench()
			cuts := 0
			for _, t := range tellers {
				cuts += t.cut
			}
			Expect(cuts).To(BeNumerically(">=", 3), "transactions were cut")
			expectWhole(nodes, tellers)
			var sums []string
			for _, node := range nodes {
				sum, err := node.Query("SET SESSION wsrep_sync_wait = 1; CHECKSUM TABLE sbtest.sbtest1")
				Expect(err).NotTo(HaveOccurred())
				sums = append(sums, sum)
			}
			Expect(sums).To(HaveEach(sums[0]))

			By("reading from the nodes' own logs that no two were written to at the same time")
			for _, users := range [][]string{{"app", "sbtest"}, {"app"}, {"sbtest"}} {
				Expect(log.terms(users...)).To(Equal(r.served()), "written to by %s", users)
			}
			expectOneProber(nodes)
		})

		// leave has the active node say something of itself, under load, and expects
		// that the router leaves it with the next probe, and that nothing is lost.
		leave := func(kind, reason string, say, unsay func(active *servers.GaleraNode)) {
			GinkgoHelper()
			r := start(time.Second)
			awaitAll(r)
			log := newStatements(nodes)
			tellers, stop := startTellers(r.clients, kind, 2)
			awaitTransfers(tellers, 10)
			name := r.active()
			waiting := holdSession(r, node(name))
			before := r.reigns()
			say(node(name))
			said := time.Now()
			Expect(waiting.WaitExit(within)).NotTo(BeZero(), "its session is cut")
			Eventually(func() int { return len(r.reigns()) }).WithTimeout(within).Should(Equal(len(before) + 1))
			after := r.reigns()[len(before)]
			Expect(after.backend).NotTo(Or(BeEmpty(), Equal(name)))
			Expect(after.reason).To(MatchRegexp(reason))
			Expect(len(log.probes(name, said, after.since))).To(BeNumerically("<=", 1), "it took more than the next probe")
			Expect(log.probes(name, time.Time{}, after.since)).NotTo(BeEmpty())
			Eventually(r.severed).WithArguments(after.epoch).WithTimeout(within).Should(BeNumerically(">=", 1))
			awaitTransfers(tellers, 10)
			stop()
			Expect(log.terms("app")).To(Equal(r.served()))
			Expect(r.served()).To(Equal([]string{name, after.backend}))
			unsay(node(name))
			awaitAll(r)
			expectWhole(nodes, tellers)
			expectOneProber(nodes)
		}
		ask := func(node *servers.GaleraNode, sql string) string {
			GinkgoHelper()
			said, err := node.Query(sql)
			Expect(err).NotTo(HaveOccurred())
			return said
		}

		It("leaves a desynced node with the next probe", func() {
			leave("desync", `wsrep_local_state is 2 \(Donor/Desynced\)`, func(active *servers.GaleraNode) {
				ask(active, "SET GLOBAL wsrep_desync=ON")
			}, func(left *servers.GaleraNode) {
				ask(left, "SET GLOBAL wsrep_desync=OFF")
			})
		})

		It("leaves a node that is set read-only with the next probe", func() {
			// The server desyncs the node while it sets it.
			leave("readonly", `read_only is on|wsrep_local_state is 2`, func(active *servers.GaleraNode) {
				ask(active, "SET GLOBAL read_only=ON")
			}, func(left *servers.GaleraNode) {
				ask(left, "SET GLOBAL read_only=OFF")
			})
		})

		It("leaves a node that is cut off from the others with the next probe", func() {
			leave("cutoff", `wsrep_cluster_status is non-Primary, sees 1 nodes`, func(active *servers.GaleraNode) {
				ask(active, "SET GLOBAL wsrep_provider_options='gmcast.isolate=1'")
				Eventually(active.Query).WithArguments("SHOW STATUS LIKE 'wsrep_cluster_status'").WithTimeout(within).Should(HaveSuffix("\tnon-Primary"))
			}, func(left *servers.GaleraNode) {
				ask(left, "SET GLOBAL wsrep_provider_options='gmcast.isolate=0'")
			})
		})

		// It is the last: the two halves have different pasts then.
		It("leaves a node that is cut off and goes on as a cluster of its own", func() {
			r := start(time.Second)
			awaitAll(r)
			log := newStatements(nodes)
			name := r.active()
			waiting := holdSession(r, node(name))
			var other *servers.GaleraNode
			for i := range nodes {
				if nodes[i] != node(name) {
					other = nodes[i]
				}
			}
			size := func(node *servers.GaleraNode) string {
				return ask(node, "SHOW STATUS LIKE 'wsrep_cluster_size'")
			}
			ask(node(name), "SET GLOBAL wsrep_provider_options='pc.ignore_quorum=1;gmcast.isolate=1'")
			Eventually(size).WithArguments(other).WithTimeout(within).Should(HaveSuffix("\t2"))
			Eventually(size).WithArguments(node(name)).WithTimeout(within).Should(HaveSuffix("\t1"))
			split := time.Now()
			Expect(ask(node(name), "SHOW STATUS LIKE 'wsrep_cluster_status'")).To(HaveSuffix("\tPrimary"))
			Expect(waiting.WaitExit(within)).NotTo(BeZero(), "its session is cut")
			Eventually(func() int { return len(r.reigns()) }).WithTimeout(within).Should(Equal(2))
			after := r.reigns()[1]
			Expect(after.backend).NotTo(Or(BeEmpty(), Equal(name)))
			Expect(after.reason).To(ContainSubstring("unhealthy: " + name + ": "))
			Expect(after.reason).To(MatchRegexp(`sees 1 of 2 nodes; db-\d sees 2|has view \d+ of the cluster; db-\d has \d+, with 2 nodes`))

			// A peer's probe tells of the better view, and the node's next one finds that
			// its own is worse. That one asks twice, and one more may have been under way
			// beside the peer's.
			heard := after.since
			for i := range nodes {
				if nodes[i] == node(name) {
					continue
				}
				if probes := log.probes(fmt.Sprint("db-", i), split, heard); len(probes) > 0 {
					heard = probes[0]
				}
			}
			Expect(len(log.probes(name, heard, after.since))).To(BeNumerically("<=", 3), "it took more than the next probe")
			Expect(log.probes(name, time.Time{}, after.since)).NotTo(BeEmpty())
			transfer, err := mariadb(r.clients, "INSERT INTO transfer VALUES ('after', 0, 0); SELECT @@wsrep_node_name")
			Expect(err).NotTo(HaveOccurred())
			Expect(transfer).To(Equal(after.backend))
			expectOneProber(nodes)
		})
	})
})
