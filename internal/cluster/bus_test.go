package cluster

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
)

func newNode(t testing.TB, cfg Config) *Node {
	t.Helper()
	n, err := New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// What is packed is unpacked, of each node in the order in which it was sent, in payloads of a bounded size.
func TestPack(t *testing.T) {
	t.Parallel()
	n := newNode(t, Config{})
	n.up.Store(true)
	sent := map[ID][]string{}
	for i := range 500 {
		to := ID{byte(i % 3)}
		message := strings.Repeat(fmt.Sprint(i, ";"), 1+i*7%600)
		if !n.Send(to, []byte(message)) {
			t.Fatalf("message %d of %d bytes: not taken", i, len(message))
		}
		sent[to] = append(sent[to], message)
	}
	got := map[ID][]string{}
	for _, p := range pack(n.out.buf) {
		if len(p.bytes) > maxPayload+4 {
			t.Errorf("payload: got %d bytes, want %d at most", len(p.bytes), maxPayload)
		}
		messages := uint64(0)
		if !unpack(p.bytes, n.cfg.MaxMessage, func(m []byte) {
			got[p.to] = append(got[p.to], string(m))
			messages++
		}) {
			t.Error("payload: not readable")
		}
		if messages != p.messages {
			t.Errorf("messages of a payload: got %d, want %d", messages, p.messages)
		}
	}
	for to := range sent {
		if !slices.Equal(got[to], sent[to]) {
			t.Errorf("node %v: got %d messages, want %d as they were sent", to, len(got[to]), len(sent[to]))
		}
	}
}

// A queue that nobody empties takes no more than its bound, counts the rest, and holds nobody up.
func TestSendIsBounded(t *testing.T) {
	t.Parallel()
	n := newNode(t, Config{MaxMessage: 1000})
	if n.Send(ID{1}, []byte("x")) || n.metrics.dropped[dropDown].Load() != 1 {
		t.Error("a message while Redis is down: taken, or not counted")
	}
	n.up.Store(true)
	if n.Send(ID{1}, make([]byte, 1001)) || n.Send(ID{1}, nil) || n.metrics.dropped[dropLong].Load() != 2 {
		t.Error("a message that is too long, and none: taken, or not counted")
	}
	var senders sync.WaitGroup
	for range 4 {
		senders.Go(func() {
			for range 4000 {
				n.Send(ID{1}, make([]byte, 1000))
			}
		})
	}
	senders.Wait()
	if got := n.out.waiting(); got > maxQueue || got < maxQueue-2000 {
		t.Errorf("bytes that wait: got %d, want just below %d", got, maxQueue)
	}
	want := uint64(16000 - n.out.waiting()/(1000+outHeader))
	if got := n.metrics.dropped[dropQueue].Load(); got != want {
		t.Errorf("dropped: got %d, want %d", got, want)
	}
}

// What comes in faster than it is handled is dropped, and counted.
func TestInboxIsBounded(t *testing.T) {
	t.Parallel()
	n := newNode(t, Config{})
	for range maxInboxLen + 10 {
		n.take("x")
	}
	if got := n.metrics.dropped[dropInbox].Load(); got != 10 {
		t.Errorf("short payloads dropped: got %d, want 10", got)
	}
	n = newNode(t, Config{})
	for range 20 {
		n.take(strings.Repeat("x", 1<<20))
	}
	if got := n.metrics.dropped[dropInbox].Load(); got != 20-maxInbox>>20 {
		t.Errorf("long payloads dropped: got %d, want %d", got, 20-maxInbox>>20)
	}
}

func TestUnpackRefuses(t *testing.T) {
	t.Parallel()
	one := []byte{payloadVersion, 1, 0, 0, 0, 'x'}
	for name, b := range map[string][]byte{
		"empty": {}, "another version": {2, 1, 0, 0, 0, 'x'}, "half a length": {1, 1, 0}, "cut short": {1, 2, 0, 0, 0, 'x'},
		"no message": {1, 0, 0, 0, 0}, "endless": {1, 255, 255, 255, 255, 'x'}, "one and a half": append(slices.Clone(one), 1),
		"too long": append([]byte{1, 101, 0, 0, 0}, make([]byte, 101)...),
	} {
		if unpack(b, 100, func([]byte) {}) {
			t.Errorf("%s: got true, want false", name)
		}
	}
	if !unpack(one, 100, func([]byte) {}) {
		t.Error("one message: got false, want true")
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add([]byte{payloadVersion, 1, 0, 0, 0, 'x'})
	f.Add([]byte{payloadVersion})
	f.Add([]byte{payloadVersion, 3, 0, 0, 0, 'x', 'y', 'z', 1, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		again := []byte{payloadVersion}
		if unpack(b, 64, func(m []byte) {
			if len(m) == 0 || len(m) > 64 || cap(m) != len(m) {
				t.Fatalf("message: got %d bytes, capacity %d", len(m), cap(m))
			}
			again = append(binary.LittleEndian.AppendUint32(again, uint32(len(m))), m...)
		}) && !bytes.Equal(again, b) {
			t.Errorf("got %x, want %x", again, b)
		}
	})
}

func FuzzParseEntry(f *testing.F) {
	f.Add("1764000000000000 0 0 {}")
	f.Add("1 2 3 ")
	f.Fuzz(func(t *testing.T, value string) {
		e, ok := parseEntry(value)
		if !ok {
			return
		}
		again, ok := parseEntry(fmt.Sprintf("%d %d %d %s", e.At, e.Until, e.Gone, e.Text))
		if !ok || again != e {
			t.Errorf("got %+v, want %+v", again, e)
		}
	})
}

// What a beat or the news say is believed only if it makes sense.
func TestParseReplies(t *testing.T) {
	t.Parallel()
	good := []any{"1764000000000000", "life", "12", []any{"abcd", "1 {}", "abce", "0 ", "too long", "1 ", "abcf", "1"}}
	r, err := parseBeat(good)
	if err != nil || r.nowUs != 1764000000000000 || r.lastSeq != 12 || len(r.peers) != 2 || !r.peers[0].listening || r.peers[1].listening {
		t.Errorf("beat: got %+v, %v", r, err)
	}
	for i, bad := range [][]any{{}, {"x", "life", "1", []any{}}, {"1", "", "1", []any{}}, {"1", "life", 1.5, []any{}}, {"1", "life", "1", "x"}, {"1", "life", "1", []any{"abcd"}}} {
		if _, err := parseBeat(bad); err == nil {
			t.Errorf("bad beat %d: no error", i)
		}
	}
	news, err := parseNews([]any{"switch ws", "5", "1 2 3 text here", "block x", "6", "1 2 x text", "", "7", "1 0 0 x"})
	if err != nil || len(news) != 3 || news[0].Text != "text here" || news[0].Gone != 3 || news[0].seq != 5 || news[1].What != "" || news[2].What != "" {
		t.Errorf("news: got %+v, %v", news, err)
	}
	if _, err := parseNews([]any{"a", "b"}); err == nil {
		t.Error("news of two parts: no error")
	}
}
