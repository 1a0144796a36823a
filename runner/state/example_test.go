package state_test

import (
	"fmt"
	"os"

	"switchboard/bridge"
	"switchboard/runner/state"
)

func Example() {
	temp, err := os.MkdirTemp("", "state")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(temp)

	// One life of a router: it is told to stop routing, fails over twice, and stops.
	dir, err := state.Open(temp, state.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	saved, err := dir.Load([]string{"db.main"})
	if err != nil {
		fmt.Println(err)
		return
	}
	epoch := saved.Active["db.main"].Epoch
	err = dir.SaveTraffic(&bridge.Traffic{Message: "moving the rack"}, nil)
	fmt.Println("stored:", err)
	epoch += 2
	err = dir.Settle(map[string]state.Active{"db.main": {Backend: "db-1", Epoch: epoch}})
	fmt.Println("settled:", err)
	dir.Close()

	// The next one.
	if dir, err = state.Open(temp, state.Options{}); err != nil {
		fmt.Println(err)
		return
	}
	defer dir.Close()
	saved, err = dir.Load([]string{"db.main"})
	fmt.Println(saved.Router.Enabled, saved.Router.Message, err)
	fmt.Println(saved.Active["db.main"].Backend, saved.Active["db.main"].Epoch)
	// Output:
	// stored: <nil>
	// settled: <nil>
	// false moving the rack <nil>
	// db-1 2
}
