// The operator's page: the token, the questions asked of the tracker, and whether it answers. What is shown is in load.js,
// switches.js, lists.js and plot.js.

import { $, clock, span, text } from './view.js'
import { showStatus } from './load.js'
import { initSwitches, showSwitches } from './switches.js'
import { initLists, showBlocks, showLimits, showTalkers } from './lists.js'
import { plot } from './plot.js'

const silentAfterMs = 3500 // three questions without an answer
const patienceMs = 3000

let token = ''
let answeredAt = 0
let openedAt = 0

class Refused extends Error {
  constructor (status, why) {
    super(why)
    this.status = status
  }
}

// ask is one request; it returns what the JSON says or throws what is wrong, in words.
async function ask (method, path, body) {
  const headers = { Authorization: 'Bearer ' + token }
  if (method !== 'GET') headers['Content-Type'] = 'application/json'
  const began = performance.now()
  const answer = await fetch('/api/v1/' + path, {
    method,
    headers,
    body: body && JSON.stringify(body),
    cache: 'no-store',
    credentials: 'omit',
    redirect: 'error',
    signal: AbortSignal.timeout(patienceMs)
  })
  const said = await answer.json()
  if (!answer.ok) throw new Refused(answer.status, said.error || 'HTTP ' + answer.status)
  return { said, took: performance.now() - began }
}

// change asks for one and reports to the person who pressed the button.
async function change (method, path, body) {
  try {
    const { said } = await ask(method, path, body)
    return { said }
  } catch (e) {
    if (e.status === 401) lock('The tracker refuses this token.')
    return { error: e instanceof Refused ? e.message : 'No answer from the tracker; nothing is known to have changed.' }
  }
}

// every asks again and again, one question at a time, while the page can be seen, and returns what asks at once. Where answers
// are slow it rests that many times longer than it had to wait: ten thousand rules are a burden to who is flooded already.
function every (ms, path, show, rest = 5) {
  let timer = 0
  let turn = 0 // an answer to a question of an earlier turn is too old to show
  const step = async () => {
    const mine = ++turn
    clearTimeout(timer)
    const began = Date.now()
    if (!token || document.hidden) return
    try {
      const { said, took } = await ask('GET', path)
      if (mine !== turn) return
      answeredAt = Date.now()
      show(said, took)
    } catch (e) {
      if (mine !== turn) return
      if (e.status === 401 || e.status === 429) return lock(e.status === 401 ? 'The tracker refuses this token.' : 'Too many wrong tokens; wait a second.')
      if (!(e instanceof Refused) && !(e instanceof TypeError) && e.name !== 'TimeoutError' && e.name !== 'SyntaxError') console.error(e)
    }
    if (mine === turn) timer = setTimeout(step, Math.max(ms, rest * (Date.now() - began)))
  }
  return step
}

const drawRates = plot($('plot-rates'), 'Requests a second', [
  { key: 'offered', name: 'offered' }, { key: 'served', name: 'served', area: true }, { key: 'shed', name: 'not served' }
], '/s')
const drawAge = plot($('plot-age'), 'Median age of requests', [{ key: 'age_ms', name: 'when looked at', area: true }], ' ms')

const questions = [
  every(1000, 'status', (s, took) => {
    showStatus(s)
    showSwitches(s)
    showAlive('good', 'alive', (took < 10 ? took.toFixed(1) : took.toFixed(0)) + ' ms')
    watch()
  }, 0),
  every(3000, 'talkers', showTalkers),
  every(3000, 'blocks', showBlocks),
  every(10000, 'history', h => {
    drawRates(h)
    drawAge(h)
  }),
  every(15000, 'limits', showLimits)
]
const refresh = () => questions.forEach(ask => ask())

// watch says how long the tracker has been silent.
function watch () {
  if (!token || document.hidden) return
  const silent = Date.now() - Math.max(answeredAt, openedAt)
  const lost = silent > silentAfterMs
  document.body.classList.toggle('stale', lost)
  $('silence').hidden = !lost
  if (!lost) return
  showAlive('bad', 'no answer', '')
  document.title = 'No answer · Spillway'
  text($('silence-word'), answeredAt
    ? 'No answer from the tracker since ' + clock(new Date(answeredAt), true) + '. What is below is from then. Is it down, or the tunnel to it?'
    : 'The tracker does not answer. Is it down, or the tunnel to it?')
  text($('silence-ago'), '(' + span(silent / 1000) + ')')
}

// showAlive: the word is spoken when it changes, what follows it only shown.
function showAlive (look, word, took) {
  $('alive').className = 'pill ' + look
  text($('alive-word'), word)
  text($('alive-took'), took)
}

// remember keeps the token for this tab. Storage may be forbidden; then a reload asks again.
function remember (value) {
  token = value
  try {
    value ? sessionStorage.setItem('spillway-token', value) : sessionStorage.removeItem('spillway-token')
  } catch {}
}

function open (value) {
  remember(value)
  answeredAt = 0
  openedAt = Date.now()
  $('login').hidden = true
  $('board').hidden = $('lock').hidden = false
  refresh()
}

function lock (why) {
  remember('')
  $('login').hidden = false
  $('board').hidden = $('lock').hidden = $('silence').hidden = true
  document.body.classList.remove('stale')
  document.title = 'Spillway'
  showAlive('', 'locked', '')
  text($('where'), '')
  text($('foot'), '')
  text($('token-error'), why)
  $('token').value = ''
  $('token').focus()
}

// fromAddress takes the token out of #token=... and out of the address bar, where shoulders and screenshots would see it.
function fromAddress () {
  const value = new URLSearchParams(location.hash.slice(1)).get('token')
  if (!value) return false
  history.replaceState(null, '', location.pathname)
  open(value.trim())
  return true
}

$('token-form').addEventListener('submit', e => {
  e.preventDefault()
  text($('token-error'), '')
  const value = $('token').value.trim()
  if (!/^[!-~]{16,256}$/.test(value)) return text($('token-error'), 'A token has 16 to 256 characters of ASCII and no blanks.')
  open(value)
})
$('lock').addEventListener('click', () => lock(''))
document.addEventListener('visibilitychange', () => {
  if (document.hidden) return
  openedAt = Date.now() // it was not asked while hidden
  refresh()
})
addEventListener('hashchange', fromAddress)
setInterval(watch, 1000)

initSwitches(change, refresh)
initLists(change, refresh)
let kept = ''
try {
  kept = sessionStorage.getItem('spillway-token') || ''
} catch {}
if (!fromAddress()) kept ? open(kept) : lock('')
