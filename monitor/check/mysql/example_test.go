package mysql_test

import (
	"fmt"

	"switchboard/monitor/check"
	"switchboard/monitor/check/mysql"
)

// A router that has MySQL backends links the check by naming its builder.
func Example() {
	builders := map[string]check.Builder{"mysql": mysql.New}
	_, err := builders["mysql"](check.Spec{Type: "mysql", Username: "probe"}, check.Target{Address: "127.0.0.1:3306", Dial: nil})
	fmt.Println(err)
	// Output: mysql check: the target has no way to dial
}
