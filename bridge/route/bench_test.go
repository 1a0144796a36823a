package route_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"switchboard/bridge/route"
)

// many is how many hosts the tables have that are measured.
const many = 1_000_000

// bigTable is a table of many hosts with two backends each.
var bigTable = sync.OnceValue(func() *route.Table {
	hosts := make([]*route.Host, many)
	for i := range hosts {
		hosts[i] = benchHost(i).Pack()
	}
	table, err := route.NewTable(route.Options{}, hosts...)
	if err != nil {
		panic(err)
	}
	return table
})

func benchName(i int) string { return fmt.Sprintf("app-%d.apps.example.com", i) }

func benchHost(i int) *route.Host {
	return &route.Host{Name: benchName(i), Policy: route.Balance, Backends: []route.Backend{
		route.NewBackend(fmt.Sprintf("web-%d/0", i), fmt.Sprintf("10.%d.%d.%d:8080", i>>16&255, i>>8&255, i&255)),
		route.NewBackend(fmt.Sprintf("web-%d/1", i), fmt.Sprintf("10.%d.%d.%d:8081", i>>16&255, i>>8&255, i&255)),
	}}
}

// BenchmarkLookup asks for names in random order, so what it finds is in no cache.
func BenchmarkLookup(b *testing.B) {
	for _, kind := range []struct {
		name   string
		format func(i int) string
		found  bool
	}{
		{"hit", benchName, true},
		{"miss", func(i int) string { return fmt.Sprintf("gone-%d.apps.example.com", i) }, false},
	} {
		b.Run(kind.name, func(b *testing.B) {
			table := bigTable()
			// One name behind the other, so that it is not the names that are waited for.
			var names []byte
			ends := make([]uint32, 0, many)
			for _, i := range rand.New(rand.NewPCG(1, 2)).Perm(many) {
				names = append(names, kind.format(i)...)
				ends = append(ends, uint32(len(names)))
			}
			runtime.GC()
			b.ReportAllocs()
			i, begin := 0, uint32(0)
			for b.Loop() {
				end := ends[i]
				if (table.Lookup(names[begin:end]) != nil) != kind.found {
					b.Fatalf("%s", names[begin:end])
				}
				if i, begin = i+1, end; i == len(ends) {
					i, begin = 0, 0
				}
			}
		})
	}
}

// BenchmarkWith changes one host of many.
func BenchmarkWith(b *testing.B) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, kind := range []struct {
		name   string
		change func(t *route.Table) (*route.Table, error)
	}{
		{"put", func(t *route.Table) (*route.Table, error) {
			return t.With([]*route.Host{{Name: benchName(random.IntN(many)), Policy: route.Balance}}, nil)
		}},
		{"add", func(t *route.Table) (*route.Table, error) {
			return t.With([]*route.Host{{Name: fmt.Sprintf("new-%d", random.Uint64()), Policy: route.Balance}}, nil)
		}},
		{"drop", func(t *route.Table) (*route.Table, error) { return t.With(nil, []string{benchName(random.IntN(many))}) }},
	} {
		b.Run(kind.name, func(b *testing.B) {
			t := bigTable()
			b.ReportAllocs()
			for b.Loop() {
				next, err := kind.change(t)
				if err != nil {
					b.Fatal(err)
				}
				t = next
			}
		})
	}
}

// BenchmarkTable makes a table of many hosts, and says how much memory a host takes,
// all in all, and how long the garbage collector is busy with it.
func BenchmarkTable(b *testing.B) {
	for _, kind := range []struct {
		name string
		host func(i int) *route.Host
	}{
		{"packed", func(i int) *route.Host { return benchHost(i).Pack() }},
		{"plain", benchHost},
	} {
		b.Run(kind.name, func(b *testing.B) {
			before := heap()
			hosts := make([]*route.Host, many)
			for i := range hosts {
				hosts[i] = kind.host(i)
			}
			var table *route.Table
			for b.Loop() {
				var err error
				if table, err = route.NewTable(route.Options{}, hosts...); err != nil {
					b.Fatal(err)
				}
			}
			hosts = nil
			b.ReportMetric((heap()-before)/many, "B/host")
			began := time.Now()
			runtime.GC()
			b.ReportMetric(float64(time.Since(began).Milliseconds()), "ms/gc")
			runtime.KeepAlive(table)
		})
	}
}

// heap is how many bytes are in use.
func heap() float64 {
	var stats runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&stats)
	return float64(stats.HeapAlloc)
}

func BenchmarkKey(b *testing.B) {
	dst := make([]byte, 0, route.MaxName)
	for _, sent := range []string{"app-1234.apps.example.com", "App-1234.Apps.Example.com.:8080", "10.0.0.1:80", "[2001:db8::1]:443"} {
		b.Run(sent, func(b *testing.B) {
			authority := []byte(sent)
			b.ReportAllocs()
			for b.Loop() {
				if _, ok := route.Key(dst, authority); !ok {
					b.Fatal(sent)
				}
			}
		})
	}
}

func BenchmarkChooser(b *testing.B) {
	for _, n := range []int{2, 10, 100} {
		weights := make([]int, n)
		for i := range weights {
			weights[i] = i%3 + 1
		}
		c, random := route.NewChooser(members(weights...)), rand.NewPCG(1, 2)
		key := make([]byte, 32)
		for _, kind := range []struct {
			name   string
			choose func() int
		}{
			{"random", func() int { return c.Random(random.Uint64(), nil) }},
			{"least", func() int { return c.Least(func(i int) int { return i & 3 }, random.Uint64(), nil) }},
			{"sticky", func() int {
				binary.LittleEndian.PutUint64(key, random.Uint64())
				return c.Sticky(key, nil)
			}},
		} {
			b.Run(fmt.Sprint(kind.name, "-of-", n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if kind.choose() < 0 {
						b.Fatal("nobody is chosen")
					}
				}
			})
		}
	}
}
