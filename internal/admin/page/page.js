// The operator's page of the tracker: which questions are asked, and who shows the answers. session.js asks them.

import { $ } from './view.js'
import { alive, begin, change, every, refresh } from './session.js'
import { showStatus } from './load.js'
import { initSwitches, showSwitches } from './switches.js'
import { initNodes, showNodes } from './nodes.js'
import { initLists, showBlocks, showLimits, showTalkers } from './lists.js'
import { plot } from './plot.js'

const drawRates = plot($('plot-rates'), 'Requests a second', [
  { key: 'offered', name: 'offered' }, { key: 'served', name: 'served', area: true }, { key: 'shed', name: 'not served' }
], '/s')
const drawAge = plot($('plot-age'), 'Median age of requests', [{ key: 'age_ms', name: 'when looked at', area: true }], ' ms')

every(1000, 'status', (s, tookMs) => {
  showStatus(s)
  showSwitches(s)
  showNodes(s)
  alive(tookMs)
}, 0)
every(3000, 'talkers', showTalkers)
every(3000, 'blocks', showBlocks)
every(10000, 'history', h => {
  drawRates(h)
  drawAge(h)
})
every(15000, 'limits', showLimits)

initSwitches(change, refresh)
initNodes(change, refresh)
initLists(change, refresh)
begin('tracker')
