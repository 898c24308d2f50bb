//go:build e2e

package shared

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"spillway/internal/waittest"
	"spillway/tracker/swarm"
	"spillway/tracker/swarm/shared/link"
)

// TestTLS: a Redis whose certificate is of an authority of its own, for a name, and which asks who we are.
func TestTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	serial := int64(0)
	// issue makes a certificate of issuer's, or of its own.
	issue := func(name string, template, issuer *x509.Certificate, issuerKey *ecdsa.PrivateKey) (certFile, keyFile string, key *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		serial++
		template.SerialNumber, template.NotBefore, template.NotAfter = big.NewInt(serial), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		template.Subject.CommonName = name
		if issuer == nil {
			issuer, issuerKey = template, key
		}
		cert, err := x509.CreateCertificate(rand.Reader, template, issuer, &key.PublicKey, issuerKey)
		if err != nil {
			t.Fatal(err)
		}
		keyBytes, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return file(name+".crt", "CERTIFICATE", cert), file(name+".key", "PRIVATE KEY", keyBytes), key
	}
	authority := &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	ca, _, caKey := issue("authority", authority, nil, nil)
	serverCert, serverKey, _ := issue("server", &x509.Certificate{DNSNames: []string{"redis.example"}}, authority, caKey)
	nodeCert, nodeKey, _ := issue("node", &x509.Certificate{}, authority, caKey)

	port := freePort(t)
	startRedis(t, "--tls-port", fmt.Sprint(port), "--tls-cert-file", serverCert, "--tls-key-file", serverKey, "--tls-ca-cert-file", ca, "--tls-auth-clients", "yes")
	connect := func(f link.Files) node {
		cfg := strict(Config{Redis: at(fmt.Sprintf("127.0.0.1:%d", port))})
		var err error
		if cfg.Redis.TLS, err = link.TLS(f); err != nil {
			t.Fatal(err)
		}
		return startNode(t, cfg)
	}
	whole := link.Files{CA: ca, Cert: nodeCert, Key: nodeKey, Name: "redis.example"}
	for want, f := range map[string]link.Files{
		"store.redis.tls_ca":   {Cert: nodeCert, Key: nodeKey, Name: "redis.example"},
		"store.redis.tls_name": {CA: ca, Cert: nodeCert, Key: nodeKey},
		"store.redis.tls_cert": {CA: ca, Name: "redis.example"},
	} {
		n := connect(f)
		waittest.Until(t, 20*time.Second, "says "+want, func() bool {
			d, bad := n.Degraded()
			return bad && strings.Contains(d.Why, want)
		})

		n.stop()
	}
	n := connect(whole)
	connected(t, n)
	var r swarm.Reply
	a := crowdAnnounce(1)
	n.AnnounceWait(&a, time.Now(), &r)
	settle(t, n)
	if n.metrics.sent.Load() == 0 || r.Incomplete != 1 { // a new Redis is told once more
		t.Errorf("sent %d, %+v", n.metrics.sent.Load(), r.Counts)
	}
}
