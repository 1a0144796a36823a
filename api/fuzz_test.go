package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"unicode/utf8"

	"switchboard/api"
	"switchboard/bridge"
)

// FuzzPatch sends any body to both resources. It must be answered, a refused one
// must have called nothing, and what reaches a command must be what the body says.
func FuzzPatch(f *testing.F) {
	for _, body := range []string{
		`{}`, `null`, `[`, `{"trafficEnabled":false,"message":"x","grace":"30s"}`, `{"active":"db-1","message":"x"}`,
		`{"pin":null}`, `{"pin":"db-1","active":"db-1","message":"é"}`, `{"message":"\ud800","trafficEnabled":true}`,
		`{"trafficEnabled":true,"trafficEnabled":false}`, `{"x":[{"a":1,"a":2}]}`, `{"grace":"1e9h"}`,
	} {
		f.Add("application/json", body)
	}
	f.Add("application/merge-patch+json; charset=utf-8", `{"trafficEnabled":true}`)
	f.Add("text/plain", `{"trafficEnabled":true}`)

	w := newWorld()
	w.options.Log = nil
	// reached is what the commands were given, as members of a patch.
	reached := map[string]any{}
	w.commands.setTraffic = func(_ context.Context, _ string, c bridge.TrafficChange) (bridge.TrafficAnswer, error) {
		reached["trafficEnabled"], reached["message"] = c.Enabled, c.Message
		if c.Grace < 0 || c.Enabled && c.Grace != 0 || !c.Enabled && strings.TrimSpace(c.Message) == "" {
			panic(fmt.Sprintf("a change that is wrong: %+v", c))
		}
		return bridge.TrafficAnswer{}, nil
	}
	w.commands.switchTo = func(_ context.Context, host, backend, message string) (int, error) {
		reached["active"], reached["message"] = backend, message
		if host != "db.main" || !strings.HasPrefix(backend, "db-") || strings.TrimSpace(message) == "" {
			panic("a switch that is wrong: " + backend)
		}
		return 0, nil
	}
	w.commands.pin = func(_ context.Context, host, backend, message string) (int, error) {
		reached["pin"], reached["message"] = backend, message
		if backend != "" && !strings.HasPrefix(backend, "db-") || backend != "" && backend != "db-0" && strings.TrimSpace(message) == "" {
			panic("a pin that is wrong: " + backend)
		}
		return 0, nil
	}
	a, err := api.New(w.options)
	if err != nil {
		f.Fatal(err)
	}
	h := a.Handler()

	f.Fuzz(func(t *testing.T, media, body string) {
		for _, path := range []string{"/traffic", "/hosts/db.main"} {
			clear(reached)
			w.commands.calls.Store(0)
			r := httptest.NewRequest(http.MethodPatch, path, strings.NewReader(body))
			r.Host = "localhost"
			r.Header["Content-Type"] = []string{media}
			answer := httptest.NewRecorder()
			h.ServeHTTP(answer, r)

			switch answer.Code {
			case 200, 202:
			case 400, 409, 413, 415, 422:
				if calls := w.commands.calls.Load(); calls != 0 {
					t.Fatalf("%d, but %d commands were called", answer.Code, calls)
				}
				continue
			default:
				t.Fatalf("answered %d: %s", answer.Code, answer.Body)
			}
			var members map[string]any
			if !utf8.ValidString(body) || json.Unmarshal([]byte(body), &members) != nil || members == nil {
				t.Fatalf("%d for a body that is not an object", answer.Code)
			}
			for name, value := range members {
				switch name {
				case "trafficEnabled":
					if reached[name] != value {
						t.Fatalf("trafficEnabled is %v and reached the commands as %v", value, reached[name])
					}
				case "active", "pin":
					if value == nil {
						value = ""
					}
					// Given together they are one pin.
					if reached[name] != value && reached["pin"] != value {
						t.Fatalf("%s is %v and reached the commands as %v", name, value, reached)
					}
				case "message":
					if reached[name] != value {
						t.Fatalf("message is %q and reached the commands as %q", value, reached[name])
					}
				case "grace":
				default:
					t.Fatalf("the unknown member %q was let through", name)
				}
			}
		}
	})
}
