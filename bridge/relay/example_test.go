package relay_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"switchboard/bridge/relay"
)

// A relay to one backend, whose sessions are all ended when it is replaced.
func Example() {
	engine := relay.NewPortable(relay.Options{})
	defer engine.Close()
	set := engine.NewSet()

	front, err := engine.Listen(context.Background(), "127.0.0.1:3306")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer front.Close()
	for {
		client, err := front.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			fmt.Println(err)
			continue
		}
		backend, err := engine.Dial(context.Background(), "10.0.0.1:3306")
		if err != nil {
			_ = client.Reset()
			continue
		}
		if _, err := set.Open(relay.Pair{Client: client, Backend: backend}); err != nil {
			_ = client.Reset()
			_ = backend.Reset()
		}
	}
}

// ending is an owner that passes on how its session ends.
type ending struct{ outcomes chan<- relay.Outcome }

func (e ending) HalfClosed(relay.Side) {}
func (e ending) Done(o relay.Outcome)  { e.outcomes <- o }

// Anything that is a net.Conn can be relayed.
func ExamplePortable_Adopt() {
	engine := relay.NewPortable(relay.Options{})
	defer engine.Close()
	set := engine.NewSet()

	client, nearClient := net.Pipe()
	backend, nearBackend := net.Pipe()
	outcomes := make(chan relay.Outcome, 1)
	_, err := set.Open(relay.Pair{
		Client:  engine.Adopt(nearClient),
		Backend: engine.Adopt(nearBackend),
		Owner:   ending{outcomes},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	go func() { _, _ = io.WriteString(client, "hello") }()
	hello := make([]byte, 5)
	_, _ = io.ReadFull(backend, hello)
	fmt.Printf("%s\n", hello)

	fmt.Println("severed", set.End(errors.New("a new active backend")))
	outcome := <-outcomes
	fmt.Println(outcome.ToBackend, outcome.Err)
	// Output:
	// hello
	// severed 1
	// 5 a new active backend
}
