package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Size is a number of bytes, written 512MiB, 64KiB, 1GB or as plain bytes.
type Size int64

var sizeUnits = []struct { // larger first, for String
	name  string
	bytes int64
}{
	{"TiB", 1 << 40}, {"TB", 1e12}, {"GiB", 1 << 30}, {"GB", 1e9},
	{"MiB", 1 << 20}, {"MB", 1e6}, {"KiB", 1 << 10}, {"KB", 1e3}, {"B", 1},
}

// UnmarshalText parses a whole number and a unit.
func (s *Size) UnmarshalText(text []byte) error {
	digits := strings.TrimRight(string(text), "kKmMgGtTiIbB ")
	unit := strings.TrimSpace(string(text)[len(digits):])
	// ParseUint would take no sign, but Atoi's friends take "+5"; sizes need none.
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil {
		return fmt.Errorf("got %q; must be a size, as 512MiB", text)
	}
	if unit == "" {
		unit = "B"
	}
	for _, u := range sizeUnits {
		if !strings.EqualFold(unit, u.name) {
			continue
		}
		if n > uint64(math.MaxInt64/u.bytes) {
			return fmt.Errorf("got %q; that is more than this machine can count", text)
		}
		*s = Size(int64(n) * u.bytes)
		return nil
	}
	// "512M" is 512e6 to some programs and 512<<20 to others.
	return fmt.Errorf("got %q; the unit must be KiB, MiB, GiB, TiB (1024) or KB, MB, GB, TB (1000)", text)
}

// String writes s in the largest unit that loses nothing.
func (s Size) String() string {
	for _, u := range sizeUnits {
		if s != 0 && int64(s)%u.bytes == 0 {
			return strconv.FormatInt(int64(s)/u.bytes, 10) + u.name
		}
	}
	return "0B"
}

// Duration is a time.Duration, which may also be written with days: 1d12h.
// It is never negative.
type Duration time.Duration

// UnmarshalText parses numbers with units: 90s, 1h30m, 1d.
func (d *Duration) UnmarshalText(text []byte) error {
	bad := fmt.Errorf("got %q; must be a time, as 20s, 5m, 1h30m or 1d", text)
	days, rest, found := strings.Cut(string(text), "d")
	var sum time.Duration
	if found {
		n, err := strconv.ParseUint(days, 10, 16) // 65535 days is beyond use and below overflow
		if err != nil {
			return bad
		}
		sum = time.Duration(n) * 24 * time.Hour
	} else {
		rest = days
	}
	if rest != "" || !found {
		t, err := time.ParseDuration(rest)
		if err != nil || t < 0 || strings.HasPrefix(rest, "+") || sum > math.MaxInt64-t {
			return bad
		}
		sum += t
	}
	*d = Duration(sum)
	return nil
}

// String is time.Duration's, without the zeros at its end: 30m, not 30m0s.
func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-len("0s")]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-len("0m")]
	}
	return s
}

// StringList is several strings. In the file it may be one scalar or a list;
// in the environment and in flags its parts are separated by commas.
type StringList []string

// UnmarshalText splits text at commas. Space around a part is dropped; an
// empty part is an error, for it is a comma too many or a value forgotten.
func (l *StringList) UnmarshalText(text []byte) error {
	if strings.TrimSpace(string(text)) == "" {
		*l = nil
		return nil
	}
	parts := strings.Split(string(text), ",")
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
		if parts[i] == "" {
			return fmt.Errorf("got %q; one part of the list is empty", text)
		}
	}
	*l = parts
	return nil
}

// String joins the parts with commas.
func (l StringList) String() string { return strings.Join(l, ",") }
