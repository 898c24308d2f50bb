//go:build e2e

package shared

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"spillway/internal/waittest"
	"spillway/tracker/swarm"
	"spillway/tracker/swarm/shared/link"
)

// TestSentinelMasterDies: a node that knows sentinels alone finds the master, and when that is killed the replica which they put in its
// place; nothing that was announced is lost.
func TestSentinelMasterDies(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	const password = "secret"
	auth := []string{"--requirepass", password, "--masterauth", password}
	master := startRedis(t, auth...)
	host, port, _ := strings.Cut(master.addr, ":")
	replica := startRedis(t, append(auth, "--replicaof", host+" "+port, "--repl-diskless-sync-delay", "0")...)
	log := redis.NewClient(&redis.Options{Addr: replica.addr, Password: password, DisableIdentity: true})
	defer log.Close()
	waittest.Until(t, 30*time.Second, "the replica follows", func() bool {
		info, _ := log.Info(ctx, "replication").Result()
		return strings.Contains(info, "master_link_status:up")
	})

	var sentinels []string
	for range 3 {
		s := startRedisAs(t, func(own int, dir string) []string {
			file := filepath.Join(dir, "sentinel.conf") // a sentinel writes into it
			conf := fmt.Sprintf(`port %d
bind 127.0.0.1
dir %s
logfile %s/log
sentinel monitor mymaster %s %s 2
sentinel auth-pass mymaster %s
sentinel down-after-milliseconds mymaster 500
sentinel failover-timeout mymaster 5000
`, own, dir, dir, host, port, password)
			if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
				t.Fatal(err)
			}
			return []string{file, "--sentinel"}
		})
		sentinels = append(sentinels, s.addr)
	}
	for _, addr := range sentinels {
		c := redis.NewSentinelClient(&redis.Options{Addr: addr, DisableIdentity: true})
		waittest.Until(t, 60*time.Second, "sentinels know one another and the replica", func() bool {
			others, _ := c.Sentinels(ctx, "mymaster").Result()
			replicas, _ := c.Replicas(ctx, "mymaster").Result()
			return len(others) == len(sentinels)-1 && len(replicas) == 1
		})

		_ = c.Close()
	}

	cfg := Config{Redis: link.Config{Addrs: sentinels, Sentinel: "mymaster", Password: password}, Fresh: 50 * time.Millisecond}
	a, b := startNode(t, cfg), startNode(t, cfg)
	connected(t, a, b)
	var r swarm.Reply
	for i := range 100 {
		an := crowdAnnounce(i * crowdSwarms)
		a.Announce(&an, time.Now(), &r)
	}
	settle(t, a)
	master.kill()
	began := time.Now()
	waittest.Until(t, 60*time.Second, "degraded", func() bool { _, bad := a.Degraded(); return bad })
	for i := range 100 {
		an := crowdAnnounce((100 + i) * crowdSwarms)
		a.Announce(&an, time.Now(), &r)
	}
	waittest.Until(t, 60*time.Second, "healed", func() bool { return !a.breakersOpen() && !b.breakersOpen() })
	t.Logf("healed %v after the master was killed", time.Since(began))
	settle(t, a)
	hash := []swarm.InfoHash{crowdHash(0)}
	waittest.Until(t, 30*time.Second, "all are there", func() bool { return b.ScrapeWait(hash, nil)[0].Incomplete == 200 })
	if n, err := log.Exists(ctx, "sw:"+string(hash[0][:])).Result(); n != 1 || err != nil {
		t.Errorf("on the replica that took over: got %d keys, %v", n, err)
	}
}
