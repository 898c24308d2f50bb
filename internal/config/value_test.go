package config

import (
	"math"
	"reflect"
	"testing"
	"time"
)

func TestSize(t *testing.T) {
	t.Parallel()
	f := func(text string, want int64, canonical string) {
		t.Helper()
		var s Size
		if err := s.UnmarshalText([]byte(text)); err != nil || int64(s) != want || s.String() != canonical {
			t.Errorf("%q: got %d (%s), %v, want %d (%s)", text, s, s, err, want, canonical)
		}
	}
	f("0", 0, "0B")
	f("1", 1, "1B")
	f("1000", 1000, "1KB")
	f("1024B", 1024, "1KiB")
	f("64KiB", 64<<10, "64KiB")
	f("512MiB", 512<<20, "512MiB")
	f("512 mib", 512<<20, "512MiB")
	f("1GB", 1e9, "1GB")
	f("3TiB", 3<<40, "3TiB")
	f("9223372036854775807", math.MaxInt64, "9223372036854775807B")

	for _, text := range []string{"", "MiB", "-1", "+1", "1.5GiB", "512M", "1k", "1MiBB", "9223372036854775808", "8388608TiB", "1 2", "0x10", "1_000"} {
		var s Size
		if err := s.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q: got %d, want an error", text, s)
		}
	}
}

func TestDuration(t *testing.T) {
	t.Parallel()
	f := func(text string, want time.Duration, canonical string) {
		t.Helper()
		var d Duration
		if err := d.UnmarshalText([]byte(text)); err != nil || time.Duration(d) != want || d.String() != canonical {
			t.Errorf("%q: got %s, %v, want %s (%s)", text, d, err, want, canonical)
		}
	}
	f("0", 0, "0s")
	f("0s", 0, "0s")
	f("100ms", 100*time.Millisecond, "100ms")
	f("90s", 90*time.Second, "1m30s")
	f("30m", 30*time.Minute, "30m")
	f("1h", time.Hour, "1h")
	f("1h30m", 90*time.Minute, "1h30m")
	f("1h0m5s", time.Hour+5*time.Second, "1h0m5s")
	f("1d", 24*time.Hour, "24h")
	f("1d12h", 36*time.Hour, "36h")
	f("10s", 10*time.Second, "10s")
	f("10m", 10*time.Minute, "10m")

	for _, text := range []string{"", "30", "-1s", "+1s", "1 s", "d", "1.5d", "1d-1h", "1dd", "12h1d", "65536d", "65535d2562047h47m", "1w", "s", "-1d"} {
		var d Duration
		if err := d.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q: got %s, want an error", text, d)
		}
	}
}

func TestStringList(t *testing.T) {
	t.Parallel()
	f := func(text string, want ...string) {
		t.Helper()
		var l StringList
		if err := l.UnmarshalText([]byte(text)); err != nil || !reflect.DeepEqual([]string(l), want) {
			t.Errorf("%q: got %q, %v, want %q", text, l, err, want)
		}
	}
	f("")
	f(" ")
	f("a", "a")
	f("a, b ,c", "a", "b", "c")
	for _, text := range []string{",", "a,", ",a", "a, ,b"} {
		var l StringList
		if err := l.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q: got %q, want an error", text, l)
		}
	}
}

func TestSuggest(t *testing.T) {
	t.Parallel()
	f := func(written, want string) {
		t.Helper()
		if got := suggest(written, []string{"listen", "max_conns", "idle_timeout"}); got != want {
			t.Errorf("%q: got %q, want %q", written, got, want)
		}
	}
	f("Listen", "listen")
	f("lsiten", "listen")
	f("maxconns", "max_conns")
	f("timeout", "")
	f("", "")
}

func FuzzSize(f *testing.F) {
	for _, s := range []string{"512MiB", "1GB", "7", "9223372036854775807", "8388607TiB"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var s, again Size
		if s.UnmarshalText([]byte(text)) != nil {
			return
		}
		if err := again.UnmarshalText([]byte(s.String())); err != nil || again != s || s < 0 {
			t.Errorf("%q: %d is written %q and read as %d, %v", text, s, s, again, err)
		}
	})
}

func FuzzDuration(f *testing.F) {
	for _, s := range []string{"1d12h", "20s", "0", "1.5h", "2562047h47m16.854775807s"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var d, again Duration
		if d.UnmarshalText([]byte(text)) != nil {
			return
		}
		if err := again.UnmarshalText([]byte(d.String())); err != nil || again != d || d < 0 {
			t.Errorf("%q: %d is written %q and read as %d, %v", text, d, d, again, err)
		}
	})
}

func FuzzStringList(f *testing.F) {
	f.Add("a, b")
	f.Add(",")
	f.Fuzz(func(t *testing.T, text string) {
		var l, again StringList
		if l.UnmarshalText([]byte(text)) != nil {
			return
		}
		if err := again.UnmarshalText([]byte(l.String())); err != nil || !reflect.DeepEqual(again, l) {
			t.Errorf("%q: %q is written %q and read as %q, %v", text, []string(l), l, []string(again), err)
		}
	})
}
