package console

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/alecthomas/kong"

	"spillway/internal/admin"
	"spillway/internal/config"
)

// Ctl talks to a running spillway by its admin API. It has no other way in: what it can do, a script with the token can.
type Ctl struct {
	Admin     string        `placeholder:"ADDR" help:"Where the admin side listens: HOST:PORT, unix:/path, http://HOST or https://HOST. None: admin.listen of the configuration, which is 127.0.0.1:7070 if nobody set it."`
	TokenFile string        `placeholder:"FILE" help:"File that holds the admin token. None: $SPILLWAY_ADMIN_TOKEN, admin.token of the configuration, or the file admin.token in data_dir."`
	Relay     bool          `help:"Ask the relay, at relay.admin.listen, and not the tracker. It goes with status and top."`
	JSON      bool          `name:"json" help:"Print what the API answers, as it is."`
	Timeout   time.Duration `default:"5s" help:"Time one answer may take."`

	Status   statusCmd `cmd:"" help:"Show how the tracker fares: load, switches, connections, memory."`
	Top      topCmd    `cmd:"" help:"The same, live: who asks most as well. Switches WebSockets off at a key."`
	Announce switchCmd `cmd:"" help:"Show or turn the switch of announces over HTTP."`
	Scrape   switchCmd `cmd:"" help:"Show or turn the switch of scrapes over HTTP."`
	WS       switchCmd `cmd:"" name:"ws" help:"Show or turn the switch of WebSockets."`
	UDP      switchCmd `cmd:"" name:"udp" help:"Show or turn the switch of UDP."`
	Block    blockCmd  `cmd:"" help:"List what is blocked and what is proposed for it; add, rm, accept."`
	Limits   limitsCmd `cmd:"" help:"List the bounds that can be moved while it runs; set one."`
	Page     pageCmd   `cmd:"" help:"Print the URL of the operator's page. It holds the token."`
}

// Validate is called by the parser.
func (c *Ctl) Validate(parsed *kong.Context) error {
	if err := c.validateRelay(parsed); err != nil {
		return err
	}
	if c.Timeout <= 0 {
		return fmt.Errorf("--timeout: got %s; must be longer than nothing", c.Timeout)
	}
	if c.Admin == "" {
		return nil
	}
	_, err := parsePlace(c.Admin)
	return err
}

// validateRelay refuses what a relay has not.
func (c *Ctl) validateRelay(parsed *kong.Context) error {
	selected := parsed.Selected()
	if !c.Relay || selected == nil || selected.Name == "status" || selected.Name == "top" {
		return nil
	}
	return fmt.Errorf("--relay goes with status and top, not with %s: a relay has no switches, blocks or limits; leave it out to ask the tracker", selected.Name)
}

// change is the body of a PUT.
type change struct {
	Mode   string `json:"mode,omitempty"`
	For    string `json:"for,omitempty"`
	Reason string `json:"reason,omitempty"`

	Cluster bool `json:"cluster,omitempty"`
}

type statusCmd struct {
	ExitCode bool `help:"Exit with 3 if the state is not calm; of a relay: if it is not forwarding."`
}

func (cmd *statusCmd) Run(p *Program, c *Ctl) error {
	if c.Relay {
		return cmd.runRelay(p, c)
	}
	client, err := c.client(p)
	if err != nil {
		return err
	}
	st, raw, err := ask[admin.Status](client, http.MethodGet, "status", nil)
	if err != nil {
		return err
	}
	if st.Load.State == "" {
		return fmt.Errorf("%s answers as no tracker does; if it is a relay, ask with --relay", client.place)
	}
	if c.JSON {
		err = writeRaw(p.Stdout, raw)
	} else {
		err = writeLines(p.Stdout, statusLines(&st, time.Now(), p.colour()))
	}
	if err == nil && cmd.ExitCode && st.Load.State != "calm" {
		return ExitCode(3)
	}
	return err
}

// switchCmd is the same for each endpoint, whose name is the command's.
type switchCmd struct {
	Mode   string          `arg:"" optional:"" help:"on, reject-new, drain or off. None: show how it stands."`
	For    config.Duration `placeholder:"TIME" help:"Goes back to on by itself after this time, as 10m or 1d. None: stays until somebody turns it."`
	Reason string          `placeholder:"TEXT" help:"Why, for whoever looks at it next."`

	Cluster bool `help:"On all nodes that share a Redis (store.kind redis), those too that are down and come back."`
}

// SwitchModes are what a switch can be turned to.
var SwitchModes = []string{"on", "reject-new", "drain", "off"}

// Help is shown by ctl ws --help.
func (switchCmd) Help() string {
	return `reject-new: open WebSockets stay and announces of clients that have begun are served; new ones are refused. ` +
		`drain: open WebSockets are closed over a minute, and no announce is served. off: the same, at once. ` +
		`What is not served is answered politely, so that clients come back later and not at once. ` +
		`It is on disk before this command returns, and survives a restart.`
}

// Validate is called by the parser.
func (cmd *switchCmd) Validate() error {
	switch {
	case cmd.Mode == "" && cmd.Cluster:
		return errors.New("--cluster goes with a mode: " + OrList(SwitchModes))
	case cmd.Mode == "" && (cmd.For != 0 || cmd.Reason != ""):
		return errors.New("--for and --reason go with a mode: " + OrList(SwitchModes))
	case cmd.Mode == "on" && cmd.For != 0:
		return errors.New("--for goes with a mode that ends, not with on")
	case cmd.Mode == "":
		return nil
	}
	return knownWord("mode", cmd.Mode, SwitchModes)
}

func (cmd *switchCmd) Run(p *Program, c *Ctl, parsed *kong.Context) error {
	endpoint := parsed.Selected().Name
	client, err := c.client(p)
	if err != nil {
		return err
	}
	if cmd.Mode == "" {
		return showSwitch(p, c, client, endpoint)
	}
	s, raw, err := client.turn(endpoint, change{cmd.Mode, forText(cmd.For), cmd.Reason, cmd.Cluster})
	if err != nil {
		return err
	}
	if c.JSON {
		return writeRaw(p.Stdout, raw)
	}
	_, err = fmt.Fprintln(p.Stdout, turnedText(&s, time.Duration(cmd.For), time.Now())+client.socketsAfter(s)+everywhere(cmd.Cluster))
	return err
}

// everywhere says that it is not this node alone.
func everywhere(cluster bool) string {
	if cluster {
		return "; all nodes are told"
	}
	return ""
}

// turn turns one switch.
func (c *client) turn(endpoint string, to change) (admin.Switch, []byte, error) {
	return ask[admin.Switch](c, http.MethodPut, "switches/"+endpoint, to)
}

// socketsAfter says what becomes of the WebSockets that are open. It is asked after the switch has turned, which must not
// wait for it, and an answer that does not come is no error.
func (c *client) socketsAfter(s admin.Switch) string {
	if s.Endpoint != "ws" || s.Mode == "on" {
		return ""
	}
	st, _, err := ask[admin.Status](c, http.MethodGet, "status", nil)
	switch {
	case err != nil:
		return ""
	case st.WebSockets == 0:
		return "; no WebSocket is open"
	case s.Mode == "reject-new":
		return fmt.Sprintf("; %s WebSockets stay open", count(int64(st.WebSockets)))
	case s.Mode == "drain":
		return fmt.Sprintf("; %s WebSockets are being closed over a minute", count(int64(st.WebSockets)))
	}
	return fmt.Sprintf("; %s WebSockets are being closed", count(int64(st.WebSockets)))
}

func showSwitch(p *Program, c *Ctl, client *client, endpoint string) error {
	all, _, err := ask[admin.Switches](client, http.MethodGet, "switches", nil)
	if err != nil {
		return err
	}
	for _, s := range all.Switches {
		if s.Endpoint != endpoint {
			continue
		}
		if c.JSON {
			return writeJSON(p.Stdout, s)
		}
		_, err := fmt.Fprintln(p.Stdout, switchText(&s, time.Now()))
		return err
	}
	return fmt.Errorf("the spillway at %s has no switch %q; is it older than this program?", client.place, endpoint)
}

type limitsCmd struct {
	List limitsListCmd `cmd:"" default:"1" help:"List them. The default."`
	Set  limitsSetCmd  `cmd:"" help:"Move one. It is forgotten at a restart: the configuration has the lasting value."`
}

type limitsListCmd struct{}

func (limitsListCmd) Run(p *Program, c *Ctl) error {
	client, err := c.client(p)
	if err != nil {
		return err
	}
	limits, raw, err := ask[admin.Limits](client, http.MethodGet, "limits", nil)
	if err != nil {
		return err
	}
	if c.JSON {
		return writeRaw(p.Stdout, raw)
	}
	return writeLines(p.Stdout, limitLines(limits.Limits, p.colour()))
}

type limitsSetCmd struct {
	Name  string `arg:"" help:"As http.max_conns."`
	Value int64  `arg:"" help:"A whole number."`
}

func (cmd *limitsSetCmd) Run(p *Program, c *Ctl) error {
	client, err := c.client(p)
	if err != nil {
		return err
	}
	limits, _, err := ask[admin.Limits](client, http.MethodGet, "limits", nil)
	if err != nil {
		return err
	}
	var names []string
	was := int64(0)
	for _, l := range limits.Limits {
		names = append(names, l.Name)
		if l.Name == cmd.Name {
			was = l.Value
		}
	}
	if err := knownWord("limit", cmd.Name, names); err != nil {
		return err
	}
	l, raw, err := ask[admin.Limit](client, http.MethodPut, "limits/"+cmd.Name, map[string]int64{"value": cmd.Value})
	if err != nil {
		return err
	}
	if c.JSON {
		return writeRaw(p.Stdout, raw)
	}
	_, err = fmt.Fprintf(p.Stdout, "%s is %s (was %s), until the next restart\n", clean(l.Name), count(l.Value), count(was))
	return err
}

type pageCmd struct{}

// Run asks nothing: the URL is right even while the tracker is not there.
func (pageCmd) Run(p *Program, c *Ctl) error {
	client, err := c.client(p)
	if err != nil {
		return err
	}
	url, note := client.page()
	if c.JSON {
		return writeJSON(p.Stdout, map[string]string{"url": url})
	}
	if _, err := fmt.Fprintln(p.Stdout, url); err != nil {
		return err
	}
	_, err = fmt.Fprintln(p.Stderr, note)
	return err
}

// forText is d as the API takes it; zero is not sent.
func forText(d config.Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
}
