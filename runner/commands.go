package runner

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"switchboard/bridge"
)

// SetTraffic changes the traffic flag of a host, or the router's own if host is
// "". It is answered when the change is in force and stored, and says how many
// sessions were severed. [bridge.ErrNotDurable] means that it is in force but could
// not be stored.
func (r *Router) SetTraffic(ctx context.Context, host string, change bridge.TrafficChange) (bridge.TrafficAnswer, error) {
	set := r.bridge.SetTraffic
	if host != "" {
		h := r.bridge.Host(host)
		if h == nil {
			return bridge.TrafficAnswer{}, fmt.Errorf("%w: %q", bridge.ErrUnknownHost, host)
		}
		set = h.SetTraffic
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

// SetWeights changes weights of the host's backends, by their names; nil goes back
// to the configured one, and those that are not named stay as they are. It is
// answered when new sessions and requests are chosen by them, and they are stored;
// nobody is severed. With weight 0 a backend gets no new ones.
//
// The host must be one of route.Balance ([bridge.ErrNoChoice]).
func (r *Router) SetWeights(ctx context.Context, host string, weights map[string]*int, message string) error {
	h, err := r.find(host)
	if err != nil {
		return err
	}
	if err := r.weigh(ctx, h, weights, message); err != nil {
		return err
	}
	r.config.Log.Info("an operator has set weights", "host", host, "set", h.weights(), "message", message)
	return r.saveWeights()
}

// weigh merges changes into the weights that operators have set.
func (r *Router) weigh(ctx context.Context, h *host, changes map[string]*int, message string) error {
	select {
	case h.weighing <- struct{}{}:
		defer func() { <-h.weighing }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	next := make(map[string]int)
	maps.Copy(next, h.weights())
	for name, weight := range changes {
		switch {
		case !slices.Contains(h.backends, name):
			return fmt.Errorf("%w: %q", bridge.ErrUnknownBackend, name)
		case weight == nil:
			delete(next, name)
		default:
			next[name] = *weight
		}
	}
	if err := h.bridge.SetWeights(ctx, next); err != nil {
		return err
	}
	h.set.Store(&next)
	r.journal.Append(bridge.Event{
		Kind: bridge.WeightsChanged, At: r.config.Clock.Now(), Host: h.name, Weights: &bridge.Weights{Host: h.name, Set: next, Message: message},
	})
	return nil
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

// find returns the configured host of that name.
func (r *Router) find(name string) (*host, error) {
	h, ok := r.hosts[name]
	if !ok && r.bridge.Table().Get(name) != nil {
		return nil, bridge.ErrFromTable
	}
	if !ok {
		return nil, fmt.Errorf("%w: %q", bridge.ErrUnknownHost, name)
	}
	return h, nil
}
