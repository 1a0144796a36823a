package state

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"switchboard/bridge"
	"switchboard/bridge/clock"
	"switchboard/bridge/route"
)

// The files of a state directory.
const (
	trafficFile = "traffic.json"
	pinsFile    = "pins.json"
	weightsFile = "weights.json"
	activeFile  = "active.json"
	lockFile    = "lock"
)

// Reserve is how many epochs of a host are reserved ahead.
const Reserve = 1000

// Errors that saves return.
var (
	ErrNotLoaded = errors.New("the state has not been loaded, so nothing may be stored over it")
	ErrClosed    = errors.New("the state directory has been closed")
)

// Options are the parameters of [Open] that have defaults.
type Options struct {
	// Log hears of what was repaired; nil: nobody.
	Log *slog.Logger
	// Clock is for specs; nil: the system's.
	Clock clock.Clock
}

// Saved is what a state directory holds.
type Saved struct {
	// Router is the router's own flag, nil if it was never stored: traffic is on.
	Router *bridge.Traffic
	// Hosts are the flags of hosts by name; a host without one has traffic on. The
	// hosts are those of the day of the save.
	Hosts map[string]bridge.Traffic
	// Pins are the pinned backends' names by host.
	Pins map[string]string
	// Weights are those that operators have set, by host and backend.
	Weights map[string]map[string]int
	// Active has an entry for every host that Load was asked for.
	Active map[string]Active
}

// Active is who was active and which epoch that was.
type Active struct {
	// Backend is the name of the last backend that was active, "" if none was.
	Backend string
	// Epoch is the host's last one. As [Dir.Load] returns it, it may be higher than
	// the last one that was used: the next one is Epoch+1.
	Epoch uint64
}

// Dir is an open state directory.
type Dir struct {
	path  string
	log   *slog.Logger
	clock clock.Clock
	// fresh is true if the directory had never been used before.
	fresh bool

	mu     sync.Mutex
	lock   *os.File // nil when closed
	loaded bool
	// written is what each file holds, by its name, as far as we know.
	written map[string][]byte
	active  activeState
}

// Open opens the state directory at path, and makes it if it is missing (mode
// 0700). It fails if another process has it open, or if it cannot be written to.
// Close it.
func Open(path string, o Options) (*Dir, error) {
	d := &Dir{path: path, log: o.Log, clock: o.Clock, written: make(map[string][]byte)}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	if d.clock == nil {
		d.clock = clock.System{}
	}
	if err := makeDir(path); err != nil {
		return nil, fmt.Errorf("creating state directory %s: %w", path, reason(err))
	}
	name := filepath.Join(path, lockFile)
	_, err := os.Lstat(name)
	d.fresh = errors.Is(err, os.ErrNotExist)
	if d.lock, err = os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, fmt.Errorf("opening state directory %s: %w: the process must be able to write there", path, reason(err))
	}
	switch err := syscall.Flock(int(d.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); {
	case errors.Is(err, syscall.EWOULDBLOCK):
		d.lock.Close()
		return nil, fmt.Errorf("state directory %s is in use by another process", path)
	case err != nil:
		d.lock.Close()
		return nil, fmt.Errorf("locking state directory %s: %w", path, err)
	}
	return d, nil
}

// Close unlocks the directory. It stores nothing; see [Dir.Settle]. Only the first
// call does anything.
func (d *Dir) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lock == nil {
		return nil
	}
	err := d.lock.Close()
	d.lock = nil
	if err != nil {
		return fmt.Errorf("closing state directory %s: %w", d.path, reason(err))
	}
	return nil
}

// Load reads what is stored, and reserves epochs for hosts, the ones that will be
// used, which must be durable before any is: a full or read-only disk is found
// here. It changes nothing if it returns an error, except that a broken active.json
// may have been moved aside. It is called once, before the first save.
func (d *Dir) Load(hosts []string) (Saved, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.lock == nil:
		return Saved{}, ErrClosed
	case d.loaded:
		return Saved{}, errors.New("the state has been loaded already")
	}
	saved := Saved{}
	// All of them, so that an operator hears of everything there is to repair.
	trafficErr := d.loadTraffic(&saved)
	pinsErr := d.loadPins(&saved)
	weightsErr := d.loadWeights(&saved)
	if err := errors.Join(trafficErr, pinsErr, weightsErr); err != nil {
		return Saved{}, err
	}
	if err := d.loadActive(&saved, hosts); err != nil {
		return Saved{}, err
	}
	d.loaded = true
	return saved, nil
}

// advise adds what to do to an error of a file's content.
func advise(err error, remedy string) error {
	if broken := (*corrupt)(nil); errors.As(err, &broken) {
		return fmt.Errorf("%w: %s", err, remedy)
	}
	return err
}

type trafficState struct {
	Version int             `json:"version"`
	Router  *flag           `json:"router,omitempty"`
	Hosts   map[string]flag `json:"hosts"`
}

// flag is a [bridge.Traffic] without its drain, which ends with the process.
type flag struct {
	// Enabled is a pointer, as a missing flag is not a false one.
	Enabled     *bool     `json:"trafficEnabled"`
	Message     string    `json:"message"`
	LastUpdated time.Time `json:"lastUpdated"`
}

func (f flag) traffic(host string) bridge.Traffic {
	return bridge.Traffic{Host: host, Enabled: *f.Enabled, Message: f.Message, LastUpdated: f.LastUpdated}
}

func newFlag(t bridge.Traffic) flag {
	return flag{Enabled: &t.Enabled, Message: t.Message, LastUpdated: t.LastUpdated}
}

func (d *Dir) loadTraffic(saved *Saved) error {
	const remedy = "repair the file, or delete it, which turns all traffic on"
	var file trafficState
	if _, err := d.read(trafficFile, &file); err != nil {
		return advise(err, remedy)
	}
	missing := func(whose string) error {
		return fmt.Errorf("reading %s: %s has no trafficEnabled: %s", d.file(trafficFile), whose, remedy)
	}
	if file.Router != nil {
		if file.Router.Enabled == nil {
			return missing("router")
		}
		router := file.Router.traffic("")
		saved.Router = &router
	}
	saved.Hosts = make(map[string]bridge.Traffic, len(file.Hosts))
	for host, f := range file.Hosts {
		if f.Enabled == nil {
			return missing(fmt.Sprintf("host %q", host))
		}
		saved.Hosts[host] = f.traffic(host)
	}
	return nil
}

// SaveTraffic stores the flags, those of the router and of its hosts, instead of
// the ones that were stored. The key of hosts is the host's name. A nil router is
// one that was never changed. A running drain (DrainUntil) is not stored: it ends
// with the process, and after a restart there is no session to drain.
func (d *Dir) SaveTraffic(router *bridge.Traffic, hosts map[string]bridge.Traffic) error {
	file := trafficState{Version: version, Hosts: make(map[string]flag, len(hosts))}
	if router != nil {
		f := newFlag(*router)
		file.Router = &f
	}
	for host, t := range hosts {
		file.Hosts[host] = newFlag(t)
	}
	return d.save(trafficFile, file)
}

type pinsState struct {
	Version int                `json:"version"`
	Pins    map[string]*string `json:"pins"`
}

func (d *Dir) loadPins(saved *Saved) error {
	const remedy = "repair the file, or delete it, which removes all pins"
	var file pinsState
	if _, err := d.read(pinsFile, &file); err != nil {
		return advise(err, remedy)
	}
	saved.Pins = make(map[string]string, len(file.Pins))
	for host, backend := range file.Pins {
		if backend == nil || *backend == "" {
			return fmt.Errorf("reading %s: host %q is pinned to no backend: %s", d.file(pinsFile), host, remedy)
		}
		saved.Pins[host] = *backend
	}
	return nil
}

// SavePins stores the pins, backend names by host, instead of the ones that were
// stored. A host whose backend is "" is not pinned.
func (d *Dir) SavePins(pins map[string]string) error {
	file := pinsState{Version: version, Pins: make(map[string]*string, len(pins))}
	for host, backend := range pins {
		if backend != "" {
			file.Pins[host] = &backend
		}
	}
	return d.save(pinsFile, file)
}

type weightsState struct {
	Version int                        `json:"version"`
	Hosts   map[string]map[string]*int `json:"hosts"`
}

func (d *Dir) loadWeights(saved *Saved) error {
	const remedy = "repair the file, or delete it, which gives all backends their configured weights"
	var file weightsState
	if _, err := d.read(weightsFile, &file); err != nil {
		return advise(err, remedy)
	}
	saved.Weights = make(map[string]map[string]int, len(file.Hosts))
	for host, stored := range file.Hosts {
		weights := make(map[string]int, len(stored))
		for backend, weight := range stored {
			if weight == nil || *weight < 0 || *weight > route.MaxWeight {
				return fmt.Errorf("reading %s: backend %q of host %q has no weight from 0 to %d: %s", d.file(weightsFile), backend, host, route.MaxWeight, remedy)
			}
			weights[backend] = *weight
		}
		saved.Weights[host] = weights
	}
	return nil
}

// SaveWeights stores the weights that operators have set, by host and backend,
// instead of the ones that were stored.
func (d *Dir) SaveWeights(weights map[string]map[string]int) error {
	file := weightsState{Version: version, Hosts: make(map[string]map[string]*int, len(weights))}
	for host, set := range weights {
		if len(set) == 0 {
			continue
		}
		file.Hosts[host] = make(map[string]*int, len(set))
		for backend, weight := range set {
			file.Hosts[host][backend] = &weight
		}
	}
	return d.save(weightsFile, file)
}

// save writes a file for a caller from outside.
func (d *Dir) save(name string, content any) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.usable(); err != nil {
		return err
	}
	return d.write(name, content)
}

func (d *Dir) usable() error {
	switch {
	case d.lock == nil:
		return ErrClosed
	case !d.loaded:
		return ErrNotLoaded
	}
	return nil
}
