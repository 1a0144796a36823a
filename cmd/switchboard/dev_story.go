package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"switchboard/bridge"
)

// story writes what happens, for people. Its methods may be called from any
// goroutine.
type story struct {
	mu sync.Mutex
	to io.Writer
}

func newStory(to io.Writer) *story { return &story{to: to} }

// line writes a line as it is.
func (s *story) line(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.to, format+"\n", args...)
}

// tell writes a line about something that happens now.
func (s *story) tell(format string, args ...any) { s.at(time.Now(), fmt.Sprintf(format, args...)) }

// at writes a line about something that happened then.
func (s *story) at(then time.Time, words string) {
	s.line("%s  %s", then.Format(time.TimeOnly), words)
}

// tell tells what happens in the cluster until ctx ends. The suggestions come when
// the first backend is active, as they name it.
func (d *devCluster) tell(ctx context.Context) {
	suggested := false
	sessions := make(map[string]int)
	for _, event := range d.router.Events(ctx, 0) {
		if c := event.Sessions; c != nil {
			// The first count is 0, which is no news, and neither are requests in flight.
			if c.Sessions == sessions[c.Host] || c.Host != devHost {
				continue
			}
			sessions[c.Host] = c.Sessions
		}
		if words := inWords(event); words != "" {
			d.story.at(event.At, words)
		}
		if a := event.Active; !suggested && a != nil && a.Backend != nil {
			suggested = true
			d.suggest(a.Backend.Name)
		}
	}
}

// inWords is an event as a sentence, "" if it is not worth one.
func inWords(e bridge.Event) string {
	whose := e.Host
	if whose == "" {
		whose = "router"
	}
	switch {
	case e.Active != nil && e.Active.Backend == nil:
		return fmt.Sprintf("%s: no backend is active (epoch %d): %s", whose, e.Active.Epoch, e.Active.Reason)
	case e.Active != nil:
		return fmt.Sprintf("%s: %s is active (epoch %d): %s", whose, e.Active.Backend.Name, e.Active.Epoch, e.Active.Reason)
	case e.Health != nil && e.Health.Healthy:
		return fmt.Sprintf("%s: %s is healthy: %s", whose, e.Health.Backend, e.Health.Detail)
	case e.Health != nil:
		return fmt.Sprintf("%s: %s is unhealthy: %s", whose, e.Health.Backend, e.Health.Detail)
	case e.Pin != nil && e.Pin.Backend == "":
		return whose + ": unpinned" + because(e.Pin.Message)
	case e.Pin != nil:
		return fmt.Sprintf("%s: pinned to %s%s", whose, e.Pin.Backend, because(e.Pin.Message))
	case e.Weights != nil:
		return whose + ": weights have changed" + because(e.Weights.Message)
	case e.Table != nil:
		return fmt.Sprintf("the routing table has changed; hosts: %d", e.Table.Hosts)
	case e.Traffic != nil && e.Traffic.Enabled:
		return fmt.Sprintf("%s: traffic is on%s", whose, because(e.Traffic.Message))
	case e.Traffic != nil:
		return fmt.Sprintf("%s: traffic is off%s", whose, because(e.Traffic.Message))
	case e.Sessions != nil:
		return whose + ": " + inSessions(e.Sessions)
	}
	return ""
}

// because adds an operator's message, on one line whatever it holds.
func because(message string) string {
	if message == "" {
		return ""
	}
	return fmt.Sprintf(": %q", message)
}

func inSessions(c *bridge.Counts) string {
	var on []string
	for name, n := range c.Backends {
		if n > 0 {
			on = append(on, name)
		}
	}
	slices.Sort(on)
	switch c.Sessions {
	case 0:
		return "no session is open"
	case 1:
		return "1 session is open, on " + strings.Join(on, ", ")
	default:
		return fmt.Sprintf("%d sessions are open, on %s", c.Sessions, strings.Join(on, ", "))
	}
}
