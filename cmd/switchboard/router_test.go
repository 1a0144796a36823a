package main_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"

	"switchboard/fixtures/child"
	"switchboard/fixtures/spec"
)

var _ = Describe("switchboard router", func() {
	BeforeEach(spec.CheckLeaks)

	var first, second *spec.Backend
	BeforeEach(func() {
		first, second = spec.StartBackend(spec.Named("db-0")), spec.StartBackend(spec.Named("db-1"))
	})

	// configured is a configuration with both backends, and more keys.
	configured := func(more ...string) string {
		GinkgoHelper()
		return write("router.yaml", fmt.Sprintf(`
name: router-1
listeners: [{name: db, bind: '127.0.0.1:0', host: db.main}]
hosts:
  - name: db.main
    check: {type: tcp, interval: 50ms, timeout: 5s}
    backends: [{name: db-0, address: '%s'}, {name: db-1, address: '%s'}]
api: {bind: '127.0.0.1:0'}
%s
`, first.Addr(), second.Addr(), strings.Join(more, "\n")))
	}

	Context("when all is well", func() {
		It("says what it is, routes, keeps an access log, and exits 0 on SIGTERM", func() {
			access := filepath.Join(GinkgoT().TempDir(), "access.log")
			Expect(os.WriteFile(access, []byte("{\"id\":\"of an earlier run\"}\n"), 0o640)).To(Succeed())
			r := startRouter(configured("log: {access: '" + access + "'}"))
			starting := r.entry("starting")
			Expect(starting).To(HaveKeyWithValue("router", "router-1"))
			Expect(starting).To(HaveKeyWithValue("version", Not(BeEmpty())))
			Expect(starting).To(HaveKeyWithValue("listeners", ConsistOf("db 127.0.0.1:0")))
			Expect(starting).To(HaveKeyWithValue("state", ""))

			r.awaitReady()
			conn, greeting := connect(r.clients)
			Expect(greeting).To(Equal("db-0"))
			spec.SayHello(conn)
			Expect(conn.Close()).To(Succeed())

			r.Signal(syscall.SIGTERM)
			Expect(r.WaitExit(within)).To(Equal(0))
			Expect(r.entries()[len(r.entries())-1]).To(HaveKeyWithValue("msg", "stopped"))
			var backends []any
			for _, line := range lines(access) {
				var record map[string]any
				Expect(json.Unmarshal([]byte(line), &record)).To(Succeed())
				backends = append(backends, record["backend"])
			}
			// Clients that came before the first election are in it too.
			Expect(backends[0]).To(BeNil(), "the old lines are kept")
			Expect(backends[len(backends)-1]).To(Equal("db-0"))
		})

		It("makes an access log that others cannot read, or writes to stdout", func() {
			access := filepath.Join(GinkgoT().TempDir(), "access.log")
			r := startRouter(configured("log: {access: '" + access + "'}"))
			info, err := os.Stat(access)
			Expect(err).NotTo(HaveOccurred())
			Expect(info.Mode().Perm() &^ 0o640).To(BeZero())
			r.Signal(syscall.SIGTERM)
			Expect(r.WaitExit(within)).To(Equal(0))

			r = startRouter(configured("log: {access: '-'}"))
			conn, _ := connect(r.clients)
			Expect(conn.Close()).To(Succeed())
			Eventually(func() string { return string(r.Stdout.Contents()) }).WithTimeout(within).Should(ContainSubstring(`"backend":"db-0"`))
		})

		It("logs as text, warnings too, and with the level of a flag", func() {
			config := configured("log: {format: text, level: debug}")
			spare := "  - {name: spare, backends: [{name: a, address: '127.0.0.1:1'}]}\napi:"
			text, err := os.ReadFile(config)
			Expect(err).NotTo(HaveOccurred())
			config = write("router.yaml", strings.Replace(string(text), "api:", spare, 1))
			command := routerCommand(config)
			command.Args = append(command.Args, "--log-level", "warn")
			r := spec.StartProcess(command)
			logged := func() string { return string(r.Stderr.Contents()) }
			Eventually(logged).WithTimeout(within).Should(MatchRegexp(`(?m)^time=\S+ level=WARN msg=configuration warning=".*hosts\[1\]: no listener names this host`))
			r.Signal(syscall.SIGTERM)
			Expect(r.WaitExit(within)).To(Equal(0))
			Expect(logged()).NotTo(ContainSubstring("level=INFO"))
		})

		It("goes on when nobody reads its log any more", func() {
			reader, writer, err := os.Pipe()
			Expect(err).NotTo(HaveOccurred())
			command := routerCommand(configured())
			command.Stderr = writer
			process, err := child.Start(command)
			Expect(err).NotTo(HaveOccurred())
			DeferCleanup(func() {
				process.Signal(os.Kill)
				Eventually(process.Exited()).WithTimeout(within).Should(BeClosed())
			})
			Expect(writer.Close()).To(Succeed())
			var clients, api string
			for log := bufio.NewScanner(reader); api == "" && log.Scan(); {
				var entry map[string]any
				Expect(json.Unmarshal(log.Bytes(), &entry)).To(Succeed())
				switch entry["msg"] {
				case "listening":
					clients = entry["address"].(string)
				case "started":
					api = "http://" + entry["api"].(string)
				}
			}
			Expect(reader.Close()).To(Succeed())

			patch(api+"/hosts/db.main", `{"pin":"db-1","message":"the log is written to"}`)
			conn, greeting := connect(clients)
			Expect(greeting).To(Equal("db-1"))
			Expect(conn.Close()).To(Succeed())
			process.Signal(syscall.SIGTERM)
			Eventually(process.Exited()).WithTimeout(within).Should(BeClosed())
			Expect(process.ExitCode()).To(Equal(0))
		})
	})

	Context("when it is told to stop", func() {
		It("turns not ready, lets sessions end, refuses new ones, and exits 0 (L1)", func() {
			r := startRouter(configured("shutdown: {drain: 1h}"))
			conn, _ := connect(r.clients)
			r.awaitReady()
			r.Signal(syscall.SIGTERM)
			Eventually(status).WithArguments(r.api + "/readyz").WithTimeout(within).Should(Equal(http.StatusServiceUnavailable))
			Eventually(func() error {
				c, err := net.Dial("tcp", r.clients)
				if err == nil {
					c.Close()
				}
				return err
			}).WithTimeout(within).Should(MatchError(syscall.ECONNREFUSED))
			spec.SayHello(conn)
			Expect(r.Exited()).NotTo(BeClosed())
			Expect(status(r.api + "/healthz")).To(Equal(http.StatusOK))

			Expect(conn.Close()).To(Succeed())
			Expect(r.WaitExit(within)).To(Equal(0))
		})

		It("severs what is left when the drain is over (L1)", func() {
			r := startRouter(configured("shutdown: {drain: 300ms}"))
			conn, _ := connect(r.clients)
			r.Signal(syscall.SIGTERM)
			spec.ExpectReset(conn)
			Expect(r.WaitExit(within)).To(Equal(0))
		})

		It("accepts on, not ready, for the delay (L1)", func() {
			r := startRouter(configured("shutdown: {delay: 1h}"))
			r.awaitReady()
			r.Signal(syscall.SIGTERM)
			Eventually(status).WithArguments(r.api + "/readyz").WithTimeout(within).Should(Equal(http.StatusServiceUnavailable))
			_, greeting := connect(r.clients)
			Expect(greeting).To(Equal("db-0"))
			r.Signal(syscall.SIGTERM)
			Expect(r.WaitExit(within)).To(Equal(0))
		})

		DescribeTable("ends now on a second signal (L2)", func(one, two os.Signal) {
			r := startRouter(configured("shutdown: {drain: 1h}"))
			conn, _ := connect(r.clients)
			r.Signal(one)
			Eventually(r.entry).WithArguments("stopping").WithTimeout(within).ShouldNot(BeNil())
			r.Signal(two)
			spec.ExpectReset(conn)
			Expect(r.WaitExit(within)).To(Equal(0))
		},
			Entry("SIGTERM twice", syscall.SIGTERM, syscall.SIGTERM),
			Entry("SIGINT twice", syscall.SIGINT, syscall.SIGINT),
			Entry("SIGINT, then SIGTERM", syscall.SIGINT, syscall.SIGTERM),
		)
	})

	Context("when it was killed", func() {
		It("starts again with switch, pin and epoch as they were (L3)", func() {
			config := configured("state: " + filepath.Join(GinkgoT().TempDir(), "state"))
			r := startRouter(config)
			conn, _ := connect(r.clients)
			patch(r.api+"/hosts/db.main", `{"pin":"db-1","message":"db-0 is being repaired"}`)
			spec.ExpectReset(conn)
			conn, greeting := connect(r.clients)
			Expect(greeting).To(Equal("db-1"))
			patch(r.api+"/traffic", `{"trafficEnabled":false,"message":"moving"}`)
			spec.ExpectReset(conn)
			before := get(r.api + "/hosts/db.main")
			Expect(before["epoch"]).To(BeNumerically(">=", 2))
			r.Kill()
			Expect(r.WaitExit(within)).To(Equal(-1))

			r = startRouter(config)
			Expect(get(r.api + "/traffic")).To(And(HaveKeyWithValue("trafficEnabled", false), HaveKeyWithValue("message", "moving")))
			Eventually(get).WithArguments(r.api + "/hosts/db.main").WithTimeout(within).Should(HaveKeyWithValue("active", HaveKeyWithValue("name", "db-1")))
			after := get(r.api + "/hosts/db.main")
			Expect(after["pin"]).To(Equal("db-1"))
			Expect(after["epoch"]).To(BeNumerically(">", before["epoch"]))
			spec.ExpectReset(spec.DialFront(r.clients))
			Expect(status(r.api + "/readyz")).To(Equal(http.StatusServiceUnavailable))

			patch(r.api+"/traffic", `{"trafficEnabled":true,"message":"moved"}`)
			_, greeting = connect(r.clients)
			Expect(greeting).To(Equal("db-1"))
		})

		It("goes on from the exact epoch after a clean stop", func() {
			config := configured("state: " + filepath.Join(GinkgoT().TempDir(), "state"))
			r := startRouter(config)
			conn, _ := connect(r.clients)
			Expect(conn.Close()).To(Succeed())
			Expect(get(r.api + "/hosts/db.main")["epoch"]).To(BeEquivalentTo(1))
			r.Signal(syscall.SIGINT)
			Expect(r.WaitExit(within)).To(Equal(0))
			r = startRouter(config)
			connect(r.clients)
			Expect(get(r.api + "/hosts/db.main")["epoch"]).To(BeEquivalentTo(2))
		})
	})

	Context("when it cannot run", func() {
		It("exits 2 with all errors and nothing else", func() {
			path := write("router.yaml", good+"nmae: x\nheatlh: {}\n")
			r := spec.StartProcess(routerCommand(path))
			Expect(r.WaitExit(within)).To(Equal(2))
			Expect(string(r.Stderr.Contents())).To(Equal(
				path + ":3:1: nmae: unknown key \"nmae\": did you mean \"name\"?\n" +
					path + ":4:1: heatlh: unknown key \"heatlh\": did you mean \"health\"?\n"))
			Expect(r.Stdout.Contents()).To(BeEmpty())
		})

		It("exits 1 when a port is in use", func() {
			taken := spec.StartBackend(spec.Echo).Addr()
			config, err := os.ReadFile(configured())
			Expect(err).NotTo(HaveOccurred())
			code, cause := failing(write("router.yaml", strings.Replace(string(config), "bind: '127.0.0.1:0', host", "bind: '"+taken+"', host", 1)))
			Expect(code).To(Equal(1))
			Expect(cause).To(Equal(`member "listener db" ended before it was ready: listener "db": listening on ` + taken +
				": address already in use: another process has this port; stop it or choose another"))
		})

		It("exits 1 when the API's port is in use", func() {
			taken := spec.StartBackend(spec.Echo).Addr()
			config, err := os.ReadFile(configured())
			Expect(err).NotTo(HaveOccurred())
			code, cause := failing(write("router.yaml", strings.Replace(string(config), "api: {bind: '127.0.0.1:0'}", "api: {bind: '"+taken+"'}", 1)))
			Expect(code).To(Equal(1))
			Expect(cause).To(And(HavePrefix(`member "api" ended before it was ready: `), ContainSubstring(taken), ContainSubstring("address already in use")))
		})

		It("exits 1 when the access log cannot be opened", func() {
			code, cause := failing(configured("log: {access: /no/such/directory/access.log}"))
			Expect(code).To(Equal(1))
			Expect(cause).To(Equal("opening the access log: open /no/such/directory/access.log: no such file or directory"))
		})

		It("exits 1 when the stored traffic switch is corrupt", func() {
			dir := GinkgoT().TempDir()
			Expect(os.WriteFile(filepath.Join(dir, "traffic.json"), []byte(`{"version":1,"router":{"trafficEnab`), 0o600)).To(Succeed())
			code, cause := failing(configured("state: " + dir))
			Expect(code).To(Equal(1))
			Expect(cause).To(And(ContainSubstring(filepath.Join(dir, "traffic.json")), HaveSuffix("repair the file, or delete it, which turns all traffic on")))
		})

		It("exits 1 when another router has the state directory", func() {
			dir := filepath.Join(GinkgoT().TempDir(), "state")
			startRouter(configured("state: " + dir))
			code, cause := failing(configured("state: " + dir))
			Expect(code).To(Equal(1))
			Expect(cause).To(Equal("state directory " + dir + " is in use by another process"))
		})

		It("exits 1 when the state directory is read-only (L10)", func() {
			dir := GinkgoT().TempDir()
			Expect(os.Chmod(dir, 0o555)).To(Succeed())
			var before []string
			if os.Geteuid() == 0 {
				// Root may write anywhere, until it gives up the capability.
				before = []string{"setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"}
			}
			code, cause := failing(configured("state: "+dir), before...)
			Expect(code).To(Equal(1))
			Expect(cause).To(Equal("opening state directory " + dir + ": permission denied: the process must be able to write there"))
		})

		It("exits 1 when it may open hardly any files (L10)", func() {
			code, cause := failing(configured(), limited(40)...)
			Expect(code).To(Equal(1))
			Expect(cause).To(Equal("only 40 files may be open, and 66 are needed before the first session; raise RLIMIT_NOFILE (ulimit -n)"))
		})
	})

	Context("when more clients come than it may open files for", func() {
		It("turns the rest away, and neither spins nor floods its log (T21, T22)", func() {
			const clients, room = 80, (200 - 64) / 2
			r := startRouter(configured(), limited(200)...)
			connect(r.clients)
			r.awaitReady()
			// One is in already.
			for range clients - 1 {
				spec.DialFront(r.clients)
			}
			sessions := func() any { return get(r.api + "/cluster")["currentSessionCount"] }
			Eventually(sessions).WithTimeout(within).Should(BeEquivalentTo(room))
			Eventually(r.entry).WithArguments("too many sessions, refusing clients").WithTimeout(within).Should(HaveKeyWithValue("limit", BeEquivalentTo(room)))

			refusals := strings.Count(string(r.Stderr.Contents()), "too many sessions")
			Expect(refusals).To(BeNumerically("<=", 2), "the log is flooded")
			logged, used, began := len(r.entries()), cpu(r.PID()), time.Now()
			Consistently(sessions).WithTimeout(time.Second).WithPolling(100 * time.Millisecond).Should(BeEquivalentTo(room))
			Expect(cpu(r.PID())-used).To(BeNumerically("<", time.Since(began)/4), "the router spins")
			Expect(len(r.entries())-logged).To(BeNumerically("<=", 2), "the log is flooded")
			Expect(fds(r.PID())).To(BeNumerically("<", 200))
		})

		It("waits without spinning when there is no descriptor left, and goes on when there is (T21)", func() {
			config, err := os.ReadFile(configured())
			Expect(err).NotTo(HaveOccurred())
			// Probes would need descriptors too.
			r := startRouter(write("router.yaml", strings.Replace(string(config), "check:", "#", 1)))
			conn, _ := connect(r.clients)
			var files unix.Rlimit
			Expect(unix.Prlimit(r.PID(), unix.RLIMIT_NOFILE, nil, &files)).To(Succeed())
			Expect(unix.Prlimit(r.PID(), unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: files.Max}, nil)).To(Succeed())
			waiting := spec.DialFront(r.clients)
			Eventually(r.entry).WithArguments("cannot accept").WithTimeout(within).ShouldNot(BeNil())

			used, began := cpu(r.PID()), time.Now()
			Consistently(r.Exited()).WithTimeout(time.Second).ShouldNot(BeClosed())
			Expect(cpu(r.PID())-used).To(BeNumerically("<", time.Since(began)/4), "the router spins")
			Expect(strings.Count(string(r.Stderr.Contents()), "cannot accept")).To(BeNumerically("<=", 2), "the log is flooded")

			spec.SayHello(conn)

			Expect(unix.Prlimit(r.PID(), unix.RLIMIT_NOFILE, &files, nil)).To(Succeed())
			Expect(waiting.SetReadDeadline(time.Now().Add(within))).To(Succeed())
			greeting := make([]byte, len("db-0"))
			_, err = io.ReadFull(waiting, greeting)
			Expect(err).NotTo(HaveOccurred())
			Expect(string(greeting)).To(Equal("db-0"))
		})
	})
})

// limited is what stands before a command that may open n files only.
func limited(n int) []string {
	return []string{"sh", "-c", fmt.Sprintf(`ulimit -n %d; exec "$@"`, n), "sh"}
}

// cpu is the time that a process has computed for.
func cpu(pid int) time.Duration {
	GinkgoHelper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	Expect(err).NotTo(HaveOccurred())
	// The name, in parentheses, may hold anything; user and system time are the 12th
	// and 13th fields after it, in hundredths of a second (USER_HZ).
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	var ticks int
	for _, field := range fields[11:13] {
		n, err := strconv.Atoi(field)
		Expect(err).NotTo(HaveOccurred())
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// fds counts the descriptors of a process.
func fds(pid int) int {
	GinkgoHelper()
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	Expect(err).NotTo(HaveOccurred())
	return len(open)
}

// lines are those of a file.
func lines(path string) []string {
	GinkgoHelper()
	text, err := os.ReadFile(path)
	Expect(err).NotTo(HaveOccurred())
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}
