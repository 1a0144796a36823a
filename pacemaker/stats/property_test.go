package stats_test

import (
	"fmt"
	"os"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"pgregory.net/rapid"

	"switchboard/fixtures/servers"
	"switchboard/fixtures/spec"
	"switchboard/pacemaker/stats"
)

// counts are what a host should have.
type counts struct{ requests, sessions, bytes, errors int64 }

// draw draws the line of a request or session, and counts it.
func (c *counts) draw(t *rapid.T, n int, host string) string {
	bytes := rapid.Int64Range(0, 5000).Draw(t, "bytes")
	c.bytes += bytes
	now := float64(time.Now().UnixMilli()) / 1000
	if rapid.IntRange(0, 3).Draw(t, "kind") == 0 {
		c.sessions++
		return fmt.Sprintf(`{"kind":"session","id":"s%d","timemsec":%.3f,"version_type_key":"null","node_key":"null","bytes":%d,"host":%q}`+"\n", n, now, bytes, host)
	}
	c.requests++
	code := rapid.SampledFrom([]int{200, 404, 503}).Draw(t, "code")
	if code == 503 {
		c.errors++
	}
	return fmt.Sprintf(`{"id":"r%d","timemsec":%.3f,"version_type_key":"1","node_key":"2","bytes":%d,"code":%d,"upstream_response_time":"-","nginx_response_time":0,"host":%q}`+"\n",
		n, now, bytes, code, host)
}

var _ = Describe("Reader and Query", func() {
	It("agree with a model, whatever is written, rotated, severed and restarted", func() {
		s := spec.StartRedis(new(servers.Redis))
		client, q := connect(s.URL()), newQuery(s.URL())
		rapid.Check(GinkgoT(), func(t *rapid.T) {
			Expect(client.FlushDB(ctx).Err()).To(Succeed())
			dir, err := os.MkdirTemp("", "switchboard-stats-")
			Expect(err).NotTo(HaveOccurred())
			defer os.RemoveAll(dir)
			log := &logFile{path: dir + "/access.log"}
			log.open()
			defer func() { log.file.Close() }()
			l := startLink(s.Addr())
			r := read(l.url(), log.path)
			model := map[string]*counts{"a": {}, "b": {}}
			rotations, n := 0, 0
			for range rapid.IntRange(1, 25).Draw(t, "steps") {
				switch rapid.SampledFrom([]string{"write", "write", "write", "half", "broken", "rotate", "sever", "deaf", "restart", "rest"}).Draw(t, "step") {
				case "write":
					for range rapid.IntRange(1, 30).Draw(t, "lines") {
						n++
						host := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "host")
						log.write(model[host].draw(t, n, host))
					}
				case "half":
					n++
					host := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "host")
					line := model[host].draw(t, n, host)
					at := rapid.IntRange(1, len(line)-1).Draw(t, "cut")
					log.write(line[:at])
					if rapid.Bool().Draw(t, "restarted") {
						r.stop()
						r = read(l.url(), log.path)
					}
					log.write(line[at:])
				case "broken":
					log.write(strings.Repeat("-", rapid.SampledFrom([]int{0, 1, 1000, 70 << 10, 200 << 10}).Draw(t, "length")) + "\n")
				case "rotate":
					rotations++
					log.rotate(fmt.Sprintf(".%d", 9000-rotations))
					log.open()
				case "sever":
					l.sever()
				case "deaf":
					l.deaf.Store(true)
				case "restart":
					r.stop()
					r = read(l.url(), log.path)
				}
			}
			// The last one shows that all is read.
			n++
			last := request(n)
			log.write(strings.Replace(last, `"shop"`, `"last"`, 1))
			Eventually(total(q, stats.Host, "last", stats.Requests)).Should(BeEquivalentTo(1))
			for host, want := range model {
				got, err := q.Totals(ctx, stats.Host, host)
				Expect(err).NotTo(HaveOccurred())
				Expect(counts{got.Requests, got.Sessions, got.Bytes, got.Class5xx}).To(Equal(*want))
				Expect(summed(q, stats.Host, host, stats.Bytes)).To(Equal(want.bytes))
			}
			r.stop()
		})
	})
})
