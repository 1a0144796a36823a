package galera

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// view is what a node takes its cluster for.
type view struct {
	// history is the cluster's (wsrep_cluster_state_uuid). Nodes that do not have the
	// same one do not have the same data.
	history string
	// number counts the changes of membership (wsrep_cluster_conf_id).
	number uint64
	size   int
}

// behind says why v is not to be trusted beside the view of a peer of that name,
// "" if it is.
func (v view) behind(name string, peer view) string {
	switch {
	case v.history == peer.history && v.number > peer.number:
		// The peer has not heard yet, or is behind itself.
		return ""
	case v.size < peer.size:
		return fmt.Sprintf("sees %d of %d nodes; %s sees %d", v.size, peer.size, name, peer.size)
	case v.history == peer.history && v.number < peer.number:
		return fmt.Sprintf("has view %d of the cluster; %s has %d, with %d nodes", v.number, name, peer.number, peer.size)
	}
	return ""
}

// place is one backend.
type place struct{ host, backend string }

type sighting struct {
	view view
	at   time.Time
}

// sightings are the last views that the backends' nodes have told, of those that
// were in a primary component.
type sightings struct {
	mu    sync.Mutex
	views map[place]sighting
}

func (s *sightings) note(p place, v view) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.views[p] = sighting{v, time.Now()}
}

func (s *sightings) forget(p place) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.views, p)
}

// ahead says which peer of p, seen not longer ago than fresh, has a better view
// than v, "" if none has. Of several it is the first by name.
func (s *sightings) ahead(p place, v view, fresh time.Duration) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var peers []place
	for peer, seen := range s.views {
		if peer.host == p.host && peer != p && time.Since(seen.at) <= fresh {
			peers = append(peers, peer)
		}
	}
	slices.SortFunc(peers, func(a, b place) int { return strings.Compare(a.backend, b.backend) })
	for _, peer := range peers {
		if behind := v.behind(peer.backend, s.views[peer].view); behind != "" {
			return behind
		}
	}
	return ""
}
