package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync/atomic"

	"switchboard/api"
	"switchboard/bridge/feed"
	"switchboard/bridge/route"
	"switchboard/pacemaker/store"
	"switchboard/pacemaker/table"
	"switchboard/runner"
)

// tableFile is the last good table in the state directory.
const tableFile = "table.jsonl"

// follower is who follows the table in Redis for a router.
type follower struct {
	*table.Watcher
	tables feed.Feed[*route.Table]
	status feed.Feed[table.Status]
	// router is who knows which addresses are its own; nil before it is made.
	router atomic.Pointer[runner.Router]
}

// newFollower returns a follower of the table in redis, which keeps the last good one in
// the directory state unless that is "".
func newFollower(redis store.Redis, prefix, state string, log *slog.Logger) (*follower, error) {
	f := &follower{}
	o := table.WatcherOptions{Redis: redis, Prefix: prefix, Refuse: f.refuse, Tables: &f.tables, Status: &f.status, Log: log}
	if state != "" {
		file := table.File(filepath.Join(state, tableFile))
		o.Load, o.Save = file.Load, file.Save
	}
	var err error
	f.Watcher, err = table.NewWatcher(o)
	return f, err
}

func (f *follower) refuse(address netip.AddrPort) error {
	if router := f.router.Load(); router != nil {
		return router.Refuses(address)
	}
	return nil
}

// table is what the router is made with. It is called once, as the tables are for one.
func (f *follower) table() *runner.Table {
	// For as long as the program runs.
	tables, _ := f.tables.Subscribe()
	return &runner.Table{Tables: tables, State: f.state, Accept: f.accept}
}

// state is the status in the API's words.
func (f *follower) state() api.Table {
	s, _ := f.status.Get()
	t := api.Table{
		Serial: s.Serial, Hosts: s.Hosts, Loaded: s.Loaded, Stale: s.Stale, Reason: s.Reason, RedisSerial: s.Redis,
		Alarm: s.Alarm, Warning: s.Warning, Changes: s.Changes, Compares: s.Compares, Failures: s.Failures,
		Rejected: api.Rejected(s.Rejected),
	}
	if !s.Since.IsZero() {
		since := s.Since.UTC()
		t.Since = &since
	}
	for _, r := range s.Rejections {
		t.Rejections = append(t.Rejections, api.Rejection{Host: r.Host, Kind: string(r.Kind), Why: r.Why})
	}
	return t
}

func (f *follower) accept(ctx context.Context) error {
	if s, _ := f.status.Get(); s.Alarm == "" && !s.Stale {
		return api.ErrNothingToAccept
	}
	if err := f.Accept(ctx); err != nil {
		return fmt.Errorf("accepting what Redis has: %w", err)
	}
	return nil
}
