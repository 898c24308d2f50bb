package flood

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/gobwas/ws"
)

// A message is JSON that a WebTorrent tracker understands, whoever's it is and whichever of theirs.
func TestAnnouncesOnWebSockets(t *testing.T) {
	t.Parallel()
	for _, offers := range []int{0, 5, maxOffers} {
		m := newAnnounce(7, offers)
		seen := map[string]bool{}
		for _, c := range []struct{ peer, turn uint32 }{{0, 0}, {0, 1}, {1<<32 - 1, 1 << 31}} {
			header, payload, err := readFrame(bytes.NewReader(m.of(c.peer, c.turn)))
			if err != nil || !header.Masked || !header.Fin || header.OpCode != ws.OpText {
				t.Fatalf("frame: %v, %+v", err, header)
			}
			ws.Cipher(payload, header.Mask, 0)
			var got struct {
				Action   string
				InfoHash string `json:"info_hash"`
				PeerID   string `json:"peer_id"`
				Offers   []struct {
					Offer   struct{ Type, SDP string }
					OfferID string `json:"offer_id"`
				}
			}
			if err := json.Unmarshal(payload, &got); err != nil {
				t.Fatalf("%v: %q", err, payload)
			}
			if got.Action != "announce" || utf8.RuneCountInString(got.InfoHash) != 20 || len(got.PeerID) != 20 || len(got.Offers) != offers {
				t.Errorf("announce: %+v", got)
			}
			for _, o := range got.Offers {
				if n := len(o.Offer.SDP); n < offerBytes-220 || n > offerBytes || !strings.HasSuffix(o.Offer.SDP, "\r\n") {
					t.Errorf("session description of %d bytes", n)
				}
				if len(o.OfferID) != 20 || seen[o.OfferID] {
					t.Errorf("offer_id %q: seen before %t", o.OfferID, seen[o.OfferID])
				}
				seen[o.OfferID] = true
			}
		}
	}
	for _, m := range junk() {
		if _, _, err := readFrame(bytes.NewReader(m.of(1, 1))); err != nil {
			t.Errorf("junk is a frame too: %v", err)
		}
	}
}

func readFrame(r io.Reader) (h ws.Header, payload []byte, err error) {
	if h, err = ws.ReadHeader(r); err != nil {
		return h, nil, err
	}
	payload = make([]byte, min(h.Length, 1<<16))
	_, err = io.ReadFull(r, payload)
	return h, payload, err
}

// However a server's bytes are cut, the same frames are counted.
func TestFramesAreCounted(t *testing.T) {
	t.Parallel()
	var stream bytes.Buffer
	sizes := []int{0, 1, 125, 126, 65535, 65536, 70000}
	for _, n := range sizes {
		if err := ws.WriteHeader(&stream, ws.Header{Fin: true, OpCode: ws.OpText, Length: int64(n)}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(&stream, zeros{}, int64(n)); err != nil {
			t.Fatal(err)
		}
	}
	for _, size := range []int{1, 2, 3, 7, 1000, 65536, 1 << 20} {
		var e wsEngine
		var s socket
		for rest := stream.Bytes(); len(rest) > 0; {
			n := min(size, len(rest))
			e.frames(&s, rest[:n])
			rest = rest[n:]
		}
		if e.FramesIn != uint64(len(sizes)) || s.skip != 0 || s.headerLen != 0 {
			t.Errorf("%d bytes at a time: got %d frames, %d bytes left", size, e.FramesIn, s.skip)
		}
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }
