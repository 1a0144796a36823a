// Package bridge joins clients to backends, and cuts them off again: terms,
// sessions, the traffic switch, and the listeners that clients come in by.
//
//	    <-chan Active, <-chan Cluster (monitor)   SetTraffic, SetWeights (operator)
//	                      │                         │
//	                      ▼                         ▼
//	                 ┌─────────── Host: one loop ───────────┐
//	                 │ ends old terms, begins new ones      │
//	                 └───────┬──────────────────────────────┘
//	                         │ atomic pointer: terms, or why there is none
//	  accept                 ▼
//	Listener ──▶ Host.Take: admit ─▶ pick ─▶ dial ─▶ open ──▶ relay.Set of the term
//	  │                │ park ◀────────────┘                         ▲
//	  │                ▼                                             │ upgraded
//	  │           one Record a connection, with a Reason             │
//	  └▶ Front (Sniffer, bridge/web): reads which host ─▶ Host.Claim: claims of the term
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
// Where nothing stands in the way (no PROXY header either way, a backend that is an IP
// address), the engine dials and opens the session by itself, without a goroutine. If
// that comes to nothing, a goroutine goes on from there.
//
// # Many backends
//
// Under policy balance each healthy backend has a term of its own, and a session is
// chosen one: by weight at random, by the fewest sessions, or sticky. A backend that
// goes down takes its sessions with it, but not the requests it is answering: it may
// well be finishing what it has begun, and a request that fails can be tried again.
// Their term is retired: it takes nothing new, and is severed with the others when
// traffic goes off.
//
// # A table
//
// Hosts that the bridge is made with are there for good. Those of a table, which comes
// by a channel, come and go:
//
//	Options.Tables ──▶ follow: which of the hosts in use are gone, or others
//	                      │         regroup their terms, end those of who has left
//	                      ▼
//	Lookup ──▶ route.Table ──▶ *route.Host ──▶ *Host, which begins to be when first asked for
//
// There may be a million, of which a thousand are in use, so they have no loop each: what a
// loop would own is guarded by one lock, and the data path reads the same snapshots as
// of any host. A backend that leaves takes its sessions with it, but not the requests it
// is answering. Nothing else is touched: a host that did not change is the same pointer
// in the next table, and is not even looked at. Nobody probes their backends; under
// policy active the first with a weight is active, so that all who follow one table agree.
//
// # Requests
//
// A request of HTTP is a session too, but for a few hundred microseconds only, many
// times on one connection. So it is no member of a relay's set but a [Claim] on the
// term, which costs a mutex twice and no allocation. Ending the term severs claims
// while it holds their mutex: none can leave meanwhile and be severed in the middle of
// another request. Which host a request is for stands in the request, so its listener
// hands the connection to a [Front], which reads it and asks [Bridge.Lookup].
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
//	policy    one active backend at a time, or balance over all healthy ones
//	term      a stretch of service on one backend; a session belongs to one term
//	table     host names to hosts with their backends, an immutable value swapped whole
//	epoch     counts a host's NEW_ACTIVE_BACKENDs, never goes back
//	session   one bridged pair, client and backend, or a request in flight
//	claim     a request's place in a term
//	front     what reads from a connection which host it is for
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
