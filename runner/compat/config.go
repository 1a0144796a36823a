package compat

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"switchboard/bridge/route"
)

// Config is the original's configuration. Field names are its keys.
type Config struct {
	// BindAddress is what every port but that of the metrics is bound on; "": all
	// addresses.
	BindAddress string
	Proxy       Proxy
	API         API
	// HealthPort answers 200 to anything until the daemon is told to stop, and then
	// 503. If it is API.Port there is no health listener of its own.
	HealthPort uint
	// StaticDir is the directory of the dashboard. It must exist.
	StaticDir      string
	GaleraAgentTLS GaleraAgentTLS
	Metrics        Metrics
	StatusLog      StatusLog
}

// Proxy is the part about clients and backends.
type Proxy struct {
	// Port is where clients get the active backend.
	Port uint
	// InactiveMysqlPort is where clients get the healthy backend with the highest
	// index; 0: there is no such port.
	InactiveMysqlPort uint
	// Backends are at least one. Their names differ.
	Backends []Backend
	// HealthcheckTimeoutMillis bounds one probe; five times as often it is begun.
	HealthcheckTimeoutMillis uint
	// ShutdownDelaySeconds is how long both ports accept on after a stop.
	ShutdownDelaySeconds uint
}

// Backend is one database node and its status endpoint.
type Backend struct {
	// Host is an IP address or a DNS name.
	Host string
	// Port is the database's, StatusPort that of the agent that knows its health.
	Port, StatusPort uint
	// StatusEndpoint is a path, with or without a slash before it.
	StatusEndpoint string
	Name           string
}

// API is the part about operators.
type API struct {
	Port           uint
	AggregatorPort uint
	Username       string
	Password       string
	// ForceHttps redirects whatever a load balancer did not get over https.
	ForceHttps bool
	// ProxyURIs are the links of the aggregator's page.
	ProxyURIs []string
	TLS       ServerTLS
}

// ServerTLS is the certificate of all HTTP ports; both texts are PEM.
type ServerTLS struct {
	Enabled                 bool
	Certificate, PrivateKey string
}

// GaleraAgentTLS is how to talk to the agents: over https with certificates that
// descend from CA, a PEM text, and name ServerName ("": the backend's Host).
type GaleraAgentTLS struct {
	Enabled        bool
	CA, ServerName string
}

// Metrics is the Prometheus page on localhost.
type Metrics struct {
	Enabled bool
	// Port is [DefaultMetricsPort] unless it is given.
	Port uint
}

// StatusLog is the log line that sums up, every Interval.
type StatusLog struct {
	Enabled bool
	// Interval is [DefaultStatusInterval] unless it is more than 0.
	Interval time.Duration
}

// Defaults of the original.
const (
	DefaultMetricsPort    = 9999
	DefaultStatusInterval = time.Minute
)

// Problem is one thing that is wrong with a [Config].
type Problem struct {
	// Field is the original's name of it: "Proxy.Backends[0].Host".
	Field string
	// Detail says what is wrong. It holds no value of the configuration that may be
	// secret.
	Detail string
}

// Invalid is everything that is wrong with a [Config], in its order.
type Invalid []Problem

// Error is the original's text, one line a problem.
func (i Invalid) Error() string {
	var b strings.Builder
	b.WriteString("Validation errors:")
	for _, p := range i {
		fmt.Fprintf(&b, "\n%s : %s", p.Field, p.Detail)
	}
	return b.String()
}

// Validate returns all that is wrong, as [Invalid], or nil. It opens nothing.
func (c Config) Validate() error {
	v := validation{}
	if c.BindAddress != "" {
		if _, _, err := route.ParseAddress(net.JoinHostPort(c.BindAddress, "1"), false); err != nil {
			v.wrong("BindAddress", "%q is neither an IP address nor a name", c.BindAddress)
		}
	}
	v.proxy(c)
	v.api(c.API)
	v.port("HealthPort", c.HealthPort, true)
	v.text("StaticDir", c.StaticDir)
	if c.GaleraAgentTLS.Enabled {
		if _, err := c.GaleraAgentTLS.client(); err != nil {
			v.wrong("GaleraAgentTLS.CA", "Failed to Parse CA.")
		}
	}
	if c.Metrics.Enabled {
		v.port("Metrics.Port", c.Metrics.Port, true)
	}
	v.ports(c)
	if len(v) == 0 {
		return nil
	}
	return Invalid(v)
}

type validation []Problem

// zero is what the original says of a value that is missing.
const zero = "zero value"

func (v *validation) wrong(field, format string, args ...any) {
	*v = append(*v, Problem{field, fmt.Sprintf(format, args...)})
}

func (v *validation) text(field, value string) {
	if value == "" {
		v.wrong(field, zero)
	}
}

func (v *validation) port(field string, port uint, needed bool) {
	switch {
	case port == 0 && needed:
		v.wrong(field, zero)
	case port > 65535:
		v.wrong(field, "%d is not a port", port)
	}
}

func (v *validation) proxy(c Config) {
	p := c.Proxy
	v.port("Proxy.Port", p.Port, true)
	v.port("Proxy.InactiveMysqlPort", p.InactiveMysqlPort, false)
	v.atMost("Proxy.HealthcheckTimeoutMillis", p.HealthcheckTimeoutMillis, 24*60*60*1000)
	switch ms := p.HealthcheckTimeoutMillis; {
	case ms == 0:
		v.wrong("Proxy.HealthcheckTimeoutMillis", zero)
	case ms < 5:
		v.wrong("Proxy.HealthcheckTimeoutMillis", "%d is too short: at least 5", ms)
	}
	v.atMost("Proxy.ShutdownDelaySeconds", p.ShutdownDelaySeconds, 24*60*60)
	if len(p.Backends) == 0 {
		v.wrong("Proxy.Backends", "less than min")
	}
	names := make(map[string]int)
	for i, b := range p.Backends {
		field := fmt.Sprintf("Proxy.Backends[%d].", i)
		v.backend(field, b)
		if first, taken := names[b.Name]; taken && b.Name != "" {
			v.wrong(field+"Name", "%q is the name of Proxy.Backends[%d] already", b.Name, first)
			continue
		}
		names[b.Name] = i
		if loops(c.BindAddress, b.Host) && (b.Port == p.Port || b.Port == p.InactiveMysqlPort) && b.Port != 0 {
			v.wrong(field+"Port", "%d is a port of this proxy: sessions would run in a circle", b.Port)
		}
	}
}

// atMost keeps durations within what can be waited for.
func (v *validation) atMost(field string, n, most uint) {
	if n > most {
		v.wrong(field, "%d is too long: at most %d", n, most)
	}
}

func (v *validation) backend(field string, b Backend) {
	switch {
	case b.Host == "":
		v.wrong(field+"Host", zero)
	default:
		if _, _, err := route.ParseAddress(net.JoinHostPort(b.Host, "1"), false); err != nil {
			v.wrong(field+"Host", "%q is neither an IP address nor a DNS name", b.Host)
		} else if ip, err := netip.ParseAddr(b.Host); err == nil && ip.IsUnspecified() {
			v.wrong(field+"Host", "%s is no address of a backend", b.Host)
		}
	}
	v.port(field+"Port", b.Port, true)
	v.port(field+"StatusPort", b.StatusPort, true)
	switch {
	case b.StatusEndpoint == "":
		v.wrong(field+"StatusEndpoint", zero)
	default:
		if _, err := url.ParseRequestURI(b.path()); err != nil || strings.ContainsRune(b.path(), '#') {
			v.wrong(field+"StatusEndpoint", "%q is not the path of a URL", b.StatusEndpoint)
		}
	}
	switch {
	case b.Name == "":
		v.wrong(field+"Name", zero)
	default:
		if err := route.ValidBackendName(b.Name); err != nil {
			v.wrong(field+"Name", "%v", err)
		}
	}
}

func (v *validation) api(a API) {
	v.port("API.Port", a.Port, true)
	v.port("API.AggregatorPort", a.AggregatorPort, true)
	v.text("API.Username", a.Username)
	v.text("API.Password", a.Password)
	if strings.ContainsRune(a.Username, ':') {
		v.wrong("API.Username", "cannot hold a colon (RFC 7617)")
	}
	if a.TLS.Enabled {
		if _, err := a.TLS.server(); err != nil {
			v.wrong("API.TLS", "Failed to load Certificate and PrivateKey: %v", err)
		}
	}
}

// ports are checked against each other: the second to bind one would fail.
func (v *validation) ports(c Config) {
	taken := make(map[uint]string)
	take := func(field string, port uint) {
		if port == 0 {
			return
		}
		if first, ok := taken[port]; ok {
			v.wrong(field, "%d is %s already", port, first)
			return
		}
		taken[port] = field
	}
	take("Proxy.Port", c.Proxy.Port)
	take("Proxy.InactiveMysqlPort", c.Proxy.InactiveMysqlPort)
	take("API.Port", c.API.Port)
	take("API.AggregatorPort", c.API.AggregatorPort)
	if c.HealthPort != c.API.Port {
		take("HealthPort", c.HealthPort)
	}
	if c.Metrics.Enabled {
		take("Metrics.Port", c.Metrics.Port)
	}
}

// loops tells if a backend at host is this machine as far as the two can tell.
func loops(bind, host string) bool {
	ip, err := netip.ParseAddr(host)
	loopback := host == "localhost" || err == nil && ip.Unmap().IsLoopback()
	at, err := netip.ParseAddr(bind)
	all := bind == "" || err == nil && at.IsUnspecified()
	return host != "" && host == bind || loopback && (all || bind == "localhost")
}

// address is host:port of the database.
func (b Backend) address() string { return net.JoinHostPort(b.Host, port(b.Port)) }

// path is the status endpoint's.
func (b Backend) path() string { return "/" + strings.TrimPrefix(b.StatusEndpoint, "/") }

// bind is host:port for one of our own ports.
func (c Config) bind(n uint) string {
	if c.BindAddress == "" {
		// To package net this is every address, of IPv6 too.
		return net.JoinHostPort("0.0.0.0", port(n))
	}
	return net.JoinHostPort(c.BindAddress, port(n))
}

func port(n uint) string { return strconv.FormatUint(uint64(n), 10) }

// server is the configuration of the HTTP ports, nil for plain HTTP.
func (t ServerTLS) server() (*tls.Config, error) {
	if !t.Enabled {
		return nil, nil
	}
	pair, err := tls.X509KeyPair([]byte(t.Certificate), []byte(t.PrivateKey))
	if err != nil {
		return nil, err
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, nil
}

// client is the configuration of the probes, nil for plain HTTP.
func (t GaleraAgentTLS) client() (*tls.Config, error) {
	if !t.Enabled {
		return nil, nil
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(t.CA)) {
		return nil, errors.New("no certificate in the PEM text")
	}
	return &tls.Config{RootCAs: roots, ServerName: t.ServerName, MinVersion: tls.VersionTLS12}, nil
}
