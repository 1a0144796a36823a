package config

import (
	"cmp"
	"reflect"
	"slices"
	"strings"
)

// override is a value from the environment or a flag.
type override struct {
	at    place
	value string
	steps []step
	leaf  field
}

// fromEnvironment returns what the environment sets, and reports what is
// nothing that could be set.
func fromEnvironment(env, allow []string, problems *problems) []override {
	var overrides []override
	for _, entry := range env {
		name, value, _ := strings.Cut(entry, "=")
		short, ours := strings.CutPrefix(name, EnvPrefix)
		if !ours || slices.ContainsFunc(allow, func(pattern string) bool { return matches(pattern, name) }) {
			continue
		}
		o := override{at: place{origin: fromEnv, source: plain(name)}, value: value}
		var found bool
		if o.steps, o.leaf, found = find(reflect.TypeFor[File](), short); !found {
			problems.add(o.at, "", "%s", unknownVariable(name))
			continue
		}
		overrides = append(overrides, o)
	}
	return ordered(overrides)
}

// matches tells whether name is pattern, or begins with what is before its "*".
func matches(pattern, name string) bool {
	prefix, open := strings.CutSuffix(pattern, "*")
	return name == pattern || open && strings.HasPrefix(name, prefix)
}

// unknownVariable compares with the variables there are, whatever their indexes.
func unknownVariable(name string) string {
	parts, indexes := strings.Split(name, "_"), []string(nil)
	for i, part := range parts {
		if part != "" && strings.Trim(part, "0123456789") == "" {
			index := strings.TrimLeft(part[:len(part)-1], "0") + part[len(part)-1:]
			indexes, parts[i] = append(indexes, index), "N"
		}
	}
	var known []string
	for _, k := range Keys() {
		if strings.Count(k.Env, "_N_") == len(indexes) {
			known = append(known, k.Env)
		}
	}
	// What is not in question is left out of what counts as near.
	trim := func(s string) string { return strings.TrimPrefix(s, EnvPrefix) }
	for i := range known {
		known[i] = trim(known[i])
	}
	meant := nearest(trim(strings.Join(parts, "_")), known)
	for _, index := range indexes {
		meant = strings.Replace(meant, "_N_", "_"+index+"_", 1)
	}
	if meant == "" || EnvPrefix+meant == name {
		return "unknown variable: no key has this name; unset it"
	}
	return "unknown variable: did you mean " + EnvPrefix + meant + "?"
}

// fromFlags is fromEnvironment for flags, which are named by the path of their
// key.
func fromFlags(flags map[string]string, problems *problems) []override {
	var overrides []override
	spell := strings.NewReplacer("[", "_", "].", "_", ".", "_")
	for path, value := range flags {
		o := override{at: place{origin: fromFlag, source: "--" + plain(flagName(path))}, value: value}
		if strings.Contains(path, "[") {
			o.at.source = "--" + plain(path)
		}
		var found bool
		o.steps, o.leaf, found = find(reflect.TypeFor[File](), strings.ToUpper(spell.Replace(path)))
		if !found || pathOf(o.steps) != path {
			problems.add(o.at, "", "unknown flag: no key has the path %s", quote(path))
			continue
		}
		overrides = append(overrides, o)
	}
	return ordered(overrides)
}

// ordered sorts by path, indexes by number, so that lists grow from their end.
func ordered(overrides []override) []override {
	slices.SortStableFunc(overrides, func(a, b override) int {
		return slices.CompareFunc(a.steps, b.steps, func(s, t step) int {
			return cmp.Or(cmp.Compare(s.key, t.key), cmp.Compare(s.index, t.index))
		})
	})
	return overrides
}

// put sets a value in the tree, and makes the mappings and elements above it
// that are not there. Where the file has something of another kind it stays,
// and is reported when it is decoded.
func (n *node) put(o override, problems *problems) {
	for i, s := range o.steps {
		switch {
		case s.key != "" && n.kind != mapping, s.key == "" && n.kind != list:
			return
		case s.key != "":
			m := n.member(s.key)
			if m == nil && i+1 < len(o.steps) && o.steps[i+1].index > 0 {
				o.beyond(i+1, 0, problems)
				return
			}
			if m == nil {
				n.members = append(n.members, member{at: o.at, key: s.key, value: o.below(i)})
				m = &n.members[len(n.members)-1]
			} else if i == len(o.steps)-1 {
				m.value = o.below(i)
			}
			n = m.value
		case s.index > len(n.items):
			o.beyond(i, len(n.items), problems)
			return
		default:
			if s.index == len(n.items) {
				n.items = append(n.items, o.below(i))
			}
			n = n.items[s.index]
		}
	}
}

// beyond reports that the index of step i leaves a gap.
func (o override) beyond(i, next int, problems *problems) {
	problems.add(o.at, pathOf(o.steps[:i+1]), "the list would have a gap: its next index is %d", next)
}

func (n *node) member(key string) *member {
	for i := range n.members {
		if n.members[i].key == key {
			return &n.members[i]
		}
	}
	return nil
}

// below makes the node that step i leads to.
func (o override) below(i int) *node {
	switch {
	case i == len(o.steps)-1:
		return o.node()
	case o.steps[i+1].key == "":
		return &node{at: o.at, kind: list}
	default:
		return &node{at: o.at}
	}
}

// node is the value itself: a list of scalars is written with commas.
func (o override) node() *node {
	if o.leaf.typ.Kind() != reflect.Slice {
		return &node{at: o.at, kind: words, text: o.value}
	}
	n := &node{at: o.at, kind: list}
	if o.value == "" {
		return n
	}
	for item := range strings.SplitSeq(o.value, ",") {
		n.items = append(n.items, &node{at: o.at, kind: words, text: strings.TrimSpace(item)})
	}
	return n
}
