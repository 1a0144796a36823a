package route

import (
	"encoding/binary"
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
// chooses. Who is down is no member: make another Chooser.
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

// Least chooses the member that has the least load for its weight. Among several,
// each is as likely as its weight says, and r, uniform over all its values, decides.
// load is called once for each member that is looked at.
func (c *Chooser) Least(load func(i int) int, r uint64, skip []int) int {
	least, leastLoad, ties := member{at: -1, weight: 1}, uint64(math.MaxUint64), uint64(0)
	for _, m := range c.members {
		if slices.Contains(skip, m.at) {
			continue
		}
		load := uint64(max(load(m.at), 0))
		hi, lo := bits.Mul64(load, least.weight)
		leastHi, leastLo := bits.Mul64(leastLoad, m.weight)
		switch {
		case least.at < 0 || hi < leastHi || hi == leastHi && lo < leastLo:
			least, leastLoad, ties = m, load, m.weight
		case hi == leastHi && lo == leastLo:
			ties += m.weight
			r = mix(r+golden, golden)
			if point, _ := bits.Mul64(r, ties); point < m.weight {
				least, leastLoad = m, load
			}
		}
	}
	return least.at
}

// Sticky chooses the same member for the same key, on every machine and after every
// restart, by weighted rendezvous hashing: for each member u, a number between 0 and 1, is
// made from key and its name, and the one with the highest weight / -ln(u) is
// chosen. Each member is chosen for its share of keys, and if the members change,
// only the keys change theirs that must.
func (c *Chooser) Sticky(key []byte, skip []int) int {
	k := hash64(key)
	best, high := -1, 0.0
	for _, m := range c.members {
		if len(skip) > 0 && slices.Contains(skip, m.at) {
			continue
		}
		u := (float64(mix(k^m.hash, golden)>>11) + 0.5) / (1 << 53)
		if score := float64(m.weight) / -math.Log(u); score > high {
			best, high = m.at, score
		}
	}
	return best
}

const golden = 0x9e3779b97f4a7c15

// mix spreads each bit of a over the whole result.
func mix(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a^b, 0xd6e8feb86659fd93)
	x := hi ^ lo
	x ^= x >> 32
	x *= 0xd6e8feb86659fd93
	x ^= x >> 29
	return x
}

func hash64(b []byte) uint64 {
	h := uint64(len(b)) * golden
	for len(b) >= 8 {
		h = mix(h^binary.LittleEndian.Uint64(b), golden)
		b = b[8:]
	}
	var tail [8]byte
	copy(tail[:], b)
	return mix(h^binary.LittleEndian.Uint64(tail[:]), golden+1)
}
