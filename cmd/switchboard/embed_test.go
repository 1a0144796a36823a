package main_test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/fixtures/spec"
)

// embedding is the program of another module that embeds a router.
const embedding = "../../fixtures/embed/main.go.txt"

var _ = Describe("A program of another module", func() {
	BeforeEach(spec.CheckLeaks)

	// tool runs the go command in a directory, without the network.
	tool := func(dir string, args ...string) string {
		GinkgoHelper()
		command := exec.Command("go", args...)
		command.Dir = dir
		command.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOPROXY=off", "GOWORK=off")
		out, err := command.CombinedOutput()
		Expect(err).NotTo(HaveOccurred(), string(out))
		return string(out)
	}

	It("embeds a router, and links no more than it names", func() {
		source, err := os.ReadFile(embedding)
		Expect(err).NotTo(HaveOccurred())
		root, err := filepath.Abs("../..")
		Expect(err).NotTo(HaveOccurred())
		health := spec.StartHealth()
		down, up := spec.RefusedAddr(), spec.StartBackend(spec.Named("db-1"))
		replaced := string(source)
		for _, r := range [][2]string{
			{"127.0.0.1:3306", "127.0.0.1:0"}, {"127.0.0.1:9090", "127.0.0.1:0"}, {"Port: 9200", "Port: " + strconv.Itoa(health.Port())},
			{"10.0.0.1:3306", down}, {"10.0.0.2:3306", up.Addr()},
		} {
			Expect(strings.Count(replaced, r[0])).To(Equal(1), r[0])
			replaced = strings.Replace(replaced, r[0], r[1], 1)
		}

		By("building it")
		dir := GinkgoT().TempDir()
		ours, err := os.ReadFile(filepath.Join(root, "go.mod"))
		Expect(err).NotTo(HaveOccurred())
		sums, err := os.ReadFile(filepath.Join(root, "go.sum"))
		Expect(err).NotTo(HaveOccurred())
		module := regexp.MustCompile(`(?m)^module .*$`).ReplaceAllString(string(ours), "module example.com/embedding") +
			"\nrequire switchboard v0.0.0\n\nreplace switchboard => " + root + "\n"
		for name, text := range map[string]string{"main.go": replaced, "go.mod": module, "go.sum": string(sums)} {
			Expect(os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600)).To(Succeed())
		}
		tool(dir, "build", "-o", "embedding", ".")

		By("looking at what it links")
		linked := strings.Fields(tool(dir, "list", "-deps", "."))
		Expect(linked).To(ContainElement("switchboard/runner"))
		for _, banned := range []string{
			"github.com/prometheus/", "github.com/redis/", "github.com/spf13/", "github.com/goccy/", "github.com/onsi/", "github.com/tedsuo/",
			"switchboard/runner/config", "switchboard/fixtures", "testing",
		} {
			Expect(linked).NotTo(ContainElement(HavePrefix(banned)))
		}

		By("running it")
		p := spec.StartProcess(exec.Command(filepath.Join(dir, "embedding")))
		logged := func() string { return string(p.Stderr.Contents()) }
		listening := regexp.MustCompile(`listening listener=mysql address=(\S+)`)
		Eventually(logged).WithTimeout(within).Should(MatchRegexp(listening.String()))
		clients := listening.FindStringSubmatch(logged())[1]
		// The first backend is healthy, says its endpoint, but nobody is there: the
		// data path finds out.
		Eventually(spec.Ask).WithArguments(clients).WithTimeout(within).Should(Equal("db-1"))
		p.Signal(syscall.SIGTERM)
		Expect(p.WaitExit(within)).To(Equal(0))
		_, err = net.Dial("tcp", clients)
		Expect(err).To(MatchError(syscall.ECONNREFUSED))
	})

	It("stands in the README as it is built here", func() {
		source, err := os.ReadFile(embedding)
		Expect(err).NotTo(HaveOccurred())
		readme, err := os.ReadFile("../../README.md")
		Expect(err).NotTo(HaveOccurred())
		Expect(string(readme)).To(ContainSubstring("```go\n" + string(source) + "```\n"))
	})
})
