package main_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	main "switchboard/cmd/switchboard"
	"switchboard/fixtures/spec"
)

// within is how long what happens in other processes is waited for.
const within = 20 * time.Second

// outcome is what a command line did.
type outcome struct {
	code      int
	out, errs string
}

// command runs a command line in this process.
func command(env []string, args ...string) outcome {
	GinkgoHelper()
	var out, errs bytes.Buffer
	code := main.Run(context.Background(), args, strings.NewReader(""), &out, &errs, env)
	return outcome{code, out.String(), errs.String()}
}

// write writes a file in a new directory and returns its path.
func write(name, text string) string {
	GinkgoHelper()
	path := filepath.Join(GinkgoT().TempDir(), name)
	Expect(os.WriteFile(path, []byte(text), 0o600)).To(Succeed())
	return path
}

// router is a router that runs as a process.
type router struct {
	*spec.Process
	// clients is where clients connect, api the API's base URL.
	clients, api string
}

// routerCommand is the command line of a router, perhaps behind other words, as in
// `env`.
func routerCommand(config string, before ...string) *exec.Cmd {
	words := append(before, binary, "router", "--config", config)
	command := exec.Command(words[0], words[1:]...)
	command.Env = environment()
	return command
}

// environment is that of every process here. The race detector would let each
// sleep for a second before it ends.
func environment() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "GORACE=atexit_sleep_ms=0"}
}

// startRouter starts a router and waits until it routes.
func startRouter(config string, before ...string) *router {
	GinkgoHelper()
	r := &router{Process: spec.StartProcess(routerCommand(config, before...))}
	Eventually(r.entry).WithArguments("started").WithTimeout(within).ShouldNot(BeNil(), "the router does not start")
	r.clients = r.entry("listening")["address"].(string)
	r.api = "http://" + r.entry("started")["api"].(string)
	return r
}

// failing runs a router that is expected to end by itself, and returns its exit
// code and the cause that it logged.
func failing(config string, before ...string) (code int, cause string) {
	GinkgoHelper()
	r := &router{Process: spec.StartProcess(routerCommand(config, before...))}
	code = r.WaitExit(within)
	entry := r.entry("the router has failed")
	Expect(entry).NotTo(BeNil(), "nothing is logged")
	return code, entry["cause"].(string)
}

// entries are the lines of the log.
func (r *router) entries() []map[string]any {
	GinkgoHelper()
	var entries []map[string]any
	for line := range strings.Lines(string(r.Stderr.Contents())) {
		if !strings.HasSuffix(line, "\n") {
			break
		}
		var entry map[string]any
		Expect(json.Unmarshal([]byte(line), &entry)).To(Succeed(), line)
		entries = append(entries, entry)
	}
	return entries
}

// entry is the first line of the log with that message, nil if there is none.
func (r *router) entry(message string) map[string]any {
	GinkgoHelper()
	for _, entry := range r.entries() {
		if entry["msg"] == message {
			return entry
		}
	}
	return nil
}

// awaitReady waits until the router says that it is ready.
func (r *router) awaitReady() {
	GinkgoHelper()
	Eventually(status).WithArguments(r.api + "/readyz").WithTimeout(within).Should(Equal(http.StatusOK))
}

// connect connects as a client until a backend greets, and returns the connection
// and the greeting.
func connect(addr string) (conn *net.TCPConn, greeting string) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		c, err := net.DialTimeout("tcp", addr, within)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(c.SetReadDeadline(time.Now().Add(within))).To(Succeed())
		var line []byte
		for one := make([]byte, 1); ; {
			if _, err := c.Read(one); err != nil {
				c.Close()
				g.Expect(err).NotTo(HaveOccurred())
			}
			if one[0] == '\n' {
				break
			}
			line = append(line, one[0])
		}
		g.Expect(c.SetReadDeadline(time.Time{})).To(Succeed())
		conn, greeting = c.(*net.TCPConn), string(line)
	}).WithTimeout(within).Should(Succeed())
	// Closing twice is a client's right.
	DeferCleanup(func() { _ = conn.Close() })
	return conn, greeting
}

// request is one call of the API.
func request(method, url, body string) (int, map[string]any, error) {
	request, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	client := http.Client{Timeout: within, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, nil, err
	}
	answer := make(map[string]any)
	// Health endpoints answer in plain text.
	_ = json.Unmarshal(text, &answer)
	return response.StatusCode, answer, nil
}

// status is the status of a GET, 0 if there is no answer.
func status(url string) int {
	code, _, _ := request(http.MethodGet, url, "")
	return code
}

// get is the answer of a GET.
func get(url string) map[string]any {
	GinkgoHelper()
	code, answer, err := request(http.MethodGet, url, "")
	Expect(err).NotTo(HaveOccurred())
	Expect(code).To(Equal(http.StatusOK))
	return answer
}

// patch changes something, and expects that it is done.
func patch(url, body string) map[string]any {
	GinkgoHelper()
	code, answer, err := request(http.MethodPatch, url, body)
	Expect(err).NotTo(HaveOccurred())
	Expect(code).To(Equal(http.StatusOK), "%v", answer)
	return answer
}
