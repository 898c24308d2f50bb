package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/valyala/fasthttp"

	"spillway/shedder"
)

// Bounds on what comes with a change.
const (
	maxReasonBytes = shedder.MaxReasonBytes
	maxValueBytes  = 512 // an unescaped value of a block; what its kind allows is the shedder's to say
)

// A page or a script that turns more than this a second has lost its mind; each turn is a write to the disk and a log line.
const (
	changesPerSecond = 20
	changesBurst     = 40
)

// allowChange lets a change with a good token pass, and answers for itself if it does not. The token is in no cookie, so a
// foreign page has nothing to ride on; the content type makes a browser ask first, and the origin is looked at all the same.
func (s *Server) allowChange(ctx *fasthttp.RequestCtx) bool {
	code, why := 0, ""
	kind, _, err := mime.ParseMediaType(string(ctx.Request.Header.ContentType()))
	origin := ctx.Request.Header.Peek("Origin")
	switch {
	case err != nil || kind != "application/json":
		code, why = fasthttp.StatusUnsupportedMediaType, "Content-Type: must be application/json"
	case len(origin) > 0 && !sameHost(string(origin), string(ctx.Host())):
		code, why = fasthttp.StatusForbidden, "Origin: must be the host that is asked; changes come from this listener's own page or from no page"
	case !s.changeRate.take(time.Now()):
		code, why = fasthttp.StatusTooManyRequests, fmt.Sprintf("too many changes; at most %d a second", changesPerSecond)
	default:
		return true
	}
	s.changesRefused.Inc()
	refuse(ctx, code, why)
	return false
}

func sameHost(origin, host string) bool {
	return strings.EqualFold(origin, "http://"+host) || strings.EqualFold(origin, "https://"+host) // TLS may end in front of us
}

// turn is PUT /api/v1/switches/{endpoint}.
func (s *Server) turn(ctx *fasthttp.RequestCtx, name string) {
	var body struct {
		Mode    *string `json:"mode"`
		For     string  `json:"for"`
		Reason  string  `json:"reason"`
		Cluster bool    `json:"cluster"`
	}
	e, err := shedder.ParseEndpoint(name)
	if err == nil {
		err = decode(ctx.PostBody(), &body)
	}
	var mode shedder.Mode
	if err == nil && body.Mode == nil {
		err = errors.New("mode: missing; must be on, reject-new, drain or off")
	}
	if err == nil {
		mode, err = shedder.ParseMode(*body.Mode)
	}
	var o Order
	if err == nil {
		o, err = parseOrder(ctx, body.For, body.Reason)
	}
	o.Cluster = body.Cluster
	if err == nil && mode == shedder.On && o.For != 0 {
		err = errors.New("for: goes with a mode that ends, not with on")
	}
	if err != nil {
		refuse(ctx, fasthttp.StatusBadRequest, err.Error())
		return
	}

	s.changing.Lock()
	defer s.changing.Unlock()
	from := ""
	for _, state := range s.op.Switches() {
		if state.Endpoint == e {
			from = state.Mode.String()
		}
	}
	state, err := s.op.Turn(e, mode, o)
	if s.changed(ctx, "switch "+name, from, mode.String(), o, err) {
		writeJSON(ctx, switchOf(state))
	}
}

// block is PUT and DELETE /api/v1/blocks/{kind}/{value}.
func (s *Server) block(ctx *fasthttp.RequestCtx, kindName, escaped string) {
	kind, err := shedder.ParseRuleKind(kindName)
	var value string
	if err == nil {
		value, err = parseValue(ctx, escaped)
	}
	var body struct {
		For     string `json:"for"`
		Reason  string `json:"reason"`
		Cluster bool   `json:"cluster"`
	}
	if err == nil && (ctx.IsPut() || len(ctx.PostBody()) > 0) {
		err = decode(ctx.PostBody(), &body)
	}
	var o Order
	if err == nil {
		o, err = parseOrder(ctx, body.For, body.Reason)
		o.Cluster = body.Cluster
	}
	if err != nil {
		refuse(ctx, fasthttp.StatusBadRequest, err.Error())
		return
	}

	s.changing.Lock()
	defer s.changing.Unlock()
	what := "block " + kindName + " " + value
	if ctx.IsPut() {
		before := s.op.Blocks().Blocks
		rule, err := s.op.Block(kind, value, o)
		made := BlockOf(rule)
		from := "not blocked"
		if slices.ContainsFunc(before, func(b Block) bool { return b.Kind == made.Kind && b.Value == made.Value }) {
			from = "blocked"
		}
		if s.changed(ctx, what, from, "blocked", o, err) {
			writeJSON(ctx, made)
		}
		return
	}
	removed, err := s.op.Unblock(kind, value, o)
	if err == nil && !removed && !o.Cluster { // another node may have it
		refuse(ctx, fasthttp.StatusNotFound, "value: no such block")
		return
	}
	if s.changed(ctx, what, "blocked", "not blocked", o, err) {
		writeJSON(ctx, map[string]bool{"removed": removed})
	}
}

// setLimit is PUT /api/v1/limits/{name}.
func (s *Server) setLimit(ctx *fasthttp.RequestCtx, name string) {
	var body struct {
		Value *int64 `json:"value"`
	}
	if err := decode(ctx.PostBody(), &body); err != nil {
		refuse(ctx, fasthttp.StatusBadRequest, err.Error())
		return
	}
	s.changing.Lock()
	defer s.changing.Unlock()
	var names []string
	for _, l := range s.op.Limits() {
		names = append(names, l.Name)
		if l.Name != name {
			continue
		}
		if body.Value == nil || *body.Value < l.Min || *body.Value > l.Max {
			refuse(ctx, fasthttp.StatusBadRequest, fmt.Sprintf("value: must be a number from %d to %d", l.Min, l.Max))
			return
		}
		err := s.op.SetLimit(name, *body.Value)
		if !s.changed(ctx, "limit "+name, strconv.FormatInt(l.Value, 10), strconv.FormatInt(*body.Value, 10), Order{By: by(ctx)}, err) {
			return
		}
		l.Value = *body.Value
		writeJSON(ctx, l)
		return
	}
	refuse(ctx, fasthttp.StatusNotFound, fmt.Sprintf("name: no limit %.64q; there are %s", name, strings.Join(names, ", ")))
}

// changed writes down who changed what. If it did not go as it should, err is answered and changed returns false.
func (s *Server) changed(ctx *fasthttp.RequestCtx, what, from, to string, o Order, err error) bool {
	unsaved, unshared := errors.Is(err, shedder.ErrNotDurable), errors.Is(err, ErrNotShared)
	if err != nil && !unsaved && !unshared {
		refuse(ctx, fasthttp.StatusBadRequest, err.Error())
		return false
	}
	s.changes.Inc()
	attrs := []any{"who", o.By, "what", what, "from", from, "to", to}
	if o.For != 0 {
		attrs = append(attrs, "for", o.For)
	}
	if o.Reason != "" {
		attrs = append(attrs, "reason", o.Reason)
	}
	if o.Cluster {
		attrs = append(attrs, "cluster", true)
	}
	if unshared && !unsaved {
		s.audit.Warn("operator's change is in force on this node and not on the others", append(attrs, "err", err)...)
		refuse(ctx, fasthttp.StatusServiceUnavailable, err.Error())
		return false
	}
	if unsaved {
		s.audit.Error("operator's change is in force but not saved; make room in data_dir", append(attrs, "err", err)...)
		refuse(ctx, fasthttp.StatusInternalServerError, err.Error())
		return false
	}
	s.audit.Info("operator's change", attrs...)
	return true
}

// decode reads one JSON object with the fields of dst and no others. Errors name the field.
func decode(body []byte, dst any) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return errors.New("body: empty; must be a JSON object")
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	err := d.Decode(dst)
	var wrongType *json.UnmarshalTypeError
	switch {
	case errors.As(err, &wrongType) && wrongType.Field != "":
		return fmt.Errorf("%s: must be a %s, not a %s", wrongType.Field, wordFor(wrongType.Type.String()), wrongType.Value)
	case errors.As(err, &wrongType):
		return errors.New("body: must be a JSON object, not a " + wrongType.Value)
	case err != nil:
		// Unknown fields have no error type of their own; the text names the field.
		return errors.New("body: " + strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("body: must end after the JSON object")
	}
	return nil
}

func wordFor(goType string) string {
	if strings.HasPrefix(goType, "int") {
		return "whole number"
	}
	return goType
}

func parseOrder(ctx *fasthttp.RequestCtx, forText, reason string) (o Order, err error) {
	o = Order{Reason: reason, By: by(ctx)}
	if forText != "" {
		if o.For, err = parseFor(forText); err != nil {
			return o, err
		}
	}
	if len(reason) > maxReasonBytes || strings.ContainsFunc(reason, unicode.IsControl) {
		return o, fmt.Errorf("reason: must be one line of at most %d bytes", maxReasonBytes)
	}
	return o, nil
}

// parseFor reads a duration as the configuration has them: 90s, 1h30m, 1d.
func parseFor(text string) (time.Duration, error) {
	bad := fmt.Errorf("for: got %.32q; must be a time from 1s to 366d, as 10m, 1h30m or 1d", text)
	var sum time.Duration
	rest := text
	if days, after, found := strings.Cut(text, "d"); found {
		n, err := strconv.ParseUint(days, 10, 9)
		if err != nil {
			return 0, bad
		}
		sum, rest = time.Duration(n)*24*time.Hour, after
	}
	if rest != "" {
		d, err := time.ParseDuration(rest)
		if err != nil || d < 0 || d > shedder.MaxFor || rest[0] == '+' {
			return 0, bad
		}
		sum += d
	}
	if sum < shedder.MinFor || sum > shedder.MaxFor {
		return 0, bad
	}
	return sum, nil
}

// parseValue reads the value of a block: escaped, as the path has it after the kind, or the query's value. The query is for what
// no browser lets stand in a path: the user agent ".." is somebody's idea already.
func parseValue(ctx *fasthttp.RequestCtx, escaped string) (string, error) {
	value, err := url.PathUnescape(escaped)
	if escaped == "" {
		value, err = string(ctx.QueryArgs().Peek("value")), nil
	}
	switch {
	case err != nil:
		return "", errors.New("value: must be URL-escaped: " + err.Error())
	case value == "":
		return "", errors.New("value: missing; ask for /api/v1/blocks/{kind}/{value}")
	case len(value) > maxValueBytes:
		return "", fmt.Errorf("value: must have at most %d bytes", maxValueBytes)
	}
	return value, nil
}

// by says who asks: whoever has the token, from where.
func by(ctx *fasthttp.RequestCtx) string {
	if tcp, ok := ctx.RemoteAddr().(*net.TCPAddr); ok {
		if addr, ok := netip.AddrFromSlice(tcp.IP); ok {
			return "api " + addr.Unmap().String()
		}
	}
	return "api unix"
}

// bucket lets perSecond events pass in the long run, and burst at once. It starts full.
type bucket struct {
	perSecond, burst float64

	mu   sync.Mutex // guards the rest
	left float64
	at   time.Time // of left; zero before the first event
}

func (b *bucket) take(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.at.IsZero() {
		b.left = b.burst
	} else if passed := now.Sub(b.at); passed > 0 { // a clock set back gives nothing and takes nothing
		b.left = min(b.burst, b.left+b.perSecond*passed.Seconds())
	}
	b.at = now
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}
