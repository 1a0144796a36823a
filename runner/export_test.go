package runner

// Parked counts the clients that wait for a backend.
func (r *Router) Parked() (n int) {
	for _, h := range r.ordered {
		n += h.bridge.Counts().Parked
	}
	for _, name := range r.bridge.TableHosts() {
		n += r.bridge.Used(name).Counts().Parked
	}
	return n
}
