package wsserver

import (
	"testing"
	"time"
)

func TestTurnIsAsLongAsTheOthers(t *testing.T) {
	t.Parallel()
	for away, want := range map[time.Duration]time.Duration{
		0: leastTurn, 2 * time.Microsecond: leastTurn, 300 * time.Microsecond: 300 * time.Microsecond, time.Second: mostTurn,
	} {
		if got := turnAfter(away); got != want {
			t.Errorf("away for %s: a turn of %s, want %s", away, got, want)
		}
	}
}
