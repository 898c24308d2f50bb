package link

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
)

// Files are what a connection by TLS may need besides the system's certificate authorities, in PEM. The names in brackets are the
// configuration's keys.
type Files struct {
	CA   string // whom to trust instead of the system's authorities (store.redis.tls_ca)
	Cert string // who we are, for a Redis that asks (store.redis.tls_cert)
	Key  string // (store.redis.tls_key)
	Name string // what Redis's certificate is for, if not the address it is reached at (store.redis.tls_name)
}

// TLS reads the files. Our own certificate is read again for each connection: they are renewed often.
func TLS(f Files) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: f.Name}
	if f.CA != "" {
		pem, err := os.ReadFile(f.CA)
		if err != nil {
			return nil, fmt.Errorf("store.redis.tls_ca: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("store.redis.tls_ca: %s: no certificate in it; it must have one or more in PEM, which begin with -----BEGIN CERTIFICATE-----", f.CA)
		}
	}
	if f.Cert != "" {
		load := func() (*tls.Certificate, error) {
			cert, err := tls.LoadX509KeyPair(f.Cert, f.Key)
			if err != nil {
				return nil, fmt.Errorf("store.redis.tls_cert, tls_key: %w", err)
			}
			return &cert, nil
		}
		if _, err := load(); err != nil {
			return nil, err
		}
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	}
	return cfg, nil
}
