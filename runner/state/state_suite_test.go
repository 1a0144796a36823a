package state_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/gleak"

	"switchboard/bridge"
	"switchboard/runner/state"
)

// childDir is the environment variable that makes this binary a process which
// saves in that directory until it is killed.
const childDir = "STATE_TEST_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		fmt.Fprintln(os.Stderr, saveUntilKilled(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func TestState(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "State Suite")
}

var _ = BeforeEach(func() {
	goroutines, files := gleak.Goroutines(), openFiles()
	DeferCleanup(func() {
		Eventually(gleak.Goroutines).ShouldNot(gleak.HaveLeaked(goroutines))
		Eventually(openFiles).Should(BeNumerically("<=", files))
	})
})

func openFiles() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(entries)
}

// open opens dir and makes sure that it is closed.
func open(dir string, o state.Options) *state.Dir {
	GinkgoHelper()
	d, err := state.Open(dir, o)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(d.Close)
	return d
}

// load opens dir, loads and closes it again.
func load(dir string, hosts ...string) (state.Saved, error) {
	GinkgoHelper()
	d := open(dir, state.Options{})
	defer d.Close()
	return d.Load(hosts)
}

// put writes a file as an operator would.
func put(dir, name, content string) {
	GinkgoHelper()
	Expect(os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600)).To(Succeed())
}

func get(dir, name string) string {
	GinkgoHelper()
	content, err := os.ReadFile(filepath.Join(dir, name))
	Expect(err).NotTo(HaveOccurred())
	return string(content)
}

// message is a text that tells its number and whether all of it is there.
func message(n int) string {
	return fmt.Sprintf("%d %s.", n, strings.Repeat("x", n%7*10_000))
}

// saveUntilKilled saves traffic and says "t n" when save n has returned; beside
// this it uses epochs, says "e n" before it uses those up to n, and saves them in
// the background, as a router does.
func saveUntilKilled(dir string) error {
	d, err := state.Open(dir, state.Options{})
	if err != nil {
		return err
	}
	saved, err := d.Load([]string{"db"})
	if err != nil {
		return err
	}
	errs := make(chan error)
	epochs := make(chan uint64, 1) // one slot: used on while the one before is saved
	go func() {
		epoch := saved.Active["db"].Epoch
		for {
			// As many as may be used, but for a few, so that some saves reserve and
			// some do not.
			epoch = max(epoch, d.Ceiling("db")-state.Reserve/3)
			if _, err := fmt.Printf("e %d\n", epoch); err != nil {
				errs <- err
			}
			epochs <- epoch
		}
	}()
	go func() {
		for epoch := range epochs {
			if err := d.SaveActive(map[string]state.Active{"db": {Backend: "db-0", Epoch: epoch}}); err != nil {
				errs <- err
			}
		}
	}()
	go func() {
		n := 0
		if saved.Router != nil {
			fmt.Sscanf(saved.Router.Message, "%d", &n)
		}
		for {
			n++
			if err := d.SaveTraffic(&bridge.Traffic{Message: message(n), LastUpdated: time.Unix(int64(n), 0).UTC()}, nil); err != nil {
				errs <- err
			}
			if _, err := fmt.Printf("t %d\n", n); err != nil {
				errs <- err
			}
		}
	}()
	return <-errs
}
