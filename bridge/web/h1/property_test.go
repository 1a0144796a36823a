package h1_test

import (
	"math/rand/v2"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"switchboard/bridge/web/h1"
)

// Every byte, wherever it stands among others, is accepted exactly where its grammar has
// it (RFC 9110, sections 5.1, 5.5 and 5.6.2; RFC 9112, section 3.2).
func TestEveryByte(t *testing.T) {
	const tokens = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	for c := range 256 {
		control := c < ' ' || c == 0x7f
		token := c < 0x80 && strings.IndexByte(tokens, byte(c)) >= 0
		for at := range 20 {
			text := strings.Repeat("b", at) + string([]byte{byte(c)}) + strings.Repeat("b", 19-at)
			for form, want := range map[string]bool{
				"GET / HTTP/1.1\r\nHost: a\r\nA: x%sx\r\n\r\n": !control || c == '\t',
				"GET / HTTP/1.1\r\nHost: a\r\nx%sx: b\r\n\r\n": token || c == ':',
				"GET /%s HTTP/1.1\r\nHost: a\r\n\r\n":          !control && c < 0x80 && c != ' ' && c != '#',
				"x%sx / HTTP/1.1\r\nHost: a\r\n\r\n":           token,
			} {
				text := strings.Replace(form, "%s", text, 1)
				_, err := read(text)
				if alone := new(h1.Request).Parse([]byte(text), h1.Limits{}); (alone == nil) != (err == nil) {
					t.Fatalf("%q: %v with a scan, %v without", text, err, alone)
				}
				if (err == nil) != want {
					t.Fatalf("%q: %v", text, err)
				}
			}
		}
	}
}

// A host in brackets is accepted exactly if netip takes it for an IPv6 address without a
// zone.
func TestAddresses(t *testing.T) {
	text := rapid.OneOf(
		rapid.StringMatching(`[0-9a-fA-F:]{0,20}`),
		rapid.StringMatching(`([0-9a-f]{0,5}:){0,8}[0-9a-f]{0,4}`),
		rapid.StringMatching(`([0-9a-f]{1,4}:){0,4}:([0-9a-f]{1,4}:){0,4}[0-9a-f.%]{0,4}`),
		rapid.StringMatching(`(::|([0-9a-f]{1,4}:){5,7})([0-9a-f]{1,4}:){0,2}[0-9]{1,3}(\.[0-9]{1,3}){2,4}`),
		rapid.Custom(func(t *rapid.T) string {
			return netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.OneOf(rapid.Just[byte](0), rapid.Byte()), 16, 16).Draw(t, "bytes"))).String()
		}),
	)
	rapid.Check(t, func(t *rapid.T) {
		address := text.Draw(t, "address")
		ip, wrong := netip.ParseAddr(address)
		want := wrong == nil && ip.Is6() && ip.Zone() == ""
		r, err := read("GET / HTTP/1.1\r\nHost: [" + address + "]:8080\r\n\r\n")
		if (err == nil) != want {
			t.Fatalf("[%s]: %v, and %v to netip", address, err, wrong)
		}
		if host, port := h1.SplitAuthority(r.Authority); err == nil && (string(host) != address || string(port) != "8080") {
			t.Fatalf("[%s]:8080 is %q and %q", address, host, port)
		}
	})
}

// A length is accepted exactly if it is how strconv would write it.
func TestLengths(t *testing.T) {
	text := rapid.OneOf(
		rapid.StringMatching(`[0-9]{0,21}`),
		rapid.StringMatching(`[-+0]?(922337203685477[0-9]{4}|[0-9]{1,3})`),
		rapid.StringMatching(`0?x?[0-9a-f_, ]{1,5}`),
		rapid.Map(rapid.Int64(), func(n int64) string { return strconv.FormatInt(n, 10) }),
	)
	rapid.Check(t, func(t *rapid.T) {
		value := strings.Trim(text.Draw(t, "length"), " ")
		n, wrong := strconv.ParseInt(value, 10, 64)
		want := wrong == nil && n >= 0 && strconv.FormatInt(n, 10) == value
		r, err := read(get("Content-Length: " + value))
		if (err == nil) != want || err == nil && r.Length != n {
			t.Fatalf("%q is %d, %v", value, r.Length, err)
		}
	})
}

// A body that was cut into any chunks is put together again.
func TestChunksSurvive(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		parts := rapid.SliceOf(rapid.StringN(1, 40, -1)).Draw(t, "parts")
		var written []byte
		for _, part := range parts {
			written = append(append(h1.AppendChunk(written, len(part)), part...), h1.CRLF...)
		}
		written = h1.AppendLastChunk(written, []h1.Field{{Name: []byte("X-Sum"), Value: []byte("1")}})
		sizes := rapid.SliceOf(rapid.Byte()).Draw(t, "sizes")
		want := chunked{Data: strings.Join(parts, ""), Done: true, Trailers: "X-Sum: 1"}
		if got := decode(written, sizes); got != want {
			t.Fatalf("%q is %+v", written, got)
		}
	})
}

// A status line survives, and each name is known in whatever case it comes.
func TestStatusesAndNames(t *testing.T) {
	for status := range 1000 {
		line := h1.AppendStatusLine(nil, status, []byte("a b"))
		r, err := readResponse(string(line)+h1.CRLF, false)
		if want := status >= 100 && status <= 599; (err == nil) != want || err == nil && r.Status != status {
			t.Fatalf("%q is %d, %v", line, r.Status, err)
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	for _, name := range []string{"host", "content-length", "transfer-encoding", "connection", "te", "x-forwarded-for", "sec-websocket-extensions", "traceparent"} {
		id := h1.Lookup([]byte(name))
		for range 50 {
			mixed := []byte(name)
			for i := range mixed {
				if random.IntN(2) == 0 {
					mixed[i] = strings.ToUpper(name)[i]
				}
			}
			if got := h1.Lookup(mixed); got != id || id == h1.Other {
				t.Fatalf("%s is %d, and %s is %d", name, id, mixed, got)
			}
		}
	}
}
