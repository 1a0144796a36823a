package api

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/julienschmidt/httprouter"
)

// Stats answers what was counted. Its answers are written as JSON. It may be called from
// any goroutine, and returns when its context ends.
type Stats interface {
	// Totals are the sums of all there ever was of a kind of that ID.
	Totals(ctx context.Context, kind, id string) (any, error)
	// History is what happened from one moment to another, in steps; no metrics are all.
	History(ctx context.Context, kind, id string, metrics []string, from, to time.Time, step time.Duration) (any, error)
}

// ErrQuestion is what an error of [Stats] is if the question is to blame. The asker is told
// all of it. Of other errors only the log is.
var ErrQuestion = errors.New("the question makes no sense")

// What GET /stats/{kind}/{id}/history answers if it is not asked for more.
const (
	defaultRange = time.Minute
	defaultStep  = time.Second
)

func (a *API) getTotals(_ http.ResponseWriter, r *http.Request, p httprouter.Params) (any, error) {
	return a.askStats(r, func(ctx context.Context) (any, error) {
		return a.stats.Totals(ctx, p.ByName("kind"), p.ByName("id"))
	})
}

func (a *API) getHistory(_ http.ResponseWriter, r *http.Request, p httprouter.Params) (any, error) {
	query := r.URL.Query()
	to, step := time.Now(), defaultStep
	var err error
	if query.Has("to") {
		if to, err = moment("to", query.Get("to")); err != nil {
			return nil, err
		}
	}
	from := to.Add(-defaultRange)
	if query.Has("from") {
		if from, err = moment("from", query.Get("from")); err != nil {
			return nil, err
		}
	}
	if query.Has("step") {
		if step, err = time.ParseDuration(query.Get("step")); err != nil {
			return nil, problem(http.StatusBadRequest, "step is a duration such as 1s, 1m or 1h")
		}
	}
	var metrics []string
	if text := query.Get("metrics"); text != "" {
		metrics = strings.Split(text, ",")
	}
	return a.askStats(r, func(ctx context.Context) (any, error) {
		return a.stats.History(ctx, p.ByName("kind"), p.ByName("id"), metrics, from, to, step)
	})
}

// askStats asks for no longer than a command may take.
func (a *API) askStats(r *http.Request, ask func(context.Context) (any, error)) (any, error) {
	if a.stats == nil {
		return nil, problem(http.StatusNotFound, "nothing is counted here: the router is configured without statistics").kind("no-stats")
	}
	ctx, cancel := context.WithTimeout(r.Context(), a.timeout)
	defer cancel()
	result, err := ask(ctx)
	switch {
	case errors.Is(err, ErrQuestion):
		return nil, problem(http.StatusBadRequest, err.Error()).because(err)
	case err != nil:
		return nil, problem(http.StatusServiceUnavailable, "the statistics cannot be read now; the router's log says why").
			kind("no-answer").with("Retry-After", retryAfter).because(err)
	}
	return result, nil
}

// moment reads a parameter that is a time.
func moment(name, text string) (time.Time, error) {
	if at, err := strconv.ParseInt(text, 10, 64); err == nil {
		return time.Unix(at, 0), nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return at, problem(http.StatusBadRequest, name+" is a time such as 2026-01-02T15:04:05Z, or seconds since 1970")
	}
	return at, nil
}
