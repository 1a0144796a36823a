package table

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"switchboard/bridge/route"
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

// DumpHosts is [Writer.Dump] of some hosts, all read at the moment that the serial is of, so
// that [Writer.ApplyIf] may follow it. Hosts that are not there are left out.
func (w *Writer) DumpHosts(ctx context.Context, hosts ...string) (Dump, error) {
	p, contents, err := w.reader.look(ctx, "", hosts)
	if err != nil {
		return Dump{}, fmt.Errorf("dumping the table: %w", describe(err))
	}
	d := Dump{Serial: p.serial, Table: []DumpEntry{}}
	for i, host := range hosts {
		if c := contents[i]; c.broken != nil || len(c.members) > 0 || len(c.fields) > 0 {
			d.Table = append(d.Table, dumpEntry(host, c))
		}
	}
	return d, nil
}

// Host is the entry as routers have it, and what of it they reject. It is nil if they
// cannot know what it is, or if nothing is left of it.
func (e DumpEntry) Host() (*route.Host, []Rejection) {
	var rejected []Rejection
	reject := func(r Rejection) { rejected = append(rejected, r) }
	if err := validHost(e.Hostname); err != nil {
		reject(Rejection{Host: quote(e.Hostname), Kind: RejectedHost, Why: err.Error()})
		return nil, rejected
	}
	if e.Error != "" {
		reject(Rejection{Host: e.Hostname, Kind: RejectedHost, Why: e.Error})
		return nil, rejected
	}
	r := content{members: e.Routes, fields: e.Fields}.decode(e.Hostname, nil)
	return r.host, r.rejected
}

func (r reader) dump(ctx context.Context) (Dump, error) {
	p, _, err := r.look(ctx, "", nil)
	if err != nil {
		return Dump{}, err
	}
	d := Dump{Serial: p.serial, Table: []DumpEntry{}}
	found, optioned := make(map[string]struct{}), make(map[string]struct{})
	for cursor := uint64(0); ; {
		p := r.page(ctx, cursor, turnPage)
		if p.err != nil {
			return Dump{}, p.err
		}
		for _, key := range p.keys {
			found[key.host] = struct{}{}
			if key.options {
				optioned[key.host] = struct{}{}
			}
		}
		if cursor = p.next; cursor == 0 {
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
	// Progress is told, between two steps, how many hosts of all are written; nil: nobody is.
	Progress func(written, all int)
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
	changes, err := d.changes()
	if err != nil {
		return 0, err
	}
	if o.Replace {
		now, err := w.reader.dump(ctx)
		if err != nil {
			return 0, describe(err)
		}
		for _, host := range d.others(now) {
			changes = append(changes, Drop(host))
		}
	}
	written := 0
	for chunk := range slices.Chunk(changes, importChunk) {
		if _, err := w.run(ctx, "", "silent", chunk); err != nil {
			return 0, err
		}
		if written += len(chunk); o.Progress != nil {
			o.Progress(written, len(changes))
		}
	}
	return w.raise(ctx, o.Above)
}

// Preview counts the hosts that an import would add, change and drop, and those that are
// as they should be.
type Preview struct {
	// Serial is that of the table as it is.
	Serial                         uint64
	Added, Changed, Dropped, Equal int
}

// Preview compares a dump with the table, and writes nothing. Its errors are those of
// [Writer.Import].
func (w *Writer) Preview(ctx context.Context, d Dump, o ImportOptions) (Preview, error) {
	if _, err := d.changes(); err != nil {
		return Preview{}, fmt.Errorf("importing a table: %w", err)
	}
	now, err := w.Dump(ctx)
	if err != nil {
		return Preview{}, err
	}
	before := make(map[string]DumpEntry, len(now.Table))
	for _, e := range now.Table {
		before[e.Hostname] = e
	}
	p := Preview{Serial: now.Serial}
	for _, e := range d.Table {
		switch b, found := before[e.Hostname]; {
		case found && b.equals(e):
			p.Equal++
		case found:
			p.Changed++
		case len(e.Routes) > 0 || len(e.Fields) > 0:
			p.Added++
		}
	}
	if o.Replace {
		p.Dropped = len(d.others(now))
	}
	return p, nil
}

// changes are the wishes that all hosts be as in the dump.
func (d Dump) changes() ([]Change, error) {
	var errs []error
	changes := make([]Change, 0, len(d.Table))
	names := make(map[string]struct{}, len(d.Table))
	for _, e := range d.Table {
		if _, twice := names[e.Hostname]; twice {
			errs = append(errs, fmt.Errorf("host %s is there twice", quote(e.Hostname)))
		}
		names[e.Hostname] = struct{}{}
		c, err := e.change()
		if err != nil {
			errs = append(errs, fmt.Errorf("host %s: %w", quote(e.Hostname), err))
		}
		changes = append(changes, c)
	}
	return changes, errors.Join(errs...)
}

// others are the hosts of now that are not in d. Keys that are no hosts are nobody's to drop.
func (d Dump) others(now Dump) []string {
	wanted := make(map[string]struct{}, len(d.Table))
	for _, e := range d.Table {
		wanted[e.Hostname] = struct{}{}
	}
	var others []string
	for _, e := range now.Table {
		if _, keep := wanted[e.Hostname]; !keep && validHost(e.Hostname) == nil && e.Error == "" {
			others = append(others, e.Hostname)
		}
	}
	return others
}

// equals tells whether both say the same. The other is one that can be imported.
func (e DumpEntry) equals(other DumpEntry) bool {
	routes := make([]string, 0, len(other.Routes))
	for _, text := range other.Routes {
		// Redis has what is written, which may be another spelling.
		m, _ := ParseMember(text)
		routes = append(routes, m.String())
	}
	slices.Sort(routes)
	return e.Error == "" && slices.Equal(e.Routes, slices.Compact(routes)) && maps.Equal(e.Fields, other.Fields)
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
	if d.Table == nil {
		// Taken for a table without hosts, it would empty one.
		return Dump{}, errors.New("reading a dump of the table: it is JSON, but has no table")
	}
	return d, nil
}
