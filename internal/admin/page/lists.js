// Who asks most, which rules are proposed and in force, and the limits.

import { $, attr, confirm, count, el, keyed, left, percent, span, text, toast, visible } from './view.js'

const tabs = [
  ['sources', 'Sources', 'source'],
  ['prefixes', 'Prefixes', 'source'],
  ['user_agents', 'User agents', 'user-agent'],
  ['peer_ids', 'Peer ids', 'peer-id'],
  ['info_hashes', 'Info hashes', 'info-hash']
]
const kindNames = { source: 'address', 'user-agent': 'user agent', 'peer-id': 'peer id', 'info-hash': 'info hash' }

const mostRules = 100 // shown; there may be thousands

let change, refresh
let chosen = tabs[0]
let talkers = null
let blocked = new Set() // kind and value of rules in force

export function initLists (changeFunc, refreshFunc) {
  change = changeFunc
  refresh = refreshFunc
  for (const tab of tabs) {
    const b = el('button', '', tab[1])
    b.type = 'button'
    b.id = 'tab-' + tab[0]
    b.setAttribute('role', 'tab')
    b.setAttribute('aria-controls', 'talkers-panel')
    b.addEventListener('click', () => choose(tab))
    $('tabs').append(b)
  }
  $('tabs').addEventListener('keydown', e => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[e.key]
    if (!step) return
    choose(tabs[(tabs.indexOf(chosen) + step + tabs.length) % tabs.length])
    $('tab-' + chosen[0]).focus()
    e.preventDefault()
  })
  choose(chosen)
  $('rule-form').addEventListener('submit', async e => {
    e.preventDefault()
    if (await block($('rule-kind').value, $('rule-value').value, $('rule-for').value, $('rule-reason').value.trim())) e.target.reset()
  })
}

function choose (tab) {
  chosen = tab
  for (const b of $('tabs').children) {
    const here = b.id === 'tab-' + tab[0]
    attr(b, 'aria-selected', String(here))
    b.tabIndex = here ? 0 : -1
  }
  attr($('talkers-panel'), 'aria-labelledby', 'tab-' + tab[0])
  if (talkers) showTalkers(talkers)
}

export function showTalkers (t) {
  talkers = t
  const [key, , kind] = chosen
  text($('talkers-of'), 'share of ' + count(t.requests) + ' requests looked at in ' + span(t.seconds))
  const list = t[key].length ? t[key] : [null]
  const longest = Math.max(0.2, ...t[key].map(x => Math.max(x.share, x.usual))) // a fifth of all is much, whoever leads
  const width = share => 100 * share / longest + '%'
  keyed($('talkers'), list, item => item ? key + ' ' + item.value : 'none', item => {
    if (!item) return el('li', 'soft', 'Nobody stands out.')
    const bar = el('div', 'bar', el('span', 'share'), el('span', 'usual'))
    const li = el('li', '', value(item.value), bar, el('span', 'numbers', el('b'), el('small')))
    if (item.value) {
      const b = el('button', 'small', 'Block 1 h')
      b.type = 'button'
      b.setAttribute('aria-label', 'Block ' + kindNames[kind] + ' ' + visible(item.value) + ' for 1 h')
      b.addEventListener('click', async () => {
        const yes = await confirm('Block this ' + kindNames[kind] + ' for 1 h?', visible(item.value) + ' is answered politely and not served.', 'Block for 1 h')
        if (yes) block(kind, item.value, '1h', 'blocked by hand: asks most')
      })
      li.append(b)
    }
    return li
  }, (li, item) => {
    if (!item) return
    const [, bar, numbers, button] = li.children
    bar.firstChild.style.width = width(item.share)
    bar.lastChild.style.left = width(item.usual)
    li.classList.toggle('unusual', item.share > 0.02 && item.share > 3 * item.usual)
    text(numbers.firstChild, percent(item.share))
    text(numbers.lastChild, 'usually ' + percent(item.usual))
    if (button) {
      const is = blocked.has(kind + ' ' + item.value)
      button.disabled = is
      text(button, is ? 'Blocked' : 'Block 1 h')
    }
  })
}

export function showBlocks (b) {
  blocked = new Set(b.blocks.map(r => r.kind + ' ' + r.value))
  $('proposals-card').hidden = b.proposed.length === 0
  text($('auto'), b.auto ? 'They take effect by themselves (shedder.auto_block).' : 'They take effect when you say so.')
  keyed($('proposals'), b.proposed, ruleKey, p => {
    const button = el('button', 'primary', 'Block for 1 h')
    button.type = 'button'
    button.setAttribute('aria-label', 'Block ' + kindNames[p.kind] + ' ' + visible(p.value) + ' for 1 h')
    button.addEventListener('click', () => block(p.kind, p.value, '1h', 'proposed: ' + p.why))
    return el('li', '', el('div', 'what', el('span', 'kind', kindNames[p.kind] || p.kind), value(p.value), el('small')), button)
  }, (li, p) => text(li.firstChild.lastChild, percent(p.share) + ' of requests, usually ' + percent(p.usual) + '. ' + p.why))

  // The newest first: no row moves under a thumb but when a rule is made.
  const rules = b.blocks.toSorted((x, y) => y.since.localeCompare(x.since)).slice(0, mostRules)
  $('more-rules').hidden = b.blocks.length <= mostRules
  text($('more-rules'), 'and ' + count(b.blocks.length - mostRules) + ' older ones; spillway ctl block lists all.')
  if (!rules.length) rules.push(null)
  keyed($('rules'), rules, r => r ? ruleKey(r) : 'none', r => {
    if (!r) return el('li', 'soft', 'None. Everybody is served alike.')
    const button = el('button', 'small', 'Remove')
    button.type = 'button'
    button.setAttribute('aria-label', 'Remove the rule against ' + kindNames[r.kind] + ' ' + visible(r.value))
    button.addEventListener('click', () => unblock(r))
    return el('li', '', el('div', 'what', el('span', 'kind', kindNames[r.kind] || r.kind), value(r.value), el('small')), button)
  }, (li, r) => {
    if (!r) return
    const words = [count(r.hits) + ' hits', r.until ? left(r.until) + ' left' : 'for good', 'by ' + r.by]
    if (r.reason) words.push(visible(r.reason))
    text(li.firstChild.lastChild, words.join(' · '))
  })
}

const ruleKey = r => r.kind + ' ' + r.value

function value (s) {
  return s ? el('code', 'value', visible(s)) : el('em', 'value', 'none given')
}

// path of a rule. A browser would take a value of dots for steps in the path, so it goes into the query.
function rulePath (kind, value) {
  return 'blocks/' + kind + (/^\.*$/.test(value) ? '/?value=' : '/') + encodeURIComponent(value)
}

async function block (kind, value, duration, reason) {
  const body = { reason: firstBytes(reason, 200) }
  if (duration) body.for = duration
  const { said, error } = await change('PUT', rulePath(kind, value), body)
  if (error) toast('Block: ' + error, true)
  else toast('Blocked ' + visible(said.value) + (said.until ? ' for ' + left(said.until) : ''))
  refresh()
  return !error
}

// firstBytes cuts s to a number of bytes of UTF-8, between characters.
function firstBytes (s, n) {
  const { read } = new TextEncoder().encodeInto(s.replace(/\p{Cc}/gu, ' '), new Uint8Array(n))
  return s.replace(/\p{Cc}/gu, ' ').slice(0, read)
}

async function unblock (r) {
  const { error } = await change('DELETE', rulePath(r.kind, r.value))
  if (error) toast('Remove: ' + error, true)
  else toast('Removed ' + visible(r.value))
  refresh()
}

export function showLimits (l) {
  keyed($('limits'), l.limits, x => x.name, x => {
    const input = el('input')
    input.type = 'number'
    input.step = 1
    input.required = true
    input.id = 'limit-' + x.name
    const label = el('label', '', el('code', '', x.name), el('small', 'soft'))
    label.htmlFor = input.id
    const form = el('form', 'limit', label, input, el('button', 'small', 'Set'))
    form.addEventListener('submit', async e => {
      e.preventDefault()
      const { said, error } = await change('PUT', 'limits/' + encodeURIComponent(x.name), { value: Number(input.value) })
      if (error) toast(x.name + ': ' + error, true)
      else toast(said.name + ' is ' + count(said.value))
      delete input.dataset.told
      refresh()
    })
    return form
  }, (form, x) => {
    const input = form.children[1]
    input.min = x.min
    input.max = x.max
    text(form.firstChild.lastChild, count(x.min) + ' to ' + count(x.max))
    // What somebody is typing stays.
    if (input.dataset.told !== String(x.value) && (document.activeElement !== input || input.dataset.told === undefined)) {
      input.value = x.value
      input.dataset.told = String(x.value)
    }
  })
}
