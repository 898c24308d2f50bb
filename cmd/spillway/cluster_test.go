package main

import (
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"spillway/internal/cluster"
	"spillway/internal/logx"
	"spillway/shedder"
)

// TestFollow: the last word counts, whoever gave it; what is over is over; and what makes no sense changes nothing.
func TestFollow(t *testing.T) {
	t.Parallel()
	switches, _ := shedder.OpenSwitches("")
	rules, _ := shedder.OpenRules("")
	logs := logx.New(io.Discard, new(slog.LevelVar), "text")
	s := &server{log: logs.Always, logs: logs, gate: shedder.New(shedder.Config{}, switches, rules, time.Now())}
	before, after := time.Now().Add(-time.Minute), time.Now().Add(time.Minute)
	order := func(what, text string, at, until time.Time) {
		s.follow(cluster.Order{What: what, Text: text, At: at, Until: until})
	}
	mode := func(when, want string) {
		t.Helper()
		if got := switches.Mode(shedder.WS).String(); got != want {
			t.Errorf("%s: ws is %s, want %s", when, got, want)
		}
	}
	blocked := func(when string, want bool) {
		t.Helper()
		if _, got := rules.Find(shedder.RuleSource, "192.0.2.1"); got != want {
			t.Errorf("%s: blocked %v, want %v", when, got, want)
		}
	}
	order("switch ws", `{"mode":"off","reason":"flood","by":"b api 127.0.0.1"}`, before, time.Time{})
	mode("nothing was said here", "off")
	if st := switches.State(shedder.WS); st.By != "b api 127.0.0.1" || st.Reason != "flood" {
		t.Errorf("state: got %+v", st)
	}
	order("switch ws", `{"mode":"on","by":"b"}`, before, time.Time{}) // it was turned here since: just now
	mode("an order given before the last word here", "off")
	order("switch ws", `{"mode":"drain","by":"b"}`, after, time.Now().Add(time.Hour))
	mode("an order given after it", "drain")
	if left := time.Until(switches.State(shedder.WS).Until); left < 59*time.Minute || left > time.Hour {
		t.Errorf("left: got %v, want an hour", left)
	}
	order("switch ws", `{"mode":"off","by":"b"}`, after, before)
	mode("an order whose time is up", "on")
	// A trip of our own is no word of an operator's.
	switches.Trip(shedder.WS, time.Hour, "bug")
	order("switch ws", `{"mode":"reject-new","by":"b"}`, after, time.Time{})
	mode("an order over a trip", "reject-new")

	order("block source 192.0.2.1", `{"blocked":true,"by":"b"}`, before, time.Time{})
	blocked("block", true)
	order("block source 192.0.2.1", `{"by":"b"}`, before, time.Time{})
	blocked("unblock, given before the block here", true)
	order("block source 192.0.2.1", `{"by":"b"}`, after, time.Time{})
	blocked("unblock, given after it", false)
	order("block source 192.0.2.1", `{"blocked":true,"by":"b"}`, after, before)
	blocked("block whose time is up", false)

	for _, bad := range [][2]string{
		{"switch ws", `{"mode":"sideways"}`}, {"switch http", `{"mode":"off"}`}, {"switch", `{"mode":"off"}`}, {"switch ws", `off`}, {"lever ws", `{}`},
		{"block source x", `{"blocked":true}`}, {"block everybody", `{"blocked":true}`}, {"block source 192.0.2.1", `{"blocked":true,"reason":"a\nb"}`},
		{"switch ws", `{"mode":"off","by":"` + strings.Repeat("é", 300) + "\u202e" + `","reason":"` + strings.Repeat("x", 300) + `"}`},
	} {
		order(bad[0], bad[1], after, time.Time{})
	}
	mode("nonsense", "reject-new")
	blocked("nonsense", false)
}
