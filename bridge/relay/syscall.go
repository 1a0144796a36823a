package relay

import (
	"encoding/binary"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// All unsafe code of this package is in this file.
//
// The calls here do not wait: their sockets are non-blocking. So they are made without
// telling the scheduler, which otherwise prepares for each that it may: it watches the
// thread every 20 µs and takes the processor away from one that was delayed by
// something else. Measured with HTTP of 1 KiB bodies that is a tenth of the processor
// time. The price is that a stop of the world waits for such a call, some 10 µs.
// Those that take or give an address are also here because the ones of x/sys allocate
// it.

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

// setOption is setsockopt(2) of a number. A socket that refuses one goes without.
func setOption(fd uintptr, level, option, value int) {
	v := int32(value)
	_, _, _ = unix.RawSyscall6(unix.SYS_SETSOCKOPT, fd, uintptr(level), uintptr(option), uintptr(unsafe.Pointer(&v)), unsafe.Sizeof(v), 0)
}

// ringBell is write(2) to an eventfd.
func ringBell(bell int) {
	one := uint64(1)
	_, _, _ = unix.RawSyscall(unix.SYS_WRITE, uintptr(bell), uintptr(unsafe.Pointer(&one)), unsafe.Sizeof(one))
}

// disconnect is connect(2) with AF_UNSPEC: it does to a TCP connection what
// SO_LINGER 0 and close do, but leaves the descriptor. Both queues are thrown
// away, an RST is sent, and whoever waits is woken.
func disconnect(fd uintptr) error {
	to := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	for {
		_, _, errno := unix.Syscall(unix.SYS_CONNECT, fd, uintptr(unsafe.Pointer(&to)), unsafe.Sizeof(to))
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return errno
		}
	}
}

// accept is accept4(2) on a non-blocking listening socket: the descriptor, which is
// non-blocking too, and the peer's address.
func accept(fd uintptr) (accepted int, from netip.AddrPort, err syscall.Errno) {
	var name unix.RawSockaddrAny
	size := uint32(unsafe.Sizeof(name))
	r, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, fd, uintptr(unsafe.Pointer(&name)), uintptr(unsafe.Pointer(&size)),
		unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	if errno != 0 {
		return -1, from, errno
	}
	return int(r), addressOf(&name), 0
}

// connect is connect(2) on a non-blocking socket. While it is under way it is asked
// again how far it has come: EALREADY, or what it came to.
func connect(fd int, to netip.AddrPort) syscall.Errno {
	var name unix.RawSockaddrAny
	size := uintptr(unix.SizeofSockaddrInet4)
	if ip := to.Addr(); ip.Is4() {
		in := (*unix.RawSockaddrInet4)(unsafe.Pointer(&name))
		in.Family, in.Addr = unix.AF_INET, ip.As4()
		in.Port = networkOrder(to.Port())
	} else {
		in := (*unix.RawSockaddrInet6)(unsafe.Pointer(&name))
		in.Family, in.Addr = unix.AF_INET6, ip.As16()
		in.Port = networkOrder(to.Port())
		size = unix.SizeofSockaddrInet6
	}
	_, _, errno := unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&name)), size)
	return errno
}

// localAddress is getsockname(2), the zero value if the socket is gone.
func localAddress(fd int) netip.AddrPort {
	var name unix.RawSockaddrAny
	size := uint32(unsafe.Sizeof(name))
	_, _, errno := unix.RawSyscall(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&name)), uintptr(unsafe.Pointer(&size)))
	if errno != 0 {
		return netip.AddrPort{}
	}
	return addressOf(&name)
}

// addressOf is a socket's address without IPv4-in-IPv6 wrapping.
func addressOf(name *unix.RawSockaddrAny) netip.AddrPort {
	switch name.Addr.Family {
	case unix.AF_INET:
		in := (*unix.RawSockaddrInet4)(unsafe.Pointer(name))
		return netip.AddrPortFrom(netip.AddrFrom4(in.Addr), networkOrder(in.Port))
	case unix.AF_INET6:
		in := (*unix.RawSockaddrInet6)(unsafe.Pointer(name))
		ip := netip.AddrFrom16(in.Addr).Unmap()
		if in.Scope_id != 0 && ip.Is6() {
			ip = ip.WithZone(zoneName(in.Scope_id))
		}
		return netip.AddrPortFrom(ip, networkOrder(in.Port))
	}
	return netip.AddrPort{}
}

// networkOrder turns a port around, if this machine has to.
func networkOrder(port uint16) uint16 {
	return binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, port))
}

// look is epoll_wait(2) that does not wait.
func look(epoll int, events []unix.EpollEvent) (n int, err syscall.Errno) {
	r, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll), uintptr(unsafe.Pointer(unsafe.SliceData(events))), uintptr(len(events)), 0, 0, 0)
	return int(r), errno
}

// shut is shutdown(2) of the write side.
func shut(fd int) syscall.Errno {
	_, _, errno := unix.RawSyscall(unix.SYS_SHUTDOWN, uintptr(fd), unix.SHUT_WR, 0)
	return errno
}

// closeSocket is close(2). With reset it throws away what is queued and sends an RST.
func closeSocket(fd int, reset bool) {
	if reset {
		linger0 := unix.Linger{Onoff: 1}
		_, _, _ = unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_LINGER,
			uintptr(unsafe.Pointer(&linger0)), unsafe.Sizeof(linger0), 0)
	}
	_, _, _ = unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0)
}
