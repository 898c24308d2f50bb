// The switches: one big for WebSockets, four modes for each endpoint.

import { $, attr, confirm, el, keyed, left, moment, rate, text, toast } from './view.js'

const modes = ['on', 'reject-new', 'drain', 'off']
export const modeNames = { on: 'On', 'reject-new': 'Reject new', drain: 'Drain', off: 'Off' }
export const names = { announce: 'Announce', scrape: 'Scrape', ws: 'WsServer', udp: 'UDP' }

let change, refresh
let ws = null // the WebSocket switch as it was told last
let busy = false

export function initSwitches (changeFunc, refreshFunc) {
  change = changeFunc
  refresh = refreshFunc
  $('ws').addEventListener('click', () => ws && turn('ws', ws.mode === 'on' ? 'off' : 'on'))
}

export function showSwitches (status) {
  const loads = new Map(status.endpoints.map(e => [e.endpoint, e]))
  const shown = status.switches.filter(s => loads.has(s.endpoint))
  ws = status.switches.find(s => s.endpoint === 'ws')
  if (ws) {
    const b = $('ws')
    b.disabled = busy
    attr(b, 'aria-checked', String(ws.mode === 'on'))
    b.dataset.mode = ws.mode
    text($('ws-state'), ws.mode === 'on' ? 'On, ' + rate(status.websockets) + ' sockets open' : story(ws))
  }
  keyed($('endpoints'), shown, s => s.endpoint, makeEndpoint, (row, s) => {
    const load = loads.get(s.endpoint)
    row.dataset.mode = s.mode
    const [head, buttons, note] = row.children
    text(head.lastChild, rate(load.offered) + '/s offered, ' + rate(load.served) + '/s served')
    for (const b of buttons.children) {
      attr(b, 'aria-pressed', String(b.dataset.mode === s.mode))
      b.disabled = busy
    }
    note.hidden = s.mode === 'on' || s.endpoint === 'ws' // the big one tells it
    text(note, note.hidden ? '' : story(s))
  })
}

function makeEndpoint (s) {
  const name = names[s.endpoint] || s.endpoint
  const buttons = el('div', 'segments')
  buttons.setAttribute('role', 'group')
  buttons.setAttribute('aria-label', 'Mode of ' + name)
  for (const mode of modes) {
    const b = el('button', '', modeNames[mode])
    b.type = 'button'
    b.dataset.mode = mode
    b.addEventListener('click', () => turn(s.endpoint, mode))
    buttons.append(b)
  }
  return el('section', 'endpoint', el('div', 'head', el('h3', '', name), el('span', 'soft')), buttons, el('p', 'note'))
}

// story tells since when, by whom, why and how long a switch is not on.
function story (s) {
  let words = modeNames[s.mode]
  if (s.since) words += ' since ' + moment(s.since)
  if (s.by) words += ', by ' + s.by
  if (s.reason) words += ': ' + s.reason
  return words + (s.until ? '. On again in ' + left(s.until) + '.' : '. Until it is turned on.')
}

// order is what is asked for, with the time and the reason that stand on the page.
export function order (mode) {
  const body = { mode, reason: $('reason').value.trim() }
  const duration = document.querySelector('input[name=for]:checked').value
  if (duration && mode !== 'on') body.for = duration
  return body
}

async function turn (endpoint, mode) {
  if (busy) return
  const duration = document.querySelector('input[name=for]:checked').value
  const name = names[endpoint] || endpoint
  if (endpoint === 'announce' && mode !== 'on') {
    const yes = await confirm('Stop answering announces?', 'Every client over HTTP gets no peers ' +
      (duration ? 'for ' + duration : 'until you turn it on again') + '. Peers that are known stay known until they expire.', 'Turn announce ' + (mode === 'off' ? 'off' : 'to ' + modeNames[mode].toLowerCase()))
    if (!yes) return
  }
  busy = true
  const { said, error } = await change('PUT', 'switches/' + endpoint, order(mode))
  busy = false
  if (error) toast(name + ': ' + error, true)
  else toast(name + ': ' + modeNames[said.mode].toLowerCase() + (said.until ? ', on again at ' + moment(said.until) : ''))
  refresh()
}
