// Package route knows what can be routed to: hosts and their backends, the table
// that says which host a name is, the choice among backends, and the names and
// addresses that all of them go by. It is pure: nothing here opens, resolves or
// waits.
//
//	Host: WWW.Example.com.:8080     what a client sent
//	          │ Key
//	          ▼
//	   www.example.com ──▶ Table.Lookup
//	                         1. www.example.com   the exact name
//	                         2. *.example.com     a wildcard for one label, and
//	                            *.com             for more, up to Options.Depth
//	                         3. *                 the catch-all
//	                         │
//	                         ▼
//	                       Host{Policy: balance}
//	                         │ its backends that are up
//	                         ▼
//	                       Chooser: Random, Least or Sticky ──▶ Backend
//
// # Names
//
// Names and addresses come from configuration, from operators and from the
// wire, so the parsers are strict: what is ambiguous is refused with a sentence
// that says why, and what is accepted has one spelling. That of a host is the same
// whether it was configured ([HostName]) or sent ([Key]).
//
// # Tables
//
// A [Table] is an immutable value: whoever has one may use it, from any goroutine and
// as long as he likes. [Table.With] makes the table after a change, which shares all
// that is as it was, so a change costs the same among ten hosts and among a million. A
// million hosts are no reason to be slow: a lookup takes two lines of memory that are in
// no cache, and does not allocate. A wildcard stands for one label only, as in a
// certificate, unless [Options] say more: each level is a lookup more for every name
// that is not known.
//
// # Choices
//
// A [Chooser] knows those backends only that are up, so nobody who is known to be down
// is chosen. Nothing in it is random: who calls brings the random number, and the
// same number gives the same choice. A weight means what it says: 1 of 100 is a share
// of 1 %, by sessions or by keys, and 0 is a backend that is drained, which is as if it
// were not there. Rings of hashes, the usual way to stick to a backend, promise neither:
// the share of a small weight depends on luck, and keys that had no reason to move
// move when a backend comes or goes.
package route
