package bridge

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("A command", func() {
	It("is answered if its loop stops right after it", func() {
		for range 1000 {
			commands, answers, stopped := make(chan int), make(chan int, 1), make(chan struct{})
			go func() {
				answers <- <-commands + 1
				close(stopped)
			}()
			Expect(ask(context.Background(), commands, 6, answers, stopped)).To(Equal(7))
		}
	})
})
