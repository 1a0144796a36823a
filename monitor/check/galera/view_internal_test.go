package galera

import (
	"testing"
	"time"
)

func TestViewBehind(t *testing.T) {
	const one, other = "1111", "2222"
	for _, c := range []struct {
		name       string
		mine, peer view
		want       string
	}{
		{"the same view", view{one, 3, 3}, view{one, 3, 3}, ""},
		{"a peer that has not heard of a shrink yet", view{one, 4, 2}, view{one, 3, 3}, ""},
		{"a peer that has not heard of a joiner yet", view{one, 4, 3}, view{one, 3, 2}, ""},
		{"a shrink that I have not heard of", view{one, 3, 3}, view{one, 4, 2}, "has view 3 of the cluster; db-1 has 4, with 2 nodes"},
		{"a joiner that I have not heard of", view{one, 3, 2}, view{one, 4, 3}, "sees 2 of 3 nodes; db-1 sees 3"},
		{"a smaller half", view{one, 4, 1}, view{one, 4, 2}, "sees 1 of 2 nodes; db-1 sees 2"},
		{"a bigger half", view{one, 4, 2}, view{one, 4, 1}, ""},
		{"a smaller cluster with another history", view{one, 9, 1}, view{other, 3, 3}, "sees 1 of 3 nodes; db-1 sees 3"},
		{"a bigger cluster with another history", view{one, 1, 3}, view{other, 9, 1}, ""},
		{"an equal cluster with another history", view{one, 1, 1}, view{other, 9, 1}, ""},
	} {
		if got := c.mine.behind("db-1", c.peer); got != c.want {
			t.Errorf("%s: said %q, want %q", c.name, got, c.want)
		}
	}
}

func TestSightings(t *testing.T) {
	s := &sightings{views: map[place]sighting{}}
	mine := view{"1111", 1, 1}
	s.note(place{"db.main", "db-0"}, mine)
	s.note(place{"other.host", "db-1"}, view{"1111", 9, 9})
	ahead := func() string { return s.ahead(place{"db.main", "db-0"}, mine, time.Minute) }
	if said := ahead(); said != "" {
		t.Errorf("it is behind itself or another host: %q", said)
	}
	s.note(place{"db.main", "db-2"}, view{"1111", 2, 3})
	s.note(place{"db.main", "db-1"}, view{"1111", 2, 3})
	if said := ahead(); said != "sees 1 of 3 nodes; db-1 sees 3" {
		t.Errorf("said %q", said)
	}
	s.forget(place{"db.main", "db-1"})
	if said := ahead(); said != "sees 1 of 3 nodes; db-2 sees 3" {
		t.Errorf("said %q", said)
	}
	s.views[place{"db.main", "db-2"}] = sighting{view{"1111", 2, 3}, time.Now().Add(-2 * time.Minute)}
	if said := ahead(); said != "" {
		t.Errorf("what was seen long ago counts: %q", said)
	}
}

func TestJudge(t *testing.T) {
	good := map[string]string{
		"wsrep_provider": "/usr/lib/galera/libgalera_smm.so", "wsrep_on": "ON", "wsrep_ready": "ON", "wsrep_cluster_status": "Primary",
		"wsrep_local_state": "4", "wsrep_local_state_comment": "Synced", "wsrep_local_index": "2", "read_only": "OFF",
		"wsrep_cluster_size": "3", "wsrep_cluster_conf_id": "7", "wsrep_cluster_state_uuid": "1111",
	}
	for _, c := range []struct {
		name, variable, value string
		verdict, detail       string
	}{
		{"good", "", "", "healthy", "Synced, sees 3 nodes"},
		{"MySQL's second switch, off", "super_read_only", "OFF", "healthy", "Synced, sees 3 nodes"},
		{"MySQL's second switch, on", "super_read_only", "ON", "unhealthy", "super_read_only is on"},
		{"read_only of a newer MariaDB", "read_only", "NO_LOCK", "unhealthy", "read_only is on"},
		{"not ready", "wsrep_ready", "OFF", "unhealthy", "wsrep_ready is OFF"},
		{"ready not told", "wsrep_ready", "", "unhealthy", "wsrep_ready is not told"},
		{"a joiner", "wsrep_local_state", "1", "unhealthy", "wsrep_local_state is 1 (Synced)"},
		{"a donor", "wsrep_local_state", "2", "unhealthy", "wsrep_local_state is 2 (Synced)"},
		{"no cluster", "wsrep_cluster_status", "Disconnected", "unhealthy", "wsrep_cluster_status is Disconnected, sees 3 nodes"},
		{"switched off", "wsrep_on", "OFF", "unhealthy", "wsrep_on is off: its writes reach no other node"},
		{"no provider", "wsrep_provider", "none", "failed", "is not a Galera node: no wsrep_provider is loaded; use the mysql check"},
	} {
		var rows [][]string
		for name, value := range good {
			if name != c.variable {
				rows = append(rows, []string{name, value})
			}
		}
		rows = append(rows, []string{c.variable, c.value}, []string{"short"})
		result := read(rows).judge(false)
		if result.Verdict.String() != c.verdict || result.Detail != c.detail {
			t.Errorf("%s: said %s, %q", c.name, result.Verdict, result.Detail)
		}
		if result.Index == nil || *result.Index != 2 {
			t.Errorf("%s: index %v", c.name, result.Index)
		}
	}
	for _, index := range []string{"18446744073709551615", "-1", "", "x"} {
		if got := read([][]string{{"wsrep_local_index", index}}).index(); got != nil {
			t.Errorf("index %q is read as %d", index, *got)
		}
	}
}
