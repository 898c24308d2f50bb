package wsserver

import (
	"fmt"
	"io"

	"github.com/VictoriaMetrics/metrics"

	"spillway/shedder"
)

// dropReason is why a message, or part of one, went nowhere.
type dropReason uint8

const (
	dropGone       dropReason = iota // its receiver has gone
	dropQueue                        // its receiver does not read (ws.max_queue): the oldest go
	dropMemory                       // all sockets together (ws.max_buffered)
	dropUnexpected                   // an answer nobody waits for
	dropPending                      // offers waiting for an answer are as many as can be remembered
	dropOffers                       // offers above ws.max_offers
	dropHashes                       // an announce above ws.max_hashes was answered, not stored
	dropNode                         // for a peer of another node, or from one: not to be reached, or not to be read
	dropCount
)

func (d dropReason) String() string {
	return [...]string{"gone", "queue", "memory", "unexpected", "pending", "max_offers", "max_hashes", "node"}[d]
}

// closeReason is why a socket ended.
type closeReason uint8

const (
	closedPeer     closeReason = iota // its peer wanted it
	closedError                       // the network did
	closedProtocol                    // broke RFC 6455, a bound, or sent too many messages without sense
	closedSlow                        // took half a minute to send a message, or took nothing for as long
	closedMemory                      // ws.max_buffered
	closedIdle                        // ws.idle
	closedDrained                     // the switch
	closedShutdown
	closeCount
)

func (c closeReason) String() string {
	return [...]string{"peer", "error", "protocol", "slow", "memory", "idle", "drained", "shutdown"}[c]
}

// counters are what the server counts:
//
//	spillway_announces_total{proto="ws",result="served"}    announces answered
//	spillway_announces_total{proto="ws",result="trimmed"}   with one offer relayed at most, in an overload
//	spillway_announces_total{proto="ws",result="shed"}      and with none
//	spillway_announces_total{proto="ws",result="off"}       refused by access list, peer id or a rule
//	spillway_announces_total{proto="ws",result="bad"}       messages without sense
//	spillway_announces_total{proto="ws",result="source"}    messages above ws.rate, dropped; or above their source's budget, as shed
//	spillway_scrapes_total{proto="ws",result}               served, bad
//	spillway_ws_relayed_total{kind}                         offers and answers sent on to peers here; offer_far, answer_far: to other nodes
//	spillway_ws_put_aside_total                             announces whose offers waited until the other nodes' peers were known
//	spillway_ws_dropped_total{reason}                       see dropReason
//	spillway_ws_refused_total{reason}                       handshakes, see refusal
//	spillway_ws_opened_total                                handshakes answered 101
//	spillway_ws_closed_total{reason}                        see closeReason
//	spillway_ws_panics_total                                messages that met a bug; their sockets are closed
//	spillway_ws_paused_total                                times a socket above ws.rate was not read from for a second
//	spillway_conns{endpoint="ws"}, _max, _peak              sockets
//	spillway_ws_members, _max                               peers in swarms
//	spillway_ws_offers_pending                              offers of the last minute without an answer yet, or with one
//	spillway_ws_buffered_bytes, _max                        waiting to be sent, or for the rest of a message
//	spillway_ws_interval_seconds                            what peers are told
type counters struct {
	set            *metrics.Set
	announceServed *metrics.Counter
	announceTrim   *metrics.Counter
	announceShed   *metrics.Counter
	announceOff    *metrics.Counter
	announceBad    *metrics.Counter
	announceSource *metrics.Counter
	scrapeServed   *metrics.Counter
	scrapeBad      *metrics.Counter
	offers         *metrics.Counter
	answers        *metrics.Counter
	offersFar      *metrics.Counter
	answersFar     *metrics.Counter
	asides         *metrics.Counter
	opened         *metrics.Counter
	paused         *metrics.Counter
	panics         *metrics.Counter
	dropped        [dropCount]*metrics.Counter
	refused        [refusalCount]*metrics.Counter
	closed         [closeCount]*metrics.Counter
}

func (c *counters) init(s *Server) {
	set := metrics.NewSet()
	c.set = set
	c.announceServed = set.NewCounter(`spillway_announces_total{proto="ws",result="served"}`)
	c.announceTrim = set.NewCounter(`spillway_announces_total{proto="ws",result="trimmed"}`)
	c.announceShed = set.NewCounter(`spillway_announces_total{proto="ws",result="shed"}`)
	c.announceOff = set.NewCounter(`spillway_announces_total{proto="ws",result="off"}`)
	c.announceBad = set.NewCounter(`spillway_announces_total{proto="ws",result="bad"}`)
	c.announceSource = set.NewCounter(`spillway_announces_total{proto="ws",result="source"}`)
	c.scrapeServed = set.NewCounter(`spillway_scrapes_total{proto="ws",result="served"}`)
	c.scrapeBad = set.NewCounter(`spillway_scrapes_total{proto="ws",result="bad"}`)
	c.offers = set.NewCounter(`spillway_ws_relayed_total{kind="offer"}`)
	c.answers = set.NewCounter(`spillway_ws_relayed_total{kind="answer"}`)
	c.offersFar = set.NewCounter(`spillway_ws_relayed_total{kind="offer_far"}`)
	c.answersFar = set.NewCounter(`spillway_ws_relayed_total{kind="answer_far"}`)
	c.asides = set.NewCounter(`spillway_ws_put_aside_total`)
	c.opened = set.NewCounter(`spillway_ws_opened_total`)
	c.panics = set.NewCounter(`spillway_ws_panics_total`)
	c.paused = set.NewCounter(`spillway_ws_paused_total`)
	for why := range c.dropped {
		c.dropped[why] = set.NewCounter(fmt.Sprintf(`spillway_ws_dropped_total{reason=%q}`, dropReason(why)))
	}
	for why := refusedSwitch; why < refusalCount; why++ {
		c.refused[why] = set.NewCounter(fmt.Sprintf(`spillway_ws_refused_total{reason=%q}`, why))
	}
	for why := range c.closed {
		c.closed[why] = set.NewCounter(fmt.Sprintf(`spillway_ws_closed_total{reason=%q}`, closeReason(why)))
	}
	gauge := func(name string, f func() float64) { set.NewGauge(name, f) }
	gauge(`spillway_conns{endpoint="ws"}`, func() float64 { return float64(s.Conns()) })
	gauge(`spillway_conns_max{endpoint="ws"}`, func() float64 { return float64(s.MaxConns()) })
	gauge(`spillway_conns_peak{endpoint="ws"}`, func() float64 { return float64(s.sockets.most()) })
	gauge(`spillway_ws_members`, func() float64 { return float64(s.members.len()) })
	gauge(`spillway_ws_members_max`, func() float64 { return float64(s.members.max()) })
	gauge(`spillway_ws_offers_pending`, func() float64 { return float64(s.offers.len()) })
	gauge(`spillway_ws_buffered_bytes`, func() float64 { return float64(s.buffered.used.Load()) })
	gauge(`spillway_ws_buffered_bytes_max`, func() float64 { return float64(s.buffered.max) })
	gauge(`spillway_ws_interval_seconds`, func() float64 { return float64(s.interval.Load()) })
}

// announces is the counter of announces that were answered after a verdict.
func (c *counters) announces(v shedder.Verdict) *metrics.Counter {
	switch v {
	case shedder.Trim:
		return c.announceTrim
	case shedder.Shed:
		return c.announceShed
	case shedder.OverBudget:
		return c.announceSource
	}
	return c.announceServed
}

// WriteMetrics writes the server's metrics in Prometheus's text format.
func (s *Server) WriteMetrics(w io.Writer) { s.metrics.set.WritePrometheus(w) }
