package web_test

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"io"
	"net/http"
	"os"
	"os/exec"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/fixtures/spec"
)

// page opens a WebSocket to where it comes from, says something, shows the answer, and
// tells the backend what it shows.
const page = `<!doctype html><title>page</title><p id="answer">nothing</p><script>
const socket = new WebSocket("ws://" + location.host + "/echo");
const answer = document.getElementById("answer");
const show = text => { answer.textContent = text; fetch("/shown", {method: "POST", body: answer.innerText}); };
socket.onopen = () => socket.send("hello");
socket.onmessage = event => show("came back: " + event.data);
socket.onerror = () => show("failed");
</script>`

// echoFrame upgrades a request and sends its first short message back.
func echoFrame(w http.ResponseWriter, r *http.Request) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "+
		base64.StdEncoding.EncodeToString(sum[:])+"\r\n\r\n")
	message, err := readMasked(buffered.Reader)
	if err != nil {
		return
	}
	conn.Write(append([]byte{0x81, byte(len(message))}, message...))
	io.Copy(io.Discard, buffered)
}

// readMasked reads a frame of less than 126 bytes (RFC 6455, section 5.2).
func readMasked(from *bufio.Reader) ([]byte, error) {
	head := make([]byte, 6)
	if _, err := io.ReadFull(from, head); err != nil {
		return nil, err
	}
	message := make([]byte, head[1]&0x7f)
	if _, err := io.ReadFull(from, message); err != nil {
		return nil, err
	}
	for i := range message {
		message[i] ^= head[2+i%4]
	}
	return message, nil
}

var _ = Describe("A browser", func() {
	It("has a WebSocket through the router", func() {
		spec.Need("chromium", "chromium")
		shown := make(chan string, 1)
		b := startBackend("b", func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/echo":
				echoFrame(w, r)
			case "/shown":
				text, _ := io.ReadAll(r.Body)
				shown <- string(text)
			default:
				w.Header().Set("Content-Type", "text/html")
				io.WriteString(w, page)
			}
		})
		r := startRig(rigOptions{hosts: []hostSpec{{name: "*", backends: []string{b.addr}}}})
		// Its processes write until the last of them has noticed that the first is gone.
		profile := must(os.MkdirTemp("", "chromium"))
		DeferCleanup(func() { Eventually(func() error { return os.RemoveAll(profile) }).Should(Succeed()) })
		// With the debugging port it stays until it is killed.
		spec.StartProcess(exec.Command("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
			"--disable-background-networking", "--no-first-run", "--remote-debugging-port=0", "--user-data-dir="+profile,
			"http://"+r.addr+"/"))
		Eventually(shown, time.Minute).Should(Receive(Equal("came back: hello")))
	})
})
