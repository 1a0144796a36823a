package table_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/redis/go-redis/v9"

	"switchboard/fixtures/servers"
	"switchboard/fixtures/spec"
	"switchboard/pacemaker/table"
)

// D1 to D22 are what can go wrong between a table and its Redis. A spec says in its text which
// of them it is about. These have none, or not here:
//
//   - D6, a request that waits for Redis: there is none, as the table is in memory. The spec is about
//     who follows.
//   - D14, a million hosts, and D15, ten thousand changes a second: BenchmarkLoad, BenchmarkChange and
//     BenchmarkLookupWhileChanging. That many changes of a host are one read, which is a spec.
//   - D16, a TTL that is renewed: no key of the table has one. Somebody else's is a spec.
//   - D17, a clock that jumps: nothing here goes by the clock of Redis but the IDs of records, which
//     Redis itself never lets go back. Our own times are monotonic.
//   - D19, our own listeners and API: whoever runs a router says what to refuse; that it is asked is a spec,
//     and so is what [table.Member] refuses by itself.

// link is a TCP relay between a watcher and its Redis, on which things go wrong.
type link struct {
	listener net.Listener
	to       atomic.Pointer[string]
	// delay is for each piece of an answer; cut, if it is not 0, is at how many bytes of
	// answers a connection ends.
	delay atomic.Int64
	cut   atomic.Int64
	// hang is at how many bytes of answers a connection ends to bring any; 0: never.
	hang atomic.Int64
	// lose is how many answers are lost, each with its connection.
	lose atomic.Int64
	// cuts counts the answers that were cut, left hanging or lost.
	cuts atomic.Int64

	mu    sync.Mutex
	conns []net.Conn
	tasks sync.WaitGroup
}

// startLink relays to an address until the spec ends.
func startLink(to string) *link {
	GinkgoHelper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	Expect(err).NotTo(HaveOccurred())
	return newLink(listener, to)
}

// newLink is [startLink] with a listener.
func newLink(listener net.Listener, to string) *link {
	l := &link{listener: listener}
	l.to.Store(&to)
	l.tasks.Go(l.accept)
	DeferCleanup(func() {
		listener.Close()
		l.sever()
		l.tasks.Wait()
	})
	return l
}

func (l *link) url() string { return "redis://" + l.listener.Addr().String() }

func (l *link) accept() {
	for {
		client, err := l.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", *l.to.Load())
		if err != nil {
			client.Close()
			continue
		}
		l.mu.Lock()
		l.conns = append(l.conns, client, server)
		l.mu.Unlock()
		l.tasks.Go(func() {
			// Without their types: a splice would leave pipes for later ones.
			io.Copy(struct{ io.Writer }{server}, struct{ io.Reader }{client})
			server.Close()
		})
		l.tasks.Go(func() { l.answer(client, server) })
	}
}

// answer relays answers, and lets them go wrong.
func (l *link) answer(client, server net.Conn) {
	defer client.Close()
	buffer := make([]byte, 4096)
	left, before := l.cut.Load(), l.hang.Load()
	for {
		n, err := server.Read(buffer)
		if err != nil {
			return
		}
		if d := time.Duration(l.delay.Load()); d > 0 {
			late := time.NewTimer(d)
			<-late.C
		}
		if l.lose.Load() > 0 && l.lose.Add(-1) >= 0 {
			server.Close()
			l.cuts.Add(1)
			return
		}
		if before > 0 {
			if int64(n) >= before {
				client.Write(buffer[:before-1])
				l.cuts.Add(1)
				// Whoever waits for the rest leaves one day.
				io.Copy(io.Discard, struct{ io.Reader }{server})
				return
			}
			before -= int64(n)
		}
		if left > 0 {
			if int64(n) >= left {
				client.Write(buffer[:left-1])
				server.Close()
				l.cuts.Add(1)
				return
			}
			left -= int64(n)
		}
		if _, err := client.Write(buffer[:n]); err != nil {
			server.Close()
			return
		}
	}
}

// sever ends all connections.
func (l *link) sever() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, conn := range l.conns {
		conn.Close()
	}
	l.conns = nil
}

var _ = Describe("Watcher and a Redis that fails", func() {
	ctx := context.Background()

	// begin has a server with one host, and a watcher that follows it over a link.
	begin := func(redis *servers.Redis) (s *spec.Redis, l *link, client redis.UniversalClient, writer *table.Writer, w *watched) {
		GinkgoHelper()
		s = spec.StartRedis(redis)
		client = connect(s.URL())
		writer = newWriter(client)
		apply(writer, table.Add("a", instance(1)))
		l = startLink(s.Addr())
		w = watch(l.url())
		w.fresh(1)
		return s, l, client, writer, w
	}

	It("D2: goes on when Redis is killed and comes back with what it had", func() {
		s, _, _, writer, w := begin(&servers.Redis{Dir: GinkgoT().TempDir(), Config: []string{"appendonly yes", "appendfsync always"}})
		before := w.table()
		s.Crash()
		Eventually(func() bool { return w.state().Stale }).Should(BeTrue())
		Expect(w.table()).To(BeIdenticalTo(before))
		s.Start()
		w.fresh(1)
		Expect(w.table()).To(BeIdenticalTo(before))
		apply(writer, table.Add("b", instance(2)))
		w.shows("b", at(2))
	})

	It("D3: keeps its table when Redis comes back empty", func() {
		s, _, _, writer, w := begin(new(servers.Redis))
		s.Crash()
		s.Start()
		w.alarmed("serial 0 with another table than ours")
		w.shows("a", at(1))
		for n := range 2 {
			apply(writer, table.Add("b", instance(n+2)))
		}
		w.shows("b", at(2), at(3))
		w.shows("a")
		w.fresh(2)
	})

	It("D4: keeps its table when Redis comes back older, until its serial passes", func() {
		s, _, client, writer, w := begin(&servers.Redis{Dir: GinkgoT().TempDir(), Config: []string{"dbfilename t.rdb"}})
		Expect(client.Save(ctx).Err()).To(Succeed())
		apply(writer, table.Replace("a", table.Options{}, nil, instance(2)))
		apply(writer, table.Add("b", instance(3)))
		w.shows("b", at(3))
		s.Crash()
		s.Start()
		w.alarmed("Redis is at serial 1 with another table than ours, which is at 3")
		// The instance that the older table names may be another app's by now.
		apply(writer, table.Add("c", instance(4)))
		apply(writer, table.Add("c", instance(5)))
		w.alarmed("Redis is at serial 3 with another table than ours, which is at 3")
		Expect(w.backends("a")).To(Equal([]string{at(2)}))
		apply(writer, table.Add("c", instance(6)))
		w.shows("a", at(1))
		w.shows("b")
		w.fresh(4)
	})

	It("D13: notices that Redis is frozen, and goes on when it is not", func() {
		s, _, _, writer, w := begin(new(servers.Redis))
		s.Pause()
		w.stale("does not answer in time")
		w.shows("a", at(1))
		s.Continue()
		w.fresh(1)
		apply(writer, table.Add("b", instance(2)))
		w.shows("b", at(2))
	})

	It("D6: is not held up when Redis takes 2 s to answer", func() {
		_, l, _, writer, w := begin(new(servers.Redis))
		l.delay.Store(int64(2 * time.Second))
		w.stale("does not answer in time")
		apply(writer, table.Add("b", instance(2)))
		Expect(w.backends("a")).To(Equal([]string{at(1)}))
		l.delay.Store(0)
		w.shows("b", at(2))
		w.fresh(2)
	})

	It("D7: takes nothing from an answer that is cut", func() {
		_, l, _, writer, w := begin(new(servers.Redis))
		serial := uint64(1)
		for at := int64(1); at < 300; at += 37 {
			l.cut.Store(at)
			serial = apply(writer, table.Replace("a", table.Options{}, nil, instance(int(at)))).Serial
			l.sever()
			before := l.cuts.Load()
			Eventually(l.cuts.Load).Should(BeNumerically(">", before))
			Expect(w.table().Get("a").Backends).To(HaveLen(1))
		}
		l.cut.Store(0)
		l.sever()
		w.fresh(serial)
		Expect(w.table().Get("a").Backends).To(HaveLen(1))
	})

	It("D20: comes back when its connection is killed", func() {
		_, _, client, writer, w := begin(new(servers.Redis))
		for n := range 5 {
			Expect(client.ClientKillByFilter(ctx, "TYPE", "normal", "SKIPME", "yes").Err()).To(Succeed())
			apply(writer, table.Replace("a", table.Options{}, nil, instance(n+2)))
			w.shows("a", at(n+2))
		}
		Expect(w.state().Failures).NotTo(BeZero())
	})

	It("D8: says what the matter is with a password, and shows none", func() {
		s, _, client, writer, w := begin(&servers.Redis{})
		Expect(client.ConfigSet(ctx, "requirepass", "s3cret").Err()).To(Succeed())
		client.ClientKillByFilter(ctx, "TYPE", "normal", "SKIPME", "yes")
		w.stale("Redis wants a password")
		w.shows("a", at(1))
		wrong := watch("redis://:wr0ng@" + s.Addr())
		wrong.stale("Redis refuses the user or the password")
		Expect(fmt.Sprintf("%+v", wrong.state())).NotTo(ContainSubstring("wr0ng"))
		Expect(wrong.table()).To(BeNil())
		// Not a storm: a second apart at the end.
		Eventually(func() uint64 { return wrong.state().Failures }).Should(BeNumerically(">=", 4))
		Expect(wrong.state().Failures).To(BeNumerically("<", 100))
		Expect(client.ConfigSet(ctx, "requirepass", "").Err()).To(Succeed())
		apply(writer, table.Add("b", instance(2)))
		w.shows("b", at(2))
	})

	It("D8: says what a user lacks", func() {
		s, _, client, _, _ := begin(new(servers.Redis))
		Expect(client.Do(ctx, "ACL", "SETUSER", "blind", "on", ">pw", "~other:*", "+@all").Err()).To(Succeed())
		w := watch("redis://blind:pw@" + s.Addr())
		w.stale("the user may not do that: grant it read access")
		Expect(w.table()).To(BeNil())
		Expect(client.Do(ctx, "ACL", "SETUSER", "reader", "on", ">pw", "~switchboard:*", "+@read", "+multi", "+exec", "+info").Err()).To(Succeed())
		watch("redis://reader:pw@" + s.Addr()).fresh(1)
	})

	It("D8: says what a user lacks who writes", func() {
		s, _, client, _, _ := begin(new(servers.Redis))
		as := func(user string, rules ...any) *table.Writer {
			GinkgoHelper()
			rules = append([]any{"ACL", "SETUSER", user, "on", ">pw", "~switchboard:*", "+@read", "+multi", "+exec", "+info"}, rules...)
			Expect(client.Do(ctx, rules...).Err()).To(Succeed())
			return newWriter(connect("redis://" + user + ":pw@" + s.Addr()))
		}
		_, err := as("reader").Apply(ctx, table.Drop("a"))
		Expect(err).To(MatchError(ContainSubstring("the user may not do that: grant it the keys of the prefix, and +@read +@write +eval +evalsha")))
		Expect(err).NotTo(MatchError(table.ErrUnknown))
		writer := as("writer", "+@write", "+eval", "+evalsha")
		apply(writer, table.Drop("a"))
		Expect(writer.Import(ctx, table.Dump{Table: []table.DumpEntry{{Hostname: "b", Routes: []string{instance(1).String()}}}}, table.ImportOptions{Replace: true})).To(BeEquivalentTo(3))
	})

	It("D18: warns of a Redis that may drop the table", func() {
		s := spec.StartRedis(&servers.Redis{Config: []string{"maxmemory 100mb", "maxmemory-policy allkeys-lru"}})
		w := watch(s.URL())
		Eventually(func() string { return w.state().Warning }).Should(ContainSubstring("allkeys-lru"))
	})

	It("D10: keeps its table when keys of the table have the wrong type", func() {
		_, _, client, writer, w := begin(new(servers.Redis))
		for _, key := range []string{"switchboard:serial", "switchboard:changes"} {
			Expect(client.Rename(ctx, key, "kept").Err()).To(Succeed())
			Expect(client.SAdd(ctx, key, "x").Err()).To(Succeed())
			w.stale("a key of the table has the wrong type")
			w.shows("a", at(1))
			Expect(client.Rename(ctx, "kept", key).Err()).To(Succeed())
			w.fresh(1)
		}
		Expect(client.Set(ctx, "switchboard:serial", "many", 0).Err()).To(Succeed())
		w.stale("the serial in Redis is no number")
		Expect(client.Set(ctx, "switchboard:serial", 1, 0).Err()).To(Succeed())
		w.fresh(1)
		apply(writer, table.Add("b", instance(2)))
		w.shows("b", at(2))
	})

	DescribeTable("D9: keeps its table while Redis answers with an error",
		func(answer, reason string) {
			mini, client := startMini()
			writer := newWriter(client)
			apply(writer, table.Add("a", instance(1)))
			w := watch("redis://" + mini.Addr())
			w.fresh(1)
			mini.SetError(answer)
			w.stale(reason)
			w.shows("a", at(1))
			mini.SetError("")
			w.fresh(1)
			apply(writer, table.Add("b", instance(2)))
			w.shows("b", at(2))
		},
		Entry("loading", "LOADING Redis is loading the dataset in memory", "Redis is loading its data"),
		Entry("busy", "BUSY Redis is busy running a script", "busy with a script"),
		Entry("no memory", "OOM command not allowed when used memory > 'maxmemory'", "no memory left"),
		Entry("no disk", "MISCONF Redis is configured to save RDB snapshots", "cannot save its data"),
		Entry("moved", "MOVED 3999 127.0.0.1:6381", "must begin with redis-cluster://"),
		Entry("a cluster that is down", "CLUSTERDOWN Hash slot not served", "Redis Cluster is down"),
		Entry("a replica without its master", "MASTERDOWN Link with MASTER is down", "has lost its master"),
		Entry("read only", "READONLY You can't write against a read only replica.", "a replica"),
		Entry("something new", "NEWERR what is this", "NEWERR what is this"),
	)

	It("reads over a Unix socket", func() {
		s := spec.StartRedis(&servers.Redis{Socket: filepath.Join(GinkgoT().TempDir(), "redis.sock")})
		url := "unix://" + s.Addr() + "?db=2"
		apply(newWriter(connect(url)), table.Add("a", instance(1)))
		watch(url).shows("a", at(1))
	})

	// onCluster are a writer and a watcher of a Redis Cluster.
	const tagged = "{switchboard}:"
	onCluster := func(addrs ...string) (*table.Writer, *watched) {
		GinkgoHelper()
		url := "redis-cluster://" + strings.Join(addrs, ",")
		writer, err := table.NewWriter(table.WriterOptions{Client: connect(url), Prefix: tagged, Timeout: soon})
		Expect(err).NotTo(HaveOccurred())
		return writer, watch(url, func(o *table.WatcherOptions) { o.Prefix = tagged })
	}

	It("works on a Redis Cluster of one", func() {
		nodes := startCluster(1)
		_, err := table.NewWriter(table.WriterOptions{Client: connect("redis-cluster://" + nodes[0].Addr())})
		Expect(err).To(MatchError(ContainSubstring("must carry a hash tag")))
		writer, w := onCluster(nodes[0].Addr())
		apply(writer, table.Add("a", instance(1)), table.SetWeights("a", map[string]int{"i1": 2}))
		w.fresh(1)
		apply(writer, table.Add("b", instance(2)))
		w.shows("b", at(2))
		Expect(w.table().Get("a").Backends[0].Weight).To(Equal(2))
		nodes[0].Crash()
		Eventually(func() bool { return w.state().Stale }).Should(BeTrue())
		w.shows("a", at(1))
	})

	It("D9: follows the table on a Redis Cluster to where it was moved (MOVED), and waits while nobody has it (CLUSTERDOWN)", func() {
		nodes := startCluster(3)
		var addrs []string
		for _, n := range nodes {
			addrs = append(addrs, n.Addr())
		}
		slot := nodes[0].client.ClusterKeySlot(ctx, tagged).Val()
		master := nodes[slot*int64(len(nodes))/slots]
		replica := startNode()
		replica.join(master)
		replica.replicate(master, nodes)
		writer, w := onCluster(addrs...)
		apply(writer, table.Add("a", instance(1)))
		w.fresh(1)

		By("letting the replica take over")
		Expect(replica.client.ClusterFailover(ctx).Err()).To(Succeed())
		replica.awaitRole("master")
		master.awaitRole("slave")
		apply(writer, table.Add("b", instance(2)))
		w.shows("b", at(2))
		w.fresh(2)

		By("killing the one that has taken over")
		master.awaitLink()
		replica.Crash()
		Eventually(func() bool { return w.state().Stale }).Should(BeTrue())
		w.shows("a", at(1))
		master.awaitRole("master")
		Eventually(func() error {
			_, err := writer.Apply(ctx, table.Add("c", instance(3)))
			return err
		}).Should(Succeed())
		w.shows("c", at(3))
		w.fresh(3)
		Expect(w.table().Len()).To(Equal(3))
	})

	It("D21: does not repeat a change on a Redis Cluster whose answer was lost, and so never calls its own a conflict", func() {
		node := startCluster(1)[0]
		l := startLink(node.Addr())
		_, port, err := net.SplitHostPort(l.listener.Addr().String())
		Expect(err).NotTo(HaveOccurred())
		// That is where the client goes then.
		Expect(node.client.ConfigSet(ctx, "cluster-announce-port", port).Err()).To(Succeed())
		writer, err := table.NewWriter(table.WriterOptions{Client: connect("redis-cluster://" + l.listener.Addr().String()), Prefix: tagged, Timeout: soon})
		Expect(err).NotTo(HaveOccurred())
		Expect(apply(writer, table.Add("a", instance(1))).Serial).To(BeEquivalentTo(1))
		l.lose.Store(1)
		_, err = writer.ApplyIf(ctx, 1, table.Add("b", instance(2)))
		Expect(err).To(MatchError(table.ErrUnknown))
		Expect(apply(writer, table.Add("b", instance(2)))).To(Equal(table.Result{Serial: 2}))
	})

	It("D2: reads a replica on its machine as the recipe has it, and goes on when the master is gone", func() {
		master := spec.StartRedis(&servers.Redis{Dir: GinkgoT().TempDir(), Config: recipe("redis.conf", "bind 10.0.0.1", "port 6379")})
		socket := filepath.Join(GinkgoT().TempDir(), "redis.sock")
		replica := spec.StartRedis(&servers.Redis{
			Dir: GinkgoT().TempDir(), Socket: socket, ReplicaOf: master.Addr(),
			Config: recipe("replica.conf", "port 0", "unixsocket /run/switchboard/redis.sock", "replicaof 10.0.0.1 6379"),
		})
		operator := func() *table.Writer { return newWriter(connect("redis://:table-password@" + master.Addr())) }
		apply(operator(), table.Add("a", instance(1)))
		w := watch("unix://router:router-password@" + socket)
		w.fresh(1)
		apply(operator(), table.Add("b", instance(2)))
		w.shows("b", at(2))
		w.fresh(2)
		_, err := newWriter(connect("unix://router:router-password@"+socket)).Apply(ctx, table.Drop("a"))
		Expect(err).To(MatchError(ContainSubstring("the user may not do that")))

		master.Crash()
		w.stale("Redis is a replica that does not hear its master")
		w.shows("a", at(1))
		By("starting the replica again without its master")
		replica.Crash()
		w.stale("Redis has closed the connection")
		replica.Start()
		w.stale("Redis is a replica that does not hear its master")
		late := watch("unix://router:router-password@" + socket)
		late.shows("b", at(2))

		By("starting the master again with what it had, and then without")
		master.Start()
		w.fresh(2)
		master.Crash()
		Expect(os.RemoveAll(filepath.Join(master.Dir, "appendonlydir"))).To(Succeed())
		master.Start()
		w.alarmed("serial 0 with another table than ours")
		w.shows("a", at(1))
	})

	DescribeTable("D2, D13: follows the master that Sentinels promote, and not the old one when that is back",
		func(end func(*spec.Redis), back func(*spec.Redis)) {
			master, replica, sentinels := startSentinels()
			url := "redis-sentinel://" + sentinels + "/cache"
			writer := newWriter(connect(url))
			apply(writer, table.Add("a", instance(1)))
			awaitSerial(replica, "1")
			w := watch(url)
			w.fresh(1)
			end(master)
			Eventually(func() bool { return w.state().Stale }).Should(BeTrue())
			w.shows("a", at(1))
			promoted := newWriter(connect(replica.URL()))
			Eventually(func() error {
				_, err := promoted.Apply(ctx, table.Add("b", instance(2)))
				return err
			}).WithTimeout(2 * soon).Should(Succeed())
			w.shows("b", at(2))
			w.fresh(2)
			back(master)
			Eventually(func() error {
				// It may not have noticed yet, or take no changes until it has a replica.
				_, err := newWriter(connect(url)).Apply(ctx, table.Add("c", instance(3)))
				return err
			}).WithTimeout(2 * soon).Should(Succeed())
			w.shows("c", at(3))
			w.shows("b", at(2))
			w.fresh(3)
		},
		Entry("when the master is killed", func(s *spec.Redis) { s.Crash() }, func(s *spec.Redis) { s.Start() }),
		Entry("when the master is frozen", func(s *spec.Redis) { s.Pause() }, func(s *spec.Redis) { s.Continue() }),
	)

	It("D4: does not go back to what a replica has that was promoted and had not heard the last change", func() {
		master, replica, sentinels := startSentinels()
		url := "redis-sentinel://" + sentinels + "/cache"
		writer := newWriter(connect(master.URL()))
		apply(writer, table.Add("a", instance(1)))
		awaitSerial(replica, "1")
		w := watch(url)
		w.fresh(1)
		// It stands still, so it cannot come back to hear the next change.
		replica.Pause()
		Expect(connect(master.URL()).ClientKillByFilter(ctx, "TYPE", "replica").Err()).To(Succeed())
		apply(writer, table.Replace("a", table.Options{}, nil, instance(2)))
		w.shows("a", at(2))
		master.Crash()
		replica.Continue()
		w.alarmed("Redis is at serial 1 with another table than ours, which is at 2")
		Expect(w.backends("a")).To(Equal([]string{at(2)}))
		promoted := newWriter(connect(replica.URL()))
		apply(promoted, table.Replace("a", table.Options{}, nil, instance(3)), table.Add("b", instance(4)))
		w.alarmed("Redis is at serial 2 with another table than ours, which is at 2")
		Expect(w.backends("a")).To(Equal([]string{at(2)}))
		apply(promoted, table.Add("b", instance(5)))
		w.shows("a", at(3))
		w.fresh(3)
	})

	It("D5: believes of two masters that each have taken changes the one that it has heard, until the other has passed it", func() {
		minority := spec.StartRedis(new(servers.Redis))
		majority := spec.StartRedis(&servers.Redis{ReplicaOf: minority.Addr()})
		before := newWriter(connect(minority.URL()))
		apply(before, table.Add("a", instance(1)))
		awaitSerial(majority, "1")
		Expect(connect(majority.URL()).SlaveOf(ctx, "NO", "ONE").Err()).To(Succeed())
		l := startLink(minority.Addr())
		w := watch(l.url())
		w.fresh(1)
		after := newWriter(connect(majority.URL()))
		apply(before, table.Replace("a", table.Options{}, nil, instance(2)))
		apply(after, table.Replace("a", table.Options{}, nil, instance(3)))
		w.shows("a", at(2))
		to := majority.Addr()
		l.to.Store(&to)
		l.sever()
		w.alarmed("Redis is at serial 2 with another table than ours, which is at 2")
		Expect(w.backends("a")).To(Equal([]string{at(2)}))
		apply(after, table.Add("b", instance(4)))
		w.shows("a", at(3))
		w.shows("b", at(4))
		w.fresh(3)
	})

	It("D5: says that a master without its replicas takes no changes, and has taken none", func() {
		s := spec.StartRedis(&servers.Redis{Config: []string{"min-replicas-to-write 1"}})
		_, err := newWriter(connect(s.URL())).Apply(ctx, table.Add("a", instance(1)))
		Expect(err).To(MatchError("changing the table: Redis has too few replicas and takes no changes"))
		w := watch(s.URL())
		w.fresh(0)
		Expect(w.table().Len()).To(BeZero())
	})

	It("D9: keeps its table when Redis is full, which takes no changes then and reads nothing in one step", func() {
		_, _, client, writer, w := begin(new(servers.Redis))
		Expect(client.ConfigSet(ctx, "maxmemory", "1").Err()).To(Succeed())
		_, err := writer.Apply(ctx, table.Add("b", instance(2)))
		Expect(err).To(MatchError("changing the table: Redis has no memory left"))
		w.stale("Redis takes no transaction, as one that has no memory left")
		w.shows("a", at(1))
		Expect(client.ConfigSet(ctx, "maxmemory", "0").Err()).To(Succeed())
		apply(writer, table.Add("b", instance(2)))
		w.shows("b", at(2))
	})

	It("D7: gives up an answer that stops in the middle, and takes no later one for its rest", func() {
		_, l, _, writer, w := begin(new(servers.Redis))
		serial := uint64(1)
		for n := 30; n < 300; n += 90 {
			l.hang.Store(int64(n))
			serial = apply(writer, table.Replace("a", table.Options{}, nil, instance(n))).Serial
			before := l.cuts.Load()
			l.sever()
			Eventually(l.cuts.Load).Should(BeNumerically(">", before))
			w.stale("does not answer in time")
			Expect(w.table().Get("a").Backends).To(HaveLen(1))
			l.hang.Store(0)
			l.sever()
			w.fresh(serial)
			Expect(w.backends("a")).To(Equal([]string{at(n)}))
		}
	})

	It("D11: never shows a half of what was changed in one step", func() {
		_, _, _, writer, w := begin(new(servers.Redis))
		apply(writer, table.Replace("a", table.Options{}, nil, instance(0)), table.Replace("b", table.Options{}, nil, instance(0)))
		w.fresh(2)
		tables, cancel := w.tables.Subscribe()
		defer cancel()
		halves := make(chan []string, 1)
		go func() {
			var found []string
			for t := range tables {
				if a, b := backends(t.Get("a")), backends(t.Get("b")); a[0] != b[0] {
					found = append(found, a[0]+" "+b[0])
				}
			}
			halves <- found
		}()
		const steps = 300
		for n := range steps {
			apply(writer, table.Replace("a", table.Options{}, nil, instance(n)), table.Replace("b", table.Options{}, nil, instance(n)))
		}
		w.fresh(steps + 1)
		cancel()
		Expect(<-halves).To(BeEmpty())
	})

	It("D16: keeps hosts whose keys have expired, which nobody of ours lets them", func() {
		_, _, client, writer, w := begin(new(servers.Redis))
		apply(writer, table.Add("b", instance(2)))
		w.stop()
		w = watch("redis://"+client.(*redis.Client).Options().Addr, func(o *table.WatcherOptions) { o.Resync = 100 * time.Millisecond })
		w.fresh(2)
		for _, host := range []string{"a", "b"} {
			Expect(client.PExpire(ctx, "switchboard:instances:"+host, time.Millisecond).Val()).To(BeTrue())
		}
		w.alarmed("the table in Redis is empty")
		w.shows("a", at(1))
		w.shows("b", at(2))
		// A writer that is alive writes them again.
		apply(writer, table.Add("a", instance(1)))
		apply(writer, table.Add("b", instance(2)))
		w.fresh(4)
		Expect(client.PTTL(ctx, "switchboard:instances:a").Val()).To(BeNumerically("<", 0))
	})

	It("D17: follows records whatever the clock of Redis says", func() {
		_, _, client, writer, w := begin(new(servers.Redis))
		// As one writes who has the year 2286; who comes later has the right clock again.
		_, err := client.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
			pipe.SAdd(ctx, "switchboard:instances:b", instance(2).String())
			pipe.Incr(ctx, "switchboard:serial")
			pipe.XAdd(ctx, &redis.XAddArgs{Stream: "switchboard:changes", ID: "9999999999999-0", Values: []string{"serial", "2", "host", "b"}})
			return nil
		})
		Expect(err).NotTo(HaveOccurred())
		w.shows("b", at(2))
		apply(writer, table.Add("c", instance(3)))
		w.shows("c", at(3))
		w.fresh(3)
	})

	It("D18: keeps hosts that Redis has evicted, with an alarm", func() {
		_, _, client, writer, w := begin(new(servers.Redis))
		for n := range 100 {
			apply(writer, table.Add(fmt.Sprint("h", n), instance(n)))
		}
		w.stop()
		w = watch("redis://"+client.(*redis.Client).Options().Addr, func(o *table.WatcherOptions) { o.Resync = 100 * time.Millisecond })
		w.fresh(101)
		Expect(client.ConfigSet(ctx, "maxmemory-policy", "allkeys-random").Err()).To(Succeed())
		var used int
		for line := range strings.Lines(client.Info(ctx, "memory").Val()) {
			fmt.Sscanf(line, "used_memory:%d", &used)
		}
		Expect(client.ConfigSet(ctx, "maxmemory", fmt.Sprint(used+512<<10)).Err()).To(Succeed())
		more := 0
		Eventually(func() (int, error) {
			for range 100 {
				more++
				client.Set(ctx, fmt.Sprint("more", more), strings.Repeat("x", 1024), 0)
			}
			left, err := client.Keys(ctx, "switchboard:instances:*").Result()
			return len(left), err
		}).Should(BeNumerically("<", 90))
		Eventually(func() string { return w.state().Alarm }).ShouldNot(BeEmpty())
		Eventually(func() string { return w.state().Warning }).Should(ContainSubstring("allkeys-random"))
		Expect(w.table().Len()).To(Equal(101))
	})

	It("D20: goes on when Redis lets it have its answers again, which were more than the buffer may hold", func() {
		_, _, client, writer, w := begin(new(servers.Redis))
		var many []table.Member
		for n := range 5000 {
			many = append(many, instance(n))
		}
		Expect(client.ConfigSet(ctx, "client-output-buffer-limit", "normal 64kb 0 0").Err()).To(Succeed())
		apply(writer, table.Add("b", many...))
		w.stale("Redis has closed the connection")
		w.shows("a", at(1))
		Expect(client.ConfigSet(ctx, "client-output-buffer-limit", "normal 0 0 0").Err()).To(Succeed())
		w.fresh(2)
		Expect(w.backends("b")).To(HaveLen(len(many)))
	})

	It("D21: finds all of a change or nothing of it when Redis was killed while it ran", func() {
		s, _, client, _, w := begin(&servers.Redis{Dir: GinkgoT().TempDir(), Config: []string{"appendonly yes", "appendfsync always"}})
		writer, err := table.NewWriter(table.WriterOptions{Client: client, Timeout: time.Second})
		Expect(err).NotTo(HaveOccurred())
		step := func(n int) []table.Change {
			var changes []table.Change
			for i := range table.MaxChanges {
				changes = append(changes, table.Replace(fmt.Sprint("h", i), table.Options{}, nil, instance(n)))
			}
			return changes
		}
		apply(writer, step(0)...)
		outcomes := map[bool]int{}
		for n := 1; n <= 8; n++ {
			began := make(chan struct{})
			done := make(chan error, 1)
			go func() {
				close(began)
				_, err := writer.Apply(ctx, step(n)...)
				done <- err
			}()
			<-began
			// Whenever it comes, the outcome must be right.
			late := time.NewTimer(time.Duration(n) * 8 * time.Millisecond)
			<-late.C
			s.Crash()
			failed := <-done
			outcomes[failed == nil]++
			s.Start()
			dump, err := newWriter(connect(s.URL())).Dump(ctx)
			Expect(err).NotTo(HaveOccurred())
			found := make(map[string]int)
			for _, e := range dump.Table {
				if e.Hostname != "a" {
					found[e.Instances[0]]++
				}
			}
			Expect(found).To(HaveLen(1), "a half")
			switch {
			case failed == nil:
				Expect(found).To(HaveKey(fmt.Sprint("i", n)))
			case !errors.Is(failed, table.ErrUnknown):
				Expect(found).To(HaveKey(fmt.Sprint("i", n-1)), failed.Error())
			}
			Eventually(func() error { _, err := writer.Apply(ctx, step(n)...); return err }).Should(Succeed())
			w.shows("h7", at(n))
		}
		AddReportEntry("changes that were answered before the kill, and not", fmt.Sprint(outcomes[true], " and ", outcomes[false]))
		serial, err := client.Get(ctx, "switchboard:serial").Uint64()
		Expect(err).NotTo(HaveOccurred())
		Expect(serial).To(BeEquivalentTo(10))
		w.fresh(serial)
	})

	It("stops at once though Redis is frozen", func() {
		s, _, _, _, w := begin(new(servers.Redis))
		s.Pause()
		w.stop()
		s.Continue()
	})
})

// recipe are the lines of a file of the recipe of the table but those named, which must be there:
// they say where things are, and those are elsewhere here.
func recipe(name string, but ...string) []string {
	GinkgoHelper()
	text, err := os.ReadFile(filepath.Join("../../fixtures/recipes/table", name))
	Expect(err).NotTo(HaveOccurred())
	lines := strings.Split(string(text), "\n")
	for _, line := range but {
		Expect(lines).To(ContainElement(line))
		lines = slices.DeleteFunc(lines, func(have string) bool { return have == line })
	}
	return lines
}

// startSentinels runs a master and its replica, and three Sentinels that watch them, until the
// spec ends. They are known as HOST:PORT,HOST:PORT,HOST:PORT.
func startSentinels() (master, replica *spec.Redis, sentinels string) {
	GinkgoHelper()
	ctx := context.Background()
	master = spec.StartRedis(&servers.Redis{Dir: GinkgoT().TempDir()})
	replica = spec.StartRedis(&servers.Redis{ReplicaOf: master.Addr()})
	host, port, err := net.SplitHostPort(master.Addr())
	Expect(err).NotTo(HaveOccurred())
	var all []string
	var asked []*redis.SentinelClient
	for range 3 {
		s := spec.StartRedis(&servers.Redis{Sentinel: true, Config: []string{
			"sentinel monitor cache " + host + " " + port + " 2", "sentinel down-after-milliseconds cache 500",
			"sentinel failover-timeout cache 2000",
		}})
		all = append(all, s.Addr())
		asked = append(asked, redis.NewSentinelClient(&redis.Options{Addr: s.Addr()}))
		DeferCleanup(asked[len(asked)-1].Close)
	}
	for _, sentinel := range asked {
		Eventually(func() (int, error) {
			replicas, err := sentinel.Replicas(ctx, "cache").Result()
			if err != nil {
				return 0, err
			}
			others, err := sentinel.Sentinels(ctx, "cache").Result()
			return len(replicas) + len(others), err
		}).WithTimeout(2 * soon).Should(Equal(1 + 2))
	}
	return master, replica, strings.Join(all, ",")
}

// awaitSerial waits until a replica has heard of a serial.
func awaitSerial(replica *spec.Redis, serial string) {
	GinkgoHelper()
	client := connect(replica.URL())
	Eventually(func() (string, error) { return client.Get(context.Background(), "switchboard:serial").Result() }).Should(Equal(serial))
}

// slots is how many slots a Redis Cluster has.
const slots = 16384

// clusterNode is one of a Redis Cluster.
type clusterNode struct {
	*spec.Redis
	client *redis.Client
}

// startNode runs a node that knows no other, until the spec ends.
func startNode() *clusterNode {
	GinkgoHelper()
	s := spec.StartRedis(&servers.Redis{Cluster: true, Dir: GinkgoT().TempDir(), Config: []string{"cluster-node-timeout 2000", "cluster-replica-validity-factor 0"}})
	return &clusterNode{s, connect(s.URL()).(*redis.Client)}
}

// startCluster runs a Redis Cluster of that many masters until the spec ends.
func startCluster(masters int) []*clusterNode {
	GinkgoHelper()
	ctx := context.Background()
	var nodes []*clusterNode
	for n := range masters {
		node := startNode()
		Expect(node.client.ClusterAddSlotsRange(ctx, n*slots/masters, (n+1)*slots/masters-1).Err()).To(Succeed())
		// Two that were given the same epoch would settle that later.
		Expect(node.client.Do(ctx, "CLUSTER", "SET-CONFIG-EPOCH", n+1).Err()).To(Succeed())
		nodes = append(nodes, node)
	}
	for _, node := range nodes[1:] {
		node.join(nodes[0])
	}
	for _, node := range nodes {
		node.awaitInfo("cluster_state:ok", fmt.Sprint("cluster_known_nodes:", masters))
	}
	return nodes
}

// join makes a node one of a cluster that another is in.
func (n *clusterNode) join(other *clusterNode) {
	GinkgoHelper()
	ctx := context.Background()
	host, port, err := net.SplitHostPort(other.Addr())
	Expect(err).NotTo(HaveOccurred())
	bus := other.client.ConfigGet(ctx, "cluster-port").Val()["cluster-port"]
	Expect(n.client.Do(ctx, "CLUSTER", "MEET", host, port, bus).Err()).To(Succeed())
}

// replicate makes a node the replica of another, and returns when all of a cluster know it.
func (n *clusterNode) replicate(master *clusterNode, all []*clusterNode) {
	GinkgoHelper()
	ctx := context.Background()
	id := master.client.ClusterMyID(ctx).Val()
	Eventually(func() error { return n.client.ClusterReplicate(ctx, id).Err() }).Should(Succeed())
	n.awaitRole("slave")
	n.awaitLink()
	n.awaitInfo("cluster_state:ok")
	for _, other := range all {
		Eventually(func() string { return other.client.ClusterNodes(ctx).Val() }).Should(ContainSubstring("slave " + id))
	}
}

func (n *clusterNode) awaitInfo(lines ...string) {
	GinkgoHelper()
	for _, line := range lines {
		Eventually(func() (string, error) { return n.client.ClusterInfo(context.Background()).Result() }).WithTimeout(2 * soon).Should(ContainSubstring(line))
	}
}

func (n *clusterNode) awaitRole(role string) {
	GinkgoHelper()
	n.awaitReplication("role:" + role)
}

// awaitLink waits until a replica hears its master.
func (n *clusterNode) awaitLink() {
	GinkgoHelper()
	n.awaitReplication("master_link_status:up")
}

func (n *clusterNode) awaitReplication(line string) {
	GinkgoHelper()
	Eventually(func() (string, error) { return n.client.Info(context.Background(), "replication").Result() }).WithTimeout(2 * soon).Should(ContainSubstring(line))
}
