package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"spillway/internal/flood"
)

// benchTrial is what bench announce, scrape, ws and udp have in common.
type benchTrial struct {
	VS     string `name:"vs" placeholder:"URL" help:"A second tracker, B. Both are asked in turn, A B A B, and compared."`
	Rounds int    `default:"3" help:"Of each. A verdict needs 3 or more; for one that is to be published take 7."`

	Rate        float64       `default:"1000" help:"Requests a second. They are due at fixed times, whatever becomes of the earlier ones."`
	Duration    time.Duration `default:"10s" help:"Of a round."`
	Warmup      time.Duration `default:"2s" help:"Before the first round of each: fills its torrents, and is not counted."`
	Connections int           `default:"500" help:"Connections, WebSockets or UDP sockets, each with an address of its own on loopback."`
	Torrents    int           `default:"1000" help:"How many different ones are asked for."`
	Good        time.Duration `default:"200ms" help:"An answer is good within this time of when its request was due."`

	Attackers int     `placeholder:"N" help:"Addresses that attack. The honest ones are reported apart from them."`
	Share     float64 `default:"0.9" help:"Of attack requests in --rate, if there are attackers."`

	Threads int    `default:"1" help:"Of the generator: more where it says that it was late."`
	Bind    string `placeholder:"CIDR" help:"Addresses to ask from; for a target that is not on loopback they must be this machine's. Default: 127.0.0.0/8."`
	JSON    string `type:"path" placeholder:"FILE" help:"Write all figures there."`
	HTML    string `type:"path" placeholder:"FILE" help:"Write a page with plots there."`
}

const benchTrialHelp = `

Latency counts from when a request was due, not from when it could be sent: a tracker that stalls is charged with all that came meanwhile. ` +
	`With --vs the verdict says how many times A's figures B has, with the least and the most of the rounds. A difference is called one only ` +
	`if all rounds agree on it.

Only loopback addresses and private addresses of this machine, or on the other side of a veth pair of it, are asked. There is no flag that changes ` +
	`this. Phases, source headers, handshake floods and the like: spillway bench flood.`

// run makes a trial of load, whose shape is the command's.
func (c *benchTrial) run(p *program, command, what, url string, load flood.Config, schemes ...string) error {
	plan := flood.Plan{Command: command, What: what, Rounds: c.Rounds, Length: c.Duration, Warmup: c.Warmup, Load: load}
	var err error
	if plan.A, err = subjectOf(url, schemes); err != nil {
		return err
	}
	if c.VS != "" {
		if plan.B, err = subjectOf(c.VS, schemes); err != nil {
			return fmt.Errorf("--vs: %w", err)
		}
	}
	l := &plan.Load
	l.Rate, l.Conns, l.Torrents, l.Good, l.Threads = c.Rate, c.Connections, c.Torrents, c.Good, c.Threads
	l.Attackers, l.Share = c.Attackers, c.Share
	l.Patience = c.Good // what still can be good is not given up
	if c.Bind != "" {
		if l.Bind, err = netip.ParsePrefix(c.Bind); err != nil {
			return fmt.Errorf("--bind: %w", err)
		}
	}
	line := newProgressLine(p)
	plan.Progress = func(now flood.TrialProgress) {
		label := fmt.Sprintf("%s %d/%d", now.Subject, now.Round, now.Rounds)
		if now.Round == 0 {
			label = now.Subject + " warm-up"
		}
		line.show(now.Progress, strings.TrimSpace(label), now.Done, now.Whole)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	t, err := flood.RunTrial(ctx, plan)
	line.end()
	if err != nil {
		return err
	}
	return errors.Join(t.Print(p.stdout), c.write(t))
}

func subjectOf(url string, schemes []string) (flood.Subject, error) {
	target, path, err := flood.ParseURL(url, schemes...)
	return flood.Subject{URL: url, Target: target, Path: path}, err
}

func (c *benchTrial) write(t *flood.Trial) error {
	err := writeReport(c.JSON, t)
	if c.HTML != "" {
		err = errors.Join(err, os.WriteFile(c.HTML, flood.TrialPage(t), 0o644))
	}
	return err
}

type benchAnnounceCmd struct {
	URL     string `arg:"" help:"As http://127.0.0.1:6969/announce."`
	Fresh   bool   `help:"A connection for each announce, as clients do; else they are kept, as a CDN does."`
	GoodKey string `default:"complete" help:"Key that a served reply has and a shed one has not."`
	benchTrial
}

// Help is shown by bench announce --help.
func (benchAnnounceCmd) Help() string {
	return "Does it bear what it gets? Which of two is faster? What of an attack?\n\n" +
		"  spillway bench announce http://127.0.0.1:6969/announce --rate=5000\n" +
		"  spillway bench announce http://127.0.0.1:6969/announce --vs http://127.0.0.1:7979/announce --html=ab.html\n" +
		"  spillway bench announce http://127.0.0.1:6969/announce --rate=20000 --attackers=500" + benchTrialHelp
}

func (c *benchAnnounceCmd) Run(p *program) error {
	load := flood.Config{Mode: flood.KeepAlive, GoodKey: c.GoodKey}
	if c.Fresh {
		load.Mode = flood.Close
	}
	return c.run(p, "announce", "announces", c.URL, load, "http")
}

type benchScrapeCmd struct {
	URL    string `arg:"" help:"The announce URL, as http://127.0.0.1:6969/announce."`
	Hashes int    `default:"10" help:"Torrents of one scrape."`
	benchTrial
}

// Help is shown by bench scrape --help.
func (benchScrapeCmd) Help() string {
	return "The warm-up announces, so that there is something to count: a scrape that is answered with zeros counts as shed. " +
		"Spillway's own shedder gives up scrapes early." + benchTrialHelp
}

func (c *benchScrapeCmd) Run(p *program) error {
	return c.run(p, "scrape", "scrapes", c.URL, flood.Config{Mode: flood.Scrape, Hashes: c.Hashes}, "http")
}

type benchWSCmd struct {
	URL    string `arg:"" help:"As ws://127.0.0.1:6969."`
	Offers int    `default:"5" help:"Of each announce, 2 KiB each."`
	benchTrial
}

// Help is shown by bench ws --help.
func (benchWSCmd) Help() string {
	return "One announce is on its way on each WebSocket at most, and its reply is waited for. What others' offers bring is read and not answered. " +
		"Spillway drops what one WebSocket announces more than 10 times a second (ws.rate): take a tenth of --rate as --connections, or more. Over " +
		"WebSockets an announce that is shed is answered as others are, and counts as good." + benchTrialHelp
}

func (c *benchWSCmd) Run(p *program) error {
	return c.run(p, "ws", "WebSocket announces", c.URL, flood.Config{Mode: flood.WSAnnounce, Offers: c.Offers}, "ws", "http")
}

type benchUDPCmd struct {
	URL     string  `arg:"" help:"As udp://127.0.0.1:6969."`
	Scrapes float64 `default:"0.1" help:"Share of scrapes; the others are announces."`
	Hashes  int     `default:"10" help:"Torrents of one scrape."`
	Connect bool    `help:"Ask for a connection id before each request, as a client does that announces twice an hour; else one is used for a minute."`
	benchTrial
}

// Help is shown by bench udp --help.
func (benchUDPCmd) Help() string {
	return "BEP 15. A packet that is lost is not sent again: it has failed after two seconds. A success without counts and peers, which is how a tracker " +
		"refuses over UDP, counts as shed." + benchTrialHelp
}

func (c *benchUDPCmd) Run(p *program) error {
	load := flood.Config{Mode: flood.UDP, Scrapes: c.Scrapes, Hashes: c.Hashes, Timeout: 2 * time.Second}
	if c.Connect {
		load.Mode = flood.UDPConnect
	}
	return c.run(p, "udp", "UDP requests", c.URL, load, "udp")
}
