package galera_test

import (
	"fmt"

	"switchboard/monitor/check"
	"switchboard/monitor/check/galera"
)

// A router that has Galera backends links the check by naming a builder.
func Example() {
	builders := map[string]check.Builder{"galera": galera.New()}
	_, err := builders["galera"](check.Spec{Type: "galera", Username: "probe"}, check.Target{Address: "127.0.0.1:3306", Dial: nil})
	fmt.Println(err)
	// Output: galera check: the target has no way to dial
}
