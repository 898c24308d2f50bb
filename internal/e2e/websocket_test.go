package e2e

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/anacrolix/torrent/metainfo"
	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"

	"spillway/internal/waittest"
)

// webSocket is the URL for WebTorrent clients: any path will do.
func (tr *tracker) webSocket() string {
	return "ws" + strings.TrimSuffix(strings.TrimPrefix(tr.announce, "http"), "/announce")
}

// wantNobody waits until all swarms are empty.
func (tr *tracker) wantNobody(t *testing.T) {
	t.Helper()
	waittest.Done(t, 10*time.Second, "/stats.json", func() error {
		var stats struct{ Seeders, Leechers int }
		if err := getJSON(tr.page("/stats.json"), &stats); err != nil {
			return err
		}
		if stats.Seeders+stats.Leechers != 0 {
			return fmt.Errorf("got %+v, want nobody", stats)
		}
		return nil
	})

}

// webPeer opens a socket from an address of its own and announces.
func webPeer(tr *tracker, hash metainfo.Hash, i int) (net.Conn, error) {
	from := &net.TCPAddr{IP: net.IPv4(127, 2, byte(i>>8), byte(i))}
	d := ws.Dialer{Timeout: 10 * time.Second, NetDial: func(ctx context.Context, network, addr string) (net.Conn, error) {
		return (&net.Dialer{LocalAddr: from}).DialContext(ctx, network, addr)
	}}
	c, br, _, err := d.Dial(context.Background(), tr.webSocket())
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	// A hash of ASCII is itself in JSON.
	m := fmt.Sprintf(`{"action":"announce","info_hash":"%s","peer_id":"-WW0001-%012d","left":1,"offers":[]}`, hash[:], i)
	if err := wsutil.WriteClientText(c, []byte(m)); err != nil {
		return c, err
	}
	if br == nil {
		br = bufio.NewReader(c)
	}
	h, err := ws.ReadHeader(br)
	if err == nil && h.OpCode != ws.OpText {
		err = fmt.Errorf("got opcode %d", h.OpCode)
	}
	return c, err
}

// Ten thousand pages are closed at once: their peers leave, and others hardly notice.
func TestTenThousandWebSocketsClosedAtOnce(t *testing.T) {
	const sockets = 10_000
	tr := serve(t, "--http.max_conns=1000")
	hash := metainfo.Hash([]byte("a hash in plain text"))
	conns := make([]net.Conn, sockets)
	t.Cleanup(func() {
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
	})
	for i := range conns {
		var err error
		if conns[i], err = webPeer(tr, hash, i); err != nil {
			t.Fatalf("socket %d: %v", i, err)
		}
	}
	tr.wantCounts(t, hash, counts{Incomplete: sockets})

	for i, c := range conns {
		if i%2 == 0 {
			_ = c.(*net.TCPConn).SetLinger(0) // a reset; the others say goodbye
		}
		c.Close()
	}
	begun := time.Now()
	if _, err := scrape(tr.announce, hash); err != nil {
		t.Error(err)
	}
	if took := time.Since(begun); took > 15*time.Second { // the machine may be busy with it
		t.Errorf("a scrape meanwhile: took %v", took)
	}
	tr.wantCounts(t, hash, counts{})
	tr.wantNobody(t)
	tr.stop(t)
}

// wsPort finds the address of ws.listen in the line with which serve says that it is up.
var wsPort = regexp.MustCompile(` ws=\[?"?(127\.0\.0\.1:\d+)`)

// A port for WebSockets alone, with TLS: the one for HTTP has it too, and refuses nothing of this.
func TestWebSocketsWithTLS(t *testing.T) {
	t.Parallel()
	cert, key, roots := certificate(t)
	tr := serve(t, "--ws.listen=127.0.0.1:0", "--http.tls.cert="+cert, "--http.tls.key="+key)
	found := wsPort.FindStringSubmatch(tr.log())
	if found == nil {
		t.Fatalf("no address of ws.listen in the log")
	}
	httpAddr := strings.TrimSuffix(strings.TrimPrefix(tr.announce, "https://"), "/announce")
	for _, addr := range []string{httpAddr, found[1]} {
		d := ws.Dialer{Timeout: 10 * time.Second, TLSConfig: &tls.Config{RootCAs: roots}}
		c, _, _, err := d.Dial(context.Background(), "wss://"+addr)
		if err != nil {
			t.Fatalf("dial %s: %v", addr, err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		for i := range 3 {
			m := fmt.Sprintf(`{"action":"announce","info_hash":"a hash in plain text","peer_id":"-WW0001-%012d","offers":[]}`, i)
			if err := wsutil.WriteClientText(c, []byte(m)); err != nil {
				t.Fatal(err)
			}
			b, err := wsutil.ReadServerText(c)
			if err != nil || !strings.Contains(string(b), `"incomplete":`) {
				t.Errorf("reply at %s: got %q (%v)", addr, b, err)
			}
		}
	}
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	defer client.CloseIdleConnections()
	resp, err := client.Get("https://" + found[1] + "/announce")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusUpgradeRequired {
		t.Errorf("announce over HTTP at ws.listen: got %d, want 426", resp.StatusCode)
	}
	tr.stop(t)
}

// certificate writes a pair for 127.0.0.1.
func certificate(t *testing.T) (certFile, keyFile string, roots *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for name, b := range map[string][]byte{certFile: certPEM, keyFile: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	roots = x509.NewCertPool()
	roots.AppendCertsFromPEM(certPEM)
	return certFile, keyFile, roots
}

// A server that stops tells its peers so, by a close frame each.
func TestShutdownClosesWebSockets(t *testing.T) {
	t.Parallel()
	tr := serve(t, "--ws.listen=127.0.0.1:0")
	hash := metainfo.Hash([]byte("a hash in plain text"))
	c, err := webPeer(tr, hash, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	tr.stop(t)
	for {
		h, err := ws.ReadHeader(c)
		if err != nil {
			t.Fatalf("after the stop: got %v, want a close frame", err)
		}
		b := make([]byte, min(h.Length, 4096))
		if _, err := c.Read(b); err != nil {
			t.Fatal(err)
		}
		if h.OpCode == ws.OpClose {
			if code, _ := ws.ParseCloseFrameData(b); code != ws.StatusGoingAway {
				t.Errorf("close code: got %d, want %d", code, ws.StatusGoingAway)
			}
			return
		}
	}
}
