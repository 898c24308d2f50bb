package bench

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// InfoHash is the info hash of torrent n of a benchmark. They look random, as real ones do.
func InfoHash(n int) (h [20]byte) {
	x := uint64(n)
	for i := 0; i < len(h); i += 4 {
		// SplitMix64 (Steele, Lea, Flood 2014).
		x += 0x9e3779b97f4a7c15
		z := x
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		binary.LittleEndian.PutUint32(h[i:], uint32(z^z>>31))
	}
	return h
}

// A Request is an announce rendered once, as libtorrent writes it, with room for the info hash and the port to be
// changed in place.
type Request struct {
	bytes          []byte
	hashAt, portAt int
}

// Ports are always five digits so that a request's length never changes.
const (
	minPort = 10000
	maxPort = 65535
)

// NewRequest renders an announce of a leecher who wants numWant peers. With keepAlive false it asks for the connection
// to be closed, as libtorrent does.
func NewRequest(host string, infoHash [20]byte, event string, numWant int, keepAlive bool) *Request {
	var b strings.Builder
	b.WriteString("GET /announce?info_hash=")
	hashAt := b.Len()
	for range infoHash {
		b.WriteString("%00")
	}
	// The parameters and their order are those of libtorrent 2.0 (src/http_tracker_connection.cpp).
	b.WriteString("&peer_id=-qB4650-benchbenchbe&port=")
	portAt := b.Len()
	fmt.Fprintf(&b, "%d&uploaded=0&downloaded=0&left=1048576&corrupt=0&key=3C9A1F20", minPort)
	if event != "" {
		b.WriteString("&event=" + event)
	}
	fmt.Fprintf(&b, "&numwant=%d&compact=1&no_peer_id=1&supportcrypto=1&redundant=0 HTTP/1.1\r\n", numWant)
	b.WriteString("Host: " + host + "\r\nUser-Agent: qBittorrent/4.6.5\r\nAccept-Encoding: gzip\r\n")
	if !keepAlive {
		b.WriteString("Connection: close\r\n")
	}
	b.WriteString("\r\n")
	r := &Request{bytes: []byte(b.String()), hashAt: hashAt, portAt: portAt}
	r.SetInfoHash(infoHash)
	return r
}

// SetInfoHash changes the torrent announced. Every byte is escaped, so that a request's length never changes.
func (r *Request) SetInfoHash(h [20]byte) {
	const digits = "0123456789abcdef"
	for i, c := range h {
		r.bytes[r.hashAt+3*i+1] = digits[c>>4]
		r.bytes[r.hashAt+3*i+2] = digits[c&15]
	}
}

// SetPort changes the port announced and returns the bytes to send, which are the request's own: they are good until
// the next SetPort.
func (r *Request) SetPort(port int) []byte {
	if port < minPort || port > maxPort {
		panic(fmt.Sprintf("BUG: port %d is not of five digits", port))
	}
	for i := 4; i >= 0; i-- {
		r.bytes[r.portAt+i] = byte('0' + port%10)
		port /= 10
	}
	return r.bytes
}
