package route_test

import (
	"fmt"

	"switchboard/bridge/route"
)

func Example() {
	backend := route.NewBackend("db-0", "10.0.0.1:3306")
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

func ExampleTable() {
	web := []route.Backend{route.NewBackend("web-0", "10.0.0.1:8080"), route.NewBackend("web-1", "10.0.0.2:8080")}
	table, err := route.NewTable(route.Options{},
		&route.Host{Name: "www.example.com", Policy: route.Balance, Backends: web},
		&route.Host{Name: "*.example.com", Policy: route.Balance, Choose: route.LeastSessions, Backends: web},
		&route.Host{Name: "*", Policy: route.Balance},
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	scratch := make([]byte, 0, route.MaxName)
	for _, sent := range []string{"WWW.Example.com.:8080", "mail.example.com", "a.b.example.com", "[2001:DB8::1]:443"} {
		key, ok := route.Key(scratch, []byte(sent))
		fmt.Printf("%s %t %s\n", key, ok, table.Lookup(key).Name)
	}
	// Output:
	// www.example.com true www.example.com
	// mail.example.com true *.example.com
	// a.b.example.com true *
	// 2001:db8::1 true *
}

func ExampleTable_With() {
	before, err := route.NewTable(route.Options{}, &route.Host{Name: "a.example", Policy: route.Active})
	if err != nil {
		fmt.Println(err)
		return
	}
	after, err := before.With([]*route.Host{{Name: "b.example", Policy: route.Balance}}, []string{"a.example"})
	fmt.Println(before.Len(), before.Get("a.example") != nil, before.Get("b.example") != nil)
	fmt.Println(after.Len(), after.Get("a.example") != nil, after.Get("b.example") != nil, err)
	// Output:
	// 1 true false
	// 1 false true <nil>
}

func ExampleChooser_Sticky() {
	chooser := route.NewChooser([]route.Member{{Name: "web-0", Weight: 99}, {Name: "web-1", Weight: 1}, {Name: "drained", Weight: 0}})
	counts := make([]int, 3)
	for i := range 100_000 {
		counts[chooser.Sticky(fmt.Appendf(nil, "user-%d", i), nil)]++
	}
	fmt.Println(counts)
	key := []byte("user-42")
	first := chooser.Sticky(key, nil)
	fmt.Println(first, chooser.Sticky(key, []int{first}), chooser.Sticky(key, []int{0, 1}))
	// Output:
	// [98996 1004 0]
	// 0 1 -1
}

func ExampleChooser_Random() {
	chooser := route.NewChooser([]route.Member{{Name: "web-0", Weight: 1}, {Name: "web-1", Weight: 3}})
	fmt.Println(chooser.Random(0, nil), chooser.Random(1<<62, nil), chooser.Random(1<<63, nil))
	// Output: 0 1 1
}

func ExampleParseStickyBy() {
	fmt.Println(route.ParseStickyBy("cookie:SESSION"))
	fmt.Println(route.ParseStickyBy("header:X-User"))
	fmt.Println(route.ParseStickyBy("client"))
	// Output:
	// cookie:SESSION <nil>
	// header:x-user <nil>
	// client <nil>
}
