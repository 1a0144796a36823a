package config

import (
	"net/netip"
	"time"

	"switchboard/pacemaker/store"
)

// File is the configuration of a router, as it is written: one field a key. The
// tags are the schema; nothing else lists the keys.
//
//	key       the key in the file
//	doc       one line for --help and the reference
//	default   the value of a key that is not set
//	required  it must be set, or have a default, and must not be empty
//	enum      the values it may have; for numbers and durations min and max
//	host      it is the name of a host, which has one spelling
//	for       the check types that the key is for
type File struct {
	Name          string     `key:"name" doc:"the router's name; the machine's name if it is not set"`
	Listeners     []Listener `key:"listeners" required:"true"`
	Hosts         []Host     `key:"hosts"`
	WildcardDepth int        `key:"wildcard_depth" min:"1" default:"1" doc:"how many levels a host *.suffix stands for"`
	Redis         Redis      `key:"redis"`
	State         string     `key:"state" doc:"directory for what must outlive a restart: traffic switch, pins, last active and epoch, the last good table; empty: nothing is kept"`
	API           API        `key:"api"`
	Health        Health     `key:"health"`
	Shutdown      Shutdown   `key:"shutdown"`
	Log           Log        `key:"log"`
	Stats         Stats      `key:"stats"`

	// Warnings are what is allowed and is most likely a mistake, one sentence
	// each, with its place.
	Warnings []string
}

// Listener is one address that clients come in by.
type Listener struct {
	Name     string `key:"name" required:"true" doc:"the listener's name"`
	Bind     string `key:"bind" required:"true" doc:"host:port to listen on; port 0 is any free one"`
	Protocol string `key:"protocol" enum:"tcp tls http https" default:"tcp" doc:"what clients speak; tls is passed through to the host that they name"`
	Host     string `key:"host" host:"true" doc:"the host it serves (tcp only, and needed there)"`
	// TLS, Timeouts and Limits are nil where the file says nothing of them.
	TLS            *ListenerTLS   `key:"tls"`
	Timeouts       *Timeouts      `key:"timeouts"`
	Limits         *Limits        `key:"limits"`
	ProxyProtocol  string         `key:"proxy_protocol" enum:"off v1 v2 any" default:"off" doc:"PROXY header to expect from trusted_proxies"`
	TrustedProxies []netip.Prefix `key:"trusted_proxies" doc:"whose PROXY header is believed, and whose X-Forwarded-* (http, https)"`
	MaxSessions    int            `key:"max_sessions" min:"0" default:"0" doc:"the most client connections at once; 0: what file descriptors allow"`
}

// ListenerTLS is what a listener of protocol https shows its clients.
type ListenerTLS struct {
	Certificates []Certificate `key:"certificates" required:"true"`
}

// Certificate is a pair of PEM files.
type Certificate struct {
	Cert string `key:"cert" required:"true" doc:"PEM file with the certificate and those behind it; read again when it changes (https)"`
	Key  string `key:"key" required:"true" doc:"PEM file with its private key"`
}

// Timeouts are the client side's of http and https.
type Timeouts struct {
	Head time.Duration `key:"head" min:"1ms" default:"10s" doc:"how long a request's head, or a handshake, may take (http, https)"`
	Idle time.Duration `key:"idle" min:"1ms" default:"60s" doc:"longest silence between two requests"`
	Body time.Duration `key:"body" min:"1ms" default:"60s" doc:"longest silence within a request or an answer"`
}

// Limits bound what clients of http and https send.
type Limits struct {
	Head   int `key:"head" min:"256" default:"32768" doc:"longest head of a request, in bytes (http, https)"`
	Target int `key:"target" min:"1" default:"8192" doc:"longest request target in it, in bytes"`
	Fields int `key:"fields" min:"1" default:"100" doc:"the most fields in it"`
	Body   int `key:"body" min:"0" default:"0" doc:"longest body of a request, in bytes; 0: no limit"`
}

// Host is what clients ask for, and who serves it.
type Host struct {
	Name             string        `key:"name" host:"true" required:"true" doc:"the host's name; *.suffix stands for the names below suffix, * for all that have no host"`
	Policy           string        `key:"policy" enum:"active balance" default:"active" doc:"active: one backend at a time; balance: all that are healthy"`
	Elect            string        `key:"elect" enum:"sticky lowest highest" default:"sticky" doc:"who becomes the active backend (active)"`
	Choose           string        `key:"choose" enum:"random least_sessions sticky" default:"random" doc:"who serves a session or request (balance)"`
	StickyBy         string        `key:"sticky_by" doc:"what a client is known by for choose sticky: cookie:NAME, header:NAME or client"`
	Hold             time.Duration `key:"hold" default:"0s" doc:"how long a new client may wait for a backend; 0: it is refused at once"`
	HoldMax          int           `key:"hold_max" min:"1" default:"1000" doc:"how many clients may wait at once"`
	DialTimeout      time.Duration `key:"dial_timeout" min:"1ms" default:"1s" doc:"how long connecting to a backend may take"`
	IdleTimeout      time.Duration `key:"idle_timeout" default:"0s" doc:"longest silence of a session; 0: no limit"`
	HalfCloseTimeout time.Duration `key:"half_close_timeout" min:"1ms" default:"30s" doc:"longest silence once one direction has ended"`
	SendProxy        string        `key:"send_proxy" enum:"off v1 v2" default:"off" doc:"PROXY header sent to backends"`
	HTTP             HostHTTP      `key:"http"`
	// Check is nil for a host that is not probed.
	Check    *Check    `key:"check"`
	Backends []Backend `key:"backends" required:"true"`
}

// HostHTTP says how requests go to the backends of a host.
type HostHTTP struct {
	Version      string        `key:"version" enum:"http/1.1 h2c" default:"http/1.1" doc:"what the backends speak (http and https listeners)"`
	HeadTimeout  time.Duration `key:"head_timeout" min:"1ms" default:"60s" doc:"how long a backend may take to begin its answer"`
	TotalTimeout time.Duration `key:"total_timeout" default:"0s" doc:"how long a request may take in all; 0: no limit"`
	Pool         int           `key:"pool" min:"0" default:"100" doc:"the most idle connections to a backend that are kept"`
	PoolIdle     time.Duration `key:"pool_idle" min:"1ms" default:"60s" doc:"how long they are kept"`
	Retries      int           `key:"retries" min:"0" default:"1" doc:"how many more attempts a request may have that failed"`
}

// Check says how the backends of a host are probed.
type Check struct {
	Type         string        `key:"type" required:"true" doc:"http, tcp, exec, or a type that the program links"`
	Port         int           `key:"port" min:"1" max:"65535" doc:"port to probe; the backend's own if it is not set"`
	Path         string        `key:"path" for:"http" default:"/api/v1/status" doc:"what to GET (http)"`
	Interval     time.Duration `key:"interval" min:"1ms" default:"200ms" doc:"from the start of one probe to the start of the next"`
	Timeout      time.Duration `key:"timeout" min:"1ms" default:"1s" doc:"how long one probe may take"`
	Fall         int           `key:"fall" min:"1" default:"2" doc:"failures in a row that make a backend unhealthy"`
	Rise         int           `key:"rise" min:"1" default:"2" doc:"successes in a row that make a backend healthy"`
	Username     string        `key:"username" for:"mysql galera postgres redis" doc:"whom to log in as (mysql, galera, postgres, redis)"`
	PasswordFile string        `key:"password_file" for:"mysql galera postgres redis" doc:"file that holds the password; relative to the working directory"`
	Database     string        `key:"database" for:"postgres mysql galera" doc:"database to log in to (postgres, mysql, galera); the server's usual one if it is not set"`
	TLS          TLS           `key:"tls" for:"http mysql galera postgres"`
	Standby      bool          `key:"standby" for:"postgres" default:"false" doc:"a standby is what is wanted, for a port that only reads (postgres)"`
	Donors       bool          `key:"donors" for:"galera" default:"false" doc:"a node that gives its state to another one counts as healthy (galera)"`
	Command      []string      `key:"command" for:"exec" doc:"program and arguments (exec)"`

	// Password is what PasswordFile holds.
	Password Secret
}

// TLS says how a check talks TLS to its server.
type TLS struct {
	Enabled    bool   `key:"enabled" default:"false" doc:"probes talk TLS (http, mysql, galera, postgres)"`
	CA         string `key:"ca" doc:"PEM file of whom the server's certificate must descend from; the system's authorities if it is not set"`
	ServerName string `key:"server_name" doc:"whom the certificate must name; the host of the backend's address if it is not set"`
}

// Backend is an address that can serve a host.
type Backend struct {
	Name      string `key:"name" required:"true" doc:"the backend's name"`
	Address   string `key:"address" required:"true" doc:"host:port to connect to"`
	Weight    int    `key:"weight" min:"0" max:"1000000" default:"1" doc:"its part of new sessions and requests; 0: none (balance)"`
	CheckPort int    `key:"check_port" min:"1" max:"65535" doc:"port to probe; overrides check.port"`
}

// Redis is how a Redis is reached: that of the routing table, or that of the statistics.
// Without a URL there is none.
type Redis struct {
	// URL may hold a password, so it has no flag.
	URL    Secret `key:"url" doc:"redis://HOST:PORT/DB, unix:///SOCKET, redis-sentinel://HOST,HOST/MASTER or redis-cluster://HOST,HOST; rediss… speak TLS; empty: none"`
	Prefix string `key:"prefix" default:"switchboard:" doc:"what all keys there begin with, - for nothing; on a cluster with a hash tag, as {switchboard}:"`
	// Password is what PasswordFile holds.
	Password     Secret
	PasswordFile string `key:"password_file" doc:"file that holds the password of Redis; relative to the working directory"`
}

// Store is how the Redis is reached.
func (r Redis) Store() store.Redis {
	return store.Redis{URL: string(r.URL), Password: string(r.Password), Name: "switchboard"}
}

// API is where operators are listened to.
type API struct {
	Bind     string `key:"bind" required:"true" default:"127.0.0.1:9090" doc:"host:port of API, metrics and dashboard"`
	Username string `key:"username" doc:"user name to ask for; empty: no authentication, and only a loopback bind"`
	// Password is what PasswordFile holds, if that is set.
	Password     Secret `key:"password" doc:"password to ask for"`
	PasswordFile string `key:"password_file" doc:"file that holds the password; relative to the working directory"`
	Streams      int    `key:"streams" min:"0" default:"0" doc:"the most GET /events at once; 0: 16, and one for each 64 file descriptors beyond 4096, up to 1024"`
}

// Health is the extra listener for health checks.
type Health struct {
	Bind string `key:"bind" doc:"host:port that answers 200 while ready and 503 otherwise; empty: none"`
}

// Shutdown says how a router stops.
type Shutdown struct {
	Delay time.Duration `key:"delay" default:"0s" doc:"how long to go on accepting after readiness has turned red"`
	Drain time.Duration `key:"drain" default:"10s" doc:"how long open sessions may go on after that"`
}

// Log says what is logged and where to.
type Log struct {
	Level  string `key:"level" enum:"debug info warn error" default:"info" doc:"what is logged"`
	Format string `key:"format" enum:"json text" default:"json" doc:"how it is logged"`
	Access string `key:"access" doc:"file for one JSON line a request and a session; - is stdout; empty: none"`
}

// Stats says where what is in the access log is counted. Without a Redis it is not.
type Stats struct {
	Redis Redis `key:"redis"`
	// Log is that of Log.Access if the file does not say.
	Log      string        `key:"log" doc:"file whose lines are counted; log.access if it is not set"`
	Interval time.Duration `key:"interval" min:"1ms" default:"500ms" doc:"how often it is looked at"`
}

// Secret is a password. It prints as "***", so that a configuration can be logged.
type Secret string

// String hides the secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "***"
}

// GoString hides the secret from %#v.
func (s Secret) GoString() string { return `"` + s.String() + `"` }

// MarshalText hides the secret from encoders and slog.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
