package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"mime"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"switchboard/bridge"
	"switchboard/bridge/route"
)

// Limits of a PATCH.
const (
	// MaxBody is the longest body, in bytes.
	MaxBody = 64 << 10
	// MaxMessage is the longest message, in bytes.
	MaxMessage = 1 << 10

	maxDepth = 16
)

const acceptPatch = "application/merge-patch+json, application/json"

// change is what a PATCH asks for, in terms of commands.
type change struct {
	// setTraffic is true if enabled was given.
	setTraffic, enabled bool
	grace               time.Duration
	message             string
	// active is the backend to switch to, "" if none was given.
	active string
	// pin is nil if it was not given; "" unpins.
	pin *string
	// weights by backend name are nil if they were not given. A weight that is nil
	// goes back to the configured one, and so do all if noWeights.
	weights   map[string]*int
	noWeights bool
	// messageWrong is true if the message was refused, so that it is not reported
	// as missing too.
	messageWrong bool
}

// LogValue shows what was asked for, and nothing that was not.
func (c change) LogValue() slog.Value {
	var attrs []slog.Attr
	if c.setTraffic {
		attrs = append(attrs, slog.Bool("trafficEnabled", c.enabled))
	}
	if c.grace > 0 {
		attrs = append(attrs, slog.Duration("grace", c.grace))
	}
	if c.active != "" {
		attrs = append(attrs, slog.String("active", c.active))
	}
	if c.pin != nil {
		attrs = append(attrs, slog.String("pin", *c.pin))
	}
	if c.weights != nil {
		attrs = append(attrs, slog.Any("weights", c.weigh(Host{})))
	}
	if c.message != "" {
		attrs = append(attrs, slog.String("message", c.message))
	}
	return slog.GroupValue(attrs...)
}

// readPatch reads the whole body of a PATCH and returns its members.
func readPatch(w http.ResponseWriter, r *http.Request) (map[string]json.RawMessage, error) {
	if err := checkMediaType(r.Header); err != nil {
		return nil, err
	}
	body, err := readBody(w, r)
	if err != nil {
		return nil, err
	}
	return decode(body)
}

func checkMediaType(header http.Header) error {
	refused := problem(http.StatusUnsupportedMediaType,
		"send the patch as application/merge-patch+json or application/json, in UTF-8 and not compressed").
		with("Accept-Patch", acceptPatch)
	types := header.Values("Content-Type")
	if len(types) != 1 {
		return refused
	}
	media, parameters, err := mime.ParseMediaType(types[0])
	charset, named := parameters["charset"]
	switch {
	case err != nil, media != "application/merge-patch+json" && media != "application/json":
		return refused
	case named && !strings.EqualFold(charset, "utf-8"):
		return refused
	case header.Get("Content-Encoding") != "":
		return refused
	}
	return nil
}

// readBody reads at most MaxBody. What a client may take for it is the server's
// to bound; nothing is held meanwhile.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	tooLarge := problem(http.StatusRequestEntityTooLarge,
		"a body has at most "+strconv.Itoa(MaxBody)+" bytes").with("Connection", "close")
	if r.ContentLength > MaxBody {
		return nil, tooLarge
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxBody))
	var long *http.MaxBytesError
	switch {
	case err == nil:
		return body, nil
	case errors.As(err, &long):
		return nil, tooLarge
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, problem(http.StatusRequestTimeout, "the body did not come in time").with("Connection", "close")
	default:
		return nil, problem(http.StatusBadRequest, "the body ended early or could not be read").because(err)
	}
}

// decode reads one JSON object and is strict where encoding/json is lenient:
// duplicate members, invalid UTF-8, depth.
func decode(body []byte) (map[string]json.RawMessage, error) {
	if !utf8.Valid(body) {
		return nil, problem(http.StatusBadRequest, "the body is not UTF-8")
	}
	var whole json.RawMessage
	if err := json.Unmarshal(body, &whole); err != nil {
		return nil, problem(http.StatusBadRequest, "the body is not one JSON value: "+err.Error())
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	if err := checkUnique(decoder, 0); err != nil {
		return nil, problem(http.StatusBadRequest, err.Error())
	}
	if whole[0] != '{' {
		return nil, problem(http.StatusBadRequest, "a patch is a JSON object")
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(body, &members); err != nil {
		return nil, problem(http.StatusBadRequest, err.Error())
	}
	return members, nil
}

// checkUnique reads one value and finds a member that is there twice, of which
// others might believe the first.
func checkUnique(decoder *json.Decoder, depth int) error {
	if depth > maxDepth {
		return errors.New("the body is nested too deeply")
	}
	token, err := decoder.Token()
	if err != nil {
		return err
	}
	opening, nested := token.(json.Delim)
	if !nested {
		return nil
	}
	seen := make(map[string]bool)
	for decoder.More() {
		if opening == '{' {
			name, err := decoder.Token()
			if err != nil {
				return err
			}
			// A member's name is always a string.
			text, _ := name.(string)
			if seen[text] {
				return fmt.Errorf("the member %q is there twice", text)
			}
			seen[text] = true
		}
		if err := checkUnique(decoder, depth+1); err != nil {
			return err
		}
	}
	_, err = decoder.Token()
	return err
}

// parse turns members into a change, and lists all that is wrong with each.
func parse(members map[string]json.RawMessage, known []string) (change, []Invalid) {
	var (
		c   change
		bad []Invalid
	)
	wrong := func(member, detail string) { bad = append(bad, Invalid{Pointer: pointer(member), Detail: detail}) }
	for _, name := range slices.Sorted(maps.Keys(members)) {
		raw := members[name]
		null := string(raw) == "null"
		var text string
		isText := !null && json.Unmarshal(raw, &text) == nil
		switch {
		case !slices.Contains(known, name):
			wrong(name, "is not something that can be changed here")
		case name == "trafficEnabled":
			if null || json.Unmarshal(raw, &c.enabled) != nil {
				wrong(name, "must be true or false")
				break
			}
			c.setTraffic = true
		case name == "message":
			detail := "must be a string"
			if isText {
				detail = checkMessage(text)
			}
			if c.messageWrong = detail != ""; c.messageWrong {
				wrong(name, detail)
				break
			}
			c.message = text
		case name == "grace":
			grace, err := time.ParseDuration(text)
			if !isText || err != nil || grace < 0 {
				wrong(name, `must be a duration of 0 or more, such as "30s"`)
				break
			}
			c.grace = grace
		case name == "active":
			if !isText || text == "" {
				wrong(name, "must be the name of a backend")
				break
			}
			c.active = text
		case name == "pin":
			if !null && (!isText || text == "") {
				wrong(name, "must be the name of a backend, or null to unpin")
				break
			}
			c.pin = &text
		case name == "weights":
			var wrongs []Invalid
			c.weights, wrongs = parseWeights(raw)
			c.noWeights = null
			bad = append(bad, wrongs...)
		}
	}
	return c, append(bad, c.consistent(members, known)...)
}

// parseWeights reads a member of weights by backend name, and lists what is wrong
// with each.
func parseWeights(raw json.RawMessage) (weights map[string]*int, bad []Invalid) {
	var each map[string]json.RawMessage
	if json.Unmarshal(raw, &each) != nil {
		return nil, []Invalid{{"/weights", `must be an object of weights by backend, such as {"a": 3, "b": 0, "c": null}`}}
	}
	weights = make(map[string]*int)
	for _, name := range slices.Sorted(maps.Keys(each)) {
		var weight *int
		if json.Unmarshal(each[name], &weight) != nil || weight != nil && (*weight < 0 || *weight > route.MaxWeight) {
			bad = append(bad, Invalid{"/weights" + pointer(name), bridge.ErrWeight.Error() + ", or null for the configured one"})
			continue
		}
		weights[name] = weight
	}
	return weights, bad
}

// weigh is what the weights of a host as it is now are to be.
func (c change) weigh(h Host) map[string]*int {
	if !c.noWeights {
		return c.weights
	}
	all := make(map[string]*int, len(h.Backends))
	for _, b := range h.Backends {
		all[b.Name] = nil
	}
	return all
}

// consistent lists what is wrong with members that are right one by one.
func (c change) consistent(members map[string]json.RawMessage, known []string) (bad []Invalid) {
	_, traffic := members["trafficEnabled"]
	_, grace := members["grace"]
	_, active := members["active"]
	_, pin := members["pin"]
	_, weights := members["weights"]
	_, message := members["message"]
	if grace && (!traffic || c.setTraffic && c.enabled) {
		bad = append(bad, Invalid{"/grace", "goes with trafficEnabled false only"})
	}
	if !slices.Contains(known, "active") {
		if !traffic {
			bad = append(bad, Invalid{"/trafficEnabled", "is missing"})
		}
		return bad
	}
	if message && !traffic && !active && !pin && !weights {
		bad = append(bad, Invalid{"/message", "says why something changes: it goes with trafficEnabled, active, pin or weights"})
	}
	if c.active != "" && c.pin != nil && *c.pin != c.active {
		if *c.pin == "" {
			bad = append(bad, Invalid{"/pin", "cannot be null in one patch with active: unpin first, then switch"})
		} else {
			bad = append(bad, Invalid{"/pin", "names another backend than active does"})
		}
	}
	return bad
}

// against lists what is wrong with a change of a host as it is now. A host whose
// backends are not known yet is left to the command to judge.
func (c change) against(h Host) (bad []Invalid) {
	named := func(at, name string) {
		if _, ok := h.backend(name); name != "" && len(h.Backends) > 0 && !ok {
			bad = append(bad, Invalid{at, bridge.ErrUnknownBackend.Error()})
		}
	}
	balances := h.Policy == string(route.Balance)
	cuts := c.setTraffic && !c.enabled
	switch {
	case c.active == "":
	case balances:
		bad = append(bad, Invalid{"/active", bridge.ErrBalance.Error()})
	default:
		named("/active", c.active)
		cuts = true
	}
	switch {
	case c.pin == nil:
	case balances:
		bad = append(bad, Invalid{"/pin", bridge.ErrBalance.Error()})
	default:
		named("/pin", *c.pin)
		cuts = cuts || *c.pin != "" && (h.Active == nil || h.Active.Name != *c.pin)
	}
	if c.weights != nil && !balances {
		bad = append(bad, Invalid{"/weights", bridge.ErrNoChoice.Error()})
	} else {
		for _, name := range slices.Sorted(maps.Keys(c.weights)) {
			named("/weights"+pointer(name), name)
			weight := c.weights[name]
			b, known := h.backend(name)
			cuts = cuts || weight != nil && *weight == 0 && (!known || b.Weight != 0)
		}
	}
	if cuts && !c.messageWrong && strings.TrimSpace(c.message) == "" {
		bad = append(bad, Invalid{"/message", "is needed, and not blank, for a change that cuts traffic: say why"})
	}
	return bad
}

// checkMessage returns what is wrong with a message, or "".
func checkMessage(message string) string {
	if len(message) > MaxMessage {
		return "has more than " + strconv.Itoa(MaxMessage) + " bytes"
	}
	for _, c := range message {
		// The separators and the bidirectional controls change how a line is shown as
		// much as a control character does.
		if unicode.IsControl(c) || c == '\u2028' || c == '\u2029' || unicode.Is(unicode.Bidi_Control, c) {
			return "must not have control characters"
		}
	}
	return ""
}

// pointer is the JSON Pointer of a member of the body.
func pointer(member string) string {
	return "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(member)
}
