package config

import (
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// EnvPrefix begins the name of every environment variable that is read.
const EnvPrefix = "SWITCHBOARD_"

// Key describes one key that has a value of its own: not a mapping, not a list
// of mappings.
type Key struct {
	// Path is where it is in the file; "[]" stands for an index.
	Path string
	// Env is its environment variable; an "N" between underscores stands for an
	// index.
	Env string
	// Flag is its flag without dashes, "" if it has none: what is in a list, and
	// passwords, which a process list would show.
	Flag string
	// Type is "text", "number", "duration", "list", "list of CIDRs", or the values
	// it may have, with " | " between them.
	Type string
	// Default is its value when it is not set, in the file's spelling.
	Default string
	// Required is true if it must be set.
	Required bool
	// Doc is one line without a full stop.
	Doc string
}

// Keys returns every key, in the order of the file. Command line, --help and
// reference are made from it.
func Keys() []Key { return keysOf(reflect.TypeFor[File](), "") }

func keysOf(t reflect.Type, prefix string) []Key {
	var keys []Key
	for _, f := range fieldsOf(t) {
		path := join(prefix, f.key)
		if nested, list := f.nested(); nested != nil {
			if list {
				path += "[]"
			}
			keys = append(keys, keysOf(nested, path)...)
			continue
		}
		key := Key{
			Path:     path,
			Env:      EnvPrefix + strings.ToUpper(strings.NewReplacer("[].", "_N_", ".", "_").Replace(path)),
			Type:     f.typeName(),
			Default:  f.tag.Get("default"),
			Required: f.required() && f.tag.Get("default") == "",
			Doc:      f.tag.Get("doc"),
		}
		if f.typ != reflect.TypeFor[Secret]() && !strings.Contains(path, "[]") {
			key.Flag = flagName(path)
		}
		keys = append(keys, key)
	}
	return keys
}

// flagName is the flag of the key at path.
func flagName(path string) string { return strings.NewReplacer(".", "-", "_", "-").Replace(path) }

// field is one key of a mapping.
type field struct {
	key   string
	index int
	typ   reflect.Type
	tag   reflect.StructTag
}

func fieldsOf(t reflect.Type) []field {
	var fields []field
	for i := range t.NumField() {
		f := t.Field(i)
		if key := f.Tag.Get("key"); key != "" {
			fields = append(fields, field{key: key, index: i, typ: f.Type, tag: f.Tag})
		}
	}
	return fields
}

func (f field) required() bool { return f.tag.Get("required") != "" }

// nested returns the struct of a mapping or of a list of mappings, nil for a
// key with a value of its own.
func (f field) nested() (t reflect.Type, list bool) {
	t = f.typ
	if t.Kind() == reflect.Slice {
		t, list = t.Elem(), true
	}
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || t == reflect.TypeFor[netip.Prefix]() {
		return nil, false
	}
	return t, list
}

func (f field) typeName() string {
	switch {
	case f.tag.Get("enum") != "":
		return strings.Join(strings.Fields(f.tag.Get("enum")), " | ")
	case f.typ == reflect.TypeFor[time.Duration]():
		return "duration"
	case f.typ == reflect.TypeFor[[]netip.Prefix]():
		return "list of CIDRs"
	case f.typ.Kind() == reflect.Slice:
		return "list"
	case f.typ.Kind() == reflect.Int:
		return "number"
	case f.typ.Kind() == reflect.Bool:
		return "true | false"
	default:
		return "text"
	}
}

// step is one step down from the root: into the member key, or, if key is
// empty, into the element index.
type step struct {
	key   string
	index int
}

// pathOf spells a path as errors do.
func pathOf(steps []step) string {
	var path string
	for _, s := range steps {
		if s.key != "" {
			path = join(path, s.key)
		} else {
			path = element(path, s.index)
		}
	}
	return path
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// parent is the path of what the key or element at path is in.
func parent(path string) string { return path[:max(0, strings.LastIndexAny(path, ".["))] }

func element(path string, index int) string { return path + "[" + strconv.Itoa(index) + "]" }

// find finds the key that an environment variable without its prefix stands
// for.
func find(t reflect.Type, name string) (steps []step, leaf field, found bool) {
	for _, f := range fieldsOf(t) {
		rest, cut := strings.CutPrefix(name, strings.ToUpper(f.key))
		if !cut {
			continue
		}
		steps := []step{{key: f.key}}
		nested, list := f.nested()
		if nested == nil {
			if rest == "" {
				return steps, f, true
			}
			continue
		}
		rest, cut = strings.CutPrefix(rest, "_")
		if list && cut {
			var digits string
			digits, rest, cut = strings.Cut(rest, "_")
			index, err := strconv.Atoi(digits)
			cut = cut && err == nil && index >= 0 && strconv.Itoa(index) == digits
			steps = append(steps, step{index: index})
		}
		if !cut {
			continue
		}
		if below, leaf, found := find(nested, rest); found {
			return append(steps, below...), leaf, true
		}
	}
	return nil, field{}, false
}
