// The operator's page of the relay: which questions are asked, and who shows the answers. session.js asks them.

import { $, clock, count, span, text } from './view.js'
import { alive, begin, every } from './session.js'
import { lastWords, showStatus } from './forwarding.js'
import { showBackends } from './backends.js'
import { plot } from './plot.js'

const drawings = [
  plot($('plot-rates'), 'Connections a second', [
    { key: 'opened', name: 'sent on', area: true }, { key: 'refused', name: 'refused' }
  ], '/s'),
  plot($('plot-conntrack'), 'Entries in conntrack', [{ key: 'conntrack', name: 'entries', area: true }], '', count),
  plot($('plot-conns'), 'Connections through the proxy', [{ key: 'conns', name: 'open', area: true }], '', count),
  plot($('plot-probe'), 'Slowest probe', [{ key: 'probe_ms', name: 'of those up', area: true }], ' ms'),
  plot($('plot-up'), 'Backends that are up', [{ key: 'backends_up', name: 'up', area: true }], '', count)
]

every(1000, 'status', (s, tookMs) => {
  showStatus(s)
  showBackends(s)
  $('plot-conntrack').hidden = s.mode === 'proxy'
  $('plot-conns').hidden = s.mode !== 'proxy'
  alive(tookMs)
}, 0)
every(10000, 'history', h => drawings.forEach(draw => draw(h)))

// Old news is no state: while nothing is heard, the big line says so, and what was true when.
begin('relay', (seconds, answeredAt) => {
  $('load').dataset.state = 'silent'
  text($('state'), 'No answer')
  text($('since'), 'for ' + span(seconds))
  text($('why'), lastWords(answeredAt && clock(new Date(answeredAt), true)))
})
