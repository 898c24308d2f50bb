package config

import "strings"

// suggest returns the candidate nearest to what was written, or "" when none
// is near enough to be worth a question.
func suggest(written string, candidates []string) string {
	if len(written) > maxSuggestLen {
		return ""
	}
	best, bestDistance := "", max(2, len(written)/3)+1
	for _, c := range candidates {
		if d := distance(strings.ToLower(written), strings.ToLower(c)); d < bestDistance {
			best, bestDistance = c, d
		}
	}
	return best
}

// suggestKey looks among the names that could stand where written does, then
// for a key of that name in any other section: people forget the section more
// often than the spelling.
func suggestKey(written string, siblings []string) string {
	if s := suggest(written, siblings); s != "" {
		return s
	}
	lastParts := make(map[string]string)
	var names []string
	for _, k := range keys() {
		last := k.name[strings.LastIndexByte(k.name, '.')+1:]
		if lastParts[last] == "" {
			lastParts[last] = k.name
			names = append(names, last)
		}
	}
	return lastParts[suggest(written, names)]
}

// distance counts the letters to insert, drop, change or swap with a neighbour
// to get from a to b (optimal string alignment).
func distance(a, b string) int {
	prev2, prev, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			change := prev[j-1]
			if a[i-1] != b[j-1] {
				change++
			}
			row[j] = min(prev[j]+1, row[j-1]+1, change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], prev2[j-2]+1)
			}
		}
		prev2, prev, row = prev, row, prev2
	}
	return prev[len(b)]
}

// maxSuggestLen bounds the work on a hostile key of a megabyte.
const maxSuggestLen = 64
