//go:build e2e

package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"spillway/internal/waittest"
)

// transmission is a transmission-daemon driven through its RPC.
type transmission struct {
	*process
	dir     string // finished files
	rpcURL  string
	session string // X-Transmission-Session-Id, learned from the first 409
}

const transmissionSettings = `{
  "bind-address-ipv4": %q, "peer-port": %d, "peer-port-random-on-start": false, "port-forwarding-enabled": false,
  "rpc-bind-address": %q, "rpc-port": %d, "rpc-authentication-required": false, "rpc-whitelist-enabled": false,
  "rpc-host-whitelist-enabled": false,
  "dht-enabled": false, "pex-enabled": false, "lpd-enabled": false, "utp-enabled": false,
  "download-dir": %q, "incomplete-dir-enabled": false, "start-added-torrents": true,
  "download-queue-enabled": false, "seed-queue-enabled": false, "preallocation": 0, "message-level": 2
}`

// startTransmission runs a daemon on one address of the namespace. It never dials 127/8 nor its own address, so a pair
// of them on one host needs this.
func startTransmission(t *testing.T, ns namespace, addr, dir string) *transmission {
	t.Helper()
	config := t.TempDir()
	rpcPort := freePort(t)
	tm := &transmission{dir: dir, rpcURL: fmt.Sprintf("http://%s:%d/transmission/rpc", addr, rpcPort)}
	writeFile(t, filepath.Join(config, "settings.json"), fmt.Sprintf(transmissionSettings, addr, freePort(t), addr, rpcPort, dir))
	tm.process = ns.start(t, "transmission-"+filepath.Base(dir), "transmission-daemon", "--foreground", "--config-dir", config)
	waittest.Done(t, 20*time.Second, "transmission RPC", func() error { return tm.rpc("session-get", nil, nil) })
	return tm
}

// rpc calls a method; reply, unless nil, receives its arguments.
func (tm *transmission) rpc(method string, arguments, reply any) error {
	body, err := json.Marshal(map[string]any{"method": method, "arguments": arguments})
	if err != nil {
		return err
	}
	req, err := http.NewRequest(http.MethodPost, tm.rpcURL, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("X-Transmission-Session-Id", tm.session)
	resp, err := httpClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if id := resp.Header.Get("X-Transmission-Session-Id"); resp.StatusCode == http.StatusConflict && id != tm.session {
		tm.session = id
		return tm.rpc(method, arguments, reply)
	}
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	var envelope struct {
		Result    string          `json:"result"`
		Arguments json.RawMessage `json:"arguments"`
	}
	if err := json.Unmarshal(raw, &envelope); err != nil {
		return fmt.Errorf("%s: %s: %w in %.200q", method, resp.Status, err, raw)
	}
	if envelope.Result != "success" {
		return fmt.Errorf("%s: %s", method, envelope.Result)
	}
	if reply == nil {
		return nil
	}
	return json.Unmarshal(envelope.Arguments, reply)
}

func (tm *transmission) add(t *testing.T, p payload) {
	t.Helper()
	raw, err := os.ReadFile(p.torrent)
	if err != nil {
		t.Fatal(err)
	}
	err = tm.rpc("torrent-add", map[string]any{"metainfo": base64.StdEncoding.EncodeToString(raw), "download-dir": tm.dir}, nil)
	if err != nil {
		t.Fatal(err)
	}
}

// done waits until the only torrent is complete and its tracker is content.
func (tm *transmission) done(t *testing.T) {
	t.Helper()
	waittest.Done(t, time.Minute, tm.name+" complete", func() error {
		var reply struct {
			Torrents []struct {
				PercentDone  float64 `json:"percentDone"`
				TrackerStats []struct {
					Succeeded bool   `json:"lastAnnounceSucceeded"`
					Result    string `json:"lastAnnounceResult"`
				} `json:"trackerStats"`
			} `json:"torrents"`
		}
		err := tm.rpc("torrent-get", map[string]any{"fields": []string{"percentDone", "trackerStats"}}, &reply)
		if err != nil {
			return err
		}
		if len(reply.Torrents) != 1 || reply.Torrents[0].PercentDone != 1 {
			return fmt.Errorf("torrents: %+v", reply.Torrents)
		}
		stats := reply.Torrents[0].TrackerStats
		if len(stats) != 1 || !stats[0].Succeeded {
			return fmt.Errorf("tracker: %+v", stats)
		}
		return nil
	})

}

// remove drops the torrent, which announces "stopped".
func (tm *transmission) remove(t *testing.T, p payload) {
	t.Helper()
	if err := tm.rpc("torrent-remove", map[string]any{"ids": []string{p.hash.HexString()}}, nil); err != nil {
		t.Fatal(err)
	}
}

func TestTransmissionPair(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	tr := serve(t, "--http.listen="+ns.outside+":0")
	p := newPayload(t, 16*mib, tr.announce)
	moveFile(t, tr, p, func(t *testing.T, p payload, dir string, seed bool) side {
		addr := ns.inside[0]
		if seed {
			addr = ns.inside[1]
		}
		tm := startTransmission(t, ns, addr, dir)
		tm.add(t, p)
		return side{
			content: func() { tm.done(t) },
			// Not by SIGTERM: Transmission 3.00 does not wait for its last announce then.
			leave: func() { tm.remove(t, p) },
		}
	})
	tr.stop(t)
}
