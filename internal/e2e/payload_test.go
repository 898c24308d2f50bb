package e2e

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/anacrolix/torrent/bencode"
	"github.com/anacrolix/torrent/metainfo"

	"spillway/internal/waittest"
)

const mib = 1 << 20

// payload is a file nobody has seen before and its torrent.
type payload struct {
	seedDir string // holds the complete file, named file
	file    string
	torrent string // path of the .torrent
	hash    metainfo.Hash
	sum     [sha256.Size]byte
}

// newPayload writes size random bytes and a private torrent that names the given trackers, each in a tier of its own.
func newPayload(t *testing.T, size int64, announce ...string) payload {
	t.Helper()
	dir := t.TempDir()
	p := payload{seedDir: filepath.Join(dir, "seed"), file: "payload.bin", torrent: filepath.Join(dir, "payload.torrent")}
	writeFile(t, filepath.Join(p.seedDir, p.file), "")
	f, err := os.Create(filepath.Join(p.seedDir, p.file))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.New()
	_, err = io.CopyN(io.MultiWriter(f, sum), rand.Reader, size)
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	sum.Sum(p.sum[:0])

	private := true
	info := metainfo.Info{PieceLength: 256 << 10, Private: &private}
	if err := info.BuildFromFilePath(filepath.Join(p.seedDir, p.file)); err != nil {
		t.Fatal(err)
	}
	mi := metainfo.MetaInfo{Announce: announce[0]}
	if len(announce) > 1 {
		for _, url := range announce {
			mi.AnnounceList = append(mi.AnnounceList, []string{url})
		}
	}
	if mi.InfoBytes, err = bencode.Marshal(info); err != nil {
		t.Fatal(err)
	}
	p.hash = mi.HashInfoBytes()
	f, err = os.Create(p.torrent)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(mi.Write(f), f.Close()); err != nil {
		t.Fatal(err)
	}
	return p
}

// arrivesIn waits until the same bytes stand in dir.
func (p payload) arrivesIn(t *testing.T, dir string) {
	t.Helper()
	waittest.Done(t, 2*time.Minute, "payload in "+dir, func() error {
		f, err := os.Open(filepath.Join(dir, p.file))
		if err != nil {
			return err
		}
		defer f.Close()
		sum := sha256.New()
		n, err := io.Copy(sum, f)
		if err != nil {
			return err
		}
		if [sha256.Size]byte(sum.Sum(nil)) != p.sum {
			return fmt.Errorf("SHA-256 differs after %d bytes", n)
		}
		return nil
	})

}
