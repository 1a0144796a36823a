// Package compat is the drop-in for Cloud Foundry's switchboard and for its fork
// in pxc-release: their configuration, ports, pages and log lines around a router
// of ours.
//
//	JSON, YAML ──▶ Parse ──▶ Config ──▶ New ──▶ Daemon
//
//	observer      logs what the original logs of sessions, flips and traffic
//	health        200 to anything; 503 once the daemon is told to stop
//	api           log ▸ https ▸ auth ▸ /v0/cluster, /v0/backends of the router; else StaticDir
//	aggregator    log ▸ https ▸ auth ▸ one link a proxy
//	metrics       one gauge, on localhost
//	status logs   one line every interval, for each port
//	router        host "active" on Proxy.Port, host "inactive" on InactiveMysqlPort
//
// They start downwards and stop upwards: whoever asks is answered until the last
// session has ended, and the delay after the first signal is the router's, so its
// monitors work on through it and a node that fails meanwhile is left.
//
// # What is as it was
//
// Keys and their names in errors, ports, addresses, credentials, the answers of
// /v0 to the byte, the redirect to https before the question for a password, the
// precedence of flags and environment (in cmd), exit codes, and the lines that
// operators search the log for, with the names of their facts: see [NewHandler] and
// words.go. Traffic that was disabled is enabled again by a restart, because there is
// no directory to keep that in; the router's own configuration has one.
//
// # What is not, on purpose
//
//   - A probe that fails does not yet cut anybody off: it takes two in a row, the
//     second of which comes at once (fall 2), and two good ones to come back (rise 2).
//     The original severs all sessions after one timeout, and operators raised the
//     timeout instead. A node's own word, healthy: false or 503, counts at once.
//   - The active port keeps its backend while that is healthy (sticky); a node with a
//     lower index that comes back severs nobody, as the original's documents promise.
//     Equal indexes do not flap.
//   - A node that hangs delays no verdict on another one.
//   - The two ports share nothing but the traffic flag: the inactive one severs no
//     session of the active one. currentSessionCount in /v0 is that of the active
//     port; the metric and the status line have all sessions of a backend, or of a
//     port.
//   - While the daemon stops, health answers 503 and goes on listening, so that a load
//     balancer sees the drain; API, aggregator and the inactive port serve to the end.
//   - StatusEndpoint is what is asked for, as the fork does. The original asks for
//     /api/v1/status, whatever the key says.
//   - Agents are asked over https alone once GaleraAgentTLS is enabled, on their
//     StatusPort. The fork falls back to plain HTTP on 9200, which anybody in between
//     can bring about.
//   - Redirects of agents are not followed.
//   - Sessions are severed with RST, and half-close is honoured.
//   - What could only fail later is refused at the start: backends with one name,
//     one port for two things, ports beyond 65535, hosts that are neither an address
//     nor a DNS name, a backend that is this proxy, times that nobody can mean.
//   - "Proxy started" is logged once everything listens. The original logs it when a
//     port is in use, too.
//   - An error of PATCH /v0/cluster is all that is answered; the original lets the
//     cluster's JSON follow.
//   - A stop waits for no HTTP request that does not end.
//   - Credentials are never logged. The line at the end of a session has its bytes
//     and why it ended; clients without a backend leave at most one line a second.
//     Where the original's log has Go's own values, of a signal or a URL, there is
//     text.
//
// # Who may call what
//
// [Daemon.Run] is called once and owns every goroutine; everything else may be
// called from anywhere. The package reads no flag and no environment, catches no
// signal and never exits the process.
//
// It stands beside runner/config: nobody but cmd imports it.
package compat
