package mysql

import (
	"context"
	"crypto/tls"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	gomysql "github.com/go-sql-driver/mysql"

	"switchboard/monitor/check"
)

const (
	// patience is how long a log-in may take that its probe did not wait for. A
	// server gives a client that long by default (connect_timeout).
	patience = 10 * time.Second
	// calm is how long a server is left alone after a handshake that we had to break
	// off: with max_connect_errors as it is by default, the server puts up with that
	// for close to an hour, and a certificate that was put right is soon seen.
	calm = 30 * time.Second
	// dialing is how long a connect goes on after its probe: long enough for a busy
	// machine to see one that was made in the last moment, and short enough for a
	// lost packet to be sent anew by the next probe.
	dialing = 500 * time.Millisecond
	// farewell bounds the sending of COM_QUIT, which fits any socket's buffer.
	farewell = 100 * time.Millisecond
)

// Conn is the one connection that a checker keeps to a MySQL or MariaDB server.
// The package's story says what it takes care of. Like a checker it belongs to
// one goroutine, and opens nothing before it is asked.
type Conn struct {
	target check.Target
	spec   check.Spec
	// held is logged in and idle, nil if there is none; unwatch ends the watching of
	// it.
	held    *login
	unwatch func() (intact bool)
	// pending is a log-in whose probe was over before it was; nil if there is none.
	pending *login
	// broken is why we broke off the last handshake, nil if we did not, and brokenAt
	// when.
	broken   error
	brokenAt time.Time
}

// NewConn returns a Conn for the check of that name. Errors are those of the
// spec, of its CA file too.
func NewConn(name string, spec check.Spec, target check.Target) (*Conn, error) {
	var err error
	switch {
	case target.Address == "":
		err = errors.New("the target has no address")
	case target.Dial == nil:
		err = errors.New("the target has no way to dial")
	case spec.Username == "":
		err = errors.New("the username is missing: a MySQL server lets nobody in without")
	default:
		_, err = spec.TLS.Config(target.Address)
	}
	if err != nil {
		return nil, fmt.Errorf("%s check: %w", name, err)
	}
	return &Conn{target: target, spec: spec}, nil
}

// Ask asks the server in SQL, logging in first if need be, and returns the rows
// of all answers, one after the other, as text; NULL is "". It is over soon after
// ctx is.
func (c *Conn) Ask(ctx context.Context, questions ...string) (rows [][]string, err error) {
	if c.held != nil && !c.unwatch() {
		c.drop()
	}
	if err := c.connect(ctx); err != nil {
		return nil, err
	}
	c.held.socket.left = check.MaxBody
	for _, question := range questions {
		answer, err := c.held.ask(ctx, question)
		if err != nil {
			if !c.held.usable(err) {
				c.drop()
			} else {
				c.watch()
			}
			return nil, err
		}
		rows = append(rows, answer...)
	}
	c.watch()
	return rows, nil
}

// Failure says what an error of Ask with that ctx is worth, and what to do about
// it.
func (c *Conn) Failure(ctx context.Context, err error) check.Result {
	var said *gomysql.MySQLError
	switch {
	case errors.As(err, &said):
		return c.answered(said)
	case errors.Is(err, gomysql.ErrNoTLS):
		return failed("the server does not offer TLS: set it up there, or turn off the check's tls")
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	}
	result := c.target.Failure(err)
	result.Detail = check.Line(result.Detail)
	return result
}

// Close takes leave of the server and closes the connection. A log-in that is
// still under way is broken off.
func (c *Conn) Close() error {
	if c.pending != nil {
		c.pending.cancel()
		<-c.pending.done
		c.held, c.pending = c.pending, nil
		if c.held.err != nil {
			c.held = nil
		}
	} else if c.held != nil {
		c.unwatch()
	}
	c.drop()
	return nil
}

func (c *Conn) watch() { c.unwatch = check.Watch(c.held.socket.Conn, c.target.Hint) }

// drop closes the kept connection, if there is one. That the server is gone
// already is no error.
func (c *Conn) drop() {
	if c.held == nil {
		return
	}
	_ = c.held.socket.SetWriteDeadline(time.Now().Add(farewell))
	_ = c.held.conn.Close()
	c.held = nil
}

// connect makes held a connection that is logged in.
func (c *Conn) connect(ctx context.Context) error {
	switch {
	case c.held != nil:
		return nil
	case c.pending != nil:
		err := c.join(ctx)
		if err == nil || c.pending != nil || fromServer(err) {
			return err
		}
		// It has broken since the last probe. How the server is now, a new one tells.
	}
	if c.broken != nil && time.Since(c.brokenAt) < calm {
		return c.broken
	}
	c.broken = nil
	secure, err := c.spec.TLS.Config(c.target.Address)
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	c.pending = c.logIn(ctx, secure)
	return c.join(ctx)
}

// join waits for the pending log-in. If ctx ends first it stays pending.
func (c *Conn) join(ctx context.Context) error {
	select {
	case <-c.pending.done:
	default:
		select {
		case <-c.pending.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	l := c.pending
	c.pending = nil
	if l.err == nil {
		c.held = l
		return nil
	}
	if l.brokenOff() {
		c.broken, c.brokenAt = l.err, time.Now()
	}
	return l.err
}

// login is a connection, from when it begins to be dialed.
type login struct {
	cancel context.CancelFunc
	// socket is nil until it is dialed.
	socket *socket
	// done is closed when conn is logged in or err says why not.
	done chan struct{}
	conn driver.Conn
	err  error
}

// logIn begins to dial and to log in, for a probe. The goroutine is the login's, and
// ends when done is closed: after patience, or when canceled, at the latest.
func (c *Conn) logIn(probe context.Context, secure *tls.Config) *login {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	l := &login{cancel: cancel, done: make(chan struct{})}
	config := gomysql.NewConfig()
	config.User, config.Passwd, config.DBName = c.spec.Username, c.spec.Password, c.spec.Database
	config.Net, config.Addr = "tcp", c.target.Address
	config.TLS = secure
	// What it would log is told by the error.
	config.Logger = new(gomysql.NopLogger)
	config.DialFunc = func(context.Context, string, string) (net.Conn, error) { return l.socket, nil }
	go l.run(ctx, probe, c.target.Dial, config)
	return l
}

type dial func(ctx context.Context, network, address string) (net.Conn, error)

func (l *login) run(ctx, probe context.Context, dial dial, config *gomysql.Config) {
	defer close(l.done)
	defer l.cancel()
	defer func() {
		if cause := recover(); cause != nil {
			l.err = unreadable(cause)
		}
		if l.err != nil && l.socket != nil {
			_ = l.socket.Close()
		}
	}()
	if l.err = l.dial(ctx, probe, dial, config.Addr); l.err != nil {
		return
	}
	connector, err := gomysql.NewConnector(config)
	if err != nil {
		l.err = err
		return
	}
	l.conn, err = connector.Connect(ctx)
	l.err = l.why(err)
}

// dial connects, until dialing after the probe's end. Go closes a connection that
// the kernel has made in the moment that the dial's context ends, and the server
// counts that as broken off.
func (l *login) dial(ctx, probe context.Context, dial dial, address string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(probe, func() {
		time.AfterFunc(dialing, func() { cancel(context.Cause(probe)) })
	})()
	conn, err := dial(ctx, "tcp", address)
	if err != nil {
		return err
	}
	l.socket = &socket{Conn: conn, left: check.MaxBody}
	return nil
}

// ask asks one question.
func (l *login) ask(ctx context.Context, question string) (rows [][]string, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			rows, err = nil, unreadable(cause)
		}
	}()
	answer, err := l.conn.(driver.QueryerContext).QueryContext(ctx, question, nil)
	if err != nil {
		return nil, l.why(err)
	}
	defer answer.Close()
	values := make([]driver.Value, len(answer.Columns()))
	for {
		if err := answer.Next(values); errors.Is(err, io.EOF) {
			return rows, nil
		} else if err != nil {
			return nil, l.why(err)
		}
		row := make([]string, len(values))
		for i, value := range values {
			row[i] = text(value)
		}
		rows = append(rows, row)
	}
}

// usable tells whether the connection is still good after err: it is if that is
// what the server has answered.
func (l *login) usable(err error) bool {
	return fromServer(err) && l.conn.(driver.Validator).IsValid()
}

// why is the cause of the driver's error, which for whatever happens to a socket
// is the same.
func (l *login) why(err error) error {
	if (errors.Is(err, gomysql.ErrInvalidConn) || errors.Is(err, driver.ErrBadConn)) && l.socket.err != nil {
		return l.socket.err
	}
	return err
}

// brokenOff tells whether it was us who ended the handshake, not caring for what
// the server had said, and not just for lack of time.
func (l *login) brokenOff() bool {
	var network net.Error
	return l.err != nil && l.socket != nil && l.socket.err == nil && !fromServer(l.err) &&
		!errors.Is(l.err, context.Canceled) && !errors.Is(l.err, context.DeadlineExceeded) && !errors.As(l.err, &network)
}

func fromServer(err error) bool {
	var said *gomysql.MySQLError
	return errors.As(err, &said)
}

func unreadable(cause any) error { return fmt.Errorf("the answer cannot be read: %v", cause) }

func text(value driver.Value) string {
	switch v := value.(type) {
	case nil:
		return ""
	case []byte:
		return string(v)
	default:
		return fmt.Sprint(v)
	}
}
