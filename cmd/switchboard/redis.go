package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"

	"switchboard/pacemaker/store"
	"switchboard/runner/config"
)

// place is where in which Redis something is, and how it is reached.
type place struct {
	store.Redis
	prefix string
	// passwordFile holds the password, if it is not "".
	passwordFile string
}

// redisKey is one of the keys under which a router has a place in Redis. Its verbs take
// what no flag says from the variables of those.
type redisKey string

const (
	tableKey redisKey = "REDIS"
	statsKey redisKey = "STATS_REDIS"
)

func (k redisKey) url() string          { return config.EnvPrefix + string(k) + "_URL" }
func (k redisKey) prefix() string       { return config.EnvPrefix + string(k) + "_PREFIX" }
func (k redisKey) passwordFile() string { return config.EnvPrefix + string(k) + "_PASSWORD_FILE" }

// redisFlags say where something is.
type redisFlags struct{ url, passwordFile, prefix string }

// add adds the flags for what is under key: what, in words.
func (f *redisFlags) add(command *cobra.Command, key redisKey, what string) {
	flags := command.Flags()
	flags.SortFlags = false
	flags.StringVar(&f.url, "redis", "", "where "+what+", a `URL` ("+key.url()+")")
	flags.StringVar(&f.passwordFile, "redis-password-file", "", "`file` that holds the password ("+key.passwordFile()+")")
	flags.StringVar(&f.prefix, "prefix", "", "what all keys begin with ("+key.prefix()+"; default "+store.DefaultPrefix+"; "+store.NoPrefix+": nothing)")
	_ = command.MarkFlagFilename("redis-password-file")
}

// place is where the environment says that something is.
func (p *program) place(key redisKey) place {
	return place{Redis: store.Redis{URL: p.value(key.url())}, prefix: p.value(key.prefix()), passwordFile: p.value(key.passwordFile())}
}

// over is the place by the flags, and else by rest, with the password that its file holds.
func (f redisFlags) over(rest place, key redisKey) (place, error) {
	at := rest
	at.URL, at.prefix, at.passwordFile = cmp.Or(f.url, at.URL), cmp.Or(f.prefix, at.prefix), cmp.Or(f.passwordFile, at.passwordFile)
	if at.URL == "" {
		return at, fmt.Errorf("no Redis: name it with --redis URL or %s, as in redis://127.0.0.1:6379", key.url())
	}
	if at.passwordFile != "" {
		var err error
		if at.Password, err = readPassword(at.passwordFile); err != nil {
			return at, err
		}
	}
	return at, at.Validate()
}

// readPassword reads a password, without the newline at its end.
func readPassword(file string) (string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("reading the password: %w", err)
	}
	return string(bytes.TrimRight(text, "\r\n")), nil
}

// untilInterrupted has do use client, with a context that ends with a signal.
func untilInterrupted(command *cobra.Command, client redis.UniversalClient, do func(context.Context) error) error {
	ctx, stop := signal.NotifyContext(command.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A call that waits for an answer ends with its connection, not with its context.
	defer context.AfterFunc(ctx, func() { client.Close() })()
	return do(ctx)
}

// blame says which verb has failed, and why, with what is at a place.
func (p *program) blame(command *cobra.Command, err error, what string, at place) {
	fmt.Fprintf(p.errs, "%s: %v\n(%s at %s, prefix %q)\n", command.CommandPath(), err, what, at.Redis, store.Prefix(at.prefix))
}
