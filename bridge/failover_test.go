package bridge_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/bridge"
	"switchboard/fixtures/spec"
)

// keyed is an endless stream that its key determines: no two sessions have bytes
// in common for long.
type keyed struct{ *rand.ChaCha8 }

func newKeyed(key uint64, direction byte) keyed {
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], key)
	seed[31] = direction
	return keyed{rand.NewChaCha8(seed)}
}

// expect compares what was read with what the stream has next.
func (k keyed) expect(got []byte) error {
	want := make([]byte, len(got))
	k.Read(want)
	for i := range got {
		if got[i] != want[i] {
			return fmt.Errorf("byte %d of %d is %#x, not %#x", i, len(got), got[i], want[i])
		}
	}
	return nil
}

// errCrossed is a byte that does not belong where it was read.
var errCrossed = errors.New("crossed")

// answer is a backend that checks the keyed stream it is sent, and sends as many
// bytes of another one back.
func answer(crossed func(error)) spec.Behaviour {
	return func(conn *net.TCPConn) {
		defer conn.Close()
		var key [8]byte
		if _, err := io.ReadFull(conn, key[:]); err != nil {
			return
		}
		in, out := newKeyed(binary.LittleEndian.Uint64(key[:]), 'c'), newKeyed(binary.LittleEndian.Uint64(key[:]), 'b')
		buffer := make([]byte, 64<<10)
		for {
			n, err := conn.Read(buffer)
			if wrong := in.expect(buffer[:n]); wrong != nil {
				crossed(fmt.Errorf("to a backend: %w", wrong))
				return
			}
			if err != nil {
				return
			}
			out.Read(buffer[:n])
			if _, err := conn.Write(buffer[:n]); err != nil {
				return
			}
		}
	}
}

// stream is one session of a client: it sends chunks of its stream and checks the
// answers, until it is cut, or done is closed and it ends orderly. It returns how
// many bytes came back, and errCrossed if one was wrong.
func stream(addr string, key uint64, done <-chan struct{}) (int64, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	// Long: a client is slow here when all of them are cut at once.
	conn.SetDeadline(time.Now().Add(time.Minute))
	if _, err := conn.Write(binary.LittleEndian.AppendUint64(nil, key)); err != nil {
		return 0, err
	}
	out, in := newKeyed(key, 'c'), newKeyed(key, 'b')
	sizes := rand.New(rand.NewPCG(key, 1))
	buffer := make([]byte, 32<<10)
	var checked int64
	for {
		chunk := buffer[:1+sizes.IntN(1<<sizes.IntN(13))]
		out.Read(chunk)
		if _, err := conn.Write(chunk); err != nil {
			return checked, err
		}
		if n, err := io.ReadFull(conn, chunk); err != nil {
			if wrong := in.expect(chunk[:n]); wrong != nil {
				return checked, fmt.Errorf("%w: to a client: %w", errCrossed, wrong)
			}
			return checked, err
		}
		if wrong := in.expect(chunk); wrong != nil {
			return checked, fmt.Errorf("%w: to a client: %w", errCrossed, wrong)
		}
		checked += int64(len(chunk))
		select {
		case <-done:
			conn.(*net.TCPConn).CloseWrite()
			if n, err := conn.Read(buffer); n > 0 || err != io.EOF {
				return checked, fmt.Errorf("%w: %d bytes and %v after the end", errCrossed, n, err)
			}
			return checked, nil
		default:
		}
	}
}

var _ = Describe("Failover", func() {
	It("crosses, loses and repeats no byte of 1,000 sessions through 100 failovers (T28)", func() {
		const sessions, failovers = 1000, 100
		crossed := make(chan error, 10*sessions)
		behave := answer(func(err error) { crossed <- err })
		backends := []*spec.Backend{spec.StartBackend(behave), spec.StartBackend(behave)}
		names := []string{"a", "b"}
		r := startRig(rigOptions{
			splice: 4 << 10,
			host:   func(o *bridge.HostOptions) { o.Hold, o.DialTimeout = time.Minute, 30*time.Second },
		})
		r.activate("a", backends[0].Addr())

		done := make(chan struct{})
		var (
			clients         sync.WaitGroup
			key             atomic.Uint64
			cut, whole, sum atomic.Int64
		)
		for range sessions {
			clients.Go(func() {
				for {
					n, err := stream(r.addr, key.Add(1), done)
					sum.Add(n)
					switch {
					case err == nil:
						whole.Add(1)
						return
					case errors.Is(err, errCrossed):
						crossed <- err
						return
					case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
						cut.Add(1)
					default:
						crossed <- fmt.Errorf("an end that is no cut: %w", err)
						return
					}
				}
			})
		}
		severed := 0
		for i := range failovers {
			Eventually(func() int {
				Expect(crossed).NotTo(Receive())
				return r.open()
			}, "30s").Should(Equal(sessions), "before failover %d", i)
			to := (i + 1) % 2
			severed += r.activate(names[to], backends[to].Addr())
			Eventually(backends[i%2].Open, "10s").Should(BeZero(), "after failover %d", i)
		}
		Eventually(r.open, "30s").Should(Equal(sessions))
		close(done)
		clients.Wait()
		Expect(crossed).NotTo(Receive())
		Expect(severed).To(Equal(sessions * failovers))
		Expect(whole.Load()).To(BeEquivalentTo(sessions))
		Expect(cut.Load()).To(BeNumerically(">=", sessions*failovers))
		AddReportEntry("bytes", sum.Load())
	})
})
