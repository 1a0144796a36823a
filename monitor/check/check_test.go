package check_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"syscall"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/monitor/check"
)

var _ = Describe("Target", func() {
	dialing := func(errno syscall.Errno) error {
		return fmt.Errorf("dialing: %w", &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", errno)})
	}

	DescribeTable("judges a failure",
		func(own bool, err error, verdict check.Verdict, detail string) {
			Expect(check.Target{Own: own}.Failure(err)).To(Equal(check.Result{Verdict: verdict, Detail: detail}))
		},
		Entry("its own port refuses", true, dialing(syscall.ECONNREFUSED), check.Unhealthy, "connection refused"),
		Entry("another port refuses", false, dialing(syscall.ECONNREFUSED), check.Failed, "connection refused"),
		Entry("a reset", true, dialing(syscall.ECONNRESET), check.Failed, "connection reset by peer"),
		Entry("a timeout", true, fmt.Errorf("dialing: %w", context.DeadlineExceeded), check.Failed, "timed out"),
		Entry("we have no descriptor left", true, dialing(syscall.EMFILE), check.Void, "too many open files"),
		Entry("nobody here has", true, dialing(syscall.ENFILE), check.Void, "too many open files in system"),
		Entry("we have no port left", true, dialing(syscall.EADDRNOTAVAIL), check.Void, "cannot assign requested address"),
		Entry("we have no memory left", true, dialing(syscall.ENOMEM), check.Void, "cannot allocate memory"),
		Entry("we have no buffer left", true, dialing(syscall.ENOBUFS), check.Void, "no buffer space available"),
	)
})
