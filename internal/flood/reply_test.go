package flood

import (
	"fmt"
	"strings"
	"testing"

	"github.com/anacrolix/torrent/bencode"
	"pgregory.net/rapid"
)

const (
	servedBody = "d8:completei1e11:external ip4:\x7f\x00\x00\x010:i-5e10:incompletei2e8:intervali1800e5:peers0:e"
	shedBody   = "d8:intervali3600e12:min intervali3600e5:peers0:e"
)

func reply(body string) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nServer: x\r\ncontent-length: %d\r\nContent-Type: text/plain\r\n\r\n%s", len(body), body)
}

func TestClassify(t *testing.T) {
	t.Parallel()
	served := reply(servedBody)
	for _, c := range []struct {
		name, in string
		ended    bool
		want     outcome
	}{
		{"served", served, false, good},
		{"served, and closed", served, true, good},
		{"nothing yet", "", false, pending},
		{"nothing, and closed", "", true, reset},
		{"head cut", served[:20], false, pending},
		{"head cut for good", served[:20], true, reset},
		{"body cut", served[:len(served)-1], false, pending},
		{"body cut for good", served[:len(served)-1], true, reset},
		{"shed", reply(shedBody), false, shed},
		{"failure", reply("d14:failure reason4:full8:intervali1800ee"), false, shedFailure},
		{"failure with the key", reply("d11:external ip0:14:failure reason4:fulle"), false, shedFailure},
		{"the key as a value", reply("d1:a11:external ipe"), false, shed},
		{"the key in a list of dictionaries", reply("d5:peersld11:external ip1:xeee"), false, shed},
		{"empty dictionary", reply("de"), false, shed},
		{"bencode cut within a whole reply", reply(servedBody[:40]), false, malformed},
		{"bencode and more", reply(servedBody + "x"), false, malformed},
		{"two replies", served + served, false, malformed},
		{"a string longer than the reply", reply("d3:abc99999999999999999999:xe"), false, malformed},
		{"a key that is no string", reply("di1ei2ee"), false, malformed},
		{"a key without a value", reply("d1:ae"), false, malformed},
		{"an empty integer", reply("d1:aiee"), false, malformed},
		{"an integer that is none", reply("d1:ai1-ee"), false, malformed},
		{"too deep", reply("d1:a" + strings.Repeat("l", 50) + strings.Repeat("e", 51)), false, malformed},
		{"html", reply("<html>"), false, malformed},
		{"a list", reply("le"), false, malformed},
		{"empty body", reply(""), false, malformed},
		{"503", strings.Replace(served, "200 OK", "503 Service Unavailable", 1), false, badStatus},
		{"404 without a body", "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", false, badStatus},
		{"HTTP/1.0, ends by closing", "HTTP/1.0 200 OK\r\n\r\n" + servedBody, true, good},
		{"HTTP/1.0, not yet closed", "HTTP/1.0 200 OK\r\n\r\n" + servedBody, false, pending},
		{"no HTTP", "SSH-2.0-OpenSSH\r\n\r\n", false, malformed},
		{"endless head", strings.Repeat("x", maxReply+1), false, malformed},
		{"huge", "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n", false, malformed},
		{"negative length", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", false, malformed},
	} {
		if got := classify([]byte(c.in), []byte("external ip"), c.ended); got != c.want {
			t.Errorf("%s: got %d, want %d: %q", c.name, got, c.want, c.in)
		}
	}
}

func TestClassifyScrape(t *testing.T) {
	t.Parallel()
	files := func(counts string) string {
		return reply("d5:filesd20:" + strings.Repeat("\xf0", 20) + "d" + counts + "ee5:flagsd20:min_request_intervali1800eee")
	}
	served := files("8:completei0e10:downloadedi0e10:incompletei3e")
	for _, c := range []struct {
		name, in string
		want     outcome
	}{
		{"served", served, good},
		{"only seeders", files("8:completei12e10:downloadedi0e10:incompletei0e"), good},
		{"only downloads", files("8:completei0e10:downloadedi1e10:incompletei0e"), good},
		{"zeros", files("8:completei0e10:downloadedi0e10:incompletei0e"), shed},
		{"of nothing", reply("d5:filesdee"), shed},
		{"no files", reply("d8:completei1ee"), shed},
		{"failure", reply("d14:failure reason4:fulle"), shedFailure},
		{"cut", served[:len(served)-1], pending},
		{"503", strings.Replace(served, "200 OK", "503 no", 1), badStatus},
	} {
		if got := classifyScrape([]byte(c.in), []byte("files"), false); got != c.want {
			t.Errorf("%s: got %d, want %d: %q", c.name, got, c.want, c.in)
		}
	}
}

func TestClassifyUpgrade(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in    string
		ended bool
		want  outcome
	}{
		{"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n", false, good},
		{"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n", false, pending},
		{"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n", true, reset},
		{"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 5\r\n\r\n", false, shed},
		{"HTTP/1.1 403 Forbidden\r\n\r\n", false, badStatus},
		{"hello\r\n\r\n", false, malformed},
	} {
		if got := classifyUpgrade([]byte(c.in), c.ended); got != c.want {
			t.Errorf("%q: got %d, want %d", c.in, got, c.want)
		}
	}
}

// Whatever comes, a prefix of a reply is pending or judged as the whole is, and an end leaves nothing pending.
func FuzzClassify(f *testing.F) {
	f.Add(reply(servedBody), 40)
	f.Add(reply(shedBody), 3)
	f.Add("HTTP/1.1 503 no\r\n\r\n", 5)
	f.Fuzz(func(t *testing.T, s string, cut int) {
		key := []byte("external ip")
		b := []byte(s)
		whole := classify(b, key, false)
		if classify(b, key, true) == pending {
			t.Errorf("ended, and still pending: %q", s)
		}
		if cut < 0 || cut > len(b) {
			return
		}
		if part := classify(b[:cut], key, false); part != pending && part != whole && whole != malformed {
			t.Errorf("%d bytes of %q: got %d, the whole is %d", cut, s, part, whole)
		}
		classifyUpgrade(b, true)
	})
}

// Whatever an independent encoder writes is read, and its keys are found where they are and nowhere else.
func TestWalkReplyReadsWhatIsBencoded(t *testing.T) {
	t.Parallel()
	scalar := rapid.OneOf(rapid.Int64().AsAny(), rapid.StringN(0, 30, -1).AsAny())
	inner := rapid.MapOf(rapid.SampledFrom([]string{"external ip", "failure reason", "ip"}), scalar)
	value := rapid.OneOf(scalar, rapid.SliceOf(inner).AsAny(), rapid.SliceOf(scalar).AsAny(), inner.AsAny())
	rapid.Check(t, func(t *rapid.T) {
		keys := rapid.OneOf(rapid.SampledFrom([]string{"external ip", "failure reason", "interval", "peers"}), rapid.String())
		m := rapid.MapOf(keys, value).Draw(t, "reply")
		b, err := bencode.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		has, failure, ok := walkReply(b, []byte("external ip"))
		_, wantHas := m["external ip"]
		_, wantFailure := m["failure reason"]
		if !ok || has != wantHas || failure != wantFailure {
			t.Fatalf("%q: got %t, %t, whole %t; want %t, %t", b, has, failure, ok, wantHas, wantFailure)
		}
		for i := range b {
			if _, _, ok := walkReply(b[:i], nil); ok {
				t.Fatalf("%q is whole", b[:i])
			}
		}
	})
}
