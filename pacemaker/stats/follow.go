package stats

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// maxLine is the longest line that is read, in bytes. Ours have at most a quarter.
	maxLine = 64 << 10
	// minHead is how much of a file must be known to find a copy of it.
	minHead = 64
)

// errPosition is a position that helps no reader of this log.
var errPosition = errors.New("the position cannot be used")

// tally is what happened to a log.
type tally struct {
	// rotations and truncations were noticed; lost files were gone before they were
	// finished.
	rotations, truncations, lost uint64
	// broken lines are no records, long ones were skipped unread.
	broken, long uint64
}

// follower reads a log through its rotations. It has one file open: the one that it reads.
type follower struct {
	// path is absolute.
	path   string
	settle time.Duration
	log    *slog.Logger

	file *os.File
	at   position
	// head are the first bytes of the file, up to headBytes or at.Offset.
	head []byte
	// size is the file's when it was looked at last, and grown is when it was another.
	size  int64
	grown time.Time
	// rotated: the file is not the log any more.
	rotated bool
	tally   tally
	buffer  []byte
	// full: the last read filled the buffer, so there is more.
	full bool
}

func (f *follower) close() {
	if f.file != nil {
		f.file.Close()
	}
	f.file = nil
}

// use reads on in file, at f.at.
func (f *follower) use(file *os.File, head []byte) error {
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return err
	}
	if f.file != file {
		f.close()
	}
	f.file, f.head, f.rotated = file, head, false
	f.at.Inode = inode(info)
	f.size, f.grown = info.Size(), time.Now()
	return nil
}

// seek makes p the position. A file that is open and is the one that p is in stays open.
func (f *follower) seek(p position) error {
	switch {
	case p.Log != "" && p.Log != f.path:
		return fmt.Errorf("%w: it is one in %s and not in %s; give each log that is read a node of its own", errPosition, p.Log, f.path)
	case p.Inode == 0 && f.file != nil && p.Offset == 0:
		// The log as it was when it was first seen, though it may be rotated by now.
		p.Log = f.path
		f.at = p
		return f.use(f.file, nil)
	case p.Inode == 0:
		p.Log = f.path
		f.close()
		f.at = p
		return f.open()
	}
	f.at = p
	if f.file != nil {
		if head, is := f.holds(f.file, p, true); is {
			return f.use(f.file, head)
		}
	}
	f.close()
	file, head, err := f.find(p)
	if err != nil {
		return err
	}
	if file != nil {
		return f.use(file, head)
	}
	return f.missing()
}

// open opens the log, if it is there, where no file was read before.
func (f *follower) open() error {
	file, err := openLog(f.path)
	if file == nil || err != nil {
		return err
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return err
	}
	head, err := readHead(file, min(f.at.Offset, headBytes))
	if err != nil || info.Size() < f.at.Offset {
		// An offset of an older reader, in a file that is another one by now.
		f.at.Offset, head = 0, nil
	}
	f.at.Head = mark{}
	if len(head) > 0 {
		f.at.Head = markOf(head)
	}
	return f.use(file, head)
}

// missing goes on where no file has what was read before: it was truncated, or it is gone.
func (f *follower) missing() error {
	before := f.at
	// Nothing is left of it, so its inode may be another file's.
	next, err := f.successors(before.Modified, 0)
	if err != nil || len(next) == 0 {
		return err // the log is not there; there will be one
	}
	if len(next) == 1 && next[0].inode == before.Inode {
		f.truncated()
		return f.open()
	}
	f.log.Warn("a log is gone before it was read to its end", "log", f.path, "inode", before.Inode, "offset", before.Offset)
	f.tally.lost++
	return f.begin(next[0])
}

// truncated goes back to the beginning.
func (f *follower) truncated() {
	f.log.Warn("the log was truncated in place: what had not been read is lost", "log", f.path, "offset", f.at.Offset)
	f.tally.truncations++
	f.at = f.at.finish("")
}

// begin reads another file from its first byte.
func (f *follower) begin(next candidate) error {
	file, err := openLog(next.path)
	if file == nil || err != nil {
		return err
	}
	tail := ""
	if f.file != nil {
		tail = tailOf(f.file, f.at.Offset)
	}
	f.at = f.at.finish(tail)
	return f.use(file, nil)
}

// next reads up to len(f.buffer) bytes and returns the whole lines among them; they are
// read again unless take is called. nil: there is none, though the position may be another.
func (f *follower) next() ([]byte, error) {
	for {
		if f.file == nil {
			if err := f.seek(f.at); err != nil || f.file == nil {
				return nil, err
			}
		}
		n, err := f.file.ReadAt(f.buffer, f.at.Offset)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("reading the log: %w", err)
		}
		f.full = n == len(f.buffer)
		// Only now: what was read before a truncation must not be taken for what came after.
		if _, is := f.holds(f.file, f.at, false); !is {
			if err := f.replaced(); err != nil {
				return nil, err
			}
			continue
		}
		lines, skipped := f.lines(f.buffer[:n])
		if len(lines) > 0 {
			return lines, nil
		}
		if skipped {
			// However long the line is, a pass reads a buffer of it.
			f.full = true
			return nil, nil
		}
		if moved, err := f.move(n > 0); err != nil || !moved {
			return nil, err
		}
	}
}

// lines cuts data after its last newline. A line that is longer than maxLine is taken at
// once, and skipped.
func (f *follower) lines(data []byte) (lines []byte, skipped bool) {
	if f.at.Long {
		end := bytes.IndexByte(data, '\n') + 1
		f.at.Long = end == 0
		if end == 0 {
			end = len(data)
		}
		f.take(data[:end])
		return nil, end > 0
	}
	if end := bytes.LastIndexByte(data, '\n') + 1; end > 0 {
		return data[:end], false
	}
	if len(data) <= maxLine {
		return nil, false
	}
	f.tally.long++
	f.at.Long = true
	f.take(data)
	return nil, true
}

// take goes on behind data, which begins at the position.
func (f *follower) take(data []byte) {
	if more := headBytes - len(f.head); more > 0 && len(data) > 0 {
		f.head = append(f.head, data[:min(more, len(data))]...)
		f.at.Head = markOf(f.head)
	}
	f.at.Offset += int64(len(data))
}

// holds tells whether file is the one that p is in, and returns what it begins with. A file
// that was moved has the same inode; one that was copied does not.
func (f *follower) holds(file *os.File, p position, moved bool) (head []byte, is bool) {
	info, err := file.Stat()
	if err != nil || info.Size() < p.Offset || moved && inode(info) != p.Inode {
		return nil, false
	}
	if !moved {
		f.looked(info)
	}
	head, err = readHead(file, int64(p.Head.Bytes))
	return head, err == nil && (len(head) == 0 || markOf(head) == p.Head)
}

// looked notes how large the file is and when it was written to.
func (f *follower) looked(info fs.FileInfo) {
	if size := info.Size(); size != f.size {
		f.size, f.grown = size, time.Now()
	}
	f.at.Modified = info.ModTime().UnixNano()
}

// replaced goes on where the file has other content than it had: it was truncated, and a
// copy of what it had may lie beside it.
func (f *follower) replaced() error {
	file, head, err := f.find(f.at)
	if err != nil {
		return err
	}
	if file == nil {
		f.truncated()
		return f.use(f.file, nil)
	}
	f.log.Info("the log was truncated in place: its copy is read to the end", "log", f.path, "copy", file.Name())
	f.tally.truncations++
	return f.use(file, head)
}

// find looks for the file that p is in, beside the log: the same file by another name, or
// else a copy of it. It returns nil if there is none.
func (f *follower) find(p position) (*os.File, []byte, error) {
	beside, err := f.beside()
	if err != nil {
		return nil, nil, err
	}
	for _, moved := range []bool{true, false} {
		for _, c := range beside {
			if moved != (c.inode == p.Inode) || !moved && (p.Head.Bytes < minHead || !c.ours) {
				continue
			}
			file, err := openLog(c.path)
			if err != nil {
				return nil, nil, err
			}
			if file == nil {
				continue
			}
			info, err := file.Stat()
			head, headErr := readHead(file, int64(p.Head.Bytes))
			if err == nil && headErr == nil && info.Size() >= p.Offset && moved == (inode(info) == p.Inode) && (len(head) == 0 || markOf(head) == p.Head) {
				return file, head, nil
			}
			file.Close()
		}
	}
	return nil, nil, nil
}

// move goes to the file after this one, if this one is finished: it is not the log any
// more, its writer has begun another, and it has not grown since for a while. partial: its
// end is a line without a newline, which then stays one.
func (f *follower) move(partial bool) (moved bool, err error) {
	log, err := os.Stat(f.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil // rotated, and its writer has not noticed yet
	case err != nil:
		return false, fmt.Errorf("looking for the log: %w", err)
	case inode(log) == f.at.Inode:
		f.rotated = false
		return false, nil
	}
	if !f.rotated {
		f.rotated, f.grown = true, time.Now()
	}
	next, err := f.successors(f.at.Modified, f.at.Inode)
	if err != nil {
		return false, err
	}
	begun := slices.ContainsFunc(next, func(c candidate) bool { return c.size > 0 })
	if !begun || len(next) == 1 && time.Since(f.grown) < f.settle {
		return false, nil
	}
	info, err := f.file.Stat()
	if err != nil {
		return false, fmt.Errorf("looking at the log: %w", err)
	}
	if info.Size() != f.size {
		f.looked(info)
		return true, nil // there is more to read of it after all
	}
	before := f.at
	if err := f.begin(next[0]); err != nil || f.at.Inode == before.Inode {
		return false, err
	}
	f.tally.rotations++
	if partial {
		f.tally.broken++
		f.log.Warn("a rotated log ends within a line, which is lost", "log", f.path, "inode", before.Inode, "offset", before.Offset)
	}
	f.log.Info("the log was rotated, and the old one is finished", "log", f.path, "inode", before.Inode, "bytes", before.Offset)
	return true, nil
}

// behind is how many bytes are there that were not read, in the file and in those after it.
func (f *follower) behind() int64 {
	if f.file == nil {
		return 0
	}
	sum := max(0, f.size-f.at.Offset)
	if f.rotated {
		next, err := f.successors(f.at.Modified, f.at.Inode)
		if err == nil {
			for _, c := range next {
				sum += c.size
			}
		}
	}
	return sum
}

// candidate is a file that may be the log, or may have been.
type candidate struct {
	path            string
	inode           uint64
	size, modified  int64
	ours, isCurrent bool
}

// rotatedName is what rotation adds to a name: a number, or a date.
var rotatedName = regexp.MustCompile(`^[.-]?[0-9][0-9._:TZ+-]*$`)

// ours tells whether a file beside the log is one that was the log, by its name: log.1,
// log-20261125, or with the number before the extension. Compressed ones are not read.
func (f *follower) ours(name string) bool {
	base := filepath.Base(f.path)
	if rest, cut := strings.CutPrefix(name, base); cut {
		return rotatedName.MatchString(rest) || rest == ".old"
	}
	extension := filepath.Ext(base)
	rest, cut := strings.CutPrefix(name, strings.TrimSuffix(base, extension))
	rest, end := strings.CutSuffix(rest, extension)
	return cut && end && extension != "" && rotatedName.MatchString(rest)
}

// beside are the log and the regular files in its directory.
func (f *follower) beside() ([]candidate, error) {
	entries, err := os.ReadDir(filepath.Dir(f.path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking for rotated logs: %w", err)
	}
	var all []candidate
	add := func(path string, ours, current bool) {
		info, err := os.Stat(path)
		// One that is gone by now was none to read.
		if err == nil && info.Mode().IsRegular() {
			all = append(all, candidate{path, inode(info), info.Size(), info.ModTime().UnixNano(), ours, current})
		}
	}
	add(f.path, true, true)
	for _, e := range entries {
		if e.Name() != filepath.Base(f.path) && e.Type().IsRegular() {
			add(filepath.Join(filepath.Dir(f.path), e.Name()), f.ours(e.Name()), false)
		}
	}
	return all, nil
}

// successors are the files that became the log after the one with that inode, which was
// written to at modified; the log itself is the last. Those that are finished are not
// among them.
func (f *follower) successors(modified int64, current uint64) ([]candidate, error) {
	all, err := f.beside()
	if err != nil {
		return nil, err
	}
	here := candidate{modified: modified, inode: current}
	if i := slices.IndexFunc(all, func(c candidate) bool { return c.inode == current }); i >= 0 {
		here.path = all[i].path
	}
	all = slices.DeleteFunc(all, func(c candidate) bool {
		return c.inode == current || !c.ours || !c.isCurrent && c.compare(here) <= 0 || f.finished(c)
	})
	slices.SortFunc(all, candidate.compare)
	return all, nil
}

// finished tells whether a file has been read to its end, or one that it is a copy of.
func (f *follower) finished(c candidate) bool {
	file, err := openLog(c.path)
	if file == nil || err != nil {
		return false
	}
	defer file.Close()
	return slices.ContainsFunc(f.at.Done, func(d finished) bool {
		head, err := readHead(file, int64(d.Bytes))
		return err == nil && markOf(head) == d.mark && tailOf(file, d.Size) == d.Tail
	})
}

// compare orders files by when they were the log. Each got its last line before the next
// one did; if the clock is too coarse for that, names decide: log.2 is before log.1, and
// dates are in their order.
func (c candidate) compare(o candidate) int {
	switch {
	case c.isCurrent != o.isCurrent:
		if c.isCurrent {
			return 1
		}
		return -1
	case c.modified != o.modified:
		if c.modified < o.modified {
			return -1
		}
		return 1
	}
	one, other := ordinal(c.path), ordinal(o.path)
	if one >= 0 && other >= 0 {
		return other - one
	}
	return strings.Compare(c.path, o.path)
}

// ordinal is the number at the end of a name, -1 if there is none or if it is a date.
func ordinal(path string) int {
	end := path[strings.LastIndexAny(path, ".-")+1:]
	n, err := strconv.Atoi(end)
	if err != nil || len(end) > 4 {
		return -1
	}
	return n
}

// openLog opens a file to read; nil: it is not there. It waits for nobody, as it would for
// the writer of a named pipe.
func openLog(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("opening the log: %w", err)
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file", path)
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("opening the log: %w", err)
	}
	return file, nil
}

// readHead reads the first n bytes.
func readHead(file *os.File, n int64) ([]byte, error) {
	head := make([]byte, n, headBytes)
	_, err := io.ReadFull(io.NewSectionReader(file, 0, n), head)
	return head, err
}

// tailOf is the sum of the bytes before end, "" if there are none.
func tailOf(file *os.File, end int64) string {
	tail := make([]byte, min(end, headBytes))
	if n, err := file.ReadAt(tail, end-int64(len(tail))); n < len(tail) && err != nil || n == 0 {
		return ""
	}
	return markOf(tail).Sum
}

func inode(info fs.FileInfo) uint64 {
	if stat, is := info.Sys().(*syscall.Stat_t); is {
		return stat.Ino
	}
	return 0
}
