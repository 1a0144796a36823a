package runner_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/api"
	"switchboard/bridge"
	"switchboard/bridge/feed"
	"switchboard/bridge/route"
	"switchboard/runner"
)

// tableRouter is a router whose hosts come from a table.
type tableRouter struct {
	*running
	tables feed.Feed[*route.Table]
	table  *route.Table
	status atomic.Pointer[api.Table]
}

func startTable(change func(*runner.Config)) *tableRouter {
	GinkgoHelper()
	t := &tableRouter{}
	tables, cancel := t.tables.Subscribe()
	DeferCleanup(cancel)
	t.status.Store(new(api.Table))
	c := webConfig()
	c.Table = &runner.Table{Tables: tables, State: func() api.Table { return *t.status.Load() }}
	if change != nil {
		change(&c)
	}
	t.running = start(c)
	return t
}

// put changes the table without waiting.
func (t *tableRouter) put(hosts ...*route.Host) {
	GinkgoHelper()
	next, err := t.table.With(hosts, nil)
	Expect(err).NotTo(HaveOccurred())
	t.table = next
	t.status.Store(&api.Table{Serial: t.status.Load().Serial + 1, Hosts: next.Len(), Loaded: true})
	t.tables.Put(next)
}

// serves waits until a host is answered for.
func (t *tableRouter) serves(host string, status int) {
	GinkgoHelper()
	Eventually(func() int {
		got, _, err := t.ask(host, "/")
		Expect(err).NotTo(HaveOccurred())
		return got
	}).Should(Equal(status), host)
}

func tableHost(name string, apps ...*app) *route.Host {
	h := &route.Host{Name: name, Policy: route.Balance}
	for _, a := range apps {
		h.Backends = append(h.Backends, route.Backend{Name: a.name, Address: a.addr, Weight: 1})
	}
	return h
}

var _ = Describe("a router with a table", func() {
	It("is not ready, and answers 503, until there is one", func() {
		t := startTable(nil)
		Expect(t.Ready()).To(MatchError(ContainSubstring("there is no table yet")))
		status, body, err := t.ask("shop.test", "/")
		Expect(err).NotTo(HaveOccurred())
		Expect(status).To(Equal(http.StatusServiceUnavailable), body)
		Expect(t.Cluster().Refusals).To(HaveKeyWithValue("no_table", int64(1)))
		t.put(tableHost("shop.test", startApp("a")))
		t.serves("shop.test", http.StatusOK)
		t.serves("other.test", http.StatusNotFound)
		Expect(t.Ready()).To(Succeed())
	})

	It("shows its hosts, in use or not, and what became of their requests", func() {
		t := startTable(nil)
		t.put(tableHost("shop.test", startApp("a")), tableHost("blog.test", startApp("b")))
		t.serves("shop.test", http.StatusOK)
		Expect(t.Cluster().Clusters).To(HaveExactElements(
			And(HaveField("Host", "blog.test"), HaveField("FromTable", true), HaveField("TrafficEnabled", true), HaveField("HTTP", BeNil())),
			And(HaveField("Host", "shop.test"), HaveField("Policy", "balance"), HaveField("HTTP.Classes", HaveKeyWithValue("2xx", int64(1)))),
		))
		Expect(t.host("shop.test").Backends).To(ConsistOf(And(HaveField("Name", "a"), HaveField("Healthy", true), HaveField("Weight", 1))))
		Expect(*t.Cluster().Table).To(And(HaveField("Serial", uint64(1)), HaveField("Hosts", 2), HaveField("Listed", 2)))
	})

	It("lists those in use of a table that is too large to be read", func() {
		t := startTable(nil)
		hosts := []*route.Host{tableHost("shop.test", startApp("a"))}
		for i := range runner.MaxListed {
			hosts = append(hosts, tableHost(fmt.Sprintf("h%d.test", i)))
		}
		t.put(hosts...)
		t.serves("shop.test", http.StatusOK)
		Expect(t.Cluster().Clusters).To(ConsistOf(HaveField("Host", "shop.test")))
		Expect(*t.Cluster().Table).To(And(HaveField("Hosts", runner.MaxListed+1), HaveField("Listed", 1)))
	})

	It("obeys operators, and remembers what they said over a restart", func() {
		dir := GinkgoT().TempDir()
		a := startApp("a")
		t := startTable(func(c *runner.Config) { c.State = dir })
		t.put(tableHost("shop.test", a), tableHost("blog.test", a))
		t.serves("shop.test", http.StatusOK)
		_, err := t.SetTraffic(context.Background(), "shop.test", bridge.TrafficChange{Message: "sale is over"})
		Expect(err).NotTo(HaveOccurred())
		t.serves("shop.test", http.StatusServiceUnavailable)
		t.serves("blog.test", http.StatusOK)
		Expect(t.host("shop.test").Message).To(Equal("sale is over"))
		_, err = t.Switch(context.Background(), "shop.test", "a", "x")
		Expect(err).To(MatchError(bridge.ErrFromTable))
		Expect(t.SetWeights(context.Background(), "shop.test", nil, "x")).To(MatchError(bridge.ErrFromTable))
		_, err = t.SetTraffic(context.Background(), "none.test", bridge.TrafficChange{Message: "x"})
		Expect(err).To(MatchError(bridge.ErrUnknownHost))
		t.stop()

		t = startTable(func(c *runner.Config) { c.State = dir })
		t.put(tableHost("shop.test", a), tableHost("blog.test", a))
		t.serves("blog.test", http.StatusOK)
		t.serves("shop.test", http.StatusServiceUnavailable)
	})

	It("serves a configured host rather than one of the table's", func() {
		t := startTable(func(c *runner.Config) {
			h := webHost("shop.test", startApp("configured"))
			h.Check = nil
			c.Hosts = []runner.Host{h}
		})
		t.put(tableHost("shop.test", startApp("table")), tableHost("blog.test", startApp("blog")))
		t.serves("blog.test", http.StatusOK)
		Expect(t.served("shop.test", 5)).To(Equal(map[string]int{"configured": 5}))
		Expect(t.host("shop.test").FromTable).To(BeFalse())
		Expect(t.Cluster().Clusters).To(HaveLen(2))
	})

	It("takes a client that waits for a host which leaves to the one that stands for it", func() {
		t := startTable(nil)
		empty := tableHost("www.shop.test")
		empty.Hold = time.Minute
		t.put(empty, tableHost("*.shop.test", startApp("any")))
		waiting := make(chan string, 2)
		for range cap(waiting) {
			go func() {
				status, body, err := t.ask("www.shop.test", "/")
				waiting <- fmt.Sprint(status, body, err)
			}()
		}
		Eventually(t.Parked).Should(Equal(2))
		next, err := t.table.With(nil, []string{"www.shop.test"})
		Expect(err).NotTo(HaveOccurred())
		t.table = next
		t.tables.Put(next)
		for range cap(waiting) {
			Eventually(waiting).Should(Receive(Equal("200any<nil>")))
		}
	})

	It("knows which addresses are its own", func() {
		t := startTable(func(c *runner.Config) { c.Health = "127.0.0.1:0" })
		for _, address := range []string{t.front(), t.APIAddr().String(), t.HealthAddr().String()} {
			Expect(t.Refuses(netip.MustParseAddrPort(address))).To(MatchError(ContainSubstring("is our own")), address)
		}
		port := netip.MustParseAddrPort(t.front()).Port()
		Expect(t.Refuses(netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), port))).To(Succeed())
		Expect(t.Refuses(netip.MustParseAddrPort("127.0.0.1:1"))).To(Succeed())
		Expect(t.Refuses(netip.AddrPortFrom(netip.MustParseAddr("::ffff:127.0.0.1"), port))).NotTo(Succeed())
	})

	It("loses no request while the table changes a thousand times, and touches nobody else", func() {
		a, b, other := startApp("a"), startApp("b"), startApp("other")
		t := startTable(nil)
		t.put(tableHost("shop.test", a, b), tableHost("other.test", other))
		t.serves("shop.test", http.StatusOK)
		t.serves("other.test", http.StatusOK)
		slow := make(chan string, 1)
		go func() {
			_, body, err := t.ask("other.test", "/slow")
			slow <- fmt.Sprint(body, err)
		}()
		Eventually(other.asked).Should(Receive())

		stop := make(chan struct{})
		var (
			asking sync.WaitGroup
			served atomic.Int64
		)
		for range 4 {
			asking.Go(func() {
				defer GinkgoRecover()
				transport := new(http.Transport)
				defer transport.CloseIdleConnections()
				for {
					select {
					case <-stop:
						return
					default:
					}
					request, err := http.NewRequest(http.MethodGet, "http://"+t.front()+"/", nil)
					Expect(err).NotTo(HaveOccurred())
					request.Host = "shop.test"
					response, err := transport.RoundTrip(request)
					Expect(err).NotTo(HaveOccurred())
					_, err = io.Copy(io.Discard, response.Body)
					Expect(err).NotTo(HaveOccurred())
					response.Body.Close()
					Expect(response.StatusCode).To(Equal(http.StatusOK))
					served.Add(1)
				}
			})
		}
		versions := [][]*app{{a}, {a, b}, {b}, {b, a}}
		for i := range 1000 {
			t.put(tableHost("shop.test", versions[i%len(versions)]...), tableHost(fmt.Sprintf("h%d.test", i), a))
			if at := served.Load(); i%4 == 0 {
				// As fast as clients ask, on any machine.
				Eventually(served.Load).WithPolling(time.Millisecond).Should(BeNumerically(">", at))
			}
		}
		close(stop)
		asking.Wait()
		close(other.release)
		Eventually(slow).Should(Receive(HavePrefix("other")))
		Expect(t.host("shop.test").HTTP.Refusals).To(BeEmpty())
		Expect(served.Load()).To(BeNumerically(">=", 250))
	})
})
