package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"switchboard/api"
	"switchboard/api/metrics"
)

// buildInfo is what a binary knows about itself. What it does not know is empty.
type buildInfo struct {
	Version string `json:"version"`
	// Revision is the commit, Time when it was made, Modified whether the tree was
	// another when it was built.
	Revision string `json:"revision"`
	Time     string `json:"time"`
	Modified bool   `json:"modified"`
	Go       string `json:"go"`
	OS       string `json:"os"`
	Arch     string `json:"arch"`
}

func build() buildInfo {
	b := buildInfo{Version: "(devel)", Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if info.Main.Version != "" {
		b.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value
		case "vcs.time":
			b.Time = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
}

// String is one line for people.
func (b buildInfo) String() string {
	parts := []string{b.Version}
	if b.Revision != "" {
		parts = append(parts, "revision "+b.Revision)
	}
	if b.Modified {
		parts = append(parts, "modified")
	}
	return strings.Join(append(parts, b.Go, b.OS+"/"+b.Arch), " ")
}

// metrics makes what answers GET /metrics of a router of this build.
func (b buildInfo) metrics(log *slog.Logger) func(api.Sources) http.Handler {
	return func(s api.Sources) http.Handler {
		return metrics.New(metrics.Options{Sources: s, Version: b.Version, Revision: b.Revision, Log: log})
	}
}

func (p *program) version() *cobra.Command {
	var output string
	command := &cobra.Command{
		Use:     "version",
		Short:   "Say which version this is",
		Example: "  switchboard version\n  switchboard version -o json",
		Args:    noArguments(""),
		RunE: func(*cobra.Command, []string) error {
			switch output {
			case "text":
				fmt.Fprintln(p.out, "switchboard", build())
				return nil
			case "json":
				return json.NewEncoder(p.out).Encode(build())
			default:
				return fmt.Errorf("--output %q is not one of text, json", output)
			}
		},
	}
	command.Flags().StringVarP(&output, "output", "o", "text", "how to say it: text or json")
	complete(command, "output", "text", "json")
	return command
}

// complete lets the shell complete the values of a flag.
func complete(command *cobra.Command, flag string, values ...string) {
	// The only error is a flag that does not exist.
	_ = command.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
}
