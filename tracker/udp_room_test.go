package tracker

import (
	"fmt"
	"testing"
	"time"
)

// On any part of a core, and however much more comes than can be answered, nearly all of the time there is goes into answers that
// are in time; and once the flood is over the queue has its room again.
func TestUDPRoomFollowsTheCore(t *testing.T) {
	t.Parallel()
	const (
		cost   = 5 * time.Microsecond
		turn   = 3 * time.Millisecond
		packet = 768     // bytes of room
		most   = 4 << 20 // 5,461 packets, 27 ms of a whole core
		inTime = 150 * time.Millisecond
	)
	for _, gap := range []time.Duration{0, 3 * time.Millisecond, 27 * time.Millisecond, 57 * time.Millisecond} {
		capacity := float64(time.Second) / float64(cost) * float64(turn) / float64(turn+gap)
		for _, load := range []float64{0.5, 1.5, 2, 10} {
			t.Run(fmt.Sprintf("%s between turns, load %v", gap, load), func(t *testing.T) {
				t.Parallel()
				room := newUDPRoom(most)
				start := time.Unix(1_800_000_000, 0)
				var queue []time.Duration // when each came
				now, next := time.Duration(0), time.Duration(0)
				between := time.Duration(float64(time.Second) / capacity / load)
				offered, answered, good, full := 0, 0, 0, false
				arrive := func(until time.Duration, from time.Duration) {
					for ; next <= until; next += between {
						if next > from {
							offered++
						}
						if len(queue)*packet < room.now {
							queue = append(queue, next)
						} else {
							full = true
						}
					}
				}
				const settled, end = 5 * time.Second, 10 * time.Second
				for now < end {
					now += gap
					for began := now; now-began < turn; {
						arrive(now, settled)
						if len(queue) == 0 {
							now = max(next, now) // it waits for the next, and has the core at once: it has slept
							arrive(now, settled)
						}
						n := min(len(queue), udpBatch)
						for _, came := range queue[:n] {
							room.saw(now - came)
						}
						now += time.Duration(n) * cost
						if now > settled {
							for _, came := range queue[:n] {
								if answered++; now-came <= inTime {
									good++
								}
							}
						}
						queue = queue[n:]
						if at := start.Add(now); room.due(at) {
							room.step(at, full)
							full = false
						}
						if len(queue) == 0 && gap > 0 && load < 1 {
							break
						}
					}
				}
				want := 0.85 * min(capacity, float64(offered)/(end-settled).Seconds())
				if got := float64(good) / (end - settled).Seconds(); got < want {
					t.Errorf("in time: got %.0f a second of %.0f answered and %.0f that can be, want %.0f; room %d", got,
						float64(answered)/(end-settled).Seconds(), capacity, want, room.now)
				}
				if load < 1 && (room.crowded || room.now != most) {
					t.Errorf("without need: crowded %v, room %d", room.crowded, room.now)
				}
				if load > 1 && !room.crowded {
					t.Error("not crowded")
				}
				for i := range 50 { // two packets a second
					room.saw(time.Microsecond)
					room.step(start.Add(end+time.Duration(i)*time.Second/2), false)
				}
				if room.crowded || room.now != most {
					t.Errorf("after the flood: crowded %v, room %d", room.crowded, room.now)
				}
			})
		}
	}
}

// A room that is small already stays as it is.
func TestUDPRoomIsNeverLessThanWasGiven(t *testing.T) {
	t.Parallel()
	for most, least := range map[int]int{4096: 4096, 1 << 20: udpLeastRoom} {
		room := newUDPRoom(most)
		now := time.Unix(1_800_000_000, 0)
		for range 100 {
			for range udpBatch {
				room.saw(time.Second)
			}
			now = now.Add(udpWindow)
			room.step(now, false)
		}
		if room.now != least || !room.crowded {
			t.Errorf("of %d: got %d, crowded %v; want %d", most, room.now, room.crowded, least)
		}
	}
}
