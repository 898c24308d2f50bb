//go:build linux

package bench

import (
	"encoding/binary"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/gobwas/ws"
)

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
		if hash := InfoHash(7); m.InfoHash != latin1(hash[:]) || m.PeerID != wsPeerID(c.peer) || len(m.PeerID) != 20 {
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
		if replies != 2 || c.delivered != 2 {
			t.Errorf("%d bytes at a time: got %d replies, %d offers, want 2 and 2", size, replies, c.delivered)
		}
	}
	var c wsClient
	if _, err := c.frame(new(wsConn), append([]byte{0x81, 60}, strings.Repeat(`{"failure reason":"no"}`, 3)...)); err == nil {
		t.Error("a failure: got no error")
	}
}
