package monitor_test

import (
	"context"
	"fmt"
	"os"
	"time"

	"switchboard/bridge"
	"switchboard/bridge/feed"
	"switchboard/bridge/route"
	"switchboard/monitor"
	"switchboard/monitor/check"
)

// maintenance is a check of one's own: a backend is healthy unless its name is
// on a list.
type maintenance struct{ down bool }

func (c maintenance) Check(context.Context) check.Result {
	if c.down {
		return check.Result{Verdict: check.Unhealthy, Detail: "in maintenance"}
	}
	return check.Result{Verdict: check.Healthy, Detail: "in service"}
}

func (maintenance) Close() error { return nil }

func Example() {
	var (
		active  feed.Feed[bridge.Active]
		cluster feed.Feed[bridge.Cluster]
	)
	m, err := monitor.New(monitor.Options{
		Host:     "db.main",
		Elect:    monitor.Sticky,
		Backends: []route.Backend{{Name: "db-0", Address: "10.0.0.1:3306"}, {Name: "db-1", Address: "10.0.0.2:3306"}},
		Checkers: []check.Checker{maintenance{down: true}, maintenance{}},
		Spec:     check.Spec{Interval: 200 * time.Millisecond, Timeout: time.Second, Fall: 2, Rise: 2},
		Active:   &active,
		Cluster:  &cluster,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	signals, ready, ended := make(chan os.Signal), make(chan struct{}), make(chan error)
	go func() { ended <- m.Run(signals, ready) }()
	<-ready

	changes, cancel := active.Subscribe()
	defer cancel()
	first := <-changes
	fmt.Println(first.Backend.Name, first.Epoch, first.Reason)

	_, err = m.Switch(context.Background(), "db-0", "try it")
	fmt.Println(err)

	signals <- os.Interrupt
	fmt.Println(<-ended)
	// Output:
	// db-1 1 first election
	// the backend is not healthy; pin it if you want the host to wait for it
	// <nil>
}
