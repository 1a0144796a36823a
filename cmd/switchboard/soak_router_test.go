package main_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"runtime/pprof"
	"strings"
	"syscall"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	main "switchboard/cmd/switchboard"
	"switchboard/fixtures/spec"
)

// What a router of [TestSoakRouter] can be asked on its stdin, a line each.
const (
	// tellHoldings is answered by its holdings; collectHoldings after a collection.
	tellHoldings    = "tell"
	collectHoldings = "collect"
	// tellGoroutines is answered by their stacks, as one string of JSON.
	tellGoroutines = "goroutines"
)

// holdings are what a router's process has.
type holdings struct {
	// Goroutines are as Go counts them; Live is the heap that the last collection has
	// found in use, in bytes.
	Goroutines, Live int
	// These the kernel tells: descriptors other than pipes, pipes, of which some are kept
	// for use (relay.Options.Pipes), threads, and resident bytes.
	fds, pipes, threads, resident int
}

// String tells them in a line.
func (h holdings) String() string {
	return fmt.Sprintf("%d descriptors, %d of pipes, %d goroutines, %d threads, %d KiB resident, %d KiB of live heap",
		h.fds, h.pipes, h.Goroutines, h.threads, h.resident>>10, h.Live>>10)
}

// TestSoakRouter is no test but the program in a process of its own, which can be asked
// for what only it knows. The program itself has nothing that would tell.
func TestSoakRouter(t *testing.T) {
	path := os.Getenv("SOAK_ROUTER_CONFIG")
	if path == "" {
		t.Skip("the soak runs this")
	}
	go func() {
		answers := json.NewEncoder(os.Stdout)
		for questions := bufio.NewScanner(os.Stdin); questions.Scan(); {
			switch questions.Text() {
			case collectHoldings:
				runtime.GC()
				fallthrough
			case tellHoldings:
				live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
				metrics.Read(live)
				_ = answers.Encode(holdings{Goroutines: runtime.NumGoroutine(), Live: int(live[0].Value.Uint64())})
			case tellGoroutines:
				var stacks strings.Builder
				_ = pprof.Lookup("goroutine").WriteTo(&stacks, 1)
				_ = answers.Encode(stacks.String())
			}
		}
	}()
	env := []string{"PATH=" + os.Getenv("PATH")}
	if code := main.Run(context.Background(), []string{"router", "--config", path}, strings.NewReader(""), io.Discard, os.Stderr, env); code != 0 {
		t.Fatal("exit code ", code)
	}
}

// soakRouter is such a process.
type soakRouter struct {
	*spec.Process
	// log is the file with its log, which may get long. listeners has their addresses by
	// name, and api is the API's base URL.
	log, api  string
	listeners map[string]string
	questions io.Writer
	// asked is how many questions were; answers are the lines of its stdout.
	asked int
}

// startSoakRouter starts one, and waits until it routes.
func startSoakRouter(config string) *soakRouter {
	GinkgoHelper()
	r := &soakRouter{log: filepath.Join(GinkgoT().TempDir(), "log"), listeners: make(map[string]string)}
	command := exec.Command("sh", "-c", `exec "$0" -test.run='^TestSoakRouter$' 2>"$1"`, os.Args[0], r.log)
	command.Env = append(environment(), "SOAK_ROUTER_CONFIG="+config)
	in, questions, err := os.Pipe()
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(questions.Close)
	command.Stdin, r.questions = in, questions
	r.Process = spec.StartProcess(command)
	Expect(in.Close()).To(Succeed())
	Eventually(func() string { r.readLog(); return r.api }).WithTimeout(within).ShouldNot(BeEmpty(), "the router does not start")
	return r
}

// readLog reads where it listens from its log, and returns the errors in that.
func (r *soakRouter) readLog() (errs []string) {
	GinkgoHelper()
	file, err := os.Open(r.log)
	if os.IsNotExist(err) {
		return nil
	}
	Expect(err).NotTo(HaveOccurred())
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		var entry struct{ Level, Msg, Listener, Address, API string }
		if json.Unmarshal(lines.Bytes(), &entry) != nil {
			// What is no entry is a panic, or a race that was found; half an entry is not there yet.
			if !strings.HasPrefix(lines.Text(), "{") {
				errs = append(errs, lines.Text())
			}
			continue
		}
		switch {
		case entry.Level == "ERROR":
			errs = append(errs, lines.Text())
		case entry.Msg == "listening":
			r.listeners[entry.Listener] = entry.Address
		case entry.Msg == "started":
			r.api = "http://" + entry.API
		}
	}
	return errs
}

// ask asks for what only the process itself knows.
func (r *soakRouter) ask(question string, answer any) {
	GinkgoHelper()
	_, err := fmt.Fprintln(r.questions, question)
	Expect(err).NotTo(HaveOccurred())
	r.asked++
	var lines []string
	Eventually(func() bool {
		lines = strings.SplitAfter(string(r.Stdout.Contents()), "\n")
		return len(lines) > r.asked
	}).WithTimeout(within).Should(BeTrue(), "the router does not answer")
	Expect(json.Unmarshal([]byte(lines[r.asked-1]), answer)).To(Succeed())
}

// holdings are what it has now, as the question wants them.
func (r *soakRouter) holdings(question string) (h holdings) {
	GinkgoHelper()
	r.ask(question, &h)
	for _, what := range r.descriptors() {
		if strings.HasPrefix(what, "pipe:") {
			h.pipes++
		} else {
			h.fds++
		}
	}
	h.threads, h.resident = threads(r.PID()), memory(r.PID())
	return h
}

// descriptors are what its descriptors are of.
func (r *soakRouter) descriptors() (all []string) {
	GinkgoHelper()
	dir := fmt.Sprintf("/proc/%d/fd/", r.PID())
	open, err := os.ReadDir(dir)
	Expect(err).NotTo(HaveOccurred())
	for _, fd := range open {
		// It may be closed by now.
		if what, err := os.Readlink(dir + fd.Name()); err == nil {
			all = append(all, what)
		}
	}
	return all
}

// stacks are those of all its goroutines.
func (r *soakRouter) stacks() (stacks string) {
	GinkgoHelper()
	r.ask(tellGoroutines, &stacks)
	return stacks
}

// stop ends it in order.
func (r *soakRouter) stop() {
	GinkgoHelper()
	r.Signal(syscall.SIGTERM)
	Expect(r.WaitExit(within)).To(Equal(0))
}
