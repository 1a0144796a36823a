package api

import (
	"context"
	"errors"
	"net/http"

	"switchboard/bridge"
)

// Error is what the API answers when it does not do what it was asked: a problem
// document (RFC 9457).
type Error struct {
	// Type is "about:blank", or "urn:switchboard:problem:" and a word where one
	// status has several reasons: unhealthy, pinned, policy, unknown-host,
	// unknown-session, busy, timeout, stopping, not-durable, not-ready, precondition, no-stats, no-answer, no-events, no-metrics,
	// too-many-streams.
	Type string `json:"type"`
	// Title is the status in words.
	Title  string `json:"title"`
	Status int    `json:"status"`
	// Detail says what is wrong and what to do.
	Detail string `json:"detail"`
	// Errors are all that is wrong with a body; status 422 only.
	Errors []Invalid `json:"errors,omitempty"`
	// Acted is true if something was changed all the same, and Severed then counts
	// the sessions that cost.
	Acted   bool `json:"acted,omitempty"`
	Severed *int `json:"severed,omitempty"`

	header http.Header
	// cause is for the log where Detail must not tell it.
	cause error
}

// Invalid is one thing that is wrong with a body.
type Invalid struct {
	// Pointer is the JSON Pointer (RFC 6901) of the member.
	Pointer string `json:"pointer"`
	Detail  string `json:"detail"`
}

// Error returns the detail.
func (e *Error) Error() string { return e.Detail }

// Unwrap returns the cause, if there is one.
func (e *Error) Unwrap() error { return e.cause }

const problems = "urn:switchboard:problem:"

func problem(status int, detail string) *Error {
	return &Error{Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: detail}
}

func (e *Error) kind(word string) *Error {
	e.Type = problems + word
	return e
}

func (e *Error) with(header, value string) *Error {
	if e.header == nil {
		e.header = make(http.Header)
	}
	e.header.Set(header, value)
	return e
}

func (e *Error) because(cause error) *Error {
	e.cause = cause
	return e
}

// acted marks a problem that came after something had been changed.
func (e *Error) acted(severed int) *Error {
	e.Acted, e.Severed = true, &severed
	return e
}

func invalid(all []Invalid) *Error {
	e := problem(http.StatusUnprocessableEntity, "the body asks for what cannot be done; errors lists all that is wrong, and nothing was changed")
	e.Errors = all
	return e
}

// problemOf turns any error into a problem document. The bridge's errors are
// written for operators; those it does not know are for the log only.
func problemOf(err error) *Error {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, ErrPrecondition):
		return problem(http.StatusPreconditionFailed, ErrPrecondition.Error()).kind("precondition")
	case errors.Is(err, bridge.ErrUnknownHost):
		return problem(http.StatusNotFound, bridge.ErrUnknownHost.Error()).kind("unknown-host")
	case errors.Is(err, bridge.ErrUnknownSession):
		return problem(http.StatusNotFound, bridge.ErrUnknownSession.Error()).kind("unknown-session")
	case errors.Is(err, bridge.ErrUnhealthy):
		return problem(http.StatusConflict, err.Error()).kind("unhealthy")
	case errors.Is(err, bridge.ErrPinned):
		return problem(http.StatusConflict, err.Error()).kind("pinned")
	case errors.Is(err, bridge.ErrBalance), errors.Is(err, bridge.ErrNoChoice):
		return problem(http.StatusConflict, err.Error()).kind("policy")
	case errors.Is(err, bridge.ErrFromTable):
		return problem(http.StatusConflict, err.Error()).kind("from-table")
	case errors.Is(err, bridge.ErrNotDurable):
		return problem(http.StatusInternalServerError, err.Error()).kind("not-durable").because(err)
	case errors.Is(err, bridge.ErrStopped):
		return problem(http.StatusServiceUnavailable, bridge.ErrStopped.Error()).kind("stopping").with("Retry-After", retryAfter)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return problem(http.StatusServiceUnavailable,
			"the command was not answered in time and may still be carried out; read the state before trying again").
			kind("timeout").with("Retry-After", retryAfter).because(err)
	default:
		return problem(http.StatusInternalServerError, "something unexpected went wrong; the router's log has it").because(err)
	}
}

// retryAfter is in seconds: what is in the way of a write is gone in about that
// time, or the process is.
const retryAfter = "1"
