package tracker

import (
	"bufio"
	"net"
	"strings"
	"testing"

	"github.com/valyala/fasthttp"
)

func TestRepairHost(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"tracker.example.org":      "tracker.example.org",
		"tracker.example.org:6969": "tracker.example.org:6969",
		"my_box:80":                "my_box:80",
		"192.0.2.1:6969":           "192.0.2.1:6969",
		"[2001:db8::1]":            "[2001:db8::1]",
		"[2001:db8::1]:6969":       "[2001:db8::1]:6969",
		"::1:6969":                 "[::1]:6969", // libtorrent 2.0.8
		"2001:db8::7:6969":         "[2001:db8::7]:6969",
		"2001:db8:1:2:3:4:5:6":     "[2001:db8:1:2:3:4:5:6]",
		"":                         "",
		"a b":                      noHost,
		"127.0.0.1:x":              noHost,
		"[::1":                     noHost,
		"::1:6969:xyz":             noHost,
		"<script>":                 noHost,
		"caf\xe9":                  noHost,
		"1::%<b>":                  noHost, // a zone
		"[fe80::1%eth0]:6969":      noHost,
	} {
		var h fasthttp.RequestHeader
		h.SetHost(in)
		repairHost(&h)
		if got := string(h.Host()); got != want {
			t.Errorf("Host %q: got %q, want %q", in, got, want)
		}
	}
}

// Whatever Host says, an announce is answered as one.
func TestAnnounceWithAnyHost(t *testing.T) {
	t.Parallel()
	var server fasthttp.Server
	server.HeaderReceived = repairHost
	server.Handler = func(ctx *fasthttp.RequestCtx) { ctx.SetBodyString("reached") }
	for _, host := range []string{"::1:6969", "a b", "127.0.0.1:x", "[::1", "%zz", "caf\xe9", strings.Repeat(":", 300)} {
		client, conn := net.Pipe()
		done := make(chan error, 1)
		go func() { done <- server.ServeConn(conn) }()
		go client.Write([]byte("GET /announce HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n"))
		line, err := bufio.NewReader(client).ReadString('\n')
		if err != nil || line != "HTTP/1.1 200 OK\r\n" {
			t.Errorf("Host %q: got %q, %v", host, line, err)
		}
		client.Close()
		<-done
	}
}
