package bridge

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"switchboard/bridge/relay"
	"switchboard/bridge/route"
)

// Front takes connections whose host is not known before they have been read. A
// bridge that has one attached tells it when to stop.
type Front interface {
	Handler
	// Shut is called with every signal that the router is to stop. The front takes up
	// nothing new from then on. It must not block.
	Shut()
	// Finish is called when no host serves any more. It ends what is left and
	// returns when nothing of the front is running.
	Finish()
}

// Sniffer is the front of protocol tls: it reads the server name that a client
// asks for in its ClientHello (RFC 6066, section 3) and bridges the whole stream,
// unread beyond that, to the host of that name. Make one with [NewSniffer].
type Sniffer struct {
	bridge   *Bridge
	lobby    lobby
	stopping context.Context
	stop     context.CancelFunc
}

const (
	// helloTimeout is how long a client may take to send its ClientHello.
	helloTimeout = 10 * time.Second
	// helloMax is the longest ClientHello, in bytes with its record headers. Those
	// of browsers have about 2 KiB with post-quantum key shares.
	helloMax = 32 << 10
)

var (
	errNotTLS = errors.New("it does not speak TLS, or asks for no server name")
	errNoHost = errors.New("it asks for a host that is not known here")
	// errHello ends the handshake that is only begun to read the hello.
	errHello = errors.New("the hello was read")
)

// NewSniffer returns a sniffer for the hosts of b, and attaches it.
func NewSniffer(b *Bridge) *Sniffer {
	s := &Sniffer{bridge: b}
	s.stopping, s.stop = context.WithCancel(context.Background())
	b.Attach(s)
	return s
}

// Take reads the hello and joins the connection to its host; see [Handler].
func (f *Sniffer) Take(in *Inbound) {
	s := f.newSession(in)
	if !f.lobby.serve(func() { s.serve(in, f.stopping, f.join) }) {
		s.refuse(in.client, errShutdown)
	}
}

// TurnAway refuses a connection that there is no room for; see [Handler].
func (f *Sniffer) TurnAway(in *Inbound) { f.newSession(in).refuse(in.client, errOverLimit) }

func (f *Sniffer) newSession(in *Inbound) *session {
	s := f.bridge.shared.newSession(in)
	s.protocol = speaksTLS
	return s
}

// Shut does nothing: clients that have not said their name are waited for until
// Finish.
func (f *Sniffer) Shut() {}

// Finish ends the connections that have no host yet.
func (f *Sniffer) Finish() {
	f.lobby.close()
	f.stop()
	f.lobby.wait()
}

// join reads the hello and takes the client to the host that it names.
func (f *Sniffer) join(in *Inbound, s *session) error {
	name, err := f.serverName(in)
	if err != nil {
		if f.stopping.Err() != nil {
			return errShutdown
		}
		return err
	}
	key, ok := route.Key(nil, []byte(name))
	if !ok {
		return alerted(in.client, errNoHost)
	}
	for {
		h := f.bridge.Lookup(key)
		if h == nil {
			return alerted(in.client, errNoHost)
		}
		s.host = h
		// A host that has left the table meanwhile may be another one now.
		if err := h.join(in, s); !errors.Is(err, errNoHost) {
			return err
		}
	}
}

// serverName reads the ClientHello, puts what was read into in.rest, and returns
// the name in it. It is read by crypto/tls, whose handshake ends there.
func (f *Sniffer) serverName(in *Inbound) (string, error) {
	interrupt := context.AfterFunc(f.stopping, func() { in.client.SetReadDeadline(time.Unix(1, 0)) })
	defer interrupt()
	if err := in.client.SetReadDeadline(time.Now().Add(helloTimeout)); err != nil {
		return "", err
	}
	name := ""
	read := &recorder{Conn: in.client}
	unread := io.MultiReader(bytes.NewReader(in.rest), io.LimitReader(in.client, helloMax))
	read.from = io.TeeReader(unread, &read.bytes)
	err := tls.Server(read, &tls.Config{
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			name = hello.ServerName
			return nil, errHello
		},
	}).HandshakeContext(context.Background())
	if !errors.Is(err, errHello) {
		return "", fmt.Errorf("%w: %w", errNotTLS, err)
	}
	if name == "" {
		return "", alerted(in.client, errNotTLS)
	}
	if err := in.client.SetReadDeadline(time.Time{}); err != nil {
		return "", err
	}
	in.rest = read.bytes.Bytes()
	return name, nil
}

// recorder keeps what is read, and sends nothing.
type recorder struct {
	net.Conn
	from  io.Reader
	bytes bytes.Buffer
}

func (r *recorder) Read(p []byte) (int, error)  { return r.from.Read(p) }
func (r *recorder) Write(p []byte) (int, error) { return len(p), nil }

// alerted tells a client in its own protocol why it is refused: unrecognized_name
// (RFC 6066, section 3). The reset that follows may overtake it.
func alerted(client relay.Conn, why error) error {
	const fatal, unrecognizedName = 2, 112
	client.SetWriteDeadline(time.Now().Add(time.Second))
	client.Write([]byte{21, 3, 1, 0, 2, fatal, unrecognizedName})
	if half, ok := client.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
	return why
}
