package redis_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/bridge/route"
	"switchboard/monitor/check"
)

func TestRedis(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "Redis Check Suite")
}

func aim(address string) check.Target {
	return check.Target{
		Host:    "cache.main",
		Backend: route.Backend{Name: "cache-0", Address: address},
		Address: address,
		Own:     true,
		Dial:    new(net.Dialer).DialContext,
	}
}

// startRedis starts a redis-server with options on a free port, waits until it
// accepts, and returns its address and what kills it. The spec is skipped if
// there is no redis-server.
func startRedis(options ...string) (address string, kill func()) {
	GinkgoHelper()
	program, err := exec.LookPath("redis-server")
	if err != nil {
		Skip("redis-server is not installed")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	Expect(err).NotTo(HaveOccurred())
	address = listener.Addr().String()
	Expect(listener.Close()).To(Succeed())
	return address, startRedisAt(program, address, options...)
}

func startRedisAt(program, address string, options ...string) (kill func()) {
	GinkgoHelper()
	_, port, err := net.SplitHostPort(address)
	Expect(err).NotTo(HaveOccurred())
	server := exec.Command(program, append([]string{
		"--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", GinkgoT().TempDir(),
	}, options...)...)
	server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	Expect(server.Start()).To(Succeed())
	killed := false
	kill = func() {
		if killed {
			return
		}
		killed = true
		Expect(server.Process.Kill()).To(Succeed())
		_ = server.Wait()
	}
	DeferCleanup(kill)
	Eventually(func() error {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
		}
		return err
	}).WithTimeout(5 * time.Second).Should(Succeed())
	return kill
}

// fakeRedis answers every command on every connection with answer, as it
// stands, and returns its address and how many connections it has taken.
func fakeRedis(answer func(command string) string) (address string, connections func() int) {
	GinkgoHelper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	Expect(err).NotTo(HaveOccurred())
	taken := make(chan struct{}, 1000)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			taken <- struct{}{}
			talk(conn, answer)
			conn.Close()
		}
	}()
	DeferCleanup(func() {
		Expect(listener.Close()).To(Succeed())
		Eventually(stopped).Should(BeClosed())
	})
	return listener.Addr().String(), func() int { return len(taken) }
}

// talk reads commands, which are RESP arrays, and answers them.
func talk(conn net.Conn, answer func(command string) string) {
	reader := bufio.NewReader(conn)
	for {
		var words, length int
		if _, err := fmt.Fscanf(reader, "*%d\r\n", &words); err != nil {
			return
		}
		var command []string
		for range words {
			if _, err := fmt.Fscanf(reader, "$%d\r\n", &length); err != nil {
				return
			}
			word := make([]byte, length+2)
			if _, err := io.ReadFull(reader, word); err != nil {
				return
			}
			command = append(command, string(word[:length]))
		}
		said := answer(strings.Join(command, " "))
		if said == "" {
			return
		}
		if _, err := io.WriteString(conn, said); err != nil {
			return
		}
	}
}

// unknown is what a server that is older than RESP3 answers to HELLO.
const unknown = "-ERR unknown command\r\n"

// answerRole answers ROLE, and knows no other command.
func answerRole(answer string) func(command string) string {
	return func(command string) string {
		if command == "ROLE" {
			return answer
		}
		return unknown
	}
}

// ask probes once within a second.
func ask(checker check.Checker) check.Result {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return checker.Check(ctx)
}

// program is where redis-server is.
func program() string {
	GinkgoHelper()
	path, err := exec.LookPath("redis-server")
	Expect(err).NotTo(HaveOccurred())
	return path
}

func secretFile(text string) string {
	GinkgoHelper()
	file := GinkgoT().TempDir() + "/users.acl"
	Expect(os.WriteFile(file, []byte(text), 0o600)).To(Succeed())
	return file
}
