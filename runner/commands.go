package runner

import (
	"context"
	"fmt"

	"switchboard/bridge"
)

// SetTraffic changes the traffic flag of a host, or the router's own if host is
// "". It is answered when the change is in force and stored, and says how many
// sessions were severed. [bridge.ErrNotDurable] means that it is in force but could
// not be stored.
func (r *Router) SetTraffic(ctx context.Context, host string, change bridge.TrafficChange) (bridge.TrafficAnswer, error) {
	set := r.bridge.SetTraffic
	if host != "" {
		h, err := r.find(host)
		if err != nil {
			return bridge.TrafficAnswer{}, err
		}
		set = h.bridge.SetTraffic
	}
	answer, err := set(ctx, change)
	if err != nil {
		return answer, err
	}
	return answer, r.saveTraffic()
}

// Switch makes backend the host's active one now, and returns when its old
// sessions are severed, and how many there were. The backend must be healthy. Under
// an election by index it is pinned too, or the next probe would undo it.
func (r *Router) Switch(ctx context.Context, host, backend, message string) (severed int, err error) {
	h, err := r.find(host)
	if err != nil {
		return 0, err
	}
	epoch, err := h.monitor.Switch(ctx, backend, message)
	if err != nil {
		return 0, err
	}
	return r.moved(ctx, h, epoch)
}

// Pin keeps the host to backend, healthy or not, until it is unpinned with
// backend "". It returns how many sessions that severed.
func (r *Router) Pin(ctx context.Context, host, backend, message string) (severed int, err error) {
	h, err := r.find(host)
	if err != nil {
		return 0, err
	}
	epoch, err := h.monitor.Pin(ctx, backend, message)
	if err != nil {
		return 0, err
	}
	return r.moved(ctx, h, epoch)
}

// moved waits until the bridge serves under the epoch, and stores what the
// operator has asked for.
func (r *Router) moved(ctx context.Context, h *host, epoch uint64) (severed int, err error) {
	severed, err = h.bridge.AwaitEpoch(ctx, epoch)
	if err != nil {
		return severed, err
	}
	return severed, r.savePins()
}

// Sessions lists the open sessions of all hosts.
func (r *Router) Sessions() []bridge.SessionInfo { return r.bridge.Sessions() }

// EndSession severs one session.
func (r *Router) EndSession(_ context.Context, id string) error { return r.bridge.EndSession(id) }

func (r *Router) find(name string) (*host, error) {
	h, ok := r.hosts[name]
	if !ok {
		return nil, fmt.Errorf("%w: %q", bridge.ErrUnknownHost, name)
	}
	return h, nil
}
