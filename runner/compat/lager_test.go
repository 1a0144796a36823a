package compat_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"regexp"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/runner/compat"
)

var _ = Describe("NewHandler", func() {
	at := time.Date(2026, 3, 1, 12, 0, 0, 5, time.FixedZone("", 3600))

	// handle is the line of one record.
	handle := func(h slog.Handler, level slog.Level, message string, attrs ...slog.Attr) {
		GinkgoHelper()
		r := slog.NewRecord(at, level, message, 0)
		r.AddAttrs(attrs...)
		Expect(h.Handle(context.Background(), r)).To(Succeed())
	}

	It("writes lager's lines", func() {
		var out bytes.Buffer
		h := compat.NewHandler(&out, compat.LogOptions{}).WithAttrs([]slog.Attr{slog.String("component", "active-monitor")})
		handle(h, slog.LevelInfo, "New active backend", slog.String("backend", "<a>"), slog.Any("cause", errors.New("gone")), slog.Duration("took", time.Second))
		Expect(out.String()).To(Equal(`{"timestamp":"1772362800.000000005","source":"switchboard","message":"switchboard.active-monitor.New active backend",` +
			`"log_level":1,"data":{"backend":"<a>","error":"gone","took":"1s"}}` + "\n"))
	})

	It("writes times as text, and then the name of the level too", func() {
		var out bytes.Buffer
		handle(compat.NewHandler(&out, compat.LogOptions{RFC3339: true}), slog.LevelError, "x")
		Expect(out.String()).To(Equal(`{"timestamp":"2026-03-01T11:00:00.000000005Z","level":"error","source":"switchboard","message":"switchboard.x","log_level":2,"data":{}}` + "\n"))
	})

	It("has lager's levels", func() {
		var out bytes.Buffer
		h := compat.NewHandler(&out, compat.LogOptions{Level: slog.LevelDebug})
		var levels []any
		for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError, compat.LevelFatal} {
			out.Reset()
			handle(h, level, "x")
			var line map[string]any
			Expect(json.Unmarshal(out.Bytes(), &line)).To(Succeed())
			levels = append(levels, line["log_level"])
		}
		Expect(levels).To(Equal([]any{0.0, 1.0, 2.0, 2.0, 3.0}))
		for name, level := range map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "error": slog.LevelError, "fatal": compat.LevelFatal} {
			Expect(compat.ParseLevel(name)).To(Equal(level))
			enabled := compat.NewHandler(&out, compat.LogOptions{Level: level})
			Expect(enabled.Enabled(context.Background(), level)).To(BeTrue())
			Expect(enabled.Enabled(context.Background(), level-1)).To(BeFalse())
		}
		_, err := compat.ParseLevel("warn")
		Expect(err).To(MatchError("unknown log level: warn"))
	})

	It("nests groups", func() {
		var out bytes.Buffer
		h := compat.NewHandler(&out, compat.LogOptions{}).WithGroup("a").WithAttrs([]slog.Attr{slog.Int("b", 1)})
		handle(h, slog.LevelInfo, "x", slog.Group("c", "d", 2))
		Expect(out.String()).To(ContainSubstring(`"data":{"a":{"b":1,"c":{"d":2}}}`))
	})

	It("writes what JSON cannot hold as text", func() {
		var out bytes.Buffer
		handle(compat.NewHandler(&out, compat.LogOptions{}), slog.LevelInfo, "x", slog.Any("f", make(chan int)))
		Expect(json.Valid(out.Bytes())).To(BeTrue())
	})

	It("redacts when it is told to", func() {
		var out bytes.Buffer
		attrs := []slog.Attr{slog.String("Password", "hunter2"), slog.String("note", "it is hunter3"), slog.Group("g", "pwd", 1)}
		handle(compat.NewHandler(&out, compat.LogOptions{}), slog.LevelInfo, "x", attrs...)
		Expect(out.String()).To(ContainSubstring("hunter2"))
		out.Reset()
		handle(compat.NewHandler(&out, compat.LogOptions{Redact: true, Patterns: []*regexp.Regexp{regexp.MustCompile("hunter3")}}), slog.LevelInfo, "x", attrs...)
		Expect(out.String()).To(ContainSubstring(`"data":{"Password":"*REDACTED*","g":{"pwd":"*REDACTED*"},"note":"*REDACTED*"}`))
	})
})
