//go:build e2e

package hosts_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"regexp"
	"strings"
	"testing"
	"time"

	"spillway/internal/waittest"
)

// Fewer connections than the file has, for machines whose limit of open files is low.
const haproxyRun = "exec haproxy -db -n 2000 -f /etc/haproxy/haproxy.cfg"

// The proxies' files do in front of a tracker what they say, as they are: only the certificate is the test's.
func TestProxies(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, file, to string
		check, run     string
		tracker        string // besides where it listens and whom it trusts
		tls            bool
		most           int // connections to the tracker that fifty requests one after the other may take
	}{
		{
			name: "nginx", file: "nginx/nginx.conf", to: "/etc/nginx/nginx.conf",
			check: "mkdir -p /var/log/nginx; nginx -t", run: "exec nginx -g 'daemon off;'", tls: true, most: 4,
		},
		{
			name: "haproxy", file: "haproxy/haproxy.cfg", to: "/etc/haproxy/haproxy.cfg",
			check: "haproxy -c -f /etc/haproxy/haproxy.cfg", run: haproxyRun, tls: true, most: 4,
		},
		{
			name: "haproxy-tcp", file: "haproxy/haproxy-tcp.cfg", to: "/etc/haproxy/haproxy.cfg",
			check: "haproxy -c -f /etc/haproxy/haproxy.cfg", run: haproxyRun,
			tracker: "--http.proxy_protocol=true", most: 60,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			client, host := newHost(t, "client"), newHost(t, "host")
			join(t, client, "eth0", []string{"198.51.100.9/24", "2001:db8:1::9/64"}, host, "eth0", []string{"198.51.100.1/24", "2001:db8:1::1/64"})
			certificate, key := selfSigned(t)
			host.write(t, "/etc/haproxy/tracker.pem", certificate+key)
			host.write(t, "/etc/letsencrypt/live/tracker.example/fullchain.pem", certificate)
			host.write(t, "/etc/letsencrypt/live/tracker.example/privkey.pem", key)
			host.write(t, tc.to, read(t, tc.file))
			if out := host.run(t, tc.check+" 2>&1"); regexp.MustCompile(`(?i)warn`).MatchString(out) {
				t.Errorf("%s: %s", tc.file, out)
			}
			tracker := host.serve(t, "tracker", "exec /run/bin/spillway serve --data_dir=/run/data --http.listen=127.0.0.1:6969 --udp.listen= --http.trusted_proxies=127.0.0.1 "+tc.tracker)
			waittest.Done(t, waittest.Patience, "tracker up", func() error { return errIfNot(strings.Contains(tracker(), "msg=serving"), tracker()) })
			host.serve(t, tc.name, tc.run)
			waittest.Done(t, waittest.Patience, "proxy up", func() error {
				out, err := client.try(t, "curl -sS -m 20 -f http://198.51.100.1/healthz")
				return errIfNot(err == nil, out)
			})

			// The client's address arrives, over both families, and nobody can claim another's.
			const hash = "info_hash=aaaaaaaaaaaaaaaaaaaa&compact=0&uploaded=0&downloaded=0&peer_id=-qB4500-00000000000"
			urls := []string{"http://198.51.100.1", "http://[2001:db8:1::1]"}
			if tc.tls {
				urls = append(urls, "https://198.51.100.1")
			}
			for i, url := range urls {
				n := string(rune('1' + i))
				client.run(t, "curl -sS -m 20 -k -g -H 'X-Forwarded-For: 203.0.113.99' '"+url+"/announce?"+hash+n+"&left=1&port=688"+n+"'")
			}
			out := client.run(t, "curl -sS -m 20 'http://198.51.100.1/announce?"+hash+"9&left=0&port=6889'")
			for _, want := range []string{"12:198.51.100.9", "13:2001:db8:1::9"} {
				if !strings.Contains(out, want) {
					t.Errorf("announce: got %q, want a peer at %s", out, want)
				}
			}
			if strings.Contains(out, "203.0.113.99") || strings.Contains(out, "127.0.0.1") {
				t.Errorf("announce: got %q, want clients' own addresses only", out)
			}

			// A WebSocket passes, on any path; curl leaves it open until its time is over.
			for _, url := range urls {
				waittest.Done(t, waittest.Patience, "WebSocket at "+url, func() error {
					out, _ := client.try(t, "curl -s -k -g -i -m 2 --http1.1 -H 'Connection: Upgrade' -H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13' "+
						"-H 'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==' "+url+"/any/path")
					return errIfNot(strings.HasPrefix(out, "HTTP/1.1 101"), out)
				})

			}

			// Fifty clients one after the other share the proxy's connections, where it knows what a request is. In TIME_WAIT are the last
			// minute's.
			count := "ss -Htan state established state time-wait state close-wait state fin-wait-1 state fin-wait-2 dst 127.0.0.1:6969 | wc -l"
			before := number(host.run(t, count))
			client.run(t, "for i in $(seq 50); do curl -sS -m 20 -o /dev/null http://198.51.100.1/healthz; done")
			if n := number(host.run(t, count)) - before; n > tc.most {
				t.Errorf("50 requests took %d connections to the tracker, want at most %d", n, tc.most)
			}

			// A dead tracker is told: by a page where the proxy can make one, by an end of the connection else.
			host.run(t, "kill -TERM $(pidof spillway)")
			waittest.Done(t, waittest.Patience, "refusal", func() error {
				out, err := client.try(t, "curl -s -m 20 -o /dev/null -w '%{http_code}' http://198.51.100.1/healthz")
				late := err != nil && strings.HasSuffix(err.Error(), " "+silence)
				return errIfNot(!late && (strings.HasPrefix(out, "50") || out == "000"), out)
			})

		})
	}
}

func number(s string) int {
	n := 0
	for _, c := range strings.TrimSpace(s) {
		n = n*10 + int(c-'0')
	}
	return n
}

// selfSigned is a certificate nobody trusts, and its key, PEM.
func selfSigned(t *testing.T) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "tracker.example"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
}
