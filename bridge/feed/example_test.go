package feed_test

import (
	"fmt"

	"switchboard/bridge/feed"
)

func Example() {
	var traffic feed.Feed[bool]
	values, cancel := traffic.Subscribe()
	follow := func() {
		for enabled := range values {
			fmt.Println("traffic:", enabled)
		}
	}
	traffic.Put(true)
	cancel()
	follow()
	// Output:
	// traffic: true
}

func ExampleRing() {
	history := feed.NewRing[string](2)
	for _, active := range []string{"db-0", "db-1", "db-0"} {
		history.Append(active)
	}
	entries, _ := history.Since(0)
	for _, e := range entries {
		fmt.Println(e.Seq, e.Value)
	}
	// Output:
	// 2 db-1
	// 3 db-0
}
