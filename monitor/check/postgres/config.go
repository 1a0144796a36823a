package postgres

import (
	"context"
	"fmt"
	"os"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"
)

// settings names all that pgconn would otherwise take from the environment or the
// home directory. The user and password are not those of any check; with a
// password there, no password file is read.
const settings = "host=localhost port=5432 user=nobody password=none dbname=postgres connect_timeout=0 " +
	"sslmode=disable sslcertmode=disable sslnegotiation=postgres sslsni=1 sslrootcert='' sslcert='' sslkey='' sslpassword='' " +
	"target_session_attrs=any min_protocol_version=3.0 max_protocol_version=3.0 channel_binding=prefer require_auth='' passfile=''"

// plainConfig returns a configuration that owes nothing to the environment: plain
// text, no fallbacks, and no user. A Config can only be had from ParseConfig,
// which always reads the environment.
func plainConfig() (*pgconn.Config, error) {
	words := settings
	if os.Getenv("PGSERVICE") != "" {
		// A service is looked up even if every setting is given. It can only be
		// replaced by another one, so we hand over an empty one of our own.
		file, err := emptyService()
		if err != nil {
			return nil, fmt.Errorf("replacing PGSERVICE: %w", err)
		}
		defer file.Close()
		words += " service=none servicefile=/dev/fd/" + strconv.Itoa(int(file.Fd()))
	}
	config, err := pgconn.ParseConfig(words)
	if err != nil {
		return nil, fmt.Errorf("making a configuration: %w", err)
	}
	config.Fallbacks = nil
	config.RuntimeParams = map[string]string{"application_name": "switchboard"}
	// Who dials resolves the name too, in his own way.
	config.LookupFunc = func(_ context.Context, host string) ([]string, error) { return []string{host}, nil }
	config.MaxProtocolMessageBodyLen = maxAnswer
	return config, nil
}

// emptyService returns a service file with nothing in its one service: the
// reading end of a pipe.
func emptyService() (*os.File, error) {
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	_, err = writer.WriteString("[none]\n")
	if closing := writer.Close(); err == nil {
		err = closing
	}
	if err != nil {
		reader.Close()
		return nil, err
	}
	return reader, nil
}
