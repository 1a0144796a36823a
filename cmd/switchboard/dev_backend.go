package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/spf13/cobra"

	"switchboard/fixtures/child"
	"switchboard/fixtures/demo"
)

// demoBackend is the command that a dev cluster runs as its backends. It says on
// stdout where it listens.
func (p *program) demoBackend() *cobra.Command {
	b := new(demo.Backend)
	command := &cobra.Command{
		Use:    "demo-backend",
		Short:  "Run one backend of a dev cluster",
		Hidden: true,
		Args:   noArguments(""),
		RunE: func(command *cobra.Command, _ []string) error {
			signals, release := catch(command.Context())
			defer release()
			err := serve(signals, b, func() { fmt.Fprintln(p.out, b.Addr(), b.HealthAddr()) })
			if err != nil {
				fmt.Fprintln(p.errs, err)
				return errFailed
			}
			return nil
		},
	}
	flags := command.Flags()
	flags.StringVar(&b.Name, "name", "backend", "its `name`")
	flags.IntVar(&b.Index, "index", 0, "its `place` among the backends")
	flags.StringVar(&b.Listen, "listen", "", "`address` for clients; none: any free port")
	flags.StringVar(&b.HealthListen, "health", "", "`address` for its health; none: any free port")
	return command
}

// demoApp is the command that a dev cluster runs as instances of its web apps,
// likewise.
func (p *program) demoApp() *cobra.Command {
	a := new(demo.App)
	command := &cobra.Command{
		Use:    "demo-app",
		Short:  "Run one instance of a dev cluster's web app",
		Hidden: true,
		Args:   noArguments(""),
		RunE: func(command *cobra.Command, _ []string) error {
			signals, release := catch(command.Context())
			defer release()
			if err := serve(signals, a, func() { fmt.Fprintln(p.out, a.Addr()) }); err != nil {
				fmt.Fprintln(p.errs, err)
				return errFailed
			}
			return nil
		},
	}
	flags := command.Flags()
	flags.StringVar(&a.Name, "name", "app", "its `name`")
	flags.StringVar(&a.Listen, "listen", "", "`address` for requests; none: any free port")
	flags.StringVar(&a.Cookie, "cookie", "", "`name` of a cookie for its visitors")
	return command
}

// devBackend runs one demo backend, or an instance of an app, as a child: a runner
// that may run again, but not twice at once.
type devBackend struct {
	program, name string
	// app is the web app that it is an instance of, nil for a backend of the database,
	// which has an index.
	app   *devApp
	index int
	story *story
	// addr and health are where it listens: "" until its first run has chosen.
	addr, health string
	// pid is the child's, of the last run that there was.
	pid atomic.Int64
}

// Run runs the child until it ends, or until a signal ends it.
func (b *devBackend) Run(signals <-chan os.Signal, ready chan<- struct{}) error {
	again := b.pid.Load() != 0
	command := b.command()
	// A group of its own, as a terminal's Ctrl-C goes to the whole group: the router
	// is to stop before its backends do.
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	hello := newFirstLine()
	var complaint bytes.Buffer
	command.Stdout, command.Stderr = hello, &complaint
	process, err := child.Start(command)
	if err != nil {
		b.story.tell("%s cannot be started: %v; it is tried again in a few seconds", b.name, err)
		return err
	}
	select {
	case line := <-hello.line:
		b.settle(line)
	case <-process.Exited():
		b.story.tell("%s did not start: %s; it is tried again in a few seconds", b.name, strings.TrimSpace(complaint.String()))
		if !again {
			// Somebody was faster to take a port that nobody knows of yet.
			b.addr, b.health = "", ""
		}
		return fmt.Errorf("starting %s: %w", b.name, process.Err())
	case <-signals:
		end(process)
		return nil
	}
	b.pid.Store(int64(process.PID()))
	if again {
		b.story.tell("%s is back with pid %d", b.name, process.PID())
	}
	close(ready)
	select {
	case <-process.Exited():
		b.story.tell("%s with pid %d has ended (%v); it comes back in a few seconds", b.name, process.PID(), process.Err())
		return fmt.Errorf("%s: %w", b.name, process.Err())
	case <-signals:
		end(process)
		return nil
	}
}

func (b *devBackend) command() *exec.Cmd {
	if b.app != nil {
		return exec.Command(b.program, "demo-app", "--name", b.name, "--listen", b.addr, "--cookie", b.app.cookie)
	}
	return exec.Command(b.program, "demo-backend", "--name", b.name, "--index", strconv.Itoa(b.index),
		"--listen", b.addr, "--health", b.health)
}

// settle keeps the addresses that the first run has got; later runs get the same.
func (b *devBackend) settle(hello string) {
	addr, health, _ := strings.Cut(hello, " ")
	if b.addr == "" {
		b.addr = addr
	}
	if b.health == "" {
		b.health = health
	}
}

// end kills a child: it has nothing to lose.
func end(process *child.Process) {
	process.Signal(os.Kill)
	<-process.Exited()
}

// firstLine takes output and hands out its first line.
type firstLine struct {
	line chan string
	text []byte // until the first line is complete
	done bool
}

func newFirstLine() *firstLine {
	// One slot: the line is handed out once, and need not be wanted.
	return &firstLine{line: make(chan string, 1)}
}

// Write is called by one goroutine, that of the command.
func (f *firstLine) Write(p []byte) (int, error) {
	if f.done {
		return len(p), nil
	}
	f.text = append(f.text, p...)
	if line, _, complete := bytes.Cut(f.text, []byte("\n")); complete {
		f.done = true
		f.line <- string(line)
	}
	return len(p), nil
}
