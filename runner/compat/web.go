package compat

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"html/template"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
)

// guarded wraps a handler in what both pages have before them: whoever comes over
// plain HTTP is redirected before being asked for a password.
func (d *Daemon) guarded(next http.Handler) http.Handler {
	next = d.authenticated(next)
	if d.config.API.ForceHttps {
		next = forceHTTPS(next)
	}
	return d.recovered(d.logged(next))
}

// apiHandler routes as the original's does: what is not of /v0 is a file.
func (d *Daemon) apiHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/v0/cluster", d.router.Handler())
	mux.Handle("/v0/backends", d.router.Handler())
	mux.Handle("/", http.FileServer(http.Dir(d.config.StaticDir)))
	return mux
}

func (d *Daemon) authenticated(next http.Handler) http.Handler {
	username, password := sha256.Sum256([]byte(d.config.API.Username)), sha256.Sum256([]byte(d.config.API.Password))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u, p, given := r.BasicAuth()
		// Digests take as long to compare whatever the length of what was sent.
		gotU, gotP := sha256.Sum256([]byte(u)), sha256.Sum256([]byte(p))
		right := subtle.ConstantTimeCompare(gotU[:], username[:]) & subtle.ConstantTimeCompare(gotP[:], password[:])
		if !given || right != 1 {
			w.Header().Set("WWW-Authenticate", `Basic realm="Authorization Required"`)
			http.Error(w, "Not Authorized", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// forceHTTPS redirects requests that any of the proxies before us got over
// anything but https.
func forceHTTPS(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, proto := range strings.Split(strings.Join(r.Header.Values("X-Forwarded-Proto"), ","), ",") {
			if strings.TrimSpace(proto) == "https" {
				continue
			}
			to := *r.URL
			to.Scheme, to.Host = "https", r.Host
			http.Redirect(w, r, to.String(), http.StatusFound)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// recovered answers 500 for a request whose handler panics, and logs why.
func (d *Daemon) recovered(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			what := recover()
			if what == nil {
				return
			}
			if what == http.ErrAbortHandler {
				panic(what)
			}
			d.log.Error("Panic while serving request", "path", r.URL.Path, "error", fmt.Sprint(what), "stack", string(debug.Stack()))
			http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		}()
		next.ServeHTTP(w, r)
	})
}

// secretHeaders are left out of the log.
func secretHeader(name string) bool {
	switch name {
	case "Authorization", "Proxy-Authorization", "Cookie":
		return true
	}
	return false
}

// logged logs requests of /v0 with their answers, at debug. The line has facts and
// no words, as in the original.
func (d *Daemon) logged(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/v0") || !d.log.Enabled(r.Context(), slog.LevelDebug) {
			next.ServeHTTP(w, r)
			return
		}
		header := make(http.Header)
		for name, values := range r.Header {
			if !secretHeader(name) {
				header[name] = values
			}
		}
		// Before the handler, which may change the URL.
		method, url := r.Method, r.URL.RequestURI()
		asked := &excerpt{ReadCloser: r.Body}
		r.Body = asked
		answer := &recorder{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(answer, r)
		d.log.Debug("",
			slog.Group("request", "Method", method, "URL", url, "Host", r.Host, "RemoteAddr", r.RemoteAddr, "Header", header, "Body", string(asked.body)),
			slog.Group("response", "StatusCode", answer.status, "Header", answer.Header(), "Body", string(answer.body)))
	})
}

// maxLogged is how much of a body the log repeats, in bytes.
const maxLogged = 4 << 10

// excerpt remembers for the log what a handler has read of a body.
type excerpt struct {
	io.ReadCloser
	body []byte
}

func (e *excerpt) Read(p []byte) (int, error) {
	n, err := e.ReadCloser.Read(p)
	e.body = append(e.body, p[:min(n, maxLogged-len(e.body))]...)
	return n, err
}

// recorder remembers an answer for the log.
type recorder struct {
	http.ResponseWriter
	status int
	body   []byte
}

func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(p []byte) (int, error) {
	r.body = append(r.body, p[:min(len(p), maxLogged-len(r.body))]...)
	return r.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// serveHealth says 200 to anything, as the original does, whether or not there is a
// backend. It turns red when the daemon is told to stop, where the original's port
// is closed.
func (d *Daemon) serveHealth(w http.ResponseWriter, _ *http.Request) {
	if d.stopping.Load() {
		http.Error(w, "stopping", http.StatusServiceUnavailable)
	}
}

var springboard = template.Must(template.New("springboard").Parse(`<html><head><title>Proxy Springboard</title></head><body>
{{range .}}<p><a href="http://{{.}}">{{.}}</a></p>
{{end}}</body></html>
`))

// aggregator is a page with a link to every proxy. The links begin with http://, as
// always: where https is forced, the proxy redirects.
func aggregator(uris []string) http.Handler {
	var page strings.Builder
	// A list of strings and a builder: this cannot fail.
	_ = springboard.Execute(&page, uris)
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = w.Write([]byte(page.String()))
	})
}

// serveMetrics is the one gauge of the original, in Prometheus' text format.
func (d *Daemon) serveMetrics(w http.ResponseWriter, _ *http.Request) {
	sessions := make(map[string]int)
	for _, host := range d.router.Cluster().Clusters {
		for _, b := range host.Backends {
			sessions[b.Name] += b.CurrentSessionCount
		}
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	fmt.Fprint(w, "# HELP backend_sessions_total Gauge of the current sessions from this proxy to a mysql backend\n# TYPE backend_sessions_total gauge\n")
	for _, b := range d.config.Proxy.Backends {
		// A name has no character that would have to be escaped.
		fmt.Fprintf(w, "backend_sessions_total{backend=%q} %d\n", b.Name, sessions[b.Name])
	}
}
