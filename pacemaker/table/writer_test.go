package table_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/redis/go-redis/v9"

	"switchboard/bridge/route"
	"switchboard/fixtures/servers"
	"switchboard/fixtures/spec"
	"switchboard/pacemaker/table"
)

var _ = Describe("Writer", func() {
	ctx := context.Background()

	onEach(func(start func() string) {
		var client redis.UniversalClient
		var w *table.Writer
		BeforeEach(func() {
			client = connect(start())
			w = newWriter(client)
		})
		records := func() (all []string) {
			GinkgoHelper()
			messages, err := client.XRange(ctx, "switchboard:changes", "-", "+").Result()
			Expect(err).NotTo(HaveOccurred())
			for _, m := range messages {
				all = append(all, fmt.Sprint(m.Values["serial"], " ", m.Values["host"]))
			}
			return all
		}
		members := func(host string) []string { return client.SMembers(ctx, "switchboard:instances:"+host).Val() }
		fields := func(host string) map[string]string { return client.HGetAll(ctx, "switchboard:host:"+host).Val() }

		It("writes members, the serial and a record in one step, and nothing if all is there already", func() {
			Expect(apply(w, table.Add("shop.example.com", instance(1)))).To(Equal(table.Result{Serial: 1, Changed: true}))
			Expect(members("shop.example.com")).To(Equal([]string{"10.0.0.1:8080#12#3#i1"}))
			Expect(apply(w, table.Add("shop.example.com", instance(1)))).To(Equal(table.Result{Serial: 1}))
			Expect(apply(w, table.Remove("shop.example.com", instance(2)))).To(Equal(table.Result{Serial: 1}))
			Expect(apply(w, table.Remove("shop.example.com", instance(1)))).To(Equal(table.Result{Serial: 2, Changed: true}))
			Expect(client.Exists(ctx, "switchboard:instances:shop.example.com").Val()).To(BeZero())
			Expect(records()).To(Equal([]string{"1 shop.example.com", "2 shop.example.com"}))
			Expect(client.Get(ctx, "switchboard:serial").Val()).To(Equal("2"))
		})

		It("D11: changes several hosts in one step with one serial, and records those that did change", func() {
			apply(w, table.Add("a.example.com", instance(1)))
			result := apply(w, table.Add("a.example.com", instance(1)), table.Add("*.example.com", instance(2)), table.Add("*", instance(3)))
			Expect(result).To(Equal(table.Result{Serial: 2, Changed: true}))
			Expect(records()).To(Equal([]string{"1 a.example.com", "2 *.example.com", "2 *"}))
		})

		It("replaces a host exactly, drops it, and takes weights with members", func() {
			sticky := table.Options{Choose: route.Sticky, StickyBy: route.StickyBy{Kind: route.ByCookie, Name: "id"}, Hold: time.Second}
			apply(w, table.Add("a", instance(1), instance(2)), table.SetWeights("a", map[string]int{"i1": 9}))
			apply(w, table.Replace("a", sticky, map[string]int{"i3": 0}, instance(2), instance(3)))
			Expect(members("a")).To(ConsistOf("10.0.0.2:8080#12#3#i2", "10.0.0.3:8080#12#3#i3"))
			Expect(fields("a")).To(Equal(map[string]string{"choose": "sticky", "sticky_by": "cookie:id", "hold": "1s", "weight:i3": "0"}))
			Expect(apply(w, table.Replace("a", sticky, map[string]int{"i3": 0}, instance(3), instance(2))).Changed).To(BeFalse())
			apply(w, table.Remove("a", instance(3)))
			Expect(fields("a")).NotTo(HaveKey("weight:i3"))
			Expect(apply(w, table.Drop("a"))).To(Equal(table.Result{Serial: 4, Changed: true}))
			Expect(client.Keys(ctx, "*").Val()).To(ConsistOf("switchboard:serial", "switchboard:changes"))
		})

		It("sets options and leaves weights as they are", func() {
			apply(w, table.SetWeights("a", map[string]int{"i1": 5}))
			apply(w, table.SetOptions("a", table.Options{Policy: route.Active, Hold: time.Minute}))
			Expect(fields("a")).To(Equal(map[string]string{"weight:i1": "5", "policy": "active", "hold": "1m0s"}))
			apply(w, table.SetOptions("a", table.Options{}))
			Expect(fields("a")).To(Equal(map[string]string{"weight:i1": "5"}))
			Expect(apply(w, table.SetOptions("a", table.Options{})).Changed).To(BeFalse())
		})

		It("D22: lets one of two who decide at once win, and the other look again", func() {
			const each = 20
			var conflicts atomic.Int64
			var writers sync.WaitGroup
			for n := range 2 {
				writers.Go(func() {
					defer GinkgoRecover()
					for i := 0; i < each; {
						serial, err := client.Get(ctx, "switchboard:serial").Uint64()
						if err != nil {
							Expect(err).To(Equal(redis.Nil))
						}
						_, err = w.ApplyIf(ctx, serial, table.Add("a", instance(n*each+i+1)))
						if err == nil {
							i++
							continue
						}
						Expect(err).To(MatchError(table.ErrConflict))
						conflicts.Add(1)
					}
				})
			}
			writers.Wait()
			Expect(client.Get(ctx, "switchboard:serial").Uint64()).To(BeEquivalentTo(2 * each))
			Expect(members("a")).To(HaveLen(2 * each))
			_, err := w.ApplyIf(ctx, 3, table.Drop("a"))
			Expect(err).To(MatchError(table.ErrConflict))
			Expect(members("a")).To(HaveLen(2 * each))
		})

		It("trims the records", func() {
			w, err := table.NewWriter(table.WriterOptions{Client: client, Keep: 10, Timeout: soon})
			Expect(err).NotTo(HaveOccurred())
			for n := range 300 {
				apply(w, table.Add("a", instance(n+1)))
			}
			// A stream is trimmed by whole nodes of about 100 records.
			Expect(len(records())).To(BeNumerically("<", 250))
		})

		It("changes nothing if a key has the wrong type or the serial is no number", func() {
			for key, set := range map[string]func(key string){
				"switchboard:instances:b": func(key string) { client.Set(ctx, key, "x", 0) },
				"switchboard:host:b":      func(key string) { client.Set(ctx, key, "x", 0) },
				"switchboard:changes":     func(key string) { client.Set(ctx, key, "x", 0) },
				"switchboard:serial":      func(key string) { client.Set(ctx, key, "12x", 0) },
			} {
				set(key)
				_, err := w.Apply(ctx, table.Add("a", instance(1)), table.Add("b", instance(1)))
				Expect(err).To(HaveOccurred(), key)
				Expect(err).NotTo(MatchError(table.ErrUnknown), key)
				Expect(client.Keys(ctx, "*").Val()).To(ConsistOf(key))
				client.Del(ctx, key)
			}
		})

		It("counts beyond what fits 32 bits", func() {
			client.Set(ctx, "switchboard:serial", 1<<52, 0)
			Expect(apply(w, table.Add("a", instance(1))).Serial).To(BeEquivalentTo(1<<52 + 1))
			Expect(records()).To(Equal([]string{"4503599627370497 a"}))
		})

		DescribeTable("refuses what is wrong before it sends anything",
			func(change table.Change, words string) {
				_, err := w.Apply(ctx, table.Add("good", instance(1)), change)
				Expect(err).To(MatchError(ContainSubstring(words)))
				Expect(client.Keys(ctx, "*").Val()).To(BeEmpty())
			},
			Entry("no name", table.Add("", instance(1)), "must not be empty"),
			Entry("a name that is a key", table.Add("a\r\nDEL b", instance(1)), "is not a name"),
			Entry("upper case", table.Drop("A.example.com"), `not in its one spelling, "a.example.com"`),
			Entry("a wildcard in the middle", table.Drop("a.*.com"), "is not a name"),
			Entry("a wildcard of an address", table.Drop("*.10.0.0.1"), "nothing stands before an IP address"),
			Entry("a key of an instance", table.Add("a", table.Member{Address: netip.MustParseAddrPort("10.0.0.1:1"), Instance: "a#b"}), "is not a key"),
			Entry("an address that may not be", table.Add("a", table.Member{Address: netip.MustParseAddrPort("169.254.169.254:80")}), "link-local"),
			Entry("a weight", table.SetWeights("a", map[string]int{"i": -1}), "from 0 to 1000000"),
			Entry("a backend's name", table.SetWeights("a", map[string]int{"i j": 1}), "is not a name"),
			Entry("options that do not go together", table.SetOptions("a", table.Options{Policy: route.Active, Choose: route.Random}), "no meaning under policy"),
			Entry("options of another", table.Replace("a", table.Options{Choose: route.Sticky}, nil), "does not say what by"),
		)

		It("dumps the table, broken entries and all, and imports it elsewhere", func() {
			apply(w, table.Add("b", instance(2), instance(1)), table.Add("*.a", table.Member{Address: netip.MustParseAddrPort("[2001:db8::1]:80")}))
			apply(w, table.SetWeights("b", map[string]int{"i1": 7}))
			client.SAdd(ctx, "switchboard:instances:c", "foreign")
			client.Set(ctx, "switchboard:instances:d", "x", 0)
			d, err := w.Dump(ctx)
			Expect(err).NotTo(HaveOccurred())
			Expect(d.Serial).To(BeEquivalentTo(2))
			Expect(d.Table).To(HaveLen(4))
			Expect(d.Table[1]).To(Equal(table.DumpEntry{
				Hostname: "b", Instances: []string{"i1", "i2"}, Nodes: []string{"3"},
				Routes: []string{"10.0.0.1:8080#12#3#i1", "10.0.0.2:8080#12#3#i2"}, Fields: map[string]string{"weight:i1": "7"},
			}))
			Expect(d.Table[0].Routes).To(Equal([]string{"[2001:db8::1]:80#null#null#null"}))
			Expect(d.Table[2].Routes).To(Equal([]string{"foreign"}))
			Expect(d.Table[3].Error).To(ContainSubstring("wrong type"))

			_, err = w.Import(ctx, d, table.ImportOptions{})
			Expect(err).To(MatchError(And(ContainSubstring(`host "c"`), ContainSubstring(`host "d"`))))
			d.Table = d.Table[:2]
			Expect(client.FlushAll(ctx).Err()).To(Succeed())
			apply(w, table.Add("e", instance(9)))
			Expect(w.Import(ctx, d, table.ImportOptions{Above: 41})).To(BeEquivalentTo(42))
			again, err := w.Dump(ctx)
			Expect(err).NotTo(HaveOccurred())
			Expect(again.Serial).To(BeEquivalentTo(42))
			Expect(again.Table[:2]).To(Equal(d.Table))
			Expect(again.Table).To(HaveLen(3))
			Expect(w.Import(ctx, d, table.ImportOptions{Replace: true})).To(BeEquivalentTo(43))
			Expect(members("e")).To(BeEmpty())
		})

		It("says what an import would do, and does nothing", func() {
			apply(w, table.Add("same", instance(1)), table.Add("other", instance(2)), table.Add("gone", instance(3)))
			d := table.Dump{Table: []table.DumpEntry{
				{Hostname: "same", Routes: []string{"[::ffff:10.0.0.1]:8080#12#3#i1", "10.0.0.1:8080#12#3#i1"}, Fields: map[string]string{}},
				{Hostname: "other", Routes: []string{"10.0.0.2:8080#12#3#i2"}, Fields: map[string]string{"hold": "1s"}},
				{Hostname: "new", Routes: []string{"10.0.0.4:8080#12#3#i4"}}, {Hostname: "nothing"},
			}}
			Expect(w.Preview(ctx, d, table.ImportOptions{Replace: true})).To(Equal(table.Preview{Serial: 1, Added: 1, Changed: 1, Dropped: 1, Equal: 1}))
			Expect(w.Preview(ctx, d, table.ImportOptions{})).To(HaveField("Dropped", 0))
			Expect(client.Get(ctx, "switchboard:serial").Val()).To(Equal("1"))
			var progress []string
			_, err := w.Import(ctx, d, table.ImportOptions{Replace: true, Progress: func(written, all int) { progress = append(progress, fmt.Sprint(written, "/", all)) }})
			Expect(err).NotTo(HaveOccurred())
			Expect(progress).To(Equal([]string{"5/5"}))
			Expect(w.Preview(ctx, d, table.ImportOptions{Replace: true})).To(Equal(table.Preview{Serial: 2, Equal: 3}))
			d.Table = append(d.Table, d.Table[0])
			_, err = w.Preview(ctx, d, table.ImportOptions{})
			Expect(err).To(MatchError(ContainSubstring(`host "same" is there twice`)))
		})

		It("dumps some hosts at one moment, as routers have them", func() {
			apply(w, table.Add("a", instance(1)), table.SetOptions("b", table.Options{Policy: route.Active}))
			client.SAdd(ctx, "switchboard:instances:a", "foreign")
			client.Set(ctx, "switchboard:instances:c", "x", 0)
			d, err := w.DumpHosts(ctx, "a", "b", "c", "d")
			Expect(err).NotTo(HaveOccurred())
			Expect(d.Serial).To(BeEquivalentTo(1))
			Expect(d.Table).To(HaveLen(3))
			host, rejected := d.Table[0].Host()
			Expect(backends(host)).To(Equal([]string{at(1)}))
			Expect(rejected).To(ConsistOf(HaveField("Kind", table.RejectedMember)))
			host, rejected = d.Table[1].Host()
			Expect(host).To(HaveField("Policy", route.Active))
			Expect(rejected).To(BeEmpty())
			host, rejected = d.Table[2].Host()
			Expect(host).To(BeNil())
			Expect(rejected).To(ConsistOf(HaveField("Kind", table.RejectedHost)))
			host, rejected = table.DumpEntry{Hostname: "A"}.Host()
			Expect(host).To(BeNil())
			Expect(rejected).To(ConsistOf(HaveField("Kind", table.RejectedHost)))
		})
	})

	It("takes no JSON for a dump that is none, which would empty a table", func() {
		for _, text := range []string{"{}", "null", `{"table": null}`, "[]", ""} {
			_, err := table.ReadDump([]byte(text))
			Expect(err).To(MatchError(HavePrefix("reading a dump of the table: ")), text)
		}
		Expect(table.ReadDump([]byte(`{"table": []}`))).To(Equal(table.Dump{Table: []table.DumpEntry{}}))
	})

	It("has a prefix with a hash tag on a Redis Cluster", func() {
		client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{spec.RefusedAddr()}})
		DeferCleanup(client.Close)
		for _, prefix := range []string{"", "{}:", "switch}board{:"} {
			_, err := table.NewWriter(table.WriterOptions{Client: client, Prefix: prefix})
			Expect(err).To(MatchError(ContainSubstring("must carry a hash tag")))
		}
		_, err := table.NewWriter(table.WriterOptions{Client: client, Prefix: "{switchboard}:"})
		Expect(err).NotTo(HaveOccurred())
	})

	It("D21: says whether a change that failed may have been made", func() {
		redis := spec.StartRedis(&servers.Redis{Config: []string{"requirepass s3cret"}})
		_, err := newWriter(connect(redis.URL())).Apply(ctx, table.Add("a", instance(1)))
		Expect(err).To(MatchError("changing the table: Redis wants a password"))
		client := connect("redis://:s3cret@" + redis.Addr())
		w, err := table.NewWriter(table.WriterOptions{Client: client, Timeout: 100 * time.Millisecond})
		Expect(err).NotTo(HaveOccurred())
		redis.Pause()
		_, err = w.Apply(ctx, table.Add("a", instance(1)))
		Expect(err).To(MatchError(table.ErrUnknown))
		Expect(err).To(MatchError(ContainSubstring("does not answer in time")))
		Expect(strings.Contains(err.Error(), "s3cret")).To(BeFalse())
		redis.Continue()
		Eventually(func() error { _, err := w.Apply(ctx, table.Add("a", instance(1))); return err }).Should(Succeed())
		Expect(client.Get(ctx, "switchboard:serial").Val()).To(Equal("1"))
	})

	It("knows that a change was not made that could not be sent", func() {
		_, err := newWriter(connect("redis://"+spec.RefusedAddr())).Apply(ctx, table.Add("a", instance(1)))
		Expect(err).To(MatchError("changing the table: nothing listens at the address of Redis"))
		Expect(err).NotTo(MatchError(table.ErrUnknown))
	})

	It("D9: says that a replica takes no changes", func() {
		master := spec.StartRedis(new(servers.Redis))
		replica := spec.StartRedis(&servers.Redis{ReplicaOf: master.Addr()})
		_, err := newWriter(connect(replica.URL())).Apply(ctx, table.Add("a", instance(1)))
		Expect(err).To(MatchError("changing the table: this Redis is a replica, to which nothing can be written"))
	})
})
