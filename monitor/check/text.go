package check

import (
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxDetail is the longest text of a backend's own that goes into a detail, in
// bytes.
const maxDetail = 120

// Line makes what a backend has said fit for a detail: its first line that is
// not blank, without control characters, at most 120 bytes long. Checkers use it
// for every text that they did not write themselves.
func Line(text string) string { return line(text, maxDetail) }

func line(text string, most int) string {
	// A rune beyond most cannot show; cutting first keeps this cheap for
	// long answers of spaces.
	text = strings.TrimLeftFunc(text[:min(len(text), 4*most)], unicode.IsSpace)
	if end := strings.IndexAny(text, "\r\n"); end >= 0 {
		text = text[:end]
	}
	text = strings.TrimSpace(strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case r == utf8.RuneError, !unicode.IsPrint(r):
			return '?'
		default:
			return r
		}
	}, text))
	if len(text) <= most {
		return text
	}
	end := most
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + "…"
}

func need(target Target) error {
	switch {
	case target.Address == "":
		return errors.New("the target has no address")
	case target.Dial == nil:
		return errors.New("the target has no way to dial")
	}
	return nil
}
