package state

import (
	"errors"
	"fmt"
	"maps"
	"os"
)

// maxEpoch is the highest epoch that is believed when it is read: every reader of
// JSON can hold it exactly, and nothing can be added to it that overflows.
const maxEpoch = 1 << 53

type activeState struct {
	Version int `json:"version"`
	// Floor is where a host begins that is not in Hosts.
	Floor uint64                `json:"floor"`
	Hosts map[string]activeHost `json:"hosts"`
}

type activeHost struct {
	Backend string `json:"backend"`
	Epoch   uint64 `json:"epoch"`
	// Reserved is the highest epoch that may have been used.
	Reserved uint64 `json:"reserved"`
}

// loadActive reads who was active, and reserves epochs for hosts before any of
// them can be used.
func (d *Dir) loadActive(saved *Saved, hosts []string) error {
	var file activeState
	found, err := d.read(activeFile, &file)
	if err == nil {
		err = file.check(d.file(activeFile))
	}
	var broken *corrupt
	switch {
	case errors.As(err, &broken):
		if file, err = d.giveUp(err); err != nil {
			return err
		}
	case err != nil:
		return err
	case !found && !d.fresh:
		// It was lost, by an operator or by a crash after a broken one was moved
		// aside; there is no knowing how high the epochs were.
		file = activeState{Floor: d.now()}
		d.log.Warn("the file of epochs is missing, epochs go on from the time of day", "file", d.file(activeFile), "epoch", file.Floor)
	}

	next := file.clone()
	saved.Active = make(map[string]Active, len(hosts))
	for _, host := range hosts {
		last, known := file.Hosts[host]
		if !known {
			last.Reserved = file.Floor
		}
		saved.Active[host] = Active{Backend: last.Backend, Epoch: last.Reserved}
		next.Hosts[host] = activeHost{Backend: last.Backend, Epoch: last.Reserved, Reserved: last.Reserved + Reserve}
	}
	return d.writeActive(next)
}

// check looks for what a decoder cannot see.
func (a activeState) check(name string) error {
	for host, h := range a.Hosts {
		if h.Epoch > h.Reserved || h.Reserved > maxEpoch {
			return &corrupt{fmt.Errorf("reading %s: host %q has epoch %d of at most %d, which cannot be", name, host, h.Epoch, h.Reserved)}
		}
	}
	if a.Floor > maxEpoch {
		return &corrupt{fmt.Errorf("reading %s: floor %d is too high", name, a.Floor)}
	}
	return nil
}

// giveUp moves a broken file aside, and begins a new one whose epochs are higher
// than those that are lost.
func (d *Dir) giveUp(cause error) (activeState, error) {
	name := d.file(activeFile)
	floor := d.now()
	if info, err := os.Lstat(name); err == nil {
		// A machine that starts at 1970 still knows when it wrote the file.
		floor = max(floor, unix(info.ModTime()))
	}
	if err := os.Rename(name, name+".corrupt"); err != nil {
		return activeState{}, fmt.Errorf("moving %s aside: %w", name, reason(err))
	}
	d.log.Error("the file of epochs is broken and was moved aside, epochs go on from the time of day",
		"cause", cause, "moved", name+".corrupt", "epoch", floor)
	return activeState{Floor: floor}, nil
}

// SaveActive stores who is active, of the hosts in active; those of the others
// stay as they are. It reserves more epochs where less than half of [Reserve] is
// left. A host whose epoch is lower than the stored one is left alone: that save
// came late.
//
// If it fails, the epochs up to [Dir.Ceiling] may still be used.
func (d *Dir) SaveActive(active map[string]Active) error {
	return d.saveActive(active, func(epoch, reserved uint64) uint64 {
		if reserved < epoch+Reserve/2 {
			return epoch + Reserve
		}
		return reserved
	})
}

// Settle is SaveActive for the last time: no epoch is used after it, so the hosts
// in active go on from exactly there after the next start. Without it, or if it
// fails, they go on from the ceiling.
func (d *Dir) Settle(active map[string]Active) error {
	return d.saveActive(active, func(epoch, _ uint64) uint64 { return epoch })
}

func (d *Dir) saveActive(active map[string]Active, reserve func(epoch, reserved uint64) uint64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.usable(); err != nil {
		return err
	}
	next := d.active.clone()
	for host, a := range active {
		if stored := next.Hosts[host]; a.Epoch >= stored.Epoch {
			next.Hosts[host] = activeHost{Backend: a.Backend, Epoch: a.Epoch, Reserved: reserve(a.Epoch, stored.Reserved)}
		}
	}
	return d.writeActive(next)
}

// Ceiling is the highest epoch of host that may be used before the next
// [Dir.SaveActive] has succeeded: a crash now would go on from there. It is 0 for
// a host that neither Load nor a save was told of.
func (d *Dir) Ceiling(host string) uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.active.Hosts[host].Reserved
}

func (d *Dir) writeActive(next activeState) error {
	next.Version = version
	if err := d.write(activeFile, next); err != nil {
		return err
	}
	d.active = next
	return nil
}

func (a activeState) clone() activeState {
	a.Hosts = maps.Clone(a.Hosts)
	if a.Hosts == nil {
		a.Hosts = make(map[string]activeHost)
	}
	return a
}

func (d *Dir) now() uint64 { return unix(d.clock.Now()) }
