package route

import (
	"cmp"
	"hash/maphash"
	"math/bits"
	"slices"
	"unsafe"
)

// set is hosts by key, immutable. It is a hash table with buckets of about [load]
// hosts, made so that an answer takes one line of memory that is likely to be in a
// cache, that of the bucket, and for a host that is there one more, that of its
// entry:
//
//	pages ──▶ page: 64 nodes ──▶ node: 8 buckets: tags, entries ──▶ entry: key, host
//
// It grows and shrinks by one bucket at a time (linear hashing, Litwin 1980), so no
// change has to wait while all hosts are laid out anew. The set after a change has
// all in common with the one before but pages, and the page, node and entries of
// the few buckets that the change is about.
type set struct {
	pages   []*page
	buckets uint64
	n       int
}

type page [64]*node

// node is 512 bytes, as large as an object can be that the collector keeps no header
// for, so its buckets are lines of memory.
type node [8]bucket

// bucket is 64 bytes, a line of memory.
type bucket struct {
	// tags has one byte of hash for each of the first entries, never 0, and then 0.
	tags    [5]uint64
	entries []entry
}

// tagged is how many entries have a tag. Who comes after them is looked at one by one.
const tagged = 5 * 8

// load is how many hosts a bucket has on average. Because not all buckets of one size
// are split at the same time, it may be twice as many in some; they should have a tag.
const load = 20

// entry is 64 bytes. The key is in it, so that nobody has to go to the host, and from
// there to its name, only to see that it is not the one.
type entry struct {
	host *Host
	// n is the length of the key, which is the end of the host's name.
	n   uint8
	key [55]byte
}

// seed is of this process, so that nobody can know which names share a bucket.
var seed = maphash.MakeSeed()

// get returns the host of key, nil if there is none.
func (s *set) get(key string) *Host {
	if s.n == 0 {
		return nil
	}
	const each, high = 0x0101010101010101, 0x8080808080808080
	hash := maphash.String(seed, key)
	at := s.bucket(hash)
	b := s.at(at)
	want := uint64(tagOf(hash)) * each
	for word, tags := range &b.tags {
		// The high bit of each byte that is 0, and of a few more.
		differ := tags ^ want
		for zero := (differ - each) &^ differ & high; zero != 0; zero &= zero - 1 {
			at := word*8 + bits.TrailingZeros64(zero)/8
			if at < len(b.entries) && b.entries[at].is(key) {
				return b.entries[at].host
			}
		}
	}
	for at := tagged; at < len(b.entries); at++ {
		if b.entries[at].is(key) {
			return b.entries[at].host
		}
	}
	return nil
}

// bucket is where a key with that hash belongs: at the low bits of hash, of which
// the highest is left out for buckets that are not there yet.
func (s *set) bucket(hash uint64) uint64 {
	mask := uint64(1)<<bits.Len64(s.buckets-1) - 1
	at, parent := hash&mask, hash&(mask>>1)
	if at >= s.buckets {
		at = parent
	}
	return at
}

// at is bucket at.
func (s *set) at(at uint64) *bucket { return &s.pages[at/512][at/8%64][at%8] }

// tagOf is the tag of a key with that hash.
func tagOf(hash uint64) uint8 { return max(uint8(hash>>56), 1) }

// is tells whether key is that of e.
func (e *entry) is(key string) bool {
	switch {
	case len(key) != int(e.n):
		return false
	case len(key) <= len(e.key):
		return string(e.key[:len(key)]) == key
	}
	return e.name() == key
}

// name is the key.
func (e *entry) name() string { return e.host.Name[len(e.host.Name)-int(e.n):] }

// all yields every host, and returns false if it was told to stop.
func (s *set) all(yield func(*Host) bool) bool {
	for at := range s.buckets {
		for _, e := range s.at(at).entries {
			if !yield(e.host) {
				return false
			}
		}
	}
	return true
}

// gone yields the hosts of s that next has not, and returns false if it was told to stop.
func (s *set) gone(next *set, yield func(*Host) bool) bool {
	for at := uint64(0); at < s.buckets; at++ {
		var other []entry
		if at < next.buckets {
			if s.pages[at/512] == next.pages[at/512] {
				at |= 511
				continue
			}
			if s.pages[at/512][at/8%64] == next.pages[at/512][at/8%64] {
				at |= 7
				continue
			}
			other = next.at(at).entries
		}
		entries := s.at(at).entries
		if unsafe.SliceData(entries) == unsafe.SliceData(other) {
			continue
		}
		for i := range entries {
			e := &entries[i]
			still := slices.ContainsFunc(other, func(o entry) bool { return o.host == e.host })
			if !still && next.get(e.name()) != e.host && !yield(e.host) {
				return false
			}
		}
	}
	return true
}

// change puts a host under a key, which is the end of its name, or takes out who is
// there if host is nil.
type change struct {
	key  string
	host *Host
	// was: it is no change, but a host of before that gets another place.
	was bool
	// bucket and order are where the change belongs and when.
	bucket uint64
	order  int
}

// with returns the set after changes, one after the other, and whether two of them put a
// host under the same key. Who is taken out is so before anybody is put.
func (s *set) with(changes []change) (next set, twice bool) {
	if len(changes) == 0 {
		return *s, false
	}
	next = set{buckets: s.buckets, n: s.n, pages: slices.Clone(s.pages)}
	if len(changes) > s.n {
		// Nearly all is new: the right size from the beginning.
		if s.n > 0 {
			all := make([]change, 0, s.n+len(changes))
			s.all(func(h *Host) bool {
				all = append(all, change{key: keyOf(h.Name), host: h, was: true})
				return true
			})
			changes = append(all, changes...)
		}
		s, next = &set{}, set{}
		for range len(changes)/load + 1 {
			next.grow(s)
		}
	}
	for i := range changes {
		c := &changes[i]
		c.bucket, c.order = next.bucket(maphash.String(seed, c.key)), i
	}
	changes = byBucket(changes, next.buckets)
	for len(changes) > 0 {
		at := changes[0].bucket
		end := 1
		for end < len(changes) && changes[end].bucket == at {
			end++
		}
		b := next.own(s, at)
		before := len(b.entries)
		after, same := apply(b.entries, changes[:end])
		b.fill(after)
		twice = twice || same
		next.n += len(b.entries) - before
		changes = changes[end:]
	}
	for next.buckets < uint64(next.n/load) {
		next.split(s)
	}
	for next.buckets > 1 && next.buckets > uint64(next.n/(load/2)) {
		next.merge(s)
	}
	return next, twice
}

// byBucket returns changes by bucket and, in each, in their order. Of many it makes a copy,
// for to count them is quicker then than to compare them.
func byBucket(changes []change, buckets uint64) []change {
	if uint64(len(changes)) < buckets {
		slices.SortFunc(changes, func(a, b change) int {
			return cmp.Or(cmp.Compare(a.bucket, b.bucket), cmp.Compare(a.order, b.order))
		})
		return changes
	}
	// ends[at] is where bucket at ends, once all changes are in their places.
	ends := make([]int, buckets+1)
	for i := range changes {
		ends[changes[i].bucket+1]++
	}
	for at := range buckets {
		ends[at+1] += ends[at]
	}
	sorted := make([]change, len(changes))
	for i := range changes {
		end := &ends[changes[i].bucket]
		sorted[*end] = changes[i]
		*end++
	}
	return sorted
}

// grow makes one bucket more, empty.
func (s *set) grow(old *set) *bucket {
	at := s.buckets
	s.buckets++
	if at%512 == 0 {
		s.pages = append(s.pages, new(page))
	}
	if at%8 == 0 {
		s.ownPage(old, at)[at/8%64] = new(node)
	}
	return s.own(old, at)
}

// own returns a bucket of s that may be changed, as its node is not that of old.
func (s *set) own(old *set, at uint64) *bucket {
	page, n := s.ownPage(old, at), at/8%64
	// That of a bucket which old does not have yet may be old's nevertheless.
	if at/512 < uint64(len(old.pages)) && page[n] == old.pages[at/512][n] {
		clone := *page[n]
		page[n] = &clone
	}
	return &page[n][at%8]
}

// ownPage is [set.own] for a page.
func (s *set) ownPage(old *set, at uint64) *page {
	n := at / 512
	if n < uint64(len(old.pages)) && s.pages[n] == old.pages[n] {
		clone := *s.pages[n]
		s.pages[n] = &clone
	}
	return s.pages[n]
}

// split makes one bucket more, of what is its in the one that had it so far.
func (s *set) split(old *set) {
	at := s.buckets
	to, from := s.grow(old), s.own(old, parent(at))
	var stay, leave []entry
	for _, e := range from.entries {
		if s.bucket(maphash.String(seed, e.name())) == at {
			leave = append(leave, e)
		} else {
			stay = append(stay, e)
		}
	}
	from.fill(slices.Clone(stay))
	to.fill(slices.Clone(leave))
}

// merge takes back what the last split did.
func (s *set) merge(old *set) {
	s.buckets--
	at := s.buckets
	from, to := s.own(old, at), s.own(old, parent(at))
	to.fill(slices.Concat(to.entries, from.entries))
	from.fill(nil)
	if at%8 == 0 {
		s.ownPage(old, at)[at/8%64] = nil
	}
	if at%512 == 0 {
		s.pages = s.pages[: at/512 : at/512]
	}
}

// parent is the bucket that bucket at is split from.
func parent(at uint64) uint64 { return at &^ (1 << (bits.Len64(at) - 1)) }

// fill makes entries what b has.
func (b *bucket) fill(entries []entry) {
	*b = bucket{entries: entries}
	for i := range entries[:min(len(entries), tagged)] {
		tag := tagOf(maphash.String(seed, entries[i].name()))
		b.tags[i/8] |= uint64(tag) << (i % 8 * 8)
	}
}

// apply returns entries after changes, in memory of its own, and whether two of them put
// a host under the same key.
func apply(entries []entry, changes []change) (after []entry, twice bool) {
	after = append(make([]entry, 0, len(entries)+len(changes)), entries...)
	old := len(entries) // behind them are those that were put
	for _, c := range changes {
		if c.was {
			after = append(after, newEntry(c))
			old++
			continue
		}
		at := 0
		for at < len(after) && !after[at].is(c.key) {
			at++
		}
		if at < len(after) {
			after = slices.Delete(after, at, at+1)
			if at < old {
				old--
			} else {
				twice = true
			}
		}
		if c.host != nil {
			after = append(after, newEntry(c))
		}
	}
	if len(after) < cap(after) {
		return slices.Clone(after), twice
	}
	return after, twice
}

func newEntry(c change) entry {
	e := entry{host: c.host, n: uint8(len(c.key))}
	copy(e.key[:], c.key)
	return e
}
