package table

import (
	"errors"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"

	"switchboard/bridge/route"
)

// DefaultPrefix is what all keys begin with unless something else is configured.
const DefaultPrefix = "switchboard:"

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

// newKeys returns the keys with a prefix that client can use: what is one step must lie
// in one slot of a Redis Cluster, so there the prefix carries a hash tag.
func newKeys(client redis.UniversalClient, prefix string) (keys, error) {
	if client == nil {
		return keys{}, errors.New("a client of Redis is required")
	}
	if _, cluster := client.(*redis.ClusterClient); cluster && !tagged(prefix) {
		return keys{}, fmt.Errorf("on a Redis Cluster the prefix must carry a hash tag, as in %q: %q has none", "{switchboard}:", prefix)
	}
	return keys{prefix}, nil
}

// tagged tells whether prefix has a hash tag: the first { has a } after it, and
// something between.
func tagged(prefix string) bool {
	_, rest, open := strings.Cut(prefix, "{")
	tag, _, closed := strings.Cut(rest, "}")
	return open && closed && tag != ""
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
