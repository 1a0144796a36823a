package table_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"pgregory.net/rapid"

	"switchboard/bridge/route"
	"switchboard/fixtures/servers"
	"switchboard/fixtures/spec"
	"switchboard/pacemaker/table"
)

// model is what a table should be.
type model map[string]map[int]int // host -> instance -> weight

func (m model) clone() model {
	c := make(model, len(m))
	for host, instances := range m {
		c[host] = maps.Clone(instances)
	}
	return c
}

// hosts is the model as the watcher shows it.
func (m model) hosts() map[string][]string {
	all := make(map[string][]string)
	for host, instances := range m {
		for n, weight := range instances {
			all[host] = append(all[host], fmt.Sprint(at(n), "*", weight))
		}
		slices.Sort(all[host])
	}
	return all
}

func hostsOf(t *route.Table) map[string][]string {
	all := make(map[string][]string)
	for host := range t.All() {
		for _, b := range host.Backends {
			all[host.Name] = append(all[host.Name], fmt.Sprint(b.Name, "@", b.Address, "*", b.Weight))
		}
		slices.Sort(all[host.Name])
	}
	return all
}

// change draws a change and makes it in the model.
func (m model) change(t *rapid.T) table.Change {
	host := rapid.SampledFrom([]string{"a", "b", "c.example.com", "*.example.com", "*"}).Draw(t, "host")
	n := rapid.IntRange(1, 5).Draw(t, "instance")
	switch rapid.SampledFrom([]string{"add", "remove", "replace", "drop", "weight"}).Draw(t, "change") {
	case "add":
		if m[host] == nil {
			m[host] = map[int]int{}
		}
		if _, there := m[host][n]; !there {
			m[host][n] = 1
		}
		return table.Add(host, instance(n))
	case "remove":
		if delete(m[host], n); len(m[host]) == 0 {
			delete(m, host)
		}
		return table.Remove(host, instance(n))
	case "replace":
		weight := rapid.IntRange(0, 3).Draw(t, "weight")
		m[host] = map[int]int{n: weight}
		return table.Replace(host, table.Options{}, map[string]int{fmt.Sprint("i", n): weight}, instance(n))
	case "drop":
		delete(m, host)
		return table.Drop(host)
	default:
		if _, there := m[host][n]; !there {
			// A weight would wait for it, which the model does not.
			return table.Remove(host, instance(n))
		}
		weight := rapid.IntRange(0, 3).Draw(t, "weight")
		m[host][n] = weight
		return table.SetWeights(host, map[string]int{fmt.Sprint("i", n): weight})
	}
}

var _ = Describe("Watcher and Writer", func() {
	ctx := context.Background()

	It("have the same table as a model has, whatever is written, severed and changed by hand", func() {
		s := spec.StartRedis(new(servers.Redis))
		client := connect(s.URL())
		l := startLink(s.Addr())
		w := watch(l.url())
		w.fresh(0)
		writers := []*table.Writer{newWriter(client), newWriter(client)}
		m, serial := model{}, uint64(0)
		rapid.Check(GinkgoT(), func(t *rapid.T) {
			next, before := m.clone(), serial
			for range rapid.IntRange(1, 12).Draw(t, "steps") {
				changes := []table.Change{}
				for range rapid.IntRange(1, 3).Draw(t, "changes") {
					changes = append(changes, next.change(t))
				}
				result, err := writers[rapid.IntRange(0, 1).Draw(t, "writer")].Apply(ctx, changes...)
				Expect(err).NotTo(HaveOccurred())
				if serial++; !result.Changed {
					serial--
				}
				Expect(result.Serial).To(Equal(serial))
				if rapid.IntRange(0, 19).Draw(t, "severed") == 0 {
					l.sever()
				}
			}
			m = next
			if serial != before {
				Eventually(func() map[string][]string { return hostsOf(w.table()) }).Should(Equal(m.hosts()))
			}
			Expect(hostsOf(w.table())).To(Equal(m.hosts()))
		})
		w.fresh(serial)
	})

	It("D22: agree after two writers have written at once", func() {
		s := spec.StartRedis(new(servers.Redis))
		client := connect(s.URL())
		w := watch(s.URL())
		w.fresh(0)
		var all sync.WaitGroup
		for n := range 2 {
			writer := newWriter(client)
			all.Go(func() {
				defer GinkgoRecover()
				for i := range 200 {
					apply(writer, table.Add(fmt.Sprint("h", i%7), instance(n*200+i)), table.Remove(fmt.Sprint("h", (i+1)%7), instance((1-n)*200+i)))
				}
			})
		}
		all.Wait()
		serial, err := client.Get(ctx, "switchboard:serial").Uint64()
		Expect(err).NotTo(HaveOccurred())
		w.fresh(serial)
		dump, err := newWriter(client).Dump(ctx)
		Expect(err).NotTo(HaveOccurred())
		want := make(map[string]int)
		for _, entry := range dump.Table {
			want[entry.Hostname] = len(entry.Routes)
		}
		got := make(map[string]int)
		for host := range w.table().All() {
			got[host.Name] = len(host.Backends)
		}
		Expect(got).To(Equal(want))
	})
})
