package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"switchboard/runner/process"
)

// The exit codes.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

// errFailed ends a command that has already said why.
var errFailed = errors.New("failed")

// exit ends a command that has already said why with a code of its own.
type exit int

func (e exit) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// invalid is a wrong configuration: lines that need no introduction.
type invalid struct{ error }

// program is what the commands share.
type program struct {
	out, errs io.Writer
	env       []string
}

// run runs one command line and returns its exit code. The end of ctx is as good
// as a first SIGTERM.
func run(ctx context.Context, args []string, in io.Reader, out, errs io.Writer, env []string) int {
	p := &program{out: out, errs: errs, env: env}
	root := p.root()
	// Without the copy, cobra would take a nil slice for the process's own arguments.
	root.SetArgs(append([]string{}, args...))
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errs)
	command, err := root.ExecuteContextC(ctx)
	var (
		wrong invalid
		code  exit
	)
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errFailed):
		return exitFailure
	case errors.As(err, &code):
		return int(code)
	case errors.As(err, &wrong):
		fmt.Fprintln(errs, wrong)
		return exitUsage
	default:
		// What is left comes from cobra, about the command line.
		fmt.Fprintf(errs, "%s: %s\nsee %s --help\n", command.CommandPath(), strings.TrimSpace(err.Error()), command.CommandPath())
		return exitUsage
	}
}

func (p *program) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "switchboard",
		Short: "A TCP router that severs every session the moment the active backend changes",
		Long: `Switchboard bridges TCP connections to the one active backend of a host. The
moment another backend becomes the active one, every session to the old one is
severed, so no client is ever left on the wrong node.`,
		Example: `  switchboard dev                                  a whole cluster to try, no set-up
  switchboard router --config router.yaml --check  is this configuration good?
  switchboard router --config router.yaml          run it
  switchboard routes list                          the routing table in Redis
  switchboard stats totals host db.main            what was counted
  switchboard events --follow                      what happens in a router
  switchboard help keys                            everything a configuration can say
  source <(switchboard completion bash)            complete commands with Tab`,
		Version:       build().String(),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetVersionTemplate("switchboard {{.Version}}\n")
	root.SetFlagErrorFunc(suggestFlag)
	root.AddCommand(p.router(), p.routes(), p.stats(), p.events(), p.dev(), p.compat(), p.version(), p.keys(), p.demoBackend(), p.demoApp())
	root.SetUsageTemplate(root.UsageTemplate() + exitCodes)
	return root
}

const exitCodes = `
Exit codes:
  0  a clean end
  1  a failure while starting or running
  2  a wrong command line or configuration
`

// suggestFlag adds the flag that was probably meant.
func suggestFlag(command *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) || unknown.GetSpecifiedName() == "" {
		return err
	}
	// Cobra has a measure for what is near, but applies it to commands only.
	flags := &cobra.Command{SuggestionsMinimumDistance: 2}
	command.Flags().VisitAll(func(f *pflag.Flag) {
		flags.AddCommand(&cobra.Command{Use: f.Name, Run: func(*cobra.Command, []string) {}})
	})
	near := flags.SuggestionsFor(unknown.GetSpecifiedName())
	if len(near) == 0 {
		return err
	}
	return fmt.Errorf("%w: did you mean --%s?", err, near[0])
}

// noArguments refuses arguments; hint says what may have been meant.
func noArguments(hint string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		return fmt.Errorf("unexpected argument %q%s", args[0], hint)
	}
}

// value is the value of an environment variable, "" if it is not set. As in a
// shell the last of several counts.
func (p *program) value(name string) string {
	for _, entry := range slices.Backward(p.env) {
		if value, found := strings.CutPrefix(entry, name+"="); found {
			return value
		}
	}
	return ""
}

// catch takes SIGINT and SIGTERM from now on, and the end of ctx as one of them,
// until release is called.
func catch(ctx context.Context) (signals <-chan os.Signal, release func()) {
	caught := make(chan os.Signal, 2) // stop, and now
	signal.Notify(caught, os.Interrupt, syscall.SIGTERM)
	stop := context.AfterFunc(ctx, func() {
		select {
		case caught <- syscall.SIGTERM:
		default: // it has been told twice
		}
	})
	return caught, func() {
		stop()
		signal.Stop(caught)
	}
}

// serve runs r until it ends, and calls ready when it is ready.
func serve(signals <-chan os.Signal, r process.Runner, ready func()) error {
	up := make(chan struct{})
	ended := make(chan error, 1) // one slot: the result is always received
	go func() { ended <- r.Run(signals, up) }()
	select {
	case <-up:
		ready()
	case err := <-ended:
		return err
	}
	return <-ended
}
