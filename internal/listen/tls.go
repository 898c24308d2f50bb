package listen

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"
)

// certPoll is how often the files are looked at. certbot and its like replace them weeks before they expire.
const certPoll = 5 * time.Second

// Certs is a certificate and its key, read again when their files change. A handshake never waits for the disk.
type Certs struct {
	certFile, keyFile string
	log               *slog.Logger
	current           atomic.Pointer[tls.Certificate]

	set          *metrics.Set
	reloadErrors *metrics.Counter

	mu     sync.Mutex  // guards what follows, held while the files are read
	seen   [2]fileMark // of the files current was made from
	failed string      // the last error, logged already
}

// fileMark tells one version of a file from the next, also when a symbolic link to it was turned.
type fileMark struct{ info os.FileInfo }

// NewCerts reads both PEM files; certFile holds the chain, the server's own first. They must be good at the start.
func NewCerts(certFile, keyFile string, log *slog.Logger) (*Certs, error) {
	c := &Certs{certFile: certFile, keyFile: keyFile, log: log, set: metrics.NewSet()}
	c.reloadErrors = c.set.NewCounter("spillway_tls_reload_errors_total")
	c.set.NewGauge("spillway_tls_cert_not_after_seconds", func() float64 {
		return float64(c.current.Load().Leaf.NotAfter.Unix())
	})
	if err := c.Reload(); err != nil {
		return nil, err
	}
	return c, nil
}

// Run looks at the files every five seconds until ctx ends.
func (c *Certs) Run(ctx context.Context) {
	tick := time.NewTicker(certPoll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			c.poll()
		}
	}
}

// Reload reads the files if they changed. On an error the old pair stays in use.
func (c *Certs) Reload() error {
	c.mu.Lock()
	defer c.mu.Unlock()

	marks, err := c.marks()
	if err != nil {
		return err
	}
	if c.current.Load() != nil && marks[0].same(c.seen[0]) && marks[1].same(c.seen[1]) {
		return nil
	}
	// The marks are older than what is read: a change in between is seen the next time.
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("tls.cert %s, tls.key %s: %w", c.certFile, c.keyFile, err)
	}
	c.current.Store(&pair)
	c.seen = marks
	c.log.Info("certificate loaded", "cert", c.certFile, "names", pair.Leaf.DNSNames, "not_after", pair.Leaf.NotAfter)
	return nil
}

// poll is Reload for Run: it retries a failure each time, since a chmod may mend it unseen, and logs and counts it once.
func (c *Certs) poll() {
	err := c.Reload()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.failed = ""
		return
	}
	if c.failed != err.Error() {
		c.failed = err.Error()
		c.reloadErrors.Inc()
		c.log.Error("certificate not reloaded, the old one stays in use; write a whole pair", "err", err,
			"old_not_after", c.current.Load().Leaf.NotAfter)
	}
}

// TLSConfig serves the current pair to each handshake.
func (c *Certs) TLSConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"http/1.1"}, // fasthttp speaks no HTTP/2
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return c.current.Load(), nil
		},
	}
}

// WriteMetrics writes when the certificate ends, and the failed reloads, in Prometheus text format.
func (c *Certs) WriteMetrics(w io.Writer) { c.set.WritePrometheus(w) }

func (c *Certs) marks() (marks [2]fileMark, err error) {
	for i, name := range []string{c.certFile, c.keyFile} {
		if marks[i].info, err = os.Stat(name); err != nil {
			return marks, err
		}
	}
	return marks, nil
}

func (m fileMark) same(o fileMark) bool {
	return m.info.ModTime().Equal(o.info.ModTime()) && m.info.Size() == o.info.Size() && os.SameFile(m.info, o.info)
}

// tlsConn is a TLS connection whose failed handshake is a count and an end of file: fasthttp would log a line for it,
// and anyone can fail a handshake. The handshake has the read and write deadlines of whoever serves the connection.
type tlsConn struct {
	*tls.Conn
	door   *Door
	failed atomic.Bool
}

// Handshake is called by fasthttp first of all. Once it succeeded it costs one atomic load.
func (c *tlsConn) Handshake() error {
	err := c.Conn.Handshake()
	if err != nil && !errors.Is(err, io.EOF) && !c.failed.Swap(true) { // EOF: a TCP probe
		c.door.tlsErrors.Inc()
	}
	return err
}

func (c *tlsConn) Read(b []byte) (int, error) {
	if c.Handshake() != nil {
		return 0, io.EOF
	}
	return c.Conn.Read(b)
}

func (c *tlsConn) Write(b []byte) (int, error) {
	if err := c.Handshake(); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}
