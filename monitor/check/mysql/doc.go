// Package mysql checks a MySQL or MariaDB server by its role: only one that takes
// writes is healthy.
//
//	Check ─▶ read_only, super_read_only ─▶ both off             healthy
//	         on the one kept connection    one is on            unhealthy, at once
//	                                       Galera: not ready    unhealthy, at once
//	                                       not logged in, …     failed, with what to do
//
// super_read_only is MySQL's alone. The user that logs in needs no right: CREATE
// USER is enough.
//
// # One connection
//
// A checker has one connection, through the field's own driver, with no pool that
// could hide a second one. It is kept between probes, so that a probe costs the
// server a round trip and no log-in, and watched meanwhile ([check.Watch]): when
// the server dies its end is a hint to probe at once. The next probe then dials
// anew. A checker takes leave with COM_QUIT.
//
// # Handshakes are not broken off
//
// A server counts connects that end in the middle of their handshake, and after
// max_connect_errors of them in a row it lets nobody in from that address. That
// would be every client of the router, not just its checks. So:
//
//   - A log-in whose probe runs out of time goes on, and the next probes wait for
//     the same one, up to 10 s: a server that hangs sees one connect, not one a
//     probe. A connect goes on for half a second, since it may have been made when
//     the probe ended.
//   - After a handshake that had to be broken off on this side, as for a
//     certificate that cannot be trusted, the server is left alone for 30 s;
//     probes meanwhile say why. What is broken off is still counted there: a
//     router that is configured so for an hour is shut out.
//   - A refused password is a handshake that was finished, and is tried again with
//     each probe.
//
// # Who may call what
//
// A checker belongs to one goroutine, as package check says. [Conn] is what
// package galera, which asks more, shares with this one. Nothing is registered
// with the driver and none of its globals is used. A password is in no detail.
// What is read from a server for one probe is bounded by [check.MaxBody].
package mysql
