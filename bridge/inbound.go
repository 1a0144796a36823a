package bridge

import (
	"context"
	"net"
	"time"

	"switchboard/bridge/relay"
)

// Inbound is a connection that a listener has accepted and hands over, see
// [Handler]. One goroutine uses it at a time.
type Inbound struct {
	client      relay.Conn
	door        *door // of the listener
	inside      bool  // it has a place among the limits of the door
	began       time.Time
	source      net.Addr // what PROXY said; nil: nothing
	destination net.Addr
	rest        []byte
}

// Client is the connection itself.
func (in *Inbound) Client() relay.Conn { return in.client }

// Listener is the name of the listener that accepted it, Began is when.
func (in *Inbound) Listener() string { return in.door.name }

// Began is when the connection was accepted.
func (in *Inbound) Began() time.Time { return in.began }

// Source is the client's address: what PROXY said, once [Inbound.Introduce] has
// returned nil.
func (in *Inbound) Source() net.Addr {
	if in.source == nil {
		return in.client.RemoteAddr()
	}
	return in.source
}

// Destination is the address that the client connected to, likewise.
func (in *Inbound) Destination() net.Addr {
	if in.destination == nil {
		return in.client.LocalAddr()
	}
	return in.destination
}

// Rest are the bytes that came behind a PROXY header and are the client's first.
func (in *Inbound) Rest() []byte { return in.rest }

// Introduce learns who the client is: it reads the PROXY header if the listener
// expects one. When stopping ends meanwhile, so does the wait.
func (in *Inbound) Introduce(stopping context.Context) error {
	if !in.door.proxy.expected() {
		return nil
	}
	interrupt := context.AfterFunc(stopping, func() { in.client.SetReadDeadline(time.Unix(1, 0)) })
	defer interrupt()
	source, destination, rest, err := in.door.proxy.read(in.client)
	if err != nil {
		if stopping.Err() != nil {
			return errShutdown
		}
		return err
	}
	in.source, in.destination, in.rest = source, destination, rest
	return nil
}

// Release gives the connection's place among the limits of its listener and its
// router back. Calling it again does nothing.
func (in *Inbound) Release() {
	if in.inside {
		in.inside = false
		in.door.leave()
	}
}

// door is what all connections of a listener have in common.
type door struct {
	name    string
	proxy   ProxyAccept
	budgets [2]*Budget // the listener's and the router's
}

// enter takes a place in both budgets, or in neither and returns the one that is full.
func (d *door) enter() (full *Budget) {
	for i, b := range d.budgets {
		if b.acquire() {
			continue
		}
		if i > 0 {
			d.budgets[0].release()
		}
		return b
	}
	return nil
}

// leave gives those places back.
func (d *door) leave() {
	for _, b := range d.budgets {
		b.release()
	}
}
