package postgres_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/bridge/route"
	"switchboard/fixtures/servers"
	"switchboard/fixtures/spec"
	"switchboard/monitor/check"
	"switchboard/monitor/check/postgres"
)

func TestPostgres(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "Postgres Check Suite")
}

// patient is how long a real server may take.
const patient = 30 * time.Second

// shared is a primary that specs do not break, with TLS by pki.
var (
	shared *servers.Postgres
	pki    authority
)

var _ = BeforeSuite(func() {
	pki = newAuthority()
	if servers.PostgresProgram("postgres") == "postgres" {
		return // The specs that need it say so.
	}
	cert, key := pki.issue("db.example", time.Hour)
	shared = &servers.Postgres{TLSCert: cert, TLSKey: key, HBA: []string{
		"host all probe 127.0.0.1/32 scram-sha-256",
		"host all old 127.0.0.1/32 md5",
		"host all plain 127.0.0.1/32 password",
		"host all trusted,limited,nobody,outsider 127.0.0.1/32 trust",
		"hostssl all secure 127.0.0.1/32 scram-sha-256",
	}}
	start(shared)
	Expect(shared.Query(`
		CREATE ROLE probe LOGIN PASSWORD 'secret';
		CREATE ROLE secure LOGIN PASSWORD 'secret';
		SET password_encryption = md5; CREATE ROLE old LOGIN PASSWORD 'secret'; RESET password_encryption;
		CREATE ROLE plain LOGIN PASSWORD 'secret';
		CREATE ROLE trusted LOGIN;
		CREATE ROLE outsider LOGIN;
		CREATE ROLE limited LOGIN CONNECTION LIMIT 0;
	`)).To(BeEmpty())
	Expect(shared.Query("CREATE DATABASE closed")).To(BeEmpty())
	Expect(shared.Query("REVOKE CONNECT ON DATABASE closed FROM PUBLIC")).To(BeEmpty())
})

// needShared skips a spec, or fails it in CI, if there is no real server.
func needShared() {
	GinkgoHelper()
	spec.Need(servers.PostgresProgram("postgres"), "postgresql")
}

// start runs a real server until the spec ends or it is killed, and returns what
// Run returns.
func start(server *servers.Postgres) (ended <-chan error) {
	GinkgoHelper()
	signals, ready, over := make(chan os.Signal, 2), make(chan struct{}), make(chan error, 1)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		over <- server.Run(signals, ready)
	}()
	DeferCleanup(func() {
		signals <- os.Interrupt
		Eventually(gone).WithTimeout(patient).Should(BeClosed())
	})
	select {
	case <-ready:
	case err := <-over:
		Fail(fmt.Sprint("it ended before it was ready: ", err))
	case <-time.After(patient):
		Fail("it is not ready")
	}
	return over
}

// reachableDir is a directory that the user postgres can reach, which those of
// GinkgoT are not.
func reachableDir() string {
	GinkgoHelper()
	dir, err := os.MkdirTemp("", "switchboard-spec-")
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(os.RemoveAll, dir)
	return dir
}

func aim(address string) check.Target {
	return check.Target{
		Host:    "db.main",
		Backend: route.Backend{Name: "db-0", Address: address},
		Address: address,
		Own:     true,
		Dial:    new(net.Dialer).DialContext,
	}
}

// counting is a target that counts its dials.
func counting(address string) (target check.Target, dials *atomic.Int64) {
	target, dials = aim(address), new(atomic.Int64)
	target.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		dials.Add(1)
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	return target, dials
}

// hinting is a target that tells its hints.
func hinting(address string) (target check.Target, hints <-chan string) {
	given := make(chan string, 10)
	target = aim(address)
	target.Hint = func(detail string) { given <- detail }
	return target, given
}

func build(spec check.Spec, target check.Target) check.Checker {
	GinkgoHelper()
	checker, err := postgres.New(spec, target)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { Expect(checker.Close()).To(Succeed()) })
	return checker
}

// ask probes once within a time that no probe here needs.
func ask(checker check.Checker) check.Result {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return checker.Check(ctx)
}

// askWithin probes once with a deadline.
func askWithin(checker check.Checker, limit time.Duration) check.Result {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return checker.Check(ctx)
}

// fakePostgres hands each connection to talk, each in a goroutine, until the spec
// ends, and returns its address and how many there were.
func fakePostgres(talk func(net.Conn)) (address string, taken *atomic.Int64) {
	GinkgoHelper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	Expect(err).NotTo(HaveOccurred())
	taken = new(atomic.Int64)
	var talking sync.WaitGroup
	talking.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			taken.Add(1)
			talking.Go(func() {
				defer conn.Close()
				talk(conn)
			})
		}
	})
	DeferCleanup(func() {
		Expect(listener.Close()).To(Succeed())
		talking.Wait()
	})
	return listener.Addr().String(), taken
}

// message is one of the protocol's, with its type and length.
func message(kind byte, body string) string {
	return string(binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(body)+4))) + body
}

// fatal is a refusal with a code.
func fatal(code, words string) string {
	return message('E', "SFATAL\x00VFATAL\x00C"+code+"\x00M"+words+"\x00\x00")
}

// ready is what a server says to a log-in that needs no password: all is well,
// and it waits for a question.
var ready = message('R', "\x00\x00\x00\x00") + message('Z', "I")

// row answers a question with one row of one column.
func row(value string) string {
	field := "pg_is_in_recovery\x00" + string(make([]byte, 18))
	return message('T', "\x00\x01"+field) +
		message('D', "\x00\x01"+string(binary.BigEndian.AppendUint32(nil, uint32(len(value))))+value) +
		message('C', "SELECT 1\x00") + message('Z', "I")
}

// readStart reads the message that a connection begins with.
func readStart(conn net.Conn) bool {
	var length [4]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return false
	}
	_, err := io.CopyN(io.Discard, conn, int64(binary.BigEndian.Uint32(length[:]))-4)
	return err == nil
}

// readMessage reads one later message and returns its type, 0 at the end.
func readMessage(conn net.Conn) byte {
	var kind [1]byte
	if _, err := io.ReadFull(conn, kind[:]); err != nil || !readStart(conn) {
		return 0
	}
	return kind[0]
}

// answering logs everybody in and answers each question.
func answering(answer string) func(net.Conn) {
	return func(conn net.Conn) {
		if !readStart(conn) {
			return
		}
		_, _ = io.WriteString(conn, ready)
		for readMessage(conn) == 'Q' {
			_, _ = io.WriteString(conn, answer)
		}
	}
}

// refusingWith refuses every log-in.
func refusingWith(answer string) func(net.Conn) {
	return func(conn net.Conn) {
		if readStart(conn) {
			_, _ = io.WriteString(conn, answer)
		}
	}
}

// talkingTLS does a handshake with a certificate, and then refuses the log-in.
func talkingTLS(cert, key string) func(net.Conn) {
	GinkgoHelper()
	pair, err := tls.LoadX509KeyPair(cert, key)
	Expect(err).NotTo(HaveOccurred())
	return func(conn net.Conn) {
		if !readStart(conn) {
			return
		}
		_, _ = io.WriteString(conn, "S")
		refusingWith(fatal("57P03", "the TLS was fine"))(tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{pair}}))
	}
}

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	// ca is the file of its own certificate.
	ca, dir string
}

func newAuthority() authority {
	GinkgoHelper()
	dir, err := os.MkdirTemp("", "switchboard-spec-")
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(os.RemoveAll, dir)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	Expect(err).NotTo(HaveOccurred())
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "spec authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	Expect(err).NotTo(HaveOccurred())
	cert, err := x509.ParseCertificate(der)
	Expect(err).NotTo(HaveOccurred())
	a := authority{cert: cert, key: key, ca: filepath.Join(dir, "ca.pem"), dir: dir}
	writePEM(a.ca, "CERTIFICATE", der)
	return a
}

// issue signs a certificate for a name that ends after left, which may be
// negative, and returns its files.
func (a authority) issue(name string, left time.Duration) (certFile, keyFile string) {
	GinkgoHelper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	Expect(err).NotTo(HaveOccurred())
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	Expect(err).NotTo(HaveOccurred())
	template := &x509.Certificate{
		SerialNumber: serial, DNSNames: []string{name},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(left),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	Expect(err).NotTo(HaveOccurred())
	private, err := x509.MarshalPKCS8PrivateKey(key)
	Expect(err).NotTo(HaveOccurred())
	certFile, keyFile = filepath.Join(a.dir, serial.String()+".crt"), filepath.Join(a.dir, serial.String()+".key")
	writePEM(certFile, "CERTIFICATE", der)
	writePEM(keyFile, "PRIVATE KEY", private)
	return certFile, keyFile
}

func writePEM(path, kind string, der []byte) {
	GinkgoHelper()
	Expect(os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)).To(Succeed())
}
