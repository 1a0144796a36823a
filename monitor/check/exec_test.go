package check_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/fixtures/spec"
	"switchboard/monitor/check"
)

var _ = Describe("Exec", func() {
	BeforeEach(spec.CheckLeaks)

	run := func(script string, timeout time.Duration) check.Result {
		GinkgoHelper()
		return probe(check.Exec, check.Spec{Command: []string{"/bin/sh", "-c", script}}, aim("127.0.0.1:3306"), timeout)
	}

	// gone is true once the process whose number file holds has ended.
	gone := func(file string) func(Gomega) {
		return func(g Gomega) {
			text, err := os.ReadFile(file)
			g.Expect(err).NotTo(HaveOccurred())
			pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
			g.Expect(err).NotTo(HaveOccurred())
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			// Reaping it is init's business.
			g.Expect(err != nil || strings.Contains(string(stat), ") Z ")).To(BeTrue(), string(stat))
		}
	}

	DescribeTable("what an end is worth",
		func(script string, verdict check.Verdict, detail string) {
			Expect(run(script, 5*time.Second)).To(Equal(check.Result{Verdict: verdict, Detail: detail}))
		},
		Entry("0", "exit 0", check.Healthy, "exit status 0"),
		Entry("0 with words", "echo; echo ' fine '; echo more", check.Healthy, "fine"),
		Entry("1", "exit 1", check.Unhealthy, "exit status 1"),
		Entry("1 with words on standard error", "echo 'a replica' >&2; exit 1", check.Unhealthy, "a replica"),
		Entry("2", "exit 2", check.Failed, "exit status 2"),
		Entry("2 with words", "echo 'cannot find out'; exit 2", check.Failed, "exit status 2: cannot find out"),
		Entry("a signal", "kill -KILL $$", check.Failed, "signal: killed"),
		Entry("control characters", `printf 'a\033[31mb\001'`, check.Healthy, "a?[31mb?"),
	)

	It("fails for a program that is not there", func() {
		result := probe(check.Exec, check.Spec{Command: []string{"/nowhere/check"}}, aim("127.0.0.1:1"), time.Second)
		Expect(result.Verdict).To(Equal(check.Failed))
		Expect(result.Detail).To(ContainSubstring("no such file"))
	})

	It("gives the command the names, the address and a PATH, and nothing else", func() {
		GinkgoT().Setenv("SECRET", "hunter2")
		file := filepath.Join(GinkgoT().TempDir(), "environment")
		result := probe(check.Exec, check.Spec{Command: []string{"/usr/bin/env", "sh", "-c", "env > " + file}}, aim("127.0.0.1:3306"), 5*time.Second)
		Expect(result.Verdict).To(Equal(check.Healthy), result.Detail)
		text, err := os.ReadFile(file)
		Expect(err).NotTo(HaveOccurred())
		names := make(map[string]string)
		for line := range strings.Lines(string(text)) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
			names[name] = value
		}
		// The shell adds these itself.
		delete(names, "PWD")
		delete(names, "_")
		delete(names, "SHLVL")
		delete(names, "OLDPWD")
		Expect(names).To(Equal(map[string]string{
			"PATH": os.Getenv("PATH"), "SWITCHBOARD_HOST": "db.main", "SWITCHBOARD_BACKEND": "db-0", "SWITCHBOARD_ADDRESS": "127.0.0.1:3306",
		}))
	})

	It("kills the whole process group at the deadline", func() {
		file := filepath.Join(GinkgoT().TempDir(), "pid")
		began := time.Now()
		result := run("trap '' TERM; sleep 600 & echo $! > "+file+"; wait", 300*time.Millisecond)
		Expect(result).To(Equal(check.Result{Verdict: check.Failed, Detail: "timed out"}))
		Expect(time.Since(began)).To(BeNumerically("<", 5*time.Second))
		Eventually(gone(file)).Should(Succeed())
	})

	It("kills what a command that has ended left behind, though it holds the pipe", func() {
		file := filepath.Join(GinkgoT().TempDir(), "pid")
		result := run("sleep 600 & echo $! > "+file+"; echo fine", 5*time.Second)
		Expect(result).To(Equal(check.Result{Verdict: check.Healthy, Detail: "fine"}))
		Eventually(gone(file)).Should(Succeed())
	})

	It("does not wait for a process that left the group and holds the pipe", func() {
		file := filepath.Join(GinkgoT().TempDir(), "pid")
		began := time.Now()
		result := run("setsid sh -c 'echo $$ > "+file+"; exec sleep 600' & while ! [ -s "+file+" ]; do :; done; echo fine", 5*time.Second)
		Expect(result).To(Equal(check.Result{Verdict: check.Healthy, Detail: "fine"}))
		Expect(time.Since(began)).To(BeNumerically("<", 4*time.Second))
		text, err := os.ReadFile(file)
		Expect(err).NotTo(HaveOccurred())
		pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
		Expect(err).NotTo(HaveOccurred())
		Expect(syscall.Kill(pid, syscall.SIGKILL)).To(Succeed())
	})

	It("does not choke on a flood of output", func() {
		Expect(run("echo first; head -c 10000000 /dev/zero | tr '\\0' x; exit 1", 20*time.Second)).
			To(Equal(check.Result{Verdict: check.Unhealthy, Detail: "first"}))
	})

	It("refuses a spec without a command", func() {
		_, err := check.Exec(check.Spec{}, aim("127.0.0.1:1"))
		Expect(err).To(MatchError(ContainSubstring("the command is missing")))
		_, err = check.Exec(check.Spec{Command: []string{""}}, aim("127.0.0.1:1"))
		Expect(err).To(MatchError(ContainSubstring("the command is missing")))
	})
})

var _ = DescribeTable("Line",
	func(text, line string) { Expect(check.Line(text)).To(Equal(line)) },
	Entry("nothing", "", ""),
	Entry("blanks", " \r\n\t", ""),
	Entry("the first line that is not blank", "\n\n  one \r\ntwo", "one"),
	Entry("control characters", "a\x00b\x1b[1mc\u202ed", "a?b?[1mc?d"),
	Entry("bytes that are no text", "a\xff\xfeb", "a??b"),
	Entry("tabs", "a\tb", "a b"),
	Entry("a long line, cut between runes", strings.Repeat("ä", 100), strings.Repeat("ä", 60)+"…"),
	Entry("a long line, cut before a rune", "x"+strings.Repeat("ä", 100), "x"+strings.Repeat("ä", 59)+"…"),
)
