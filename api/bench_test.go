package api_test

import (
	"bytes"
	"io"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"switchboard/api"
	"switchboard/runner/process"
)

// BenchmarkBroadcast is a change until the last of 1,000 watchers has it, and what a
// watcher costs in memory, net/http's connection and its goroutines included.
func BenchmarkBroadcast(b *testing.B) {
	const watchers = 1000
	RegisterTestingT(b)
	w := newWorld()
	w.options.Clock = nil
	a, err := api.New(w.options)
	Expect(err).NotTo(HaveOccurred())
	signals, ready, ended := make(chan os.Signal, 1), make(chan struct{}), make(chan error, 1)
	server := &process.HTTP{Bind: "127.0.0.1:0", Handler: a.Handler(), MaxConns: watchers + 10}
	go func() { ended <- server.Run(signals, ready) }()
	<-ready
	before, goroutines := memory(), runtime.NumGoroutine()
	conns := make([]net.Conn, watchers)
	for i := range conns {
		conns[i], err = net.Dial("tcp", server.Addr().String())
		Expect(err).NotTo(HaveOccurred())
		_, err = io.WriteString(conns[i], "GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
		Expect(err).NotTo(HaveOccurred())
		awaitText(conns[i], `"currentSessionCount":9}`)
	}
	perWatcher := float64(memory()-before) / watchers
	spun := float64(runtime.NumGoroutine()-goroutines) / watchers
	for b.Loop() {
		w.journal.Append(healthOf(1))
		for _, conn := range conns {
			awaitText(conn, "\"healthy\":false,\"detail\":\"1\"}\n\n")
		}
	}
	b.ReportMetric(perWatcher, "B/watcher")
	b.ReportMetric(spun, "goroutines/watcher")
	for _, conn := range conns {
		conn.Close()
	}
	signals <- os.Interrupt
	Expect(<-ended).To(Succeed())
}

// memory is what the process has in use, after a collection.
func memory() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

// awaitText reads until text has come.
func awaitText(conn net.Conn, text string) {
	Expect(conn.SetReadDeadline(time.Now().Add(within))).To(Succeed())
	var got []byte
	for buffer := make([]byte, 4096); !bytes.Contains(got, []byte(text)); {
		n, err := conn.Read(buffer)
		Expect(err).NotTo(HaveOccurred())
		got = append(got, buffer[:n]...)
	}
}

// BenchmarkIdle is what a change costs while nobody watches.
func BenchmarkIdle(b *testing.B) {
	RegisterTestingT(b)
	w := newWorld()
	w.handler()
	e := healthOf(1)
	b.ReportAllocs()
	for b.Loop() {
		w.journal.Append(e)
	}
}
