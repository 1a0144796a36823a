package stats_test

import (
	"io"
	"net/http"
	"os"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/fixtures/servers"
	"switchboard/fixtures/spec"
	"switchboard/pacemaker/stats"
)

// lines is an nginx that logs as routers of this family do: /app/ is served by a backend,
// its own /; all else is not found.
func lines(addr string) string {
	return `log_format lines escape=json '{"version_type_key":"$type","node_key":"n7","instance_key":"null","bytes":$bytes_sent,"code":$status,'
    '"upstream_response_time":"$upstream_response_time","time":"$time_iso8601","timemsec":$msec,"nginx_response_time":$request_time}';
server {
  listen ` + addr + `;
  set $type "null";
  access_log access.json lines;
  location = / { access_log off; return 200 hello; }
  location /app/ { set $type "12"; proxy_pass http://` + addr + `/; }
  location / { return 404; }
}`
}

var _ = Describe("Reader, of a log of nginx", func() {
	It("counts each request once through two rotations", func() {
		spec.Need("nginx", "nginx")
		nginx := &servers.NGINX{Dir: GinkgoT().TempDir(), HTTP: lines}
		signals, ready, ended := make(chan os.Signal, 1), make(chan struct{}), make(chan error, 1)
		go func() { ended <- nginx.Run(signals, ready) }()
		Eventually(ready).Should(BeClosed())
		DeferCleanup(func() {
			signals <- syscall.SIGTERM
			Eventually(ended).Should(Receive(BeNil()))
		})
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: soon}
		visit := func(path string) {
			GinkgoHelper()
			answer, err := client.Get("http://" + nginx.Addr() + path)
			Expect(err).NotTo(HaveOccurred())
			_, err = io.Copy(io.Discard, answer.Body)
			Expect(err).NotTo(HaveOccurred())
			Expect(answer.Body.Close()).To(Succeed())
		}

		url, log := startMini(), nginx.Path("access.json")
		r := read(url, log)
		for i := range 60 {
			switch i {
			case 20:
				Expect(os.Rename(log, log+".2")).To(Succeed())
			case 40:
				r.stop()
				Expect(os.Rename(log, log+".1")).To(Succeed())
			case 25, 45:
				nginx.Reopen()
				Eventually(log).Should(BeAnExistingFile())
			}
			visit("/app/")
			visit("/nowhere")
		}
		r = read(url, log)
		q := newQuery(url)
		Eventually(total(q, stats.Node, "n7", stats.Requests)).Should(BeEquivalentTo(120))
		t, err := q.Totals(ctx, stats.VersionType, "12")
		Expect(err).NotTo(HaveOccurred())
		Expect([]int64{t.Requests, t.Class2xx, t.TimeCount}).To(Equal([]int64{60, 60, 60}))
		t, err = q.Totals(ctx, stats.Uncaught, "")
		Expect(err).NotTo(HaveOccurred())
		Expect([]int64{t.Requests, t.Class4xx, t.TimeCount, t.Time}).To(Equal([]int64{60, 60, 0, 0}))
		Expect(t.Bytes).To(BeNumerically(">", 60*100))
		h, err := q.History(ctx, stats.Uncaught, "", []string{stats.Requests}, time.Now().Add(-time.Minute), time.Now().Add(time.Minute), time.Hour)
		Expect(err).NotTo(HaveOccurred())
		Expect(sum(h.Metrics[stats.Requests])).To(BeEquivalentTo(60))
		Expect(r.Status().Broken).To(BeZero())
	})
})
