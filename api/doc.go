// Package api is what operators see of a router and may change in it: JSON over
// HTTP, and [Sources.Cluster], the same answers as Go values.
//
//	monitor ── Feed[Cluster] ──┐
//	bridge  ── Feed[Traffic] ──┼──▶ Sources ── merged when asked ──▶ GET, PATCH's answer
//	bridge  ── Counts() ───────┘
//
//	bridge, monitor ── Journal ──▶ stream: each change encoded once ──▶ GET /events
//
//	GET    guard ─▶ merge ─▶ compose ─▶ write
//	PATCH  guard ─▶ read and check the whole body ─▶ slot ─▶ If-Match ─▶ Commands ─▶ merge ─▶ slot back ─▶ write
//
// # Merged on read
//
// There is no copy of the state here and no loop that keeps one. Every answer
// takes the newest value of each feed at the moment it is asked for. The owners
// put a change in their feed before they answer the command that asked for it, so
// an answer is never older than the last command that was answered, and a router
// whose API is not called pays nothing for it. A GET waits for nobody; only GET /metrics
// waits its turn.
//
// # In turns
//
// An answer about 10,000 hosts is some 10 MB and tens of milliseconds of work, and what is
// asked for once a second must not keep a core from traffic for so long. So it is made
// and written in turns of 100 µs with pauses of 1 ms ([Turns]), which all answers share:
// the API takes a tenth of one core, however many ask. An answer that fits into a turn, as
// those about some dozen hosts do, knows no pause; one about 10,000 hosts takes a
// second. The state of each host in it is that of one moment, not the same for all; none
// is older than the question. Nothing is allocated for each host, and buffers are used again
// ([Buffers]): a collection of a large router's memory costs more than any answer.
//
// # Writes
//
// A PATCH is read and checked whole before anything is done: a refused one has
// called no command. What it names is then changed under the resource's slot, one
// PATCH at a time, so If-Match is checked and acted on as one. The slot is a
// channel that is waited for no longer than [Options.CommandTimeout], and commands
// get a deadline of the same length, so a PATCH ends in bounded time whatever
// hangs. Each host has its own slot: a host that hangs delays no other. Once a
// command has been given, a client that leaves does not take it back.
//
// Choosing a backend can be refused, and so comes before the traffic flag. "active"
// and "pin" together are one command, never two: {"active":"b","pin":"b"} pins b if
// it is healthy; {"active":"b","pin":null} is refused, because it would be two
// steps of which the second may fail. Where a first command has acted and a second
// has not, the problem document says "acted": true.
//
// Weights are for hosts of policy balance: {"weights":{"a":3,"b":0,"c":null}} merges
// into those that operators have set, and null gives a backend, or with
// {"weights":null} all of them, the configured weight back. Nobody is severed by it,
// but weight 0 takes a backend out of service, and so needs a message as whatever
// cuts traffic does; other weights do not.
//
// Hosts of a routing table ([TableSource]) come and go. They are found by name for each
// request; so that a million of them need no slot each, they share some. Their flag can
// be written, and the rest is for who writes the table. POST /table/accept takes the
// table that Redis has after it has lost one.
//
// The ETag of a resource covers what an operator can write, and the epoch. Session
// counts and check times change all the time and are left out.
//
// # Events
//
// GET /events is a stream of Server-Sent Events (WHATWG HTML, section 9.2): first
// "snapshot", which is GET /cluster, and then what changes, in the members that
// GET /cluster has for it. ?host= leaves out the other hosts, not the router's own.
//
//	NEW_ACTIVE_BACKEND                 active, epoch, since, reason
//	BACKEND_HEALTH                     backend, healthy, detail
//	TRAFFIC_ENABLED, TRAFFIC_DISABLED  trafficEnabled, message, lastUpdated, drainUntil
//	PINNED, UNPINNED                   pin, message
//	WEIGHTS_CHANGED                    weights, those that operators have set; message
//	TABLE_CHANGED                      hosts, how many: ask GET /cluster which
//	SESSION_COUNT                      currentSessionCount, parked, backends by name
//
// All have kind, at and host, which one of the whole router has not. State is changed
// first and told then, and a snapshot has the number of the newest change before it was
// made, so a change may be told that the snapshot already has, and none is missed. The
// end of a drain is no event: drainUntil says when it is. Nor are probes that change no
// verdict, and what is known of the table.
//
// Changes come from the router's journal, and whoever is first to see one encodes it for
// all. A watcher has no queue: it is a position among the last 1,024 changes, so that no
// change ever waits for a watcher, and a thousand of them who read nothing cost what their
// sockets hold. One that is further behind gets a new snapshot in place of what was
// forgotten. One that does not take what it is sent within [Options.Patience] is dropped.
//
// The id of an event is a mark of this run and the change's number. A watcher that comes
// back with it (Last-Event-ID) gets what happened since, or a snapshot if that is not
// remembered, or the id is of another run. Counts are no history: they have no id, and
// are told at most once a second, those that have changed, and all of them to who has
// just come. A comment every ten seconds keeps the stream open.
//
// Watchers are woken in turns, eight each millisecond, so that the last of 1,000 hears of a
// change some 150 ms later than the first. Then there is a rest of three times as long as
// that took: what happens all the time is told in fewer pieces. Snapshots, and all counts
// where they are much, are sent to four at once; others wait with the head of their answer, and who
// takes nothing for 100 ms makes room for the next.
//
// While nobody watches there is no goroutine, no timer and nothing encoded. While
// somebody does there are two goroutines, one for changes and one for counts, which the
// last watcher ends and waits for. A stream ends when the server is told to stop ([switchboard/runner/process.Stopping]), or
// its context ends.
//
// # Metrics
//
// GET /metrics is whatever [Options.Metrics] answers: api/metrics, in a program that
// links it. This package links no Prometheus library.
//
// # Statistics
//
// What was counted over all routers and restarts is not the router's state: it is read from
// where it is kept, by [Stats], when it is asked for, and no other answer waits for it. A
// question that makes no sense is 400, and 503 says that there is no answer now.
// GET /stats/{kind}/{id}/history takes metrics (with commas; all), from and to (a time as
// in RFC 3339, or seconds since 1970; the last minute) and step (a duration; 1s). Kinds
// without an ID are asked for by GET /stats/{kind}, and their history by any ID that
// [Stats] takes for them.
//
// # Who may call what
//
// /healthz and /readyz answer everybody. All else wants the username and
// password, if there are any. If there are none, the Host header must be an IP
// address, localhost or one of [Options.AllowedHosts]: a page on another name that
// a browser was made to resolve to us (DNS rebinding) is not. With a password that
// is not needed, since the browser keeps it for another origin. Writes that a
// browser sends from another site are refused by [net/http.CrossOriginProtection].
// A right password is never refused, however many wrong ones came before it; many
// wrong ones get 429 and their connection closed, and no longer a log line each.
// That slows a guesser and spares the log. What stops one is a long password.
//
// /v0 is the wire of Cloud Foundry's switchboard: its 2xx answers byte for byte,
// headers included, and its rules for PATCH. Its errors are one status and one
// line of text.
//
// All exported functions may be called from any goroutine. The package starts no
// goroutine but those of events, opens no listener, and never holds a lock or the slot while it writes
// to a client. Timeouts of sockets belong to the server that the handler is given to.
package api
