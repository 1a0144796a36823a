package main_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/fixtures/spec"
)

// ports are those of one original.
type ports struct{ mysql, inactive, api, aggregator, health, metrics int }

// freePorts takes free ports and lets go of them: the original cannot choose its
// own. Who loses one of them to another process tries again.
func freePorts() ports {
	GinkgoHelper()
	var taken []int
	for range 6 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		Expect(err).NotTo(HaveOccurred())
		defer l.Close()
		taken = append(taken, l.Addr().(*net.TCPAddr).Port)
	}
	return ports{taken[0], taken[1], taken[2], taken[3], taken[4], taken[5]}
}

func local(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// keys is a part of a configuration.
type keys = map[string]any

// original is a switchboard compat that runs as a process.
type original struct {
	*spec.Process
	ports
	scheme string
	client *http.Client
}

// compatCommand is a command line with variables of its own.
func compatCommand(env []string, args ...string) *exec.Cmd {
	command := exec.Command(binary, append([]string{"compat"}, args...)...)
	command.Env = append(environment(), env...)
	return command
}

// startOriginal starts one with free ports, and waits until it has started.
func startOriginal(configure func(p ports) string, args ...string) *original {
	GinkgoHelper()
	return startGiven(func(text string) *exec.Cmd {
		return compatCommand(nil, append([]string{"-config=" + text}, args...)...)
	}, configure)
}

// startGiven starts one that gets its configuration in a way of its own.
func startGiven(give func(text string) *exec.Cmd, configure func(p ports) string) *original {
	GinkgoHelper()
	for try := 0; ; try++ {
		p := freePorts()
		command := give(configure(p))
		o := &original{
			Process: spec.StartProcess(command),
			ports:   p, scheme: "http",
			client: &http.Client{
				Timeout:       within,
				Transport:     &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}},
				CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			},
		}
		Eventually(func() bool {
			select {
			case <-o.Exited():
				return true
			default:
				return o.said("switchboard.Proxy started") || slices.ContainsFunc(command.Args, quiet) && status("http://"+local(p.health)) == http.StatusOK
			}
		}).WithTimeout(within).Should(BeTrue(), "it does not start")
		select {
		case <-o.Exited():
			Expect(string(o.Stderr.Contents())).To(ContainSubstring("address already in use"))
			Expect(try).To(BeNumerically("<", 3))
		default:
			return o
		}
	}
}

// quiet tells if an argument keeps the line that tells of the start out of the log.
func quiet(arg string) bool { return arg == "-logLevel=error" || arg == "-logLevel=fatal" }

// lines are the lines of the log.
func (o *original) lines() []keys {
	GinkgoHelper()
	var lines []keys
	for text := range strings.Lines(string(o.Stdout.Contents())) {
		if !strings.HasSuffix(text, "\n") {
			break
		}
		var line keys
		Expect(json.Unmarshal([]byte(text), &line)).To(Succeed(), text)
		lines = append(lines, line)
	}
	return lines
}

// find is the last line with that message, nil if there is none.
func (o *original) find(message string) keys {
	GinkgoHelper()
	for _, line := range slices.Backward(o.lines()) {
		if line["message"] == message {
			return line
		}
	}
	return nil
}

func (o *original) said(message string) bool {
	GinkgoHelper()
	return o.find(message) != nil
}

// awaitLine waits for a line and returns its data.
func (o *original) awaitLine(message string) keys {
	GinkgoHelper()
	Eventually(o.find).WithArguments(message).WithTimeout(within).ShouldNot(BeNil(), message)
	return o.find(message)["data"].(keys)
}

// reply is an HTTP answer.
type reply struct {
	status int
	header http.Header
	body   string
}

// ask makes a request; user is "name:password", "" for none.
func (o *original) ask(method string, port int, path, user string, header ...string) reply {
	GinkgoHelper()
	answer, err := o.try(method, port, path, user, header...)
	Expect(err).NotTo(HaveOccurred())
	return answer
}

func (o *original) try(method string, port int, path, user string, header ...string) (reply, error) {
	request, err := http.NewRequest(method, o.scheme+"://"+local(port)+path, nil)
	if err != nil {
		return reply{}, err
	}
	if name, password, given := strings.Cut(user, ":"); given {
		request.SetBasicAuth(name, password)
	}
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		request.Header.Add(name, value)
		if name == "Host" {
			request.Host = value
		}
	}
	response, err := o.client.Do(request)
	if err != nil {
		return reply{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return reply{response.StatusCode, response.Header, string(body)}, err
}

// patchForm changes the cluster with a form in the body.
func (o *original) patchForm(form url.Values) reply {
	GinkgoHelper()
	request, err := http.NewRequest("PATCH", o.scheme+"://"+local(o.api)+"/v0/cluster", strings.NewReader(form.Encode()))
	Expect(err).NotTo(HaveOccurred())
	request.SetBasicAuth("proxy", "a-password")
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	response, err := o.client.Do(request)
	Expect(err).NotTo(HaveOccurred())
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	Expect(err).NotTo(HaveOccurred())
	return reply{response.StatusCode, response.Header, string(body)}
}

const operator = "proxy:a-password"

// cluster and backends are what /v0 says.
func (o *original) cluster() string {
	GinkgoHelper()
	return o.ask("GET", o.api, "/v0/cluster", operator).body
}

func (o *original) backends() string {
	GinkgoHelper()
	return o.ask("GET", o.api, "/v0/backends", operator).body
}

// awaitActive waits until a backend is active and all the others are as healthy as
// said.
func (o *original) awaitActive(name string, healthy int) {
	GinkgoHelper()
	Eventually(o.cluster).WithTimeout(within).Should(ContainSubstring(`"name":"` + name + `"}`))
	Eventually(func() int { return strings.Count(o.backends(), `"healthy":true`) }).WithTimeout(within).Should(Equal(healthy))
}

// twoNodes are nodes with their agents, and a directory with a dashboard.
type twoNodes struct {
	nodes  []*spec.Backend
	agents []*spec.Health
	static string
}

func startTwoNodes() *twoNodes {
	GinkgoHelper()
	p := &twoNodes{static: GinkgoT().TempDir()}
	for i := range 2 {
		p.nodes = append(p.nodes, spec.StartBackend(spec.Named(fmt.Sprintf("mysql/%d", i))))
		p.agents = append(p.agents, spec.StartHealth())
		p.agents[i].Healthy(i)
	}
	Expect(os.WriteFile(filepath.Join(p.static, "index.html"), []byte("<h1>dashboard</h1>"), 0o600)).To(Succeed())
	return p
}

// tree is a configuration with both nodes.
func (p *twoNodes) tree(at ports) keys {
	var backends []keys
	for i := range p.nodes {
		_, port, _ := net.SplitHostPort(p.nodes[i].Addr())
		backends = append(backends, keys{
			"Host": "127.0.0.1", "Port": port, "StatusPort": p.agents[i].Port(), "StatusEndpoint": "api/v1/status", "Name": fmt.Sprintf("mysql/%d", i),
		})
	}
	return keys{
		"BindAddress": "127.0.0.1",
		"Proxy":       keys{"Port": at.mysql, "HealthcheckTimeoutMillis": 1000, "Backends": backends},
		"API": keys{
			"Port": at.api, "AggregatorPort": at.aggregator, "Username": "proxy", "Password": "a-password",
			"ProxyURIs": []string{"0-proxy.example.com", "1-proxy.example.com"},
		},
		"HealthPort": at.health,
		"StaticDir":  p.static,
	}
}

// change changes a configuration.
type change func(at ports, tree keys)

// with is that configuration with changes.
func (p *twoNodes) with(changes ...change) func(ports) string {
	return func(at ports) string {
		t := p.tree(at)
		for _, change := range changes {
			change(at, t)
		}
		text, _ := json.Marshal(t)
		return string(text)
	}
}

// set changes the value at a path of keys.
func set(value any, path ...string) change {
	return func(_ ports, t keys) {
		for _, key := range path[:len(path)-1] {
			if t[key] == nil {
				t[key] = keys{}
			}
			t = t[key].(keys)
		}
		t[path[len(path)-1]] = value
	}
}

func inactivePort(at ports, t keys) { t["Proxy"].(keys)["InactiveMysqlPort"] = at.inactive }

// authority is a CA for one spec.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pem         string
	pool        *x509.CertPool
}

func newCA() authority {
	GinkgoHelper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	Expect(err).NotTo(HaveOccurred())
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	Expect(err).NotTo(HaveOccurred())
	certificate, err := x509.ParseCertificate(der)
	Expect(err).NotTo(HaveOccurred())
	pool := x509.NewCertPool()
	pool.AddCert(certificate)
	return authority{certificate, key, encode("CERTIFICATE", der), pool}
}

// issue is a certificate for a name or an address, and its key, as PEM.
func (a authority) issue(name string) (certificate, key string) {
	GinkgoHelper()
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	Expect(err).NotTo(HaveOccurred())
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	if ip := net.ParseIP(name); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{name}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, &own.PublicKey, a.key)
	Expect(err).NotTo(HaveOccurred())
	private, err := x509.MarshalPKCS8PrivateKey(own)
	Expect(err).NotTo(HaveOccurred())
	return encode("CERTIFICATE", der), encode("PRIVATE KEY", private)
}

func encode(kind string, der []byte) string {
	var out bytes.Buffer
	_ = pem.Encode(&out, &pem.Block{Type: kind, Bytes: der})
	return out.String()
}
