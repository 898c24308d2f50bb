//go:build linux

package bench

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"
)

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
	r := NewRequest("127.0.0.1:6969", InfoHash(1), "started", 50, false)
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
	if InfoHash(1) == InfoHash(2) {
		t.Error("two torrents have one info hash")
	}
}

// Given the floor in this process, when loaded in each way, then replies are counted and the body comes back.
func TestLoad(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	body := []byte("d8:completei0e5:peers0:e")
	served := make(chan error, 1)
	go func() { served <- ServeFloor(ln, body) }()
	t.Cleanup(func() {
		ln.Close()
		<-served
	})
	client, _, err := Cores()
	if err != nil {
		t.Skip(err)
	}
	for _, keepAlive := range []bool{true, false} {
		load := Load{Addr: netip.MustParseAddrPort(ln.Addr().String()), NumWant: 50, Conns: 4, KeepAlive: keepAlive, Peers: 10, Core: client}
		n, err := load.Once()
		if err != nil {
			t.Fatalf("keep-alive %t: %v", keepAlive, err)
		}
		if n.Replies != load.Peers {
			t.Errorf("keep-alive %t: replies: got %d, want %d", keepAlive, n.Replies, load.Peers)
		}
		if !bytes.Equal(n.Body, body) {
			t.Errorf("keep-alive %t: body: got %q, want %q", keepAlive, n.Body, body)
		}
		if n, err = load.For(50 * time.Millisecond); err != nil {
			t.Fatalf("keep-alive %t: %v", keepAlive, err)
		}
		if n.Replies == 0 || n.Elapsed < 50*time.Millisecond {
			t.Errorf("keep-alive %t: got %d replies in %s", keepAlive, n.Replies, n.Elapsed)
		}
	}
}

func TestLoadSaysWhyItFailed(t *testing.T) {
	t.Parallel()
	client, _, err := Cores()
	if err != nil {
		t.Skip(err)
	}
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddrPort(ln.Addr().String())
	ln.Close()
	load := Load{Addr: addr, NumWant: 50, Conns: 1, KeepAlive: true, Peers: 1, Core: client}
	if _, err := load.Once(); err == nil || !strings.Contains(err.Error(), "connect to "+addr.String()) {
		t.Errorf("nobody listens: got %v, want the address", err)
	}
}

func TestCPUTimeCountsWhatThisProcessBurns(t *testing.T) {
	before, err := CPUTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	const burnt = 20 * time.Millisecond
	deadline := time.Now().Add(10 * time.Second)
	for {
		after, err := CPUTime(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		if after-before >= burnt {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("CPU time: got %s in 10 s, want %s", after-before, burnt)
		}
	}
}

func TestResidentBytesGrowWithUse(t *testing.T) {
	before, err := ResidentBytes(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	const size = 64 << 20
	b := make([]byte, size)
	for i := range b {
		b[i] = 1
	}
	after, err := ResidentBytes(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if grown := after - before; grown < size/2 || grown > 4*size {
		t.Errorf("grown: got %d, want about %d", grown, size)
	}
	if b[size-1] != 1 {
		t.Error("never")
	}
	if _, err := ResidentBytes(1 << 30); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no such process: got %v, want %v", err, os.ErrNotExist)
	}
}
