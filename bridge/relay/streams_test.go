package relay_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"

	"switchboard/bridge/relay"
)

// received is what a peer read until its connection ended.
type received struct {
	Data []byte
	Err  error // nil: an orderly end
}

// receive reads from c to its end, whatever that is.
func receive(c net.Conn) <-chan received {
	got := make(chan received, 1)
	go func() {
		data, err := io.ReadAll(c)
		got <- received{data, err}
	}()
	return got
}

// flood writes to c until that fails, and returns why.
func flood(c net.Conn) error {
	block := make([]byte, 64<<10)
	for {
		if _, err := c.Write(block); err != nil {
			return err
		}
	}
}

// floodUntilBlocked writes to c until nothing more is taken, and returns how many
// bytes were.
func floodUntilBlocked(c net.Conn) int {
	GinkgoHelper()
	total := 0
	block := make([]byte, 64<<10)
	for {
		Expect(c.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))).To(Succeed())
		n, err := c.Write(block)
		total += n
		if err != nil {
			Expect(err).To(MatchError(ContainSubstring("timeout")))
			Expect(c.SetWriteDeadline(time.Time{})).To(Succeed())
			return total
		}
	}
}

func send(c net.Conn, text string) {
	GinkgoHelper()
	Expect(io.WriteString(c, text)).To(Equal(len(text)))
}

func expect(c net.Conn, text string) {
	GinkgoHelper()
	Expect(c.SetReadDeadline(time.Now().Add(soon))).To(Succeed())
	got := make([]byte, len(text))
	_, err := io.ReadFull(c, got)
	Expect(err).NotTo(HaveOccurred())
	Expect(string(got)).To(Equal(text))
	Expect(c.SetReadDeadline(time.Time{})).To(Succeed())
}

// resetBy makes c send an RST.
func resetBy(c *net.TCPConn) {
	GinkgoHelper()
	Expect(c.SetLinger(0)).To(Succeed())
	Expect(c.Close()).To(Succeed())
}

var _ = withEngines(func(newEngine maker) {
	Describe("the bytes of a session", func() {
		var (
			engine relay.Engine
			set    relay.Set
		)
		BeforeEach(func() {
			expectNoLeaks()
			engine = newEngine(relay.Options{})
			set = engine.NewSet()
		})

		It("delivers a whole reply that begins after the client has half-closed (T1)", func() {
			l := plug(GinkgoTB(), engine, set, nil)
			send(l.client, "question")
			Expect(l.client.CloseWrite()).To(Succeed())
			Eventually(receive(l.backend), soon).Should(Receive(Equal(received{Data: []byte("question")})))
			reply := bytes.Repeat([]byte("answer"), 1<<20)
			got := receive(l.client)
			Expect(l.backend.Write(reply)).To(Equal(len(reply)))
			Consistently(l.outcome, 50*time.Millisecond).ShouldNot(Receive())
			Expect(l.backend.Close()).To(Succeed())
			var all received
			Eventually(got, soon).Should(Receive(&all))
			Expect(all.Err).NotTo(HaveOccurred())
			Expect(bytes.Equal(all.Data, reply)).To(BeTrue())
			Eventually(l.outcome, soon).Should(Receive(Equal(relay.Outcome{
				ToBackend: 8, ToClient: int64(len(reply)), First: relay.Client,
			})))
		})

		It("lets the client go on after the backend has half-closed (T2)", func() {
			l := plug(GinkgoTB(), engine, set, nil)
			Expect(l.backend.CloseWrite()).To(Succeed())
			Eventually(receive(l.client), soon).Should(Receive(Equal(received{Data: []byte{}})))
			got := receive(l.backend)
			for range 100 {
				send(l.client, "more")
			}
			Expect(l.client.CloseWrite()).To(Succeed())
			Eventually(got, soon).Should(Receive(Equal(received{Data: bytes.Repeat([]byte("more"), 100)})))
			Eventually(l.outcome, soon).Should(Receive(Equal(relay.Outcome{ToBackend: 400, First: relay.Backend})))
		})

		It("ends once and orderly when both sides half-close at once (T3)", func() {
			for range 100 {
				l := plug(GinkgoTB(), engine, set, nil)
				send(l.client, "c")
				send(l.backend, "bb")
				atClient, atBackend := receive(l.client), receive(l.backend)
				var both sync.WaitGroup
				both.Go(func() { _ = l.client.CloseWrite() })
				both.Go(func() { _ = l.backend.CloseWrite() })
				both.Wait()
				Eventually(atClient, soon).Should(Receive(Equal(received{Data: []byte("bb")})))
				Eventually(atBackend, soon).Should(Receive(Equal(received{Data: []byte("c")})))
				var o relay.Outcome
				Eventually(l.outcome, soon).Should(Receive(&o))
				Expect(o.Err).NotTo(HaveOccurred())
				Expect(o.First).NotTo(Equal(relay.Neither))
				Expect([]int64{o.ToBackend, o.ToClient}).To(Equal([]int64{1, 2}))
			}
			Expect(set.Len()).To(BeZero())
		})

		It("tells HalfClosed who was first, though the other ends as soon as it hears of that", func() {
			for range 1000 {
				wrong := make(chan relay.Side, 1)
				l := plug(GinkgoTB(), engine, set, func(p *relay.Pair) {
					p.Owner.(*owner).halfClosed = func(first relay.Side) {
						if first != relay.Client {
							wrong <- first
						}
					}
				})
				go func() {
					_, _ = io.Copy(io.Discard, l.backend)
					_ = l.backend.Close()
				}()
				Expect(l.client.CloseWrite()).To(Succeed())
				Eventually(l.outcome, soon).Should(Receive(HaveField("First", relay.Client)))
				Expect(wrong).NotTo(Receive())
				l.close()
			}
		})

		// The kernel reports a reset once. If a write is told, the read sees an end, in
		// the relay as in the peers here; so what counts is that one of them was told.
		// After an orderly end it would be neither: the write would fail with EPIPE.
		DescribeTable("a reset stays a reset",
			func(fromClient, traffic bool, side relay.Side) {
				for range 100 {
					l := plug(GinkgoTB(), engine, set, nil)
					from, to := l.client, l.backend
					if !fromClient {
						from, to = to, from
					}
					got := receive(to)
					wrote := make(chan error, 1)
					if traffic {
						go func() { wrote <- flood(to) }()
					} else {
						wrote <- nil
					}
					send(from, "half a st")
					if traffic {
						_, _ = io.CopyN(io.Discard, from, 1+rand.Int64N(1<<20))
					}
					resetBy(from)
					var end received
					var writing error
					Eventually(got, soon).Should(Receive(&end))
					Eventually(wrote, soon).Should(Receive(&writing))
					Expect(errors.Join(end.Err, writing)).To(MatchError(syscall.ECONNRESET))
					var o relay.Outcome
					Eventually(l.outcome, soon).Should(Receive(&o))
					Expect(o.First).To(Equal(side))
					Expect(o.Err).To(Or(MatchError(syscall.ECONNRESET), MatchError(syscall.EPIPE)))
					_ = to.Close()
				}
			},
			Entry("from the client (T4)", true, false, relay.Client),
			Entry("from the client while the backend sends (T4)", true, true, relay.Client),
			Entry("from the backend (T5)", false, false, relay.Backend),
			Entry("from the backend while the client sends (T5)", false, true, relay.Backend),
		)

		It("passes on the reset of a side that had half-closed, without waiting for the other to write", func() {
			l := plug(GinkgoTB(), engine, set, nil)
			Expect(l.client.CloseWrite()).To(Succeed())
			Eventually(receive(l.backend), soon).Should(Receive(HaveField("Err", BeNil())))
			resetBy(l.client)
			var o relay.Outcome
			Eventually(l.outcome, soon).Should(Receive(&o))
			Expect(o.First).To(Equal(relay.Client))
			Expect(o.Err).To(HaveOccurred())
			_, err := l.backend.Write([]byte("x"))
			Expect(err).To(Or(MatchError(syscall.ECONNRESET), MatchError(syscall.EPIPE)))
		})

		It("holds a fast writer back for a slow reader, in no more than one buffer (T6)", func() {
			const sessions = 8
			var links []*link
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			sent := make([]int, sessions)
			var all sync.WaitGroup
			for i := range sessions {
				l := plug(GinkgoTB(), engine, set, nil)
				links = append(links, l)
				all.Go(func() {
					defer GinkgoRecover()
					sent[i] = floodUntilBlocked(l.backend)
				})
			}
			all.Wait()
			runtime.ReadMemStats(&after)
			// A writer of 64 KiB each, ours of 32 KiB each, and the session itself.
			Expect(int64(after.HeapAlloc) - int64(before.HeapAlloc)).To(BeNumerically("<", sessions*192<<10))
			for i, l := range links {
				Expect(l.backend.Close()).To(Succeed())
				n, err := io.Copy(io.Discard, l.client)
				Expect(err).NotTo(HaveOccurred())
				Expect(n).To(BeEquivalentTo(sent[i]))
			}
		})

		It("delivers a million bytes that come one at a time (T27)", func() {
			l := plug(GinkgoTB(), engine, set, nil)
			const total = 1_000_000
			got := receive(l.backend)
			fd := descriptor(l.client)
			one := make([]byte, 1)
			for i := range total {
				one[0] = byte(i * 7)
				for {
					if _, err := unix.Write(fd, one); err != unix.EAGAIN {
						Expect(err).NotTo(HaveOccurred())
						break
					}
					runtime.Gosched()
				}
			}
			Expect(l.client.CloseWrite()).To(Succeed())
			var all received
			Eventually(got, time.Minute).Should(Receive(&all))
			Expect(all.Err).NotTo(HaveOccurred())
			Expect(all.Data).To(HaveLen(total))
			for i, b := range all.Data {
				if b != byte(i*7) {
					Fail("a wrong byte")
				}
			}
		})

		It("drops urgent data and goes on without it (T29)", func() {
			l := plug(GinkgoTB(), engine, set, nil)
			got := receive(l.backend)
			send(l.client, "before")
			Expect(unix.Send(descriptor(l.client), []byte("!"), unix.MSG_OOB)).To(Succeed())
			send(l.client, "after")
			Expect(l.client.CloseWrite()).To(Succeed())
			Eventually(got, soon).Should(Receive(Equal(received{Data: []byte("beforeafter")})))
			Expect(l.backend.Close()).To(Succeed())
			Eventually(l.outcome, soon).Should(Receive(HaveField("Err", BeNil())))
		})

		It("writes what comes first before what is relayed, and does not count headers of its own", func() {
			l := plug(GinkgoTB(), engine, set, func(p *relay.Pair) {
				p.ToBackend, p.Headers = []byte("PROXY\r\nhello "), 7
				p.ToClient = []byte("welcome ")
			})
			send(l.client, "world")
			send(l.backend, "home")
			expect(l.backend, "PROXY\r\nhello world")
			expect(l.client, "welcome home")
			// A byte can be read before it is counted.
			Eventually(func() []int64 {
				toBackend, toClient := l.session.Counts()
				return []int64{toBackend, toClient}
			}, soon).Should(Equal([]int64{11, 12}))
		})
	})
})

// descriptor is the descriptor of a peer, which stays the peer's.
func descriptor(c *net.TCPConn) int {
	GinkgoHelper()
	raw, err := c.SyscallConn()
	Expect(err).NotTo(HaveOccurred())
	var fd int
	Expect(raw.Control(func(f uintptr) { fd = int(f) })).To(Succeed())
	return fd
}

// noise is an endless stream that only its seed decides.
func noise(seed uint64) io.Reader {
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	return rand.NewChaCha8(key)
}

// sum reads n bytes, in pieces of many sizes, and returns their hash.
func sum(r io.Reader, n int64) []byte {
	h := sha256.New()
	copied, err := io.CopyBuffer(struct{ hash.Hash }{h}, onlyRead{io.LimitReader(r, n)}, make([]byte, 100_003))
	if err != nil || copied != n {
		return nil
	}
	return h.Sum(nil)
}

var _ = withEngines(func(newEngine maker) {
	DescribeTable("large streams both ways arrive as they were sent",
		func(o relay.Options) {
			expectNoLeaks()
			engine := newEngine(o)
			set := engine.NewSet()
			const size = 48 << 20
			l := plug(GinkgoTB(), engine, set, nil)
			var all sync.WaitGroup
			var atClient, atBackend []byte
			all.Go(func() { atClient = sum(l.client, size) })
			all.Go(func() { atBackend = sum(l.backend, size) })
			for i, c := range []*net.TCPConn{l.client, l.backend} {
				all.Go(func() {
					_, _ = io.CopyBuffer(onlyWrite{c}, onlyRead{io.LimitReader(noise(uint64(i)), size)}, make([]byte, 300_007))
					_ = c.CloseWrite()
				})
			}
			all.Wait()
			Expect(atBackend).To(Equal(sum(noise(0), size)))
			Expect(atClient).To(Equal(sum(noise(1), size)))
			Eventually(l.outcome, soon).Should(Receive(And(
				HaveField("ToBackend", BeEquivalentTo(size)),
				HaveField("ToClient", BeEquivalentTo(size)),
				HaveField("Err", BeNil()))))
		},
		Entry("with buffers only", relay.Options{SpliceAfter: -1}),
		Entry("with splice", relay.Options{}),
		Entry("with splice as early as can be", relay.Options{SpliceAfter: 1, BufferSize: 512}),
		Entry("with fewer pipes than directions", relay.Options{SpliceAfter: 1, Pipes: 1}),
	)
})

var _ = withEngines(func(newEngine maker) {
	It("gets past urgent data in the middle of a spliced stream (T29)", func() {
		expectNoLeaks()
		engine := newEngine(relay.Options{SpliceAfter: 1})
		l := plug(GinkgoTB(), engine, engine.NewSet(), nil)
		got := receive(l.backend)
		block := bytes.Repeat([]byte("0123456789"), 10_000)
		var want []byte
		for range 50 {
			Expect(l.client.Write(block)).To(Equal(len(block)))
			Expect(unix.Send(descriptor(l.client), []byte("!"), unix.MSG_OOB)).To(Or(Succeed(), MatchError(unix.EAGAIN)))
			want = append(want, block...)
		}
		Expect(l.client.CloseWrite()).To(Succeed())
		var all received
		Eventually(got, soon).Should(Receive(&all))
		Expect(all.Err).NotTo(HaveOccurred())
		// Of urgent bytes that come before the last was read only the newest is
		// urgent; the kernel leaves the others in the stream.
		Expect(bytes.Equal(bytes.ReplaceAll(all.Data, []byte("!"), nil), want)).To(BeTrue())
	})
})

var _ = withEngines(func(newEngine maker) {
	It("does not take urgent data for the end of a spliced stream (T29)", func() {
		expectNoLeaks()
		engine := newEngine(relay.Options{SpliceAfter: 1, BufferSize: 10})
		// All of it is there before the session: a splice that comes to the mark reads
		// nothing, as at an end, for the end has come too.
		l, p := prepare(GinkgoTB(), engine)
		body := bytes.Repeat([]byte("0123456789"), 1000)
		Expect(l.client.Write(body)).To(Equal(len(body)))
		Expect(unix.Send(descriptor(l.client), []byte("!"), unix.MSG_OOB)).To(Succeed())
		send(l.client, "tail")
		Expect(l.client.CloseWrite()).To(Succeed())
		_, err := engine.NewSet().Open(p)
		Expect(err).NotTo(HaveOccurred())
		Eventually(receive(l.backend), soon).Should(Receive(Equal(received{Data: append(body, "tail"...)})))
	})
})

var _ = withEngines(func(newEngine maker) {
	It("keeps two descriptors for an idle session, also after bulk both ways", func() {
		expectNoLeaks()
		engine := newEngine(relay.Options{})
		set := engine.NewSet()
		const sessions, size = 20, 4 << 20
		began := countFDs()
		first := plug(GinkgoTB(), engine, set, nil)
		first.close()
		Eventually(first.outcome, soon).Should(Receive())
		before := countFDs() // with those that the engine needs itself
		for range sessions {
			l := plug(GinkgoTB(), engine, set, nil)
			var all sync.WaitGroup
			for _, c := range []*net.TCPConn{l.client, l.backend} {
				all.Go(func() { _, _ = io.CopyN(onlyWrite{c}, noise(1), size) })
				all.Go(func() { _, _ = io.CopyN(io.Discard, c, size) })
			}
			all.Wait()
		}
		// Two are ours and two are the peers'. The engine keeps no more pipes than were
		// in use at once, which one session after the other makes two.
		Eventually(countFDs, soon).Should(And(
			BeNumerically(">=", before+sessions*4),
			BeNumerically("<=", before+sessions*4+2*2)))
		set.End(errSevered)
		Expect(engine.Close()).To(Succeed())
		Eventually(countFDs, soon).Should(Equal(began + sessions*2))
	})
})
