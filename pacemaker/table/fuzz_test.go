package table_test

import (
	"slices"
	"strings"
	"testing"

	"switchboard/bridge/route"
	"switchboard/pacemaker/table"
)

// FuzzMember: what is read is a backend that a table takes, and is read again as itself.
func FuzzMember(f *testing.F) {
	for _, text := range []string{
		"10.0.0.1:80#1#2#3", "[2001:db8::1]:80#null#null#null", "[::ffff:10.0.0.1]:80#a#b#c/d", "10.0.0.1:80#1#2", "#", "1:1#1#1#1", "[::%x]:1#1#1#1",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		m, err := table.ParseMember(text)
		if err != nil {
			return
		}
		again, err := table.ParseMember(m.String())
		if err != nil || again != m {
			t.Fatalf("%q is read as %+v, and that as %+v: %v", text, m, again, err)
		}
		for _, name := range []string{m.Name(), m.AddressName()} {
			if err := route.ValidBackendName(name); err != nil {
				t.Fatalf("%q: %v", text, err)
			}
		}
		if _, _, err := route.ParseAddress(m.Address.String(), false); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
	})
}

// FuzzHost: whatever two keys hold, a host is made of it that a table takes, and that is the
// same when it is written and read again.
func FuzzHost(f *testing.F) {
	f.Add("10.0.0.1:80#1#2#3\n10.0.0.1:80#1#2#3", "policy", "active", "weight:3", "5")
	f.Add("10.0.0.1:80#1#2#3\n10.0.0.2:80#1#2#3", "choose", "sticky", "sticky_by", "header:X-User")
	f.Add("", "hold", "1h", "policy", "balance")
	f.Add("x", "weight:", "", "hold", "9999999999h")
	f.Fuzz(func(t *testing.T, members, field1, value1, field2, value2 string) {
		var rejected []table.Rejection
		fields := map[string]string{field1: value1, field2: value2}
		host := table.DecodeHost("a", strings.Split(members, "\n"), fields, nil, func(r table.Rejection) { rejected = append(rejected, r) })
		if _, err := route.NewTable(route.Options{}, host); err != nil {
			t.Fatal(err)
		}
		for _, r := range rejected {
			if len(r.Why) > 2000 {
				t.Fatalf("a rejection of %d bytes", len(r.Why))
			}
		}
		written, options := table.EncodeHost(host)
		again := table.DecodeHost("a", written, options, nil, func(r table.Rejection) { t.Fatalf("rejected what was written: %+v", r) })
		if again == nil {
			again = host // a host of which nothing was right has nothing to write
			if len(host.Backends) > 0 {
				t.Fatal("a host is lost")
			}
		}
		if again.Policy != host.Policy || again.Choose != host.Choose || again.StickyBy != host.StickyBy || again.Hold != host.Hold ||
			!slices.Equal(again.Backends, host.Backends) {
			t.Fatalf("%+v is read again as %+v", host, again)
		}
	})
}

// FuzzSaved: a saved table is believed whole or not at all, and never brings the program down.
func FuzzSaved(f *testing.F) {
	var good strings.Builder
	hosts, _ := route.NewTable(route.Options{}, table.DecodeHost("a", []string{"10.0.0.1:80#1#2#3"}, nil, nil, nil))
	if _, err := (table.Saved{Serial: 3, Table: hosts}).WriteTo(&good); err != nil {
		f.Fatal(err)
	}
	f.Add(good.String())
	f.Add("")
	f.Add("{\"version\":1}\n{\"end\":0,\"sum\":0}\n")
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := table.ReadSaved(strings.NewReader(text)); err == nil && !strings.HasSuffix(text, "}\n") {
			t.Fatalf("%q was believed", text)
		}
	})
}
