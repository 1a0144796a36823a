package resolve_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"switchboard/bridge/resolve"
)

// These are plain tests, since testing/synctest drives the time; it also fails a
// test that leaves a goroutine behind. Together they are the case M11.

var errGone = &net.DNSError{Err: "no such host", Name: "db", IsNotFound: true}

// dns is a stub whose answers a test changes as it goes.
type dns struct {
	resolver *resolve.Resolver
	log      bytes.Buffer
	lookups  atomic.Int32

	mu    sync.Mutex
	addrs []netip.Addr
	err   error
	// takes is how long a lookup takes; it ends early if its context does.
	takes time.Duration
	// lingers is how long it takes to end early.
	lingers time.Duration
}

func (d *dns) lookup(ctx context.Context, _ string) ([]netip.Addr, error) {
	d.lookups.Add(1)
	d.mu.Lock()
	addrs, err, takes := d.addrs, d.err, d.takes
	d.mu.Unlock()
	timer := time.NewTimer(takes)
	defer timer.Stop()
	select {
	case <-timer.C:
		return addrs, err
	case <-ctx.Done():
		pass(d.lingers)
		return nil, ctx.Err()
	}
}

func (d *dns) answers(takes time.Duration, err error, texts ...string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.addrs, d.err, d.takes = addrs(texts...), err, takes
}

// withDNS runs a test in a bubble of its own time.
func withDNS(t *testing.T, test func(t *testing.T, d *dns)) {
	synctest.Test(t, func(t *testing.T) {
		d := &dns{}
		d.resolver = resolve.New(resolve.Options{Lookup: d.lookup, Log: slog.New(slog.NewTextHandler(&d.log, nil))})
		defer d.resolver.Close()
		test(t, d)
	})
}

// expect resolves, and checks the answer and how long it took.
func (d *dns) expect(t *testing.T, took time.Duration, want ...string) {
	t.Helper()
	began := time.Now()
	got, err := d.resolver.Addresses(t.Context(), "db:3306")
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	if waited := time.Since(began); waited != took {
		t.Errorf("took %s, want %s", waited, took)
	}
}

func (d *dns) expectError(t *testing.T, took time.Duration, want error) {
	t.Helper()
	began := time.Now()
	got, err := d.resolver.Addresses(t.Context(), "db:3306")
	if !errors.Is(err, want) || got != nil {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	if waited := time.Since(began); waited != took {
		t.Errorf("took %s, want %s", waited, took)
	}
}

func (d *dns) expectLookups(t *testing.T, want int32) {
	t.Helper()
	synctest.Wait()
	if got := d.lookups.Load(); got != want {
		t.Errorf("%d lookups, want %d", got, want)
	}
}

// logged is what was logged by the lookups that have ended.
func (d *dns) logged() string {
	synctest.Wait()
	return d.log.String()
}

// pass lets time go by.
func pass(d time.Duration) { <-time.After(d) }

func TestAnAnswerIsUsedWhileItIsFresh(t *testing.T) {
	withDNS(t, func(t *testing.T, d *dns) {
		d.answers(0, nil, "10.0.0.1")
		d.expect(t, 0, "10.0.0.1:3306")
		d.answers(0, nil, "10.0.0.2", "10.0.0.3")
		pass(resolve.Fresh - 1)
		d.expect(t, 0, "10.0.0.1:3306")
		d.expectLookups(t, 1)
		pass(1)
		d.expect(t, 0, "10.0.0.2:3306", "10.0.0.3:3306")
		d.expectLookups(t, 2)
		if log := d.logged(); strings.Count(log, "other addresses") != 1 {
			t.Errorf("logged %q, want the change once", log)
		}
	})
}

func TestANameThatIsGoneKeepsItsLastGoodAddresses(t *testing.T) {
	for what, err := range map[string]error{"NXDOMAIN": errGone, "no addresses": nil} {
		t.Run(what, func(t *testing.T) {
			withDNS(t, func(t *testing.T, d *dns) {
				d.answers(0, nil, "10.0.0.1")
				d.expect(t, 0, "10.0.0.1:3306")
				d.answers(0, err)
				for range 90 {
					pass(resolve.Fresh)
					d.expect(t, 0, "10.0.0.1:3306")
				}
				if warned := strings.Count(d.logged(), "level=WARN"); warned != 2 {
					t.Errorf("warned %d times in 90 s, want 2", warned)
				}
				d.answers(0, nil, "10.0.0.2")
				pass(resolve.Fresh)
				d.expect(t, 0, "10.0.0.2:3306")
			})
		})
	}
}

func TestANameThatNeverWasIsAnErrorAndIsNotAskedForAllTheTime(t *testing.T) {
	withDNS(t, func(t *testing.T, d *dns) {
		d.answers(0, errGone)
		for range 100 {
			d.expectError(t, 0, errGone)
		}
		d.expectLookups(t, 1)
		pass(resolve.Fresh)
		d.answers(0, nil, "10.0.0.1")
		d.expect(t, 0, "10.0.0.1:3306")
		if d.logged() != "" {
			t.Errorf("logged %q although the caller has the error", d.logged())
		}
	})
}

func TestASlowLookupDelaysADialOnlyOnce(t *testing.T) {
	withDNS(t, func(t *testing.T, d *dns) {
		d.answers(0, nil, "10.0.0.1")
		d.expect(t, 0, "10.0.0.1:3306")
		pass(resolve.Fresh)
		d.answers(resolve.Patience-1, nil, "10.0.0.2")
		d.expect(t, resolve.Patience-1, "10.0.0.2:3306")
		pass(resolve.Fresh)
		d.answers(time.Second, nil, "10.0.0.3")
		d.expect(t, resolve.Patience, "10.0.0.2:3306")
		d.expect(t, 0, "10.0.0.2:3306")
		pass(time.Second - resolve.Patience)
		synctest.Wait()
		d.expect(t, 0, "10.0.0.3:3306")
		d.expectLookups(t, 3)
	})
}

func TestALookupThatHangsIsBounded(t *testing.T) {
	withDNS(t, func(t *testing.T, d *dns) {
		d.answers(time.Hour, nil, "10.0.0.1")
		d.expectError(t, resolve.LookupTimeout, context.DeadlineExceeded)
		pass(resolve.Fresh)
		d.answers(0, nil, "10.0.0.2")
		d.expect(t, 0, "10.0.0.2:3306")
		pass(resolve.Fresh)
		d.answers(time.Hour, nil, "10.0.0.1")
		d.expect(t, resolve.Patience, "10.0.0.2:3306")
		pass(resolve.LookupTimeout - resolve.Patience)
		synctest.Wait()
		// The failure counts as an answer.
		d.expect(t, 0, "10.0.0.2:3306")
		d.expectLookups(t, 3)
	})
}

func TestACallersContextEndsItsWaitAndNotTheLookup(t *testing.T) {
	withDNS(t, func(t *testing.T, d *dns) {
		d.answers(time.Second, nil, "10.0.0.1")
		cause := errors.New("the term has ended")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Millisecond, func() { cancel(cause) })
		if _, err := d.resolver.Addresses(ctx, "db:3306"); !errors.Is(err, cause) {
			t.Errorf("got %v, want %v", err, cause)
		}
		pass(time.Second)
		synctest.Wait()
		// With a good answer a context that has ended is no error of ours.
		if got, err := d.resolver.Addresses(ctx, "db:3306"); err != nil || got[0] != "10.0.0.1:3306" {
			t.Errorf("got %v, %v", got, err)
		}
		pass(resolve.Fresh)
		if got, err := d.resolver.Addresses(ctx, "db:3306"); err != nil || got[0] != "10.0.0.1:3306" {
			t.Errorf("got %v, %v", got, err)
		}
		d.expectLookups(t, 2)
	})
}

func TestManyCallersShareOneLookupAName(t *testing.T) {
	withDNS(t, func(t *testing.T, d *dns) {
		d.answers(time.Second, nil, "10.0.0.1")
		var callers sync.WaitGroup
		for i := range 200 {
			address := "db:3306"
			if i%2 == 1 {
				address = "web:80"
			}
			callers.Go(func() {
				if got, err := d.resolver.Addresses(t.Context(), address); err != nil || len(got) != 1 {
					t.Errorf("got %v, %v", got, err)
				}
			})
		}
		callers.Wait()
		d.expectLookups(t, 2)
	})
}

func TestCloseEndsLookupsAndWaitsForThem(t *testing.T) {
	withDNS(t, func(t *testing.T, d *dns) {
		d.answers(0, nil, "10.0.0.1")
		d.expect(t, 0, "10.0.0.1:3306")
		d.answers(time.Hour, nil, "10.0.0.2")
		d.lingers = time.Millisecond
		waiting := make(chan error, 1)
		go func() {
			_, err := d.resolver.Addresses(t.Context(), "other:80")
			waiting <- err
		}()
		synctest.Wait()
		began := time.Now()
		d.resolver.Close()
		if took := time.Since(began); took != d.lingers {
			t.Errorf("closing took %s, want %s", took, d.lingers)
		}
		d.resolver.Close()
		if err := <-waiting; !errors.Is(err, resolve.ErrClosed) {
			t.Errorf("a caller that waited got %v, want %v", err, resolve.ErrClosed)
		}
		pass(time.Hour)
		d.expect(t, 0, "10.0.0.1:3306")
		if _, err := d.resolver.Addresses(t.Context(), "third:80"); !errors.Is(err, resolve.ErrClosed) {
			t.Errorf("got %v, want %v", err, resolve.ErrClosed)
		}
		d.expectLookups(t, 2)
	})
}

// With the race detector: answers change and fail under many callers.
func TestConcurrentUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int32
		r := resolve.New(resolve.Options{Lookup: func(context.Context, string) ([]netip.Addr, error) {
			if n.Add(1)%3 == 0 {
				return nil, errGone
			}
			return []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(n.Load())})}, nil
		}})
		defer r.Close()
		var callers sync.WaitGroup
		for range 8 {
			callers.Go(func() {
				for range 50 {
					if _, err := r.Addresses(t.Context(), "db:3306"); err != nil {
						t.Error(err)
					}
					pass(resolve.Fresh / 4)
				}
			})
		}
		callers.Wait()
	})
}
