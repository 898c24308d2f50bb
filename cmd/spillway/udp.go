package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"

	"spillway/internal/datadir"
	"spillway/internal/listen"
	"spillway/tracker"
)

// udpKeyFile, in the data directory, holds what connection ids are made with, so that those of before a restart hold after it.
const udpKeyFile = "udp.key"

// openUDP binds udp.listen.
func (s *server) openUDP() (err error) {
	cfg := s.cfg.UDP
	if len(cfg.Listen) == 0 {
		return nil
	}
	key, err := udpKey(filepath.Join(s.cfg.DataDir, udpKeyFile), s.log)
	if err != nil {
		return err
	}
	// A core's socket has packets as long as a flood lasts, so its goroutine never gives its processor of Go's back for long. With
	// one more for each, HTTP has all it had, as with loops of WebSockets.
	cores := min(runtime.NumCPU(), runtime.GOMAXPROCS(0))
	s.udp, err = s.tracker.ListenUDP(tracker.UDPConfig{Addrs: cfg.Listen, Sockets: cores, ReceiveBuffer: int(cfg.ReceiveBuffer), Key: key})
	if err != nil {
		return err
	}
	if n := runtime.GOMAXPROCS(0); n > 1 {
		runtime.GOMAXPROCS(n + cores)
	}
	if got, want := s.udp.QueueBytes(), 2*int(cfg.ReceiveBuffer); got < want {
		s.log.Warn("udp.receive_buffer cut by the kernel, so bursts of packets may be dropped; raise net.core.rmem_max (sysctl), or give CAP_NET_ADMIN",
			"wanted", cfg.ReceiveBuffer.String(), "got_bytes", got/2)
	}
	return nil
}

// udpKey reads the key, or makes it at the first start. One that is damaged is made anew: clients then connect again.
func udpKey(file string, log *slog.Logger) (key [tracker.UDPKeyBytes]byte, err error) {
	b, err := os.ReadFile(file)
	if err == nil && len(b) == len(key) {
		return [tracker.UDPKeyBytes]byte(b), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return key, fmt.Errorf("data_dir: %w", err)
	}
	if _, err := io.ReadFull(rand.Reader, key[:]); err != nil {
		return key, err
	}
	if err := datadir.Replace(file, key[:]); err != nil {
		log.Warn("key of UDP's connection ids not kept: clients have to connect anew after a restart; free or repair the disk of data_dir", "err", err)
	}
	return key, nil
}

func (s *server) serveUDP() {
	if s.udp == nil {
		return
	}
	s.serves.Go(func() {
		if err := s.udp.Serve(); err != nil {
			select {
			case s.failed <- fmt.Errorf("udp.listen: %w", err):
			default: // one is enough to end
			}
		}
	})
}

func (s *server) closeUDP() {
	if s.udp != nil {
		s.udp.Close()
	}
}

// writeUDPMetrics is there when UDP is.
func (s *server) writeUDPMetrics(w io.Writer) {
	if s.udp != nil {
		s.udp.WriteMetrics(w)
	}
}

// udpPorts are those the kernel can drop blocked sources at.
func (s *server) udpPorts() (ports []uint16) {
	if s.udp != nil {
		for _, a := range s.udp.Addrs() {
			ports = append(ports, a.Port())
		}
	}
	return ports
}

// udpURL is what to paste into a torrent, "" without UDP.
func (s *server) udpURL() string {
	if s.udp == nil {
		return ""
	}
	return listen.AnnounceURL("udp", s.udp.Addrs()[0])
}
