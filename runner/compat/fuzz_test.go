package compat_test

import (
	"os"
	"testing"

	"switchboard/runner/compat"
)

// FuzzParse: no text makes it panic, and what it accepts a router can be made of.
func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte("Proxy: &a {Port: 1, <<: *a}\n"))
	f.Add([]byte("{\"Proxy\": {\"Port\": \"1\"}}"))
	for _, name := range []string{"compat.json", "compat.yml"} {
		text, err := os.ReadFile("../../fixtures/examples/" + name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	static := f.TempDir()
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := compat.Parse(text)
		if err != nil {
			return
		}
		c.StaticDir = static
		d, err := compat.New(c, nil)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if err := compat.Close(d); err != nil {
			t.Fatal(err)
		}
	})
}
