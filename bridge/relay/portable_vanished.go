package relay

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// acks is what the engine remembers of how a direction's dst acknowledges. Only
// the sweep uses it.
type acks struct {
	quiet int64 // mark of the last look that found all acknowledged
	doubt doubt
}

// doubt is what is remembered of a peer that does not answer.
type doubt struct {
	since int64  // engine time since when it does not; 0: it does
	bytes uint64 // acknowledged then
}

// weigh looks at the peer at a time: whether it has not answered for too long, or else
// whether it has acknowledged all it was sent.
func (d *doubt) weigh(info *unix.TCPInfo, now int64, limit time.Duration) (gone, settled bool) {
	// A shut window is probed, and one probe is on its way now and then.
	silent := info.Retransmits > 0 || info.Probes >= 3
	switch {
	case !silent:
		d.since = 0
		return false, info.Unacked == 0 && info.Notsent_bytes == 0
	case d.since == 0 || d.bytes != info.Bytes_acked:
		d.since, d.bytes = now, info.Bytes_acked
		return false, false
	default:
		return time.Duration(now-d.since) >= limit && time.Duration(info.Last_ack_recv)*time.Millisecond >= limit, false
	}
}

// sweep looks for peers that have vanished with something on its way to them.
//
// TCP_USER_TIMEOUT is made for this, but since Linux 5.11 it counts the time that
// a window is shut as well, and so cuts off a living client that pauses in the
// middle of an answer (a pager, a slow disk). Keepalives do not help either: the
// kernel sends none while it is retransmitting.
//
// Only sockets that were written to since they last had everything acknowledged
// are asked; the idle ones cost a look at a counter.
func (e *Portable) sweep() {
	e.sweeping.Lock()
	defer e.sweeping.Unlock()
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return
	}
	sets := e.openSets()
	e.mu.Unlock()
	for _, set := range sets {
		set.mu.Lock()
		members := set.members()
		set.mu.Unlock()
		for _, m := range members {
			m.toBackend.checkPeer()
			m.toClient.checkPeer()
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.closed {
		e.sweeper.Reset(e.sweepEvery())
	}
}

func (e *Portable) sweepEvery() time.Duration { return e.options.UserTimeout / 8 }

// startSweeping is called for the first session.
func (e *Portable) startSweeping() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.options.UserTimeout > 0 && !e.closed {
		e.sweeper = time.AfterFunc(e.sweepEvery(), e.sweep)
	}
}

// checkPeer ends the session if dst has not answered for too long.
func (d *direction) checkPeer() {
	if d.dst.raw == nil || d.session.over.Load() {
		return
	}
	mark := 2 * d.written.Load()
	if d.dst.shut.Load() {
		mark++ // an end is to be acknowledged as well
	}
	if mark == d.acks.quiet {
		return
	}
	var info *unix.TCPInfo
	_ = d.dst.raw.Control(func(fd uintptr) {
		info, _ = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	})
	if info == nil {
		return
	}
	e := d.session.set.engine
	gone, settled := d.acks.doubt.weigh(info, e.now(), e.options.UserTimeout)
	switch {
	case gone:
		d.session.fail(d.to, syscall.ETIMEDOUT)
	case settled:
		d.acks.quiet = mark
	}
}
