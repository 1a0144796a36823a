package route

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Host is what the table says about one name that clients ask for. A host in a
// table is never changed, by anybody: a change is a new Host and a new table.
type Host struct {
	// Name is an exact name in the spelling of [HostName], "*." and such a name, for
	// all names with more labels in front (see [Options]), or [CatchAll].
	Name string `json:"name"`
	// Policy is [Active] or [Balance].
	Policy Policy `json:"policy"`
	// Choose is how a backend is chosen under [Balance]; empty is [Random]. Under
	// [Active] nothing is chosen, and it is empty.
	Choose Choose `json:"choose,omitempty"`
	// StickyBy is what a client is known by, if Choose is [Sticky]; else it is zero.
	StickyBy StickyBy `json:"sticky_by,omitzero"`
	// Hold is how long a new client may wait for a backend instead of being refused;
	// 0 is not at all. In JSON it is in nanoseconds.
	Hold time.Duration `json:"hold,omitzero"`
	// Backends have names that are unique in the host. There may be none: such a host
	// is known, but nobody serves it.
	Backends []Backend `json:"backends"`
}

// CatchAll is the name of the host of all names that have no other.
const CatchAll = "*"

// MaxWeight is the greatest weight of a backend in a table.
const MaxWeight = 1_000_000

// Choose is how a backend is chosen under [Balance].
type Choose string

const (
	// Random sends each backend its share of new sessions: its weight over the sum of
	// the weights.
	Random Choose = "random"
	// LeastSessions prefers the backend that has the fewest sessions for its weight.
	LeastSessions Choose = "least_sessions"
	// Sticky sends the same client to the same backend while that is up, and each
	// backend its share of clients.
	Sticky Choose = "sticky"
)

// Pack returns a copy of h that takes three objects of memory, whatever h was made of:
// its strings are parts of one. A table of many hosts should have packed ones: there is
// less for the garbage collector to follow, and a name that was cut from a long
// answer does not keep that.
func (h *Host) Pack() *Host {
	packed := *h
	packed.Backends = slices.Clone(h.Backends)
	n := 0
	packed.strings(func(s *string) { n += len(*s) })
	var text strings.Builder
	text.Grow(n)
	packed.strings(func(s *string) { text.WriteString(*s) })
	rest := text.String()
	packed.strings(func(s *string) { *s, rest = rest[:len(*s)], rest[len(*s):] })
	for _, policy := range []Policy{Active, Balance} {
		if packed.Policy == policy {
			packed.Policy = policy
		}
	}
	for _, choose := range []Choose{Random, LeastSessions, Sticky} {
		if packed.Choose == choose {
			packed.Choose = choose
		}
	}
	return &packed
}

// strings calls use with the strings of h that are its own.
func (h *Host) strings(use func(s *string)) {
	use(&h.Name)
	use(&h.StickyBy.Name)
	for i := range h.Backends {
		use(&h.Backends[i].Name)
		use(&h.Backends[i].Address)
		use(&h.Backends[i].Origin)
	}
}

// validate returns all that is wrong with h.
func (h *Host) validate() error {
	if h == nil {
		return errors.New("a host is nil")
	}
	var errs []error
	wrong := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("host %q: "+format, append([]any{h.Name}, args...)...))
	}
	if h.Name != CatchAll {
		suffix, wildcard := strings.CutPrefix(h.Name, "*.")
		if canonical, err := HostName(suffix); err != nil {
			wrong("%w", err)
		} else if canonical != suffix {
			wrong("the name is not in its one spelling, %q", h.Name[:len(h.Name)-len(suffix)]+canonical)
		} else if wildcard && literal(suffix) {
			wrong("nothing stands before an IP address")
		}
	}
	switch h.Policy {
	case Active:
		if h.Choose != "" {
			wrong("choose has no meaning under policy %q", Active)
		}
	case Balance:
		if h.Choose != "" && h.Choose != Random && h.Choose != LeastSessions && h.Choose != Sticky {
			wrong("choose is %q, %q or %q, not %q", Random, LeastSessions, Sticky, h.Choose)
		}
	default:
		wrong("policy is %q or %q, not %q", Active, Balance, h.Policy)
	}
	if h.Choose == Sticky && h.StickyBy == (StickyBy{}) {
		wrong("choose is %q, and sticky_by does not say what by", Sticky)
	} else if h.Choose != Sticky && h.StickyBy != (StickyBy{}) {
		wrong("sticky_by has no meaning unless choose is %q", Sticky)
	}
	if h.Hold < 0 {
		wrong("hold is 0 or more, not %s", h.Hold)
	}
	for i, b := range h.Backends {
		if err := ValidBackendName(b.Name); err != nil {
			wrong("backend %d: %w", i, err)
		}
		if _, _, err := ParseAddress(b.Address, false); err != nil {
			wrong("backend %q: %w", b.Name, err)
		}
		if b.Weight < 0 || b.Weight > MaxWeight {
			wrong("backend %q: a weight is a number from 0 to %d, not %d", b.Name, MaxWeight, b.Weight)
		}
	}
	if name := h.twice(); name != "" {
		wrong("two backends are named %q", name)
	}
	return errors.Join(errs...)
}

// twice returns a name that two backends have.
func (h *Host) twice() string {
	if len(h.Backends) > 16 {
		seen := make(map[string]struct{}, len(h.Backends))
		for _, b := range h.Backends {
			if _, twice := seen[b.Name]; twice {
				return b.Name
			}
			seen[b.Name] = struct{}{}
		}
		return ""
	}
	for i, b := range h.Backends {
		for _, other := range h.Backends[:i] {
			if b.Name == other.Name {
				return b.Name
			}
		}
	}
	return ""
}

// StickyBy is what a client is known by under [Sticky]. Zero is nothing.
type StickyBy struct {
	// Kind says where to look.
	Kind StickyKind
	// Name is that of the cookie, or of the header in lower case; else it is empty.
	Name string
}

// StickyKind is where to look for what a client is known by.
type StickyKind uint8

const (
	// ByCookie is the value of a cookie in the request.
	ByCookie StickyKind = iota + 1
	// ByHeader is the value of a header field of the request.
	ByHeader
	// ByClient is the client's IP address.
	ByClient
)

// ParseStickyBy reads "cookie:NAME", "header:NAME" or "client". NAME is a token
// (RFC 9110, section 5.6.2).
func ParseStickyBy(text string) (StickyBy, error) {
	if text == "client" {
		return StickyBy{Kind: ByClient}, nil
	}
	kind, name, _ := strings.Cut(text, ":")
	by := StickyBy{Name: name}
	switch kind {
	case "cookie":
		by.Kind = ByCookie
	case "header":
		by.Kind, by.Name = ByHeader, strings.ToLower(name)
	default:
		return StickyBy{}, fmt.Errorf("%q is not what a client is known by: write cookie:NAME, header:NAME or client", text)
	}
	if !token(name) {
		return StickyBy{}, fmt.Errorf("%q is not the name of a %s", name, kind)
	}
	return by, nil
}

// String is what [ParseStickyBy] reads; that of zero is empty.
func (by StickyBy) String() string {
	switch by.Kind {
	case ByCookie:
		return "cookie:" + by.Name
	case ByHeader:
		return "header:" + by.Name
	case ByClient:
		return "client"
	}
	return ""
}

// MarshalText is [StickyBy.String].
func (by StickyBy) MarshalText() ([]byte, error) { return []byte(by.String()), nil }

// UnmarshalText is [ParseStickyBy], and reads nothing as zero.
func (by *StickyBy) UnmarshalText(text []byte) (err error) {
	if *by = (StickyBy{}); len(text) > 0 {
		*by, err = ParseStickyBy(string(text))
	}
	return err
}

// token tells whether name is a token as RFC 9110 has it.
func token(name string) bool {
	for _, c := range []byte(name) {
		letter := 'a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9'
		if !letter && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return name != ""
}
