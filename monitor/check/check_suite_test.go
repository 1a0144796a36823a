package check_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/bridge/route"
	"switchboard/monitor/check"
)

func TestCheck(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "Check Suite")
}

// dial connects as a router would, without a resolver.
func dial(ctx context.Context, network, address string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, address)
}

// aim returns the target at address, which is the backend's own port.
func aim(address string) check.Target {
	return check.Target{
		Host:    "db.main",
		Backend: route.Backend{Name: "db-0", Address: address},
		Address: address,
		Own:     true,
		Dial:    dial,
	}
}

// serve answers every connection with what handle writes, until the spec ends,
// and returns the address.
func serve(handle func(net.Conn)) string {
	GinkgoHelper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	Expect(err).NotTo(HaveOccurred())
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			handle(conn)
			conn.Close()
		}
	}()
	DeferCleanup(func() {
		Expect(listener.Close()).To(Succeed())
		Eventually(stopped).Should(BeClosed())
	})
	return listener.Addr().String()
}

// replyTo reads one request and writes the answer as it stands.
func replyTo(answer string) func(net.Conn) {
	return func(conn net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
			_, _ = io.WriteString(conn, answer)
		}
	}
}

// ok is a whole HTTP answer.
func ok(contentType, body string) string {
	return "HTTP/1.1 200 OK\r\nContent-Type: " + contentType + "\r\nConnection: close\r\n\r\n" + body
}

// refusing returns an address where nobody listens.
func refusing() string {
	GinkgoHelper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	Expect(err).NotTo(HaveOccurred())
	Expect(listener.Close()).To(Succeed())
	return listener.Addr().String()
}

// probe builds a checker, probes once within timeout, and closes it.
func probe(build check.Builder, spec check.Spec, target check.Target, timeout time.Duration) check.Result {
	GinkgoHelper()
	checker, err := build(spec, target)
	Expect(err).NotTo(HaveOccurred())
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	result := checker.Check(ctx)
	Expect(checker.Close()).To(Succeed())
	return result
}

var long = strings.Repeat("x", 1000)
