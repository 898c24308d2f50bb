package flood

import (
	"math/bits"
	"time"
)

// A histogram's cells are an octave of microseconds cut into 32: a quantile is right to 3 %.
const (
	histSteps = 32
	histCells = 20 * histSteps // up to 16 s; what is longer is in the last
)

type hist struct {
	n     [histCells]uint32
	count uint64
	most  time.Duration
}

func (h *hist) add(d time.Duration) {
	h.n[histCell(d)]++
	h.count++
	h.most = max(h.most, d)
}

func histCell(d time.Duration) int {
	us := uint64(max(d, 0)) / 1000
	if us < histSteps {
		return int(us)
	}
	n := bits.Len64(us) - 6 // us>>n is from 32 to 63
	return min((n+1)*histSteps+int(us>>n)-histSteps, histCells-1)
}

// histBound is the upper end of a cell.
func histBound(cell int) time.Duration {
	if cell < histSteps {
		return time.Duration(cell+1) * time.Microsecond
	}
	n := cell/histSteps - 1
	return time.Duration(histSteps+cell%histSteps+1) << n * time.Microsecond
}

func (h *hist) merge(o *hist) {
	for i, n := range o.n {
		h.n[i] += n
	}
	h.count += o.count
	h.most = max(h.most, o.most)
}

// at is quantile q; zero if nothing was counted.
func (h *hist) at(q float64) time.Duration {
	left := int64(q*float64(h.count)) + 1
	for i, n := range h.n {
		if left -= int64(n); left <= 0 && n > 0 {
			return min(histBound(i), h.most)
		}
	}
	return h.most
}
