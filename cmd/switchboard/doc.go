// Command switchboard runs the daemons of this project.
//
//	args, environment ─▶ run ─▶ cobra ─▶ router        one router, from a file
//	                                  ├▶ stats         totals, history ◀─ the statistics in Redis ◀─ follow
//	                                  ├▶ routes        list, show, add, remove, weight, set, drop, dump, import ─▶ the table in Redis
//	                                  │                accept ─▶ a router's API
//	                                  ├▶ events        what happens ◀─ a router's API
//	                                  ├▶ compat        Cloud Foundry's switchboard, see runner/compat
//	                                  ├▶ dev           a whole cluster to try
//	                                  │   └▶ demo-backend, three times, and demo-app, six times, as children
//	                                  └▶ version, completion, help
//
// This is the floor where everything is wired: flags and signals, which checks
// are linked (http, tcp and exec are the runner's own; those that need a driver come from here), and
// what is logged where to. Keys, their flags and their variables come from
// runner/config; no key is listed here a second time.
//
// main only calls run, which reads no global: specs call it with arguments,
// streams and an environment of their own. What it shares with the rest of the
// process are signals, and those only while a daemon runs.
//
// # Exit codes
//
// 0 is a clean end, 1 a failure while starting or running, 2 a wrong command line
// or configuration. Whoever fails has said why on stderr, once: the router in its
// log, everything else in plain lines. compat has the codes of the original: 1 is
// no configuration, 2 everything that fails; its log is on stdout.
//
// # Signals
//
// The first SIGINT or SIGTERM stops, a second one means now. SIGUSR1 opens the access
// log anew, and does nothing where there is none. SIGPIPE is taken from the router: a
// log reader that goes away must not take sessions along.
package main
