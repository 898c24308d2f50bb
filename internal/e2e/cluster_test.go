//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/anacrolix/torrent/metainfo"
	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"

	"spillway/internal/waittest"
)

// rawPeer is a WebTorrent peer without WebRTC.
type rawPeer struct {
	t    *testing.T
	id   string
	hash string
	conn net.Conn
	in   chan map[string]any
}

// newRawPeer opens a socket.
func newRawPeer(t *testing.T, tr *tracker, hash string, n int) *rawPeer {
	t.Helper()
	c, _, _, err := ws.Dial(context.Background(), tr.webSocket())
	if err != nil {
		t.Fatal(err)
	}
	p := &rawPeer{t: t, id: fmt.Sprintf("-WW0001-%012d", n), hash: hash, conn: c, in: make(chan map[string]any, 100)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			text, err := wsutil.ReadServerText(c)
			if err != nil {
				return
			}
			var m map[string]any
			if json.Unmarshal(text, &m) == nil {
				p.in <- m
			}
		}
	}()
	t.Cleanup(func() { _ = c.Close(); <-ended })
	return p
}

func (p *rawPeer) send(format string, args ...any) {
	p.t.Helper()
	text := fmt.Sprintf(`{"action":"announce","info_hash":%q,"peer_id":%q,`, p.hash, p.id) + fmt.Sprintf(format, args...) + "}"
	if err := wsutil.WriteClientText(p.conn, []byte(text)); err != nil {
		p.t.Fatal(err)
	}
}

// announce makes n offers, whose ids begin with the peer's number and round, and waits for the reply.
func (p *rawPeer) announce(n int, round string) {
	p.t.Helper()
	var offers []string
	for i := range n {
		offers = append(offers, fmt.Sprintf(`{"offer_id":"%s-%s-%d","offer":{"type":"offer","sdp":"\u00e9 of %s"}}`, p.id[17:], round, i, p.id))
	}
	p.send(`"left":1,"numwant":%d,"offers":[%s]`, n, strings.Join(offers, ","))
	if m := p.next("interval", 5*time.Second); m == nil {
		p.t.Fatalf("peer %s: no reply to its announce", p.id)
	}
}

// next is the next message that has a field, or nil.
func (p *rawPeer) next(field string, within time.Duration) map[string]any {
	timer := time.NewTimer(within)
	defer timer.Stop()
	for {
		select {
		case m := <-p.in:
			if m[field] != nil {
				return m
			}
		case <-timer.C:
			return nil
		}
	}
}

// answer answers an offer.
func (p *rawPeer) answer(offer map[string]any) {
	p.send(`"to_peer_id":%q,"offer_id":%q,"answer":{"type":"answer","sdp":"of %s"}`, offer["peer_id"], offer["offer_id"], p.id)
}

// meets tells that an offer of p reaches q and the answer p.
func (p *rawPeer) meets(q *rawPeer, round string) (took time.Duration, err error) {
	p.t.Helper()
	began := time.Now()
	p.announce(5, round)
	offer := q.next("offer", time.Second)
	if offer == nil {
		return 0, fmt.Errorf("no offer of %s at %s", p.id, q.id)
	}
	if sdp := offer["offer"].(map[string]any)["sdp"]; offer["peer_id"] != p.id || offer["info_hash"] != p.hash || sdp != "é of "+p.id {
		return 0, fmt.Errorf("offer: got %v", offer)
	}
	q.answer(offer)
	answer := p.next("answer", time.Second)
	if answer == nil {
		return 0, fmt.Errorf("no answer of %s at %s", q.id, p.id)
	}
	if answer["peer_id"] != q.id || answer["offer_id"] != offer["offer_id"] || answer["answer"].(map[string]any)["sdp"] != "of "+q.id {
		return 0, fmt.Errorf("answer: got %v", answer)
	}
	return time.Since(began), nil
}

// mustMeet is meets on a machine that may be busy: where Redis takes longer than store.redis.wait an announce is answered without it,
// and the next meets.
func (p *rawPeer) mustMeet(q *rawPeer, round string) {
	p.t.Helper()
	const most = 5
	for try := 1; ; try++ {
		took, err := p.meets(q, round)
		if err == nil {
			p.t.Logf("%s: from announce to answer %v, try %d", round, took, try)
			return
		}
		if try == most {
			p.t.Fatalf("%s: not in %d announces: %v", round, most, err)
		}
		p.drain()
		q.drain()
	}
}

// metric is one of the tracker's, or 0.
func (tr *tracker) metric(t *testing.T, name string) (value float64) {
	t.Helper()
	for line := range strings.Lines(string(tr.metrics(t))) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			value, _ = strconv.ParseFloat(strings.TrimSpace(rest), 64)
		}
	}
	return value
}

// together waits until all nodes know of one another.
func together(t *testing.T, nodes ...*tracker) {
	t.Helper()
	for _, tr := range nodes {
		waittest.Done(t, 10*time.Second, "nodes meet", func() error {
			if got := tr.metric(t, "spillway_cluster_nodes"); got != float64(len(nodes)) {
				return fmt.Errorf("got %v nodes, want %d", got, len(nodes))
			}
			return nil
		})

	}
	time.Sleep(300 * time.Millisecond) // a beat, in which the last to come has said that it listens
}

// TestWebTorrentPeersOnTwoNodes: offers and answers go from node to node, from the first announce on; answers that nobody asked for do
// not; a node that is killed leaves no ghosts; and Redis may die and come back empty.
func TestWebTorrentPeersOnTwoNodes(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	a, b, c := serveShared(t, r), serveShared(t, r), serveShared(t, r)
	together(t, a, b, c)
	const hash = "two nodes, one swarm"

	// Nobody has asked for this swarm before on either node.
	p, q := newRawPeer(t, a, hash, 1), newRawPeer(t, b, hash, 2)
	q.announce(1, "first")
	p.mustMeet(q, "first")
	time.Sleep(150 * time.Millisecond) // what b knows of a small swarm may be 120 ms old
	q.mustMeet(p, "back")
	var took []time.Duration
	for i := range 20 {
		d, err := p.meets(q, fmt.Sprint(i))
		if err == nil {
			took = append(took, d)
		}
		p.drain()
		q.drain()
	}
	if len(took) < 5 { // nearly all, but for what a busy machine makes late
		t.Fatalf("of 20 announces %d met", len(took))
	}
	slices.Sort(took)
	t.Logf("again: %d of 20 met, from announce to answer %v, the last %v", len(took), took[len(took)/2], took[len(took)-1])

	// Who may answer: who was sent the offer, once.
	p.announce(1, "once")
	offer := q.next("offer", 5*time.Second)
	if offer == nil {
		t.Fatal("no offer")
	}
	thief := newRawPeer(t, b, hash, 3)
	thief.announce(0, "thief")
	thief.answer(offer)
	if m := p.next("answer", 300*time.Millisecond); m != nil {
		t.Errorf("answer of one who was not asked: got %v, want none", m)
	}
	q.answer(offer)
	q.answer(offer)
	if p.next("answer", 5*time.Second) == nil {
		t.Error("answer: none")
	}
	if m := p.next("answer", 300*time.Millisecond); m != nil {
		t.Errorf("second answer: got %v, want none", m)
	}
	_ = thief.conn.Close()

	// A node is killed. Nobody is sent to its peers, and nobody counts them, though they have minutes to live.
	gone := newRawPeer(t, c, hash, 4)
	gone.announce(0, "doomed")
	waittest.Done(t, 5*time.Second, "three peers in the swarm", func() error {
		p.announce(5, "all")
		if gone.next("offer", 200*time.Millisecond) == nil {
			return fmt.Errorf("no offer reaches the third")
		}
		return nil
	})

	infoHash := metainfo.Hash([]byte(hash))
	a.wantCounts(t, infoHash, counts{Incomplete: 3})
	c.kill()
	killed := time.Now()
	const bound = 3500 * time.Millisecond
	last := time.Duration(0)
	for time.Since(killed) < bound+time.Second || time.Since(killed) < last+2*time.Second && last < 20*time.Second {
		at := time.Since(killed)
		before := a.metric(t, `spillway_ws_relayed_total{kind="offer_far"}`)
		p.announce(5, "ghosts")
		time.Sleep(200 * time.Millisecond) // put aside 100 ms at most
		if sent := a.metric(t, `spillway_ws_relayed_total{kind="offer_far"}`) - before; sent > 1 {
			last = at
		}
	}
	t.Logf("killed node's peer was told to others up to %v, want %v at most on a quiet machine", last, bound)
	for _, tr := range []*tracker{a, b} {
		tr.wantCounts(t, infoHash, counts{Incomplete: 2})
	}
	t.Logf("killed node's peer is counted by nobody %v after", time.Since(killed))
	if last > 4*bound { // it has minutes to live
		t.Errorf("killed node's peer was told to another after %v, want %v at most", last, bound)
	}
	q.drain()
	p.drain()
	p.mustMeet(q, "without the third")

	// Redis is killed: peers of one node meet, and of two once it is back.
	r.kill()
	a.wantDegraded(t, true)
	near := newRawPeer(t, a, hash, 5)
	near.announce(0, "near")
	p.mustMeet(near, "no redis")
	_ = near.conn.Close()
	r.again()
	back := time.Now()
	waittest.Done(t, 20*time.Second, "they meet again", func() error {
		p.drain()
		q.drain()
		_, err := p.meets(q, "after redis")
		return err
	})

	t.Logf("met again %v after redis was back", time.Since(back))
	for _, tr := range []*tracker{a, b} {
		tr.stop(t)
	}
}

// drain forgets what came.
func (p *rawPeer) drain() {
	for {
		select {
		case <-p.in:
		default:
			return
		}
	}
}

// ctl runs spillway ctl against a tracker.
func (tr *tracker) ctl(t *testing.T, args ...string) (string, error) {
	t.Helper()
	op := tr.operator(t)
	at := regexp.MustCompile(`http://([^/]+)`).FindStringSubmatch(op.api)[1]
	cmd := exec.Command(spillwayPath, append([]string{"ctl", "--admin=" + at, "--token-file=" + filepath.Join(tr.dataDir, "admin.token")}, args...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

func (tr *tracker) wantMode(t *testing.T, endpoint, want string, since time.Time) {
	t.Helper()
	op := tr.operator(t)
	waittest.Done(t, 20*time.Second, endpoint+" "+want, func() error {
		if got, by := op.mode(t, endpoint); got != want {
			return fmt.Errorf("got %s by %q", got, by)
		}
		return nil
	})

	t.Logf("%s %s after %v", endpoint, want, time.Since(since).Round(time.Millisecond))
}

// TestSwitchAndBlockAllNodes: within a second, also on a node that was down; a node's own later word stays; without Redis the switch is
// in force here, the answer says so, and the others are told when it is back.
func TestSwitchAndBlockAllNodes(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	flags := []string{"--store.kind=redis", "--store.redis.addrs=" + r.addr, "--http.listen=127.0.0.1:0"}
	dir := filepath.Join(t.TempDir(), "data")
	a, b, c := serveShared(t, r), serveShared(t, r), serveOn(t, dir, flags...)
	together(t, a, b, c)
	must := func(tr *tracker, args ...string) time.Time {
		t.Helper()
		began := time.Now()
		if out, err := tr.ctl(t, args...); err != nil {
			t.Fatalf("ctl %v: %v: %s", args, err, out)
		}
		return began
	}
	hash := metainfo.HashBytes([]byte(t.Name()))
	at := must(a, "ws", "off", "--cluster", "--reason", "flood")
	for _, tr := range []*tracker{a, b, c} {
		tr.wantMode(t, "ws", "off", at)
		if took := time.Since(at); took > 10*time.Second {
			t.Errorf("took %v, want less than a second, or a few on a busy machine", took)
		}
	}
	if _, by := b.operator(t).mode(t, "ws"); !strings.Contains(by, "api 127.0.0.1") {
		t.Errorf("turned by: got %q, want who it was", by)
	}
	// c is down while all are told, and b while it says something of its own later.
	c.kill()
	must(a, "ws", "on", "--cluster")
	must(a, "scrape", "drain", "--cluster", "--for", "1h")
	must(a, "block", "add", "info-hash", hash.HexString(), "--cluster", "--reason", "x")
	at = must(a, "announce", "off", "--cluster")
	b.wantMode(t, "announce", "off", at)
	must(b, "announce", "on") // and nowhere else
	began := time.Now()
	c = serveOn(t, dir, flags...)
	for endpoint, mode := range map[string]string{"ws": "on", "scrape": "drain", "announce": "off"} {
		c.wantMode(t, endpoint, mode, began)
	}
	c.wantBlocked(t, hash, true)
	b.wantBlocked(t, hash, true)
	must(b, "block", "rm", "info-hash", hash.HexString(), "--cluster")
	for _, tr := range []*tracker{a, b, c} {
		tr.wantBlocked(t, hash, false)
	}
	b.quit(t, 15, 20*time.Second) // its own word stays over a restart
	b = serveOn(t, b.dataDir, flags...)
	together(t, a, b, c)
	time.Sleep(500 * time.Millisecond)
	if mode, _ := b.operator(t).mode(t, "announce"); mode != "on" {
		t.Errorf("b's own later word: got %s, want on", mode)
	}

	r.kill()
	a.wantDegraded(t, true)
	began = time.Now()
	out, err := a.ctl(t, "ws", "off", "--cluster")
	if err == nil || !strings.Contains(out, "in force on this node") || !strings.Contains(out, "as soon as redis answers") {
		t.Errorf("ctl without redis: got %v, %q", err, out)
	}
	t.Logf("ctl without redis after %v: %s", time.Since(began), strings.TrimSpace(out))
	a.wantMode(t, "ws", "off", began)
	if mode, _ := b.operator(t).mode(t, "ws"); mode != "on" {
		t.Errorf("b: got %s, want on", mode)
	}
	r.again()
	at = time.Now()
	b.wantMode(t, "ws", "off", at)
	c.wantMode(t, "ws", "off", at)
	if mode, _ := b.operator(t).mode(t, "announce"); mode != "on" { // though a Redis that is new was told of all orders again
		t.Errorf("b's own later word: got %s, want on", mode)
	}
	for _, tr := range []*tracker{a, b, c} {
		tr.stop(t)
	}

	alone := serve(t)
	op := alone.operator(t)
	req, _ := http.NewRequest(http.MethodPut, op.api+"switches/ws", strings.NewReader(`{"mode":"off","cluster":true}`))
	req.Header.Set("Authorization", "Bearer "+op.token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := httpClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if mode, _ := op.mode(t, "ws"); resp.StatusCode != http.StatusBadRequest || !strings.Contains(string(body), "store.kind redis") || mode != "on" {
		t.Errorf("cluster without Redis: got %s %s, and %s; want 400 that says so, and on", resp.Status, body, mode)
	}
	alone.stop(t)
}

func (tr *tracker) wantBlocked(t *testing.T, hash metainfo.Hash, want bool) {
	t.Helper()
	op := tr.operator(t)
	waittest.Done(t, 20*time.Second, fmt.Sprintf("blocked %v", want), func() error {
		var blocks struct{ Blocks []struct{ Value string } }
		op.do(t, http.MethodGet, "blocks", "", &blocks)
		if got := len(blocks.Blocks) == 1 && blocks.Blocks[0].Value == hash.HexString(); got != want {
			return fmt.Errorf("got %v", blocks)
		}
		return nil
	})

}

// TestClusterPageInChromium: the operator's page of one node shows the other, where WebSockets are off, turns them on all nodes, and
// tells who is gone; without other nodes it has none of that. go test -artifacts keeps the pictures.
func TestClusterPageInChromium(t *testing.T) {
	t.Parallel()
	needsNode(t)
	r := startRedis(t)
	a, b := serveShared(t, r, "--store.redis.node=alpha"), serveShared(t, r, "--store.redis.node=beta")
	together(t, a, b)
	page := func(tr *tracker, more ...string) *process {
		op := tr.operator(t)
		return start(t, "cluster_page.mjs", append([]string{"node", "testdata/cluster_page.mjs",
			strings.TrimSuffix(op.api, "/api/v1/"), op.token, t.ArtifactDir()}, more...)...)
	}
	p := page(a)
	for _, step := range []struct {
		says string
		do   func()
	}{{"kill beta", b.kill}, {"kill redis", r.kill}} {
		waittest.Done(t, 2*time.Minute, step.says, func() error {
			select {
			case <-p.exited:
				t.Fatalf("the page ended before %q", step.says)
			default:
			}
			if !strings.Contains(p.log(), step.says) {
				return fmt.Errorf("not said yet")
			}
			return nil
		})

		step.do()
	}
	saysOK(t, p, 2*time.Minute)
	a.stop(t)
	alone := serve(t)
	saysOK(t, page(alone, "alone"), 2*time.Minute)
	alone.stop(t)
}

// TestWebTorrentNodePairOnTwoNodes moves a file between WebTorrent clients of which each knows one node.
func TestWebTorrentNodePairOnTwoNodes(t *testing.T) {
	t.Parallel()
	needsNode(t)
	r := startRedis(t)
	a, b := serveShared(t, r), serveShared(t, r)
	together(t, a, b)
	began := time.Now()
	saysOK(t, start(t, "webtorrent.mjs", "node", "testdata/webtorrent.mjs", a.webSocket()+"/announce", "8", t.TempDir(), b.webSocket()+"/announce"), 90*time.Second)
	t.Logf("took %v", time.Since(began))
	a.wantNobody(t)
	b.wantNobody(t)
	for _, tr := range []*tracker{a, b} {
		tr.stop(t)
	}
}

// TestWebTorrentChromiumPairOnTwoNodes: the same between pages in two browsers.
func TestWebTorrentChromiumPairOnTwoNodes(t *testing.T) {
	t.Parallel()
	needsNode(t)
	r := startRedis(t)
	ns := newNamespace(t)
	ip(t, "-n", ns.name, "route", "add", "default", "via", ns.outside)
	a, b := serveShared(t, r, "--http.listen="+ns.outside+":0"), serveShared(t, r, "--http.listen="+ns.outside+":0")
	together(t, a, b)
	began := time.Now()
	saysOK(t, ns.start(t, "chromium.mjs", "node", "testdata/chromium.mjs", a.webSocket(), "8", b.webSocket()), 2*time.Minute)
	t.Logf("took %v", time.Since(began))
	a.wantNobody(t)
	b.wantNobody(t)
	for _, tr := range []*tracker{a, b} {
		tr.stop(t)
	}
}
