package stats_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"switchboard/fixtures/servers"
	"switchboard/pacemaker/stats"
	"switchboard/pacemaker/store"
)

// BenchmarkParse is the cost of one line.
func BenchmarkParse(b *testing.B) {
	line := []byte(strings.TrimSpace(request(1)))
	b.ReportAllocs()
	b.SetBytes(int64(len(line)))
	for b.Loop() {
		if _, err := stats.Parse(line); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkReader counts lines of 100 hosts over ten seconds, with a redis-server beside it:
// an op is a line.
func BenchmarkReader(b *testing.B) {
	if _, err := exec.LookPath("redis-server"); err != nil {
		b.Skip("redis-server is not installed")
	}
	var server servers.Redis
	signals, ready, ended := make(chan os.Signal, 1), make(chan struct{}), make(chan error, 1)
	go func() { ended <- server.Run(signals, ready) }()
	select {
	case <-ready:
	case err := <-ended:
		b.Fatal(err)
	}
	defer func() {
		signals <- syscall.SIGTERM
		<-ended
	}()
	log := filepath.Join(b.TempDir(), "access.log")
	var text strings.Builder
	now := time.Now()
	for i := range b.N {
		line := requestAt(i, now.Add(-time.Duration(i%10)*time.Second))
		text.WriteString(strings.Replace(line, `"shop"`, `"shop`+string(rune('0'+i%10))+string(rune('0'+i/10%10))+`"`, 1))
	}
	if err := os.WriteFile(log, []byte(text.String()), 0o600); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(text.Len() / b.N))
	r, err := stats.NewReader(stats.Options{Redis: store.Redis{URL: "redis://" + server.Addr()}, Log: log, Node: "n1", Interval: time.Millisecond})
	if err != nil {
		b.Fatal(err)
	}
	stop, stopped := make(chan os.Signal, 1), make(chan error, 1)
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	b.ResetTimer()
	go func() { stopped <- r.Run(stop, make(chan struct{})) }()
	for r.Status().Requests < uint64(b.N) {
		<-again.C
	}
	b.StopTimer()
	stop <- syscall.SIGTERM
	if err := <-stopped; err != nil {
		b.Fatal(err)
	}
}
