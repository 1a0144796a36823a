package state

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// version is that of all files.
const version = 1

// maxFile bounds what is read: a file that is longer is not ours.
const maxFile = 16 << 20

// corrupt is the error of a file whose content is wrong, in contrast to one that
// cannot be read.
type corrupt struct{ error }

func (c *corrupt) Unwrap() error { return c.error }

func (d *Dir) file(name string) string { return filepath.Join(d.path, name) }

// read decodes a file into v, strictly. A missing file leaves v alone and is no
// error. What is wrong with the content is a *corrupt that says where.
func (d *Dir) read(name string, v any) (found bool, err error) {
	path := d.file(name)
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading %s: %w", path, reason(err))
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return false, fmt.Errorf("reading %s: %w", path, reason(err))
	}
	if err := decode(content, v); err != nil {
		return true, &corrupt{fmt.Errorf("reading %s: %w", path, err)}
	}
	d.written[name] = content
	return true, nil
}

// decode accepts one JSON object of our version, with no member that v lacks and
// none twice.
func decode(content []byte, v any) error {
	if len(content) > maxFile {
		return fmt.Errorf("it is longer than %d bytes", maxFile)
	}
	var head struct {
		Version *int `json:"version"`
	}
	// This looks at all of it: what comes after the object is an error too.
	if err := json.Unmarshal(content, &head); err != nil {
		return located(err, content)
	}
	switch {
	case head.Version == nil:
		return errors.New("it has no version")
	case *head.Version != version:
		return fmt.Errorf("it has version %d, and this program knows version %d only", *head.Version, version)
	}
	if err := twice(json.NewDecoder(bytes.NewReader(content))); err != nil {
		return err
	}
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(v); err != nil {
		return located(err, content)
	}
	return nil
}

// twice looks for a member that an object has twice, of which encoding/json would
// take the last. The JSON is known to be valid, and so not nested too deep.
func twice(decoder *json.Decoder) error {
	token, err := decoder.Token()
	if err != nil {
		return err
	}
	open, nested := token.(json.Delim)
	if !nested {
		return nil
	}
	seen := make(map[json.Token]bool)
	for decoder.More() {
		if open == '{' {
			name, err := decoder.Token()
			if err != nil {
				return err
			}
			if seen[name] {
				return fmt.Errorf("member %q is there twice at offset %d", name, decoder.InputOffset())
			}
			seen[name] = true
		}
		if err := twice(decoder); err != nil {
			return err
		}
	}
	_, err = decoder.Token() // the closing bracket
	return err
}

// located says at which byte an error of encoding/json is.
func located(err error, content []byte) error {
	var (
		syntax *json.SyntaxError
		typed  *json.UnmarshalTypeError
	)
	switch {
	case errors.As(err, &syntax):
		return fmt.Errorf("%w at offset %d", err, syntax.Offset)
	case errors.As(err, &typed) && typed.Field == "":
		return fmt.Errorf("it is of type %s and not an object, at offset %d", typed.Value, typed.Offset)
	case errors.As(err, &typed):
		return fmt.Errorf("%s cannot be of type %s at offset %d", typed.Field, typed.Value, typed.Offset)
	}
	// The decoder tells only the name, in quotes as it most likely is in the file.
	if name, unknown := strings.CutPrefix(err.Error(), "json: unknown field "); unknown {
		return fmt.Errorf("unknown member %s at offset %d", name, max(bytes.Index(content, []byte(name)), 0))
	}
	return err
}

// write replaces a file unless it holds that content already. d.mu is held.
func (d *Dir) write(name string, content any) error {
	encoded, err := json.MarshalIndent(content, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding %s: %w", name, err)
	}
	encoded = append(encoded, '\n')
	if bytes.Equal(encoded, d.written[name]) {
		return nil
	}
	// What the file holds after a failure is not known.
	delete(d.written, name)
	if err := replace(d.file(name), encoded); err != nil {
		return fmt.Errorf("storing %s: %w", d.file(name), reason(err))
	}
	d.written[name] = encoded
	return nil
}

// replace writes beside the file, syncs and renames. The name beside it is always
// the same: the lock makes us the only writer, and what a crash has left there is
// written over.
func replace(path string, content []byte) error {
	beside := path + ".tmp"
	if err := os.Remove(beside); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(beside, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(beside, path)
	}
	if err != nil {
		os.Remove(beside) // it may fill a full disk
		return err
	}
	return syncDir(filepath.Dir(path))
}

// makeDir makes a directory if it is missing, and makes that durable.
func makeDir(path string) error {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return nil
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	return syncDir(filepath.Dir(filepath.Clean(path)))
}

// syncDir makes a rename durable.
func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// reason is what the system said, without the call and path that our own text
// names.
func reason(err error) error {
	var (
		path *os.PathError
		link *os.LinkError
	)
	switch {
	case errors.As(err, &path):
		return path.Err
	case errors.As(err, &link):
		return link.Err
	}
	return err
}

// unix is seconds since 1970, and 0 before.
func unix(t time.Time) uint64 { return uint64(max(t.Unix(), 0)) }
