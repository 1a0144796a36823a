package relay_test

import (
	"context"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"switchboard/bridge/relay"
)

// onlyRead and onlyWrite hide ReadFrom and WriteTo, so that io.Copy copies.
type onlyRead struct{ io.Reader }
type onlyWrite struct{ io.Writer }

func copySplice(a, b net.Conn) {
	_, _ = io.Copy(a, b)
	_ = a.(*net.TCPConn).CloseWrite()
}

func copyPlain(a, b net.Conn) {
	_, _ = io.Copy(onlyWrite{a}, onlyRead{b})
	_ = a.(*net.TCPConn).CloseWrite()
}

// plumb returns the far ends of a relay of the kind named.
func plumb(b *testing.B, kind string) (client, backend *net.TCPConn) {
	o := relay.Options{}
	by, how, _ := strings.Cut(kind, "/")
	if how == "copy" {
		o.SpliceAfter = -1
	}
	for _, e := range engines {
		if e.name != by {
			continue
		}
		engine := e.make(o)
		b.Cleanup(func() { _ = engine.Close() })
		l := plug(b, engine, engine.NewSet(), nil)
		return l.client, l.backend
	}
	copier := copySplice
	if how == "copy" {
		copier = copyPlain
	}
	c1, c2 := tcpPair(b)
	b1, b2 := tcpPair(b)
	go copier(b1, c2)
	go copier(c2, b1)
	return c1, b2
}

func tcpPair(t testing.TB) (dialed, accepted *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	a, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(); _ = a.Close() })
	return c.(*net.TCPConn), a.(*net.TCPConn)
}

var kinds = []string{"Loops/splice", "Loops/copy", "Portable/splice", "Portable/copy", "iocopy/splice", "iocopy/copy"}

// BenchmarkEcho is one byte there and back through a relay.
func BenchmarkEcho(b *testing.B) {
	for _, kind := range kinds {
		b.Run(kind, func(b *testing.B) {
			client, backend := plumb(b, kind)
			go func() { _, _ = io.Copy(onlyWrite{backend}, onlyRead{backend}) }()
			buf := make([]byte, 1)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := client.Write(buf); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(client, buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkBulk is one stream from a backend that writes 1 MiB at a time to a
// client that reads as much; an operation is 1 MiB.
func BenchmarkBulk(b *testing.B) {
	for _, kind := range kinds {
		b.Run(kind, func(b *testing.B) {
			client, backend := plumb(b, kind)
			const size = 1 << 20
			buf := make([]byte, size)
			b.SetBytes(size)
			b.ReportAllocs()
			go func() {
				out := make([]byte, size)
				for {
					if _, err := backend.Write(out); err != nil {
						return
					}
				}
			}()
			before := cpu()
			for b.Loop() {
				if _, err := io.ReadFull(client, buf); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "cpu-us/op")
		})
	}
}

// cpu is what the process has used, both peers included: on a busy machine it
// says more than the time that has passed.
func cpu() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// crowd opens sessions whose peers are bare descriptors, so that what is measured
// is the engine's. The descriptor limit must allow four a session.
func crowd(b *testing.B, engine relay.Engine, set relay.Set, sessions int) (measured uint64, peers []int) {
	b.Helper()
	front, err := engine.Listen(b.Context(), "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer front.Close()
	port := front.Addr().(*net.TCPAddr).Port
	dial := func() relay.Conn {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			b.Fatal(err)
		}
		peers = append(peers, fd)
		if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: port}); err != nil {
			b.Fatal(err)
		}
		c, err := front.Accept()
		if err != nil {
			b.Fatal(err)
		}
		return c
	}
	peers = make([]int, 0, 2*sessions)
	before := memory()
	for range sessions {
		if _, err := set.Open(relay.Pair{Client: dial(), Backend: dial()}); err != nil {
			b.Fatal(err)
		}
	}
	// A byte each way takes every goroutine through its deepest calls.
	one := make([]byte, 1)
	for i, fd := range peers {
		_, _ = unix.Write(fd, one)
		_, _ = unix.Read(peers[i^1], one)
	}
	return memory() - before, peers
}

func memory() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.StackInuse + m.HeapAlloc
}

const crowdSize = 4500

// BenchmarkEnd is what one End takes that severs 4,500 idle sessions.
func BenchmarkEnd(b *testing.B) {
	for _, e := range engines {
		b.Run(e.name, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				engine := e.make(relay.Options{})
				set := engine.NewSet()
				_, peers := crowd(b, engine, set, crowdSize)
				b.StartTimer()
				set.End(nil)
				b.StopTimer()
				for _, fd := range peers {
					_ = unix.Close(fd)
				}
				_ = engine.Close()
				b.StartTimer()
			}
		})
	}
}

// BenchmarkIdle is what an idle session keeps in memory, its sockets included,
// after it has moved a byte each way.
func BenchmarkIdle(b *testing.B) {
	for _, e := range engines {
		b.Run(e.name, func(b *testing.B) {
			for b.Loop() {
				engine := e.make(relay.Options{})
				set := engine.NewSet()
				bytes, peers := crowd(b, engine, set, crowdSize)
				b.ReportMetric(float64(bytes)/crowdSize, "B/session")
				set.End(nil)
				for _, fd := range peers {
					_ = unix.Close(fd)
				}
				_ = engine.Close()
			}
		})
	}
}

// BenchmarkConnect is a session from accept to end: connect, a byte each way, close.
func BenchmarkConnect(b *testing.B) {
	for _, e := range engines {
		b.Run(e.name, func(b *testing.B) {
			engine := e.make(relay.Options{})
			defer engine.Close()
			front, back, err := listeners(b, engine)
			if err != nil {
				b.Fatal(err)
			}
			defer front.Close()
			defer back.Close()
			set := engine.NewSet()
			go func() {
				for {
					client, err := front.Accept()
					if err != nil {
						return
					}
					go func() {
						backend, err := engine.Dial(context.Background(), back.Addr().String())
						if err != nil {
							b.Error(err)
							return
						}
						if _, err := set.Open(relay.Pair{Client: client, Backend: backend}); err != nil {
							b.Error(err)
						}
					}()
				}
			}()
			go echo(back)
			one := make([]byte, 1)
			b.ReportAllocs()
			before := cpu()
			for b.Loop() {
				c, err := net.Dial("tcp", front.Addr().String())
				if err != nil {
					b.Fatal(err)
				}
				_, _ = c.Write(one)
				_, _ = io.ReadFull(c, one)
				_ = c.Close()
			}
			b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "cpu-us/op")
		})
	}
}

func listeners(b *testing.B, engine relay.Engine) (front relay.Listener, back net.Listener, err error) {
	if front, err = engine.Listen(b.Context(), "127.0.0.1:0"); err != nil {
		return nil, nil, err
	}
	if back, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		front.Close()
	}
	return front, back, err
}

func echo(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			_, _ = io.Copy(onlyWrite{c}, onlyRead{c})
			_ = c.Close()
		}()
	}
}
