package stats

import (
	"strconv"
)

// slot is one hour of the history of one metric.
type slot struct {
	subject
	at     int64
	metric string
}

// sums are what a pass adds up before Redis hears of it.
type sums struct {
	totals  map[subject]map[string]int64
	history map[slot]map[int64]int64
	// fields counts the values, which is what a commit costs.
	fields int
	// oldest and newest bound the seconds that have a history, so that a clock that has
	// jumped makes no keys without end.
	oldest, newest int64

	requests, sessions, unplaced uint64
}

func newSums(oldest, newest int64) *sums {
	return &sums{
		totals: make(map[subject]map[string]int64), history: make(map[slot]map[int64]int64),
		oldest: oldest, newest: newest,
	}
}

// add counts a record for all whom it is about.
func (s *sums) add(r record) {
	if r.session {
		s.sessions++
	} else {
		s.requests++
	}
	if r.second < s.oldest || r.second > s.newest {
		s.unplaced++
	}
	s.count(subject{"vt", r.versionType}, r)
	if r.node != "" {
		s.count(subject{"node", r.node}, r)
	}
	if r.host != "" {
		s.count(subject{"host", r.host}, r)
	}
}

func (s *sums) count(who subject, r record) {
	s.metric(who, r.second, Bytes, r.bytes)
	if r.session {
		s.metric(who, r.second, Sessions, 1)
		return
	}
	s.metric(who, r.second, Requests, 1)
	s.metric(who, r.second, NGINXTime, r.took)
	if r.reached {
		s.metric(who, r.second, Time, r.upstream)
		s.metric(who, r.second, TimeCount, 1)
	}
	if c := class(r.code); c != "" {
		s.metric(who, r.second, c, 1)
	}
	s.total(who, strconv.Itoa(r.code), 1)
}

func (s *sums) metric(who subject, second int64, metric string, n int64) {
	if n == 0 {
		return
	}
	s.total(who, metric, n)
	if second < s.oldest || second > s.newest {
		return
	}
	in := slot{who, floor(second, hour), metric}
	values := s.history[in]
	if values == nil {
		values = make(map[int64]int64)
		s.history[in] = values
	}
	before := len(values)
	values[second] += n
	s.fields += len(values) - before
}

func (s *sums) total(who subject, field string, n int64) {
	values := s.totals[who]
	if values == nil {
		values = make(map[string]int64)
		s.totals[who] = values
	}
	before := len(values)
	values[field] += n
	s.fields += len(values) - before
}
