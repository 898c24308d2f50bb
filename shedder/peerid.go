package shedder

import "bytes"

// PeerForm is the form of a peer id: by what convention its client wrote itself into it.
type PeerForm uint8

// The forms.
const (
	FormAzureus  PeerForm = iota // -qB4500-, BEP 20; and looser ones that begin in the same way, as -ML2.7.2-
	FormShadow                   // S587-----, BEP 20: a letter, a version, dashes
	FormMainline                 // M7-9-2--, A2-1-36-0-: a letter, and numbers with a dash after each
	FormNamed                    // one of the old clients that have a way of their own, as exbc
	FormOther                    // none of these, but somebody's choice and not chance
	FormRandom                   // what chance makes
	peerFormCount
)

var peerFormNames = [peerFormCount]string{"azureus", "shadow", "mainline", "named", "other", "random"}

func (f PeerForm) String() string { return peerFormNames[f] }

// PeerIDForm tells the form of a peer id. It is generous: an id counts as random only if nothing in it looks chosen, for
// clients are many and not all follow a convention. Of 20 random bytes about 1 in 100 passes for FormOther, and random
// letters and digits do so nearly always; 20 random hex digits do not.
func PeerIDForm(id []byte) PeerForm {
	form, _ := peerClient(id)
	return form
}

// peerClient tells the form, and how many of the first bytes name the client and its version; 0 if that cannot be told.
func peerClient(id []byte) (form PeerForm, n int) {
	if len(id) != 20 {
		return FormOther, 0
	}
	if n := azureusLen(id); n > 0 {
		return FormAzureus, n
	}
	if n := mainlineLen(id); n > 0 {
		return FormMainline, n
	}
	for _, name := range namedClients {
		if string(id[:len(name)]) == name {
			return FormNamed, len(name)
		}
	}
	if n := shadowLen(id); n > 0 {
		return FormShadow, n
	}
	if looksChosen(id) {
		return FormOther, 0
	}
	return FormRandom, 0
}

// azureusLen: a dash, two letters or digits, a version of four, a dash. uTorrent and Free Download Manager put a byte of
// anything where the last dash should be, MLdonkey and Rain have longer versions, aria2 a longer name.
func azureusLen(id []byte) int {
	if id[0] != '-' || !isAlnum(id[1]) || !isAlnum(id[2]) {
		return 0
	}
	for i, c := range id[3:12] {
		if c == '-' && i > 0 {
			return 3 + i + 1
		}
		if c <= ' ' || c > '~' {
			break
		}
	}
	return 3
}

// mainlineLen: a letter, then three numbers or more of one to three digits, each with a dash behind it.
func mainlineLen(id []byte) int {
	if !isLetter(id[0]) {
		return 0
	}
	numbers, at := 0, 1
	for {
		digits := 0
		for digits < 3 && at+digits < len(id) && isDigit(id[at+digits]) {
			digits++
		}
		if digits == 0 || at+digits == len(id) || id[at+digits] != '-' {
			break
		}
		numbers++
		at += digits + 1
	}
	if numbers < 3 {
		return 0
	}
	for at < 8 && id[at] == '-' { // M7-9-2-- is filled up to eight
		at++
	}
	return at
}

// shadowLen: a letter or digit, a version of up to five, two dashes at least.
func shadowLen(id []byte) int {
	if !isAlnum(id[0]) {
		return 0
	}
	dashes := bytes.Index(id[1:9], []byte("--"))
	if dashes < 0 || dashes > 6 {
		return 0
	}
	for _, c := range id[1 : 1+dashes] {
		if !isReadable(c) {
			return 0
		}
	}
	return 1 + dashes + 2
}

// namedClients are what ids begin with that follow no convention: of the lists in BEP 20, the wiki of theory.org and the
// clients' own sources. Those that a form above covers are not here.
var namedClients = []string{
	"exbc", "FUTB", "xUTB", // BitComet, BitLord, and copies of them
	"XBT",              // XBT Client
	"OP",               // Opera
	"TIX",              // Tixati
	"AZ2500BT",         // BitTyrant
	"eX",               // eXeem
	"Plus", "S587Plus", // BitTorrent Plus!
	"P87.P", "PRC.P", // BitTorrent Plus! II
	"Mbrst",   // Burst!
	"Pando",   // Pando
	"LIME",    // LimeWire
	"turbobt", // TurboBT
	"btpd",    // BT Protocol Daemon
	"btfans", "SimpleBT", "346", "DansClient", "Deadman Walking-", "martini", "btuga", "oernu", "BTDWV-", "QVOD", "Ares",
	"BG", "BS", // BTGetit, BTSlave
	"\x00\x02BS", "\x00\x03BS", "\x02\x00BS", "\x03\x00BS", // BitSpirit
	"cbt-", // cratetorrent
}

// looksChosen tells an id that chance would hardly make.
func looksChosen(id []byte) bool {
	var seen [256]uint8
	hexDigits, run, longest := 0, 0, 0
	for _, c := range id {
		if seen[c]++; seen[c] >= 10 {
			return true // filled up with something, as the oldest clients did with zeros
		}
		if isDigit(c) || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F' {
			hexDigits++
		}
		if isReadable(c) {
			run++
			longest = max(longest, run)
		} else {
			run = 0
		}
	}
	if hexDigits == len(id) {
		return false // readable, but no room for a name
	}
	first := isReadable(id[0]) && isReadable(id[1]) && isReadable(id[2]) && isReadable(id[3])
	return first || longest >= 6 || isShareaza(id)
}

// isShareaza: the last four bytes are made of the others, so that Shareaza's own know each other.
func isShareaza(id []byte) bool {
	for i := 16; i < 20; i++ {
		if id[i] != id[i-16]^id[31-i] {
			return false
		}
	}
	return true
}

func isDigit(c byte) bool    { return c >= '0' && c <= '9' }
func isLetter(c byte) bool   { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }
func isAlnum(c byte) bool    { return isDigit(c) || isLetter(c) }
func isReadable(c byte) bool { return isAlnum(c) || c == '-' || c == '.' || c == '_' || c == ' ' }
