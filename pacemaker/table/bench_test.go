package table_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9/logging"

	"switchboard/bridge/feed"
	"switchboard/bridge/route"
	"switchboard/fixtures/servers"
	"switchboard/pacemaker/store"
	"switchboard/pacemaker/table"
)

// many is how many hosts the tables have that are measured: HOSTS in the environment, as
//
//	HOSTS=1000000 go test -run '^$' -bench . ./pacemaker/table
func many(b *testing.B) int {
	n, err := strconv.Atoi(os.Getenv("HOSTS"))
	if os.Getenv("HOSTS") == "" {
		return 200_000
	}
	if err != nil || n < 1 {
		b.Fatal("HOSTS is the number of hosts")
	}
	return n
}

// fill runs a server with n hosts of two members until the benchmark ends.
func fill(b *testing.B, n int) (url string, w *table.Writer) {
	logging.Disable()
	redis := new(servers.Redis)
	serve(b, redis.Run)
	url = "redis://" + redis.Addr()
	client, err := store.Redis{URL: url, Timeout: time.Minute}.Connect()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { client.Close() })
	if w, err = table.NewWriter(table.WriterOptions{Client: client, Timeout: time.Minute}); err != nil {
		b.Fatal(err)
	}
	d := table.Dump{Table: make([]table.DumpEntry, n)}
	for i := range d.Table {
		d.Table[i] = table.DumpEntry{Hostname: name(i), Routes: []string{instance(i % 60_000).String(), instance((i + 1) % 60_000).String()}}
	}
	if _, err := w.Import(context.Background(), d, table.ImportOptions{}); err != nil {
		b.Fatal(err)
	}
	return url, w
}

func name(i int) string { return fmt.Sprintf("app-%d.apps.example.com", i) }

// serve runs something in the shape of a runner until the benchmark ends, or until
// stop is called.
func serve(b *testing.B, run func(<-chan os.Signal, chan<- struct{}) error) (stop func()) {
	signals, ready, ended := make(chan os.Signal, 1), make(chan struct{}), make(chan error, 1)
	go func() { ended <- run(signals, ready) }()
	select {
	case <-ready:
	case err := <-ended:
		b.Fatal(err)
	}
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			signals <- os.Interrupt
			<-ended
		}
	}
	b.Cleanup(stop)
	return stop
}

// follow runs a watcher until stop is called.
func follow(b *testing.B, url string) (tables *feed.Feed[*route.Table], status *feed.Feed[table.Status], stop func()) {
	tables, status = new(feed.Feed[*route.Table]), new(feed.Feed[table.Status])
	w, err := table.NewWatcher(table.WatcherOptions{Redis: store.Redis{URL: url}, Tables: tables, Status: status})
	if err != nil {
		b.Fatal(err)
	}
	return tables, status, serve(b, w.Run)
}

// BenchmarkLoad reads all hosts from Redis, and says how much memory a host takes then.
func BenchmarkLoad(b *testing.B) {
	n := many(b)
	url, _ := fill(b, n)
	for b.Loop() {
		before := heap()
		began := time.Now()
		tables, _, stop := follow(b, url)
		loads, cancel := tables.Subscribe()
		t := <-loads
		b.ReportMetric(time.Since(began).Seconds(), "s/load")
		if t.Len() != n {
			b.Fatalf("%d hosts of %d", t.Len(), n)
		}
		cancel()
		stop()
		loads = nil
		b.ReportMetric((heap()-before)/float64(n), "B/host")
		runtime.KeepAlive(t)
	}
}

// BenchmarkChange is from the beginning of a write until ten watchers have published the
// table with it, in a table of many hosts.
func BenchmarkChange(b *testing.B) {
	const routers = 10
	n := min(many(b), 200_000)
	url, w := fill(b, n)
	var all []<-chan *route.Table
	for range routers {
		tables, status, _ := follow(b, url)
		states, cancel := status.Subscribe()
		for s := range states {
			if s.Loaded && !s.Stale {
				break
			}
		}
		cancel()
		changes, cancel := tables.Subscribe()
		b.Cleanup(cancel)
		<-changes
		all = append(all, changes)
	}
	var took []time.Duration
	i := 0
	// One after the other, and not as fast as can be: those would be taken together.
	next := time.NewTicker(25 * time.Millisecond)
	defer next.Stop()
	for b.Loop() {
		<-next.C
		i++
		host := name(i % n)
		began := time.Now()
		if _, err := w.Apply(context.Background(), table.Replace(host, table.Options{}, nil, instance(60_000+i%5000))); err != nil {
			b.Fatal(err)
		}
		want := fmt.Sprint("i", 60_000+i%5000)
		for _, changes := range all {
			for t := range changes {
				if t.Get(host).Backends[0].Name == want {
					break
				}
			}
			took = append(took, time.Since(began))
		}
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms-p50")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "ms-p99")
}

// BenchmarkLookupWhileChanging looks hosts up while another goroutine writes 10,000 changes a
// second, or as many as there are processors for: writer, Redis and watcher run on the same
// machine.
func BenchmarkLookupWhileChanging(b *testing.B) {
	n := min(many(b), 200_000)
	url, w := fill(b, n)
	tables, status, _ := follow(b, url)
	states, cancel := status.Subscribe()
	for s := range states {
		if s.Loaded && !s.Stale {
			break
		}
	}
	cancel()
	var current atomic.Pointer[route.Table]
	changes, cancel := tables.Subscribe()
	b.Cleanup(cancel)
	current.Store(<-changes)
	go func() {
		for t := range changes {
			current.Store(t)
		}
	}()
	for _, busy := range []bool{false, true} {
		b.Run(map[bool]string{false: "idle", true: "changing"}[busy], func(b *testing.B) {
			ctx, cancel := context.WithCancel(context.Background())
			wrote := make(chan int, 1)
			began := time.Now()
			go func() {
				total := 0
				next := time.NewTicker(10 * time.Millisecond)
				defer next.Stop()
				for i := 0; busy && ctx.Err() == nil; i++ {
					<-next.C
					changes := make([]table.Change, 100)
					for j := range changes {
						changes[j] = table.SetWeights(name((i*100+j)%n), map[string]int{"i1": i % 1000})
					}
					if result, err := w.Apply(ctx, changes...); err == nil && result.Changed {
						total += len(changes)
					}
				}
				wrote <- total
			}()
			i := 0
			for b.Loop() {
				if i++; current.Load().LookupString(lookups[i%len(lookups)]) == nil {
					b.Fatal("a host is missing")
				}
			}
			cancel()
			b.ReportMetric(float64(<-wrote)/time.Since(began).Seconds(), "changes/s")
		})
	}
}

// lookups are names to be looked up.
var lookups = func() []string {
	names := make([]string, 4096)
	for i := range names {
		names[i] = name(i * 7)
	}
	return names
}()

// heap is how many bytes are in use.
func heap() float64 {
	var stats runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&stats)
	return float64(stats.HeapAlloc)
}
