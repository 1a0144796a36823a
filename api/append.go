package api

import (
	"bytes"
	"context"
	"encoding/json"
	"math"
	"strconv"
	"time"
)

// What there is one of for each host is appended by hand: the same bytes as those of
// encoding/json, in a tenth of the time, and without leaving anything to collect.

// appendCluster appends [Sources.Cluster] as JSON, in turns: the state of each host is
// that of one moment, and none is older than the call.
func (s Sources) appendCluster(ctx context.Context, turn *Turn, to []byte) ([]byte, error) {
	listed := s.Listed()
	// Structs of plain values always encode.
	text, _ := json.Marshal(s.cluster(len(listed) - len(s.Hosts)))
	// In a string the second quote would be escaped.
	head, tail, _ := bytes.Cut(text, []byte(`"clusters":[]`))
	to, err := appendHosts(ctx, turn, append(append(to, head...), `"clusters":`...), listed)
	return append(to, tail...), err
}

// appendHosts appends the states of hosts as JSON, likewise.
func appendHosts(ctx context.Context, turn *Turn, to []byte, hosts []HostSource) ([]byte, error) {
	var v viewer
	to = append(to, '[')
	for i, source := range hosts {
		if i > 0 {
			to = append(to, ',')
		}
		to = appendHost(to, v.view(source))
		if err := turn.Rest(ctx); err != nil {
			return to, err
		}
	}
	return append(to, ']'), nil
}

// appendHost appends h as JSON.
func appendHost(to []byte, h *Host) []byte {
	to = appendText(append(to, `{"host":`...), h.Host)
	to = appendText(append(to, `,"policy":`...), h.Policy)
	if h.FromTable {
		to = append(to, `,"fromTable":true`...)
	}
	to = append(to, `,"active":`...)
	if a := h.Active; a == nil {
		to = append(to, "null"...)
	} else {
		to = appendText(append(to, `{"name":`...), a.Name)
		to = appendText(append(to, `,"address":`...), a.Address)
		to = append(to, '}')
	}
	to = strconv.AppendUint(append(to, `,"epoch":`...), h.Epoch, 10)
	to = appendTime(append(to, `,"since":`...), h.Since)
	to = appendText(append(to, `,"reason":`...), h.Reason)
	to = append(to, `,"pin":`...)
	if h.Pin == nil {
		to = append(to, "null"...)
	} else {
		to = appendText(to, *h.Pin)
	}
	to = appendTraffic(append(to, ','), &h.Traffic)
	to = append(to, `,"backends":[`...)
	for i := range h.Backends {
		if i > 0 {
			to = append(to, ',')
		}
		to = appendBackend(to, &h.Backends[i])
	}
	to = append(to, ']')
	if h.HTTP != nil {
		// A struct of plain values always encodes.
		text, _ := json.Marshal(h.HTTP)
		to = append(append(to, `,"http":`...), text...)
	}
	return append(to, '}')
}

// appendTraffic appends the members of t.
func appendTraffic(to []byte, t *Traffic) []byte {
	to = strconv.AppendBool(append(to, `"trafficEnabled":`...), t.TrafficEnabled)
	to = appendText(append(to, `,"message":`...), t.Message)
	to = appendTime(append(to, `,"lastUpdated":`...), t.LastUpdated)
	to = appendTime(append(to, `,"drainUntil":`...), t.DrainUntil)
	to = strconv.AppendInt(append(to, `,"currentSessionCount":`...), int64(t.CurrentSessionCount), 10)
	if t.Severed != nil {
		to = strconv.AppendInt(append(to, `,"severed":`...), int64(*t.Severed), 10)
	}
	return to
}

func appendBackend(to []byte, b *Backend) []byte {
	to = append(to, '{')
	if b.Host != "" {
		to = append(appendText(append(to, `"host":`...), b.Host), ',')
	}
	to = appendText(append(to, `"name":`...), b.Name)
	to = appendText(append(to, `,"address":`...), b.Address)
	to = strconv.AppendBool(append(to, `,"healthy":`...), b.Healthy)
	to = strconv.AppendBool(append(to, `,"active":`...), b.Active)
	to = strconv.AppendInt(append(to, `,"weight":`...), int64(b.Weight), 10)
	to = strconv.AppendInt(append(to, `,"currentSessionCount":`...), int64(b.CurrentSessionCount), 10)
	to = appendTime(append(to, `,"check":{"at":`...), b.Check.At)
	to = appendNumber(append(to, `,"tookMs":`...), b.Check.TookMs)
	to = appendText(append(to, `,"detail":`...), b.Check.Detail)
	return append(to, "}}"...)
}

func appendSession(to []byte, s *Session) []byte {
	to = appendText(append(to, `{"id":`...), s.ID)
	to = appendText(append(to, `,"protocol":`...), s.Protocol)
	to = appendText(append(to, `,"host":`...), s.Host)
	to = appendText(append(to, `,"listener":`...), s.Listener)
	to = appendText(append(to, `,"backend":`...), s.Backend)
	to = appendText(append(to, `,"client":`...), s.Client)
	to = appendTime(append(to, `,"since":`...), s.Since)
	to = strconv.AppendInt(append(to, `,"bytesToBackend":`...), s.BytesToBackend, 10)
	to = strconv.AppendInt(append(to, `,"bytesToClient":`...), s.BytesToClient, 10)
	return append(to, '}')
}

// appendText appends a string. Those that need escaping are few.
func appendText(to []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			text, _ := json.Marshal(s) // a string always encodes
			return append(to, text...)
		}
	}
	to = append(to, '"')
	to = append(to, s...)
	return append(to, '"')
}

// appendTime appends a time in RFC 3339, null for none.
func appendTime(to []byte, t *time.Time) []byte {
	if t == nil {
		return append(to, "null"...)
	}
	to = t.AppendFormat(append(to, '"'), time.RFC3339Nano)
	return append(to, '"')
}

// appendNumber appends a number without an exponent, where it has none.
func appendNumber(to []byte, f float64) []byte {
	if size := math.Abs(f); size != 0 && (size < 1e-6 || size >= 1e21) {
		text, _ := json.Marshal(f) // it is neither infinite nor NaN
		return append(to, text...)
	}
	return strconv.AppendFloat(to, f, 'f', -1, 64)
}
