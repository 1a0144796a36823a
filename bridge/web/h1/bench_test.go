package h1_test

import (
	"bytes"
	"testing"

	"switchboard/bridge/web/h1"
)

// heads are those that curl, a browser and a backend send.
var heads = map[string]string{
	"curl": "GET /api/v1/items?page=2 HTTP/1.1\r\nHost: shop.example.com\r\nUser-Agent: curl/8.14.1\r\nAccept: */*\r\n\r\n",
	"browser": "GET /products/1234/reviews?sort=newest&page=3 HTTP/1.1\r\nHost: shop.example.com\r\nConnection: keep-alive\r\nCache-Control: max-age=0\r\n" +
		"Upgrade-Insecure-Requests: 1\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/138.0.0.0 Safari/537.36\r\n" +
		"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8\r\nSec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: navigate\r\n" +
		"Referer: https://shop.example.com/products/1234\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-GB,en;q=0.9,de;q=0.8\r\n" +
		"Cookie: session=0f3ba1a85b1f4c0a9d3e0d7c2f5c1c11; theme=dark; cart=eyJpdGVtcyI6W3siaWQiOjEyMzQsIm4iOjF9XX0; _ga=GA1.1.1234567890.1700000000\r\n\r\n",
}

const answer = "HTTP/1.1 200 OK\r\nServer: nginx/1.26.3\r\nDate: Tue, 24 Nov 2026 10:00:00 GMT\r\nContent-Type: application/json\r\nContent-Length: 612\r\n" +
	"Connection: keep-alive\r\nCache-Control: no-store\r\nVary: Accept-Encoding\r\n\r\n"

var chunkedBody = []byte("1000\r\n" + string(bytes.Repeat([]byte("x"), 4096)) + "\r\n400\r\n" + string(bytes.Repeat([]byte("y"), 1024)) + "\r\n0\r\n\r\n")

// requestCycle scans, parses and writes a request.
func requestCycle(s *h1.Scanner, r *h1.Request, head, dst []byte) []byte {
	n, err := s.Scan(head, h1.Limits{})
	if err == nil {
		err = r.Parse(head[:n], h1.Limits{})
	}
	if err != nil {
		panic(err.Reason)
	}
	dst = h1.AppendRequestLine(dst[:0], r.Method, r.Path)
	for i := range r.Fields {
		if f := &r.Fields[i]; !f.Hop {
			dst = h1.AppendField(dst, f.Name, f.Value)
		}
	}
	return append(dst, h1.CRLF...)
}

func dechunk(body []byte) (n int) {
	var c h1.Chunks
	for {
		data, used, done, err := c.Next(body)
		if err != nil || done {
			return n
		}
		n += len(data)
		body = body[used:]
	}
}

func BenchmarkScan(b *testing.B) {
	for name, text := range heads {
		b.Run(name, func(b *testing.B) {
			head := []byte(text)
			b.SetBytes(int64(len(head)))
			var s h1.Scanner
			for b.Loop() {
				_, _ = s.Scan(head, h1.Limits{})
			}
		})
	}
}

func BenchmarkRequestParse(b *testing.B) {
	for name, text := range heads {
		b.Run(name, func(b *testing.B) {
			head := []byte(text)
			b.SetBytes(int64(len(head)))
			var r h1.Request
			for b.Loop() {
				_ = r.Parse(head, h1.Limits{})
			}
		})
	}
}

func BenchmarkRequestCycle(b *testing.B) {
	for name, text := range heads {
		b.Run(name, func(b *testing.B) {
			head, dst := []byte(text), make([]byte, 0, 4096)
			b.SetBytes(int64(len(head)))
			var s h1.Scanner
			var r h1.Request
			for b.Loop() {
				dst = requestCycle(&s, &r, head, dst)
			}
		})
	}
}

func BenchmarkResponseParse(b *testing.B) {
	head := []byte(answer)
	b.SetBytes(int64(len(head)))
	var r h1.Response
	for b.Loop() {
		_ = r.Parse(head, h1.Limits{}, false)
	}
}

func BenchmarkChunks(b *testing.B) {
	b.SetBytes(int64(len(chunkedBody)))
	for b.Loop() {
		dechunk(chunkedBody)
	}
}

func TestNothingIsAllocated(t *testing.T) {
	dst := make([]byte, 0, 4096)
	var s h1.Scanner
	var r h1.Request
	var p h1.Response
	browser := []byte(heads["browser"])
	refused := []byte(get("Transfer-Encoding: gzip"))
	socket := []byte(get("Connection: upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="))
	absolute := []byte("GET http://[2001:db8::1]?q HTTP/1.1\r\nHost: [2001:DB8::1]:80\r\nConnection: a, b, close\r\nX_Forwarded_For: c\r\n\r\n")
	response, tunnel := []byte(answer), []byte(switching("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="))
	key := []byte("dGhlIHNhbXBsZSBub25jZQ==")
	for name, act := range map[string]func(){
		"browser":  func() { dst = requestCycle(&s, &r, browser, dst) },
		"refused":  func() { _ = r.Parse(refused, h1.Limits{}) },
		"absolute": func() { dst = requestCycle(&s, &r, absolute, dst) },
		"socket":   func() { dst = requestCycle(&s, &r, socket, dst) },
		"response": func() { _ = p.Parse(response, h1.Limits{}, false) },
		"tunnel": func() {
			if p.Parse(tunnel, h1.Limits{}, false) != nil || !p.Answers(key) {
				t.Error("the answer is not taken for one")
			}
		},
		"chunks": func() { dechunk(chunkedBody) },
	} {
		if n := testing.AllocsPerRun(100, act); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
