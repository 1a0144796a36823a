package stats_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/alicebob/miniredis/v2"

	"switchboard/pacemaker/stats"
	"switchboard/pacemaker/store"
)

// A reader counts what is in a log, and somebody asks.
func Example() {
	server := miniredis.NewMiniRedis()
	if err := server.Start(); err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()
	connection := store.Redis{URL: "redis://" + server.Addr()}
	dir, err := os.MkdirTemp("", "switchboard-stats-")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	log := filepath.Join(dir, "access.log")
	line := `{"kind":"request","timemsec":1795000000.125,"version_type_key":"12","node_key":"3","host":"shop.example.com",` +
		`"bytes":512,"code":200,"upstream_response_time":"0.004","nginx_response_time":0.005}` + "\n"
	if err := os.WriteFile(log, []byte(line), 0o600); err != nil {
		fmt.Println(err)
		return
	}

	reader, err := stats.NewReader(stats.Options{Redis: connection, Log: log, Node: "router-1"})
	if err != nil {
		fmt.Println(err)
		return
	}
	signals, ready, ended := make(chan os.Signal, 1), make(chan struct{}), make(chan error, 1)
	go func() { ended <- reader.Run(signals, ready) }()
	<-ready
	signals <- os.Interrupt // what is in the log is counted still
	fmt.Println(<-ended)

	client, err := connection.Connect()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	query, err := stats.NewQuery(stats.QueryOptions{Client: client})
	if err != nil {
		fmt.Println(err)
		return
	}
	totals, err := query.Totals(context.Background(), stats.Host, "shop.example.com")
	fmt.Println(totals.Requests, totals.Bytes, totals.TimeAverage, totals.Percentage2xx, err)
	// Output:
	// <nil>
	// 1 512 4 100 <nil>
}
