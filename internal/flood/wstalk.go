package flood

import (
	"bytes"

	"golang.org/x/sys/unix"
)

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
		n, errno := recv(p.fd, e.scratch[had:])
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
		_, _ = send(fd, t.answerPing(f.payload)) // a tracker closes on who is silent for long
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
