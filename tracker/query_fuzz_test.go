package tracker

import (
	"bytes"
	"errors"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"spillway/tracker/swarm"
)

// modelParams reads a query as net/url would, were "+" and ";" nothing special: the first of each key, unescaped.
func modelParams(query string) map[string][]string {
	values := map[string][]string{}
	for param := range strings.SplitSeq(query, "&") {
		key, value, _ := strings.Cut(param, "=")
		values[key] = append(values[key], value)
	}
	return values
}

func FuzzParseAnnounce(f *testing.F) {
	ok := "info_hash=" + hash20 + "&peer_id=" + hash20
	for _, seed := range []string{
		"", "&", "=", ok, ok + "&port=6881&left=0&event=started&numwant=50&compact=1", ok + "&port=99999", ok + "&ip=1.2.3.4&ipv6=[::1]:1",
		"info_hash=%00%ff%7F%zz&peer_id=%", "info_hash=" + strings.Repeat("%aB", 20) + "&peer_id=" + strings.Repeat("+", 20) + "&left=-1&numwant=-1",
		ok + "&" + ok, strings.Repeat("ip=1&", 20) + ok, ok + "&numwant=18446744073709551617&left=00&port=00001",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, query []byte) {
		before := bytes.Clone(query)
		var p announceParams
		err := parseAnnounce(query, &p)
		if !bytes.Equal(query, before) {
			t.Fatalf("the query was changed: %q", query)
		}
		values := modelParams(string(query))
		hash, hashErr := modelUnescape(values["info_hash"])
		id, idErr := modelUnescape(values["peer_id"])
		port, portOK := modelPort(values["port"])
		if wantOK := hashErr == nil && idErr == nil && len(values["info_hash"]) == 1 && len(hash) == 20 && len(id) == 20 && portOK; wantOK != (err == nil) {
			t.Fatalf("got error %v, the model says %v (%v, %v)", err, wantOK, hashErr, idErr)
		}
		if err != nil {
			var reason failure
			if !errors.As(err, &reason) || reason == "" {
				t.Fatalf("%v is not a reason for a client", err)
			}
			return
		}
		if string(p.infoHash[:]) != hash || string(p.peerID[:]) != id || p.port != port {
			t.Errorf("got %+v, want info hash %q, peer id %q, port %d", p, hash, id, port)
		}
		first := func(key string) string { return append(values[key], "")[0] }
		if want := first("left") != "" && strings.Trim(first("left"), "0") == ""; p.seeder != want {
			t.Errorf("left %q: seeder %v", first("left"), p.seeder)
		}
		want := -1
		if n := first("numwant"); n != "" && strings.Trim(n, "0123456789") == "" {
			want = maxNumWant
			if v, err := strconv.Atoi(n); err == nil {
				want = min(v, maxNumWant)
			}
		}
		if p.numWant != want {
			t.Errorf("numwant %q: got %d, want %d", first("numwant"), p.numWant, want)
		}
		if p.list != (first("compact") == "0") {
			t.Errorf("compact %q: got a list: %v", first("compact"), p.list)
		}
		if n := len(values["ip"]) + len(values["ipv4"]) + len(values["ipv6"]); p.ipCount != min(n, maxIPParams) {
			t.Errorf("addresses: got %d of %d", p.ipCount, n)
		}
	})
}

// modelUnescape is net/url's reading of the first value, with "+" spared.
func modelUnescape(values []string) (string, error) {
	if len(values) == 0 {
		return "", errors.New("missing")
	}
	return url.QueryUnescape(strings.ReplaceAll(values[0], "+", "%2B"))
}

func modelPort(values []string) (uint16, bool) {
	for _, v := range values {
		if v == "" {
			continue
		}
		if strings.Trim(v, "0123456789") != "" {
			return 0, false
		}
		n, err := strconv.ParseUint(v, 10, 16)
		return uint16(n), err == nil
	}
	return 0, true
}

func FuzzParseScrape(f *testing.F) {
	a := "info_hash=" + hash20
	for _, seed := range []string{"", a, a + "&" + a, "info_hash=%", a + "&info_hash", strings.Repeat(a+"&", 80), "x=" + a + "&info_hash=" + strings.Repeat("%fF", 20)} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, query []byte) {
		got, err := parseScrape(query, make([]swarm.InfoHash, 1)) // appends
		if len(got) < 1 || len(got) > maxScrape {
			t.Fatalf("got %d hashes", len(got))
		}
		got = got[1:]
		values := modelParams(string(query))["info_hash"]
		for i, v := range values {
			if i == maxScrape-1 {
				break
			}
			hash, hashErr := modelUnescape([]string{v})
			if hashErr != nil || len(hash) != 20 {
				if err == nil {
					t.Errorf("hash %d, %q, was taken", i, v)
				}
				return
			}
			if i >= len(got) || string(got[i][:]) != hash {
				t.Fatalf("hash %d: got %x, want %x", i, got, hash)
			}
		}
		if err != nil || len(got) != min(len(values), maxScrape-1) {
			t.Errorf("got %d hashes of %d, error %v", len(got), len(values), err)
		}
	})
}
