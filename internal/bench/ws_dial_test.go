//go:build linux

package bench

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// open opens the sockets, one after the other.
func (l *wsLoad) open() error {
	for i := len(l.fds); i < l.sockets; i++ {
		fd, err := wsDial(l.addr, &unix.SockaddrInet4{Addr: [4]byte{127, 1, byte(i >> 8), byte(i)}})
		if err != nil {
			return fmt.Errorf("open WebSocket %d: %w", i, err)
		}
		l.fds = append(l.fds, fd)
	}
	return nil
}

func (l *wsLoad) close() {
	for _, fd := range l.fds {
		_ = unix.Close(fd)
	}
	l.fds = nil
}

// wsHandshake is Chromium's, less what says nothing to a tracker.
func wsHandshake(addr netip.AddrPort) []byte {
	return []byte("GET / HTTP/1.1\r\nHost: " + addr.String() + "\r\nConnection: Upgrade\r\nPragma: no-cache\r\nCache-Control: no-cache\r\n" +
		"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36\r\n" +
		"Upgrade: websocket\r\nOrigin: https://webtorrent.io\r\nSec-WebSocket-Version: 13\r\nAccept-Encoding: gzip, deflate, br\r\n" +
		"Accept-Language: en-US,en;q=0.9\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" +
		"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n")
}

// wsDial opens a WebSocket from an address, and waits for it.
func wsDial(to netip.AddrPort, from *unix.SockaddrInet4) (fd int, err error) {
	c := client{Load: Load{Addr: to}, to: unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}}
	if fd, err = c.dial(from, 0); err != nil {
		return -1, err
	}
	defer func() {
		if err != nil {
			_ = unix.Close(fd)
		}
	}()
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: int64(stallAfter / time.Second)}); err != nil {
		return -1, err
	}
	if err := send(fd, wsHandshake(to)); err != nil {
		return -1, err
	}
	var buf [2048]byte
	for got := 0; ; {
		n, err := unix.Read(fd, buf[got:])
		if err == unix.EINTR {
			continue // the runtime's signals; a read with a time limit is not begun again
		}
		if n <= 0 {
			return -1, fmt.Errorf("read answer to handshake after %q: %w", buf[:got], errors.Join(err, io.ErrUnexpectedEOF))
		}
		got += n
		if bytes.HasSuffix(buf[:got], endOfHead) {
			if !bytes.HasPrefix(buf[:got], []byte("HTTP/1.1 101 ")) {
				return -1, fmt.Errorf("handshake refused: %q", buf[:got])
			}
			return fd, nil
		}
	}
}
