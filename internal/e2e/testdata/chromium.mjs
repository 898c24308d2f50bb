// Two browsers swap a file: node chromium.mjs ws://host:port MiB [WS2]. With WS2 the second asks there.
// Each page runs webtorrent's bundle and knows the tracker alone. Prints "ok" and ends with 0 when the sums are equal.
import { launchPeer, servePeers } from './tabs.mjs'

const [ws, mib, ws2 = ws] = process.argv.slice(2)
const url = await servePeers(ws, ws2)
const open = async path => {
  const browser = await launchPeer()
  const tab = await browser.newPage()
  tab.on('pageerror', e => console.log('page:', e.message))
  await tab.goto(url + path)
  await tab.waitForFunction('window.ready')
  return { browser, tab }
}
const [a, b] = await Promise.all([open('/0'), open('/1')])

const { magnet, infoHash, sum } = await a.tab.evaluate(async size => {
  const file = new Uint8Array(size)
  for (let i = 0; i < size; i += 65536) crypto.getRandomValues(file.subarray(i, i + 65536))
  const torrent = await new Promise(resolve => client.seed(new File([file], 'payload.bin'), { announceList: [client.tracker.announce] }, resolve))
  watch(torrent)
  return { magnet: torrent.magnetURI, infoHash: torrent.infoHash, sum: await sha256(file) }
}, mib << 20)

const limit = new Promise(resolve => setTimeout(() => resolve('not within 90 s'), 90000))
const copy = await Promise.race([limit, b.tab.evaluate(async magnet => {
  const torrent = client.add(magnet)
  watch(torrent)
  await new Promise(resolve => torrent.on('done', resolve))
  return sha256(await (await torrent.files[0].blob()).arrayBuffer())
}, ws2 === ws ? magnet : 'magnet:?xt=urn:btih:' + infoHash)])
console.log('seeder:', await a.tab.evaluate('log'), 'leecher:', await b.tab.evaluate('log'))
await Promise.all([a.browser.close(), b.browser.close()])
console.log(copy === sum ? 'ok' : `sum: got ${copy}, want ${sum}`)
process.exit(copy === sum ? 0 : 1)
