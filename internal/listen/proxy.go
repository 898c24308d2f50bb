package listen

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/pires/go-proxyproto"
)

// proxyHeaderTimeout bounds the wait for a PROXY header. A proxy sends it at once, with the connection's first segment:
// "the sender must always ensure that the header is sent at once" (proxy-protocol.txt, section 2).
const proxyHeaderTimeout = 5 * time.Second

// proxyBufferBytes holds a header and most announces behind it, so that both come with one system call.
const proxyBufferBytes = 1024

// proxyResult is what became of a connection while PROXY headers are looked for.
type proxyResult int

const (
	proxyOK        proxyResult = iota // the header named the client
	proxyLocal                        // LOCAL or UNKNOWN: the proxy itself, as HAProxy's health check
	proxyMissing                      // a trusted peer sent something else
	proxyBad                          // a header cut short, damaged or without a TCP address
	proxyTimeout                      // no whole header in time
	proxyUntrusted                    // a header of a peer that may not send one
	proxyResultCount
)

func (r proxyResult) String() string {
	return [...]string{"ok", "local", "missing", "bad", "timeout", "untrusted"}[r]
}

// proxied is the part of a Conn that deals with PROXY headers.
type proxied struct {
	trusted bool // the header is required, else it is refused

	once   sync.Once
	client *net.TCPAddr  // the header's source; nil means the socket's peer
	err    error         // io.EOF for each refusal: fasthttp closes then, without a log line a stranger could ask for
	rest   *bufio.Reader // bytes that came with the header; touched by Read only, nil once drained
	looked bool          // the first bytes of an untrusted peer were checked; touched by Read only
}

// trusts reports whether peer may, and must, say by a PROXY header who the client is.
func (d *Door) trusts(peer net.Addr) bool {
	switch a := peer.(type) {
	case *net.UnixAddr:
		return true // the socket's file mode says who may connect
	case *net.TCPAddr:
		return d.cfg.Trusted != nil && d.cfg.Trusted(a.AddrPort().Addr().Unmap())
	}
	return false
}

// readProxied is Read where PROXY headers are looked for.
func (c *Conn) readProxied(b []byte) (int, error) {
	if err := c.readHeader(); err != nil {
		return 0, err
	}
	p := c.proxy
	if p.rest != nil {
		n, err := p.rest.Read(b)
		if p.rest.Buffered() == 0 {
			p.rest = nil
		}
		return n, err
	}
	n, err := c.Conn.Read(b)
	if !p.trusted && !p.looked && n > 0 {
		p.looked = true
		// A header split over two reads gets past this, and is then a bad HTTP request, or a bad TLS record.
		if bytes.HasPrefix(b[:n], proxyproto.SIGV1) || bytes.HasPrefix(b[:n], proxyproto.SIGV2) {
			c.door.proxyResults[proxyUntrusted].Inc()
			_ = c.Conn.Close() // the place is left by Close
			return 0, io.EOF
		}
	}
	return n, err
}

// readHeader reads the PROXY header of a trusted peer, once; other calls wait for that one.
func (c *Conn) readHeader() error {
	p := c.proxy
	if !p.trusted {
		return nil
	}
	p.once.Do(func() {
		c.setHeaderDeadline(time.Now().Add(proxyHeaderTimeout))
		br := bufio.NewReaderSize(c.Conn, proxyBufferBytes)
		header, err := proxyproto.Read(br)
		c.setHeaderDeadline(time.Time{})

		if err != nil && br.Buffered() == 0 && errors.Is(err, proxyproto.ErrNoProxyProtocol) {
			p.err = io.EOF // connected and left without a byte: a TCP probe, not worth a count
			return
		}
		client, result := headerClient(header, err)
		c.door.proxyResults[result].Inc()
		switch result {
		case proxyOK, proxyLocal:
			p.client = client
			if br.Buffered() > 0 {
				p.rest = br
			}
		default:
			p.err = io.EOF
			if c.door.proxyLog.ok(time.Now()) {
				c.door.log.Warn("no usable PROXY header from a trusted proxy; have it send one, or turn off "+c.door.cfg.Key+".proxy_protocol",
					"proxy", c.Conn.RemoteAddr(), "result", result, "err", err)
			}
		}
	})
	return p.err
}

// setHeaderDeadline bounds reads by t, and with the zero time puts back what was asked by SetReadDeadline.
func (c *Conn) setHeaderDeadline(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.headerBy = t
	_ = c.Conn.SetReadDeadline(earlier(c.read, t)) // fails on a closed socket only, and then so does Read
}

// headerClient is the address a parsed header names, unmapped, or nil.
func headerClient(header *proxyproto.Header, err error) (*net.TCPAddr, proxyResult) {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, proxyTimeout
	case errors.Is(err, proxyproto.ErrNoProxyProtocol):
		return nil, proxyMissing
	case err != nil:
		return nil, proxyBad
	case header.Command.IsLocal():
		return nil, proxyLocal
	}
	addr, ok := header.SourceAddr.(*net.TCPAddr) // else a datagram's or a unix socket's: no peer can be made of that
	if !ok {
		return nil, proxyBad
	}
	ip, ok := netip.AddrFromSlice(addr.IP)
	if !ok || ip.IsUnspecified() {
		return nil, proxyBad
	}
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip.Unmap(), uint16(addr.Port))), proxyOK
}
