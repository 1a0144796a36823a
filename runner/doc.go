// Package runner is the router as one ifrit process, for programs that embed it
// and for the daemon, which is such a program.
//
//	                 ┌──────────────── Router ────────────────┐
//	signals ──▶      │  api, health     ◀── reads feeds,      │  started downwards,
//	                 │                      commands owners   │  stopped upwards
//	                 │  monitor of db ──Feed[Active]──┐       │
//	                 │  upstream, web   ◀── requests          │
//	                 │  bridge        ◀───────────────┘       │
//	clients ───────▶ │  listener ──▶ bridge ──▶ backends      │
//	                 └───────── access log, state ────────────┘  written to the last
//
// The parts do not know each other. The monitor of a host puts who is active into
// a feed; the bridge follows it; hints go back through one function. The API reads
// the feeds and gives commands through an interface that [Router] implements. Here
// is where they meet, and the only place.
//
// What a listener accepts goes to its host (tcp), to a sniffer that reads the server
// name (tls), or to a web server (http, https); the latter two ask the bridge for
// the host. Under policy balance a monitor elects nobody, and the bridge follows
// its Feed[Cluster] instead. Web servers only keep time in the group: their
// connections end with the bridge, so they stand below it.
//
// New opens nothing but the state directory and certificates, Run opens the rest.
// Nothing is global: two routers in one program do not know of each other. No flags
// are read, no signals are caught, the process is never exited: that is the
// program's.
//
// A program that embeds a router links what it names. The checks http, tcp and
// exec are always there; one that needs a driver comes in through Config.Checks, and
// hosts that come and go through Config.Table, from whoever knows them: the daemon
// follows Redis by pacemaker/table, which this package does not link.
//
// # Stopping
//
// The first signal turns readiness red. After Config.Delay the listeners are
// closed; open sessions then have Config.Drain to end, elections and commands go on
// meanwhile; what is left is severed, and the monitors and the API end last. A
// second signal cuts every wait short.
package runner
