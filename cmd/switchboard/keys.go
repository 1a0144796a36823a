package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"switchboard/runner/config"
)

// keys is a page of help, and no command: cobra shows what has nothing to run as
// a topic.
func (p *program) keys() *cobra.Command {
	var page strings.Builder
	page.WriteString(`Everything that the configuration of a router can say. [] stands for the elements
of a list, and N in the name of a variable for an index, which counts from 0.
Durations have a unit: 500ms, 10s, 2m.
`)
	for _, key := range config.Keys() {
		facts := key.Type
		switch {
		case key.Required:
			facts += ", required"
		case key.Default != "":
			facts += ", default " + key.Default
		}
		fmt.Fprintf(&page, "\n  %s (%s)\n      %s\n      %s\n", key.Path, facts, key.Doc, key.Env)
	}
	return &cobra.Command{
		Use:   "keys",
		Short: "All keys of a router's configuration",
		Long:  strings.TrimSuffix(page.String(), "\n"),
	}
}
