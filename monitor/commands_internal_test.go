package monitor

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("A command", func() {
	It("is answered if the monitor stops right after it", func() {
		for range 1000 {
			m := &Monitor{commands: make(chan command), stopped: make(chan struct{})}
			go func() {
				c := <-m.commands
				c.reply <- reply{epoch: 7}
				close(m.stopped)
			}()
			Expect(m.Pin(context.Background(), "a", "")).To(BeEquivalentTo(7))
		}
	})
})
