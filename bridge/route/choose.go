package route

import (
	"math"
	"math/bits"
	"slices"
)

// Member is what a [Chooser] chooses from.
type Member struct {
	Name string
	// Weight is its part of the choices, its share being its weight over the sum of the
	// weights. With 0 or less it is invisible: never chosen, and the choice among the
	// others is as if it were not there.
	Weight int
}

// Chooser chooses one of its members. It is immutable and allocates nothing when it
// chooses. Who is down is no member: make another Chooser of those who are up.
//
// What is chosen is the member's index in what was given to [NewChooser], or -1 if
// nobody is left. Members in skip, given by index, are not chosen: they were tried
// already, and who is chosen is the next best one.
type Chooser struct {
	members []member
	total   uint64
}

// member is a visible member.
type member struct {
	name string
	at   int
	// hash is that of name.
	hash   uint64
	weight uint64
	// until is the sum of the weights up to this one.
	until uint64
}

// NewChooser makes a Chooser for members, whose names are different.
func NewChooser(members []Member) *Chooser {
	c := &Chooser{members: make([]member, 0, len(members))}
	for i, m := range members {
		if m.Weight > 0 {
			c.total += uint64(m.Weight)
			c.members = append(c.members, member{m.Name, i, hash64([]byte(m.Name)), uint64(m.Weight), c.total})
		}
	}
	return c
}

// Random chooses at random, each member as often as its weight says. r is uniform
// over all its values: it decides.
func (c *Chooser) Random(r uint64, skip []int) int {
	total := c.total
	if len(skip) > 0 {
		for _, m := range c.members {
			if slices.Contains(skip, m.at) {
				total -= m.weight
			}
		}
	}
	if total == 0 {
		return -1
	}
	// The part of total that r is of 2^64. Shares are off by less than total/2^64.
	point, _ := bits.Mul64(r, total)
	if len(skip) == 0 {
		at, _ := slices.BinarySearchFunc(c.members, point, func(m member, point uint64) int {
			if m.until <= point {
				return -1
			}
			return 1
		})
		return c.members[at].at
	}
	for _, m := range c.members {
		if slices.Contains(skip, m.at) {
			continue
		}
		if point < m.weight {
			return m.at
		}
		point -= m.weight
	}
	return -1
}

// Least chooses the member that has the least load for its weight, load/weight. Among
// several, each is as likely as its weight says; r, uniform over all its values,
// decides. load is asked once for each member that is not skipped.
func (c *Chooser) Least(load func(i int) int, r uint64, skip []int) int {
	var least member
	var leastLoad, ties uint64
	for _, m := range c.members {
		if slices.Contains(skip, m.at) {
			continue
		}
		load := uint64(max(load(m.at), 0))
		// load/m.weight against leastLoad/least.weight, with neither division nor overflow.
		hi, lo := bits.Mul64(load, least.weight)
		leastHi, leastLo := bits.Mul64(leastLoad, m.weight)
		switch {
		case ties == 0 || hi < leastHi || hi == leastHi && lo < leastLo:
			least, leastLoad, ties = m, load, m.weight
		case hi == leastHi && lo == leastLo:
			// It takes the place of the ones before with its share of all so far, so in the end
			// each has its share.
			ties += m.weight
			r = mix(r, ties)
			if point, _ := bits.Mul64(r, ties); point < m.weight {
				least, leastLoad = m, load
			}
		}
	}
	if ties == 0 {
		return -1
	}
	return least.at
}

// Sticky chooses the same member for the same key, on every router and after every
// restart, by weighted rendezvous hashing (Schindelhauer and Schomaker 2005): a
// member's score is weight / -ln(u), where u, between 0 and 1, is made of the hash of key
// and its name, and the highest score wins. So each member gets its share of the keys; if
// a member goes, only its keys move; if a weight changes, keys move only towards the
// members whose share grew.
func (c *Chooser) Sticky(key []byte, skip []int) int {
	hash := hash64(key)
	var best *member
	high := 0.0
	for i := range c.members {
		m := &c.members[i]
		if slices.Contains(skip, m.at) {
			continue
		}
		u := min((float64(mix(hash, m.hash)>>11)+0.5)/(1<<53), below1)
		// As -ln(u) > 1-u, most lose without a logarithm. The slack is for rounding.
		if float64(m.weight) < high*(1-u)*(1-1e-9) {
			continue
		}
		// Names decide between equal scores, so the order of members never does.
		score := float64(m.weight) / -math.Log(u)
		if score > high || score == high && m.name < best.name {
			best, high = m, score
		}
	}
	if best == nil {
		return -1
	}
	return best.at
}

// below1 is the greatest number below 1, to which the greatest u is rounded: 1 has
// the logarithm 0.
const below1 = 1 - 1.0/(1<<53)
