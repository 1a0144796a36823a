package resolve_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"switchboard/bridge/resolve"
)

func Example() {
	resolver := resolve.New(resolve.Options{})
	defer resolver.Close()
	addresses, err := resolver.Addresses(context.Background(), "db-0.internal:3306")
	if err != nil {
		fmt.Println(err)
		return
	}
	conn, err := net.Dial("tcp", addresses[0])
	if err != nil {
		fmt.Println(err)
		return
	}
	conn.Close()
}

func ExampleResolver_Addresses() {
	resolver := resolve.New(resolve.Options{
		Lookup: func(context.Context, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("10.0.0.1")}, nil
		},
	})
	defer resolver.Close()
	fmt.Println(resolver.Addresses(context.Background(), "192.0.2.7:3306"))
	fmt.Println(resolver.Addresses(context.Background(), "db-0.internal:3306"))
	// Output:
	// [192.0.2.7:3306] <nil>
	// [10.0.0.1:3306 [2001:db8::1]:3306] <nil>
}
