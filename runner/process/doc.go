// Package process has the runners that a daemon is made of: an ordered group, a
// restart, a tick-or-poke loop and an HTTP server. A [Runner] has the method of an
// ifrit.Runner, so both can be used where the other is asked for.
//
//	start  ──▶  api ──ready──▶ monitor ──ready──▶ listeners ──ready──▶ ready
//	stop   ◀──  api ◀──ended── monitor ◀──ended── listeners ◀──── first signal
//	now    ──▶  api,           monitor,           listeners ◀──── second signal
//
// # Why not ifrit's own
//
// Measured in ifrit v0.0.0-20230516164442-7862c310ad26:
//
//   - restart never becomes ready if the first run fails before it is ready.
//   - An ordered group whose member ends with nil ends with nil, so a daemon that
//     is half dead returns success. The errors of a group do not unwrap.
//   - A second signal that equals the first is swallowed, so a second Ctrl-C does
//     nothing.
//   - http_server has no address to ask for, no header timeout, and waits a minute
//     for streams. Later commits exit the process if a shutdown fails
//     (github.com/tedsuo/ifrit issue 47).
//
// # Signals
//
// The first signal means stop, any second one means now, whether it equals the
// first or not and whether the start has ended or not. A group hands a member its
// signals through a channel with room for two, so a member that is busy misses
// neither, and a third is dropped if the member has not heard the first two.
//
// # Who may call what
//
// Run is called once, by any goroutine, and owns every goroutine it starts: it
// returns when they have ended. [HTTP.Addr] may be called from any goroutine.
//
// # What it never does
//
// It does not recover: a panic in a member ends the process with a trace, which is
// what a supervisor can see. It does not give up on a member that hears no signal;
// the duty to end in finite time is the member's. It never exits the process.
package process
