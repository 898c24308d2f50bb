package drill

import (
	"bytes"
	"math"
	"net/netip"
	"strconv"
	"time"

	"spillway/internal/flood"
	"spillway/internal/lab"
)

// kind is a client program: what it says, and after how many fails it tries again when.
type kind struct {
	name   string
	peerID string // its beginning
	agent  string
	share  int // of ten
	retry  func(fails int) time.Duration
}

// The clients' own formulas, read in their sources: libtorrent announce_entry.cpp; anacrolix/torrent client-tracker-announcer.go;
// and a naive one, of which each swarm has a few.
var kinds = []kind{
	{"libtorrent (qBittorrent, Deluge)", "-qB4520-", "qBittorrent/4.5.2", 7, func(n int) time.Duration {
		return time.Duration(min(3600, 5+12.5*float64(n)*float64(n)) * float64(time.Second))
	}},
	{"60 s flat (anacrolix)", "-AN1570-", "anacrolix/1.57", 2, func(int) time.Duration { return time.Minute }},
	{"10 s flat", "-XX0001-", "naive/1.0", 1, func(int) time.Duration { return 10 * time.Second }},
}

// WebTorrent's and trystero's formulas for sockets: bittorrent-tracker lib/client/websocket-tracker.js, trystero core/src/utils.ts.
func webTorrentRetry(fails int, draw float64) time.Duration {
	backoff := min(10*time.Second*time.Duration(math.Exp2(float64(min(fails, 9)))), time.Hour)
	return time.Duration(draw*float64(5*time.Minute)) + backoff
}

func trysteroRetry(fails int, draw float64) time.Duration {
	most := min(3300*time.Millisecond*time.Duration(math.Exp2(float64(min(fails-1, 6)))), time.Minute)
	return time.Duration(draw * float64(most))
}

// webAnnounceEvery is how often a WebTorrent peer announces while its tracker says 120 s.
const webAnnounceEvery = 120 * time.Second

// mix makes a number that looks drawn of each (SplitMix64).
func mix(z uint64) uint64 {
	z += 0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// clientele is who comes: so many, who come again and again.
type clientele struct {
	target  netip.AddrPort
	many    uint32
	squeeze float64
	side    uint64 // makes two clienteles' addresses and draws different
}

const torrents = 1000

func (c *clientele) who(n uint32) uint64 { return mix(c.side<<32 | uint64(n%c.many)) }

func kindOf(self uint64) *kind {
	at := int(self >> 40 % 10)
	for i := range kinds {
		if at -= kinds[i].share; at < 0 {
			return &kinds[i]
		}
	}
	return &kinds[0]
}

// retry is Load.Retry.
func (c *clientele) retry(n uint32, fails int) time.Duration {
	return time.Duration(float64(kindOf(c.who(n)).retry(fails)) / c.squeeze)
}

// address is a client's, as the CDN's header names it; each is in another /24 than most.
func (c *clientele) address(self uint64) netip.Addr {
	return netip.AddrFrom4([4]byte{100 + byte(c.side), byte(self), byte(self >> 8), 1 + byte(self>>16%250)})
}

// announce is Load.Request: an announce as a client writes it and a CDN passes it on.
func (c *clientele) announce(b []byte, n uint32) []byte {
	self := c.who(n)
	k := kindOf(self)
	b = append(b, "GET /announce?info_hash="...)
	const hex = "0123456789abcdef"
	for _, x := range flood.InfoHash(int(self >> 8 % torrents)) {
		b = append(b, '%', hex[x>>4], hex[x&15])
	}
	b = append(append(b, "&peer_id="...), k.peerID...)
	for i, x := 0, self; i < 12; i, x = i+1, x>>5|x<<59 {
		b = append(b, 'a'+byte(x%26))
	}
	b = strconv.AppendUint(append(b, "&port="...), 10_000+self>>20%50_000, 10)
	b = append(b, "&uploaded=0&downloaded=0&left="...)
	if self>>4%10 < 3 { // three of ten seed
		b = append(b, '0')
	} else {
		b = append(b, "1048576"...)
	}
	b = append(append(b, "&numwant=50&compact=1 HTTP/1.1\r\nHost: tracker.example\r\nUser-Agent: "...), k.agent...)
	b = c.address(self).AppendTo(append(b, "\r\nX-Forwarded-For: "...))
	return append(b, "\r\nConnection: close\r\n\r\n"...)
}

// upgrade is Load.Request: a WebSocket's handshake.
func (c *clientele) upgrade(b []byte, n uint32) []byte {
	b = append(b, "GET / HTTP/1.1\r\nHost: tracker.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX-Forwarded-For: "...)
	b = c.address(c.who(n)).AppendTo(b)
	return append(b, "\r\n\r\n"...)
}

var (
	endOfHead = []byte("\r\n\r\n")
	served    = []byte("11:external ip") // what a refusal leaves out
	isDict    = []byte("d")
)

// judgeAnnounce is Load.Judge: an announce was answered with peers, was politely refused, or has failed. A CDN's 502 is a refused connection's,
// at the speed of one; its 504 is a timeout.
func judgeAnnounce(b []byte) lab.Outcome {
	if len(b) < 12 {
		return lab.Bad
	}
	switch string(b[9:12]) {
	case "200":
		head := bytes.Index(b, endOfHead)
		if head < 0 || !bytes.HasPrefix(b[head+4:], isDict) {
			return lab.Bad
		}
		if bytes.Contains(b[head:], served) {
			return lab.OK
		}
		return lab.Shed
	case "502":
		return lab.Refused
	case "503":
		return lab.Shed
	case "504":
		return lab.Timeout
	}
	return lab.Bad
}

// webPeer is the announce of a WebTorrent peer, without offers: what they cost is another story.
func webPeer(who int) []byte {
	b := []byte(`{"action":"announce","numwant":5,"uploaded":0,"downloaded":0,"left":1048576,"offers":[],"info_hash":"`)
	b = append(b, "drill-swarm-"...)
	b = appendDigits(b, uint64(who%50), 8)
	b = append(b, `","peer_id":"-WW0205-abcd`...)
	b = appendDigits(b, uint64(who), 8)
	return append(b, `"}`...)
}

func appendDigits(b []byte, n uint64, width int) []byte {
	s := strconv.FormatUint(n, 10)
	for range width - len(s) {
		b = append(b, '0')
	}
	return append(b, s...)
}
