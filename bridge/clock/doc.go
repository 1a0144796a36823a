// Package clock is the time that decisions are made by: when a probe is due,
// when a drain ends, what a time stamp says. It is a parameter so that an
// embedder's specs can drive it; everybody else passes nothing and gets [System].
//
// Deadlines on sockets are the kernel's business and always run on real time.
package clock
