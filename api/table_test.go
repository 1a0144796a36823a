package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/api"
	"switchboard/bridge"
	"switchboard/bridge/route"
)

// tableOf gives the world a table of one host, blog.test, which is listed, and one more,
// far.test, which is not.
func tableOf(w *world, accept func(context.Context) error) {
	source := func(name string) api.HostSource {
		return api.HostSource{
			Name: name, Policy: route.Balance, FromTable: true,
			Cluster: func() (bridge.Cluster, bool) {
				return bridge.Cluster{Host: name, Backends: []bridge.BackendState{
					{Backend: route.NewBackend("i-1", "10.0.2.1:80"), Verdict: true, Healthy: true},
				}}, true
			},
			Traffic: func() (bridge.Traffic, bool) { return bridge.Traffic{Host: name, Enabled: true}, true },
			Counts:  func() bridge.Counts { return bridge.Counts{} },
		}
	}
	since := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	w.options.Sources.Table = &api.TableSource{
		State: func() api.Table {
			return api.Table{Serial: 7, Hosts: 2, Loaded: true, Stale: true, Since: &since, Reason: "Redis is away", Alarm: "it lost hosts"}
		},
		Accept: accept,
		Hosts:  func() []api.HostSource { return []api.HostSource{source("blog.test")} },
		Host: func(name string) (api.HostSource, bool) {
			return source(name), name == "blog.test" || name == "far.test"
		},
	}
}

func accepting(err error) func(context.Context) error {
	return func(context.Context) error { return err }
}

var _ = Describe("a table", func() {
	var w *world
	BeforeEach(func() { w = newWorld() })

	It("is in the merged state, with those of its hosts that are listed", func() {
		tableOf(w, accepting(nil))
		var cluster api.Cluster
		answer := get(w.handler(), "/cluster")
		Expect(json.Unmarshal(answer.Body.Bytes(), &cluster)).To(Succeed())
		Expect(*cluster.Table).To(And(HaveField("Serial", uint64(7)), HaveField("Hosts", 2), HaveField("Listed", 1), HaveField("Stale", true),
			HaveField("Reason", "Redis is away"), HaveField("Alarm", "it lost hosts")))
		Expect(cluster.Clusters).To(HaveLen(4))
		Expect(cluster.Clusters[3]).To(And(HaveField("Host", "blog.test"), HaveField("FromTable", true)))
		Expect(answer.Body.String()).To(ContainSubstring(`"since":"2026-01-02T03:04:05Z"`))
		Expect(get(w.handler(), "/hosts").Body.String()).To(ContainSubstring(`"blog.test"`))
		Expect(get(w.handler(), "/backends").Body.String()).To(ContainSubstring(`"i-1"`))
	})

	It("is left out where there is none", func() {
		Expect(get(w.handler(), "/cluster").Body.String()).NotTo(Or(ContainSubstring(`"table"`), ContainSubstring("fromTable")))
		answer := request{method: http.MethodPost, path: "/table/accept"}.to(w.handler())
		Expect(problemIn(answer)).To(And(HaveField("Status", 409), HaveField("Type", "urn:switchboard:problem:no-table")))
	})

	It("has hosts that can be read and switched, listed or not", func() {
		tableOf(w, accepting(nil))
		for _, path := range []string{"/hosts/blog.test", "/hosts/FAR.test"} {
			Expect(get(w.handler(), path).Code).To(Equal(http.StatusOK))
			answer := patch(w.handler(), path, `{"trafficEnabled":false,"message":"sale"}`)
			Expect(answer.Code).To(Equal(http.StatusOK), answer.Body.String())
		}
		Expect(problemIn(get(w.handler(), "/hosts/none.test"))).To(HaveField("Type", "urn:switchboard:problem:unknown-host"))
	})

	It("has weights of its own", func() {
		tableOf(w, accepting(nil))
		w.commands.setWeights = func(context.Context, string, map[string]*int, string) error { return bridge.ErrFromTable }
		Expect(problemIn(patch(w.handler(), "/hosts/blog.test", `{"weights":{"i-1":0},"message":"x"}`))).To(
			And(HaveField("Status", 409), HaveField("Type", "urn:switchboard:problem:from-table"), HaveField("Detail", ContainSubstring("switchboard routes"))))
	})

	DescribeTable("is taken as an operator says", func(err error, body string, status int, detail string) {
		tableOf(w, accepting(err))
		answer := request{method: http.MethodPost, path: "/table/accept", body: body}.to(w.handler())
		Expect(answer.Code).To(Equal(status))
		if status == http.StatusOK {
			Expect(answer.Body.String()).To(ContainSubstring(`"serial":7`))
			return
		}
		Expect(problemIn(answer).Detail).To(ContainSubstring(detail))
	},
		Entry("at once", nil, "", 200, ""),
		Entry("unless there is nothing to take", api.ErrNothingToAccept, "", 409, "nothing to accept"),
		Entry("unless Redis cannot be read", errors.New("Redis is away: it will be accepted when it is back"), "", 503, "will be accepted"),
		Entry("unless it takes too long", context.DeadlineExceeded, "", 503, "not answered in time"),
		Entry("without a word", nil, "{}", 400, "send no body"),
	)

	It("needs all its functions", func() {
		tableOf(w, nil)
		_, err := api.New(w.options)
		Expect(err).To(MatchError(ContainSubstring("every function of Sources.Table is needed")))
	})
})
