package config

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Errors is all that is wrong with a configuration, in the order of the file;
// then the environment's, then the flags', by name.
type Errors []*Error

// Error puts one error on a line.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, err := range e {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap lets [errors.Is] look into each.
func (e Errors) Unwrap() []error {
	all := make([]error, len(e))
	for i, err := range e {
		all[i] = err
	}
	return all
}

// Error is one thing that is wrong: where, with which key, and what to do.
type Error struct {
	// Where is file:line:column, the name of an environment variable, or a flag.
	Where string
	// Key is the path of the key, "" if it is not about one.
	Key string
	// Problem says what is wrong and what to do. It never holds a secret.
	Problem string

	at    place
	cause error
}

// Error returns all of it on one line.
func (e *Error) Error() string {
	if e.Key == "" {
		return e.Where + ": " + e.Problem
	}
	return e.Where + ": " + e.Key + ": " + e.Problem
}

// Unwrap returns what the system said, if it was asked: [io/fs.ErrNotExist] and
// so on.
func (e *Error) Unwrap() error { return e.cause }

// place is where a value comes from.
type place struct {
	origin origin
	// source is the file, the variable or the flag.
	source string
	// line and column count from 1; 0 if source has none.
	line, column int
}

type origin int

const (
	fromFile origin = iota
	fromEnv
	fromFlag
)

func (p place) String() string {
	if p.line == 0 {
		return p.source
	}
	return p.source + ":" + strconv.Itoa(p.line) + ":" + strconv.Itoa(p.column)
}

func (p place) compare(q place) int {
	if p.origin == fromFile && q.origin == fromFile {
		return cmp.Or(cmp.Compare(p.line, q.line), cmp.Compare(p.column, q.column))
	}
	return cmp.Or(cmp.Compare(p.origin, q.origin), cmp.Compare(p.source, q.source))
}

// problems collects errors.
type problems struct{ list Errors }

func (p *problems) add(at place, key, format string, args ...any) {
	p.list = append(p.list, &Error{Where: at.String(), Key: key, Problem: fmt.Sprintf(format, args...), at: at})
}

// err returns what was collected, in order, or nil.
func (p *problems) err() error {
	if len(p.list) == 0 {
		return nil
	}
	slices.SortStableFunc(p.list, func(a, b *Error) int { return a.at.compare(b.at) })
	return p.list
}

// quote quotes what somebody wrote for an error: on one line, and not too long.
func quote(s string) string {
	const most = 64
	if runes := []rune(s); len(runes) > most {
		return strconv.Quote(string(runes[:most])) + "…"
	}
	return strconv.Quote(s)
}

// plain returns a name as it is, quoted if it would not print as one word.
func plain(name string) string {
	if strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return quote(name)
	}
	return name
}

// suggest says which of the candidates was probably meant, or else what there
// is to choose from.
func suggest(name string, candidates []string, otherwise string) string {
	if nearest := nearest(name, candidates); nearest != "" {
		return fmt.Sprintf("did you mean %q?", nearest)
	}
	return otherwise
}

// nearest returns the candidate that is the fewest edits away from name, "" if
// all are too many: two, fewer for a short name, a third of a long one.
func nearest(name string, candidates []string) string {
	best, least := "", max(min(2, len(name)/2), len(name)/3)+1
	for _, c := range candidates {
		if len(name)-len(c) >= least || len(c)-len(name) >= least {
			continue
		}
		if d := distance(name, c); d < least {
			best, least = c, d
		}
	}
	return best
}

// distance is Levenshtein's, in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			substitute := diagonal
			if a[i] != b[j] {
				substitute++
			}
			diagonal = row[j+1]
			row[j+1] = min(substitute, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
