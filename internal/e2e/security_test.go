//go:build e2e

package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/anacrolix/torrent/metainfo"

	"spillway/internal/waittest"
)

const nobodyUID = 65534

// TestServeAsNobody: the tracker needs no right at all, nor does it leave anything that others can read, whatever the umask.
func TestServeAsNobody(t *testing.T) {
	t.Parallel()
	openAncestors(t)
	home := t.TempDir()
	if err := errors.Join(os.Chmod(filepath.Dir(home), 0o755), os.Chown(home, nobodyUID, nobodyUID), os.Chmod(home, 0o755)); err != nil {
		t.Fatal(err)
	}
	tr := &tracker{dataDir: filepath.Join(home, "data")}
	argv := append([]string{"sh", "-c", `umask 0 && exec "$@"`, "sh"}, nobody...)
	tr.process = start(t, "spillway", append(argv, "--no-new-privs", publicProgram(t), "serve", "--data_dir="+tr.dataDir,
		"--http.listen=127.0.0.1:0", "--udp.listen=127.0.0.1:0", "--admin.listen=127.0.0.1:0", "--ws=drain")...)
	waittest.Done(t, 20*time.Second, "announce URL in the log", func() error {
		if tr.announce = announceURL.FindString(tr.log()); tr.announce == "" {
			return errors.New("not logged yet")
		}
		return nil
	})

	if status := processStatus(t, tr.cmd.Process.Pid); status["CapEff"] != "0000000000000000" || status["CapBnd"] != "0000000000000000" ||
		!strings.HasPrefix(status["Uid"], "65534\t65534") || status["NoNewPrivs"] != "1" {
		t.Fatalf("it has rights: uid %s, effective %s, bound %s, no new ones %s", status["Uid"], status["CapEff"], status["CapBnd"], status["NoNewPrivs"])
	}

	hash := metainfo.HashBytes([]byte(t.Name()))
	announce{from: "127.0.0.9", hash: hash, port: 1009, left: 1}.mustTo(t, tr.announce)
	announce{from: "127.0.0.12", hash: hash, port: 1012}.mustTo(t, tr.announce).wantPeers(t, "127.0.0.9:1009")
	udp, err := net.Dial("udp", mustHost(t, tr.udp(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	waittest.Done(t, 10*time.Second, "an answer over UDP", func() error {
		_ = udp.SetDeadline(time.Now().Add(time.Second))
		_, _ = udp.Write(append(binary.BigEndian.AppendUint64(nil, 0x41727101980), 0, 0, 0, 0, 1, 2, 3, 4))
		b := make([]byte, 100)
		if n, err := udp.Read(b); err != nil || n != 16 {
			return fmt.Errorf("got %d bytes, %w", n, err)
		}
		return nil
	})

	op := tr.operator(t)
	op.turn(t, "ws", "on")
	if c, err := webPeer(tr, hash, 1); err != nil {
		t.Errorf("a WebSocket: %v", err)
	} else {
		c.Close()
	}
	for _, warned := range []string{"level=ERROR", "permission denied"} {
		if strings.Contains(tr.log(), warned) {
			t.Errorf("the log has %s:\n%s", warned, tr.log())
		}
	}
	tr.stop(t)

	files := 0
	err = filepath.WalkDir(tr.dataDir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		files++
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		}
		if uid := info.Sys().(*syscall.Stat_t).Uid; info.Mode().Perm() != want || uid != nobodyUID {
			t.Errorf("%s: got mode %04o of user %d, want %04o of %d", path, info.Mode().Perm(), uid, want, nobodyUID)
		}
		return nil
	})
	if err != nil || files < 5 { // lock, token, key of UDP, switches, snapshot
		t.Errorf("data_dir: got %d files, %v", files, err)
	}
}

// processStatus is /proc/PID/status.
func processStatus(t *testing.T, pid int) map[string]string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	status := map[string]string{}
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(line, ":")
		status[name] = strings.TrimSpace(value)
	}
	return status
}
