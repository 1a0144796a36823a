package relay

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The calls here do not wait: their sockets are non-blocking. So they are made without
// telling the scheduler, which otherwise prepares for each that it may: it watches the
// thread every 20 µs and takes the processor away from one that was delayed by
// something else. Measured with HTTP of 1 KiB bodies that is a tenth of the processor
// time. The price is that a stop of the world waits for such a call, some 10 µs.
// They are the only ones of this package that go around the runtime but disconnect.

// read is recv(2) on a non-blocking socket, which is a little cheaper than read(2); n is
// -1 with an error.
func read(fd uintptr, p []byte) (n int, err syscall.Errno) {
	if len(p) == 0 {
		return 0, 0
	}
	r, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), 0, 0, 0)
	return int(r), errno
}

// write is send(2) on a non-blocking socket; n is -1 with an error. A peer that is gone
// is an error and no signal.
func write(fd uintptr, p []byte) (n int, err syscall.Errno) {
	if len(p) == 0 {
		return 0, 0
	}
	r, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), unix.MSG_NOSIGNAL, 0, 0)
	return int(r), errno
}

// writeBoth is [write] of two buffers, in one call.
func writeBoth(fd uintptr, first, second []byte) (n int, err syscall.Errno) {
	switch {
	case len(second) == 0:
		return write(fd, first)
	case len(first) == 0:
		return write(fd, second)
	}
	parts := [2]unix.Iovec{{Base: unsafe.SliceData(first)}, {Base: unsafe.SliceData(second)}}
	parts[0].SetLen(len(first))
	parts[1].SetLen(len(second))
	message := unix.Msghdr{Iov: &parts[0]}
	message.SetIovlen(len(parts))
	r, _, errno := unix.RawSyscall(unix.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(&message)), unix.MSG_NOSIGNAL)
	return int(r), errno
}

// quiet tells whether a socket has nothing to read: no byte, no end, no error. It asks
// for a byte and leaves it there.
func quiet(fd uintptr) bool {
	var first [1]byte
	_, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&first)), 1, unix.MSG_PEEK|unix.MSG_DONTWAIT, 0, 0)
	return errno == unix.EAGAIN
}
