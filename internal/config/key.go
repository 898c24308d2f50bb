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
