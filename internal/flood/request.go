package flood

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// InfoHash is the info hash of torrent n. They look random, as real ones do.
func InfoHash(n int) (h [20]byte) {
	r := random(n)
	var word [8]byte
	for i := 0; i < len(h); i += 4 {
		binary.LittleEndian.PutUint64(word[:], r.next())
		copy(h[i:], word[:4])
	}
	return h
}

// client is how one program announces. A query is before, info hash, peerID, then the rest in its own order.
type client struct {
	peerID string // its beginning
	agent  string
	rest   func(b []byte, a *announce) []byte
}

// The parameters and their order are the clients' own: libtorrent's src/http_tracker_connection.cpp (qBittorrent and Deluge),
// Transmission's libtransmission/announcer-http.cc, aria2's src/DefaultBtAnnounce.cc.
var clients = []client{
	{"-qB4520-", "qBittorrent/4.5.2", libtorrentRest},
	{"-TR3000-", "Transmission/3.00", transmissionRest},
	{"A2-1-36-0-", "aria2/1.36.0", aria2Rest},
	{"-DE203s-", "Deluge/2.0.3 libtorrent/1.1.14.0", libtorrentRest},
}

// attacker is what all attack requests look like.
var attacker = client{"-FL0001-", "flood/1.0", libtorrentRest}

// announce is what one says, besides the torrent.
type announce struct {
	port  int
	left  int64
	key   uint32
	event string
}

func libtorrentRest(b []byte, a *announce) []byte {
	b = strconv.AppendInt(append(b, "&port="...), int64(a.port), 10)
	b = strconv.AppendInt(append(b, "&uploaded=0&downloaded=0&left="...), a.left, 10)
	b = appendHex32(append(b, "&corrupt=0&key="...), a.key)
	b = appendEvent(b, a.event)
	return append(b, "&numwant=50&compact=1&no_peer_id=1&supportcrypto=1&redundant=0"...)
}

func transmissionRest(b []byte, a *announce) []byte {
	b = strconv.AppendInt(append(b, "&port="...), int64(a.port), 10)
	b = strconv.AppendInt(append(b, "&uploaded=0&downloaded=0&left="...), a.left, 10)
	b = appendHex32(append(b, "&numwant=50&key="...), a.key)
	b = append(b, "&compact=1&supportcrypto=1"...)
	return appendEvent(b, a.event)
}

func aria2Rest(b []byte, a *announce) []byte {
	b = strconv.AppendInt(append(b, "&uploaded=0&downloaded=0&left="...), a.left, 10)
	b = appendHex32(append(b, "&compact=1&key="...), a.key)
	b = append(b, "&numwant=50&no_peer_id=1"...)
	b = strconv.AppendInt(append(b, "&port="...), int64(a.port), 10)
	b = appendEvent(b, a.event)
	return append(b, "&supportcrypto=1"...)
}

func appendEvent(b []byte, event string) []byte {
	if event == "" {
		return b
	}
	return append(append(b, "&event="...), event...)
}

const hexDigits = "0123456789abcdef"

func appendHex32(b []byte, v uint32) []byte {
	for shift := 28; shift >= 0; shift -= 4 {
		b = append(b, hexDigits[v>>shift&15])
	}
	return b
}

// requests renders announces, each in the same buffer.
type requests struct {
	path, host  string
	scrapePath  string
	upgradePath string
	hashes      int    // of a scrape
	header      string // that the source goes in; "" for none
	close       bool
	torrents    int
	randomIDs   bool // of attackers
	sources     addresses
	honest      int // sources 0 to honest-1; attackers' come after
	rnd         *random
	words       announce // of the one being rendered
	buf         []byte
}

// torrentsEach are what one source has: a client that announced every torrent there is would be stored in all of them.
const torrentsEach = 4

// announce renders one of a source. What the source is, which client, with which torrents and at which port, is its own for ever;
// what it says is drawn: nine of ten requests are periodic.
func (r *requests) announce(source int) []byte {
	self := mix(uint64(source)*0x9e3779b97f4a7c15 + 1)
	c := &clients[self%uint64(len(clients))]
	attack := source >= r.honest
	if attack {
		c = &attacker
	}
	draw := r.rnd.next()
	a := &r.words
	*a = announce{port: 10_000 + int(self>>8%50_000), key: uint32(self >> 32)}
	if self>>24%10 >= 3 { // three of ten seed
		a.left = 1 << 20
	}
	switch kind := draw % 100; {
	case kind < 4:
		a.event = "started"
	case kind < 8:
		a.event = "stopped"
	case kind < 10:
		a.event, a.left = "completed", 0
	}
	torrent := r.torrentOf(source, draw>>32)

	b := append(r.buf[:0], "GET "...)
	b = appendHash(append(append(b, r.path...), "?info_hash="...), torrent)
	b = append(b, "&peer_id="...)
	if attack && r.randomIDs {
		for x, n := r.rnd.next(), 0; n < 20; n++ {
			if n == 10 {
				x = r.rnd.next()
			}
			b = append(b, '%', hexDigits[x>>4&15], hexDigits[x&15])
			x = x>>6 | x<<58
		}
	} else {
		b = append(b, c.peerID...)
		for x, n := mix(self), len(c.peerID); n < 20; n++ {
			b = append(b, 'a'+byte(x%26))
			x = x>>5 | x<<59
		}
	}
	return r.finish(c.rest(b, a), c, source)
}

// torrentOf is one of those a source has: any draw will do.
func (r *requests) torrentOf(source int, draw uint64) int {
	self := mix(uint64(source)*0x9e3779b97f4a7c15 + 1)
	return int(mix(self+draw%torrentsEach) % uint64(r.torrents))
}

func appendHash(b []byte, torrent int) []byte {
	for _, x := range InfoHash(torrent) {
		b = append(b, '%', hexDigits[x>>4], hexDigits[x&15])
	}
	return b
}

// scrape renders one of a source, of any torrents there are.
func (r *requests) scrape(source int) []byte {
	c := &clients[mix(uint64(source)*0x9e3779b97f4a7c15+1)%uint64(len(clients))]
	if source >= r.honest {
		c = &attacker
	}
	b := append(append(r.buf[:0], "GET "...), r.scrapePath...)
	for i := range r.hashes {
		sep := byte('&')
		if i == 0 {
			sep = '?'
		}
		b = appendHash(append(append(b, sep), "info_hash="...), r.anyTorrent())
	}
	return r.finish(b, c, source)
}

func (r *requests) anyTorrent() int { return int(r.rnd.next() >> 33 % uint64(r.torrents)) }

// scrapePath is where scrapes go (BEP 48): the last part of the announce's path begins with another word.
func scrapePath(announce string) string {
	if i := strings.LastIndexByte(announce, '/'); strings.HasPrefix(announce[i+1:], "announce") {
		return announce[:i+1] + "scrape" + announce[i+1+len("announce"):]
	}
	return announce
}

// finish writes what follows the query.
func (r *requests) finish(b []byte, c *client, source int) []byte {
	b = append(append(append(b, " HTTP/1.1\r\nHost: "...), r.host...), "\r\nUser-Agent: "...)
	b = append(append(b, c.agent...), "\r\nAccept-Encoding: gzip\r\n"...)
	if r.header != "" {
		b = append(append(b, r.header...), ": "...)
		b = append(appendAddr(b, r.sources.at(source)), "\r\n"...)
	}
	if r.close {
		b = append(b, "Connection: close\r\n"...)
	}
	r.buf = append(b, "\r\n"...)
	return r.buf
}

// upgrade renders a WebSocket handshake as Chromium writes it, less what says nothing to a tracker.
func (r *requests) upgrade(source int) []byte {
	b := append(append(append(append(r.buf[:0], "GET "...), r.upgradePath...), " HTTP/1.1\r\nHost: "...), r.host...)
	b = append(b, "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nOrigin: https://webtorrent.io\r\nSec-WebSocket-Version: 13\r\n"+
		"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"...)
	if r.header != "" {
		b = append(append(b, r.header...), ": "...)
		b = append(appendAddr(b, r.sources.at(source)), "\r\n"...)
	}
	r.buf = append(b, "\r\n"...)
	return r.buf
}

// addresses numbers those of a prefix so that neighbours in number are in different /24s, as strangers are: what a tracker allows
// a network must not be used up by the generator's own order.
type addresses struct {
	first uint32 // of the prefix
	n     uint32 // of usable ones: 1 to 254 of each /24
}

// step has no factor in common with the number of usable addresses, which are those of 2 and 127: so no two numbers meet.
const step = 611953

func newAddresses(p netip.Prefix, want int) (addresses, error) {
	if !p.Addr().Is4() || p.Bits() > 24 {
		return addresses{}, fmt.Errorf("flood: addresses from %s: must be an IPv4 prefix of /24 or wider", p)
	}
	b := p.Masked().Addr().As4()
	first, nets := binary.BigEndian.Uint32(b[:]), uint32(1)<<(24-p.Bits())
	if b[0] == 127 && p.Bits() <= 9 {
		// 127.0.0.0/16 is left to the servers and to who watches them.
		first += 1 << 16
		nets -= 1 << 8
		for nets&(nets-1) != 0 {
			nets &= nets - 1 // a power of two again, for step
		}
	}
	a := addresses{first, nets * 254}
	if want > int(a.n) {
		return addresses{}, fmt.Errorf("flood: %d addresses from %s: there are %d; widen the prefix or lower honest and attackers", want, p, a.n)
	}
	return a, nil
}

// at is address i, big endian.
func (a addresses) at(i int) [4]byte {
	p := uint32(uint64(i) * step % uint64(a.n))
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], a.first+p/254<<8+p%254+1)
	return b
}

// appendAddr writes an address in text.
func appendAddr(dst []byte, b [4]byte) []byte {
	for i, c := range b {
		if i > 0 {
			dst = append(dst, '.')
		}
		dst = strconv.AppendUint(dst, uint64(c), 10)
	}
	return dst
}

// random is SplitMix64 (Steele, Lea, Flood 2014): it is good enough to draw from, and it costs nothing.
type random uint64

func (r *random) next() uint64 {
	*r += 0x9e3779b97f4a7c15
	return mix(uint64(*r))
}

func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}
