package route_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unsafe"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/bridge/route"
)

// balanced is a host with one backend.
func balanced(name string) *route.Host {
	return &route.Host{Name: name, Policy: route.Balance, Backends: []route.Backend{route.NewBackend("web-0", "10.0.0.1:80")}}
}

func newTable(o route.Options, names ...string) *route.Table {
	GinkgoHelper()
	var hosts []*route.Host
	for _, name := range names {
		hosts = append(hosts, balanced(name))
	}
	table, err := route.NewTable(o, hosts...)
	Expect(err).NotTo(HaveOccurred())
	return table
}

// nameOf is the name of h, empty if there is none.
func nameOf(h *route.Host) string {
	if h == nil {
		return ""
	}
	return h.Name
}

var _ = Describe("Table", func() {
	DescribeTable("finds",
		func(depth int, name, found string) {
			table := newTable(route.Options{Depth: depth},
				"example.com", "www.example.com", "*.example.com", "*.a.example.com", "*.0.0.1", "10.0.0.1", "2001:db8::1", "localhost")
			Expect(nameOf(table.LookupString(name))).To(Equal(found))
			Expect(nameOf(table.Lookup([]byte(name)))).To(Equal(found))
		},
		Entry("the exact name before a wildcard", 0, "www.example.com", "www.example.com"),
		Entry("a wildcard for one label", 0, "mail.example.com", "*.example.com"),
		Entry("no wildcard for two", 0, "x.b.example.com", ""),
		Entry("nor if told so", 1, "x.b.example.com", ""),
		Entry("a wildcard for two with depth 2", 2, "x.b.example.com", "*.example.com"),
		Entry("no wildcard for three with depth 2", 2, "y.x.b.example.com", ""),
		Entry("the wildcard with more labels first", 2, "x.a.example.com", "*.a.example.com"),
		Entry("the exact name before what it is a suffix of", 0, "example.com", "example.com"),
		Entry("a wildcard that stands for a name which is a wildcard's end", 0, "a.example.com", "*.example.com"),
		Entry("an IPv4 address", 0, "10.0.0.1", "10.0.0.1"),
		Entry("no wildcard for an IPv4 address", 3, "11.0.0.1", ""),
		Entry("an IPv6 address", 0, "2001:db8::1", "2001:db8::1"),
		Entry("a name that only looks like an address", 0, "256.0.0.1", "*.0.0.1"),
		Entry("a name of one label", 0, "localhost", "localhost"),
		Entry("nothing for another", 9, "remotehost", ""),
		Entry("nothing for no name", 9, "", ""),
		Entry("nothing for dots", 9, "..", ""),
	)

	It("falls back to the catch-all, for addresses too", func() {
		table := newTable(route.Options{}, "*", "*.example.com")
		for _, name := range []string{"a.b.example.com", "10.0.0.1", "::1", "x", ""} {
			Expect(nameOf(table.LookupString(name))).To(Equal("*"), name)
		}
		Expect(nameOf(table.LookupString("a.example.com"))).To(Equal("*.example.com"))
	})

	It("finds names of every length", func() {
		var names []string
		for n := 1; n <= route.MaxName; n++ {
			names = append(names, strings.Repeat("a", n), strings.Repeat("a", n-1)+"b")
		}
		table := newTable(route.Options{}, names...)
		for _, name := range names {
			Expect(nameOf(table.LookupString(name))).To(Equal(name))
		}
		Expect(table.LookupString(strings.Repeat("a", route.MaxName+1))).To(BeNil())
		Expect(table.LookupString(strings.Repeat("a", 2*256+7))).To(BeNil())
	})

	It("gets hosts by their own names", func() {
		table := newTable(route.Options{}, "example.com", "*.example.com", "*")
		for _, name := range []string{"example.com", "*.example.com", "*"} {
			Expect(nameOf(table.Get(name))).To(Equal(name))
		}
		Expect(table.Get("www.example.com")).To(BeNil())
		Expect(table.Len()).To(Equal(3))
		Expect(allNames(table)).To(Equal([]string{"*", "*.example.com", "example.com"}))
	})

	It("stops where the loop over all stops", func() {
		table := newTable(route.Options{}, "a", "b", "*.a", "*")
		for stop := 1; stop <= 4; stop++ {
			seen := 0
			for range table.All() {
				if seen++; seen == stop {
					break
				}
			}
			Expect(seen).To(Equal(stop))
		}
	})

	It("is empty when it is nil", func() {
		var table *route.Table
		Expect(table.LookupString("a")).To(BeNil())
		Expect(table.Get("a")).To(BeNil())
		Expect(table.Len()).To(BeZero())
		Expect(allNames(table)).To(BeEmpty())
		next, err := table.With([]*route.Host{balanced("*.example.com")}, []string{"b"})
		Expect(err).NotTo(HaveOccurred())
		Expect(nameOf(next.LookupString("a.example.com"))).To(Equal("*.example.com"))
	})

	It("changes into another table and remains as it is", func() {
		first := newTable(route.Options{Depth: 2}, "a.example.com", "b.example.com", "*.example.com", "*")
		again := balanced("b.example.com")
		second, err := first.With([]*route.Host{again, balanced("c.example.com")}, []string{"a.example.com", "*", "*.gone", "gone"})
		Expect(err).NotTo(HaveOccurred())
		Expect(allNames(first)).To(Equal([]string{"*", "*.example.com", "a.example.com", "b.example.com"}))
		Expect(allNames(second)).To(Equal([]string{"*.example.com", "b.example.com", "c.example.com"}))
		Expect(second.Get("b.example.com")).To(BeIdenticalTo(again))
		Expect(first.Get("b.example.com")).NotTo(BeIdenticalTo(again))
		Expect(second.Get("*.example.com")).To(BeIdenticalTo(first.Get("*.example.com")))
		Expect(nameOf(second.LookupString("x.y.example.com"))).To(Equal("*.example.com"), "the depth is kept")
	})

	It("keeps tables apart that come after the same one, however large it is", func() {
		grow := func(from *route.Table, names []string) *route.Table {
			GinkgoHelper()
			var put []*route.Host
			for _, name := range names {
				put = append(put, balanced(name))
			}
			table, err := from.With(put, nil)
			Expect(err).NotTo(HaveOccurred())
			return table
		}
		numbered := func(prefix string, n int) (names []string) {
			for i := range n {
				names = append(names, fmt.Sprint(prefix, i))
			}
			return names
		}
		trunk := newTable(route.Options{}, numbered("trunk-", 2000)...)
		for i := range 100 {
			trunk = grow(trunk, []string{fmt.Sprint("more-", i)})
			lefts, rights := numbered(fmt.Sprint("left-", i, "-"), 20), numbered(fmt.Sprint("right-", i, "-"), 20)
			before := allNames(trunk)
			left := grow(trunk, lefts)
			right := grow(trunk, rights)
			shrunk, err := left.With(nil, before)
			Expect(err).NotTo(HaveOccurred())
			for n := range lefts {
				if left.Get(lefts[n]) == nil || right.Get(rights[n]) == nil || shrunk.Get(lefts[n]) == nil ||
					left.Get(rights[n]) != nil || right.Get(lefts[n]) != nil || trunk.Get(lefts[n]) != nil {
					Fail(fmt.Sprintf("%s or %s is not where it belongs, %d hosts in", lefts[n], rights[n], len(before)))
				}
			}
			Expect(shrunk.Len()).To(Equal(len(lefts)))
			if !slices.Equal(allNames(trunk), before) {
				Fail(fmt.Sprintf("a table of %d hosts has changed", len(before)))
			}
		}
	})

	It("puts what is dropped and put at once", func() {
		table, err := newTable(route.Options{}, "a").With([]*route.Host{balanced("a")}, []string{"a"})
		Expect(err).NotTo(HaveOccurred())
		Expect(allNames(table)).To(Equal([]string{"a"}))
	})

	It("allocates nothing to look up", func() {
		table := newTable(route.Options{Depth: 3}, "a.example.com", "*.example.com", strings.Repeat("a", 200))
		for _, name := range []string{"a.example.com", "x.y.z.example.com", "10.0.0.1", strings.Repeat("a", 200), strings.Repeat("b", 200)} {
			key := []byte(name)
			Expect(allocations(func() { table.Lookup(key); table.LookupString(name); table.Get(name) })).To(BeZero(), name)
		}
	})

	It("says all that is wrong with all hosts at once", func() {
		bad := &route.Host{Name: "Example.com", Policy: "both", Choose: "best", Backends: []route.Backend{
			{Name: "", Address: "10.0.0.1:80"}, {Name: "web-0", Address: "10.0.0.1"}, {Name: "web-0", Address: "10.0.0.1:80", Weight: -1},
		}}
		active := balanced("*.10.0.0.1")
		active.Policy, active.Choose = route.Active, route.Random
		sticky := balanced("sticky")
		sticky.Choose = route.Sticky
		random := balanced("random")
		random.StickyBy = route.StickyBy{Kind: route.ByClient}
		heavy := balanced("heavy")
		heavy.Backends[0].Weight = route.MaxWeight + 1
		best := balanced("best")
		best.Choose = "best"
		table, err := route.NewTable(route.Options{}, bad, nil, balanced("a.*.b"), active, sticky, random, heavy, best, balanced("a"), balanced("a"))
		Expect(table).To(BeNil())
		Expect(strings.Split(err.Error(), "\n")).To(HaveExactElements(
			Equal(`host "Example.com": the name is not in its one spelling, "example.com"`),
			Equal(`host "Example.com": policy is "active" or "balance", not "both"`),
			Equal(`host "Example.com": backend 0: a name must not be empty`),
			ContainSubstring(`backend "web-0": "10.0.0.1" has no port`),
			Equal(`host "Example.com": backend "web-0": a weight is a number from 0 to 1000000, not -1`),
			Equal(`host "Example.com": two backends are named "web-0"`),
			Equal("a host is nil"),
			ContainSubstring(`host "a.*.b": "a.*.b" is not a name`),
			Equal(`host "*.10.0.0.1": nothing stands before an IP address`),
			Equal(`host "*.10.0.0.1": choose has no meaning under policy "active"`),
			Equal(`host "sticky": choose is "sticky", and sticky_by does not say what by`),
			Equal(`host "random": sticky_by has no meaning unless choose is "sticky"`),
			Equal(`host "heavy": backend "web-0": a weight is a number from 0 to 1000000, not 1000001`),
			Equal(`host "best": choose is "random", "least_sessions" or "sticky", not "best"`),
			Equal(`two hosts are named "a"`),
		))
		_, err = newTable(route.Options{}, "a").With([]*route.Host{balanced("*.*")}, nil)
		Expect(err).To(MatchError(ContainSubstring(`host "*.*"`)))
	})

	DescribeTable("refuses two hosts of one name, whatever is there before", func(before []string, put ...string) {
		hosts := func(names []string) (all []*route.Host) {
			for _, name := range names {
				all = append(all, balanced(name))
			}
			return all
		}
		table, err := route.NewTable(route.Options{}, hosts(before)...)
		Expect(err).NotTo(HaveOccurred())
		_, err = table.With(hosts(put), before)
		Expect(err).To(MatchError(fmt.Sprintf("two hosts are named %q", put[0])))
		_, err = table.With(hosts(put), nil)
		Expect(err).To(MatchError(fmt.Sprintf("two hosts are named %q", put[0])))
		next, err := table.With(hosts(put[1:]), nil)
		Expect(err).NotTo(HaveOccurred())
		Expect(allNames(next)).To(Equal(slices.Compact(slices.Sorted(slices.Values(slices.Concat(before, put))))))
	},
		Entry("nothing", nil, "a", "b", "a"),
		Entry("one of that name", []string{"a"}, "a", "b", "a"),
		Entry("many", []string{"a", "b", "c", "d"}, "a", "a"),
		Entry("wildcards", []string{"*.a"}, "*.a", "a", "*.a"),
		Entry("a catch-all", []string{"*"}, "*", "*"),
	)

	It("finds two backends of one name among many", func() {
		h := &route.Host{Name: "a", Policy: route.Balance}
		for i := range 100 {
			h.Backends = append(h.Backends, route.NewBackend(fmt.Sprint("web-", i), "10.0.0.1:80"))
		}
		Expect(route.NewTable(route.Options{}, h)).Error().NotTo(HaveOccurred())
		h.Backends[99].Name = "web-7"
		Expect(route.NewTable(route.Options{}, h)).Error().To(MatchError(`host "a": two backends are named "web-7"`))
	})

	It("accepts a host without backends, and drained ones", func() {
		none, drained := balanced("none"), balanced("drained")
		none.Backends, drained.Backends[0].Weight = nil, 0
		Expect(route.NewTable(route.Options{}, none, drained)).Error().NotTo(HaveOccurred())
	})

	It("refuses a negative depth", func() {
		Expect(route.NewTable(route.Options{Depth: -1})).Error().To(MatchError(ContainSubstring("depth")))
	})
})

func allNames(table *route.Table) []string {
	var names []string
	for h := range table.All() {
		names = append(names, h.Name)
	}
	slices.Sort(names)
	return names
}

var _ = Describe("Host", func() {
	It("survives JSON, weight 0 and all", func() {
		h := balanced("example.com")
		h.Choose, h.StickyBy = route.Sticky, route.StickyBy{Kind: route.ByCookie, Name: "SID"}
		h.Backends[0].Weight = 0
		text, err := json.Marshal(h)
		Expect(err).NotTo(HaveOccurred())
		Expect(text).To(MatchJSON(`{"name":"example.com","policy":"balance","choose":"sticky","sticky_by":"cookie:SID",
			"backends":[{"name":"web-0","address":"10.0.0.1:80","weight":0}]}`))
		var again *route.Host
		Expect(json.Unmarshal(text, &again)).To(Succeed())
		Expect(again).To(Equal(h))
		text, err = json.Marshal(balanced("example.com"))
		Expect(err).NotTo(HaveOccurred())
		Expect(text).To(MatchJSON(`{"name":"example.com","policy":"balance","backends":[{"name":"web-0","address":"10.0.0.1:80","weight":1}]}`))
	})

	It("is packed into an equal copy, which shares no memory with it", func() {
		long := strings.Repeat("x", 1000) + "a.example.com sticky balance user web-0 10.0.0.1:80"
		words := strings.Fields(long[1000:])
		h := &route.Host{
			Name: words[0], Choose: route.Choose(words[1]), Policy: route.Policy(words[2]),
			StickyBy: route.StickyBy{Kind: route.ByHeader, Name: words[3]},
			Backends: []route.Backend{{Name: words[4], Address: words[5], Weight: 7}, {Name: "web-1", Address: "10.0.0.2:80"}},
		}
		packed := h.Pack()
		Expect(packed).To(Equal(h))
		h.Backends[0].Weight = 8
		Expect(packed.Backends[0].Weight).To(Equal(7))
		for _, s := range []string{packed.Name, string(packed.Choose), string(packed.Policy), packed.StickyBy.Name, packed.Backends[0].Name, packed.Backends[0].Address} {
			into := uintptr(unsafe.Pointer(unsafe.StringData(s))) - uintptr(unsafe.Pointer(unsafe.StringData(long)))
			Expect(uint64(into)).To(BeNumerically(">=", uint64(len(long))), s)
		}
		none := &route.Host{Name: "none", Policy: route.Active}
		Expect(none.Pack()).To(Equal(none))
	})
})

var _ = Describe("StickyBy", func() {
	DescribeTable("is read and written",
		func(text, written string, by route.StickyBy) {
			Expect(route.ParseStickyBy(text)).To(Equal(by))
			Expect(by.String()).To(Equal(written))
		},
		Entry(nil, "client", "client", route.StickyBy{Kind: route.ByClient}),
		Entry(nil, "cookie:SID", "cookie:SID", route.StickyBy{Kind: route.ByCookie, Name: "SID"}),
		Entry(nil, "header:X-User", "header:x-user", route.StickyBy{Kind: route.ByHeader, Name: "x-user"}),
	)

	DescribeTable("refuses",
		func(text, want string) {
			by, err := route.ParseStickyBy(text)
			Expect(err).To(MatchError(ContainSubstring(want)))
			Expect(by).To(BeZero())
		},
		Entry(nil, "", "what a client is known by"),
		Entry(nil, "ip", "what a client is known by"),
		Entry(nil, "client:x", "what a client is known by"),
		Entry(nil, "cookie", "name of a cookie"),
		Entry(nil, "cookie:", "name of a cookie"),
		Entry(nil, "cookie:a=b", "name of a cookie"),
		Entry(nil, "header:x y", "name of a header"),
		Entry(nil, "header:x\n", "name of a header"),
		Entry(nil, "header:a:b", "name of a header"),
		Entry(nil, "header:\u212a", "name of a header"),
	)

	It("is nothing when it is zero", func() {
		Expect(route.StickyBy{}.String()).To(BeEmpty())
		by := route.StickyBy{Kind: route.ByClient}
		Expect(by.UnmarshalText(nil)).To(Succeed())
		Expect(by).To(BeZero())
	})
})

var _ = Describe("Key", func() {
	DescribeTable("is a host's one spelling",
		func(authority, key string) {
			got, ok := route.Key(nil, []byte(authority))
			Expect(ok).To(BeTrue())
			Expect(string(got)).To(Equal(key))
		},
		Entry(nil, "example.com", "example.com"),
		Entry("upper case", "WWW.Example.COM", "www.example.com"),
		Entry("a port", "example.com:8080", "example.com"),
		Entry("the greatest port", "example.com:65535", "example.com"),
		Entry("a trailing dot", "example.com.", "example.com"),
		Entry("a trailing dot and a port", "Example.com.:80", "example.com"),
		Entry("punycode", "XN--Bcher-kva.example", "xn--bcher-kva.example"),
		Entry("an underscore", "my_app.example.com", "my_app.example.com"),
		Entry("IPv4", "10.0.0.1:80", "10.0.0.1"),
		Entry("IPv6", "[2001:DB8:0:0::1]:443", "2001:db8::1"),
		Entry("IPv6 without a port", "[::1]", "::1"),
		Entry("IPv6 without brackets", "2001:db8::1", "2001:db8::1"),
		Entry("IPv4 in IPv6", "[::ffff:10.0.0.1]:80", "10.0.0.1"),
		Entry("the greatest length", strings.Repeat("a", route.MaxName)+".:80", strings.Repeat("a", route.MaxName)),
	)

	DescribeTable("refuses",
		func(authority string) {
			key, ok := route.Key(nil, []byte(authority))
			Expect(ok).To(BeFalse())
			Expect(key).To(BeNil())
		},
		Entry(nil, ""),
		Entry(nil, "."),
		Entry(nil, ":80"),
		Entry(nil, ".:80"),
		Entry(nil, ".example.com"),
		Entry("two trailing dots", "example.com.."),
		Entry("an empty label", "example..com"),
		Entry("an empty port", "example.com:"),
		Entry("port 0", "example.com:0"),
		Entry("a port with a zero first", "example.com:080"),
		Entry("a port out of range", "example.com:65536"),
		Entry("a long port", "example.com:18446744073709551696"),
		Entry("a port with a sign", "example.com:+80"),
		Entry("a port that is no number", "example.com:http"),
		Entry("a user", "me@example.com"),
		Entry("a path", "example.com/x"),
		Entry("a list", "a.example.com, b.example.com"),
		Entry("a space", " example.com"),
		Entry("a NUL", "example.com\x00"),
		Entry("letters of other scripts", "b\u00fccher.example"),
		Entry("a wildcard", "*.example.com"),
		Entry("the catch-all", "*"),
		Entry("no closing bracket", "[::1"),
		Entry("nothing in brackets", "[]"),
		Entry("IPv4 in brackets", "[10.0.0.1]"),
		Entry("a name in brackets", "[example.com]"),
		Entry("a dot in brackets", "[::1.]"),
		Entry("a dot after brackets", "[::1]."),
		Entry("something after brackets", "[::1]x:80"),
		Entry("a zone", "[fe80::1%25eth0]:80"),
		Entry("a zone without brackets", "fe80::1%eth0"),
		Entry("two ports", "example.com:80:80"),
		Entry("one longer than the greatest length", strings.Repeat("a", route.MaxName+1)),
	)

	It("is a part of what was sent where that is in the one spelling, and else is written over dst", func() {
		dst := make([]byte, 0, route.MaxName)
		sent := []byte("example.com.:80")
		key, ok := route.Key(dst, sent)
		Expect(ok).To(BeTrue())
		Expect(&key[0]).To(BeIdenticalTo(&sent[0]))
		upper := []byte("Example.com.:80")
		key, ok = route.Key(append(dst, "junk"...), upper)
		Expect(ok).To(BeTrue())
		Expect(&key[0]).To(BeIdenticalTo(&dst[:1][0]))
		Expect(string(key)).To(Equal("example.com"))
		Expect(string(upper)).To(Equal("Example.com.:80"))
		Expect(allocations(func() { route.Key(dst, sent); route.Key(dst, upper) })).To(BeZero())
	})
})

var _ = Describe("NewBackend", func() {
	It("has weight 1", func() {
		Expect(route.NewBackend("web-0", "10.0.0.1:80")).To(Equal(route.Backend{Name: "web-0", Address: "10.0.0.1:80", Weight: 1}))
	})
})
