// Whether it forwards or refuses, since when and why, and what is near its bound.

import { $, attr, clock, count, el, keyed, moment, percent, rate, span, text, visible } from './view.js'

const states = {
  forwarding: 'Forwarding',
  degraded: 'Forwarding, degraded',
  refusing: 'Refusing'
}

const parts = [
  ['opened', 'sent on'],
  ['refused_down', 'refused: down'],
  ['refused_budget', 'refused: budget'],
  ['refused_source', 'refused: source']
]

const portsMark = 0.7 // above it, connections that end and begin compete for the ports that are left
const fewEvents = 8

let heard = null // the last status
let allEvents = false

// lastWords tells what was true when the relay answered last, and what its silence may mean.
export function lastWords (when) {
  const was = heard && when ? `It was ${(states[heard.state] || heard.state).toLowerCase()} at ${when}. ` : ''
  const dead = heard && heard.mode === 'proxy'
    ? 'If it has died, nothing is forwarded.'
    : 'If it has died in kernel mode, the kernel goes on forwarding, and refuses nothing any more after 3 s.'
  return was + 'If only this page is cut off, the relay goes on as it was. ' + dead
}

// ago is for how long iso has been past by the relay's own clock; a browser's may be off. Empty: never.
export function ago (s, iso) {
  const now = Date.parse(s.started) + 1000 * s.uptime_seconds
  const at = Date.parse(iso)
  return at > 0 && now > 0 ? span((now - at) / 1000) : ''
}

export function showStatus (s) {
  heard = s
  showHero(s)
  showTiles(s)
  showPath(s)
  showProfile(s)
  showEvents(s)
  const name = states[s.state] || s.state
  text($('where'), location.host + ' · ' + s.version + ' · up ' + span(s.uptime_seconds))
  document.title = name + ' · ' + rate(s.opened) + '/s · Spillway relay'
  text($('foot'), ['started ' + moment(s.started), count(s.log_dropped) + ' log lines suppressed'].join(' · '))
}

function showHero (s) {
  attr($('load'), 'data-state', s.state)
  text($('state'), states[s.state] || s.state)
  const long = ago(s, s.since)
  text($('since'), long && 'for ' + long)
  attr($('since'), 'title', long && 'since ' + moment(s.since))
  const why = [long && 'Since ' + momentOfDay(s.since), s.why && visible(s.why)].filter(Boolean).join(': ')
  text($('why'), why)
  attr($('why'), 'title', why) // whole, where it is cut

  const whole = parts.reduce((sum, [key]) => sum + s[key], 0)
  keyed($('split'), parts, p => p[0], p => el('span', p[0]), (span, [key]) => { span.style.flexGrow = whole ? s[key] / whole : 0 })
  attr($('split'), 'aria-label', whole
    ? percent(s.opened / whole) + ' of the connections are sent on, ' + percent(1 - s.opened / whole) + ' refused'
    : 'No connection comes in')
  keyed($('split-legend'), [['all', 'arriving'], ...parts], p => p[0],
    ([key, name]) => el('li', key, el('b'), el('span', 'unit', '/s'), el('span', 'name', name)),
    (li, [key]) => {
      const v = key === 'all' ? whole : s[key]
      text(li.firstChild, rate(v))
      li.classList.toggle('zero', !v)
    })
}

// momentOfDay has seconds: what happened then is looked up in logs.
function momentOfDay (iso) {
  const day = moment(iso).slice(0, -5)
  return day + clock(new Date(iso), true)
}

function showTiles (s) {
  const tiles = s.mode === 'proxy'
    ? [{ name: 'connections', value: count(s.conns), used: share(s.conns, s.conns_max), note: s.conns_max ? 'of ' + count(s.conns_max) : 'no bound known' }]
    : [
        { name: 'conntrack', value: count(s.conntrack), used: share(s.conntrack, s.conntrack_max), note: s.conntrack_max ? percent(s.conntrack / s.conntrack_max) + ' of ' + count(s.conntrack_max) : 'its bound is not known' },
        { name: 'not tracked', value: count(s.insert_failed), bad: s.insert_failed > 0, note: s.insert_failed > 0 ? 'connections lost for want of a port or room (insert_failed)' : 'no connection lost (insert_failed)' }
      ]
  if (s.mode !== 'proxy') tiles.push({ name: 'stray segments', value: rate(s.no_flow) + '/s', note: 'of no flow, answered with a reset' })
  if (s.mode !== 'proxy' && s.masquerade) {
    tiles.splice(1, 0, { name: 'ports used', value: percent(s.ports_used), used: s.ports_used, mark: portsMark, note: s.ports_used > portsMark ? 'over 70\u00a0%: soon connections fail for want of a port' : 'towards the busiest backend; the mark is 70\u00a0%' })
  }
  keyed($('tiles'), tiles, t => t.name, t => {
    const meter = el('div', 'meter', el('span'))
    if (t.mark) {
      const mark = el('i')
      mark.style.left = 100 * t.mark + '%'
      meter.append(mark)
      meter.classList.add('marked')
    }
    return el('div', 'card tile', el('dt', '', t.name), el('dd', '', el('b'), meter, el('small')))
  }, (tile, t) => {
    const [value, meter, note] = tile.lastChild.children
    text(value, t.value)
    tile.classList.toggle('bad', Boolean(t.bad))
    text(note, t.note)
    meter.hidden = t.used === undefined
    fill(meter, t.used || 0, t.mark)
  })
}

const share = (used, max) => max > 0 ? used / max : undefined

// fill sets a meter. It turns amber at high, which is 80 % unless something breaks sooner, and red at 95 %.
export function fill (meter, used, high = 0.8) {
  meter.firstChild.style.width = 100 * Math.min(1, used) + '%'
  meter.dataset.level = used > 0.95 ? 'full' : used > high ? 'high' : 'fine'
}

function showPath (s) {
  const facts = [
    ['mode', s.mode, s.mode_why],
    ['listens on', s.listen.join(', ') || 'nothing', '']
  ]
  if (s.mode !== 'proxy') facts.push(['masquerade', s.masquerade ? 'on' : 'off', s.masquerade ? 'backends see the relay as the source' : 'backends see who connects to the relay'])
  keyed($('path'), facts, f => f[0], f => el('div', '', el('dt', '', f[0]), el('dd', '', el('b'), el('small'))), (row, f) => {
    text(row.lastChild.firstChild, f[1])
    text(row.lastChild.lastChild, visible(f[2] || ''))
  })
}

function showProfile (s) {
  const off = s.profile_off
  const wanted = s.profile && s.profile !== 'none'
  attr($('profile-card'), 'data-verdict', !wanted ? 'none' : off.length ? 'off' : 'ok')
  text($('profile'), !wanted ? 'not wanted' : off.length ? count(off.length) + (off.length === 1 ? ' key differs' : ' keys differ') : 'in force')
  text($('profile-note'), !wanted
    ? 'relay.profile is none: the kernel keeps its own timeouts.'
    : s.profile + (off.length ? ' wants other values than the kernel has. As root, “spillway relay apply” sets them.' : ': each key has the value it wants.'))
  keyed($('profile-off'), off, key => key, key => el('li', '', el('code', 'value', ...breakable(visible(key)))), () => {})
}

// breakable lets a long key be broken behind its dots and underscores.
function breakable (s) {
  return s.split(/(?<=[._])/).flatMap((part, i) => i ? [el('wbr'), part] : [part])
}

function showEvents (s) {
  const seen = new Map() // the same may have happened twice in an instant
  const keys = s.events.map(e => {
    const key = e.at + ' ' + e.text
    seen.set(key, (seen.get(key) || 0) + 1)
    return key + ' ' + seen.get(key)
  })
  const shown = s.events.map((e, i) => [keys[i], e]).slice(0, allEvents ? undefined : fewEvents)
  if (!shown.length) shown.push(['none', null])
  keyed($('events'), shown, x => x[0], ([, e]) => e ? el('li', '', el('time'), el('span', 'text', visible(e.text))) : el('li', 'soft', 'Nothing has happened since the start.'), (li, [, e]) => {
    if (!e) return
    attr(li.firstChild, 'datetime', e.at)
    text(li.firstChild, momentOfDay(e.at)) // it gains the date at midnight
  })
  const button = $('more-events')
  button.hidden = s.events.length <= fewEvents
  text(button, allEvents ? 'Show the last ' + fewEvents : 'Show all ' + count(s.events.length))
}

$('more-events').addEventListener('click', () => {
  allEvents = !allEvents
  showEvents(heard)
})
