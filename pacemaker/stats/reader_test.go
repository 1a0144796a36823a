package stats_test

import (
	"fmt"
	"os"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/pacemaker/stats"
	"switchboard/pacemaker/store"
)

var _ = Describe("Reader", func() {
	onEach(func(start func() string) {
		It("counts requests and sessions by type, node and host", func() {
			url := start()
			client := connect(url)
			log := newLog().open()
			at := time.Now().Truncate(time.Second)
			log.write(requestAt(1, at), requestAt(2, at),
				fmt.Sprintf(`{"kind":"request","timemsec":%d.250,"version_type_key":"","node_key":"null","bytes":50,"code":404,"upstream_response_time":"-","nginx_response_time":0.001,"host":""}`+"\n", at.Unix()+1),
				fmt.Sprintf(`{"kind":"request","timemsec":%d.250,"version_type_key":"12","node_key":"3","bytes":0,"code":0,"upstream_response_time":"-","nginx_response_time":0.5,"host":"shop"}`+"\n", at.Unix()+1),
				fmt.Sprintf(`{"kind":"session","timemsec":%d.750,"version_type_key":"12","node_key":"3","instance_key":"7","bytes":1000,"id":"s","listener":"db","host":"shop","bytesToBackend":5,"bytesToClient":1000,"tookMs":12.5,"reason":"client_closed"}`+"\n", at.Unix()+1),
			)
			r := read(url, log.path)
			r.shows(func(s stats.Status) any { return []uint64{s.Requests, s.Sessions, s.Broken} }, []uint64{4, 1, 0})
			want := map[string]string{
				"requests": "3", "sessions": "1", "bytes": "1200", "time": "10", "timecount": "2", "nginxtime": "514", "2xx": "2", "200": "2", "0": "1",
			}
			for _, key := range []string{"stat_vt:12", "stat_node:3", "stat_host:shop"} {
				Expect(client.HGetAll(ctx, "switchboard:"+key).Result()).To(Equal(want), key)
			}
			Expect(client.HGetAll(ctx, "switchboard:stat_vt:null").Result()).To(Equal(map[string]string{
				"requests": "1", "bytes": "50", "nginxtime": "1", "4xx": "1", "404": "1",
			}))
			Expect(client.Keys(ctx, "switchboard:stat_*").Result()).To(HaveLen(4))

			hour := at.Unix() - at.Unix()%3600
			Expect(client.HGet(ctx, fmt.Sprintf("switchboard:history_vt:12:%d:requests", hour), fmt.Sprint(at.Unix())).Result()).To(Equal("2"))
			Expect(client.HGet(ctx, fmt.Sprintf("switchboard:history_host:shop:%d:time", hour), fmt.Sprint(at.Unix())).Result()).To(Equal("10"))
			Expect(client.TTL(ctx, fmt.Sprintf("switchboard:history_node:3:%d:bytes", hour)).Val()).To(BeNumerically("~", 90*24*time.Hour, 2*time.Hour))
		})

		It("counts what NGINX writes", func() {
			url := start()
			log := newLog().open()
			now := time.Now()
			for _, upstream := range []string{"0.010", "0.010, 0.020", "0.001 : 0.002", "-, 0.004", "-", "1.001"} {
				log.write(fmt.Sprintf(`{ "version_type_key": "4", "node_key": "2", "instance_key": "9", "bytes": 207, "code": 101, `+
					`"upstream_response_time": %q, "time": %q, "timemsec": %d.123, "nginx_response_time": 1.057 }`+"\n",
					upstream, now.Format(time.RFC3339), now.Unix()))
			}
			read(url, log.path)
			q := newQuery(url)
			Eventually(total(q, stats.VersionType, "4", stats.Requests)).Should(BeEquivalentTo(6))
			t, err := q.Totals(ctx, stats.Node, "2")
			Expect(err).NotTo(HaveOccurred())
			Expect([]int64{t.Time, t.TimeCount, t.NGINXTime, t.Class1xx, t.Bytes}).To(Equal([]int64{10 + 30 + 3 + 4 + 1001, 5, 6 * 1057, 6, 6 * 207}))
		})

		It("goes on where an earlier reader has stopped, also one that knew offsets only", func() {
			url := start()
			log := newLog().open()
			log.requests(0, 10)
			info, err := log.file.Stat()
			Expect(err).NotTo(HaveOccurred())
			Expect(connect(url).Set(ctx, "switchboard:position:n1", info.Size(), 0).Err()).To(Succeed())
			log.requests(10, 3)
			q := newQuery(url)
			r := read(url, log.path)
			Eventually(total(q, stats.Host, "shop", stats.Requests)).Should(BeEquivalentTo(3))
			r.stop()
			log.requests(13, 4)
			r = read(url, log.path)
			Eventually(total(q, stats.Host, "shop", stats.Requests)).Should(BeEquivalentTo(7))
			r.shows(func(s stats.Status) any { return s.Requests }, uint64(4))
		})

		It("counts nothing twice if two readers read one log", func() {
			url := start()
			log := newLog().open()
			one, two := read(url, log.path), read(url, log.path)
			for i := range 200 {
				log.requests(10*i, 10)
			}
			q := newQuery(url)
			Eventually(total(q, stats.Host, "shop", stats.Requests)).Should(BeEquivalentTo(2000))
			Eventually(func() uint64 { return one.Status().Requests + two.Status().Requests }).Should(BeEquivalentTo(2000))
			one.stop()
			two.stop()
			Expect(total(q, stats.Host, "shop", stats.Requests)()).To(BeEquivalentTo(2000))
		})

		It("adds nothing to what is no number, and counts all else", func() {
			url := start()
			client := connect(url)
			Expect(client.HSet(ctx, "switchboard:stat_vt:12", "bytes", "many").Err()).To(Succeed())
			Expect(client.Set(ctx, "switchboard:stat_host:shop", "x", 0).Err()).To(Succeed())
			log := newLog().open()
			log.requests(0, 5)
			r := read(url, log.path)
			r.shows(func(s stats.Status) any { return s.Requests }, uint64(5))
			Expect(r.Status().Refused).NotTo(BeZero())
			Expect(client.HGet(ctx, "switchboard:stat_vt:12", "requests").Result()).To(Equal("5"))
			Expect(client.HGet(ctx, "switchboard:stat_vt:12", "bytes").Result()).To(Equal("many"))
			Expect(client.HGet(ctx, "switchboard:stat_node:3", "bytes").Result()).To(Equal("500"))
		})
	})

	It("waits for a log, and for the directory of it", func() {
		url := startMini()
		log := newLog()
		log.path += ".d/access.log"
		r := read(url, log.path)
		r.shows(func(s stats.Status) any { return []bool{s.Waiting, s.Stale} }, []bool{true, false})
		Expect(os.Mkdir(strings.TrimSuffix(log.path, "/access.log"), 0o700)).To(Succeed())
		log.open().requests(0, 2)
		r.shows(func(s stats.Status) any { return []any{s.Waiting, s.Requests} }, []any{false, uint64(2)})
	})

	It("keeps a line that is not finished for later", func() {
		url := startMini()
		log := newLog().open()
		line := request(2)
		log.write(request(1), line[:len(line)/2])
		r := read(url, log.path)
		r.shows(func(s stats.Status) any { return s.Requests }, uint64(1))
		r.stop()
		Expect(r.Status().Behind).To(BeEquivalentTo(len(line) / 2))
		r = read(url, log.path)
		log.write(line[len(line)/2:])
		r.shows(func(s stats.Status) any { return []uint64{s.Requests, s.Broken} }, []uint64{1, 0})
	})

	It("passes over lines that are no records, whatever is in them", func() {
		url := startMini()
		log := newLog().open()
		line := strings.TrimSuffix(request(3), "\n")
		long := strings.Repeat("x", 300<<10)
		log.write("no json\n", "\n", "[1]\n", "null\n", "{}\n", "\x00\x00\x00\n", line+line+"\n",
			strings.Replace(line, `"code":200,`, "", 1)+"\n",
			strings.Replace(line, `"bytes":100`, `"bytes":-1`, 1)+"\n",
			strings.Replace(line, `"bytes":100`, `"bytes":1e300`, 1)+"\n",
			strings.Replace(line, `"0.005"`, `"0.005x"`, 1)+"\n",
			strings.Replace(line, `"version_type_key":"12"`, `"version_type_key":"`+strings.Repeat("v", 300)+`"`, 1)+"\n",
			strings.Replace(line, `"kind":"request"`, `"kind":"journey"`, 1)+"\n",
			request(4), strings.Repeat("y", 100<<10)+"\n", long, long+"\n", request(5), long)
		r := read(url, log.path)
		r.shows(func(s stats.Status) any { return []uint64{s.Requests, s.Broken, s.Long} }, []uint64{2, 13, 3})
		r.stop()
		log.write("\n", request(6))
		r = read(url, log.path)
		r.shows(func(s stats.Status) any { return []uint64{s.Requests, s.Broken} }, []uint64{1, 0})
	})

	It("makes no history of records from a time that cannot be", func() {
		url := startMini()
		log := newLog().open()
		now := time.Now()
		log.write(requestAt(1, now.Add(time.Hour)), requestAt(2, now.Add(-91*24*time.Hour)), requestAt(3, time.Unix(0, 0)), requestAt(4, now))
		r := read(url, log.path)
		r.shows(func(s stats.Status) any { return []uint64{s.Requests, s.Unplaced} }, []uint64{4, 3})
		keys, err := connect(url).Keys(ctx, "switchboard:history_host:*:requests").Result()
		Expect(err).NotTo(HaveOccurred())
		Expect(keys).To(HaveLen(1))
	})

	It("refuses the position of another log until that is gone", func() {
		url := startMini()
		first, second := newLog().open(), newLog().open()
		first.requests(0, 3)
		second.requests(0, 4)
		one := read(url, first.path)
		one.shows(func(s stats.Status) any { return s.Requests }, uint64(3))
		one.stop()
		two := read(url, second.path)
		Eventually(func() string { return two.Status().Reason }).Should(ContainSubstring("give each log that is read a node of its own"))
		Expect(two.Status().Reason).To(ContainSubstring("delete switchboard:position:n1"))
		Expect(two.Status().Requests).To(BeZero())
		Expect(connect(url).Del(ctx, "switchboard:position:n1").Err()).To(Succeed())
		two.shows(func(s stats.Status) any { return []any{s.Stale, s.Requests} }, []any{false, uint64(4)})
	})

	It("refuses a position that makes no sense until that is gone", func() {
		url := startMini()
		client := connect(url)
		log := newLog().open()
		log.requests(0, 1)
		for _, text := range []string{"{", "-1", `{"offset":-1}`, `{"inode":1,"offset":5,"head":{"bytes":2000}}`} {
			Expect(client.Set(ctx, "switchboard:position:n1", text, 0).Err()).To(Succeed())
			r := read(url, log.path)
			Eventually(func() string { return r.Status().Reason }).Should(ContainSubstring("delete switchboard:position:n1"))
			r.stop()
		}
		Expect(client.Del(ctx, "switchboard:position:n1").Err()).To(Succeed())
		read(url, log.path).shows(func(s stats.Status) any { return s.Requests }, uint64(1))
	})

	It("counts to the end when it is told to stop", func() {
		url := startMini()
		log := newLog().open()
		r := read(url, log.path, func(o *stats.Options) { o.Interval = time.Hour })
		r.shows(func(s stats.Status) any { return s.Stale }, false)
		log.requests(0, 1000)
		r.stop()
		Expect(r.Status().Requests).To(BeEquivalentTo(1000))
	})

	DescribeTable("refuses options that make no sense",
		func(words string, change func(*stats.Options)) {
			o := stats.Options{Redis: store.Redis{URL: "redis://127.0.0.1"}, Log: "access.log", Node: "n1"}
			change(&o)
			_, err := stats.NewReader(o)
			Expect(err).To(MatchError(ContainSubstring(words)))
		},
		Entry("no log", "a log is required", func(o *stats.Options) { o.Log = "" }),
		Entry("no node", "a node is required", func(o *stats.Options) { o.Node = "" }),
		Entry("no Redis", "begins with redis://", func(o *stats.Options) { o.Redis.URL = "" }),
		Entry("a small pass", "at least", func(o *stats.Options) { o.Bytes = 1 }),
		Entry("a negative time", "no time is negative", func(o *stats.Options) { o.Interval = -1 }),
		Entry("a Cluster without a tag", "hash tag", func(o *stats.Options) { o.Redis.URL = "redis-cluster://127.0.0.1" }),
		Entry("less by the hour than by the minute", "history is kept", func(o *stats.Options) { o.Keep.ByHour = time.Hour }),
	)
})
