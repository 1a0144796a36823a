// Package galera checks a node of a Galera cluster (MariaDB, Percona XtraDB
// Cluster, MySQL with wsrep): only one that is synced with the cluster's newest
// view and takes writes is healthy.
//
//	Check ─▶ wsrep_% and read_only ─▶ ready, Primary, synced,
//	         on the one kept           read_only off, and no peer
//	         connection                has a newer view          healthy, with its index
//	                                  anything else of these     unhealthy, at once
//	                                  no Galera, not logged in   failed, with what to do
//
// A node that gives its state to a joiner, or was desynced by hand
// (wsrep_local_state 2), is unhealthy unless Spec.Donors is set: it may lag behind
// and, depending on how the state is transferred, stop taking writes. The index is
// wsrep_local_index, for elections by lowest or highest.
//
// # Views
//
// A node's word about itself is not all: a node that was made a cluster of its own
// (pc.bootstrap, or a bootstrap by mistake) says Primary and Synced too. So the
// checkers of one host, which come from one call of [New], tell each other what
// their nodes see. A node is unhealthy if a peer that is Primary
//
//   - has the same history (wsrep_cluster_state_uuid) and a newer view
//     (wsrep_cluster_conf_id), or one as new with more nodes in it, or
//   - has another history and more nodes.
//
// What a peer has said counts for three intervals and a timeout, and not after a
// probe of it has failed. A view does not reach all nodes in the same moment, so a
// node that seems behind is asked once more after 50 ms, or after a quarter of the
// timeout, before it is called so. Of views that cannot be told apart none loses. A
// newer view wins even if it has fewer nodes: that is how every cluster shrinks, and
// of two halves that both serve, it is the one that was forced last.
//
// # Who may call what
//
// A checker belongs to one goroutine, as package check says; what they share is
// guarded. The connection is that of switchboard/monitor/check/mysql, with all it
// promises: one a backend, no handshake broken off, a hint when it drops. The user
// that logs in needs no right.
package galera
