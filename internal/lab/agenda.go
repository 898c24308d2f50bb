package lab

// maxTry is where the count of a client's repeats ends.
const maxTry = 255

// agenda is what is due at different times, the earliest first: a binary heap.
type agenda []later

func (a *agenda) push(l later) {
	h := append(*a, l)
	for i := len(h) - 1; i > 0 && h[i].at < h[(i-1)/2].at; i = (i - 1) / 2 {
		h[i], h[(i-1)/2] = h[(i-1)/2], h[i]
	}
	*a = h
}

// pop must not be asked of an empty agenda.
func (a *agenda) pop() later {
	h := *a
	first, last := h[0], len(h)-1
	h[0] = h[last]
	h = h[:last]
	for i := 0; ; {
		least := i
		for _, child := range [2]int{2*i + 1, 2*i + 2} {
			if child < last && h[child].at < h[least].at {
				least = child
			}
		}
		if least == i {
			break
		}
		h[i], h[least] = h[least], h[i]
		i = least
	}
	*a = h
	return first
}
