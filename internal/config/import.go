package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// ImportKinds are the trackers whose configuration Import reads.
var ImportKinds = []string{"trunker", "opentracker", "chihaya"}

// Imported is another tracker's configuration in Spillway's words. Each key of the source is in Taken or in Notes, so that
// nothing is lost without a word.
//
// It passes through: importYAML or importLines (the source's keys with their lines), a table of the source's keys
// (import_trunker.go and its neighbours), Imported.settle, which makes it pass Check, and YAML.
type Imported struct {
	From   string // what the tracker calls itself
	File   string // the source's name, for messages
	Config Config // Default, and what was taken over
	Notes  []ImportNote
	Lists  []ImportList // what was to become tracker.access.file, one at most

	taken map[string]string // key of Spillway -> where its value comes from
}

// ImportNote is something about a key of the source that its owner should know.
type ImportNote struct {
	Kind NoteKind
	Line int    // in the source; 0 for what is not in it
	Key  string // of the source
	Text string
}

// NoteKind says how urgent a note is.
type NoteKind int

// Dropped: there is no counterpart, and none is needed. Look: it means something else here, or a person has to decide.
// Unknown: nobody here has heard of that key.
const (
	NoteDropped NoteKind = iota
	NoteLook
	NoteUnknown
)

// String is as `spillway config import` prints it.
func (n ImportNote) String() string {
	if n.Line == 0 {
		return n.Key + ": " + n.Text
	}
	return fmt.Sprintf("line %d: %s: %s", n.Line, n.Key, n.Text)
}

// ImportList is a list of info hashes: in a file of its own, or in the source itself.
type ImportList struct {
	Key    string   // of the source
	Line   int      // in the source
	Path   string   // "" when the hashes are in the source
	Hashes []string // as they were written
}

// Import reads a configuration of the tracker called from. file is its name in messages. The error is about the file as a
// whole; what cannot be taken over of a file that can be read is in Notes.
func Import(from string, text []byte, file string) (*Imported, error) {
	im := &Imported{From: from, File: file, Config: Default(), taken: make(map[string]string)}
	var err error
	switch from {
	case "trunker":
		im.From = "Trunker"
		err = im.trunker(text)
	case "chihaya":
		err = im.chihaya(text)
	case "opentracker":
		err = im.opentracker(text)
	default:
		err = fmt.Errorf("from: got %q; must be %s", from, strings.Join(ImportKinds, " or "))
	}
	if err != nil {
		return nil, err
	}
	im.settle()
	slices.SortStableFunc(im.Notes, func(a, b ImportNote) int { return cmp.Or(a.Line-b.Line, strings.Compare(a.Key, b.Key)) })
	im.Notes = slices.Compact(im.Notes)
	return im, nil
}

// Taken lists Spillway's keys that were set, in the order of the file.
func (im *Imported) Taken() (names []string) {
	for _, k := range keys() {
		if _, ok := im.taken[k.name]; ok {
			names = append(names, k.name)
		}
	}
	return names
}

// imported is one key of the source: a scalar, or a list of scalars.
type imported struct {
	key   string // as "tracker.memory.shard"
	line  int
	text  string
	items []importedItem // of a list
	list  bool
	odd   string // what it is when it is neither: "a section", "nothing", ...
}

type importedItem struct {
	text string
	line int
}

func (im *Imported) note(kind NoteKind, l imported, format string, args ...any) {
	im.Notes = append(im.Notes, ImportNote{kind, l.line, l.key, fmt.Sprintf(format, args...)})
}

func (im *Imported) drop(l imported, format string, args ...any) {
	im.note(NoteDropped, l, format, args...)
}

// drops is for keys whose value does not matter.
func (im *Imported) drops(text string) func(imported) {
	return func(l imported) { im.note(NoteDropped, l, "%s", text) }
}

func (im *Imported) look(l imported, format string, args ...any) {
	im.note(NoteLook, l, format, args...)
}

// set gives key the value text, which l said. What cannot be a value of that key is noted, and the key keeps its default.
func (im *Imported) set(key, text string, l imported) bool {
	if !isOneLine(text) {
		im.look(l, "has a character that cannot be printed; %s is left at its default", key)
		return false
	}
	v := keyNamed(key).field(&im.Config)
	if list, ok := v.Addr().Interface().(*StringList); ok {
		*list = nil
		if text != "" {
			*list = StringList{text}
		}
	} else if err := setText(v, text); err != nil {
		im.look(l, "%v; %s is left at its default", err, key)
		return false
	}
	im.from(key, l)
	return true
}

// from notes that l said something about key; several may.
func (im *Imported) from(key string, l imported) {
	switch before := im.taken[key]; {
	case before == "":
		im.taken[key] = l.source()
	case !slices.Contains(strings.Split(before, "; "), l.source()):
		im.taken[key] = before + "; " + l.source()
	}
}

// add puts text into the list that key is; the first replaces the default.
func (im *Imported) add(key, text string, l imported) {
	list := keyNamed(key).field(&im.Config).Addr().Interface().(*StringList)
	before := StringList(nil)
	if im.taken[key] != "" {
		before = *list
	}
	if slices.Contains(before, text) {
		return
	}
	if im.set(key, text, l) {
		*list = append(slices.Clip(before), text)
	}
}

func (l imported) source() string {
	if l.line == 0 {
		return l.key
	}
	return fmt.Sprintf("%s, line %d", l.key, l.line)
}

// flag reads a bool; what is none counts as false, and is noted.
func (im *Imported) flag(l imported) bool {
	switch strings.ToLower(l.text) {
	case "true", "yes", "on": // as YAML 1.1 has them, which gopkg.in/yaml reads into a bool
		return true
	case "false", "no", "off", "":
		return false
	}
	im.look(l, "got %q; taken as false", shorten(l.text))
	return false
}

// interval sets tracker.interval within what Spillway allows, and max_interval with it.
func (im *Imported) interval(d time.Duration, l imported) {
	const least, most = 5 * time.Minute, 3 * time.Hour
	now := min(max(d, least), most)
	im.set("tracker.interval", Duration(now).String(), l)
	switch {
	case d < least:
		im.look(l, "%s is too short: clients and the lists of public trackers want 5m or more; tracker.interval is 5m", Duration(max(d, 0)))
	case d > most:
		im.look(l, "%s is too long: the lists of public trackers refuse more than 3h; tracker.interval is 3h", Duration(d))
	}
	if now > time.Duration(im.Config.Tracker.MaxInterval) {
		im.set("tracker.max_interval", Duration(now).String(), imported{key: "as long as tracker.interval, or it would be refused"})
	}
}

// listen adds an address to http.listen or udp.listen, and says what to know about it.
func (im *Imported) listen(key, addr string, l imported) {
	im.add(key, addr, l)
	host, port, ok := cutHostPort(addr)
	if !ok {
		return
	}
	if host == "0.0.0.0" {
		im.look(l, "IPv4 only, as it was; %q would serve IPv6 too", ":"+port)
	}
	if n, _ := strconv.Atoi(port); n > 0 && n < 1024 {
		im.look(l, "port %s is under 1024: systemd has to open it, by deploy/systemd/spillway.socket and %s: systemd", port, key)
	}
}

// trustProxy says who may name the client, when the source believed the header that l is of anybody.
func (im *Imported) trustProxy(header string, l imported) {
	local := true
	for _, a := range im.Config.HTTP.Listen {
		host, _, ok := cutHostPort(a)
		local = local && (strings.HasPrefix(a, "unix:") || ok && (host == "localhost" || host == "::1" || strings.HasPrefix(host, "127.")))
	}
	switch {
	case local:
		from := imported{key: "it listens on this machine only, so the proxy in front is on it"}
		im.add("http.trusted_proxies", "127.0.0.0/8", from)
		im.add("http.trusted_proxies", "::1", from)
	case strings.EqualFold(header, "CF-Connecting-IP"):
		im.add("http.trusted_proxies", "cloudflare", l)
	default:
		im.look(l, "it was believed of anybody, so that anybody could be anybody. Is there a proxy or a CDN in front? Then name it in "+
			"http.trusted_proxies, or all peers will have its address")
	}
}

// list takes a list of info hashes over as tracker.access; the file is for the caller to write.
func (im *Imported) list(mode string, list ImportList, l imported) {
	if len(im.Lists) > 0 {
		im.look(l, "a second list; only that of %s is taken over, because tracker.access has one", im.Lists[0].Key)
		return
	}
	im.set("tracker.access.mode", mode, l)
	// Overwritten when the list gets its place. Until then mode would be refused for want of a file.
	path := list.Path
	if path == "" {
		path = "access.txt"
	}
	im.set("tracker.access.file", path, l)
	if im.Config.Tracker.Access.File == path {
		im.Lists = append(im.Lists, list)
	}
}

// PlaceList names the file that the info hashes are in now.
func (im *Imported) PlaceList(path string) error {
	if !isOneLine(path) {
		return errors.New("the name of the list's file has a character that cannot be printed")
	}
	im.Config.Tracker.Access.File = path
	return nil
}

// settle puts back to its default what Check refuses, so that the file made of it can be used.
func (im *Imported) settle() {
	for range len(keys()) {
		wrong := Check(im.Config)
		if len(wrong) == 0 {
			return
		}
		for _, e := range wrong {
			im.putBack(e)
		}
	}
	panic(fmt.Sprintf("BUG: the default does not pass Check: %v", Check(im.Config)[0]))
}

func (im *Imported) putBack(e *KeyError) {
	def := Default()
	// The key that is refused may be right, and the one it is compared with be wrong: then its section goes.
	section := e.Key[:strings.LastIndexByte(e.Key, '.')+1]
	_, itself := im.taken[e.Key]
	for _, k := range keys() {
		source, taken := im.taken[k.name]
		if !taken || itself && k.name != e.Key || !itself && !strings.HasPrefix(k.name, section) {
			continue
		}
		k.field(&im.Config).Set(k.field(&def))
		delete(im.taken, k.name)
		im.Notes = append(im.Notes, ImportNote{NoteLook, 0, k.name, fmt.Sprintf("left at its default (%s): %s", source, e.Msg)})
		if k.name == "tracker.access.mode" || k.name == "tracker.access.file" {
			im.Lists = nil
		}
	}
}

func isOneLine(s string) bool {
	for _, r := range s {
		if !unicode.IsPrint(r) { // of blanks only the ASCII space is printable: nothing ends a line of YAML
			return false
		}
	}
	return utf8.ValidString(s)
}
