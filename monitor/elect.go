package monitor

// Elect is how a host's active backend is chosen.
type Elect string

// The ways to elect.
const (
	// Sticky keeps the active backend for as long as it is healthy.
	Sticky Elect = "sticky"
	// Lowest keeps to the healthy backend with the lowest index, and so pre-empts.
	Lowest Elect = "lowest"
	// Highest keeps to the healthy backend with the highest index.
	Highest Elect = "highest"
	// None elects nobody: all healthy backends of the host are used (policy balance).
	None Elect = "none"
)

// nobody stands for no backend where one is meant by its place.
const nobody = -1

// candidate is what an election knows of a backend.
type candidate struct {
	known, healthy bool
	// suspect: its last probe failed, without being a verdict.
	suspect bool
	index   *int
}

// ballot is all that an election depends on. Backends are meant by their place
// in candidates, which is configuration order.
type ballot struct {
	elect      Elect
	candidates []candidate
	// incumbent is the active backend, last the one that was active before, pin
	// the one an operator wants; each may be nobody.
	incumbent, last, pin int
	// graceOver: do not wait any longer for first verdicts.
	graceOver bool
}

// winner is the place of the backend that should be active, or nobody. It is
// pure, and it never names one that is not healthy.
func (b ballot) winner() int {
	if b.elect == None {
		return nobody
	}
	if b.pin != nobody {
		if b.candidates[b.pin].healthy {
			return b.pin
		}
		return nobody
	}
	incumbent := b.incumbent
	if incumbent != nobody && !b.candidates[incumbent].healthy {
		incumbent = nobody
	}
	if incumbent != nobody && b.elect == Sticky {
		return incumbent
	}
	if incumbent == nobody && !b.graceOver && b.undecided() {
		return nobody
	}
	best := nobody
	for i, c := range b.candidates {
		if !c.healthy || c.suspect && i != incumbent {
			continue
		}
		if b.elect == Sticky && i == b.last {
			return i
		}
		if best == nobody || b.before(c.index, b.candidates[best].index) {
			best = i
		}
	}
	return best
}

func (b ballot) undecided() bool {
	for _, c := range b.candidates {
		if !c.known {
			return true
		}
	}
	return false
}

// before is a strict order: equal indexes are before neither, so that the
// earlier in configuration order stays.
func (b ballot) before(x, y *int) bool {
	switch {
	case x == nil || y == nil:
		return x != nil && y == nil
	case b.elect == Highest:
		return *x > *y
	default:
		return *x < *y
	}
}

// tie returns two healthy backends that claim the same index, the first such
// pair in configuration order.
func tie(candidates []candidate) (first, second int, tied bool) {
	claimed := make(map[int]int, len(candidates))
	for i, c := range candidates {
		if !c.healthy || c.index == nil {
			continue
		}
		if first, taken := claimed[*c.index]; taken {
			return first, i, true
		}
		claimed[*c.index] = i
	}
	return nobody, nobody, false
}
