package flood

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"

	"golang.org/x/sys/unix"

	"spillway/internal/sys"
)

// maxOffers is what trackers relay of one announce at most.
const maxOffers = 20

// offerBytes is a session description of Chromium's with a dozen candidates.
const offerBytes = 2 << 10

// wsMask is not zero: for a zero mask some servers skip the work that browsers give them.
var wsMask = [4]byte{0x37, 0xfa, 0x21, 0x3d}

// wsMessage is a frame rendered and masked once, in which the peer id and the offers' names are changed in place.
type wsMessage struct {
	bytes    []byte
	header   int
	peerAt   int   // of the digits of the peer id; 0: it has none
	offersAt []int // of the digits of each offer's name
}

const wsDigits = 8

// newAnnounce is written as bittorrent-tracker's client does (lib/client/websocket-tracker.js).
func newAnnounce(torrent, offers int) *wsMessage {
	rnd := rand.New(rand.NewPCG(uint64(torrent), uint64(offers)))
	hash := InfoHash(torrent)
	var m wsMessage
	b := fmt.Appendf(nil, `{"numwant":%d,"uploaded":0,"downloaded":0,"left":1048576,"action":"announce","info_hash":`, offers)
	b = appendLatin1(b, hash[:])
	b = append(b, `,"peer_id":"-WW0205-abcd`...)
	m.peerAt = len(b)
	b = append(b, `00000000"`...)
	if offers > 0 {
		b = append(b, `,"offers":[`...)
		for i := range offers {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(b, `{"offer":{"type":"offer","sdp":`...)
			b = appendJSON(b, sessionDescription(rnd))
			b = fmt.Appendf(b, `},"offer_id":"offer-%06d`, rnd.IntN(1e6))
			m.offersAt = append(m.offersAt, len(b))
			b = append(b, `00000000"}`...)
		}
		b = append(b, ']')
	}
	m.frame(append(b, '}'))
	return &m
}

// junk is what strangers send: what is not JSON, what is not an announce, what is one of nothing.
func junk() []*wsMessage {
	var all []*wsMessage
	for _, s := range []string{`{"action":"announce"`, `hello`, `{"action":"what"}`, `{"action":"announce","info_hash":"short","peer_id":"short"}`, `[]`} {
		m := new(wsMessage)
		m.frame([]byte(s))
		all = append(all, m)
	}
	return all
}

// frame puts the header before a payload and masks it (RFC 6455, 5.2).
func (m *wsMessage) frame(payload []byte) {
	h := []byte{0x81} // text, whole
	switch n := len(payload); {
	case n < 126:
		h = append(h, 0x80|byte(n))
	case n < 1<<16:
		h = binary.BigEndian.AppendUint16(append(h, 0x80|126), uint16(n))
	default:
		panic("BUG: message too long")
	}
	h = append(h, wsMask[:]...)
	m.header = len(h)
	m.bytes = append(h, payload...)
	for i := range payload {
		m.bytes[m.header+i] ^= wsMask[i&3]
	}
	if m.peerAt > 0 {
		m.peerAt += m.header
	}
	for i := range m.offersAt {
		m.offersAt[i] += m.header
	}
}

// of changes whose message it is, and its offers' names: trackers remember offers, and a flood's are always new. The bytes are the
// message's own.
func (m *wsMessage) of(peer, turn uint32) []byte {
	if m.peerAt > 0 {
		m.digits(m.peerAt, peer)
	}
	for _, at := range m.offersAt {
		m.digits(at, turn)
	}
	return m.bytes
}

// program changes what the peer id begins with.
func (m *wsMessage) program(id string) {
	at := m.peerAt - len("-WW0205-abcd")
	for i := range len(id) {
		m.bytes[at+i] = id[i] ^ wsMask[(at+i-m.header)&3]
	}
}

func (m *wsMessage) digits(at int, v uint32) {
	for i := at + wsDigits - 1; i >= at; i-- {
		m.bytes[i] = (hexDigits[v&15]) ^ wsMask[(i-m.header)&3]
		v >>= 4
	}
}

// appendLatin1 writes bytes as characters U+0000 to U+00FF, which is how WebTorrent writes hashes.
func appendLatin1(dst, b []byte) []byte {
	runes := make([]rune, len(b))
	for i, c := range b {
		runes[i] = rune(c)
	}
	return appendJSON(dst, string(runes))
}

func appendJSON(dst []byte, s string) []byte {
	quoted, err := json.Marshal(s)
	if err != nil {
		panic("BUG: a string is not JSON: " + err.Error())
	}
	return append(dst, quoted...)
}

func sessionDescription(rnd *rand.Rand) string {
	var b strings.Builder
	fmt.Fprintf(&b, "v=0\r\no=- %d 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\na=msid-semantic: WMS\r\n"+
		"m=application 53421 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 203.0.113.7\r\n", rnd.Uint64()>>1)
	b.WriteString("a=ice-ufrag:x4Kk\r\na=ice-pwd:0mD4Kx0mD4Kx0mD4Kx0mD4Kx\r\na=setup:actpass\r\na=mid:0\r\na=sctp-port:5000\r\n")
	for i := 0; b.Len() < offerBytes-110; i++ {
		fmt.Fprintf(&b, "a=candidate:%d 1 udp %d 192.168.%d.%d %d typ host generation 0 network-id %d network-cost 10\r\n",
			rnd.Uint32(), 2122260223-i, rnd.IntN(256), rnd.IntN(256), 1024+rnd.IntN(60000), i+1)
	}
	return b.String()
}

// wsTalk is what is said on WebSockets where each announce's reply is waited for: a message for each torrent.
type wsTalk struct {
	messages []*wsMessage
	pong     [6 + 125]byte
}

func newWSTalk(torrents, offers int) *wsTalk {
	t := new(wsTalk)
	for i := range torrents {
		t.messages = append(t.messages, newAnnounce(i, offers))
	}
	return t
}

// announce is the message of a peer, of whom turn is new each time. The bytes hold until the next one.
func (t *wsTalk) announce(torrent int, side uint8, peer, turn uint32) []byte {
	m := t.messages[torrent]
	m.program(wsPrograms[side])
	return m.of(peer, turn)
}

// wsPrograms are the beginnings of peer ids.
var wsPrograms = [sides]string{"-WW0205-", "-FL0001-"}

// readMessages is readable of a WebSocket: the answer to its handshake, then frames, which may begin and end anywhere.
func (e *httpEngine) readMessages(i int32, ended bool, now int64) {
	p := &e.places[i]
	own := e.partial[int(i)*partialBytes : int(i+1)*partialBytes]
	for {
		had := copy(e.scratch, own[:p.got])
		n, errno := sys.Recv(p.fd, e.scratch[had:])
		switch {
		case errno == unix.EAGAIN:
			return
		case errno != 0 || n == 0:
			e.dialErr = errno
			e.fail(i, reset, now)
			return
		}
		data := e.scratch[:had+n]
		if p.state == upgrading {
			switch classifyUpgrade(data, false) {
			case pending:
			case good:
				data = data[bytes.Index(data, endOfHead)+len(endOfHead):]
				e.settled(i)
			default:
				e.upgradeStatus, _ = parseStatus(data)
				e.fail(i, reset, now)
				return
			}
		}
		for p.state >= idle {
			f, ok := parseFrame(data)
			if !ok {
				break
			}
			data = data[f.size:]
			if o := e.talk.hear(p.fd, f); o == malformed || o == reset {
				e.fail(i, o, now)
				return
			} else if o != pending && p.state == asked {
				e.finish(i, o, now)
			}
		}
		if len(data) > len(own) {
			e.fail(i, malformed, now)
			return
		}
		p.got = int32(copy(own, data))
		if !ended && had+n < len(e.scratch) {
			return
		}
	}
}

// frame is one of a server's (RFC 6455, 5.2).
type frame struct {
	head    byte // the first byte: final, and what it is
	masked  bool // which a server's must not be
	payload []byte
	size    int // with its header
}

// Frames' first bytes, all of them final.
const (
	frameText  = 0x81
	frameClose = 0x88
	framePing  = 0x89
	framePong  = 0x8a
)

// parseFrame reads the first frame of b; ok is false if it is not whole.
func parseFrame(b []byte) (f frame, ok bool) {
	if len(b) < 2 {
		return frame{}, false
	}
	header := 2
	switch b[1] & 0x7f {
	case 126:
		header += 2
	case 127:
		header += 8
	}
	if len(b) < header {
		return frame{}, false
	}
	length, _ := frameLength(b[:header])
	if length > int64(len(b)-header) {
		return frame{}, false
	}
	size := header + int(length)
	return frame{head: b[0], masked: b[1]&0x80 != 0, payload: b[header:size], size: size}, true
}

var (
	offerIDKey     = []byte(`"offer_id"`)
	failureKey     = []byte(`"failure reason"`)
	warningKey     = []byte(`"warning message"`)
	intervalKey    = []byte(`"interval"`)
	announceAction = []byte(`"announce"`)
)

// hear judges a frame: pending is what is no reply, such as another peer's offer.
func (t *wsTalk) hear(fd int32, f frame) outcome {
	switch {
	case f.masked:
		return malformed
	case f.head == framePing && len(f.payload) <= 125:
		_, _ = sys.Send(fd, t.answerPing(f.payload)) // a tracker closes on who is silent for long
		return pending
	case f.head == framePong:
		return pending
	case f.head == frameClose:
		return reset
	case f.head != frameText:
		return malformed // trackers' messages are text, and whole
	}
	return classifyMessage(f.payload)
}

// classifyMessage judges a text. The keys are looked for in quotes, which stand in no string of JSON.
func classifyMessage(b []byte) outcome {
	switch {
	case bytes.Contains(b, offerIDKey):
		return pending // another peer's offer or answer
	case bytes.Contains(b, failureKey):
		return shedFailure
	case !bytes.Contains(b, announceAction) || len(b) < 2 || b[0] != '{' || b[len(b)-1] != '}':
		return malformed
	case bytes.Contains(b, warningKey):
		return shed // answered, and not obeyed
	case bytes.Contains(b, intervalKey):
		return good
	}
	return malformed
}

// answerPing renders the pong, masked as all that a client says.
func (t *wsTalk) answerPing(payload []byte) []byte {
	b := append(t.pong[:0], framePong, 0x80|byte(len(payload)))
	b = append(b, wsMask[:]...)
	for i, c := range payload {
		b = append(b, c^wsMask[i&3])
	}
	return b
}
