package metrics_test

import (
	"net/http"

	"switchboard/api"
	"switchboard/api/metrics"
	"switchboard/runner"
)

// A program that embeds a router has metrics if it says so.
func ExampleNew() {
	config := runner.Config{
		API: runner.API{Bind: "127.0.0.1:9090"},
		Metrics: func(s api.Sources) http.Handler {
			return metrics.New(metrics.Options{Sources: s, Version: "v1.0.0"})
		},
	}
	_ = config
}
