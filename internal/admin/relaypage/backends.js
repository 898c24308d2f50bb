// The backends: up or down, since when and why; how fast they answer; what is sent to each, and what waits for it.

import { $, attr, count, el, keyed, ms, percent, rate, text, visible } from './view.js'
import { ago, fill } from './forwarding.js'

export function showBackends (s) {
  const list = s.backends
  const up = list.filter(b => b.up).length
  text($('backends-up'), list.length === 0 ? '' : up === list.length ? (up === 1 ? 'it is up' : 'all ' + count(up) + ' are up') : count(up) + ' of ' + count(list.length) + ' up')
  const items = list.length ? list : [null]
  keyed($('backends'), items, b => b ? b.addr : 'none', make, (li, b) => b && update(li, b, s))
}

const figures = [
  ['opened', 'sent on', b => rate(b.opened) + '/s'],
  ['refused', 'refused', b => rate(b.refused) + '/s'],
  ['probe', 'probe', b => b.up ? ms(b.probe_ms) : '–'],
  ['share', 'share', b => percent(b.share)],
  ['shed', 'sheds', b => b.up ? percent(b.level) : '–']
]

function make (b) {
  if (!b) return el('li', 'soft', 'None. relay.backends names them.')
  const budget = el('div', 'budget', el('div', 'meter', el('span', 'waits'), el('span', 'shut')), el('small'))
  const row = el('dl', 'row-figures', ...figures.map(([key, name]) => el('div', key, el('dt', '', name), el('dd'))))
  return el('li', 'backend',
    el('div', 'who', el('span', 'badge'), el('small'), el('code', 'value', visible(b.addr))),
    el('p', 'reason'), row, budget)
}

function update (li, b, s) {
  const [who, reason, row, budget] = li.children
  attr(li, 'data-up', String(b.up))
  text(who.firstChild, b.up ? 'up' : 'down')
  const long = ago(s, b.since)
  text(who.children[1], [long && 'for ' + long, b.weight > 1 && 'weight ' + count(b.weight)].filter(Boolean).join(', '))
  reason.hidden = !b.why
  text(reason, b.why ? (b.up ? 'last failure: ' : '') + visible(b.why) : '')
  figures.forEach(([key, , value], i) => {
    const dd = row.children[i].lastChild
    text(dd, value(b))
    const bad = key === 'refused' ? b.refused > 0 : key === 'shed' ? b.up && b.level > 0.01 : false
    row.children[i].classList.toggle('notable', bad)
  })

  // The whole bar is the most that may ever wait; what is shut of it is hatched until the backend has shown that it copes.
  const [meter, note] = budget.children
  const max = b.budget_max || b.budget
  const used = b.budget > 0 ? b.unanswered / b.budget : 0
  fill(meter, max > 0 ? b.unanswered / max : 0)
  meter.dataset.level = used > 0.95 ? 'full' : used > 0.8 ? 'high' : 'fine'
  meter.lastChild.style.width = max > 0 ? 100 * Math.max(0, 1 - b.budget / max) + '%' : '0'
  text(note, count(b.unanswered) + ' waiting, room for ' + count(b.budget) + (b.budget < max ? ' of ' + count(max) : ''))
}
