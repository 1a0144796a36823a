package main_test

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"syscall"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/fixtures/spec"
)

var _ = Describe("switchboard compat", func() {
	BeforeEach(spec.CheckLeaks)

	var (
		nodes  []*spec.Backend
		agents []*spec.Health
		with   func(...change) func(ports) string
	)
	BeforeEach(func() {
		p := startTwoNodes()
		nodes, agents, with = p.nodes, p.agents, p.with
	})

	Context("when operators ask", func() {
		It("speaks /v0 to the byte", func() {
			o := startOriginal(with())
			o.awaitActive("mysql/0", 2)
			_, first, _ := net.SplitHostPort(nodes[0].Addr())
			_, second, _ := net.SplitHostPort(nodes[1].Addr())
			active := `"activeBackend":{"host":"127.0.0.1","port":` + first + `,"name":"mysql/0"}`
			exactly := func(r reply, body string) {
				GinkgoHelper()
				Expect(r.status).To(Equal(http.StatusOK))
				Expect(r.header.Get("Content-Type")).To(Equal("application/json; charset=utf-8"))
				Expect(r.body).To(Equal(body))
			}
			exactly(o.ask("GET", o.api, "/v0/cluster", operator), `{`+active+`,"trafficEnabled":true,"message":"","lastUpdated":"0001-01-01T00:00:00Z"}`)
			connect(local(o.mysql))
			both := `[{"host":"127.0.0.1","port":` + first + `,"healthy":true,"name":"mysql/0","currentSessionCount":1,"active":true,"trafficEnabled":true},` +
				`{"host":"127.0.0.1","port":` + second + `,"healthy":true,"name":"mysql/1","currentSessionCount":0,"active":false,"trafficEnabled":true}]`
			Expect(o.ask("HEAD", o.api, "/v0/backends", operator).status).To(Equal(http.StatusOK))
			for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
				exactly(o.ask(method, o.api, "/v0/backends", operator), both)
			}
			for _, method := range []string{"HEAD", "POST", "PUT", "DELETE", "OPTIONS"} {
				Expect(o.ask(method, o.api, "/v0/cluster", operator).status).To(Equal(http.StatusMethodNotAllowed), method)
			}
			// The router's other answers are not the original's.
			Expect(o.ask("GET", o.api, "/cluster", operator).status).To(Equal(http.StatusNotFound))
		})

		DescribeTable("changes the traffic flag, from the query or from a form",
			func(flag string, enabled bool) {
				o := startOriginal(with())
				o.awaitActive("mysql/0", 2)
				active := o.cluster()[:strings.Index(o.cluster(), `,"trafficEnabled"`)]
				answered := func(r reply, message string) {
					GinkgoHelper()
					Expect(r.status).To(Equal(http.StatusOK))
					Expect(r.header.Get("Content-Type")).To(Equal("application/json; charset=utf-8"))
					Expect(r.body).To(MatchRegexp(`^%s,"trafficEnabled":%t,"message":"%s","lastUpdated":"20[^"]+"\}$`, regexp.QuoteMeta(active), enabled, message))
					Expect(o.cluster()).To(Equal(r.body))
				}
				answered(o.ask("PATCH", o.api, "/v0/cluster?message=in+the+query&trafficEnabled="+flag, operator), "in the query")
				answered(o.patchForm(url.Values{"trafficEnabled": {flag}, "message": {"in the form"}}), "in the form")
				Expect(strings.Count(o.backends(), fmt.Sprintf(`"trafficEnabled":%t`, enabled))).To(Equal(2))
			},
			Entry(nil, "true", true), Entry(nil, "1", true), Entry(nil, "t", true), Entry(nil, "T", true), Entry(nil, "TRUE", true),
			Entry(nil, "false", false), Entry(nil, "0", false), Entry(nil, "f", false), Entry(nil, "F", false), Entry(nil, "False", false),
		)

		It("needs a message to disable traffic, and none to enable it", func() {
			o := startOriginal(with())
			o.awaitActive("mysql/0", 2)
			before := o.cluster()
			for query, says := range map[string]string{
				"":                            "Failed to parse trafficEnabled",
				"?trafficEnabled=maybe":       "Failed to parse trafficEnabled",
				"?trafficEnabled=":            "Failed to parse trafficEnabled",
				"?trafficEnabled=%zz":         "Failed to parse form",
				"?trafficEnabled=false":       "message must not be empty",
				"?trafficEnabled=0&message=":  "message must not be empty",
				"?message=m&trafficenabled=0": "Failed to parse trafficEnabled",
			} {
				r := o.ask("PATCH", o.api, "/v0/cluster"+query, operator)
				Expect(r.status).To(Equal(http.StatusBadRequest), query)
				// The original's cluster does not follow the error.
				Expect(r.body).To(Equal(says + "\n"))
			}
			Expect(o.cluster()).To(Equal(before))
			Expect(o.ask("PATCH", o.api, "/v0/cluster?trafficEnabled=true", operator).body).To(ContainSubstring(`"trafficEnabled":true,"message":""`))
		})

		It("asks for the password on every page but health", func() {
			o := startOriginal(with())
			for _, port := range []int{o.api, o.aggregator} {
				for _, path := range []string{"/", "/v0/cluster", "/v0/backends", "/nowhere"} {
					// More wrong ones than any limit on guessing.
					for _, user := range slices.Concat([]string{"", "proxy:", "proxy:wrong", "nobody:a-password"}, slices.Repeat([]string{"x:y"}, 12)) {
						r := o.ask("GET", port, path, user)
						Expect(r.status).To(Equal(http.StatusUnauthorized), path+" "+user)
						Expect(r.header.Get("WWW-Authenticate")).To(Equal(`Basic realm="Authorization Required"`))
					}
				}
				Expect(o.ask("GET", port, "/", operator, "Host: 0-proxy.example.com").status).To(Equal(http.StatusOK))
			}
			Expect(o.ask("GET", o.api, "/v0/cluster", operator, "Host: 0-proxy.example.com").status).To(Equal(http.StatusOK))
			Expect(o.ask("GET", o.health, "/", "").status).To(Equal(http.StatusOK))
		})

		It("redirects to https before it asks for the password", func() {
			o := startOriginal(with(set(true, "API", "ForceHttps")))
			for _, port := range []int{o.api, o.aggregator} {
				for _, proto := range []string{"", "http", "https,http", "http, https", "HTTPS", "https,"} {
					header := []string{"Host: proxy.example.com"}
					if proto != "" {
						header = append(header, "X-Forwarded-Proto: "+proto)
					}
					r := o.ask("GET", port, "/v0/cluster?a=b", "", header...)
					Expect(r.status).To(Equal(http.StatusFound), proto)
					Expect(r.header.Get("Location")).To(Equal("https://proxy.example.com/v0/cluster?a=b"))
				}
				Expect(o.ask("GET", port, "/", operator, "X-Forwarded-Proto: https", "X-Forwarded-Proto: http").status).To(Equal(http.StatusFound))
				Expect(o.ask("GET", port, "/", "", "X-Forwarded-Proto: https").status).To(Equal(http.StatusUnauthorized))
				Expect(o.ask("GET", port, "/", operator, "X-Forwarded-Proto: https , https").status).To(Equal(http.StatusOK))
			}
			Expect(o.ask("GET", o.health, "/", "").status).To(Equal(http.StatusOK))
		})

		It("shows dashboard and aggregator", func() {
			o := startOriginal(with(set([]string{"0-proxy.example.com", "<script>"}, "API", "ProxyURIs")))
			r := o.ask("GET", o.api, "/", operator)
			Expect(r.body).To(Equal("<h1>dashboard</h1>"))
			Expect(r.header.Get("Content-Type")).To(HavePrefix("text/html"))
			Expect(o.ask("GET", o.api, "/../../etc/passwd", operator).status).NotTo(Equal(http.StatusOK))
			for _, path := range []string{"/", "/any/path"} {
				r = o.ask("POST", o.aggregator, path, operator)
				Expect(r.status).To(Equal(http.StatusOK))
				Expect(r.body).To(And(ContainSubstring("<title>Proxy Springboard</title>"), ContainSubstring(`<a href="http://0-proxy.example.com">0-proxy.example.com</a>`), Not(ContainSubstring("<script>"))))
			}
		})

		It("is healthy for any method, path and state", func() {
			o := startOriginal(with())
			agents[0].Unhealthy()
			agents[1].Unhealthy()
			o.ask("PATCH", o.api, "/v0/cluster?trafficEnabled=false&message=m", operator)
			for _, method := range []string{"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"} {
				r := o.ask(method, o.health, "/any/path?x", "")
				Expect(r.status).To(Equal(http.StatusOK), method)
				Expect(r.body).To(BeEmpty())
			}
		})

		It("has no health port of its own where that is the API's", func() {
			o := startOriginal(with(func(p ports, t keys) { t["HealthPort"] = p.api }))
			Expect(o.ask("GET", o.api, "/", "").status).To(Equal(http.StatusUnauthorized))
			_, err := net.Dial("tcp", local(o.health))
			Expect(err).To(MatchError(syscall.ECONNREFUSED))
		})

		It("exports its gauge", func() {
			o := startOriginal(with(inactivePort, func(p ports, t keys) { t["Metrics"] = keys{"Enabled": true, "Port": p.metrics} }))
			o.awaitActive("mysql/0", 2)
			connect(local(o.mysql))
			connect(local(o.mysql))
			connect(local(o.inactive))
			// /v0 counts those of the active port.
			Expect(o.backends()).To(MatchRegexp(`"name":"mysql/0","currentSessionCount":2,.+"name":"mysql/1","currentSessionCount":0,`))
			for _, path := range []string{"/metrics", "/"} {
				r, err := o.try("GET", o.metrics, path, "")
				Expect(err).NotTo(HaveOccurred())
				Expect(r.status).To(Equal(http.StatusOK))
				Expect(r.header.Get("Content-Type")).To(HavePrefix("text/plain; version=0.0.4"))
				Expect(r.body).To(MatchRegexp("^# HELP backend_sessions_total .+\n# TYPE backend_sessions_total gauge\n" +
					"backend_sessions_total{backend=\"mysql/0\"} 2\nbackend_sessions_total{backend=\"mysql/1\"} 1\n$"))
			}
		})

		It("serves every page over TLS when the API does", func() {
			ca := newCA()
			certificate, key := ca.issue("127.0.0.1")
			o := startOriginal(with(set(keys{"Enabled": true, "Certificate": certificate, "PrivateKey": key}, "API", "TLS"),
				func(p ports, t keys) { t["Metrics"] = keys{"Enabled": true, "Port": p.metrics} }))
			for _, port := range []int{o.api, o.aggregator, o.health, o.metrics} {
				Expect(o.ask("GET", port, "/", operator).status).To(Equal(http.StatusBadRequest), "plain HTTP is served")
			}
			o.scheme = "https"
			o.client.Transport = &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: ca.pool}}
			for _, port := range []int{o.api, o.aggregator, o.health, o.metrics} {
				Expect(o.ask("GET", port, "/", operator).status).To(Equal(http.StatusOK))
			}
			_, err := tls.Dial("tcp", local(o.api), &tls.Config{RootCAs: ca.pool, MaxVersion: tls.VersionTLS11})
			Expect(err).To(HaveOccurred())
		})
	})
})
