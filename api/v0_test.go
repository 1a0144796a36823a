package api_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/api"
	"switchboard/bridge"
	"switchboard/bridge/feed"
)

var _ = Describe("/v0", func() {
	var (
		w *world
		h http.Handler
	)

	BeforeEach(func() {
		w = newWorld()
		h = w.handler()
	})

	const (
		backends = `[{"host":"10.0.0.1","port":3306,"healthy":true,"name":"db-0","currentSessionCount":7,"active":true,"trafficEnabled":true},` +
			`{"host":"10.0.0.2","port":3306,"healthy":true,"name":"db-1","currentSessionCount":0,"active":false,"trafficEnabled":true},` +
			`{"host":"fd00::3","port":3306,"healthy":false,"name":"db-2","currentSessionCount":0,"active":false,"trafficEnabled":true}]`
		active  = `"activeBackend":{"host":"10.0.0.1","port":3306,"name":"db-0"}`
		cluster = `{` + active + `,"trafficEnabled":true,"message":"","lastUpdated":"0001-01-01T00:00:00Z"}`
	)

	// exactly checks a 2xx answer: its bytes, and no header but these.
	exactly := func(answer *httptest.ResponseRecorder, body string) {
		GinkgoHelper()
		Expect(answer.Code).To(Equal(http.StatusOK))
		Expect(answer.Body.String()).To(Equal(body))
		Expect(answer.Header()).To(Equal(http.Header{
			"Content-Type":   {"application/json; charset=utf-8"},
			"Content-Length": {fmt.Sprint(len(body))},
		}))
	}

	// refused checks an error: one line of text, and nothing done.
	refused := func(answer *httptest.ResponseRecorder, status int, line string) {
		GinkgoHelper()
		Expect(answer.Code).To(Equal(status))
		Expect(answer.Header().Get("Content-Type")).To(Equal("text/plain; charset=utf-8"))
		Expect(answer.Body.String()).To(Equal(line + "\n"))
	}

	It("shows the first host that has one active backend", func() {
		exactly(get(h, "/v0/cluster"), cluster)
		exactly(get(h, "/v0/backends"), backends)
		w.options.Sources.Hosts[0].Policy = "balance"
		exactly(get(w.handler(), "/v0/backends"), `[]`)
	})

	It("shows that there is no active backend", func() {
		c, _ := w.cluster.Get()
		c.Active = bridge.Active{Epoch: 4}
		w.cluster.Put(c)
		exactly(get(h, "/v0/cluster"), `{"activeBackend":null,"trafficEnabled":true,"message":"","lastUpdated":"0001-01-01T00:00:00Z"}`)
		Expect(get(h, "/v0/backends").Body.String()).NotTo(ContainSubstring(`"active":true`))
	})

	It("knows nothing before anybody has said anything", func() {
		w.options.Sources.Hosts = w.options.Sources.Hosts[1:]
		w.options.Sources.Traffic = new(feed.Feed[bridge.Traffic])
		exactly(get(w.handler(), "/v0/backends"), `[]`)
		exactly(get(w.handler(), "/v0/cluster"), `{"activeBackend":null,"trafficEnabled":false,"message":"","lastUpdated":"0001-01-01T00:00:00Z"}`)
	})

	It("lists backends for any method and any parameter", func() {
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} {
			exactly(request{method: method, path: "/v0/backends?x=1", body: "x"}.to(h), backends)
		}
		Expect(request{method: "HEAD", path: "/v0/backends"}.to(h).Body.Len()).To(BeZero())
		Expect(w.commands.calls.Load()).To(BeZero())
	})

	DescribeTable("takes a change as the original does",
		func(path, form string, enabled bool, message string) {
			var asked []bridge.TrafficChange
			set := w.commands.setTraffic
			w.commands.setTraffic = func(ctx context.Context, host string, c bridge.TrafficChange) (bridge.TrafficAnswer, error) {
				Expect(host).To(BeEmpty())
				asked = append(asked, c)
				return set(ctx, host, c)
			}
			answer := request{method: http.MethodPatch, path: path, body: form, header: map[string]string{"Content-Type": "application/x-www-form-urlencoded"}}.to(h)
			exactly(answer, `{`+active+fmt.Sprintf(`,"trafficEnabled":%t,"message":%q,"lastUpdated":"2026-03-01T12:00:00.000000001Z"}`, enabled, message))
			Expect(asked).To(Equal([]bridge.TrafficChange{{Enabled: enabled, Message: message}}))
		},
		Entry("in the query", "/v0/cluster?trafficEnabled=false&message=some%20reason", "", false, "some reason"),
		Entry("in a form", "/v0/cluster", "trafficEnabled=false&message=some+reason", false, "some reason"),
		Entry("a form before the query", "/v0/cluster?trafficEnabled=true&message=a", "trafficEnabled=0&message=b", false, "b"),
		Entry("on, without a message", "/v0/cluster?trafficEnabled=true", "", true, ""),
		Entry("on, with a message", "/v0/cluster?trafficEnabled=T&message=back", "", true, "back"),
		Entry("a blank message", "/v0/cluster?trafficEnabled=f&message=+", "", false, " "),
		Entry("parameters it does not know", "/v0/cluster?trafficEnabled=1&x=1", "", true, ""),
	)

	DescribeTable("answers an error with one status and one line",
		func(method, path, form string, status int, line string) {
			answer := request{method: method, path: path, body: form, header: map[string]string{"Content-Type": "application/x-www-form-urlencoded"}}.to(h)
			refused(answer, status, line)
			Expect(w.commands.calls.Load()).To(BeZero())
		},
		Entry("no flag", "PATCH", "/v0/cluster", "", 400, "Failed to parse trafficEnabled"),
		Entry("a flag that is none", "PATCH", "/v0/cluster?trafficEnabled=yes", "", 400, "Failed to parse trafficEnabled"),
		Entry("off without a message", "PATCH", "/v0/cluster?trafficEnabled=false", "", 400, "message must not be empty"),
		Entry("a query that cannot be read", "PATCH", "/v0/cluster?trafficEnabled=%zz", "", 400, "Failed to parse form"),
		Entry("a form that cannot be read", "PATCH", "/v0/cluster?trafficEnabled=true", "a=%zz", 400, "Failed to parse form"),
		Entry("a message with a line feed", "PATCH", "/v0/cluster?trafficEnabled=false&message=a%0Ab", "", 400, "message must not have control characters"),
		Entry("a form too large", "PATCH", "/v0/cluster?trafficEnabled=true", "message="+strings.Repeat("x", api.MaxBody), 413, "form too large"),
		Entry("POST", "POST", "/v0/cluster", "", 405, "Method not allowed"),
		Entry("another path", "GET", "/v0/nothing", "", 404, "there is nothing at this path"),
	)

	It("has no HEAD for the cluster, as the original", func() {
		answer := request{method: http.MethodHead, path: "/v0/cluster"}.to(h)
		Expect(answer.Code).To(Equal(http.StatusMethodNotAllowed))
		Expect(answer.Header().Get("Allow")).To(Equal("GET, PATCH"))
	})

	DescribeTable("answers what went wrong, and not the cluster after it",
		func(err error, status int, line string) {
			w.options.CommandTimeout = 20 * time.Millisecond
			w.commands.setTraffic = func(ctx context.Context, _ string, _ bridge.TrafficChange) (bridge.TrafficAnswer, error) {
				if err == nil {
					<-ctx.Done()
					return bridge.TrafficAnswer{}, ctx.Err()
				}
				return bridge.TrafficAnswer{}, err
			}
			refused(request{method: http.MethodPatch, path: "/v0/cluster?trafficEnabled=true"}.to(w.handler()), status, line)
		},
		Entry("stopped", bridge.ErrStopped, 503, bridge.ErrStopped.Error()),
		Entry("not durable", bridge.ErrNotDurable, 500, bridge.ErrNotDurable.Error()),
		Entry("hanging", nil, 503, "the command was not answered in time and may still be carried out; read the state before trying again"),
	)
})
