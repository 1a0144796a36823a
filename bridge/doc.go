// Package bridge joins clients to backends, and cuts them off again: terms,
// sessions, the traffic switch, and the listeners that clients come in by.
//
//	           <-chan Active (monitor)      SetTraffic (operator)
//	                      │                         │
//	                      ▼                         ▼
//	                 ┌───────── Host.Run: one loop ─────────┐
//	                 │ ends the old term, begins the new    │
//	                 └───────┬──────────────────────────────┘
//	                         │ atomic pointer: term, or why there is none
//	  accept                 ▼
//	Listener ──▶ Host.Serve: admit ─▶ dial ─▶ open ──▶ relay.Set of the term
//	                   │ park ◀────┘
//	                   ▼
//	              one Record a connection, with a Reason
//
// # Terms
//
// A term fences. It begins with an active backend and traffic on, and ends at the
// next NEW_ACTIVE_BACKEND or when traffic goes off. Dials derive from the term's
// context; opening a session re-checks the term under the mutex of the term's
// set. So ending a term is one call, and afterwards there is no session on the
// old backend, none that was still dialing then, and none that will appear. Sets
// belong to one host and one term: two hosts over the same backends never cut
// each other's sessions.
//
// A client has had no byte read before its session is open, so it can be taken to
// another backend: once if a change overtook its dial, and, if the host holds
// clients, until the hold is over. A held client whose dial failed does not wait
// for the next epoch alone, as there is none if the backend was only slow for a
// moment: it is dialed again after a pause.
//
// # Words
//
// The words of this program, in code, logs and JSON:
//
//	client    whoever connects to us
//	listener  an address we accept on
//	host      what a client asks for: the name bound to a TCP listener
//	backend   an address that can serve a host; its identity is (host, name)
//	cluster   one host's backends and which of them is active
//	term      a stretch of service on one backend; a session belongs to one term
//	epoch     counts a host's NEW_ACTIVE_BACKENDs, never goes back
//	session   one bridged pair, client and backend
//	sever     end sessions at once on both sides, with RST
//	drain     refuse new sessions, wait, then sever
//	park      keep a client waiting for an active backend, its bytes unread
//	hint      what the data path tells the monitor: look at this backend now
//	verdict   healthy or not, as far as the probes can tell
//	traffic   the routing-enabled flag and its message, per router and per host
//
// # Who may call what
//
// Everything exported may be called from any goroutine. Callbacks (Hints,
// Records) are called from many goroutines and must not block. Commands ask the
// loop that owns the state and are answered; they give up when their context
// ends or the loop has stopped ([ErrStopped]), so a command cannot hang.
//
// A client that is refused is reset, not closed: there is nothing of ours for it
// to read, and a reset leaves no TIME_WAIT behind when thousands are refused.
package bridge
