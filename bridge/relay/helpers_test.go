package relay_test

import (
	"context"
	"net"
	"os"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/gleak"

	"switchboard/bridge/relay"
)

// soon bounds what takes milliseconds when all is well.
const soon = 10 * time.Second

// TestMain opens the poller's own descriptors before anybody counts any.
func TestMain(m *testing.M) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	_ = l.Close()
	os.Exit(m.Run())
}

// expectNoLeaks checks, when everything else of the spec is cleaned up, that no
// goroutine and no descriptor is left.
func expectNoLeaks() {
	GinkgoHelper()
	goroutines, fds := gleak.Goroutines(), countFDs()
	DeferCleanup(func() {
		Eventually(gleak.Goroutines, soon).ShouldNot(gleak.HaveLeaked(goroutines))
		Eventually(countFDs, soon).Should(BeNumerically("<=", fds))
	})
}

func countFDs() int {
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return -1
	}
	return len(d) - 1 // without the one of ReadDir
}

// engines are those there are: every spec that is not about one of them is run with
// each.
var engines = []struct {
	name string
	make func(relay.Options) relay.Engine
}{
	{"Portable", func(o relay.Options) relay.Engine { return relay.NewPortable(o) }},
	{"Loops", func(o relay.Options) relay.Engine { return relay.NewLoops(o) }},
}

// maker makes an engine that is closed when the spec ends.
type maker func(relay.Options) relay.Engine

// withEngines declares what body does once for every engine.
func withEngines(body func(newEngine maker)) bool {
	for _, e := range engines {
		Describe("with "+e.name, func() {
			body(func(o relay.Options) relay.Engine {
				engine := e.make(o)
				DeferCleanup(engine.Close)
				return engine
			})
		})
	}
	return true
}

// link is a session with the far ends of both its sockets.
type link struct {
	client, backend *net.TCPConn // the peers
	session         relay.Session
	outcome         chan relay.Outcome
}

// plug connects a client and a backend to engine and makes a session in set of
// what engine has of them. change may change the pair.
func plug(t testing.TB, engine relay.Engine, set relay.Set, change func(*relay.Pair)) *link {
	t.Helper()
	l, p := prepare(t, engine)
	if change != nil {
		change(&p)
	}
	s, err := set.Open(p)
	if err != nil {
		t.Fatal(err)
	}
	l.session = s
	return l
}

// prepare does all of plug but Open.
func prepare(t testing.TB, engine relay.Engine) (*link, relay.Pair) {
	t.Helper()
	l, p := connect(t, engine)
	t.Cleanup(l.close)
	return l, p
}

func (l *link) close() {
	_ = l.client.Close()
	_ = l.backend.Close()
}

// connect is prepare for those who close the link themselves.
func connect(t testing.TB, engine relay.Engine) (*link, relay.Pair) {
	t.Helper()
	front, err := engine.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer front.Close()
	back, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	c, err := net.Dial("tcp", front.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	client, err := front.Accept()
	if err != nil {
		t.Fatal(err)
	}
	backend, err := engine.Dial(context.Background(), back.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := back.Accept()
	if err != nil {
		t.Fatal(err)
	}
	l := &link{client: c.(*net.TCPConn), backend: b.(*net.TCPConn), outcome: make(chan relay.Outcome, 1)}
	return l, relay.Pair{
		Client: client, Backend: backend,
		Owner: &owner{done: func(o relay.Outcome) { l.outcome <- o }},
	}
}

// owner calls what a spec wants to be called.
type owner struct {
	halfClosed func(first relay.Side)
	done       func(relay.Outcome)
}

func (o *owner) HalfClosed(first relay.Side) {
	if o.halfClosed != nil {
		o.halfClosed(first)
	}
}

func (o *owner) Done(outcome relay.Outcome) {
	if o.done != nil {
		o.done(outcome)
	}
}
