package table

import (
	"fmt"
	"strings"

	"switchboard/bridge/route"
)

// keys spells the keys of the table; nobody else does.
type keys struct{ prefix string }

func (k keys) serial() string               { return k.prefix + "serial" }
func (k keys) changes() string              { return k.prefix + "changes" }
func (k keys) instances(host string) string { return k.prefix + "instances:" + host }
func (k keys) host(host string) string      { return k.prefix + "host:" + host }

// hosts is a pattern that the keys of both kinds match, so that one SCAN is enough, and
// hardly any other. The prefix is taken literally.
func (k keys) hosts() string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`).Replace(k.prefix) + "[ih][no]st*:*"
}

// validHost checks the name of a host in the table: it is one as [route.Host] has it, in
// its one spelling. Keys are made of valid names only.
func validHost(name string) error {
	if name == route.CatchAll {
		return nil
	}
	suffix, wildcard := strings.CutPrefix(name, "*.")
	canonical, err := route.HostName(suffix)
	switch {
	case err != nil:
		return err
	case canonical != suffix:
		return fmt.Errorf("%q is not in its one spelling, %q", name, name[:len(name)-len(suffix)]+canonical)
	case wildcard:
		// Nothing stands before an IP address; a table knows, so it is asked.
		_, err := route.NewTable(route.Options{}, &route.Host{Name: name, Policy: route.Balance})
		return err
	}
	return nil
}
