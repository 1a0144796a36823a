package web

import "net"

// Frames reads a connection of HTTP/2 as the server does.
func Frames(c net.Conn, longest int) net.Conn { return newFrames(c, longest) }
