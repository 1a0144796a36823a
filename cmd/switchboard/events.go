package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"switchboard/api"
	"switchboard/bridge"
	"switchboard/bridge/route"
)

// reconnectEvery is how often a router that has gone is tried again.
const reconnectEvery = time.Second

// silence is how long a stream may have nothing in it, of which a router has a comment
// every ten seconds.
const silence = 30 * time.Second

func (p *program) events() *cobra.Command {
	var at, host, output string
	var follow bool
	command := &cobra.Command{
		Use:   "events",
		Short: "Say how a router is, and what happens in it",
		Long: `Says how a router is: who is active, and whose traffic is off. With --follow it goes on
with what happens, until it is interrupted; when the router has gone, it waits for it to
come back, and tells what it has missed if the router still knows it. With -o json each
line is a JSON object: first the answer of GET /cluster, then an event of GET /events.

The API is named with --api or ` + apiVariable + `. The user name and the password are put
in its URL, or in SWITCHBOARD_API_USERNAME and SWITCHBOARD_API_PASSWORD or
SWITCHBOARD_API_PASSWORD_FILE.`,
		Example: "  switchboard events --follow\n  switchboard events --follow --host db.main -o json",
		Args:    noArguments("; name a host with --host HOST"),
	}
	command.RunE = func(command *cobra.Command, _ []string) error {
		if err := checkOutput(output); err != nil {
			return err
		}
		base, err := p.apiURL(at)
		if err != nil {
			return err
		}
		to := base.JoinPath("events")
		if host != "" {
			to.RawQuery = url.Values{"host": {host}}.Encode()
		}
		ctx, stop := signal.NotifyContext(command.Context(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		f := &following{program: p, url: to, json: output == "json", follow: follow, sessions: make(map[string]int)}
		if err := f.run(ctx); err != nil {
			fmt.Fprintf(p.errs, "%s: %v\n(the router at %s)\n", command.CommandPath(), err, base.Redacted())
			return errFailed
		}
		return nil
	}
	flags := command.Flags()
	flags.BoolVar(&follow, "follow", false, "go on with what happens, until interrupted")
	flags.StringVar(&host, "host", "", "of one `host`, and of the router itself")
	flags.StringVar(&at, "api", "", "the router's API, a `URL` ("+apiVariable+"; default "+defaultAPI+")")
	outputFlag(command, &output)
	return command
}

// following reads a router's events, and tells them.
type following struct {
	*program
	url          *url.URL
	json, follow bool
	// last is the ID of the last event, to go on from.
	last string
	// begun: a stream has begun, so the router is there in principle.
	begun bool
	// sessions are those that were told, by host.
	sessions map[string]int
}

// errTold ends a stream of which enough is known.
var errTold = errors.New("told")

// run follows until ctx ends, or for as long as it is asked to. It fails if there never
// was a stream, or nobody reads what it says.
func (f *following) run(ctx context.Context) error {
	for {
		err := f.stream(ctx)
		var unread *os.PathError
		switch {
		case ctx.Err() != nil, errors.Is(err, errTold):
			return nil
		case !f.begun, errors.As(err, &unread):
			return err
		}
		timer := time.NewTimer(reconnectEvery)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
	}
}

// stream reads one stream to its end.
func (f *following) stream(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watchdog := time.AfterFunc(silence, cancel)
	defer watchdog.Stop()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url.String(), nil)
	if err != nil {
		return err
	}
	if f.last != "" {
		request.Header.Set("Last-Event-ID", f.last)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		why, _ := unanswered(err)
		return why
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 1<<20))
		return refusal(response, text)
	}
	f.begun = true
	kind, reader := "", bufio.NewReader(response.Body)
	for {
		line, err := reader.ReadBytes('\n')
		if err != nil {
			return err
		}
		watchdog.Reset(silence)
		switch name, value, _ := bytes.Cut(bytes.TrimSuffix(line, []byte("\n")), []byte(": ")); string(name) {
		case "event":
			kind = string(value)
		case "id":
			f.last = string(value)
		case "data":
			if err := f.tell(kind, value); err != nil {
				return err
			}
			if !f.follow {
				return errTold
			}
		}
	}
}

// tell writes an event.
func (f *following) tell(kind string, data []byte) error {
	if f.json {
		_, err := f.out.Write(append(data, '\n'))
		return err
	}
	if kind == "snapshot" {
		var cluster api.Cluster
		if err := json.Unmarshal(data, &cluster); err != nil {
			return fmt.Errorf("reading the state: %w", err)
		}
		return f.tellState(cluster)
	}
	var e happening
	if err := json.Unmarshal(data, &e); err != nil {
		return fmt.Errorf("reading an event: %w", err)
	}
	if e.Kind == bridge.SessionCount {
		if e.Host == "" || e.CurrentSessionCount == f.sessions[e.Host] {
			return nil
		}
		f.sessions[e.Host] = e.CurrentSessionCount
	}
	if words := inWords(e.event()); words != "" {
		return f.say(e.At, words)
	}
	return nil
}

func (f *following) say(at time.Time, words string) error {
	_, err := fmt.Fprintf(f.out, "%s  %s\n", at.Local().Format(time.TimeOnly), words)
	return err
}

// tellState says how a router is.
func (f *following) tellState(c api.Cluster) error {
	now := time.Now()
	lines := []string{fmt.Sprintf("%s: hosts: %d, sessions: %d", c.Name, len(c.Clusters), c.CurrentSessionCount)}
	off := func(whose string, t api.Traffic) {
		if !t.TrafficEnabled {
			lines = append(lines, whose+": traffic is off"+because(t.Message))
		}
	}
	off("router", c.Traffic)
	for _, h := range c.Clusters {
		f.sessions[h.Host] = h.CurrentSessionCount
		healthy := 0
		for _, b := range h.Backends {
			if b.Healthy {
				healthy++
			}
		}
		switch {
		case h.Policy == string(route.Balance):
			lines = append(lines, fmt.Sprintf("%s: %d of %d backends are healthy", h.Host, healthy, len(h.Backends)))
		case h.Active == nil:
			lines = append(lines, fmt.Sprintf("%s: no backend is active (epoch %d): %s", h.Host, h.Epoch, h.Reason))
		default:
			lines = append(lines, fmt.Sprintf("%s: %s is active (epoch %d): %s", h.Host, h.Active.Name, h.Epoch, h.Reason))
		}
		off(h.Host, h.Traffic)
	}
	for _, line := range lines {
		if err := f.say(now, line); err != nil {
			return err
		}
	}
	return nil
}

// happening is an event as GET /events has it, with the members of every kind.
type happening struct {
	Kind                bridge.Kind        `json:"kind"`
	At                  time.Time          `json:"at"`
	Host                string             `json:"host"`
	Active              *api.ActiveBackend `json:"active"`
	Epoch               uint64             `json:"epoch"`
	Reason              string             `json:"reason"`
	Backend             string             `json:"backend"`
	Healthy             bool               `json:"healthy"`
	Detail              string             `json:"detail"`
	TrafficEnabled      bool               `json:"trafficEnabled"`
	Message             string             `json:"message"`
	Pin                 string             `json:"pin"`
	Weights             map[string]int     `json:"weights"`
	Hosts               int                `json:"hosts"`
	CurrentSessionCount int                `json:"currentSessionCount"`
	Backends            map[string]int     `json:"backends"`
}

// event is what the router's own event was, as far as words need it.
func (h happening) event() bridge.Event {
	e := bridge.Event{Kind: h.Kind, At: h.At, Host: h.Host}
	switch h.Kind {
	case bridge.NewActiveBackend:
		e.Active = &bridge.Active{Epoch: h.Epoch, Reason: h.Reason}
		if h.Active != nil {
			e.Active.Backend = &route.Backend{Name: h.Active.Name, Address: h.Active.Address}
		}
	case bridge.BackendHealth:
		e.Health = &bridge.Health{Backend: h.Backend, Healthy: h.Healthy, Detail: h.Detail}
	case bridge.TrafficEnabled, bridge.TrafficDisabled:
		e.Traffic = &bridge.Traffic{Enabled: h.TrafficEnabled, Message: h.Message}
	case bridge.Pinned, bridge.Unpinned:
		e.Pin = &bridge.Pin{Backend: h.Pin, Message: h.Message}
	case bridge.WeightsChanged:
		e.Weights = &bridge.Weights{Set: h.Weights, Message: h.Message}
	case bridge.TableChanged:
		e.Table = &bridge.TableChange{Hosts: h.Hosts}
	case bridge.SessionCount:
		e.Sessions = &bridge.Counts{Sessions: h.CurrentSessionCount, Backends: h.Backends}
	}
	return e
}
