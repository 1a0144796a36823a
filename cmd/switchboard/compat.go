package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"regexp"
	"syscall"

	"github.com/spf13/cobra"

	"switchboard/runner/compat"
)

const compatLong = `Runs in place of Cloud Foundry's switchboard, or of its fork in pxc-release, with
the flags, environment, configuration, ports, pages and log of that program.

  switchboard compat -configPath=/var/vcap/jobs/proxy/config/proxy.yml
  switchboard compat -config='{"Proxy":{"Port":3306,...},...}' -logLevel=debug

The configuration is JSON or YAML: the first of -config, -configPath, CONFIG (the
text) and CONFIG_PATH (a file) that is not empty.

Exit codes:
  0  a clean stop
  1  no configuration was given
  2  anything else: a wrong flag or configuration, no StaticDir, a port in use, a part that failed
`

func (p *program) compat() *cobra.Command {
	command := &cobra.Command{
		Use:   "compat -config=TEXT | -configPath=FILE",
		Short: "Run in place of Cloud Foundry's switchboard",
		Long:  compatLong,
		// The original's flags have one hyphen or two; package flag reads both.
		DisableFlagParsing: true,
		RunE: func(command *cobra.Command, args []string) error {
			return p.runCompat(command.Context(), args)
		},
	}
	// The flags are not cobra's, and the exit codes not those of the other commands.
	command.SetHelpFunc(func(*cobra.Command, []string) { _, _ = p.parseCompat([]string{"-help"}) })
	return command
}

// compatFlags are the original's.
type compatFlags struct {
	config, path, level string
	log                 compat.LogOptions
}

func (p *program) runCompat(ctx context.Context, args []string) error {
	flags, err := p.parseCompat(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return nil
	case err != nil:
		fmt.Fprintf(p.errs, "switchboard compat: %s\nsee switchboard compat -help\n", err)
		return exit(exitUsage)
	}
	log := slog.New(compat.NewHandler(p.out, flags.log))
	// Log readers look at stdout, people at stderr.
	fail := func(code exit, message string, err error) error {
		log.LogAttrs(ctx, compat.LevelFatal, message, slog.Any("error", err))
		fmt.Fprintln(p.errs, err)
		return code
	}
	text, err := p.compatText(flags)
	switch {
	case errors.Is(err, errNoConfig):
		return fail(exitFailure, "Error reading config:", err)
	case err != nil:
		return fail(exitUsage, "Error reading config:", err)
	}
	config, err := compat.Parse(text)
	if err != nil {
		return fail(exitUsage, "Error validating config:", err)
	}
	daemon, err := compat.New(config, log)
	if err != nil {
		return fail(exitUsage, err.Error(), err)
	}
	signals, release := catch(ctx)
	defer release()
	// Without a receiver, a write to a closed stdout would end the process, and so would
	// the signal that rotates other programs' logs.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE, syscall.SIGUSR1)
	err = serve(signals, daemon, func() {
		log.Info("Proxy started", "proxyConfig", config.Proxy)
	})
	if err != nil {
		return fail(exitUsage, "Switchboard exited unexpectedly", err)
	}
	log.Info("Switchboard has exited")
	return nil
}

// parseCompat reads the command line, or prints help and returns [flag.ErrHelp].
func (p *program) parseCompat(args []string) (compatFlags, error) {
	var f compatFlags
	set := flag.NewFlagSet("switchboard compat", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.StringVar(&f.config, "config", "", "the configuration itself, JSON or YAML, as `text` (CONFIG)")
	set.StringVar(&f.path, "configPath", "", "the `file` with the configuration (CONFIG_PATH)")
	set.StringVar(&f.level, "logLevel", "info", "the least that is logged: debug, info, error or fatal")
	set.BoolVar(&f.log.Redact, "redactSecrets", false, "replace what looks like a secret in the log")
	set.Func("redactPatterns", "with -redactSecrets also texts that match this `regexp`; may be repeated", func(text string) error {
		pattern, err := regexp.Compile(text)
		f.log.Patterns = append(f.log.Patterns, pattern)
		return err
	})
	set.Func("timeFormat", "how times are logged: unix-epoch or rfc3339 (default unix-epoch)", func(text string) error {
		switch text {
		case "unix-epoch", "0":
			f.log.RFC3339 = false
		case "rfc3339", "1":
			f.log.RFC3339 = true
		default:
			return fmt.Errorf("use unix-epoch or rfc3339")
		}
		return nil
	})
	if err := set.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			set.SetOutput(p.out)
			fmt.Fprint(p.out, compatLong, "\nFlags:\n")
			set.PrintDefaults()
		}
		return f, err
	}
	if set.NArg() > 0 {
		return f, fmt.Errorf("unexpected argument %q", set.Arg(0))
	}
	level, err := compat.ParseLevel(f.level)
	f.log.Level = level
	return f, err
}

// errNoConfig is the one failure with an exit code of its own.
var errNoConfig = errors.New("no configuration: set -config, -configPath, CONFIG or CONFIG_PATH")

// compatText is the configuration as it was given.
func (p *program) compatText(f compatFlags) ([]byte, error) {
	environment := p.value("CONFIG")
	path := f.path
	switch {
	case f.config != "":
		return []byte(f.config), nil
	case path != "":
	case environment != "":
		return []byte(environment), nil
	default:
		path = p.value("CONFIG_PATH")
	}
	if path == "" {
		return nil, errNoConfig
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	return text, nil
}
