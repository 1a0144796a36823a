package monitor

import (
	"context"

	"switchboard/bridge"
)

// command is a request to the loop.
type command struct {
	// pin: it is Pin, else Switch.
	pin              bool
	backend, message string
	reply            chan reply // one slot, so that the loop never waits
}

type reply struct {
	epoch uint64
	err   error
}

// Switch makes backend the host's active one now, with the reason "operator:
// message", and returns the epoch of that. Under Lowest and Highest it pins it
// too, since the next election would undo it. If it is active already, nothing
// changes but that pin, and the epoch is the present one.
//
// It waits for Run to start, until ctx ends. Its errors are
// [bridge.ErrUnknownBackend], [bridge.ErrUnhealthy] (also before the first
// verdict), [bridge.ErrPinned] if another one is pinned, [bridge.ErrBalance] under
// None, [bridge.ErrStopped], and ctx's; all of them mean that nothing has changed.
func (m *Monitor) Switch(ctx context.Context, backend, message string) (epoch uint64, err error) {
	return m.ask(ctx, command{backend: backend, message: message})
}

// Pin keeps the host to backend: if that one is healthy it is made active now,
// else the host has no active backend until it is. "" unpins, and then the host
// elects as if it had never been pinned. The reason of what changes is "pinned:
// message" or "unpinned: message". It returns the epoch that the host has then.
//
// It waits for Run to start, until ctx ends. Its errors are
// [bridge.ErrUnknownBackend], [bridge.ErrBalance] under None, [bridge.ErrStopped]
// and ctx's; all of them mean that nothing has changed.
func (m *Monitor) Pin(ctx context.Context, backend, message string) (epoch uint64, err error) {
	return m.ask(ctx, command{pin: true, backend: backend, message: message})
}

func (m *Monitor) ask(ctx context.Context, c command) (uint64, error) {
	c.reply = make(chan reply, 1)
	select {
	case <-m.stopped:
		// Before the others: a command after the end is always told so.
		return 0, bridge.ErrStopped
	default:
	}
	select {
	case m.commands <- c:
	case <-m.stopped:
		return 0, bridge.ErrStopped
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	// The loop has it and answers without waiting for anything, unless it panics.
	select {
	case r := <-c.reply:
		return r.epoch, r.err
	case <-m.stopped:
	}
	select {
	case r := <-c.reply:
		// It has answered, and then stopped: maybe because of this very command.
		return r.epoch, r.err
	default:
		return 0, bridge.ErrStopped
	}
}

// obey carries out a command.
func (m *Monitor) obey(c command) reply {
	if m.o.Elect == None {
		return reply{err: bridge.ErrBalance}
	}
	var place int
	if place = m.place(c.backend); place == nobody && (c.backend != "" || !c.pin) {
		return reply{err: bridge.ErrUnknownBackend}
	}
	var changed bool
	pin := m.pin
	if c.pin {
		changed = m.obeyPin(place, c.message)
	} else {
		switch {
		case m.pin != nobody && m.pin != place:
			return reply{err: bridge.ErrPinned}
		case !m.candidates[place].healthy:
			return reply{err: bridge.ErrUnhealthy}
		}
		if m.o.Elect != Sticky {
			m.pin = place
		}
		changed = m.activate(place, because("operator", c.message))
	}
	if changed {
		m.tellActive()
	} else {
		m.publishCluster()
	}
	if m.pin != pin {
		m.tellPin(c.message)
	}
	return reply{epoch: m.active.Epoch}
}

func (m *Monitor) obeyPin(place int, message string) (changed bool) {
	if m.pin == place {
		return false
	}
	m.pin = place
	if place == nobody {
		m.log.Info("unpinned", "message", message)
		return m.elect(because("unpinned", message))
	}
	m.log.Info("pinned", "backend", m.o.Backends[place].Name, "message", message)
	return m.elect(because("pinned", message))
}

func because(what, message string) string {
	if message == "" {
		return what
	}
	return what + ": " + message
}
