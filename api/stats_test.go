package api_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/api"
)

// fakeStats answers with the question.
type fakeStats struct{ err error }

func (f fakeStats) Totals(_ context.Context, kind, id string) (any, error) {
	return map[string]string{"totals": kind + " " + id}, f.err
}

func (f fakeStats) History(_ context.Context, kind, id string, metrics []string, from, to time.Time, step time.Duration) (any, error) {
	return map[string]any{"history": kind + " " + id, "metrics": metrics, "from": from.Unix(), "to": to.Unix(), "step": step.String()}, f.err
}

var _ = Describe("statistics", func() {
	var w *world
	BeforeEach(func() {
		w = newWorld()
		w.options.Stats = fakeStats{}
	})

	DescribeTable("are asked for by their path",
		func(path, want string) {
			answer := get(w.handler(), path)
			Expect(answer.Code).To(Equal(http.StatusOK))
			Expect(answer.Body.String()).To(MatchJSON(want))
		},
		Entry("totals", "/stats/host/*.shop.example.com", `{"totals":"host *.shop.example.com"}`),
		Entry("totals of what has no ID", "/stats/uncaught", `{"totals":"uncaught "}`),
		Entry("a history", "/stats/version_type/12/history?metrics=requests,5xx&from=100&to=1970-01-01T00:05:00Z&step=1m",
			`{"history":"version_type 12","metrics":["requests","5xx"],"from":100,"to":300,"step":"1m0s"}`),
		Entry("the last minute of one", "/stats/node/a%20b/history?to=100", `{"history":"node a b","metrics":null,"from":40,"to":100,"step":"1s"}`),
	)

	DescribeTable("are refused with a problem",
		func(stats api.Stats, path string, status int, words string) {
			w.options.Stats = stats
			answer := get(w.handler(), path)
			Expect(answer.Code).To(Equal(status))
			Expect(answer.Header().Get("Content-Type")).To(Equal("application/problem+json"))
			Expect(answer.Body.String()).To(ContainSubstring(words))
			Expect(answer.Body.String()).NotTo(ContainSubstring("10.0.0.1"))
		},
		Entry("nothing is counted", nil, "/stats/host/a", http.StatusNotFound, "nothing is counted here"),
		Entry("no kind", fakeStats{}, "/stats", http.StatusNotFound, "nothing at this path"),
		Entry("a step", fakeStats{}, "/stats/host/a/history?step=1", http.StatusBadRequest, "step is a duration"),
		Entry("a time", fakeStats{}, "/stats/host/a/history?from=now", http.StatusBadRequest, "from is a time"),
		Entry("another time", fakeStats{}, "/stats/host/a/history?to=1e3", http.StatusBadRequest, "to is a time"),
		Entry("a parameter", fakeStats{}, "/stats/host/a?from=1", http.StatusBadRequest, "no parameter is known here"),
		Entry("a question that makes no sense", fakeStats{fmt.Errorf("%w: no kind job", api.ErrQuestion)}, "/stats/job/a", http.StatusBadRequest, "no kind job"),
		Entry("no answer", fakeStats{errors.New("dialing 10.0.0.1: refused")}, "/stats/host/a", http.StatusServiceUnavailable, "cannot be read now"),
	)

	It("are for those who know the password", func() {
		w.options.Username, w.options.Password = "u", "p"
		Expect(get(w.handler(), "/stats/host/a").Code).To(Equal(http.StatusUnauthorized))
	})
})
