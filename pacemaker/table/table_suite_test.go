package table_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"

	"switchboard/bridge/feed"
	"switchboard/bridge/route"
	"switchboard/fixtures/servers"
	"switchboard/fixtures/spec"
	"switchboard/pacemaker/store"
	"switchboard/pacemaker/table"
)

func TestTable(t *testing.T) {
	// The client tells standard error of each connection that specs break.
	logging.Disable()
	RegisterFailHandler(Fail)
	RunSpecs(t, "Table Suite")
}

// soon is how long specs wait for what must happen; it is only used up by one that fails.
const soon = 15 * time.Second

var _ = BeforeEach(func() {
	spec.CheckLeaks()
	SetDefaultEventuallyTimeout(soon)
})

// onEach runs the same specs with miniredis and with a real server: start returns the
// URL of an empty one.
func onEach(specs func(start func() string)) {
	Context("with miniredis", func() {
		specs(func() string {
			GinkgoHelper()
			mini, _ := startMini()
			return "redis://" + mini.Addr()
		})
	})
	Context("with redis-server", func() {
		specs(func() string {
			GinkgoHelper()
			return "redis://" + spec.StartRedis(new(servers.Redis)).Addr()
		})
	})
}

// startMini runs a miniredis until the spec ends.
func startMini() (*miniredis.Miniredis, redis.UniversalClient) {
	GinkgoHelper()
	mini := miniredis.NewMiniRedis()
	Expect(mini.Start()).To(Succeed())
	DeferCleanup(mini.Close)
	return mini, connect("redis://" + mini.Addr())
}

// connect returns a client of the spec's own, with patience.
func connect(url string) redis.UniversalClient {
	GinkgoHelper()
	client, err := store.Redis{URL: url, Timeout: soon}.Connect()
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(client.Close)
	return client
}

func newWriter(client redis.UniversalClient) *table.Writer {
	GinkgoHelper()
	w, err := table.NewWriter(table.WriterOptions{Client: client, Timeout: soon})
	Expect(err).NotTo(HaveOccurred())
	return w
}

// apply makes changes that must succeed.
func apply(w *table.Writer, changes ...table.Change) table.Result {
	GinkgoHelper()
	result, err := w.Apply(context.Background(), changes...)
	Expect(err).NotTo(HaveOccurred())
	return result
}

// watched is a watcher that runs.
type watched struct {
	*table.Watcher
	tables  *feed.Feed[*route.Table]
	status  *feed.Feed[table.Status]
	signals chan os.Signal
	ended   chan error
}

// watch runs a watcher until the spec ends.
func watch(url string, change ...func(*table.WatcherOptions)) *watched {
	GinkgoHelper()
	w := &watched{
		tables: new(feed.Feed[*route.Table]), status: new(feed.Feed[table.Status]),
		signals: make(chan os.Signal, 1), ended: make(chan error, 1),
	}
	o := table.WatcherOptions{
		Redis: store.Redis{URL: url, Timeout: 500 * time.Millisecond}, Tables: w.tables, Status: w.status,
		Poll: 50 * time.Millisecond, Log: slog.New(slog.NewTextHandler(GinkgoWriter, nil)),
	}
	for _, c := range change {
		c(&o)
	}
	var err error
	w.Watcher, err = table.NewWatcher(o)
	Expect(err).NotTo(HaveOccurred())
	ready := make(chan struct{})
	go func() { w.ended <- w.Run(w.signals, ready) }()
	Eventually(ready).Should(BeClosed())
	DeferCleanup(w.stop)
	return w
}

// stop ends the watcher, if it runs.
func (w *watched) stop() {
	GinkgoHelper()
	select {
	case w.signals <- syscall.SIGTERM:
	default:
	}
	Eventually(w.ended).Should(Receive(BeNil()))
	w.ended <- nil
}

func (w *watched) table() *route.Table {
	t, _ := w.tables.Get()
	return t
}

func (w *watched) state() table.Status {
	s, _ := w.status.Get()
	return s
}

// backends are those of a host as "NAME@ADDRESS", nil if there is no host.
func (w *watched) backends(host string) []string { return backends(w.table().Get(host)) }

func backends(host *route.Host) []string {
	if host == nil {
		return nil
	}
	all := []string{}
	for _, b := range host.Backends {
		all = append(all, b.Name+"@"+b.Address)
	}
	return all
}

// shows waits until a host has exactly these backends; none: until it is gone.
func (w *watched) shows(host string, want ...string) {
	GinkgoHelper()
	if len(want) == 0 {
		Eventually(func() *route.Host { return w.table().Get(host) }).Should(BeNil())
		return
	}
	slices.Sort(want)
	Eventually(func() []string { return w.backends(host) }).Should(Equal(want), func() string { return fmt.Sprintf("%+v", w.state()) })
}

// fresh waits until Redis is followed, up to a serial.
func (w *watched) fresh(serial uint64) {
	GinkgoHelper()
	Eventually(func() any { s := w.state(); return []any{s.Stale, s.Serial, s.Alarm} }).Should(Equal([]any{false, serial, ""}))
}

// stale waits until the table is known to be old, for a reason.
func (w *watched) stale(reason string) {
	GinkgoHelper()
	Eventually(func() string { return w.state().Reason }).Should(ContainSubstring(reason))
	Expect(w.state().Stale).To(BeTrue())
}

// alarmed waits for an alarm.
func (w *watched) alarmed(words string) {
	GinkgoHelper()
	Eventually(func() string { return w.state().Alarm }).Should(ContainSubstring(words), func() string { return fmt.Sprintf("%+v", w.state()) })
}

// instance is the member with that number: 10.0.0.N:8080, with key iN.
func instance(n int) table.Member {
	return table.Member{
		Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}), 8080),
		Type:    "12", Node: "3", Instance: fmt.Sprint("i", n),
	}
}

// at is instance(n) as [watched.shows] wants it.
func at(n int) string { return fmt.Sprintf("i%d@10.0.%d.%d:8080", n, n>>8, n&255) }
