package runner

import (
	"sync/atomic"

	"switchboard/api"
	"switchboard/bridge"
	"switchboard/bridge/accesslog"
	"switchboard/bridge/route"
	"switchboard/bridge/web"
)

// record counts a connection, and passes its record on.
func (r *Router) record(record bridge.Record) {
	n, counted := r.ended.Load(record.Reason)
	if !counted {
		n, _ = r.ended.LoadOrStore(record.Reason, new(atomic.Int64))
	}
	n.(*atomic.Int64).Add(1)
	if r.config.Access != nil {
		line := accesslog.Session{
			Ended: record.Began.Add(record.Took), Took: record.Took,
			ID: record.ID, Listener: record.Listener, Host: record.Host, Backend: record.Backend, Epoch: record.Epoch,
			Client: record.Client, Protocol: string(record.Protocol),
			ToBackend: record.ToBackend, ToClient: record.ToClient, Reason: string(record.Reason),
		}
		line.Type, line.Node, line.Instance = keys(record.Origin)
		if record.Err != nil {
			line.Detail = record.Err.Error()
		}
		r.config.Access.Session(&line)
	}
	if r.config.Records != nil {
		r.config.Records(record)
	}
}

// requests is who gets the records of requests; nil: nobody.
func (r *Router) requests() func(*web.Record) {
	access, also := r.config.Access, r.config.Requests
	if access == nil {
		return also
	}
	return func(record *web.Record) {
		line := accesslog.Request{
			Ended: record.Ended, Took: record.Took, Upstream: record.Upstream,
			Code: record.Status, ToClient: record.ToClient, FromClient: record.FromClient, Attempts: record.Attempts,
			ID: record.ID, Listener: record.Listener, Host: record.Host, Backend: record.Backend,
			Client: record.Client, Protocol: record.Protocol,
			Method: record.Method, Authority: record.Authority, Path: record.Target, Reason: record.Reason,
		}
		line.Type, line.Node, line.Instance = keys(record.Origin)
		if record.Err != nil {
			line.Detail = record.Err.Error()
		}
		access.Request(&line)
		if also != nil {
			also(record)
		}
	}
}

// keys are whom a backend of that origin is accounted to.
func keys(origin string) (typeID, node, instance string) {
	return route.Backend{Origin: origin}.Keys()
}

// accessView is what the API shows of the access log.
func (r *Router) accessView() *api.AccessLog {
	c := r.config.Access.Counts()
	v := &api.AccessLog{Written: c.Written, Dropped: make(map[string]int64, len(c.Dropped))}
	for cause, n := range c.Dropped {
		v.Dropped[string(cause)] = n
	}
	if c.Err != nil {
		since := c.Since.UTC()
		v.Error, v.ErrorSince = c.Err.Error(), &since
	}
	return v
}
