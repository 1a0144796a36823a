package compat

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"slices"
	"sync"
	"time"
)

// LevelFatal is for the last line of a process that cannot go on.
const LevelFatal = slog.LevelError + 4

// LogOptions are what the original's flags say about its log.
type LogOptions struct {
	// Level is the least that is written; nil: info.
	Level slog.Leveler
	// RFC3339 writes times as text, and the level by its name too; else they are
	// seconds since 1970.
	RFC3339 bool
	// Redact replaces the values of keys that look like passwords, and those texts
	// that match one of Patterns.
	Redact   bool
	Patterns []*regexp.Regexp
}

// ParseLevel returns the level of one of lager's names.
func ParseLevel(name string) (slog.Level, error) {
	switch name {
	case "debug":
		return slog.LevelDebug, nil
	case "info":
		return slog.LevelInfo, nil
	case "error":
		return slog.LevelError, nil
	case "fatal":
		return LevelFatal, nil
	default:
		return 0, fmt.Errorf("unknown log level: %s", name)
	}
}

// NewHandler returns a handler that writes one JSON line a record in the shape of
// Cloud Foundry's lager:
//
//	{"timestamp":"1700000000.123456789","source":"switchboard","message":"switchboard.active-monitor.New active backend","log_level":1,"data":{…}}
//
// The attribute "component" goes into the message, "cause" becomes data.error, and
// a warning is an error, as lager has none.
func NewHandler(to io.Writer, o LogOptions) slog.Handler {
	if o.Level == nil {
		o.Level = slog.LevelInfo
	}
	return lager{to: &sink{w: to}, options: o}
}

// sink writes whole lines.
type sink struct {
	mu sync.Mutex
	w  io.Writer
}

type lager struct {
	to      *sink
	options LogOptions
	groups  []string
	attrs   []grouped
}

// grouped is an attribute with the groups that were open when it was added.
type grouped struct {
	groups []string
	attr   slog.Attr
}

func (h lager) Enabled(_ context.Context, level slog.Level) bool {
	return level >= h.options.Level.Level()
}

func (h lager) WithAttrs(attrs []slog.Attr) slog.Handler {
	h.attrs = slices.Clone(h.attrs)
	for _, a := range attrs {
		h.attrs = append(h.attrs, grouped{h.groups, a})
	}
	return h
}

func (h lager) WithGroup(name string) slog.Handler {
	if name != "" {
		h.groups = append(slices.Clone(h.groups), name)
	}
	return h
}

// source is the name that all lines carry.
const source = "switchboard"

func (h lager) Handle(_ context.Context, r slog.Record) error {
	data := make(map[string]any)
	for _, g := range h.attrs {
		h.add(data, g.groups, g.attr)
	}
	r.Attrs(func(a slog.Attr) bool {
		h.add(data, h.groups, a)
		return true
	})
	message := source + "."
	if component, ok := data["component"].(string); ok {
		delete(data, "component")
		message += component + "."
	}
	level, name := lagerLevel(r.Level)
	entry := struct {
		Timestamp string         `json:"timestamp"`
		Level     string         `json:"level,omitempty"`
		Source    string         `json:"source"`
		Message   string         `json:"message"`
		LogLevel  int            `json:"log_level"`
		Data      map[string]any `json:"data"`
	}{Source: source, Message: message + r.Message, LogLevel: level, Data: data}
	if h.options.RFC3339 {
		entry.Timestamp, entry.Level = r.Time.UTC().Format(time.RFC3339Nano), name
	} else {
		entry.Timestamp = fmt.Sprintf("%d.%09d", r.Time.Unix(), r.Time.Nanosecond())
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(entry); err != nil {
		return fmt.Errorf("encoding a log line: %w", err)
	}
	h.to.mu.Lock()
	defer h.to.mu.Unlock()
	_, err := h.to.w.Write(text.Bytes())
	return err
}

// lagerLevel is lager's number and name of a level.
func lagerLevel(level slog.Level) (int, string) {
	switch {
	case level < slog.LevelInfo:
		return 0, "debug"
	case level < slog.LevelWarn:
		return 1, "info"
	case level < LevelFatal:
		return 2, "error"
	default:
		return 3, "fatal"
	}
}

// add puts an attribute into the data.
func (h lager) add(data map[string]any, groups []string, a slog.Attr) {
	for _, group := range groups {
		data = inner(data, group)
	}
	a.Value = a.Value.Resolve()
	switch {
	case a.Value.Kind() == slog.KindGroup:
		if a.Key != "" {
			data = inner(data, a.Key)
		}
		for _, member := range a.Value.Group() {
			h.add(data, nil, member)
		}
		return
	case a.Key == "":
		return
	case a.Key == "cause":
		a.Key = "error"
	}
	data[a.Key] = h.redacted(a.Key, plain(a.Value))
}

func inner(data map[string]any, group string) map[string]any {
	members, ok := data[group].(map[string]any)
	if !ok {
		members = make(map[string]any)
		data[group] = members
	}
	return members
}

// plain is a value that JSON shows as people would write it.
func plain(v slog.Value) any {
	switch value := v.Any().(type) {
	case error:
		return value.Error()
	case time.Duration:
		return value.String()
	default:
		if _, err := json.Marshal(value); err != nil {
			return fmt.Sprint(value)
		}
		return value
	}
}

// secretKey are lager's own patterns.
var secretKey = regexp.MustCompile(`[Pp]wd|[Pp]ass`)

const redactedText = "*REDACTED*"

func (h lager) redacted(key string, value any) any {
	if !h.options.Redact {
		return value
	}
	if secretKey.MatchString(key) {
		return redactedText
	}
	if text, ok := value.(string); ok {
		for _, pattern := range h.options.Patterns {
			if pattern.MatchString(text) {
				return redactedText
			}
		}
	}
	return value
}
