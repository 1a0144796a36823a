package web_test

import (
	"fmt"
	"io"
	"net/http"
	"slices"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/bridge"
	"switchboard/bridge/route"
)

var _ = Describe("Choices", func() {
	// startThree runs a host of three instances that answer with their names.
	startThree := func(change func(*bridge.HostOptions)) (r *rig, addrs []string) {
		GinkgoHelper()
		for _, name := range []string{"b0", "b1", "b2"} {
			addrs = append(addrs, startBackend(name, nil).addr)
		}
		return startRig(rigOptions{hosts: []hostSpec{{name: "a.test", backends: addrs, bridge: change}}}), addrs
	}

	// asker asks on connections that it keeps, with fields.
	asker := func(r *rig) func(fields ...string) string {
		transport := &http.Transport{MaxIdleConnsPerHost: 1}
		DeferCleanup(transport.CloseIdleConnections)
		return func(fields ...string) string {
			GinkgoHelper()
			request := must(http.NewRequest("GET", "http://"+r.addr+"/", nil))
			request.Host = "a.test"
			for i := 0; i < len(fields); i += 2 {
				request.Header.Add(fields[i], fields[i+1])
			}
			response, err := transport.RoundTrip(request)
			Expect(err).NotTo(HaveOccurred())
			defer response.Body.Close()
			return string(must(io.ReadAll(response.Body)))
		}
	}

	It("gives each instance its share of the requests, also of one connection", func() {
		r, _ := startThree(nil)
		Expect(r.bridge.Host("a.test").SetWeights(GinkgoT().Context(), map[string]int{"b0": 8, "b1": 2, "b2": 0})).To(Succeed())
		ask := asker(r)
		shares := map[string]int{}
		const requests = 2000
		for range requests {
			shares[ask()]++
		}
		// Five standard deviations of a fifth of 2,000 are 89.
		Expect(shares["b1"]).To(BeNumerically("~", requests/5, 90))
		Expect(shares["b0"]).To(Equal(requests - shares["b1"]))
	})

	DescribeTable("keeps whoever it knows to one instance, and moves nobody else when one goes",
		func(by string, field func(i int) []string) {
			sticky := must(route.ParseStickyBy(by))
			r, addrs := startThree(func(o *bridge.HostOptions) { o.Choose, o.StickyBy = route.Sticky, sticky })
			const visitors = 60
			place := func() (places [visitors]string) {
				// A connection of its own each time: it is not the connection that sticks.
				for i := range places {
					ask := asker(r)
					places[i] = ask(field(i)...)
				}
				return places
			}
			before := place()
			Expect(place()).To(Equal(before))
			Expect(before[:]).To(ContainElements("b0", "b1", "b2"))
			r.up("a.test", addrs[0], "", addrs[2])
			Eventually(func() string { return asker(r)(field(slices.Index(before[:], "b1"))...) }).ShouldNot(Equal("b1"))
			for i, now := range place() {
				if before[i] != "b1" {
					Expect(now).To(Equal(before[i]))
				} else {
					Expect(now).To(BeElementOf("b0", "b2"))
				}
			}
			r.up("a.test", addrs...)
			Eventually(func() [visitors]string { return place() }, "5s").Should(Equal(before))
		},
		Entry("by a cookie", "cookie:visitor", func(i int) []string { return []string{"Cookie", fmt.Sprintf("other=1; visitor=v%d", i)} }),
		Entry("by a header", "header:X-Tenant", func(i int) []string { return []string{"x-tenant", fmt.Sprint("t", i)} }),
	)

	It("keeps a client to one instance by its address", func() {
		r, _ := startThree(func(o *bridge.HostOptions) {
			o.Choose, o.StickyBy = route.Sticky, route.StickyBy{Kind: route.ByClient}
		})
		first := asker(r)()
		for range 20 {
			Expect(asker(r)()).To(Equal(first))
		}
	})

	It("spreads those that it does not know", func() {
		r, _ := startThree(func(o *bridge.HostOptions) {
			o.Choose, o.StickyBy = route.Sticky, route.StickyBy{Kind: route.ByCookie, Name: "visitor"}
		})
		ask, seen := asker(r), map[string]int{}
		for range 100 {
			seen[ask()]++
		}
		Expect(seen).To(HaveLen(3))
	})

	It("prefers the instance with the fewest requests in flight", func() {
		release := make(chan struct{})
		slow := startBackend("slow", func(_ http.ResponseWriter, r *http.Request) { <-release })
		quick := startBackend("quick", nil)
		r := startRig(rigOptions{hosts: []hostSpec{{name: "a.test", backends: []string{slow.addr, quick.addr}, bridge: func(o *bridge.HostOptions) {
			o.Choose = route.LeastSessions
		}}}})
		defer close(release)
		// One request waits at the slow one, sooner or later; from then on it has one more.
		sent := int64(0)
		Eventually(func() int64 {
			r.dial().send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
			sent++
			return slow.requests.Load()
		}).Should(BeNumerically(">=", 1))
		Eventually(func() int64 { return slow.requests.Load() + quick.requests.Load() }).Should(Equal(sent))
		Eventually(func() int { return r.bridge.Host("a.test").Counts().Backends["b1"] }).Should(BeZero())
		before := slow.requests.Load()
		ask := asker(r)
		for range 50 {
			Expect(ask()).To(Equal("quick"))
		}
		Expect(slow.requests.Load()).To(Equal(before))
	})
})
