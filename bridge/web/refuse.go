package web

import (
	"bytes"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"switchboard/bridge"
	"switchboard/bridge/web/h1"
)

// refusal is an answer of the router's own. Nothing of the request is in it, so there
// is nothing to escape.
type refusal struct {
	status int
	// reason is the word that it is counted by.
	reason string
}

// unknownHost refuses a request for a host that is not known.
var unknownHost = refusal{http.StatusNotFound, "unknown_host"}

// details say for people what a status means here.
var details = map[int]string{
	http.StatusBadRequest:                  "The request is not valid HTTP, or it is ambiguous.",
	http.StatusNotFound:                    "No host of that name is known here.",
	http.StatusMethodNotAllowed:            "This method is not forwarded.",
	http.StatusRequestTimeout:              "The request took too long to arrive.",
	http.StatusRequestEntityTooLarge:       "The request's body is longer than is allowed here.",
	http.StatusRequestURITooLong:           "The request's target is longer than is allowed here.",
	http.StatusExpectationFailed:           "The request expects what cannot be met.",
	http.StatusRequestHeaderFieldsTooLarge: "The request's head is longer than is allowed here.",
	http.StatusNotImplemented:              "The request's coding is not known here.",
	http.StatusBadGateway:                  "The server behind this router failed to answer.",
	http.StatusServiceUnavailable:          "No server is available for this host at the moment.",
	http.StatusGatewayTimeout:              "The server behind this router took too long to answer.",
	http.StatusHTTPVersionNotSupported:     "This version of HTTP is not spoken here.",
	http.StatusMisdirectedRequest:          "This connection is not for that host.",
}

// Kinds of pages, by what the client accepts.
const (
	pageText = iota
	pageHTML
	pageJSON
)

// retryAfter is when a client should try again that was told 503, in seconds.
const retryAfter = "1"

// page is a refusal's body and its type, as accept prefers.
func (r refusal) page(accept []byte) (contentType, body string) {
	title := http.StatusText(r.status)
	detail := details[r.status]
	switch pageFor(accept) {
	case pageJSON:
		return "application/problem+json", `{"title":"` + title + `","status":` + strconv.Itoa(r.status) + `,"detail":"` + detail + `"}` + "\n"
	case pageHTML:
		title = strconv.Itoa(r.status) + " " + title
		return "text/html; charset=utf-8", "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>" + title +
			"</title></head>\n<body><h1>" + title + "</h1><p>" + detail + "</p></body></html>\n"
	default:
		return "text/plain; charset=utf-8", strconv.Itoa(r.status) + " " + title + ": " + strings.ToLower(detail[:1]) + detail[1:] + "\n"
	}
}

// pageFor takes the first of the types that we have.
func pageFor(accept []byte) int {
	for len(accept) > 0 {
		one, rest, _ := bytes.Cut(accept, []byte(","))
		accept = rest
		kind, _, _ := bytes.Cut(one, []byte(";"))
		switch string(bytes.TrimSpace(kind)) {
		case "text/html", "application/xhtml+xml":
			return pageHTML
		case "application/json", "application/problem+json":
			return pageJSON
		case "text/plain":
			return pageText
		}
	}
	return pageText
}

// refuse answers the request. It ends the connection if more of the request is to
// come, or where the next begins is not known.
func (c *conn) refuse(r refusal) int {
	var accept []byte
	for i := range c.d.req.Fields {
		if f := &c.d.req.Fields[i]; f.ID == h1.Accept {
			accept = f.Value
			break
		}
	}
	contentType, body := r.page(accept)
	if c.bodyLeft() {
		c.keep = false
	}
	if c.expired.Load() == clientExpired {
		c.raw.SetDeadline(time.Now().Add(lingerTime))
	}
	out := h1.AppendStatusLine(c.d.out[:0], r.status, []byte(http.StatusText(r.status)))
	out = append(append(append(out, "Content-Type: "...), contentType...), h1.CRLF...)
	for _, f := range r.fields() {
		out = append(append(append(append(out, f[0]...), ": "...), f[1]...), h1.CRLF...)
	}
	out = h1.AppendLength(out, int64(len(body)))
	out = append(c.appendConnection(out), h1.CRLF...)
	if string(c.d.req.Method) != "HEAD" {
		out = append(out, body...)
	}
	c.d.out = out[:0]
	c.clientBy.Store(c.server.after(c.server.o.Body))
	if c.send(out) != nil {
		c.keep = false
		c.abort()
	}
	c.clientBy.Store(0)
	return r.status
}

// fields are those that go with the status.
func (r refusal) fields() [][2]string {
	fields := [][2]string{{"Cache-Control", "no-store"}, {"X-Content-Type-Options", "nosniff"}}
	switch r.status {
	case http.StatusServiceUnavailable:
		fields = append(fields, [2]string{"Retry-After", retryAfter})
	case http.StatusMethodNotAllowed:
		fields = append(fields, [2]string{"Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"})
	}
	return fields
}

// refuseFor answers a request that no backend has answered, and returns the status; 0
// if there is nobody to answer.
func (x *exchange) refuseFor(err error) int {
	r := refusal{}
	var bad *h1.Error
	reason := bridge.ReasonFor(err)
	switch {
	case x.ended() != nil:
		reason := string(bridge.ReasonFor(x.ended()))
		if errors.Is(x.ended(), errClientLeft) {
			reason = "client_gone"
		}
		x.blame(&x.target.stats.refusals, reason, x.ended())
		x.client.abort()
		return 0
	case x.expired.Load() == clientExpired:
		r = refusal{http.StatusRequestTimeout, "body_timeout"}
	case x.expired.Load() == backendExpired:
		r = refusal{http.StatusGatewayTimeout, "backend_timeout"}
	case x.uploadErr != nil && errors.As(x.uploadErr, &bad):
		r = refusal{bad.Status, bad.Reason}
	case x.uploadErr != nil && !errors.Is(x.uploadErr, errBackendWrite):
		x.blame(&x.target.stats.refusals, "client_gone", x.uploadErr)
		x.client.abort()
		return 0
	case errors.As(err, &bad):
		r = refusal{http.StatusBadGateway, "backend_" + bad.Reason}
	case reason == bridge.NoBackend, reason == bridge.HoldExpired, reason == bridge.TrafficOff, reason == bridge.OverLimit, reason == bridge.Shutdown:
		r = refusal{http.StatusServiceUnavailable, string(reason)}
	case reason == bridge.NoHost:
		r = unknownHost
	case errors.Is(err, bridge.ErrDialTimeout):
		r = refusal{http.StatusGatewayTimeout, "dial_timeout"}
	default:
		r = refusal{http.StatusBadGateway, "backend_failed"}
	}
	x.blame(&x.target.stats.refusals, r.reason, err)
	return x.client.refuse(r)
}
