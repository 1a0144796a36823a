package check

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// MaxBody is how much of an answer's body the http check reads, in bytes. A JSON
// answer that is longer cannot be parsed and fails the check; of any other body
// nothing is needed.
const MaxBody = 64 << 10

// maxHead bounds the head of an answer, in bytes.
const maxHead = 64 << 10

// HTTP builds the "http" check: GET http://Address/Path on a connection of its
// own, closed afterwards. Redirects are not followed and proxies of the
// environment are not used.
//
// 503 is the backend's own word that it must not serve. A 200 whose Content-Type
// is JSON, or whose body begins with "{", must be an object with a boolean
// "healthy", as the Galera agent and its like answer; their "wsrep_local_index"
// becomes the result's Index. Any other 200 is healthy, so that ordinary health
// endpoints can be used as they are. Every other status fails the check.
//
// Spec.Path must begin with "/" and may have a query.
//
// With Spec.TLS.Enabled the check speaks https, and only https: an endpoint that
// does not is one that fails.
func HTTP(spec Spec, target Target) (Checker, error) {
	return HTTPOptions{}.Build(spec, target)
}

// HTTPOptions are for programs that want more of the http check than a [Spec] can
// say. The zero value builds what [HTTP] does.
type HTTPOptions struct {
	// TLS makes the check speak https with this configuration, whatever Spec.TLS
	// says; nil: Spec.TLS decides. An empty ServerName is the host of the backend's
	// address.
	TLS *tls.Config
	// StatusOnly lets nothing but the status JSON count: a 200 with any other body
	// fails the check. An index that is missing is 0 then, as it is to Cloud Foundry's
	// switchboard.
	StatusOnly bool
	// Body is how much of the body of an answer that is not healthy goes into the
	// result's Detail, in bytes, on one line; 0: its first line, and no more than 120,
	// of an answer that is not 200.
	Body int
}

// Build is a [Builder].
func (o HTTPOptions) Build(spec Spec, target Target) (Checker, error) {
	if err := need(target); err != nil {
		return nil, fmt.Errorf("http check: %w", err)
	}
	if !strings.HasPrefix(spec.Path, "/") {
		return nil, fmt.Errorf("http check: the path %q must begin with \"/\"", spec.Path)
	}
	at, err := url.ParseRequestURI(spec.Path)
	if err != nil || strings.ContainsRune(spec.Path, '#') {
		return nil, fmt.Errorf("http check: %q is not the path of a URL", spec.Path)
	}
	secure, err := o.secure(spec, target)
	if err != nil {
		return nil, fmt.Errorf("http check: %w", err)
	}
	at.Scheme, at.Host = "http", target.Address
	if secure != nil {
		at.Scheme = "https"
	}
	return &httpChecker{
		target: target,
		url:    at.String(),
		strict: o.StatusOnly,
		body:   o.Body,
		transport: &http.Transport{
			Proxy:                  nil,
			DialContext:            dialWithin(target),
			TLSClientConfig:        secure,
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: maxHead,
		},
	}, nil
}

// secure is how to talk TLS, nil for plain HTTP.
func (o HTTPOptions) secure(spec Spec, target Target) (*tls.Config, error) {
	if o.TLS == nil {
		return spec.TLS.Config(target.Address)
	}
	secure := o.TLS.Clone()
	if secure.ServerName == "" {
		host, _, err := net.SplitHostPort(target.Address)
		if err != nil {
			return nil, fmt.Errorf("splitting the address: %w", err)
		}
		secure.ServerName = host
	}
	return secure, nil
}

type httpChecker struct {
	target    Target
	url       string
	strict    bool
	body      int
	transport *http.Transport
}

func (c *httpChecker) Check(ctx context.Context) Result {
	// The request ends with Check, whatever it left unread.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	request, err := http.NewRequestWithContext(context.WithValue(ctx, probe{}, ctx), http.MethodGet, c.url, nil)
	if err != nil {
		return Result{Verdict: Failed, Detail: Words(err)}
	}
	request.Header.Set("User-Agent", "switchboard-check")
	request.Header.Set("Accept", "application/json, */*;q=0.5")
	// The transport, not a client: it follows no redirect and keeps no cookie.
	response, err := c.transport.RoundTrip(request)
	if err != nil {
		return c.failure(ctx, err)
	}
	defer response.Body.Close()

	body, err := io.ReadAll(io.LimitReader(response.Body, MaxBody+1))
	switch {
	case response.StatusCode == http.StatusServiceUnavailable:
		// The status is the word; a body that did not arrive takes nothing from it.
		return Result{Verdict: Unhealthy, Detail: c.status(response, body)}
	case response.StatusCode != http.StatusOK:
		return Result{Verdict: Failed, Detail: c.status(response, body)}
	case err != nil:
		failed := c.failure(ctx, err)
		failed.Detail = "status 200, reading the body: " + failed.Detail
		return failed
	case c.strict || promisesJSON(response, body):
		result := readJSON(body)
		if c.strict && result.Verdict != Failed && result.Index == nil {
			result.Index = new(int)
		}
		if result.Verdict != Healthy {
			result.Detail = c.quoting(result.Detail, body)
		}
		return result
	default:
		return Result{Verdict: Healthy, Detail: "status 200"}
	}
}

func (c *httpChecker) Close() error {
	c.transport.CloseIdleConnections()
	return nil
}

// probe is the key under which a request's context carries itself.
type probe struct{}

// dialWithin ends a dial with its probe. The transport alone would not: it
// detaches dials from the request's cancellation and keeps its values, since a
// later request could use the connection, and ours never does.
func dialWithin(target Target) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if own, ok := ctx.Value(probe{}).(context.Context); ok {
			ctx = own
		}
		return target.Dial(ctx, network, address)
	}
}

// failure prefers the deadline to what the transport makes of it.
func (c *httpChecker) failure(ctx context.Context, err error) Result {
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return Result{Verdict: Failed, Detail: "the connection ended before the answer did"}
	}
	failed := c.target.Failure(err)
	failed.Detail = Line(failed.Detail)
	return failed
}

func (c *httpChecker) status(response *http.Response, body []byte) string {
	said := fmt.Sprintf("status %d", response.StatusCode)
	if c.body > 0 {
		return c.quoting(said, body)
	}
	if excerpt := Line(string(body[:min(len(body), 4*maxDetail)])); excerpt != "" {
		said += ": " + excerpt
	}
	return said
}

// quoting adds as much of the body as was asked for.
func (c *httpChecker) quoting(said string, body []byte) string {
	whole := strings.Join(strings.Fields(string(body[:min(len(body), 4*c.body)])), " ")
	if excerpt := line(whole, c.body); excerpt != "" {
		return said + ": " + excerpt
	}
	return said
}

func promisesJSON(response *http.Response, body []byte) bool {
	media, _, err := mime.ParseMediaType(response.Header.Get("Content-Type"))
	if err == nil && (media == "application/json" || strings.HasSuffix(media, "+json")) {
		return true
	}
	return bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("{"))
}

func readJSON(body []byte) Result {
	if len(body) > MaxBody {
		return Result{Verdict: Failed, Detail: fmt.Sprintf("status 200, but the JSON is longer than %d bytes", MaxBody)}
	}
	var answer struct {
		Healthy *bool `json:"healthy"`
		Index   *int  `json:"wsrep_local_index"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return Result{Verdict: Failed, Detail: "status 200, but the body is not the JSON it should be: " + Line(err.Error())}
	}
	switch {
	case answer.Healthy == nil:
		return Result{Verdict: Failed, Detail: `status 200, but the JSON has no "healthy"`}
	case !*answer.Healthy:
		return Result{Verdict: Unhealthy, Index: answer.Index, Detail: "says healthy: false"}
	default:
		return Result{Verdict: Healthy, Index: answer.Index, Detail: "says healthy: true"}
	}
}
