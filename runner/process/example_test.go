package process_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/tedsuo/ifrit"

	"switchboard/runner/process"
)

// A daemon: the process's signals stop its members in order, and a second Ctrl-C
// means now.
func Example() {
	api := &process.HTTP{Bind: "127.0.0.1:9090", Handler: http.NotFoundHandler()}
	sweep := process.Ticker{Every: time.Minute, Do: func(ctx context.Context) error { return nil }}
	daemon := process.Ordered(
		process.Member{Name: "api", Runner: api},
		process.Member{Name: "sweep", Runner: sweep},
	)
	// As many slots as signals that matter: stop, and now.
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	if err := daemon.Run(signals, make(chan struct{})); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func ExampleOrdered() {
	member := func(name string) process.Member {
		return process.Member{Name: name, Runner: ifrit.RunFunc(func(signals <-chan os.Signal, ready chan<- struct{}) error {
			fmt.Println("starting", name)
			close(ready)
			<-signals
			fmt.Println("stopping", name)
			return nil
		})}
	}
	daemon := ifrit.Invoke(process.Ordered(member("api"), member("monitor"), member("listener")))
	daemon.Signal(os.Interrupt)
	fmt.Println(<-daemon.Wait())
	// Output:
	// starting api
	// starting monitor
	// starting listener
	// stopping listener
	// stopping monitor
	// stopping api
	// <nil>
}
