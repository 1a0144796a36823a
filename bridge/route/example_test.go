package route_test

import (
	"fmt"

	"switchboard/bridge/route"
)

func Example() {
	backend := route.Backend{Name: "db-0", Address: "10.0.0.1:3306", Weight: 1}
	if err := route.ValidName(backend.Name); err != nil {
		fmt.Println(err)
	}
	fmt.Println(route.ParseAddress(backend.Address, false))
	// Output: 10.0.0.1 3306 <nil>
}

func ExampleHostName() {
	fmt.Println(route.HostName("DB.Main."))
	fmt.Println(route.HostName("2001:DB8:0::1"))
	// Output:
	// db.main <nil>
	// 2001:db8::1 <nil>
}
