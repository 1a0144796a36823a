package stats_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"

	"switchboard/fixtures/servers"
	"switchboard/fixtures/spec"
	"switchboard/pacemaker/stats"
	"switchboard/pacemaker/store"
)

// TestMain is a reader instead of the specs if the environment says so: one that can be
// killed.
func TestMain(m *testing.M) {
	if os.Getenv("READER_LOG") != "" {
		runReader()
		return
	}
	os.Exit(m.Run())
}

func TestStats(t *testing.T) {
	// The client tells standard error of each connection that specs break.
	logging.Disable()
	RegisterFailHandler(Fail)
	RunSpecs(t, "Stats Suite")
}

// soon is how long specs wait for what must happen; it is only used up by one that fails.
const soon = 15 * time.Second

var ctx = context.Background()

var _ = BeforeEach(func() {
	spec.CheckLeaks()
	SetDefaultEventuallyTimeout(soon)
})

// onEach runs the same specs with miniredis and with a real server: start returns the
// URL of an empty one.
func onEach(specs func(start func() string)) {
	Context("with miniredis", func() { specs(startMini) })
	Context("with redis-server", func() {
		specs(func() string {
			GinkgoHelper()
			return spec.StartRedis(new(servers.Redis)).URL()
		})
	})
}

// startMini runs a miniredis until the spec ends.
func startMini() string {
	GinkgoHelper()
	mini := miniredis.NewMiniRedis()
	Expect(mini.Start()).To(Succeed())
	DeferCleanup(mini.Close)
	return "redis://" + mini.Addr()
}

// connect returns a client of the spec's own, with patience.
func connect(url string) redis.UniversalClient {
	GinkgoHelper()
	client, err := store.Redis{URL: url, Timeout: soon}.Connect()
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(client.Close)
	return client
}

// newQuery asks the Redis at url.
func newQuery(url string) *stats.Query {
	GinkgoHelper()
	q, err := stats.NewQuery(stats.QueryOptions{Client: connect(url), Timeout: soon})
	Expect(err).NotTo(HaveOccurred())
	return q
}

// total is what is counted of a metric.
func total(q *stats.Query, kind stats.Kind, id, metric string) func() (int64, error) {
	return func() (int64, error) {
		t, err := q.Totals(ctx, kind, id)
		return t.Metric(metric), err
	}
}

// reading is a reader that runs.
type reading struct {
	*stats.Reader
	signals chan os.Signal
	ended   chan error
}

// read runs a reader until the spec ends.
func read(url, log string, change ...func(*stats.Options)) *reading {
	GinkgoHelper()
	o := stats.Options{
		Redis: store.Redis{URL: url, Timeout: 5 * time.Second}, Log: log, Node: "n1",
		Interval: 5 * time.Millisecond, Settle: 20 * time.Millisecond, Bytes: 128 << 10,
		Logger: slog.New(slog.NewTextHandler(GinkgoWriter, nil)),
	}
	for _, c := range change {
		c(&o)
	}
	r := &reading{signals: make(chan os.Signal, 2), ended: make(chan error, 1)}
	var err error
	r.Reader, err = stats.NewReader(o)
	Expect(err).NotTo(HaveOccurred())
	ready := make(chan struct{})
	go func() { r.ended <- r.Run(r.signals, ready) }()
	Eventually(ready).Should(BeClosed())
	DeferCleanup(r.stop)
	return r
}

// stop ends the reader, if it runs.
func (r *reading) stop() {
	GinkgoHelper()
	select {
	case r.signals <- syscall.SIGTERM:
	default:
	}
	Eventually(r.ended).Should(Receive(BeNil()))
	r.ended <- nil
}

// shows waits until the status is as wanted.
func (r *reading) shows(what func(stats.Status) any, want any) {
	GinkgoHelper()
	Eventually(func() any { return what(r.Status()) }).Should(Equal(want), func() string { return fmt.Sprintf("%+v", r.Status()) })
}

// logFile is a log that a spec writes.
type logFile struct {
	path string
	file *os.File
}

// newLog is a log in a directory of its own; it is not there before it is opened.
func newLog() *logFile {
	GinkgoHelper()
	l := &logFile{path: filepath.Join(GinkgoT().TempDir(), "access.log")}
	DeferCleanup(func() {
		if l.file != nil {
			l.file.Close()
		}
	})
	return l
}

// open opens the log again, as a writer does after a rotation.
func (l *logFile) open() *logFile {
	GinkgoHelper()
	if l.file != nil {
		Expect(l.file.Close()).To(Succeed())
	}
	var err error
	l.file, err = os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	Expect(err).NotTo(HaveOccurred())
	return l
}

// write writes texts, each as it is.
func (l *logFile) write(texts ...string) {
	GinkgoHelper()
	for _, text := range texts {
		_, err := l.file.WriteString(text)
		Expect(err).NotTo(HaveOccurred())
	}
}

// requests writes the lines of n requests from number first on.
func (l *logFile) requests(first, n int) {
	GinkgoHelper()
	for i := range n {
		l.write(request(first + i))
	}
}

// rotate renames the log; the writer goes on in it until open.
func (l *logFile) rotate(suffix string) {
	GinkgoHelper()
	Expect(os.Rename(l.path, l.path+suffix)).To(Succeed())
}

// request is the line of a request: 100 bytes, 5 ms of 7 in a backend, of type 12, node 3
// and host shop.
func request(n int) string {
	return requestAt(n, time.Now())
}

func requestAt(n int, at time.Time) string {
	return fmt.Sprintf(`{"kind":"request","id":"r%d","time":%q,"timemsec":%.3f,"version_type_key":"12","node_key":"3","instance_key":"7",`+
		`"bytes":100,"code":200,"upstream_response_time":"0.005","nginx_response_time":0.007,"host":"shop"}`+"\n",
		n, at.Format("2006-01-02T15:04:05.000Z07:00"), float64(at.UnixMilli())/1000)
}

// link is a connection to Redis that may lose answers.
type link struct {
	listener net.Listener
	to       string
	// deaf: the next answer to a commit is lost, and the connection with it.
	deaf atomic.Bool
	lost atomic.Int64

	tasks sync.WaitGroup
	mu    sync.Mutex
	conns []net.Conn
}

// startLink relays to a server until the spec ends.
func startLink(to string) *link {
	GinkgoHelper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	Expect(err).NotTo(HaveOccurred())
	l := &link{listener: listener, to: to}
	l.tasks.Go(l.accept)
	DeferCleanup(func() {
		listener.Close()
		l.sever()
		l.tasks.Wait()
	})
	return l
}

func (l *link) url() string { return "redis://" + l.listener.Addr().String() }

// sever ends all connections.
func (l *link) sever() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, conn := range l.conns {
		conn.Close()
	}
	l.conns = nil
}

func (l *link) accept() {
	for {
		client, err := l.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", l.to)
		if err != nil {
			client.Close()
			continue
		}
		l.mu.Lock()
		l.conns = append(l.conns, client, server)
		l.mu.Unlock()
		l.tasks.Go(func() {
			// Without their types: a splice would leave pipes for later ones.
			io.Copy(struct{ io.Writer }{server}, struct{ io.Reader }{client})
			server.Close()
		})
		l.tasks.Go(func() {
			defer client.Close()
			buffer := make([]byte, 4096)
			for {
				n, err := server.Read(buffer)
				if err != nil {
					return
				}
				// What a commit is answered is a list of two numbers, the first of them 1.
				if string(buffer[:min(n, 6)]) == "*2\r\n:1" && l.deaf.CompareAndSwap(true, false) {
					l.lost.Add(1)
					server.Close()
					return
				}
				if _, err := client.Write(buffer[:n]); err != nil {
					server.Close()
					return
				}
			}
		})
	}
}
