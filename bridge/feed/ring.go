package feed

import "sync"

// Ring keeps the last so many entries of a history under sequence numbers that
// start at 1 and have no gaps. Make one with [NewRing].
type Ring[T any] struct {
	mu      sync.Mutex
	entries []Entry[T]
	next    uint64
	more    chan struct{}
}

// Entry is one entry of a [Ring].
type Entry[T any] struct {
	Seq   uint64 // counts from 1
	Value T
}

// NewRing returns an empty ring that keeps the last size entries; size is at
// least 1.
func NewRing[T any](size int) *Ring[T] {
	return &Ring[T]{entries: make([]Entry[T], max(size, 1)), next: 1, more: make(chan struct{})}
}

// Append adds an entry, drops the oldest one if the ring is full, and returns
// the new entry's sequence number. It never blocks.
func (r *Ring[T]) Append(value T) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	seq := r.next
	r.entries[seq%uint64(len(r.entries))] = Entry[T]{Seq: seq, Value: value}
	r.next++
	close(r.more)
	r.more = make(chan struct{})
	return seq
}

// Since returns the entries after seq, oldest first, and a channel that is
// closed when there are more. A first entry whose Seq is larger than seq+1 tells
// that the ones between were dropped. Since(0) returns all there are.
func (r *Ring[T]) Since(seq uint64) ([]Entry[T], <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if seq >= r.next-1 {
		return nil, r.more
	}
	first := seq + 1
	if size := uint64(len(r.entries)); r.next > size && first < r.next-size {
		first = r.next - size
	}
	var after []Entry[T]
	for s := first; s < r.next; s++ {
		after = append(after, r.entries[s%uint64(len(r.entries))])
	}
	return after, r.more
}

// Last returns the newest entry's sequence number, 0 for an empty ring.
func (r *Ring[T]) Last() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.next - 1
}
