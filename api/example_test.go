package api_test

import (
	"fmt"
	"net/http"
	"time"

	"switchboard/api"
	"switchboard/bridge"
	"switchboard/bridge/feed"
	"switchboard/bridge/route"
)

// The feeds belong to a monitor and a bridge; here they are filled by hand.
func ExampleSources_Cluster() {
	var (
		traffic, host feed.Feed[bridge.Traffic]
		cluster       feed.Feed[bridge.Cluster]
	)
	sources := api.Sources{
		Name:    "router-1",
		Traffic: &traffic, Sessions: func() int { return 12 },
		Hosts: []api.HostSource{{
			Name: "db.main", Policy: "active", Cluster: cluster.Get, Traffic: host.Get,
			Counts: func() bridge.Counts { return bridge.Counts{Sessions: 12} },
		}},
	}
	backend := route.NewBackend("db-0", "10.0.0.1:3306")
	cluster.Put(bridge.Cluster{Active: bridge.Active{Backend: &backend, Epoch: 1, Reason: "first election"}})
	for _, h := range sources.Cluster().Clusters {
		fmt.Println(h.Host, h.Active.Name, h.Epoch, h.Reason, h.CurrentSessionCount)
	}
	// Output: db.main db-0 1 first election 12
}

func ExampleNew() {
	serve := func(sources api.Sources, commands api.Commands) error {
		a, err := api.New(api.Options{Sources: sources, Commands: commands, Username: "admin", Password: "correct horse"})
		if err != nil {
			return err
		}
		server := &http.Server{Addr: "127.0.0.1:9090", Handler: a.Handler(), ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second}
		return server.ListenAndServe()
	}
	_ = serve
}
