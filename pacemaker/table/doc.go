// Package table is the routing table in Redis: who writes it, and who follows it.
//
//	 writers: pacemakers, operators               each router
//	 Add Remove Replace Drop                      Watcher.Run, one loop
//	 SetWeights SetOptions                          │ XREAD BLOCK changes ── which hosts
//	       │ Writer.Apply: one script               │ MULTI serial, SMEMBERS, HGETALL
//	       ▼                                        ▼
//	┌─ Redis ──────────────────────────────┐   judge ── older, empty, another history:
//	│ PREFIXinstances:HOST  SET  members   │     │      kept, alarm, until it passes or Accept
//	│ PREFIXhost:HOST       HASH options   │     ▼
//	│ PREFIXserial          INT            │   Table.With ──▶ Feed[*route.Table]   every change
//	│ PREFIXchanges         STREAM         │     │       └──▶ Feed[Status]         stale? why?
//	│        serial, host of each change   │     ▼
//	└──────────────────────────────────────┘   Save ── File ── Load    the last good table
//
// The keys are spelled in this package and nowhere else. instances:HOST and serial are
// what NGINX routers with Lua of this family read as well; they know nothing of the
// other two keys.
//
// # What is in Redis
//
// A member of instances:HOST is "IP:PORT#TYPE#NODE#INSTANCE"; see [Member]. The
// backend's name is the instance's key. One that has none ("null"), and a second one of the
// same name, goes by its address, as 10.0.0.1-8080: the first one by address keeps the name,
// so an instance that is there twice for a moment, while it moves, is not cut off. Type, node
// and instance travel in [route.Backend] to the access log.
//
// The fields of host:HOST are policy (balance or active), choose (random, least_sessions or
// sticky), sticky_by (cookie:NAME, header:NAME or client), hold (a duration, as 1.5s) and
// weight:BACKEND (from 0, which drains, to 1000000). What is absent is balance, random, no
// hold, weight 1. A host with a HASH and without members is known, and nobody serves it;
// one without both keys is unknown, so a wildcard stands for it.
//
// What is broken, foreign or points where nothing of ours may be ([Member.Validate],
// [WatcherOptions].Refuse) is rejected, counted, logged, and left out; it is never
// fatal. A field that makes no sense is as if absent. A key of the wrong type is no reason
// to drop a host: it stays as it was.
//
// # Steps
//
// A [Change] is a wish, and [Writer.Apply] makes any number of them true in one script. A wish
// that is true already changes nothing, not even the serial, so whoever does not know
// whether a step was made ([ErrUnknown]) repeats it. Whoever decides by what he has read uses
// [Writer.ApplyIf]: of two who decide at once, one gets [ErrConflict].
//
// # Following
//
// A change record says which host to read again, not what it is now: ten thousand changes a
// second of one host are one read. Hosts are read together with the serial in one MULTI, so a
// host's two keys are of one moment, and no answer of an older Redis is taken for a newer
// one's. Nothing rides on Pub/Sub, keyspace notifications or expiry.
//
// Each call has a deadline; a Redis that is slower than [store.Redis].Timeout is as good as
// down. Whatever goes wrong, the last good table serves, and [Status] says that it is stale and
// why. The loop tries again after 50 ms to 0.5 s, half of it chance, and with a new client: it
// follows again within 2 s of a network's healing.
//
// The first table is read as fast as Redis gives it: names are found while hosts are read
// that were found before, several calls are on their way, and one answer is decoded
// meanwhile. What changes until then is noted, and read again.
//
// The whole table is compared, between changes and one short call at a time, when a record is
// missing: the stream was trimmed, or the serial moved without a record, which is how older
// writers do it. That happens at most once a second; and about once a minute without a
// reason, not by all routers at once.
//
// # What is not believed
//
// A Redis that was lost and came back must not take the web apps with it. It is recognised by
// a serial below ours; or, at our serial, by a stream that does not have the record that we
// read last. Then nothing is taken from it, and there is an alarm, until its serial passes
// ours or an operator calls [Watcher.Accept]. [Writer.Import] fills it again and moves the
// serial once, at the end.
//
// A compare that finds no hosts at all, or misses hosts though the serial has not moved without
// a record (an eviction, a FLUSHDB, a DEL by hand), keeps them, with the same alarm. Hosts that
// appear or change by hand are taken.
//
// # Who may call what
//
// A [Writer] may be used from any goroutine. A [Watcher] has one loop, Run's, which owns all
// its state; Accept may be called from any goroutine. Save is called from a second
// goroutine of Run's, so a slow disk holds nothing up. A table that was published is
// immutable, and a host that did not change is the same pointer in the next one.
//
// # What it never does
//
// It dials no backend and probes none. It writes nothing but those four keys, reads no KEYS,
// and sets no key to expire. It does not say how a client that waits for Redis is answered:
// there is no such client, as the table is in memory.
package table
