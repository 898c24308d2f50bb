package wsserver

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"spillway/tracker/swarm"
)

// everyByte is the 256 bytes in runs of 20, the last run padded: all that a hash or id can have in it.
func everyByte() (runs [13][20]byte) {
	for i := range 256 {
		runs[i/20][i%20] = byte(i)
	}
	return runs
}

func TestLatin1KeepsEveryByte(t *testing.T) {
	t.Parallel()
	for _, want := range everyByte() {
		ours := appendLatin1(nil, &want)
		runes := make([]rune, 20)
		escaped := `"`
		for i, c := range want {
			runes[i] = rune(c)
			escaped += fmt.Sprintf(`\u%04X`, c)
		}
		theirs, err := json.Marshal(string(runes))
		if err != nil {
			t.Fatal(err)
		}
		for _, written := range [][]byte{ours, theirs, []byte(escaped + `"`)} {
			var got [20]byte
			if !parseLatin1(written, &got) || got != want {
				t.Errorf("parse %s: got %x, want %x", written, got, want)
			}
		}
		var decoded string
		if err := json.Unmarshal(ours, &decoded); err != nil || decoded != string(runes) {
			t.Errorf("appendLatin1 %x: got %s, which encoding/json reads as %q (%v)", want, ours, decoded, err)
		}
	}
}

func TestLatin1Refuses(t *testing.T) {
	t.Parallel()
	x := strings.Repeat("x", 19)
	for _, bad := range []string{``, `""`, `"` + x + `"`, `"` + x + `yz"`, `"` + x + `Ā"`, `"` + x + `\u0100"`, `"` + x + `\ud800"`, `12345678901234567890ab`, `null`} {
		var got [20]byte
		if parseLatin1([]byte(bad), &got) {
			t.Errorf("parse %s: got %x, want a refusal", bad, got)
		}
	}
}

const (
	hashText = `"aaaaaaaaaaaaaaaaaaaa"`
	peerText = `"-WW0001-aaaaaaaaaaaa"`
)

// TestClientsMessages has one message of each client, as it writes them.
func TestClientsMessages(t *testing.T) {
	t.Parallel()
	ids := `"info_hash":` + hashText + `,"peer_id":` + peerText
	for _, c := range []struct {
		name, in string
		want     func(m *message) bool
	}{
		{"webtorrent magnet", `{"numwant":5,"uploaded":0,"downloaded":0,"left":null,"event":"started","action":"announce",` + ids +
			`,"offers":[{"offer":{"type":"offer","sdp":"v=0\r\n"},"offer_id":"01234567890123456789"}]}`,
			func(m *message) bool {
				return !m.seeder && m.event == swarm.EventStarted && len(m.offers) == 1 && m.numWant == 5 &&
					string(m.offers[0].description) == `{"type":"offer","sdp":"v=0\r\n"}`
			}},
		{"webtorrent seeder", `{"action":"announce",` + ids + `,"left":0,"event":"completed","offers":[]}`,
			func(m *message) bool { return m.seeder && m.event == swarm.EventCompleted && m.isOffers }},
		{"anacrolix", `{"action":"announce","numwant":1,"uploaded":0,"downloaded":0,"left":-1,"event":"started",` + ids + `,"offers":[{"offer_id":"x","offer":{"type":"offer","sdp":""}}]}`,
			func(m *message) bool { return !m.seeder && len(m.offers) == 1 }},
		{"libtorrent", `{"action":"announce",` + ids + `,"uploaded":0,"downloaded":0,"left":16384,"corrupt":0,"numwant":10,"key":"DEADBEEF","event":"paused","offers":[]}`,
			func(m *message) bool { return !m.seeder && m.event == swarm.EventPaused && m.numWant == 10 }},
		{"trystero", `{"action":"announce",` + ids + `,"numwant":3,"offers":[{"offer_id":"a","offer":{"type":"offer","sdp":"s"}},{"offer_id":"b","offer":{"type":"offer","sdp":"s"}},{"offer_id":"c","offer":{"type":"offer","sdp":"s"}}]}`,
			func(m *message) bool { return !m.seeder && len(m.offers) == 3 && m.event == swarm.EventNone }},
		{"trystero passive", `{"action":"announce",` + ids + `,"left":0,"offers":[]}`, func(m *message) bool { return m.seeder }},
		{"answer", `{"action":"announce",` + ids + `,"to_peer_id":` + peerText + `,"answer":{"type":"answer","sdp":"s"},"offer_id":"a"}`,
			func(m *message) bool {
				return string(m.answer) == `{"type":"answer","sdp":"s"}` && m.hasToPeerID && string(m.offerID) == `"a"`
			}},
		{"null among offers", `{"action":"announce",` + ids + `,"offers":[null,1,[],{},{"offer":null,"offer_id":"a"},{"offer":{},"offer_id":2},{"offer":{},"offer_id":"b"}]}`,
			func(m *message) bool { return len(m.offers) == 1 && string(m.offers[0].id) == `"b"` }},
		{"offers no array", `{"action":"announce",` + ids + `,"offers":{"0":{"offer":{},"offer_id":"b"}}}`,
			func(m *message) bool { return len(m.offers) == 0 && !m.isOffers }},
		{"ten thousand offers", `{"action":"announce",` + ids + `,"offers":[` + strings.Repeat(`{"offer":{},"offer_id":"b"},`, 9999) + `{"offer":{},"offer_id":"b"}]}`,
			func(m *message) bool { return len(m.offers) == 20 && m.surplus == 9980 }},
		{"scrape of several", `{"action":"scrape","info_hash":[` + hashText + `,7,"short",` + hashText + `]}`,
			func(m *message) bool {
				n := 0
				m.eachHash(74, func(*swarm.InfoHash) { n++ })
				return m.action == actionScrape && m.hashCount == 4 && n == 2
			}},
		{"last one counts", `{"action":"scrape","action":"announce","offers":[{"offer":{},"offer_id":"b"}],"offers":null,` + ids + `}`,
			func(m *message) bool { return m.action == actionAnnounce && len(m.offers) == 0 && m.hasInfoHash }},
		{"escaped key", `{"\u0061ction":"ann\u006funce",` + ids + `}`, func(m *message) bool { return m.action == actionAnnounce }},
	} {
		var m message
		if err := parseMessage([]byte(c.in), &m, 20); err != nil {
			t.Errorf("%s: %v", c.name, err)
		} else if !m.hasPeerID && m.action == actionAnnounce || !c.want(&m) {
			t.Errorf("%s: got %+v", c.name, m)
		}
	}
}

func TestLeft(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]bool{
		`0`: true, `0.0`: true, `-0`: true, `0e7`: true, `1`: false, `-1`: false, `0.5`: false, `10`: false,
		`null`: false, `"0"`: false, `[]`: false, `false`: false, `9223372036854775807`: false,
	} {
		var m message
		if err := parseMessage([]byte(`{"left":`+in+`}`), &m, 1); err != nil || m.seeder != want {
			t.Errorf("left %s: got seeder %t (%v), want %t", in, m.seeder, err, want)
		}
	}
}

func TestNotJSON(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{
		``, ` `, `null`, `[]`, `{`, `{}}`, `{"a"}`, `{"a":}`, `{"a":1,}`, `{a:1}`, `{"a":01}`, `{"a":1.}`, `{"a":+1}`, `{"a":.5}`, `{"a":1e}`,
		`{"info_hash":["\u00`, `{"a":"\x"}`, `{"a":"\u12g4"}`, "{\"a\":\"\n\"}", `{"a":"`, `{"a":"\`, `{"a":"\u00`, `{"a":tru}`, `{"a":[1,]}`, "{\"a\":\"\xff\"}",
		strings.Repeat(`{"a":`, 100) + `1` + strings.Repeat(`}`, 100),
	} {
		var m message
		if err := parseMessage([]byte(bad), &m, 1); err == nil {
			t.Errorf("parse %q: got no error", bad)
		}
	}
}

// FuzzMessage compares with encoding/json: what is JSON, and what it says.
func FuzzMessage(f *testing.F) {
	f.Add([]byte(`{"action":"announce","info_hash":` + hashText + `,"peer_id":` + peerText + `,"left":0,"event":"started","numwant":5,"offers":[{"offer":{"type":"offer","sdp":"a\r\n"},"offer_id":"\u0000x"},null]}`))
	f.Add([]byte(`{"action":"scrape","info_hash":["\u00ffaaaaaaaaaaaaaaaaaaa","ÿaaaaaaaaaaaaaaaaaaa"]}`))
	f.Add([]byte(` { "a" : [ -0.5e+7 , true , false , null , { } ] } `))
	f.Add([]byte(`{"answer":{"sdp":"\ud800"},"to_peer_id":"\\\"\/\b\f\n\r\t234567890123","offer_id":""}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var m message
		err := parseMessage(b, &m, 3)
		var fields map[string]json.RawMessage
		jsonErr := json.Unmarshal(b, &fields)
		if jsonErr == nil && fields == nil {
			return // null
		}
		valid := jsonErr == nil && utf8.Valid(b)
		if err == nil && !valid {
			t.Fatalf("parse %q: taken, but encoding/json says %v", b, jsonErr)
		}
		if err != nil && valid && depth(b) < maxDepth {
			t.Fatalf("parse %q: refused, but it is JSON", b)
		}
		if err != nil {
			return
		}
		same := func(name string, span []byte, kind byte) {
			raw := fields[name]
			if len(raw) == 0 || raw[0] != kind {
				if len(span) > 0 && span[0] == kind {
					t.Errorf("%s: got %s, want none", name, span)
				}
				return
			}
			if name == "offer_id" && len(raw) > maxOfferID {
				return
			}
			if !bytes.Equal(span, raw) {
				t.Errorf("%s: got %s, want %s", name, span, raw)
			}
		}
		same("info_hash", m.infoHashRaw, '"')
		same("peer_id", m.peerIDRaw, '"')
		same("to_peer_id", m.toPeerIDRaw, '"')
		same("answer", m.answer, '{')
		same("offer_id", m.offerID, '"')
		var text string
		if json.Unmarshal(fields["peer_id"], &text) == nil && !strings.ContainsRune(text, utf8.RuneError) {
			var want []byte
			ok := utf8.RuneCountInString(text) == 20
			for _, r := range text {
				ok = ok && r <= 0xff
				want = append(want, byte(r))
			}
			if ok != m.hasPeerID || ok && string(m.peerID[:]) != string(want) {
				t.Errorf("peer_id %s: got %x (%t), want %x (%t)", fields["peer_id"], m.peerID, m.hasPeerID, want, ok)
			}
		}
		var offers []any
		if json.Unmarshal(fields["offers"], &offers) == nil && len(m.offers)+m.surplus > len(offers) {
			t.Errorf("offers: got %d, want at most %d", len(m.offers), len(offers))
		}
		for _, o := range m.offers {
			if !json.Valid(o.description) || !json.Valid(o.id) {
				t.Errorf("offer: got %s and %s, want JSON", o.description, o.id)
			}
			relayed := appendRelayed(nil, "offer", o.description, o.id, []byte(peerText), []byte(hashText))
			if !json.Valid(relayed) {
				t.Errorf("relayed offer: got %s, want JSON", relayed)
			}
		}
	})
}

// depth is how deep b is nested; b is JSON.
func depth(b []byte) (deepest int) {
	d := json.NewDecoder(bytes.NewReader(b))
	now := 0
	for {
		tok, err := d.Token()
		if err != nil {
			return deepest
		}
		switch tok {
		case json.Delim('{'), json.Delim('['):
			now++
			deepest = max(deepest, now)
		case json.Delim('}'), json.Delim(']'):
			now--
		}
	}
}

func TestRepliesAreJSON(t *testing.T) {
	t.Parallel()
	counts := swarm.Counts{Complete: 1, Incomplete: 2, Downloaded: 3}
	var odd swarm.InfoHash
	copy(odd[:], "\x00\"\\\n\x7f\x80\xff")
	for _, c := range []struct{ got, want string }{
		{string(appendAnnounce(nil, []byte(hashText), &counts, 120)),
			`{"action":"announce","interval":120,"info_hash":` + hashText + `,"complete":1,"incomplete":2}`},
		{string(appendRefusal(nil, []byte(hashText), "unregistered torrent", 5400)),
			`{"action":"announce","interval":5400,"info_hash":` + hashText + `,"complete":0,"incomplete":0,"warning message":"unregistered torrent"}`},
		{string(appendFailure(nil, nil, actionNone, "why")), `{"action":"announce","failure reason":"why"}`},
		{string(appendFailure(nil, []byte(hashText), actionScrape, "why")), `{"action":"scrape","failure reason":"why","info_hash":` + hashText + `}`},
		{string(appendScrape(nil, []swarm.InfoHash{odd, {}}, []swarm.Counts{counts, {}}, 120)),
			`{"action":"scrape","files":{"\u0000\u0022\u005c\u000a` + "\x7f\u0080\u00ff" + strings.Repeat(`\u0000`, 13) +
				`":{"complete":1,"incomplete":2,"downloaded":3},"` + strings.Repeat(`\u0000`, 20) +
				`":{"complete":0,"incomplete":0,"downloaded":0}},"flags":{"min_request_interval":120}}`},
	} {
		if c.got != c.want {
			t.Errorf("got  %s\nwant %s", c.got, c.want)
		}
		if !json.Valid([]byte(c.got)) {
			t.Errorf("not JSON: %s", c.got)
		}
	}
}
