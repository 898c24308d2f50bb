package console

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"spillway/internal/admin"
	"spillway/internal/config"
)

type blockCmd struct {
	List   blockListCmd   `cmd:"" default:"1" help:"List the blocks and the proposals. The default."`
	Add    blockAddCmd    `cmd:"" help:"Block requests that match."`
	Rm     blockRmCmd     `cmd:"" help:"Remove a block."`
	Accept blockAcceptCmd `cmd:"" help:"Make a block of a proposal."`
}

type blockListCmd struct{}

func (blockListCmd) Run(p *Program, c *Ctl) error {
	client, err := c.client(p)
	if err != nil {
		return err
	}
	blocks, raw, err := ask[admin.Blocks](client, http.MethodGet, "blocks", nil)
	if err != nil {
		return err
	}
	if c.JSON {
		return writeRaw(p.Stdout, raw)
	}
	return writeLines(p.Stdout, blockLines(&blocks, time.Now(), p.colour()))
}

// BlockKinds are what a block can look at.
var BlockKinds = []string{"info-hash", "peer-id", "user-agent", "source"}

// blockTarget is what a block is known by.
type blockTarget struct {
	Kind  string `arg:"" help:"info-hash, peer-id, user-agent or source."`
	Value string `arg:"" dash:"" help:"40 hex digits; a prefix of peer ids, or the word random; a prefix of user agents; an address or CIDR. %XX stands for a byte that is not printable."`
}

// Validate is called by the parser, of the commands that embed t.
func (t *blockTarget) Validate() error {
	switch {
	case t.Kind == "":
		return nil // the parser says so
	case t.Value == "":
		return errors.New("value: none given; an empty one would match everybody")
	}
	return knownWord("kind", t.Kind, BlockKinds)
}

// path is where a block is in the API. The values . and .. would be taken for directories on the way, so they go behind it.
func (t *blockTarget) path() string {
	if t.Value == "." || t.Value == ".." {
		return "blocks/" + t.Kind + "?value=" + url.QueryEscape(t.Value)
	}
	return "blocks/" + t.Kind + "/" + url.PathEscape(t.Value)
}

type blockAddCmd struct {
	blockTarget
	For    config.Duration `placeholder:"TIME" help:"Ends by itself after this time, as 1h. None: stays until it is removed."`
	Reason string          `placeholder:"TEXT" help:"Why, for whoever looks at it next."`

	Cluster bool `help:"On all nodes that share a Redis (store.kind redis), those too that are down and come back."`
}

func (cmd *blockAddCmd) Run(p *Program, c *Ctl) error {
	client, err := c.client(p)
	if err != nil {
		return err
	}
	return addBlock(p, c, client, cmd.blockTarget, change{For: forText(cmd.For), Reason: cmd.Reason, Cluster: cmd.Cluster})
}

func addBlock(p *Program, c *Ctl, client *client, t blockTarget, with change) error {
	b, raw, err := ask[admin.Block](client, http.MethodPut, t.path(), with)
	if err != nil {
		return err
	}
	if c.JSON {
		return writeRaw(p.Stdout, raw)
	}
	_, err = fmt.Fprintln(p.Stdout, blockedText(&b, time.Now())+everywhere(with.Cluster))
	return err
}

type blockRmCmd struct {
	blockTarget
	Cluster bool `help:"On all nodes that share a Redis (store.kind redis), those too that are down and come back."`
}

func (cmd *blockRmCmd) Run(p *Program, c *Ctl) error {
	client, err := c.client(p)
	if err != nil {
		return err
	}
	var with any
	if cmd.Cluster {
		with = change{Cluster: true}
	}
	_, raw, err := ask[struct{}](client, http.MethodDelete, cmd.path(), with)
	var refused *refusedError
	if errors.As(err, &refused) && refused.code == http.StatusNotFound {
		return fmt.Errorf(`no such block: %s %s; "spillway ctl block" lists those there are`, cmd.Kind, clean(cmd.Value))
	}
	if err != nil {
		return err
	}
	if c.JSON {
		return writeRaw(p.Stdout, raw)
	}
	_, err = fmt.Fprintf(p.Stdout, "%s %s is not blocked any more%s\n", cmd.Kind, clean(cmd.Value), everywhere(cmd.Cluster))
	return err
}

type blockAcceptCmd struct {
	ID     string          `arg:"" help:"The proposal, by the ID that ctl block shows."`
	For    config.Duration `placeholder:"TIME" default:"1h" help:"Ends by itself after this time; 0s: stays until it is removed."`
	Reason string          `placeholder:"TEXT" help:"Why. None: what the proposal says."`
}

func (cmd *blockAcceptCmd) Run(p *Program, c *Ctl) error {
	client, err := c.client(p)
	if err != nil {
		return err
	}
	blocks, _, err := ask[admin.Blocks](client, http.MethodGet, "blocks", nil)
	if err != nil {
		return err
	}
	for _, proposed := range blocks.Proposed {
		if proposalID(&proposed) != strings.ToLower(cmd.ID) {
			continue
		}
		reason := cmd.Reason
		if reason == "" {
			reason = cut(clean("proposed: "+proposed.Why), maxReasonRunes)
		}
		return addBlock(p, c, client, blockTarget{proposed.Kind, proposed.Value}, change{For: forText(cmd.For), Reason: reason})
	}
	return fmt.Errorf(`no proposal %q now; "spillway ctl block" lists those there are`, cmd.ID)
}

// maxReasonRunes keeps a reason of ours within the 200 bytes the API takes, in any script.
const maxReasonRunes = 60

// proposalID names a proposal. It comes from what is proposed and not from its place in the list, which may have moved since
// the operator looked: accepting the wrong one would lock people out.
func proposalID(p *admin.Proposal) string {
	sum := sha256.Sum256([]byte(p.Kind + "\x00" + p.Value))
	return hex.EncodeToString(sum[:3])
}
