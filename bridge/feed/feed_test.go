package feed_test

import (
	"sync"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/bridge/feed"
)

var _ = Describe("Feed", func() {
	var f *feed.Feed[int]

	BeforeEach(func() { f = &feed.Feed[int]{} })

	subscribe := func() (<-chan int, func()) {
		values, cancel := f.Subscribe()
		DeferCleanup(cancel)
		return values, cancel
	}

	It("has no value at first, and its newest one later", func() {
		_, put := f.Get()
		Expect(put).To(BeFalse())
		f.Put(0)
		value, put := f.Get()
		Expect(put).To(BeTrue(), "a zero value is a value")
		Expect(value).To(BeZero())
		f.Put(1)
		f.Put(2)
		value, _ = f.Get()
		Expect(value).To(Equal(2))
	})

	It("has nothing for a subscriber before the first value", func() {
		values, _ := subscribe()
		Expect(values).NotTo(Receive())
		f.Put(1)
		Expect(values).To(Receive(Equal(1)))
		Expect(values).NotTo(Receive())
	})

	It("replays the newest value to a new subscriber, once", func() {
		f.Put(1)
		f.Put(2)
		values, _ := subscribe()
		Expect(values).To(Receive(Equal(2)))
		Expect(values).NotTo(Receive())
	})

	It("keeps only the newest value for a subscriber that is slow", func() {
		slow, _ := subscribe()
		quick, _ := subscribe()
		for i := range 100 {
			f.Put(i)
			Expect(quick).To(Receive(Equal(i)))
		}
		Expect(slow).To(Receive(Equal(99)))
		Expect(slow).NotTo(Receive())
	})

	It("delivers a value that equals the one before, as it compares nothing", func() {
		values, _ := subscribe()
		f.Put(1)
		Expect(values).To(Receive())
		f.Put(1)
		Expect(values).To(Receive(Equal(1)))
	})

	It("closes the channel on cancel, as often as that is called, and leaves the others", func() {
		values, cancel := subscribe()
		other, _ := subscribe()
		cancel()
		cancel()
		Expect(values).To(BeClosed())
		f.Put(1)
		Expect(other).To(Receive(Equal(1)))
	})

	It("still has the value that was waiting when it is cancelled", func() {
		values, cancel := subscribe()
		f.Put(1)
		cancel()
		Expect(values).To(Receive(Equal(1)))
		Expect(values).To(BeClosed())
	})

	It("ends at the newest value for everybody, with many putting, taking and leaving", func() {
		const puts, takers = 2000, 4
		var all sync.WaitGroup
		for range takers {
			values, cancel := f.Subscribe()
			all.Go(func() {
				defer GinkgoRecover()
				defer cancel()
				last := -1
				for value := range values {
					Expect(value).To(BeNumerically(">", last), "the order of Put")
					if last = value; value == puts {
						return
					}
				}
			})
		}
		all.Go(func() {
			for range 200 {
				_, cancel := f.Subscribe()
				go cancel()
				cancel()
			}
		})
		for i := range puts + 1 {
			f.Put(i)
		}
		all.Wait()
	})
})
