package bridge_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/bridge"
	"switchboard/fixtures/spec"
)

// soakSize is how much a soak is to do: otherwise, unless the environment says more.
func soakSize(variable string, otherwise int64) int64 {
	GinkgoHelper()
	said := os.Getenv(variable)
	if said == "" {
		return otherwise
	}
	size, err := strconv.ParseInt(said, 10, 64)
	Expect(err).NotTo(HaveOccurred(), variable)
	return size
}

// soak has clients and two backends stream both ways, each side checking every byte.
// A client's stream is keyed by its session, a backend's by the session and by the term
// in which the backend took it, which it says first:
//
//	client ── key, stream of (key) ──────────▶ backend
//	       ◀─ term, stream of (key, term) ────   as many bytes as it has read
//
// So a byte of another session, of another term, or from another place in the stream
// is found by whoever reads it.
type soak struct {
	addr string
	// serving is the term that each backend serves, or served last; over is the newest
	// term whose beginning has returned: those before it are over.
	serving [2]atomic.Uint64
	over    atomic.Uint64
	// settled counts, by term, the endless sessions that the term's backend has greeted.
	settled []atomic.Int64
	// halved has the keys of the sessions whose clients have shut their write side.
	halved sync.Map

	keys              atomic.Uint64
	bytes, cut, whole atomic.Int64
	done              chan struct{}
	wrong             chan error
}

// cross says that something was read where it does not belong. The first few are enough.
func (s *soak) cross(format string, args ...any) {
	select {
	case s.wrong <- fmt.Errorf(format, args...):
	default:
	}
}

// expectClean fails the spec if anybody has said so.
func (s *soak) expectClean() {
	GinkgoHelper()
	select {
	case err := <-s.wrong:
		Expect(err).NotTo(HaveOccurred())
	default:
	}
}

// answer is one of the backends.
func (s *soak) answer(which int) spec.Behaviour {
	return func(conn *net.TCPConn) {
		defer conn.Close()
		term := s.serving[which].Load()
		var head [8]byte
		if _, err := io.ReadFull(conn, head[:]); err != nil {
			return
		}
		key := binary.LittleEndian.Uint64(head[:])
		if _, err := conn.Write(binary.LittleEndian.AppendUint64(nil, term)); err != nil {
			return
		}
		in, out := newKeyed(key, 'c'), newKeyed(key+mix(term), 'b')
		buffer := make([]byte, 64<<10)
		for {
			n, err := conn.Read(buffer)
			if wrong := in.expect(buffer[:n]); wrong != nil {
				s.cross("session %d, to a backend: %w", key, wrong)
				return
			}
			s.bytes.Add(int64(n))
			if err != nil {
				if _, halved := s.halved.LoadAndDelete(key); err == io.EOF && !halved {
					s.cross("session %d, to a backend: an end that the client has not made", key)
				}
				return
			}
			out.fill(buffer[:n])
			if _, err := conn.Write(buffer[:n]); err != nil {
				return
			}
		}
	}
}

// errEarly is an orderly end before all was answered.
var errEarly = errors.New("an end too early")

// session is a client's side of one session.
type session struct {
	soak    *soak
	conn    *net.TCPConn
	key     uint64
	term    uint64
	out, in *keyed
	// sent and got are how many bytes were. What is sent from fence on is sent when the
	// term was over.
	sent, got, fence atomic.Int64
	halved           atomic.Bool
}

// open begins a session. The backend must be one that serves now.
func (s *soak) open() (*session, error) {
	over := s.over.Load()
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		return nil, err
	}
	c := &session{soak: s, conn: conn.(*net.TCPConn), key: s.keys.Add(1)}
	// Long: a client is slow here when all of them are cut at once.
	c.conn.SetDeadline(time.Now().Add(time.Minute))
	var head [8]byte
	if _, err = c.conn.Write(binary.LittleEndian.AppendUint64(nil, c.key)); err == nil {
		_, err = io.ReadFull(c.conn, head[:])
	}
	if err != nil {
		c.conn.Close()
		return nil, err
	}
	if c.term = binary.LittleEndian.Uint64(head[:]); c.term < over || c.term >= uint64(len(s.settled)) {
		c.conn.Close()
		return nil, fmt.Errorf("%w: session %d is of term %d, begun in term %d", errCrossed, c.key, c.term, over)
	}
	c.out, c.in = newKeyed(c.key, 'c'), newKeyed(c.key+mix(c.term), 'b')
	c.fence.Store(-1)
	return c, nil
}

// send sends what the stream has next.
func (c *session) send(chunk []byte) error {
	if c.fence.Load() < 0 && c.soak.over.Load() > c.term {
		c.fence.Store(c.sent.Load())
	}
	c.out.fill(chunk)
	c.sent.Add(int64(len(chunk)))
	_, err := c.conn.Write(chunk)
	return err
}

// receive reads some, and checks that it comes next, and that it is not the old
// backend's answer to what was sent when its term was over.
func (c *session) receive(buffer []byte) error {
	n, err := c.conn.Read(buffer)
	if wrong := c.in.expect(buffer[:n]); wrong != nil {
		return fmt.Errorf("%w: session %d, to a client, after %d bytes: %w", errCrossed, c.key, c.got.Load(), wrong)
	}
	c.soak.bytes.Add(int64(n))
	got := c.got.Add(int64(n))
	if fence := c.fence.Load(); fence >= 0 && got > fence {
		return fmt.Errorf("%w: session %d has an answer to byte %d, sent when term %d was over", errCrossed, c.key, fence, c.term)
	}
	return err
}

// finish shuts the write side.
func (c *session) finish() error {
	c.soak.halved.Store(c.key, nil)
	c.halved.Store(true)
	return c.conn.CloseWrite()
}

// end reads what is still to come, which must be an answer to all that was sent, and an
// orderly end.
func (c *session) end(buffer []byte) error {
	var err error
	for err == nil {
		err = c.receive(buffer)
	}
	if err != io.EOF {
		return err
	}
	if got, sent := c.got.Load(), c.sent.Load(); !c.halved.Load() || got != sent {
		return fmt.Errorf("%w: session %d, after %d bytes of %d, shut: %t", errEarly, c.key, got, sent, c.halved.Load())
	}
	return nil
}

// talk is a session of small messages, each of which is answered before the next one,
// until the soak is done.
func (c *session) talk() error {
	sizes := rand.New(rand.NewPCG(c.key, 1))
	buffer := make([]byte, 16<<10)
	for {
		chunk := buffer[:1+sizes.IntN(1<<sizes.IntN(13))]
		if err := c.send(chunk); err != nil {
			return err
		}
		for c.got.Load() < c.sent.Load() {
			if err := c.receive(buffer); err != nil {
				return err
			}
		}
		select {
		case <-c.soak.done:
			if err := c.finish(); err != nil {
				return err
			}
			return c.end(buffer)
		default:
		}
	}
}

// pour is a session of large blocks that go both ways at once, until as many bytes were
// sent, or the soak is done. Then it shuts its write side and reads the rest.
func (c *session) pour(size int64) error {
	poured := make(chan error)
	go func() {
		poured <- func() error {
			block := make([]byte, 128<<10)
			for c.sent.Load() < size {
				if err := c.send(block[:min(int64(len(block)), size-c.sent.Load())]); err != nil {
					return err
				}
				select {
				case <-c.soak.done:
					return c.finish()
				default:
				}
			}
			return c.finish()
		}()
	}()
	err := c.end(make([]byte, 128<<10))
	c.conn.Close()
	// The kernel tells of a reset once: if the sender has heard it, reads find the end. One
	// that comes after an orderly end would be EPIPE to it.
	if failed := <-poured; err == nil || errors.Is(err, errEarly) && errors.Is(failed, syscall.ECONNRESET) {
		err = failed
	}
	return err
}

// keep has one client go on until the soak is done: with a new session whenever the last
// one was cut, or has come to its end.
func (s *soak) keep(endless bool, use func(*session) error) {
	for {
		c, err := s.open()
		if err == nil {
			if endless {
				s.settled[c.term].Add(1)
			}
			err = use(c)
			c.conn.Close()
		}
		switch {
		case err == nil:
			s.whole.Add(1)
		case errors.Is(err, errCrossed):
			s.cross("%w", err)
			return
		case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
			s.cut.Add(1)
		default:
			s.cross("an end that is no cut: %w", err)
			return
		}
		select {
		case <-s.done:
			return
		default:
		}
	}
}

var _ = Describe("soak", func() {
	It("crosses, loses and repeats no byte of bulk, small messages and half-closed streams through switches", func() {
		switches, total := soakSize("SOAK_SWITCHES", 5), soakSize("SOAK_STREAM_BYTES", 16<<20)
		const talking, pouring, halving = 100, 12, 24
		s := &soak{done: make(chan struct{}), wrong: make(chan error, 10), settled: make([]atomic.Int64, switches+2)}
		backends := []*spec.Backend{spec.StartBackend(s.answer(0)), spec.StartBackend(s.answer(1))}
		names := []string{"a", "b"}
		r := startRig(rigOptions{
			host: func(o *bridge.HostOptions) { o.Hold, o.DialTimeout = time.Minute, 30*time.Second },
			// There will be very many.
			bridge: func(o *bridge.Options) { o.Records = nil },
		})
		s.addr = r.addr
		term := uint64(0)
		advance := func() (severed int) {
			which := term % 2
			term++
			s.serving[which].Store(term)
			severed = r.activate(names[which], backends[which].Addr())
			s.over.Store(term)
			return severed
		}
		advance()

		began := time.Now()
		var clients sync.WaitGroup
		for range talking {
			clients.Go(func() { s.keep(true, (*session).talk) })
		}
		for range pouring {
			clients.Go(func() { s.keep(true, func(c *session) error { return c.pour(math.MaxInt64) }) })
		}
		for range halving {
			clients.Go(func() { s.keep(false, func(c *session) error { return c.pour(rand.Int64N(1 << 20)) }) })
		}
		// A spec that has failed must not leave them behind.
		finish := sync.OnceFunc(func() { close(s.done); clients.Wait() })
		DeferCleanup(finish)
		said := began
		await := func(bytes int64) {
			GinkgoHelper()
			Eventually(func() bool {
				s.expectClean()
				if time.Since(said) >= 10*time.Second {
					said = time.Now()
					GinkgoWriter.Printf("%v: %d switches, %s\n", said.Sub(began).Round(time.Second), term-1, s)
				}
				return s.settled[term].Load() == talking+pouring && s.bytes.Load() >= bytes
			}).WithTimeout(time.Minute).WithPolling(time.Millisecond).Should(BeTrue(), "in term %d: %s", term, s)
		}
		severed := 0
		for i := range switches {
			await(total / (switches + 1) * (i + 1))
			left := backends[(term-1)%2]
			n := advance()
			Expect(n).To(And(BeNumerically(">=", talking+pouring), BeNumerically("<=", talking+pouring+halving)))
			severed += n
			Eventually(left.Open).WithTimeout(10*time.Second).WithPolling(time.Millisecond).Should(BeZero(), "after switch %d", i)
		}
		await(total)
		finish()
		s.expectClean()
		Eventually(r.open).Should(BeZero())
		Expect(s.cut.Load()).To(BeNumerically(">=", switches*(talking+pouring)))
		Expect(s.whole.Load()).To(BeNumerically(">=", talking+pouring+halving))
		AddReportEntry("soak", fmt.Sprintf("%d switches in %v, %d sessions severed, %s; foreign, lost or repeated bytes: 0",
			switches, time.Since(began).Round(time.Millisecond), severed, s))
	})
})

// String says what was done so far.
func (s *soak) String() string {
	return fmt.Sprintf("%d bytes checked (%.1f GiB) in %d sessions, of which %d were cut and %d came to their end",
		s.bytes.Load(), float64(s.bytes.Load())/(1<<30), s.keys.Load(), s.cut.Load(), s.whole.Load())
}
