package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"switchboard/api"
	"switchboard/pacemaker/stats"
	"switchboard/runner/config"
)

func (p *program) stats() *cobra.Command {
	command := &cobra.Command{
		Use:   "stats",
		Short: "Say what was counted, or count what is in an access log",
		Long: `Says what routers have counted in Redis: requests, sessions, bytes, times and statuses,
by host, version type and node, and summed up over a workspace, an application or a
version. "stats follow" counts what is in a log that no router of ours counts, as
NGINX's.

Redis is named with --redis or ` + statsKey.url() + `, as a router's
stats.redis.url. Others on this machine can read a command line, so a password is
better put in the variable, or in a file (--redis-password-file).`,
		Example: `  export ` + statsKey.url() + `=redis://127.0.0.1:6379
  switchboard stats totals host shop.example.com
  switchboard stats history host shop.example.com --last 10m --step 1m
  switchboard stats follow --log /var/log/nginx/access.json --node nginx-1`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return fmt.Errorf("unknown command %q: there are totals, history and follow", args[0])
		},
		RunE: func(command *cobra.Command, _ []string) error { return command.Help() },
	}
	command.AddCommand(p.statsTotals(), p.statsHistory(), p.statsFollow())
	return command
}

// statsPlace is where the statistics are, by the flags, else by the environment.
func (p *program) statsPlace(f redisFlags) (place, error) {
	rest := p.place(statsKey)
	rest.Timeout, rest.Name = 5*time.Second, "switchboard-stats"
	at, err := f.over(rest, statsKey)
	if err != nil {
		return at, err
	}
	return at, at.CheckPrefix(at.prefix)
}

// askStats asks a question, and says why if there is no answer. Errors that it returns itself
// are about the command line.
func (p *program) askStats(command *cobra.Command, f redisFlags, ask func(context.Context, *stats.Query) error) error {
	at, err := p.statsPlace(f)
	if err != nil {
		return err
	}
	client, err := at.Connect()
	if err != nil {
		return err
	}
	defer client.Close()
	query, err := stats.NewQuery(stats.QueryOptions{Client: client, Prefix: at.prefix, Timeout: at.Timeout})
	if err != nil {
		return err
	}
	err = untilInterrupted(command, client, func(ctx context.Context) error { return ask(ctx, query) })
	if err == nil || errors.Is(err, stats.ErrQuestion) {
		return err
	}
	p.blame(command, err, "the statistics", at)
	return errFailed
}

// aKind is for verbs that take a kind and, if that has one, an ID.
func aKind(_ *cobra.Command, args []string) error {
	var kinds []string
	for _, kind := range stats.Kinds() {
		kinds = append(kinds, string(kind))
	}
	switch {
	case len(args) == 0:
		return fmt.Errorf("wanted: KIND [ID], where KIND is one of %s", strings.Join(kinds, ", "))
	case !slices.Contains(kinds, args[0]):
		return fmt.Errorf("%q is not one of %s", args[0], strings.Join(kinds, ", "))
	case len(args) == 1 && stats.Kind(args[0]).Needs():
		return fmt.Errorf("wanted: %s ID", args[0])
	case len(args) > 2:
		return fmt.Errorf("unexpected argument %q", args[2])
	}
	return nil
}

// of is the kind and the ID of arguments that aKind has taken.
func of(args []string) (kind stats.Kind, id string) {
	if len(args) > 1 {
		id = args[1]
	}
	return stats.Kind(args[0]), id
}

func (p *program) statsTotals() *cobra.Command {
	var f redisFlags
	var output string
	command := &cobra.Command{
		Use:   "totals KIND [ID]",
		Short: "Say what was counted in all",
		Long: `Says what was counted in all. KIND is host, version_type or node; workspace, application
or version, which are sums over version types; or uncaught (requests without a route) or
pacemaker, which have no ID. Times are in milliseconds, percentages of the requests.`,
		Example: `  switchboard stats totals host '*.pets.example.com'
  switchboard stats totals uncaught -o json`,
		Args: aKind,
	}
	command.RunE = func(command *cobra.Command, args []string) error {
		if err := checkOutput(output); err != nil {
			return err
		}
		kind, id := of(args)
		return p.askStats(command, f, func(ctx context.Context, q *stats.Query) error {
			totals, err := q.Totals(ctx, kind, id)
			if err != nil {
				return err
			}
			if output == "json" {
				return json.NewEncoder(p.out).Encode(totals)
			}
			return p.tellTotals(totals)
		})
	}
	outputFlag(command, &output)
	f.add(command, statsKey, "the statistics are")
	return command
}

func (p *program) tellTotals(t stats.Totals) error {
	out := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(out, "%s\t%s\n", t.Kind, t.ID)
	fmt.Fprintf(out, "requests\t%d\n", t.Requests)
	for _, class := range []struct {
		name    string
		n       int64
		percent float64
	}{
		{"1xx", t.Class1xx, t.Percentage1xx}, {"2xx", t.Class2xx, t.Percentage2xx}, {"3xx", t.Class3xx, t.Percentage3xx},
		{"4xx", t.Class4xx, t.Percentage4xx}, {"5xx", t.Class5xx, t.Percentage5xx},
	} {
		if class.n > 0 {
			fmt.Fprintf(out, "  %s\t%d (%.2f %%)\n", class.name, class.n, class.percent)
		}
	}
	for _, code := range slices.Sorted(maps.Keys(t.Codes)) {
		fmt.Fprintf(out, "  status %d\t%d\n", code, t.Codes[code])
	}
	fmt.Fprintf(out, "sessions\t%d\nbytes\t%d\n", t.Sessions, t.Bytes)
	fmt.Fprintf(out, "time of backends\t%.1f ms\ntime in all\t%.1f ms\n", t.TimeAverage, t.NGINXTimeAverage)
	return out.Flush()
}

func (p *program) statsHistory() *cobra.Command {
	var f redisFlags
	var output string
	var metrics []string
	var last, step time.Duration
	command := &cobra.Command{
		Use:   "history KIND [ID]",
		Short: "Say what was counted when",
		Long: `Says what was counted when, in steps; those in which nothing was are left out. KIND and
ID are as for "stats totals". There is a value a second for six hours, one a minute for a
week, and one an hour for ninety days, if the readers keep it for as long as is usual.

Metrics are ` + strings.Join(stats.Metrics(), ", ") + `.`,
		Example: `  switchboard stats history host shop.example.com
  switchboard stats history node node-3 --last 24h --step 1h --metrics requests,5xx -o json`,
		Args: aKind,
	}
	command.RunE = func(command *cobra.Command, args []string) error {
		if err := checkOutput(output); err != nil {
			return err
		}
		if last <= 0 {
			return fmt.Errorf("--last %s is no time: give one such as 1m", last)
		}
		kind, id := of(args)
		return p.askStats(command, f, func(ctx context.Context, q *stats.Query) error {
			now := time.Now()
			history, err := q.History(ctx, kind, id, metrics, now.Add(-last), now, step)
			if err != nil {
				return err
			}
			if output == "json" {
				return json.NewEncoder(p.out).Encode(history)
			}
			return p.tellHistory(history, metrics)
		})
	}
	flags := command.Flags()
	flags.DurationVar(&last, "last", time.Minute, "how far back")
	flags.DurationVar(&step, "step", time.Second, "how long a step is, whole seconds")
	flags.StringSliceVar(&metrics, "metrics", []string{stats.Requests, stats.Sessions, stats.Bytes, "4xx", "5xx"}, "what to tell, `names` with commas")
	complete(command, "metrics", stats.Metrics()...)
	outputFlag(command, &output)
	f.add(command, statsKey, "the statistics are")
	return command
}

func (p *program) tellHistory(h stats.History, metrics []string) error {
	rows := make(map[int64]map[string]int64)
	for metric, points := range h.Metrics {
		for _, point := range points {
			if rows[point.At] == nil {
				rows[point.At] = make(map[string]int64)
			}
			rows[point.At][metric] = point.Value
		}
	}
	out := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "time\t"+strings.Join(metrics, "\t"))
	for _, at := range slices.Sorted(maps.Keys(rows)) {
		fmt.Fprint(out, time.Unix(at, 0).Format(time.RFC3339))
		for _, metric := range metrics {
			fmt.Fprintf(out, "\t%d", rows[at][metric])
		}
		fmt.Fprintln(out)
	}
	return out.Flush()
}

func (p *program) statsFollow() *cobra.Command {
	var f redisFlags
	var path, node string
	var interval time.Duration
	command := &cobra.Command{
		Use:   "follow --log FILE --node NAME",
		Short: "Count what is in an access log, for as long as it runs",
		Long: `Counts what is in an access log, for as long as it runs: one of ours, or NGINX's, of one
JSON object a line. The log need not be there yet, and may be rotated by renaming; what
was rotated is finished first. Each line is counted once, whatever is killed: how far the
log was counted is kept in Redis, under --node, which no other log may have.

A router counts its own log if it is configured with stats.redis.`,
		Example: `  switchboard stats follow --log /var/log/nginx/access.json --node nginx-1 --redis redis://127.0.0.1:6379`,
		Args:    noArguments(""),
	}
	command.RunE = func(command *cobra.Command, _ []string) error {
		switch {
		case path == "":
			return errors.New("no log: name it with --log FILE")
		case node == "":
			return errors.New("no node: name it with --node NAME")
		case interval <= 0:
			return fmt.Errorf("--interval %s is no time: give one such as 500ms", interval)
		}
		at, err := p.statsPlace(f)
		if err != nil {
			return err
		}
		at.Timeout = 0
		log := newLog(p.errs, config.Log{Level: "info", Format: "json"})
		reader, err := stats.NewReader(stats.Options{Redis: at.Redis, Prefix: at.prefix, Log: path, Node: node, Interval: interval, Logger: log})
		if err != nil {
			return err
		}
		signals, release := catch(command.Context())
		defer release()
		// Without a receiver, a write to a closed stderr would end the process.
		signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
		if err := serve(signals, reader, func() { log.Info("started", "log", path, "node", node, "redis", at.Redis) }); err != nil {
			log.Error("the reader has failed", "cause", err)
			return errFailed
		}
		log.Info("stopped", "status", reader.Status())
		return nil
	}
	flags := command.Flags()
	flags.StringVar(&path, "log", "", "the log, a `file`")
	flags.StringVar(&node, "node", "", "the `name` that its position is kept under")
	flags.DurationVar(&interval, "interval", stats.DefaultInterval, "how often it is looked at")
	_ = command.MarkFlagFilename("log")
	f.add(command, statsKey, "the statistics are")
	return command
}

// counter counts the access log of a router, and has what the API is asked about it.
type counter struct {
	*stats.Reader
	counted
	io.Closer
}

// newCounter returns a counter of what a configuration, which is valid, says. Close it.
func newCounter(file *config.File, log *slog.Logger) (*counter, error) {
	s := file.Stats
	reader, err := stats.NewReader(stats.Options{
		Redis: s.Redis.Store(), Prefix: s.Redis.Prefix, Log: s.Log, Node: file.Name, Interval: s.Interval, Logger: log,
	})
	if err != nil {
		return nil, err
	}
	client, err := s.Redis.Store().Connect()
	if err != nil {
		return nil, err
	}
	query, err := stats.NewQuery(stats.QueryOptions{Client: client, Prefix: s.Redis.Prefix})
	if err != nil {
		return nil, errors.Join(err, client.Close())
	}
	return &counter{reader, counted{query}, client}, nil
}

// counted is what the API is asked about statistics.
type counted struct{ query *stats.Query }

// Totals is [api.Stats]'s.
func (c counted) Totals(ctx context.Context, kind, id string) (any, error) {
	totals, err := c.query.Totals(ctx, stats.Kind(kind), id)
	return totals, asked(err)
}

// History is [api.Stats]'s.
func (c counted) History(ctx context.Context, kind, id string, metrics []string, from, to time.Time, step time.Duration) (any, error) {
	history, err := c.query.History(ctx, stats.Kind(kind), id, metrics, from, to, step)
	return history, asked(err)
}

// asked is err in the API's words.
func asked(err error) error {
	if errors.Is(err, stats.ErrQuestion) {
		return questionError{err}
	}
	return err
}

// questionError is an error that the API tells who asked.
type questionError struct{ error }

func (questionError) Is(target error) bool { return target == api.ErrQuestion }

func (e questionError) Unwrap() error { return e.error }
