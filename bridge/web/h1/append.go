package h1

import "strconv"

// What the Append functions are given must be valid: from a message that was parsed, or
// made by the caller from such parts. They check nothing.

// CRLF ends a head, and the data of a chunk.
const CRLF = "\r\n"

// AppendRequestLine appends the first line of a request in HTTP/1.1.
func AppendRequestLine(dst, method, path []byte) []byte {
	dst = append(append(dst, method...), ' ')
	return append(append(dst, path...), " HTTP/1.1\r\n"...)
}

// AppendStatusLine appends the first line of a response in HTTP/1.1. The status has
// three digits.
func AppendStatusLine(dst []byte, status int, reason []byte) []byte {
	dst = strconv.AppendInt(append(dst, "HTTP/1.1 "...), int64(status), 10)
	return append(append(append(dst, ' '), reason...), CRLF...)
}

// AppendField appends a field line.
func AppendField(dst, name, value []byte) []byte {
	dst = append(append(dst, name...), ": "...)
	return append(append(dst, value...), CRLF...)
}

// AppendLength appends the field line of a body with that many bytes.
func AppendLength(dst []byte, n int64) []byte {
	dst = strconv.AppendInt(append(dst, "Content-Length: "...), n, 10)
	return append(dst, CRLF...)
}

// AppendChunked appends the field line of a chunked body.
func AppendChunked(dst []byte) []byte {
	return append(dst, "Transfer-Encoding: chunked\r\n"...)
}

// AppendChunk appends the first line of a chunk with n bytes of data, n > 0. The data
// and [CRLF] follow.
func AppendChunk(dst []byte, n int) []byte {
	return append(strconv.AppendInt(dst, int64(n), 16), CRLF...)
}

// AppendLastChunk appends the end of a chunked body, with trailers if there are any.
func AppendLastChunk(dst []byte, trailers []Field) []byte {
	dst = append(dst, "0\r\n"...)
	for i := range trailers {
		dst = AppendField(dst, trailers[i].Name, trailers[i].Value)
	}
	return append(dst, CRLF...)
}
