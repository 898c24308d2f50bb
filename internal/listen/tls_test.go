package listen

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"spillway/internal/logx/logxtest"
	"spillway/internal/waittest"
)

// pair makes a certificate for name and its key, in PEM.
func pair(t testing.TB, name string) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		DNSNames:     []string{name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

func write(t testing.TB, file string, content []byte) {
	t.Helper()
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// certFiles is Certs of a new pair for name, with its two files.
func certFiles(t testing.TB, name string) (c *Certs, certFile, keyFile string, log *logxtest.Buffer) {
	t.Helper()
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	cert, key := pair(t, name)
	write(t, certFile, cert)
	write(t, keyFile, key)
	log = &logxtest.Buffer{}
	c, err := NewCerts(certFile, keyFile, log.Logger())
	if err != nil {
		t.Fatal(err)
	}
	return c, certFile, keyFile, log
}

func testCerts(t testing.TB) *Certs {
	c, _, _, _ := certFiles(t, "tracker.example")
	return c
}

// served is the name in the certificate a client gets.
func served(t testing.TB, d *Door) string {
	t.Helper()
	c := tls.Client(dial(t, d.Addrs()[0]), &tls.Config{InsecureSkipVerify: true})
	defer c.Close()
	if err := c.Handshake(); err != nil {
		t.Fatalf("handshake: %v", err)
	}
	return c.ConnectionState().PeerCertificates[0].DNSNames[0]
}

func TestCertificateIsReloadedAndABadOneIsNot(t *testing.T) {
	t.Parallel()
	certs, certFile, keyFile, log := certFiles(t, "old.example")
	d, _ := open(t, Config{Certs: certs})
	serve(t, d, 10*time.Second)
	if got := served(t, d); got != "old.example" {
		t.Fatalf("at start: got %s", got)
	}

	cert, key := pair(t, "new.example")
	write(t, certFile, cert) // and the key is still the old one
	for range 3 {
		certs.poll()
	}
	if got := served(t, d); got != "old.example" {
		t.Errorf("half a pair: got %s, want old.example", got)
	}
	if got := strings.Count(log.String(), "certificate not reloaded"); got != 1 {
		t.Errorf("log lines of one failure: got %d, want 1\n%s", got, log)
	}

	write(t, keyFile, key)
	certs.poll()
	if got := served(t, d); got != "new.example" {
		t.Errorf("whole pair: got %s, want new.example", got)
	}

	if err := os.Remove(keyFile); err != nil {
		t.Fatal(err)
	}
	certs.poll()
	if got := served(t, d); got != "new.example" {
		t.Errorf("key removed: got %s, want new.example", got)
	}
	var b strings.Builder
	certs.WriteMetrics(&b)
	if !strings.Contains(b.String(), "spillway_tls_reload_errors_total 2\n") {
		t.Errorf("metrics: got %s", b.String())
	}

	// As certbot and Kubernetes do: a link turned to another pair of the same size.
	dir := t.TempDir()
	cert, key = pair(t, "two.example")
	write(t, filepath.Join(dir, "cert.pem"), cert)
	write(t, filepath.Join(dir, "key.pem"), key)
	for _, f := range []string{certFile, keyFile} {
		_ = os.Remove(f)
		if err := os.Symlink(filepath.Join(dir, filepath.Base(f)), f); err != nil {
			t.Fatal(err)
		}
	}
	if err := certs.Reload(); err != nil {
		t.Errorf("Reload: %v", err)
	}
	if got := served(t, d); got != "two.example" {
		t.Errorf("link turned: got %s, want two.example", got)
	}
}

func TestBadCertificateAtStartIsAnError(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "x"), []byte("x"))
	for _, f := range []string{"x", "missing"} {
		f = filepath.Join(dir, f)
		if _, err := NewCerts(f, f, (&logxtest.Buffer{}).Logger()); err == nil || !strings.Contains(err.Error(), f) {
			t.Errorf("%s: got %v, want an error that names the file", f, err)
		}
	}
}

func TestTLSVersionsAndProtocols(t *testing.T) {
	t.Parallel()
	d, _ := open(t, Config{Certs: testCerts(t)})
	serve(t, d, 10*time.Second)

	old := tls.Client(dial(t, d.Addrs()[0]), &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11})
	if err := old.Handshake(); err == nil {
		t.Error("TLS 1.1: got a handshake, want none")
	}
	c := tls.Client(dial(t, d.Addrs()[0]), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}})
	_, _ = io.WriteString(c, request)
	reply, err := io.ReadAll(c)
	if err != nil || !bytes.HasSuffix(reply, []byte(c.LocalAddr().String())) {
		t.Errorf("over TLS: got %q, %v", reply, err)
	}
	if got := c.ConnectionState().NegotiatedProtocol; got != "http/1.1" {
		t.Errorf("ALPN: got %q, want http/1.1", got)
	}
}

// TestGarbageOnATLSPortIsACount also fails if fasthttp logs a line: see failLogger.
func TestGarbageOnATLSPortIsACount(t *testing.T) {
	t.Parallel()
	d, log := open(t, Config{Certs: testCerts(t)})
	serve(t, d, 10*time.Second)
	_ = dial(t, d.Addrs()[0]).Close() // a probe
	for _, sent := range []string{request, "\x16\x03\x01\x00\x06\x01\x00\x00\x02\x03\x03", "\x00"} {
		c := dial(t, d.Addrs()[0])
		_, _ = io.WriteString(c, sent)
		_ = c.(*net.TCPConn).CloseWrite()
		_, _ = io.ReadAll(c)
	}
	waittest.Until(t, waittest.Patience, "all places are free", func() bool { return d.Conns() == 0 })
	if got := metric(t, d, `spillway_tls_handshake_errors_total{endpoint="http"}`); got != "3" {
		t.Errorf("count: got %s, want 3", got)
	}
	if log.String() != "" {
		t.Errorf("a stranger made a log line: %s", log)
	}
}

func TestTLSBehindAProxyHeader(t *testing.T) {
	t.Parallel()
	d, _ := open(t, Config{Certs: testCerts(t), ProxyProtocol: true, Trusted: trustAll})
	serve(t, d, 10*time.Second)
	raw := dial(t, d.Addrs()[0])
	_, _ = io.WriteString(raw, "PROXY TCP4 192.0.2.1 192.0.2.2 1000 80\r\n")
	c := tls.Client(raw, &tls.Config{InsecureSkipVerify: true})
	_, _ = io.WriteString(c, request)
	if reply, err := io.ReadAll(c); err != nil || !bytes.HasSuffix(reply, []byte("192.0.2.1:1000")) {
		t.Errorf("got %q, %v", reply, err)
	}

	raw = dial(t, d.Addrs()[0])
	c = tls.Client(raw, &tls.Config{InsecureSkipVerify: true})
	if err := c.Handshake(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("without header: got %v, want the connection closed", err)
	}
}

func TestUnixSocketSpeaksNoTLS(t *testing.T) {
	t.Parallel()
	d, _ := open(t, Config{Addrs: []string{"unix:" + filepath.Join(t.TempDir(), "s")}, Certs: testCerts(t)})
	serve(t, d, 10*time.Second)
	c := dial(t, d.Addrs()[0])
	_, _ = io.WriteString(c, request)
	if reply, _ := io.ReadAll(c); !bytes.HasPrefix(reply, []byte("HTTP/1.1 200 OK")) {
		t.Errorf("got %q", reply)
	}
}
