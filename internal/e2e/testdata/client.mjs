// bittorrent-tracker's own client against a tracker: node client.mjs ws://host:port http://host:port/announce
// Prints "ok" and ends with 0, or says what was wrong.
import Client from 'bittorrent-tracker'
import assert from 'node:assert/strict'
import crypto from 'node:crypto'

const [ws, http] = process.argv.slice(2)
const bytes = n => crypto.randomBytes(n)
const clients = []

// Every byte value, among them those that JSON escapes and those that UTF-8 doubles.
const oddHash = Buffer.from([0, 1, 10, 13, 34, 92, 127, 128, 129, 159, 160, 191, 192, 223, 224, 254, 255, 47, 8, 12])

function client (opts) {
  const c = new Client({ announce: [ws], port: 6881, wrtc: {}, ...opts })
  c.on('error', e => { console.log('error:', e.message); process.exit(1) })
  c.on('warning', e => { c.warned = e.message })
  clients.push(c)
  return c
}

const once = (c, event, what) => new Promise((resolve, reject) => {
  const timer = setTimeout(() => reject(new Error(`${what}: no ${event} in 10 s; last warning: ${c.warned}`)), 10000)
  c.once(event, data => { clearTimeout(timer); resolve(data) })
})

// The client makes its offers with simple-peer, which needs WebRTC. Here they are words: what is asked is that they arrive.
function wordsForOffers (c) {
  for (const t of c._trackers) {
    if (!t._generateOffers) continue
    t._generateOffers = (n, cb) => cb(Array.from({ length: n }, (_, i) => ({
      offer: { type: 'offer', sdp: `v=0\r\nés=${i}` }, offer_id: bytes(20).toString('latin1')
    })))
    t._onAnnounceResponse = new Proxy(t._onAnnounceResponse, {
      apply (f, self, [data]) {
        if (data.offer || data.answer) c.emit('relayed', { data, tracker: self })
        else Reflect.apply(f, self, [data])
      }
    })
  }
}

try {
  // Announce, alone; a magnet's left is null, which is a leecher's.
  const a = client({ infoHash: oddHash, peerId: bytes(20) })
  wordsForOffers(a)
  a.start()
  let update = await once(a, 'update', 'first announce')
  assert.equal(update.complete, 0)
  assert.equal(update.incomplete, 1)

  // A second one in the same process shares the socket: the pool is by URL. Its offers reach the first.
  const b = client({ infoHash: oddHash, peerId: bytes(20), getAnnounceOpts: () => ({ left: 0, numwant: 3 }) })
  wordsForOffers(b)
  const relayed = once(a, 'relayed', 'offer')
  b.start()
  update = await once(b, 'update', 'second announce')
  assert.equal(update.complete, 1)
  assert.equal(update.incomplete, 1)
  const { data, tracker } = await relayed
  assert.equal(data.offer.sdp, 'v=0\r\nés=0')
  assert.equal(data.peer_id, b._peerIdBinary)
  assert.equal(data.info_hash, oddHash.toString('latin1'))

  // The answer comes back to who offered.
  const answered = once(b, 'relayed', 'answer')
  tracker._send({
    action: 'announce', info_hash: a._infoHashBinary, peer_id: a._peerIdBinary, to_peer_id: data.peer_id,
    answer: { type: 'answer', sdp: 'yes' }, offer_id: data.offer_id
  })
  const { data: answer } = await answered
  assert.equal(answer.answer.sdp, 'yes')
  assert.equal(answer.offer_id, data.offer_id)
  assert.equal(answer.peer_id, a._peerIdBinary)

  // Scrape, of one and of several, over both.
  a.scrape()
  let scraped = await once(a, 'scrape', 'scrape over WebSocket')
  assert.equal(scraped.complete, 1)
  assert.equal(scraped.incomplete, 1)
  const other = Buffer.from('an ASCII info hash..').toString('hex')
  for (const url of [ws, http]) {
    const all = await new Promise((resolve, reject) => {
      Client.scrape({ announce: url, infoHash: [oddHash.toString('hex'), other], wrtc: {} }, (err, data) => err ? reject(err) : resolve(data))
    })
    assert.equal(all[other].complete, 0, url)
    if (url === http) continue // there the client cannot read a key that is not UTF-8
    assert.equal(all[oddHash.toString('hex')].complete, 1, url)
    assert.equal(all[oddHash.toString('hex')].incomplete, 1, url)
  }

  // Over HTTP the same swarm has the same numbers, and none of these peers.
  const h = client({ infoHash: oddHash, peerId: bytes(20), announce: [http] })
  h.on('peer', p => { console.log('an HTTP peer was told of', p); process.exit(1) })
  h.start({ left: 7 })
  update = await once(h, 'update', 'announce over HTTP')
  assert.equal(update.complete, 1)
  assert.equal(update.incomplete, 2)
  h.stop()
  await once(h, 'update', 'stop over HTTP')

  // complete, stop, destroy.
  a.complete({ left: 0 })
  update = await once(a, 'update', 'complete')
  assert.equal(update.incomplete, 0)
  a.stop()
  update = await once(a, 'update', 'stop')
  assert.equal(update.complete, 1)
  await new Promise(resolve => b.destroy(resolve))
  await new Promise(resolve => a.destroy(resolve))
  await new Promise(resolve => h.destroy(resolve))
  assert.equal(a.warned ?? b.warned ?? h.warned, undefined)
  console.log('ok')
  process.exit(0)
} catch (e) {
  console.log(e)
  process.exit(1)
}
