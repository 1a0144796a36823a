package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"switchboard/bridge/accesslog"
	"switchboard/monitor/check"
	"switchboard/monitor/check/galera"
	"switchboard/monitor/check/mysql"
	"switchboard/monitor/check/postgres"
	"switchboard/monitor/check/redis"
	"switchboard/runner"
	"switchboard/runner/config"
	"switchboard/runner/process"
)

// configVariable names the configuration file where there is no flag.
const configVariable = config.EnvPrefix + "CONFIG"

// foreign are variables of our prefix that are no keys: our own, and those that
// Kubernetes sets in every container for a service named switchboard.
func foreign() []string {
	return []string{
		configVariable, apiVariable,
		config.EnvPrefix + "PORT", config.EnvPrefix + "PORT_*", config.EnvPrefix + "SERVICE_*",
	}
}

// linked are the checks that this program adds to those of every router.
func linked() map[string]check.Builder {
	return map[string]check.Builder{"galera": galera.New(), "mysql": mysql.New, "postgres": postgres.New, "redis": redis.New}
}

func (p *program) router() *cobra.Command {
	var path string
	var checkOnly bool
	command := &cobra.Command{
		Use:   "router --config FILE",
		Short: "Run a router",
		Long: `Runs a router: it accepts clients on its listeners, bridges each to the active
backend of the listener's host, and severs all of them when another backend
becomes the active one.

A key's value is taken from its flag, else from its environment variable, else
from the file. Keys inside lists have no flag, but a variable with an index:
SWITCHBOARD_HOSTS_0_BACKENDS_1_ADDRESS. "switchboard help keys" lists them all.

The first SIGINT or SIGTERM turns readiness red, lets open sessions end for
shutdown.drain, severs the rest and exits 0. A second one means now. SIGUSR1
opens the access log anew, for when its file was renamed.`,
		Example: `  switchboard router --config router.yaml --check   is it good? opens nothing
  switchboard router --config router.yaml
  switchboard router --config router.yaml --api-bind 127.0.0.1:9191 --log-level debug
  SWITCHBOARD_CONFIG=router.yaml switchboard router`,
		Args: noArguments("; name the configuration with --config FILE"),
	}
	flags := command.Flags()
	flags.SortFlags = false
	flags.StringVar(&path, "config", "", "configuration, a `file` of YAML or JSON ("+configVariable+")")
	flags.BoolVar(&checkOnly, "check", false, "only say what is wrong with the configuration, and open nothing")
	_ = command.MarkFlagFilename("config", "yaml", "yml", "json")
	addKeyFlags(command)
	command.RunE = func(command *cobra.Command, _ []string) error {
		file, c, err := p.load(path, keyFlags(flags))
		if err != nil {
			return invalid{err}
		}
		if checkOnly {
			for _, warning := range file.Warnings {
				fmt.Fprintln(p.errs, "warning:", warning)
			}
			fmt.Fprintf(p.out, "the configuration is good: listeners: %d, hosts: %d\n", len(c.Listeners), len(c.Hosts))
			return nil
		}
		return p.route(command.Context(), file, c)
	}
	return command
}

// addKeyFlags adds a flag for every key that may have one.
func addKeyFlags(command *cobra.Command) {
	for _, key := range config.Keys() {
		if key.Flag == "" {
			continue
		}
		usage := key.Doc
		if key.Default != "" {
			usage += " (default " + key.Default + ")"
		}
		command.Flags().Var(&keyFlag{kind: strings.ReplaceAll(key.Type, " ", "")}, key.Flag, usage)
		if strings.Contains(key.Type, " | ") {
			complete(command, key.Flag, strings.Split(key.Type, " | ")...)
		}
	}
}

// keyFlag is the value of a key's flag: text, as whoever reads the configuration
// checks it. It is not set by default, since the file comes first.
type keyFlag struct{ kind, text string }

func (f *keyFlag) String() string { return f.text }
func (f *keyFlag) Type() string   { return f.kind }
func (f *keyFlag) Set(text string) error {
	f.text = text
	return nil
}

// keyFlags are the flags that were given, by the path of their key.
func keyFlags(flags *pflag.FlagSet) map[string]string {
	given := make(map[string]string)
	for _, key := range config.Keys() {
		if key.Flag != "" && flags.Changed(key.Flag) {
			given[key.Path] = flags.Lookup(key.Flag).Value.String()
		}
	}
	return given
}

// load reads and validates a configuration. It opens nothing but files to read.
func (p *program) load(path string, flags map[string]string) (*config.File, runner.Config, error) {
	if path == "" {
		path = p.value(configVariable)
	}
	if path == "" && !p.configured() {
		return nil, runner.Config{}, fmt.Errorf("no configuration: name a file with --config FILE or %s, or set the keys in the environment (see switchboard help keys)", configVariable)
	}
	checks := linked()
	file, err := config.Load(config.Source{Path: path, Env: p.env, Allow: foreign(), Flags: flags, Checks: checks})
	if err != nil {
		return nil, runner.Config{}, err
	}
	c := file.Runner()
	c.Checks = checks
	return file, c, nil
}

// configured tells whether the environment has hosts or listeners, so that a
// router may do without a file.
func (p *program) configured() bool {
	return slices.ContainsFunc(p.env, func(entry string) bool {
		return strings.HasPrefix(entry, config.EnvPrefix+"HOSTS_") || strings.HasPrefix(entry, config.EnvPrefix+"LISTENERS_")
	})
}

// route runs a router until it is told to stop.
func (p *program) route(ctx context.Context, file *config.File, c runner.Config) error {
	signals, release := catch(ctx)
	defer release()
	// Without a receiver, a write to a closed stdout or stderr would end the process.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	log := newLog(p.errs, file.Log)
	c.Log = log
	for _, warning := range file.Warnings {
		log.Warn("configuration", "warning", warning)
	}
	fail := func(err error) error {
		log.Error("the router has failed", "cause", err)
		return errFailed
	}
	c.Access = p.accessLog(file.Log.Access, log)
	defer onRotation(c.Access, log)()
	var listeners []string
	for _, l := range c.Listeners {
		listeners = append(listeners, l.Name+" "+l.Bind)
	}
	table := ""
	if file.Redis.URL != "" {
		table = file.Redis.Store().String()
	}
	b := build()
	c.Metrics = b.metrics(log)
	log.Info("starting", "router", c.Name, "version", b.Version, "revision", b.Revision, "go", b.Go,
		"listeners", listeners, "api", c.API.Bind, "state", c.State, "table", table)
	// What is first is stopped last.
	var members []process.Member
	add := func(name string, r process.Runner) { members = append(members, process.Member{Name: name, Runner: r}) }
	if file.Stats.Redis.URL != "" {
		counter, err := newCounter(file, log)
		if err != nil {
			return fail(err)
		}
		defer counter.Close()
		c.Stats = counter.counted
		// It counts the router's last lines too.
		add("stats", counter)
	}
	var follows *follower
	if file.Redis.URL != "" {
		var err error
		if follows, err = newFollower(file.Redis.Store(), file.Redis.Prefix, c.State, log); err != nil {
			return fail(err)
		}
		c.Table = follows.table()
		add("table", follows)
	}
	router, err := runner.New(c)
	if err != nil {
		return fail(err)
	}
	if follows != nil {
		follows.router.Store(router)
	}
	var running process.Runner = router
	if len(members) > 0 {
		add("router", router)
		running = process.Ordered(members...)
	}
	err = serve(signals, running, func() {
		log.Info("started", "api", router.APIAddr().String())
	})
	if err != nil {
		return fail(err)
	}
	log.Info("stopped")
	return nil
}

// newLog makes the log that a configuration, which is valid, asks for.
func newLog(to io.Writer, c config.Log) *slog.Logger {
	options := new(slog.HandlerOptions)
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Level)); err == nil {
		options.Level = level
	}
	if c.Format == "text" {
		return slog.New(slog.NewTextHandler(to, options))
	}
	return slog.New(slog.NewJSONHandler(to, options))
}

// accessLog makes the access log, nil if there is to be none.
func (p *program) accessLog(name string, log *slog.Logger) *accesslog.Log {
	switch name {
	case "":
		return nil
	case "-":
		return accesslog.New(accesslog.Options{Writer: p.out, Log: log})
	}
	return accesslog.New(accesslog.Options{Path: name, Log: log})
}

// onRotation has the access log opened anew with every SIGUSR1, until it is released.
// Without an access log the signal does nothing, rather than end the process.
func onRotation(access *accesslog.Log, log *slog.Logger) (release func()) {
	rotated := make(chan os.Signal, 1) // one that comes while another is obeyed is for both
	signal.Notify(rotated, syscall.SIGUSR1)
	ctx, cancel := context.WithCancel(context.Background())
	var obeying sync.WaitGroup
	obeying.Go(func() {
		for {
			select {
			case <-rotated:
				if access == nil {
					continue
				}
				err := access.Reopen(ctx)
				if err != nil && ctx.Err() == nil && !errors.Is(err, accesslog.ErrStopped) {
					log.Error("opening the access log anew", "cause", err)
				}
			case <-ctx.Done():
				return
			}
		}
	})
	// The signal is never given back, since it would end a process that is stopping.
	return func() {
		cancel()
		obeying.Wait()
	}
}
