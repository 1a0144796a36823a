package config_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"switchboard/runner/config"
)

// FuzzLoad: nothing that is written makes Load panic or fail without a place,
// and what it accepts is the same when it is written another way.
func FuzzLoad(f *testing.F) {
	f.Add(design, "SWITCHBOARD_API_BIND", "127.0.0.1:1")
	f.Add(small, "SWITCHBOARD_HOSTS_0_BACKENDS_1_ADDRESS", "10.0.0.1:80")
	f.Add("a: [b, {c: d}]\n- x\n? y\n", "SWITCHBOARD_LISTENERS_0_TRUSTED_PROXIES", "10.0.0.0/8,")
	f.Add("a: |\n  b\n---\nc: 'd'\n...\n", "SWITCHBOARD_", "")
	f.Add("<<: *a\nb: &a !!x \"\\x\"", "PATH", "")
	f.Fuzz(func(t *testing.T, data, name, value string) {
		if strings.HasSuffix(name, "PASSWORD_FILE") || strings.Contains(data, "password_file") || strings.ContainsAny(name, "=\x00 ") {
			// What is in files is none of this.
			t.Skip()
		}
		file, err := config.Load(config.Source{Path: "f.yaml", Data: []byte(data), Env: []string{name + "=" + value}})
		if err != nil {
			var all config.Errors
			if file != nil || !errors.As(err, &all) || len(all) == 0 {
				t.Fatalf("not Errors alone: %v, %v", file, err)
			}
			for _, e := range all {
				if !located.MatchString(e.Error()) || e.Problem == "" || strings.ContainsAny(e.Error(), "\n\r") {
					t.Errorf("an error without a place, or of many lines: %q", e.Error())
				}
			}
			return
		}
		var env []string
		for path, value := range flatten(file) {
			if path == "api.password" {
				value = string(file.API.Password)
			}
			env = append(env, variable(path)+"="+value)
		}
		again, err := config.Load(config.Source{Path: "f.yaml", Env: env, Data: []byte("{}")})
		if err != nil {
			t.Fatalf("%v\nfrom\n%s", err, strings.Join(env, "\n"))
		}
		file.Warnings, again.Warnings = nil, nil
		if !reflect.DeepEqual(flatten(file), flatten(again)) {
			t.Fatalf("%+v\nis not\n%+v", again, file)
		}
	})
}
