package check

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// afterKill is how long a check waits, once its command was killed or has
// exited, for the output of a grandchild that left the process group and still
// holds the pipe.
const afterKill = 100 * time.Millisecond

// searchPath is where commands without a slash are looked for, and the PATH that
// they get if the router has none.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Exec builds the "exec" check, which runs Spec.Command, an argv without a
// shell, once a probe. Exit status 0 is healthy, 1 is the backend's own word
// that it must not serve, and every other end fails the check: so a script can
// tell "no" from "I could not find out". The detail is the first line of what
// it prints, standard output or error.
//
// Its environment is PATH and SWITCHBOARD_HOST, SWITCHBOARD_BACKEND (names) and
// SWITCHBOARD_ADDRESS (host:port), nothing else. The command runs in a process
// group of its own, which is killed when the probe's time is up and when the
// command has exited, so a check leaves no process behind.
func Exec(spec Spec, target Target) (Checker, error) {
	if len(spec.Command) == 0 || spec.Command[0] == "" {
		return nil, errors.New("exec check: the command is missing: list the program and its arguments")
	}
	if spec.TLS.Enabled {
		return nil, errors.New("exec check: the command talks to the server, so TLS is its business: remove tls")
	}
	path := os.Getenv("PATH")
	if path == "" {
		path = searchPath
	}
	return &execChecker{
		command: spec.Command,
		environment: []string{
			"PATH=" + path,
			"SWITCHBOARD_HOST=" + target.Host,
			"SWITCHBOARD_BACKEND=" + target.Backend.Name,
			"SWITCHBOARD_ADDRESS=" + target.Address,
		},
	}, nil
}

type execChecker struct {
	command     []string
	environment []string
}

func (c *execChecker) Check(ctx context.Context) Result {
	command := exec.CommandContext(ctx, c.command[0], c.command[1:]...)
	var output head
	command.Env, command.Stdout, command.Stderr = c.environment, &output, &output
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	command.Cancel = func() error { return killGroup(command.Process.Pid) }
	command.WaitDelay = afterKill

	err := command.Run()
	if command.Process != nil {
		// What the command left running in its group. The group keeps its number
		// while it has members, and is gone (ESRCH) if it has none.
		_ = killGroup(command.Process.Pid)
	}
	said := Line(string(output.text))
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return Result{Verdict: Failed, Detail: Words(context.Cause(ctx))}
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		return Result{Verdict: Healthy, Detail: orElse(said, "exit status 0")}
	case errors.As(err, &exit) && exit.ExitCode() == 1:
		return Result{Verdict: Unhealthy, Detail: orElse(said, "exit status 1")}
	case Short(err):
		return Result{Verdict: Void, Detail: Words(err)}
	case errors.As(err, &exit) && said != "":
		return Result{Verdict: Failed, Detail: fmt.Sprintf("%s: %s", exit, said)}
	default:
		return Result{Verdict: Failed, Detail: Line(err.Error())}
	}
}

func (c *execChecker) Close() error { return nil }

func killGroup(leader int) error {
	err := syscall.Kill(-leader, syscall.SIGKILL)
	if errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

// head keeps the first bytes written to it and swallows the rest.
type head struct{ text []byte }

func (h *head) Write(p []byte) (int, error) {
	room := 4*maxDetail - len(h.text)
	h.text = append(h.text, p[:min(len(p), max(room, 0))]...)
	return len(p), nil
}

func orElse(said, otherwise string) string {
	if said == "" {
		return otherwise
	}
	return said
}
