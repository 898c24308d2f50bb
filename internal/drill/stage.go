package drill

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"spillway/internal/lab"
)

// stage is a lab with everything in it that both runs have.
type stage struct {
	lab     *lab.Lab
	machine *lab.Machine
	relay   *lab.Running
	target  netip.AddrPort // of clients
	dir     string
}

// frontTimeout is how long the CDN waits for a connection to its origin; Cloudflare's gives up after 15 to 19 s.
const frontTimeout = 15

// build makes the stage for a run.
func (d *drill) build(name string) (_ *stage, err error) {
	s := &stage{dir: filepath.Join(d.dir, name)}
	if err := os.Mkdir(s.dir, 0o755); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.lab, err = lab.New(lab.Config{}); err != nil {
		return nil, err
	}
	flags := []string{"--admin.listen=127.0.0.1:7070", "--udp.listen=", fmt.Sprintf("--shedder.memory_max=%dMiB", backendMemory>>20)}
	contender := lab.Spillway(d.Program, "kernel")
	if name != Protected {
		flags = append(flags, "--shedder.enabled=false")
		contender = lab.DNAT(false)
	}
	dirOf := func(part string) string {
		path := filepath.Join(s.dir, part)
		err = errors.Join(err, os.Mkdir(path, 0o755))
		return path
	}
	backend, relay, front := dirOf("backend"), dirOf("relay"), dirOf("cdn")
	if err != nil {
		return nil, err
	}
	if s.machine, err = s.lab.NewMachine(d.Program, backend, backendShare, backendMemory, flags...); err != nil {
		return nil, fmt.Errorf("backend: %w", err)
	}
	if s.relay, err = s.lab.Start(contender, relay); err != nil {
		return nil, fmt.Errorf("relay: %w", err)
	}
	s.target = lab.Public(false)
	if lab.MissingFront() == nil {
		if s.target, err = lab.Front(s.lab, front, frontTimeout); err != nil {
			return nil, fmt.Errorf("CDN: %w", err)
		}
	}
	return s, nil
}

// close takes everything down.
func (s *stage) close() (err error) {
	if s.relay != nil {
		s.relay.Stop()
	}
	if s.machine != nil {
		_, _, err = s.machine.Stop()
	}
	if s.lab != nil {
		s.lab.Close()
	}
	return err
}

// measure is what the backend serves when it is always busy and never overloaded: in the best half of a second, since a machine that does
// other things too would have the drill be one of nobody.
func (d *drill) measure(ctx context.Context) (peak float64, err error) {
	s, err := d.build("measure")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	const measured, turn = 3 * time.Second, 500 * time.Millisecond
	who := &clientele{target: s.target, many: 10_000, squeeze: d.squeeze, side: honestSide}
	load := &lab.Load{Target: s.target, AtOnce: 100, Tries: -1, Request: who.announce, Judge: judgeAnnounce}
	if err := s.lab.Load(load); err != nil {
		return 0, err
	}
	waitErr := wait(ctx, measured)
	tally, err := load.Stop(time.Second)
	if err = errors.Join(waitErr, err); err != nil {
		return 0, err
	}
	for from := time.Duration(0); from < measured; from += turn {
		peak = max(peak, float64(tally.Attempts.Between(from, from+turn).Count(lab.OK))/turn.Seconds())
	}
	if peak == 0 {
		return 0, fmt.Errorf("the backend served nothing: %s", tally.Attempts)
	}
	return peak, nil
}
