package config

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"strings"
	"syscall"

	"switchboard/monitor/check"
)

// MaxSize is the largest configuration that is read, in bytes.
const MaxSize = 1 << 20

// The largest files that are read beside it, in bytes.
const (
	maxPassword    = 4 << 10
	maxCertificate = 1 << 20
)

// Source is where a configuration comes from: flag > environment > file >
// default, key by key.
type Source struct {
	// Path is the file. Without Path and Data all comes from Env and Flags.
	Path string
	// Data is read instead of the file if it is not nil; errors still name Path.
	Data []byte
	// Env is as [os.Environ] returns it. What does not begin with [EnvPrefix] is
	// passed over. A variable that is set to nothing sets its key to nothing.
	Env []string
	// Allow are variables of that prefix that are somebody else's; a "*" at the
	// end stands for any ending.
	Allow []string
	// Flags are values by the path of their key: "api.bind", "hosts[0].name".
	Flags map[string]string
	// Checks are the builders that the program links beside the built-in http, tcp
	// and exec, as in [runner.Config].
	Checks map[string]check.Builder
}

// Load reads a configuration, fills in the defaults and validates it. It opens
// nothing but the file, and the password files and certificates that it names. What is wrong comes
// back as [Errors], all at once; the File is nil then.
//
// A value that is overridden is not looked at. Lists of mappings are overridden
// member by member and grow by an index that is their length; lists of single
// values are written with commas and replaced whole.
func Load(source Source) (*File, error) {
	d := &decoder{at: make(map[string]place), bad: make(map[string]bool), partly: make(map[string]bool)}
	root := source.tree(&d.problems)
	if root == nil {
		return nil, d.err()
	}
	d.at[""] = root.at
	for _, o := range fromEnvironment(source.Env, source.Allow, &d.problems) {
		root.put(o, &d.problems)
	}
	for _, o := range fromFlags(source.Flags, &d.problems) {
		root.put(o, &d.problems)
	}
	file := new(File)
	d.mapping(root, reflect.ValueOf(file).Elem(), "")
	v := &validator{decoder: d, file: file}
	v.validate(source.Checks)
	if err := d.err(); err != nil {
		return nil, err
	}
	return file, nil
}

// tree reads and parses the file. It returns nil if it has reported why it
// cannot.
func (s Source) tree(problems *problems) *node {
	name, data := s.Path, s.Data
	if name == "" {
		name = "configuration"
	}
	if data == nil && s.Path == "" {
		return &node{at: place{source: name}}
	}
	if data == nil {
		var err error
		if data, _, err = read(s.Path, MaxSize); err != nil {
			problems.list = append(problems.list, &Error{Where: name, Problem: "cannot be read: " + reason(err), cause: err})
			return nil
		}
	}
	if len(data) > MaxSize {
		problems.add(place{source: name}, "", "cannot be read: %v", errTooLarge(MaxSize))
		return nil
	}
	return parse(name, data, problems)
}

type errTooLarge int

func (e errTooLarge) Error() string { return fmt.Sprintf("it is larger than %d bytes", int(e)) }

// read reads a file of at most most bytes.
func read(path string, most int) ([]byte, fs.FileMode, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, 0, err
	}
	data, err := io.ReadAll(io.LimitReader(file, int64(most)+1))
	if err == nil && len(data) > most {
		err = errTooLarge(most)
	}
	return data, info.Mode(), err
}

// reason is what went wrong, without the path, which the error names anyway.
func reason(err error) string {
	var path *fs.PathError
	switch {
	case errors.Is(err, syscall.EISDIR):
		return "it is a directory; name a file in it"
	case errors.As(err, &path):
		return path.Err.Error()
	default:
		return err.Error()
	}
}

// password reads a password file, without the newline that editors put at its
// end.
func (v *validator) password(path, name string) Secret {
	data, mode, err := read(name, maxPassword)
	if err != nil {
		v.wrong(path, "%s cannot be read: %s", quote(name), reason(err))
		return ""
	}
	if mode.Perm()&0o004 != 0 {
		v.warn(path, quote(name)+" can be read by every user of this machine: chmod o-r it")
	}
	data = bytes.TrimSuffix(data, []byte("\n"))
	data = bytes.TrimSuffix(data, []byte("\r"))
	switch {
	case len(data) == 0:
		v.wrong(path, "%s is empty: it must hold the password", quote(name))
	case strings.ContainsAny(string(data), "\r\n\x00"):
		v.wrong(path, "%s holds more than one line: it must hold the password alone", quote(name))
	}
	return Secret(data)
}

// certificates reads the pairs of the list at path, only to see that they are
// pairs.
func (v *validator) certificates(path string, all []Certificate) {
	for i, c := range all {
		at := element(path, i)
		if v.unread(at) {
			continue
		}
		pem := func(key, name string) []byte {
			data, _, err := read(name, maxCertificate)
			if err != nil {
				v.wrong(join(at, key), "%s cannot be read: %s", quote(name), reason(err))
			}
			return data
		}
		cert, key := pem("cert", c.Cert), pem("key", c.Key)
		if v.unread(at) {
			continue
		}
		if _, err := tls.X509KeyPair(cert, key); err != nil {
			v.wrong(at, "%s and %s are no certificate and its key: %v", quote(c.Cert), quote(c.Key), err)
		}
	}
}
