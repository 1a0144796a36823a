package relay

import (
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// near returns a Conn of e and its peer.
func near(t *testing.T, e Engine) (Conn, *net.TCPConn) {
	t.Helper()
	l, err := e.Listen(context.Background(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	peer, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = peer.Close() })
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return c, peer.(*net.TCPConn)
}

// Where the kernel cannot disconnect, sessions end all the same: parked ones,
// blocked ones and busy ones.
func TestEndWithoutDisconnect(t *testing.T) {
	cannot := func(uintptr) error { return unix.EOPNOTSUPP }
	t.Run("Portable", func(t *testing.T) {
		e := NewPortable(Options{SpliceAfter: 1})
		e.disconnect = cannot
		testEnd(t, e)
	})
	t.Run("Loops", func(t *testing.T) {
		e := NewLoops(Options{SpliceAfter: 1})
		e.rest.disconnect = cannot
		testEnd(t, e)
	})
}

func testEnd(t *testing.T, e Engine) {
	defer e.Close()
	cause := errors.New("severed")
	set := e.NewSet()
	const sessions = 3
	outcomes := make(chan Outcome, sessions)
	var peers []*net.TCPConn
	wrote := make(chan error, 1)
	for i := range sessions {
		client, clientPeer := near(t, e)
		backend, backendPeer := near(t, e)
		peers = append(peers, clientPeer, backendPeer)
		if _, err := set.Open(Pair{Client: client, Backend: backend, Owner: outcomesOf(outcomes)}); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			continue
		}
		block := make([]byte, 1<<20)
		_ = backendPeer.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
		for {
			if _, err := backendPeer.Write(block); err != nil {
				break
			}
		}
		if i == 2 {
			_ = backendPeer.SetWriteDeadline(time.Time{})
			go func() {
				_, err := backendPeer.Write(make([]byte, 256<<20))
				wrote <- err
			}()
			if _, err := clientPeer.Read(block); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := set.End(cause); n != sessions {
		t.Fatalf("End returned %d, want %d", n, sessions)
	}
	for range sessions {
		if o := <-outcomes; o.Err != cause {
			t.Errorf("a session ended with %v, want %v", o.Err, cause)
		}
	}
	block := make([]byte, 1<<20)
	for i, peer := range peers {
		var err error
		for err == nil {
			_, err = peer.Read(block)
		}
		if i == len(peers)-1 && err == io.EOF {
			err = <-wrote // the kernel tells of a reset once, here the writer
		}
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("peer %d read %v, want a reset", i, err)
		}
	}
}

// Accepted sockets inherit the listening socket's options, so they are set once.
func TestSocketOptions(t *testing.T) {
	o := Options{
		KeepAlive: net.KeepAliveConfig{Enable: true, Idle: 7 * time.Second, Interval: 1500 * time.Millisecond, Count: 4},
	}
	t.Run("Portable", func(t *testing.T) { testOptions(t, NewPortable(o)) })
	t.Run("Loops", func(t *testing.T) { testOptions(t, NewLoops(o)) })
}

// control calls f with the descriptor of a Conn.
func control(c Conn, f func(fd uintptr)) error {
	switch c := c.(type) {
	case *socket:
		return c.raw.Control(f)
	case *loopConn:
		c.mu.Lock()
		defer c.mu.Unlock()
		f(uintptr(c.fd))
		return nil
	}
	return errors.New("it is no socket")
}

func testOptions(t *testing.T, e Engine) {
	defer e.Close()
	accepted, peer := near(t, e)
	defer accepted.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialed, err := e.Dial(context.Background(), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer dialed.Close()
	taken := e.Adopt(peer)
	defer taken.Close()
	for name, c := range map[string]Conn{"accepted": accepted, "dialed": dialed, "adopted": taken} {
		for option, want := range map[[2]int]int{
			{unix.SOL_SOCKET, unix.SO_KEEPALIVE}:   1,
			{unix.IPPROTO_TCP, unix.TCP_NODELAY}:   1,
			{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE}:  7,
			{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL}: 2,
			{unix.IPPROTO_TCP, unix.TCP_KEEPCNT}:   4,
			{unix.SOL_SOCKET, unix.SO_OOBINLINE}:   0,
		} {
			err := control(c, func(fd uintptr) {
				got, err := unix.GetsockoptInt(int(fd), option[0], option[1])
				if err != nil || (got != want && (want != 1 || got == 0)) {
					t.Errorf("%s: option %v is %d (%v), want %d", name, option, got, err, want)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

// Keepalives of a backend that a loop has dialed come with the first sweep, or at once if
// there is none.
func TestStartedKeepsAlive(t *testing.T) {
	for _, timeout := range []time.Duration{80 * time.Millisecond, -1} {
		e := NewLoops(Options{UserTimeout: timeout, KeepAlive: net.KeepAliveConfig{Enable: true, Idle: 7 * time.Second}})
		client, peer := near(t, e)
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		started := make(chan Session, 1)
		set := e.NewSet()
		err = set.(Starter).Start(Pair{Client: client}, l.Addr().(*net.TCPAddr).AddrPort(), time.Second, func(s Session, err error) {
			if err != nil {
				t.Error(err)
			}
			started <- s
		})
		if err != nil {
			t.Fatal(err)
		}
		backend := int((<-started).(*loopSession).backend.fd)
		idle := 0
		for until := time.Now().Add(10 * time.Second); idle != 7 && time.Now().Before(until); runtime.Gosched() {
			if idle, err = unix.GetsockoptInt(backend, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE); err != nil {
				t.Fatal(err)
			}
			if timeout < 0 {
				break
			}
		}
		if on, err := unix.GetsockoptInt(backend, unix.SOL_SOCKET, unix.SO_KEEPALIVE); err != nil || on == 0 || idle != 7 {
			t.Errorf("with a timeout of %v: keepalives are %d (%v), after %d s", timeout, on, err, idle)
		}
		_ = e.Close()
		_ = peer.Close()
		_ = l.Close()
	}
}

// outcomesOf is an owner that passes on how sessions end.
type outcomesOf chan<- Outcome

func (outcomesOf) HalfClosed(Side)  {}
func (c outcomesOf) Done(o Outcome) { c <- o }
