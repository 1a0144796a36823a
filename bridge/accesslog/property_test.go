package accesslog_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"switchboard/bridge/accesslog"
)

// written is what a log writes that is given lines by say.
func written(say func(l *accesslog.Log)) string {
	var out bytes.Buffer
	l := accesslog.New(accesslog.Options{Writer: &out})
	say(l)
	signals := make(chan os.Signal, 1)
	signals <- os.Interrupt
	if err := l.Run(signals, make(chan struct{})); err != nil {
		panic(err)
	}
	return out.String()
}

// read is a line as encoding/json reads it.
type read struct {
	Kind, Time                  string
	TimeMsec                    json.Number
	Type                        string   `json:"version_type_key"`
	Node                        string   `json:"node_key"`
	Instance                    string   `json:"instance_key"`
	Bytes                       *int64   `json:"bytes"`
	Code                        *int     `json:"code"`
	Upstream                    *string  `json:"upstream_response_time"`
	Took                        *float64 `json:"nginx_response_time"`
	ID, Listener, Host, Backend string
	Client, Protocol            string
	Method, Authority, Path     string
	BytesFromClient             int64
	BytesToBackend              int64
	BytesToClient               int64
	Epoch                       uint64
	TookMs                      float64
	Attempts                    int
	Reason, Detail              string
}

// parse reads the one line of text, and checks what both kinds have in common.
func parse(t *rapid.T, text string) (r read) {
	line, rest, ok := strings.Cut(text, "\n")
	if !ok || rest != "" {
		t.Fatalf("%q is not one line", text)
	}
	decoder := json.NewDecoder(strings.NewReader(line))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&r); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	return r
}

// moments are times that a line may have.
func moments() *rapid.Generator[time.Time] {
	return rapid.Custom(func(t *rapid.T) time.Time {
		zone := time.FixedZone("", 60*rapid.IntRange(-12*60, 14*60).Draw(t, "minutes"))
		return time.UnixMilli(rapid.Int64Range(86_400_000, 250_000_000_000_000).Draw(t, "ms")).In(zone)
	})
}

// texts are bytes, valid UTF-8 or not.
func texts(most int) *rapid.Generator[string] {
	return rapid.OneOf(
		rapid.StringN(0, -1, most),
		rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, most), func(b []byte) string { return string(b) }),
		rapid.SampledFrom([]string{"", "\"\\\x00\x1f\x7f", "\u2028\u2029\ufffd", "a\xffb", "\xe2\x82", "\xed\xa0\x80", "é", "\n\r\t"}),
	)
}

// clean is a text as it is read back.
func clean(s string) string {
	var out strings.Builder
	for _, r := range s { // which yields U+FFFD for a byte that is none
		out.WriteRune(r)
	}
	return out.String()
}

func orNull(key string) string {
	if key == "" {
		return "null"
	}
	return clean(key)
}

// epoch is a moment as seconds with three digits.
func epoch(t time.Time) json.Number {
	return json.Number(fmt.Sprintf("%d.%03d", t.Unix(), t.Nanosecond()/int(time.Millisecond)))
}

// same compares what was read with what was put in.
func same(t *rapid.T, got, want read) {
	if !reflect.DeepEqual(got, want) {
		g, _ := json.Marshal(got)
		w, _ := json.Marshal(want)
		t.Fatalf("read %s\nwant %s", g, w)
	}
}

// Every line is read back as what was put in.
func TestRequestLines(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := func(name string, most int) string { return texts(most).Draw(t, name) }
		number := rapid.Int64Range(0, math.MaxInt64)
		duration := rapid.Int64Range(0, int64(1000*time.Hour))
		r := accesslog.Request{
			Ended: moments().Draw(t, "ended"), Took: time.Duration(duration.Draw(t, "took")),
			Upstream: time.Duration(rapid.Int64Range(-1, int64(time.Hour)).Draw(t, "upstream")),
			Type:     text("type", 100), Node: text("node", 100), Instance: text("instance", 100), Code: rapid.IntRange(0, 599).Draw(t, "code"),
			ToClient: number.Draw(t, "to"), FromClient: number.Draw(t, "from"), Attempts: rapid.IntRange(0, 9).Draw(t, "attempts"),
			ID: []byte(text("id", 20)), Listener: text("listener", 255), Host: text("host", 255), Backend: text("backend", 255),
			Client: text("client", 60), Protocol: text("protocol", 10), Method: []byte(text("method", 32)),
			Authority: []byte(text("authority", 255)), Path: []byte(text("path", 1024)), Reason: text("reason", 30), Detail: text("detail", 500),
		}
		got := parse(t, written(func(l *accesslog.Log) { l.Request(&r) }))
		path, _, _ := strings.Cut(string(r.Path), "?")
		upstream := "-"
		if r.Upstream >= 0 {
			upstream = fmt.Sprintf("%d.%03d", r.Upstream/time.Second, r.Upstream/time.Millisecond%1000)
		}
		took := float64(r.Took.Microseconds()) / 1e6
		want := read{
			Kind: "request", Time: r.Ended.Format("2006-01-02T15:04:05.000Z07:00"), TimeMsec: epoch(r.Ended),
			Type: orNull(r.Type), Node: orNull(r.Node), Instance: orNull(r.Instance), Bytes: &r.ToClient, Code: &r.Code, Upstream: &upstream, Took: &took,
			ID: clean(string(r.ID)), Listener: clean(r.Listener), Host: clean(r.Host), Backend: clean(r.Backend), Client: clean(r.Client),
			Protocol: clean(r.Protocol), Method: clean(string(r.Method)), Authority: clean(string(r.Authority)), Path: clean(path),
			BytesFromClient: r.FromClient, Attempts: r.Attempts, Reason: clean(r.Reason), Detail: clean(r.Detail),
		}
		same(t, got, want)
	})
}

func TestSessionLines(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := func(name string) string { return texts(255).Draw(t, name) }
		number := rapid.Int64Range(0, math.MaxInt64)
		s := accesslog.Session{
			Ended: moments().Draw(t, "ended"), Took: time.Duration(rapid.Int64Range(0, int64(1000*time.Hour)).Draw(t, "took")),
			Type: text("type"), Node: text("node"), Instance: text("instance"), ID: text("id"), Listener: text("listener"), Host: text("host"),
			Backend: text("backend"), Epoch: rapid.Uint64().Draw(t, "epoch"), Client: text("client"), Protocol: text("protocol"),
			ToBackend: number.Draw(t, "toBackend"), ToClient: number.Draw(t, "toClient"), Reason: text("reason"), Detail: text("detail"),
		}
		got := parse(t, written(func(l *accesslog.Log) { l.Session(&s) }))
		want := read{
			Kind: "session", Time: s.Ended.Format("2006-01-02T15:04:05.000Z07:00"), TimeMsec: epoch(s.Ended),
			Type: orNull(s.Type), Node: orNull(s.Node), Instance: orNull(s.Instance), Bytes: &s.ToClient,
			ID: clean(s.ID), Listener: clean(s.Listener), Host: clean(s.Host), Backend: clean(s.Backend), Epoch: s.Epoch, Client: clean(s.Client),
			Protocol: clean(s.Protocol), BytesToBackend: s.ToBackend, BytesToClient: s.ToClient,
			TookMs: float64(s.Took.Microseconds()) / 1000, Reason: clean(s.Reason), Detail: clean(s.Detail),
		}
		same(t, got, want)
	})
}

// What clients send is cut where it may be long, never within a character, and what
// stands behind a '?' is left out.
func FuzzRequest(f *testing.F) {
	f.Add([]byte("GET"), []byte("a.test"), []byte("/a?b"), "detail")
	f.Add([]byte{0xff}, []byte(strings.Repeat("é", 200)), []byte("/"+strings.Repeat("\xe2\x82\xac", 500)), "\x00\"\\")
	f.Fuzz(func(t *testing.T, method, authority, path []byte, detail string) {
		text := written(func(l *accesslog.Log) {
			l.Request(&accesslog.Request{Ended: time.Unix(1, 0), Method: method, Authority: authority, Path: path, Detail: detail})
		})
		var got read
		if err := json.Unmarshal([]byte(text), &got); err != nil || strings.Count(text, "\n") != 1 || !utf8.ValidString(text) {
			t.Fatalf("%q: %v", text, err)
		}
		path, _, _ = bytes.Cut(path, []byte("?"))
		for _, c := range []struct {
			got, put string
			most     int
		}{
			{got.Method, string(method), 512}, {got.Authority, string(authority), 255}, {got.Path, string(path), 1024}, {got.Detail, detail, 512},
		} {
			switch {
			case len(c.put) <= c.most && c.got != clean(c.put):
				t.Errorf("read %q, want %q", c.got, clean(c.put))
			case len(c.put) > c.most && utf8.ValidString(c.put) && (!strings.HasPrefix(c.put, c.got) || len(c.got) > c.most || len(c.got) <= c.most-utf8.UTFMax):
				t.Errorf("read %q of %q", c.got, c.put)
			}
		}
	})
}

// typical is a request as most are.
func typical() *accesslog.Request {
	return &accesslog.Request{
		Ended: time.Now(), Took: 1234 * time.Microsecond, Upstream: 1100 * time.Microsecond, Type: "1234", Node: "3", Instance: "98765",
		Code: 200, ToClient: 1300, FromClient: 420, Attempts: 1, ID: []byte("12345678"), Listener: "web", Host: "shop.example.com",
		Backend: "shop-0", Client: "192.0.2.17:54321", Protocol: "HTTP/1.1", Method: []byte("GET"), Authority: []byte("shop.example.com"),
		Path: []byte("/articles/17/comments?page=2"),
	}
}

// A line allocates nothing.
func TestAllocations(t *testing.T) {
	if raceDetector {
		t.Skip("under the race detector a sync.Pool loses some of what it is given")
	}
	l := accesslog.New(accesslog.Options{})
	r, s := typical(), &accesslog.Session{Ended: time.Now(), ID: "1", Detail: "\"\xff"}
	for range 20_000 { // the buffer is full then, and has grown to the end
		l.Request(r)
	}
	if n := testing.AllocsPerRun(1000, func() {
		l.Request(r)
		l.Session(s)
	}); n != 0 {
		t.Errorf("two lines allocate %v times", n)
	}
}

// benchmarked runs a log while it is given lines.
func benchmarked(b *testing.B, o accesslog.Options, each func(l *accesslog.Log)) {
	l := accesslog.New(o)
	signals, ended := make(chan os.Signal, 1), make(chan error, 1)
	ready := make(chan struct{})
	go func() { ended <- l.Run(signals, ready) }()
	<-ready
	b.ReportAllocs()
	for b.Loop() {
		each(l)
	}
	signals <- os.Interrupt
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
	c := l.Counts()
	b.ReportMetric(float64(c.Dropped[accesslog.Slow])/float64(b.N), "dropped/op")
}

// BenchmarkRequest is what a request pays for its line. Nothing else is done here, so
// that lines come faster than they can be written, and some are dropped.
func BenchmarkRequest(b *testing.B) {
	r := typical()
	b.Run("discarded", func(b *testing.B) {
		benchmarked(b, accesslog.Options{Writer: io.Discard}, func(l *accesslog.Log) { l.Request(r) })
	})
	b.Run("file", func(b *testing.B) {
		path := filepath.Join(b.TempDir(), "access.log")
		benchmarked(b, accesslog.Options{Path: path}, func(l *accesslog.Log) { l.Request(r) })
	})
}
