package api_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/api"
	"switchboard/fixtures/spec"
)

// slow is a writer that takes its time.
type slow struct {
	bytes.Buffer
	clock  *spec.Clock
	writes int
}

func (s *slow) Write(p []byte) (int, error) {
	s.writes++
	s.clock.Advance(60 * time.Microsecond)
	return s.Buffer.Write(p)
}

var _ = Describe("Turns", func() {
	var (
		clock *spec.Clock
		turns *api.Turns
		ctx   context.Context
	)

	BeforeEach(func() {
		spec.CheckLeaks()
		clock = spec.NewClock()
		turns = api.NewTurns(clock)
		ctx = context.Background()
	})

	// pausing calls f, which is to pause.
	pausing := func(f func(context.Context) error) <-chan error {
		ended := make(chan error, 1)
		waiting := clock.Waiting()
		go func() { ended <- f(ctx) }()
		Eventually(clock.Waiting).WithTimeout(within).Should(Equal(waiting + 1))
		return ended
	}

	It("lets work go on until its turn is over, and then has it pause", func() {
		turn := turns.Begin()
		Expect(turn.Rest(ctx)).To(Succeed())
		clock.Advance(99 * time.Microsecond)
		Expect(turn.Rest(ctx)).To(Succeed())
		for range 2 {
			clock.Advance(100 * time.Microsecond)
			ended := pausing(turn.Rest)
			clock.Advance(999 * time.Microsecond)
			Consistently(ended, "20ms").ShouldNot(Receive())
			clock.Advance(time.Microsecond)
			Eventually(ended).WithTimeout(within).Should(Receive(BeNil()))
			Expect(turn.Rest(ctx)).To(Succeed(), "a new turn")
		}
	})

	It("has those who work at once pause one after the other", func() {
		one, other := turns.Begin(), turns.Begin()
		first := pausing(one.Pause)
		second := pausing(other.Pause)
		clock.Advance(time.Millisecond)
		Eventually(first).WithTimeout(within).Should(Receive(BeNil()))
		Consistently(second, "20ms").ShouldNot(Receive())
		clock.Advance(time.Millisecond)
		Eventually(second).WithTimeout(within).Should(Receive(BeNil()))
	})

	It("ends a pause with its context, and leaves no timer", func() {
		gone := errors.New("gone")
		var leave context.CancelCauseFunc
		ctx, leave = context.WithCancelCause(ctx)
		ended := pausing(turns.Begin().Pause)
		leave(gone)
		Eventually(ended).WithTimeout(within).Should(Receive(MatchError(gone)))
		Expect(clock.Waiting()).To(BeZero())
	})

	It("writes in pieces, with a pause when a turn is over", func() {
		w, text := &slow{clock: clock}, []byte(strings.Repeat("0123456789", 20_000))
		turn := turns.Begin()
		ended := pausing(func(ctx context.Context) error { return turn.Write(ctx, w, text) })
		Expect(w.writes).To(Equal(2))
		clock.Advance(time.Millisecond)
		Eventually(clock.Waiting).WithTimeout(within).Should(Equal(1))
		clock.Advance(time.Millisecond)
		Eventually(ended).WithTimeout(within).Should(Receive(BeNil()))
		Expect(w.Bytes()).To(Equal(text))
		Expect(turn.Write(ctx, failing{}, text)).To(MatchError(io.ErrClosedPipe))
	})
})

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

var _ = Describe("Buffers", func() {
	It("keeps some for who comes next, and none that is much too large", func() {
		buffers := api.NewBuffers(1)
		Expect(cap(buffers.Take())).To(BeZero())
		buffers.Give(make([]byte, 300_000, 1_000_000))
		buffers.Give(make([]byte, 1))
		kept := buffers.Take()
		Expect(kept).To(BeEmpty())
		Expect(cap(kept)).To(Equal(1_000_000))
		buffers.Give(make([]byte, 200_000, 1_000_000))
		Expect(cap(buffers.Take())).To(BeZero())
		buffers.Give(make([]byte, 1, 1000))
		Expect(cap(buffers.Take())).To(Equal(1000))
	})
})
