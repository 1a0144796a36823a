package relay_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"

	"switchboard/bridge/relay"
)

var _ = withEngines(func(newEngine maker) {
	It("does without pipes, and says so when it cannot dial, while there are no descriptors (T22)", func() {
		expectNoLeaks()
		engine := newEngine(relay.Options{SpliceAfter: 1})
		set := engine.NewSet()
		back, err := net.Listen("tcp", "127.0.0.1:0")
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(back.Close)
		l := plug(GinkgoTB(), engine, set, nil)
		const size = 8 << 20
		bulk := func(seed uint64) {
			GinkgoHelper()
			go func() { _, _ = io.CopyN(onlyWrite{l.backend}, noise(seed), size) }()
			Expect(sum(l.client, size)).To(Equal(sum(noise(seed), size)))
		}
		before := countFDs()

		var limit syscall.Rlimit
		Expect(syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit)).To(Succeed())
		restore := func() error { return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit) }
		DeferCleanup(restore)
		// Every descriptor that could be opened now has a number beyond this.
		Expect(syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 3, Max: limit.Max})).To(Succeed())
		bulk(1)
		_, err = engine.Dial(context.Background(), back.Addr().String())
		Expect(err).To(MatchError(syscall.EMFILE))
		Expect(restore()).To(Succeed())

		Expect(countFDs()).To(Equal(before))
		bulk(2)
		Expect(countFDs()).To(Equal(before+2), "one pipe, now that there may be")
	})
})

// cable is two network namespaces joined by a virtual cable: the engine's, which
// near runs functions in, and the peers'.
type cable struct{ near, far *namespace }

// namespace is an operating system's thread in a network namespace of its own.
// Sockets made in it stay there; everything else about them is as usual.
type namespace struct {
	thread int
	calls  chan func()
}

func newNamespace() *namespace {
	GinkgoHelper()
	n := &namespace{calls: make(chan func())}
	started := make(chan error)
	go func() {
		// Never unlocked, so that the thread ends with the goroutine.
		runtime.LockOSThread()
		n.thread = unix.Gettid()
		err := unix.Unshare(unix.CLONE_NEWNET)
		started <- err
		if err != nil {
			return
		}
		for call := range n.calls {
			call()
		}
	}()
	if err := <-started; err != nil {
		Skip(fmt.Sprintf("no network namespace can be made: %v", err))
	}
	DeferCleanup(func() { close(n.calls) })
	return n
}

func (n *namespace) do(f func()) {
	done := make(chan struct{})
	n.calls <- func() {
		defer close(done)
		defer GinkgoRecover()
		f()
	}
	<-done
}

func (n *namespace) ip(args ...string) (failed error) {
	n.do(func() {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			failed = fmt.Errorf("ip %v: %w: %s", args, err, out)
		}
	})
	return failed
}

func newCable() cable {
	GinkgoHelper()
	if os.Getuid() != 0 {
		Skip("making network namespaces needs root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		Skip("there is no ip command")
	}
	c := cable{near: newNamespace(), far: newNamespace()}
	if err := c.near.ip("link", "add", "near", "type", "veth", "peer", "name", "far"); err != nil {
		Skip(err.Error())
	}
	Expect(c.near.ip("link", "set", "far", "netns", fmt.Sprint(c.far.thread))).To(Succeed())
	for end, n := range map[string]*namespace{"near": c.near, "far": c.far} {
		address := "192.0.2.1/24"
		if end == "far" {
			address = "192.0.2.2/24"
		}
		Expect(n.ip("link", "set", "lo", "up")).To(Succeed())
		Expect(n.ip("addr", "add", address, "dev", end)).To(Succeed())
		Expect(n.ip("link", "set", end, "up")).To(Succeed())
	}
	return c
}

var _ = withEngines(func(newEngine maker) {
	Describe("a peer at the end of a cable", func() {
		var (
			engine relay.Engine
			set    relay.Set
			wire   cable
			front  relay.Listener
		)
		BeforeEach(func() {
			expectNoLeaks()
			engine = newEngine(relay.Options{
				KeepAlive:   net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 2},
				UserTimeout: 2 * time.Second,
			})
			set = engine.NewSet()
			wire = newCable()
			var err error
			wire.near.do(func() { front, err = engine.Listen(context.Background(), "192.0.2.1:0") })
			Expect(err).NotTo(HaveOccurred())
			DeferCleanup(func() { _ = front.Close() })
		})
		// join makes a session whose client is at the far end and whose backend is here.
		join := func() *link {
			GinkgoHelper()
			l, p := prepare(GinkgoTB(), engine)
			Expect(p.Client.Reset()).To(Succeed())
			Expect(l.client.Close()).To(Succeed())
			var err error
			var client net.Conn
			wire.far.do(func() { client, err = net.DialTimeout("tcp", front.Addr().String(), soon) })
			Expect(err).NotTo(HaveOccurred())
			DeferCleanup(client.Close)
			l.client = client.(*net.TCPConn)
			p.Client, err = front.Accept()
			Expect(err).NotTo(HaveOccurred())
			l.session, err = set.Open(p)
			Expect(err).NotTo(HaveOccurred())
			send(l.client, "hello")
			expect(l.backend, "hello")
			return l
		}

		It("is given up when the cable is pulled, whether something is on its way or not (T37)", func() {
			idle, busy := join(), join()
			Expect(wire.far.ip("link", "set", "far", "down")).To(Succeed())
			send(busy.backend, "nobody gets this")
			for _, l := range []*link{idle, busy} {
				var o relay.Outcome
				Eventually(l.outcome, 3*soon).Should(Receive(&o))
				Expect(o.First).To(Equal(relay.Client))
				Expect(o.Err).To(Or(MatchError(syscall.ETIMEDOUT), MatchError(syscall.EHOSTUNREACH)))
				_, err := l.backend.Read(make([]byte, 1))
				Expect(err).To(MatchError(syscall.ECONNRESET))
			}
		})
	})
})

var _ = withEngines(func(newEngine maker) {
	It("keeps a client that shuts its window for long, and then delivers all of it (T7)", func() {
		expectNoLeaks()
		engine := newEngine(relay.Options{UserTimeout: 500 * time.Millisecond})
		l := plug(GinkgoTB(), engine, engine.NewSet(), nil)
		sent := floodUntilBlocked(l.backend)
		Consistently(l.outcome, 2*time.Second, 100*time.Millisecond).ShouldNot(Receive())
		Expect(l.backend.CloseWrite()).To(Succeed())
		Expect(io.Copy(io.Discard, l.client)).To(BeEquivalentTo(sent))
	})
})
