package route_test

import (
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/bridge/route"
)

var _ = Describe("ValidName", func() {
	DescribeTable("accepts",
		func(name string) { Expect(route.ValidName(name)).To(Succeed()) },
		Entry(nil, "db-0"),
		Entry(nil, "db.main"),
		Entry(nil, "DB_Main.0"),
		Entry(nil, "0"),
		Entry("one of the greatest length", strings.Repeat("a", route.MaxName)),
	)

	DescribeTable("refuses",
		func(name, text string) {
			Expect(route.ValidName(name)).To(MatchError(ContainSubstring(text)))
		},
		Entry("nothing", "", "must not be empty"),
		Entry("one longer than the greatest length", strings.Repeat("a", route.MaxName+1), "at most 253"),
		Entry("a hyphen first", "-db", "is not a name"),
		Entry("a dot first", ".db", "is not a name"),
		Entry("a space", "db 0", "is not a name"),
		Entry("a colon", "db:0", "is not a name"),
		Entry("a slash", "../db", "is not a name"),
		Entry("braces, which are a hash tag in Redis (H39)", "{db}", "is not a name"),
		Entry("a line end", "db\n", "is not a name"),
		Entry("a NUL", "db\x00", "is not a name"),
		Entry("letters of other scripts", "dб", "is not a name"),
		Entry("what is around the letters in ASCII", "a@", "is not a name"),
		Entry("and after them", "a{", "is not a name"),
		Entry("invalid UTF-8", "a\xff", "is not a name"),
	)
})

var _ = Describe("ValidBackendName", func() {
	DescribeTable("accepts",
		func(name string) { Expect(route.ValidBackendName(name)).To(Succeed()) },
		Entry(nil, "db-0"),
		Entry("as BOSH names instances", "mysql/0f3ba1a8-5b1f-4c0a-9d3e-0d7c2f5c1c11"),
		Entry(nil, "a/b/c"),
	)

	DescribeTable("refuses",
		func(name, text string) {
			Expect(route.ValidBackendName(name)).To(MatchError(ContainSubstring(text)))
		},
		Entry("nothing", "", "must not be empty"),
		Entry("a slash first", "/db", "between two parts"),
		Entry("a slash last", "db/", "between two parts"),
		Entry("two slashes", "db//0", "between two parts"),
		Entry("what no name has", "mysql/a b", `"mysql/a b" is not a name`),
		Entry("one longer than the greatest length", "a/"+strings.Repeat("a", route.MaxName-1), "at most 253"),
	)
})

var _ = Describe("ParseAddress", func() {
	DescribeTable("accepts",
		func(address, host string, port int) {
			gotHost, gotPort, err := route.ParseAddress(address, false)
			Expect(err).NotTo(HaveOccurred())
			Expect(gotHost).To(Equal(host))
			Expect(gotPort).To(Equal(port))
		},
		Entry(nil, "10.0.0.1:3306", "10.0.0.1", 3306),
		Entry(nil, "[::1]:1", "::1", 1),
		Entry(nil, "[fe80::1%eth0]:65535", "fe80::1%eth0", 65535),
		Entry("another spelling of an IPv6 address", "[2001:DB8:0::1]:80", "2001:db8::1", 80),
		Entry(nil, "db-0.internal:80", "db-0.internal", 80),
		Entry(nil, "db_0:80", "db_0", 80),
		Entry("a name whose last label only begins like a number", "db.0xyz:80", "db.0xyz", 80),
	)

	It("accepts port 0 where it is told to", func() {
		_, port, err := route.ParseAddress("127.0.0.1:0", true)
		Expect(err).NotTo(HaveOccurred())
		Expect(port).To(BeZero())
		_, _, err = route.ParseAddress("127.0.0.1:0", false)
		Expect(err).To(MatchError(ContainSubstring("port 0")))
	})

	DescribeTable("refuses, and says why",
		func(address, text string) {
			host, port, err := route.ParseAddress(address, true)
			Expect(err).To(MatchError(ContainSubstring(text)))
			Expect(host).To(BeEmpty())
			Expect(port).To(BeZero())
		},
		Entry(nil, "", "has no port"),
		Entry(nil, "db", "has no port"),
		Entry(nil, "db:", "no valid port"),
		Entry(nil, "db:65536", "no valid port"),
		Entry(nil, "db:-1", "no valid port"),
		Entry(nil, "db:+1", "no valid port"),
		Entry(nil, "db:080", "no valid port"),
		Entry(nil, "db:1e3", "no valid port"),
		Entry(nil, "db: 80", "no valid port"),
		Entry(nil, "db:99999999999999999999", "no valid port"),
		Entry(nil, "::1:80", "ambiguous"),
		Entry(nil, "a:b:80", "ambiguous"),
		Entry(nil, ":80", "must not be empty"),
		Entry(nil, "[]:80", "not an IPv6 address"),
		Entry(nil, "[::1:80", "not an IPv6 address"),
		Entry(nil, "[10.0.0.1]:80", "not an IPv6 address"),
		Entry(nil, "[db]:80", "not an IPv6 address"),
		Entry("a zone that is no interface's name", "[fe80::1%a\nb]:80", "zone"),
		Entry("a zone with a slash", "[fe80::1%../x]:80", "zone"),
		Entry(nil, "db main:80", "is not a name"),
		Entry("a trailing dot", "db.:80", "neither an IP address nor a DNS name"),
		Entry("too many octets", "1.2.3.4.5:80", "neither"),
		Entry("too few octets", "127.1:80", "neither"),
		Entry("a decimal address", "2130706433:80", "neither"),
		Entry("octal octets", "010.0.0.1:80", "neither"),
		Entry("an octet out of range", "10.0.0.256:80", "neither"),
		Entry("a hexadecimal address", "0x7f000001:80", "neither"),
		Entry("a hexadecimal octet", "127.0.0.0X1:80", "neither"),
		Entry("an empty hexadecimal octet", "127.0.0.0x:80", "neither"),
	)
})

var _ = Describe("HostName", func() {
	DescribeTable("gives a host's one spelling (H12)",
		func(name, canonical string) { Expect(route.HostName(name)).To(Equal(canonical)) },
		Entry(nil, "db.main", "db.main"),
		Entry("upper case", "DB.Main", "db.main"),
		Entry("a trailing dot", "db.main.", "db.main"),
		Entry("punycode", "XN--BCHER-KVA.example", "xn--bcher-kva.example"),
		Entry("IPv4", "10.0.0.1", "10.0.0.1"),
		Entry("IPv6", "2001:DB8:0:0::1", "2001:db8::1"),
		Entry("IPv4 in IPv6", "::FFFF:10.0.0.1", "10.0.0.1"),
		Entry("the greatest length and a trailing dot", strings.Repeat("a", route.MaxName)+".", strings.Repeat("a", route.MaxName)),
	)

	DescribeTable("refuses (H39)",
		func(name string) {
			Expect(route.HostName(name)).Error().To(HaveOccurred())
		},
		Entry("nothing", ""),
		Entry("a dot", "."),
		Entry("two trailing dots", "db.."),
		Entry("an empty label", "db..main"),
		Entry("a Kelvin sign, whose lower case is k", "\u212adb"),
		Entry("a line end", "db\n"),
		Entry("a zone, which is this machine's alone", "fe80::1%eth0"),
		Entry("a zone with a line end", "fe80::1%eth0\nPING"),
		Entry("a port", "db:80"),
		Entry("brackets", "[::1]"),
		Entry("a wildcard", "*.example"),
	)

	It("returns no name with an error", func() {
		name, err := route.HostName("db main")
		Expect(err).To(HaveOccurred())
		Expect(name).To(BeEmpty())
	})
})
