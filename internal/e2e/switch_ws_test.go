//go:build e2e

package e2e

import (
	"bufio"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"spillway/internal/waittest"
)

// WebTorrent, as pages have it, in each mode.
func TestSwitchWebSocketsInChromium(t *testing.T) {
	t.Parallel()
	needsNode(t)
	ns := newNamespace(t)
	ip(t, "-n", ns.name, "route", "add", "default", "via", ns.outside) // for WebRTC
	tr := serve(t, "--http.listen="+ns.outside+":0", "--admin.listen="+ns.outside+":0")
	op := tr.operator(t)
	p := ns.start(t, "switch_chromium.mjs", "node", "testdata/switch_chromium.mjs", tr.webSocket(), op.api, op.token)
	saysOK(t, p, 4*time.Minute)
	for line := range strings.Lines(p.log()) {
		if cells, ok := strings.CutPrefix(strings.TrimSpace(line), "row "); ok {
			t.Log(cells)
		}
	}
	tr.stop(t)
}

// drained is a line of switch_drain.mjs.
type drained struct {
	Open, Code      int
	Closed, Replied int64 // Unix time in ms
	Error           string
}

func drainedOf(p *process) (all []drained) {
	lines := bufio.NewScanner(strings.NewReader(p.log()))
	for lines.Scan() {
		var d drained
		if json.Unmarshal(lines.Bytes(), &d) == nil {
			all = append(all, d)
		}
	}
	return all
}

// Drained sockets go over a minute, not together, and each is served until it goes.
func TestSwitchWebSocketsDrain(t *testing.T) {
	t.Parallel()
	needsNode(t)
	const sockets = 100
	tr := serve(t)
	op := tr.operator(t)
	p := start(t, "switch_drain.mjs", "node", "testdata/switch_drain.mjs", tr.webSocket(), "100")
	waittest.Done(t, 30*time.Second, "sockets open", func() error {
		if all := drainedOf(p); len(all) == 0 || all[0].Open != sockets {
			return errors.New("not all")
		}
		return nil
	})

	answered := op.turn(t, "ws", "drain")
	if status := handshake(t, tr); status != 503 {
		t.Errorf("handshake in a drain: got %d, want 503", status)
	}
	saysOK(t, p, 75*time.Second)

	var quarters [4]int
	first, last, n := time.Hour, time.Duration(0), 0
	for _, d := range drainedOf(p)[1:] {
		after := time.UnixMilli(d.Closed).Sub(answered)
		first, last, n = min(first, after), max(last, after), n+1
		quarters[min(max(int(after/(15*time.Second)), 0), 3)]++
		if d.Code != 1013 || d.Error != "" {
			t.Errorf("after %v: got code %d %s, want 1013", after, d.Code, d.Error)
		}
		// It announces every two seconds.
		if silent := d.Closed - d.Replied; silent > 4000 {
			t.Errorf("closed after %v: no reply in the %d ms before", after, silent)
		}
	}
	row(t, "ws", "drain", "node ws, 100 sockets", "1013, the first after", first.Round(100*time.Millisecond), "the last after", last.Round(100*time.Millisecond), "by quarters of a minute", quarters)
	// Each of them has 25, give or take 4.3; less than 5 in one is a chance of one in a million.
	if n != sockets || min(quarters[0], quarters[1], quarters[2], quarters[3]) < 5 || last > 62*time.Second {
		t.Errorf("closings by quarters of a minute: got %v, the last after %v, want all %d, spread over a minute", quarters, last, sockets)
	}
	tr.stop(t)
}

// Off is in force when the operator has the answer, and all sockets are gone a second later at the latest.
func TestSwitchWebSocketsOff(t *testing.T) {
	t.Parallel()
	tr := serve(t)
	op := tr.operator(t)
	var best outage
	for try := range 3 {
		c := newCrowd(t, tr, 300, 100*time.Millisecond)
		stop := c.knock(tr)
		<-time.After(500 * time.Millisecond)
		answered := op.turn(t, "ws", "off")
		c.wantGone(t, 20*time.Second)
		<-time.After(200 * time.Millisecond) // for more of the refused to be counted
		stop()
		got := c.outage(answered)
		row(t, "ws", "off", "300 sockets", got)
		if try == 0 || got.worst() < best.worst() {
			best = got
		}
		op.turn(t, "ws", "on")
	}
	best.check(t)
	// The machine may be busy; the best of three says what the program can do.
	newCrowd(t, tr, 10, time.Second).close()
	tr.stop(t)
}
