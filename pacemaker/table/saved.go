package table

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"switchboard/bridge/route"
)

// Saved is a table as it was at one moment, with what a [Watcher] needs to go on from there.
type Saved struct {
	// Serial is that of the table.
	Serial uint64
	// Table is the table. It is nil in one that was read: which of its members may serve
	// is decided by who loads it.
	Table *route.Table

	// last is the ID of the last change record that is in the table.
	last string
	// entries are the hosts of one that was read.
	entries []savedHost
}

// savedVersion is that of the format.
const savedVersion = 1

// savedHead is the first line of a saved table, savedHost each line after it, and savedEnd the
// last one: a file that was cut, or has a bit that is wrong, is not believed.
type savedHead struct {
	Version int    `json:"version"`
	Serial  uint64 `json:"serial"`
	Last    string `json:"last"`
}

type savedHost struct {
	Host    string            `json:"host"`
	Members []string          `json:"members"`
	Fields  map[string]string `json:"fields,omitempty"`
}

type savedEnd struct {
	// End is how many hosts there were.
	End *int `json:"end"`
	// Sum is the CRC-32 (IEEE) of all lines before.
	Sum uint32 `json:"sum"`
}

// WriteTo writes s as lines of JSON, and returns how many bytes those are.
func (s Saved) WriteTo(to io.Writer) (int64, error) {
	sum := crc32.NewIEEE()
	buffer := bufio.NewWriterSize(to, 64<<10)
	var written int64
	line := func(v any, out io.Writer) error {
		text, err := json.Marshal(v)
		if err != nil {
			return err
		}
		n, err := out.Write(append(text, '\n'))
		written += int64(n)
		return err
	}
	both := io.MultiWriter(buffer, sum)
	err := line(savedHead{Version: savedVersion, Serial: s.Serial, Last: s.last}, both)
	n := 0
	for host := range s.Table.All() {
		if err != nil {
			break
		}
		members, fields := encodeHost(host)
		err = line(savedHost{Host: host.Name, Members: members, Fields: fields}, both)
		n++
	}
	if err == nil {
		err = line(savedEnd{End: &n, Sum: sum.Sum32()}, buffer)
	}
	if err == nil {
		err = buffer.Flush()
	}
	if err != nil {
		return written, fmt.Errorf("writing the table: %w", err)
	}
	return written, nil
}

// ReadSaved reads what [Saved.WriteTo] has written, and believes all of it or nothing.
func ReadSaved(from io.Reader) (Saved, error) {
	saved, err := readSaved(from)
	if err != nil {
		return Saved{}, fmt.Errorf("reading a saved table: %w", err)
	}
	return saved, nil
}

func readSaved(from io.Reader) (Saved, error) {
	reader := bufio.NewReaderSize(from, 64<<10)
	sum := crc32.NewIEEE()
	first, err := reader.ReadBytes('\n')
	if err != nil {
		return Saved{}, errors.New("it has no first line")
	}
	var head savedHead
	if err := json.Unmarshal(first, &head); err != nil {
		return Saved{}, fmt.Errorf("reading its first line: %w", err)
	}
	if head.Version != savedVersion {
		return Saved{}, fmt.Errorf("it has version %d, and this program knows version %d", head.Version, savedVersion)
	}
	sum.Write(first)
	saved := Saved{Serial: head.Serial, last: head.Last}
	for {
		text, err := reader.ReadBytes('\n')
		if err != nil {
			return Saved{}, fmt.Errorf("it ends after %d hosts without its last line", len(saved.entries))
		}
		if bytes.HasPrefix(text, []byte(`{"end":`)) {
			var end savedEnd
			if err := json.Unmarshal(text, &end); err != nil || end.End == nil {
				return Saved{}, errors.New("its last line is broken")
			}
			if *end.End != len(saved.entries) || end.Sum != sum.Sum32() {
				return Saved{}, errors.New("it is not what was written: the checksum differs")
			}
			if _, err := reader.ReadByte(); err != io.EOF {
				return Saved{}, errors.New("something follows its last line")
			}
			return saved, nil
		}
		sum.Write(text)
		var host savedHost
		if err := json.Unmarshal(text, &host); err != nil {
			return Saved{}, fmt.Errorf("reading host %d: %w", len(saved.entries)+1, err)
		}
		saved.entries = append(saved.entries, host)
	}
}

// hosts are those of a saved table, without members that may not be any more.
func (s Saved) hosts(refuse func(netip.AddrPort) error) ([]*route.Host, error) {
	var hosts []*route.Host
	if s.Table != nil {
		for host := range s.Table.All() {
			hosts = append(hosts, host)
		}
		return hosts, nil
	}
	for _, entry := range s.entries {
		if err := validHost(entry.Host); err != nil {
			return nil, err
		}
		if host := decodeHost(entry.Host, entry.Members, entry.Fields, refuse, func(Rejection) {}); host != nil {
			hosts = append(hosts, host)
		}
	}
	return hosts, nil
}

// File keeps a table in a file, whose methods are what [WatcherOptions] call Load and Save.
type File string

// Load reads the file.
func (f File) Load() (Saved, error) {
	file, err := os.Open(string(f))
	if err != nil {
		return Saved{}, err
	}
	defer file.Close()
	return ReadSaved(file)
}

// Save writes the file whole, or leaves it as it was: a file beside it, with ".new" after
// its name, is written, synced, and renamed.
func (f File) Save(s Saved) (err error) {
	temp, err := os.OpenFile(string(f)+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			temp.Close()
			os.Remove(temp.Name())
		}
	}()
	if _, err = s.WriteTo(temp); err != nil {
		return err
	}
	if err = temp.Sync(); err != nil {
		return err
	}
	if err = temp.Close(); err != nil {
		return err
	}
	if err = os.Rename(temp.Name(), string(f)); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(string(f)))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// saveEvery is the least time between two saves; a save that takes long is followed by a
// rest that is longer still.
const saveEvery = time.Second

// keep saves tables until looped is closed, and what is new then. Run waits for it.
func (w *Watcher) keep(looped <-chan struct{}) {
	if w.o.Save == nil {
		return
	}
	var rest <-chan time.Time // nil: a save may come at once
	fresh := w.news
	for {
		select {
		case <-fresh:
			took := w.save()
			rest, fresh = time.After(max(saveEvery, 4*took)), nil
		case <-rest:
			rest, fresh = nil, w.news
		case <-looped:
			select {
			case <-w.news:
				w.save()
			default:
			}
			return
		}
	}
}

func (w *Watcher) save() (took time.Duration) {
	began := time.Now()
	saved := w.saved.Load()
	if err := w.o.Save(*saved); err != nil {
		if words := err.Error(); w.unsaved.Swap(&words) == nil {
			w.log.Error("the table cannot be saved", "cause", err)
		}
	} else if w.unsaved.Swap(nil) != nil {
		w.log.Info("the table is saved again", "serial", saved.Serial)
	}
	return time.Since(began)
}
