//go:build linux

package bench

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"spillway/internal/flood"
)

// A Request is an announce rendered once, as libtorrent writes it, with room for the info hash and the port to be
// changed in place.
type Request struct {
	bytes          []byte
	hashAt, portAt int
}

// Ports are always five digits so that a request's length never changes.
const (
	minPort = 10000
	maxPort = 65535
)

// NewRequest renders an announce of a leecher who wants numWant peers. With keepAlive false it asks for the connection
// to be closed, as libtorrent does.
func NewRequest(host string, infoHash [20]byte, event string, numWant int, keepAlive bool) *Request {
	var b strings.Builder
	b.WriteString("GET /announce?info_hash=")
	hashAt := b.Len()
	for range infoHash {
		b.WriteString("%00")
	}
	// The parameters and their order are those of libtorrent 2.0 (src/http_tracker_connection.cpp).
	b.WriteString("&peer_id=-qB4650-benchbenchbe&port=")
	portAt := b.Len()
	fmt.Fprintf(&b, "%d&uploaded=0&downloaded=0&left=1048576&corrupt=0&key=3C9A1F20", minPort)
	if event != "" {
		b.WriteString("&event=" + event)
	}
	fmt.Fprintf(&b, "&numwant=%d&compact=1&no_peer_id=1&supportcrypto=1&redundant=0 HTTP/1.1\r\n", numWant)
	b.WriteString("Host: " + host + "\r\nUser-Agent: qBittorrent/4.6.5\r\nAccept-Encoding: gzip\r\n")
	if !keepAlive {
		b.WriteString("Connection: close\r\n")
	}
	b.WriteString("\r\n")
	r := &Request{bytes: []byte(b.String()), hashAt: hashAt, portAt: portAt}
	r.SetInfoHash(infoHash)
	return r
}

// SetInfoHash changes the torrent announced. Every byte is escaped, so that a request's length never changes.
func (r *Request) SetInfoHash(h [20]byte) {
	const digits = "0123456789abcdef"
	for i, c := range h {
		r.bytes[r.hashAt+3*i+1] = digits[c>>4]
		r.bytes[r.hashAt+3*i+2] = digits[c&15]
	}
}

// SetPort changes the port announced and returns the bytes to send, which are the request's own: they are good until
// the next SetPort.
func (r *Request) SetPort(port int) []byte {
	if port < minPort || port > maxPort {
		panic(fmt.Sprintf("BUG: port %d is not of five digits", port))
	}
	for i := 4; i >= 0; i-- {
		r.bytes[r.portAt+i] = byte('0' + port%10)
		port /= 10
	}
	return r.bytes
}

// errShort says that more bytes are to come.
var errShort = errors.New("reply is not complete")

var (
	statusOK      = []byte("HTTP/1.1 200 ")
	endOfLine     = []byte("\r\n")
	endOfHead     = []byte("\r\n\r\n")
	contentLength = []byte("\r\nContent-Length: ")
	failureReason = []byte("14:failure reason")
)

// parseReply returns the body of the one HTTP reply in b: status 200, a Content-Length, and a body that begins as a
// bencoded dictionary and is not a failure. It returns errShort while the reply is cut short. It knows no more than
// that: the client must stay cheaper than the server.
func parseReply(b []byte) (body []byte, err error) {
	head := bytes.Index(b, endOfHead)
	if head < 0 {
		return nil, errShort
	}
	if !bytes.HasPrefix(b, statusOK) {
		return nil, fmt.Errorf("reply is not a 200: %q", b)
	}
	at := bytes.Index(b[:head+2], contentLength)
	if at < 0 {
		return nil, fmt.Errorf("reply has no Content-Length: %q", b)
	}
	length := 0
	for _, c := range b[at+len(contentLength):] {
		if c < '0' || c > '9' {
			break
		}
		if length = length*10 + int(c-'0'); length > 1<<20 {
			return nil, fmt.Errorf("Content-Length over 1 MiB: %q", b)
		}
	}
	body = b[head+len(endOfHead):]
	if len(body) < length {
		return nil, errShort
	}
	if len(body) > length {
		return nil, fmt.Errorf("%d bytes follow the reply: %q", len(body)-length, b)
	}
	if bytes.HasSuffix(body, endOfLine) { // as aquatic_http does
		length -= len(endOfLine)
		body = body[:length]
	}
	if length < 2 || body[0] != 'd' || body[length-1] != 'e' || bytes.Contains(body[:min(length, 32)], failureReason) {
		return nil, fmt.Errorf("not a served announce: %q", body)
	}
	return body, nil
}

func TestParseReply(t *testing.T) {
	t.Parallel()
	const head = "HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 8\r\nContent-Type: text/plain\r\n\r\n"
	for _, c := range []struct {
		name, in, body, err string
	}{
		{"whole", head + "d1:ai1ee", "d1:ai1ee", ""},
		{"head cut", head[:30], "", errShort.Error()},
		{"body cut", head + "d1:a", "", errShort.Error()},
		{"more than one", head + "d1:ai1eeHTTP", "", "follow the reply"},
		{"other status", strings.Replace(head, "200", "503", 1) + "d1:ai1ee", "", "not a 200"},
		{"no length", "HTTP/1.1 200 OK\r\n\r\nd1:ai1ee", "", "no Content-Length"},
		{"failure", "HTTP/1.1 200 OK\r\nContent-Length: 24\r\n\r\nd14:failure reason2:noee", "", "not a served announce"},
		{"not a dictionary", head + "<html>..", "", "not a served announce"},
		{"huge", strings.Replace(head, "8", "99999999999999999999", 1), "", "over 1 MiB"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			body, err := parseReply([]byte(c.in))
			if string(body) != c.body {
				t.Errorf("body: got %q, want %q", body, c.body)
			}
			if got := errorText(err); !strings.Contains(got, c.err) || (c.err == "") != (err == nil) {
				t.Errorf("error: got %q, want %q", got, c.err)
			}
		})
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestRequestIsChangedInPlace(t *testing.T) {
	t.Parallel()
	r := NewRequest("127.0.0.1:6969", flood.InfoHash(1), "started", 50, false)
	first := string(r.SetPort(12345))
	for _, want := range []string{"&port=12345&", "&event=started&", "&numwant=50&", "\r\nConnection: close\r\n", "Host: 127.0.0.1:6969\r\n"} {
		if !strings.Contains(first, want) {
			t.Errorf("request: got %q, want %q in it", first, want)
		}
	}
	r.SetInfoHash([20]byte{0xff, 0x01})
	second := string(r.SetPort(65535))
	if len(second) != len(first) {
		t.Errorf("length: got %d, want %d", len(second), len(first))
	}
	if want := "?info_hash=%ff%01%00"; !strings.Contains(second, want) {
		t.Errorf("request: got %q, want %q in it", second, want)
	}
	if flood.InfoHash(1) == flood.InfoHash(2) {
		t.Error("two torrents have one info hash")
	}
}
