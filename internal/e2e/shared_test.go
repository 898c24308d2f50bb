//go:build e2e

package e2e

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/anacrolix/torrent/metainfo"
	"github.com/anacrolix/torrent/tracker/udp"

	"spillway/internal/waittest"
)

// redisServer is a redis-server, or what $SPILLWAY_TEST_REDIS names, that keeps nothing on disk.
type redisServer struct {
	*process
	t    *testing.T
	addr string
	dir  string
}

func startRedis(t *testing.T) *redisServer {
	t.Helper()
	r := &redisServer{t: t, addr: fmt.Sprintf("127.0.0.1:%d", freePort(t)), dir: t.TempDir()}
	r.again()
	return r
}

// again starts it anew, empty, where it was.
func (r *redisServer) again() {
	r.t.Helper()
	_, port, _ := net.SplitHostPort(r.addr)
	r.process = start(r.t, "redis", cmp.Or(os.Getenv("SPILLWAY_TEST_REDIS"), "redis-server"), "--port", port, "--bind", "127.0.0.1", "--dir", r.dir, "--save", "", "--appendonly", "no")
	waittest.Done(r.t, 10*time.Second, "redis answers", func() error {
		c, err := net.Dial("tcp", r.addr)
		if err == nil {
			c.Close()
		}
		return err
	})

}

// serveShared starts a tracker that shares swarms.
func serveShared(t *testing.T, r *redisServer, flags ...string) *tracker {
	t.Helper()
	return serve(t, append([]string{"--store.kind=redis", "--store.redis.addrs=" + r.addr}, flags...)...)
}

// degraded is what the admin side says of Redis.
func (tr *tracker) degraded(t *testing.T) (part float64, why string) {
	t.Helper()
	var st struct {
		Redis *struct {
			Degraded float64
			Why      string
		}
	}
	if err := json.Unmarshal(tr.adminGet(t, "/api/v1/status"), &st); err != nil || st.Redis == nil {
		t.Fatalf("status: %v, redis %v", err, st.Redis)
	}
	return st.Redis.Degraded, st.Redis.Why
}

func (tr *tracker) wantDegraded(t *testing.T, want bool) {
	t.Helper()
	waittest.Done(t, 10*time.Second, fmt.Sprintf("degraded %v", want), func() error {
		if part, why := tr.degraded(t); (part > 0) != want {
			return fmt.Errorf("got %v, %q", part, why)
		}
		return nil
	})

}

// TestQBittorrentsOnTwoNodes: one asks node A, the other node B, and the file moves. A third node, which neither has asked, counts.
func TestQBittorrentsOnTwoNodes(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	a, b, c := serveShared(t, r), serveShared(t, r), serveShared(t, r)
	p := newPayload(t, 16*mib, a.announce)
	q := p
	q.torrent = filepath.Join(t.TempDir(), "other.torrent")
	raw, err := os.ReadFile(p.torrent)
	if err != nil {
		t.Fatal(err)
	}
	mi, err := metainfo.Load(strings.NewReader(string(raw)))
	if err != nil {
		t.Fatal(err)
	}
	mi.Announce = b.announce // the info dictionary, and so the hash, is the same
	f, err := os.Create(q.torrent)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(mi.Write(f), f.Close()); err != nil {
		t.Fatal(err)
	}

	seeder := startQBittorrent(t, "seed")
	seeder.add(t, p, p.seedDir, true)
	c.wantCounts(t, p.hash, counts{Complete: 1})
	dir := filepath.Join(t.TempDir(), "leech")
	leecher := startQBittorrent(t, "leech")
	leecher.add(t, q, dir, false)
	p.arrivesIn(t, dir)
	leecher.done(t)
	leecher.wantTracker(t, q, b.announce)
	for _, tr := range []*tracker{a, b, c} {
		tr.wantCounts(t, p.hash, counts{Complete: 2, Downloaded: 1})
	}
	leecher.remove(t)
	c.wantCounts(t, p.hash, counts{Complete: 1, Downloaded: 1})
	seeder.quit(t, syscall.SIGTERM, 30*time.Second)
	c.wantCounts(t, p.hash, counts{Downloaded: 1})
	for _, tr := range []*tracker{a, b, c} {
		tr.stop(t)
	}
}

// TestNodesAndRedisDie: three nodes, a swarm told to all of them in turn. A node that is killed takes nobody with it; while Redis is
// dead every announce is answered, at once; and when it is back, empty, so is the swarm.
func TestNodesAndRedisDie(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	nodes := []*tracker{serveShared(t, r), serveShared(t, r), serveShared(t, r)}
	hash := metainfo.HashBytes([]byte(t.Name()))
	for i := range 30 {
		announce{from: fmt.Sprintf("127.0.1.%d", i+1), hash: hash, port: 2000 + i, left: int64(i % 2)}.mustTo(t, nodes[i%3].announce)
	}
	for _, n := range nodes {
		n.wantCounts(t, hash, counts{Complete: 15, Incomplete: 15})
	}
	for i := range 2 {
		reply := announce{from: fmt.Sprintf("127.0.2.%d", i+1), hash: hash, port: 3000, left: 1}.mustTo(t, nodes[1+i].announce)
		if got := len(reply.peers(t)); got != 30+i {
			t.Errorf("peers: got %d, want all %d, whomever they told", got, 30+i)
		}
	}

	nodes[0].kill()
	nodes[1].wantCounts(t, hash, counts{Complete: 15, Incomplete: 17})

	r.kill()
	nodes[1].wantDegraded(t, true)
	nodes[2].wantDegraded(t, true)
	slow := 0
	for i := range 60 {
		began := time.Now()
		reply := announce{from: fmt.Sprintf("127.0.3.%d", i+1), hash: hash, port: 4000 + i, left: 1}.mustTo(t, nodes[1+i%2].announce)
		if took := time.Since(began); took > 300*time.Millisecond {
			t.Logf("announce %d without redis took %v", i, took)
			slow++
		}
		// 30 min and half of that, with the jitter of a tracker that has just started: half of it.
		if reply.Interval < 1350 {
			t.Errorf("announce %d without redis: interval %d s, want longer by half", i, reply.Interval)
		}
		if got := len(reply.peers(t)); got < 31 {
			t.Errorf("announce %d without redis: got %d peers, want what the node knows", i, got)
		}
	}
	if slow > 30 { // by a busy machine; who waited for redis would be 60
		t.Errorf("without redis %d of 60 announces took more than 300 ms", slow)
	}
	r.again()
	nodes[1].wantDegraded(t, false)
	nodes[2].wantDegraded(t, false)
	// Those of the node that was killed come back by themselves, within an interval; theirs here at once.
	fresh := serveShared(t, r)
	fresh.wantCounts(t, hash, counts{Complete: 10, Incomplete: 72})
	for _, n := range append(nodes[1:], fresh) {
		n.stop(t)
	}
}

// TestUDPOnTwoNodes: a peer that announced to one node, over UDP or HTTP, is in the first answer that the other gives over UDP, and in
// its first scrape. With Redis frozen answers come all the same, with the node's own peers.
func TestUDPOnTwoNodes(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	flags := []string{"--udp.listen=127.0.0.1:0", "--store.redis.wait=1s"} // a test, and no client, may be that patient
	a, b := serveShared(t, r, flags...), serveShared(t, r, flags...)
	a.wantDegraded(t, false)
	b.wantDegraded(t, false)
	client := func(tr *tracker) *udp.ConnClient {
		c, err := udp.NewConnClient(udp.NewConnClientOpts{Network: "udp4", Host: mustHost(t, tr.udp(t))})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	ca, cb := client(a), client(b)
	ask := func(c *udp.ConnClient, hash metainfo.Hash, port uint16) (peers string, took time.Duration) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
		defer cancel()
		req := udp.AnnounceRequest{InfoHash: hash, PeerId: [20]byte([]byte("-E20000-000000000000")), Left: 1, NumWant: -1, Port: port}
		began := time.Now()
		_, list, err := c.Announce(ctx, req, udp.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(list.NodeAddrs()), time.Since(began)
	}
	hashOf := func(i int) metainfo.Hash { return metainfo.HashBytes(fmt.Append(nil, t.Name(), i)) }
	const swarms = 20
	for i := range swarms {
		if hash := hashOf(i); i%2 == 0 {
			ask(ca, hash, 1001)
		} else {
			announce{from: "127.0.0.1", hash: hash, port: 1001, left: 1}.mustTo(t, a.announce)
		}
	}
	waittest.Done(t, 20*time.Second, "redis has been told", func() error {
		if n := a.metric(t, "spillway_redis_buffer_bytes"); n > 0 {
			return fmt.Errorf("%v bytes wait", n)
		}
		return nil
	})

	missed := 0
	for i := range swarms / 2 {
		if peers, took := ask(cb, hashOf(i), 1002); peers != "[127.0.0.1:1001]" {
			missed++
			t.Logf("announce %d: got %s after %v", i, peers, took)
		}
	}
	for i := swarms / 2; i < swarms; i++ {
		ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
		got, err := cb.Client.Scrape(ctx, []udp.InfoHash{hashOf(i), hashOf(i + swarms)})
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != 2 || got[0].Leechers != 1 || got[1].Leechers != 0 {
			missed++
			t.Logf("scrape %d: got %+v", i, got)
		}
	}
	if missed > swarms/5 { // each is a second in vain
		t.Errorf("of %d first requests over UDP %d were answered without the other node's peer", swarms, missed)
	}
	if n := b.metric(t, `spillway_udp_waits_total{result="asked"}`); n < swarms {
		t.Errorf("requests that waited: got %v, want %d", n, swarms)
	}

	r.cmd.Process.Signal(syscall.SIGSTOP)
	defer r.cmd.Process.Signal(syscall.SIGCONT)
	hash := hashOf(100)
	_, first := ask(cb, hash, 1003)
	peers, then := ask(cb, hash, 1004)
	if peers != "[127.0.0.1:1003]" {
		t.Errorf("with redis frozen: got %s, want the node's own peer", peers)
	}
	t.Logf("with redis frozen: answered after %v, then %v", first, then)
	// A client sends again after 15 s: less is an answer to the first packet.
	if first > 10*time.Second || then > 10*time.Second {
		t.Errorf("with redis frozen: answered after %v and %v, want 1 s at most", first, then)
	}
	r.cmd.Process.Signal(syscall.SIGCONT)
	for _, tr := range []*tracker{a, b} {
		tr.stop(t)
	}
}

// TestPromtoolAcceptsSharedMetrics of a node on Redis.
func TestPromtoolAcceptsSharedMetrics(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	tr := serveShared(t, r)
	tr.wantDegraded(t, false) // before that nobody waits for it
	announce{from: "127.0.0.2", hash: metainfo.HashBytes([]byte(t.Name())), port: 1002, left: 1}.mustTo(t, tr.announce)
	body := string(tr.metrics(t))
	promtool(t, []byte(body))
	for _, line := range []string{"spillway_redis_degraded 0\n", "spillway_redis_waits_total{result=\"asked\"} 1\n"} {
		if !strings.Contains(body, line) {
			t.Errorf("/metrics has no line %s", line)
		}
	}
	tr.stop(t)
}
