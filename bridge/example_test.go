package bridge_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"

	"switchboard/bridge"
	"switchboard/bridge/feed"
	"switchboard/bridge/relay"
	"switchboard/bridge/route"
)

// A host follows the active backend that it is told of, and a listener brings it
// clients.
func Example() {
	backend, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer backend.Close()
	go func() {
		for conn, err := backend.Accept(); err == nil; conn, err = backend.Accept() {
			fmt.Fprintln(conn, "hello from db-0")
		}
	}()

	engine := relay.New(relay.Options{})
	defer engine.Close()
	var active feed.Feed[bridge.Active]
	follow, cancel := active.Subscribe()
	defer cancel()
	b, err := bridge.New(bridge.Options{
		Engine:  engine,
		Hosts:   []bridge.HostOptions{{Name: "db.main", Active: follow, Traffic: bridge.Traffic{Enabled: true}}},
		Traffic: bridge.Traffic{Enabled: true},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	host := b.Host("db.main")
	listener := bridge.NewListener(bridge.ListenerOptions{Name: "mysql", Bind: "127.0.0.1:0", To: host, Listen: engine.Listen})
	for _, run := range []func(<-chan os.Signal, chan<- struct{}) error{b.Run, listener.Run} {
		stop, ready, ended := make(chan os.Signal, 1), make(chan struct{}), make(chan error, 1)
		go func() { ended <- run(stop, ready) }()
		<-ready
		defer func() { stop <- os.Interrupt; <-ended }()
	}

	active.Put(bridge.Active{Host: "db.main", Epoch: 1, Backend: &route.Backend{Name: "db-0", Address: backend.Addr().String()}})
	host.AwaitEpoch(context.Background(), 1)
	client, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	greeting, _ := bufio.NewReader(client).ReadString('\n')
	fmt.Print(greeting)

	active.Put(bridge.Active{Host: "db.main", Epoch: 2, Reason: "unhealthy: db-0: connection refused"})
	severed, _ := host.AwaitEpoch(context.Background(), 2)
	fmt.Println("severed:", severed)
	// Output:
	// hello from db-0
	// severed: 1
}
