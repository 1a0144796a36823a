package route_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"pgregory.net/rapid"

	"switchboard/bridge/route"
)

// members are named m-0, m-1 and so on.
func members(weights ...int) []route.Member {
	var all []route.Member
	for i, w := range weights {
		all = append(all, route.Member{Name: fmt.Sprint("m-", i), Weight: w})
	}
	return all
}

// chiSquare is how far counts are from what weights say, and limit what it exceeds
// once in a million times (Wilson and Hilferty's approximation).
func chiSquare(counts, weights []int) (chi, limit float64) {
	n, total, free := 0.0, 0.0, -1.0
	for i := range weights {
		n += float64(counts[i])
		total += float64(weights[i])
	}
	for i, w := range weights {
		if w == 0 {
			continue
		}
		want := n * float64(w) / total
		chi += (float64(counts[i]) - want) * (float64(counts[i]) - want) / want
		free++
	}
	if free == 0 {
		return 0, 1
	}
	d := 2 / (9 * free)
	return chi, free * math.Pow(1-d+4.75*math.Sqrt(d), 3)
}

// keys calls use with n keys as clients have them, always the same.
func keys(n int, use func(key []byte)) {
	random := rand.New(rand.NewPCG(3, 4))
	for i := range n {
		switch i % 3 {
		case 0:
			use(fmt.Appendf(nil, "%032x", random.Uint64()))
		case 1:
			use(fmt.Appendf(nil, "10.%d.%d.%d", i>>16, i>>8&255, i&255))
		default:
			use(fmt.Appendf(nil, "user-%d", i))
		}
	}
}

// allocations is how often f allocates.
func allocations(f func()) float64 { return testing.AllocsPerRun(100, f) }

var _ = Describe("Chooser", func() {
	shares := [][]int{{1}, {1, 1}, {99, 1}, {1, 99}, {90, 10}, {0, 1, 2, 3, 0}, {1, 1, 1, 1, 1, 1, 1}, {500, 1, 250, 100, 7, 142}, {1000000, 10000}}

	It("chooses at random by exact shares", func() {
		for _, weights := range shares {
			c := route.NewChooser(members(weights...))
			total := 0
			for _, w := range weights {
				total += w
			}
			counts := make([]int, len(weights))
			for i := range total {
				// The middle of each of total equal parts of all values.
				counts[c.Random(uint64((float64(i)+0.5)/float64(total)*(1<<64)), nil)]++
			}
			Expect(counts).To(Equal(weights))
		}
		c := route.NewChooser(members(0, 1, 2, 0))
		Expect(c.Random(0, nil)).To(Equal(1))
		Expect(c.Random(math.MaxUint64, nil)).To(Equal(2))
	})

	It("keeps the shares among those who are left", func() {
		weights := []int{5, 7, 0, 11, 13}
		c := route.NewChooser(members(weights...))
		counts := make([]int, len(weights))
		for i := range 18 {
			counts[c.Random(uint64((float64(i)+0.5)/18*(1<<64)), []int{3, 1, 2, 3})]++
		}
		Expect(counts).To(Equal([]int{5, 0, 0, 0, 13}))
	})

	It("gives each member its share of keys", func() {
		for _, weights := range shares {
			c := route.NewChooser(members(weights...))
			counts := make([]int, len(weights))
			keys(50_000, func(key []byte) { counts[c.Sticky(key, nil)]++ })
			chi, limit := chiSquare(counts, weights)
			Expect(chi).To(BeNumerically("<", limit), "%v: %v", weights, counts)
			for i, w := range weights {
				if w == 0 {
					Expect(counts[i]).To(BeZero())
				}
			}
		}
	})

	It("gives the next best members their shares too", func() {
		weights := []int{50, 30, 19, 1}
		c := route.NewChooser(members(weights...))
		second := make([][]int, len(weights))
		for i := range second {
			second[i] = make([]int, len(weights))
		}
		keys(50_000, func(key []byte) {
			first := c.Sticky(key, nil)
			second[first][c.Sticky(key, []int{first})]++
		})
		for first, counts := range second {
			left := slices.Clone(weights)
			left[first] = 0
			chi, limit := chiSquare(counts, left)
			Expect(chi).To(BeNumerically("<", limit), "after %d: %v", first, counts)
		}
	})

	It("gives shares that do not depend on how names look alike", func() {
		names := []string{"a", "b", "aa", "ab", "mysql/0", "mysql/1", "0f3ba1a8-5b1f-4c0a-9d3e-0d7c2f5c1c11", "0f3ba1a8-5b1f-4c0a-9d3e-0d7c2f5c1c12",
			strings.Repeat("x", 16), strings.Repeat("x", 17), strings.Repeat("x", 32)}
		var all []route.Member
		var weights []int
		for i, name := range names {
			all = append(all, route.Member{Name: name, Weight: i + 1})
			weights = append(weights, i+1)
		}
		c := route.NewChooser(all)
		counts := make([]int, len(names))
		keys(50_000, func(key []byte) { counts[c.Sticky(key, nil)]++ })
		chi, limit := chiSquare(counts, weights)
		Expect(chi).To(BeNumerically("<", limit), "%v", counts)
	})

	It("moves the fewest keys when a weight changes", func() {
		before, after := route.NewChooser(members(90, 10)), route.NewChooser(members(80, 20))
		moved, n := 0, 50_000
		keys(n, func(key []byte) {
			from, to := before.Sticky(key, nil), after.Sticky(key, nil)
			if from == to {
				return
			}
			moved++
			Expect([]int{from, to}).To(Equal([]int{0, 1}))
		})
		// A tenth, give or take five standard deviations.
		Expect(float64(moved)).To(BeNumerically("~", 0.1*float64(n), 5*math.Sqrt(float64(n)*0.1*0.9)))
	})

	It("chooses today whom it chose yesterday", func() {
		c := route.NewChooser([]route.Member{{Name: "web-0", Weight: 1}, {Name: "web-1", Weight: 2}, {Name: "web-2", Weight: 3}, {Name: "canary/0", Weight: 1}})
		var chosen []int
		for _, key := range []string{"", "a", "user-42", "abc", "10.0.0.1", "2001:db8::1", "0123456789abcdef", "0123456789abcdefg", strings.Repeat("k", 100), "\x00", "\x00\x00"} {
			chosen = append(chosen, c.Sticky([]byte(key), nil))
		}
		Expect(chosen).To(Equal([]int{1, 3, 0, 1, 2, 2, 0, 1, 2, 3, 2}))
	})

	It("chooses the least load for the weight", func() {
		c := route.NewChooser(members(1, 2, 0, 4))
		least := func(loads ...int) int { return c.Least(func(i int) int { return loads[i] }, 1, nil) }
		Expect(least(1, 1, 0, 3)).To(Equal(1))
		Expect(least(0, 1, 0, 1)).To(Equal(0))
		Expect(least(1, 2, 0, 3)).To(Equal(3))
		Expect(least(3, 6, 0, 13)).To(BeElementOf(0, 1))
		Expect(least(math.MaxInt, math.MaxInt, 0, math.MaxInt)).To(Equal(3))
		Expect(least(5, -1, 0, 1)).To(Equal(1), "what makes no sense is 0")
	})

	It("chooses among the least loaded by weight", func() {
		weights := []int{50, 30, 19, 1, 0}
		c := route.NewChooser(members(weights...))
		random := rand.New(rand.NewPCG(5, 6))
		counts := make([]int, len(weights))
		for range 50_000 {
			counts[c.Least(func(i int) int { return 7 * weights[i] }, random.Uint64(), nil)]++
		}
		chi, limit := chiSquare(counts, weights)
		Expect(chi).To(BeNumerically("<", limit), "%v", counts)
	})

	It("asks for the load of those alone who may be chosen", func() {
		var asked []int
		c := route.NewChooser(members(1, 0, 1, 1))
		c.Least(func(i int) int { asked = append(asked, i); return 0 }, 1, []int{2})
		Expect(asked).To(Equal([]int{0, 3}))
	})

	DescribeTable("chooses nobody",
		func(weights, skip []int) {
			c := route.NewChooser(members(weights...))
			Expect(c.Random(1<<63, skip)).To(Equal(-1))
			Expect(c.Least(func(int) int { return 0 }, 1<<63, skip)).To(Equal(-1))
			Expect(c.Sticky([]byte("key"), skip)).To(Equal(-1))
		},
		Entry("of none", nil, nil),
		Entry("of drained ones", []int{0, 0}, nil),
		Entry("of a negative weight", []int{-1}, nil),
		Entry("when all were tried", []int{1, 0, 2}, []int{0, 2}),
	)

	It("allocates nothing", func() {
		c := route.NewChooser(members(1, 2, 3, 4, 5, 6))
		key, skip, load := []byte("key"), []int{1, 2}, func(i int) int { return i }
		Expect(allocations(func() { c.Random(1<<63, nil); c.Least(load, 1, nil); c.Sticky(key, nil) })).To(BeZero())
		Expect(allocations(func() { c.Random(1<<63, skip); c.Least(load, 1, skip); c.Sticky(key, skip) })).To(BeZero())
	})
})

// Whatever the members are, sticky choices obey the same laws.
func TestStickyMovesOnlyWhatMustMove(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		weight := rapid.OneOf(rapid.IntRange(0, 3), rapid.IntRange(1, route.MaxWeight))
		name := rapid.StringMatching(`[a-z0-9/-]{1,40}`)
		all := rapid.SliceOfNDistinct(rapid.Custom(func(t *rapid.T) route.Member {
			return route.Member{Name: name.Draw(t, "name"), Weight: weight.Draw(t, "weight")}
		}), 1, 12, func(m route.Member) string { return m.Name }).Draw(t, "members")
		at := rapid.IntRange(0, len(all)-1).Draw(t, "who changes")
		changed := slices.Clone(all)
		changed[at].Weight = weight.Draw(t, "new weight")
		shuffled := rapid.Permutation(all).Draw(t, "shuffled")
		before, after, other := route.NewChooser(all), route.NewChooser(changed), route.NewChooser(shuffled)
		for _, key := range rapid.SliceOfN(rapid.SliceOf(rapid.Byte()), 1, 50).Draw(t, "keys") {
			from, to := before.Sticky(key, nil), after.Sticky(key, nil)
			switch grows := changed[at].Weight - all[at].Weight; {
			case from == to:
			case grows > 0 && to == at:
			case grows < 0 && from == at:
			default:
				t.Fatalf("%q moves from %d to %d when %d changes by %d", key, from, to, at, grows)
			}
			if o := other.Sticky(key, nil); o >= 0 && shuffled[o] != all[from] || o < 0 && from >= 0 {
				t.Fatalf("%q is with %d, and with %d of the members in another order", key, from, o)
			}
			// One after the other, all that are visible, each as if the ones before were gone.
			var skip []int
			left := slices.Clone(all)
			for {
				next := before.Sticky(key, skip)
				if gone := route.NewChooser(left).Sticky(key, nil); gone != next {
					t.Fatalf("%q is with %d after %v were tried, and with %d if they are gone", key, next, skip, gone)
				}
				if next < 0 {
					break
				}
				left[next].Weight = 0
				skip = append(skip, next)
			}
			if visible := slices.DeleteFunc(slices.Clone(all), func(m route.Member) bool { return m.Weight == 0 }); len(skip) != len(visible) {
				t.Fatalf("%q was with %v of %v", key, skip, all)
			}
		}
	})
}

// Nobody is chosen twice, nor anybody who is invisible, in whatever way.
func TestChoicesAreAmongThoseWhoAreLeft(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		weights := rapid.SliceOfN(rapid.IntRange(0, 5), 0, 20).Draw(t, "weights")
		loads := rapid.SliceOfN(rapid.IntRange(0, 5), len(weights), len(weights)).Draw(t, "loads")
		skip := rapid.SliceOf(rapid.IntRange(0, 20)).Draw(t, "skip")
		r := rapid.Uint64().Draw(t, "r")
		c := route.NewChooser(members(weights...))
		left := false
		for i, w := range weights {
			left = left || w > 0 && !slices.Contains(skip, i)
		}
		least := c.Least(func(i int) int { return loads[i] }, r, skip)
		for _, chosen := range []int{c.Random(r, skip), least, c.Sticky(fmt.Append(nil, r), skip)} {
			if (chosen >= 0) != left || left && (weights[chosen] == 0 || slices.Contains(skip, chosen)) {
				t.Fatalf("chosen is %d", chosen)
			}
		}
		for i, w := range weights {
			if w > 0 && !slices.Contains(skip, i) && loads[i]*weights[least] < loads[least]*w {
				t.Fatalf("the least is %d, not %d", i, least)
			}
		}
	})
}
