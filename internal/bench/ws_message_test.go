//go:build linux

package bench

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/gobwas/ws"

	"spillway/internal/flood"
)

// wsHeaderBytes is the header of a masked frame of 126 to 65,535 bytes (RFC 6455, 5.2).
const wsHeaderBytes = 8

// wsMask is not zero: for a zero mask the npm servers skip the work that browsers give them.
var wsMask = [4]byte{0x37, 0xfa, 0x21, 0x3d}

// wsFrame is an announce rendered and masked once, in which the peer id and the offers' names are changed in place.
type wsFrame struct {
	bytes    []byte
	peerAt   int   // of the peer id
	offersAt []int // of the digit that each offer's name ends with
}

// newWSFrame renders an announce of torrent n as bittorrent-tracker's client writes it (lib/client/websocket-tracker.js,
// announce), with as many offers.
func newWSFrame(n, offers int) *wsFrame {
	var f wsFrame
	rnd := rand.New(rand.NewPCG(uint64(n), 1))
	b := make([]byte, wsHeaderBytes, 16<<10)
	b = fmt.Appendf(b, `{"numwant":%d,"uploaded":0,"downloaded":0,"left":1048576,"action":"announce","info_hash":`, offers)
	hash := flood.InfoHash(n)
	b = appendJSON(b, latin1(hash[:]))
	b = append(b, `,"peer_id":"`...)
	f.peerAt = len(b)
	b = append(b, wsPeerID(0)...)
	b = append(b, `","offers":[`...)
	for i := range offers {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"offer":{"type":"offer","sdp":`...)
		b = appendJSON(b, sessionDescription(rnd))
		b = append(b, `},"offer_id":`...)
		var id [19]byte
		for j := range id {
			id[j] = byte(rnd.Uint32())
		}
		b = appendJSON(b, latin1(id[:])+"0")
		f.offersAt = append(f.offersAt, len(b)-2)
		b = append(b, '}')
	}
	b = append(b, "]}"...)
	b[0], b[1] = 0x81, 0x80|126 // a text frame, whole; masked, its length in two bytes
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)-wsHeaderBytes))
	copy(b[4:], wsMask[:])
	for i := range b[wsHeaderBytes:] {
		b[wsHeaderBytes+i] ^= wsMask[i&3]
	}
	f.bytes = b
	return &f
}

// of changes whose announce it is, and which of its announces: offers have names of their own in eight of them. They are
// not new for ever, because each offer is remembered for a minute, and a server may stop when it has hundreds of
// thousands to remember; a loaded server would get there in seconds.
func (f *wsFrame) of(peer, turn int) []byte {
	for i, c := range []byte(wsPeerID(peer)) {
		f.set(f.peerAt+i, c)
	}
	for _, at := range f.offersAt {
		f.set(at, byte('0'+turn&7))
	}
	return f.bytes
}

func (f *wsFrame) set(at int, c byte) { f.bytes[at] = c ^ wsMask[(at-wsHeaderBytes)&3] }

// wsPeerID is 20 characters, as WebTorrent makes them: its name and version, then letters and digits.
func wsPeerID(n int) string {
	return "-WW0205-ab" + strconv.Itoa(1_000_000_000+n)
}

// latin1 writes bytes as characters U+0000 to U+00FF, which is how WebTorrent writes hashes.
func latin1(b []byte) string {
	runes := make([]rune, len(b))
	for i, c := range b {
		runes[i] = rune(c)
	}
	return string(runes)
}

func appendJSON(b []byte, s string) []byte {
	quoted, err := json.Marshal(s)
	if err != nil {
		panic("BUG: a string is not JSON: " + err.Error())
	}
	return append(b, quoted...)
}

// sessionDescription is an offer of a data channel as Chromium makes it, with 5 to 20 candidates: 1 to 3 KiB.
func sessionDescription(rnd *rand.Rand) string {
	hex := func(n int, sep string) string {
		parts := make([]string, n)
		for i := range parts {
			parts[i] = fmt.Sprintf("%02X", rnd.Uint32()&0xff)
		}
		return strings.Join(parts, sep)
	}
	lines := []string{
		"v=0", fmt.Sprintf("o=- %d 2 IN IP4 127.0.0.1", rnd.Uint64()>>1), "s=-", "t=0 0", "a=group:BUNDLE 0", "a=extmap-allow-mixed",
		"a=msid-semantic: WMS", "m=application 53421 UDP/DTLS/SCTP webrtc-datachannel", "c=IN IP4 203.0.113.7",
	}
	for i := range 5 + rnd.IntN(16) {
		lines = append(lines, fmt.Sprintf("a=candidate:%d 1 udp %d 192.168.%d.%d %d typ host generation 0 network-id %d network-cost 10",
			rnd.Uint32(), 2122260223-i, rnd.IntN(256), rnd.IntN(256), 1024+rnd.IntN(60000), i+1))
	}
	lines = append(lines,
		"a=ice-ufrag:"+hex(2, ""), "a=ice-pwd:"+hex(12, ""), "a=ice-options:trickle", "a=fingerprint:sha-256 "+hex(32, ":"),
		"a=setup:actpass", "a=mid:0", "a=sctp-port:5000", "a=max-message-size:262144", "")
	return strings.Join(lines, "\r\n")
}

// A frame is JSON that a WebTorrent tracker understands, whoever's announce it is and whichever of theirs.
func TestWSFrameIsChangedInPlace(t *testing.T) {
	t.Parallel()
	f := newWSFrame(7, wsOffers)
	seen := map[string]bool{}
	for _, c := range []struct{ peer, turn int }{{0, 0}, {0, 1}, {9999, 7}} {
		b := append([]byte(nil), f.of(c.peer, c.turn)...)
		if got := int(binary.BigEndian.Uint16(b[2:])); got != len(b)-wsHeaderBytes {
			t.Errorf("length: got %d, want %d", got, len(b)-wsHeaderBytes)
		}
		payload := b[wsHeaderBytes:]
		ws.Cipher(payload, [4]byte(b[4:8]), 0)
		var m struct {
			InfoHash string `json:"info_hash"`
			PeerID   string `json:"peer_id"`
			Offers   []struct {
				Offer   struct{ Type, SDP string }
				OfferID string `json:"offer_id"`
			}
		}
		if err := json.Unmarshal(payload, &m); err != nil {
			t.Fatalf("payload: %v: %q", err, payload)
		}
		if hash := flood.InfoHash(7); m.InfoHash != latin1(hash[:]) || m.PeerID != wsPeerID(c.peer) || len(m.PeerID) != 20 {
			t.Errorf("announce: got %q of %q", m.InfoHash, m.PeerID)
		}
		if len(m.Offers) != wsOffers {
			t.Errorf("offers: got %d, want %d", len(m.Offers), wsOffers)
		}
		for _, o := range m.Offers {
			if n := len(o.Offer.SDP); n < 1000 || n > 3000 || !strings.HasSuffix(o.Offer.SDP, "\r\n") {
				t.Errorf("session description of %d bytes: %q", n, o.Offer.SDP)
			}
			if n := utf8.RuneCountInString(o.OfferID); n != 20 || seen[o.OfferID] {
				t.Errorf("offer_id of %d characters, seen before %t: %q", n, seen[o.OfferID], o.OfferID)
			}
			if c.peer == 0 {
				seen[o.OfferID] = true // peers' offers may have one name: they are told apart by the peer
			}
		}
	}
}

// However a server's bytes are cut, the same frames are counted.
func TestWSClientCountsFrames(t *testing.T) {
	t.Parallel()
	var stream []byte
	add := func(op ws.OpCode, payload string) {
		h := ws.Header{Fin: true, OpCode: op, Length: int64(len(payload))}
		var b strings.Builder
		if err := ws.WriteHeader(&b, h); err != nil {
			t.Fatal(err)
		}
		stream = append(append(stream, b.String()...), payload...)
	}
	offer := string(wsOffer) + `{"type":"offer","sdp":"` + strings.Repeat("x", 2000) + `"}}`
	add(ws.OpText, `{"action":"announce","interval":120,"info_hash":"x"}`)
	add(ws.OpText, offer)
	add(ws.OpPing, "")
	add(ws.OpText, `{"complete":0,"incomplete":10,"action":"announce","interval":120,"info_hash":"x"}`)
	add(ws.OpText, offer)
	for size := 1; size < 200; size++ {
		var c wsClient
		var k wsConn
		replies := 0
		for rest := stream; len(rest) > 0; {
			n := min(size, len(rest))
			b := append(append([]byte(nil), k.kept[:k.held]...), rest[:n]...)
			got, err := c.frame(&k, b)
			if err != nil {
				t.Fatalf("%d bytes at a time: %v", size, err)
			}
			replies += got
			rest = rest[n:]
		}
		if replies != 2 || c.Delivered != 2 {
			t.Errorf("%d bytes at a time: got %d replies, %d offers, want 2 and 2", size, replies, c.Delivered)
		}
	}
	var c wsClient
	if _, err := c.frame(new(wsConn), append([]byte{0x81, 60}, strings.Repeat(`{"failure reason":"no"}`, 3)...)); err == nil {
		t.Error("a failure: got no error")
	}
}
