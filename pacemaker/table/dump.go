package table

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// Dump is the table as Redis has it, broken entries and all, in the shape that routers of
// this family have always dumped it in.
type Dump struct {
	Serial uint64 `json:"serial"`
	// Postfix is the cluster's host name, which Redis does not know; whoever does sets it.
	Postfix string `json:"frontend_domain_postfix"`
	// Table is sorted by application, then by host name.
	Table []DumpEntry `json:"table"`
}

// DumpEntry is one host of a [Dump].
type DumpEntry struct {
	Hostname string `json:"hostname"`
	// Instances and Nodes are the keys in the routes, each once, sorted.
	Instances []string `json:"instances"`
	Nodes     []string `json:"nodes"`
	// ApplicationID is 0, which is none: Redis does not know applications. Whoever does sets it.
	ApplicationID int `json:"application_id"`
	// Routes are the members, sorted.
	Routes []string `json:"routes"`
	// Fields are the host's policy, options and weights as the HASH has them.
	Fields map[string]string `json:"fields,omitempty"`
	// Error says why there is nothing else.
	Error string `json:"error,omitempty"`
}

// Dump reads the whole table. Hosts are read at moments of their own, and a host that comes
// meanwhile may be missing.
func (w *Writer) Dump(ctx context.Context) (Dump, error) {
	d, err := w.reader.dump(ctx)
	if err != nil {
		return Dump{}, fmt.Errorf("dumping the table: %w", describe(err))
	}
	return d, nil
}

func (r reader) dump(ctx context.Context) (Dump, error) {
	p, _, err := r.look(ctx, "", nil)
	if err != nil {
		return Dump{}, err
	}
	d := Dump{Serial: p.serial, Table: []DumpEntry{}}
	found, optioned := make(map[string]struct{}), make(map[string]struct{})
	for cursor := uint64(0); ; {
		keys, next, err := r.page(ctx, cursor, pageSize)
		if err != nil {
			return Dump{}, err
		}
		for _, key := range keys {
			found[key.host] = struct{}{}
			if key.options {
				optioned[key.host] = struct{}{}
			}
		}
		if cursor = next; cursor == 0 {
			break
		}
	}
	names := make([]string, 0, len(found))
	for host := range found {
		names = append(names, host)
	}
	for chunk := range slices.Chunk(names, mostChunk) {
		contents, err := r.read(ctx, chunk, optioned)
		if err != nil {
			return Dump{}, err
		}
		for i, host := range chunk {
			d.Table = append(d.Table, dumpEntry(host, contents[i]))
		}
	}
	slices.SortFunc(d.Table, func(a, b DumpEntry) int {
		return cmp.Or(cmp.Compare(a.ApplicationID, b.ApplicationID), cmp.Compare(a.Hostname, b.Hostname))
	})
	return d, nil
}

func dumpEntry(host string, c content) DumpEntry {
	e := DumpEntry{Hostname: host, Instances: []string{}, Nodes: []string{}, Routes: []string{}, Fields: c.fields}
	if c.broken != nil {
		e.Error, e.Fields = c.broken.Error(), nil
		return e
	}
	e.Routes = append(e.Routes, c.members...)
	slices.Sort(e.Routes)
	for _, text := range e.Routes {
		m, err := ParseMember(text)
		if err != nil {
			continue
		}
		if m.Instance != "" {
			e.Instances = append(e.Instances, m.Instance)
		}
		if m.Node != "" {
			e.Nodes = append(e.Nodes, m.Node)
		}
	}
	for _, keys := range []*[]string{&e.Instances, &e.Nodes} {
		slices.Sort(*keys)
		*keys = slices.Compact(*keys)
	}
	return e
}

// ImportOptions say how a [Dump] is imported.
type ImportOptions struct {
	// Replace drops hosts that the dump has not. Otherwise they stay.
	Replace bool
	// Above is what the serial must pass, at the end: the highest that any router reports, to
	// fill a Redis again that has lost its data.
	Above uint64
}

// Import writes the hosts of a dump, each exactly as it is there, and returns the serial
// then. All that is wrong with the dump is one error, before anything is written.
//
// It takes many steps, so the serial moves once, when all is there: routers that keep
// their table because this Redis was lost go on keeping it until then, and never see a
// half. If it fails on the way, import again.
func (w *Writer) Import(ctx context.Context, d Dump, o ImportOptions) (uint64, error) {
	serial, err := w.load(ctx, d, o)
	if err != nil {
		return 0, fmt.Errorf("importing a table: %w", err)
	}
	return serial, nil
}

func (w *Writer) load(ctx context.Context, d Dump, o ImportOptions) (uint64, error) {
	var errs []error
	changes := make([]Change, 0, len(d.Table))
	wanted := make(map[string]struct{}, len(d.Table))
	for _, e := range d.Table {
		if _, twice := wanted[e.Hostname]; twice {
			errs = append(errs, fmt.Errorf("host %s is there twice", quote(e.Hostname)))
		}
		wanted[e.Hostname] = struct{}{}
		c, err := e.change()
		if err != nil {
			errs = append(errs, fmt.Errorf("host %s: %w", quote(e.Hostname), err))
		}
		changes = append(changes, c)
	}
	if errs != nil {
		return 0, errors.Join(errs...)
	}
	if o.Replace {
		now, err := w.reader.dump(ctx)
		if err != nil {
			return 0, describe(err)
		}
		for _, e := range now.Table {
			if _, keep := wanted[e.Hostname]; !keep && validHost(e.Hostname) == nil && e.Error == "" {
				changes = append(changes, Drop(e.Hostname))
			}
		}
	}
	for chunk := range slices.Chunk(changes, importChunk) {
		if _, err := w.run(ctx, "", "silent", chunk); err != nil {
			return 0, err
		}
	}
	return w.raise(ctx, o.Above)
}

// importChunk is how many hosts are written in one step.
const importChunk = 200

// change is the wish that the host be as in the entry.
func (e DumpEntry) change() (Change, error) {
	if e.Error != "" {
		return Change{}, fmt.Errorf("it could not be dumped: %s", e.Error)
	}
	var errs []error
	members := make([]Member, 0, len(e.Routes))
	for _, text := range e.Routes {
		m, err := ParseMember(text)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		members = append(members, m)
	}
	decodeHost(e.Hostname, nil, e.Fields, nil, func(r Rejection) { errs = append(errs, errors.New(r.Why)) })
	c := newChange(e.Hostname)
	c.step("members", c.members(members)...)
	c.step("fields", pairs(e.Fields)...)
	return c, errors.Join(append(errs, c.errs...)...)
}

// ReadDump reads the JSON of a [Dump].
func ReadDump(text []byte) (Dump, error) {
	var d Dump
	if err := json.Unmarshal(text, &d); err != nil {
		return Dump{}, fmt.Errorf("reading a dump of the table: %w", err)
	}
	return d, nil
}
