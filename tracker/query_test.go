package tracker

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"spillway/tracker/swarm"
)

// hash20 is an info hash, and a peer id, that needs no escaping.
const hash20 = "aaaaaaaaaaaaaaaaaaaa"

func TestInfoHashAsClientsEscapeIt(t *testing.T) {
	t.Parallel()
	f := func(value string, want string, wantErr error) {
		t.Helper()
		var p announceParams
		err := parseAnnounce([]byte("info_hash="+value+"&peer_id="+hash20), &p)
		if !errors.Is(err, wantErr) || err == nil && string(p.infoHash[:]) != want {
			t.Errorf("info_hash=%s: got %q, error %v; want %q, error %v", value, p.infoHash, err, want, wantErr)
		}
		// peer_id is read in the same way, with messages of its own.
		err = parseAnnounce([]byte("info_hash="+hash20+"&peer_id="+value), &p)
		if wantErr == errInfoHash {
			wantErr = errPeerID
		}
		if !errors.Is(err, wantErr) || err == nil && string(p.peerID[:]) != want {
			t.Errorf("peer_id=%s: got %q, error %v; want %q, error %v", value, p.peerID, err, want, wantErr)
		}
	}
	raw := "\x00\x01\x10%+-._~!*'() \x7f\x80\xab\xfe\xff"
	all := func(format string) (s string) {
		for i := range len(raw) {
			s += fmt.Sprintf(format, raw[i])
		}
		return s
	}
	f(all("%%%02X"), raw, nil) // everything escaped, as aria2 does
	f(all("%%%02x"), raw, nil) // uTorrent's lower case
	f("%00%01%10%25%2B-._~!*'()%20%7F%80%aB%Fe%fF", raw, nil)
	f("%00%01%10%25+-._~!*'()%20%7f\x80\xab\xfe\xff", raw, nil) // a plus is a plus; bytes from 0x80 on, as they are
	f(strings.Repeat("+", 20), strings.Repeat("+", 20), nil)
	f(strings.Repeat(";", 20), strings.Repeat(";", 20), nil)
	f(strings.Repeat("=", 20), strings.Repeat("=", 20), nil) // only the first = divides
	f(strings.Repeat("?", 20), strings.Repeat("?", 20), nil)

	f("", "", errInfoHash)
	f(hash20[1:], "", errInfoHash)
	f(hash20+"a", "", errInfoHash)
	f(strings.Repeat("a", 32), "", errInfoHash) // a whole SHA-256: BEP 52 has clients truncate it
	f(strings.Repeat("ab", 20), "", errInfoHash)
	f("%", "", errEscape)
	f("%4", "", errEscape)
	f("%zz", "", errEscape)
	f("%0g"+hash20[1:], "", errEscape)
	f("%%30"+hash20[1:], "", errEscape)
	f(hash20[1:]+"%a", "", errEscape)
	f("%u0041"+hash20, "", errEscape)
	f("%+1"+hash20, "", errEscape)
}

func TestAnnounceParameters(t *testing.T) {
	t.Parallel()
	absent := announceParams{numWant: -1}
	copy(absent.infoHash[:], hash20)
	copy(absent.peerID[:], hash20)
	f := func(params string, set func(*announceParams)) {
		t.Helper()
		want := absent
		set(&want)
		for _, query := range []string{
			"info_hash=" + hash20 + "&peer_id=" + hash20 + "&" + params,
			params + "&peer_id=" + hash20 + "&info_hash=" + hash20, // in any order
			"&&" + params + "&&=&key=0&=x&peer_id=" + hash20 + "&supportcrypto=1&no_peer_id=1&info_hash=" + hash20 + "&",
		} {
			var got announceParams
			if err := parseAnnounce([]byte(query), &got); err != nil {
				t.Errorf("%s: %v", query, err)
			} else if g, w := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want); g != w {
				t.Errorf("%s:\ngot  %s\nwant %s", query, g, w)
			}
		}
	}
	f("", func(p *announceParams) {})

	for _, zero := range []string{"0", "00", "0&left=5"} { // the first of two counts
		f("left="+zero, func(p *announceParams) { p.seeder = true })
	}
	for _, more := range []string{
		"", "1", "-1", "-0", "+0", "0.0", "0x0", "null", "NaN", "abc", "%30", " ", "18446744073709551616", "9223372036854775808",
		strings.Repeat("9", 1000), "1&left=0", "&left=0", "00000000000000000000000001",
	} {
		f("left="+more, func(p *announceParams) {})
	}

	f("event=started", func(p *announceParams) { p.event = swarm.EventStarted })
	f("event=stopped", func(p *announceParams) { p.event = swarm.EventStopped })
	f("event=completed", func(p *announceParams) { p.event = swarm.EventCompleted })
	f("event=paused", func(p *announceParams) { p.event = swarm.EventPaused })
	f("event=paused&event=stopped", func(p *announceParams) { p.event = swarm.EventPaused })
	for _, none := range []string{"", "update", "empty", "none", "STARTED", "started%20", "2", "\x80"} {
		f("event="+none, func(p *announceParams) {})
	}
	f("event", func(p *announceParams) {})

	for in, want := range map[string]int{
		"0": 0, "1": 1, "50": 50, "200": 200, "9999": 9999, "007": 7, "0&numwant=80": 0, "1048576": 1 << 20, "1048577": 1 << 20,
		"99999999999999999999999999": 1 << 20,
		"-1":                         -1, "": -1, "abc": -1, "+5": -1, "5.0": -1, "0x10": -1, "5 ": -1, "null": -1, "-9223372036854775809": -1, "12a": -1,
	} {
		f("numwant="+in, func(p *announceParams) { p.numWant = want })
	}

	for in, want := range map[string]uint16{"1": 1, "6881": 6881, "65535": 65535, "0": 0, "": 0, "06881": 6881, "1&port=2": 1, "&port=2": 2} {
		f("port="+in, func(p *announceParams) { p.port = want })
	}

	f("compact=0", func(p *announceParams) { p.list = true })
	f("compact=0&compact=1", func(p *announceParams) { p.list = true })
	for _, compact := range []string{"1", "", "2", "yes", "00", "1&compact=0"} {
		f("compact="+compact, func(p *announceParams) {})
	}

	// Never looked at, whatever they are.
	f("uploaded=-1&downloaded=18446744073709551616&corrupt=x&redundant=%zz&key=%&trackerid=%q", func(p *announceParams) {})
	// A ";" does not separate: chihaya would see a seeder here.
	f("key=1;left=0;event=stopped", func(p *announceParams) {})
	// Names are case-sensitive and not escaped.
	f("LEFT=0&Event=stopped&%6Ceft=0&left%20=0", func(p *announceParams) {})

	f("ip=1.2.3.4&ipv6=%5B2001::1%5D:6881&ipv4=9.9.9.9:1", func(p *announceParams) {
		p.ips[0], p.ips[1], p.ips[2] = []byte("1.2.3.4"), []byte("%5B2001::1%5D:6881"), []byte("9.9.9.9:1")
		p.ipCount = 3
	})
	f(strings.Repeat("ip=1.1.1.1&", maxIPParams+3), func(p *announceParams) {
		for i := range p.ips {
			p.ips[i] = []byte("1.1.1.1")
		}
		p.ipCount = maxIPParams
	})
}

func TestAnnounceMistakes(t *testing.T) {
	t.Parallel()
	f := func(query string, want error) {
		t.Helper()
		var p announceParams
		if err := parseAnnounce([]byte(query), &p); err != want {
			t.Errorf("%s: got %v, want %v", query, err, want)
		}
	}
	f("", errNoInfoHash)
	f("peer_id="+hash20, errNoInfoHash)
	f("info_hash="+hash20, errNoPeerID)
	f("info_hash", errInfoHash)
	f("info_hash;peer_id="+hash20, errNoInfoHash)
	f("info_hash="+hash20+"&info_hash="+hash20, errManyInfoHashes)
	f("info_hash="+hash20+"&peer_id="+hash20+"&info_hash=x", errManyInfoHashes)
	for _, port := range []string{"65536", "-1", "+1", "6881.0", "abc", "6881%20", "%36881", "99999999999999999999"} {
		f("info_hash="+hash20+"&peer_id="+hash20+"&port="+port, errPort)
	}
	// Of a peer id given twice, the first counts, and the second is not even read.
	f("info_hash="+hash20+"&peer_id="+hash20+"&peer_id=%", nil)
}

// Transmission and rTorrent stop for ever at these words, so a mistake must not be worded with them.
func TestMistakesDoNotSayUnregistered(t *testing.T) {
	t.Parallel()
	final := []string{"unregistered", "not registered", "torrent cannot be found"}
	for _, reason := range []failure{
		errNoInfoHash, errManyInfoHashes, errInfoHash, errNoPeerID, errPeerID, errPort, errEscape, errTooLong,
		errNoHeader, errBadAddress, errBlockedClient, errPasskey, errFullScrape,
	} {
		for _, word := range final {
			if strings.Contains(strings.ToLower(string(reason)), word) {
				t.Errorf("%q contains %q", reason, word)
			}
		}
	}
	if !strings.Contains(string(errUnregistered), "unregistered torrent") {
		t.Errorf("%q: Transmission looks for \"unregistered torrent\"", errUnregistered)
	}
}

func TestScrapeQueries(t *testing.T) {
	t.Parallel()
	f := func(query string, want string, wantErr error) {
		t.Helper()
		hashes, err := parseScrape([]byte(query), nil)
		got := ""
		for i := range hashes {
			got += string(hashes[i][:1])
		}
		if err != wantErr || err == nil && got != want {
			t.Errorf("%s: got %q, error %v; want %q, error %v", query, got, err, want, wantErr)
		}
	}
	a, b := "info_hash="+strings.Repeat("a", 20), "info_hash="+strings.Repeat("%62", 20)
	f("", "", nil)
	f("passkey=x", "", nil)
	f(a, "a", nil)
	f(b+"&"+a+"&x=y&&"+b, "bab", nil)
	f("info_hash=", "", errInfoHash)
	f(a+"&info_hash=x", "", errInfoHash)
	f(a+"&info_hash=%x", "", errEscape)
	f(strings.Repeat(a+"&", maxScrape+5)+"info_hash=x", strings.Repeat("a", maxScrape), nil)
}
