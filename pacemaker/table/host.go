package table

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"switchboard/bridge/route"
)

// MaxMembers is how many members a host may have. One with more is refused whole:
// to serve a part of them would be to choose which.
const MaxMembers = 10_000

// The fields of the HASH host:<host>. A weight has one field a backend, so that
// setting one is one step, and no text has to be taken apart.
const (
	policyField = "policy"    // active | balance
	chooseField = "choose"    // random | least_sessions | sticky
	stickyField = "sticky_by" // cookie:NAME | header:NAME | client
	holdField   = "hold"      // a duration, as 1.5s
	weightField = "weight:"   // and the backend's name: 0 to route.MaxWeight
)

// Options are what the table says about a host beside its members. The zero value is
// what a host has of which nothing is said: policy balance, chosen at random.
type Options struct {
	// Policy is [route.Active] or [route.Balance]; "": balance.
	Policy route.Policy
	// Choose and StickyBy are as in [route.Host].
	Choose   route.Choose
	StickyBy route.StickyBy
	// Hold is how long a new client may wait for a backend; 0: not at all.
	Hold time.Duration
}

// fields are o as the HASH has it, without what is a default.
func (o Options) fields() map[string]string {
	fields := make(map[string]string)
	set := func(field, value string) {
		if value != "" {
			fields[field] = value
		}
	}
	if o.Policy != route.Balance {
		set(policyField, string(o.Policy))
	}
	set(chooseField, string(o.Choose))
	set(stickyField, o.StickyBy.String())
	if o.Hold != 0 {
		set(holdField, o.Hold.String())
	}
	return fields
}

// validate returns what is wrong with the options of host, in the table's own words.
func (o Options) validate(host string) error {
	_, err := route.NewTable(route.Options{}, &route.Host{
		Name: host, Policy: cmp.Or(o.Policy, route.Balance), Choose: o.Choose, StickyBy: o.StickyBy, Hold: o.Hold,
	})
	if err == nil {
		return nil
	}
	// Whoever asks says which host it is about.
	return errors.New(strings.ReplaceAll(err.Error(), fmt.Sprintf("host %q: ", host), ""))
}

// Rejection is something in Redis that is not in the table, and why.
type Rejection struct {
	// Host is the name in the key, shortened if it is long.
	Host string `json:"host"`
	// Why is a sentence that quotes what was refused.
	Why string `json:"why"`
	// Kind says what was refused.
	Kind Kind `json:"kind"`
}

// Kind is what a [Rejection] is about.
type Kind string

const (
	// RejectedHost is a key whose name or type is wrong, or that has more than
	// [MaxMembers]. A host that was in the table stays as it was.
	RejectedHost Kind = "host"
	// RejectedMember is a member that is broken, foreign or points where none may. The
	// others of its host serve.
	RejectedMember Kind = "member"
	// RejectedOption is a field that is unknown or has a value that makes no sense. The
	// host is as if it were not there.
	RejectedOption Kind = "option"
)

// refusal tells why an address may not be in the table; nil: it may.
type refusal func(netip.AddrPort) error

// decodeHost makes the host of what its two keys hold, nil if they hold nothing.
// What cannot be used is handed to reject and left out.
func decodeHost(name string, members []string, fields map[string]string, refuse refusal, reject func(Rejection)) *route.Host {
	if len(members) == 0 && len(fields) == 0 {
		return nil
	}
	text := join(name, members)
	h := &route.Host{Name: text[:len(name)], Policy: route.Balance}
	var packed bool
	h.Backends, packed = decodeMembers(text, members, refuse, func(err error) {
		reject(Rejection{Host: name, Kind: RejectedMember, Why: err.Error()})
	})
	decodeFields(h, fields, func(field string, err error) {
		reject(Rejection{Host: name, Kind: RejectedOption, Why: fmt.Sprintf("field %s: %v", quote(field), err)})
	})
	if packed && h.StickyBy.Name == "" {
		return h
	}
	return h.Pack()
}

// join is name with members behind it. All strings of most hosts are parts of that one, so
// they need not be packed.
func join(name string, members []string) string {
	size := len(name)
	for _, member := range members {
		size += len(member)
	}
	var text strings.Builder
	text.Grow(size)
	text.WriteString(name)
	for _, member := range members {
		text.WriteString(member)
	}
	return text.String()
}

// decodeMembers returns the backends of a host, by name, and whether their strings are all
// that text ends in, which is made of members.
func decodeMembers(text string, members []string, refuse refusal, reject func(error)) (backends []route.Backend, packed bool) {
	size := 0
	for _, member := range members {
		size += len(member)
	}
	text = text[len(text)-size:]
	packed = true
	// Most hosts have as few as take no memory of their own.
	var few [4]decoded
	all := few[:0]
	for _, member := range members {
		member, text = text[:len(member)], text[len(member):]
		m, err := ParseMember(member)
		if err == nil && refuse != nil {
			err = refuse(m.Address)
		}
		if err != nil {
			reject(err)
			packed = false
			continue
		}
		// Keys have one spelling, so what follows the address is the origin as it is. So does
		// an IPv4 address.
		address, origin, _ := strings.Cut(member, "#")
		if strings.HasPrefix(address, "[") {
			address, packed = m.address(), false
		}
		all = append(all, decoded{m, address, origin})
	}
	// A SET has no order, and every router must give the same names.
	slices.SortFunc(all, func(a, b decoded) int {
		if byAddress := a.Address.Compare(b.Address); byAddress != 0 {
			return byAddress
		}
		return cmp.Compare(a.origin, b.origin)
	})
	backends = make([]route.Backend, 0, len(all))
	taken := make(map[string]struct{}, len(all))
	for _, m := range all {
		name := m.instance()
		if _, twice := taken[name]; twice || name == "" {
			name, packed = m.AddressName(), false
		}
		if _, twice := taken[name]; twice {
			reject(fmt.Errorf("%s is there more than once", m.Address))
			continue
		}
		taken[name] = struct{}{}
		backends = append(backends, route.Backend{Name: name, Address: m.text, Weight: 1, Origin: m.origin})
	}
	slices.SortFunc(backends, func(a, b route.Backend) int { return cmp.Compare(a.Name, b.Name) })
	return backends, packed
}

// decoded is a member, its address as text, and its [route.Backend.Origin].
type decoded struct {
	Member
	text, origin string
}

// decodeFields sets what the fields of the HASH say. A weight of a backend that is not
// there waits for it, so it is no mistake.
func decodeFields(h *route.Host, fields map[string]string, wrong func(field string, err error)) {
	if len(fields) == 0 {
		return
	}
	for _, field := range slices.Sorted(maps.Keys(fields)) {
		value := fields[field]
		if name, weight := strings.CutPrefix(field, weightField); weight {
			n, err := strconv.Atoi(value)
			if err != nil || strconv.Itoa(n) != value || n < 0 || n > route.MaxWeight {
				wrong(field, fmt.Errorf("%s is not a weight: a number from 0 to %d", quote(value), route.MaxWeight))
				continue
			}
			if at, found := slices.BinarySearchFunc(h.Backends, name, func(b route.Backend, name string) int {
				return cmp.Compare(b.Name, name)
			}); found {
				h.Backends[at].Weight = n
			}
			continue
		}
		switch field {
		case policyField:
			switch policy := route.Policy(value); policy {
			case route.Active, route.Balance:
				h.Policy = policy
			default:
				wrong(field, fmt.Errorf("%s is neither %s nor %s", quote(value), route.Active, route.Balance))
			}
		case chooseField:
			switch choose := route.Choose(value); choose {
			case route.Random, route.LeastSessions, route.Sticky:
				h.Choose = choose
			default:
				wrong(field, fmt.Errorf("%s is not %s, %s or %s", quote(value), route.Random, route.LeastSessions, route.Sticky))
			}
		case stickyField:
			by, err := route.ParseStickyBy(value)
			if err != nil || len(value) > route.MaxName {
				wrong(field, fmt.Errorf("%s is not cookie:NAME, header:NAME or client", quote(value)))
				continue
			}
			h.StickyBy = by
		case holdField:
			hold, err := time.ParseDuration(value)
			if err != nil || hold < 0 {
				wrong(field, fmt.Errorf("%s is not a duration of 0 or more", quote(value)))
				continue
			}
			h.Hold = hold
		default:
			wrong(field, errors.New("nobody knows this field"))
		}
	}
	settle(h, wrong)
}

// settle takes out what each field could say alone, but not together.
func settle(h *route.Host, wrong func(field string, err error)) {
	if h.Policy == route.Active && h.Choose != "" {
		wrong(chooseField, fmt.Errorf("it has no meaning under policy %s", route.Active))
		h.Choose = ""
	}
	if h.Choose == route.Sticky && h.StickyBy == (route.StickyBy{}) {
		wrong(chooseField, fmt.Errorf("it is %s, and %s does not say what by", route.Sticky, stickyField))
		h.Choose = ""
	}
	if h.Choose != route.Sticky && h.StickyBy != (route.StickyBy{}) {
		wrong(stickyField, fmt.Errorf("it has no meaning unless %s is %s", chooseField, route.Sticky))
		h.StickyBy = route.StickyBy{}
	}
}

// encodeHost is the inverse of [decodeHost].
func encodeHost(h *route.Host) (members []string, fields map[string]string) {
	fields = Options{Policy: h.Policy, Choose: h.Choose, StickyBy: h.StickyBy, Hold: h.Hold}.fields()
	for _, b := range h.Backends {
		members = append(members, b.Address+"#"+b.Origin)
		if b.Weight != 1 {
			fields[weightField+b.Name] = strconv.Itoa(b.Weight)
		}
	}
	slices.Sort(members)
	return members, fields
}

// same tells whether two hosts say the same.
func same(a, b *route.Host) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Name == b.Name && a.Policy == b.Policy && a.Choose == b.Choose && a.StickyBy == b.StickyBy && a.Hold == b.Hold &&
		slices.Equal(a.Backends, b.Backends)
}
