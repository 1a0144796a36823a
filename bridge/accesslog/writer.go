package accesslog

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"
)

const (
	// linger is how long a line waits for others to be written with it. With a tenth of
	// that, waking the goroutine costs a busy router more than all lines do.
	linger = 50 * time.Millisecond
	// retryEvery is how often writing is tried that fails.
	retryEvery = 200 * time.Millisecond
	// lookEvery is how often it is looked whether the file is still that of its path.
	lookEvery = time.Second
)

// writer is what only the writing goroutine touches, but for file, which the log's
// lock guards.
//
//	front ── swapped ──▶ back ── write ──▶ file
//	                      └── at: what of it was written
type writer struct {
	*Log
	to   io.Writer // file, if there is one
	file *os.File
	back []byte // whole lines that are being written
	at   int    // how much of it was
	// mend: the file ends within a line, which somebody else has begun.
	mend   bool
	looked time.Time
	failed bool  // the last write did
	lost   error // why the file of the path cannot be opened; nil: file is that
}

// run writes until stop is closed, and then what is left, if it can be.
func (w *writer) run(stop <-chan struct{}) {
	defer w.close()
	timer := time.NewTimer(linger)
	timer.Stop()
	defer timer.Stop()
	for {
		select {
		case <-w.some:
			if !w.failed {
				timer.Reset(linger)
			}
		case <-w.plenty:
			if w.failed {
				continue
			}
			w.follow()
			w.write(timer)
		case <-timer.C:
			w.follow()
			w.write(timer)
		case answer := <-w.reopen:
			w.write(timer)
			answer <- w.rotate()
			w.write(timer)
		case <-stop:
			w.write(timer)
			return
		}
	}
}

// write writes all lines that wait, and sets the timer if it fails.
func (w *writer) write(retry *time.Timer) {
	for {
		if w.at == len(w.back) {
			w.mu.Lock()
			w.back, w.front = w.front, w.back[:0]
			w.mu.Unlock()
			w.at = 0
		}
		if len(w.back) == 0 {
			return
		}
		err := w.writeBack(w.back[w.at:])
		w.note(err)
		if err != nil {
			retry.Reset(retryEvery)
			return
		}
	}
}

// writeBack writes a part of back, from at on.
func (w *writer) writeBack(p []byte) error {
	w.began.Store(time.Now().UnixNano())
	defer w.began.Store(0)
	if w.mend {
		if _, err := w.to.Write([]byte("\n")); err != nil {
			return err
		}
		w.mend = false
	}
	n, err := w.to.Write(p)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	w.at += n
	lines := int64(bytes.Count(p[:n], []byte("\n")))
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.ended {
		w.written += lines
	}
	return err
}

// note remembers whether writing fails, and if it does not, whether opening does.
func (w *writer) note(err error) {
	w.failed = err != nil
	if err == nil {
		err = w.lost
	}
	w.mu.Lock()
	news := (err == nil) != (w.err == nil)
	if news {
		w.since = time.Time{}
	}
	if news && err != nil {
		w.since = time.Now()
	}
	w.err, w.failing = err, w.failed
	w.mu.Unlock()
	if news && err != nil {
		poke(w.trouble)
	}
}

// follow opens the file anew if its path leads to another one, or nowhere.
func (w *writer) follow() {
	if w.file == nil || time.Since(w.looked) < lookEvery {
		return
	}
	w.looked = time.Now()
	now, err := os.Stat(w.o.Path)
	switch ours, failed := w.file.Stat(); {
	case failed != nil, err != nil && !errors.Is(err, fs.ErrNotExist):
		// That says nothing about the file.
	case err == nil && os.SameFile(ours, now):
		w.lost = nil
	default:
		// What is wrong, if anything is, is noted with the next write.
		w.lost = w.open()
	}
}

// rotate opens the file anew.
func (w *writer) rotate() error {
	w.lost = w.open()
	if !w.failed {
		w.note(nil)
	}
	return w.lost
}

// open opens the file of the path, and leaves the one before if it is another. A line
// that was written in part is ended in the file that has its beginning, or begun anew
// in the next one: what the old file has then is no line, since it does not end.
//
// It does not wait for a reader if the path is that of a pipe.
func (w *writer) open() error {
	w.looked = time.Now()
	next, err := os.OpenFile(w.o.Path, os.O_WRONLY|os.O_CREATE|os.O_APPEND|syscall.O_NONBLOCK, 0o640)
	if err != nil {
		return err
	}
	info, err := next.Stat()
	if err != nil {
		return errors.Join(err, next.Close())
	}
	if w.file != nil {
		if ours, err := w.file.Stat(); err == nil && os.SameFile(ours, info) {
			return next.Close()
		}
		w.leave()
		w.log.Info("access log goes on in another file", "path", w.o.Path)
	}
	w.to, w.mend = next, w.cutShort(info)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.file = next
	return nil
}

// leave closes the file before.
func (w *writer) leave() {
	if w.within() {
		end := w.at + bytes.IndexByte(w.back[w.at:], '\n') + 1
		_ = w.writeBack(w.back[w.at:end])
	}
	if w.within() {
		w.at = bytes.LastIndexByte(w.back[:w.at], '\n') + 1
	}
	w.file.Close()
}

// within tells whether a line was written in part.
func (w *writer) within() bool { return w.at > 0 && w.back[w.at-1] != '\n' }

// cutShort tells whether a file that was there already ends within a line, as the one
// of a program does that was killed.
func (w *writer) cutShort(info fs.FileInfo) bool {
	if !info.Mode().IsRegular() || info.Size() == 0 {
		return false
	}
	file, err := os.Open(w.o.Path)
	if err != nil {
		return false
	}
	defer file.Close()
	var last [1]byte
	n, _ := file.ReadAt(last[:], info.Size()-1)
	return n == 1 && last[0] != '\n'
}

// interrupt ends a write that does not return, where that can be done. It is called
// by the log's own goroutine.
func (w *writer) interrupt() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file != nil {
		// Not all that can be opened has deadlines.
		_ = w.file.SetWriteDeadline(time.Unix(1, 0))
	}
}

func (w *writer) close() {
	if w.file != nil {
		w.file.Close()
	}
}
