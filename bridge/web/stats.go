package web

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Buckets returns the upper bounds of [Counters].Latency; what is longer than the
// last is in a bucket of its own.
func Buckets() []time.Duration { return slices.Clone(buckets[:]) }

var buckets = [...]time.Duration{
	500 * time.Microsecond, time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond,
	25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second,
}

// Counters are what a host's requests came to. All but the maps are sums since the
// start.
type Counters struct {
	// Requests have been answered, or given up; those in flight are not among them.
	Requests int64
	// Classes are the answers by the first digit of their status, from 1 to 5.
	Classes [6]int64
	// FromClients and ToClients are bytes on clients' side, heads included.
	FromClients, ToClients int64
	// Latency counts requests by how long they took, from the whole head to the last
	// byte of the answer: in each bucket those up to its bound in [Buckets].
	Latency [len(buckets) + 1]int64
	// Took is the sum of that.
	Took time.Duration
	// Retries are attempts beyond the first.
	Retries int64
	// Refusals count by reason the requests that the router answered itself.
	Refusals map[string]int64
}

// stats are one host's counters.
type stats struct {
	requests               atomic.Int64
	classes                [6]atomic.Int64
	fromClients, toClients atomic.Int64
	latency                [len(buckets) + 1]atomic.Int64
	took                   atomic.Int64
	retries                atomic.Int64
	refusals               reasons
	// credit is how many retries there may be now, in tenths.
	credit atomic.Int64
}

// A retry that may reach a backend twice as often as its clients asked costs ten
// requests' credit, so that backends that all fail see a tenth more requests than
// there are. The start and the most that is saved is enough for one backend to go
// down with all that it was doing.
const (
	retryCost = 10
	maxCredit = 1000 * retryCost
)

func newStats() *stats {
	s := &stats{}
	s.credit.Store(maxCredit)
	return s
}

// earn adds a request's share to the credit.
func (s *stats) earn() {
	if s.credit.Load() < maxCredit {
		s.credit.Add(1)
	}
}

// spend takes the credit for a retry, if there is enough.
func (s *stats) spend() bool {
	if s.credit.Add(-retryCost) >= 0 {
		return true
	}
	s.credit.Add(retryCost)
	return false
}

// answered counts a request that has ended; status is 0 if it had no answer.
func (s *stats) answered(status int, took time.Duration, from, to int64) {
	s.requests.Add(1)
	s.classes[status/100].Add(1)
	s.fromClients.Add(from)
	s.toClients.Add(to)
	s.took.Add(int64(took))
	for i, bound := range buckets {
		if took <= bound {
			s.latency[i].Add(1)
			return
		}
	}
	s.latency[len(buckets)].Add(1)
}

func (s *stats) snapshot() Counters {
	c := Counters{
		Requests: s.requests.Load(), FromClients: s.fromClients.Load(), ToClients: s.toClients.Load(),
		Took: time.Duration(s.took.Load()), Retries: s.retries.Load(), Refusals: s.refusals.snapshot(),
	}
	for i := range s.classes {
		c.Classes[i] = s.classes[i].Load()
	}
	for i := range s.latency {
		c.Latency[i] = s.latency[i].Load()
	}
	return c
}

// reasons counts by reason. The reasons are constants of this program's, so there
// are few.
type reasons struct {
	counts sync.Map // string -> *atomic.Int64
}

func (r *reasons) add(reason string) {
	n, ok := r.counts.Load(reason)
	if !ok {
		n, _ = r.counts.LoadOrStore(reason, new(atomic.Int64))
	}
	n.(*atomic.Int64).Add(1)
}

func (r *reasons) snapshot() map[string]int64 {
	counts := make(map[string]int64)
	r.counts.Range(func(reason, n any) bool {
		counts[reason.(string)] = n.(*atomic.Int64).Load()
		return true
	})
	return counts
}
