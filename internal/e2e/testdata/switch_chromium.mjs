// WebTorrent in browsers while the switch of WebSockets is turned: node switch_chromium.mjs ws://host:port http://ADMIN/api/v1/ TOKEN
// Prints a line for each row of the table in docs/switches.md, then "ok" and ends with 0.
import assert from 'node:assert/strict'
import { launchPeer, servePeers } from './tabs.mjs'

const [ws, api, token] = process.argv.slice(2)
const url = await servePeers(ws)

// What the page keeps: its sockets, and the timers after which WebTorrent means to connect again. hurry ends those at once; all
// else is as it would be.
function watch () {
  window.sockets = []
  const Socket = window.WebSocket
  window.WebSocket = class extends Socket {
    constructor (...args) {
      super(...args)
      const s = {}
      sockets.push(s)
      this.addEventListener('open', () => { s.opened = Date.now() })
      this.addEventListener('close', e => { s.closed = Date.now(); s.code = e.code })
    }
  }
  window.backoffs = []
  const later = window.setTimeout
  window.setTimeout = (f, ms, ...args) => {
    if (!new Error().stack.includes('_startReconnectTimer')) return later(f, ms, ...args)
    const b = { ms }
    b.end = () => { if (!b.ended) { b.ended = true; f(...args) } }
    backoffs.push(b)
    return later(b.end, ms)
  }
  window.hurry = () => backoffs.filter(b => !b.ended).forEach(b => b.end())
}

const browser = await launchPeer()
async function open () {
  const tab = await (await browser.newContext()).newPage()
  tab.said = []
  tab.on('console', m => tab.said.push(m.text()))
  tab.on('pageerror', e => console.log('page:', e.message))
  await tab.addInitScript(watch)
  await tab.goto(url + '/0')
  await tab.waitForFunction('window.ready')
  return tab
}

// turn returns when the answer was here.
async function turn (mode) {
  const answer = await fetch(api + 'switches/ws', {
    method: 'PUT', headers: { authorization: 'Bearer ' + token, 'content-type': 'application/json' }, body: JSON.stringify({ mode })
  })
  assert.equal(answer.status, 200, await answer.text())
  return Date.now()
}

const within = (ms, what, promise) => Promise.race([promise, new Promise((resolve, reject) => setTimeout(() => reject(new Error(`${what}: not within ${ms} ms`)), ms))])

const seed = tab => tab.evaluate(async () => {
  const file = crypto.getRandomValues(new Uint8Array(65536))
  const torrent = await new Promise(resolve => client.seed(new File([file], 'payload.bin'), { announceList: [client.tracker.announce] }, resolve))
  return { magnet: torrent.magnetURI, sum: await sha256(file) }
})
const fetched = (tab, magnet) => tab.evaluate(async magnet => {
  const torrent = client.add(magnet)
  await new Promise(resolve => torrent.done ? resolve() : torrent.on('done', resolve))
  return sha256(await (await torrent.files[0].blob()).arrayBuffer())
}, magnet)

// trade moves a new file from one page to another, by offers and answers through the tracker.
async function trade (what, from, to) {
  const begun = Date.now()
  const { magnet, sum } = await seed(from)
  assert.equal(await within(60000, what, fetched(to, magnet)), sum, what)
  return Date.now() - begun
}

const sockets = tab => tab.evaluate('sockets')
const planned = tab => tab.evaluate('backoffs.filter(b => !b.ended).map(b => b.ms)')
const hurry = tab => tab.evaluate('hurry()')
const refusals = tab => tab.said.filter(text => text.includes('Unexpected response code: 503')).length
const row = (mode, ...cells) => console.log('row |', ['ws', mode, 'WebTorrent in Chromium', ...cells].join(' | '), '|')
const seconds = list => list.map(ms => Math.round(ms / 1000) + ' s').join(', ')

// allClosed waits until no socket of the pages is open, and returns how long after since each was closed.
async function allClosed (tabs, since, ms, what) {
  await within(ms, what, Promise.all(tabs.map(tab => tab.waitForFunction('sockets.every(s => s.closed)', null, { timeout: 0 }))))
  // A page that was drained early may have tried again by now, and been refused.
  const last = (await Promise.all(tabs.map(sockets))).map(list => list.filter(s => s.opened).at(-1))
  for (const s of last) assert.equal(s.code, 1013, what)
  return last.map(s => s.closed - since)
}

// inBackoff: 10 s after a socket that was open, twice that for each refusal, and up to five minutes more by chance. A torrent that
// came to share an open socket goes on counting, hence the most of 80 s.
async function inBackoff (tabs, least, what) {
  const all = []
  for (const tab of tabs) {
    await within(10000, what, tab.waitForFunction('backoffs.some(b => !b.ended)', null, { timeout: 0 }))
    const list = await planned(tab)
    for (const ms of list) assert.ok(ms >= least && ms <= 380000, `${what}: planned in ${ms} ms, want ${least} to 380,000`)
    all.push(...list)
  }
  return all
}

try {
  const [a, b] = await Promise.all([open(), open()])
  row('on', `a file in ${await trade('on', a, b)} ms`)

  await turn('reject-new')
  row('reject-new', 'open sockets', `a file in ${await trade('reject-new', a, b)} ms`)
  for (const tab of [a, b]) assert.ok((await sockets(tab)).every(s => s.opened && !s.closed), 'reject-new closed a socket')
  const { magnet, sum } = await seed(a)
  const c = await open()
  const copy = fetched(c, magnet) // comes when c may connect
  let delays = await inBackoff([c], 10000, 'refused')
  assert.equal(refusals(c), 1)
  row('reject-new', 'a new page: 503 before the 101', `next try planned in ${seconds(delays)}`)

  await turn('on')
  await hurry(c)
  assert.equal(await within(60000, 'on again', copy), sum)
  row('on', 'the page that was refused: connects at its next try, has the file')

  let since = await turn('drain')
  const closed = await allClosed([a, b, c], since, 63000, 'drain')
  delays = await inBackoff([a, b, c], 10000, 'drained')
  row('drain', `1013 after ${seconds(closed)}`, `next try planned in ${seconds(delays)}`)
  for (const tab of [a, b, c]) await hurry(tab)
  delays = await inBackoff([a, b, c], 20000, 'refused while draining')
  row('drain', 'the next try: 503', `the one after it planned in ${seconds(delays)}`)

  await turn('on')
  for (const tab of [a, b, c]) await hurry(tab)
  row('on', `after the next try a file in ${await trade('on after drain', b, a)} ms`)

  since = await turn('off')
  const gone = await allClosed([a, b, c], since, 10000, 'off')
  for (const ms of gone) assert.ok(ms < 1000, `off: closed ${ms} ms after the answer, want less than 1 s`)
  delays = await inBackoff([a, b, c], 10000, 'off')
  row('off', `1013 after ${gone.join(', ')} ms`, `next try planned in ${seconds(delays)}`)
  const before = refusals(a)
  for (const tab of [a, b, c]) await hurry(tab)
  delays = await inBackoff([a, b, c], 20000, 'refused while off')
  assert.ok(refusals(a) > before)
  row('off', 'the next try: 503', `the one after it planned in ${seconds(delays)}`)

  await turn('on')
  for (const tab of [a, b, c]) await hurry(tab)
  row('on', `after the next try a file in ${await trade('on after off', a, c)} ms`)
  await browser.close()
  console.log('ok')
  process.exit(0)
} catch (e) {
  console.log(e)
  process.exit(1)
}
