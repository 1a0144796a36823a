package web_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/bridge/web"
)

// writeCertificate writes a self-signed certificate for names, and its key.
func writeCertificate(dir string, names ...string) web.CertificateFile {
	GinkgoHelper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	Expect(err).NotTo(HaveOccurred())
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	Expect(err).NotTo(HaveOccurred())
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	Expect(err).NotTo(HaveOccurred())
	private, err := x509.MarshalPKCS8PrivateKey(key)
	Expect(err).NotTo(HaveOccurred())
	files := web.CertificateFile{Cert: filepath.Join(dir, names[0]+".pem"), Key: filepath.Join(dir, names[0]+".key")}
	replace(files.Key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
	replace(files.Cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}))
	return files
}

// replace writes a file as those do who care: whole, by a rename.
func replace(name string, content []byte) {
	GinkgoHelper()
	Expect(os.WriteFile(name+".new", content, 0o600)).To(Succeed())
	Expect(os.Rename(name+".new", name)).To(Succeed())
}

// startCertificates runs certificates of these names.
func startCertificates(dir string, names ...[]string) *web.Certificates {
	GinkgoHelper()
	var files []web.CertificateFile
	for _, n := range names {
		files = append(files, writeCertificate(dir, n...))
	}
	c, err := web.NewCertificates(files, nil)
	Expect(err).NotTo(HaveOccurred())
	run(c.Run)
	return c
}

var _ = Describe("HTTPS", func() {
	var (
		dir          string
		certificates *web.Certificates
		r            *rig
	)
	BeforeEach(func() {
		dir = GinkgoT().TempDir()
		certificates = startCertificates(dir, []string{"first.test"}, []string{"a.test", "*.a.test"})
		b := startBackend("b", func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, r.Proto+" "+r.Header.Get("X-Forwarded-Proto"))
		})
		r = startRig(rigOptions{
			hosts:  []hostSpec{{name: "*", backends: []string{b.addr}}},
			server: func(o *web.Options) { o.TLS = certificates.Config() },
		})
	})

	// shake returns the name of the certificate that the server shows for a name.
	shake := func(name string) string {
		c, err := tls.Dial("tcp", r.addr, &tls.Config{ServerName: name, InsecureSkipVerify: true})
		if err != nil {
			return err.Error()
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].Subject.CommonName
	}

	It("chooses the certificate by the name that is asked for", func() {
		Expect(shake("a.test")).To(Equal("a.test"))
		Expect(shake("B.A.test")).To(Equal("a.test"))
		Expect(shake("b.b.a.test")).To(Equal("first.test"))
		Expect(shake("")).To(Equal("first.test"))
	})

	It("reads a certificate again when its file has changed, and keeps it when the new one is broken", func() {
		before, err := certificates.Get(&tls.ClientHelloInfo{ServerName: "a.test"})
		Expect(err).NotTo(HaveOccurred())
		serial := func() string {
			c, err := certificates.Get(&tls.ClientHelloInfo{ServerName: "a.test"})
			Expect(err).NotTo(HaveOccurred())
			return c.Leaf.SerialNumber.String()
		}
		writeCertificate(dir, "a.test")
		Eventually(serial, 5*time.Second).ShouldNot(Equal(before.Leaf.SerialNumber.String()))
		now := serial()
		replace(filepath.Join(dir, "a.test.pem"), []byte("broken"))
		Consistently(serial, 1500*time.Millisecond).Should(Equal(now))
		Expect(shake("a.test")).To(Equal("a.test"))
	})

	DescribeTable("requests come through", func(http2 bool, want string) {
		transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: http2}
		defer transport.CloseIdleConnections()
		for range 3 {
			response, err := transport.RoundTrip(must(http.NewRequest("GET", "https://"+r.addr+"/", nil)))
			Expect(err).NotTo(HaveOccurred())
			body, err := io.ReadAll(response.Body)
			Expect(err).NotTo(HaveOccurred())
			response.Body.Close()
			Expect(response.Proto).To(Equal(want))
			Expect(string(body)).To(Equal("HTTP/1.1 https"))
		}
	}, Entry("over HTTP/1.1", false, "HTTP/1.1"), Entry("over HTTP/2", true, "HTTP/2.0"))

	It("counts a client that does not speak TLS, and serves the next", func() {
		c := r.dial()
		c.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
		_, err := io.ReadAll(c)
		Expect(err).NotTo(HaveOccurred())
		Expect(r.server.Refusals()).To(HaveKeyWithValue("handshake", BeEquivalentTo(1)))
		Expect(shake("a.test")).To(Equal("a.test"))
	})
})

var _ = Describe("NewCertificates", func() {
	It("names every file that it cannot use", func() {
		dir := GinkgoT().TempDir()
		good := writeCertificate(dir, "good.test")
		_, err := web.NewCertificates([]web.CertificateFile{good, {Cert: "/no/cert", Key: "/no/key"}}, nil)
		Expect(err).To(MatchError(And(ContainSubstring("/no/cert"), ContainSubstring("/no/key"))))
		_, err = web.NewCertificates([]web.CertificateFile{{Cert: good.Key, Key: good.Key}}, nil)
		Expect(err).To(MatchError(ContainSubstring(good.Key)))
		_, err = web.NewCertificates(nil, nil)
		Expect(err).To(MatchError("there is no certificate"))
	})
})

func must[T any](v T, err error) T {
	GinkgoHelper()
	Expect(err).NotTo(HaveOccurred())
	return v
}
