package stats

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"switchboard/pacemaker/store"
)

// Bounds of what can be asked for at once.
const (
	// MaxPoints is how many points each metric of a history may have.
	MaxPoints = 10_000
	// MaxRange is the longest range of a history.
	MaxRange = 400 * 24 * time.Hour
	// MaxTypes is how many version types are summed up.
	MaxTypes = 1000
	// maxKeys is how many keys are read for one answer.
	maxKeys = 200_000
	// fewSeconds is up to which range seconds are asked for one by one.
	fewSeconds = 300
)

// ErrQuestion is wrapped by errors that are the asker's: another question may do.
var ErrQuestion = errors.New("the question makes no sense")

func question(format string, arguments ...any) error {
	return fmt.Errorf("%w: %w", ErrQuestion, fmt.Errorf(format, arguments...))
}

// Totals are the sums of all there ever was. Averages are in milliseconds, percentages of
// the requests; both have fractions, and are 0 where there is nothing to divide by.
type Totals struct {
	Kind Kind   `json:"kind"`
	ID   string `json:"id"`
	// At is when Redis was asked: a rate is the difference of two totals, divided by that
	// of their times.
	At       time.Time `json:"as_at"`
	Requests int64     `json:"requests"`
	Sessions int64     `json:"sessions"`
	Bytes    int64     `json:"bytes"`
	// Time is what backends took for TimeCount requests, NGINXTime what all requests took.
	Time             int64   `json:"time"`
	TimeCount        int64   `json:"timecount"`
	TimeAverage      float64 `json:"time_average"`
	NGINXTime        int64   `json:"nginxtime"`
	NGINXTimeAverage float64 `json:"nginxtime_average"`
	Class1xx         int64   `json:"1xx"`
	Class2xx         int64   `json:"2xx"`
	Class3xx         int64   `json:"3xx"`
	Class4xx         int64   `json:"4xx"`
	Class5xx         int64   `json:"5xx"`
	Percentage1xx    float64 `json:"1xx_percentage"`
	Percentage2xx    float64 `json:"2xx_percentage"`
	Percentage3xx    float64 `json:"3xx_percentage"`
	Percentage4xx    float64 `json:"4xx_percentage"`
	Percentage5xx    float64 `json:"5xx_percentage"`
	// Codes counts each status by itself; 0 is that of requests that got no answer.
	Codes map[int]int64 `json:"codes"`
}

// Point is a value of a history. It is written [at, value] in JSON.
type Point struct {
	// At is where the step begins, in seconds since 1970.
	At    int64
	Value int64
}

// MarshalJSON writes [at, value].
func (p Point) MarshalJSON() ([]byte, error) { return json.Marshal([2]int64{p.At, p.Value}) }

// UnmarshalJSON reads [at, value].
func (p *Point) UnmarshalJSON(text []byte) error {
	var pair [2]int64
	if err := json.Unmarshal(text, &pair); err != nil {
		return err
	}
	p.At, p.Value = pair[0], pair[1]
	return nil
}

// History is what happened when.
type History struct {
	Kind Kind   `json:"kind"`
	ID   string `json:"id"`
	// Start and End bound it, in seconds since 1970; End is the last second in it.
	Start int64 `json:"start"`
	End   int64 `json:"end"`
	// Step is how many seconds a point stands for.
	Step int64 `json:"step"`
	// Metrics are the points of each metric, by time; where nothing happened there is
	// none.
	Metrics map[string][]Point `json:"metrics"`
}

// Query answers questions. Its methods may be called from any goroutine.
type Query struct {
	client  redis.UniversalClient
	keys    keys
	timeout time.Duration
}

// QueryOptions are what a [Query] needs.
type QueryOptions struct {
	// Client is as [store.Redis.Connect] makes it. The Query does not close it. Required.
	Client redis.UniversalClient
	// Prefix is what all keys begin with, as [store.Prefix] has it.
	Prefix string
	// Timeout bounds each call of Redis, of which one answer may need several; 0:
	// [store.DefaultTimeout].
	Timeout time.Duration
}

// NewQuery returns a query. Its errors are those of the options.
func NewQuery(o QueryOptions) (*Query, error) {
	o.Prefix = store.Prefix(o.Prefix)
	if err := store.CheckPrefix(o.Client, o.Prefix); err != nil {
		return nil, fmt.Errorf("asking for statistics: %w", err)
	}
	return &Query{client: o.Client, keys: keys{o.Prefix}, timeout: cmp.Or(o.Timeout, store.DefaultTimeout)}, nil
}

// Totals sums up what a kind of that ID has ever had; what is not known has had nothing. An
// [ErrQuestion] says that there is no such kind, or that it needs an ID.
func (q *Query) Totals(ctx context.Context, kind Kind, id string) (Totals, error) {
	who, id, err := q.subjects(ctx, kind, id)
	if err != nil {
		return Totals{}, fmt.Errorf("asking for totals: %w", err)
	}
	t := Totals{Kind: kind, ID: id, At: time.Now(), Codes: make(map[int]int64)}
	ctx, cancel := context.WithTimeout(ctx, q.timeout)
	defer cancel()
	// At one moment, so that the sums fit each other.
	pipe := q.client.TxPipeline()
	var hashes []*redis.MapStringStringCmd
	for _, s := range who {
		hashes = append(hashes, pipe.HGetAll(ctx, q.keys.totals(s)))
	}
	if len(hashes) > 0 {
		if _, err := pipe.Exec(ctx); err != nil {
			return Totals{}, fmt.Errorf("asking for totals: %w", err)
		}
	}
	for _, h := range hashes {
		for field, text := range h.Val() {
			if n, err := strconv.ParseInt(text, 10, 64); err == nil {
				t.add(field, n)
			}
		}
	}
	t.divide()
	return t, nil
}

func (t *Totals) add(field string, n int64) {
	fields := map[string]*int64{
		Requests: &t.Requests, Sessions: &t.Sessions, Bytes: &t.Bytes, Time: &t.Time, TimeCount: &t.TimeCount, NGINXTime: &t.NGINXTime,
		"1xx": &t.Class1xx, "2xx": &t.Class2xx, "3xx": &t.Class3xx, "4xx": &t.Class4xx, "5xx": &t.Class5xx,
	}
	if sum := fields[field]; sum != nil {
		*sum += n
	} else if code, err := strconv.Atoi(field); err == nil {
		t.Codes[code] += n
	}
}

// divide sets what follows from the sums.
func (t *Totals) divide() {
	over := func(n, by int64) float64 {
		if by == 0 {
			return 0
		}
		return float64(n) / float64(by)
	}
	t.TimeAverage, t.NGINXTimeAverage = over(t.Time, t.TimeCount), over(t.NGINXTime, t.Requests)
	t.Percentage1xx, t.Percentage2xx = 100*over(t.Class1xx, t.Requests), 100*over(t.Class2xx, t.Requests)
	t.Percentage3xx, t.Percentage4xx = 100*over(t.Class3xx, t.Requests), 100*over(t.Class4xx, t.Requests)
	t.Percentage5xx = 100 * over(t.Class5xx, t.Requests)
}

// Metric is a sum by its name in [Metrics]; 0 if there is none of that name.
func (t Totals) Metric(name string) int64 {
	return map[string]int64{
		Requests: t.Requests, Sessions: t.Sessions, Bytes: t.Bytes, Time: t.Time, TimeCount: t.TimeCount, NGINXTime: t.NGINXTime,
		"1xx": t.Class1xx, "2xx": t.Class2xx, "3xx": t.Class3xx, "4xx": t.Class4xx, "5xx": t.Class5xx,
	}[name]
}

// History is what happened from start to end, both included, in steps of whole seconds that
// begin at multiples of their length. start is moved down to such a multiple. No metrics are
// all of [Metrics].
//
// What is older is kept by the minute, and then by the hour (see [Keep]): its values stand
// where their minute or hour begins, however short the step is.
//
// An [ErrQuestion] says that there is no such kind or metric, that an ID is missing, or that
// it is too much: at most [MaxPoints] points a metric and [MaxRange].
func (q *Query) History(ctx context.Context, kind Kind, id string, metrics []string, start, end time.Time, step time.Duration) (History, error) {
	fail := func(err error) (History, error) { return History{}, fmt.Errorf("asking for history: %w", err) }
	if len(metrics) == 0 {
		metrics = Metrics()
	}
	for _, m := range metrics {
		if !slices.Contains(Metrics(), m) {
			return fail(question("there is no metric %.100q: there are %v", m, Metrics()))
		}
	}
	metrics = slices.Compact(slices.Sorted(slices.Values(metrics)))
	if step < time.Second || step%time.Second != 0 {
		return fail(question("a step is whole seconds, at least one"))
	}
	from, to, length := start.Unix(), end.Unix(), seconds(step)
	switch {
	case from < 0 || to > maxTime || to < from:
		return fail(question("the range ends before it begins"))
	case to-from > seconds(MaxRange):
		return fail(question("the range is longer than %d days", MaxRange/(24*time.Hour)))
	case (to-from)/length >= MaxPoints:
		return fail(question("the range has more than %d steps: make it shorter, or the step longer", MaxPoints))
	}
	who, id, err := q.subjects(ctx, kind, id)
	if err != nil {
		return fail(err)
	}
	from = floor(from, length)
	if keys := (to/hour - from/hour + 1) * int64(len(who)*len(metrics)); keys > maxKeys {
		return fail(question("the range, the metrics and the version types are too much for one answer: ask for fewer"))
	}
	h := History{Kind: kind, ID: id, Start: from, End: to, Step: length, Metrics: make(map[string][]Point, len(metrics))}
	points := make(map[string]map[int64]int64, len(metrics))
	for _, m := range metrics {
		points[m] = make(map[int64]int64)
	}
	for _, s := range who {
		for at := floor(from, day); at <= to; at += day {
			if err := q.day(ctx, s, at, h, points); err != nil {
				return fail(err)
			}
		}
	}
	for m, values := range points {
		all := make([]Point, 0, len(values))
		for at, n := range values {
			all = append(all, Point{at, n})
		}
		slices.SortFunc(all, func(a, b Point) int { return cmp.Compare(a.At, b.At) })
		h.Metrics[m] = all
	}
	return h, nil
}

// day adds the points of one day of a subject: of its hours and of the day itself, at one
// moment, as an hour may just now be moved from here to there.
func (q *Query) day(ctx context.Context, who subject, at int64, h History, points map[string]map[int64]int64) error {
	ctx, cancel := context.WithTimeout(ctx, q.timeout)
	defer cancel()
	add := func(metric string, second int64, text string) {
		n, err := strconv.ParseInt(text, 10, 64)
		if err == nil && second >= h.Start && second <= h.End {
			points[metric][floor(second, h.Step)] += n
		}
	}
	pipe := q.client.TxPipeline()
	var then []func()
	for metric := range points {
		whole := func(key string) {
			values := pipe.HGetAll(ctx, key)
			then = append(then, func() {
				for field, text := range values.Val() {
					if second, err := strconv.ParseInt(field, 10, 64); err == nil {
						add(metric, second, text)
					}
				}
			})
		}
		whole(q.keys.hours(who, at, metric))
		for begin := max(at, floor(h.Start, hour)); begin < at+day && begin <= h.End; begin += hour {
			key, first, last := q.keys.seconds(who, begin, metric), max(begin, h.Start), min(begin+hour-1, h.End)
			if last-first >= fewSeconds {
				whole(key)
				continue
			}
			var fields []string
			for second := first; second <= last; second++ {
				fields = append(fields, strconv.FormatInt(second, 10))
			}
			values := pipe.HMGet(ctx, key, fields...)
			then = append(then, func() {
				for i, value := range values.Val() {
					if text, is := value.(string); is {
						add(metric, first+int64(i), text)
					}
				}
			})
		}
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return err
	}
	for _, f := range then {
		f()
	}
	return nil
}

// subjects are whose counters are summed up, and the ID as the answer has it.
func (q *Query) subjects(ctx context.Context, kind Kind, id string) ([]subject, string, error) {
	switch {
	case !kind.known():
		return nil, "", question("there is no kind %.100q: there are %v", kind, Kinds())
	case kind.Needs() && (id == "" || len(id) > maxID):
		return nil, "", question("the kind %s needs an ID, of at most %d bytes", kind, maxID)
	}
	switch kind {
	case Host:
		return []subject{{"host", id}}, id, nil
	case VersionType:
		return []subject{{"vt", id}}, id, nil
	case Node:
		return []subject{{"node", id}}, id, nil
	case Uncaught, Pacemaker:
		special := map[Kind]string{Uncaught: null, Pacemaker: "pacemaker"}[kind]
		if id != "" && id != special {
			return nil, "", question("the kind %s has no ID but %s", kind, special)
		}
		return []subject{{"vt", special}}, special, nil
	}
	ctx, cancel := context.WithTimeout(ctx, q.timeout)
	defer cancel()
	key := q.keys.group(kind, id)
	many, err := q.client.SCard(ctx, key).Result()
	if err != nil {
		return nil, "", err
	}
	if many > MaxTypes {
		return nil, "", question("the %s has %d version types: at most %d are summed up", kind, many, MaxTypes)
	}
	members, err := q.client.SMembers(ctx, key).Result()
	if err != nil {
		return nil, "", err
	}
	slices.Sort(members)
	var who []subject
	for _, member := range members {
		who = append(who, subject{"vt", member})
	}
	return who, id, nil
}
