package compat_test

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/fixtures/spec"
	"switchboard/runner/compat"
)

var _ = Describe("Daemon", func() {
	BeforeEach(spec.CheckLeaks)

	// configure is a valid configuration with free ports.
	configure := func() compat.Config {
		GinkgoHelper()
		var ports []uint
		for range 5 {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			Expect(err).NotTo(HaveOccurred())
			defer l.Close()
			ports = append(ports, uint(l.Addr().(*net.TCPAddr).Port))
		}
		node, agent := spec.StartBackend(spec.Named("db-0")), spec.StartHealth()
		host, port, err := net.SplitHostPort(node.Addr())
		Expect(err).NotTo(HaveOccurred())
		number, err := strconv.Atoi(port)
		Expect(err).NotTo(HaveOccurred())
		return compat.Config{
			BindAddress: "127.0.0.1",
			Proxy: compat.Proxy{Port: ports[0], InactiveMysqlPort: ports[1], HealthcheckTimeoutMillis: 500, Backends: []compat.Backend{
				{Host: host, Port: uint(number), StatusPort: uint(agent.Port()), StatusEndpoint: "status", Name: "db-0"},
			}},
			API:        compat.API{Port: ports[2], AggregatorPort: ports[3], Username: "u", Password: "p"},
			HealthPort: ports[4],
			StaticDir:  GinkgoT().TempDir(),
			StatusLog:  compat.StatusLog{Enabled: true, Interval: time.Millisecond},
		}
	}

	It("runs until it is told to stop, and leaves nothing behind", func() {
		c := configure()
		log, lines := spec.Logs()
		d, err := compat.New(c, log)
		Expect(err).NotTo(HaveOccurred())
		// One slot, so that a spec that has failed can tell it too.
		signals, ready, ended := make(chan os.Signal, 1), make(chan struct{}), make(chan struct{})
		var result error
		go func() {
			defer close(ended)
			result = d.Run(signals, ready)
		}()
		stop := func() {
			GinkgoHelper()
			select {
			case signals <- syscall.SIGTERM:
			default:
			}
			Eventually(ended).WithTimeout(10 * time.Second).Should(BeClosed())
			Expect(result).NotTo(HaveOccurred())
		}
		DeferCleanup(stop)
		Eventually(ready).WithTimeout(10 * time.Second).Should(BeClosed())
		Eventually(lines.String).WithTimeout(10 * time.Second).Should(And(
			MatchRegexp(`"Done severing connections, new active backend:" component=active-bridge-runner backend=.*db-0`),
			MatchRegexp(`"Status update" component=active-status-logger .*active_backend=db-0`)))
		conn := spec.DialFront(net.JoinHostPort("127.0.0.1", strconv.Itoa(int(c.Proxy.Port))))
		Expect(spec.ReadLine(conn)).To(Equal("db-0"))
		answer, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/", c.HealthPort))
		Expect(err).NotTo(HaveOccurred())
		Expect(answer.Body.Close()).To(Succeed())
		Expect(answer.StatusCode).To(Equal(http.StatusOK))

		stop()
		spec.ExpectReset(conn)
	})

	It("ends with an error that names the member that could not start", func() {
		c := configure()
		taken := spec.StartBackend(spec.Echo)
		_, port, err := net.SplitHostPort(taken.Addr())
		Expect(err).NotTo(HaveOccurred())
		number, err := strconv.Atoi(port)
		Expect(err).NotTo(HaveOccurred())
		c.API.AggregatorPort = uint(number)
		d, err := compat.New(c, nil)
		Expect(err).NotTo(HaveOccurred())
		ready := make(chan struct{})
		err = d.Run(make(chan os.Signal), ready)
		Expect(err).To(MatchError(And(ContainSubstring(`member "api-aggregator" ended before it was ready`), ContainSubstring("address already in use"))))
		Expect(ready).NotTo(BeClosed())
	})

	It("answers 500 for a page that panics, and logs why", func() {
		log, lines := spec.Logs()
		d, err := compat.New(configure(), log)
		Expect(err).NotTo(HaveOccurred())
		request := httptest.NewRequest(http.MethodGet, "/v0/cluster", nil)
		request.SetBasicAuth("u", "p")
		answer := httptest.NewRecorder()
		compat.Guarded(d, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("broken") })).ServeHTTP(answer, request)
		Expect(answer.Code).To(Equal(http.StatusInternalServerError))
		DeferCleanup(compat.Close, d)
		Expect(lines.String()).To(And(ContainSubstring("Panic while serving request"), ContainSubstring("error=broken")))
		abort := compat.Guarded(d, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
		Expect(func() { abort.ServeHTTP(httptest.NewRecorder(), request) }).To(PanicWith(http.ErrAbortHandler))
	})

	It("is not made of a wrong configuration, or without the dashboard's directory", func() {
		_, err := compat.New(compat.Config{}, nil)
		Expect(err).To(BeAssignableToTypeOf(compat.Invalid{}))
		c := configure()
		c.StaticDir += "/nowhere"
		_, err = compat.New(c, nil)
		Expect(err).To(MatchError("staticDir: " + c.StaticDir + " does not exist"))
	})
})

func ExampleNew() {
	text, err := os.ReadFile("proxy.yml")
	if err != nil {
		return
	}
	c, err := compat.Parse(text)
	if err != nil {
		return
	}
	d, err := compat.New(c, nil)
	if err != nil {
		return
	}
	_ = d.Run(make(chan os.Signal), make(chan struct{}))
}
