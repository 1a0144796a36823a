package check_test

import (
	"context"
	"net"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/fixtures/spec"
	"switchboard/monitor/check"
)

var _ = Describe("TCP", func() {
	BeforeEach(spec.CheckLeaks)

	It("takes a connect for healthy", func() {
		result := probe(check.TCP, check.Spec{}, aim(serve(func(net.Conn) {})), time.Second)
		Expect(result).To(Equal(check.Result{Verdict: check.Healthy, Detail: "connected"}))
	})

	It("takes a refused connect for a word on the backend's own port only", func() {
		target := aim(refusing())
		Expect(probe(check.TCP, check.Spec{}, target, time.Second).Verdict).To(Equal(check.Unhealthy))
		target.Own = false
		Expect(probe(check.TCP, check.Spec{}, target, time.Second).Verdict).To(Equal(check.Failed))
	})

	It("fails when the connect does not come about in time", func() {
		target := aim("127.0.0.1:1")
		target.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		Expect(probe(check.TCP, check.Spec{}, target, 20*time.Millisecond)).To(Equal(check.Result{Verdict: check.Failed, Detail: "timed out"}))
	})

	It("says which name was not found (M11)", func() {
		target := aim("db-0.invalid:3306")
		target.Dial = func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "db-0.invalid", IsNotFound: true}}
		}
		Expect(probe(check.TCP, check.Spec{}, target, time.Second)).To(Equal(check.Result{Verdict: check.Failed, Detail: "looking up db-0.invalid: no such host"}))
	})

	It("refuses a target without address or dial", func() {
		_, err := check.TCP(check.Spec{}, check.Target{Dial: dial})
		Expect(err).To(MatchError("tcp check: the target has no address"))
		_, err = check.TCP(check.Spec{}, check.Target{Address: "127.0.0.1:1"})
		Expect(err).To(MatchError("tcp check: the target has no way to dial"))
	})

	It("keeps no descriptor over 10,000 checks (M17)", func() {
		checker, err := check.TCP(check.Spec{}, aim(serve(func(net.Conn) {})))
		Expect(err).NotTo(HaveOccurred())
		before := spec.FDs()
		for range 10_000 {
			Expect(checker.Check(context.Background()).Verdict).To(Equal(check.Healthy))
		}
		Eventually(spec.FDs).Should(BeNumerically("<=", before))
	})
})
