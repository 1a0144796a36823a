package check

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"

	"switchboard/bridge/route"
)

// Verdict is what one probe says.
type Verdict int

const (
	// Failed is no answer, or one that cannot be read: a timeout, a reset, a wrong
	// status, a bad body. It counts towards Spec.Fall. It is the zero value, so
	// that a forgotten verdict is never a good one.
	Failed Verdict = iota
	// Healthy counts towards Spec.Rise.
	Healthy
	// Unhealthy is the backend's own word that it must not serve, and counts at
	// once: it says so, has the wrong role, or refuses connects on its own port.
	Unhealthy
	// Void is a probe that could not be made because we are short of descriptors,
	// ports or memory ourselves. It says nothing of the backend and counts for
	// nothing: a router that is full must not cut the sessions it has.
	Void
)

// String returns the verdict in lower case.
func (v Verdict) String() string {
	switch v {
	case Healthy:
		return "healthy"
	case Unhealthy:
		return "unhealthy"
	case Void:
		return "void"
	default:
		return "failed"
	}
}

// Result is the outcome of one probe.
type Result struct {
	Verdict Verdict
	// Index is the backend's place in its cluster (wsrep_local_index), for
	// elections; nil if the answer had none.
	Index *int
	// Detail is one short line for people, without secrets: what was answered, or
	// what went wrong.
	Detail string
}

// Checker probes one backend. Its duties:
//
//   - Check returns soon after ctx ends, and its whole work, not each read, is
//     bounded by ctx. It is never called twice at once.
//   - What it reads from a backend is bounded.
//   - It leaves nothing behind: a connection that Check opened is closed when it
//     returns, unless the checker keeps one on purpose until Close.
//   - Close is called once, after the last Check has returned.
type Checker interface {
	Check(ctx context.Context) Result
	Close() error
}

// Builder makes the checker of one backend. It opens nothing; errors are those
// of the spec.
type Builder func(spec Spec, target Target) (Checker, error)

// Spec says how to probe. The same for all backends of a host.
type Spec struct {
	// Type names the builder: "http", "tcp", "exec", "redis", …
	Type string
	// Port is where to probe; 0: the backend's own port.
	Port int
	// Path is the http check's.
	Path string
	// Interval is from the start of one probe to the start of the next.
	Interval time.Duration
	// Timeout bounds one probe.
	Timeout time.Duration
	// Fall is how many probes in a row must fail for a verdict of unhealthy, Rise
	// how many must succeed for one of healthy.
	Fall, Rise int
	// Username and Password are for checks that log in.
	Username, Password string
	// Database is the one to log in to, where a server wants one named; "": the
	// server's default.
	Database string
	// TLS is how to talk to the server, for the http check and those that log in.
	TLS TLS
	// Standby is the postgres check's: a standby is what is wanted, not a primary.
	Standby bool
	// Donors is the galera check's: a node that gives its state to another one still
	// counts as healthy.
	Donors bool
	// Command is the exec check's argv.
	Command []string
}

// TLS says how a checker talks TLS to a server. The zero value is plain text.
type TLS struct {
	Enabled bool
	// CA is a file of PEM certificates that the server's must descend from; "": the
	// system's.
	CA string
	// ServerName is whom the server's certificate must name; "": the host of the
	// backend's address.
	ServerName string
}

// Target is the backend a checker looks at.
type Target struct {
	Host    string
	Backend route.Backend
	// Address is where to probe, host:port: the backend's address with the check's
	// port.
	Address string
	// Own is true if Address is the backend's own port, where a refused connect is
	// an explicit answer.
	Own bool
	// Dial connects to Address or to the backend's own address, whichever is
	// named: it resolves names, and sends a PROXY header on the backend's own port
	// where the host's sessions do.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Hint asks for a probe at once: for checkers that keep a connection and see
	// it drop. It never blocks.
	Hint func(detail string)
}

// Failure turns an error of Target.Dial, or of talking to what was dialed, into
// a result: explicit if the backend's own port refused the connect, void if the
// shortage is ours.
func (t Target) Failure(err error) Result {
	switch {
	case t.Own && errors.Is(err, syscall.ECONNREFUSED):
		return Result{Verdict: Unhealthy, Detail: "connection refused"}
	case Short(err):
		return Result{Verdict: Void, Detail: Words(err)}
	default:
		return Result{Verdict: Failed, Detail: Words(err)}
	}
}

// Short tells whether err is a shortage of this machine's or process's own.
func Short(err error) bool {
	for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL, syscall.ENOMEM, syscall.ENOBUFS} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// Words says in a few words what went wrong: the reason without the addresses
// and calls that Go's network errors carry.
func Words(err error) string {
	var (
		timeout interface{ Timeout() bool }
		dns     *net.DNSError
		errno   syscall.Errno
	)
	switch {
	case err == nil:
		return ""
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "timed out"
	case errors.As(err, &dns):
		return "looking up " + dns.Name + ": " + dns.Err
	case errors.As(err, &errno):
		return errno.Error()
	default:
		return err.Error()
	}
}
