package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"switchboard/monitor/check"
)

const (
	// question names the schema, so that nobody's search_path answers it.
	question = "SELECT pg_catalog.pg_is_in_recovery()"
	// maxAnswer is how much a server may say in one probe, its certificates included,
	// in bytes.
	maxAnswer = 64 << 10
	// farewell is how long saying goodbye to a server may take.
	farewell = 100 * time.Millisecond
)

// errTooLong is an answer longer than maxAnswer.
var errTooLong = fmt.Errorf("it says more than %d bytes", maxAnswer)

// New builds the "postgres" check; it is a [check.Builder]. Spec.Username logs in
// to Spec.Database, "" being "postgres", with Spec.Password if the server asks for
// one. The user needs no right but to connect. With Spec.Standby a standby is
// healthy and a primary is not.
func New(spec check.Spec, target check.Target) (check.Checker, error) {
	switch {
	case target.Address == "":
		return nil, errors.New("postgres check: the target has no address")
	case target.Dial == nil:
		return nil, errors.New("postgres check: the target has no way to dial")
	case spec.Username == "":
		return nil, errors.New("postgres check: the username is missing: set whom to log in as")
	}
	if _, err := spec.TLS.Config(target.Address); err != nil {
		return nil, fmt.Errorf("postgres check: %w", err)
	}
	config, err := plainConfig()
	if err != nil {
		return nil, fmt.Errorf("postgres check: %w", err)
	}
	config.User, config.Password, config.Database = spec.Username, spec.Password, spec.Database
	if config.Database == "" {
		config.Database = "postgres"
	}
	return &checker{target: target, tls: spec.TLS, standby: spec.Standby, config: config}, nil
}

type checker struct {
	target  check.Target
	tls     check.TLS
	standby bool
	config  *pgconn.Config
	// conn is the kept connection, nil if there is none, and socket what it runs on.
	conn   *pgconn.PgConn
	socket *socket
	// unwatch ends the watching of the kept connection; nil while a probe uses it.
	unwatch func() (intact bool)
}

func (c *checker) Check(ctx context.Context) check.Result {
	if c.kept() {
		result, err := c.ask(ctx)
		if err == nil {
			return result
		}
		c.drop()
		if ctx.Err() != nil {
			return c.failure(ctx, err)
		}
	}
	if err := c.connect(ctx); err != nil {
		return c.failure(ctx, err)
	}
	result, err := c.ask(ctx)
	if err != nil {
		c.drop()
		return c.failure(ctx, err)
	}
	return result
}

func (c *checker) Close() error {
	if !c.kept() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), farewell)
	defer cancel()
	err := c.conn.Close(ctx)
	c.conn, c.socket = nil, nil
	if err != nil {
		return fmt.Errorf("closing the connection to %s: %w", c.target.Backend.Name, err)
	}
	return nil
}

// kept tells whether there is a connection that can be used, and takes it from
// its watcher.
func (c *checker) kept() bool {
	if c.conn == nil {
		return false
	}
	intact := c.unwatch()
	c.unwatch = nil
	if !intact {
		c.drop()
	}
	return intact
}

// connect dials and logs in.
func (c *checker) connect(ctx context.Context) error {
	config := c.config.Copy()
	var err error
	if config.TLSConfig, err = c.tls.Config(c.target.Address); err != nil {
		return err
	}
	var dialed *socket
	config.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) {
		if dialed != nil {
			// pgconn wants to cancel what runs on a connection that has failed.
			return nil, errors.New("a check cancels nothing")
		}
		conn, err := c.target.Dial(ctx, "tcp", c.target.Address)
		if err != nil {
			return nil, err
		}
		dialed = &socket{Conn: conn}
		dialed.left.Store(maxAnswer)
		return dialed, nil
	}
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	c.conn, c.socket = conn, dialed
	return nil
}

// ask asks for the role, and keeps the connection if it is told.
func (c *checker) ask(ctx context.Context) (check.Result, error) {
	c.socket.left.Store(maxAnswer)
	answers, err := c.conn.Exec(ctx, question).ReadAll()
	if err != nil {
		return check.Result{}, err
	}
	var said string
	if len(answers) == 1 && len(answers[0].Rows) == 1 && len(answers[0].Rows[0]) == 1 {
		said = string(answers[0].Rows[0][0])
	}
	result := check.Result{Verdict: check.Unhealthy}
	switch said {
	case "f":
		result.Detail = "is a primary"
	case "t":
		result.Detail = "is a standby"
	default:
		return check.Result{}, errors.New("the answer to pg_is_in_recovery() is no boolean: " + said)
	}
	if c.standby == (said == "t") {
		result.Verdict = check.Healthy
	}
	c.unwatch = check.Watch(c.socket.Conn, c.target.Hint)
	return result, nil
}

// drop closes the connection without a word. pgconn may be about to do so in a
// goroutine, with cancelling, waiting and draining; on a socket that is closed
// all that ends at once.
func (c *checker) drop() {
	// What closing says tells nothing: the connection is of no more use.
	_ = c.socket.Close()
	if c.conn.IsClosed() {
		<-c.conn.CleanupDone()
	} else {
		_ = c.conn.Close(context.Background())
	}
	c.conn, c.socket = nil, nil
}

// socket bounds what is read from a connection.
type socket struct {
	net.Conn
	// left is how many bytes the server may still say in this probe.
	left atomic.Int64
}

func (s *socket) Read(buffer []byte) (int, error) {
	left := s.left.Load()
	if left <= 0 {
		return 0, errTooLong
	}
	n, err := s.Conn.Read(buffer[:min(int64(len(buffer)), left)])
	s.left.Add(-int64(n))
	return n, err
}

// failure says what an error means and what to do about it. It is in nobody's
// words but ours and the server's, and neither know a password.
func (c *checker) failure(ctx context.Context, err error) check.Result {
	if said, ok := errors.AsType[*pgconn.PgError](err); ok {
		return c.refusal(said)
	}
	if detail := certificateWords(err, c.tls); detail != "" {
		return failed(detail)
	}
	switch root := root(err); {
	case ctx.Err() != nil:
		return c.target.Failure(context.Cause(ctx))
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return failed("it closed the connection")
	case root.Error() == "server refused TLS connection":
		return failed("it does not talk TLS: turn ssl on at the server, or the check's tls off")
	default:
		result := c.target.Failure(err)
		if result.Detail == err.Error() {
			result.Detail = root.Error()
		}
		result.Detail = check.Line(result.Detail)
		return result
	}
}

// refusal says what the server's own refusal means.
func (c *checker) refusal(said *pgconn.PgError) check.Result {
	words := check.Line(said.Message)
	switch said.Code {
	case "57P03": // cannot_connect_now
		return check.Result{Verdict: check.Unhealthy, Detail: words}
	case "28P01": // invalid_password
		if c.config.Password == "" {
			return failed("it wants a password: set the check's password_file")
		}
		return failed("it refuses the username or password: correct the check's username and password_file")
	case "28000": // invalid_authorization_specification
		return failed("it refuses the log-in: correct the check's username or tls, or the server's pg_hba.conf: " + words)
	case "3D000": // invalid_catalog_name
		return failed("it has no such database: correct the check's database: " + words)
	case "53300": // too_many_connections
		return failed("it has no connection left for the check: raise max_connections or the role's limit: " + words)
	case "42501": // insufficient_privilege
		return failed("the user may not ask for the role: grant it CONNECT on the database and EXECUTE on pg_is_in_recovery(): " + words)
	default:
		return failed("answered " + check.Line(said.Code) + " " + words)
	}
}

func failed(detail string) check.Result {
	return check.Result{Verdict: check.Failed, Detail: detail}
}

// root is the error at the bottom of err. pgconn puts addresses and users around
// it, and joins the errors of all addresses, of which we have one.
func root(err error) error {
	for {
		var below error
		switch e := err.(type) {
		case interface{ Unwrap() error }:
			below = e.Unwrap()
		case interface{ Unwrap() []error }:
			if joined := e.Unwrap(); len(joined) > 0 {
				below = joined[0]
			}
		}
		if below == nil {
			return err
		}
		err = below
	}
}
