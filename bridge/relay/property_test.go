package relay_test

import (
	"bytes"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"switchboard/bridge/relay"
)

// What arrives is exactly what was sent, however it was cut into writes, whatever
// had been read before, and whichever side ended first.
func TestStreams(t *testing.T) {
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) { testStreams(t, e.make) })
	}
}

func testStreams(t *testing.T, newEngine maker) {
	engines := []relay.Engine{
		newEngine(relay.Options{}),
		newEngine(relay.Options{BufferSize: 7, SpliceAfter: -1}),
		newEngine(relay.Options{BufferSize: 100, SpliceAfter: 1, Pipes: 1}),
		newEngine(relay.Options{BufferSize: 1000, SpliceAfter: 5000}),
	}
	defer func() {
		for _, e := range engines {
			_ = e.Close()
		}
	}()
	rapid.Check(t, func(r *rapid.T) {
		engine := engines[rapid.IntRange(0, len(engines)-1).Draw(r, "engine")]
		set := engine.NewSet()
		defer set.End(nil)
		chunks := rapid.SliceOfN(rapid.IntRange(1, 20_000), 0, 30)
		first := rapid.SliceOfN(rapid.Byte(), 0, 50)
		l, p := connect(t, engine)
		defer l.close()
		type stream struct {
			from, to *net.TCPConn
			first    []byte // read before the session
			sizes    []int
			wait     bool // for the other's end before ending
			want     []byte
			got      received
		}
		streams := []*stream{
			{from: l.client, to: l.backend, first: first.Draw(r, "toBackend"), sizes: chunks.Draw(r, "client writes")},
			{from: l.backend, to: l.client, first: first.Draw(r, "toClient"), sizes: chunks.Draw(r, "backend writes")},
		}
		last := rapid.IntRange(0, 2).Draw(r, "who ends last") // 2: nobody waits
		if last < 2 {
			streams[last].wait = true
		}
		p.ToBackend, p.ToClient = streams[0].first, streams[1].first
		if _, err := set.Open(p); err != nil {
			r.Fatal(err)
		}
		var writers, readers sync.WaitGroup
		ended := [2]chan struct{}{make(chan struct{}), make(chan struct{})}
		for i, s := range streams {
			_ = s.to.SetDeadline(time.Now().Add(soon))
			writers.Go(func() {
				s.want = append(s.want, s.first...)
				source := noise(uint64(i))
				for _, n := range s.sizes {
					block := make([]byte, n)
					_, _ = io.ReadFull(source, block)
					s.want = append(s.want, block...)
					_, _ = s.from.Write(block)
				}
				if s.wait {
					<-ended[1-i]
				}
				_ = s.from.CloseWrite()
			})
			readers.Go(func() {
				s.got.Data, s.got.Err = io.ReadAll(s.to)
				close(ended[i])
			})
		}
		readers.Wait()
		writers.Wait()
		for i, s := range streams {
			if s.got.Err != nil || !bytes.Equal(s.got.Data, s.want) {
				r.Fatalf("direction %d: %d bytes and %v arrived, want %d", i, len(s.got.Data), s.got.Err, len(s.want))
			}
		}
		o := <-l.outcome
		if o.Err != nil || o.ToBackend != int64(len(streams[0].want)) || o.ToClient != int64(len(streams[1].want)) {
			r.Fatalf("outcome %+v, want %d and %d bytes", o, len(streams[0].want), len(streams[1].want))
		}
		if last < 2 && o.First != []relay.Side{relay.Backend, relay.Client}[last] {
			r.Fatalf("first is %d though %d ended last", o.First, last)
		}
	})
}

// A turn of a session allocates nothing.
func TestAllocations(t *testing.T) {
	if raceDetector {
		t.Skip("under the race detector a sync.Pool loses some of what it is given")
	}
	for _, e := range engines {
		for name, limits := range map[string]relay.Limits{"no limits": {}, "limits": {Idle: time.Minute}} {
			engine := e.make(relay.Options{})
			set := engine.NewSet()
			l := plug(t, engine, set, func(p *relay.Pair) { p.Limits = limits })
			there, back := make([]byte, 1000), make([]byte, 1000)
			allocated := testing.AllocsPerRun(2000, func() {
				_, _ = l.client.Write(there)
				_, _ = io.ReadFull(l.backend, back)
				_, _ = l.backend.Write(there)
				_, _ = io.ReadFull(l.client, back)
			})
			if allocated != 0 {
				t.Errorf("%s, %s: a round trip allocates %v times", e.name, name, allocated)
			}
			_ = engine.Close()
		}
	}
}
