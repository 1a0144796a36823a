package stats

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"strconv"
)

const (
	// headBytes is how much of a file's beginning, and of its end, it is known by.
	headBytes = 1024
	// mostDone is how many files are remembered that have been read.
	mostDone = 16
)

// mark is what a file is known by wherever it is moved or copied to: the sum of its first
// bytes. Lines begin with times, so two logs do not begin alike.
type mark struct {
	Bytes int    `json:"bytes"`
	Sum   string `json:"sum"`
}

// markOf is the mark of a file that begins with head.
func markOf(head []byte) mark {
	sum := fnv.New64a()
	sum.Write(head)
	return mark{Bytes: len(head), Sum: strconv.FormatUint(sum.Sum64(), 16)}
}

// finished is a file that was read to its end, known by how it begins and how it ends: a
// beginning may be no line, and say little.
type finished struct {
	mark
	Size int64  `json:"size"`
	Tail string `json:"tail"`
}

// position is how far a log has been counted. It is committed with the counters, and
// replaced only by one who has read it: what Redis holds is the truth.
type position struct {
	// Log is the file that is followed; another reader of the same name is refused by it.
	Log string `json:"log"`
	// Inode, Head and Offset are those of the file that is read now: the log, or what was
	// the log before it was rotated. Inode 0: no file yet.
	Inode  uint64 `json:"inode"`
	Head   mark   `json:"head"`
	Offset int64  `json:"offset"`
	// Long: Offset lies within a line that is too long and is skipped.
	Long bool `json:"long,omitempty"`
	// Modified is when that file was written to when it was read last, in nanoseconds
	// since 1970. Files that are older are not read, should it be gone.
	Modified int64 `json:"modified"`
	// Step makes each position another one.
	Step uint64 `json:"step"`
	// Done are files that are finished, the newest last.
	Done []finished `json:"done,omitempty"`
}

// parsePosition reads what Redis holds; "" is no position. A mere number is an offset that
// an older reader has left.
func parsePosition(text string) (position, error) {
	if text == "" {
		return position{}, nil
	}
	if offset, err := strconv.ParseInt(text, 10, 64); err == nil && offset >= 0 {
		return position{Offset: offset}, nil
	}
	var p position
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		return position{}, fmt.Errorf("%w: reading it: %w", errPosition, err)
	}
	if p.Offset < 0 || p.Head.Bytes < 0 || p.Head.Bytes > headBytes || int64(p.Head.Bytes) > p.Offset {
		return position{}, fmt.Errorf("%w: it makes no sense: %.200q", errPosition, text)
	}
	return p, nil
}

func (p position) String() string {
	text, _ := json.Marshal(p) // plain values always encode
	return string(text)
}

// is tells whether p and o are the same place.
func (p position) is(o position) bool {
	return p.Inode == o.Inode && p.Offset == o.Offset && p.Long == o.Long
}

// finish is the position before the first byte of another file. tail is the sum of what
// the one before ends with, "" if it is not there any more.
func (p position) finish(tail string) position {
	done := p.Done
	if tail != "" {
		done = append(done[max(0, len(done)+1-mostDone):len(done):len(done)], finished{p.Head, p.Offset, tail})
	}
	return position{Log: p.Log, Modified: p.Modified, Step: p.Step, Done: done}
}
