package clock_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/bridge/clock"
)

func TestClock(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "Clock Suite")
}

var _ clock.Clock = clock.System{}

var _ = Describe("System", func() {
	It("tells the time with a monotonic reading (M12)", func() {
		before := time.Now()
		now := clock.System{}.Now()
		Expect(now).To(BeTemporally(">=", before))
		Expect(now.String()).To(ContainSubstring(" m="), "what a time with a monotonic reading prints")
		Expect(strings.Contains(now.Round(0).String(), " m=")).To(BeFalse(), "and one without does not")
	})
})

// A plain test, since testing/synctest drives the time.
func TestTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		timer := clock.System{}.NewTimer(time.Minute)
		if at := (<-timer.C()).Sub(began); at != time.Minute {
			t.Errorf("fired after %s, want 1m", at)
		}
		if timer.Stop() {
			t.Error("Stop of a timer that has fired says that it had not")
		}
		if timer.Reset(time.Second) {
			t.Error("Reset of a timer that has fired says that it had not")
		}
		if at := (<-timer.C()).Sub(began); at != time.Minute+time.Second {
			t.Errorf("fired again after %s, want 1m1s", at)
		}

		// A value that nobody took is not received after Stop or Reset.
		timer.Reset(time.Second)
		<-time.After(time.Minute)
		timer.Stop()
		select {
		case at := <-timer.C():
			t.Errorf("received %s after Stop", at)
		default:
		}
		timer.Reset(time.Second)
		<-time.After(time.Minute)
		reset := time.Now()
		timer.Reset(time.Hour)
		if at := (<-timer.C()).Sub(reset); at != time.Hour {
			t.Errorf("fired %s after Reset, want 1h", at)
		}
	})
}

func Example() {
	var c clock.Clock = clock.System{}
	began := c.Now()
	timer := c.NewTimer(time.Millisecond)
	<-timer.C()
	fmt.Println(c.Now().Sub(began) >= time.Millisecond)
	// Output: true
}
