// Package stats counts what is in access logs, in Redis: who reads a log, and who asks.
//
//	access.log ── follower: rotation, truncation, partial lines
//	     │
//	     ▼  a buffer of whole lines
//	   parse ── sums in memory, by version type, node and host
//	     │
//	     ▼  one script: is the position the one we read?
//	┌─ Redis ───────────────────────────────────────────────────────┐
//	│ PREFIXposition:NODE                  STRING  how far it is    │
//	│ PREFIXstat_vt:ID  stat_node:  stat_host:     HASH  totals     │
//	│ PREFIXhistory_vt:ID:HOUR:METRIC      HASH  second -> value    │
//	│ PREFIXhistory_vt:ID:dayDAY:METRIC    HASH  hour -> value      │
//	│ PREFIXhistory_due                    ZSET  hours to fold      │
//	│ PREFIXworkspace:ID  application:  version:   SET  of types    │
//	└───────────────────────────────────────────────────────────────┘
//	     │                      ▲
//	     ▼                      └ fold: seconds, then minutes, then hours
//	   Query ── Totals, History
//
// The keys are spelled in this package and nowhere else. Those of version types and nodes,
// and the sets, which pacemakers fill, are what other routers of this family use as well;
// hosts, days and history_due are ours. ID, HOUR and DAY are an ID of the log, and the
// second since 1970 that an hour or day (UTC) begins with.
//
// # Exactly once
//
// The position is committed with the counters, by a script that does nothing if the
// position is not the one that the reader has read. So what Redis holds is the truth, and
// nothing else is remembered: after a crash, after any error, and when nobody knows whether
// a commit was made, the reader asks Redis where it is and reads on from there. Two
// readers of one log do not count twice: of two commits from one position, the second
// finds another one. A Redis that comes back with older data has an older position too, and
// what came after is counted again; one that comes back empty counts the log as it is from
// its beginning.
//
// A commit that waits in a Redis that stands still may be made long after its reader gave
// up. It is one more reader, then: the position decides. Each position has a number of its
// own, so that none comes back.
//
// # Rotation
//
// A file is known by its inode and by the sum of its first bytes, wherever it is moved or
// copied to. When the log is another file, the old one is read on until the new one has
// something and the old one has not grown for [Options].Settle; it is kept open, and after
// a restart it is found again in the log's directory. Then come the files that were the log
// since, in the order of their last lines, and the log itself at the end. Files that were
// read are remembered, so one that is touched later is not read again. Files that are
// compressed are not read: leave two rotations uncompressed (delaycompress) if readers may
// be down for that long.
//
// A log that was truncated in place is read from its beginning again, after its copy if
// there is one. What was written between the last look and the truncation may be lost, and
// the log says so: rename rather than truncate.
//
// A line that is not finished is left for later; if its file is rotated away it is
// broken. Lines that are no records are counted and, at most once a minute, logged; lines
// of more than 64 KiB are skipped without being held in memory. Neither stops anything.
//
// # History
//
// A value belongs to the second in which its record ended. Records of more than five
// minutes from now, or older than what is kept, are counted without a history, so a clock
// that has jumped makes no keys without end. Each hour is folded in place when its seconds
// are old enough, to one value a minute, and later moved, to one value an hour in the hash
// of its day, which is where most of the memory would be otherwise. Folding is one
// script per hour and subject, in which all its metrics change at one moment, and
// history_due remembers what is left to do: a crash in the middle loses nothing and counts
// nothing twice, readers that fold at once do not disturb each other, and a record that
// comes late makes its hour due again. The end of an hour's or a day's keys is their
// expiry; nothing is ever looked for with KEYS. Totals stay for ever.
//
// # Who may call what
//
// A [Reader] has one loop, Run's, which owns all of its state; [Reader.Status] may be called
// from any goroutine. A [Query] may be used from any goroutine.
//
// # What it never does
//
// It writes to no log, removes none, and asks no writer to reopen one. It holds a buffer
// of one pass and never a log. It does not fail because of what a log says, and it waits for
// a Redis or a log that is not there.
package stats
