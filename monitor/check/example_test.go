package check_test

import (
	"context"
	"fmt"
	"net"
	"time"

	"switchboard/bridge/route"
	"switchboard/monitor/check"
)

func Example() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	backend := route.Backend{Name: "db-0", Address: listener.Addr().String()}
	checker, err := check.TCP(check.Spec{Type: "tcp"}, check.Target{
		Host:    "db.main",
		Backend: backend,
		Address: backend.Address,
		Own:     true,
		Dial:    new(net.Dialer).DialContext,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer checker.Close()

	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	up := checker.Check(ctx)
	listener.Close()
	down := checker.Check(ctx)
	fmt.Println(up.Verdict, "-", up.Detail)
	fmt.Println(down.Verdict, "-", down.Detail)
	// Output:
	// healthy - connected
	// unhealthy - connection refused
}
