package process

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// Runner is one unit of work. Its duties:
//
//   - Set up in finite time, and close ready when the work has begun, and only then.
//   - On a first signal end in finite time, on a second one at once, also before
//     ready.
//   - Return nil if it was asked to stop and could, an error otherwise.
type Runner interface {
	Run(signals <-chan os.Signal, ready chan<- struct{}) error
}

// Member is a [Runner] with the name that errors call it by.
type Member struct {
	Name   string
	Runner Runner
}

// ErrEnded is why a group ended whose member returned nil without being asked to.
var ErrEnded = errors.New("returned without being asked to stop")

// Ordered returns a runner that starts members one after the other, each when the
// one before is ready, and is ready when the last one is.
//
// On a signal it stops them in reverse order, each when the one after has ended,
// and returns what they returned, nil if that was nil. A second signal goes to all
// of them at once; those that had not been told to stop get the first one too, so
// every member hears two.
//
// A member that ends unasked stops the others as SIGTERM would, and Run returns an
// error that names it, also if it ended with nil ([ErrEnded]). The first signal
// that comes after this changes nothing, as the group is stopping already; the
// next one means now. Errors are joined in the order in which members ended.
func Ordered(members ...Member) Runner {
	return ordered(members)
}

type ordered []Member

// Run is [Runner]'s.
func (o ordered) Run(signals <-chan os.Signal, ready chan<- struct{}) error {
	// As many slots as members, so that a member can always leave.
	g := group{ended: make(chan end, len(o))}
	for _, m := range o {
		started := g.start(m)
		select {
		case s := <-signals:
			return g.stop(s, true, signals)
		case e := <-g.ended:
			g.note(e)
		case <-started.ready:
		}
		// Both may have happened; ready would then be a lie.
		if g.check(); g.err != nil {
			return g.stop(syscall.SIGTERM, false, signals)
		}
	}
	close(ready)
	select {
	case s := <-signals:
		return g.stop(s, true, signals)
	case e := <-g.ended:
		g.note(e)
		return g.stop(syscall.SIGTERM, false, signals)
	}
}

// group is the state of one Run; its goroutine alone touches it.
type group struct {
	members  []*member // those started, in order
	ended    chan end
	stopping bool
	err      error
}

type member struct {
	name string
	// signals has two slots: stop, and now.
	signals chan os.Signal
	ready   chan struct{}
	told    bool
	ended   bool
}

type end struct {
	member *member
	err    error
}

// start runs m in a goroutine of the group's, which stop waits for.
func (g *group) start(m Member) *member {
	started := &member{name: m.Name, signals: make(chan os.Signal, 2), ready: make(chan struct{})}
	g.members = append(g.members, started)
	go func() {
		g.ended <- end{started, m.Runner.Run(started.signals, started.ready)}
	}()
	return started
}

// check notes the members that have ended, without waiting.
func (g *group) check() {
	for {
		select {
		case e := <-g.ended:
			g.note(e)
		default:
			return
		}
	}
}

// note records how a member ended.
func (g *group) note(e end) {
	m := e.member
	m.ended = true
	switch {
	case m.told:
		if e.err != nil {
			g.err = errors.Join(g.err, fmt.Errorf("stopping member %q: %w", m.name, e.err))
		}
		return
	case e.err == nil && g.stopping:
		// It left before its turn while all were leaving: nothing is lost that was
		// to be kept.
		return
	case e.err == nil:
		e.err = ErrEnded
	}
	when := "ended early"
	select {
	case <-m.ready:
	default:
		when = "ended before it was ready"
	}
	g.err = errors.Join(g.err, fmt.Errorf("member %q %s: %w", m.name, when, e.err))
}

// stop ends the members that run, last one first. asked tells whether first came
// from outside, so that the next signal means now.
func (g *group) stop(first os.Signal, asked bool, signals <-chan os.Signal) error {
	g.stopping = true
	for i := len(g.members) - 1; i >= 0; i-- {
		m := g.members[i]
		// Not told what it can no longer hear: an end that waits in the channel was
		// early.
		if g.check(); !m.ended {
			m.tell(first)
		}
		for !m.ended {
			select {
			case e := <-g.ended:
				g.note(e)
			case s := <-signals:
				if asked {
					g.now(first, s)
				}
				asked = true
			}
		}
	}
	return g.err
}

// now forwards a second signal to all members that still run.
func (g *group) now(first, second os.Signal) {
	for _, m := range g.members {
		if !m.ended {
			m.tell(first)
			m.signal(second)
		}
	}
}

// tell asks m to stop, once.
func (m *member) tell(s os.Signal) {
	if !m.told {
		m.told = true
		m.signal(s)
	}
}

func (m *member) signal(s os.Signal) {
	select {
	case m.signals <- s:
	default: // it has two it has not heard
	}
}
