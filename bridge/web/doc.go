// Package web takes HTTP requests to hosts by their names, and the answers back.
//
//	clients                      Server: one a listener
//	  HTTP/1 ───────▶ conn ──┐                          ┌──▶ pool ──▶ HTTP/1.1 backend
//	  (TLS)                  ├─▶ exchange ─▶ Upstream ──┤
//	  HTTP/2 ─▶ std ─▶ stream┘    │      ▲              └──▶ std ───▶ HTTP/2 backend (h2c)
//	                              ▼      │
//	         bridge.Lookup, Host.Claim   Claim.Sever: both sides, now
//
// A request is read by [switchboard/bridge/web/h1], which refuses whatever two readers
// could understand differently. What goes on to the backend is written anew from what
// was understood: nothing is forwarded as it came. A request of HTTP/2 is written down
// as one of HTTP/1.1 and read by the same parser, so there is one set of rules.
//
// # One goroutine a connection
//
// The goroutine that reads a request writes it to the backend, reads the answer and
// writes that to the client: no other is woken for it. Only a request whose body is
// not there yet has a second one, which uploads while the answer is waited for; it is
// waited for before the exchange ends. While a connection waits for a request it has
// no buffer, and a backend's answer has one only while there is something of it. In
// the steady state a request allocates nothing.
//
// Deadlines are numbers that a sweep looks at ([Server.Run]), so a request sets no
// timer. They are kept to about a hundredth of the shortest of them.
//
// A client that leaves while it is being answered is noticed by the engine's watcher
// ([switchboard/bridge/relay.Conn.OnGone]), and its request to the backend is reset. A
// client that shuts only its write side has left too, as for nginx and net/http: an end
// is all that can be seen of a client that was killed.
//
// # Terms
//
// A request in flight is a [switchboard/bridge.Claim] on its host's term, so it is
// counted, drained and severed like any session: under policy active at the moment of
// NEW_ACTIVE_BACKEND, both sides with a reset. A WebSocket becomes a session of the
// relay, with what either side has sent early. A stream of HTTP/2 is reset alone; the
// others on its connection go on.
//
// # Attempts
//
// A request is tried again, on another backend if there is one, only if nothing of it
// can have reached the first, or if its method is idempotent, it can be sent again
// whole, and no byte of an answer has come. Retries of the second kind are paid for by
// requests, ten for one, so that backends that all fail are not asked twice. A pooled
// connection is asked for stray bytes before it is used: they would be taken for the
// next answer.
//
// An answer that is broken off is broken off for the client too, by a reset: it must
// not look like a whole one. A refusal of ours is written, and the rest of the request
// read for a moment, before the connection is closed, so that the client gets it.
//
// # Records
//
// Every request makes one [Record] when it has ended, also those that are refused, if
// somebody wants it ([Options].Records). It is filled from what the exchange knows
// anyway, in memory that the request has on loan, so it costs no allocation and no look
// at the clock. What the standard library's server of HTTP/2 answers by itself, such as
// a head that is too long, is no request here and makes none.
//
// # What it does not do
//
// It buffers no body, decodes no content, and stores nothing. It adds no Via, because
// nginx as a backend stops compressing for requests that have one. It checks no
// client's certificate, so there is nothing for which a name in TLS and another in Host
// would have to be told apart (421): a connection is for every host of its listener.
// CONNECT and TRACE are refused, and every Upgrade but WebSocket is dropped: h2c in
// particular would let a client past the parser.
package web
