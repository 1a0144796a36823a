package redis

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"switchboard/monitor/check"
)

// forever is for limits of go-redis that must not be shorter than a probe's
// own: what bounds a probe is its context.
const forever = time.Hour

// New builds the "redis" check; it is a [check.Builder]. Spec.Username and
// Spec.Password log in, the default user if only a password is given.
func New(spec check.Spec, target check.Target) (check.Checker, error) {
	switch {
	case target.Address == "":
		return nil, errors.New("redis check: the target has no address")
	case target.Dial == nil:
		return nil, errors.New("redis check: the target has no way to dial")
	case spec.Username != "" && spec.Password == "":
		return nil, errors.New("redis check: there is a username but no password")
	case spec.TLS.Enabled:
		return nil, errors.New("redis check: it does not talk TLS: remove tls")
	}
	return &checker{target: target, username: spec.Username, password: spec.Password}, nil
}

type checker struct {
	target             check.Target
	username, password string
	// client has the kept connection; nil if there is none.
	client *goredis.Client
	// probe is the context of the check that runs now.
	probe atomic.Pointer[context.Context]
}

func (c *checker) connect() *goredis.Client {
	return goredis.NewClient(&goredis.Options{
		Addr:     c.target.Address,
		Username: c.username,
		Password: c.password,
		// RESP2 and no extras: a probe must not change what the server keeps of a
		// connection, nor depend on commands that an old server lacks.
		Protocol:                 2,
		DisableIdentity:          true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		Dialer:                   c.dial,
		// One connection at a time is used, and one more is room for a dial to fail:
		// after PoolSize failed dials the pool answers with the last error, and
		// dials in the background once a second.
		PoolSize:              2,
		PipelinePoolSize:      -1,
		MaxRetries:            -1,
		DialerRetries:         1,
		DialTimeout:           forever,
		PoolTimeout:           forever,
		ContextTimeoutEnabled: true,
		ConnMaxIdleTime:       -1,
		ReadBufferSize:        1 << 10,
		WriteBufferSize:       1 << 10,
	})
}

// dial ignores the context it gets: go-redis dials in a goroutine of its own
// under a context that outlives the command, and would leave a connection behind
// that nobody waits for. The probe's own context ends with the probe.
func (c *checker) dial(_ context.Context, network, address string) (net.Conn, error) {
	return c.target.Dial(*c.probe.Load(), network, address)
}

func (c *checker) Check(ctx context.Context) check.Result {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.probe.Store(&ctx)
	if c.client == nil {
		c.client = c.connect()
	}
	answer, err := c.client.Do(ctx, "ROLE").Slice()
	if err != nil {
		failure := c.failure(ctx, err)
		// A client that has failed is not used again, so no probe is answered from
		// what its pool remembers.
		if err := c.Close(); err != nil {
			failure.Detail += ", " + check.Line(err.Error())
		}
		return failure
	}
	var role string
	if len(answer) > 0 {
		role, _ = answer[0].(string)
	}
	switch role {
	case "master":
		return check.Result{Verdict: check.Healthy, Detail: "role master"}
	case "slave", "sentinel":
		return check.Result{Verdict: check.Unhealthy, Detail: "role " + role}
	default:
		return check.Result{Verdict: check.Failed, Detail: "the answer to ROLE has no role that is known: " + check.Line(role)}
	}
}

func (c *checker) Close() error {
	if c.client == nil {
		return nil
	}
	err := c.client.Close()
	c.client = nil
	if err != nil {
		return fmt.Errorf("closing the connection to %s: %w", c.target.Backend.Name, err)
	}
	return nil
}

func (c *checker) failure(ctx context.Context, err error) check.Result {
	var said goredis.Error
	if !errors.As(err, &said) {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		failed := c.target.Failure(err)
		failed.Detail = check.Line(failed.Detail)
		return failed
	}
	// The server's own words, which go-redis may have wrapped with what it did.
	words := check.Line(said.Error())
	switch code, _, _ := strings.Cut(said.Error(), " "); {
	case code == "LOADING":
		return check.Result{Verdict: check.Unhealthy, Detail: "is loading its data"}
	case code == "NOAUTH":
		return failed("it wants a password: set the check's password_file")
	case code == "WRONGPASS", strings.Contains(words, "invalid password"):
		return failed("it refuses the username or password: correct the check's username and password_file")
	case code == "NOPERM":
		return failed("the user may not ask for the role: grant it +role")
	case strings.Contains(words, "without any password configured"), strings.Contains(words, "no password is set"):
		return failed("it has no password, but the check sends one: remove the check's password_file")
	default:
		return failed("answered " + words)
	}
}

func failed(detail string) check.Result {
	return check.Result{Verdict: check.Failed, Detail: detail}
}
