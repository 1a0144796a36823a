package relay

// New returns the engine to relay with: [Loops], with a [Portable] for what is not a
// plain TCP socket, and for those who read and write their Conns themselves
// ([Engine.ForRequests]). This is the one place that chooses.
func New(o Options) Engine { return NewLoops(o) }
