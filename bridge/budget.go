package bridge

import "sync/atomic"

// Budget counts what may be open at once: the sessions of a listener, or of all
// listeners together. A nil Budget has no limit.
type Budget struct {
	limit int64
	open  atomic.Int64
}

// NewBudget returns a budget of limit sessions; with 0 or less it has no limit.
func NewBudget(limit int) *Budget {
	if limit <= 0 {
		return nil
	}
	return &Budget{limit: int64(limit)}
}

func (b *Budget) acquire() bool {
	if b == nil {
		return true
	}
	if b.open.Add(1) > b.limit {
		b.open.Add(-1)
		return false
	}
	return true
}

func (b *Budget) release() {
	if b != nil {
		b.open.Add(-1)
	}
}
