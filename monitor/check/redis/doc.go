// Package redis checks a Redis server by its role: only a master that has
// loaded its data is healthy.
//
//	Check ─▶ ROLE on the one kept connection ─▶ master             healthy
//	                                           slave, sentinel     unhealthy, at once
//	                                           LOADING             unhealthy, at once
//	                                           NOAUTH, WRONGPASS…  failed, with what to do
//
// The role is the server's own word about whether it takes writes, which a
// connect or a PING is not: a replica answers both.
//
// The connection is kept between probes, so that a probe costs one round trip
// and no log-in; when it has dropped, the next probe makes a new one. The check
// does not watch the connection while it is idle, since the data path's hints
// tell of a crash as early.
//
// A checker belongs to one goroutine, as package check says. It is the only
// importer of go-redis below the monitor, so a router without Redis backends
// does not link it.
package redis
