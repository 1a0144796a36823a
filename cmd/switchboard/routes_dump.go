package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"switchboard/bridge/route"
	"switchboard/pacemaker/table"
)

// listing is the table, or some of it, as routers have it.
type listing struct {
	Serial uint64       `json:"serial"`
	Hosts  []listedHost `json:"hosts"`
}

// listedHost is a host, and what of it routers reject.
type listedHost struct {
	Host     string            `json:"host"`
	Policy   route.Policy      `json:"policy"`
	Choose   route.Choose      `json:"choose,omitempty"`
	StickyBy string            `json:"stickyBy,omitempty"`
	Hold     string            `json:"hold,omitempty"`
	Backends []listedBackend   `json:"backends"`
	Rejected []table.Rejection `json:"rejected,omitempty"`
}

// listedBackend is one of a host. What is not known is empty.
type listedBackend struct {
	Name     string `json:"name"`
	Address  string `json:"address"`
	Weight   int    `json:"weight"`
	Type     string `json:"type"`
	Node     string `json:"node"`
	Instance string `json:"instance"`
}

func listed(e table.DumpEntry) listedHost {
	h, rejected := e.Host()
	l := listedHost{Host: e.Hostname, Backends: []listedBackend{}, Rejected: rejected}
	if h == nil {
		return l
	}
	l.Policy, l.Choose, l.StickyBy = h.Policy, h.Choose, h.StickyBy.String()
	if h.Policy == route.Balance {
		l.Choose = cmp.Or(h.Choose, route.Random)
	}
	if h.Hold > 0 {
		l.Hold = h.Hold.String()
	}
	for _, b := range h.Backends {
		typeID, node, instance := b.Keys()
		for _, key := range []*string{&typeID, &node, &instance} {
			if *key == route.NoKey {
				*key = ""
			}
		}
		l.Backends = append(l.Backends, listedBackend{b.Name, b.Address, b.Weight, typeID, node, instance})
	}
	return l
}

func (p *program) json(v any) error {
	encoder := json.NewEncoder(p.out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

// write shows a listing, and tells errs of what routers reject.
func (l listing) write(p *program, output string) error {
	if output == "json" {
		return p.json(l)
	}
	rows := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(rows, "HOST\tPOLICY\tCHOOSE\tBACKEND\tADDRESS\tWEIGHT\tTYPE\tNODE")
	backends := 0
	for _, h := range l.Hosts {
		choose := string(h.Choose)
		if h.StickyBy != "" {
			choose += " by " + h.StickyBy
		}
		row := func(cells ...string) {
			for i := range cells {
				cells[i] = cmp.Or(cells[i], "-")
			}
			fmt.Fprintln(rows, strings.Join(cells, "\t"))
		}
		if len(h.Backends) == 0 {
			row(h.Host, string(h.Policy), choose, "", "", "", "", "")
		}
		for _, b := range h.Backends {
			row(h.Host, string(h.Policy), choose, b.Name, b.Address, fmt.Sprint(b.Weight), b.Type, b.Node)
		}
		backends += len(h.Backends)
	}
	if err := rows.Flush(); err != nil {
		return err
	}
	for _, h := range l.Hosts {
		for _, r := range h.Rejected {
			fmt.Fprintf(p.errs, "rejected by routers: %s: %s: %s\n", r.Host, r.Kind, r.Why)
		}
	}
	_, err := fmt.Fprintf(p.out, "hosts: %d, backends: %d, serial: %d\n", len(l.Hosts), backends, l.Serial)
	return err
}

func (p *program) routesList() *cobra.Command {
	var f tableFlags
	var output, pattern string
	command := &cobra.Command{
		Use:   "list",
		Short: "Show the hosts of the table, and who serves them",
		Long: `Shows the hosts of the table as routers have them. What routers reject is told beside
it.`,
		Example: `  switchboard routes list
  switchboard routes list --host '*.example.com'
  switchboard routes list -o json`,
		Args: noArguments("; name hosts with --host PATTERN"),
	}
	command.RunE = func(command *cobra.Command, _ []string) error {
		if _, err := path.Match(pattern, ""); err != nil {
			return fmt.Errorf("--host %q is not a pattern: write one such as '*.example.com'", pattern)
		}
		if err := checkOutput(output); err != nil {
			return err
		}
		return p.onTable(command, f, func(ctx context.Context, w *table.Writer) error {
			d, err := w.Dump(ctx)
			if err != nil {
				return err
			}
			l := listing{Serial: d.Serial, Hosts: []listedHost{}}
			for _, e := range d.Table {
				if matches, _ := path.Match(pattern, e.Hostname); matches || pattern == "" {
					l.Hosts = append(l.Hosts, listed(e))
				}
			}
			return l.write(p, output)
		})
	}
	command.Flags().StringVar(&pattern, "host", "", "only hosts that match this `pattern`, in which * and ? stand for anything")
	outputFlag(command, &output)
	f.add(command)
	return command
}

func (p *program) routesShow() *cobra.Command {
	var f tableFlags
	var output string
	command := &cobra.Command{
		Use:     "show HOST",
		Short:   "Show one host of the table",
		Long:    `Shows one host of the table as routers have it, and what of it they reject.`,
		Example: "  switchboard routes show shop.example.com\n  switchboard routes show '*.pets.example.com' -o json",
		Args:    hostAnd(0, 0, ""),
	}
	command.RunE = func(command *cobra.Command, args []string) error {
		return p.onHost(command, f, output, args[0], func(ctx context.Context, w *table.Writer, host string) error {
			d, err := w.DumpHosts(ctx, host)
			if err != nil {
				return err
			}
			if len(d.Table) == 0 {
				return absent(host)
			}
			return listing{Serial: d.Serial, Hosts: []listedHost{listed(d.Table[0])}}.write(p, output)
		})
	}
	outputFlag(command, &output)
	f.add(command)
	return command
}

func (p *program) routesDump() *cobra.Command {
	var f tableFlags
	command := &cobra.Command{
		Use:   "dump",
		Short: "Write the whole table as JSON, for import",
		Long: `Writes the whole table as JSON: its serial, and each host with its instances, nodes,
routes and options, sorted. "routes import" takes it back. Broken entries are there
too, as Redis has them.`,
		Example: "  switchboard routes dump > table.json\n  switchboard routes dump | jq -r '.table[].hostname'",
		Args:    noArguments(""),
	}
	command.RunE = func(command *cobra.Command, _ []string) error {
		return p.onTable(command, f, func(ctx context.Context, w *table.Writer) error {
			d, err := w.Dump(ctx)
			if err != nil {
				return err
			}
			return p.json(d)
		})
	}
	f.add(command)
	return command
}

// importResult is what an import is answered with, in numbers of hosts.
type importResult struct {
	Added   int `json:"added"`
	Changed int `json:"changed"`
	Dropped int `json:"dropped"`
	Equal   int `json:"equal"`
	// Serial is the table's then; that of the table as it is if nothing was written.
	Serial uint64 `json:"serial"`
	DryRun bool   `json:"dryRun"`
}

// progressEvery is the time between two lines about an import that goes on.
const progressEvery = time.Second

func (p *program) routesImport() *cobra.Command {
	var f tableFlags
	var output string
	var dry bool
	var o table.ImportOptions
	command := &cobra.Command{
		Use:   "import FILE|-",
		Short: "Write the hosts of a dump",
		Long: `Writes the hosts of a dump, each exactly as it is there; - is the standard input. All
that is wrong with the dump is told before anything is written. The serial moves once,
when all is written, and routers take it all then.

A Redis that has lost the table is filled again with --above SERIAL, the highest that
any router reports (GET /cluster, table.serial): routers keep what they have until
Redis has passed that.`,
		Example: `  switchboard routes import table.json --dry-run              what would change?
  switchboard routes import table.json                        hosts that are not in it stay
  switchboard routes import table.json --replace              they are dropped
  switchboard routes import table.json --replace --above 4711  fill a lost Redis again`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fmt.Errorf("wanted: one FILE, or - for the standard input")
			}
			return nil
		},
	}
	command.RunE = func(command *cobra.Command, args []string) error {
		if err := checkOutput(output); err != nil {
			return err
		}
		return p.onTable(command, f, func(ctx context.Context, w *table.Writer) error {
			d, err := readDump(args[0], command.InOrStdin())
			if err != nil {
				return err
			}
			preview, err := w.Preview(ctx, d, o)
			if err != nil {
				return err
			}
			result := importResult{preview.Added, preview.Changed, preview.Dropped, preview.Equal, preview.Serial, dry}
			if !dry {
				told := time.Now()
				o.Progress = func(written, all int) {
					if time.Since(told) >= progressEvery {
						told = time.Now()
						fmt.Fprintf(p.errs, "hosts written: %d of %d\n", written, all)
					}
				}
				if result.Serial, err = w.Import(ctx, d, o); err != nil {
					return fmt.Errorf("%w\nHosts may be written that routers do not take before the serial moves: run the same again", err)
				}
			}
			return p.tellImport(output, result)
		})
	}
	flags := command.Flags()
	flags.BoolVar(&o.Replace, "replace", false, "drop hosts that are not in the dump")
	flags.Uint64Var(&o.Above, "above", 0, "let the table's `serial` be higher than this one")
	flags.BoolVar(&dry, "dry-run", false, "only say what would change, and write nothing")
	outputFlag(command, &output)
	f.add(command)
	return command
}

func readDump(name string, in io.Reader) (table.Dump, error) {
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return table.Dump{}, err
		}
		defer file.Close()
		in = file
	}
	text, err := io.ReadAll(in)
	if err != nil {
		return table.Dump{}, err
	}
	return table.ReadDump(text)
}

func (p *program) tellImport(output string, r importResult) error {
	if output == "json" {
		return p.json(r)
	}
	what := "imported"
	if r.DryRun {
		what = "nothing is written: dry run"
	}
	_, err := fmt.Fprintf(p.out, "%s; hosts added: %d, changed: %d, dropped: %d, as they should be: %d; the table is at serial %d\n",
		what, r.Added, r.Changed, r.Dropped, r.Equal, r.Serial)
	return err
}
