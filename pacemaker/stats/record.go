package stats

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Bounds of what a record may say. Sums of a whole pass stay within 63 bits.
const (
	maxID      = 255
	maxBytes   = 1 << 46
	maxSeconds = 1 << 30
	// maxTime is the year 9999.
	maxTime = 253402300799
)

// record is a line that counts.
type record struct {
	// second is when it ended, in seconds since 1970.
	second int64
	// versionType and host are never "" but for a host that is not known; node is "" if
	// it is not known.
	versionType, node, host string
	session                 bool
	bytes                   int64
	code                    int
	// upstream is how long backends took, in milliseconds, if there was one; took how long
	// it took in all.
	upstream, took int64
	reached        bool
}

// errIncomplete is why a line does not count that is JSON.
var errIncomplete = errors.New("the record is incomplete")

// parse reads a line, without its newline. What it does not know it passes over: members
// of our own, and all that others add.
func parse(line []byte) (record, error) {
	var raw struct {
		Kind        *string  `json:"kind"`
		VersionType *string  `json:"version_type_key"`
		Node        *string  `json:"node_key"`
		Host        string   `json:"host"`
		Bytes       *int64   `json:"bytes"`
		Code        *int     `json:"code"`
		Upstream    *string  `json:"upstream_response_time"`
		At          *float64 `json:"timemsec"`
		Took        *float64 `json:"nginx_response_time"`
	}
	if err := json.Unmarshal(line, &raw); err != nil {
		return record{}, fmt.Errorf("reading JSON: %w", err)
	}
	lacks := func(what string) (record, error) { return record{}, fmt.Errorf("%w: %s", errIncomplete, what) }
	switch {
	case raw.VersionType == nil || len(*raw.VersionType) > maxID:
		return lacks("version_type_key")
	case raw.Node == nil || len(*raw.Node) > maxID:
		return lacks("node_key")
	case len(raw.Host) > maxID:
		return lacks("host")
	case raw.Bytes == nil || *raw.Bytes < 0 || *raw.Bytes > maxBytes:
		return lacks("bytes")
	case raw.At == nil || !(*raw.At >= 0 && *raw.At <= maxTime):
		return lacks("timemsec")
	}
	r := record{second: int64(*raw.At), versionType: *raw.VersionType, node: *raw.Node, host: raw.Host, bytes: *raw.Bytes}
	if r.versionType == "" {
		r.versionType = null
	}
	if r.node == null {
		r.node = ""
	}
	kind := "request"
	if raw.Kind != nil {
		kind = *raw.Kind
	}
	switch kind {
	case "session":
		r.session = true
		return r, nil
	case "request":
	default:
		return lacks("kind")
	}
	var ok bool
	switch {
	case raw.Code == nil || *raw.Code < 0 || *raw.Code > 999:
		return lacks("code")
	case raw.Upstream == nil:
		return lacks("upstream_response_time")
	case raw.Took == nil:
		return lacks("nginx_response_time")
	}
	if r.took, ok = milliseconds(*raw.Took); !ok {
		return lacks("nginx_response_time")
	}
	if r.upstream, r.reached, ok = upstream(*raw.Upstream); !ok {
		return lacks("upstream_response_time")
	}
	r.code = *raw.Code
	return r, nil
}

// upstream reads how long backends took. NGINX has a list of them if it tried several,
// with commas, or colons after an internal redirect; they are added up. "-" is one that
// was not reached.
func upstream(text string) (sum int64, reached, ok bool) {
	for part := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ',' || r == ':' || r == ' ' }) {
		if part == "-" {
			continue
		}
		value, err := strconv.ParseFloat(part, 64)
		if err != nil {
			return 0, false, false
		}
		ms, ok := milliseconds(value)
		if !ok || sum+ms > maxSeconds*1000 {
			return 0, false, false
		}
		sum, reached = sum+ms, true
	}
	return sum, reached, true
}

// milliseconds are whole ones. A binary fraction may lie a little below the decimal one
// that was written, which must not cost a millisecond.
func milliseconds(s float64) (int64, bool) {
	if !(s >= 0 && s <= maxSeconds) {
		return 0, false
	}
	return int64(math.Floor(s*1000 + 1e-3)), true
}
