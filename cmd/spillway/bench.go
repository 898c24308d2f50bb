package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
	"time"

	"spillway/internal/flood"
)

type benchCmd struct {
	Announce benchAnnounceCmd `cmd:"" help:"Announce over HTTP at a steady rate; with --vs at two trackers in turn, and compare."`
	Scrape   benchScrapeCmd   `cmd:"" help:"The same with scrapes of several torrents."`
	WS       benchWSCmd       `cmd:"" name:"ws" help:"The same over WebSockets, as WebTorrent does."`
	UDP      benchUDPCmd      `cmd:"" name:"udp" help:"The same over UDP, announces and scrapes."`
	Flood    benchFloodCmd    `cmd:"" help:"Flood a tracker on this machine, in phases and ways of one's own, and report what it still served."`
	Plot     benchPlotCmd     `cmd:"" help:"Draw the results of several floods side by side."`
}

type benchFloodCmd struct {
	Target string `arg:"" help:"ADDRESS:PORT, with or without http:// and a path. Loopback, or a private address of this machine."`

	Mode     string        `default:"keepalive" enum:"keepalive,close,scrape,udp,udp-connect,ws-announce,ws-handshake,ws-message,ws-offers,ws-slow" help:"${enum}."`
	Rate     float64       `help:"Requests a second where the profile says 1."`
	FindPeak bool          `help:"Find what the target serves at most, for 5 s, and take that as --rate."`
	Profile  string        `default:"10s@1" help:"Phases: how long, @, how many times the rate, and /share of attack requests if it is not --share."`
	Conns    int           `default:"1000" help:"Kept connections or WebSockets; with --mode=close the most that are open at once."`
	Threads  int           `default:"1" help:"Each with connections of its own."`
	Cores    []int         `help:"Core of each thread. None: any."`
	Good     time.Duration `default:"200ms" help:"A reply is good within this time of when its request was due."`
	Patience time.Duration `default:"200ms" help:"What a request waits for a connection; then it is unsent. Below 0: not at all."`
	Timeout  time.Duration `default:"5s" help:"A connection without a reply is given up after this."`
	GoodKey  string        `placeholder:"KEY" help:"Key that served replies have and shed ones have not. Default: external ip, of scrapes files; for announces at other trackers: complete."`

	Source        string  `default:"real" enum:"real,header" help:"real: each connection has an address of its own; header: it is in --header, as behind a proxy."`
	Header        string  `default:"X-Forwarded-For" help:"For --source=header."`
	Bind          string  `placeholder:"CIDR" help:"Of the source addresses. Default: 127.0.0.0/8, in a header 10.0.0.0/8."`
	Honest        int     `default:"10000" help:"Addresses that honest requests come from."`
	Attackers     int     `help:"Addresses that attack requests come from."`
	Share         float64 `default:"0.9" help:"Of attack requests, if there are attackers."`
	RandomPeerIDs bool    `name:"random-peer-ids" help:"Attackers have a new peer id for each request."`
	Torrents      int     `default:"1000" help:"How many are announced."`
	Offers        int     `help:"Of a WebSocket announce. 0: 5 to 10; with ws-announce none."`
	Hashes        int     `default:"10" help:"Torrents of a scrape."`
	Scrapes       float64 `help:"Share of scrapes over UDP."`

	Name string `help:"Of the run, for reports."`
	JSON string `type:"path" placeholder:"FILE" help:"Write the result there."`
	HTML string `type:"path" placeholder:"FILE" help:"Write a page with plots there."`
	SVG  string `type:"path" placeholder:"FILE" help:"Write the plots there."`
}

// Help is shown by bench flood --help.
func (benchFloodCmd) Help() string {
	return `Requests are due at fixed times whatever becomes of the earlier ones, and latency counts from when a request was due: a tracker that ` +
		`stalls is charged with all that came meanwhile. Calm, flood, calm: --profile=10s@0.5,60s@10,30s@0.5.

Only loopback addresses and private addresses of this machine, or on the other side of a veth pair of it, are flooded, for ten minutes at most. ` +
		`There is no flag that changes this: a flood over a network harms more than its target.

A reply is good when it is a whole HTTP 200 with --good-key in time; late, if only that was missed; shed, without the key; failed, otherwise.`
}

func (c *benchFloodCmd) Run(p *program) error {
	cfg, err := c.config()
	if err != nil {
		return err
	}
	line := newProgressLine(p)
	cfg.Progress = func(now flood.Progress) {
		line.show(now, fmt.Sprintf("x%g", now.Phase.Multiple), now.At, now.Total)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	peak := 0.0
	if c.FindPeak {
		fmt.Fprintln(p.stderr, "finding the peak, 5 s")
		if peak, err = flood.FindPeak(ctx, cfg, 5*time.Second); err != nil {
			return err
		}
		cfg.Rate = peak
		fmt.Fprintf(p.stderr, "peak: %.0f requests/s\n", peak)
	}
	r, err := flood.Run(ctx, cfg)
	line.end()
	if err != nil {
		return err
	}
	r.Peak = peak
	return errors.Join(r.Print(p.stdout), c.write(r))
}

func (c *benchFloodCmd) config() (flood.Config, error) {
	target, path, err := flood.ParseTarget(c.Target)
	if err != nil {
		return flood.Config{}, err
	}
	profile, err := flood.ParseProfile(c.Profile)
	if err != nil {
		return flood.Config{}, err
	}
	if c.Rate > 0 == c.FindPeak {
		return flood.Config{}, errors.New("bench flood: give --rate or --find-peak, one of them")
	}
	cfg := flood.Config{
		Name: c.Name, Target: target, Path: path, Mode: flood.Mode(c.Mode), Rate: c.Rate, Profile: profile, Conns: c.Conns, Threads: c.Threads, Cores: c.Cores,
		Good: c.Good, Patience: c.Patience, Timeout: c.Timeout, GoodKey: c.GoodKey, Source: c.Source, Header: c.Header, Honest: c.Honest,
		Attackers: c.Attackers, Share: c.Share, RandomPeerIDs: c.RandomPeerIDs, Torrents: c.Torrents, Offers: c.Offers,
		Hashes: c.Hashes, Scrapes: c.Scrapes,
	}
	if cfg.Patience == 0 {
		cfg.Patience = -1
	}
	if c.Bind != "" {
		if cfg.Bind, err = netip.ParsePrefix(c.Bind); err != nil {
			return flood.Config{}, fmt.Errorf("bench flood: --bind: %w", err)
		}
	}
	return cfg, nil
}

// write makes the files that were asked for.
func (c *benchFloodCmd) write(r *flood.Result) error {
	title := "Flood: " + c.Mode
	if c.Name != "" {
		title = c.Name
	}
	err := writeReport(c.JSON, r)
	if c.HTML != "" {
		err = errors.Join(err, os.WriteFile(c.HTML, flood.Page(title, r), 0o644))
	}
	if c.SVG != "" {
		err = errors.Join(err, os.WriteFile(c.SVG, flood.SVG(r), 0o644))
	}
	return err
}

// writeReport makes a report's file, if there is to be one.
func writeReport(path string, report any) error {
	if path == "" {
		return nil
	}
	b, err := json.MarshalIndent(report, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

type benchPlotCmd struct {
	Files []string `arg:"" type:"existingfile" help:"Results that bench wrote with --json: a flood's, or all rounds of a trial."`
	HTML  string   `type:"path" placeholder:"FILE" help:"Write a page there."`
	SVG   string   `type:"path" placeholder:"FILE" help:"Write a picture there. Neither: the picture goes to the output."`
	Title string   `default:"Floods" help:"Of the page."`
}

// maxResults is what still fits on a page.
const maxResults = 12

func (c *benchPlotCmd) Run(p *program) error {
	var runs []*flood.Result
	for _, path := range c.Files {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var file struct {
			flood.Result
			RunsA []*flood.Result `json:"runs_a"` // of a trial
			RunsB []*flood.Result `json:"runs_b"`
		}
		if err := json.Unmarshal(b, &file); err != nil {
			return fmt.Errorf("bench plot: %s: %w", path, err)
		}
		if rounds := append(file.RunsA, file.RunsB...); len(rounds) > 0 {
			runs = append(runs, rounds...)
		} else {
			runs = append(runs, &file.Result)
		}
	}
	if len(runs) > maxResults {
		return fmt.Errorf("bench plot: %d results; %d at most", len(runs), maxResults)
	}
	var err error
	if c.HTML != "" {
		err = os.WriteFile(c.HTML, flood.Page(c.Title, runs...), 0o644)
	}
	if c.SVG != "" {
		err = errors.Join(err, os.WriteFile(c.SVG, flood.SVG(runs...), 0o644))
	}
	if c.HTML == "" && c.SVG == "" {
		_, err = p.stdout.Write(flood.SVG(runs...))
	}
	return err
}
