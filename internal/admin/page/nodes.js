// The nodes that share a Redis: who is there, how each is, which switches are in force where, and WebSockets on all of them.

import { $, attr, confirm, el, keyed, percent, span, text, toast, visible } from './view.js'
import { modeNames, names, order } from './switches.js'

const states = { calm: 'calm', ramp: 'filling up', overload: 'overload', escalated: 'escalated' }

let change, refresh
let busy = false
let shown = [] // the nodes as they were told last

export function initNodes (changeFunc, refreshFunc) {
  change = changeFunc
  refresh = refreshFunc
  for (const b of $('ws-nodes').querySelectorAll('button')) b.addEventListener('click', () => turnAll(b.dataset.mode))
}

// showNodes hides all of it where swarms are not shared.
export function showNodes (status) {
  const cluster = Boolean(status.redis)
  $('nodes-card').hidden = $('ws-nodes').hidden = !cluster
  if (!cluster) return
  shown = status.nodes || []
  const rows = [...shown, ...(status.nodes_gone || [])]
  text($('redis'), status.redis.degraded
    ? 'Redis does not answer' + (status.redis.degraded < 1 ? ' for ' + percent(status.redis.degraded) + ' of the torrents' : '') +
      (status.redis.since ? ' since ' + span((Date.now() - new Date(status.redis.since)) / 1000) : '') + ': ' + (status.redis.why || '') + '. Other nodes are not heard of; this one serves what it knows.'
    : 'They share their swarms through Redis.')
  attr($('redis'), 'class', status.redis.degraded ? 'wrong' : 'soft')
  keyed($('nodes'), rows, n => n.id, () => {
    const name = el('th', '', el('b'), el('small'), el('small'))
    name.scope = 'row'
    return el('tr', '', name, el('td', '', el('b'), el('small')), el('td'))
  }, (row, n) => {
    const [name, state, switches] = row.children
    const gone = Boolean(n.heard_at)
    attr(row, 'class', gone ? 'gone' : n.state === 'overload' || n.state === 'escalated' ? 'loaded' : '')
    text(name.firstChild, visible(n.name || n.id) + (n.self ? ' (this one)' : ''))
    text(name.children[1], visible(hostOf(n.announce) || ''))
    text(name.children[2], visible(n.version || ''))
    text(state.firstChild, gone ? 'gone' : (states[n.state] || n.state || '?') + (n.shed ? ', ' + percent(n.shed) + ' not served' : ''))
    text(state.lastChild, gone ? span((Date.now() - new Date(n.heard_at)) / 1000) + ' ago' : 'now')
    const off = Object.entries(n.switches || {}).map(([e, mode]) => (names[e] || e) + ' ' + (modeNames[mode] || mode).toLowerCase())
    text(switches, gone ? '' : off.length ? off.join(', ') : 'all on')
  })
  showEverywhere()
}

// hostOf is where a node listens; what it says of itself may be of a version to come.
const hostOf = url => /^https?:\/\/([^/]+)/.exec(url || '')?.[1]

const wsOf = n => (n.switches || {}).ws || 'on'

// showEverywhere tells where the WebSocket server is on: one word if it is the same on all nodes.
function showEverywhere () {
  const on = shown.filter(n => wsOf(n) === 'on')
  text($('ws-nodes-title'), 'WsServer on all nodes')
  for (const b of $('ws-nodes').querySelectorAll('button')) {
    attr(b, 'aria-pressed', String(shown.length > 0 && shown.every(n => wsOf(n) === b.dataset.mode)))
    b.disabled = busy
  }
  let words = 'The big switch turns this node alone.'
  if (!shown.length) words = 'Which nodes there are is not known while Redis does not answer; they follow when it does.'
  else if (on.length === shown.length) words = 'Switched on: ' + all(shown.length) + '. ' + words
  else if (on.length) words = 'Switched on: ' + on.length + ' of ' + shown.length + ', not ' + shown.filter(n => wsOf(n) !== 'on').map(n => visible(n.name || n.id)).join(', ') + '. ' + words
  else words = 'Switched on: none of ' + shown.length + '. ' + words
  text($('ws-nodes-state'), words)
}

const all = n => n === 1 ? 'the only node' : n === 2 ? 'both nodes' : 'all ' + n + ' nodes'

async function turnAll (mode) {
  if (busy) return
  if (mode === 'off') {
    const yes = await confirm('Turn WebSockets off on all nodes?', 'Every socket on every node that shares this Redis is closed, also on those that are down and come back' +
      ($('reason').value.trim() ? '' : '. There is no reason given') + '. HTTP and UDP go on.', 'Off on all nodes')
    if (!yes) return
  }
  busy = true
  showEverywhere()
  const { said, error } = await change('PUT', 'switches/ws', { ...order(mode), cluster: true })
  busy = false
  if (error) toast('WsServer on all nodes: ' + error, true)
  else toast('WsServer on all nodes: ' + modeNames[said.mode].toLowerCase())
  refresh()
}
