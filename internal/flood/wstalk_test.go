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

	"github.com/gobwas/ws"
)

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
