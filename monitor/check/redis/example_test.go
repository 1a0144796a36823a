package redis_test

import (
	"fmt"

	"switchboard/monitor/check"
	"switchboard/monitor/check/redis"
)

// A router that has Redis backends links the check by naming its builder.
func Example() {
	builders := map[string]check.Builder{"redis": redis.New}
	_, err := builders["redis"](check.Spec{Type: "redis", Username: "probe"}, check.Target{Address: "127.0.0.1:6379", Dial: nil})
	fmt.Println(err)
	// Output: redis check: the target has no way to dial
}
