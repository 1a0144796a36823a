package stats_test

import (
	"strings"
	"testing"

	"switchboard/pacemaker/stats"
)

// FuzzRecord: whatever a line holds, it is a record within bounds or it is none.
func FuzzRecord(f *testing.F) {
	for _, line := range []string{
		strings.TrimSpace(request(1)),
		`{ "version_type_key": "4", "node_key": "2", "instance_key": "9", "bytes": 207, "code": 101, "upstream_response_time": "0.010, - : 0.020", "time": "x", "timemsec": 1385999999.123, "nginx_response_time": 1.057 }`,
		`{"kind":"session","timemsec":1,"version_type_key":"","node_key":"null","bytes":1}`,
		`{"kind":null,"timemsec":1e300,"version_type_key":"","node_key":"","bytes":1e3}`,
		`null`, `[]`, `{"a":{}}`, "\x00",
	} {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := stats.Parse(line)
		if err != nil {
			return
		}
		if r.VersionType == "" || len(r.VersionType) > 255 || len(r.Node) > 255 || r.Node == "null" || len(r.Host) > 255 {
			t.Fatalf("%q has keys without bounds: %+v", line, r)
		}
		for _, n := range []int64{r.Second, r.Bytes, int64(r.Code), r.Upstream, r.Took} {
			if n < 0 || n > 1<<46 {
				t.Fatalf("%q has numbers without bounds: %+v", line, r)
			}
		}
		if r.Session && (r.Code != 0 || r.Reached) || r.Code > 999 {
			t.Fatalf("%q makes no sense: %+v", line, r)
		}
	})
}

// FuzzPosition: what is read is written as something that is read as the same.
func FuzzPosition(f *testing.F) {
	f.Add("")
	f.Add("4711")
	f.Add(`{"log":"/a","inode":5,"head":{"bytes":3,"sum":"a"},"offset":3,"modified":1,"step":2,"done":[{"bytes":1,"sum":"b"}]}`)
	f.Add(`{"offset":-1}`)
	f.Fuzz(func(t *testing.T, text string) {
		written, err := stats.Reread(text)
		if err != nil {
			return
		}
		again, err := stats.Reread(written)
		if err != nil || again != written {
			t.Fatalf("%q is written %q, and that %q: %v", text, written, again, err)
		}
	})
}
