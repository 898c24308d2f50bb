package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"spillway/internal/admin"
	"spillway/internal/cluster"
	"spillway/shedder"
)

// clusterFile is in the data directory: the orders to all nodes that this one knows.
const clusterFile = "cluster.json"

// newCluster makes this one of the nodes that share a Redis. It comes before the store and the WebSockets, which ask it who is there.
func (s *server) newCluster() error {
	cfg := s.cfg.Store
	if cfg.Kind != "redis" {
		return nil
	}
	if s.nodeName = cfg.Redis.Node; s.nodeName == "" {
		s.nodeName, _ = os.Hostname() // none is no reason not to serve
	}
	redis, err := s.redisConfig()
	if err != nil {
		return err
	}
	var problem error
	s.nodeURL = sync.OnceValue(func() string { return httpURL(s.door.Addrs(), s.certs != nil) })
	s.cluster, problem = cluster.New(cluster.Config{
		Redis:      redis,
		MaxMessage: int(s.cfg.WS.MaxMessage) + 1<<10,
		File:       filepath.Join(s.cfg.DataDir, clusterFile),
		Receive:    func(message []byte) { s.ws.Receive(message) },
		Apply:      s.follow,
		State:      s.nodeState,
	}, s.logs.Limited)
	if problem != nil {
		s.log.Error("file in data_dir not read", "err", problem)
	}
	return nil
}

// farNodes is the cluster as wsserver sees it.
type farNodes struct{ *cluster.Node }

func (f farNodes) Send(node [4]byte, message []byte) bool { return f.Node.Send(node, message) }

func (s *server) writeClusterMetrics(w io.Writer) {
	if s.cluster != nil {
		s.cluster.WriteMetrics(w)
	}
}

// nodeState is what this node tells the others of itself.
func (s *server) nodeState() string {
	l := s.gate.Load()
	n := admin.Node{Name: s.nodeName, State: l.State.String(), Announce: s.nodeURL(), Version: version(), Switches: map[string]string{}}
	n.Version = n.Version[:min(len(n.Version), 64)] // all of it has to fit into cluster.maxState
	for _, st := range s.gate.Switches.All() {
		if st.Mode != shedder.On {
			n.Switches[st.Endpoint.String()] = st.Mode.String()
		}
	}
	served := 0.0
	for _, r := range l.Rates {
		served += r.Served
	}
	if all := offered(&l); all > 0 {
		n.Shed = math.Round(1000*(1-served/all)) / 1000
	}
	b, _ := json.Marshal(n) // words and a number always marshal
	return string(b)
}

// nodesStatus is nil where there are no others.
func (s *server) nodesStatus() (nodes, gone []admin.Node) {
	if s.cluster == nil {
		return nil, nil
	}
	of := func(p cluster.Peer) (n admin.Node) {
		_ = json.Unmarshal([]byte(p.State), &n) // a newer node may say more, an older one less
		n.ID, n.Self = p.ID.String(), p.Self
		return n
	}
	for _, p := range s.cluster.Peers() {
		nodes = append(nodes, of(p))
	}
	for _, g := range s.cluster.Gone() {
		n := of(g.Peer)
		n.HeardAt = &g.At
		again := func(other admin.Node) bool { return other.Name == n.Name && other.Announce == n.Announce }
		if !slices.ContainsFunc(nodes, again) && !slices.ContainsFunc(gone, again) {
			gone = append(gone, n)
		}
	}
	return nodes, gone
}

// An order to all nodes is about "switch ENDPOINT" or "block KIND VALUE", and says this.
type orderText struct {
	Mode    string `json:"mode,omitempty"`    // of a switch
	Blocked bool   `json:"blocked,omitempty"` // of a block; false: not any more
	Reason  string `json:"reason,omitempty"`
	By      string `json:"by"`
}

// keepSwitch is how long it is remembered that a switch was turned for a time: a node that comes back after it is to turn back too. There
// are four.
const keepSwitch = 50 * 365 * 24 * time.Hour

// keepUnblocked is how long it is remembered that something is not blocked any more: a node that was down for longer goes on to block
// it.
const keepUnblocked = 30 * 24 * time.Hour

// checkCluster comes before a change: without other nodes nothing is to be changed for them.
func (s *server) checkCluster(o admin.Order) error {
	if o.Cluster && s.cluster == nil {
		return errors.New("cluster: this node has no others to tell; they share a Redis, which store.kind redis does")
	}
	return nil
}

func (s *server) shareSwitch(st shedder.SwitchState, o admin.Order, err error) error {
	return s.share(o, err, "switch "+st.Endpoint.String(), orderText{Mode: st.Mode.String(), Reason: o.Reason}, keepSwitch)
}

func (s *server) shareBlock(r shedder.Rule, o admin.Order, err error) error {
	return s.share(o, err, "block "+r.Kind.String()+" "+r.Value, orderText{Blocked: true, Reason: o.Reason}, 0)
}

func (s *server) shareUnblock(kind shedder.RuleKind, value string, o admin.Order, err error) error {
	if canonical, ok := shedder.CanonicalRule(kind, value); ok {
		value = canonical
	}
	o.For = 0
	return s.share(o, err, "block "+kind.String()+" "+value, orderText{Reason: o.Reason}, keepUnblocked)
}

// share tells all nodes what was done here, if that is asked for and was done.
func (s *server) share(o admin.Order, err error, what string, text orderText, keep time.Duration) error {
	if !o.Cluster || err != nil && !errors.Is(err, shedder.ErrNotDurable) {
		return err
	}
	text.By = s.nodeName + " " + o.By
	b, _ := json.Marshal(text)
	if o.For == 0 && text.Mode != "" {
		keep = 0 // for ever
	}
	untold := s.cluster.Order(context.Background(), what, string(b), o.For, keep)
	switch {
	case untold == nil:
		return err
	case err == nil:
		return fmt.Errorf("%w: %w", admin.ErrNotShared, untold)
	}
	return fmt.Errorf("%w; %w: %w", err, admin.ErrNotShared, untold)
}

// follow does what an order to all nodes says, unless this node's own operator has said something later.
func (s *server) follow(o cluster.Order) {
	var text orderText
	kind, about, _ := strings.Cut(o.What, " ")
	err := json.Unmarshal([]byte(o.Text), &text)
	if err == nil {
		switch kind {
		case "switch":
			err = s.followSwitch(o, about, text)
		case "block":
			err = s.followBlock(o, about, text)
		default:
			err = fmt.Errorf("about %.40q, which this version does not know", kind)
		}
	}
	if err != nil {
		// Limited: whoever can write to Redis can give as many as he likes.
		s.logs.Limited.Error("an order to all nodes was not followed here whole", "what", o.What, "by", text.By, "err", err)
	}
}

// timeLeft is for how long an order is still in force. Past tells that it is not.
func timeLeft(o cluster.Order) (d time.Duration, past bool) {
	if o.Until.IsZero() {
		return 0, false
	}
	d = time.Until(o.Until)
	return min(max(d, shedder.MinFor), shedder.MaxFor), d <= 0
}

func (s *server) followSwitch(o cluster.Order, about string, text orderText) error {
	e, err := shedder.ParseEndpoint(about)
	if err != nil {
		return err
	}
	mode, err := shedder.ParseMode(text.Mode)
	if err != nil {
		return err
	}
	mine := s.gate.Switches.Ordered(e)
	if mine.Since.After(o.At) {
		s.logs.Limited.Info("switch stays: it was turned here after all nodes were told", "endpoint", about, "mode", mine.Mode.String(), "told", mode.String())
		return nil
	}
	d, past := timeLeft(o)
	if past {
		if mode, d, text.Reason = shedder.On, 0, "its time was up"; mine.Mode == mode {
			return nil
		}
	}
	_, err = s.gate.Switches.Set(e, mode, d, text.Reason, clusterBy(text.By))
	return err
}

func (s *server) followBlock(o cluster.Order, about string, text orderText) error {
	name, value, _ := strings.Cut(about, " ")
	kind, err := shedder.ParseRuleKind(name)
	if err != nil {
		return err
	}
	mine, have := s.gate.Rules.Find(kind, value)
	if have && mine.Since.After(o.At) {
		return nil
	}
	d, past := timeLeft(o)
	if !text.Blocked || past {
		_, err = s.gate.Rules.Remove(kind, value)
		return err
	}
	_, err = s.gate.Rules.Add(kind, value, d, text.Reason, clusterBy(text.By))
	return err
}

// clusterBy says who gave an order, and where.
func clusterBy(by string) string {
	const most = 100 // bytes; what the shedder keeps
	return strings.ToValidUTF8(by[:min(len(by), most)], "")
}
