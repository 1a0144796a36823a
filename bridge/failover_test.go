package bridge_test

import (
	"bytes"
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

// keyed is an endless stream that its key determines: each eight bytes of it are a word
// mixed from the key and the word's number, so that bytes of another stream, or of
// another place in it, do not pass for these. It is as cheap as that, since specs move
// a lot of it.
type keyed struct {
	next uint64
	word [8]byte
	rest int // how many bytes of word are still to come
}

// golden is odd, so that the words of a stream are all others.
const golden = 0x9e3779b97f4a7c15

func newKeyed(key uint64, direction byte) *keyed {
	return &keyed{next: mix(mix(key) + uint64(direction))}
}

// mix is the finalizer of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom
// Number Generators, 2014).
func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// fill fills to with what the stream has next. Nobody else has the one or the other, so the
// race detector, which would look at each word, may look away.
//
//go:norace
func (k *keyed) fill(to []byte) {
	if k.rest > 0 {
		n := copy(to, k.word[8-k.rest:])
		to, k.rest = to[n:], k.rest-n
	}
	next := k.next
	for ; len(to) >= 8; to = to[8:] {
		binary.LittleEndian.PutUint64(to, mix(next))
		next += golden
	}
	if len(to) > 0 {
		binary.LittleEndian.PutUint64(k.word[:], mix(next))
		next += golden
		k.rest = 8 - copy(to, k.word[:])
	}
	k.next = next
}

// expect compares what was read with what the stream has next.
func (k *keyed) expect(got []byte) error {
	var block [4 << 10]byte
	for at := 0; at < len(got); at += len(block) {
		part := got[at:min(at+len(block), len(got))]
		want := block[:len(part)]
		k.fill(want)
		if bytes.Equal(part, want) {
			continue
		}
		for i := range part {
			if part[i] != want[i] {
				return fmt.Errorf("byte %d of %d is %#x, not %#x", at+i, len(got), part[i], want[i])
			}
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
			out.fill(buffer[:n])
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
		out.fill(chunk)
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
