package relay

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// What one turn of a loop may do is bounded, so that who moves much does not keep the
// others waiting: each readiness is answered by one read at most, and what goes on is
// put on a list, of which each turn does a part.
const (
	// turnEvents is how many events a turn takes.
	turnEvents = 128
	// calmBytes is how much of the list a turn moves while nobody else is about, and
	// busyBytes is how much while others are: since somebody was heard for as long as
	// busyTime. A splice of a MiB takes some 300 µs, and four of a quarter take half as
	// long again.
	calmBytes = 1 << 20
	busyBytes = 256 << 10
	busyTime  = int64(20 * time.Millisecond)
	// stretchReads is in how many reads one way of the list may do its part.
	stretchReads = 16
	// turnChecks is how many descriptors the sweep for vanished peers looks at in a turn.
	turnChecks = 256
)

// yieldEvery is how often a loop that always has something to do lets other goroutines
// go on, which the scheduler else has wait for 10 ms.
const yieldEvery = int64(time.Millisecond)

// loop moves the bytes of its sessions, in one goroutine. All but the queue belongs to
// that goroutine.
type loop struct {
	engine *Loops
	index  int
	epoll  int
	file   *os.File // epoll, as the runtime's poller waits for it
	raw    syscall.RawConn
	look   func(epoll uintptr) bool // onEvents, bound once
	bell   int                      // an eventfd, which wakes the loop
	ended  chan struct{}

	sessions atomic.Int64 // that it has, or is to get

	mu     sync.Mutex
	queue  []command
	asleep bool // or about to be: whoever adds to queue rings the bell
	closed bool

	buffer []byte
	now    int64 // engine time at the beginning of the turn
	alarm  int64 // engine time at which file's deadline is; 0: it has none
	wheel  wheel
	bulk   []stretch // what goes on when it is its turn
	sweep  sweep
	busy   int64 // engine time until which others are about than those of bulk
	// yielded is the engine time at which others last had a chance, waited tells that
	// the last sleep was one.
	yielded int64
	waited  bool
	// What a turn has taken and not yet done: it is gone on with after a panic.
	commands []command
	obeyed   int
	events   [turnEvents]unix.EpollEvent
	heard    int
	have     int
	// current is whose session is being worked on; nil: nobody's.
	current *loopSession
	// stopping ends the loop.
	stopping bool
}

// command is what others ask a loop for.
type command struct {
	do      doing
	session *loopSession // beginDial, beginSession, endSession
	set     *loopSet     // endSet
	cause   error        // endSession, endSet
}

type doing int

const (
	beginDial doing = iota
	beginSession
	endSession
	endSet
	stopLoop
)

func newLoop(e *Loops, index int) (*loop, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	// os.NewFile has those polled that do not block.
	if err := unix.SetNonblock(epoll, true); err != nil {
		_ = unix.Close(epoll)
		return nil, err
	}
	bell, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		_ = unix.Close(epoll)
		return nil, err
	}
	l := &loop{engine: e, index: index, epoll: epoll, file: os.NewFile(uintptr(epoll), "epoll"), bell: bell, ended: make(chan struct{})}
	l.look = l.onEvents
	if l.raw, err = l.file.SyscallConn(); err != nil {
		l.close()
		return nil, err
	}
	// Edge-triggered, so that each ring is heard once and nobody has to read it.
	if err := l.watch(bell, unix.EPOLL_CTL_ADD, unix.EPOLLIN|unix.EPOLLET); err != nil {
		l.close()
		return nil, err
	}
	l.buffer = make([]byte, e.rest.options.BufferSize)
	l.now = e.rest.now()
	l.wheel.init(l.now)
	l.sweep.init(e, l.now)
	return l, nil
}

func (l *loop) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	_ = unix.Close(l.bell)
	_ = l.file.Close()
}

// running returns why the loop can be waited for no longer.
func (l *loop) running() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return ErrEngineClosed
	}
	return nil
}

// admit is watch from any goroutine.
func (l *loop) admit(fd int32, how int, events uint32) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return ErrEngineClosed
	}
	return os.NewSyscallError("epoll_ctl", l.watch(int(fd), how, events))
}

// watch changes what the loop is told of a descriptor.
func (l *loop) watch(fd, how int, events uint32) error {
	event := unix.EpollEvent{Events: events, Fd: int32(fd)}
	return unix.EpollCtl(l.epoll, how, fd, &event)
}

// push asks the loop for something. Commands are done in their order.
func (l *loop) push(c command) {
	l.mu.Lock()
	l.queue = append(l.queue, c)
	ring := l.asleep
	l.asleep = false
	l.mu.Unlock()
	if ring {
		ringBell(l.bell)
	}
}

// run is the loop's goroutine; the engine's Close waits for it.
func (l *loop) run() {
	defer close(l.ended)
	for !l.stopping {
		l.turns()
	}
	l.close()
	for fd := range l.engine.table.size() {
		if h := l.engine.table.at(fd).other.Load(); h != nil {
			(*h).deaf()
		}
	}
}

// turns makes turns until the loop is to end, or one has panicked. That ends the
// session that it was about, and no other.
func (l *loop) turns() {
	defer func() {
		s := l.current
		if s == nil {
			return // no panic, or one that is not a session's
		}
		r := recover()
		l.current = nil
		s.fail(Neither, fmt.Errorf("%w: %v\n%s", ErrPanic, r, debug.Stack()))
	}()
	for !l.stopping {
		l.turn()
	}
}

func (l *loop) turn() {
	l.wait()
	for l.heard < l.have {
		e := &l.events[l.heard]
		l.heard++
		l.hear(e.Fd, e.Events)
	}
	// Behind the events, so that what they have made others ask for is done at once.
	l.take()
	for l.obeyed < len(l.commands) {
		c := l.commands[l.obeyed]
		l.commands[l.obeyed] = command{}
		l.obeyed++
		l.obey(c)
	}
	l.goOn()
	l.expire()
	l.check()
}

// take takes the commands there are.
func (l *loop) take() {
	if l.obeyed < len(l.commands) {
		return // the turn before has panicked
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.commands, l.queue, l.obeyed = l.queue, l.commands[:0], 0
}

// wait takes the events there are, and waits for something if there is nothing to do.
func (l *loop) wait() {
	if l.heard < l.have || l.obeyed < len(l.commands) {
		return // the turn before has panicked
	}
	l.mu.Lock()
	l.asleep = len(l.queue) == 0 && len(l.bulk) == 0
	sleep := l.asleep
	l.mu.Unlock()
	if sleep {
		l.sleep()
	} else {
		l.onEvents(uintptr(l.epoll))
	}
	l.now = l.engine.rest.now()
	switch {
	case sleep && l.waited:
		l.yielded = l.now
	case l.now-l.yielded > yieldEvery:
		l.yielded = l.now
		runtime.Gosched()
	}
}

// sleep waits for an event, the bell, or the next time that something is due.
func (l *loop) sleep() {
	due, any := l.due()
	if !any {
		due = 0
	}
	if due != l.alarm {
		l.alarm = due
		at := time.Time{}
		if any {
			at = l.engine.rest.start.Add(time.Duration(due))
		}
		_ = l.file.SetReadDeadline(at)
	}
	l.waited = false
	if err := l.raw.Read(l.look); err != nil {
		l.have = 0
	}
	l.mu.Lock()
	l.asleep = false
	l.mu.Unlock()
}

// onEvents takes what there is, and returns false if there is nothing.
func (l *loop) onEvents(epoll uintptr) bool {
	n, errno := look(int(epoll), l.events[:])
	if errno != 0 {
		n = 0
	}
	l.heard, l.have = 0, n
	l.waited = l.waited || n == 0
	return n > 0
}

// due is when the loop has something to do though nothing happens.
func (l *loop) due() (at int64, any bool) {
	at, any = l.wheel.next()
	if sweep, on := l.sweep.due(); on && (!any || sweep < at) {
		return sweep, true
	}
	return at, any
}

// hear finds out whom an event is for.
func (l *loop) hear(fd int32, events uint32) {
	if int(fd) == l.bell {
		return
	}
	e := l.engine.table.at(fd)
	if s := e.session.Load(); s != nil {
		if s.loop == l {
			l.current = s
			s.hear(fd, events)
			l.current = nil
		}
		return
	}
	if h := e.other.Load(); h != nil {
		(*h).hear(l, events)
	}
}

func (l *loop) obey(c command) {
	switch c.do {
	case beginDial:
		l.current = c.session
		c.session.beginDial()
		l.current = nil
	case beginSession:
		l.current = c.session
		c.session.begin()
		l.current = nil
	case endSession:
		c.session.finish(Neither, c.cause)
	case endSet:
		l.sever(c.set, c.cause)
	case stopLoop:
		l.stopping = true
	}
}

// sever ends the loop's sessions of a set: first all clients are cut off, in one call
// each, and then all is cleared away.
func (l *loop) sever(set *loopSet, cause error) {
	members := set.membersOf(l)
	ours := members[:0]
	for _, s := range members {
		if !s.over.CompareAndSwap(false, true) {
			continue // somebody else ends it
		}
		ours = append(ours, s)
		if s.dial == nil {
			_ = l.engine.rest.disconnect(uintptr(s.client.fd))
		}
	}
	for _, s := range ours {
		s.finish(Neither, cause)
	}
}

// stretch is a way that has more to move than it may at once.
type stretch struct {
	session *loopSession
	way     *way
}

// later has a way go on when it is its turn.
func (l *loop) later(s *loopSession, w *way) {
	if !w.listed {
		w.listed = true
		l.bulk = append(l.bulk, stretch{s, w})
	}
}

// goOn does a part of the list. A way that has still more to move is put behind the
// others.
func (l *loop) goOn() {
	left := calmBytes
	if l.now < l.busy {
		left = busyBytes
	}
	for n := len(l.bulk); n > 0 && left > 0; n-- {
		next := l.bulk[0]
		l.bulk = append(l.bulk[:0], l.bulk[1:]...)
		next.way.listed = false
		l.current = next.session
		left -= next.session.move(next.way, left, stretchReads)
		l.current = nil
	}
	if len(l.bulk) == 0 && cap(l.bulk) > turnEvents {
		l.bulk = nil
	}
}

// expire ends sessions that have been silent for too long.
func (l *loop) expire() {
	l.wheel.turn(l.now, func(s *loopSession) {
		l.current = s
		s.expire()
		l.current = nil
	})
}
