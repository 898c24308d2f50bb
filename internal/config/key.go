package config

import (
	"encoding"
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// key is one setting: the path of a leaf of Config.
type key struct {
	name    string // as "http.max_conns"
	index   []int  // of the field, for reflect's FieldByIndex
	restart bool   // cannot be changed by a reload
}

// keys lists the leaves of Config in the order they are declared.
func keys() []key {
	return appendKeys(nil, reflect.TypeFor[Config](), "", nil)
}

func appendKeys(dst []key, t reflect.Type, section string, index []int) []key {
	for i := range t.NumField() {
		f := t.Field(i)
		name := section + fieldName(f)
		at := append(append([]int(nil), index...), i)
		if isSection(f) {
			dst = appendKeys(dst, f.Type, name+".", at)
			continue
		}
		dst = append(dst, key{name: name, index: at, restart: f.Tag.Get("reload") == "restart"})
	}
	return dst
}

func isSection(f reflect.StructField) bool { return f.Type.Kind() == reflect.Struct }

// fieldName is the last part of the key of f, or the name of the section.
func fieldName(f reflect.StructField) string {
	if isSection(f) {
		return strings.TrimSuffix(f.Tag.Get("prefix"), ".")
	}
	return f.Tag.Get("name")
}

// env is the name of the environment variable of k.
func (k key) env() string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(k.name, ".", "_"))
}

func (k key) field(c *Config) reflect.Value {
	return reflect.ValueOf(c).Elem().FieldByIndex(k.index)
}

// Reload returns what a running tracker has when it takes over of next what it
// can, and the keys in which next differs: those taken over, and those that
// keep their value until a restart.
func Reload(running, next Config) (now Config, live, restart []string) {
	now = running
	for _, k := range keys() {
		switch {
		case reflect.DeepEqual(k.field(&running).Interface(), k.field(&next).Interface()):
		case k.restart:
			restart = append(restart, k.name)
		default:
			live = append(live, k.name)
			k.field(&now).Set(k.field(&next))
		}
	}
	return now, live, restart
}

// Texts returns the value of each key of c, written as the file would have it.
func Texts(c Config) map[string]string {
	texts := make(map[string]string)
	for _, k := range keys() {
		texts[k.name] = fmt.Sprint(k.field(&c).Interface())
	}
	return texts
}

// setText parses text into v. It is the only parser of values: the file, the
// environment and flags cannot disagree about what "30m" means.
func setText(v reflect.Value, text string) error {
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(text))
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Int:
		n, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("got %q; must be a whole number", text)
		}
		v.SetInt(int64(n))
	case reflect.Bool:
		// As in YAML 1.2; "yes" and "on" would be strings there.
		if text != "true" && text != "false" {
			return fmt.Errorf("got %q; must be true or false", text)
		}
		v.SetBool(text == "true")
	default:
		panic("BUG: no parser for " + v.Type().String())
	}
	return nil
}

// suggest returns the candidate nearest to what was written, or "" when none
// is near enough to be worth a question.
func suggest(written string, candidates []string) string {
	if len(written) > maxSuggestLen {
		return ""
	}
	best, bestDistance := "", max(2, len(written)/3)+1
	for _, c := range candidates {
		if d := Distance(strings.ToLower(written), strings.ToLower(c)); d < bestDistance {
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

// Distance counts the letters to insert, drop, change or swap with a neighbour
// to get from a to b (optimal string alignment). It takes time as the product of their lengths.
func Distance(a, b string) int {
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
