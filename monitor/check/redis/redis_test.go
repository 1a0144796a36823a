package redis_test

import (
	"context"
	"net"
	"strings"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/fixtures/spec"
	"switchboard/monitor/check"
	"switchboard/monitor/check/redis"
)

var _ check.Builder = redis.New

var _ = Describe("the redis check", func() {
	BeforeEach(spec.CheckLeaks)

	build := func(spec check.Spec, target check.Target) check.Checker {
		GinkgoHelper()
		checker, err := redis.New(spec, target)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() { Expect(checker.Close()).To(Succeed()) })
		return checker
	}
	healthy := check.Result{Verdict: check.Healthy, Detail: "role master"}

	Context("with a real server", func() {
		It("takes a master for healthy, on one kept connection", func() {
			address, _ := startRedis()
			target := aim(address)
			var dials atomic.Int64
			dial := target.Dial
			target.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
				dials.Add(1)
				return dial(ctx, network, address)
			}
			checker := build(check.Spec{}, target)
			Expect(ask(checker)).To(Equal(healthy))
			before := spec.FDs()
			for range 1000 {
				Expect(ask(checker)).To(Equal(healthy))
			}
			Expect(dials.Load()).To(BeEquivalentTo(1))
			Expect(spec.FDs()).To(Equal(before))
		})

		It("takes a replica for unhealthy, and for healthy once it is promoted", func() {
			address, _ := startRedis("--replicaof", "127.0.0.1 1")
			checker := build(check.Spec{}, aim(address))
			Expect(ask(checker)).To(Equal(check.Result{Verdict: check.Unhealthy, Detail: "role slave"}))

			conn, err := net.Dial("tcp", address)
			Expect(err).NotTo(HaveOccurred())
			defer conn.Close()
			_, err = conn.Write([]byte("REPLICAOF NO ONE\r\n"))
			Expect(err).NotTo(HaveOccurred())
			Eventually(func() check.Result { return ask(checker) }).Should(Equal(healthy))
		})

		It("sees a crash at the next probe, and the restart on a new connection", func() {
			address, kill := startRedis()
			checker := build(check.Spec{}, aim(address))
			Expect(ask(checker)).To(Equal(healthy))
			kill()
			// The kept connection is found dead before the command is sent, so the
			// first probe already dials.
			Expect(ask(checker)).To(Equal(check.Result{Verdict: check.Unhealthy, Detail: "connection refused"}))
			startRedisAt(program(), address)
			Expect(ask(checker)).To(Equal(healthy))
		})

		It("logs in, with and without a username", func() {
			address, _ := startRedis("--requirepass", "secret")
			Expect(ask(build(check.Spec{Password: "secret"}, aim(address)))).To(Equal(healthy))
			Expect(ask(build(check.Spec{Username: "default", Password: "secret"}, aim(address)))).To(Equal(healthy))
		})

		It("says what to do about the password, and does not tell it", func() {
			address, _ := startRedis("--requirepass", "secret")
			Expect(ask(build(check.Spec{}, aim(address)))).To(Equal(check.Result{
				Verdict: check.Failed, Detail: "it wants a password: set the check's password_file",
			}))
			wrong := build(check.Spec{Username: "default", Password: "hunter2"}, aim(address))
			for range 3 {
				Expect(ask(wrong)).To(Equal(check.Result{
					Verdict: check.Failed, Detail: "it refuses the username or password: correct the check's username and password_file",
				}))
			}
			before := spec.FDs()
			Expect(ask(wrong).Verdict).To(Equal(check.Failed))
			Expect(spec.FDs()).To(BeNumerically("<=", before))
		})

		It("says what to do about a user who may not ask", func() {
			address, _ := startRedis("--aclfile", secretFile("user probe on >secret -@all +ping\nuser default off\n"))
			result := ask(build(check.Spec{Username: "probe", Password: "secret"}, aim(address)))
			Expect(result).To(Equal(check.Result{Verdict: check.Failed, Detail: "the user may not ask for the role: grant it +role"}))
		})
	})

	Context("with a scripted server", func() {
		DescribeTable("what an answer is worth",
			func(answer string, want check.Result) {
				address, _ := fakeRedis(answerRole(answer))
				Expect(ask(build(check.Spec{}, aim(address)))).To(Equal(want))
			},
			Entry("loading", "-LOADING Redis is loading the dataset in memory\r\n", check.Result{Verdict: check.Unhealthy, Detail: "is loading its data"}),
			Entry("a sentinel", "*2\r\n$8\r\nsentinel\r\n*0\r\n", check.Result{Verdict: check.Unhealthy, Detail: "role sentinel"}),
			Entry("a master", "*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n", check.Result{Verdict: check.Healthy, Detail: "role master"}),
			Entry("a role of tomorrow", "*1\r\n$5\r\nbo\x1bss\r\n", check.Result{Verdict: check.Failed, Detail: "the answer to ROLE has no role that is known: bo?ss"}),
			Entry("an empty array", "*0\r\n", check.Result{Verdict: check.Failed, Detail: "the answer to ROLE has no role that is known: "}),
			Entry("another error", "-BUSY a script runs\r\n", check.Result{Verdict: check.Failed, Detail: "answered BUSY a script runs"}),
		)

		It("fails on an answer that is no Redis", func() {
			address, _ := fakeRedis(func(string) string { return "HTTP/1.1 400 Bad Request\r\n" })
			Expect(ask(build(check.Spec{}, aim(address))).Verdict).To(Equal(check.Failed))
		})

		It("fails when the connection drops in the middle, and probes on a new one then", func() {
			var asked atomic.Int64
			address, connections := fakeRedis(func(command string) string {
				if command == "ROLE" && asked.Add(1) == 1 {
					return ""
				}
				return answerRole("*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n")(command)
			})
			checker := build(check.Spec{}, aim(address))
			Expect(ask(checker).Verdict).To(Equal(check.Failed))
			Expect(ask(checker)).To(Equal(healthy))
			Expect(connections()).To(Equal(2))
		})

		It("says what to do about a password that an old server does not want", func() {
			address, _ := fakeRedis(func(command string) string {
				if strings.HasPrefix(command, "auth ") {
					return "-ERR Client sent AUTH, but no password is set\r\n"
				}
				return unknown
			})
			Expect(ask(build(check.Spec{Password: "secret"}, aim(address)))).To(Equal(check.Result{
				Verdict: check.Failed, Detail: "it has no password, but the check sends one: remove the check's password_file",
			}))
		})

		It("sends little more than the question, once a connection", func() {
			var asked []string
			address, _ := fakeRedis(func(command string) string {
				asked = append(asked, command)
				return answerRole("*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n")(command)
			})
			checker := build(check.Spec{}, aim(address))
			Expect(ask(checker)).To(Equal(healthy))
			Expect(ask(checker)).To(Equal(healthy))
			Expect(asked).To(Equal([]string{"hello 2", "ROLE", "ROLE"}))
		})
	})

	It("is over at the deadline when the server hangs, and does not read the late answer", func() {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(listener.Close)
		checker := build(check.Spec{}, aim(listener.Addr().String()))
		for range 2 {
			ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
			began := time.Now()
			Expect(checker.Check(ctx)).To(Equal(check.Result{Verdict: check.Failed, Detail: "timed out"}))
			Expect(time.Since(began)).To(BeNumerically("<", time.Second))
			cancel()
		}
	})

	It("ends a dial with its probe", func() {
		target := aim("127.0.0.1:1")
		ended := make(chan error, 1)
		target.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			ended <- context.Cause(ctx)
			return nil, ctx.Err()
		}
		checker := build(check.Spec{}, target)
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		Expect(checker.Check(ctx)).To(Equal(check.Result{Verdict: check.Failed, Detail: "timed out"}))
		Eventually(ended).Should(Receive())
	})

	It("refuses a spec that cannot work", func() {
		_, err := redis.New(check.Spec{Username: "probe"}, aim("127.0.0.1:1"))
		Expect(err).To(MatchError("redis check: there is a username but no password"))
		_, err = redis.New(check.Spec{}, check.Target{})
		Expect(err).To(MatchError("redis check: the target has no address"))
		_, err = redis.New(check.Spec{}, check.Target{Address: "127.0.0.1:1"})
		Expect(err).To(MatchError("redis check: the target has no way to dial"))
	})
})
