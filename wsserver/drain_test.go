package wsserver

import (
	"testing"
	"time"
)

// Drained is drained after a minute, also on a machine that stalls for seconds at a time.
func TestDrainIsOverAfterAMinute(t *testing.T) {
	t.Parallel()
	for _, tick := range []time.Duration{sweepTick, 3 * sweepTick, 7 * time.Second} {
		taken, last := time.Duration(0), drainTicks(0)
		for ; last > 1; taken += tick {
			left := drainTicks(taken)
			if left > last {
				t.Fatalf("ticks of %v: %d are left, after %d", tick, left, last)
			}
			last = left
		}
		if taken-tick > drainTime+tick || taken < drainTime-tick-sweepTick {
			t.Errorf("ticks of %v: the last sockets are closed after %v, want %v", tick, taken-tick, drainTime)
		}
	}
}
