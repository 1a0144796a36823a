package check_test

import (
	"io"
	"net"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/fixtures/spec"
	"switchboard/monitor/check"
)

var _ = Describe("Watch", func() {
	var (
		kept   net.Conn     // ours
		server *net.TCPConn // the other end
		hints  chan string
	)

	BeforeEach(func() {
		spec.CheckLeaks()
		hints = make(chan string, 10)
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		Expect(err).NotTo(HaveOccurred())
		defer listener.Close()
		kept, err = net.Dial("tcp", listener.Addr().String())
		Expect(err).NotTo(HaveOccurred())
		accepted, err := listener.Accept()
		Expect(err).NotTo(HaveOccurred())
		server = accepted.(*net.TCPConn)
		DeferCleanup(func() {
			kept.Close()
			server.Close()
		})
	})

	watch := func() (stop func() bool) { return check.Watch(kept, func(detail string) { hints <- detail }) }

	It("says nothing while the connection is idle, and leaves it as it was", func() {
		for range 100 {
			stop := watch()
			Expect(stop()).To(BeTrue())
		}
		stop := watch()
		Consistently(hints, 30*time.Millisecond).ShouldNot(Receive())
		Expect(stop()).To(BeTrue())
		Expect(stop()).To(BeTrue())

		_, err := io.WriteString(kept, "ask")
		Expect(err).NotTo(HaveOccurred())
		got := make([]byte, 3)
		Expect(io.ReadFull(server, got)).To(Equal(3))
		_, err = io.WriteString(server, "yes")
		Expect(err).NotTo(HaveOccurred())
		Expect(io.ReadFull(kept, got)).To(Equal(3))
		Expect(string(got)).To(Equal("yes"))
		Expect(hints).To(BeEmpty())
	})

	It("hints once when the server closes", func() {
		stop := watch()
		Expect(server.Close()).To(Succeed())
		Eventually(hints).Should(Receive(Equal("the kept connection was closed by the server")))
		Expect(stop()).To(BeFalse())
		Expect(stop()).To(BeFalse())
		Consistently(hints, 20*time.Millisecond).ShouldNot(Receive())
	})

	It("hints when the server resets", func() {
		stop := watch()
		Expect(server.SetLinger(0)).To(Succeed())
		Expect(server.Close()).To(Succeed())
		Eventually(hints).Should(Receive(Equal("the kept connection broke: connection reset by peer")))
		Expect(stop()).To(BeFalse())
	})

	It("hints when the server speaks unasked, and takes no byte", func() {
		stop := watch()
		_, err := io.WriteString(server, "bye")
		Expect(err).NotTo(HaveOccurred())
		Eventually(hints).Should(Receive(Equal("the server spoke unasked on the kept connection")))
		Expect(stop()).To(BeFalse())
		got := make([]byte, 3)
		Expect(io.ReadFull(kept, got)).To(Equal(3))
		Expect(string(got)).To(Equal("bye"))
	})

	It("does not miss what came in the last moment", func() {
		for _, hint := range []func(string){func(string) {}, nil} {
			Eventually(func() bool {
				stop := check.Watch(kept, hint)
				server.Close()
				return stop()
			}).Should(BeFalse())
		}
	})

	It("says that all is well where nothing can be watched", func() {
		one, other := net.Pipe()
		DeferCleanup(one.Close)
		DeferCleanup(other.Close)
		Expect(check.Watch(one, nil)()).To(BeTrue())
	})

	It("stops on a connection that is closed already", func() {
		Expect(kept.Close()).To(Succeed())
		Expect(watch()()).To(BeFalse())
		Expect(hints).To(BeEmpty())
	})
})
