// Two browsers swap a file: node chromium.mjs ws://host:port MiB [WS2]. With WS2 the second asks there.
// Each page runs webtorrent's bundle and knows the tracker alone. Prints "ok" and ends with 0 when the sums are equal.
import { chromium } from 'playwright-core'
import fs from 'node:fs'
import http from 'node:http'

const [ws, mib, ws2 = ws] = process.argv.slice(2)
const bundle = new URL('../node_modules/webtorrent/dist/webtorrent.min.js', import.meta.url)
const page = ws => `<!doctype html><meta charset=utf-8><script type=module>
  import WebTorrent from '/webtorrent.min.js'
  window.log = []
  window.client = new WebTorrent({ dht: false, lsd: false, utPex: false, tracker: { announce: [${JSON.stringify(ws)}], rtcConfig: { iceServers: [] } } })
  client.on('error', e => log.push('error ' + e.message))
  window.watch = t => { t.on('wire', w => log.push('wire ' + w.type)); t.on('warning', e => log.push('warning ' + e.message)) }
  window.sha256 = async b => Array.from(new Uint8Array(await crypto.subtle.digest('SHA-256', b)), x => x.toString(16).padStart(2, '0')).join('')
  window.ready = true
</script>`
const server = http.createServer((req, res) => {
  if (req.url === '/webtorrent.min.js') {
    res.setHeader('content-type', 'text/javascript')
    fs.createReadStream(bundle).pipe(res)
  } else {
    res.setHeader('content-type', 'text/html')
    res.end(page(req.url === '/second' ? ws2 : ws))
  }
}).listen(0, '127.0.0.1')
await new Promise(resolve => server.once('listening', resolve))

// Without the two features off, candidates are names of mDNS, which nobody answers in a namespace.
const args = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update',
  '--disable-sync', '--disable-background-timer-throttling', '--disable-renderer-backgrounding', '--disable-backgrounding-occluded-windows',
  '--disable-features=WebRtcHideLocalIpsWithMdns', '--allow-loopback-in-peer-connection']
const open = async path => {
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', headless: true, args })
  const tab = await browser.newPage()
  tab.on('pageerror', e => console.log('page:', e.message))
  await tab.goto(`http://127.0.0.1:${server.address().port}${path}`)
  await tab.waitForFunction('window.ready')
  return { browser, tab }
}
const [a, b] = await Promise.all([open('/'), open('/second')])

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
