package mysql

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"switchboard/monitor/check"
)

var errNoGreeting = errors.New("what it says first is not what a MySQL server says")

// socket bounds what is read for one probe, remembers why reading or writing
// failed, since the driver does not say, and looks at the server's first packet:
// on one that is too short the driver panics, and leaves a goroutine behind.
type socket struct {
	net.Conn
	left int
	err  error
	// greeted is true when the first packet has been read; greeting is what the driver
	// has not yet got of it.
	greeted  bool
	greeting []byte
}

func (s *socket) Read(p []byte) (int, error) {
	if !s.greeted {
		s.greeted = true
		if err := s.readGreeting(); err != nil {
			s.remember(err)
			return 0, err
		}
	}
	if len(s.greeting) > 0 {
		n := copy(p, s.greeting)
		s.greeting = s.greeting[n:]
		return n, nil
	}
	n, err := s.read(p)
	s.remember(err)
	return n, err
}

func (s *socket) read(p []byte) (int, error) {
	if s.left <= 0 {
		return 0, fmt.Errorf("the answer is longer than %d bytes", check.MaxBody)
	}
	n, err := s.Conn.Read(p[:min(len(p), s.left)])
	s.left -= n
	return n, err
}

func (s *socket) readGreeting() error {
	reader := readerFunc(s.read)
	var header [4]byte
	if _, err := io.ReadFull(reader, header[:]); err != nil {
		return err
	}
	length := int(header[0]) | int(header[1])<<8 | int(header[2])<<16
	if length > s.left {
		return errNoGreeting
	}
	s.greeting = append(header[:], make([]byte, length)...)
	if _, err := io.ReadFull(reader, s.greeting[len(header):]); err != nil {
		return err
	}
	if !plausible(s.greeting[len(header):]) {
		return errNoGreeting
	}
	return nil
}

// plausible tells whether a first packet has all that the driver reads of it.
func plausible(packet []byte) bool {
	const (
		oldest = 10   // the protocol's version
		fault  = 0xff // an error instead of a greeting: its number, perhaps '#' and a state, a message
		fixed  = 44   // what comes after the server's version
	)
	switch {
	case len(packet) == 0:
		return false
	case packet[0] == fault:
		return len(packet) >= 9
	case packet[0] < oldest:
		return true
	}
	end := bytes.IndexByte(packet, 0)
	return end >= 0 && len(packet)-(end+1) >= fixed
}

func (s *socket) Write(p []byte) (int, error) {
	n, err := s.Conn.Write(p)
	s.remember(err)
	return n, err
}

func (s *socket) remember(err error) {
	switch {
	case err == nil, errors.Is(err, net.ErrClosed), errors.Is(err, os.ErrDeadlineExceeded):
		// It was us.
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		s.err = errors.New("the connection ended before the answer did")
	default:
		s.err = err
	}
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
