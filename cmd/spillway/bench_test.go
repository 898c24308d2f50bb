package main

import (
	"strings"
	"testing"
	"time"

	"spillway/internal/flood"
)

func TestProgressText(t *testing.T) {
	t.Parallel()
	now := flood.Progress{Offered: 1000, Good: 990, Shed: 8, Failed: 2}
	for _, c := range []struct {
		name        string
		now         flood.Progress
		label       string
		done, whole time.Duration
		width       int
		want        string
	}{
		{
			"a wide terminal", now, "B 2/3", 27 * time.Second, time.Minute, 200,
			"B 2/3 [##############................]  45 %  0:27, 0:33 left  1000/s: good 990 shed 8 failed 2",
		},
		{"80 columns", now, "B 2/3", 27 * time.Second, time.Minute, 79, "B 2/3 [######........]  45 %  0:27, 0:33 left  1000/s: good 990 shed 8 failed 2"},
		{
			"80 columns, and a generator that was late", flood.Progress{Offered: 1000, Good: 990, Behind: 7}, "B 2/3", 27 * time.Second, time.Minute, 79,
			"B 2/3 [######........]  45 %  0:27, 0:33 left  1000/s: good 990 shed 0 failed 0",
		},
		{"60 columns", now, "B 2/3", 27 * time.Second, time.Minute, 59, "B 2/3  45 %  0:27, 0:33 left  1000/s: good 990 shed 8 faile"},
		{"too narrow", now, "x1", 61 * time.Second, 2 * time.Minute, 20, "x1  51 %  1:01, 0:59"},
		{
			"no terminal, and a generator that was late", flood.Progress{Offered: 10, Late: 3, Behind: 7}, "warm-up", 0, time.Second, 0,
			"warm-up [..............................]   0 %  0:00, 0:01 left  10/s: good 0 late 3 shed 0 failed 0, generator late 7",
		},
		{"later than the end", now, "x1", time.Hour, time.Second, 0, "x1 [##############################] 100 %  0:01, 0:00 left  1000/s: good 990 shed 8 failed 2"},
		{"of nothing", now, "x1", 0, 0, 0, "x1 [##############################] 100 %  0:00, 0:00 left  1000/s: good 990 shed 8 failed 2"},
	} {
		if got := progressText(c.now, c.label, c.done, c.whole, c.width); got != c.want {
			t.Errorf("%s:\ngot  %q\nwant %q", c.name, got, c.want)
		}
	}
	for width := 1; width < 150; width++ {
		if got := progressText(now, "A, warm-up", time.Second, time.Minute, width); len(got) > width || strings.Contains(got, "\n") {
			t.Errorf("%d columns: %q", width, got)
		}
	}
}
