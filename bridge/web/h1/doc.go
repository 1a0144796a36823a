// Package h1 reads and writes the heads and chunked bodies of HTTP/1.1, by bytes.
//
//	                 Scanner.Scan              Request.Parse, Response.Parse
//	bytes as read ───────────────▶ one head ───────────────────────────────▶ fields, target, framing
//	                                                                              │
//	bytes as read ── Chunks.Next ─▶ data, trailers         Append… ◀── whoever forwards it
//
// It is the parser of a router, which stands between two parsers that it does not
// know. A message that they could read in two ways is how a request is smuggled, so
// whatever is ambiguous is refused here, even where RFC 9112 lets a recipient repair
// it; and nothing is ever passed on as it came: who forwards a message writes its
// framing anew from what was understood. Each rule names its source.
//
// What is accepted is not changed: names keep their case, a path is never decoded,
// values lose nothing but the white space around them.
//
// The package is pure. It does no I/O, starts no goroutine and knows no time. What it
// returns are slices of the caller's buffer, valid for as long as the bytes there are,
// and a Request or Response that is used again reuses its memory: in steady state
// nothing is allocated. An [Error] is one of a fixed set of values, which are compared
// by address and never made. No type here may be used by two goroutines at once.
package h1
