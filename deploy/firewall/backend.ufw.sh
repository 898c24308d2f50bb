#!/bin/sh
# The backend's firewall with ufw, the same as backend.nft. Set the relay's public address, and ssh's port if it is another; run it as
# root once, and "ufw enable" when "ufw show added" looks right. docs/install.md has the whole of it.
set -eu

relay_public=203.0.113.10
backend_tunnel=10.66.0.2
backend_tunnel6=fd66::2
backend_port=6969
ssh_port=22
wireguard_port=51820

ufw default deny incoming
ufw default deny routed
ufw default allow outgoing
ufw allow proto tcp to any port "$ssh_port"
ufw allow proto udp from "$relay_public" to any port "$wireguard_port"
ufw allow in on wg0 proto tcp to "$backend_tunnel" port "$backend_port"
ufw allow in on wg0 proto tcp to "$backend_tunnel6" port "$backend_port"

# ufw answers pings, on the public side too: the line "ufw-before-input -p icmp --icmp-type echo-request" of /etc/ufw/before.rules, and
# of before6.rules, is to be taken out where the machine is to be silent.
#
# ufw has no word for notrack; backend.nft says why neither the tunnel nor what comes through it should be tracked. In
# /etc/ufw/before.rules, above *filter (and the two lines with tcp in before6.rules):
#   *raw
#   -A PREROUTING -p udp --dport 51820 -j NOTRACK
#   -A PREROUTING -i wg0 -p tcp --dport 6969 -j NOTRACK
#   -A OUTPUT -p udp --sport 51820 -j NOTRACK
#   -A OUTPUT -o wg0 -p tcp --sport 6969 -j NOTRACK
#   COMMIT
