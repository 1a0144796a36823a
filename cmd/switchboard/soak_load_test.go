package main_test

import (
	"bytes"
	"cmp"
	"context"
	cryptorand "crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coder/websocket"
	. "github.com/onsi/ginkgo/v2"

	"switchboard/fixtures/spec"
)

// turmoil is when clients of a host may fail, since somebody makes that happen: a
// switch, traffic off, a kill until it was noticed.
type turmoil struct{ begun, ended atomic.Int64 }

// during has do happen in turmoil of some hosts.
func during(do func(), hosts ...*turmoil) {
	for _, t := range hosts {
		t.begun.Add(1)
		defer t.ended.Add(1)
	}
	do()
}

// quiet notes the moment. What it returns tells whether all has been quiet since then.
func (t *turmoil) quiet() (still func() bool) {
	// In this order: turmoil that ends in between counts.
	ended := t.ended.Load()
	begun := t.begun.Load()
	return func() bool { return begun == ended && t.begun.Load() == begun }
}

// errWrong is an answer that no turmoil excuses.
var errWrong = errors.New("wrong")

// load is what clients do to a router, each kind at its own pace, and what came of it.
type load struct {
	ctx     context.Context
	cancel  func()
	clients sync.WaitGroup

	mu    sync.Mutex
	done  map[string]int // by kind
	cut   map[string]int // by kind and what it was: excused by turmoil
	wrong []string       // the first few that were not
	fails int            // how many those are
}

func newLoad() *load {
	l := &load{done: make(map[string]int), cut: make(map[string]int)}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	return l
}

// add has count clients of a kind do something every so often. Whatever fails is wrong
// unless there was turmoil meanwhile.
func (l *load) add(kind string, count int, every time.Duration, t *turmoil, do func(ctx context.Context) error) {
	for range count {
		l.clients.Go(func() {
			pause := time.NewTimer(rand.N(every))
			defer pause.Stop()
			for {
				select {
				case <-l.ctx.Done():
					return
				case <-pause.C:
				}
				still := t.quiet()
				l.count(kind, do(l.ctx), still)
				pause.Reset(every/2 + rand.N(every))
			}
		})
	}
}

func (l *load) count(kind string, err error, still func() bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch what := sort(err); {
	case err == nil:
		l.done[kind]++
	case what != "" && !still():
		l.cut[kind+": "+what]++
	default:
		if l.fails++; len(l.wrong) < 20 {
			l.wrong = append(l.wrong, fmt.Sprintf("%s %s: %v", time.Now().Format("15:04:05.000"), kind, err))
		}
	}
}

// sort says in a word what an error is that turmoil may excuse, "" for what it may not:
// a wrong answer, and none in time.
func sort(err error) string {
	var status errStatus
	switch {
	case errors.Is(err, errWrong), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return ""
	case errors.As(err, &status):
		return status.Error()
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "reset"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "broken off"
	case err != nil:
		return "broken otherwise"
	}
	return ""
}

// finish has all clients come to the end of what they do.
func (l *load) finish() {
	l.cancel()
	l.clients.Wait()
}

// String tells what was done, and what was cut, by kind.
func (l *load) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var text strings.Builder
	for _, counts := range []map[string]int{l.done, l.cut} {
		for _, kind := range slices.Sorted(maps.Keys(counts)) {
			fmt.Fprintf(&text, "%9d %s\n", counts[kind], kind)
		}
	}
	return text.String()
}

// patient is how long a client waits for what must come.
const patient = 15 * time.Second

// crew are backends of one host.
type crew struct {
	turmoil
	names    []string
	backends map[string]*spec.Backend
	// active is the active backend, if there is one at a time.
	active atomic.Pointer[string]
}

// startCrew starts as many backends as there are names.
func startCrew(start func(name string) *spec.Backend, names ...string) *crew {
	GinkgoHelper()
	c := &crew{names: names, backends: make(map[string]*spec.Backend)}
	for _, name := range names {
		c.backends[name] = start(name)
	}
	return c
}

// yaml are its backends in a configuration.
func (c *crew) yaml() string {
	var all []string
	for _, name := range c.names {
		all = append(all, fmt.Sprintf("{name: %s, address: '%s'}", name, c.backends[name].Addr()))
	}
	return "[" + strings.Join(all, ", ") + "]"
}

// greeted is a connection to a crew's host whose backend has greeted. It must be one
// of them, and the active one if all is quiet.
func (c *crew) greeted(dial func(ctx context.Context) (net.Conn, error)) (net.Conn, error) {
	still := c.quiet()
	active := c.active.Load()
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	conn, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(patient))
	var line []byte
	for one := make([]byte, 1); len(line) == 0 || line[len(line)-1] != '\n'; line = append(line, one[0]) {
		if _, err := conn.Read(one); err != nil {
			conn.Close()
			return nil, err
		}
	}
	name := strings.TrimSpace(string(line))
	if !slices.Contains(c.names, name) || active != nil && name != *active && still() {
		conn.Close()
		return nil, fmt.Errorf("%w: greeted by %q, not by %q", errWrong, name, c.names)
	}
	return conn, nil
}

// dialer dials an address.
func dialer(addr string) func(ctx context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "tcp", addr) }
}

// noise is n bytes that no other call has.
func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = cryptorand.Read(b)
	return b
}

// echoed sends b and expects it back. It pauses for slow after each read, and shuts the
// write side first if half.
func echoed(conn net.Conn, b []byte, slow time.Duration, half bool) error {
	sent := make(chan error, 1)
	go func() {
		_, err := conn.Write(b)
		if err == nil && half {
			err = conn.(interface{ CloseWrite() error }).CloseWrite()
		}
		sent <- err
	}()
	err := func() error {
		part := make([]byte, 16<<10)
		for rest := b; len(rest) > 0; {
			n, err := conn.Read(part)
			if !bytes.HasPrefix(rest, part[:n]) {
				return fmt.Errorf("%w: another's bytes after %d", errWrong, len(b)-len(rest))
			}
			if rest = rest[n:]; err != nil {
				return err
			}
			if slow > 0 {
				<-time.After(slow)
			}
		}
		if !half {
			return nil
		}
		if n, err := conn.Read(part); n > 0 || err == nil {
			return fmt.Errorf("%w: %d bytes after the end", errWrong, n)
		} else if err != io.EOF {
			return err
		}
		return nil
	}()
	if err != nil {
		// Who sends may wait for what nobody reads any more.
		conn.Close()
	}
	// The kernel tells of a reset once, to the one or to the other.
	if failed := <-sent; failed != nil && !errors.Is(failed, net.ErrClosed) && !errors.Is(err, errWrong) {
		return failed
	}
	return err
}

// pause waits, or less if the load ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// reset ends a connection with RST.
func reset(conn net.Conn) {
	if c, is := conn.(*net.TCPConn); is {
		_ = c.SetLinger(0)
	}
	conn.Close()
}

// addSessions adds clients of a crew that greets and echoes: those that talk, that move
// bulk, that come and go, are idle, shut their write side, read slowly, and reset.
func (l *load) addSessions(kind string, c *crew, dial func(ctx context.Context) (net.Conn, error)) {
	add := func(what string, count int, every time.Duration, use func(ctx context.Context, conn net.Conn) error) {
		l.add(kind+" "+what, count, every, &c.turmoil, func(ctx context.Context) error {
			conn, err := c.greeted(dial)
			if err != nil {
				return err
			}
			defer conn.Close()
			return use(ctx, conn)
		})
	}
	add("talk", 3, time.Second, func(ctx context.Context, conn net.Conn) error {
		for range 20 {
			if err := echoed(conn, noise(1+rand.IntN(2000)), 0, false); err != nil {
				return err
			}
			pause(ctx, 50*time.Millisecond)
		}
		return nil
	})
	add("bulk", 1, 3*time.Second, func(_ context.Context, conn net.Conn) error { return echoed(conn, noise(4<<20), 0, false) })
	add("come and go", 2, 150*time.Millisecond, func(context.Context, net.Conn) error { return nil })
	add("idle", 10, time.Second, func(ctx context.Context, conn net.Conn) error {
		_ = conn.SetDeadline(time.Now().Add(2 * time.Minute))
		ended := make(chan error, 1)
		go func() {
			n, err := conn.Read(make([]byte, 1))
			if n > 0 {
				err = fmt.Errorf("%w: an idle session has read a byte", errWrong)
			}
			ended <- err
		}()
		enough := time.NewTimer(time.Duration(1+rand.IntN(60)) * time.Second)
		defer enough.Stop()
		select {
		case err := <-ended:
			return err
		case <-enough.C:
		case <-ctx.Done():
		}
		conn.Close()
		// Over TLS the other side may hear of it, and answer, before the socket is closed.
		if err := <-ended; !errors.Is(err, net.ErrClosed) && err != io.EOF {
			return err
		}
		return nil
	})
	add("shut", 2, 400*time.Millisecond, func(_ context.Context, conn net.Conn) error {
		return echoed(conn, noise(1+rand.IntN(200_000)), 0, true)
	})
	add("read slowly", 2, time.Second, func(_ context.Context, conn net.Conn) error {
		return echoed(conn, noise(1<<20), 20*time.Millisecond, false)
	})
	add("reset", 1, 200*time.Millisecond, func(_ context.Context, conn net.Conn) error {
		_, err := conn.Write(noise(64 << 10))
		reset(conn)
		return err
	})
}

// startSecret starts a backend that speaks TLS, greets with its name, and echoes.
func startSecret(config *tls.Config) func(name string) *spec.Backend {
	return func(name string) *spec.Backend {
		GinkgoHelper()
		return spec.StartBackend(func(conn *net.TCPConn) {
			secret := tls.Server(conn, config)
			if _, err := io.WriteString(secret, name+"\n"); err == nil {
				_, _ = io.Copy(struct{ io.Writer }{secret}, struct{ io.Reader }{secret})
			}
			_ = secret.CloseWrite()
		})
	}
}

// startInstance starts a backend that is a web app: it says who it is, and does what the
// path says.
func startInstance(name string) *spec.Backend {
	GinkgoHelper()
	taken := make(conns)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Instance", name)
		switch r.URL.Path {
		case "/socket":
			echoSocket(w, r)
		case "/echo":
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return
			}
			// Flushed in the middle, so that it is chunked.
			_, _ = w.Write(body[:len(body)/2])
			_ = http.NewResponseController(w).Flush()
			_, _ = w.Write(body[len(body)/2:])
		default:
			_, _ = io.WriteString(w, name+" "+r.Host)
		}
	})}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(taken)
	}()
	DeferCleanup(func() {
		_ = server.Close()
		<-served
	})
	return spec.StartBackend(func(conn *net.TCPConn) {
		c := &held{Conn: conn, closed: make(chan struct{})}
		taken <- c
		<-c.closed
	})
}

// conns are connections as a listener.
type conns chan net.Conn

func (c conns) Accept() (net.Conn, error) {
	conn, more := <-c
	if !more {
		return nil, net.ErrClosed
	}
	return conn, nil
}

func (c conns) Close() error {
	close(c)
	return nil
}

func (c conns) Addr() net.Addr { return new(net.TCPAddr) }

// held is a connection that somebody waits for the end of.
type held struct {
	net.Conn
	once   sync.Once
	closed chan struct{}
}

func (h *held) Close() error {
	defer h.once.Do(func() { close(h.closed) })
	return h.Conn.Close()
}

// errStatus is a status that says that there was nobody to answer.
type errStatus int

func (e errStatus) Error() string { return "status " + strconv.Itoa(int(e)) }

// fetch sends a request for a host and returns the answer's body. One of instances must
// have answered.
func fetch(transport http.RoundTripper, method, url, host string, body io.Reader, instances []string, slow time.Duration) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return nil, err
	}
	request.Host = cmp.Or(host, request.Host)
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusOK:
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		_, _ = io.Copy(io.Discard, response.Body)
		return nil, errStatus(response.StatusCode)
	default:
		return nil, fmt.Errorf("%w: status %d", errWrong, response.StatusCode)
	}
	if by := response.Header.Get("Instance"); !slices.Contains(instances, by) {
		return nil, fmt.Errorf("%w: %s is served by %q, not by %q", errWrong, host, by, instances)
	}
	var text bytes.Buffer
	for part := make([]byte, 16<<10); ; {
		n, err := response.Body.Read(part)
		text.Write(part[:n])
		if err == io.EOF {
			return text.Bytes(), nil
		}
		if err != nil {
			return nil, err
		}
		if slow > 0 {
			<-time.After(slow)
		}
	}
}

// visit asks a host who serves it.
func visit(transport http.RoundTripper, url, host string, instances []string) error {
	text, err := fetch(transport, http.MethodGet, url+"/", host, nil, instances, 0)
	if err != nil {
		return err
	}
	if by, asked, _ := strings.Cut(string(text), " "); asked != host || !slices.Contains(instances, by) {
		return fmt.Errorf("%w: %s is answered by %q", errWrong, host, text)
	}
	return nil
}

// post has a web app send a body back, which is sent in chunks.
func post(transport http.RoundTripper, url, host string, size int, slow time.Duration, instances []string) error {
	body := noise(size)
	text, err := fetch(transport, http.MethodPost, url+"/echo", host, struct{ io.Reader }{bytes.NewReader(body)}, instances, slow)
	if err == nil && !bytes.Equal(text, body) {
		err = fmt.Errorf("%w: %d bytes of %d came back, or others", errWrong, len(text), len(body))
	}
	return err
}

// addVisitors adds clients of a web host over one transport: those that ask again and
// again, that post, and that read slowly. No GET may fail by the kill of an instance: that
// is tried on another.
func (l *load) addVisitors(kind string, c *crew, traffic *turmoil, url, host string, transport http.RoundTripper) {
	l.add(kind+" GET", 4, 200*time.Millisecond, traffic, func(context.Context) error { return visit(transport, url, host, c.names) })
	l.add(kind+" POST", 2, 200*time.Millisecond, &c.turmoil, func(context.Context) error {
		return post(transport, url, host, 1+rand.IntN(50_000), 0, c.names)
	})
	l.add(kind+" slow reader", 1, 2*time.Second, &c.turmoil, func(context.Context) error {
		return post(transport, url, host, 1<<20, 20*time.Millisecond, c.names)
	})
}

// addSockets adds clients that upgrade, talk and close.
func (l *load) addSockets(c *crew, addr, host string, transport *http.Transport) {
	l.add("WebSocket", 3, 500*time.Millisecond, &c.turmoil, func(ctx context.Context) error {
		// Not that of the load: a session comes to its end.
		limit, cancel := context.WithTimeout(context.Background(), patient)
		defer cancel()
		socket, response, err := websocket.Dial(limit, "ws://"+addr+"/socket", &websocket.DialOptions{Host: host, HTTPClient: &http.Client{Transport: transport}})
		if err != nil {
			if response != nil && response.StatusCode != http.StatusSwitchingProtocols {
				return errStatus(response.StatusCode)
			}
			return err
		}
		defer socket.CloseNow()
		for range 10 {
			sent := noise(1 + rand.IntN(2000))
			if err := socket.Write(limit, websocket.MessageBinary, sent); err != nil {
				return err
			}
			_, got, err := socket.Read(limit)
			if err != nil {
				return err
			}
			if !bytes.Equal(got, sent) {
				return fmt.Errorf("%w: a message of another", errWrong)
			}
			pause(ctx, 100*time.Millisecond)
		}
		return socket.Close(websocket.StatusNormalClosure, "")
	})
}
