package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/gleak"

	"switchboard/api"
	"switchboard/bridge"
)

// refusal is a PATCH that must come to nothing.
type refusal struct {
	path, body string
	status     int
	// pointers are those of errors[], in order.
	pointers []string
	header   map[string]string
	chunked  bool
}

const (
	traffic = "/traffic"
	host    = "/hosts/db.main"
	shop    = "/hosts/*.shop"
)

// stuckWriter is a client that does not read.
type stuckWriter struct {
	*httptest.ResponseRecorder
	writing, release chan struct{}
}

func (w *stuckWriter) Write(text []byte) (int, error) {
	close(w.writing)
	<-w.release
	return w.ResponseRecorder.Write(text)
}

// stacks shows where every goroutine is.
func stacks() string {
	text := make([]byte, 1<<20)
	return string(text[:runtime.Stack(text, true)])
}

var _ = Describe("PATCH", func() {
	var (
		w *world
		h http.Handler
	)

	BeforeEach(func() {
		w = newWorld()
		w.options.CommandTimeout = 10 * time.Second
		h = w.handler()
	})

	DescribeTable("refuses a body that is wrong, and does nothing",
		func(c refusal) {
			before := get(h, c.path).Body.String()
			answer := request{method: http.MethodPatch, path: c.path, body: c.body, header: c.header, chunked: c.chunked}.to(h)
			Expect(answer.Code).To(Equal(c.status), answer.Body.String())
			e := problemIn(answer)
			var pointers []string
			for _, one := range e.Errors {
				pointers = append(pointers, one.Pointer)
				Expect(one.Detail).NotTo(BeEmpty())
			}
			Expect(pointers).To(Equal(c.pointers), "%v", e.Errors)
			Expect(e.Acted).To(BeFalse())
			if c.status == http.StatusUnsupportedMediaType {
				Expect(answer.Header().Get("Accept-Patch")).To(Equal("application/merge-patch+json, application/json"))
			}
			Expect(w.commands.calls.Load()).To(BeZero())
			Expect(get(h, c.path).Body.String()).To(Equal(before))
		},
		// 400
		Entry("empty", refusal{path: traffic, body: ``, status: 400}),
		Entry("not JSON", refusal{path: traffic, body: `trafficEnabled=false`, status: 400}),
		Entry("cut off", refusal{path: traffic, body: `{"trafficEnabled":fal`, status: 400}),
		Entry("trailing data", refusal{path: traffic, body: `{"trafficEnabled":true}{}`, status: 400}),
		Entry("a trailing comma", refusal{path: traffic, body: `{"trafficEnabled":true,}`, status: 400}),
		Entry("a comment", refusal{path: traffic, body: `{"trafficEnabled":true/**/}`, status: 400}),
		Entry("a duplicate member", refusal{path: traffic, body: `{"trafficEnabled":true,"trafficEnabled":false,"message":"x"}`, status: 400}),
		Entry("a duplicate member in other letters", refusal{path: traffic, body: `{"message":"a","m\u0065ssage":"b","trafficEnabled":true}`, status: 400}),
		Entry("a duplicate member inside", refusal{path: traffic, body: `{"x":[{"a":1,"a":2}]}`, status: 400}),
		Entry("NaN", refusal{path: traffic, body: `{"trafficEnabled":NaN}`, status: 400}),
		Entry("an array", refusal{path: traffic, body: `[{"op":"replace"}]`, status: 400}),
		Entry("null", refusal{path: traffic, body: `null`, status: 400}),
		Entry("a string", refusal{path: traffic, body: `"off"`, status: 400}),
		Entry("too deep", refusal{path: traffic, body: `{"x":` + strings.Repeat("[", 17) + strings.Repeat("]", 17) + `}`, status: 400}),
		Entry("very deep", refusal{path: traffic, body: strings.Repeat("[", 30_000) + strings.Repeat("]", 30_000), status: 400}),
		Entry("a byte order mark", refusal{path: traffic, body: "\ufeff{}", status: 400}),
		Entry("not UTF-8", refusal{path: traffic, body: "{\"trafficEnabled\":false,\"message\":\"\xff\"}", status: 400}),
		Entry("a raw line feed in a message", refusal{path: traffic, body: "{\"trafficEnabled\":false,\"message\":\"a\nb\"}", status: 400}),
		// 413
		Entry("too large", refusal{path: traffic, body: `{"message":"` + strings.Repeat("x", api.MaxBody) + `"}`, status: 413}),
		Entry("too large without a length", refusal{path: traffic, body: `{"message":"` + strings.Repeat("x", api.MaxBody) + `"}`, status: 413, chunked: true}),
		Entry("one byte too large", refusal{path: traffic, body: `{"trafficEnabled":true}` + strings.Repeat(" ", api.MaxBody-22), status: 413}),
		// 415
		Entry("no media type", refusal{path: traffic, body: `{"trafficEnabled":true}`, status: 415, header: map[string]string{"Content-Type": ""}}),
		Entry("a form", refusal{path: traffic, body: `trafficEnabled=true`, status: 415, header: map[string]string{"Content-Type": "application/x-www-form-urlencoded"}}),
		Entry("text", refusal{path: traffic, body: `{"trafficEnabled":true}`, status: 415, header: map[string]string{"Content-Type": "text/plain"}}),
		Entry("a JSON patch", refusal{path: traffic, body: `[]`, status: 415, header: map[string]string{"Content-Type": "application/json-patch+json"}}),
		Entry("another charset", refusal{path: traffic, body: `{"trafficEnabled":true}`, status: 415, header: map[string]string{"Content-Type": "application/json; charset=utf-16"}}),
		Entry("a media type that is none", refusal{path: traffic, body: `{"trafficEnabled":true}`, status: 415, header: map[string]string{"Content-Type": "application/json; charset"}}),
		Entry("compressed", refusal{path: traffic, body: `{"trafficEnabled":true}`, status: 415, header: map[string]string{"Content-Encoding": "gzip"}}),
		// 422
		Entry("nothing to do", refusal{path: traffic, body: `{}`, status: 422, pointers: []string{"/trafficEnabled"}}),
		Entry("an unknown member", refusal{path: traffic, body: `{"trafficEnabled":true,"traffic/~":1}`, status: 422, pointers: []string{"/traffic~1~0"}}),
		Entry("a member in another case", refusal{path: traffic, body: `{"TrafficEnabled":true}`, status: 422, pointers: []string{"/TrafficEnabled", "/trafficEnabled"}}),
		Entry("a member that is a host's", refusal{path: traffic, body: `{"trafficEnabled":true,"active":"db-1"}`, status: 422, pointers: []string{"/active"}}),
		Entry("a member that is read only", refusal{path: host, body: `{"epoch":9}`, status: 422, pointers: []string{"/epoch"}}),
		Entry("a flag as a string", refusal{path: traffic, body: `{"trafficEnabled":"false","message":"x"}`, status: 422, pointers: []string{"/trafficEnabled"}}),
		Entry("a flag as a number", refusal{path: traffic, body: `{"trafficEnabled":0,"message":"x"}`, status: 422, pointers: []string{"/trafficEnabled"}}),
		Entry("a flag that is null", refusal{path: traffic, body: `{"trafficEnabled":null,"message":"x"}`, status: 422, pointers: []string{"/trafficEnabled"}}),
		Entry("a huge number", refusal{path: traffic, body: `{"trafficEnabled":1e999}`, status: 422, pointers: []string{"/trafficEnabled"}}),
		Entry("a cut without a message", refusal{path: traffic, body: `{"trafficEnabled":false}`, status: 422, pointers: []string{"/message"}}),
		Entry("a cut with an empty message", refusal{path: traffic, body: `{"trafficEnabled":false,"message":""}`, status: 422, pointers: []string{"/message"}}),
		Entry("a cut with a blank message", refusal{path: traffic, body: `{"trafficEnabled":false,"message":" "}`, status: 422, pointers: []string{"/message"}}),
		Entry("a message that is null", refusal{path: traffic, body: `{"trafficEnabled":false,"message":null}`, status: 422, pointers: []string{"/message"}}),
		Entry("a message that is an object", refusal{path: traffic, body: `{"trafficEnabled":false,"message":{}}`, status: 422, pointers: []string{"/message"}}),
		Entry("a message that is too long", refusal{path: traffic, body: `{"trafficEnabled":false,"message":"` + strings.Repeat("x", 1025) + `"}`, status: 422, pointers: []string{"/message"}}),
		Entry("a message with an escaped line feed", refusal{path: traffic, body: `{"trafficEnabled":false,"message":"a\nb"}`, status: 422, pointers: []string{"/message"}}),
		Entry("a message with an escape", refusal{path: traffic, body: `{"trafficEnabled":false,"message":"\u001b[2J"}`, status: 422, pointers: []string{"/message"}}),
		Entry("a message that turns the line round", refusal{path: traffic, body: `{"trafficEnabled":false,"message":"a\u202eb"}`, status: 422, pointers: []string{"/message"}}),
		Entry("a grace that is a number", refusal{path: traffic, body: `{"trafficEnabled":false,"message":"x","grace":30}`, status: 422, pointers: []string{"/grace"}}),
		Entry("a grace without a unit", refusal{path: traffic, body: `{"trafficEnabled":false,"message":"x","grace":"30"}`, status: 422, pointers: []string{"/grace"}}),
		Entry("a negative grace", refusal{path: traffic, body: `{"trafficEnabled":false,"message":"x","grace":"-1s"}`, status: 422, pointers: []string{"/grace"}}),
		Entry("a grace that is null", refusal{path: traffic, body: `{"trafficEnabled":false,"message":"x","grace":null}`, status: 422, pointers: []string{"/grace"}}),
		Entry("a grace that is too long for a clock", refusal{path: traffic, body: `{"trafficEnabled":false,"message":"x","grace":"9999999h"}`, status: 422, pointers: []string{"/grace"}}),
		Entry("a grace for an enable", refusal{path: traffic, body: `{"trafficEnabled":true,"grace":"1s"}`, status: 422, pointers: []string{"/grace"}}),
		Entry("a grace for a switch", refusal{path: host, body: `{"active":"db-1","message":"x","grace":"1s"}`, status: 422, pointers: []string{"/grace"}}),
		Entry("a message for nothing", refusal{path: host, body: `{"message":"x"}`, status: 422, pointers: []string{"/message"}}),
		Entry("an active that is null", refusal{path: host, body: `{"active":null,"message":"x"}`, status: 422, pointers: []string{"/active"}}),
		Entry("an active that is empty", refusal{path: host, body: `{"active":"","message":"x"}`, status: 422, pointers: []string{"/active"}}),
		Entry("an active that is the answer's object", refusal{path: host, body: `{"active":{"name":"db-1"},"message":"x"}`, status: 422, pointers: []string{"/active"}}),
		Entry("an unknown active", refusal{path: host, body: `{"active":"db-9","message":"x"}`, status: 422, pointers: []string{"/active"}}),
		Entry("an unknown pin", refusal{path: host, body: `{"pin":"db-9","message":"x"}`, status: 422, pointers: []string{"/pin"}}),
		Entry("a pin that is empty", refusal{path: host, body: `{"pin":""}`, status: 422, pointers: []string{"/pin"}}),
		Entry("a pin that is a number", refusal{path: host, body: `{"pin":0}`, status: 422, pointers: []string{"/pin"}}),
		Entry("a switch without a message", refusal{path: host, body: `{"active":"db-1"}`, status: 422, pointers: []string{"/message"}}),
		Entry("a pin that cuts without a message", refusal{path: host, body: `{"pin":"db-1"}`, status: 422, pointers: []string{"/message"}}),
		Entry("active and pin at odds", refusal{path: host, body: `{"active":"db-1","pin":"db-0","message":"x"}`, status: 422, pointers: []string{"/pin"}}),
		Entry("a switch and an unpin", refusal{path: host, body: `{"active":"db-1","pin":null,"message":"x"}`, status: 422, pointers: []string{"/pin"}}),
		Entry("weights of a host that has one active backend", refusal{path: host, body: `{"weights":{"db-0":2}}`, status: 422, pointers: []string{"/weights"}}),
		Entry("weights of the router", refusal{path: traffic, body: `{"trafficEnabled":true,"weights":{}}`, status: 422, pointers: []string{"/weights"}}),
		Entry("an active of a host that uses all", refusal{path: shop, body: `{"active":"app-0","message":"x"}`, status: 422, pointers: []string{"/active"}}),
		Entry("a pin of a host that uses all", refusal{path: shop, body: `{"pin":null}`, status: 422, pointers: []string{"/pin"}}),
		Entry("weights that are a number", refusal{path: shop, body: `{"weights":3}`, status: 422, pointers: []string{"/weights"}}),
		Entry("weights that are none", refusal{
			path: shop, body: `{"weights":{"app-0":-1,"app/1":"3","b":1.5,"c":1000001,"d":true},"message":"x"}`, status: 422,
			pointers: []string{"/weights/app-0", "/weights/app~11", "/weights/b", "/weights/c", "/weights/d"},
		}),
		Entry("a weight twice", refusal{path: shop, body: `{"weights":{"app-0":1,"app-0":2}}`, status: 400}),
		Entry("weights of unknown backends", refusal{path: shop, body: `{"weights":{"x/y":1,"app-9":null}}`, status: 422, pointers: []string{"/weights/app-9", "/weights/x~1y"}}),
		Entry("a weight of 0 without a message", refusal{path: shop, body: `{"weights":{"app-0":0}}`, status: 422, pointers: []string{"/message"}}),
		Entry("everything wrong at once", refusal{
			path: host, body: `{"zzz":1,"trafficEnabled":"no","grace":"soon","active":"db-9","pin":7}`, status: 422,
			pointers: []string{"/grace", "/pin", "/trafficEnabled", "/zzz", "/active", "/message"},
		}),
	)

	DescribeTable("takes a body in any of its media types",
		func(media string) {
			answer := request{method: http.MethodPatch, path: traffic, body: `{"trafficEnabled":true}`, header: map[string]string{"Content-Type": media}}.to(h)
			Expect(answer.Code).To(Equal(http.StatusOK))
			Expect(w.commands.calls.Load()).To(Equal(int64(1)))
		},
		Entry("merge patch", "application/merge-patch+json"),
		Entry("JSON", "application/json"),
		Entry("JSON with a charset", `Application/JSON; charset="UTF-8"`),
		Entry("JSON with another parameter", "application/json; version=1"),
	)

	It("takes a body of exactly the largest size, without a length too", func() {
		body := `{"trafficEnabled":true}` + strings.Repeat(" ", api.MaxBody-23)
		Expect(body).To(HaveLen(api.MaxBody))
		Expect(patch(h, traffic, body).Code).To(Equal(http.StatusOK))
		Expect(request{method: http.MethodPatch, path: traffic, body: body, chunked: true}.to(h).Code).To(Equal(http.StatusOK))
	})

	It("takes a message of exactly the longest length", func() {
		message := strings.Repeat("é", api.MaxMessage/2)
		Expect(patch(h, traffic, `{"trafficEnabled":false,"message":"`+message+`"}`).Code).To(Equal(http.StatusOK))
		flag, _ := w.traffic.Get()
		Expect(flag.Message).To(Equal(message))
	})

	It("disables traffic, tells how many it cost, and shows the new state and its ETag", func() {
		answer := patch(h, traffic, `{"trafficEnabled":false,"message":"moving the rack"}`)
		Expect(answer.Code).To(Equal(http.StatusOK))
		Expect(answer.Body.String()).To(MatchJSON(`{"trafficEnabled": false, "message": "moving the rack",
			"lastUpdated": "2026-03-01T12:00:00.000000001Z", "drainUntil": null, "currentSessionCount": 9, "severed": 2}`))
		Expect(answer.Header().Get("ETag")).To(Equal(get(h, traffic).Header().Get("ETag")))
		Expect(get(h, traffic).Body.String()).NotTo(ContainSubstring("severed"))
	})

	It("answers 202 to a drain, and shows until when", func() {
		for _, path := range []string{traffic, host} {
			answer := patch(h, path, `{"trafficEnabled":false,"message":"x","grace":"1m30s"}`)
			Expect(answer.Code).To(Equal(http.StatusAccepted))
			Expect(answer.Body.String()).To(ContainSubstring(`"drainUntil":"2026-03-01T12:01:30.0`))
			Expect(get(h, path).Body.String()).To(ContainSubstring(`"drainUntil":"2026-03-01T12:01:30.0`))
			Expect(patch(h, path, `{"trafficEnabled":false,"message":"x","grace":"0s"}`).Code).To(Equal(http.StatusOK))
		}
	})

	It("changes a host and not the router", func() {
		var hosts []string
		set := w.commands.setTraffic
		w.commands.setTraffic = func(ctx context.Context, host string, c bridge.TrafficChange) (bridge.TrafficAnswer, error) {
			hosts = append(hosts, host)
			return set(ctx, host, c)
		}
		Expect(patch(h, "/hosts/DB.MAIN", `{"trafficEnabled":false,"message":"x"}`).Code).To(Equal(http.StatusOK))
		Expect(patch(h, traffic, `{"trafficEnabled":true}`).Code).To(Equal(http.StatusOK))
		Expect(hosts).To(Equal([]string{"db.main", ""}))
	})

	It("answers an empty patch of a host with its state", func() {
		answer := patch(h, host, `{}`)
		Expect(answer.Code).To(Equal(http.StatusOK))
		Expect(answer.Body.String()).To(ContainSubstring(`"severed":0`))
		Expect(w.commands.calls.Load()).To(BeZero())
		answer = request{method: http.MethodPatch, path: host, body: `{}`, header: map[string]string{"If-Match": `"old"`}}.to(h)
		Expect(answer.Code).To(Equal(http.StatusPreconditionFailed))
	})

	Context("when it chooses a backend", func() {
		var calls []string

		BeforeEach(func() {
			calls = nil
			switchTo, pin, set := w.commands.switchTo, w.commands.pin, w.commands.setTraffic
			w.commands.switchTo = func(ctx context.Context, host, backend, message string) (int, error) {
				calls = append(calls, fmt.Sprintf("switch %s %q %q", host, backend, message))
				return switchTo(ctx, host, backend, message)
			}
			w.commands.pin = func(ctx context.Context, host, backend, message string) (int, error) {
				calls = append(calls, fmt.Sprintf("pin %s %q %q", host, backend, message))
				return pin(ctx, host, backend, message)
			}
			w.commands.setTraffic = func(ctx context.Context, host string, c bridge.TrafficChange) (bridge.TrafficAnswer, error) {
				calls = append(calls, fmt.Sprintf("traffic %s %t %s", host, c.Enabled, c.Grace))
				return set(ctx, host, c)
			}
		})

		DescribeTable("gives these commands",
			func(body string, status, severed int, expected ...string) {
				answer := patch(h, host, body)
				Expect(answer.Code).To(Equal(status), answer.Body.String())
				Expect(calls).To(Equal(expected))
				var state api.Host
				Expect(json.Unmarshal(answer.Body.Bytes(), &state)).To(Succeed())
				Expect(*state.Severed).To(Equal(severed))
				Expect(answer.Header().Get("ETag")).To(Equal(get(h, host).Header().Get("ETag")))
			},
			Entry("a switch", `{"active":"db-1","message":"m"}`, 200, 3, `switch db.main "db-1" "m"`),
			Entry("a pin elsewhere", `{"pin":"db-1","message":"m"}`, 200, 4, `pin db.main "db-1" "m"`),
			Entry("a pin to a backend that is down", `{"pin":"db-2","message":"m"}`, 200, 4, `pin db.main "db-2" "m"`),
			Entry("a pin to the active one, which cuts nothing", `{"pin":"db-0"}`, 200, 4, `pin db.main "db-0" ""`),
			Entry("an unpin", `{"pin":null}`, 200, 4, `pin db.main "" ""`),
			Entry("both, as one", `{"active":"db-1","pin":"db-1","message":"m"}`, 200, 4, `pin db.main "db-1" "m"`),
			Entry("a switch, and then the traffic", `{"trafficEnabled":false,"grace":"5s","active":"db-1","message":"m"}`, 202, 5,
				`switch db.main "db-1" "m"`, "traffic db.main false 5s"),
		)

		It("refuses to switch and pin to a backend that is down", func() {
			answer := patch(h, host, `{"active":"db-2","pin":"db-2","message":"m"}`)
			Expect(answer.Code).To(Equal(http.StatusConflict))
			Expect(problemIn(answer).Type).To(Equal("urn:switchboard:problem:unhealthy"))
			Expect(calls).To(BeEmpty())
		})

		It("does not touch the traffic if the backend was refused", func() {
			w.commands.switchTo = func(context.Context, string, string, string) (int, error) { return 0, bridge.ErrPinned }
			answer := patch(h, host, `{"trafficEnabled":false,"active":"db-1","message":"m"}`)
			Expect(answer.Code).To(Equal(http.StatusConflict))
			Expect(problemIn(answer).Acted).To(BeFalse())
			Expect(calls).To(BeEmpty())
		})

		It("says that it acted if only the traffic was refused", func() {
			w.commands.setTraffic = func(context.Context, string, bridge.TrafficChange) (bridge.TrafficAnswer, error) {
				return bridge.TrafficAnswer{}, bridge.ErrStopped
			}
			answer := patch(h, host, `{"trafficEnabled":false,"active":"db-1","message":"m"}`)
			Expect(answer.Code).To(Equal(http.StatusServiceUnavailable))
			e := problemIn(answer)
			Expect(e.Acted).To(BeTrue())
			Expect(e.Severed).To(HaveValue(Equal(3)))
		})

		It("goes on after a choice that could not be stored, and says so in the end", func() {
			w.commands.switchTo = func(context.Context, string, string, string) (int, error) {
				return 3, fmt.Errorf("%w: no space left on device", bridge.ErrNotDurable)
			}
			answer := patch(h, host, `{"trafficEnabled":false,"active":"db-1","message":"m"}`)
			Expect(answer.Code).To(Equal(http.StatusInternalServerError))
			e := problemIn(answer)
			Expect(e.Type).To(Equal("urn:switchboard:problem:not-durable"))
			Expect(e.Detail).To(ContainSubstring("in force"))
			Expect(e.Acted).To(BeTrue())
			Expect(e.Severed).To(HaveValue(Equal(5)))
			Expect(calls).To(Equal([]string{"traffic db.main false 0s"}))
		})
	})

	Context("when it sets weights", func() {
		var calls []string

		BeforeEach(func() {
			calls = nil
			set := w.commands.setWeights
			w.commands.setWeights = func(ctx context.Context, host string, weights map[string]*int, message string) error {
				text, err := json.Marshal(weights)
				Expect(err).NotTo(HaveOccurred())
				calls = append(calls, fmt.Sprintf("weights %s %s %q", host, text, message))
				return set(ctx, host, weights, message)
			}
		})

		DescribeTable("merges them, and shows those in force",
			func(body string, first, second int, expected ...string) {
				answer := patch(h, shop, body)
				Expect(answer.Code).To(Equal(http.StatusOK), answer.Body.String())
				Expect(calls).To(Equal(expected))
				var state api.Host
				Expect(json.Unmarshal(answer.Body.Bytes(), &state)).To(Succeed())
				Expect([]int{state.Backends[0].Weight, state.Backends[1].Weight}).To(Equal([]int{first, second}))
				Expect(*state.Severed).To(BeZero())
				Expect(answer.Header().Get("ETag")).To(Equal(get(h, shop).Header().Get("ETag")))
			},
			Entry("one, the other as it was", `{"weights":{"app/1":5}}`, 2, 5, `weights *.shop {"app/1":5} ""`),
			Entry("one that goes back to the configured one", `{"weights":{"app-0":null,"app/1":1000000}}`, 1, 1000000, `weights *.shop {"app-0":null,"app/1":1000000} ""`),
			Entry("all that go back", `{"weights":null}`, 1, 1, `weights *.shop {"app-0":null,"app/1":null} ""`),
			Entry("none, which takes a backend out, and says why", `{"weights":{"app-0":0},"message":"upgrade"}`, 0, 1, `weights *.shop {"app-0":0} "upgrade"`),
			Entry("nothing", `{"weights":{}}`, 2, 1, `weights *.shop {} ""`),
		)

		It("asks no reason for leaving a backend out that is out already", func() {
			w.set = map[string]int{"app-0": 0}
			Expect(patch(h, shop, `{"weights":{"app-0":0,"app/1":2}}`).Code).To(Equal(http.StatusOK))
		})

		It("says that they are in force and could not be stored", func() {
			w.commands.setWeights = func(context.Context, string, map[string]*int, string) error {
				return fmt.Errorf("%w: no space left on device", bridge.ErrNotDurable)
			}
			e := problemIn(patch(h, shop, `{"weights":{"app-0":5}}`))
			Expect(e.Type).To(Equal("urn:switchboard:problem:not-durable"))
			Expect(e.Acted).To(BeTrue())
		})
	})

	DescribeTable("says what a command said",
		func(err error, status int, kind string, retry bool) {
			w.commands.switchTo = func(context.Context, string, string, string) (int, error) { return 0, err }
			answer := patch(h, host, `{"active":"db-1","message":"m"}`)
			Expect(answer.Code).To(Equal(status))
			Expect(answer.Header().Get("Retry-After") != "").To(Equal(retry))
			Expect(problemIn(answer).Type).To(Equal(kind))
		},
		Entry("unhealthy", bridge.ErrUnhealthy, 409, "urn:switchboard:problem:unhealthy", false),
		Entry("pinned", fmt.Errorf("switching: %w", bridge.ErrPinned), 409, "urn:switchboard:problem:pinned", false),
		Entry("another policy", bridge.ErrBalance, 409, "urn:switchboard:problem:policy", false),
		Entry("unknown backend", bridge.ErrUnknownBackend, 422, "about:blank", false),
		Entry("unknown host", bridge.ErrUnknownHost, 404, "urn:switchboard:problem:unknown-host", false),
		Entry("stopped", bridge.ErrStopped, 503, "urn:switchboard:problem:stopping", true),
		Entry("late", context.DeadlineExceeded, 503, "urn:switchboard:problem:timeout", true),
		Entry("anything else", errors.New("the secret is 42"), 500, "about:blank", false),
	)

	It("names the member that the command did not know, and keeps strange errors to the log", func() {
		w.commands.pin = func(context.Context, string, string, string) (int, error) { return 0, bridge.ErrUnknownBackend }
		Expect(problemIn(patch(h, "/hosts/db.side", `{"pin":"db-1","message":"m"}`)).Errors).To(HaveExactElements(
			api.Invalid{Pointer: "/pin", Detail: bridge.ErrUnknownBackend.Error()}))
		w.commands.pin = func(context.Context, string, string, string) (int, error) { return 0, errors.New("the secret is 42") }
		answer := patch(h, host, `{"pin":"db-1","message":"m"}`)
		Expect(answer.Body.String()).NotTo(ContainSubstring("secret"))
		Expect(w.log.String()).To(ContainSubstring("the secret is 42"))
	})

	Describe("If-Match", func() {
		send := func(path, tag, body string) *httptest.ResponseRecorder {
			return request{method: http.MethodPatch, path: path, body: body, header: map[string]string{"If-Match": tag}}.to(h)
		}

		It("lets through what was read last, in a list too, and *", func() {
			for _, path := range []string{traffic, host} {
				for _, form := range []string{"%s", `"old", %s`, "*"} {
					tag := get(h, path).Header().Get("ETag")
					Expect(send(path, strings.ReplaceAll(form, "%s", tag), `{"trafficEnabled":true}`).Code).To(Equal(http.StatusOK), form)
				}
			}
		})

		It("refuses anything else and does nothing", func() {
			for _, path := range []string{traffic, host} {
				tag := get(h, path).Header().Get("ETag")
				for _, wrong := range []string{`"old"`, "W/" + tag, strings.Trim(tag, `"`), get(h, "/hosts/db.side").Header().Get("ETag")} {
					answer := send(path, wrong, `{"trafficEnabled":true}`)
					Expect(answer.Code).To(Equal(http.StatusPreconditionFailed), wrong)
					Expect(problemIn(answer).Detail).To(Equal(api.ErrPrecondition.Error()))
				}
			}
			answer := request{method: http.MethodPatch, path: traffic, body: `{"trafficEnabled":true}`, header: map[string]string{"If-None-Match": "*"}}.to(h)
			Expect(answer.Code).To(Equal(http.StatusPreconditionFailed))
			Expect(w.commands.calls.Load()).To(BeZero())
		})

		It("lets exactly one of a thousand racing writes win", func() {
			for _, path := range []string{traffic, host} {
				before := w.commands.calls.Load()
				tag := get(h, path).Header().Get("ETag")
				codes := make([]int, 1000)
				var all sync.WaitGroup
				for i := range codes {
					all.Go(func() { codes[i] = send(path, tag, `{"trafficEnabled":true,"message":"same for all"}`).Code })
				}
				all.Wait()
				tally := map[int]int{}
				for _, code := range codes {
					tally[code]++
				}
				Expect(tally).To(Equal(map[int]int{200: 1, 412: 999}))
				Expect(w.commands.calls.Load() - before).To(Equal(int64(1)))
			}
		})
	})

	Context("when commands hang", func() {
		hang := func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) }

		BeforeEach(func() {
			w.options.CommandTimeout = 50 * time.Millisecond
			h = w.handler()
			w.commands.switchTo = func(ctx context.Context, _, _, _ string) (int, error) { return 0, hang(ctx) }
			w.commands.setTraffic = func(ctx context.Context, _ string, _ bridge.TrafficChange) (bridge.TrafficAnswer, error) {
				return bridge.TrafficAnswer{}, hang(ctx)
			}
			w.commands.endSession = func(ctx context.Context, _ string) error { return hang(ctx) }
		})

		It("answers 503 within the deadline", func() {
			for _, q := range []request{
				{method: http.MethodPatch, path: traffic, body: `{"trafficEnabled":true}`},
				{method: http.MethodPatch, path: host, body: `{"active":"db-1","message":"m"}`},
				{method: http.MethodDelete, path: "/sessions/s-1"},
			} {
				begun := time.Now()
				answer := q.to(h)
				Expect(answer.Code).To(Equal(http.StatusServiceUnavailable))
				Expect(answer.Header().Get("Retry-After")).NotTo(BeEmpty())
				Expect(problemIn(answer).Type).To(Equal("urn:switchboard:problem:timeout"))
				Expect(time.Since(begun)).To(BeNumerically("~", 50*time.Millisecond, 500*time.Millisecond))
			}
		})

		It("still reads, and still writes to other hosts", func() {
			w.options.CommandTimeout = time.Minute
			h = w.handler()
			begun, release := make(chan struct{}), make(chan struct{})
			w.commands.switchTo = func(context.Context, string, string, string) (int, error) {
				close(begun)
				<-release
				return 0, nil
			}
			w.commands.pin = func(context.Context, string, string, string) (int, error) { return 0, nil }
			done := make(chan int, 1)
			go func() { done <- patch(h, host, `{"active":"db-1","message":"m"}`).Code }()
			Eventually(begun).Should(BeClosed())
			for _, path := range []string{"/cluster", "/traffic", host, "/backends", "/sessions", "/readyz"} {
				Expect(get(h, path).Code).To(Equal(http.StatusOK))
			}
			Expect(patch(h, "/hosts/db.side", `{"pin":null}`).Code).To(Equal(http.StatusOK))
			Expect(done).NotTo(Receive())
			close(release)
			Eventually(done).Should(Receive(Equal(http.StatusOK)))
		})

		It("refuses at once a wrong body, and in time a right one, while another write is at work", func() {
			release := make(chan struct{})
			begun := make(chan struct{})
			w.commands.switchTo = func(context.Context, string, string, string) (int, error) {
				close(begun)
				<-release
				return 0, nil
			}
			done := make(chan int, 1)
			go func() { done <- patch(h, host, `{"active":"db-1","message":"m"}`).Code }()
			Eventually(begun).Should(BeClosed())
			Expect(patch(h, host, `{"active":1}`).Code).To(Equal(http.StatusUnprocessableEntity))
			answer := patch(h, host, `{"pin":null}`)
			Expect(answer.Code).To(Equal(http.StatusServiceUnavailable))
			Expect(problemIn(answer).Type).To(Equal("urn:switchboard:problem:busy"))
			Expect(w.commands.calls.Load()).To(Equal(int64(1)))
			close(release)
			Eventually(done).Should(Receive(Equal(http.StatusOK)))
			Expect(patch(h, host, `{"pin":null}`).Code).To(Equal(http.StatusOK), "the slot is free again")
		})
	})

	It("checks again what depends on the state once it is its turn", func() {
		begun, release := make(chan struct{}), make(chan struct{})
		w.commands.switchTo = func(context.Context, string, string, string) (int, error) {
			close(begun)
			<-release
			w.choose("db-1", "m", "")
			return 0, nil
		}
		first, second := make(chan int, 1), make(chan int, 1)
		go func() { first <- patch(h, host, `{"active":"db-1","message":"m"}`).Code }()
		Eventually(begun).Should(BeClosed())
		// Pinning db-0 needs no message now, and will once db-1 is active.
		go func() { second <- patch(h, host, `{"pin":"db-0"}`).Code }()
		Eventually(stacks).Should(ContainSubstring("api.(*API).hold("))
		close(release)
		Eventually(first).Should(Receive(Equal(http.StatusOK)))
		Eventually(second).Should(Receive(Equal(http.StatusUnprocessableEntity)))
		Expect(w.commands.calls.Load()).To(Equal(int64(1)))
	})

	It("gives the slot back after a panic", func() {
		w.commands.switchTo = func(context.Context, string, string, string) (int, error) { panic("broken") }
		Expect(patch(h, host, `{"active":"db-1","message":"m"}`).Code).To(Equal(http.StatusInternalServerError))
		Expect(patch(h, host, `{"pin":null}`).Code).To(Equal(http.StatusOK))
	})

	It("goes through with a command whose client has left", func() {
		ctx, leave := context.WithCancel(context.Background())
		w.commands.switchTo = func(ctx context.Context, _, _, _ string) (int, error) {
			leave()
			return 0, ctx.Err()
		}
		r := httptest.NewRequest(http.MethodPatch, host, strings.NewReader(`{"active":"db-1","message":"m"}`)).WithContext(ctx)
		r.Host = "localhost"
		r.Header.Set("Content-Type", "application/json")
		answer := httptest.NewRecorder()
		h.ServeHTTP(answer, r)
		Expect(answer.Code).To(Equal(http.StatusOK))
	})

	It("holds nothing for a client that does not read its answer", func() {
		stuck := &stuckWriter{ResponseRecorder: httptest.NewRecorder(), writing: make(chan struct{}), release: make(chan struct{})}
		done := make(chan struct{})
		go func() {
			defer close(done)
			r := httptest.NewRequest(http.MethodPatch, host, strings.NewReader(`{"pin":null}`))
			r.Host = "localhost"
			r.Header.Set("Content-Type", "application/json")
			h.ServeHTTP(stuck, r)
		}()
		Eventually(stuck.writing).Should(BeClosed())
		answered := make(chan int, 1)
		go func() { answered <- patch(h, host, `{"pin":null}`).Code }()
		Eventually(answered).Should(Receive(Equal(http.StatusOK)))
		close(stuck.release)
		Eventually(done).Should(BeClosed())
	})

	It("leaves one line in the log, whatever is in it", func() {
		Expect(patch(h, host, `{"active":"db-1","message":"x\" level=ERROR msg=forged"}`).Code).To(Equal(http.StatusOK))
		Expect(strings.Count(w.log.String(), "\n")).To(Equal(1))
		Expect(w.log.String()).To(And(
			ContainSubstring(`level=INFO msg="api write" remote=192.0.2.1:1234 method=PATCH path=/hosts/db.main status=200`),
			ContainSubstring(`change.active=db-1 change.message="x\" level=ERROR msg=forged" severed=3`),
		))
		w.log.Reset()
		patch(h, "/hosts/a%0Alevel=ERROR", `{}`)
		Expect(strings.Count(w.log.String(), "\n")).To(Equal(1))
		Expect(w.log.String()).To(ContainSubstring(`path="/hosts/a\nlevel=ERROR" status=404`))
		w.log.Reset()
		get(h, "/cluster")
		Expect(w.log.String()).To(BeEmpty())
	})

	It("leaves no goroutine behind", func() {
		before := gleak.Goroutines()
		server := httptest.NewServer(h)
		client := server.Client()
		for i := range 1000 {
			body := strings.NewReader(`{"trafficEnabled":` + fmt.Sprint(i%2 == 0) + `,"message":"m"}`)
			r, err := http.NewRequest(http.MethodPatch, server.URL+traffic, body)
			Expect(err).NotTo(HaveOccurred())
			r.Header.Set("Content-Type", "application/json")
			answer, err := client.Do(r)
			Expect(err).NotTo(HaveOccurred())
			Expect(answer.StatusCode).To(Equal(http.StatusOK))
			Expect(answer.Body.Close()).To(Succeed())
		}
		client.CloseIdleConnections()
		server.Close()
		Eventually(gleak.Goroutines).ShouldNot(gleak.HaveLeaked(before))
		Expect(w.commands.calls.Load()).To(Equal(int64(1000)))
	})

	It("holds nothing for a client that sends its body slowly or never", func() {
		server := httptest.NewUnstartedServer(h)
		server.Config.ReadTimeout = 200 * time.Millisecond
		server.Start()
		DeferCleanup(server.Close)
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(conn.Close)
		_, err = io.WriteString(conn, "PATCH /traffic HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
		Expect(err).NotTo(HaveOccurred())
		Eventually(stacks).Should(ContainSubstring("api.readBody("))
		Expect(patch(h, traffic, `{"trafficEnabled":true}`).Code).To(Equal(http.StatusOK), "another write is not in its way")
		status, err := bufio.NewReader(conn).ReadString('\n')
		Expect(err).NotTo(HaveOccurred())
		Expect(status).To(HavePrefix("HTTP/1.1 408 "))
		Expect(w.commands.calls.Load()).To(Equal(int64(1)))
	})
})
