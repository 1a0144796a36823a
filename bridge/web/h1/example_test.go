package h1_test

import (
	"fmt"

	"switchboard/bridge/web/h1"
)

// A request is read, and written as it is forwarded: framing and fields for one hop
// are left behind.
func Example() {
	read := []byte("GET http://Example.com:80 HTTP/1.1\r\nHost: example.com\r\nAccept: */*\r\nConnection: close\r\n\r\n")
	var scanner h1.Scanner
	n, err := scanner.Scan(read, h1.Limits{})
	if err != nil {
		fmt.Println(err.Status, err)
		return
	}
	var request h1.Request
	if err := request.Parse(read[:n], h1.Limits{}); err != nil {
		fmt.Println(err.Status, err)
		return
	}
	written := h1.AppendRequestLine(nil, request.Method, request.Path)
	written = h1.AppendField(written, []byte("Host"), request.Authority)
	for _, f := range request.Fields {
		if !f.Hop && f.ID != h1.Host {
			written = h1.AppendField(written, f.Name, f.Value)
		}
	}
	fmt.Printf("%q", append(written, h1.CRLF...))
	// Output: "GET / HTTP/1.1\r\nHost: Example.com:80\r\nAccept: */*\r\n\r\n"
}
