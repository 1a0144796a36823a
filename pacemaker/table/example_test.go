package table_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"

	"github.com/alicebob/miniredis/v2"

	"switchboard/bridge/feed"
	"switchboard/bridge/route"
	"switchboard/pacemaker/store"
	"switchboard/pacemaker/table"
)

// A pacemaker writes, and a router follows.
func Example() {
	server := miniredis.NewMiniRedis()
	if err := server.Start(); err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()
	connection := store.Redis{URL: "redis://" + server.Addr()}

	// The router's side: one runner and two feeds.
	tables, status := new(feed.Feed[*route.Table]), new(feed.Feed[table.Status])
	watcher, err := table.NewWatcher(table.WatcherOptions{Redis: connection, Tables: tables, Status: status})
	if err != nil {
		fmt.Println(err)
		return
	}
	signals, ready, ended := make(chan os.Signal, 1), make(chan struct{}), make(chan error, 1)
	go func() { ended <- watcher.Run(signals, ready) }()
	<-ready

	// The pacemaker's side.
	client, err := connection.Connect()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	writer, err := table.NewWriter(table.WriterOptions{Client: client})
	if err != nil {
		fmt.Println(err)
		return
	}
	result, err := writer.Apply(context.Background(), table.Add("shop.example.com", table.Member{
		Address: netip.MustParseAddrPort("10.0.0.1:8080"), Type: "12", Node: "3", Instance: "web-1",
	}))
	fmt.Println(result.Serial, result.Changed, err)

	changes, cancel := tables.Subscribe()
	defer cancel()
	for t := range changes {
		if host := t.LookupString("shop.example.com"); host != nil {
			fmt.Println(host.Backends[0].Name, host.Backends[0].Address)
			break
		}
	}
	signals <- os.Interrupt
	fmt.Println(<-ended)
	// Output:
	// 1 true <nil>
	// web-1 10.0.0.1:8080
	// <nil>
}
