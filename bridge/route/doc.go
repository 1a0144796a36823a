// Package route knows what can be routed to: backends, and the names and
// addresses that hosts and backends go by. It is pure: nothing here opens,
// resolves or waits.
//
// Names and addresses come from configuration, from operators and from the
// wire, so the parsers are strict: what is ambiguous is refused with a sentence
// that says why, and what is accepted has one spelling.
package route
