// Package resolve turns the address of a backend, which may be a DNS name, into
// addresses that can be dialed.
//
//	"10.0.0.1:3306" ─────────────────────────────▶ itself, at once
//	"db-0.internal:3306" ─ younger than 1 s? ─────▶ the last answer
//	                     └ else: one lookup ──────▶ its answer, or the last good one
//
// # The policy
//
// A name is looked up when it is dialed, never in the background. An answer, good
// or bad, is used for [Fresh] before the next lookup. There is one lookup a name at
// a time, bounded by [LookupTimeout], whoever waits for it and however many.
//
// If there is a last good answer, a dial waits for a lookup only until [Patience]
// after the lookup began, and then uses that answer; it also uses it when the
// lookup fails, be it for a slow server or because the name is gone (NXDOMAIN).
// There is no age at which a last good answer becomes useless: a DNS outage must
// not be an outage of ours, and whether the backend at that address is the right
// one is for its health check to say. A good answer replaces the last one whole.
//
// Without a last good answer a dial waits for the lookup, or until its own context
// ends.
//
// IPv4 addresses come first, then IPv6 ones, each in the order that the system
// gives them (RFC 6724).
//
// # Who may call what
//
// Everything may be called from any goroutine. A lookup runs in a goroutine that
// the [Resolver] owns; [Resolver.Close] cancels and awaits them. No name is ever
// forgotten: they come from configuration, so there are as many as it has. Do not
// resolve what a client has sent.
//
// It imports bridge/clock.
package resolve
