package api_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"pgregory.net/rapid"

	"switchboard/api"
	"switchboard/bridge"
	"switchboard/bridge/route"
	"switchboard/fixtures/spec"
)

// TestAppend holds what is appended by hand against encoding/json: not a byte may differ.
func TestAppend(t *testing.T) {
	// Plain names, and any bytes that a name or a message could have.
	text := rapid.OneOf(rapid.StringMatching(`[a-z0-9.:-]{0,12}`), rapid.String(), rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) }))
	at := rapid.Ptr(rapid.Map(rapid.Int64Range(0, 1<<60), func(n int64) time.Time { return time.Unix(0, n).UTC() }), true)
	count := rapid.IntRange(-1, 1<<40)
	backend := rapid.Custom(func(t *rapid.T) api.Backend {
		return api.Backend{
			Host: text.Draw(t, "host"), Name: text.Draw(t, "name"), Address: text.Draw(t, "address"), Healthy: rapid.Bool().Draw(t, "healthy"),
			Active: rapid.Bool().Draw(t, "active"), Weight: count.Draw(t, "weight"), CurrentSessionCount: count.Draw(t, "sessions"),
			Check: api.Check{At: at.Draw(t, "at"), TookMs: rapid.Float64().Draw(t, "took"), Detail: text.Draw(t, "detail")},
		}
	})
	host := rapid.Custom(func(t *rapid.T) api.Host {
		h := api.Host{
			Host: text.Draw(t, "host"), Policy: text.Draw(t, "policy"), FromTable: rapid.Bool().Draw(t, "fromTable"), Epoch: rapid.Uint64().Draw(t, "epoch"),
			Since: at.Draw(t, "since"), Reason: text.Draw(t, "reason"), Pin: rapid.Ptr(text, true).Draw(t, "pin"),
			Traffic: api.Traffic{
				TrafficEnabled: rapid.Bool().Draw(t, "enabled"), Message: text.Draw(t, "message"), LastUpdated: at.Draw(t, "updated"), DrainUntil: at.Draw(t, "until"),
				CurrentSessionCount: count.Draw(t, "sessions"), Severed: rapid.Ptr(count, true).Draw(t, "severed"),
			},
			Backends: rapid.SliceOfN(backend, 0, 3).Draw(t, "backends"),
		}
		if rapid.Bool().Draw(t, "is active") {
			h.Active = &api.ActiveBackend{Name: text.Draw(t, "active"), Address: text.Draw(t, "its address")}
		}
		if rapid.Bool().Draw(t, "was asked") {
			h.HTTP = &api.HTTP{Requests: 1, Classes: map[string]int64{"2xx": 1}, Latency: api.Latency{SumMs: 0.5}}
		}
		if h.Backends == nil {
			h.Backends = []api.Backend{}
		}
		return h
	})
	session := rapid.Custom(func(t *rapid.T) api.Session {
		return api.Session{
			ID: text.Draw(t, "id"), Protocol: text.Draw(t, "protocol"), Host: text.Draw(t, "host"), Listener: text.Draw(t, "listener"), Backend: text.Draw(t, "backend"),
			Client: text.Draw(t, "client"), Since: at.Draw(t, "since"), BytesToBackend: rapid.Int64().Draw(t, "to backend"), BytesToClient: rapid.Int64().Draw(t, "to client"),
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		h, b, s := host.Draw(t, "host"), backend.Draw(t, "backend"), session.Draw(t, "session")
		for _, same := range []struct {
			value any
			ours  []byte
		}{{h, api.AppendHost(nil, &h)}, {b, api.AppendBackend(nil, &b)}, {s, api.AppendSession(nil, &s)}} {
			text, err := json.Marshal(same.value)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(same.ours, text) {
				t.Fatalf("%s is not\n%s", same.ours, text)
			}
		}
	})
}

// enlarge gives the router so many more hosts, and counts those that are looked at.
func (w *world) enlarge(n int, look func()) {
	on := bridge.Traffic{Enabled: true}
	for i := range n {
		name := fmt.Sprintf("host-%d", i)
		cluster := bridge.Cluster{Host: name, Backends: []bridge.BackendState{{Backend: route.NewBackend("b", "10.0.0.1:80"), Verdict: true, Healthy: true}}}
		w.options.Sources.Hosts = append(w.options.Sources.Hosts, api.HostSource{
			Name: name, Policy: route.Balance,
			Cluster:   func() (bridge.Cluster, bool) { look(); return cluster, true },
			Traffic:   func() (bridge.Traffic, bool) { return on, true },
			Counts:    func() bridge.Counts { return bridge.Counts{Sessions: i, Backends: map[string]int{"b": i}} },
			CountInto: func(c *bridge.Counts) { clear(c.Backends); c.Sessions, c.Backends["b"] = i, i },
		})
	}
}

var _ = Describe("A long answer", func() {
	BeforeEach(func() { spec.CheckLeaks() })

	It("has the bytes of the state as it is in Go", func() {
		w := newWorld()
		w.options.Sources.Name = `"clusters":[]`
		w.enlarge(3000, func() {})
		h := w.handler()
		state := w.options.Sources.Cluster()
		Expect(state.Clusters[3000].Backends[0].CurrentSessionCount).To(Equal(2997))
		for path, body := range map[string]any{"/cluster": state, "/hosts": map[string]any{"hosts": state.Clusters}} {
			text, err := json.Marshal(body)
			Expect(err).NotTo(HaveOccurred())
			for range 2 { // in a new buffer, and in one that was used
				Expect(get(h, path).Body.String()).To(Equal(string(text) + "\n"))
			}
		}
	})

	It("is given up when who asks has left", func() {
		w, looked := newWorld(), 0
		const hosts = 10_000 // more than any machine looks at in a turn
		w.enlarge(hosts, func() { looked++ })
		h := w.handler()
		Expect(func() { request{method: http.MethodGet, path: "/cluster", gone: true}.to(h) }).To(PanicWith(http.ErrAbortHandler))
		Expect(looked).To(BeNumerically("<", hosts))
		Expect(get(h, "/healthz").Code).To(Equal(http.StatusOK))
	})
})
