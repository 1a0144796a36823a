package config_test

import (
	"fmt"

	"switchboard/runner/config"
)

func ExampleLoad() {
	file, err := config.Load(config.Source{
		Path: "router.yaml",
		Data: []byte(`
name: router-1
listeners:
  - {name: mysql, bind: 127.0.0.1:3306, host: db.main}
hosts:
  - name: db.main
    check: {type: tcp, timeout: 500ms}
    backends:
      - {name: db-0, address: 10.0.0.1:3306}
`),
		Env: []string{"SWITCHBOARD_HOSTS_0_BACKENDS_1_NAME=db-1", "SWITCHBOARD_HOSTS_0_BACKENDS_1_ADDRESS=10.0.0.2:3306"},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	host := file.Hosts[0]
	fmt.Println(host.Name, host.Elect, host.Check.Timeout, host.Backends[1].Address)
	// Output: db.main sticky 500ms 10.0.0.2:3306
}

func ExampleLoad_wrong() {
	_, err := config.Load(config.Source{
		Path: "router.yaml",
		Data: []byte("listeners:\n- {name: mysql, bind: 3306, host: db}\nhosts: []\nmetrics: {}\n"),
	})
	fmt.Println(err)
	// Output:
	// router.yaml:2:23: listeners[0].bind: "3306" has no port: write host:port
	// router.yaml:3:8: hosts: no hosts: at least one is needed, or redis.url, where they come from
	// router.yaml:4:1: metrics: unknown key "metrics": the keys here are name, listeners, hosts, wildcard_depth, redis, state, api, health, shutdown, log, stats
}

func ExampleKeys() {
	for _, key := range config.Keys() {
		if key.Path == "log.level" {
			fmt.Printf("--%s, %s: %s: %s (%s)\n", key.Flag, key.Env, key.Type, key.Doc, key.Default)
		}
	}
	// Output: --log-level, SWITCHBOARD_LOG_LEVEL: debug | info | warn | error: what is logged (info)
}
