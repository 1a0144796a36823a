// Package store is where the concerns of a pacemaker are kept: how a Redis is
// reached, and which prefixes keys may have there.
//
//	Redis{URL, Timeout, …} ── Connect ──▶ client ──▶ pacemaker/table, pacemaker/stats
//	                                        │
//	                          CheckPrefix ◀─┘
//
// Each concern may have a Redis of its own: the table is small and precious, the
// statistics are large and not. So each gets a [Redis], and nothing here knows a key.
//
// The client does one thing at a time and does not repeat it. go-redis would dial five
// times and retry three, each with a time limit of its own, and its limits have changed
// between releases; whoever follows a table or counts requests knows better how long an
// answer is worth waiting for.
//
// All of it may be called from any goroutine.
package store
