package bridge

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/pires/go-proxyproto"

	"switchboard/bridge/relay"
)

// ProxyVersion says which PROXY protocol header is meant
// (https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt).
type ProxyVersion string

// The versions. Any is for accepting only.
const (
	ProxyOff ProxyVersion = "off"
	ProxyV1  ProxyVersion = "v1"
	ProxyV2  ProxyVersion = "v2"
	ProxyAny ProxyVersion = "any"
)

const (
	// proxyHeaderTimeout is how long a trusted proxy may take to send its header.
	proxyHeaderTimeout = 5 * time.Second
	// proxyHeaderMax is the longest header accepted, in bytes. A v1 header has at
	// most 107, a v2 header with the extensions in use a few hundred.
	proxyHeaderMax = 4096
)

var errProxyHeader = errors.New("refused its PROXY header")

// ProxyAccept says whose PROXY header a listener believes. On a listener that
// expects one, every connection must come from a trusted proxy and begin with a
// header: to serve others as they are would let a stranger's own header through
// to a backend that reads one.
type ProxyAccept struct {
	// Version is what is expected; "" is ProxyOff.
	Version ProxyVersion
	// Trusted are the networks that proxies connect from.
	Trusted []netip.Prefix
}

// expected tells if connections must begin with a header.
func (p ProxyAccept) expected() bool { return p.Version != "" && p.Version != ProxyOff }

// read takes the header off client and returns the addresses that it names and
// the bytes that came behind it.
func (p ProxyAccept) read(client relay.Conn) (source, destination net.Addr, rest []byte, err error) {
	from, ok := addrPort(client.RemoteAddr())
	if !ok || !p.trusts(from.Addr()) {
		return nil, nil, nil, fmt.Errorf("%w: %s is not a trusted proxy", errProxyHeader, client.RemoteAddr())
	}
	if err := client.SetReadDeadline(time.Now().Add(proxyHeaderTimeout)); err != nil {
		return nil, nil, nil, fmt.Errorf("%w: %w", errProxyHeader, err)
	}
	reader := bufio.NewReaderSize(io.LimitReader(client, proxyHeaderMax), proxyHeaderMax)
	await(reader)
	header, err := proxyproto.Read(reader)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("%w: %w", errProxyHeader, err)
	}
	if p.Version == ProxyV1 && header.Version != 1 || p.Version == ProxyV2 && header.Version != 2 {
		return nil, nil, nil, fmt.Errorf("%w: it is version %d, expected %s", errProxyHeader, header.Version, p.Version)
	}
	if err := client.SetReadDeadline(time.Time{}); err != nil {
		return nil, nil, nil, fmt.Errorf("%w: %w", errProxyHeader, err)
	}
	rest, _ = reader.Peek(reader.Buffered())
	if s, d, ok := header.TCPAddrs(); ok && header.Command.IsProxy() {
		return s, d, rest, nil
	}
	// LOCAL and UNKNOWN: the proxy speaks for itself.
	return client.RemoteAddr(), client.LocalAddr(), rest, nil
}

// v1HeaderMax is the longest version 1 header (section 2.1 of the specification).
const v1HeaderMax = 107

// await fills reader until it holds a version 1 header to its end, if it begins
// like one: the library refuses a header that did not come in one read, and the
// specification recommends to be tolerant. What goes wrong here, goes wrong again,
// and with an error, in the library.
func await(reader *bufio.Reader) {
	const v1 = "PROXY"
	have, _ := reader.Peek(len(v1))
	for string(have[:min(len(v1), len(have))]) == v1 && len(have) < v1HeaderMax && !bytes.ContainsRune(have, '\n') {
		more, err := reader.Peek(max(reader.Buffered(), len(have)+1))
		if err != nil {
			return
		}
		have = more
	}
}

func (p ProxyAccept) trusts(ip netip.Addr) bool {
	for _, prefix := range p.Trusted {
		if prefix.Contains(ip.Unmap().WithZone("")) {
			return true
		}
	}
	return false
}

// sent tells if there is a header to send.
func (v ProxyVersion) sent() bool { return v == ProxyV1 || v == ProxyV2 }

// Header returns the bytes that announce a session from source to destination,
// none for ProxyOff.
func (v ProxyVersion) Header(source, destination net.Addr) ([]byte, error) {
	s, sok := addrPort(source)
	d, dok := addrPort(destination)
	if !sok || !dok {
		return v.LocalHeader()
	}
	header := &proxyproto.Header{Command: proxyproto.PROXY, TransportProtocol: proxyproto.TCPv4}
	if !s.Addr().Unmap().Is4() || !d.Addr().Unmap().Is4() {
		// Both sides of a header are of one family: an IPv4 side is written in its
		// IPv4-mapped form (RFC 4291, section 2.5.5.2).
		header.TransportProtocol = proxyproto.TCPv6
	}
	header.SourceAddr, header.DestinationAddr = net.TCPAddrFromAddrPort(s), net.TCPAddrFromAddrPort(d)
	return v.format(header)
}

// LocalHeader returns the bytes that announce a connection of our own, such as a
// probe, none for ProxyOff.
func (v ProxyVersion) LocalHeader() ([]byte, error) {
	return v.format(&proxyproto.Header{Command: proxyproto.LOCAL, TransportProtocol: proxyproto.UNSPEC})
}

func (v ProxyVersion) format(header *proxyproto.Header) ([]byte, error) {
	switch v {
	case ProxyV1:
		header.Version = 1
	case ProxyV2:
		header.Version = 2
	default:
		return nil, nil
	}
	raw, err := header.Format()
	if err != nil {
		return nil, fmt.Errorf("writing a PROXY header: %w", err)
	}
	return raw, nil
}

// addrPort returns a TCP address without its IPv4-in-IPv6 wrapping, and false for
// one that is not TCP (an injected connection may have any).
func addrPort(addr net.Addr) (netip.AddrPort, bool) {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}, false
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), ap.IsValid()
}
