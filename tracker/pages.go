package tracker

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/valyala/fasthttp"
)

//go:embed pages.html
var pagesHTML string

var pages = template.Must(template.New("").Funcs(template.FuncMap{"group": group}).Parse(pagesHTML))

// shedTexts are shares in per cent as the header has them.
var shedTexts = func() (texts [101]string) {
	for i := range texts {
		texts[i] = fmt.Sprintf("%d.%02d", i/100, i%100)
	}
	return texts
}()

// handleHealth answers whoever is to know whether this process lives; it looks nothing up and is never shed. The headers tell a
// relay in front how loaded we are, so that it sends less before it is too much: Spillway-State is one of calm, ramp, overload
// and escalated, Spillway-Shed the share of what is offered that is not served, from 0.00 to 1.00.
func (t *Tracker) handleHealth(ctx *fasthttp.RequestCtx) {
	h := &ctx.Response.Header
	h.SetContentTypeBytes(contentText)
	state, level := t.gate.Pressure()
	h.Set("Spillway-State", state.String())
	h.Set("Spillway-Shed", shedTexts[min(max(level, 0), 100)])
	ctx.Response.SetBodyString("ok\n")
}

// statsCache renders the statistics at most once a second, whatever strangers ask for.
type statsCache struct {
	rendering  sync.Mutex // guards rendered, html, json; taken before mu
	rendered   time.Time
	html, json []byte // replaced, never changed: responses copy them after the lock

	mu        sync.Mutex // guards everything below
	sampled   time.Time
	announces uint64  // at the last sample
	perSecond float64 // moving average
}

// Stats is what /stats.json says.
type Stats struct {
	UptimeSeconds      int64   `json:"uptime_seconds"`
	Swarms             int     `json:"swarms"`
	Seeders            int     `json:"seeders"`
	Leechers           int     `json:"leechers"`
	PeersIPv4          int     `json:"peers_ipv4"`
	PeersIPv6          int     `json:"peers_ipv6"`
	PeersWebSocket     int     `json:"peers_websocket"`
	AnnouncesPerSecond float64 `json:"announces_per_second"`
	Announces          uint64  `json:"announces"`
	Scrapes            uint64  `json:"scrapes"`
	IntervalSeconds    int     `json:"interval_seconds"`
	StoreBytes         int64   `json:"store_bytes"`
	StoreMaxBytes      int64   `json:"store_max_bytes"`
}

// sample moves the average of announces a second on. Run calls it at every poll.
func (c *statsCache) sample(now time.Time, announces uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d := now.Sub(c.sampled).Seconds(); !c.sampled.IsZero() && d > 0 {
		rate := float64(announces-c.announces) / d
		c.perSecond += (rate - c.perSecond) * min(1, d/10) // ten seconds of memory
	}
	c.sampled, c.announces = now, announces
}

// Stats returns the figures of this moment.
func (t *Tracker) Stats() Stats {
	st := t.swarms.Stats()
	t.stats.mu.Lock()
	perSecond := t.stats.perSecond
	t.stats.mu.Unlock()
	return Stats{
		UptimeSeconds:      int64(time.Since(t.started) / time.Second),
		Swarms:             st.Swarms,
		Seeders:            st.Seeders,
		Leechers:           st.Leechers,
		PeersIPv4:          st.Peers4,
		PeersIPv6:          st.Peers6,
		PeersWebSocket:     st.PeersWeb,
		AnnouncesPerSecond: float64(int64(perSecond*10+0.5)) / 10,
		Announces:          t.metrics.announces(),
		Scrapes:            t.metrics.scrapes(),
		IntervalSeconds:    t.gate.Interval(),
		StoreBytes:         st.Bytes,
		StoreMaxBytes:      st.MaxBytes,
	}
}

func (t *Tracker) handleStats(ctx *fasthttp.RequestCtx, asJSON bool) {
	html, json := t.renderStats(ctx.Time())
	ctx.Response.Header.Set(fasthttp.HeaderCacheControl, "no-cache")
	if asJSON {
		ctx.Response.Header.SetContentTypeBytes(contentJSON)
		ctx.Response.SetBody(json)
		return
	}
	t.page(ctx, html)
}

func (t *Tracker) renderStats(now time.Time) (html, asJSON []byte) {
	c := &t.stats
	c.rendering.Lock()
	defer c.rendering.Unlock()
	if now.Sub(c.rendered) < time.Second {
		return c.html, c.json
	}
	st := t.Stats()
	var page bytes.Buffer
	if err := pages.ExecuteTemplate(&page, "stats", st); err != nil {
		panic("BUG: " + err.Error())
	}
	asJSON, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		panic("BUG: " + err.Error())
	}
	c.rendered, c.html, c.json = now, page.Bytes(), append(asJSON, '\n')
	return c.html, c.json
}

// handleHome greets a person who has opened the tracker's address, and gives the URL to paste.
func (t *Tracker) handleHome(ctx *fasthttp.RequestCtx) {
	scheme := "http"
	if ctx.IsTLS() || string(ctx.Request.Header.Peek(fasthttp.HeaderXForwardedProto)) == "https" {
		scheme = "https"
	}
	host := string(ctx.Host())
	if host == "" { // HTTP/1.0 can do without
		host = ctx.LocalAddr().String()
	}
	var page bytes.Buffer
	urls := struct{ Announce, WebSocket string }{Announce: scheme + "://" + host + "/announce"}
	if t.upgrade != nil {
		urls.WebSocket = strings.Replace(scheme, "http", "ws", 1) + "://" + host
	}
	err := pages.ExecuteTemplate(&page, "home", urls)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	t.page(ctx, page.Bytes())
}

func (t *Tracker) page(ctx *fasthttp.RequestCtx, html []byte) {
	h := &ctx.Response.Header
	h.SetContentTypeBytes(contentHTML)
	h.Set(fasthttp.HeaderContentSecurityPolicy, "default-src 'none'; style-src 'unsafe-inline'")
	h.Set(fasthttp.HeaderXContentTypeOptions, "nosniff")
	ctx.Response.SetBody(html)
}

// Up says the uptime as a person would.
func (s Stats) Up() string {
	d := time.Duration(s.UptimeSeconds) * time.Second
	switch {
	case d < time.Minute:
		return d.String()
	case d < 48*time.Hour:
		return strings.TrimSuffix(d.Truncate(time.Minute).String(), "0s")
	}
	return fmt.Sprintf("%d days", d/(24*time.Hour))
}

// Interval says the interval as a person would.
func (s Stats) Interval() string {
	if s.IntervalSeconds%60 == 0 {
		return fmt.Sprintf("%d minutes", s.IntervalSeconds/60)
	}
	return fmt.Sprintf("%d seconds", s.IntervalSeconds)
}

// group writes a number with its thousands apart: 1,234,567.8.
func group(number any) string {
	text := fmt.Sprint(number)
	if f, ok := number.(float64); ok {
		text = strconv.FormatFloat(f, 'f', -1, 64) // Sprint's has an exponent from 10 million on
	}
	whole, _, _ := strings.Cut(text, ".")
	rest := text[len(whole):]
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	return whole + rest
}
