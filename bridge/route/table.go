package route

import (
	"errors"
	"fmt"
	"iter"
	"strings"
	"unsafe"
)

// Table says which host a name is. It is immutable, so it may be used by
// everybody at once, and one that replaces it shares all that did not change. Nil
// is an empty table.
type Table struct {
	options Options
	exact   set
	// wild has the hosts whose name begins with "*.", by what follows.
	wild set
	any  *Host
}

// Options say how a table is asked.
type Options struct {
	// Depth is how many labels a wildcard may stand for; 0 is 1. With 1, *.example.com
	// is asked for a.example.com and not for b.a.example.com; with 2 for both, after
	// *.a.example.com.
	Depth int
}

// NewTable makes a table of hosts, whose names are different. It returns all that is
// wrong with them at once. The table keeps the hosts: do not change them.
func NewTable(o Options, hosts ...*Host) (*Table, error) {
	if o.Depth < 0 {
		return nil, fmt.Errorf("a depth is 1 or more, not %d", o.Depth)
	}
	t := &Table{options: Options{Depth: max(o.Depth, 1)}}
	return t.With(hosts, nil)
}

// Asked returns t, asked as o says. t remains as it is.
func (t *Table) Asked(o Options) (*Table, error) {
	if t == nil {
		return NewTable(o)
	}
	if o.Depth < 0 {
		return nil, fmt.Errorf("a depth is 1 or more, not %d", o.Depth)
	}
	next := *t
	next.options.Depth = max(o.Depth, 1)
	return &next, nil
}

// With returns a table in which put are added, or stand for those of the same name, after
// the hosts named drop were taken out; one that is not there is no error. It
// returns all that is wrong with put at once. t remains as it is.
func (t *Table) With(put []*Host, drop []string) (*Table, error) {
	if t == nil {
		t = &Table{options: Options{Depth: 1}}
	}
	for _, h := range put {
		if h.validate() != nil {
			return nil, mistakes(put)
		}
	}
	next := *t
	var wild []change
	exact := make([]change, 0, len(drop)+len(put)) // as most are
	catchAlls := 0
	to := func(name string, h *Host) {
		switch {
		case name == CatchAll:
			next.any = h
			if h != nil {
				catchAlls++
			}
		case strings.HasPrefix(name, "*."):
			wild = append(wild, change{key: keyOf(name), host: h})
		default:
			exact = append(exact, change{key: keyOf(name), host: h})
		}
	}
	for _, name := range drop {
		to(name, nil)
	}
	for _, h := range put {
		to(h.Name, h)
	}
	var exactTwice, wildTwice bool
	next.exact, exactTwice = t.exact.with(exact)
	next.wild, wildTwice = t.wild.with(wild)
	if exactTwice || wildTwice || catchAlls > 1 {
		return nil, mistakes(put)
	}
	return &next, nil
}

// mistakes are all that is wrong with hosts that are put into a table at once.
func mistakes(put []*Host) error {
	var errs []error
	seen := make(map[string]struct{}, len(put))
	for _, h := range put {
		if err := h.validate(); err != nil {
			errs = append(errs, err)
			continue
		}
		if _, twice := seen[h.Name]; twice {
			errs = append(errs, fmt.Errorf("two hosts are named %q", h.Name))
		}
		seen[h.Name] = struct{}{}
	}
	return errors.Join(errs...)
}

// keyOf is what a host named name is found by: for a wildcard what it ends in.
func keyOf(name string) string { return strings.TrimPrefix(name, "*.") }

// Lookup returns the host that name is, nil if none: the exact one, else the
// wildcard with the most labels, else the catch-all. The name is as [Key] made it.
// An IP address is no name with labels, so no wildcard stands for it.
func (t *Table) Lookup(name []byte) *Host {
	// Not a copy: nothing keeps the string, and name does not change meanwhile.
	return t.LookupString(unsafe.String(unsafe.SliceData(name), len(name)))
}

// LookupString is [Table.Lookup] for a string.
func (t *Table) LookupString(name string) *Host {
	if t == nil {
		return nil
	}
	if h := t.exact.get(name); h != nil {
		return h
	}
	if t.wild.n == 0 || literal(name) {
		return t.any
	}
	suffix := name
	for range t.options.Depth {
		at := strings.IndexByte(suffix, '.')
		if at < 0 {
			break
		}
		suffix = suffix[at+1:]
		if h := t.wild.get(suffix); h != nil {
			return h
		}
	}
	return t.any
}

// Get returns the host whose own name is name, wildcards and the catch-all being
// names like others here; nil if there is none.
func (t *Table) Get(name string) *Host {
	if t == nil {
		return nil
	}
	switch {
	case name == CatchAll:
		return t.any
	case strings.HasPrefix(name, "*."):
		return t.wild.get(keyOf(name))
	}
	return t.exact.get(name)
}

// Len is how many hosts there are.
func (t *Table) Len() int {
	if t == nil {
		return 0
	}
	n := t.exact.n + t.wild.n
	if t.any != nil {
		n++
	}
	return n
}

// All are the hosts, in no order.
func (t *Table) All() iter.Seq[*Host] {
	return func(yield func(*Host) bool) {
		if t == nil || !t.exact.all(yield) || !t.wild.all(yield) || t.any == nil {
			return
		}
		yield(t.any)
	}
}

// Gone are the hosts of t that next has not, or has another one of that name for, in no
// order. It looks at what the two do not share, so it costs what changed between them.
func (t *Table) Gone(next *Table) iter.Seq[*Host] {
	return func(yield func(*Host) bool) {
		if t == nil {
			return
		}
		if next == nil {
			next = &Table{}
		}
		if !t.exact.gone(&next.exact, yield) || !t.wild.gone(&next.wild, yield) {
			return
		}
		if t.any != nil && t.any != next.any {
			yield(t.any)
		}
	}
}
