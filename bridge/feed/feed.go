package feed

import "sync"

// Feed holds the newest value of one piece of state and hands it to its
// subscribers. The zero value is a feed that has no value yet. A Feed must not
// be copied after first use.
type Feed[T any] struct {
	mu          sync.Mutex
	value       T
	put         bool
	subscribers map[*subscription[T]]struct{}
}

type subscription[T any] struct{ values chan T }

// Put makes value the newest one. A subscriber that has not taken the value
// before loses that one and gets this one. Put never blocks.
func (f *Feed[T]) Put(value T) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.value, f.put = value, true
	for s := range f.subscribers {
		s.offer(value)
	}
}

// Get returns the newest value, and false if there has been none.
func (f *Feed[T]) Get() (T, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.value, f.put
}

// Subscribe returns a channel that carries the newest value, at once if there
// is one, and again after every Put. The channel is closed by cancel, which may
// be called more than once and from any goroutine; a subscriber that is done
// must call it.
func (f *Feed[T]) Subscribe() (values <-chan T, cancel func()) {
	// One slot: newest wins.
	s := &subscription[T]{values: make(chan T, 1)}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.subscribers == nil {
		f.subscribers = make(map[*subscription[T]]struct{})
	}
	f.subscribers[s] = struct{}{}
	if f.put {
		s.offer(f.value)
	}
	return s.values, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if _, open := f.subscribers[s]; open {
			delete(f.subscribers, s)
			close(s.values)
		}
	}
}

// offer replaces what lies in the slot. It is called with the feed's mutex
// held, the one place where a send under a lock is right: this feed is the only
// sender, so the slot that was just emptied is empty and the send cannot block.
func (s *subscription[T]) offer(value T) {
	select {
	case <-s.values:
	default:
	}
	s.values <- value
}
