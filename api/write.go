package api

import (
	"cmp"
	"context"
	"errors"
	"hash/maphash"
	"net/http"
	"strings"

	"github.com/julienschmidt/httprouter"

	"switchboard/bridge"
)

// resource is what a PATCH can change: the router's traffic, or a host.
type resource struct {
	// host is "" for the router.
	host string
	// members are those that can be written.
	members []string
	// slot is held by the PATCH that is at work. One place: one at a time.
	slot chan struct{}
	// read merges the state. Of the router's, only the traffic part is used.
	read func() Host
}

func newRouterResource(s Sources) *resource {
	return &resource{
		members: []string{"trafficEnabled", "message", "grace"},
		slot:    make(chan struct{}, 1),
		read:    func() Host { return Host{Traffic: s.RouterTraffic()} },
	}
}

func newHostResource(s HostSource, slot chan struct{}) *resource {
	return &resource{
		host:    s.Name,
		members: []string{"trafficEnabled", "message", "grace", "active", "pin", "weights"},
		slot:    slot,
		read:    s.View,
	}
}

func (res *resource) etag(h Host) string {
	if res.host == "" {
		return h.Traffic.ETag()
	}
	return h.ETag()
}

func (res *resource) body(h Host) any {
	if res.host == "" {
		return h.Traffic
	}
	return h
}

// slotSeed spreads the table's hosts over the slots.
var slotSeed = maphash.MakeSeed()

func (a *API) host(p httprouter.Params) (*resource, error) {
	name := p.ByName("host")
	for _, res := range a.hosts {
		if strings.EqualFold(res.host, name) {
			return res, nil
		}
	}
	if source, ok := a.sources.find(name); ok {
		slot := a.slots[maphash.String(slotSeed, source.Name)%uint64(len(a.slots))]
		return newHostResource(source, slot), nil
	}
	return nil, bridge.ErrUnknownHost
}

// find returns the host of that name, listed or not.
func (s Sources) find(name string) (HostSource, bool) {
	for _, source := range s.Hosts {
		if strings.EqualFold(source.Name, name) {
			return source, true
		}
	}
	if s.Table == nil {
		return HostSource{}, false
	}
	return s.Table.Host(strings.ToLower(name))
}

func (a *API) get(w http.ResponseWriter, r *http.Request, res *resource) (any, error) {
	state := res.read()
	tag := res.etag(state)
	w.Header().Set("ETag", tag)
	if matches(r.Header.Values("If-None-Match"), tag, true) {
		return answer{status: http.StatusNotModified}, nil
	}
	return res.body(state), nil
}

func (a *API) patchTraffic(w http.ResponseWriter, r *http.Request, _ httprouter.Params) (any, error) {
	return a.patch(w, r, a.router)
}

func (a *API) patchHost(w http.ResponseWriter, r *http.Request, p httprouter.Params) (any, error) {
	res, err := a.host(p)
	if err != nil {
		return nil, err
	}
	return a.patch(w, r, res)
}

// patch reads and checks the whole body before it waits for anything, and again
// checks what depends on the state once nobody else can change it.
func (a *API) patch(w http.ResponseWriter, r *http.Request, res *resource) (any, error) {
	members, err := readPatch(w, r)
	if err != nil {
		return nil, err
	}
	c, bad := parse(members, res.members)
	note(r, "change", c)
	if bad = append(bad, c.against(res.read())...); len(bad) > 0 {
		return nil, invalid(bad)
	}
	release, err := a.hold(r.Context(), res)
	if err != nil {
		return nil, err
	}
	defer release()
	state := res.read()
	if bad := c.against(state); len(bad) > 0 {
		return nil, invalid(bad)
	}
	if err := checkPreconditions(r, res.etag(state)); err != nil {
		return nil, err
	}
	severed, err := a.act(r, res, c, state)
	if err != nil {
		return nil, err
	}
	state = res.read()
	state.Severed = &severed
	w.Header().Set("ETag", res.etag(state))
	if c.setTraffic && !c.enabled && c.grace > 0 {
		return answer{http.StatusAccepted, res.body(state)}, nil
	}
	return res.body(state), nil
}

// hold waits for the resource's slot, and returns the function that gives it back.
func (a *API) hold(ctx context.Context, res *resource) (release func(), err error) {
	release = func() { <-res.slot }
	select {
	case res.slot <- struct{}{}:
		// Without a look at ctx: a client that has sent all it will send and shut its
		// write side looks to net/http like one that has left.
		return release, nil
	default:
	}
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	select {
	case res.slot <- struct{}{}:
		return release, nil
	case <-ctx.Done():
		return nil, problem(http.StatusServiceUnavailable, "another change is still being made; nothing was changed by this one").
			kind("busy").with("Retry-After", retryAfter)
	}
}

// act gives the commands of a change. That of the monitor is first, because it
// can be refused. A client that leaves meanwhile does not take them back.
func (a *API) act(r *http.Request, res *resource, c change, state Host) (severed int, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), a.timeout)
	defer cancel()
	var (
		acted   bool
		durable error
	)
	// did notes what a command came to, and says whether to go on.
	did := func(n int, err error) bool {
		severed += n
		if errors.Is(err, bridge.ErrNotDurable) {
			durable, err = err, nil
		}
		acted = acted || err == nil
		return err == nil
	}
	if member, command := a.choice(res, c, state); command != nil {
		n, err := command(ctx)
		for _, refused := range []error{bridge.ErrUnknownBackend, bridge.ErrWeight} {
			if errors.Is(err, refused) {
				return 0, invalid([]Invalid{{Pointer: pointer(member), Detail: refused.Error()}})
			}
		}
		if !did(n, err) {
			return 0, err
		}
	}
	if c.setTraffic {
		done, err := a.commands.SetTraffic(ctx, res.host, bridge.TrafficChange{Enabled: c.enabled, Message: c.message, Grace: c.grace})
		if !did(done.Severed, err) {
			if acted {
				note(r, "severed", severed)
				return 0, problemOf(err).acted(severed)
			}
			return 0, err
		}
	}
	note(r, "severed", severed)
	if durable != nil {
		return 0, problemOf(durable).acted(severed)
	}
	return severed, nil
}

// choice is the one command for "active", "pin" and "weights", nil if none was
// given, and the member that it is about.
func (a *API) choice(res *resource, c change, state Host) (member string, command func(context.Context) (int, error)) {
	switch {
	case c.active != "" && c.pin != nil:
		// A pin alone would wait for a backend that is down; active asks for one that
		// is not.
		return "active", func(ctx context.Context) (int, error) {
			if b, known := state.backend(c.active); known && !b.Healthy {
				return 0, bridge.ErrUnhealthy
			}
			return a.commands.Pin(ctx, res.host, c.active, c.message)
		}
	case c.active != "":
		return "active", func(ctx context.Context) (int, error) {
			return a.commands.Switch(ctx, res.host, c.active, c.message)
		}
	case c.pin != nil:
		return "pin", func(ctx context.Context) (int, error) {
			return a.commands.Pin(ctx, res.host, *c.pin, c.message)
		}
	case c.weights != nil:
		return "weights", func(ctx context.Context) (int, error) {
			return 0, a.commands.SetWeights(ctx, res.host, c.weigh(state), c.message)
		}
	default:
		return "", nil
	}
}

func (a *API) deleteSession(_ http.ResponseWriter, r *http.Request, p httprouter.Params) (any, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), a.timeout)
	defer cancel()
	if err := a.commands.EndSession(ctx, p.ByName("id")); err != nil {
		return nil, err
	}
	note(r, "severed", 1)
	return nil, nil
}

// checkPreconditions is RFC 9110, section 13, for a write.
func checkPreconditions(r *http.Request, tag string) error {
	if wanted := r.Header.Values("If-Match"); len(wanted) > 0 && !matches(wanted, tag, false) {
		return ErrPrecondition
	}
	if matches(r.Header.Values("If-None-Match"), tag, true) {
		return ErrPrecondition
	}
	return nil
}

// matches tells whether a list of entity tags has tag. Ours are strong and have no
// comma in them; a weak one matches only where the comparison is weak.
func matches(header []string, tag string, weak bool) bool {
	for _, candidate := range strings.Split(strings.Join(header, ","), ",") {
		candidate = strings.TrimSpace(candidate)
		if weak {
			candidate = strings.TrimPrefix(candidate, "W/")
		}
		if candidate == "*" || candidate == tag {
			return true
		}
	}
	return false
}

func oldestFirst(a, b bridge.SessionInfo) int {
	return cmp.Or(a.Since.Compare(b.Since), strings.Compare(a.ID, b.ID))
}
