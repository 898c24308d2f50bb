package cmdline

import (
	"fmt"

	"github.com/alecthomas/kong"
)

// Example is a command line that works, and what it does. --help and the manual pages show them; a test has the parser read them.
type Example struct{ Line, Does string }

// ExamplesOf returns those of a command, as "ctl ws"; "" is the program.
func ExamplesOf(command string) []Example {
	switch command {
	case "":
		return []Example{
			{"spillway serve", "a tracker on port 6969, which logs the announce URL to paste into torrents"},
			{"spillway ctl status", "how it fares: load, switches, what is refused and why"},
			{"spillway ctl top", "the same, live: who asks most, and what they have in common"},
			{"spillway ctl ws off --for=10m --reason=flood", "switch WebSockets off for ten minutes"},
			{"sudo spillway relay --relay.backends=10.66.0.2:6969", "on the machine in front: forward ports 80 and 443 there"},
			{"spillway ctl --relay status", "on the machine in front: is it forwarding, and who is up?"},
			{"spillway config print > spillway.yaml", "a configuration to start from"},
		}
	case "serve":
		return []Example{
			{"spillway serve", "port 6969, HTTP, UDP and WebSockets; data in ./data"},
			{"spillway serve --config=/etc/spillway/spillway.yaml", "as the file says"},
			{"spillway serve --http.listen=:80 --udp.listen=", "HTTP and WebSockets on port 80, no UDP"},
			{"spillway serve --http.trusted_proxies=cloudflare --http.real_ip_header=CF-Connecting-IP", "behind Cloudflare"},
			{"spillway serve --ws=off --announce=reject-new", "start in the middle of an attack: no WebSockets, known clients only"},
		}
	case "relay", "relay run":
		return []Example{
			{"sudo spillway relay --relay.backends=10.66.0.2:6969", "ports 80 and 443 go through the tunnel to one backend"},
			{"sudo spillway relay --config=/etc/spillway/relay.yaml", "as the file says"},
			{"spillway relay --relay.mode=proxy --relay.listen=:6969 --relay.backends=10.66.0.2:6969", "without root: this program forwards, not the kernel"},
		}
	case "relay check":
		return []Example{
			{"spillway relay check", "what differs from the profile here; exit code 1 if anything does"},
			{"spillway relay check --role=backend", "the same on the machine of the tracker"},
		}
	case "relay apply":
		return []Example{{"sudo spillway relay apply", "set the kernel as the profile has it, without forwarding anything"}}
	case "relay revert":
		return []Example{{"sudo spillway relay revert", "after systemctl stop spillway-relay: as if there had been no relay"}}
	case "ctl":
		return []Example{
			{"spillway ctl status", "how it fares"},
			{"spillway ctl ws off --for=10m --reason=flood", "turn a switch, for a while"},
			{"sudo spillway ctl --token-file=/var/lib/spillway/admin.token status", "of one that systemd runs"},
			{"spillway ctl --admin=10.66.0.2:7070 --token-file=tracker.token top", "of one on another machine, through the tunnel"},
		}
	case "ctl status":
		return []Example{
			{"spillway ctl status", "in a screen"},
			{"spillway ctl status --exit-code", "for a script: exit code 3 unless it is calm"},
			{"spillway ctl --json status", "for a program"},
		}
	case "ctl top":
		return []Example{{"spillway ctl top", "the keys it knows are in its last line"}}
	case "ctl announce", "ctl scrape", "ctl udp":
		name := command[len("ctl "):]
		return []Example{
			{"spillway ctl " + name, "how it stands"},
			{"spillway ctl " + name + " off --for=10m --reason=flood", "off for ten minutes, then on by itself"},
			{"spillway ctl " + name + " on", "on again at once"},
		}
	case "ctl ws":
		return []Example{
			{"spillway ctl ws reject-new --reason=flood", "open sockets stay, no new ones"},
			{"spillway ctl ws off --for=10m --reason=flood", "all of them closed; on again in ten minutes"},
			{"spillway ctl ws on", "on again at once"},
		}
	case "ctl block", "ctl block list":
		return []Example{
			{"spillway ctl block", "what is blocked, and what is proposed against an attack"},
			{"spillway ctl block add --for=1d peer-id -XL0019", "one version of a client, for a day"},
		}
	case "ctl block add":
		return []Example{
			{"spillway ctl block add --for=1d --reason=flood peer-id -XL0019", "one version of a client, for a day"},
			{"spillway ctl block add source 198.51.100.0/24", "a network, until it is removed"},
			{"spillway ctl block add info-hash 0123456789abcdef0123456789abcdef01234567", "a torrent"},
			{"spillway ctl block add user-agent python-requests/", "whatever calls itself so"},
		}
	case "ctl block rm":
		return []Example{{"spillway ctl block rm source 198.51.100.0/24", "as it was added"}}
	case "ctl block accept":
		return []Example{{"spillway ctl block accept 3f2a", "the proposal that spillway ctl block shows by this ID"}}
	case "ctl limits", "ctl limits list":
		return []Example{{"spillway ctl limits", "the bounds, and how much of each is in use"}}
	case "ctl limits set":
		return []Example{{"spillway ctl limits set http.max_conns 40000", "until the next start; the configuration is for longer"}}
	case "ctl page":
		return []Example{{"spillway ctl page", "the URL to open, through a tunnel if need be: ssh -L 7070:127.0.0.1:7070 HOST"}}
	case "config print":
		return []Example{{"spillway config print > spillway.yaml", "every key, with its default and what it does"}}
	case "config check":
		return []Example{{"spillway config check spillway.yaml", "before systemctl reload spillway"}}
	case "config", "config import":
		return []Example{
			{"spillway config import --from=opentracker /etc/opentracker/opentracker.conf > spillway.yaml", "what does not fit is on standard error, and in comments"},
			{"spillway config import --from=chihaya --out-dir=/etc/spillway chihaya.yaml > spillway.yaml", "its lists of info hashes go to /etc/spillway/access.txt"},
			{"spillway config import --from=list whitelist.txt > access.txt", "a list alone"},
		}
	case "bench", "bench flood":
		return []Example{
			{"spillway bench flood 127.0.0.1:6969 --rate=2000", "2000 announces a second for ten seconds"},
			{"spillway bench flood 127.0.0.1:6969 --find-peak --profile=10s@0.5,60s@10,30s@0.5 --html=flood.html", "calm, ten times what it serves at most, calm; with plots"},
		}
	case "drill":
		return []Example{{"sudo spillway drill --quick", "a minute and a half, and a page: drill.html"}}
	case "man":
		return []Example{{"spillway man --dir=/usr/local/share/man/man1", "all pages, as root"}}
	case "completion":
		return []Example{{"spillway completion bash > /usr/share/bash-completion/completions/spillway", "for all who log in, as root"}}
	}
	return nil
}

// Help is kong's --help with examples at the end, where a screen ends as well.
func Help(options kong.HelpOptions, parsed *kong.Context) error {
	if err := kong.DefaultHelpPrinter(options, parsed); err != nil {
		return err
	}
	command := ""
	if n := parsed.Selected(); n != nil {
		command = n.Path()
	}
	list := ExamplesOf(command)
	if len(list) == 0 {
		return nil
	}
	text := "\nExamples:\n"
	for _, e := range list {
		text += fmt.Sprintf("  %s\n      %s\n", e.Line, e.Does)
	}
	_, err := fmt.Fprint(parsed.Stdout, text)
	return err
}
