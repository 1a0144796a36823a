package main_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/fixtures/servers"
	"switchboard/fixtures/spec"
	"switchboard/pacemaker/stats"
	"switchboard/pacemaker/store"
)

// counting is a reader that counts what is in a router's log.
type counting struct {
	*stats.Reader
	*stats.Query
	redis *servers.Redis
}

// count counts what a router logs, in a Redis of its own, until the spec ends.
func (t tableRouter) count() counting {
	GinkgoHelper()
	c := counting{redis: startRedis(&servers.Redis{})}
	var err error
	c.Reader, err = stats.NewReader(stats.Options{
		Redis: store.Redis{URL: "redis://" + c.redis.Addr(), Timeout: within}, Log: t.log, Node: "router-1", Interval: 20 * time.Millisecond,
		Logger: slog.New(slog.NewTextHandler(GinkgoWriter, nil)),
	})
	Expect(err).NotTo(HaveOccurred())
	signals, ready, ended := make(chan os.Signal, 1), make(chan struct{}), make(chan error, 1)
	go func() { ended <- c.Run(signals, ready) }()
	Eventually(ready).WithTimeout(within).Should(BeClosed())
	DeferCleanup(func() {
		signals <- syscall.SIGTERM
		Eventually(ended).WithTimeout(within).Should(Receive(BeNil()))
	})
	c.Query, err = stats.NewQuery(stats.QueryOptions{Client: tableClient(c.redis), Timeout: within})
	Expect(err).NotTo(HaveOccurred())
	return c
}

// totals are those of a kind, without what changes from one question to the next.
func (c counting) totals(kind stats.Kind, id string) stats.Totals {
	GinkgoHelper()
	totals, err := c.Totals(context.Background(), kind, id)
	Expect(err).NotTo(HaveOccurred())
	totals.Kind, totals.ID, totals.At = "", "", time.Time{}
	return totals
}

// expectCounted expects that the statistics of a router's log are what its records add
// up to: those of version type 12 and of node 3, and those without a route.
func expectCounted(r tableRouter) {
	GinkgoHelper()
	c := r.count()
	records := r.records()
	Eventually(func() uint64 { return c.Status().Requests }).WithTimeout(within).Should(BeEquivalentTo(len(records)))
	Expect(c.Status().Broken).To(BeZero())
	var caught, uncaught stats.Totals
	for _, record := range records {
		sum := &caught
		if *record.Type == "null" {
			sum = &uncaught
		}
		sum.Requests++
		sum.Bytes += *record.Bytes
		switch *record.Code / 100 {
		case 4:
			sum.Class4xx++
		case 5:
			sum.Class5xx++
		}
	}

	By("having counted what had no route")
	totals := c.totals(stats.Uncaught, "")
	Expect([]int64{totals.Requests, totals.Bytes, totals.Class4xx, totals.Class5xx}).To(Equal(
		[]int64{uncaught.Requests, uncaught.Bytes, uncaught.Class4xx, uncaught.Class5xx}))
	Expect(totals.Bytes).To(BeNumerically(">", 500))
	Expect(totals.Time).To(BeZero(), "no instance was reached")
	Expect(totals.TimeCount).To(BeZero())

	By("having counted what had one")
	totals = c.totals(stats.VersionType, "12")
	Expect([]int64{totals.Requests, totals.Class2xx, totals.Class1xx, totals.Class4xx, totals.Class5xx}).To(Equal([]int64{4, 3, 1, 0, 0}))
	// A session that ends has bytes of its own, which are none of a request.
	Expect(totals.Bytes).To(BeNumerically(">=", caught.Bytes))
	Expect(totals.TimeCount).To(BeEquivalentTo(4))
	Expect(totals.Time).To(BeNumerically(">=", 60), "three times 20 ms")
	Expect(c.totals(stats.Node, "3")).To(Equal(totals))

	By("having counted a workspace, from when the version type is in it")
	Expect(c.totals(stats.Workspace, "1").Requests).To(BeZero())
	Expect(tableClient(c.redis).SAdd(context.Background(), store.DefaultPrefix+"workspace:1", "12").Err()).NotTo(HaveOccurred())
	Expect(c.totals(stats.Workspace, "1")).To(Equal(totals))

	By("knowing when it was")
	history, err := c.History(context.Background(), stats.VersionType, "12", []string{stats.Requests}, time.Now().Add(-5*within), time.Now(), time.Second)
	Expect(err).NotTo(HaveOccurred())
	points := history.Metrics[stats.Requests]
	Expect(points).NotTo(BeEmpty())
	var sum int64
	for _, point := range points {
		sum += point.Value
	}
	Expect(sum).To(BeEquivalentTo(4))
}

var _ = Describe("The log of a router of a table in Redis", func() {
	BeforeEach(func() {
		spec.CheckLeaks()
		spec.Need("redis-server", "redis-server")
	})

	for _, kind := range routerKinds {
		It("is counted over rotations, being that of "+kind.name, func() {
			server := startRedis(&servers.Redis{})
			sadd(tableClient(server), "shop.test", startWebApp("shop-0").member())
			r := kind.start(server, store.DefaultPrefix)
			Eventually(r.code).WithArguments("shop.test").WithTimeout(within).Should(Equal(http.StatusOK))
			sent := 1
			ask := func() {
				GinkgoHelper()
				for range 20 {
					Expect(r.code("shop.test")).To(Equal(http.StatusOK))
					sent++
				}
			}
			c := r.count()
			for i := range 2 {
				ask()
				Expect(os.Rename(r.log, fmt.Sprint(r.log, ".", 2-i))).To(Succeed())
				// Whoever has not noticed yet writes to the old one.
				ask()
				r.reopen()
				Eventually(r.log).WithTimeout(within).Should(BeAnExistingFile())
				ask()
			}
			Eventually(func() int64 { return c.totals(stats.VersionType, "12").Requests }).WithTimeout(within).Should(BeEquivalentTo(sent))
			Eventually(func() uint64 { return c.Status().Rotations }).WithTimeout(within).Should(BeEquivalentTo(2))
			Expect(c.totals(stats.VersionType, "12").Requests).To(BeEquivalentTo(sent))
			Expect(c.Status().Broken + c.Status().Long + c.Status().Lost).To(BeZero())
		})
	}
})
