// What the scripts that drive a browser share.
import { chromium } from 'playwright-core'
import fs from 'node:fs'
import http from 'node:http'

export const launch = (...args) => chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', headless: true, args: ['--no-sandbox', '--disable-gpu', ...args]
})

// launchPeer is for tabs that swap files. Without the two features off, candidates are names of mDNS, which nobody answers in a namespace.
export const launchPeer = () => launch('--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update',
  '--disable-sync', '--disable-background-timer-throttling', '--disable-renderer-backgrounding', '--disable-backgrounding-occluded-windows',
  '--disable-features=WebRtcHideLocalIpsWithMdns', '--allow-loopback-in-peer-connection')

// complaintsOf lists what a tab of our own pages has to complain of, from now on; except is a text that is none.
export function complaintsOf (tab, except) {
  const complaints = []
  tab.on('pageerror', e => complaints.push(e.message))
  tab.on('console', m => { if (['error', 'warning'].includes(m.type()) && !(except && m.text().includes(except))) complaints.push(m.text()) })
  tab.on('dialog', d => { complaints.push('dialog: ' + d.message()); d.dismiss() })
  return complaints
}

const peer = ws => `<!doctype html><meta charset=utf-8><script type=module>
  import WebTorrent from '/webtorrent.min.js'
  window.log = []
  window.client = new WebTorrent({ dht: false, lsd: false, utPex: false, tracker: { announce: [${JSON.stringify(ws)}], rtcConfig: { iceServers: [] } } })
  client.on('error', e => { log.push('error ' + e.message); console.error('client: ' + e.message) })
  window.watch = t => { t.on('wire', w => log.push('wire ' + w.type)); t.on('warning', e => log.push('warning ' + e.message)) }
  window.sha256 = async b => Array.from(new Uint8Array(await crypto.subtle.digest('SHA-256', b)), x => x.toString(16).padStart(2, '0')).join('')
  window.ready = true
</script>`

// servePeers serves pages that run webtorrent's bundle and know one tracker alone, trackers[N] at URL/N. It returns the URL.
export async function servePeers (...trackers) {
  const bundle = new URL('../node_modules/webtorrent/dist/webtorrent.min.js', import.meta.url)
  const server = http.createServer((req, res) => {
    if (req.url === '/webtorrent.min.js') {
      res.setHeader('content-type', 'text/javascript')
      fs.createReadStream(bundle).pipe(res)
    } else {
      res.setHeader('content-type', 'text/html')
      res.end(peer(trackers[Number(req.url.slice(1))]))
    }
  }).listen(0, '127.0.0.1')
  await new Promise(resolve => server.once('listening', resolve))
  return `http://127.0.0.1:${server.address().port}`
}
