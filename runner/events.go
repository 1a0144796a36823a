package runner

import (
	"context"
	"iter"
	"time"

	"switchboard/bridge"
)

// sessionCountEvery is the shortest time between two SESSION_COUNT events.
const sessionCountEvery = 100 * time.Millisecond

// Events yields the router's events under their sequence numbers, first those
// after the given one that are still remembered (all of them for 0), then new ones
// as they happen, until ctx ends or the loop is left. A gap in the numbers means
// that the reader was so slow that events were forgotten ([History]).
//
// SESSION_COUNT is no history: it is read from the counters while somebody
// listens, at most every 100 ms a host and only if it has changed, and has the
// number 0.
func (r *Router) Events(ctx context.Context, after uint64) iter.Seq2[uint64, bridge.Event] {
	return func(yield func(uint64, bridge.Event) bool) {
		tick := time.NewTicker(sessionCountEvery)
		defer tick.Stop()
		counts := make(map[string]int)
		for {
			entries, more := r.journal.Since(after)
			for _, e := range entries {
				after = e.Seq
				if !yield(e.Seq, e.Value) {
					return
				}
			}
			select {
			case <-ctx.Done():
				return
			case <-more:
			case <-tick.C:
				for _, h := range r.ordered {
					c := h.bridge.Counts()
					if last, told := counts[h.name]; told && last == c.Sessions {
						continue
					}
					counts[h.name] = c.Sessions
					e := bridge.Event{Kind: bridge.SessionCount, At: r.config.Clock.Now(), Host: h.name, Sessions: &c}
					if !yield(0, e) {
						return
					}
				}
			}
		}
	}
}
