//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// session is a libtorrent of testdata/session.py.
type session struct{ *process }

func startSession(t *testing.T, p payload) session {
	return session{start(t, "libtorrent", "/usr/bin/python3", "testdata/session.py", p.torrent, t.TempDir(), fmt.Sprintf("127.0.0.1:%d", freePort(t)), "leech")}
}

// alert is a line the script prints.
type alert struct {
	Alert, URL, Message string
	Next                int // seconds
}

// alerts are those of the kinds given, so far.
func (s session) alerts(kinds ...string) (found []alert) {
	lines := bufio.NewScanner(strings.NewReader(s.log()))
	for lines.Scan() {
		var a alert
		if json.Unmarshal(lines.Bytes(), &a) != nil {
			continue // half a line
		}
		for _, kind := range kinds {
			if a.Alert == kind {
				found = append(found, a)
			}
		}
	}
	return found
}

// libtorrentFailure is in libtorrent's alert of a failure reason.
var libtorrentFailure = regexp.MustCompile(`"(.*)" \(\d+\)$`)

func (a alert) heard() heard {
	h := heard{next: time.Duration(a.Next) * time.Second}
	if a.Alert != "tracker_error_alert" {
		return h
	}
	h.says = a.Message
	if m := libtorrentFailure.FindStringSubmatch(a.Message); m != nil && m[1] != "" {
		h.says = m[1]
	}
	return h
}

// nth is the nth answer that the session has had.
func (s session) nth(n int) func() (heard, error) {
	return func() (heard, error) {
		all := s.alerts("tracker_reply_alert", "tracker_error_alert")
		if len(all) < n {
			return heard{}, fmt.Errorf("%d answers, want %d", len(all), n)
		}
		return all[n-1].heard(), nil
	}
}

func hearLibtorrent(t *testing.T, p payload) func() (heard, error) { return startSession(t, p).nth(1) }

// hearQBittorrent listens to one whose tracker's URL has that scheme.
func hearQBittorrent(t *testing.T, p payload, scheme string) func() (heard, error) {
	q := startQBittorrent(t, "switch-"+scheme)
	q.add(t, p, t.TempDir(), false)
	return func() (h heard, err error) {
		var trackers []struct {
			URL    string `json:"url"`
			Status int    `json:"status"`
			Msg    string `json:"msg"`
		}
		if err := getJSON(q.api+"torrents/trackers?hash="+p.hash.HexString(), &trackers); err != nil {
			return h, err
		}
		status := 0
		for _, tr := range trackers {
			if strings.HasPrefix(tr.URL, scheme+"://") {
				status, h.says = tr.Status, tr.Msg
			}
		}
		var properties struct{ Reannounce int }
		if err := getJSON(q.api+"torrents/properties?hash="+p.hash.HexString(), &properties); err != nil {
			return h, err
		}
		h.next = time.Duration(properties.Reannounce) * time.Second
		switch {
		case status == 2 && h.next > 0, status == 4 && h.next > 0: // working, not working
			return h, nil
		}
		return h, fmt.Errorf("status %d, next announce in %v", status, h.next)
	}
}

func hearHTTPQBittorrent(t *testing.T, p payload) func() (heard, error) {
	return hearQBittorrent(t, p, "http")
}

func hearUDPQBittorrent(t *testing.T, p payload) func() (heard, error) {
	return hearQBittorrent(t, p, "udp")
}

// transmissionTracker is what the RPC says of a tracker.
type transmissionTracker struct {
	AnnounceSucceeded bool   `json:"lastAnnounceSucceeded"`
	AnnounceResult    string `json:"lastAnnounceResult"`
	HasAnnounced      bool   `json:"hasAnnounced"`
	NextAnnounce      int64  `json:"nextAnnounceTime"`
	HasScraped        bool   `json:"hasScraped"`
	ScrapeSucceeded   bool   `json:"lastScrapeSucceeded"`
	ScrapeResult      string `json:"lastScrapeResult"`
	NextScrape        int64  `json:"nextScrapeTime"`
	LastScrape        int64  `json:"lastScrapeTime"`
}

// tracker is the only one of the only torrent.
func (tm *transmission) tracker() (s transmissionTracker, err error) {
	var reply struct {
		Torrents []struct{ TrackerStats []transmissionTracker }
	}
	err = tm.rpc("torrent-get", map[string]any{"fields": []string{"trackerStats"}}, &reply)
	if err == nil && (len(reply.Torrents) != 1 || len(reply.Torrents[0].TrackerStats) != 1) {
		err = fmt.Errorf("torrents: %+v", reply)
	}
	if err != nil {
		return s, err
	}
	return reply.Torrents[0].TrackerStats[0], nil
}

func startLoneTransmission(t *testing.T, p payload) *transmission {
	// It announces to loopback; only peers it would not dial there.
	tm := startTransmission(t, namespace{}, "127.0.0.1", t.TempDir())
	tm.add(t, p)
	return tm
}

func hearTransmission(t *testing.T, p payload) func() (heard, error) {
	tm := startLoneTransmission(t, p)
	return func() (heard, error) {
		s, err := tm.tracker()
		if err == nil && (!s.HasAnnounced || s.NextAnnounce == 0) {
			err = fmt.Errorf("%+v", s)
		}
		h := heard{next: time.Until(time.Unix(s.NextAnnounce, 0))}
		if h.says = s.AnnounceResult; s.AnnounceSucceeded && h.says == "Success" {
			h.says = ""
		}
		return h, err
	}
}

// hearAria2 starts a seeder, in whose log of all it does interval finds the interval it was told: a leecher without a peer comes back
// after two minutes, whatever that was.
func hearAria2(t *testing.T, p payload, udp bool, interval *regexp.Regexp) func() (heard, error) {
	log := filepath.Join(t.TempDir(), "debug.log")
	startAria2(t, p, p.seedDir, udp, "--log="+log, "--log-level=debug")
	return func() (heard, error) {
		b, err := os.ReadFile(log)
		if err != nil {
			return heard{}, err
		}
		m := interval.FindSubmatch(b)
		if m == nil {
			return heard{}, errors.New("no interval in its log")
		}
		sec, err := strconv.Atoi(string(m[1]))
		return heard{next: time.Duration(sec) * time.Second}, err
	}
}

var aria2Interval, aria2UDPInterval = regexp.MustCompile(`Min interval:(\d+)`), regexp.MustCompile(`UDPT received ANNOUNCE reply .*interval=(\d+)`)

func hearHTTPAria2(t *testing.T, p payload) func() (heard, error) {
	return hearAria2(t, p, false, aria2Interval)
}

func hearUDPAria2(t *testing.T, p payload) func() (heard, error) {
	return hearAria2(t, p, true, aria2UDPInterval)
}

// anacrolixNext is in the status an anacrolix client writes of a torrent.
var anacrolixNext = regexp.MustCompile(`next ann: ([0-9hms]+), last ann: ([^\n]*)`)

func hearAnacrolix(t *testing.T, p payload) func() (heard, error) {
	cl := newAnacrolix(t, "127.0.0.1", t.TempDir())
	addTorrent(t, cl, p.torrent)
	return func() (heard, error) {
		var status bytes.Buffer
		cl.WriteStatus(&status)
		m := anacrolixNext.FindSubmatch(status.Bytes())
		if m == nil {
			return heard{}, fmt.Errorf("status: %.2000s", status.Bytes())
		}
		next, err := time.ParseDuration(string(m[1]))
		return heard{next: next}, err
	}
}

// hearRTorrent asks over SCGI, as its web pages do.
func hearRTorrent(t *testing.T, p payload) func() (heard, error) {
	dir := t.TempDir()
	rc, socket := filepath.Join(dir, "rtorrent.rc"), filepath.Join(dir, "rpc")
	writeFile(t, rc, fmt.Sprintf(rtorrentRC, freePort(t), dir, t.TempDir(), p.torrent)+"network.scgi.open_local = "+socket+"\n")
	start(t, "rtorrent", "rtorrent", "-n", "-o", "import="+rc)
	tracker := p.hash.HexString() + ":t0"
	return func() (heard, error) {
		tried, err := xmlrpc(socket, "t.activity_time_last", tracker)
		if err != nil {
			return heard{}, err
		}
		next, err := xmlrpc(socket, "t.activity_time_next", tracker)
		if err != nil {
			return heard{}, err
		}
		message, err := xmlrpc(socket, "d.message", p.hash.HexString())
		if err != nil {
			return heard{}, err
		}
		last, _ := strconv.ParseInt(tried, 10, 64)
		when, _ := strconv.ParseInt(next, 10, 64)
		if last == 0 || when <= last {
			return heard{}, fmt.Errorf("last %q, next %q, %q", tried, next, message)
		}
		return heard{message, time.Until(time.Unix(when, 0))}, nil
	}
}

// xmlValue is the first value of an XML-RPC reply, which is all that is asked for here.
var xmlValue = regexp.MustCompile(`<value><(?:i4|i8|int|string)>([^<]*)<`)

// xmlrpc calls a method with one string over SCGI.
func xmlrpc(socket, method, argument string) (string, error) {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	body := fmt.Sprintf(`<?xml version="1.0"?><methodCall><methodName>%s</methodName><params><param><value><string>%s</string></value></param></params></methodCall>`, method, argument)
	head := fmt.Sprintf("CONTENT_LENGTH\x00%d\x00SCGI\x001\x00", len(body))
	if _, err := fmt.Fprintf(c, "%d:%s,%s", len(head), head, body); err != nil {
		return "", err
	}
	reply, err := io.ReadAll(c)
	if err != nil {
		return "", err
	}
	m := xmlValue.FindSubmatch(reply)
	if m == nil || bytes.Contains(reply, []byte("<fault>")) {
		return "", fmt.Errorf("%s: %s", method, reply)
	}
	return string(m[1]), nil
}
