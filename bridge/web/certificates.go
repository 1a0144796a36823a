package web

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

// CertificateFile names the PEM files of a certificate chain and its key. They may
// be the same file.
type CertificateFile struct{ Cert, Key string }

// Certificates are those of a listener, chosen by the server name that a client asks
// for (SNI) and read again when their files change. Make them with [NewCertificates].
type Certificates struct {
	files []CertificateFile
	log   *slog.Logger
	now   atomic.Pointer[certificates]
}

// certificates are what the files held, as of their stamps.
type certificates struct {
	all    []tls.Certificate
	byName map[string]*tls.Certificate
	stamps []stamp
}

// stamp tells whether a file is the one that was read.
type stamp struct {
	modified time.Time
	size     int64
	inode    os.FileInfo
}

func (s stamp) same(other stamp) bool {
	return s.modified.Equal(other.modified) && s.size == other.size && os.SameFile(s.inode, other.inode)
}

// NewCertificates reads the files. Its errors name the file, all at once.
func NewCertificates(files []CertificateFile, log *slog.Logger) (*Certificates, error) {
	if len(files) == 0 {
		return nil, errors.New("there is no certificate")
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	c := &Certificates{files: files, log: log}
	read, err := c.read()
	if err != nil {
		return nil, err
	}
	c.now.Store(read)
	return c, nil
}

// Get returns the certificate for a client: that of the name it asks for, exact names
// before wildcards, or else the first. It may be called from any goroutine.
func (c *Certificates) Get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	now := c.now.Load()
	name := strings.ToLower(strings.TrimSuffix(hello.ServerName, "."))
	if found := now.byName[name]; found != nil {
		return found, nil
	}
	if _, parent, ok := strings.Cut(name, "."); ok {
		if found := now.byName["*."+parent]; found != nil {
			return found, nil
		}
	}
	return &now.all[0], nil
}

// Config is for [Options].TLS: TLS 1.2 and later, with these certificates.
func (c *Certificates) Config() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.Get}
}

// lookEvery is how often the files are looked at.
const lookEvery = time.Second

// Run reads files again when they have changed, until a signal comes. Files that
// cannot be used leave those before in place, and a line in the log.
func (c *Certificates) Run(signals <-chan os.Signal, ready chan<- struct{}) error {
	ticks := time.NewTicker(lookEvery)
	defer ticks.Stop()
	close(ready)
	var failed string
	for {
		select {
		case <-ticks.C:
			if !c.changed() {
				continue
			}
			read, err := c.read()
			switch {
			case err == nil:
				failed = ""
				c.now.Store(read)
				c.log.Info("certificates were read again", "certificates", len(read.all))
			case err.Error() != failed:
				failed = err.Error()
				c.log.Error("the changed certificates cannot be used, and those before stay", "cause", err)
			}
		case <-signals:
			return nil
		}
	}
}

// changed tells whether a file is another than that which was read. One that is away
// is being replaced.
func (c *Certificates) changed() bool {
	now := c.now.Load()
	for i, name := range c.names() {
		s, err := stampOf(name)
		if err == nil && !s.same(now.stamps[i]) {
			return true
		}
	}
	return false
}

func (c *Certificates) names() []string {
	var names []string
	for _, f := range c.files {
		names = append(names, f.Cert, f.Key)
	}
	return names
}

func stampOf(name string) (stamp, error) {
	info, err := os.Stat(name)
	if err != nil {
		return stamp{}, err
	}
	return stamp{info.ModTime(), info.Size(), info}, nil
}

// read reads all files. The stamps are taken before: what changes meanwhile is read
// once more.
func (c *Certificates) read() (*certificates, error) {
	read := &certificates{byName: map[string]*tls.Certificate{}}
	var errs []error
	for _, name := range c.names() {
		s, err := stampOf(name)
		if err != nil {
			errs = append(errs, fmt.Errorf("looking at a certificate: %w", err))
		}
		read.stamps = append(read.stamps, s)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	for _, f := range c.files {
		pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
		if err == nil {
			pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0])
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("reading the certificate %s with the key %s: %w", f.Cert, f.Key, err))
			continue
		}
		read.all = append(read.all, pair)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	for i := range read.all {
		for _, name := range read.all[i].Leaf.DNSNames {
			// Of two for the same name the first counts.
			if name = strings.ToLower(name); read.byName[name] == nil {
				read.byName[name] = &read.all[i]
			}
		}
	}
	return read, nil
}
