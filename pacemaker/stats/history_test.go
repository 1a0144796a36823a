package stats_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/redis/go-redis/v9"

	"switchboard/fixtures/servers"
	"switchboard/fixtures/spec"
	"switchboard/pacemaker/stats"
)

// later is a clock that is ahead of the machine's.
type later struct{ by atomic.Int64 }

func (l *later) now() time.Time { return time.Now().Add(time.Duration(l.by.Load())) }

// sum adds up points.
func sum(points []stats.Point) (n int64) {
	for _, p := range points {
		n += p.Value
	}
	return n
}

var _ = Describe("History", func() {
	onEach(func(start func() string) {
		It("is kept by the second, then by the minute, then by the hour, and loses nothing", func() {
			url := start()
			client, q := connect(url), newQuery(url)
			log := newLog().open()
			clock := new(later)
			r := read(url, log.path, func(o *stats.Options) { o.Now, o.Upkeep = clock.now, time.Millisecond })
			// Two minutes of one hour, and so of one day.
			hour := time.Now().Truncate(time.Hour).Add(-2 * time.Hour)
			for i := range 120 {
				log.write(requestAt(i, hour.Add(time.Duration(i)*time.Second)))
			}
			r.shows(func(s stats.Status) any { return s.Requests }, uint64(120))
			ask := func(step time.Duration) []stats.Point {
				GinkgoHelper()
				h, err := q.History(ctx, stats.Host, "shop", []string{stats.Bytes}, hour, hour.Add(3*time.Minute), step)
				Expect(err).NotTo(HaveOccurred())
				return h.Metrics[stats.Bytes]
			}
			key := fmt.Sprintf("switchboard:history_host:shop:%d:bytes", hour.Unix())
			whole := fmt.Sprintf("switchboard:history_host:shop:day%d:bytes", hour.Unix()-hour.Unix()%86400)
			minutes := []stats.Point{{At: hour.Unix(), Value: 6000}, {At: hour.Unix() + 60, Value: 6000}}
			Expect(ask(time.Second)).To(HaveLen(120))
			Expect(ask(time.Minute)).To(Equal(minutes))

			clock.by.Store(int64(8 * time.Hour))
			Eventually(func() int64 { return client.HLen(ctx, key).Val() }).Should(BeEquivalentTo(2))
			Expect(ask(time.Second)).To(Equal(minutes))

			// One that comes late is folded too.
			log.write(requestAt(200, hour.Add(90*time.Second)))
			minutes[1].Value += 100
			Eventually(func() []stats.Point { return ask(time.Minute) }).Should(Equal(minutes))
			Eventually(func() int64 { return client.HLen(ctx, key).Val() }).Should(BeEquivalentTo(2))

			clock.by.Store(int64(8 * 24 * time.Hour))
			Eventually(func() map[string]string { return client.HGetAll(ctx, whole).Val() }).Should(Equal(map[string]string{fmt.Sprint(hour.Unix()): "12100"}))
			Expect(client.Exists(ctx, key).Val()).To(BeZero())
			Eventually(func() int64 { return client.ZCard(ctx, "switchboard:history_due").Val() }).Should(BeZero())
			Expect(client.TTL(ctx, whole).Val()).To(BeNumerically("~", 90*24*time.Hour, 25*time.Hour))
			Expect(sum(ask(time.Minute))).To(BeEquivalentTo(12100))

			log.write(requestAt(201, hour.Add(90*time.Second)))
			Eventually(func() map[string]string { return client.HGetAll(ctx, whole).Val() }).Should(Equal(map[string]string{fmt.Sprint(hour.Unix()): "12200"}))
			Eventually(func() []string { return client.Keys(ctx, "switchboard:history_*").Val() }).Should(HaveEach(ContainSubstring(":day")))
		})

		It("leaves alone what is no number, and folds the rest", func() {
			url := start()
			client := connect(url)
			hour := time.Now().Truncate(time.Hour)
			key := fmt.Sprintf("switchboard:history_vt:1:%d:bytes", hour.Unix())
			Expect(client.HSet(ctx, key, hour.Unix()+1, "7", hour.Unix()+2, "x", "y", "3").Err()).To(Succeed())
			Expect(client.Set(ctx, fmt.Sprintf("switchboard:history_vt:1:%d:time", hour.Unix()), "z", 0).Err()).To(Succeed())
			for _, member := range []string{"nonsense", "a:b:c", ":", fmt.Sprintf("vt:%d:1", hour.Unix())} {
				Expect(client.ZAdd(ctx, "switchboard:history_due", redis.Z{Score: float64(hour.Unix()), Member: member}).Err()).To(Succeed())
			}
			read(url, newLog().path, func(o *stats.Options) {
				o.Now = func() time.Time { return time.Now().Add(8 * time.Hour) }
			})
			Eventually(func() map[string]string { return client.HGetAll(ctx, key).Val() }).Should(Equal(map[string]string{
				fmt.Sprint(hour.Unix()): "7", fmt.Sprint(hour.Unix() + 2): "x", "y": "3",
			}))
			Eventually(func() int64 { return client.ZCard(ctx, "switchboard:history_due").Val() }).Should(BeEquivalentTo(1))
		})
	})

	It("is the same while many fold it at once and lose their connections", func() {
		s := spec.StartRedis(new(servers.Redis))
		q := newQuery(s.URL())
		log := newLog().open()
		hour := time.Now().Truncate(time.Hour).Add(-time.Hour)
		const hosts, each = 60, 30
		for i := range hosts * each {
			line := requestAt(i, hour.Add(time.Duration(i%1800)*time.Second))
			log.write(strings.Replace(line, `"shop"`, fmt.Sprintf(`"shop%d"`, i%hosts), 1))
		}
		first := read(s.URL(), log.path)
		first.shows(func(s stats.Status) any { return s.Requests }, uint64(hosts*each))
		first.stop()

		l := startLink(s.Addr())
		clock := new(later)
		clock.by.Store(int64(8 * time.Hour))
		for range 3 {
			read(l.url(), log.path, func(o *stats.Options) { o.Now, o.Upkeep = clock.now, time.Millisecond })
		}
		client := connect(s.URL())
		folded := func(what string) func() int {
			return func() int { return len(client.Keys(ctx, "switchboard:history_host:*:"+what+"*:requests").Val()) }
		}
		for range 100 {
			l.sever()
			for _, host := range []string{"shop0", "shop59"} {
				Expect(summed(q, stats.Host, host, stats.Requests)).To(BeEquivalentTo(each))
			}
		}
		clock.by.Store(int64(8 * 24 * time.Hour))
		Eventually(func() int {
			l.sever()
			return folded("day")()
		}).WithPolling(20 * time.Millisecond).Should(Equal(hosts))
		Eventually(func() int64 { return client.ZCard(ctx, "switchboard:history_due").Val() }).Should(BeZero())
		Expect(folded("1")()).To(BeZero())
		for i := range hosts {
			Expect(summed(q, stats.Host, fmt.Sprint("shop", i), stats.Requests)).To(BeEquivalentTo(each))
		}
	})
})

var _ = Describe("Query", func() {
	It("sums up the version types of a workspace, an application and a version", func() {
		url := startMini()
		client, q := connect(url), newQuery(url)
		for _, line := range []struct {
			id       string
			requests int
			time     int
		}{{"1", 3, 10}, {"2", 1, 50}, {"null", 5, 0}, {"pacemaker", 2, 1}} {
			Expect(client.HSet(ctx, "switchboard:stat_vt:"+line.id, "requests", line.requests, "timecount", line.requests, "time", line.time,
				"2xx", line.requests-1, "5xx", 1, "503", 1, "nginxtime", 2*line.time, "foreign", "x").Err()).To(Succeed())
		}
		for _, kind := range []stats.Kind{stats.Workspace, stats.Application, stats.Version} {
			t, err := q.Totals(ctx, kind, "7")
			Expect(err).NotTo(HaveOccurred())
			Expect(t.Requests).To(BeZero())
			Expect(t.TimeAverage).To(BeZero())
			Expect(client.SAdd(ctx, "switchboard:"+string(kind)+":7", "1", "2", "absent").Err()).To(Succeed())
			t, err = q.Totals(ctx, kind, "7")
			Expect(err).NotTo(HaveOccurred())
			Expect([]int64{t.Requests, t.Time, t.Class5xx, t.Codes[503]}).To(Equal([]int64{4, 60, 2, 2}))
			Expect([]float64{t.TimeAverage, t.NGINXTimeAverage, t.Percentage2xx, t.Percentage5xx}).To(Equal([]float64{15, 30, 50, 50}))
		}
		for kind, want := range map[stats.Kind]int64{stats.Uncaught: 5, stats.Pacemaker: 2} {
			t, err := q.Totals(ctx, kind, "")
			Expect(err).NotTo(HaveOccurred())
			Expect(t.Requests).To(Equal(want))
		}
		text, err := json.Marshal(stats.Totals{Kind: stats.Uncaught, ID: "null", Percentage4xx: 62.5, Codes: map[int]int64{404: 5}})
		Expect(err).NotTo(HaveOccurred())
		for _, member := range []string{`"as_at":`, `"4xx_percentage":62.5`, `"time_average":0`, `"nginxtime_average":0`, `"codes":{"404":5}`} {
			Expect(string(text)).To(ContainSubstring(member))
		}
	})

	It("answers with what lies in the range, in steps that begin at multiples of their length", func() {
		url := startMini()
		client, q := connect(url), newQuery(url)
		base := time.Unix(1_700_000_000-1_700_000_000%86400, 0)
		hours := map[int64]map[string]any{}
		for _, second := range []int64{3599, 3600, 3601, 3660, 7199, 7200, 86399, 86400} {
			hour := base.Unix() + second - second%3600
			if hours[hour] == nil {
				hours[hour] = map[string]any{}
			}
			hours[hour][fmt.Sprint(base.Unix()+second)] = 1
		}
		for hour, values := range hours {
			Expect(client.HSet(ctx, fmt.Sprintf("switchboard:history_node:a:b:%d:requests", hour), values).Err()).To(Succeed())
		}
		ask := func(from, to int64, step time.Duration) []stats.Point {
			GinkgoHelper()
			h, err := q.History(ctx, stats.Node, "a:b", []string{stats.Requests}, base.Add(time.Duration(from)*time.Second), base.Add(time.Duration(to)*time.Second), step)
			Expect(err).NotTo(HaveOccurred())
			points := h.Metrics[stats.Requests]
			for i := range points {
				points[i].At -= base.Unix()
			}
			return points
		}
		Expect(ask(3600, 3601, time.Second)).To(Equal([]stats.Point{{At: 3600, Value: 1}, {At: 3601, Value: 1}}))
		Expect(ask(3599, 7200, time.Minute)).To(Equal([]stats.Point{{At: 3540, Value: 1}, {At: 3600, Value: 2}, {At: 3660, Value: 1}, {At: 7140, Value: 1}, {At: 7200, Value: 1}}))
		Expect(ask(3630, 3659, time.Minute)).To(Equal([]stats.Point{{At: 3600, Value: 2}}))
		Expect(ask(0, 90000, time.Hour)).To(Equal([]stats.Point{{At: 0, Value: 1}, {At: 3600, Value: 4}, {At: 7200, Value: 1}, {At: 82800, Value: 1}, {At: 86400, Value: 1}}))
		Expect(ask(86400, 86400, time.Second)).To(Equal([]stats.Point{{At: 86400, Value: 1}}))
		Expect(ask(100, 200, time.Second)).To(BeEmpty())
		text, err := json.Marshal(stats.Point{At: 5, Value: 6})
		Expect(err).NotTo(HaveOccurred())
		Expect(string(text)).To(Equal("[5,6]"))
	})

	now := time.Unix(1_700_000_000, 0)
	DescribeTable("refuses a question that makes no sense, or is too much",
		func(words string, kind stats.Kind, id string, metrics []string, from, to time.Time, step time.Duration) {
			q := newQuery(startMini())
			_, err := q.History(ctx, kind, id, metrics, from, to, step)
			if words == "" {
				Expect(err).NotTo(HaveOccurred())
				return
			}
			Expect(err).To(MatchError(stats.ErrQuestion))
			Expect(err).To(MatchError(ContainSubstring(words)))
		},
		Entry("a kind", "there is no kind", stats.Kind("job"), "1", nil, now, now, time.Second),
		Entry("no ID", "needs an ID", stats.Host, "", nil, now, now, time.Second),
		Entry("an ID too many", "has no ID", stats.Uncaught, "5", nil, now, now, time.Second),
		Entry("a metric", "there is no metric", stats.Host, "a", []string{"404"}, now, now, time.Second),
		Entry("no step", "whole seconds", stats.Host, "a", nil, now, now, time.Duration(0)),
		Entry("half a second", "whole seconds", stats.Host, "a", nil, now, now, 1500*time.Millisecond),
		Entry("backwards", "ends before", stats.Host, "a", nil, now, now.Add(-time.Second), time.Second),
		Entry("before 1970", "ends before", stats.Host, "a", nil, time.Unix(-1, 0), now, time.Second),
		Entry("the most points", "", stats.Host, "a", []string{stats.Bytes}, now, now.Add((stats.MaxPoints-1)*time.Second), time.Second),
		Entry("a point more", "more than 10000 steps", stats.Host, "a", nil, now, now.Add(stats.MaxPoints*time.Second), time.Second),
		Entry("a long range", "longer than", stats.Host, "a", nil, now, now.Add(stats.MaxRange+time.Second), time.Hour),
	)

	It("refuses to sum up too many version types", func() {
		url := startMini()
		var many []any
		for i := range stats.MaxTypes {
			many = append(many, i)
		}
		client := connect(url)
		Expect(client.SAdd(ctx, "switchboard:workspace:1", many...).Err()).To(Succeed())
		q := newQuery(url)
		_, err := q.Totals(ctx, stats.Workspace, "1")
		Expect(err).NotTo(HaveOccurred())
		_, err = q.History(ctx, stats.Workspace, "1", nil, now, now.Add(24*time.Hour), time.Hour)
		Expect(err).To(MatchError(stats.ErrQuestion))
		Expect(client.SAdd(ctx, "switchboard:workspace:1", "one more").Err()).To(Succeed())
		_, err = q.Totals(ctx, stats.Workspace, "1")
		Expect(err).To(MatchError(stats.ErrQuestion))
	})
})
