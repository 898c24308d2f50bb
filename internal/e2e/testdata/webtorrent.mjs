// Two node clients of webtorrent that know of each other by the tracker alone: node webtorrent.mjs ws://host:port MiB DIR [WS2]
// With WS2 the leecher asks there, and has a magnet link.
// Prints "ok" and ends with 0 when the file has crossed.
import WebTorrent from 'webtorrent'
import crypto from 'node:crypto'
import fs from 'node:fs'

const [ws, mib, dir, ws2] = process.argv.slice(2)
const options = () => ({ dht: false, lsd: false, utPex: false, natUpnp: false, natPmp: false, utp: false, tracker: { rtcConfig: { iceServers: [] } } })
const fail = e => { console.log(e.message ?? e); process.exit(1) }
const [seeder, leecher] = [new WebTorrent(options()), new WebTorrent(options())]
seeder.on('error', fail)
leecher.on('error', fail)

const file = crypto.randomBytes(mib << 20)
file.name = 'payload.bin'
const torrent = await new Promise(resolve => {
  seeder.seed(file, { announce: [ws], announceList: [[ws]], private: true, path: dir + '/seed' }, resolve)
})
await new Promise(resolve => torrent.numPeers === 0 && torrent.discovery?.tracker ? resolve() : torrent.once('trackerAnnounce', resolve))

const source = ws2 ? `magnet:?xt=urn:btih:${torrent.infoHash}&tr=${encodeURIComponent(ws2)}` : torrent.torrentFile
const copy = leecher.add(source, { path: dir + '/leech' })
copy.on('wire', w => console.log('wire', w.type))
copy.on('warning', e => console.log('warning', e.message))
copy.on('done', () => {
  if (!fs.readFileSync(dir + '/leech/payload.bin').equals(file)) fail('the copy differs')
  console.log('ok')
  process.exit(0)
})
