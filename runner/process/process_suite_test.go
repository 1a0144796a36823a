package process_test

import (
	"errors"
	"os"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/gleak"
	"github.com/tedsuo/ifrit"
)

func TestProcess(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "Process Suite")
}

// short is how long a spec watches for what must not happen.
const short = 50 * time.Millisecond

var _ = BeforeEach(func() {
	before := gleak.Goroutines()
	DeferCleanup(func() {
		Eventually(gleak.Goroutines).ShouldNot(gleak.HaveLeaked(before))
	})
})

var errBroken = errors.New("broken")

// scripted is a runner whose every step a spec decides.
type scripted struct {
	started chan struct{}  // closed by Run
	heard   chan os.Signal // each signal, as it is heard
	ready   chan struct{}  // close it to become ready
	leave   chan error     // send on it to return that
	// leaves is how many signals make it return nil by itself; 0: none do.
	leaves int
}

func newScripted(leaves int) *scripted {
	return &scripted{
		started: make(chan struct{}),
		heard:   make(chan os.Signal, 8), // more than any spec sends
		ready:   make(chan struct{}),
		leave:   make(chan error, 1),
		leaves:  leaves,
	}
}

// readied is ready at once.
func (s *scripted) readied() *scripted {
	close(s.ready)
	return s
}

func (s *scripted) Run(signals <-chan os.Signal, ready chan<- struct{}) error {
	close(s.started)
	becomeReady, count := s.ready, 0
	for {
		select {
		case <-becomeReady:
			becomeReady = nil
			close(ready)
		case sig := <-signals:
			s.heard <- sig
			if count++; count == s.leaves {
				return nil
			}
		case err := <-s.leave:
			return err
		}
	}
}

// begin runs r in the background, and makes sure that it has ended.
func begin(r ifrit.Runner) ifrit.Process {
	GinkgoHelper()
	p := ifrit.Background(r)
	DeferCleanup(func() {
		for range 3 {
			p.Signal(os.Interrupt)
		}
		Eventually(p.Wait()).Should(Receive())
	})
	return p
}
