// Package accesslog writes one line of JSON for each request and each session, and
// never has traffic wait for that.
//
//	Request, Session                 one goroutine
//	  │ put together in memory         │ every 50 ms, or when much waits
//	  │ that is lent                   ▼
//	  └── copied ──▶ front ── swapped ──▶ back ── write ──▶ file, opened to append
//	        │       (half the buffer)   (the other half)     │
//	        ▼                                                ▼
//	     no room: dropped and counted          renamed, removed, [Log.Reopen]: the next one
//
// A line costs whoever has it made the time to put it together, outside of any lock,
// and one copy under a lock that is never held while something is written. Nothing is
// allocated for it. The goroutine that writes swaps the two halves of the buffer, so
// all that came in the meantime goes out with one call.
//
// # What a line has
//
// The names of the fields that an NGINX router of this family writes keep their
// meaning, so that who reads those logs reads these: version_type_key, node_key,
// instance_key, bytes, code, upstream_response_time, nginx_response_time, time,
// timemsec. All others are ours. A session has no code, by which readers know that it
// is no request. What is written is bounded: an authority is cut to 255 bytes and a
// path to 1 KiB. Of a path, the query is left out, since queries carry secrets.
//
// # What is lost, and what is not
//
// A line that was taken is written once. If writing fails, what is in the buffer is
// kept and tried again until it succeeds, from the very byte on at which it failed:
// a full disk that is made room on in time costs no line, and no line is ever broken
// by half of another one. A line is dropped only if the buffer is full, or if it could
// not be written when the log stopped; [Counts] has how many, and why. The program's
// log gets a line when that begins and one when it is over, not one for each.
//
// A program that is killed loses what it had not written yet: lines of the last 50 ms.
// Nothing is synced: what the kernel has is safe from this program's end, but not from
// the machine's.
//
// A file that was renamed or removed is noticed before a write, looked at no more than
// once a second. [Log.Reopen] need not wait for that. A file that ends within a line,
// because the program that wrote it was killed, gets the end of that line first. One
// that is copied and then truncated loses what is written between the two: rename it.
//
// # Stalled disks
//
// A write may never return, and then nothing can end it. Lines wait and are dropped as
// the buffer fills; [Log.Run] stops waiting for it after Options.Stop and leaves that
// goroutine behind.
package accesslog
