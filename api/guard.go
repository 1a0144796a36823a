package api

import (
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"switchboard/bridge/clock"
)

// guard decides who may talk to the API at all.
type guard struct {
	auth bool
	// Digests make the comparison take as long for a name or password of another
	// length.
	username, password [sha256.Size]byte
	hosts              map[string]bool
	origins            *http.CrossOriginProtection
	failures           *bucket
}

func newGuard(o Options) *guard {
	g := &guard{
		auth:     o.Username != "",
		username: sha256.Sum256([]byte(o.Username)),
		password: sha256.Sum256([]byte(o.Password)),
		hosts:    map[string]bool{"localhost": true},
		origins:  http.NewCrossOriginProtection(),
		failures: &bucket{clock: o.Clock, size: 10, left: 10, last: o.Clock.Now()},
	}
	for _, host := range o.AllowedHosts {
		g.hosts[hostName(host)] = true
	}
	return g
}

// admit returns nil, or why the request is not heard.
func (g *guard) admit(r *http.Request) error {
	switch {
	case g.auth:
		if err := g.authenticate(r); err != nil {
			return err
		}
	case !g.ours(r.Host):
		return problem(http.StatusMisdirectedRequest,
			"without a password the API answers only to IP addresses, localhost and the hosts it was told to allow")
	}
	if err := g.origins.Check(r); err != nil {
		return problem(http.StatusForbidden, "a page of another site may not change anything here").because(err)
	}
	return nil
}

func (g *guard) authenticate(r *http.Request) error {
	username, password, given := r.BasicAuth()
	u, p := sha256.Sum256([]byte(username)), sha256.Sum256([]byte(password))
	right := subtle.ConstantTimeCompare(u[:], g.username[:]) & subtle.ConstantTimeCompare(p[:], g.password[:])
	switch {
	case given && right == 1:
		return nil
	case r.Header.Get("Authorization") != "" && !g.failures.take():
		// Only wrong ones come here, so nobody with the right password is ever locked
		// out. A guesser pays for a new connection with each guess.
		return problem(http.StatusTooManyRequests, "too many wrong passwords").
			with("Retry-After", retryAfter).with("Connection", "close")
	default:
		return problem(http.StatusUnauthorized, "a username and a password are needed").
			with("WWW-Authenticate", `Basic realm="Authorization Required"`)
	}
}

// ours tells whether a Host header can only come from someone who meant us.
func (g *guard) ours(host string) bool {
	name := hostName(host)
	_, err := netip.ParseAddr(name)
	return err == nil || g.hosts[name]
}

// hostName is a Host header's host: no port, no brackets, lower case.
func hostName(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// bucket is a token bucket that gains one token a second.
type bucket struct {
	clock clock.Clock
	size  float64

	mu   sync.Mutex
	left float64
	last time.Time
}

func (b *bucket) take() bool {
	now := b.clock.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left = min(b.size, b.left+max(0, now.Sub(b.last).Seconds()))
	b.last = now
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}
