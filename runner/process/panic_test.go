package process_test

import (
	"os"
	"os/exec"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/runner/process"
)

// TestMain lets the specs run this binary as a process whose member panics.
func TestMain(m *testing.M) {
	if os.Getenv("PROCESS_TEST_PANIC") != "" {
		process.Ordered(process.Member{Name: "monitor", Runner: runFunc(func(<-chan os.Signal, chan<- struct{}) error {
			panic("a bug in the monitor")
		})}).Run(make(chan os.Signal), make(chan struct{}))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

var _ = Describe("a panic in a member", func() {
	It("ends the process with a trace (L12)", func() {
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), "PROCESS_TEST_PANIC=1")
		output, err := child.CombinedOutput()
		Expect(err).To(BeAssignableToTypeOf(&exec.ExitError{}))
		Expect(string(output)).To(ContainSubstring("a bug in the monitor"))
		Expect(string(output)).To(ContainSubstring("goroutine "))
	})
})
