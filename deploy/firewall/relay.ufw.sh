#!/bin/sh
# The relay's firewall with ufw, the same as relay.nft. Set the backend's public address, and ssh's port if it is another; run it as
# root once, and "ufw enable" when "ufw show added" looks right. docs/install.md has the whole of it.
set -eu

backend_public=192.0.2.20
backend_tunnel=10.66.0.2
backend_tunnel6=fd66::2
backend_port=6969
ssh_port=22
wireguard_port=51820

ufw default deny incoming
ufw default deny routed
ufw default allow outgoing
ufw allow proto tcp to any port "$ssh_port"
ufw allow proto udp from "$backend_public" to any port "$wireguard_port"
# What the relay does not forward is to be refused by the kernel at once, not dropped; a relay in proxy mode listens here.
ufw allow proto tcp to any port 80,443
# What the relay has addressed to the backend. The answers are of connections ufw knows.
ufw route allow out on wg0 proto tcp to "$backend_tunnel" port "$backend_port"
ufw route allow out on wg0 proto tcp to "$backend_tunnel6" port "$backend_port"

# ufw has no word for notrack; relay.nft says why the tunnel should not be tracked. In /etc/ufw/before.rules, above *filter:
#   *raw
#   -A PREROUTING -p udp --dport 51820 -j NOTRACK
#   -A OUTPUT -p udp --sport 51820 -j NOTRACK
#   COMMIT
