package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/anacrolix/torrent/tracker/udp"
	"github.com/rogpeppe/go-internal/testscript"
)

// cmdUDP announces a leecher at a port over UDP, as anacrolix does.
func cmdUDP(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 || neg {
		ts.Fatalf("usage: udp udp://ADDRESS/announce PORT")
	}
	u, err := url.Parse(args[0])
	ts.Check(err)
	c, err := udp.NewConnClient(udp.NewConnClientOpts{Network: "udp4", Host: u.Host})
	ts.Check(err)
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req := udp.AnnounceRequest{InfoHash: [20]byte([]byte("aaaaaaaaaaaaaaaaaaaa")), PeerId: [20]byte([]byte("-TR4060-abcdefghijkl")), Left: 1, NumWant: -1}
	_, err = fmt.Sscan(args[1], &req.Port)
	ts.Check(err)
	h, peers, err := c.Announce(ctx, req, udp.Options{RequestUri: u.Path})
	if err != nil {
		fmt.Fprintln(ts.Stdout(), err)
		return
	}
	fmt.Fprintln(ts.Stdout(), "seeders", h.Seeders, "leechers", h.Leechers, "interval", h.Interval, "peers", peers.NodeAddrs())
}

// The key is made once, for its owner only, and made anew when it is damaged.
func TestUDPKeyIsKept(t *testing.T) {
	t.Parallel()
	log, file := slog.New(slog.DiscardHandler), filepath.Join(t.TempDir(), udpKeyFile)
	first, err := udpKey(file, log)
	if err != nil || first == [len(first)]byte{} {
		t.Fatalf("got %x, %v", first, err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v", info.Mode(), err)
	}
	if again, err := udpKey(file, log); err != nil || again != first {
		t.Errorf("again: got %x, %v, want %x", again, err, first)
	}
	if err := os.WriteFile(file, first[:7], 0o600); err != nil {
		t.Fatal(err)
	}
	other, err := udpKey(file, log)
	if err != nil || other == first {
		t.Errorf("after damage: got %x, %v", other, err)
	}
	if again, _ := udpKey(file, log); again != other {
		t.Error("the new one is not kept")
	}
	target := filepath.Join(t.TempDir(), "another's")
	if err := errors.Join(os.WriteFile(target, []byte("theirs"), 0o600), os.Remove(file), os.Symlink(target, file+".tmp")); err != nil {
		t.Fatal(err)
	}
	if _, err := udpKey(file, log); err != nil {
		t.Error(err)
	}
	if b, _ := os.ReadFile(target); string(b) != "theirs" {
		t.Errorf("written through a link: %q", b)
	}
	if key, err := udpKey(filepath.Join(t.TempDir(), "none", udpKeyFile), log); err != nil || key == first {
		t.Errorf("where nothing can be written: got %x, %v", key, err)
	}
}
