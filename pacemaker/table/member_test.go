package table_test

import (
	"fmt"
	"net/netip"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/bridge/route"
	"switchboard/pacemaker/table"
)

var _ = Describe("Member", func() {
	DescribeTable("is read as it is written",
		func(text string, want table.Member, name string) {
			m, err := table.ParseMember(text)
			Expect(err).NotTo(HaveOccurred())
			Expect(m).To(Equal(want))
			Expect(m.String()).To(Equal(text))
			Expect(m.Name()).To(Equal(name))
			Expect(route.ValidBackendName(name)).To(Succeed())
			Expect(route.ValidBackendName(m.AddressName())).To(Succeed())
		},
		Entry("an instance", "10.0.0.1:42600#12#3#77", table.Member{Address: netip.MustParseAddrPort("10.0.0.1:42600"), Type: "12", Node: "3", Instance: "77"}, "77"),
		Entry("a pacemaker", "10.0.0.1:42500#pacemaker#3#null", table.Member{Address: netip.MustParseAddrPort("10.0.0.1:42500"), Type: "pacemaker", Node: "3"}, "10.0.0.1-42500"),
		Entry("nothing known", "[2001:db8::1]:80#null#null#null", table.Member{Address: netip.MustParseAddrPort("[2001:db8::1]:80")}, "2001-0db8-0000-0000-0000-0000-0000-0001-80"),
		Entry("loopback", "127.0.0.1:80#a#b#web/0", table.Member{Address: netip.MustParseAddrPort("127.0.0.1:80"), Type: "a", Node: "b", Instance: "web/0"}, "web/0"),
	)

	It("has one spelling of an address", func() {
		m, err := table.ParseMember("[::ffff:10.0.0.1]:80#1#2#3")
		Expect(err).NotTo(HaveOccurred())
		Expect(m.String()).To(Equal("10.0.0.1:80#1#2#3"))
	})

	DescribeTable("is refused",
		func(text, words string) {
			_, err := table.ParseMember(text)
			Expect(err).To(MatchError(ContainSubstring(words)))
			Expect(len(err.Error())).To(BeNumerically("<", 800))
		},
		Entry("empty", "", "is not IP:PORT#TYPE#NODE#INSTANCE"),
		Entry("three parts", "10.0.0.1:80#1#2", "is not IP:PORT#TYPE#NODE#INSTANCE"),
		Entry("five parts", "10.0.0.1:80#1#2#3#4", "is not IP:PORT#TYPE#NODE#INSTANCE"),
		Entry("a name", "localhost:80#1#2#3", "not a numeric IP address"),
		Entry("no port", "10.0.0.1#1#2#3", "not a numeric IP address"),
		Entry("a port too high", "10.0.0.1:65536#1#2#3", "not a numeric IP address"),
		Entry("a port of its own spelling", "10.0.0.1:080#1#2#3", "one spelling"),
		Entry("an octal address", "010.0.0.1:80#1#2#3", "not a numeric IP address"),
		Entry("port 0", "10.0.0.1:0#1#2#3", "port 0"),
		Entry("IPv6 without brackets", "::1:80#1#2#3", "not a numeric IP address"),
		Entry("a zone", "[fe80::1%eth0]:80#1#2#3", "has a zone"),
		Entry("link-local", "169.254.169.254:80#1#2#3", "link-local"),
		Entry("link-local in disguise", "[::ffff:169.254.169.254]:80#1#2#3", "link-local"),
		Entry("link-local IPv6", "[fe80::1]:80#1#2#3", "link-local"),
		Entry("unspecified", "0.0.0.0:80#1#2#3", "unspecified"),
		Entry("unspecified IPv6", "[::]:80#1#2#3", "unspecified"),
		Entry("multicast", "[ff02::1]:80#1#2#3", "multicast"),
		Entry("a Unix socket", "unix:/run/x.sock#1#2#3", "not a numeric IP address"),
		Entry("an empty key", "10.0.0.1:80##2#3", "empty key"),
		Entry("a key with a space", "10.0.0.1:80#1#2#a b", "is not a key"),
		Entry("a key with a line break", "10.0.0.1:80#1#2#a\nb", "is not a key"),
		Entry("a key that is no text", "10.0.0.1:80#1#\xff#3", "is not a key"),
		Entry("a long key", "10.0.0.1:80#1#2#"+strings.Repeat("x", table.MaxKey+1), "too long"),
		Entry("10 MB", strings.Repeat("#", 10<<20), "is not IP:PORT"),
	)

	It("gives each backend of a host a name, the same on every router", func() {
		decode := func(members ...string) (names []string, rejected int) {
			host := table.DecodeHost("a", members, nil, nil, func(table.Rejection) { rejected++ })
			for _, b := range host.Backends {
				names = append(names, fmt.Sprint(b.Name, "@", b.Address))
			}
			return names, rejected
		}
		twice := []string{"10.0.0.2:80#1#1#i", "10.0.0.1:80#1#1#i", "10.0.0.3:80#1#1#null", "10.0.0.3:80#1#2#null"}
		names, rejected := decode(twice...)
		Expect(names).To(Equal([]string{"10.0.0.2-80@10.0.0.2:80", "10.0.0.3-80@10.0.0.3:80", "i@10.0.0.1:80"}))
		Expect(rejected).To(Equal(1))
		again, _ := decode(twice[3], twice[2], twice[1], twice[0])
		Expect(again).To(Equal(names))
	})

	DescribeTable("a host's fields are rejected one by one",
		func(fields map[string]string, want route.Host, rejected int) {
			n := 0
			host := table.DecodeHost("a", []string{"10.0.0.1:80#1#2#i"}, fields, nil, func(table.Rejection) { n++ })
			want.Name, want.Backends = "a", []route.Backend{{Name: "i", Address: "10.0.0.1:80", Weight: 1, Origin: "1#2#i"}}
			Expect(*host).To(Equal(want))
			Expect(n).To(Equal(rejected))
			_, err := route.NewTable(route.Options{}, host)
			Expect(err).NotTo(HaveOccurred())
		},
		Entry("none", nil, route.Host{Policy: route.Balance}, 0),
		Entry("active", map[string]string{"policy": "active"}, route.Host{Policy: route.Active}, 0),
		Entry("active and chosen", map[string]string{"policy": "active", "choose": "random"}, route.Host{Policy: route.Active}, 1),
		Entry("sticky by nothing", map[string]string{"choose": "sticky"}, route.Host{Policy: route.Balance}, 1),
		Entry("sticky by nonsense", map[string]string{"choose": "sticky", "sticky_by": "moon"}, route.Host{Policy: route.Balance}, 2),
		Entry("a weight of another spelling", map[string]string{"weight:i": "01"}, route.Host{Policy: route.Balance}, 1),
		Entry("a weight too high", map[string]string{"weight:i": "1000001"}, route.Host{Policy: route.Balance}, 1),
		Entry("a weight of one who is not there", map[string]string{"weight:j": "3"}, route.Host{Policy: route.Balance}, 0),
		Entry("a hold that is negative", map[string]string{"hold": "-1s"}, route.Host{Policy: route.Balance}, 1),
	)
})
