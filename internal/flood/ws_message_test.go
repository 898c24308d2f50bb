package flood

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"
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

func serverFrame(text string) []byte {
	b, err := ws.CompileFrame(ws.NewTextFrame([]byte(text)))
	if err != nil {
		panic(err)
	}
	return b
}

const (
	wsReply    = `{"action":"announce","interval":120,"info_hash":"x","complete":1,"incomplete":2}`
	wsRefusal  = `{"action":"announce","interval":120,"info_hash":"x","complete":0,"incomplete":0,"warning message":"not now"}`
	wsFailure  = `{"action":"announce","failure reason":"what?"}`
	wsRelayed  = `{"action":"announce","offer":{"type":"offer","sdp":"\"interval\":1 \"warning message\""},"offer_id":"1","peer_id":"2","info_hash":"3"}`
	wsNonsense = `{"action":"announce"}`
)

// Each kind of answer on a WebSocket is counted as what it is, whatever else comes on it, in whatever pieces.
func TestWSAnnounces(t *testing.T) {
	t.Parallel()
	const n = 60
	text := func(s string) func(net.Conn) { return func(c net.Conn) { _, _ = c.Write(serverFrame(s)) } }
	for _, c := range []struct {
		name   string
		answer func(net.Conn)
		count  func(Side) uint64
	}{
		{"good", text(wsReply), func(s Side) uint64 { return s.Good }},
		{"good, in pieces", func(c net.Conn) {
			for _, b := range serverFrame(wsReply) {
				_, _ = c.Write([]byte{b})
			}
		}, func(s Side) uint64 { return s.Good }},
		{"good, between others' offers and pings", func(c net.Conn) {
			ping, _ := ws.CompileFrame(ws.NewPingFrame([]byte("there?")))
			_, _ = c.Write(bytes.Join([][]byte{serverFrame(wsRelayed), ping, serverFrame(wsReply), serverFrame(wsRelayed)}, nil))
		}, func(s Side) uint64 { return s.Good }},
		{"refused", text(wsRefusal), func(s Side) uint64 { return s.Shed - s.ShedFailure }},
		{"failure", text(wsFailure), func(s Side) uint64 { return s.ShedFailure }},
		{"nonsense", text(wsNonsense), func(s Side) uint64 { return s.Malformed }},
		{"endless", func(c net.Conn) { _, _ = c.Write(append([]byte{0x81, 126, 0xff, 0xff}, make([]byte, 60_000)...)) }, func(s Side) uint64 { return s.Malformed }},
		{"closed", func(c net.Conn) { _ = c.Close() }, func(s Side) uint64 { return s.Reset }},
		{"a close", func(c net.Conn) {
			b, _ := ws.CompileFrame(ws.NewCloseFrame(ws.NewCloseFrameBody(1013, "full")))
			_, _ = c.Write(b)
		}, func(s Side) uint64 { return s.Reset }},
		{"silent", func(net.Conn) {}, func(s Side) uint64 { return s.Timeout }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var pongs, wrong atomic.Int64
			addr := serveConns(t, func(conn net.Conn) {
				u := ws.Upgrader{OnRequest: func(uri []byte) error {
					if string(uri) != "/key" {
						wrong.Add(1)
					}
					return nil
				}}
				if _, err := u.Upgrade(conn); err != nil {
					return
				}
				for {
					h, payload, err := readFrame(conn)
					if err != nil {
						return
					}
					ws.Cipher(payload, h.Mask, 0)
					if h.OpCode == ws.OpPong && string(payload) == "there?" {
						pongs.Add(1)
						continue
					}
					var m struct {
						Action string            `json:"action"`
						PeerID string            `json:"peer_id"`
						Offers []json.RawMessage `json:"offers"`
					}
					if json.Unmarshal(payload, &m) != nil || m.Action != "announce" || !strings.HasPrefix(m.PeerID, "-WW0205-") || len(m.Offers) != 2 {
						wrong.Add(1)
					}
					c.answer(conn)
				}
			})
			timeout, sockets := time.Minute, n
			if c.name == "silent" {
				timeout = time.Second
			}
			if strings.Contains(c.name, "pings") {
				sockets = n / 2 // when the second of a socket is read, the pong before it has been
			}
			r := mustRun(t, Config{
				Target: addr, Path: "/key", Mode: WSAnnounce, Rate: 10 * n, Conns: sockets, Offers: 2, Torrents: 7, Good: time.Minute, Patience: time.Minute, Timeout: timeout, Threads: 2,
				Profile: Profile{{Duration: 100 * time.Millisecond, Multiple: 1}},
			})
			if s := total(r); s.Offered != n || c.count(s) != n || s.Good+s.Late+s.Shed+s.Failed != n || r.ConnsOpen != sockets {
				t.Errorf("got %s, %d open; want all %d to be %s", s, r.ConnsOpen, n, c.name)
			}
			if wrong.Load() > 0 {
				t.Errorf("%d handshakes or messages are not as they should be", wrong.Load())
			}
			if got := pongs.Load(); strings.Contains(c.name, "pings") && got < n/2 {
				t.Errorf("got %d pongs, want %d or more", got, n/2)
			}
		})
	}
}

// A tracker that takes no WebSockets says so, and so does the error.
func TestWSHandshakesRefused(t *testing.T) {
	t.Parallel()
	addr := serveConns(t, func(c net.Conn) {
		_, _ = c.Read(make([]byte, 4096))
		_, _ = io.WriteString(c, "HTTP/1.1 503 no\r\nContent-Length: 0\r\n\r\n")
	})
	_, err := Run(context.Background(), Config{Target: addr, Mode: WSAnnounce, Rate: 10, Conns: 5})
	if err == nil || !strings.Contains(err.Error(), "none of 5 WebSockets was opened") || !strings.Contains(err.Error(), "status 503") {
		t.Errorf("got %v, want that handshakes are answered with 503", err)
	}
}

// A peer's messages are its own, those of attackers say so, and all stay JSON.
func TestWSTalkRendersAnnounces(t *testing.T) {
	t.Parallel()
	talk := newWSTalk(3, 1)
	for i := range 12 {
		side := uint8(i % 2)
		b := bytes.Clone(talk.announce(i%3, side, uint32(i), uint32(100+i)))
		h, payload, err := readFrame(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		ws.Cipher(payload, h.Mask, 0)
		var m struct {
			PeerID   string `json:"peer_id"`
			InfoHash string `json:"info_hash"`
		}
		if err := json.Unmarshal(payload, &m); err != nil {
			t.Fatal(err)
		}
		hash := InfoHash(i % 3)
		var got []byte
		for _, r := range m.InfoHash {
			got = append(got, byte(r))
		}
		if !strings.HasPrefix(m.PeerID, wsPrograms[side]) || len(m.PeerID) != 20 || !bytes.Equal(got, hash[:]) {
			t.Errorf("message %d: %q of %x", i, m.PeerID, got)
		}
	}
}

// Whatever comes, a frame is within the bytes that came, and is what an independent reader says.
func FuzzServerFrame(f *testing.F) {
	f.Add(serverFrame(wsReply))
	f.Add([]byte{0x81, 126, 0, 3, 'a', 'b', 'c'})
	f.Add([]byte{0x89, 127, 0xff, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{0x81, 0x80})
	f.Fuzz(func(t *testing.T, b []byte) {
		fr, ok := parseFrame(b)
		if !ok {
			return
		}
		if fr.size < 2 || fr.size > len(b) || len(fr.payload) > fr.size-2 {
			t.Fatalf("%x: %d bytes, %d of payload", b, fr.size, len(fr.payload))
		}
		if fr.masked {
			return
		}
		h, err := ws.ReadHeader(bytes.NewReader(b))
		if err == nil && (int(h.Length) != len(fr.payload) || h.OpCode != ws.OpCode(fr.head&0xf)) {
			t.Fatalf("%x: got %d bytes of %x, want %d of %x", b, len(fr.payload), fr.head, h.Length, h.OpCode)
		}
		classifyMessage(fr.payload)
	})
}
