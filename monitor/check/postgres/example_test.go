package postgres_test

import (
	"fmt"

	"switchboard/monitor/check"
	"switchboard/monitor/check/postgres"
)

// A router that has PostgreSQL backends links the check by naming its builder.
func Example() {
	builders := map[string]check.Builder{"postgres": postgres.New}
	_, err := builders["postgres"](check.Spec{Type: "postgres", Username: "probe"}, check.Target{Address: "127.0.0.1:5432", Dial: nil})
	fmt.Println(err)
	// Output: postgres check: the target has no way to dial
}
