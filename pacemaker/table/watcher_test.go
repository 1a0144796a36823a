package table_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	miniserver "github.com/alicebob/miniredis/v2/server"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/redis/go-redis/v9"

	"switchboard/bridge/route"
	"switchboard/fixtures/servers"
	"switchboard/fixtures/spec"
	"switchboard/pacemaker/table"
)

var _ = Describe("Watcher", func() {
	ctx := context.Background()

	onEach(func(start func() string) {
		var url string
		var client redis.UniversalClient
		var writer *table.Writer
		BeforeEach(func() {
			url = start()
			client = connect(url)
			writer = newWriter(client)
		})

		It("loads an empty table, and then what is written", func() {
			w := watch(url)
			w.fresh(0)
			Expect(w.table().Len()).To(BeZero())
			apply(writer, table.Add("shop.example.com", instance(1)))
			w.shows("shop.example.com", at(1))
			w.fresh(1)
			Expect(w.state().Hosts).To(Equal(1))
			apply(writer, table.Remove("shop.example.com", instance(1)))
			w.shows("shop.example.com")
			w.fresh(2)
		})

		It("loads what is there, wildcards and options too", func() {
			apply(writer,
				table.Add("shop.example.com", instance(1), instance(2)), table.Add("*.example.com", instance(3)), table.Add("*", instance(4)),
				table.SetOptions("shop.example.com", table.Options{Choose: route.LeastSessions, Hold: 1500 * time.Millisecond}),
				table.SetWeights("shop.example.com", map[string]int{"i2": 0}), table.SetOptions("known", table.Options{Policy: route.Active}))
			w := watch(url)
			w.fresh(1)
			host := w.table().LookupString("shop.example.com")
			Expect(*host).To(Equal(route.Host{
				Name: "shop.example.com", Policy: route.Balance, Choose: route.LeastSessions, Hold: 1500 * time.Millisecond,
				Backends: []route.Backend{
					{Name: "i1", Address: "10.0.0.1:8080", Weight: 1, Origin: "12#3#i1"},
					{Name: "i2", Address: "10.0.0.2:8080", Weight: 0, Origin: "12#3#i2"},
				},
			}))
			typeID, node, key := host.Backends[0].Keys()
			Expect([]string{typeID, node, key}).To(Equal([]string{"12", "3", "i1"}))
			Expect(w.table().LookupString("other.example.com").Backends[0].Name).To(Equal("i3"))
			Expect(w.table().LookupString("elsewhere").Backends[0].Name).To(Equal("i4"))
			Expect(w.table().LookupString("known").Backends).To(BeEmpty())
		})

		It("touches only hosts that changed", func() {
			for n := range 50 {
				apply(writer, table.Add(fmt.Sprintf("app-%d", n), instance(n+1)))
			}
			w := watch(url)
			w.fresh(50)
			before := w.table()
			apply(writer, table.Add("app-7", instance(99)))
			w.shows("app-7", at(8), at(99))
			// Changes that undo each other, and a compare, leave all as it is.
			client.Incr(ctx, "switchboard:serial")
			w.fresh(52)
			after := w.table()
			for n := range 50 {
				name := fmt.Sprintf("app-%d", n)
				Expect(after.Get(name) == before.Get(name)).To(Equal(n != 7), name)
			}
		})

		It("D12: finds what a writer of the old kind does, who leaves no record", func() {
			apply(writer, table.Add("a", instance(1)), table.Add("b", instance(2)))
			w := watch(url)
			w.fresh(1)
			_, err := client.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
				pipe.SAdd(ctx, "switchboard:instances:c", instance(3).String())
				pipe.SRem(ctx, "switchboard:instances:a", instance(1).String())
				pipe.Incr(ctx, "switchboard:serial")
				return nil
			})
			Expect(err).NotTo(HaveOccurred())
			w.shows("c", at(3))
			w.shows("a")
			w.fresh(2)
			// Among records too.
			client.SRem(ctx, "switchboard:instances:b", instance(2).String())
			client.Incr(ctx, "switchboard:serial")
			apply(writer, table.Add("d", instance(4)))
			w.shows("d", at(4))
			w.shows("b")
			w.fresh(4)
		})

		It("D12: reads all again if records were trimmed that it has not read", func() {
			writer, err := table.NewWriter(table.WriterOptions{Client: client, Keep: 1, Timeout: soon})
			Expect(err).NotTo(HaveOccurred())
			apply(writer, table.Add("a", instance(1)))
			w := watch(url, func(o *table.WatcherOptions) { o.Pause = 300 * time.Millisecond })
			w.fresh(1)
			apply(writer, table.Add("a", instance(2)))
			w.shows("a", at(1), at(2))
			for n := range 300 {
				apply(writer, table.Add(fmt.Sprint("h", n), instance(n)))
			}
			client.XTrimMaxLen(ctx, "switchboard:changes", 1)
			w.shows("h299", at(299))
			w.shows("h0", at(0))
			w.fresh(302)
			Expect(w.table().Len()).To(Equal(301))
		})

		It("goes on if the stream is deleted", func() {
			apply(writer, table.Add("a", instance(1)))
			w := watch(url)
			w.fresh(1)
			client.Del(ctx, "switchboard:changes")
			apply(writer, table.Add("b", instance(2)))
			w.shows("b", at(2))
			w.fresh(2)
			compares := w.state().Compares
			client.Del(ctx, "switchboard:changes")
			Eventually(func() uint64 { return w.state().Compares }).Should(BeNumerically(">", compares))
			apply(writer, table.Add("c", instance(3)))
			w.shows("c", at(3))
			w.fresh(3)
		})

		It("finds in time what was changed by hand, and keeps what is gone by hand", func() {
			apply(writer, table.Add("a", instance(1)), table.Add("b", instance(2)))
			w := watch(url, func(o *table.WatcherOptions) { o.Resync = 100 * time.Millisecond })
			w.fresh(1)
			client.SAdd(ctx, "switchboard:instances:c", instance(3).String())
			w.shows("c", at(3))
			client.Del(ctx, "switchboard:instances:a")
			w.alarmed("1 hosts are gone from Redis though nobody removed them, as a")
			w.shows("a", at(1))
			Expect(w.Accept(ctx)).To(Succeed())
			w.shows("a")
			w.shows("b", at(2))
			w.fresh(1)
		})

		It("D10, D19: rejects what is broken, and serves the rest", func() {
			set := func(host string, members ...any) { client.SAdd(ctx, "switchboard:instances:"+host, members...) }
			apply(writer, table.Add("a", instance(1)))
			set("a", "nonsense", "10.0.0.9:80#1#2", "169.254.169.254:80#1#2#3", "0.0.0.0:80#1#2#3", "10.0.0.9:080#1#2#3",
				"host.example.com:80#1#2#3", "10.0.0.9:80#\xff\xfe#2#3", "unix:/run/x#1#2#3", "127.0.0.1:9090#1#2#3", strings.Repeat("x", 10<<20))
			set("UPPER.example.com", instance(2).String())
			set("bad name\r\n", instance(2).String())
			client.HSet(ctx, "switchboard:host:a", "policy", "psychic", "weight:i1", "-3", "colour", "red", "hold", "soon", "sticky_by", "client")
			client.Set(ctx, "switchboard:instances:wrong", "a string", 0)
			client.Set(ctx, "switchboard:host:half", "a string", 0)
			set("half", instance(5).String())
			w := watch(url, func(o *table.WatcherOptions) {
				o.Refuse = func(addr netip.AddrPort) error {
					if addr == netip.MustParseAddrPort("127.0.0.1:9090") {
						return errors.New("127.0.0.1:9090 is refused: it is our own API")
					}
					return nil
				}
			})
			w.fresh(1)
			Expect(w.backends("a")).To(Equal([]string{at(1)}))
			Expect(w.table().Len()).To(Equal(1))
			Expect(w.state().Rejected).To(Equal(table.Rejected{Hosts: 4, Members: 10, Options: 5}))
			Expect(w.state().Rejections).To(HaveLen(19))
			for _, r := range w.state().Rejections {
				Expect(len(r.Host) + len(r.Why)).To(BeNumerically("<", 600))
			}
			// A host that becomes unreadable stays as it was, and healing is seen.
			apply(writer, table.Add("b", instance(3)))
			w.shows("b", at(3))
			client.Rename(ctx, "switchboard:instances:b", "elsewhere")
			client.Set(ctx, "switchboard:instances:b", "a string", 0)
			client.Incr(ctx, "switchboard:serial")
			Eventually(func() int { return w.state().Rejected.Hosts }).Should(Equal(5))
			w.shows("b", at(3))
			client.Del(ctx, "switchboard:instances:b", "switchboard:instances:wrong", "switchboard:instances:UPPER.example.com")
			apply(writer, table.Add("b", instance(4)))
			w.shows("b", at(4))
			client.Incr(ctx, "switchboard:serial")
			Eventually(func() int { return w.state().Rejected.Hosts }).Should(Equal(2))
		})

		It("serves a host with as many members as one may have, and rejects one with more", func() {
			most, more := make([]table.Member, table.MaxMembers), make([]any, table.MaxMembers+100)
			for i := range more {
				if i < len(most) {
					most[i] = instance(i + 1)
				}
				more[i] = instance(i + 1).String()
			}
			apply(writer, table.Replace("most.example.com", table.Options{}, nil, most...))
			Expect(client.SAdd(ctx, "switchboard:instances:more.example.com", more...).Err()).To(Succeed())
			w := watch(url)
			w.fresh(1)
			Expect(w.backends("most.example.com")).To(HaveLen(table.MaxMembers))
			Expect(w.table().Get("more.example.com")).To(BeNil())
			Expect(w.state().Rejected).To(Equal(table.Rejected{Hosts: 1}))
			dump, err := writer.Dump(ctx)
			Expect(err).NotTo(HaveOccurred())
			Expect(dump.Table[0].Hostname).To(Equal("more.example.com"))
			Expect(dump.Table[0].Routes).To(HaveLen(len(more)))
		})

		It("D3: keeps its table if Redis loses its own, until an operator accepts", func() {
			apply(writer, table.Add("a", instance(1)))
			apply(writer, table.Add("b", instance(2)))
			w := watch(url)
			w.fresh(2)
			client.FlushAll(ctx)
			w.alarmed("Redis is at serial 0 with another table than ours, which is at 2")
			apply(writer, table.Add("c", instance(3)))
			Consistently(func() []string { return w.backends("a") }, "200ms").Should(Equal([]string{at(1)}))
			Expect(w.table().Get("c")).To(BeNil())
			Expect(w.state().Stale).To(BeTrue())
			Expect(w.Accept(ctx)).To(Succeed())
			w.shows("c", at(3))
			w.shows("a")
			w.fresh(1)
		})

		It("takes a lost table back once its serial passes, whole", func() {
			for n := range 30 {
				apply(writer, table.Add(fmt.Sprint("h", n), instance(n)))
			}
			dump, err := writer.Dump(ctx)
			Expect(err).NotTo(HaveOccurred())
			w := watch(url)
			w.fresh(30)
			before := w.table()
			client.FlushAll(ctx)
			w.alarmed("serial 0")
			tables, cancel := w.tables.Subscribe()
			defer cancel()
			Expect(tables).To(Receive())
			serial, err := writer.Import(ctx, dump, table.ImportOptions{Above: w.state().Serial})
			Expect(err).NotTo(HaveOccurred())
			w.fresh(serial)
			Consistently(tables, "100ms").ShouldNot(Receive())
			Expect(w.table()).To(BeIdenticalTo(before))
		})

		It("D4: does not believe a table at its own serial that has another history", func() {
			apply(writer, table.Add("a", instance(1)))
			apply(writer, table.Add("b", instance(2)))
			w := watch(url)
			w.fresh(2)
			// One step, so that it is never seen at a lower serial.
			_, err := client.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
				pipe.Del(ctx, "switchboard:instances:b", "switchboard:changes")
				pipe.SAdd(ctx, "switchboard:instances:a", instance(7).String())
				pipe.XAdd(ctx, &redis.XAddArgs{Stream: "switchboard:changes", Values: []string{"serial", "2", "host", "a"}})
				return nil
			})
			Expect(err).NotTo(HaveOccurred())
			w.alarmed("serial 2 with another table than ours")
			Consistently(func() []string { return w.backends("a") }, "200ms").Should(Equal([]string{at(1)}))
			apply(writer, table.Add("c", instance(3)))
			w.shows("c", at(3))
			w.shows("a", at(1), at(7))
			w.shows("b")
			w.fresh(3)
		})

		It("D3: keeps its table if Redis has an empty one at a higher serial", func() {
			apply(writer, table.Add("a", instance(1)))
			w := watch(url)
			w.fresh(1)
			_, err := client.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
				pipe.FlushAll(ctx)
				pipe.Set(ctx, "switchboard:serial", 9, 0)
				return nil
			})
			Expect(err).NotTo(HaveOccurred())
			w.alarmed("the table in Redis is empty")
			w.shows("a", at(1))
			client.SAdd(ctx, "switchboard:instances:b", instance(2).String())
			client.Incr(ctx, "switchboard:serial")
			w.shows("b", at(2))
			w.shows("a")
			w.fresh(10)
		})

		It("D15: reads one host once, however often it changed", func() {
			w := watch(url)
			w.fresh(0)
			tables, cancel := w.tables.Subscribe()
			defer cancel()
			made := make(chan int)
			go func() {
				n := 0
				for range tables {
					n++
				}
				made <- n
			}()
			const writers, each = 4, 250
			var all sync.WaitGroup
			for n := range writers {
				all.Go(func() {
					defer GinkgoRecover()
					for i := range each {
						apply(writer, table.Add(fmt.Sprint("h", i%3), instance(n*each+i)))
					}
				})
			}
			all.Wait()
			w.fresh(writers * each)
			Expect(w.state().Changes).To(BeEquivalentTo(writers * each))
			cancel()
			Expect(<-made).To(BeNumerically("<=", writers*each))
			Expect(len(w.backends("h0")) + len(w.backends("h1")) + len(w.backends("h2"))).To(Equal(writers * each))
		})

		It("D1: serves the saved table while Redis is away, and goes on from there", func() {
			file := table.File(filepath.Join(GinkgoT().TempDir(), "table.jsonl"))
			keep := func(o *table.WatcherOptions) { o.Load, o.Save = file.Load, file.Save }
			apply(writer, table.Add("a", instance(1)), table.SetWeights("a", map[string]int{"i1": 3}))
			w := watch(url, keep)
			w.fresh(1)
			w.stop()

			away := watch("redis://"+spec.RefusedAddr(), keep)
			Eventually(func() string { return away.state().Reason }).Should(Equal("nothing listens at the address of Redis"))
			Expect(away.state()).To(And(HaveField("Loaded", true), HaveField("Stale", true), HaveField("Serial", BeEquivalentTo(1))))
			Expect(away.table().Get("a").Backends[0].Weight).To(Equal(3))
			Expect(away.Accept(ctx)).To(MatchError("reading Redis, so nothing is accepted: nothing listens at the address of Redis"))
			away.stop()
			Expect(away.Accept(ctx)).To(MatchError(table.ErrStopped))

			apply(writer, table.Add("b", instance(2)))
			w = watch(url, keep)
			w.fresh(2)
			w.shows("b", at(2))
			Eventually(func() (uint64, error) { s, err := file.Load(); return s.Serial, err }).Should(BeEquivalentTo(2))
			w.stop()
			client.FlushAll(ctx)
			w = watch(url, keep)
			w.alarmed("serial 0")
			w.shows("a", at(1))
		})
	})

	It("D18: keeps a host whose key is gone between its name and its members, if nobody has removed it", func() {
		mini, client := startMini()
		writer := newWriter(client)
		apply(writer, table.Add("a", instance(1)), table.Add("b", instance(2)))
		w := watch("redis://"+mini.Addr(), func(o *table.WatcherOptions) { o.Resync = 100 * time.Millisecond })
		w.fresh(1)
		// during does something once, when a host is about to be read.
		during := func(host string, do func()) {
			var done atomic.Bool
			mini.Server().SetPreHook(func(_ *miniserver.Peer, command string, arguments ...string) bool {
				if command == "SRANDMEMBER" && arguments[0] == "switchboard:instances:"+host && done.CompareAndSwap(false, true) {
					do()
				}
				return false
			})
		}
		during("b", func() { mini.Del("switchboard:instances:b") })
		w.alarmed("1 hosts are gone from Redis though nobody removed them, as b")
		w.shows("b", at(2))
		apply(writer, table.Add("b", instance(3)))
		w.shows("b", at(3))
		w.fresh(2)
		// What somebody has removed is no loss, whenever the compare comes to it.
		during("a", func() {
			defer GinkgoRecover()
			apply(writer, table.Drop("a"))
		})
		w.shows("a")
		w.fresh(3)
		Expect(w.table().Len()).To(Equal(1))
	})

	It("counts a record once, though what came of it could not be read at first", func() {
		mini, client := startMini()
		writer := newWriter(client)
		w := watch("redis://" + mini.Addr())
		w.fresh(0)
		var busy atomic.Bool
		mini.Server().SetPreHook(func(peer *miniserver.Peer, command string, _ ...string) bool {
			if command == "MULTI" && busy.CompareAndSwap(true, false) {
				peer.WriteError("BUSY Redis is busy running a script")
				return true
			}
			return false
		})
		const changes = 20
		for n := range changes {
			busy.Store(true)
			apply(writer, table.Add("a", instance(n)))
			w.fresh(uint64(n) + 1)
		}
		Expect(w.state().Failures).NotTo(BeZero())
		Expect(w.state().Changes).To(BeEquivalentTo(changes))
	})

	It("loads more hosts than it finds at once, with their options, whichever of their keys it finds first", func() {
		url := "redis://" + spec.StartRedis(new(servers.Redis)).Addr()
		client := connect(url)
		const many = 30_000
		name := func(i int) string { return fmt.Sprint("app-", i) }
		pipe := client.Pipeline()
		for i := range many {
			if i%5 != 4 {
				pipe.SAdd(ctx, "switchboard:instances:"+name(i), instance(i%60_000).String())
			}
			if i%5 > 1 {
				pipe.HSet(ctx, "switchboard:host:"+name(i), "hold", fmt.Sprint(i+1, "s"))
			}
		}
		pipe.Set(ctx, "switchboard:serial", 7, 0)
		Expect(pipe.Exec(ctx)).Error().NotTo(HaveOccurred())
		w := watch(url, func(o *table.WatcherOptions) { o.Redis.Timeout = soon })
		w.fresh(7)
		Expect(w.table().Len()).To(Equal(many))
		for i := range many {
			host := w.table().Get(name(i))
			members, hold := 1, time.Duration(0)
			if i%5 == 4 {
				members = 0
			}
			if i%5 > 1 {
				hold = time.Duration(i+1) * time.Second
			}
			if len(host.Backends) != members || host.Hold != hold {
				Fail(fmt.Sprintf("%s has %d members and hold %s, not %d and %s", host.Name, len(host.Backends), host.Hold, members, hold))
			}
		}
	})

	It("ignores a saved table that is broken, with an alarm until Redis has one", func() {
		redis := spec.RefusedAddr()
		w := watch("redis://"+redis, func(o *table.WatcherOptions) {
			o.Load = func() (table.Saved, error) { return table.ReadSaved(strings.NewReader("{}\n")) }
		})
		w.alarmed("the saved table is broken and was ignored")
		Expect(w.state().Loaded).To(BeFalse())
		Expect(w.table()).To(BeNil())
	})

	It("warns if the table cannot be saved", func() {
		_, client := startMini()
		apply(newWriter(client), table.Add("a", instance(1)))
		w := watch("redis://"+client.(*redis.Client).Options().Addr, func(o *table.WatcherOptions) {
			o.Save = func(table.Saved) error { return errors.New("the disk is full") }
		})
		Eventually(func() string { return w.state().Warning }).Should(Equal("the table cannot be saved: the disk is full"))
		w.shows("a", at(1))
	})

	It("refuses options that cannot work", func() {
		_, err := table.NewWatcher(table.WatcherOptions{})
		Expect(err).To(MatchError(ContainSubstring("feeds Tables and Status are required")))
	})
})
