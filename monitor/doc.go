// Package monitor decides for one host who is healthy and who is active.
//
//	check.Checker  check.Checker  check.Checker      one worker a backend calls it
//	      │              │              │
//	   prober         prober         prober ◀── Hint  one verdict each, own deadline
//	      └──────────────┼──────────────┘
//	                     ▼ reports
//	       Switch ──▶ Monitor.Run ──▶ Feed[Active]    NEW_ACTIVE_BACKEND, first of all
//	       Pin    ──▶  one loop   ──▶ Feed[Cluster]   every probe
//	                     │  elect ──▶ Journal, log    every change
//
// A program composes one Monitor a host. It knows its backends by their index in
// [Options].Backends, and everything that follows is per host.
//
// # Verdicts
//
// A backend is down until proven: before its first verdict one good answer is
// enough, afterwards it takes Rise of them in a row, an interval apart, so
// Rise × Interval is the hold-down that keeps a flapping backend from taking the
// host with it. An explicit answer ([check.Unhealthy], a refused connect on the
// backend's own port) counts at once. Anything else that is not healthy counts
// towards Fall; after the first such answer, and after a hint, the next probe
// comes at once and then every min(Interval, 50 ms) until the verdict is clear.
// A backend that hangs is down after Fall × Timeout, whatever the others do.
//
// A probe that could not be made because we are short of descriptors, ports or
// memory ourselves ([check.Void]) counts for nothing and is soon made again.
//
// Each prober gives its probe up at the deadline. A checker that does not return
// then is not called again until it has; its backend goes on failing once a
// Timeout, and its late answer is thrown away. A panic in a checker fails the
// probe. When the process was stopped for a while (SIGSTOP, a paused machine),
// what it finds afterwards says nothing about the backends: a probe whose answer
// is handled later than max(Timeout, 1 s) after its deadline is repeated and not
// counted.
//
// A status page can stay green while the backend's port is dead. So a refusal
// that the data path reports counts as an explicit answer, and from then on, as
// after every hint, each probe also connects to the backend's own port until
// that has worked.
//
// Backends of a host without checks are healthy until the data path reports a
// failure. A refusal puts one to rest for a second; on anything else it is asked
// by a connect first, if there is DialOwn. A connect that works ends the rest,
// time alone does where there is no DialOwn.
//
// # Elections
//
// The rules are in one pure function, elect:
//
//   - A pin decides alone: the host has the pinned backend, or none.
//   - Sticky keeps a healthy incumbent. Lowest and Highest elect by index always.
//   - With no incumbent nobody is elected before every backend has a verdict, or
//     max(2 × Interval, 100 ms) have passed since the first healthy one.
//   - Then Sticky prefers the backend that was active last. Otherwise the lowest
//     index wins (Highest: the highest), backends without an index come after all
//     that have one, and ties go by configuration order. Lowest and Highest do
//     not look at who was active last, since they would undo it at once.
//   - A backend that has just failed a probe, and is not down yet, is not elected:
//     when our own network dies, the host goes to none at once, and not through
//     all backends one by one. It keeps what it has.
//
// The index of a backend is the last one that it has told.
//
// # Who may call what
//
// Everything exported may be called from any goroutine. Run is called once. Put
// and Append on the feeds and the journal are called by the loop only, so their
// order is the order of the decisions: Active, Cluster, journal, log.
//
// # What it never does
//
// It cuts nobody off and dials no session: that is the bridge's, which hears
// from the feed. It stores nothing: who wants pins and epochs kept reads the
// feeds and hands them in as [Initial]. It never waits for all of its probes
// before it decides, and it never acts on wall-clock time.
//
// If its loop panics, Run returns an error, so that the process ends rather than
// serves blind.
package monitor
