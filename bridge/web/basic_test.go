package web_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/bridge/web"
)

var _ = Describe("Server", func() {
	It("takes requests to the host that they name", func() {
		one, two := startBackend("one", nil), startBackend("two", nil)
		r := startRig(rigOptions{hosts: []hostSpec{
			{name: "a.test", backends: []string{one.addr}}, {name: "*.test", backends: []string{two.addr}},
		}})
		for range 3 {
			status, body := r.get("a.test", "/")
			Expect(status).To(Equal(200))
			Expect(body).To(Equal("one"))
		}
		_, body := r.get("B.test:80", "/")
		Expect(body).To(Equal("two"))
		status, _ := r.get("a.b.test", "/")
		Expect(status).To(Equal(404))
	})

	It("serves many requests on a connection, pipelined ones in order", func() {
		b := startBackend("b", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.URL.Path) })
		r := startRig(rigOptions{hosts: []hostSpec{{name: "a.test", backends: []string{b.addr}}}})
		c := r.dial()
		c.send(strings.Repeat("GET /1 HTTP/1.1\r\nHost: a.test\r\n\r\nGET /2 HTTP/1.1\r\nHost: a.test\r\n\r\n", 10))
		for range 10 {
			_, body := c.answer("GET")
			Expect(body).To(Equal("/1"))
			_, body = c.answer("GET")
			Expect(body).To(Equal("/2"))
		}
		Eventually(r.upstream.Idle).Should(Equal(1))
	})

	DescribeTable("bodies come through whole, both ways", func(size int, chunked bool) {
		b := startBackend("b", func(w http.ResponseWriter, r *http.Request) {
			if !chunked {
				w.Header().Set("Content-Length", fmt.Sprint(r.ContentLength))
			}
			http.NewResponseController(w).EnableFullDuplex()
			io.Copy(w, r.Body)
		})
		r := startRig(rigOptions{hosts: []hostSpec{{name: "a.test", backends: []string{b.addr}}}})
		content := strings.Repeat("0123456789abcdef", size/16+1)[:size]
		transport := &http.Transport{}
		defer transport.CloseIdleConnections()
		for range 3 {
			var body io.Reader = strings.NewReader(content)
			if chunked {
				body = io.MultiReader(body)
			}
			request, _ := http.NewRequest("POST", "http://"+r.addr+"/", body)
			request.Host = "a.test"
			response, err := transport.RoundTrip(request)
			Expect(err).NotTo(HaveOccurred())
			all, err := io.ReadAll(response.Body)
			Expect(err).NotTo(HaveOccurred())
			Expect(string(all) == content).To(BeTrue(), "%d bytes", len(all))
		}
	},
		Entry("0", 0, false), Entry("1", 1, false), Entry("16 KiB", 16<<10, false), Entry("100 KiB", 100<<10, false), Entry("5 MiB", 5<<20, false),
		Entry("1 chunked", 1, true), Entry("100 KiB chunked", 100<<10, true), Entry("5 MiB chunked", 5<<20, true),
	)

	It("ends a head that takes too long with 408", func() {
		r := startRig(rigOptions{server: func(o *web.Options) { o.Head = 100 * time.Millisecond }})
		c := r.dial()
		c.send("GET / HT")
		response, _ := c.answer("GET")
		Expect(response.StatusCode).To(Equal(408))
	})
})
