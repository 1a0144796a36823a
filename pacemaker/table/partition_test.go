package table_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"

	"switchboard/fixtures/servers"
	"switchboard/fixtures/spec"
	"switchboard/pacemaker/table"
)

// wire is a pair of interfaces, of which the far one is in a network namespace of its own.
// Addresses are those that are for tests of networks (RFC 2544).
type wire struct {
	namespace, near, far string
	nearAddr, farAddr    string
}

// layWire lays a wire that lasts as long as the spec.
func layWire() *wire {
	GinkgoHelper()
	spec.NeedRoot("making a network namespace")
	spec.Need("ip", "iproute2")
	id := os.Getpid() % 16000
	net := fmt.Sprintf("198.18.%d.", id/64)
	w := &wire{
		namespace: fmt.Sprint("switchboard-table-", id), near: fmt.Sprint("sbn", id), far: fmt.Sprint("sbf", id),
		nearAddr: net + fmt.Sprint(id%64*4+1), farAddr: net + fmt.Sprint(id%64*4+2),
	}
	ip("netns", "add", w.namespace)
	// With the namespace go the interfaces.
	DeferCleanup(ip, "netns", "delete", w.namespace)
	ip("link", "add", w.near, "type", "veth", "peer", "name", w.far, "netns", w.namespace)
	ip("addr", "add", w.nearAddr+"/30", "dev", w.near)
	ip("link", "set", w.near, "up")
	ip("-n", w.namespace, "addr", "add", w.farAddr+"/30", "dev", w.far)
	ip("-n", w.namespace, "link", "set", w.far, "up")
	return w
}

func ip(args ...string) {
	GinkgoHelper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	Expect(err).NotTo(HaveOccurred(), "ip %v: %s", args, out)
}

// cut lets each end send to a hardware address that nobody has: all packets are lost, both ways,
// and nobody is told.
func (w *wire) cut() {
	GinkgoHelper()
	const nobody = "02:00:00:00:00:99"
	ip("neigh", "replace", w.farAddr, "lladdr", nobody, "nud", "permanent", "dev", w.near)
	ip("-n", w.namespace, "neigh", "replace", w.nearAddr, "lladdr", nobody, "nud", "permanent", "dev", w.far)
}

func (w *wire) heal() {
	GinkgoHelper()
	ip("neigh", "del", w.farAddr, "dev", w.near)
	ip("-n", w.namespace, "neigh", "del", w.nearAddr, "dev", w.far)
}

// listen listens at the far end. A socket stays in the network of the thread that made it.
func (w *wire) listen() net.Listener {
	GinkgoHelper()
	made := make(chan net.Listener, 1)
	failed := make(chan error, 1)
	go func() {
		// The thread ends with the goroutine, since it is locked.
		runtime.LockOSThread()
		fd, err := unix.Open("/run/netns/"+w.namespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(fd, unix.CLONE_NEWNET)
			unix.Close(fd)
		}
		if err == nil {
			var listener net.Listener
			if listener, err = net.Listen("tcp", w.farAddr+":0"); err == nil {
				made <- listener
				return
			}
		}
		failed <- err
	}()
	select {
	case listener := <-made:
		return listener
	case err := <-failed:
		Fail(fmt.Sprint("listening in a network namespace: ", err))
		return nil
	}
}

var _ = Describe("Watcher and a Redis behind a network that loses all packets", func() {
	It("D5, D13: serves its table, says that it is stale, and follows again within 2 s of healing", func() {
		w := layWire()
		redis := spec.StartRedis(new(servers.Redis))
		writer := newWriter(connect(redis.URL()))
		apply(writer, table.Add("a", instance(0)))
		far := newLink(w.listen(), redis.Addr())
		follower := watch(far.url(), func(o *table.WatcherOptions) { o.Redis.Timeout, o.Poll = 0, 0 })
		follower.fresh(1)
		var took []time.Duration
		for i, failures := range []uint64{1, 2, 6, 6} {
			n := i + 1
			w.cut()
			apply(writer, table.Replace("a", table.Options{}, nil, instance(n)))
			follower.stale("Redis does not answer in time")
			Expect(follower.backends("a")).To(Equal([]string{at(n - 1)}))
			Expect(follower.state().Serial).To(BeEquivalentTo(n))
			// The longer it lasts, the longer it waits between two tries.
			failures += follower.state().Failures
			Eventually(func() uint64 { return follower.state().Failures }).Should(BeNumerically(">=", failures))
			healed := time.Now()
			w.heal()
			follower.shows("a", at(n))
			took = append(took, time.Since(healed))
			follower.fresh(uint64(n) + 1)
		}
		AddReportEntry("followed again after", fmt.Sprint(took))
		// The better of the long ones, as others may have the processors.
		Expect(slices.Min(took[2:])).To(BeNumerically("<", 2*time.Second))
	})
})
