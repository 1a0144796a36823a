// Package state keeps what a router must remember over a restart, in one
// directory: the traffic switch, the pins, the weights that operators have set, and
// who was active with which epoch.
//
//	traffic.json   the router's flag and those of hosts     SaveTraffic
//	pins.json      host -> backend                          SavePins
//	weights.json   host -> backend -> weight                SaveWeights
//	active.json    host -> backend, epoch, reserved         SaveActive, Settle
//	lock           empty; an advisory lock on it means "in use"
//
// A file is a JSON object with a version. It is written whole to a file beside it,
// synced, renamed over the old one, and the directory is synced; a process that is
// killed at any moment leaves the old content or the new. The lock is the
// kernel's (flock), so a process that was killed leaves nothing that blocks the
// next one; the lock file itself is never removed, as removing it would be a race.
//
// # Reading is strict
//
// A traffic.json, pins.json or weights.json that cannot be read whole is refused with an error
// that says what is wrong where, since guessing would switch on what an operator
// has switched off. Unknown members, members twice, a missing flag, bytes after
// the object and unknown versions are refused alike.
//
// A broken active.json is not worth an outage: it is moved to active.json.corrupt,
// this is logged as an error, and epochs go on from the current Unix time in
// seconds, which is higher than any count of failovers.
//
// # Epochs never go back
//
// Whoever counts a host's epochs must not wait for a disk while it fails over. So
// the file holds, beside each epoch, a ceiling that is reserved ahead: any epoch
// up to [Dir.Ceiling] may be used before it is saved. [Dir.SaveActive], called
// after a failover and off its path, raises the ceiling by [Reserve] when less
// than half of that is left. After a crash a host goes on from the ceiling: epochs
// are skipped, never used twice. [Dir.Settle] is the last save of an orderly stop:
// it gives the unused ones back, and the host goes on from the exact epoch.
//
// A host that is not in the file begins at 0, or at the time when the file was
// lost. A host that has left the configuration stays in the file, since it may come
// back; so the file is as long as the list of all hosts there ever were.
//
// # Who may call what
//
// Everything may be called from any goroutine; saves of one Dir are serialised,
// and one that changes nothing writes nothing. Nothing here starts a goroutine. A
// save takes as long as the disk does: call it where that does not matter.
package state
