// The page's session with the program behind it: the token, the questions that are asked of it, and whether it answers. The
// tracker's page and the relay's have the same.

import { $, clock, span, text } from './view.js'

const silentAfterMs = 3500 // three questions without an answer
const patienceMs = 3000

let who = '' // answers: tracker or relay
let hearSilence = () => {}
let token = ''
let answeredAt = 0
let openedAt = 0
const questions = []

// begin opens the session, with the token of the address or of this tab, or asks for one. name is of who answers; onSilence is
// told each second that it does not: for how many seconds, and when it did last (0: not yet).
export function begin (name, onSilence = () => {}) {
  who = name
  hearSilence = onSilence
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

  let kept = ''
  try {
    kept = sessionStorage.getItem('spillway-token') || ''
  } catch {}
  if (!fromAddress()) kept ? open(kept) : lock('')
}

// refresh asks all questions at once.
export const refresh = () => questions.forEach(ask => ask())

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
export async function change (method, path, body) {
  try {
    const { said } = await ask(method, path, body)
    return { said }
  } catch (e) {
    if (e.status === 401) lock(`The ${who} refuses this token.`)
    return { error: e instanceof Refused ? e.message : `No answer from the ${who}; nothing is known to have changed.` }
  }
}

// every asks again and again, one question at a time, while the page can be seen, and has refresh ask at once. Where answers
// are slow it rests that many times longer than it had to wait: ten thousand rules are a burden to who is flooded already.
export function every (ms, path, show, rest = 5) {
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
      if (e.status === 401 || e.status === 429) return lock(e.status === 401 ? `The ${who} refuses this token.` : 'Too many wrong tokens; wait a second.')
      if (!(e instanceof Refused) && !(e instanceof TypeError) && e.name !== 'TimeoutError' && e.name !== 'SyntaxError') console.error(e)
    }
    if (mine === turn) timer = setTimeout(step, Math.max(ms, rest * (Date.now() - began)))
  }
  questions.push(step)
}

// alive says that there was an answer, and how long it took.
export function alive (tookMs) {
  showAlive('good', 'alive', (tookMs < 10 ? tookMs.toFixed(1) : tookMs.toFixed(0)) + ' ms')
  watch()
}

// watch says how long there has been no answer.
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
    ? `No answer from the ${who} since ${clock(new Date(answeredAt), true)}. What is below is from then. Is it down, or the tunnel to it?`
    : `The ${who} does not answer. Is it down, or the tunnel to it?`)
  text($('silence-ago'), '(' + span(silent / 1000) + ')')
  hearSilence(silent / 1000, answeredAt)
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
