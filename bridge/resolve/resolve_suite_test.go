package resolve_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/gleak"

	"switchboard/bridge/resolve"
)

func TestResolve(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "Resolve Suite")
}

var _ = Describe("Addresses", func() {
	var (
		lookup   func(ctx context.Context, host string) ([]netip.Addr, error)
		resolver *resolve.Resolver
	)

	BeforeEach(func() {
		before := gleak.Goroutines()
		lookup = func(_ context.Context, host string) ([]netip.Addr, error) {
			return nil, errors.New("nobody asked for " + host)
		}
		resolver = resolve.New(resolve.Options{Lookup: func(ctx context.Context, host string) ([]netip.Addr, error) {
			return lookup(ctx, host)
		}})
		DeferCleanup(func() {
			resolver.Close()
			Eventually(gleak.Goroutines).ShouldNot(gleak.HaveLeaked(before))
		})
	})

	DescribeTable("returns an IP literal as it is, without a lookup, after Close too",
		func(ctx SpecContext, address string) {
			for range 2 {
				Expect(resolver.Addresses(ctx, address)).To(Equal([]string{address}))
				resolver.Close()
			}
		},
		Entry(nil, "10.0.0.1:3306"),
		Entry(nil, "[::1]:3306"),
		Entry(nil, "[fe80::1%eth0]:3306"),
	)

	It("allocates no more for an IP literal than its answer", func(ctx SpecContext) {
		allocs := testing.AllocsPerRun(100, func() {
			if _, err := resolver.Addresses(ctx, "10.0.0.1:3306"); err != nil {
				panic(err)
			}
		})
		Expect(allocs).To(BeNumerically("<=", 1))
	})

	It("puts IPv4 first, and otherwise keeps the system's order", func(ctx SpecContext) {
		lookup = func(context.Context, string) ([]netip.Addr, error) {
			return addrs("2001:db8::2", "10.0.0.2", "2001:db8::1", "::ffff:10.0.0.1"), nil
		}
		Expect(resolver.Addresses(ctx, "db:3306")).To(Equal([]string{
			"10.0.0.2:3306", "10.0.0.1:3306", "[2001:db8::2]:3306", "[2001:db8::1]:3306",
		}))
	})

	It("gives each caller a slice of its own", func(ctx SpecContext) {
		lookup = func(context.Context, string) ([]netip.Addr, error) { return addrs("10.0.0.1"), nil }
		first, err := resolver.Addresses(ctx, "db:3306")
		Expect(err).NotTo(HaveOccurred())
		first[0] = "changed"
		Expect(resolver.Addresses(ctx, "db:9200")).To(Equal([]string{"10.0.0.1:9200"}))
	})

	It("refuses an address without a port", func(ctx SpecContext) {
		_, err := resolver.Addresses(ctx, "db")
		Expect(err).To(MatchError("resolving db: address db: missing port in address"))
	})

	It("asks the system if it is not told whom else", func(ctx SpecContext) {
		resolver := resolve.New(resolve.Options{})
		defer resolver.Close()
		addresses, err := resolver.Addresses(ctx, "localhost:80")
		Expect(err).NotTo(HaveOccurred())
		Expect(addresses).NotTo(BeEmpty())
		for _, address := range addresses {
			host, port, err := net.SplitHostPort(address)
			Expect(err).NotTo(HaveOccurred())
			Expect(netip.MustParseAddr(host).IsLoopback()).To(BeTrue(), address)
			Expect(port).To(Equal("80"))
		}
	})
})

func addrs(texts ...string) []netip.Addr {
	var all []netip.Addr
	for _, text := range texts {
		all = append(all, netip.MustParseAddr(text))
	}
	return all
}
