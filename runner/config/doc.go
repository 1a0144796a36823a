// Package config reads the configuration of a router: YAML, or JSON, which is a
// subset, with the environment and flags on top.
//
//	file ─▶ tree of values with places ─▶ decode by the schema ─▶ validate ─▶ [File]
//	              ▲           ▲                (tags of File)     (by the runner)
//	         environment    flags
//
// [File] is the schema: its fields and their tags are the only list of keys.
// [Load] walks a tree of values along it, and [Keys] lists it for flags, --help
// and reference. Values from the environment and from flags are put into that
// same tree before it is decoded, so they are checked by the same code, and
// every value knows where it came from.
//
// What a value may be, and what values have to do with each other, is not decided
// here but by the runner, for every program that embeds it: what
// [runner.Config.Validate] finds wrong is given its place. The schema decides what
// the runner cannot see any more: keys, types, what must be set, and what 0 and
// nothing mean in a file. Only here are password files, and keys that do not fit
// the type of a check. Certificates are read here too, so that a bad one is found
// before it is needed.
//
// # Errors
//
// Everything that is wrong is reported at once, in the order of the file:
//
//	router.yaml:7:11: hosts[0].check.timeout: "1" has no unit: write a duration such as 500ms, 10s or 2m
//	SWITCHBOARD_API_BIND: api.bind: "9090" has no port: write host:port
//
// This is why the YAML library does not decode: it stops at the first error. It
// only parses, and only yaml.go knows it. What cannot be parsed at all is one
// error. No error holds a password, nor a piece of the file that might be one.
//
// # What YAML is read
//
// Anchors, aliases, merge keys, tags, complex keys and directives are refused:
// with no alias nothing can expand, and with no tag nothing is something else
// than it looks. One document, UTF-8, at most [MaxSize] bytes, at most 32 levels
// deep. Numbers are plain decimals; text that looks like a number needs quotes;
// an empty value is an error, as it is more often a slip than a wish. A duration
// has a unit, except for 0.
//
// # What it does not do
//
// It opens nothing but the configuration, and the password files and certificates
// named in it, looks up no name, and does not ask whether a bind is free. It keeps no state:
// everything may be called from any goroutine. Which checks a program links, the
// program tells it.
package config
