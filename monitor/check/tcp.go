package check

import (
	"context"
	"errors"
	"fmt"
)

// TCP builds the "tcp" check: a backend that accepts a connect is healthy. The
// connection is closed at once and no byte is sent, apart from the PROXY header
// that Target.Dial may send.
func TCP(spec Spec, target Target) (Checker, error) {
	if err := need(target); err != nil {
		return nil, fmt.Errorf("tcp check: %w", err)
	}
	if spec.TLS.Enabled {
		return nil, errors.New("tcp check: it only connects, so there is no TLS to talk: remove tls")
	}
	return tcpChecker{target}, nil
}

type tcpChecker struct{ target Target }

func (c tcpChecker) Check(ctx context.Context) Result {
	conn, err := c.target.Dial(ctx, "tcp", c.target.Address)
	if err != nil {
		return c.target.Failure(err)
	}
	// What closing says tells nothing about the backend: it did accept.
	_ = conn.Close()
	return Result{Verdict: Healthy, Detail: "connected"}
}

func (c tcpChecker) Close() error { return nil }
