// How loaded, what is shed and why, and what is near its bound.

import { $, attr, bytes, count, el, keyed, ms, percent, rate, span, text } from './view.js'

const states = {
  calm: 'Calm',
  ramp: 'Filling up',
  overload: 'Overload',
  escalated: 'Overload, escalated'
}

const parts = [
  ['served', 'served'],
  ['shed', 'shed'],
  ['over_budget', 'over budget'],
  ['refused', 'refused']
]

export function showStatus (s) {
  const load = s.load
  showHero(load)
  showTiles(s)
  text($('where'), location.host + ' · ' + s.version + ' · up ' + span(s.uptime_seconds))
  document.title = (states[load.state] || load.state) + ' · ' + rate(load.offered) + '/s · Spillway'
  text($('foot'), ['listening on ' + s.listen.join(', '),
    s.snapshot_at ? 'snapshot ' + span((Date.now() - new Date(s.snapshot_at)) / 1000) + ' ago' : 'no snapshot written yet',
    count(s.log_dropped) + ' log lines suppressed'].join(' · '))
}

function showHero (load) {
  attr($('load'), 'data-state', load.state)
  text($('state'), states[load.state] || load.state)
  text($('why'), load.why)

  const whole = Math.max(load.offered, parts.reduce((sum, [key]) => sum + load[key], 0)) || 1
  keyed($('split'), parts, p => p[0], p => el('span', p[0]), (span, [key]) => { span.style.flexGrow = load[key] / whole })
  const unserved = parts.slice(1).reduce((sum, [key]) => sum + load[key], 0)
  attr($('split'), 'aria-label', percent(load.served / whole) + ' of what is asked is served, ' + percent(unserved / whole) + ' is not')
  keyed($('split-legend'), [['offered', 'offered'], ...parts], p => p[0],
    ([key, name]) => el('li', key, el('b'), el('span', 'unit', '/s'), el('span', 'name', name)),
    (li, [key]) => {
      text(li.firstChild, rate(load[key]))
      li.classList.toggle('zero', !load[key])
    })

  $('brownout').hidden = load.brownout_steps.length === 0
  keyed($('brownout-steps'), load.brownout_steps, step => step, step => el('li', '', step), () => {})
}

function showTiles (s) {
  const load = s.load
  const tiles = [
    { name: 'median age', value: ms(load.age_ms), note: 'of a request when it is looked at' },
    { name: 'interval told', value: span(load.interval_seconds), note: 'until the next announce, ±' + percent(load.jitter) },
    { name: 'capacity', value: load.capacity ? rate(load.capacity) + '/s' : 'not known', note: load.capacity ? 'what it can serve, measured' : 'measured under load' },
    { name: 'not served', value: percent(load.level), note: 'of what is offered; ' + count(load.parked) + ' parked' },
    { name: 'connections', value: count(s.conns), of: s.conns_max, used: s.conns, note: 'of ' + count(s.conns_max) },
    { name: 'WebSockets', value: count(s.websockets), of: s.websockets_max, used: s.websockets, note: 'of ' + count(s.websockets_max) },
    { name: 'memory', value: bytes(load.memory_bytes), of: load.memory_max_bytes, used: load.memory_bytes, note: load.memory_max_bytes ? 'of ' + bytes(load.memory_max_bytes) : 'no limit known' },
    { name: 'torrents', value: count(s.swarms), of: s.store_bytes_max, used: s.store_bytes, note: count(s.seeders) + ' seeders, ' + count(s.leechers) + ' leechers; ' + bytes(s.store_bytes) + ' of ' + bytes(s.store_bytes_max) }
  ]
  keyed($('tiles'), tiles, t => t.name, t => {
    const meter = el('div', 'meter', el('span'))
    return el('div', 'card tile', el('dt', '', t.name), el('dd', '', el('b'), meter, el('small')))
  }, (tile, t) => {
    const [value, meter, note] = tile.lastChild.children
    text(value, t.value)
    text(note, t.note)
    meter.hidden = !t.of
    const used = t.of ? Math.min(1, t.used / t.of) : 0
    meter.firstChild.style.width = 100 * used + '%'
    meter.dataset.level = used > 0.95 ? 'full' : used > 0.8 ? 'high' : 'fine'
  })
}
