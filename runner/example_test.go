package runner_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"switchboard/bridge"
	"switchboard/monitor/check"
	"switchboard/runner"
)

// A whole router: it probes its backends, elects one and bridges clients to it.
func ExampleNew() {
	router, err := runner.New(runner.Config{
		Listeners: []runner.Listener{{Name: "mysql", Bind: "127.0.0.1:3306", Host: "db.main"}},
		Hosts: []runner.Host{{
			Name:     "db.main",
			Hold:     2 * time.Second,
			Check:    &check.Spec{Type: "http", Port: 9200, Path: "/api/v1/status"},
			Backends: []runner.Backend{{Name: "db-0", Address: "10.0.0.1:3306"}, {Name: "db-1", Address: "10.0.0.2:3306"}},
		}},
		State: "/var/lib/switchboard",
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	signals, ready := make(chan os.Signal, 2), make(chan struct{})
	go func() {
		<-ready
		for _, event := range router.Events(context.Background(), 0) {
			if event.Kind == bridge.NewActiveBackend {
				fmt.Println(event.Host, event.Active.Backend, event.Active.Reason)
			}
		}
	}()
	if err := router.Run(signals, ready); err != nil {
		fmt.Println(err)
	}
}

// An operator's verbs are methods.
func ExampleRouter_SetTraffic() {
	backend, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer backend.Close()
	router, err := runner.New(runner.Config{
		Name:      "router-1",
		Listeners: []runner.Listener{{Name: "mysql", Bind: "127.0.0.1:0", Host: "db.main"}},
		Hosts: []runner.Host{{
			Name:     "db.main",
			Backends: []runner.Backend{{Name: "db-0", Address: backend.Addr().String()}},
		}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	signals, ready, ended := make(chan os.Signal, 1), make(chan struct{}), make(chan error, 1)
	go func() { ended <- router.Run(signals, ready) }()
	<-ready

	answer, err := router.SetTraffic(context.Background(), "db.main", bridge.TrafficChange{Message: "maintenance"})
	fmt.Println(answer.Traffic.Enabled, answer.Severed, err)
	fmt.Println(router.Cluster().Clusters[0].Message)

	signals <- os.Interrupt
	fmt.Println(<-ended)
	// Output:
	// false 0 <nil>
	// maintenance
	// <nil>
}
