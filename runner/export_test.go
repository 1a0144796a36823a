package runner

// Parked counts the clients that wait for a backend.
func (r *Router) Parked() (n int) {
	for _, h := range r.ordered {
		n += h.bridge.Counts().Parked
	}
	return n
}
