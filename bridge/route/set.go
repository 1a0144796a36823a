package route

import "maps"

// set is hosts by key.
type set struct{ hosts map[string]*Host }

func (s set) get(key []byte) *Host { return s.hosts[string(key)] }
func (s set) len() int             { return len(s.hosts) }
func (s set) all(yield func(*Host) bool) bool {
	for _, h := range s.hosts {
		if !yield(h) {
			return false
		}
	}
	return true
}

type edit struct{ hosts map[string]*Host }

func (s set) edit() *edit {
	e := &edit{hosts: maps.Clone(s.hosts)}
	if e.hosts == nil {
		e.hosts = map[string]*Host{}
	}
	return e
}
func (e *edit) put(key string, h *Host) { e.hosts[key] = h }
func (e *edit) drop(key string)         { delete(e.hosts, key) }
func (e *edit) done() set               { return set{e.hosts} }
