package monitor

import (
	"fmt"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"pgregory.net/rapid"

	"switchboard/monitor/check"
)

var _ = Describe("a verdict", func() {
	const (
		g = check.Healthy
		f = check.Failed
		u = check.Unhealthy
		o = check.Void
	)
	// after is how the verdict stands after each answer: + healthy, - unhealthy,
	// ? none yet, with ! while it is not clear.
	after := func(fall, rise int, answers ...check.Verdict) string {
		v := verdict{fall: fall, rise: rise}
		var stands string
		for _, answer := range answers {
			before := v
			changed := v.observe(answer)
			Expect(changed).To(Equal(before.known != v.known || before.healthy != v.healthy))
			switch {
			case !v.known:
				stands += "?"
			case v.healthy:
				stands += "+"
			default:
				stands += "-"
			}
			if v.suspect() {
				stands += "!"
			}
		}
		return stands
	}

	DescribeTable("fall and rise",
		func(fall, rise int, stands string, answers ...check.Verdict) {
			Expect(after(fall, rise, answers...)).To(Equal(stands))
		},
		Entry("one good answer proves a backend that had no verdict", 2, 3, "+", g),
		Entry("also after a failure", 2, 3, "?!+", f, g),
		Entry("fall failures are a first verdict", 2, 2, "?!-", f, f),
		Entry("a lost probe is no verdict", 2, 2, "++!+", g, f, g),
		Entry("fall failures in a row are", 3, 2, "++!+!-", g, f, f, f),
		Entry("fall 1 forgives nothing", 1, 1, "+-+", g, f, g),
		Entry("an explicit answer counts at once", 5, 2, "+-", g, u),
		Entry("also as the first one", 5, 2, "-", u),
		Entry("and after a failure", 5, 2, "++!-", g, f, u),
		Entry("rise good answers in a row bring it back", 2, 3, "---+", u, g, g, g),
		Entry("a failure in between begins them anew", 2, 2, "----+", u, g, f, g, g),
		Entry("a probe that could not be made counts for nothing", 2, 2, "??!?!-", o, f, o, f),
		Entry("alternating answers do not flap under fall 2 (M8)", 2, 2, "++!++!++!+", g, f, g, f, g, f, g),
		Entry("nor under fall 1, but stay down (M8)", 1, 2, "+------", g, f, g, f, g, f, g),
		Entry("nor when they are explicit (M8)", 3, 2, "+------", g, u, g, u, g, u, g),
	)
})

func TestVerdictProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := verdict{fall: rapid.IntRange(1, 5).Draw(t, "fall"), rise: rapid.IntRange(1, 5).Draw(t, "rise")}
		answers := rapid.SliceOfN(rapid.SampledFrom([]check.Verdict{check.Failed, check.Healthy, check.Unhealthy}), 1, 60).Draw(t, "answers")
		for i, answer := range answers {
			before := v
			changed := v.observe(answer)
			switch {
			case before.known && !v.known:
				t.Fatal("a verdict was lost")
			case answer == check.Unhealthy && !v.down():
				t.Fatal("an explicit answer did not count")
			case changed && v.healthy && answer != check.Healthy, changed && v.down() && answer == check.Healthy:
				t.Fatal("the verdict went against the answer")
			case v.suspect() && answer == check.Healthy:
				t.Fatal("suspect after a good answer")
			}
			if changed && v.healthy && before.known && !tail(answers[:i+1], v.rise, check.Healthy) {
				t.Fatalf("up after %v with rise %d", answers[:i+1], v.rise)
			}
			if changed && v.down() && answer == check.Failed {
				for _, a := range answers[i+1-v.fall : i+1] {
					if a == check.Healthy {
						t.Fatalf("down after %v with fall %d", answers[:i+1], v.fall)
					}
				}
			}
		}
	})
}

func tail(answers []check.Verdict, n int, want check.Verdict) bool {
	if len(answers) < n {
		return false
	}
	for _, a := range answers[len(answers)-n:] {
		if a != want {
			return false
		}
	}
	return true
}

// at makes candidates of a short spelling, one letter each with an index or
// none: h healthy, s healthy but suspect, d down, u unknown.
func at(spelled ...string) []candidate {
	var candidates []candidate
	for _, s := range spelled {
		c := candidate{known: s[0] != 'u', healthy: s[0] == 'h' || s[0] == 's', suspect: s[0] == 's'}
		if len(s) > 1 {
			var index int
			_, err := fmt.Sscan(s[1:], &index)
			Expect(err).NotTo(HaveOccurred())
			c.index = &index
		}
		candidates = append(candidates, c)
	}
	return candidates
}

var _ = Describe("an election", func() {
	type setting func(*ballot)
	incumbent := func(place int) setting { return func(b *ballot) { b.incumbent = place } }
	last := func(place int) setting { return func(b *ballot) { b.last = place } }
	pin := func(place int) setting { return func(b *ballot) { b.pin = place } }
	graceOver := func(b *ballot) { b.graceOver = true }

	DescribeTable("who wins",
		func(elect Elect, candidates []candidate, winner int, settings ...setting) {
			b := ballot{elect: elect, candidates: candidates, incumbent: nobody, last: nobody, pin: nobody}
			for _, set := range settings {
				set(&b)
			}
			Expect(b.winner()).To(Equal(winner))
		},
		Entry("nobody, of none", Sticky, at(), nobody),
		Entry("nobody, if none is healthy", Sticky, at("d0", "d1"), nobody),

		Entry("sticky: the lowest index at first", Sticky, at("h2", "h0", "h1"), 1),
		Entry("sticky: whoever was active last, at first", Sticky, at("h2", "h0", "h1"), 2, last(2)),
		Entry("sticky: not if that one is down", Sticky, at("h2", "h0", "d1"), 1, last(2)),
		Entry("sticky: the incumbent, though another has a lower index", Sticky, at("h0", "h1"), 1, incumbent(1)),
		Entry("sticky: the incumbent, though another was active before", Sticky, at("h0", "h1"), 1, incumbent(1), last(0)),
		Entry("sticky: another, if the incumbent is down", Sticky, at("h2", "d0", "h1"), 2, incumbent(1), last(1)),
		Entry("sticky: nobody, if all are down", Sticky, at("d0", "d1"), nobody, incumbent(1)),
		Entry("sticky: configuration order without indexes", Sticky, at("d", "h", "h"), 1),
		Entry("sticky: an index goes before none", Sticky, at("h", "h7"), 1),

		Entry("lowest: pre-empts", Lowest, at("h0", "h1"), 0, incumbent(1)),
		Entry("lowest: does not look at who was last", Lowest, at("h0", "h1"), 0, last(1)),
		Entry("lowest: an index goes before none", Lowest, at("h", "h7"), 1, incumbent(0)),
		Entry("lowest: ties by configuration order (M7)", Lowest, at("h3", "h0", "h0"), 1, incumbent(2)),
		Entry("lowest: negative indexes are numbers too", Lowest, at("h0", "h-1"), 1),
		Entry("highest: the highest index", Highest, at("h0", "h2", "h1"), 1, incumbent(0)),
		Entry("highest: an index goes before none", Highest, at("h", "h0"), 1),
		Entry("highest: ties by configuration order (M7)", Highest, at("h0", "h5", "h5"), 1),
		Entry("highest: configuration order without indexes", Highest, at("h", "h"), 0),

		Entry("waits for those without a verdict", Sticky, at("h0", "u"), nobody),
		Entry("waits for no longer than the grace", Sticky, at("u", "h1"), 1, graceOver),
		Entry("an incumbent does not wait", Sticky, at("u", "h1"), 1, incumbent(1)),
		Entry("lowest: an incumbent does not wait", Lowest, at("u", "h1"), 1, incumbent(1)),

		Entry("a suspect is not elected", Sticky, at("d0", "s1", "h2"), 2, incumbent(0)),
		Entry("not even if there is nobody else", Sticky, at("d0", "s1"), nobody, incumbent(0)),
		Entry("lowest: a suspect does not pre-empt", Lowest, at("s0", "h1"), 1, incumbent(1)),
		Entry("a suspect incumbent stays", Sticky, at("s0", "h1"), 0, incumbent(0)),
		Entry("lowest: a suspect incumbent stays", Lowest, at("s0", "h1"), 0, incumbent(0)),

		Entry("a pin goes before the incumbent", Sticky, at("h0", "h1"), 1, incumbent(0), pin(1)),
		Entry("a pin goes before the index", Lowest, at("h0", "h1"), 1, pin(1)),
		Entry("a pin on one that is down: nobody", Sticky, at("h0", "d1"), nobody, incumbent(0), pin(1)),
		Entry("a pin waits for no other verdict", Sticky, at("u", "h1"), 1, pin(1)),
		Entry("a pin on one without a verdict: nobody", Sticky, at("h0", "u"), nobody, pin(1), graceOver),
	)

	DescribeTable("two that claim the same index (M7)",
		func(candidates []candidate, first, second int, tied bool) {
			gotFirst, gotSecond, got := tie(candidates)
			Expect([]any{gotFirst, gotSecond, got}).To(Equal([]any{first, second, tied}))
		},
		Entry("are told", at("h2", "h0", "h0"), 1, 2, true),
		Entry("are both healthy", at("h0", "d0"), nobody, nobody, false),
		Entry("have one", at("h", "h"), nobody, nobody, false),
	)
})

func TestElectionProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		candidates := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) candidate {
			c := candidate{known: rapid.Bool().Draw(t, "known")}
			c.healthy = c.known && rapid.Bool().Draw(t, "healthy")
			c.suspect = !(c.known && !c.healthy) && rapid.Bool().Draw(t, "suspect")
			if rapid.Bool().Draw(t, "indexed") {
				index := rapid.IntRange(-1, 3).Draw(t, "index")
				c.index = &index
			}
			return c
		}), 1, 6).Draw(t, "candidates")
		place := rapid.IntRange(nobody, len(candidates)-1)
		b := ballot{
			elect:      rapid.SampledFrom([]Elect{Sticky, Lowest, Highest}).Draw(t, "elect"),
			candidates: candidates,
			incumbent:  place.Draw(t, "incumbent"),
			last:       place.Draw(t, "last"),
			pin:        place.Draw(t, "pin"),
			graceOver:  rapid.Bool().Draw(t, "grace over"),
		}
		winner := b.winner()
		kept := b.incumbent != nobody && candidates[b.incumbent].healthy
		switch {
		case winner != nobody && !candidates[winner].healthy:
			t.Fatal("the winner is not healthy")
		case winner != b.winner():
			t.Fatal("not deterministic")
		case b.pin != nobody && winner != nobody && winner != b.pin:
			t.Fatal("the winner is not the pinned one")
		case b.pin == nobody && b.elect == Sticky && kept && winner != b.incumbent:
			t.Fatal("a healthy incumbent was pre-empted")
		case b.pin == nobody && kept && winner == nobody:
			t.Fatal("a healthy incumbent was dropped")
		case b.pin == nobody && winner != nobody && winner != b.incumbent && candidates[winner].suspect:
			t.Fatal("a suspect was elected")
		}
		// Holding the election again with the winner in office changes nothing.
		b.incumbent, b.last = winner, winner
		if winner != nobody && b.winner() != winner {
			t.Fatalf("%d won, and then %d: it flaps", winner, b.winner())
		}
		if b.pin != nobody || !b.graceOver || winner != nobody {
			return
		}
		for _, c := range candidates {
			if c.healthy && !c.suspect {
				t.Fatal("nobody won, though there is a healthy one")
			}
		}
	})
}
