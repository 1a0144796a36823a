package web_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// recorder is a backend that keeps what it gets, byte by byte, and answers with bytes
// that need not be HTTP.
type recorder struct {
	addr string

	mu    sync.Mutex
	conns []*recorded
}

// recorded is one connection of a recorder's.
type recorded struct {
	*net.TCPConn
	in   *bufio.Reader // over Read
	mu   sync.Mutex
	got  strings.Builder
	done bool
}

// startRecorder runs play for each connection, from the first (0) on, until the spec
// ends. A connection is read all the time, whatever play does, and closed when play has
// returned.
func startRecorder(play func(n int, c *recorded)) *recorder {
	GinkgoHelper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	Expect(err).NotTo(HaveOccurred())
	r := &recorder{addr: listener.Addr().String()}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			accepted, err := listener.Accept()
			if err != nil {
				return
			}
			c := &recorded{TCPConn: accepted.(*net.TCPConn)}
			// Nothing but Read is shown, so that all goes through it.
			c.in = bufio.NewReader(struct{ io.Reader }{c})
			r.mu.Lock()
			n := len(r.conns)
			r.conns = append(r.conns, c)
			r.mu.Unlock()
			running.Go(func() {
				defer c.end()
				play(n, c)
			})
		}
	})
	DeferCleanup(func() {
		listener.Close()
		for _, c := range r.all() {
			c.Close()
		}
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			running.Wait()
		}()
		Eventually(stopped, 5*time.Second).Should(BeClosed())
	})
	return r
}

// hangUp is an answer's end that closes the connection.
const hangUp = "\x00hang up"

// startScript is a recorder that answers requests in their order, over all connections,
// and all others like the last of answers. It reads a request to its end before.
func startScript(answers ...string) *recorder {
	GinkgoHelper()
	var mu sync.Mutex
	n := 0
	next := func() string {
		mu.Lock()
		defer mu.Unlock()
		answer := answers[min(n, len(answers)-1)]
		n++
		return answer
	}
	return startRecorder(func(_ int, c *recorded) {
		for c.request() != nil {
			answer, closes := strings.CutSuffix(next(), hangUp)
			io.WriteString(c, answer)
			if closes {
				return
			}
		}
		c.drain()
	})
}

// ok is the shortest answer.
const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// Read keeps what is read.
func (c *recorded) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.got.Write(p[:n])
	c.done = c.done || err != nil
	return n, err
}

// request reads one request with its body; nil: there is none.
func (c *recorded) request() *http.Request {
	r, err := http.ReadRequest(c.in)
	if err != nil {
		return nil
	}
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return nil
	}
	return r
}

// head reads up to the end of a head, and nothing behind it.
func (c *recorded) head() string {
	var head strings.Builder
	for !strings.HasSuffix(head.String(), "\r\n\r\n") {
		line, err := c.in.ReadString('\n')
		if err != nil {
			return ""
		}
		head.WriteString(line)
	}
	return head.String()
}

// exactly reads n bytes.
func (c *recorded) exactly(n int) string {
	p := make([]byte, n)
	n, _ = io.ReadFull(c.in, p)
	return string(p[:n])
}

// drain reads until the other side has ended.
func (c *recorded) drain() { io.Copy(io.Discard, c.in) }

// say writes bytes as they are.
func (c *recorded) say(raw string) { io.WriteString(c, raw) }

// Got is what has come on the connection.
func (c *recorded) Got() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.got.String()
}

// end closes the connection.
func (c *recorded) end() {
	c.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done = true
}

// Ended tells whether the connection has ended, by either side.
func (c *recorded) Ended() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.done
}

func (r *recorder) all() []*recorded {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*recorded(nil), r.conns...)
}

// Connections is how many connections there ever were.
func (r *recorder) Connections() int { return len(r.all()) }

// Got is what has come on all connections, one behind the other.
func (r *recorder) Got() string {
	var all strings.Builder
	for _, c := range r.all() {
		all.WriteString(c.Got())
	}
	return all.String()
}

// Requests is how many requests were begun.
func (r *recorder) Requests() int { return strings.Count(r.Got(), " HTTP/1.1\r\nHost: ") }

// variable is what of a head is different each time.
var variable = regexp.MustCompile(`(?m)^(X-Forwarded-Port|X-Request-Id): (\d+|[0-9a-f]{32})\r$`)

// Plain is what has come, with PORT and ID for what is different each time.
func (r *recorder) Plain() string {
	return variable.ReplaceAllStringFunc(r.Got(), func(line string) string {
		if strings.HasPrefix(line, "X-Forwarded-Port") {
			return "X-Forwarded-Port: PORT\r"
		}
		return "X-Request-Id: ID\r"
	})
}

// about is what the router says of a client of a.test on the loopback address, as
// recorder.Plain has it.
const about = "X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Host: a.test\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Port: PORT\r\n" +
	"Forwarded: for=127.0.0.1;host=a.test;proto=http\r\nX-Request-Id: ID\r\n\r\n"

// front is a rig with one host, a.test, on the backends, and what the options say.
func front(addresses ...string) *rig {
	GinkgoHelper()
	return startRig(rigOptions{hosts: []hostSpec{{name: "a.test", backends: addresses}}})
}

// lines makes a head of its lines.
func lines(l ...string) string { return strings.Join(l, "\r\n") + "\r\n\r\n" }

// getHead is a plain request.
func getHead(fields ...string) string {
	return lines(append([]string{"GET / HTTP/1.1", "Host: a.test"}, fields...)...)
}

// post is a request with that body behind it, which fields frame.
func post(body string, fields ...string) string {
	return lines(append([]string{"POST / HTTP/1.1", "Host: a.test"}, fields...)...) + body
}

// ended expects that the connection ends, with nothing more to read.
func (c *client) ended() {
	GinkgoHelper()
	Expect(c.all()).To(BeEmpty())
}

// upTo reads until what is read ends with end.
func (c *client) upTo(end string) string {
	GinkgoHelper()
	var got strings.Builder
	for !strings.HasSuffix(got.String(), end) {
		b, err := c.reader.ReadByte()
		Expect(err).NotTo(HaveOccurred(), "after %q", got.String())
		got.WriteByte(b)
	}
	return got.String()
}

// all is what comes until the connection ends in order.
func (c *client) all() string {
	GinkgoHelper()
	got, err := io.ReadAll(c.reader)
	Expect(err).NotTo(HaveOccurred())
	return string(got)
}

// cut expects that the connection is broken before it has ended in order, and returns
// what could be read.
func (c *client) cut() string {
	GinkgoHelper()
	got, err := io.ReadAll(c.reader)
	Expect(err).To(MatchError(ContainSubstring("reset by peer")), "read %q", got)
	return string(got)
}

// refused sends each head on a connection of its own, and expects that status, the end
// of the connection, and that the backend has had nothing of it, not even a connection.
func (r *rig) refused(b *recorder, status int, heads ...string) {
	GinkgoHelper()
	for _, head := range heads {
		c := r.dial()
		c.send(head)
		response, _ := c.answer("GET")
		Expect(response.StatusCode).To(Equal(status), "%.100q", head)
		Expect(response.Close).To(BeTrue(), "%.100q", head)
		c.ended()
		c.Close()
	}
	Expect(b.Connections()).To(BeZero(), func() string { return fmt.Sprintf("the backend got %q", b.Got()) })
}
