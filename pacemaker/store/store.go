package store

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// DefaultPrefix is what all keys begin with unless something else is configured.
const DefaultPrefix = "switchboard:"

// NoPrefix stands for a prefix of nothing, which the first routers of this family have
// in a Redis of their own.
const NoPrefix = "-"

// Prefix is what keys begin with whose prefix is configured so: "" is [DefaultPrefix],
// [NoPrefix] nothing.
func Prefix(configured string) string {
	switch configured {
	case "":
		return DefaultPrefix
	case NoPrefix:
		return ""
	default:
		return configured
	}
}

// DefaultTimeout bounds each call to Redis, and each connect. A Redis that is slower is
// as good as down: what it has may be old.
const DefaultTimeout = time.Second

// Redis says how a Redis is reached. Nothing that prints it shows a password.
type Redis struct {
	// URL is one of
	//
	//	redis://[USER:PASSWORD@]HOST[:PORT][/DB]
	//	unix://[USER:PASSWORD@]/PATH/TO/SOCKET[?db=DB]
	//	redis-sentinel://[USER:PASSWORD@]HOST[:PORT],…/MASTER[/DB]
	//	redis-cluster://[USER:PASSWORD@]HOST[:PORT],…
	//
	// and rediss://, rediss-sentinel:// and rediss-cluster:// speak TLS. The port is 6379,
	// that of a Sentinel 26379. User and password are in percent-encoding, and are the data
	// servers'; a password alone is :PASSWORD@.
	URL string
	// Username and Password, if set, stand for those in URL.
	Username, Password string
	// SentinelUsername and SentinelPassword are for the Sentinels; empty: none.
	SentinelUsername, SentinelPassword string
	// TLS is used with the schemes that speak TLS; nil: the system's roots, TLS 1.2.
	TLS *tls.Config
	// Timeout bounds each call and each connect; 0: [DefaultTimeout].
	Timeout time.Duration
	// Name is shown by CLIENT LIST; it has no spaces. "": none.
	Name string
}

// String is the URL without user and password.
func (r Redis) String() string {
	scheme, rest, found := strings.Cut(r.URL, "://")
	if !found {
		return "a URL without a scheme"
	}
	if at := strings.LastIndexByte(rest, '@'); at >= 0 {
		rest = rest[at+1:]
	}
	rest, _, _ = strings.Cut(rest, "?")
	return scheme + "://" + rest
}

// GoString is [Redis.String], so that %#v shows no password either.
func (r Redis) GoString() string { return r.String() }

// LogValue is [Redis.String].
func (r Redis) LogValue() slog.Value { return slog.StringValue(r.String()) }

// Validate returns what is wrong with r.
func (r Redis) Validate() error {
	_, err := r.options()
	return err
}

// Connect returns a client, which connects when it is first used. It retries nothing by
// itself, and each call ends with its context: who calls knows how long to wait and
// whether a second try is right. Close it.
func (r Redis) Connect() (redis.UniversalClient, error) {
	options, err := r.options()
	if err != nil {
		return nil, err
	}
	return redis.NewUniversalClient(options), nil
}

// maxDB is the highest database that is believed; more than a server has is its own error.
const maxDB = 1 << 20

func (r Redis) options() (*redis.UniversalOptions, error) {
	scheme, rest, found := strings.Cut(r.URL, "://")
	if !found {
		return nil, errors.New("a URL of Redis begins with redis://, rediss://, unix://, redis-sentinel:// or redis-cluster://")
	}
	timeout := cmp.Or(r.Timeout, DefaultTimeout)
	o := &redis.UniversalOptions{
		ClientName:       r.Name,
		SentinelUsername: r.SentinelUsername, SentinelPassword: r.SentinelPassword,
		// All defaults for time change between releases, and are too long for us.
		DialTimeout: timeout, ReadTimeout: timeout, WriteTimeout: timeout, PoolTimeout: timeout,
		// Without it a context's deadline does not end a read.
		ContextTimeoutEnabled: true,
		// Retries are ours, with jitter: 5 dials of 100 ms each would hide a refusal for long.
		MaxRetries: -1, DialerRetries: 1,
		// Nothing of RESP3 is needed, and its push messages are one thing more to go wrong.
		Protocol: 2, DisableIdentity: true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		// One loop uses it, and sometimes an operator; pipelines need no pool of their own.
		PoolSize: 4, PipelinePoolSize: -1,
	}
	if at := strings.LastIndexByte(rest, '@'); at >= 0 {
		user, password, _ := strings.Cut(rest[:at], ":")
		var errs [2]error
		o.Username, errs[0] = url.PathUnescape(user)
		o.Password, errs[1] = url.PathUnescape(password)
		if errs[0] != nil || errs[1] != nil {
			// The error of the parser would quote the password.
			return nil, errors.New("the user or the password in the URL of Redis is not in percent-encoding")
		}
		rest = rest[at+1:]
	}
	o.Username, o.Password = cmp.Or(r.Username, o.Username), cmp.Or(r.Password, o.Password)

	rest, query, asks := strings.Cut(rest, "?")
	if scheme == "unix" {
		return o, r.socket(o, rest, query)
	}
	if asks {
		return nil, fmt.Errorf("%s:// takes nothing after a question mark", scheme)
	}
	if plain, secure := strings.CutPrefix(scheme, "rediss"); secure {
		scheme = "redis" + plain
		o.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		if r.TLS != nil {
			o.TLSConfig = r.TLS.Clone()
		}
	}
	port := "6379"
	switch scheme {
	case "redis", "redis-cluster":
	case "redis-sentinel":
		port = "26379"
	default:
		return nil, fmt.Errorf("%s:// is no scheme of Redis: use redis, rediss, unix, redis-sentinel or redis-cluster", scheme)
	}
	hosts, path, _ := strings.Cut(rest, "/")
	for _, host := range strings.Split(hosts, ",") {
		addr, err := address(host, port)
		if err != nil {
			return nil, err
		}
		o.Addrs = append(o.Addrs, addr)
	}
	if o.TLSConfig != nil && o.TLSConfig.ServerName == "" && scheme == "redis" {
		o.TLSConfig.ServerName, _, _ = net.SplitHostPort(o.Addrs[0])
	}
	return o, shape(o, scheme, path)
}

// shape sets what the scheme and the path say.
func shape(o *redis.UniversalOptions, scheme, path string) (err error) {
	switch scheme {
	case "redis":
		if len(o.Addrs) > 1 {
			return errors.New("redis:// has one address: write redis-sentinel:// or redis-cluster:// for more")
		}
		o.DB, err = database(path)
	case "redis-sentinel":
		master, db, _ := strings.Cut(path, "/")
		if master == "" {
			return errors.New("redis-sentinel:// needs the name of the master, as in redis-sentinel://HOST,HOST/MASTER")
		}
		o.MasterName = master
		o.DB, err = database(db)
	case "redis-cluster":
		if path != "" {
			return errors.New("a Redis Cluster has no databases: nothing may follow the addresses")
		}
		o.IsClusterMode = true
	}
	return err
}

func (r Redis) socket(o *redis.UniversalOptions, path, query string) error {
	if !strings.HasPrefix(path, "/") {
		return errors.New("unix:// needs the whole path of the socket, as in unix:///run/redis.sock")
	}
	if query != "" {
		db, found := strings.CutPrefix(query, "db=")
		if !found {
			return errors.New("unix:// takes db=NUMBER after the question mark, and nothing else")
		}
		var err error
		if o.DB, err = database(db); err != nil {
			return err
		}
	}
	// The client takes an address that begins with a slash for a socket.
	o.Addrs = []string{path}
	return nil
}

// address is host with port unless it has one.
func address(host, port string) (string, error) {
	if h, p, err := net.SplitHostPort(host); err == nil {
		host, port = h, p
	} else {
		host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 || host == "" {
		return "", errors.New("an address of Redis is HOST or HOST:PORT, an IPv6 address being in brackets")
	}
	return net.JoinHostPort(host, port), nil
}

func database(text string) (int, error) {
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > maxDB {
		return 0, errors.New("a database of Redis is a number from 0")
	}
	return n, nil
}

// CheckPrefix returns what is wrong with a prefix for the keys that client is asked for:
// what is one step must lie in one slot of a Redis Cluster, so there the prefix carries
// a hash tag.
func CheckPrefix(client redis.UniversalClient, prefix string) error {
	if client == nil {
		return errors.New("a client of Redis is required")
	}
	_, cluster := client.(*redis.ClusterClient)
	return checkPrefix(cluster, prefix)
}

// CheckPrefix is [CheckPrefix] for a client that r makes.
func (r Redis) CheckPrefix(prefix string) error {
	o, err := r.options()
	if err != nil {
		return err
	}
	return checkPrefix(o.IsClusterMode, prefix)
}

func checkPrefix(cluster bool, prefix string) error {
	if cluster && !tagged(prefix) {
		return fmt.Errorf("on a Redis Cluster the prefix must carry a hash tag, as in %q: %q has none", "{switchboard}:", prefix)
	}
	return nil
}

// tagged tells whether prefix has a hash tag: the first { has a } after it, and
// something between.
func tagged(prefix string) bool {
	_, rest, open := strings.Cut(prefix, "{")
	tag, _, closed := strings.Cut(rest, "}")
	return open && closed && tag != ""
}
