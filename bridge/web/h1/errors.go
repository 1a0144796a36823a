package h1

// Error says why a message is refused. There is a fixed set of them, none is ever
// made while parsing. Use no nil *Error as an error.
type Error struct {
	// Status is what to answer: 4xx or 5xx for a request. For a response it is always
	// 502, since it is the backend that failed (RFC 9110, section 15.6.3).
	Status int
	// Reason is one word in snake_case, fit for the label of a counter.
	Reason string

	text    string
	gateway *Error // the same for a response
}

// Error is a sentence for people. It has no byte of the message in it.
func (e *Error) Error() string { return e.text }

// ErrPreface is what [Scanner.Scan] and [Request.Parse] return for a message that
// begins as every HTTP/2 connection does, with "PRI " (RFC 9113, section 3.4). Scan
// has consumed nothing, so the connection can be handed to an HTTP/2 server as it is.
var ErrPreface = refusal(505, "preface", "the client speaks HTTP/2")

// ErrBodyLong is for whoever bounds bodies; nothing here does.
var ErrBodyLong = refusal(413, "body_too_long", "the body is longer than the limit")

var (
	errTLS          = refusal(400, "tls", "the peer speaks TLS")
	errFirstByte    = refusal(400, "first_byte", "the first byte is none that a message begins with")
	errBlankLines   = refusal(400, "blank_lines", "more than one empty line before the message")
	errBareLF       = refusal(400, "bare_lf", "a line ends with LF alone")
	errBareCR       = refusal(400, "bare_cr", "a CR is not followed by LF")
	errControl      = refusal(400, "control_byte", "a control byte in the head")
	errHeadLong     = refusal(431, "head_too_long", "the head is longer than the limit")
	errHeadCut      = refusal(400, "head_cut", "the head does not end where its last line does")
	errManyFields   = refusal(431, "too_many_fields", "more field lines than the limit")
	errTargetLong   = refusal(414, "target_too_long", "the request target is longer than the limit")
	errRequestLine  = refusal(400, "request_line", "the request line is not METHOD TARGET VERSION")
	errMethod       = refusal(400, "method", "the method is not a token of at most 32 bytes")
	errMethodBarred = refusal(405, "method_barred", "this router answers neither CONNECT nor TRACE")
	errVersion      = refusal(400, "version", "the HTTP version is malformed")
	errVersionOther = refusal(505, "version_unsupported", "the HTTP version is neither 1.0 nor 1.1")
	errTarget       = refusal(400, "target", "the request target has none of the forms that it may have")
	errTargetByte   = refusal(400, "target_byte", "a space, a control byte or a byte outside ASCII in the request target")
	errFragment     = refusal(400, "target_fragment", "the request target has a fragment")
	errAsterisk     = refusal(400, "target_asterisk", "the target * belongs to OPTIONS")

	errFold           = refusal(400, "obs_fold", "a field value is folded over two lines")
	errLeadingSpace   = refusal(400, "leading_space", "white space before the first field")
	errNameEmpty      = refusal(400, "name_empty", "a field has no name")
	errNameByte       = refusal(400, "name_byte", "a field name is not a token followed by a colon")
	errSpaceColon     = refusal(400, "space_before_colon", "white space between a field name and its colon")
	errUnderscore     = refusal(400, "underscore", "a field is named like one that frames, with _ for -")
	errConnection     = refusal(400, "connection", "Connection is not a list of tokens")
	errManyOptions    = refusal(400, "too_many_options", "Connection names more than 32 fields")
	errHostMissing    = refusal(400, "host_missing", "there is no Host")
	errHostRepeated   = refusal(400, "host_repeated", "there is more than one Host")
	errHost           = refusal(400, "host", "Host is not a name or an address")
	errPort           = refusal(400, "port", "the port is not a number from 1 to 65535")
	errUserinfo       = refusal(400, "userinfo", "a user name where only a host may be")
	errHostDiffers    = refusal(400, "host_differs", "Host is not that of the request target")
	errBothFramings   = refusal(400, "length_and_chunked", "both Content-Length and Transfer-Encoding")
	errLength         = refusal(400, "length", "Content-Length is not a plain decimal number")
	errLengthRepeated = refusal(400, "length_repeated", "there is more than one Content-Length")
	errCoding         = refusal(400, "coding", "Transfer-Encoding is not chunked and nothing else")
	errCodingRepeated = refusal(400, "coding_repeated", "there is more than one Transfer-Encoding")
	errCodingUnknown  = refusal(501, "coding_unknown", "Transfer-Encoding names a coding other than chunked")
	errCodingOld      = refusal(400, "coding_in_1_0", "Transfer-Encoding in HTTP/1.0")
	errExpectation    = refusal(417, "expectation", "Expect is not 100-continue")
	errWebSocket      = refusal(400, "websocket", "the upgrade to websocket is not a plain GET of HTTP/1.1 with one valid key")
	errStatusLine     = refusal(400, "status_line", "the status line is not VERSION STATUS REASON")
	errStatus         = refusal(400, "status", "the status is not a number from 100 to 599")

	errChunkSize    = refusal(400, "chunk_size", "a chunk's size is not 1 to 16 hexadecimal digits of at most 63 bits")
	errChunkExt     = refusal(400, "chunk_extension", "a chunk's extension is malformed")
	errChunkLong    = refusal(400, "chunk_line_too_long", "a chunk's first line is longer than 1024 bytes")
	errChunkExcess  = refusal(400, "chunk_excess", "chunks have too little data for their framing")
	errChunkEnd     = refusal(400, "chunk_end", "a chunk's data does not end with CRLF")
	errTrailersLong = refusal(431, "trailers_too_long", "trailers are longer than 8 KiB")
)

func refusal(status int, reason, text string) *Error {
	bad := &Error{Status: 502, Reason: reason, text: text}
	bad.gateway = bad
	return &Error{Status: status, Reason: reason, text: text, gateway: bad}
}
