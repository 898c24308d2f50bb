package flood

import (
	"encoding/binary"
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
	self, c := r.who(source)
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
	if c == &attacker && r.randomIDs {
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

// who is behind a source: a number that looks drawn and is its own, and its program.
func (r *requests) who(source int) (self uint64, c *client) {
	self = mix(uint64(source)*0x9e3779b97f4a7c15 + 1)
	if source >= r.honest {
		return self, &attacker
	}
	return self, &clients[self%uint64(len(clients))]
}

// torrentOf is one of those a source has: any draw will do.
func (r *requests) torrentOf(source int, draw uint64) int {
	self, _ := r.who(source)
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
	_, c := r.who(source)
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
	b = r.appendSource(b, source)
	if r.close {
		b = append(b, "Connection: close\r\n"...)
	}
	r.buf = append(b, "\r\n"...)
	return r.buf
}

// appendSource is the header that names it, if there is one.
func (r *requests) appendSource(b []byte, source int) []byte {
	if r.header == "" {
		return b
	}
	b = append(append(b, r.header...), ": "...)
	return append(appendAddr(b, r.sources.at(source)), "\r\n"...)
}

// upgrade renders a WebSocket handshake as Chromium writes it, less what says nothing to a tracker.
func (r *requests) upgrade(source int) []byte {
	b := append(append(append(append(r.buf[:0], "GET "...), r.upgradePath...), " HTTP/1.1\r\nHost: "...), r.host...)
	b = append(b, "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nOrigin: https://webtorrent.io\r\nSec-WebSocket-Version: 13\r\n"+
		"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"...)
	b = r.appendSource(b, source)
	r.buf = append(b, "\r\n"...)
	return r.buf
}
