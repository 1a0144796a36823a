package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/alicebob/miniredis/v2"

	"switchboard/bridge/route"
	"switchboard/fixtures/servers"
	"switchboard/pacemaker/store"
	"switchboard/pacemaker/table"
	"switchboard/runner/process"
)

// longestSocket is how long a path of a Unix socket may be for every system.
const longestSocket = 100

// devTable is the routing table of a dev cluster, in a Redis of its own.
type devTable struct {
	cluster *devCluster
	// dir is where Redis works, and temporary tells that it goes with the cluster.
	dir       string
	temporary bool
	// server is nil if there is no redis-server on this machine.
	server   *servers.Redis
	embedded *miniredis.Miniredis
	follower *follower
}

// newDevTable returns a table that is kept in dir, which is made; "": it is not kept.
func newDevTable(d *devCluster, dir string) (*devTable, error) {
	t := &devTable{cluster: d, dir: dir, temporary: dir == ""}
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.embedded = miniredis.NewMiniRedis()
		t.embedded.ClockTTL(true)
		return t, nil
	}
	var err error
	if t.temporary {
		t.dir, err = os.MkdirTemp("", "switchboard-dev-")
	} else {
		t.dir, err = filepath.Abs(dir)
		err = errors.Join(err, os.MkdirAll(t.dir, 0o700))
	}
	if err != nil {
		return nil, fmt.Errorf("making a directory for Redis: %w", err)
	}
	t.server = &servers.Redis{Dir: t.dir, Config: []string{"appendonly yes"}}
	// Nobody else on this machine can reach a socket in a directory of ours.
	if socket := filepath.Join(t.dir, "redis.sock"); len(socket) <= longestSocket {
		t.server.Socket = socket
	}
	return t, nil
}

// close removes what is not kept.
func (t *devTable) close() {
	if t.temporary && t.dir != "" {
		os.RemoveAll(t.dir)
	}
}

// redis is how it is reached, once it runs.
func (t *devTable) redis() store.Redis {
	switch {
	case t.server == nil:
		return store.Redis{URL: "redis://" + t.embedded.Addr()}
	case t.server.Socket != "":
		return store.Redis{URL: "unix://" + t.server.Socket}
	default:
		return store.Redis{URL: "redis://" + t.server.Addr()}
	}
}

// where says where the table is, for people.
func (t *devTable) where() string {
	if t.server == nil {
		return t.redis().String() + "  in this process, as there is no redis-server on the PATH; not kept"
	}
	return fmt.Sprintf("%s  pid %d", t.redis(), t.server.PID())
}

// member is the Redis, which is started again if it is killed.
func (t *devTable) member() process.Member {
	if t.server == nil {
		return process.Member{Name: "redis", Runner: embedded{t}}
	}
	return process.Member{Name: "redis", Runner: process.Restart{
		Name: "redis", Min: devRestart, Max: devRestart, Runner: func() process.Runner { return supervised{t} },
	}}
}

// supervised is the redis-server of the table.
type supervised struct{ *devTable }

func (s supervised) Run(signals <-chan os.Signal, ready chan<- struct{}) error {
	err := s.server.Run(signals, ready)
	if err != nil {
		s.cluster.story.tell("redis has ended (%v); it comes back in a few seconds, and requests go on", err)
	}
	return err
}

// embedded is a Redis in this process.
type embedded struct{ *devTable }

func (e embedded) Run(signals <-chan os.Signal, ready chan<- struct{}) error {
	if err := e.embedded.Start(); err != nil {
		return fmt.Errorf("starting a Redis in this process: %w", err)
	}
	defer e.embedded.Close()
	close(ready)
	<-signals
	return nil
}

// webApps puts the web apps into the table when their addresses are known, and follows it.
// It is ready when it has them from there.
type webApps struct{ *devTable }

func (w webApps) Run(signals <-chan os.Signal, ready chan<- struct{}) error {
	if err := w.write(); err != nil {
		return err
	}
	f, err := newFollower(w.redis(), store.DefaultPrefix, w.cluster.state, w.cluster.log)
	if err != nil {
		return err
	}
	w.follower = f
	statuses, leave := f.status.Subscribe()
	defer leave()
	ended := make(chan error, 1) // one slot: the result is always received
	go func() { ended <- f.Run(signals, make(chan struct{})) }()
	for {
		select {
		case s := <-statuses:
			if s.Loaded {
				close(ready)
				return <-ended
			}
		case err := <-ended:
			return err
		}
	}
}

func (w webApps) write() error {
	client, err := w.redis().Connect()
	if err != nil {
		return err
	}
	defer client.Close()
	writer, err := table.NewWriter(table.WriterOptions{Client: client})
	if err != nil {
		return err
	}
	var changes []table.Change
	for _, app := range w.cluster.apps {
		o := table.Options{Hold: 2 * time.Second}
		if app.cookie != "" {
			o.Choose, o.StickyBy = route.Sticky, route.StickyBy{Kind: route.ByCookie, Name: app.cookie}
		}
		var members []table.Member
		for _, b := range app.instances {
			address, err := netip.ParseAddrPort(b.addr)
			if err != nil {
				return fmt.Errorf("reading the address of %s: %w", b.name, err)
			}
			members = append(members, table.Member{Address: address, Type: app.name, Node: "dev", Instance: b.name})
		}
		changes = append(changes, table.Replace(app.host, o, nil, members...))
	}
	_, err = writer.Apply(context.Background(), changes...)
	return err
}
