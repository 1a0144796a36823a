package route_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"switchboard/bridge/route"
)

// What Gone yields is what a look at every host would find, whatever the table went
// through in between: it may have grown, shrunk, or been laid out anew.
func TestGone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.Custom(func(t *rapid.T) string {
			return rapid.SampledFrom([]string{"", "*."}).Draw(t, "kind") + fmt.Sprintf("h%d.example.com", rapid.IntRange(0, 300).Draw(t, "n"))
		})
		name = rapid.OneOf(name, rapid.Just(route.CatchAll))
		step := func(before *route.Table) *route.Table {
			drop := rapid.SliceOfN(name, 0, 400).Draw(t, "drop")
			put := make(map[string]*route.Host)
			for _, n := range rapid.SliceOfN(name, 0, 400).Draw(t, "put") {
				put[n] = balanced(n)
			}
			after, err := before.With(slices.Collect(maps.Values(put)), drop)
			if err != nil {
				t.Fatal(err)
			}
			return after
		}
		var old *route.Table
		for range rapid.IntRange(0, 3).Draw(t, "steps before") {
			old = step(old)
		}
		next := old
		for range rapid.IntRange(0, 3).Draw(t, "steps between") {
			next = step(next)
		}
		want := make(map[*route.Host]bool)
		for h := range old.All() {
			if next.Get(h.Name) != h {
				want[h] = true
			}
		}
		got := make(map[*route.Host]bool)
		for h := range old.Gone(next) {
			if got[h] {
				t.Fatalf("%s is there twice", h.Name)
			}
			got[h] = true
		}
		if !maps.Equal(got, want) {
			t.Fatalf("%d hosts are gone, not %d", len(want), len(got))
		}
	})
}
