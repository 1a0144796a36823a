package h1_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"

	"switchboard/bridge/web/h1"
)

// wide is for what is written anew: it may be longer than what was read.
var wide = h1.Limits{Head: 1 << 20, Target: 1 << 20, Fields: 1000}

var requestSeeds = []string{
	get(), get("Content-Length: 4") + "bodyGET", get("Transfer-Encoding: chunked") + "4;a=\"b\"\r\nbody\r\n0\r\nA: b\r\nHost: c\r\n\r\nGET",
	"\r\nPOST /a?b=%zz HTTP/1.0\r\nHost: [::1]:80\r\nConnection: keep-alive, x\r\nX: y\r\nContent-Length: 0\r\n\r\n",
	"GET http://A.b?c HTTP/1.1\r\nHost: a.b.:80\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS https://a HTTP/1.1\r\nHost: a:443\r\n\r\n",
	get("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="), get("Connection: upgrade, http2-settings", "Upgrade: h2c", "HTTP2-Settings: AA"),
	get("Expect: 100-continue", "Content-Length: 1") + "a", get("Connection: host, expect, content-length", "Expect: 100-continue", "Content-Length: 1") + "a",
	get("Transfer-Encoding: chunked", "Content-Length: 1"), get("Transfer-Encoding: x"), get("Transfer_Encoding: chunked"), get("Content-Length: 010"), get("Content-Length: 1, 1"),
	get("Pragma: no-cache"), get("Trailer: A, B", "Transfer-Encoding: chunked") + "0\r\nA: 1\r\nB: 2\r\n\r\n", get("A: b\r\n c"), get("A : b"), get("A: b\nC: d"), get("Host: b"),
	"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", "GET //a/b HTTP/1.1\r\nHost: a\r\n\r\n", "GET http://[::1%25a]/ HTTP/1.1\r\nHost: [::1%25a]\r\n\r\n",
	"GET /\\..%2f%00 HTTP/1.1\r\nhost:\ta \r\nA:\x80\r\nX_Real_IP: 1\r\nX-Forwarded-Foo: 2\r\n\r\n",
}

var responseSeeds = []string{
	ok("Content-Length: 2") + "ab", ok("Transfer-Encoding: chunked") + "2\r\nab\r\n0\r\n\r\n", ok() + "ab", "HTTP/1.0 200\r\n\r\n", "HTTP/1.1 204 x\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 099 x\r\n\r\n", "HTTP/1.1 1000 x\r\n\r\n", "HTTP/1.1 -1 x\r\n\r\n",
	"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n", ok("Connection: close, a", "A: b", "Content-Length: 1") + "a",
	"HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n", "HTTP/1.1 200  a \t\r\n\r\n", ok("Content-Length: 1", "Content-Length: 1"),
}

var chunkSeeds = []string{
	"0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\nGET", "00A;a;b=c;d=\"e\\\"\"\r\n0123456789\r\n0;a\r\nA: b\r\nContent-Length: 1\r\n\r\n", "7fffffffffffffff\r\na", "8000000000000000\r\na",
	"1 \r\na\r\n0\r\n\r\n", "1;a=\r\n", "1;\r\n", "1\na\n0\n\n", "1\r\nab", "0x1\r\na", "0\r\nA: b\n\r\n", "0\r\n a\r\n\r\n", "1;a\rb\r\n",
}

// body reads the body that follows a head by its framing. ok: it is whole.
func body(framing h1.Framing, length int64, text []byte) (data string, trailers string, ok bool) {
	switch framing {
	case h1.Length:
		return string(text[:min(length, int64(len(text)))]), "", int64(len(text)) >= length
	case h1.Chunked:
		got := decode(text, nil)
		return got.Data, got.Trailers, got.Done
	case h1.UntilClose:
		return string(text), "", true
	}
	return "", "", true
}

// header is the fields as net/http holds them: names are canonical, and what it keeps
// elsewhere is not there.
func header(fields []h1.Field) http.Header {
	header := make(http.Header)
	for _, f := range fields {
		switch f.ID {
		case h1.Host, h1.TransferEncoding, h1.Trailer:
		default:
			header.Add(string(f.Name), string(f.Value))
		}
	}
	return header
}

// sameHeader compares with what net/http read. It makes a Cache-Control of a
// Pragma.
func sameHeader(t *testing.T, fields []h1.Field, got http.Header) {
	t.Helper()
	got = got.Clone()
	got.Del("Trailer")
	got.Del("Host")
	want := header(fields)
	if want.Get("Cache-Control") == "" && slices.Equal(want["Pragma"], []string{"no-cache"}) {
		got.Del("Cache-Control")
	}
	for name, values := range want {
		if !slices.Equal(got[name], values) {
			t.Fatalf("field %s is %q to us and %q to net/http", name, values, got[name])
		}
	}
	if len(got) != len(want) {
		t.Fatalf("fields are %q to us and %q to net/http", want, got)
	}
}

// FuzzRequest: what is accepted, net/http reads in the same way.
func FuzzRequest(f *testing.F) {
	for _, seed := range requestSeeds {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		n, err := new(h1.Scanner).Scan(text, h1.Limits{})
		if n == 0 || err != nil {
			return
		}
		var r h1.Request
		if err := r.Parse(text[:n], h1.Limits{}); err != nil {
			return
		}
		// ReadRequest does not skip an empty line; the server around it does.
		input := bufio.NewReaderSize(bytes.NewReader(bytes.TrimPrefix(text, []byte(h1.CRLF))), 1<<20)
		theirs, other := http.ReadRequest(input)
		if other != nil {
			if tolerated(other, r.Fields) {
				return
			}
			t.Fatalf("net/http refuses %q: %v", text[:n], other)
		}
		if theirs.Method != string(r.Method) || theirs.RequestURI != string(r.Target) || theirs.Host != string(r.Authority) || theirs.ProtoMinor != r.Minor || theirs.Close == r.KeepAlive {
			t.Fatalf("%q is %q %q %q %d %v to us and %+v to net/http", text[:n], r.Method, r.Target, r.Authority, r.Minor, r.KeepAlive, theirs)
		}
		if path := string(r.Path); path != "*" && path != theirs.URL.RequestURI() && !strings.ContainsAny(path, "%\"<>\\^`{|}[]") {
			// URL escapes some bytes that the wire may have, and forgets escapes that need
			// not be.
			if again, err := url.ParseRequestURI(path); err != nil || again.RequestURI() != theirs.URL.RequestURI() {
				t.Fatalf("%q has path %q to us and %q to net/http", text[:n], path, theirs.URL.RequestURI())
			}
		}
		sameHeader(t, r.Fields, theirs.Header)
		if (r.Framing == h1.Chunked) != (len(theirs.TransferEncoding) == 1) || r.Framing == h1.Length && theirs.ContentLength != r.Length || r.Framing == h1.None && theirs.ContentLength != 0 {
			t.Fatalf("%q is framed %d %d to us and %q %d to net/http", text[:n], r.Framing, r.Length, theirs.TransferEncoding, theirs.ContentLength)
		}
		sameBody(t, r.Framing, r.Length, text[n:], theirs.Body, func() http.Header { return theirs.Trailer })
	})
}

// FuzzResponse: what is accepted, net/http reads in the same way.
func FuzzResponse(f *testing.F) {
	for _, seed := range responseSeeds {
		f.Add([]byte(seed), false)
		f.Add([]byte(seed), true)
	}
	f.Fuzz(func(t *testing.T, text []byte, toHEAD bool) {
		n, err := (&h1.Scanner{Response: true}).Scan(text, h1.Limits{})
		if err != nil && err.Status != 502 {
			t.Fatalf("%q is refused with %d", text, err.Status)
		}
		if n == 0 || err != nil {
			return
		}
		var r h1.Response
		if err := r.Parse(text[:n], h1.Limits{}, toHEAD); err != nil {
			if err.Status != 502 {
				t.Fatalf("%q is refused with %d", text, err.Status)
			}
			return
		}
		method := "GET"
		if toHEAD {
			method = "HEAD"
		}
		theirs, other := http.ReadResponse(bufio.NewReaderSize(bytes.NewReader(text), 1<<20), &http.Request{Method: method})
		if other != nil {
			if tolerated(other, r.Fields) {
				return
			}
			t.Fatalf("net/http refuses %q: %v", text[:n], other)
		}
		if theirs.StatusCode != r.Status || theirs.ProtoMinor != r.Minor ||
			strings.TrimSpace(theirs.Status) != strings.TrimSpace(strconv.Itoa(r.Status)+" "+string(r.Reason)) {
			t.Fatalf("%q is %d %q to us and %q to net/http", text[:n], r.Status, r.Reason, theirs.Status)
		}
		if r.KeepAlive && theirs.Close {
			t.Fatalf("%q persists to us only", text[:n])
		}
		if connection := header(r.Fields)["Connection"]; theirs.Close && connection != nil {
			// net/http takes it out of a response after which it closes.
			theirs.Header["Connection"] = connection
		}
		sameHeader(t, r.Fields, theirs.Header)
		// net/http does not keep the length that 304 tells.
		if r.HasLength && r.Status != 304 && theirs.ContentLength != r.Length {
			t.Fatalf("%q has length %d to us and %d to net/http", text[:n], r.Length, theirs.ContentLength)
		}
		sameBody(t, r.Framing, r.Length, text[n:], theirs.Body, func() http.Header { return theirs.Trailer })
	})
}

// tolerated: net/http refuses targets with bad escapes, since it decodes them, and a
// Trailer that names what no trailer may be; both say nothing about framing.
func tolerated(err error, fields []h1.Field) bool {
	var bad *url.Error
	return errors.As(err, &bad) || strings.Contains(err.Error(), "bad trailer key") &&
		slices.ContainsFunc(fields, func(f h1.Field) bool { return f.ID == h1.Trailer })
}

func sameBody(t *testing.T, framing h1.Framing, length int64, text []byte, theirs io.Reader, trailer func() http.Header) {
	t.Helper()
	data, trailers, whole := body(framing, length, text)
	if !whole {
		return
	}
	got, err := io.ReadAll(theirs)
	if err != nil || string(got) != data {
		t.Fatalf("%q has body %q to us and %q, %v, to net/http", text, data, got, err)
	}
	for line := range strings.Lines(trailers) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		if !slices.Contains(trailer()[http.CanonicalHeaderKey(name)], value) {
			t.Fatalf("trailer %q is %q to net/http", line, trailer())
		}
	}
}

// FuzzForward: what is written from a request that was accepted is read as that
// request.
func FuzzForward(f *testing.F) {
	for _, seed := range requestSeeds {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var r h1.Request
		n, err := new(h1.Scanner).Scan(text, h1.Limits{})
		if n == 0 || err != nil || r.Parse(text[:n], h1.Limits{}) != nil {
			return
		}
		data, trailers, whole := body(r.Framing, r.Length, text[n:])
		if !whole {
			return
		}
		out := h1.AppendField(h1.AppendRequestLine(nil, r.Method, r.Path), []byte("Host"), r.Authority)
		for _, f := range r.Fields {
			if !f.Hop && f.ID != h1.Host {
				out = h1.AppendField(out, f.Name, f.Value)
			}
		}
		switch r.Framing {
		case h1.Length:
			out = append(append(h1.AppendLength(out, r.Length), h1.CRLF...), data...)
		case h1.Chunked:
			out = append(h1.AppendChunked(out), h1.CRLF...)
			if len(data) > 0 {
				out = append(append(h1.AppendChunk(out, len(data)), data...), h1.CRLF...)
			}
			var c h1.Chunks
			for rest := text[n:]; ; {
				_, n, done, _ := c.Next(rest)
				if rest = rest[n:]; done {
					break
				}
			}
			out = h1.AppendLastChunk(out, c.Trailers())
		default:
			out = append(out, h1.CRLF...)
		}
		head := len(out)
		out = append(out, "GET / HTTP/1.1\r\n"...)
		var again h1.Request
		n, err = new(h1.Scanner).Scan(out, wide)
		if err != nil || n == 0 {
			t.Fatalf("%q was written, which is refused: %v", out, err)
		}
		if err := again.Parse(out[:n], wide); err != nil {
			t.Fatalf("%q was written, which is refused: %v", out, err)
		}
		if string(again.Method) != string(r.Method) || string(again.Target) != string(r.Path) || string(again.Path) != string(r.Path) || string(again.Authority) != string(r.Authority) ||
			again.Framing != r.Framing || again.Length != r.Length || again.WebSocket || !again.KeepAlive || again.Continue && !r.Continue {
			t.Fatalf("%q was written for %q", out, text)
		}
		if want, got := forwarded(r.Fields), forwarded(again.Fields); !slices.Equal(want, got) {
			t.Fatalf("fields %q were written as %q", want, got)
		}
		gotData, gotTrailers, whole := body(again.Framing, again.Length, out[n:])
		if !whole || gotData != data || gotTrailers != trailers {
			t.Fatalf("body %q %q was written as %q %q", data, trailers, gotData, gotTrailers)
		}
		if again.Framing == h1.Chunked && decode(out[n:], nil).Rest != string(out[head:]) {
			t.Fatalf("%q does not end where its last chunk does", out)
		}
	})
}

// FuzzForwardResponse: what is written from a response that was accepted is read as that
// response.
func FuzzForwardResponse(f *testing.F) {
	for _, seed := range responseSeeds {
		f.Add([]byte(seed), false)
		f.Add([]byte(seed), true)
	}
	f.Fuzz(func(t *testing.T, text []byte, toHEAD bool) {
		var r h1.Response
		n, err := (&h1.Scanner{Response: true}).Scan(text, h1.Limits{})
		if n == 0 || err != nil || r.Parse(text[:n], h1.Limits{}, toHEAD) != nil {
			return
		}
		out := h1.AppendStatusLine(nil, r.Status, r.Reason)
		for _, f := range r.Fields {
			if !f.Hop {
				out = h1.AppendField(out, f.Name, f.Value)
			}
		}
		switch {
		case r.HasLength:
			out = h1.AppendLength(out, r.Length)
		case r.Framing == h1.Chunked:
			out = h1.AppendChunked(out)
		}
		out = append(out, h1.CRLF...)
		head := len(out)
		var again h1.Response
		n, err = (&h1.Scanner{Response: true}).Scan(append(out, "HTTP/1.1 200 OK\r\n\r\n"...), wide)
		if err != nil || n != head {
			t.Fatalf("%q was written, of which %d bytes are a head: %v", out, n, err)
		}
		if err := again.Parse(out, wide, toHEAD); err != nil {
			t.Fatalf("%q was written, which is refused: %v", out, err)
		}
		if again.Status != r.Status || string(again.Reason) != string(r.Reason) || again.Framing != r.Framing || again.Length != r.Length || again.HasLength != r.HasLength ||
			again.KeepAlive != (r.Framing != h1.UntilClose) || again.WebSocket {
			t.Fatalf("%q was written for %q", out, text)
		}
		want, got := r.Fields, again.Fields
		for _, f := range want {
			if f.Hop {
				continue
			}
			if len(got) == 0 || string(got[0].Name) != string(f.Name) || string(got[0].Value) != string(f.Value) {
				t.Fatalf("%q was written for %q", out, text)
			}
			got = got[1:]
		}
	})
}

// FuzzScanner: however a head comes in pieces, it ends in the same place or is refused for
// the same reason.
func FuzzScanner(f *testing.F) {
	for _, seed := range slices.Concat(requestSeeds, responseSeeds) {
		f.Add([]byte(seed), []byte{1, 2, 3, 0, 250}, uint16(0), uint16(0), false)
		f.Add([]byte(seed), []byte{13, 1, 1, 1, 1}, uint16(64), uint16(8), strings.HasPrefix(seed, "HTTP"))
		f.Add([]byte(seed), []byte{2}, uint16(20), uint16(100), false)
	}
	f.Fuzz(func(t *testing.T, text, sizes []byte, head, target uint16, response bool) {
		l := h1.Limits{Head: int(head), Target: int(target)}
		whole := h1.Scanner{Response: response}
		n, err := whole.Scan(text, l)
		pieces := h1.Scanner{Response: response}
		if m, other := scan(&pieces, text, l, sizes); m != n || other != err {
			t.Fatalf("%q is %d, %v, and in pieces %d, %v", text, n, err, m, other)
		}
		if n == 0 {
			return
		}
		// A head is lines that end with CRLF, of which only the last is empty, but for one
		// before a request.
		found, ok := bytes.CutSuffix(text[:n], []byte("\r\n\r\n"))
		if !response {
			found = bytes.TrimPrefix(found, []byte(h1.CRLF))
		}
		if !ok || len(found) == 0 || bytes.Contains(found, []byte("\r\n\r\n")) || bytes.HasPrefix(found, []byte(h1.CRLF)) {
			t.Fatalf("%q has head %q", text, text[:n])
		}
		for _, c := range bytes.ReplaceAll(found, []byte(h1.CRLF), nil) {
			if c < ' ' && c != '\t' || c == 0x7f {
				t.Fatalf("%q has head %q with byte %#x", text, text[:n], c)
			}
		}
		if pieces != (h1.Scanner{Response: response}) {
			t.Fatal("the scanner is not ready for another")
		}
	})
}

// FuzzChunks: however a body comes in pieces, it is the same; and net/http reads in the same
// way what is accepted.
func FuzzChunks(f *testing.F) {
	for _, seed := range chunkSeeds {
		f.Add([]byte(seed), []byte{})
		f.Add([]byte(seed), []byte{1, 1, 1, 1, 1, 1, 0, 2})
	}
	f.Fuzz(func(t *testing.T, text, sizes []byte) {
		whole := decode(text, nil)
		if pieces := decode(text, sizes); pieces != whole {
			t.Fatalf("%q is %+v, and in pieces %+v", text, whole, pieces)
		}
		if !whole.Done {
			return
		}
		input := bufio.NewReaderSize(bytes.NewReader(text), 1<<20)
		data, err := io.ReadAll(httputil.NewChunkedReader(input))
		if err != nil || string(data) != whole.Data {
			t.Fatalf("%q is %q to us and %q, %v, to net/http", text, whole.Data, data, err)
		}
		// net/http leaves the trailer section to others.
		rest, _ := io.ReadAll(input)
		if section, ok := strings.CutSuffix(string(rest), whole.Rest); !ok || section != h1.CRLF && !strings.HasSuffix(section, "\r\n\r\n") {
			t.Fatalf("%q leaves %q to us and %q to net/http", text, whole.Rest, rest)
		}
	})
}
