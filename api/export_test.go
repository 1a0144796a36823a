package api

import "strings"

// Routes lists the route table as method and path, with parameters filled in.
func (a *API) Routes() (all [][2]string) {
	for _, r := range a.routes() {
		path := strings.NewReplacer(":host", "db.main", ":id", "s-1").Replace(r.path)
		all = append(all, [2]string{r.method, path})
	}
	return all
}

// Watchers is how many GET /events are open.
func (a *API) Watchers() int { return len(a.stream.places) }

// What is appended by hand.
var (
	AppendHost    = appendHost
	AppendBackend = appendBackend
	AppendSession = appendSession
)
