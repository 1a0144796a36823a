package table

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"reflect"
	"slices"
	"sync"
	"time"

	"switchboard/bridge/route"
)

const (
	// mostRecords is how many change records are read in one call.
	mostRecords = 10_000
	// mostChunk is how many hosts are read in one call.
	mostChunk = 500
	// MaxRejections is how many rejections a [Status] tells of.
	MaxRejections = 20
	// maxLogged is how many rejections of one step are logged.
	maxLogged = 10
)

// news is what one read of the stream brought.
type news struct {
	hosts []string
	// seen and last are the position after it.
	seen uint64
	last string
	// gap: a record is missing, or a serial went on without one.
	gap bool
	// cut: there may be more.
	cut bool
}

// step is one turn of the loop: hear of changes, look where Redis is, and bring the table
// there. Its errors are of Redis, and the next step begins where this one did.
func (w *Watcher) step(ctx context.Context) error {
	w.logged = 0
	n, err := w.listen(ctx)
	if err != nil {
		return err
	}
	w.hear()
	for _, host := range n.hosts {
		w.dirty[host] = struct{}{}
	}
	hosts := w.next()
	p, contents, err := w.reader.look(ctx, w.last, hosts)
	if err != nil {
		return err
	}
	w.status.Redis = p.serial
	w.status.Changes += uint64(len(n.hosts))
	if believed := w.judge(p, n); believed {
		w.apply(hosts, decodeAll(hosts, contents, w.o.Refuse))
	}
	if w.whole == nil && time.Since(w.inspected) >= inspectEvery {
		w.inspected, w.info = time.Now(), w.reader.inspect(ctx)
	}
	if err := w.compare(ctx); err != nil {
		return err
	}
	w.settle()
	w.show()
	// Who is answered finds what was accepted in the status.
	for _, answer := range w.obeyed {
		answer <- nil
	}
	w.obeyed = nil
	if len(n.hosts) > 0 && !n.cut {
		w.pace(ctx)
	}
	return nil
}

// burst is how many tables may follow one another without a pause.
const burst = 10

// pace keeps tables apart that are made of a stream of changes, so that those who get them
// are not kept busy; a few changes are not held up.
func (w *Watcher) pace(ctx context.Context) {
	now := time.Now()
	w.paced = now.Add(max(w.paced.Sub(now), -burst*w.o.Pause) + w.o.Pause)
	if ahead := w.paced.Sub(now); ahead > 0 {
		w.wait(ctx, ahead)
	}
}

// listen waits for change records, for as long as there is nothing else to do.
func (w *Watcher) listen(ctx context.Context) (news, error) {
	n := news{seen: w.seen, last: w.last}
	if w.held && len(w.accepting) == 0 {
		w.wait(ctx, w.o.Poll)
		return n, nil
	}
	block := min(w.o.Poll, time.Until(w.resync))
	if w.due != nil {
		block = min(block, time.Until(w.notBefore))
	}
	// A block of less than a millisecond would be one for ever.
	if w.whole != nil || len(w.dirty) > 0 || len(w.accepting) > 0 || block < time.Millisecond {
		block = 0
	}
	if w.held || w.last == "" {
		return n, nil
	}
	records, err := w.reader.follow(ctx, w.last, mostRecords, block)
	if err != nil {
		return news{}, err
	}
	n.cut = len(records) == mostRecords
	for _, r := range records {
		// One step may have many records of one serial.
		if r.serial != n.seen && r.serial != n.seen+1 {
			n.gap = true
		}
		n.seen, n.last = max(n.seen, r.serial), r.id
		n.hosts = append(n.hosts, r.host)
	}
	return n, nil
}

// next are hosts that must be read again, as many as one call may have.
func (w *Watcher) next() []string {
	if w.table == nil {
		// The first table is not there yet; they are read when it is.
		return nil
	}
	hosts := make([]string, 0, min(len(w.dirty), w.chunk))
	for host := range w.dirty {
		if len(hosts) == w.chunk {
			break
		}
		if err := validHost(host); err != nil {
			w.refuse(host, err)
			delete(w.dirty, host)
			continue
		}
		hosts = append(hosts, host)
	}
	return hosts
}

// judge decides whether Redis is where it should be, given its position, and notes what
// must be compared. False is not to take anything from it now.
func (w *Watcher) judge(p position, n news) bool {
	known := w.last != "" && w.last != zeroID
	switch {
	case len(w.accepting) > 0 && !w.accepted(), w.table == nil && w.whole == nil:
		w.begin(p, reasons{moved: true, accepted: true})
		return false
	case w.table == nil:
		// The first compare goes on; there is nothing yet that could be kept.
	case p.serial < w.seen, known && !p.present && p.serial == w.seen && p.last != "":
		w.hold()
		return false
	case w.held, w.last == "", known && !p.present:
		// What we knew of is there again, or was passed, or the record is trimmed, or the
		// stream is gone: what happened meanwhile is not known.
		w.begin(p, reasons{moved: p.serial > w.seen})
		return false
	}
	if n.gap {
		w.due = w.due.and(&reasons{moved: true})
	}
	w.seen, w.last = n.seen, n.last
	if (p.last == w.last || p.last == "") && p.serial != w.seen {
		// All records are read, so nobody has recorded what moved the serial.
		w.due = w.due.and(&reasons{moved: true})
		w.seen = p.serial
	}
	return true
}

// accepted tells whether a compare is due, or goes on, that takes whatever Redis has.
func (w *Watcher) accepted() bool {
	return w.due != nil && w.due.accepted || w.whole != nil && w.whole.reasons.accepted
}

// begin follows from a position on, and has all before it compared.
func (w *Watcher) begin(p position, r reasons) {
	w.seen, w.last = p.serial, p.last
	if w.last == "" {
		w.last = zeroID
	}
	w.held = false
	clear(w.dirty)
	if w.whole != nil {
		w.due = w.whole.reasons.and(w.due)
		w.whole = nil
	}
	w.due = w.due.and(&r)
	if r.accepted {
		w.notBefore = time.Time{}
	}
}

// hold keeps the table that we have.
func (w *Watcher) hold() {
	w.held = true
	clear(w.dirty)
	if w.whole != nil {
		w.due = w.whole.reasons.and(w.due)
		w.whole = nil
	}
}

// apply brings hosts to what Redis has. A host that cannot be read stays as it is.
func (w *Watcher) apply(names []string, readings []reading) {
	var put []*route.Host
	var drop []string
	for i, name := range names {
		delete(w.dirty, name)
		r := readings[i]
		w.reject(name, r.rejected)
		if !r.readable {
			continue
		}
		switch before := w.table.Get(name); {
		case same(before, r.host):
		case r.host == nil:
			drop = append(drop, name)
		default:
			put = append(put, r.host)
		}
	}
	w.change(put, drop)
}

// change publishes a table with put and without drop.
func (w *Watcher) change(put []*route.Host, drop []string) {
	if len(put) == 0 && len(drop) == 0 {
		return
	}
	next, err := w.table.With(put, drop)
	if err != nil {
		// The decoder lets nothing through that a table refuses. If it did, the host that
		// is to blame is found, and the others are not held up.
		next, _ = w.table.With(nil, drop)
		for _, host := range put {
			if with, err := next.With([]*route.Host{host}, nil); err == nil {
				next = with
			} else {
				w.refuse(host.Name, err)
			}
		}
	}
	w.publish(next)
}

// reject notes what of a host is rejected now, and logs what is new.
func (w *Watcher) reject(name string, rejected []Rejection) {
	before, some := w.rejections[name]
	if !some && len(rejected) == 0 || slices.Equal(before, rejected) {
		return
	}
	for _, change := range []struct {
		all  []Rejection
		sign int
	}{{before, -1}, {rejected, +1}} {
		for _, r := range change.all {
			switch r.Kind {
			case RejectedHost:
				w.status.Rejected.Hosts += change.sign
			case RejectedMember:
				w.status.Rejected.Members += change.sign
			case RejectedOption:
				w.status.Rejected.Options += change.sign
			}
		}
	}
	for _, r := range rejected {
		if w.logged++; w.logged > maxLogged {
			if w.logged == maxLogged+1 {
				w.log.Warn("more entries of the table are rejected; the status counts them")
			}
			break
		}
		w.log.Warn("an entry of the table is rejected", "host", r.Host, "kind", r.Kind, "why", r.Why)
	}
	if delete(w.rejections, name); len(rejected) > 0 {
		w.rejections[name] = rejected
	}
	w.resample = true
}

// refuse rejects a host for its name, and returns what it is known by: the name may be
// anything.
func (w *Watcher) refuse(host string, err error) string {
	name := quote(host)
	w.reject(name, []Rejection{{Host: name, Kind: RejectedHost, Why: err.Error()}})
	return name
}

// sample are some of the rejections, those of the same hosts each time.
func (w *Watcher) sample() []Rejection {
	var all []Rejection
	for _, name := range slices.Sorted(maps.Keys(w.rejections)) {
		if all = append(all, w.rejections[name]...); len(all) >= MaxRejections {
			return all[:MaxRejections:MaxRejections]
		}
	}
	return all
}

// settle says where the table is, after a step.
func (w *Watcher) settle() {
	s := &w.status
	if w.due == nil && w.whole == nil && !w.held && len(w.dirty) == 0 && s.Serial != w.seen {
		s.Serial = w.seen
		w.offer()
	}
	switch {
	case w.held:
		w.stale("Redis has an older table, or one of another history")
	case w.table == nil:
		w.stale("the table is being read")
	case w.info.orphaned:
		w.stale("Redis is a replica that does not hear its master")
	default:
		w.stale("")
	}
}

func sameStatus(a, b Status) bool { return reflect.DeepEqual(a, b) }

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
}

// reasons are why the whole table is compared, which decides what may be dropped.
type reasons struct {
	// moved: the serial went on without records, so hosts may have been dropped
	// without a record.
	moved bool
	// accepted: there is nothing to keep, or an operator has accepted whatever Redis has.
	accepted bool
}

// and joins two reasons, of which either may be nil.
func (r *reasons) and(other *reasons) *reasons {
	switch {
	case r == nil:
		return other
	case other == nil:
		return r
	}
	return &reasons{moved: r.moved || other.moved, accepted: r.accepted || other.accepted}
}

// compare is a compare of the whole table, one call of Redis after the other, so that
// changes are followed meanwhile.
type compare struct {
	reasons *reasons
	began   time.Time
	// first: there is no table, and hosts are collected for one.
	first bool
	hosts []*route.Host
	// scanned: all names are there. cursor is where the scan is until then.
	scanned bool
	cursor  uint64
	// found are the hosts that have a key, and optioned those that have a HASH.
	found, optioned map[string]struct{}
	// refused are what names are known by that are none.
	refused map[string]struct{}
	// queue are hosts to be read, and asked: those that were not found are in it.
	queue []string
	asked bool
	// lost are hosts that Redis has not, though nobody said so.
	lost []string
}

const (
	// firstPage is the COUNT of a SCAN while there is no table yet, and turnPage that in a
	// turn of a later compare: Redis answers nobody meanwhile, and changes wait for the end
	// of the turn.
	firstPage = 5000
	turnPage  = 1000
	// mostAbout bounds what is made room for before anybody knows how many hosts there are:
	// most keys may be somebody else's.
	mostAbout = 1 << 20
)

// compare goes on with the compare that goes on, or begins one if it is time. Each call
// makes one call of Redis.
func (w *Watcher) compare(ctx context.Context) error {
	now := time.Now()
	if w.whole == nil {
		if w.held || w.due == nil && (w.resync.IsZero() || now.Before(w.resync)) {
			if w.resync.IsZero() {
				w.resync = w.resyncAfter(now)
			}
			return nil
		}
		if now.Before(w.notBefore) {
			return nil
		}
		about := w.table.Len()
		if w.table == nil {
			size, err := w.reader.size(ctx)
			if err != nil {
				return err
			}
			about = min(size, mostAbout)
		}
		r := w.due
		if r == nil {
			r = &reasons{}
		}
		w.due = nil
		w.whole = &compare{
			reasons: r, began: now, first: w.table == nil, queue: make([]string, 0, about),
			found: make(map[string]struct{}, about), optioned: make(map[string]struct{}), refused: make(map[string]struct{}),
		}
	}
	c := w.whole
	switch {
	case !c.scanned && c.first:
		return w.scanAndRead(ctx, c)
	case !c.scanned:
		return w.scan(ctx, c, 1, turnPage)
	case len(c.queue) > 0:
		return w.readSome(ctx, c)
	case !c.asked:
		w.miss(c)
		return nil
	}
	w.finish(c)
	return nil
}

// resyncAfter is when a compare must come without a reason. Half of it is chance, so that
// routers that were started at once do not compare all at once.
func (w *Watcher) resyncAfter(now time.Time) time.Time {
	return now.Add(w.o.Resync*3/4 + rand.N(w.o.Resync/2+1))
}

// scanAndRead finds names and reads those that were found before, so that Redis and we
// have both something to do. Which hosts have a HASH is known when all names are, so
// those are read then, once more if need be.
func (w *Watcher) scanAndRead(ctx context.Context, c *compare) error {
	without := func(names []string) []string {
		return slices.DeleteFunc(names, func(name string) bool { _, has := c.optioned[name]; return has })
	}
	names := without(c.take(atOnce * w.chunk))
	var readings []reading
	var errRead error
	read := make(chan struct{})
	go func() {
		defer close(read)
		readings, errRead = w.readAll(ctx, names, nil)
	}()
	err := w.scan(ctx, c, pagesAtOnce, firstPage)
	<-read
	if err := cmp.Or(err, errRead); err != nil {
		return err
	}
	w.collect(c, names, readings)
	if c.scanned && len(c.optioned) > 0 {
		c.hosts = slices.DeleteFunc(c.hosts, func(h *route.Host) bool { _, has := c.optioned[h.Name]; return has })
		c.queue = slices.AppendSeq(without(c.queue), maps.Keys(c.optioned))
	}
	return nil
}

// take takes up to n names from the queue.
func (c *compare) take(n int) []string {
	n = min(n, len(c.queue))
	names := c.queue[:n:n]
	c.queue = c.queue[n:]
	return names
}

// collect keeps hosts for the first table.
func (w *Watcher) collect(c *compare, names []string, readings []reading) {
	for i, name := range names {
		w.reject(name, readings[i].rejected)
		if host := readings[i].host; host != nil {
			c.hosts = append(c.hosts, host)
		}
	}
}

// scan finds names, up to n pages of about size.
func (w *Watcher) scan(ctx context.Context, c *compare, n int, size int64) error {
	var err error
	for p := range w.reader.pages(ctx, c.cursor, n, size) {
		c.find(w, p.keys)
		c.cursor, c.scanned, err = p.next, p.next == 0, p.err
	}
	return err
}

// find notes the keys of a page.
func (c *compare) find(w *Watcher, keys []key) {
	for _, key := range keys {
		if err := validHost(key.host); err != nil {
			c.refused[w.refuse(key.host, err)] = struct{}{}
			continue
		}
		if key.options {
			c.optioned[key.host] = struct{}{}
		}
		if _, twice := c.found[key.host]; !twice {
			c.found[key.host] = struct{}{}
			c.queue = append(c.queue, key.host)
		}
	}
}

// readSome reads the next of the queue.
func (w *Watcher) readSome(ctx context.Context, c *compare) error {
	n := w.chunk
	if c.first {
		n *= atOnce
	}
	names := c.take(n)
	readings, err := w.readAll(ctx, names, c.optioned)
	if err != nil {
		return err
	}
	w.chunk = min(w.chunk*2, mostChunk)
	if c.first {
		w.collect(c, names, readings)
	} else {
		w.part(c, names, readings)
	}
	return nil
}

const (
	// atOnce and pagesAtOnce are how many chunks and pages are read in one step while there
	// is no table yet, so nobody waits for a change.
	atOnce      = 32
	pagesAtOnce = 4
	// lanes is how many chunks are on their way then: Redis works at one while another
	// is decoded.
	lanes = 3
)

// readAll reads hosts in chunks.
func (w *Watcher) readAll(ctx context.Context, names []string, optioned map[string]struct{}) ([]reading, error) {
	readings := make([]reading, len(names))
	var reads sync.WaitGroup
	errs := make([]error, lanes)
	for lane := range errs {
		reads.Go(func() {
			for from := lane * w.chunk; from < len(names) && errs[lane] == nil; from += lanes * w.chunk {
				to := min(from+w.chunk, len(names))
				contents, err := w.reader.read(ctx, names[from:to], optioned)
				if errs[lane] = err; err == nil {
					copy(readings[from:to], decodeAll(names[from:to], contents, w.o.Refuse))
				}
			}
		})
	}
	reads.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return readings, nil
}

// miss queues the hosts of the table that were not found, to be read once more.
func (w *Watcher) miss(c *compare) {
	c.asked = true
	if c.first {
		return
	}
	for host := range w.table.All() {
		if _, found := c.found[host.Name]; !found {
			c.queue = append(c.queue, host.Name)
			c.optioned[host.Name] = struct{}{}
		}
	}
}

// part applies what a compare has read, but keeps hosts that are gone though nobody has said so.
func (w *Watcher) part(c *compare, names []string, readings []reading) {
	if !c.reasons.accepted && (!c.reasons.moved || len(c.found) == 0) {
		for i, name := range names {
			if r := &readings[i]; r.readable && r.host == nil && !w.parting(name) {
				c.lost = append(c.lost, name)
				r.readable = false
			}
		}
	}
	w.apply(names, readings)
}

// parting tells whether a host is gone, or has a record that may say so.
func (w *Watcher) parting(name string) bool {
	_, dirty := w.dirty[name]
	return dirty || w.table.Get(name) == nil
}

// finish is the end of a compare.
func (w *Watcher) finish(c *compare) {
	w.whole = nil
	if c.first {
		table, err := route.NewTable(w.o.Table)
		if err == nil {
			w.table = table
			w.change(c.hosts, nil)
			w.publish(w.table)
		}
	}
	// Records that came since are heard by now.
	c.lost = slices.DeleteFunc(c.lost, w.parting)
	switch {
	case len(c.lost) == 0:
		w.missing = ""
	case len(c.found) == 0:
		w.missing = fmt.Sprintf("the table in Redis is empty: our %d hosts are kept until Redis has a table with a higher serial, or an operator accepts", w.table.Len())
	default:
		slices.Sort(c.lost)
		w.missing = fmt.Sprintf("%d hosts are gone from Redis though nobody removed them, as %s: they are kept until the serial moves without a record, or an operator accepts", len(c.lost), c.lost[0])
	}
	w.broken = ""
	// Names that were rejected and are gone are no rejections any more.
	for name := range w.rejections {
		_, found := c.found[name]
		_, refused := c.refused[name]
		if !found && !refused && w.table.Get(name) == nil {
			w.reject(name, nil)
		}
	}
	now := time.Now()
	w.status.Compares++
	w.resync = w.resyncAfter(now)
	w.notBefore = now.Add(max(compareEvery, now.Sub(c.began)))
	if c.reasons.accepted {
		w.obeyed, w.accepting = append(w.obeyed, w.accepting...), nil
	}
}
