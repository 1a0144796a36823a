package main_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/fixtures/servers"
	"switchboard/fixtures/spec"
)

const mariadbSecret = "correct-horse"

// mariadbUsers are the check's user, who has no right at all, and the client's.
func mariadbUsers() []string {
	return []string{
		"CREATE USER IF NOT EXISTS probe@'%' IDENTIFIED BY '" + mariadbSecret + "'",
		"CREATE USER IF NOT EXISTS app@'%' IDENTIFIED BY 'app'",
		"GRANT ALL ON shop.* TO app@'%'",
		"CREATE DATABASE IF NOT EXISTS shop",
	}
}

// startMariaDB runs a real server, or a cluster of them, until the spec ends.
func startMariaDB(server interface {
	Run(signals <-chan os.Signal, ready chan<- struct{}) error
}) {
	GinkgoHelper()
	signals, ready, ended := make(chan os.Signal, 2), make(chan struct{}), make(chan error, 1)
	go func() { ended <- server.Run(signals, ready) }()
	select {
	case <-ready:
	case err := <-ended:
		Fail(fmt.Sprint("it ended before it was ready: ", err))
	case <-time.After(6 * within):
		signals <- syscall.SIGTERM
		Fail("it is not ready")
	}
	DeferCleanup(func() {
		signals <- syscall.SIGTERM
		Eventually(ended).WithTimeout(3 * within).Should(Receive())
	})
}

// mariadb asks whoever is behind addr, as a client.
func mariadb(addr, sql string) (string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", err
	}
	command := exec.Command("mariadb", "--no-defaults", "-h", host, "-P", port, "-u", "app", "--password=app", "--protocol=tcp",
		"--connect-timeout=2", "-N", "-B", "-e", sql, "shop")
	command.Env = environment()
	text, err := command.Output()
	return strings.TrimSpace(string(text)), err
}

// startMariaDBRouter starts a router in front of addresses, with a check of that
// type.
func startMariaDBRouter(check string, addresses ...string) *router {
	GinkgoHelper()
	backends := ""
	for i, address := range addresses {
		backends += fmt.Sprintf("      - {name: db-%d, address: %q}\n", i, address)
	}
	r := startRouter(write("router.yaml", fmt.Sprintf(`
name: router-1
listeners: [{name: mysql, bind: "127.0.0.1:0", host: db}]
hosts:
  - name: db
    check: {type: %s, username: probe, password_file: %q, interval: 100ms, timeout: 500ms}
    backends:
%sapi: {bind: "127.0.0.1:0"}
shutdown: {drain: 0s}
`, check, write("secret", mariadbSecret), backends)))
	return r
}

// active is the name of the router's active backend, "" if there is none.
func (r *router) active() string {
	GinkgoHelper()
	if a, ok := get(r.api + "/hosts/db")["active"].(map[string]any); ok {
		return a["name"].(string)
	}
	return ""
}

// says is whether a backend is healthy, and what its check said last.
func (r *router) says(name string) string {
	GinkgoHelper()
	for _, b := range get(r.api + "/hosts/db")["backends"].([]any) {
		if backend := b.(map[string]any); backend["name"] == name {
			return fmt.Sprint(backend["healthy"], ": ", backend["check"].(map[string]any)["detail"])
		}
	}
	return ""
}

var _ = Describe("router in front of MariaDB", func() {
	BeforeEach(func() {
		spec.CheckLeaks()
		spec.Need("mariadbd", "mariadb-server")
		spec.Need("mariadb", "mariadb-client")
	})

	It("follows read_only: a switch-over, a crash, a freeze", func() {
		first := &servers.MariaDB{Dir: GinkgoT().TempDir(), Init: mariadbUsers()}
		second := &servers.MariaDB{Init: mariadbUsers(), Config: []string{"read_only=ON"}}
		startMariaDB(first)
		startMariaDB(second)
		r := startMariaDBRouter("mysql", first.Addr(), second.Addr())
		Eventually(r.active).WithTimeout(within).Should(Equal("db-0"))
		Eventually(r.says).WithArguments("db-1").WithTimeout(within).Should(Equal("false: read_only is on"))
		Expect(mariadb(r.clients, "SELECT @@port")).To(Equal(strconv.Itoa(portOf(first.Addr()))))
		Expect(first.Query("SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'probe'")).To(Equal("1"))

		By("switching over, with a client that waits")
		host, port, err := net.SplitHostPort(r.clients)
		Expect(err).NotTo(HaveOccurred())
		waiting := exec.Command("mariadb", "--no-defaults", "-h", host, "-P", port, "-u", "app", "--password=app", "--protocol=tcp", "-e", "SELECT SLEEP(600)")
		waiting.Env = environment()
		client := spec.StartProcess(waiting)
		Eventually(first.Query).WithArguments("SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'app'").WithTimeout(within).Should(Equal("1"))
		_, err = first.Query("SET GLOBAL read_only=ON")
		Expect(err).NotTo(HaveOccurred())
		Expect(client.WaitExit(within)).NotTo(BeZero(), "its session is cut")
		Eventually(r.active).WithTimeout(within).Should(BeEmpty())
		_, err = second.Query("SET GLOBAL read_only=OFF")
		Expect(err).NotTo(HaveOccurred())
		Eventually(r.active).WithTimeout(within).Should(Equal("db-1"))
		Expect(mariadb(r.clients, "SELECT @@port")).To(Equal(strconv.Itoa(portOf(second.Addr()))))

		By("freezing the one that is active, with the other to take over")
		_, err = first.Query("SET GLOBAL read_only=OFF")
		Expect(err).NotTo(HaveOccurred())
		Eventually(r.says).WithArguments("db-0").WithTimeout(within).Should(Equal("true: read_only is off"))
		second.Pause()
		Eventually(r.active).WithTimeout(within).Should(Equal("db-0"))
		second.Continue()
		Eventually(r.says).WithArguments("db-1").WithTimeout(within).Should(Equal("true: read_only is off"))
		Expect(r.active()).To(Equal("db-0"), "a choice sticks")

		By("killing the one that is active, without any traffic")
		first.Kill()
		Eventually(r.active).WithTimeout(within).Should(Equal("db-1"))
		Eventually(r.says).WithArguments("db-0").WithTimeout(within).Should(Equal("false: connection refused"))
		Expect(second.Query("SHOW GLOBAL STATUS LIKE 'Aborted_connects'")).To(Equal("Aborted_connects\t0"))
	})
})
