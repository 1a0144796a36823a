package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"switchboard/bridge/route"
	"switchboard/pacemaker/table"
)

func (p *program) routes() *cobra.Command {
	command := &cobra.Command{
		Use:   "routes",
		Short: "Look at the routing table in Redis, and change it",
		Long: `Looks at the routing table in Redis, which all routers follow, and changes it. A
change is one atomic step, and routers take it within milliseconds. It is told with
the serial that the table has then. What is so already is no change, so whatever is
not known to have worked may be run again.

Redis is named with --redis or ` + tableKey.url() + `, or by the configuration of a router
(--config), of which the keys under redis are taken:
  redis://[USER:PASSWORD@]HOST[:PORT][/DB]
  unix://[USER:PASSWORD@]/PATH/TO/SOCKET[?db=DB]
  redis-sentinel://[USER:PASSWORD@]HOST[:PORT],.../MASTER[/DB]
  redis-cluster://[USER:PASSWORD@]HOST[:PORT],...
and rediss://, rediss-sentinel:// and rediss-cluster:// speak TLS. Others on this
machine can read a command line, so a password is better put in the variable or in a
file (--redis-password-file).`,
		Example: `  export ` + tableKey.url() + `=redis://127.0.0.1:6379
  switchboard routes add shop.example.com 10.0.0.1:8080 --name shop-0
  switchboard routes list
  switchboard routes weight shop.example.com shop-0=0     let it drain
  switchboard routes remove shop.example.com shop-0
  switchboard routes dump > table.json`,
		// Cobra takes an unknown command here for a call for help, and that for a success.
		Args: func(command *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			hint := ""
			if near := command.SuggestionsFor(args[0]); len(near) > 0 {
				hint = ": did you mean " + near[0] + "?"
			}
			return fmt.Errorf("unknown command %q%s", args[0], hint)
		},
		RunE:                       func(command *cobra.Command, _ []string) error { return command.Help() },
		SuggestionsMinimumDistance: 2,
	}
	command.AddCommand(
		p.routesList(), p.routesShow(), p.routesAdd(), p.routesRemove(), p.routesWeight(), p.routesSet(), p.routesDrop(),
		p.routesDump(), p.routesImport(), p.routesAccept())
	return command
}

// tableFlags say where the table is.
type tableFlags struct {
	redisFlags
	config  string
	timeout time.Duration
}

func (f *tableFlags) add(command *cobra.Command) {
	f.redisFlags.add(command, tableKey, "the table is")
	flags := command.Flags()
	flags.StringVar(&f.config, "config", "", "configuration of a router, a `file`, which says all that no flag says")
	flags.DurationVar(&f.timeout, "timeout", 5*time.Second, "how long to wait for each answer of Redis")
	_ = command.MarkFlagFilename("config", "yaml", "yml", "json")
}

// table is where the table is, by the flags, else by the configuration if there is one, else
// by the environment.
func (p *program) table(f tableFlags) (place, error) {
	rest := p.place(tableKey)
	if f.config != "" {
		file, _, err := p.load(f.config, nil)
		if err != nil {
			return rest, invalid{err}
		}
		rest = place{Redis: file.Redis.Store(), prefix: file.Redis.Prefix}
	}
	rest.Timeout, rest.Name = f.timeout, "switchboard-routes"
	if f.timeout <= 0 {
		return rest, fmt.Errorf("--timeout %s is no time to wait: give one such as 5s", f.timeout)
	}
	return f.over(rest, tableKey)
}

// onTable does something with the table, and says why if that fails. Errors that it returns
// itself are about the command line.
func (p *program) onTable(command *cobra.Command, f tableFlags, do func(context.Context, *table.Writer) error) error {
	at, err := p.table(f)
	if err != nil {
		return err
	}
	client, err := at.Connect()
	if err != nil {
		return err
	}
	defer client.Close()
	w, err := table.NewWriter(table.WriterOptions{Client: client, Prefix: at.prefix, Timeout: f.timeout})
	if err != nil {
		return err
	}
	err = untilInterrupted(command, client, func(ctx context.Context) error {
		err := do(ctx, w)
		if err != nil && ctx.Err() != nil {
			err = fmt.Errorf("interrupted: %w", err)
		}
		return err
	})
	if err == nil {
		return nil
	}
	p.blame(command, err, "the table", at)
	switch {
	case errors.Is(err, table.ErrUnknown):
		fmt.Fprintln(p.errs, "Run the same again: what was done is not done twice.")
	case errors.Is(err, table.ErrConflict):
		fmt.Fprintln(p.errs, "Nothing was changed. Run the same again.")
	}
	return errFailed
}

// onHost is [program.onTable] for verbs that take a host and -o.
func (p *program) onHost(command *cobra.Command, f tableFlags, output, name string, do func(ctx context.Context, w *table.Writer, host string) error) error {
	host, err := hostOf(name)
	if err != nil {
		return err
	}
	if err := checkOutput(output); err != nil {
		return err
	}
	return p.onTable(command, f, func(ctx context.Context, w *table.Writer) error { return do(ctx, w, host) })
}

// mostTries is how often a change is decided again because somebody else was faster.
const mostTries = 50

// edit changes one host by what is there: decide gets the host as Redis has it, and nothing is
// changed if that is not so any more when the change comes.
func edit(ctx context.Context, w *table.Writer, host string, decide func(table.DumpEntry) ([]table.Change, error)) (table.Result, error) {
	for try := 1; ; try++ {
		d, err := w.DumpHosts(ctx, host)
		if err != nil {
			return table.Result{}, err
		}
		entry := table.DumpEntry{Hostname: host}
		if len(d.Table) > 0 {
			entry = d.Table[0]
		}
		if entry.Error != "" {
			return table.Result{}, fmt.Errorf("reading %s: %s", host, entry.Error)
		}
		changes, err := decide(entry)
		if err != nil {
			return table.Result{}, err
		}
		result, err := w.ApplyIf(ctx, d.Serial, changes...)
		if !errors.Is(err, table.ErrConflict) || try == mostTries {
			return result, err
		}
		again := time.NewTimer(rand.N(20 * time.Millisecond))
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			return table.Result{}, context.Cause(ctx)
		}
	}
}

// outputFlag is -o.
func outputFlag(command *cobra.Command, output *string) {
	command.Flags().StringVarP(output, "output", "o", "table", "how to say it: table or json")
	complete(command, "output", "table", "json")
}

func checkOutput(output string) error {
	if output != "table" && output != "json" {
		return fmt.Errorf("--output %q is not one of table, json", output)
	}
	return nil
}

// changedHost is what a change of one host is answered with.
type changedHost struct {
	Host    string `json:"host"`
	Changed bool   `json:"changed"`
	// Serial is the table's then.
	Serial uint64 `json:"serial"`
}

// tell says what became of a change.
func (p *program) tell(output, host, done string, result table.Result) error {
	switch {
	case output == "json":
		return p.json(changedHost{host, result.Changed, result.Serial})
	case !result.Changed:
		done = "nothing to change"
	}
	_, err := fmt.Fprintf(p.out, "%s: %s; the table is at serial %d\n", host, done, result.Serial)
	return err
}

// hostOf is the one spelling of the name of a host in the table.
func hostOf(text string) (string, error) {
	if text == route.CatchAll {
		return text, nil
	}
	suffix, wildcard := strings.CutPrefix(text, "*.")
	name, err := route.HostName(suffix)
	if err != nil {
		return "", err
	}
	if wildcard {
		name = "*." + name
	}
	return name, nil
}

func addressOf(text string) (netip.AddrPort, error) {
	address, err := netip.ParseAddrPort(text)
	if err != nil {
		return address, fmt.Errorf("%q is not a numeric IP address and a port, such as 10.0.0.1:8080 or [2001:db8::1]:8080: "+
			"routers resolve no names that are in the table", text)
	}
	return netip.AddrPortFrom(address.Addr().Unmap(), address.Port()), nil
}

// hostAnd is for verbs that take a host, and then as many arguments as at least and at most
// say; 0 is any number. want names those.
func hostAnd(least, most int, want string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) < 1+least {
			return fmt.Errorf("wanted: HOST%s", want)
		}
		if most >= 0 && len(args) > 1+most {
			return fmt.Errorf("unexpected argument %q: wanted: HOST%s", args[1+most], want)
		}
		return nil
	}
}

func (p *program) routesAdd() *cobra.Command {
	var f tableFlags
	var output string
	var member table.Member
	var weight int
	command := &cobra.Command{
		Use:   "add HOST ADDRESS",
		Short: "Let an instance serve a host",
		Long: `Lets an instance serve a host, which begins to be if it was not there. HOST is a name,
*.SUFFIX for all names one level below, or * for all that are no other's. ADDRESS is
numeric, as routers resolve no names that are in the table.

The backend goes by its --name, else by its address, as 10.0.0.1-8080. Type, node and
name are what access records account to.`,
		Example: `  switchboard routes add shop.example.com 10.0.0.1:8080 --name shop-0
  switchboard routes add shop.example.com 10.0.0.9:8080 --name shop-new --weight 0   nobody gets there yet
  switchboard routes add '*.pets.example.com' '[2001:db8::1]:8080' --name pets-0 --type pets --node node-3`,
		Args: hostAnd(1, 1, " ADDRESS"),
	}
	command.RunE = func(command *cobra.Command, args []string) error {
		host, err := hostOf(args[0])
		if err != nil {
			return err
		}
		if member.Address, err = addressOf(args[1]); err != nil {
			return err
		}
		changes := []table.Change{table.Add(host, member)}
		if command.Flags().Changed("weight") {
			changes = append(changes, table.SetWeights(host, map[string]int{member.Name(): weight}))
		}
		for _, change := range changes {
			if err := change.Validate(); err != nil {
				return err
			}
		}
		if err := checkOutput(output); err != nil {
			return err
		}
		return p.onTable(command, f, func(ctx context.Context, w *table.Writer) error {
			result, err := edit(ctx, w, host, func(e table.DumpEntry) ([]table.Change, error) {
				return changes, another(e, member)
			})
			if err != nil {
				return err
			}
			return p.tell(output, host, fmt.Sprintf("added %s at %s", member.Name(), member.Address), result)
		})
	}
	flags := command.Flags()
	flags.StringVar(&member.Instance, "name", "", "the `instance`, by which the backend goes")
	flags.StringVar(&member.Type, "type", "", "the `type` of the app's version")
	flags.StringVar(&member.Node, "node", "", "the `node` that it runs on")
	flags.IntVar(&weight, "weight", 1, "its share of the host, from 0, which drains")
	outputFlag(command, &output)
	f.add(command)
	return command
}

// another is the error that a member of that address or name is there, and is not the same.
func another(e table.DumpEntry, member table.Member) error {
	for _, text := range e.Routes {
		m, err := table.ParseMember(text)
		if err != nil || m.String() == member.String() {
			continue
		}
		if m.Address == member.Address {
			return fmt.Errorf("%s is there already, as %s: remove that first if it is to be another", m.Address, m)
		}
		if m.Name() == member.Name() {
			return fmt.Errorf("%s is there already, at %s: remove that first if it has moved, or give another --name", m.Name(), m.Address)
		}
	}
	return nil
}

func (p *program) routesRemove() *cobra.Command {
	var f tableFlags
	var output string
	command := &cobra.Command{
		Use:   "remove HOST ADDRESS|NAME",
		Short: "Let an instance serve a host no more",
		Long: `Takes an instance out of a host, by its address or by the name that "routes show" has
for it. A host of which nothing is left is no more, and wildcards stand for it. To
let its requests end first, give it the weight 0 and wait.`,
		Example: `  switchboard routes remove shop.example.com shop-0
  switchboard routes remove shop.example.com 10.0.0.1:8080`,
		Args: hostAnd(1, 1, " ADDRESS|NAME"),
	}
	command.RunE = func(command *cobra.Command, args []string) error {
		return p.onHost(command, f, output, args[0], func(ctx context.Context, w *table.Writer, host string) error {
			var found []table.Member
			result, err := edit(ctx, w, host, func(e table.DumpEntry) ([]table.Change, error) {
				found = membersOf(e, args[1])
				return []table.Change{table.Remove(host, found...)}, nil
			})
			if err != nil {
				return err
			}
			var removed []string
			for _, m := range found {
				removed = append(removed, fmt.Sprintf("%s at %s", m.Name(), m.Address))
			}
			return p.tell(output, host, "removed "+strings.Join(removed, ", "), result)
		})
	}
	outputFlag(command, &output)
	f.add(command)
	return command
}

// membersOf are those of a host that go by a name, or have it for their address.
func membersOf(e table.DumpEntry, name string) []table.Member {
	var found []table.Member
	address, notAddress := addressOf(name)
	host, _ := e.Host()
	for _, text := range e.Routes {
		m, err := table.ParseMember(text)
		if err != nil {
			continue
		}
		named := host != nil && slices.ContainsFunc(host.Backends, func(b route.Backend) bool {
			return b.Name == name && b.Address+"#"+b.Origin == m.String()
		})
		if named || notAddress == nil && m.Address == address {
			found = append(found, m)
		}
	}
	return found
}

func (p *program) routesWeight() *cobra.Command {
	var f tableFlags
	var output string
	command := &cobra.Command{
		Use:   "weight HOST NAME=WEIGHT...",
		Short: "Give each backend of a host its share",
		Long: `Gives backends of a host their weights, all in one step: each gets its weight over the
sum of all of them. It is 1 if nothing was said. 0 drains: requests in flight go on,
and nobody new gets there. Names are those that "routes show" has.`,
		Example: `  switchboard routes weight shop.example.com shop-0=9 shop-new=1    a canary
  switchboard routes weight shop.example.com shop-0=0               drain it`,
		Args: hostAnd(1, -1, " NAME=WEIGHT..."),
	}
	command.RunE = func(command *cobra.Command, args []string) error {
		host, err := hostOf(args[0])
		if err != nil {
			return err
		}
		weights := make(map[string]int)
		for _, arg := range args[1:] {
			name, text, found := strings.Cut(arg, "=")
			weight, err := strconv.Atoi(text)
			if !found || err != nil {
				return fmt.Errorf("%q is not NAME=WEIGHT, as in shop-0=3", arg)
			}
			if _, twice := weights[name]; twice {
				return fmt.Errorf("%s has two weights here", name)
			}
			weights[name] = weight
		}
		change := table.SetWeights(host, weights)
		if err := change.Validate(); err != nil {
			return err
		}
		if err := checkOutput(output); err != nil {
			return err
		}
		return p.onTable(command, f, func(ctx context.Context, w *table.Writer) error {
			result, err := edit(ctx, w, host, func(e table.DumpEntry) ([]table.Change, error) {
				return []table.Change{change}, strangers(e, weights)
			})
			if err != nil {
				return err
			}
			return p.tell(output, host, "weights are "+strings.Join(args[1:], ", "), result)
		})
	}
	outputFlag(command, &output)
	f.add(command)
	return command
}

// strangers is the error that a host has no backend with one of the names.
func strangers(e table.DumpEntry, weights map[string]int) error {
	host, err := hostIn(e)
	if err != nil {
		return err
	}
	var names []string
	for _, b := range host.Backends {
		names = append(names, b.Name)
	}
	for name := range weights {
		if !slices.Contains(names, name) {
			return fmt.Errorf("%s has no backend %s; it has: %s", e.Hostname, name, strings.Join(names, ", "))
		}
	}
	return nil
}

// hostIn is the entry as routers have it.
func hostIn(e table.DumpEntry) (*route.Host, error) {
	host, rejected := e.Host()
	switch {
	case host != nil:
		return host, nil
	case len(rejected) > 0:
		return nil, fmt.Errorf("%s is rejected by routers: %s", e.Hostname, rejected[0].Why)
	}
	return nil, absent(e.Hostname)
}

func absent(host string) error {
	return fmt.Errorf("%s is not in the table; \"switchboard routes list\" shows what is", host)
}

func (p *program) routesSet() *cobra.Command {
	var f tableFlags
	var output, policy, choose, stickyBy string
	var hold time.Duration
	command := &cobra.Command{
		Use:   "set HOST",
		Short: "Say how the backends of a host are used",
		Long: `Says how the backends of a host are used. What is not named stays as it is; "" and 0s are
the defaults. A choice that is not sticky takes --sticky-by back, and the policy active
takes both back. Backends and weights stay.`,
		Example: `  switchboard routes set shop.example.com --choose least_sessions
  switchboard routes set shop.example.com --choose sticky --sticky-by cookie:session --hold 2s
  switchboard routes set db.example.com --policy active`,
		Args: hostAnd(0, 0, ""),
	}
	command.RunE = func(command *cobra.Command, args []string) error {
		host, err := hostOf(args[0])
		if err != nil {
			return err
		}
		flags := command.Flags()
		var by route.StickyBy
		switch {
		case !flags.Changed("policy") && !flags.Changed("choose") && !flags.Changed("sticky-by") && !flags.Changed("hold"):
			return errors.New("nothing to set: name at least one of --policy, --choose, --sticky-by, --hold")
		case !slices.Contains([]string{"", string(route.Active), string(route.Balance)}, policy):
			return fmt.Errorf("--policy %q is not one of %s, %s", policy, route.Active, route.Balance)
		case !slices.Contains([]string{"", string(route.Random), string(route.LeastSessions), string(route.Sticky)}, choose):
			return fmt.Errorf("--choose %q is not one of %s, %s, %s", choose, route.Random, route.LeastSessions, route.Sticky)
		case hold < 0:
			return fmt.Errorf("--hold %s is negative: a duration is 0s or more", hold)
		case stickyBy != "":
			if by, err = route.ParseStickyBy(stickyBy); err != nil {
				return fmt.Errorf("--sticky-by: %w", err)
			}
		}
		if err := checkOutput(output); err != nil {
			return err
		}
		decide := func(e table.DumpEntry) ([]table.Change, error) {
			h, err := hostIn(e)
			if err != nil {
				return nil, err
			}
			o := table.Options{Policy: h.Policy, Choose: h.Choose, StickyBy: h.StickyBy, Hold: h.Hold}
			if flags.Changed("policy") {
				if o.Policy = route.Policy(policy); o.Policy == route.Active {
					o.Choose, o.StickyBy = "", route.StickyBy{}
				}
			}
			if flags.Changed("choose") {
				if o.Choose = route.Choose(choose); o.Choose != route.Sticky {
					o.StickyBy = route.StickyBy{}
				}
			}
			if flags.Changed("sticky-by") {
				o.StickyBy = by
			}
			if flags.Changed("hold") {
				o.Hold = hold
			}
			change := table.SetOptions(host, o)
			return []table.Change{change}, change.Validate()
		}
		return p.onTable(command, f, func(ctx context.Context, w *table.Writer) error {
			result, err := edit(ctx, w, host, decide)
			if err != nil {
				return err
			}
			return p.tell(output, host, "options are set", result)
		})
	}
	flags := command.Flags()
	flags.StringVar(&policy, "policy", "", "active (one backend at a time) or balance (all that are up); default balance")
	flags.StringVar(&choose, "choose", "", "under balance: random, least_sessions or sticky; default random")
	flags.StringVar(&stickyBy, "sticky-by", "", "what a client is known by: cookie:NAME, header:NAME or client")
	flags.DurationVar(&hold, "hold", 0, "how long a new client may wait for a backend")
	complete(command, "policy", string(route.Active), string(route.Balance))
	complete(command, "choose", string(route.Random), string(route.LeastSessions), string(route.Sticky))
	outputFlag(command, &output)
	f.add(command)
	return command
}

func (p *program) routesDrop() *cobra.Command {
	var f tableFlags
	var output string
	command := &cobra.Command{
		Use:     "drop HOST",
		Short:   "Take a host out of the table, options and all",
		Long:    `Takes a host out of the table, with all its backends, weights and options.`,
		Example: "  switchboard routes drop shop.example.com",
		Args:    hostAnd(0, 0, ""),
	}
	command.RunE = func(command *cobra.Command, args []string) error {
		return p.onHost(command, f, output, args[0], func(ctx context.Context, w *table.Writer, host string) error {
			result, err := w.Apply(ctx, table.Drop(host))
			if err != nil {
				return err
			}
			return p.tell(output, host, "dropped", result)
		})
	}
	outputFlag(command, &output)
	f.add(command)
	return command
}
