package accesslog_test

import (
	"fmt"
	"os"
	"time"

	"switchboard/bridge/accesslog"
)

func ExampleLog() {
	log := accesslog.New(accesslog.Options{Writer: os.Stdout})
	signals, ready, ended := make(chan os.Signal, 1), make(chan struct{}), make(chan error, 1)
	go func() { ended <- log.Run(signals, ready) }()
	<-ready
	log.Session(&accesslog.Session{
		Ended: time.UnixMilli(1767225600123).UTC(), Took: 1500 * time.Millisecond, ID: "7", Listener: "mysql", Host: "db.main", Backend: "db-0", Epoch: 2,
		Client: "192.0.2.1:40000", Protocol: "tcp", ToBackend: 120, ToClient: 4096, Reason: "client_closed",
	})
	signals <- os.Interrupt
	fmt.Println(<-ended)
	// Output:
	// {"kind":"session","time":"2026-01-01T00:00:00.123Z","timemsec":1767225600.123,"version_type_key":"null","node_key":"null","instance_key":"null","bytes":4096,"id":"7","listener":"mysql","host":"db.main","backend":"db-0","epoch":2,"client":"192.0.2.1:40000","protocol":"tcp","bytesToBackend":120,"bytesToClient":4096,"tookMs":1500.000,"reason":"client_closed"}
	// <nil>
}
