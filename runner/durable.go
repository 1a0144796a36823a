package runner

import (
	"errors"
	"fmt"
	"os"

	"switchboard/bridge"
	"switchboard/runner/state"
)

// kept is what the state directory knew when the router was made.
type kept struct{ state.Saved }

// traffic is the flag to start with: on, unless an operator has switched it off.
func (k kept) traffic(host string) bridge.Traffic {
	on := bridge.Traffic{Host: host, Enabled: true}
	if host == "" {
		if k.Router != nil {
			return *k.Router
		}
		return on
	}
	if t, ok := k.Hosts[host]; ok {
		return t
	}
	return on
}

// restore opens the state directory, if there is to be one, and reads it.
func (r *Router) restore() (kept, error) {
	if r.config.State == "" {
		return kept{}, nil
	}
	dir, err := state.Open(r.config.State, state.Options{Log: r.config.Log, Clock: r.config.Clock})
	if err != nil {
		return kept{}, err
	}
	var names []string
	for _, h := range r.config.Hosts {
		if !h.balances() { // the others have no epochs
			names = append(names, h.Name)
		}
	}
	saved, err := dir.Load(names)
	if err != nil {
		return kept{}, errors.Join(err, dir.Close())
	}
	r.state = dir
	for name, last := range saved.Active {
		r.lastActive[name] = last
	}
	k := kept{saved}
	if r.dropUnknown(k) {
		// Or they would be back when the backend is.
		if err := errors.Join(dir.SavePins(k.Pins), dir.SaveWeights(k.Weights)); err != nil {
			return kept{}, errors.Join(err, dir.Close())
		}
	}
	return k, nil
}

// dropUnknown forgets what is stored of backends that are configured no more, and
// tells if there was a pin to one, or a weight of one.
func (r *Router) dropUnknown(k kept) (dropped bool) {
	for _, h := range r.config.Hosts {
		known := make(map[string]bool)
		for _, b := range h.Backends {
			known[b.Name] = true
		}
		if pin := k.Pins[h.Name]; pin != "" && !known[pin] {
			r.config.Log.Warn("dropping a stored pin to a backend that is not configured", "host", h.Name, "backend", pin)
			delete(k.Pins, h.Name)
			dropped = true
		}
		for backend := range k.Weights[h.Name] {
			if !known[backend] || !h.balances() {
				r.config.Log.Warn("dropping a stored weight that has no backend of policy balance any more", "host", h.Name, "backend", backend)
				delete(k.Weights[h.Name], backend)
				dropped = true
			}
		}
		if last := r.lastActive[h.Name]; !known[last.Backend] {
			last.Backend = ""
			r.lastActive[h.Name] = last
		}
	}
	return dropped
}

// durable runs save, one at a time, so that what is read for one save is never
// older than what an earlier save has stored.
func (r *Router) durable(save func() error) error {
	if r.state == nil {
		return nil
	}
	r.saving.Lock()
	defer r.saving.Unlock()
	if err := save(); err != nil {
		return fmt.Errorf("%w: %w", bridge.ErrNotDurable, err)
	}
	return nil
}

func (r *Router) saveTraffic() error {
	return r.durable(func() error {
		var router *bridge.Traffic
		if t, _ := r.bridge.Traffic().Get(); !t.LastUpdated.IsZero() {
			router = &t
		}
		hosts := r.bridge.TableTraffic()
		for _, h := range r.ordered {
			if t, _ := h.bridge.Traffic().Get(); !t.LastUpdated.IsZero() {
				hosts[h.name] = t
			}
		}
		return r.state.SaveTraffic(router, hosts)
	})
}

func (r *Router) savePins() error {
	return r.durable(func() error {
		pins := make(map[string]string)
		for _, h := range r.ordered {
			if c, ok := h.cluster.Get(); ok {
				pins[h.name] = c.Pin
			}
		}
		return r.state.SavePins(pins)
	})
}

func (r *Router) saveWeights() error {
	return r.durable(func() error {
		weights := make(map[string]map[string]int)
		for _, h := range r.ordered {
			weights[h.name] = h.weights()
		}
		return r.state.SaveWeights(weights)
	})
}

// active is who is active, of the hosts that have had an election. A host that has
// none now is kept with the one it had last: that is whom a restart prefers. It is
// called by durable's save only.
func (r *Router) active() map[string]state.Active {
	for _, h := range r.ordered {
		a, ok := h.active.Get()
		if !ok {
			continue
		}
		last := r.lastActive[h.name]
		last.Epoch = a.Epoch
		if a.Backend != nil {
			last.Backend = a.Backend.Name
		}
		r.lastActive[h.name] = last
	}
	return r.lastActive
}

// keeper stores who is active whenever that has changed, off the path of the
// failover itself, and for the last time when the monitors have stopped.
type keeper struct{ *Router }

func (k keeper) Run(signals <-chan os.Signal, ready chan<- struct{}) error {
	close(ready)
	var seen uint64
	for {
		entries, more := k.journal.Since(seen)
		elected := false
		for _, e := range entries {
			seen = e.Seq
			elected = elected || e.Value.Kind == bridge.NewActiveBackend
		}
		if elected {
			// A full disk is no reason to stop routing: the epochs that were reserved
			// go on being used.
			if err := k.durable(func() error { return k.state.SaveActive(k.active()) }); err != nil {
				k.config.Log.Error("storing who is active", "cause", err)
			}
		}
		select {
		case <-more:
		case <-signals:
			return k.durable(func() error { return k.state.Settle(k.active()) })
		}
	}
}
