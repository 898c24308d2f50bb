"""One libtorrent session with one torrent: session.py TORRENT SAVE_DIR LISTEN_INTERFACES seed|leech

Trackers are its only source of peers. Prints a JSON object a line: each tracker alert, with the seconds until the next announce
of that tracker, then {"finished": true} once a leecher has all. SIGUSR1 has it announce at once, SIGUSR2 scrape. Stays until
SIGTERM; then pauses, which announces "stopped", and leaves.
"""
import json
import signal
import sys
import time

import libtorrent as lt

torrent, save_path, listen, role = sys.argv[1:5]
session = lt.session({
    'listen_interfaces': listen,
    'enable_dht': False,
    'enable_lsd': False,
    'enable_upnp': False,
    'enable_natpmp': False,
    'enable_outgoing_utp': False,
    'enable_incoming_utp': False,
    'ssrf_mitigation': False,  # it asks nothing of loopback but /announce, and so cannot scrape there
    'allow_multiple_connections_per_ip': True,
    # Two trackers in a torrent are two families of one tracker here; both shall hear of us.
    'announce_to_all_trackers': True,
    'announce_to_all_tiers': True,
    'alert_mask': lt.alert.category_t.tracker_notification | lt.alert.category_t.error_notification
    | lt.alert.category_t.status_notification,
})
params = lt.add_torrent_params()
params.ti = lt.torrent_info(torrent)
params.save_path = save_path
params.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
if role == 'seed':
    params.flags |= lt.torrent_flags.seed_mode
handle = session.add_torrent(params)


def say(**what):
    print(json.dumps(what), flush=True)


def until_next(url):
    """libtorrent keeps a time for each address it listens on and each version of the info hash. These torrents are of version 1."""
    times = [e['info_hashes'][0]['next_announce'] for t in handle.trackers() if t['url'] == url for e in t['endpoints']]
    return round(min(times) - time.time()) if times else None


def drain():
    for alert in session.pop_alerts():
        kind = type(alert).__name__
        if kind.startswith(('tracker', 'scrape')):
            say(alert=kind, url=alert.url, message=alert.message(), next=until_next(alert.url))
        elif kind == 'torrent_finished_alert' and role == 'leech':
            say(finished=True)


stopping = []
signal.signal(signal.SIGTERM, lambda *_: stopping.append(True))
# Whatever "min interval" says, as a user may who knows better.
signal.signal(signal.SIGUSR1, lambda *_: handle.force_reannounce(0, -1, lt.reannounce_flags_t.ignore_min_interval))
signal.signal(signal.SIGUSR2, lambda *_: handle.scrape_tracker())
while not stopping:
    session.wait_for_alert(100)
    drain()
handle.pause()
# "stopped" has been sent once its reply is here; five seconds is libtorrent's own patience with it.
end = time.monotonic() + 5
while time.monotonic() < end:
    session.wait_for_alert(100)
    for alert in session.pop_alerts():
        if type(alert).__name__ == 'tracker_reply_alert':
            end = 0
