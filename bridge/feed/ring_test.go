package feed_test

import (
	"math"
	"sync"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"pgregory.net/rapid"

	"switchboard/bridge/feed"
)

var _ = Describe("Ring", func() {
	values := func(entries []feed.Entry[string]) (all []string) {
		for _, e := range entries {
			all = append(all, e.Value)
		}
		return all
	}

	It("keeps A, B, A apart, in order, numbered from 1", func() {
		ring := feed.NewRing[string](10)
		Expect(ring.Last()).To(BeZero())
		for i, v := range []string{"A", "B", "A"} {
			Expect(ring.Append(v)).To(BeEquivalentTo(i + 1))
		}
		entries, _ := ring.Since(0)
		Expect(entries).To(Equal([]feed.Entry[string]{{Seq: 1, Value: "A"}, {Seq: 2, Value: "B"}, {Seq: 3, Value: "A"}}))
		Expect(ring.Last()).To(BeEquivalentTo(3))
	})

	It("drops the oldest ones, and tells by the numbers how many", func() {
		ring := feed.NewRing[string](2)
		for _, v := range []string{"a", "b", "c", "d"} {
			ring.Append(v)
		}
		entries, _ := ring.Since(1)
		Expect(values(entries)).To(Equal([]string{"c", "d"}))
		Expect(entries[0].Seq).To(BeEquivalentTo(3))
	})

	It("keeps one entry if it is told to keep none", func() {
		for _, size := range []int{0, -1} {
			ring := feed.NewRing[string](size)
			ring.Append("a")
			ring.Append("b")
			entries, _ := ring.Since(0)
			Expect(values(entries)).To(Equal([]string{"b"}))
		}
	})

	It("tells when there is more, whatever number was asked for", func() {
		ring := feed.NewRing[string](2)
		for _, since := range []uint64{0, 1, 5, math.MaxUint64} {
			_, more := ring.Since(since)
			Expect(more).NotTo(BeClosed())
			ring.Append("a")
			Expect(more).To(BeClosed())
		}
	})

	DescribeTable("has nothing after a number that it has not reached",
		func(seq uint64) {
			ring := feed.NewRing[string](2)
			for range 3 {
				ring.Append("a")
				entries, _ := ring.Since(seq)
				Expect(entries).To(BeEmpty())
			}
		},
		Entry("the newest one", uint64(3)),
		Entry("one of a process before", uint64(1000)),
		Entry("the highest one there is", uint64(math.MaxUint64)),
		Entry("the one below", uint64(math.MaxUint64-1)),
	)

	It("loses nothing for a reader that follows while many append", func() {
		const appenders, each = 4, 250
		ring := feed.NewRing[int](appenders * each)
		var all sync.WaitGroup
		for range appenders {
			all.Go(func() {
				for i := range each {
					ring.Append(i)
				}
			})
		}
		sum, seq := 0, uint64(0)
		for seq < appenders*each {
			entries, more := ring.Since(seq)
			for _, e := range entries {
				Expect(e.Seq).To(Equal(seq + 1))
				seq, sum = e.Seq, sum+e.Value
			}
			if len(entries) == 0 {
				Eventually(more).Should(BeClosed())
			}
		}
		all.Wait()
		Expect(sum).To(Equal(appenders * each * (each - 1) / 2))
	})
})

// The ring against a list of everything, which is what it would be if memory had
// no end.
func TestRingIsTheEndOfAList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.IntRange(1, 8).Draw(t, "size")
		ring, list := feed.NewRing[int](size), []int(nil)
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				value := rapid.Int().Draw(t, "value")
				list = append(list, value)
				if seq := ring.Append(value); seq != uint64(len(list)) {
					t.Fatalf("appended as %d, want %d", seq, len(list))
				}
			},
			"since": func(t *rapid.T) {
				seq := rapid.Uint64().Draw(t, "any")
				if rapid.Bool().Draw(t, "near") {
					seq %= uint64(len(list) + 3)
				}
				entries, _ := ring.Since(seq)
				want := max(0, len(list)-size)
				if seq > uint64(want) {
					want = int(min(seq, uint64(len(list))))
				}
				if len(entries) != len(list)-want {
					t.Fatalf("%d entries since %d of %d, size %d, want %d", len(entries), seq, len(list), size, len(list)-want)
				}
				for i, e := range entries {
					if e.Seq != uint64(want+i+1) || e.Value != list[want+i] {
						t.Fatalf("entry %d is %+v", i, e)
					}
				}
			},
			"": func(t *rapid.T) {
				if ring.Last() != uint64(len(list)) {
					t.Fatalf("the last is %d, want %d", ring.Last(), len(list))
				}
			},
		})
	})
}
