package config

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"switchboard/bridge/route"
)

// decoder fills a File from a tree by the schema.
type decoder struct {
	problems
	// at has the place of every key that is set, and of every element.
	at map[string]place
	// bad has the paths that were reported: nothing more is said of them. partly has
	// the paths of what they are in.
	bad, partly map[string]bool
	// unquoted has the paths of text that looks like a number. Quotes alone may not
	// help, so this is said only if nothing else is wrong with it.
	unquoted []string
}

// report adds an error about the key at path.
func (d *decoder) report(at place, path, format string, args ...any) {
	d.bad[path] = true
	for path := parent(path); path != ""; path = parent(path) {
		d.partly[path] = true
	}
	d.add(at, path, format, args...)
}

// mapping decodes n into the struct v.
func (d *decoder) mapping(n *node, v reflect.Value, path string) {
	if n.kind != mapping {
		d.report(n.at, path, "%s", n.wants("a mapping (key: value)"))
		return
	}
	fields := fieldsOf(v.Type())
	seen := make(map[string]place)
	for _, m := range n.members {
		i := slices.IndexFunc(fields, func(f field) bool { return f.key == m.key })
		if i < 0 {
			d.unknown(m, v.Type(), path)
			continue
		}
		below := join(path, m.key)
		if first, twice := seen[m.key]; twice {
			d.report(m.at, below, "the key is set twice, first on line %d: remove one", first.line)
			continue
		}
		seen[m.key] = m.at
		d.at[below] = m.value.at
		d.value(m.value, v.Field(fields[i].index), fields[i], below)
	}
	for _, f := range fields {
		if _, set := seen[f.key]; !set {
			d.absent(n.at, v.Field(f.index), f, join(path, f.key))
		}
	}
}

// unknown reports a key that the schema does not have. What stands there may be
// anything, the rest of a password with a comma in it included.
func (d *decoder) unknown(m member, t reflect.Type, path string) {
	if m.bare {
		d.add(m.at, path, "a value is missing in {…}: write key: value, and quote text that holds a comma")
		return
	}
	var keys []string
	for _, f := range fieldsOf(t) {
		keys = append(keys, f.key)
	}
	key := m.key
	if route.ValidName(key) != nil {
		key = quote(key)
	}
	d.add(m.at, join(path, key), "unknown key %s: %s", quote(m.key),
		suggest(m.key, keys, "the keys here are "+strings.Join(keys, ", ")))
}

// absent gives a key that is not set its default.
func (d *decoder) absent(parent place, v reflect.Value, f field, path string) {
	standard, has := f.tag.Lookup("default")
	switch nested, list := f.nested(); {
	case has:
		d.scalar(&node{at: parent, kind: words, text: standard}, v, f, path)
	case list && f.required():
		d.report(parent, path, "no %s: at least one is needed", f.key)
	case f.required():
		d.report(parent, path, "the key is missing: %s", f.tag.Get("doc"))
	case nested != nil && v.Kind() == reflect.Struct:
		d.mapping(&node{at: parent}, v, path)
	}
}

// value decodes n into v, which is of any kind that the schema has.
func (d *decoder) value(n *node, v reflect.Value, f field, path string) {
	_, many := f.nested()
	switch {
	case v.Kind() == reflect.Struct:
		d.mapping(n, v, path)
	case v.Kind() == reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.mapping(n, v.Elem(), path)
	case v.Kind() != reflect.Slice:
		d.scalar(n, v, f, path)
	case n.kind != list:
		d.report(n.at, path, "%s", n.wants("a list"))
	case len(n.items) == 0 && f.required():
		d.report(n.at, path, "no %s: at least one is needed", f.key)
	default:
		v.Set(reflect.MakeSlice(v.Type(), len(n.items), len(n.items)))
		for i, item := range n.items {
			d.at[element(path, i)] = item.at
			if many {
				d.mapping(item, v.Index(i), element(path, i))
			} else {
				d.scalar(item, v.Index(i), f, element(path, i))
			}
		}
	}
}

// scalar decodes text, a number, a truth, a duration or a prefix.
func (d *decoder) scalar(n *node, v reflect.Value, f field, path string) {
	var err error
	switch v.Interface().(type) {
	case time.Duration:
		err = setDuration(n, v, f)
	case netip.Prefix:
		err = setPrefix(n, v)
	case int:
		err = setNumber(n, v, f)
	case bool:
		err = setTruth(n, v)
	default:
		err = setText(n, v, f)
		if err == nil && n.kind == number {
			d.unquoted = append(d.unquoted, path)
		}
	}
	if err != nil {
		d.report(n.at, path, "%v", err)
	}
}

// wants says that n is not what its key takes. It does not show the value,
// which may be a password.
func (n *node) wants(what string) string {
	switch n.kind {
	case empty:
		return "the value is empty: write " + what + ", or remove the key"
	case mapping:
		return "a mapping is not allowed here: write " + what
	case list:
		return "a list is not allowed here: write " + what
	default:
		return "a single value is not allowed here: write " + what
	}
}

func (n *node) scalarText(what string) (string, error) {
	switch n.kind {
	case text, number, words:
		return n.text, nil
	case truth, other:
		return "", errors.New("the value has the wrong type: write " + what)
	default:
		return "", errors.New(n.wants(what))
	}
}

// mustQuote is what is wrong with text that looks like something else.
const mustQuote = "the value must be text: put it in quotes"

func setText(n *node, v reflect.Value, f field) error {
	if n.kind == other || n.kind == truth || n.kind == number && f.typ == reflect.TypeFor[Secret]() {
		return errors.New(mustQuote)
	}
	s, err := n.scalarText("text")
	if err != nil {
		return err
	}
	if s == "" && f.required() {
		return errors.New("the value must not be empty")
	}
	if f.tag.Get("host") != "" {
		s = spelling(s)
	}
	if enum := strings.Fields(f.tag.Get("enum")); len(enum) > 0 && !slices.Contains(enum, s) {
		return fmt.Errorf("%s is not a value of this key: %s", quote(s), suggest(s, enum, "use "+strings.Join(enum, ", ")))
	}
	v.SetString(s)
	return nil
}

// spelling is a host's name in its one spelling, or as it is if it has none.
func spelling(name string) string {
	suffix, _ := strings.CutPrefix(name, "*.")
	spelled, err := route.HostName(suffix)
	if err != nil {
		return name
	}
	return strings.TrimSuffix(name, suffix) + spelled
}

func setNumber(n *node, v reflect.Value, f field) error {
	s, err := n.scalarText("a number")
	if err != nil {
		return err
	}
	if n.kind == text {
		return errors.New("the value must be a number, without quotes")
	}
	i, err := strconv.Atoi(s)
	if err != nil || strconv.Itoa(i) != s {
		return fmt.Errorf("%s is not a plain decimal number", quote(s))
	}
	least, _ := strconv.Atoi(f.tag.Get("min"))
	if most, err := strconv.Atoi(f.tag.Get("max")); err == nil && (i < least || i > most) {
		return fmt.Errorf("%d is out of range: use %d to %d", i, least, most)
	}
	if i < least {
		return fmt.Errorf("%d is too small: use %d or more", i, least)
	}
	v.SetInt(int64(i))
	return nil
}

func setTruth(n *node, v reflect.Value) error {
	if n.kind == words || n.kind == truth {
		if yes := n.text == "true"; yes || n.text == "false" {
			v.SetBool(yes)
			return nil
		}
	}
	return errors.New("the value must be true or false")
}

func setDuration(n *node, v reflect.Value, f field) error {
	s, err := n.scalarText("a duration such as 500ms, 10s or 2m")
	if err != nil {
		return err
	}
	if _, err := strconv.ParseFloat(s, 64); err == nil && s != "0" {
		return fmt.Errorf("%s has no unit: write a duration such as 500ms, 10s or 2m", quote(s))
	}
	duration, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("%s is not a duration: write one such as 500ms, 10s or 2m", quote(s))
	}
	least, _ := time.ParseDuration(f.tag.Get("min"))
	switch {
	case duration < 0:
		return fmt.Errorf("%s is negative: a duration is 0s or more", quote(s))
	case duration < least:
		return fmt.Errorf("%s is too short: use %s or more", quote(s), least)
	}
	v.SetInt(int64(duration))
	return nil
}

func setPrefix(n *node, v reflect.Value) error {
	s, err := n.scalarText("a network such as 10.0.0.0/8")
	if err != nil {
		return err
	}
	prefix, err := netip.ParsePrefix(s)
	if err != nil {
		if ip, err := netip.ParseAddr(s); err == nil && ip.Zone() == "" {
			return fmt.Errorf("%s is an address, not a network: write %s/%d", quote(s), s, ip.BitLen())
		}
		return fmt.Errorf("%s is not a network: write one such as 10.0.0.0/8 or fd00::/8", quote(s))
	}
	if prefix.Addr().Is4In6() {
		return fmt.Errorf("%s is an IPv4 network in IPv6 spelling: write it as IPv4", quote(s))
	}
	if prefix != prefix.Masked() {
		return fmt.Errorf("%s has bits beyond its length: write %s", quote(s), prefix.Masked())
	}
	v.Set(reflect.ValueOf(prefix))
	return nil
}
