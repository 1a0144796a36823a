package mysql_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/bridge/route"
	"switchboard/fixtures/servers"
	"switchboard/monitor/check"
	"switchboard/monitor/check/mysql"
)

func TestMySQL(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "MySQL Check Suite")
}

const password = "correct-horse"

// users are whom the specs log in as.
func users() []string {
	return []string{
		"CREATE USER IF NOT EXISTS probe@'%' IDENTIFIED BY '" + password + "'",
		"CREATE USER IF NOT EXISTS limited@'%' IDENTIFIED BY '" + password + "' WITH MAX_QUERIES_PER_HOUR 3",
		"CREATE USER IF NOT EXISTS locked@'%' IDENTIFIED BY '" + password + "' ACCOUNT LOCK",
		"CREATE USER IF NOT EXISTS expired@'%' IDENTIFIED BY '" + password + "' PASSWORD EXPIRE",
		"CREATE DATABASE IF NOT EXISTS shop",
	}
}

// server is a MariaDB that can be killed and started again.
type server struct {
	servers.MariaDB
	signals chan os.Signal
	ended   chan error
}

// start starts it, and stops it when the spec ends.
func (s *server) start() {
	GinkgoHelper()
	s.signals, s.ended = make(chan os.Signal, 2), make(chan error, 1)
	ready := make(chan struct{})
	signals, ended, gone := s.signals, s.ended, make(chan struct{})
	go func() {
		defer close(gone)
		ended <- s.Run(signals, ready)
	}()
	select {
	case <-ready:
	case err := <-ended:
		Fail(fmt.Sprint("it ended before it was ready: ", err))
	case <-time.After(time.Minute):
		Fail("it is not ready")
	}
	DeferCleanup(func() {
		// One that was killed hears neither.
		signals <- os.Interrupt
		signals <- os.Kill
		Eventually(gone).WithTimeout(10 * time.Second).Should(BeClosed())
	})
}

func (s *server) kill() {
	GinkgoHelper()
	s.Kill()
	Eventually(s.ended).WithTimeout(5 * time.Second).Should(Receive(HaveOccurred()))
}

func (s *server) query(sql string) string {
	GinkgoHelper()
	said, err := s.Query(sql)
	Expect(err).NotTo(HaveOccurred())
	return said
}

// status is the number of one of the server's status variables.
func (s *server) status(name string) (number int) {
	GinkgoHelper()
	_, err := fmt.Sscan(strings.TrimPrefix(s.query("SHOW GLOBAL STATUS LIKE '"+name+"'"), name+"\t"), &number)
	Expect(err).NotTo(HaveOccurred())
	return number
}

// connections is how many the probing users have at the server.
func (s *server) connections() string {
	GinkgoHelper()
	return s.query("SELECT COUNT(*) FROM information_schema.processlist WHERE user <> 'root' AND user <> 'system user'")
}

// target is a target that counts what is asked of it.
type target struct {
	check.Target
	dials atomic.Int64
	hints chan string
}

func aim(address string) *target {
	t := &target{hints: make(chan string, 100)}
	t.Target = check.Target{
		Host:    "db.main",
		Backend: route.Backend{Name: "db-0", Address: address},
		Address: address,
		Own:     true,
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			t.dials.Add(1)
			return new(net.Dialer).DialContext(ctx, network, address)
		},
		Hint: func(detail string) { t.hints <- detail },
	}
	return t
}

// probe is a spec that logs in.
func probe() check.Spec { return check.Spec{Type: "mysql", Username: "probe", Password: password} }

// build makes a checker, closed at the end of the spec unless it was before.
func build(spec check.Spec, target *target) *checker {
	GinkgoHelper()
	made, err := mysql.New(spec, target.Target)
	Expect(err).NotTo(HaveOccurred())
	c := &checker{Checker: made}
	DeferCleanup(c.close)
	return c
}

type checker struct {
	check.Checker
	closed bool
}

func (c *checker) close() {
	GinkgoHelper()
	if !c.closed {
		c.closed = true
		Expect(c.Close()).To(Succeed())
	}
}

// ask probes once within two seconds.
func (c *checker) ask() check.Result { return c.askWithin(2 * time.Second) }

func (c *checker) askWithin(timeout time.Duration) check.Result {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return c.Check(ctx)
}

// authority is a CA of the spec's own.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func newAuthority() *authority {
	GinkgoHelper()
	a := &authority{dir: GinkgoT().TempDir()}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "spec CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	var der []byte
	der, a.key = sign(template, template, nil)
	var err error
	a.cert, err = x509.ParseCertificate(der)
	Expect(err).NotTo(HaveOccurred())
	a.file = a.write("ca.pem", "CERTIFICATE", der)
	return a
}

// issue writes a server's certificate for name that is good until then, and
// returns its files.
func (a *authority) issue(name string, until time.Time) (cert, key string) {
	GinkgoHelper()
	der, private := sign(&x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: until.Add(-2 * time.Hour), NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, a.cert, a.key)
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	Expect(err).NotTo(HaveOccurred())
	return a.write(name+".pem", "CERTIFICATE", der), a.write(name+".key", "PRIVATE KEY", encoded)
}

func (a *authority) write(name, kind string, der []byte) string {
	GinkgoHelper()
	file := filepath.Join(a.dir, name)
	Expect(os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)).To(Succeed())
	return file
}

// sign makes a key and signs its certificate, with that key if by is nil.
func sign(template, parent *x509.Certificate, by *ecdsa.PrivateKey) (der []byte, key *ecdsa.PrivateKey) {
	GinkgoHelper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	Expect(err).NotTo(HaveOccurred())
	if by == nil {
		by = key
	}
	der, err = x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, by)
	Expect(err).NotTo(HaveOccurred())
	return der, key
}
