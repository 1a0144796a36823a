package relay_test

import (
	"bytes"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/bridge/relay"
)

// lender lends one buffer, and counts.
type lender struct {
	buffer []byte
	lent   atomic.Int64 // and not returned
}

func (l *lender) Lend() []byte {
	l.lent.Store(1)
	return l.buffer
}

func (l *lender) Return() { l.lent.Store(0) }

var _ = withEngines(func(newEngine maker) {
	Describe("Conn that is in no set", func() {
		const little = 50 * time.Millisecond
		var (
			peer   *net.TCPConn
			conn   relay.Conn
			buffer *lender
		)
		BeforeEach(func() {
			expectNoLeaks()
			var accepted *net.TCPConn
			peer, accepted = tcpPair(GinkgoTB())
			conn = newEngine(relay.Options{}).Adopt(accepted)
			DeferCleanup(func() { conn.Close() })
			buffer = &lender{buffer: make([]byte, 100)}
		})

		Describe("ReadLent", func() {
			It("holds no buffer while it waits, and the one it was lent when it has read", func() {
				type result struct {
					n   int
					err error
				}
				read := make(chan result, 1)
				go func() {
					n, err := conn.ReadLent(buffer)
					read <- result{n, err}
				}()
				Consistently(read, little).ShouldNot(Receive())
				Expect(buffer.lent.Load()).To(BeZero())
				send(peer, "hello")
				Eventually(read, soon).Should(Receive(Equal(result{5, nil})))
				Expect(buffer.lent.Load()).To(BeEquivalentTo(1))
				Expect(string(buffer.buffer[:5])).To(Equal("hello"))
			})

			It("returns the buffer with an end, a reset and a deadline", func() {
				Expect(conn.SetReadDeadline(time.Unix(1, 0))).To(Succeed())
				_, err := conn.ReadLent(buffer)
				Expect(err).To(MatchError(os.ErrDeadlineExceeded))
				Expect(buffer.lent.Load()).To(BeZero())
				Expect(conn.SetReadDeadline(time.Time{})).To(Succeed())
				Expect(peer.CloseWrite()).To(Succeed())
				_, err = conn.ReadLent(buffer)
				Expect(err).To(MatchError(io.EOF))
				Expect(buffer.lent.Load()).To(BeZero())
				resetBy(peer)
				Eventually(func() error {
					_, err := conn.Write([]byte("x"))
					return err
				}, soon).Should(HaveOccurred())
				_, err = conn.ReadLent(buffer)
				Expect(err).To(HaveOccurred())
				Expect(buffer.lent.Load()).To(BeZero())
			})
		})

		It("is quiet until there is a byte, an end or a reset", func() {
			Expect(conn.Quiet()).To(BeTrue())
			send(peer, "x")
			Eventually(conn.Quiet, soon).Should(BeFalse())
			_, err := conn.ReadLent(buffer)
			Expect(err).NotTo(HaveOccurred())
			Expect(conn.Quiet()).To(BeTrue())
			Expect(peer.Close()).To(Succeed())
			Eventually(conn.Quiet, soon).Should(BeFalse())
			Expect(conn.Close()).To(Succeed())
			Expect(conn.Quiet()).To(BeFalse())
		})

		DescribeTable("OnGone is told once that the peer has left", func(leave func(peer *net.TCPConn)) {
			var left atomic.Int64
			conn.OnGone(func() { left.Add(1) })
			send(peer, "what comes before")
			Consistently(left.Load, little).Should(BeZero())
			leave(peer)
			Eventually(left.Load, soon).Should(BeEquivalentTo(1))
			Consistently(left.Load, little).Should(BeEquivalentTo(1))
			n, err := conn.ReadLent(buffer)
			if err == nil {
				Expect(string(buffer.buffer[:n])).To(Equal("what comes before"), "nothing was read")
			}
		},
			Entry("by a close", func(peer *net.TCPConn) { peer.Close() }),
			Entry("by a half-close", func(peer *net.TCPConn) { peer.CloseWrite() }),
			Entry("by a reset", func(peer *net.TCPConn) { resetBy(peer) }),
		)

		It("OnGone says nothing of a Conn that was closed", func() {
			var left atomic.Int64
			conn.OnGone(func() { left.Add(1) })
			Expect(conn.Close()).To(Succeed())
			Expect(peer.Close()).To(Succeed())
			Consistently(left.Load, little).Should(BeZero())
		})

		It("is aborted under whoever reads and writes it, with a reset", func() {
			reading, writing := make(chan error, 1), make(chan error, 1)
			go func() {
				_, err := conn.ReadLent(buffer)
				reading <- err
			}()
			go func() {
				_, err := conn.Write(make([]byte, 64<<20))
				writing <- err
			}()
			Consistently(writing, little).ShouldNot(Receive())
			conn.Abort()
			Eventually(reading, soon).Should(Receive(HaveOccurred()))
			Eventually(writing, soon).Should(Receive(HaveOccurred()))
			Eventually(func() error {
				_, err := io.Copy(io.Discard, peer)
				return err
			}, soon).Should(MatchError(syscall.ECONNRESET))
			conn.Abort()
		})

		It("writes both of two buffers whole, however little the peer takes at once", func() {
			first, second := bytes.Repeat([]byte("a"), 3<<20), bytes.Repeat([]byte("b"), 5<<20)
			got := make(chan []byte, 1)
			go func() {
				all, _ := io.ReadAll(peer)
				got <- all
			}()
			for _, both := range [][2][]byte{{first, second}, {nil, []byte("c")}, {[]byte("d"), nil}, {nil, nil}} {
				n, err := conn.WriteBoth(both[0], both[1])
				Expect(err).NotTo(HaveOccurred())
				Expect(n).To(Equal(len(both[0]) + len(both[1])))
			}
			Expect(conn.CloseWrite()).To(Succeed())
			var all []byte
			Eventually(got, soon).Should(Receive(&all))
			Expect(bytes.Equal(all, append(append(first, second...), "cd"...))).To(BeTrue(), "%d bytes", len(all))
		})

		It("says how much it has written when it fails, and why", func() {
			resetBy(peer)
			Eventually(func() error {
				n, err := conn.WriteBoth([]byte("x"), []byte("y"))
				if err != nil {
					Expect(n).To(BeZero())
				}
				return err
			}, soon).Should(Or(MatchError(syscall.ECONNRESET), MatchError(syscall.EPIPE)))
		})

		It("can be used without a socket under it", func() {
			ours, theirs := net.Pipe()
			c := newEngine(relay.Options{}).Adopt(ours)
			c.OnGone(func() { Fail("nobody can tell") })
			Expect(c.Quiet()).To(BeTrue())
			go func() {
				theirs.Write([]byte("hi"))
				io.Copy(io.Discard, theirs)
			}()
			n, err := c.ReadLent(buffer)
			Expect(err).NotTo(HaveOccurred())
			Expect(string(buffer.buffer[:n])).To(Equal("hi"))
			Expect(c.WriteBoth([]byte("a"), []byte("b"))).To(Equal(2))
			Expect(c.CloseWrite()).To(Succeed())
			c.Abort()
			Expect(c.Close()).To(Succeed())
			Expect(theirs.Close()).To(Succeed())
		})
	})
})

// Each call of the hot path allocates nothing.
func TestUseOfConnsAllocatesNothing(t *testing.T) {
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) { testUse(t, e.make(relay.Options{})) })
	}
}

func testUse(t *testing.T, engine relay.Engine) {
	peer, accepted := tcpPair(t)
	defer engine.Close()
	conn := engine.Adopt(accepted)
	defer conn.Close()
	buffer := &lender{buffer: make([]byte, 100)}
	echo := make([]byte, 100)
	allocs := testing.AllocsPerRun(1000, func() {
		if !conn.Quiet() {
			t.Fatal("it is not quiet")
		}
		if _, err := conn.WriteBoth(echo[:1], echo[1:10]); err != nil {
			t.Fatal(err)
		}
		n, err := io.ReadAtLeast(peer, echo, 10)
		if err == nil {
			_, err = peer.Write(echo[:n])
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.ReadLent(buffer); err != nil {
			t.Fatal(err)
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations a use", allocs)
	}
}
