package web_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/fixtures/spec"
)

// soakSize is how much a soak is to do: otherwise, unless the environment says more.
func soakSize(variable string, otherwise int64) int64 {
	GinkgoHelper()
	if said := os.Getenv(variable); said != "" {
		return must(strconv.ParseInt(said, 10, 64))
	}
	return otherwise
}

// TestSoakBackend is no test but a backend in a process of its own: the soak starts it
// with an address and the file that it keeps in what it was sent. What was written
// there is not lost when the process is killed.
func TestSoakBackend(t *testing.T) {
	address, ids := os.Getenv("SOAK_BACKEND_ADDRESS"), os.Getenv("SOAK_BACKEND_IDS")
	if address == "" {
		t.Skip("the soak runs this")
	}
	file, err := os.OpenFile(ids, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("listening on", listener.Addr())
	t.Fatal(http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		if r.Method == http.MethodPost {
			// One write is one ID, whole or not at all.
			if _, err := file.Write(body); err != nil {
				panic(err)
			}
		}
		w.Write(body)
	})))
}

// soakBackend is [TestSoakBackend] in a process, which may be killed and started again.
type soakBackend struct {
	address, ids string
	process      *spec.Process
}

func (b *soakBackend) start() {
	GinkgoHelper()
	command := exec.Command(os.Args[0], "-test.run=^TestSoakBackend$")
	command.Env = append(os.Environ(), "SOAK_BACKEND_ADDRESS="+b.address, "SOAK_BACKEND_IDS="+b.ids)
	b.process = spec.StartProcess(command)
	var line string
	Eventually(func() bool {
		line, _, _ = strings.Cut(string(b.process.Stdout.Contents()), "\n")
		return strings.HasPrefix(line, "listening on ")
	}, 10*time.Second).Should(BeTrue())
	b.address = strings.TrimPrefix(line, "listening on ")
}

// delivered are the IDs that came, in the order that they did.
func (b *soakBackend) delivered() []uint64 {
	GinkgoHelper()
	file := must(os.Open(b.ids))
	defer file.Close()
	var ids []uint64
	from := bufio.NewReader(file)
	for {
		var id uint64
		err := binary.Read(from, binary.BigEndian, &id)
		if err == io.EOF {
			return ids
		}
		Expect(err).NotTo(HaveOccurred())
		ids = append(ids, id)
	}
}

var _ = Describe("soak", func() {
	It("delivers no POST twice and fails no GET while backends are killed", func() {
		posts := soakSize("SOAK_POSTS", 5000)
		dir := GinkgoT().TempDir()
		var backends []*soakBackend
		host := hostSpec{name: "a.test"}
		for i := range 3 {
			b := &soakBackend{address: "127.0.0.1:0", ids: filepath.Join(dir, fmt.Sprint(i))}
			b.start()
			backends = append(backends, b)
			host.backends = append(host.backends, b.address)
		}
		r := startRig(rigOptions{hosts: []hostSpec{host}})
		transport := &http.Transport{MaxIdleConnsPerHost: 32}
		DeferCleanup(transport.CloseIdleConnections)
		ask := func(method string, body io.Reader) (int, error) {
			request, err := http.NewRequest(method, "http://"+r.addr+"/", body)
			if err != nil {
				return 0, err
			}
			request.Host = "a.test"
			response, err := transport.RoundTrip(request)
			if err != nil {
				return 0, err
			}
			defer response.Body.Close()
			_, err = io.Copy(io.Discard, response.Body)
			return response.StatusCode, err
		}
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		var working, reading sync.WaitGroup
		var next, answered, gets atomic.Int64
		acknowledged := make([]atomic.Bool, posts)
		var failed sync.Map
		const workers = 8
		for range workers {
			working.Go(func() {
				for id := next.Add(1) - 1; id < posts; id = next.Add(1) - 1 {
					status, err := ask("POST", strings.NewReader(string(binary.BigEndian.AppendUint64(nil, uint64(id)))))
					if err == nil && status == 200 {
						acknowledged[id].Store(true)
						answered.Add(1)
					}
				}
			})
		}
		for range 2 {
			reading.Go(func() {
				for ctx.Err() == nil {
					if status, err := ask("GET", nil); err != nil || status != 200 {
						failed.Store(fmt.Sprint(status, " ", err), nil)
					}
					gets.Add(1)
				}
			})
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			working.Wait()
			cancel()
			reading.Wait()
		}()
		kills := 0
		for running := true; running; {
			select {
			case <-done:
				running = false
			case <-time.After(time.Duration(100+rand.IntN(200)) * time.Millisecond):
				b := backends[rand.IntN(len(backends))]
				b.process.Kill()
				b.process.WaitExit()
				b.start()
				kills++
			}
		}
		seen := make([]bool, posts)
		for _, b := range backends {
			for _, id := range b.delivered() {
				Expect(seen[id]).To(BeFalse(), "%d was delivered twice", id)
				seen[id] = true
			}
		}
		for id := range acknowledged {
			if acknowledged[id].Load() {
				Expect(seen[id]).To(BeTrue(), "%d was answered and not delivered", id)
			}
		}
		failed.Range(func(what, _ any) bool {
			Fail("a GET failed: " + what.(string))
			return false
		})
		AddReportEntry("soak", fmt.Sprintf("%d of %d POSTs answered, %d GETs, %d kills", answered.Load(), posts, gets.Load(), kills))
		Expect(kills).To(BeNumerically(">", 0))
		// A kill costs what was in flight then: one POST a worker, or a little more.
		Expect(posts - answered.Load()).To(BeNumerically("<=", 2*workers*kills))
	})

	DescribeTable("streams both ways in flat memory", func(http2 bool) {
		size := soakSize("SOAK_BYTES", 256<<20)
		b := startBackend("b", func(w http.ResponseWriter, r *http.Request) {
			http.NewResponseController(w).EnableFullDuplex()
			io.CopyBuffer(struct{ io.Writer }{w}, r.Body, make([]byte, 64<<10))
		})
		r := startRig(rigOptions{hosts: []hostSpec{{name: "a.test", backends: []string{b.addr}}}})
		transport := r.http2Transport()
		if !http2 {
			transport.Protocols.SetUnencryptedHTTP2(false)
			transport.Protocols.SetHTTP1(true)
		}
		before := heap()
		var most atomic.Uint64
		sampled := make(chan struct{})
		ctx, cancel := context.WithCancel(context.Background())
		go func() {
			defer close(sampled)
			ticks := time.NewTicker(50 * time.Millisecond)
			defer ticks.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-ticks.C:
					var now runtime.MemStats
					runtime.ReadMemStats(&now)
					most.Store(max(most.Load(), now.HeapInuse))
				}
			}
		}()
		began := time.Now()
		response, err := transport.RoundTrip(must(http.NewRequest("POST", "http://a.test/", io.LimitReader(endless{}, size))))
		Expect(err).NotTo(HaveOccurred())
		n, err := io.Copy(io.Discard, response.Body)
		response.Body.Close()
		cancel()
		<-sampled
		Expect(err).NotTo(HaveOccurred())
		Expect(n).To(Equal(size))
		AddReportEntry("soak", fmt.Sprintf("%d bytes each way in %v, at most %d bytes of heap in use", size, time.Since(began), most.Load()))
		Expect(int64(most.Load()) - before).To(BeNumerically("<", 64<<20))
	}, Entry("over HTTP/1.1", false), Entry("over HTTP/2", true))
})
