//go:build e2e

package e2e

import (
	"fmt"
	"image"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/anacrolix/torrent/metainfo"
)

// TestPagesInChromium shows the public pages to a browser, wide and on a phone. go test -artifacts keeps the pictures.
func TestPagesInChromium(t *testing.T) {
	t.Parallel()
	tr := serve(t)
	announce{from: "127.0.0.2", hash: metainfo.HashBytes([]byte(t.Name())), port: 1002, left: 1}.mustTo(t, tr.announce)
	profile := t.TempDir()
	for _, page := range []struct{ path, text string }{
		{"/", tr.announce},
		{"/stats", "announces"},
	} {
		dom, err := chromium(profile, "--dump-dom", tr.page(page.path))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(dom, page.text) {
			t.Errorf("%s: got %.500q, want %q in it", page.path, dom, page.text)
		}
		for _, size := range []image.Point{{1200, 800}, {390, 844}} {
			name := fmt.Sprintf("page%s-%d.png", strings.ReplaceAll(page.path, "/", "-"), size.X)
			picture := filepath.Join(t.ArtifactDir(), name)
			if _, err := chromium(profile, "--screenshot="+picture, fmt.Sprintf("--window-size=%d,%d", size.X, size.Y), tr.page(page.path)); err != nil {
				t.Fatal(err)
			}
			wantPicture(t, picture, size)
		}
	}
	tr.stop(t)
}

func chromium(profile string, args ...string) (string, error) {
	// --no-sandbox: it refuses to run as root with one.
	return output(append([]string{"chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
		"--no-first-run", "--hide-scrollbars", "--user-data-dir=" + profile}, args...)...)
}

// wantPicture: the size asked for, and something on it.
func wantPicture(t *testing.T, path string, size image.Point) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	img, err := png.Decode(f)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	if got := img.Bounds().Size(); got != size {
		t.Errorf("%s: got %v, want %v", path, got, size)
	}
	colours := make(map[string]bool)
	for y := 0; y < size.Y; y += 3 {
		for x := 0; x < size.X; x += 3 {
			colours[fmt.Sprint(img.At(x, y))] = true
		}
	}
	if len(colours) < 8 { // text is drawn in shades
		t.Errorf("%s: got %d colours, want a page with text", path, len(colours))
	}
}
