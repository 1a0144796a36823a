package h1_test

import (
	"strings"

	"switchboard/bridge/web/h1"
)

// get is a request for / of host a, with more field lines.
func get(lines ...string) string {
	return "GET / HTTP/1.1\r\nHost: a\r\n" + strings.Join(append(lines, ""), "\r\n") + "\r\n"
}

// ok is a response with these field lines.
func ok(lines ...string) string {
	return "HTTP/1.1 200 OK\r\n" + strings.Join(append(lines, ""), "\r\n") + "\r\n"
}

// read scans and parses the request at the beginning of text.
func read(text string) (*h1.Request, *h1.Error) {
	r := new(h1.Request)
	n, err := new(h1.Scanner).Scan([]byte(text), h1.Limits{})
	if err == nil {
		err = r.Parse([]byte(text)[:n], h1.Limits{})
	}
	return r, err
}

// readResponse scans and parses the response at the beginning of text.
func readResponse(text string, toHEAD bool) (*h1.Response, *h1.Error) {
	r := new(h1.Response)
	n, err := (&h1.Scanner{Response: true}).Scan([]byte(text), h1.Limits{})
	if err == nil {
		err = r.Parse([]byte(text)[:n], h1.Limits{}, toHEAD)
	}
	return r, err
}

// scan scans text, which comes in pieces of the sizes given and then all at once.
func scan(s *h1.Scanner, text []byte, l h1.Limits, sizes []byte) (int, *h1.Error) {
	for at, i := 0, 0; ; i++ {
		if i < len(sizes) {
			at = min(at+int(sizes[i]), len(text))
		} else {
			at = len(text)
		}
		n, err := s.Scan(text[:at:at], l)
		if n > 0 || err != nil || at == len(text) {
			return n, err
		}
	}
}

// chunked is what became of a chunked body.
type chunked struct {
	Data     string
	Rest     string // what came after it
	Done     bool
	Err      *h1.Error
	Trailers string // a line each
}

// decode decodes text, which comes in pieces of the sizes given and then all at once.
func decode(text []byte, sizes []byte) (got chunked) {
	var c h1.Chunks
	at := 0
	for i := 0; ; i++ {
		end := len(text)
		if i < len(sizes) {
			end = min(at+int(sizes[i]), len(text))
		}
		for piece := text[at:end:end]; ; {
			data, n, done, err := c.Next(piece)
			got.Data += string(data)
			at, piece = at+n, piece[n:]
			if done || err != nil {
				got.Done, got.Err = done, err
				if done {
					got.Rest = string(text[at:])
				}
				got.Trailers = strings.Join(lines(c.Trailers()), "\n")
				return got
			}
			if n == 0 {
				if len(piece) > 0 {
					panic("bytes were left")
				}
				break
			}
		}
		if end == len(text) {
			return got
		}
	}
}

func lines(fields []h1.Field) (lines []string) {
	for _, f := range fields {
		lines = append(lines, string(f.Name)+": "+string(f.Value))
	}
	return lines
}

// forwarded are the field lines that are passed on, without Host.
func forwarded(fields []h1.Field) (lines []string) {
	for _, f := range fields {
		if !f.Hop && f.ID != h1.Host {
			lines = append(lines, string(f.Name)+": "+string(f.Value))
		}
	}
	return lines
}
