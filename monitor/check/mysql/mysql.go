package mysql

import (
	"context"
	"fmt"

	gomysql "github.com/go-sql-driver/mysql"

	"switchboard/monitor/check"
)

// question asks for both switches. What is in the comment is read by MySQL from
// 5.7.8 on, which has the second one, and by no MariaDB: that leaves out what is
// meant for MySQL 5.7 and later.
const question = "SELECT @@global.read_only /*!50708 , @@global.super_read_only */"

// New builds the "mysql" check; it is a [check.Builder]. Spec.Username and
// Spec.Password log in; the user needs no right beyond that. Spec.Database and
// Spec.TLS may be set.
func New(spec check.Spec, target check.Target) (check.Checker, error) {
	conn, err := NewConn("mysql", spec, target)
	if err != nil {
		return nil, err
	}
	return &checker{conn}, nil
}

type checker struct{ conn *Conn }

func (c *checker) Check(ctx context.Context) check.Result {
	rows, err := c.conn.Ask(ctx, question)
	if err != nil {
		return c.conn.Failure(ctx, err)
	}
	if len(rows) != 1 || len(rows[0]) == 0 {
		return failed("the answer is not the one row that was asked for")
	}
	for i, name := range []string{"read_only", "super_read_only"}[:min(2, len(rows[0]))] {
		if Off(rows[0][i]) {
			continue
		}
		return check.Result{Verdict: check.Unhealthy, Detail: name + " is on"}
	}
	return check.Result{Verdict: check.Healthy, Detail: "read_only is off"}
}

func (c *checker) Close() error { return c.conn.Close() }

// Off tells whether a switch of a server's, by its text, is off. What is not off
// may be more than on: MariaDB's read_only has further values.
func Off(value string) bool { return value == "0" || value == "OFF" }

// answered says what an error is worth that the server has answered with.
func (c *Conn) answered(said *gomysql.MySQLError) check.Result {
	switch said.Number {
	case 1045, 1698: // ER_ACCESS_DENIED_ERROR, ER_ACCESS_DENIED_NO_PASSWORD_ERROR
		return failed("it refuses the username or password: correct the check's username and password_file, and let that user in from this address")
	case 1130: // ER_HOST_NOT_PRIVILEGED
		return failed("it lets nobody in from this address: create the check's user for it")
	case 1129: // ER_HOST_IS_BLOCKED
		return failed("it has blocked this address for broken connects: run FLUSH HOSTS there and look for who breaks them off")
	case 1040: // ER_CON_COUNT_ERROR
		return failed("it has no connection left: raise max_connections, or find out who has them all")
	case 1203, 1226: // ER_TOO_MANY_USER_CONNECTIONS, ER_USER_LIMIT_REACHED
		return failed("the user has reached a limit of its own: " + check.Line(said.Message))
	case 1049: // ER_BAD_DB_ERROR
		return failed(fmt.Sprintf("it has no database %q: correct the check's database", c.spec.Database))
	case 1044: // ER_DBACCESS_DENIED_ERROR
		return failed(fmt.Sprintf("the user may not use the database %q: grant it, or leave out the check's database", c.spec.Database))
	case 1142, 1143, 1227: // ER_TABLEACCESS_…, ER_COLUMNACCESS_DENIED_ERROR, ER_SPECIFIC_ACCESS_DENIED_ERROR
		return failed("the user lacks a right: " + check.Line(said.Message))
	case 1820, 1862: // ER_MUST_CHANGE_PASSWORD, its sibling for log-ins
		return failed("the user's password has expired: set a new one")
	case 3118, 4151: // ER_ACCOUNT_HAS_BEEN_LOCKED of MySQL, of MariaDB
		return failed("the user is locked: unlock it")
	case 1047: // ER_UNKNOWN_COM_ERROR, which is what Galera says as well
		return check.Result{Verdict: check.Unhealthy, Detail: "is not ready: " + check.Line(said.Message)}
	case 1053: // ER_SERVER_SHUTDOWN
		return failed("is shutting down")
	default:
		return failed(fmt.Sprintf("answered error %d: %s", said.Number, check.Line(said.Message)))
	}
}

func failed(detail string) check.Result {
	return check.Result{Verdict: check.Failed, Detail: detail}
}
