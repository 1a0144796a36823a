package web_test

import (
	"context"
	"encoding/xml"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/bridge/web"
)

// h2specModule is a module of its own that pins h2spec and what it needs.
const h2specModule = "../../fixtures/h2spec"

// h2spec runs the conformance tests of HTTP/2 against an address, and returns those
// that failed and how many there were.
func h2spec(address string, more ...string) (failed []string, run int) {
	GinkgoHelper()
	dir := GinkgoT().TempDir()
	start := func(args ...string) ([]byte, error) {
		// To fetch it may take a while, the first time.
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		command := exec.CommandContext(ctx, "go", append([]string{"-C", h2specModule, "tool", "h2spec"}, args...)...)
		return command.CombinedOutput()
	}
	if out, err := start("--version"); err != nil {
		Expect(os.Getenv("CI")).To(BeEmpty(), string(out))
		Skip("h2spec could not be fetched: " + string(out))
	}
	host, port, err := net.SplitHostPort(address)
	Expect(err).NotTo(HaveOccurred())
	report := filepath.Join(dir, "report.xml")
	// It ends with an error when a test has failed.
	out, _ := start(append([]string{"-h", host, "-p", port, "-o", "2", "-j", report}, more...)...)
	var suites struct {
		Suites []struct {
			Cases []struct {
				Section string    `xml:"package,attr"`
				What    string    `xml:"classname,attr"`
				Failure *struct{} `xml:"failure"`
				Error   *struct{} `xml:"error"`
				Skipped *struct{} `xml:"skipped"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	content, err := os.ReadFile(report)
	Expect(err).NotTo(HaveOccurred(), string(out))
	Expect(xml.Unmarshal(content, &suites)).To(Succeed())
	for _, suite := range suites.Suites {
		for _, c := range suite.Cases {
			if c.Skipped == nil {
				run++
			}
			if c.Failure != nil || c.Error != nil {
				failed = append(failed, c.Section+": "+c.What)
			}
		}
	}
	GinkgoWriter.Printf("%s", out)
	return failed, run
}

var _ = Describe("h2spec", func() {
	var r *rig
	start := func(change func(*web.Options)) {
		r = startRig(rigOptions{hosts: []hostSpec{{name: "*", backends: []string{startBackend("b", nil).addr}}}, server: change})
	}

	It("has nothing to object to over TLS", func() {
		start(overTLS())
		failed, run := h2spec(r.addr, "-t", "-k")
		Expect(failed).To(BeEmpty())
		Expect(run).To(Equal(144))
	})

	It("has nothing to object to in the clear, but that what is no preface is answered in HTTP/1.1", func() {
		start(nil)
		failed, run := h2spec(r.addr)
		// A port that speaks both cannot take what is neither for a bad preface: it is a
		// bad request, whose answer ends the connection.
		Expect(failed).To(HaveEach(HavePrefix("http2/3.5: Sends invalid connection preface")))
		Expect(run).To(Equal(144))
	})
})
