package accesslog_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"

	"switchboard/bridge/accesslog"
	"switchboard/fixtures/spec"
)

var _ = Describe("Log", func() {
	It("appends to its file, which others cannot read", func() {
		path := newPath()
		l := start(accesslog.Options{Path: path})
		l.say("a", "b")
		l.stop()
		info, err := os.Stat(path)
		Expect(err).NotTo(HaveOccurred())
		Expect(info.Mode().Perm() &^ 0o640).To(BeZero())
		again := start(accesslog.Options{Path: path})
		again.say("c")
		again.stop()
		Expect(idsOf(path)).To(Equal([]string{"a", "b", "c"}))
		Expect(again.Counts()).To(Equal(accesslog.Counts{Written: 1, Dropped: map[accesslog.Cause]int64{}}))
	})

	It("writes a line soon, without another one behind it", func() {
		d := newDisk()
		l := start(accesslog.Options{Writer: d})
		l.say("a")
		Eventually(d.String).WithTimeout(within).ShouldNot(BeEmpty())
		l.say("b")
		l.settle(2)
	})

	It("keeps lines that come before it runs, and drops those that come when it has ended", func() {
		d := newDisk()
		l := &running{Log: accesslog.New(accesslog.Options{Writer: d})}
		l.say("early")
		Expect(l.Counts().Written).To(BeZero())
		signals := make(chan os.Signal, 1)
		signals <- os.Interrupt
		Expect(l.Run(signals, make(chan struct{}))).To(Succeed())
		l.say("late")
		Expect(idsIn(d.String())).To(Equal([]string{"early"}))
		Expect(l.Counts()).To(Equal(accesslog.Counts{Written: 1, Dropped: map[accesslog.Cause]int64{accesslog.Stopped: 1}}))
		Expect(l.Reopen(context.Background())).To(Succeed(), "there is no file to open")
	})

	It("fails, and is not ready, if its file cannot be opened", func() {
		l := accesslog.New(accesslog.Options{Path: filepath.Join(GinkgoT().TempDir(), "no", "access.log")})
		ready := make(chan struct{})
		err := l.Run(nil, ready)
		Expect(err).To(MatchError(fs.ErrNotExist))
		Expect(err).To(MatchError(HavePrefix("opening the access log: ")))
		Expect(ready).NotTo(BeClosed())
		Expect(l.Reopen(context.Background())).To(MatchError(accesslog.ErrStopped))
	})

	It("does not wait for a reader of a pipe that has none", func() {
		path := newPath()
		Expect(unix.Mkfifo(path, 0o600)).To(Succeed())
		Expect(accesslog.New(accesslog.Options{Path: path}).Run(nil, make(chan struct{}))).To(MatchError(unix.ENXIO))
	})

	It("takes lines from many goroutines, and writes each whole and once", func() {
		path := newPath()
		l := start(accesslog.Options{Path: path})
		const goroutines, each = 8, 2000
		var saying sync.WaitGroup
		want := map[string]int{}
		for g := range goroutines {
			for i := range each {
				want[fmt.Sprint(g, "-", i)]++
			}
			saying.Go(func() {
				for i := range each {
					l.say(fmt.Sprint(g, "-", i))
				}
			})
		}
		saying.Wait()
		l.stop()
		Expect(counted(idsOf(path))).To(Equal(want))
	})

	It("begins a line of its own where the file ends within one", func() {
		path := newPath()
		Expect(os.WriteFile(path, []byte(`{"kind":"requ`), 0o640)).To(Succeed())
		l := start(accesslog.Options{Path: path})
		l.say("a", "b")
		l.stop()
		text, err := os.ReadFile(path)
		Expect(err).NotTo(HaveOccurred())
		broken, rest, _ := strings.Cut(string(text), "\n")
		Expect(broken).To(Equal(`{"kind":"requ`))
		Expect(idsIn(rest)).To(Equal([]string{"a", "b"}))
	})
})

// counted is how often each is there.
func counted(ids []string) map[string]int {
	times := make(map[string]int, len(ids))
	for _, id := range ids {
		times[id]++
	}
	return times
}

var _ = Describe("Rotation", func() {
	It("is noticed when the file was renamed", func() {
		path := newPath()
		l := start(accesslog.Options{Path: path})
		l.say("a")
		l.settle(1)
		Expect(os.Rename(path, path+".1")).To(Succeed())
		said := []string{"a"}
		Eventually(func() error {
			id := fmt.Sprint(len(said))
			l.say(id)
			said = append(said, id)
			_, err := os.Stat(path)
			return err
		}).WithTimeout(within).WithPolling(5 * time.Millisecond).Should(Succeed())
		l.stop()
		old := idsOf(path + ".1")
		Expect(append(old, idsOf(path)...)).To(Equal(said))
		Expect(len(old)).To(BeNumerically("<", len(said)))
		Expect(l.lines.Count("access log goes on in another file")).To(Equal(1))
	})

	It("is noticed when the file was removed, and when another one has taken its place", func() {
		path := newPath()
		l := start(accesslog.Options{Path: path})
		Expect(os.Remove(path)).To(Succeed())
		Eventually(func() error {
			l.say("a")
			_, err := os.Stat(path)
			return err
		}).WithTimeout(within).Should(Succeed())
		Expect(os.WriteFile(path+".new", nil, 0o600)).To(Succeed())
		Expect(os.Rename(path+".new", path)).To(Succeed())
		Eventually(func() []string {
			l.say("b")
			return idsOf(path)
		}).WithTimeout(within).ShouldNot(BeEmpty())
	})

	It("is done at once when it is asked for, and then what came before is in the old file", func() {
		path := newPath()
		l := start(accesslog.Options{Path: path})
		for i := range 20 {
			l.say(fmt.Sprint("a", i))
			Expect(os.Rename(path, fmt.Sprint(path, i))).To(Succeed())
			Expect(l.rotate()).To(Succeed())
			Expect(idsOf(fmt.Sprint(path, i))).To(Equal([]string{fmt.Sprint("a", i)}))
			Expect(idsOf(path)).To(BeEmpty())
		}
	})

	It("changes nothing while the file is still that of its path", func() {
		path := newPath()
		l := start(accesslog.Options{Path: path})
		l.say("a")
		Expect(l.rotate()).To(Succeed())
		l.say("b")
		l.stop()
		Expect(idsOf(path)).To(Equal([]string{"a", "b"}))
		Expect(l.lines.String()).To(BeEmpty())
	})

	It("loses no line and writes none twice while lines come all the time", func() {
		path := newPath()
		l := start(accesslog.Options{Path: path})
		enough := make(chan struct{})
		var saying sync.WaitGroup
		said := make([]int, 4)
		for g := range said {
			saying.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-enough:
						said[g] = i
						return
					default:
						l.say(fmt.Sprint(g, "-", i))
						if i%100 == 99 {
							l.settled(enough)
						}
					}
				}
			})
		}
		const rotations = 50
		for i := range rotations {
			l.grows()
			Expect(os.Rename(path, fmt.Sprint(path, i))).To(Succeed())
			Expect(l.rotate()).To(Succeed())
		}
		close(enough)
		saying.Wait()
		l.stop()
		Expect(l.Counts().Dropped).To(BeEmpty())
		got, want := counted(idsOf(path)), map[string]int{}
		for i := range rotations {
			for id, n := range counted(idsOf(fmt.Sprint(path, i))) {
				got[id] += n
			}
		}
		for g, n := range said {
			for i := range n {
				want[fmt.Sprint(g, "-", i)] = 1
			}
		}
		Expect(got).To(Equal(want))
	})

	It("goes on with the old file, and says so, while the new one cannot be opened", func() {
		directory := filepath.Join(GinkgoT().TempDir(), "logs")
		Expect(os.Mkdir(directory, 0o700)).To(Succeed())
		path := filepath.Join(directory, "access.log")
		l := start(accesslog.Options{Path: path})
		l.say("a")
		l.settle(1)
		Expect(os.Rename(directory, directory+".old")).To(Succeed())
		Expect(l.rotate()).To(MatchError(fs.ErrNotExist))
		Expect(l.Counts()).To(And(HaveField("Err", MatchError(fs.ErrNotExist)), HaveField("Since", BeTemporally("~", time.Now(), time.Minute))))
		l.say("b")
		l.settle(2)
		Expect(idsOf(filepath.Join(directory+".old", "access.log"))).To(Equal([]string{"a", "b"}))
		Expect(os.Mkdir(directory, 0o700)).To(Succeed())
		said := 0
		Eventually(func() error {
			l.say("c")
			said++
			return l.Counts().Err
		}).WithTimeout(within).Should(Succeed())
		l.settle(2 + said)
		Expect(l.Counts().Since).To(BeZero())
		Expect(idsOf(path)).NotTo(BeEmpty())
		Expect(l.lines.Count("access log is in trouble")).To(Equal(1))
	})

	It("is given up with its context, and with the log", func() {
		d := newDisk()
		l := start(accesslog.Options{Path: newPath(), Writer: d})
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		notRun := accesslog.New(accesslog.Options{Path: newPath()})
		Expect(notRun.Reopen(ctx)).To(MatchError(context.Canceled))
		l.stop()
		Expect(l.Reopen(context.Background())).To(MatchError(accesslog.ErrStopped))
	})
})

// grows waits until more lines have been written.
func (r *running) grows() {
	GinkgoHelper()
	Eventually(r.Counts).WithTimeout(within).WithPolling(time.Millisecond).
		Should(HaveField("Written", BeNumerically(">", r.Counts().Written)))
}

// settled waits until some lines more have been written, or until enough.
func (r *running) settled(enough <-chan struct{}) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for before := r.Counts().Written; r.Counts().Written == before; {
		select {
		case <-tick.C:
		case <-enough:
			return
		}
	}
}

var _ = Describe("A full disk", func() {
	It("does not hold up the end, and what is left is counted", func() {
		l := start(accesslog.Options{Path: "/dev/full"})
		l.say("a", "b", "c")
		began := time.Now()
		l.stop()
		Expect(time.Since(began)).To(BeNumerically("<", accesslog.DefaultStop))
		Expect(l.Counts().Dropped).To(Equal(map[accesslog.Cause]int64{accesslog.Failed: 3}))
		Expect(l.lines.Count("access log could not be written to the end")).To(Equal(1))
	})

	It("that was left with a line cut in two is left behind by a rotation", func() {
		spec.NeedRoot("mounting a small file system")
		directory := GinkgoT().TempDir()
		Expect(unix.Mount("small", directory, "tmpfs", 0, "size=4k")).To(Succeed())
		DeferCleanup(func() { Expect(unix.Unmount(directory, unix.MNT_DETACH)).To(Succeed()) })
		full, next := filepath.Join(directory, "access.log"), newPath()
		path := filepath.Join(GinkgoT().TempDir(), "link")
		Expect(os.Symlink(full, path)).To(Succeed())
		l := start(accesslog.Options{Path: path})
		var want []string
		for i := range 40 {
			want = append(want, fmt.Sprint(i))
			l.say(want[i])
		}
		Eventually(l.Counts).WithTimeout(within).Should(HaveField("Err", MatchError(unix.ENOSPC)))
		Expect(os.Remove(path)).To(Succeed())
		Expect(os.Symlink(next, path)).To(Succeed())
		Expect(l.rotate()).To(Succeed())
		l.settle(len(want))
		text, err := os.ReadFile(full)
		Expect(err).NotTo(HaveOccurred())
		whole := string(text[:strings.LastIndexByte(string(text), '\n')+1])
		Expect(len(whole)).To(BeNumerically("<", len(text)), "a line was cut in two")
		Expect(append(idsIn(whole), idsOf(next)...)).To(Equal(want))
	})
})

var _ = Describe("A stalled disk", func() {
	It("holds nobody up, is counted and shown, and loses no line that there was room for", func() {
		d := newDisk()
		release := d.stall()
		l := start(accesslog.Options{Writer: d, Buffer: 256 << 10})
		DeferCleanup(release)
		const lines = 5000
		began := time.Now()
		for i := range lines {
			l.say(fmt.Sprint(i))
		}
		AddReportEntry("a line", time.Since(began)/lines)
		lost := l.Counts().Dropped[accesslog.Slow]
		Expect(lost).To(BeNumerically(">", 0))
		Expect(l.Counts().Written).To(BeZero())
		Eventually(func() int { return l.lines.Count("access log is in trouble") }).WithTimeout(within).Should(Equal(1))
		Eventually(l.Counts).WithTimeout(within).Should(HaveField("Err", MatchError("a write has not returned")))
		release()
		l.settle(lines - int(lost))
		Expect(idsIn(d.String())).To(HaveLen(lines - int(lost)))
		Expect(l.Counts()).To(And(HaveField("Err", BeNil()), HaveField("Dropped", Equal(map[accesslog.Cause]int64{accesslog.Slow: lost}))))
	})

	It("does not hold up the end for longer than it may, and what is left is counted", func() {
		path := newPath()
		Expect(unix.Mkfifo(path, 0o600)).To(Succeed())
		idle, err := os.OpenFile(path, os.O_RDWR, 0)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(idle.Close)
		l := start(accesslog.Options{Path: path, Stop: 200 * time.Millisecond})
		const lines = 2000
		for i := range lines {
			l.say(fmt.Sprint(i))
		}
		l.stop()
		c := l.Counts()
		Expect(c.Written + c.Dropped[accesslog.Slow] + c.Dropped[accesslog.Failed]).To(BeNumerically("==", lines))
		Expect(c.Written).To(BeNumerically("<", lines))
		Expect(l.lines.Count("access log could not be written to the end")).To(Equal(1))
	})

	It("is left behind at the end if its write cannot be ended", func() {
		d := newDisk()
		release := d.stall()
		l := start(accesslog.Options{Writer: d, Stop: time.Millisecond})
		DeferCleanup(release)
		l.say("a")
		Eventually(d.Waiting).WithTimeout(within).Should(Equal(1))
		l.say("b")
		l.stop()
		Expect(l.Counts()).To(And(HaveField("Written", BeZero()), HaveField("Dropped", Equal(map[accesslog.Cause]int64{accesslog.Slow: 2}))))
	})
})

var _ = Describe("A line", func() {
	ended := time.Date(2026, 3, 1, 12, 30, 45, 678_900_000, time.FixedZone("", 3600))

	It("of a request has what readers of NGINX's lines know, and more", func() {
		d := newDisk()
		l := start(accesslog.Options{Writer: d})
		l.Request(&accesslog.Request{
			Ended: ended, Took: 1234567 * time.Microsecond, Upstream: 1230 * time.Millisecond,
			Type: "7", Node: "3", Instance: "42", Code: 200, ToClient: 512, FromClient: 120, Attempts: 2, ID: []byte("17"),
			Listener: "web", Host: "*.pets", Backend: "pets-0", Client: "[::1]:1", Protocol: "HTTP/1.1",
			Method: []byte("GET"), Authority: []byte("cats.pets:80"), Path: []byte("/a?secret"),
		})
		l.stop()
		Expect(d.String()).To(Equal(`{"kind":"request","time":"2026-03-01T12:30:45.678+01:00","timemsec":1772364645.678,` +
			`"version_type_key":"7","node_key":"3","instance_key":"42","bytes":512,"code":200,` +
			`"upstream_response_time":"1.230","nginx_response_time":1.234567,"id":"17","listener":"web","host":"*.pets","backend":"pets-0",` +
			`"client":"[::1]:1","protocol":"HTTP/1.1","method":"GET","authority":"cats.pets:80","path":"/a","bytesFromClient":120,"attempts":2}` + "\n"))
	})

	It("of a request that reached no backend says so", func() {
		d := newDisk()
		l := start(accesslog.Options{Writer: d})
		l.Request(&accesslog.Request{Ended: ended, Upstream: -1, Code: 503, Reason: "no_backend", Detail: "no active backend"})
		l.stop()
		var line map[string]any
		Expect(json.Unmarshal([]byte(d.String()), &line)).To(Succeed())
		Expect(line).To(And(
			HaveKeyWithValue("version_type_key", "null"), HaveKeyWithValue("node_key", "null"), HaveKeyWithValue("instance_key", "null"),
			HaveKeyWithValue("upstream_response_time", "-"), HaveKeyWithValue("reason", "no_backend"), HaveKeyWithValue("detail", "no active backend"),
			HaveKeyWithValue("id", ""), HaveKeyWithValue("host", "")))
	})

	It("of a session has no code, nor times that are a request's", func() {
		d := newDisk()
		l := start(accesslog.Options{Writer: d})
		l.Session(&accesslog.Session{
			Ended: ended, Took: 1500 * time.Microsecond, Type: "7", ID: "18", Listener: "db", Host: "db.main", Backend: "db-0", Epoch: 3,
			Client: "127.0.0.1:1", Protocol: "tcp", ToBackend: 5, ToClient: 6, Reason: "client_closed",
		})
		l.stop()
		Expect(d.String()).To(Equal(`{"kind":"session","time":"2026-03-01T12:30:45.678+01:00","timemsec":1772364645.678,` +
			`"version_type_key":"7","node_key":"null","instance_key":"null","bytes":6,"id":"18","listener":"db","host":"db.main","backend":"db-0",` +
			`"epoch":3,"client":"127.0.0.1:1","protocol":"tcp","bytesToBackend":5,"bytesToClient":6,"tookMs":1.500,"reason":"client_closed"}` + "\n"))
	})
})
