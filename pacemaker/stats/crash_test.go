package stats_test

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/fixtures/child"
	"switchboard/fixtures/servers"
	"switchboard/fixtures/spec"
	"switchboard/pacemaker/stats"
	"switchboard/pacemaker/store"
)

// runReader is the process that specs kill.
func runReader() {
	r, err := stats.NewReader(stats.Options{
		Redis: store.Redis{URL: os.Getenv("READER_REDIS")}, Log: os.Getenv("READER_LOG"), Node: "n1",
		Interval: time.Millisecond, Settle: 20 * time.Millisecond, Bytes: 128 << 10, Upkeep: 10 * time.Millisecond,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err == nil {
		signals := make(chan os.Signal, 2)
		signal.Notify(signals, syscall.SIGTERM)
		err = r.Run(signals, make(chan struct{}))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// startReader starts that process.
func startReader(url, log string) *child.Process {
	GinkgoHelper()
	command := exec.Command(os.Args[0])
	command.Env = []string{"READER_LOG=" + log, "READER_REDIS=" + url, "GORACE=atexit_sleep_ms=0"}
	command.Stderr = GinkgoWriter
	process, err := child.Start(command)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() {
		process.Signal(os.Kill)
		Eventually(process.Exited()).Should(BeClosed())
	})
	return process
}

var _ = Describe("Reader, killed", func() {
	It("counts every line once, however often it is killed, through two rotations", func() {
		s := spec.StartRedis(new(servers.Redis))
		log := newLog().open()
		q := newQuery(s.URL())
		requests := total(q, stats.Host, "shop", stats.Requests)
		const kills = 24
		lines := 30_000
		if text := os.Getenv("SOAK_LINES"); text != "" {
			var err error
			lines, err = strconv.Atoi(text)
			Expect(err).NotTo(HaveOccurred())
		}
		written := make(chan struct{})
		go func() {
			defer GinkgoRecover()
			defer close(written)
			pace := time.NewTicker(2 * time.Millisecond)
			defer pace.Stop()
			for i := range lines {
				switch i {
				case lines / 3, 2 * lines / 3:
					if i > lines/2 {
						Expect(os.Rename(log.path+".1", log.path+".2")).To(Succeed())
					}
					log.rotate(".1")
					log.requests(i, 1) // the writer has not noticed
					log.open()
				default:
					log.requests(i, 1)
				}
				if i%20 == 0 {
					<-pace.C
				}
			}
		}()
		unwritten := func() bool {
			select {
			case <-written:
				return false
			default:
				return true
			}
		}
		for killed := 0; killed < kills || unwritten(); killed++ {
			before, err := requests()
			Expect(err).NotTo(HaveOccurred())
			reader := startReader(s.URL(), log.path)
			Eventually(requests).WithPolling(time.Millisecond).Should(Or(BeNumerically(">", before), BeEquivalentTo(lines)))
			Consistently(reader.Exited()).WithTimeout(rand.N(20 * time.Millisecond)).ShouldNot(BeClosed())
			reader.Signal(os.Kill)
			Eventually(reader.Exited()).Should(BeClosed())
		}
		// One more shows that the last reader is at work.
		log.requests(lines, 1)
		n := int64(lines + 1)
		reader := startReader(s.URL(), log.path)
		Eventually(requests).Should(Equal(n))
		reader.Signal(syscall.SIGTERM)
		Eventually(reader.Exited()).Should(BeClosed())
		Expect(reader.ExitCode()).To(BeZero())
		for _, kind := range []stats.Kind{stats.VersionType, stats.Node, stats.Host} {
			t, err := q.Totals(ctx, kind, map[stats.Kind]string{stats.VersionType: "12", stats.Node: "3", stats.Host: "shop"}[kind])
			Expect(err).NotTo(HaveOccurred())
			Expect([]int64{t.Requests, t.Bytes, t.Time, t.NGINXTime, t.Class2xx}).To(Equal([]int64{n, 100 * n, 5 * n, 7 * n, n}))
		}
		Expect(summed(q, stats.Host, "shop", stats.Requests)).To(Equal(n))
	})

	It("counts every line once when Redis is killed while it counts", func() {
		s := spec.StartRedis(&servers.Redis{Dir: GinkgoT().TempDir(), Config: []string{"appendonly yes", "appendfsync always"}})
		log := newLog().open()
		read(s.URL(), log.path)
		q := newQuery(s.URL())
		requests := total(q, stats.Host, "shop", stats.Requests)
		n := 0
		for range 12 {
			for range 2000 {
				log.requests(n, 1)
				n++
			}
			Eventually(requests).WithPolling(time.Millisecond).Should(BeNumerically(">", n-2000))
			s.Crash()
			s.Start()
		}
		Eventually(requests).Should(BeEquivalentTo(n))
		Expect(summed(q, stats.Host, "shop", stats.Requests)).To(BeEquivalentTo(n))
	})

	It("counts every line once when answers to commits are lost", func() {
		s := spec.StartRedis(new(servers.Redis))
		l := startLink(s.Addr())
		log := newLog().open()
		read(l.url(), log.path)
		requests := total(newQuery(s.URL()), stats.Host, "shop", stats.Requests)
		for n := range 20 {
			l.deaf.Store(true)
			log.requests(50*n, 50)
			Eventually(requests).Should(BeEquivalentTo(50 * (n + 1)))
			Eventually(l.lost.Load).Should(BeNumerically(">", n))
		}
		Consistently(requests).WithTimeout(50 * time.Millisecond).Should(BeEquivalentTo(1000))
	})

	It("counts every line once when Redis stands still and makes late what was given up", func() {
		s := spec.StartRedis(new(servers.Redis))
		log := newLog().open()
		r := read(s.URL(), log.path, func(o *stats.Options) { o.Redis.Timeout = 30 * time.Millisecond })
		requests := total(newQuery(s.URL()), stats.Host, "shop", stats.Requests)
		for n := range 8 {
			failures := r.Status().Failures
			s.Pause()
			log.requests(100*n, 100)
			Eventually(func() uint64 { return r.Status().Failures }).Should(BeNumerically(">", failures+1))
			s.Continue()
			Eventually(requests).Should(BeEquivalentTo(100 * (n + 1)))
		}
		Consistently(requests).WithTimeout(50 * time.Millisecond).Should(BeEquivalentTo(800))
	})

	It("takes back what it has added if the rest may not be", func() {
		s := spec.StartRedis(new(servers.Redis))
		client := connect(s.URL())
		may := func(rights ...any) {
			GinkgoHelper()
			Expect(client.Do(ctx, append([]any{"ACL", "SETUSER", "reader", "on", ">pw", "~*", "+@all"}, rights...)...).Err()).To(Succeed())
		}
		log := newLog().open()
		log.requests(0, 1)
		first := read(s.URL(), log.path)
		first.shows(func(s stats.Status) any { return s.Requests }, uint64(1))
		first.stop()
		log.requests(1, 9)
		r := read("redis://reader:pw@"+s.Addr(), log.path)
		requests := total(newQuery(s.URL()), stats.Host, "shop", stats.Requests)
		for _, right := range []string{"-expireat", "-zscore", "-set", "-hincrby"} {
			failures := r.Status().Failures
			may(right)
			Eventually(func() uint64 { return r.Status().Failures }).Should(BeNumerically(">", failures+1), right)
			Expect(requests()).To(BeEquivalentTo(1), right)
		}
		may()
		Eventually(requests).Should(BeEquivalentTo(10))
		Expect(summed(newQuery(s.URL()), stats.Host, "shop", stats.Bytes)).To(BeEquivalentTo(1000))
	})

	It("adds nothing while Redis has no memory left", func() {
		s := spec.StartRedis(new(servers.Redis))
		client := connect(s.URL())
		log := newLog().open()
		r := read(s.URL(), log.path)
		r.shows(func(s stats.Status) any { return s.Stale }, false)
		Expect(client.ConfigSet(ctx, "maxmemory", "1").Err()).To(Succeed())
		log.requests(0, 10)
		Eventually(func() string { return r.Status().Reason }).Should(ContainSubstring("OOM"))
		Expect(client.ConfigSet(ctx, "maxmemory", "0").Err()).To(Succeed())
		r.shows(func(s stats.Status) any { return []any{s.Stale, s.Requests} }, []any{false, uint64(10)})
		Expect(total(newQuery(s.URL()), stats.Host, "shop", stats.Requests)()).To(BeEquivalentTo(10))
	})

	It("catches up with what was written and rotated while Redis was down from the beginning", func() {
		s := spec.StartRedis(&servers.Redis{Dir: GinkgoT().TempDir()})
		s.Crash()
		log := newLog().open()
		log.requests(0, 10)
		r := read(s.URL(), log.path)
		r.shows(func(s stats.Status) any { return s.Failures > 0 }, true)
		log.rotate(".1")
		log.open().requests(10, 10)
		log.rotate(".0")
		log.open().requests(20, 10)
		Expect(r.Status().Stale).To(BeTrue())
		s.Start()
		r.shows(func(s stats.Status) any { return []any{s.Stale, s.Requests} }, []any{false, uint64(30)})
	})

	It("counts the log as it is when Redis comes back empty", func() {
		s := spec.StartRedis(new(servers.Redis))
		log := newLog().open()
		log.requests(0, 10)
		r := read(s.URL(), log.path)
		requests := total(newQuery(s.URL()), stats.Host, "shop", stats.Requests)
		r.shows(func(s stats.Status) any { return s.Requests }, uint64(10))
		s.Crash()
		s.Start()
		log.requests(10, 1)
		Eventually(requests).Should(BeEquivalentTo(11))
		r.stop()
		Expect(requests()).To(BeEquivalentTo(11))
	})
})

// summed is the sum of the history of the last hours.
func summed(q *stats.Query, kind stats.Kind, id, metric string) int64 {
	GinkgoHelper()
	now := time.Now()
	h, err := q.History(ctx, kind, id, []string{metric}, now.Add(-3*time.Hour), now.Add(time.Minute), time.Minute)
	Expect(err).NotTo(HaveOccurred())
	var sum int64
	for _, p := range h.Metrics[metric] {
		sum += p.Value
	}
	return sum
}
