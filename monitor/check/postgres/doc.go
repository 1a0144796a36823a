// Package postgres checks a PostgreSQL server by its role: only a primary is
// healthy, or only a standby where one is asked for.
//
//	Check ─▶ pg_is_in_recovery() on the one kept connection
//	           ─▶ false                  a primary: healthy
//	           ─▶ true                   a standby: unhealthy, at once
//	           ─▶ 57P03                  starting, stopping, replaying: unhealthy, at once
//	           ─▶ 28P01, 3D000, 42501 …  failed, with what to do
//	between two of them: check.Watch ─▶ Target.Hint when the server drops it
//
// The role is the server's own word about whether it takes writes, which a
// connect is not: a standby accepts those too. It is asked at each probe and never
// remembered.
//
// The connection is kept between probes, so that a probe costs one round trip and
// the server one of its slots. One that has dropped is not held against the
// server: the same probe goes on with a new one, and what that says counts. So a
// killed server is found by the hint and judged by its refusal, within
// milliseconds.
//
// What is not here on purpose: pgconn would ask the server to cancel a query that
// is late, on a connection of its own, and would wait for the answer long after
// the probe. A probe that is late closes its socket instead, and is over. Nor is
// the environment asked: PGHOST, PGPASSWORD, PGSERVICE, ~/.pgpass and their like
// are for people, and TLS is either verified in full or off.
//
// A checker belongs to one goroutine, as package check says. Only pgconn of pgx is
// used, no pool. No other package of a router imports pgx, so one without PostgreSQL
// backends does not link it.
package postgres
