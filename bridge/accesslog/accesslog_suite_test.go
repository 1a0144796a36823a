package accesslog_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/bridge/accesslog"
	"switchboard/fixtures/spec"
)

func TestAccessLog(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "Access Log Suite")
}

var _ = BeforeEach(spec.CheckLeaks)

// within is how long what another goroutine does is waited for.
const within = 10 * time.Second

// running is a log that runs until it is stopped, or the spec ends.
type running struct {
	*accesslog.Log
	lines   *spec.Lines // of the program's log
	signals chan os.Signal
	ended   chan error
}

// start runs a log.
func start(o accesslog.Options) *running {
	GinkgoHelper()
	r := &running{signals: make(chan os.Signal, 1), ended: make(chan error, 1)}
	o.Log, r.lines = spec.Logs()
	r.Log = accesslog.New(o)
	ready := make(chan struct{})
	go func() {
		defer close(r.ended)
		r.ended <- r.Run(r.signals, ready)
	}()
	Eventually(ready).WithTimeout(within).Should(BeClosed())
	DeferCleanup(r.stop)
	return r
}

// stop ends the log, if it has not ended.
func (r *running) stop() {
	GinkgoHelper()
	select {
	case r.signals <- syscall.SIGTERM:
	default:
	}
	Eventually(r.ended).WithTimeout(within).Should(Or(Receive(BeNil()), BeClosed()))
}

// say writes sessions with these IDs.
func (r *running) say(ids ...string) {
	for _, id := range ids {
		r.Session(&accesslog.Session{ID: id, Ended: time.Unix(1700000000, 0)})
	}
}

// settle waits until nothing waits to be written.
func (r *running) settle(written int) {
	GinkgoHelper()
	Eventually(r.Counts).WithTimeout(within).WithPolling(time.Millisecond).Should(HaveField("Written", BeNumerically("==", written)))
}

// rotate opens the file anew.
func (r *running) rotate() error {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	return r.Reopen(ctx)
}

// newPath is where there is no file yet.
func newPath() string {
	GinkgoHelper()
	return filepath.Join(GinkgoT().TempDir(), "access.log")
}

// idsOf are the IDs of the lines of a file, each of which must be whole.
func idsOf(path string) []string {
	GinkgoHelper()
	text, err := os.ReadFile(path)
	Expect(err).NotTo(HaveOccurred())
	return idsIn(string(text))
}

func idsIn(text string) []string {
	GinkgoHelper()
	ids := []string{}
	for line := range strings.Lines(text) {
		Expect(line).To(HaveSuffix("\n"))
		var one struct{ ID string }
		Expect(json.Unmarshal([]byte(line), &one)).To(Succeed(), line)
		ids = append(ids, one.ID)
	}
	return ids
}

// disk is a writer that can be made full, or to take nothing.
type disk struct {
	mu      sync.Mutex
	text    []byte
	room    int           // what it takes yet; negative: anything
	stalled chan struct{} // nil: it is not
	waiting int
}

func newDisk() *disk { return &disk{room: -1} }

func (d *disk) Write(p []byte) (int, error) {
	d.mu.Lock()
	stalled := d.stalled
	d.waiting++
	d.mu.Unlock()
	if stalled != nil {
		<-stalled
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.waiting--
	if d.room < 0 || len(p) <= d.room {
		d.text = append(d.text, p...)
		d.room -= min(len(p), max(d.room, 0))
		return len(p), nil
	}
	n := d.room
	d.text, d.room = append(d.text, p[:n]...), 0
	return n, syscall.ENOSPC
}

// fill leaves it so much room; negative: any.
func (d *disk) fill(room int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.room = room
}

// stall makes writes wait until they are released.
func (d *disk) stall() (release func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	stalled := make(chan struct{})
	d.stalled = stalled
	return sync.OnceFunc(func() {
		d.mu.Lock()
		d.stalled = nil
		d.mu.Unlock()
		close(stalled)
	})
}

// Waiting is how many writes have not returned.
func (d *disk) Waiting() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.waiting
}

func (d *disk) String() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return string(slices.Clone(d.text))
}
