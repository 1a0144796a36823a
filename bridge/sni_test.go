package bridge_test

import (
	"crypto/tls"
	"io"
	"net"
	"syscall"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/bridge"
	"switchboard/fixtures/spec"
)

var _ = Describe("Sniffer", func() {
	// startSniffer runs a listener of protocol tls for a rig whose host is "db".
	startSniffer := func(name string) (*rig, string) {
		GinkgoHelper()
		var sniffer *bridge.Sniffer
		r := startRig(rigOptions{
			host:  func(o *bridge.HostOptions) { o.Name = name },
			built: func(b *bridge.Bridge) { sniffer = bridge.NewSniffer(b) },
		})
		l := startListener(r, func(o *bridge.ListenerOptions) { o.Name, o.To = "tls", sniffer })
		return r, l.Addr().String()
	}

	// hello is the ClientHello that crypto/tls sends for a name.
	hello := func(name string) []byte {
		GinkgoHelper()
		ours, theirs := net.Pipe()
		go tls.Client(ours, &tls.Config{ServerName: name, InsecureSkipVerify: true}).Handshake()
		buffer := make([]byte, 16<<10)
		n, err := theirs.Read(buffer)
		Expect(err).NotTo(HaveOccurred())
		theirs.Close()
		return buffer[:n]
	}

	It("bridges the whole stream to the host that is asked for", func() {
		backend := spec.StartBackend(spec.Echo)
		r, addr := startSniffer("a.test")
		r.activate("a", backend.Addr())
		for _, name := range []string{"a.test", "A.TEST"} {
			client := spec.DialFront(addr)
			raw := hello(name)
			// In two pieces, as it may come.
			_, err := client.Write(raw[:10])
			Expect(err).NotTo(HaveOccurred())
			_, err = client.Write(append(raw[10:], "and more"...))
			Expect(err).NotTo(HaveOccurred())
			echo := make([]byte, len(raw)+len("and more"))
			_, err = io.ReadFull(client, echo)
			Expect(err).NotTo(HaveOccurred())
			Expect(echo[:len(raw)]).To(Equal(raw))
			Expect(r.bridge.Sessions()).To(ContainElement(And(
				HaveField("Host", "a.test"), HaveField("Listener", "tls"), HaveField("Protocol", bridge.TLS))))
			client.Close()
		}
		Eventually(r.reasons).Should(HaveLen(2))
		r.mu.Lock()
		defer r.mu.Unlock()
		Expect(r.records).To(HaveEach(And(HaveField("Host", "a.test"), HaveField("Protocol", bridge.TLS), HaveField("Origin", "7#3#a"))))
	})

	It("severs with the host's term", func() {
		backend := spec.StartBackend(spec.Echo)
		r, addr := startSniffer("*.test")
		r.activate("a", backend.Addr())
		client := spec.DialFront(addr)
		raw := hello("x.test")
		_, err := client.Write(raw)
		Expect(err).NotTo(HaveOccurred())
		_, err = io.ReadFull(client, make([]byte, len(raw)))
		Expect(err).NotTo(HaveOccurred())
		r.activate("b", spec.StartBackend(spec.Echo).Addr())
		spec.ExpectReset(client)
	})

	DescribeTable("refuses", func(raw func() []byte) {
		backend := spec.StartBackend(spec.Echo)
		r, addr := startSniffer("a.test")
		r.activate("a", backend.Addr())
		client := spec.DialFront(addr)
		_, err := client.Write(raw())
		Expect(err).NotTo(HaveOccurred())
		io.Copy(io.Discard, client)
		Eventually(r.reasons).Should(ConsistOf(bridge.NoHost))
		Expect(backend.Accepted()).To(BeZero())
	},
		Entry("an unknown name", func() []byte { return hello("b.test") }),
		Entry("no name", func() []byte { return hello("") }),
		Entry("what is not TLS", func() []byte { return []byte("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n") }),
	)

	It("is no obstacle to a stop while a client says nothing", func() {
		r, addr := startSniffer("a.test")
		client := spec.DialFront(addr)
		_, err := client.Write([]byte{22, 3, 1})
		Expect(err).NotTo(HaveOccurred())
		r.signals <- syscall.SIGTERM
		Eventually(r.ended).Should(Receive(BeNil()))
		r.ended <- nil
		spec.ExpectReset(client)
	})
})
