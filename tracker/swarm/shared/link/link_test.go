package link

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// Files that are missing or are not what they should be are told with their key, before anybody connects.
func TestTLSFiles(t *testing.T) {
	t.Parallel()
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, []byte("no PEM\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		files Files
		want  string
	}{
		{Files{CA: "/nowhere"}, "store.redis.tls_ca: open /nowhere"},
		{Files{CA: empty}, "no certificate in it"},
		{Files{Cert: "/nowhere", Key: empty}, "store.redis.tls_cert, tls_key: open /nowhere"},
		{Files{Cert: empty, Key: empty}, "store.redis.tls_cert, tls_key: "},
	} {
		if _, err := TLS(c.files); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: got %v, want %q in it", c.files, err, c.want)
		}
	}
	if cfg, err := TLS(Files{Name: "redis.example"}); err != nil || cfg.ServerName != "redis.example" || cfg.RootCAs != nil {
		t.Errorf("the system's authorities: got %+v, %v", cfg, err)
	}
}

// Where nobody answers there is an error soon, no client, and nothing left behind.
func TestConnectToNobody(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for _, cfg := range []Config{
		{Addrs: []string{"127.0.0.1:1", "unix:/nowhere"}},
		{Addrs: []string{"127.0.0.1:1"}, Cluster: "on"},
		{Addrs: []string{"127.0.0.1:1"}, Sentinel: "mymaster"},
	} {
		cfg.Timeout, cfg.Conns, cfg.ClusterConns = time.Second, 2, 2
		l := New(cfg)
		if addr, err := l.Connect(ctx); err == nil || l.Client() != nil || l.Clustered() {
			t.Errorf("%+v: got %q, %v, %v", cfg, addr, err, l.Client())
		}
		l.Reload(ctx)
		l.Close()
	}
}

func TestClientName(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{"spillway-a b\n\u00e9": "spillway-a_b__", "spillway-": "spillway"} {
		if got := clientName(name); got != want {
			t.Errorf("%q: got %q, want %q", name, got, want)
		}
	}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
