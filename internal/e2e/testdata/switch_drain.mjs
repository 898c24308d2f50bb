// Sockets of the ws package that wait to be drained: node switch_drain.mjs ws://host:port N
// Prints {"open": N}, then for each socket when it was closed and had its last reply (Unix time in ms), and the code.
import WebSocket from 'ws'

const [url, n] = process.argv.slice(2)
const say = what => console.log(JSON.stringify(what))
let open = 0
let left = Number(n)
for (let i = 0; i < n; i++) {
  const socket = new WebSocket(url)
  const announce = () => socket.send(JSON.stringify({
    action: 'announce', info_hash: 'drained, one and all', peer_id: '-WW0001-' + String(i).padStart(12, '0'), left: 1, numwant: 0, offers: []
  }))
  let timer
  let replied = 0
  socket.on('open', () => { announce(); timer = setInterval(announce, 2000) })
  socket.on('message', () => {
    if (!replied && ++open === Number(n)) say({ open })
    replied = Date.now()
  })
  socket.on('error', e => say({ error: e.message }))
  socket.on('close', code => {
    clearInterval(timer)
    say({ closed: Date.now(), replied, code })
    if (--left === 0) console.log('ok')
  })
}
