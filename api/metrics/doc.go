// Package metrics is GET /metrics of a router's API: its state in Prometheus' text
// format, read when it is asked for.
//
//	Go runtime, this process ──▶ registry of its own ──▶ expfmt ──┐
//	feeds, atomics ──▶ api.Sources ──▶ collector ──▶ page ────────┴▶ text
//
// It is a package of its own, beside api and handed to it as an [net/http.Handler], so
// that a program that embeds a router links the Prometheus library only if it names
// this package:
//
//	runner.Config{Metrics: func(s api.Sources) http.Handler { return metrics.New(metrics.Options{Sources: s}) }}
//
// # Nothing on the way of traffic
//
// There is one collector, and no counter of the library's. A scrape reads what
// GET /cluster reads: the newest value of each feed, and atomics. So nothing is counted
// twice, no series outlives its host, and what nobody scrapes costs nothing.
//
// # A text of our own
//
// Of 10,000 hosts with two backends each, which are 160,000 samples, the library takes
// 115 ms and 142,000 objects, and garbage of that kind has all of a large router's memory
// looked through every few scrapes. So the samples are written as they are read, in
// Prometheus' text format 0.0.4: a page has a buffer for each family, whose samples must
// stand together, hosts are looked at once, and the next scrape uses the same page. It is
// made and written in turns ([api.Turns]), so that traffic never waits for all of it. The
// metrics of the Go runtime and of the process are the library's, and so is what
// [Gatherer] returns, which is read back from the text.
//
// # How many series there are
//
// Labels are names of the configuration and of the routing table: hosts that are
// configured, those of the table that GET /cluster lists, which are at most as many as it
// does, and their backends. switchboard_hosts_left_out says how many hosts of the table
// are not there. What a client asks for is never a label: requests for unknown hosts are
// counted by reason.
//
// [New]'s handler may be called from any goroutine. Who may scrape, and how many at
// once, is up to the API. The package starts no goroutine that outlives a scrape.
package metrics
