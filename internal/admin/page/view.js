// Small hands of the other files: elements, numbers, times. Nothing here takes HTML: what is shown goes in as text, for
// attackers choose what their user agents are called.

export const $ = id => document.getElementById(id)

// el makes an element: el('td', 'share', 'text', child, ...). Attributes and listeners are set by the caller.
export function el (tag, className, ...children) {
  const e = document.createElement(tag)
  if (className) e.className = className
  e.append(...children)
  return e
}

// text writes only what differs, so that screen readers hear changes alone.
export function text (e, s) {
  if (e.textContent !== s) e.textContent = s
}

export function attr (e, name, value) {
  if (e.getAttribute(name) !== value) e.setAttribute(name, value)
}

// keyed keeps one child of parent for each item, in order. A child stays the same element while its key stays, so that focus and
// half-typed text survive the next answer. make(item) gives a child, update(child, item) fills it.
export function keyed (parent, items, key, make, update) {
  const old = new Map([...parent.children].map(c => [c.dataset.key, c]))
  let at = parent.firstElementChild
  for (const item of items) {
    const k = key(item)
    let child = old.get(k)
    if (child) old.delete(k)
    else {
      child = make(item)
      child.dataset.key = k
    }
    if (child === at) at = at.nextElementSibling
    else parent.insertBefore(child, at)
    update(child, item)
  }
  for (const child of old.values()) child.remove()
}

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 })
const short = new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1 })

export const count = n => whole.format(n || 0)
export const rate = n => n > 0 && n < 10 ? n.toFixed(1) : count(n)
export const axis = n => n < 10 ? String(+n.toFixed(2)) : n < 100000 ? whole.format(n) : short.format(n)

export function ms (n) {
  return n >= 1000 ? (n / 1000).toFixed(1) + ' s' : (n >= 100 ? n.toFixed(0) : n.toFixed(1)) + ' ms'
}

export function percent (share) {
  const p = 100 * (share || 0)
  return (p > 0 && p < 0.1 ? '<0.1' : p < 10 && p > 0 ? p.toFixed(1) : p.toFixed(0)) + '\u00a0%'
}

export function bytes (n) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB']
  let i = 0
  while (n >= 1024 && i < units.length - 1) {
    n /= 1024
    i++
  }
  return (i > 0 && n < 10 ? n.toFixed(1) : n.toFixed(0)) + ' ' + units[i]
}

// span is a number of seconds for a person: the two largest units.
export function span (seconds) {
  let s = Math.max(0, Math.round(seconds))
  const parts = []
  for (const [unit, name] of [[86400, 'd'], [3600, 'h'], [60, 'min'], [1, 's']]) {
    const n = Math.floor(s / unit)
    s -= n * unit
    if (n > 0) parts.push(n + '\u00a0' + name)
    else if (parts.length > 0) break
    if (parts.length === 2) break
  }
  return parts.join('\u00a0') || '0\u00a0s'
}

export function clock (date, seconds = false) {
  return date.toLocaleTimeString('en-GB', { hour: '2-digit', minute: '2-digit', second: seconds ? '2-digit' : undefined })
}

// moment is a time of day, with the date if it is not today's.
export function moment (iso) {
  const d = new Date(iso)
  const day = d.toDateString() === new Date().toDateString() ? '' : d.toLocaleDateString('en-GB', { day: 'numeric', month: 'short' }) + ' '
  return day + clock(d)
}

export const left = iso => span((new Date(iso) - Date.now()) / 1000)

// visible spells out what would be unseen or would turn the line around.
export function visible (s) {
  return s.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, c => '\\u{' + c.codePointAt(0).toString(16) + '}')
}

// toast says what became of a press of a button.
export function toast (s, wrong = false) {
  const t = el('p', wrong ? 'toast wrong' : 'toast', s)
  if (wrong) t.setAttribute('role', 'alert')
  const all = $('toasts')
  all.append(t)
  while (all.children.length > 3) all.firstChild.remove()
  setTimeout(() => t.remove(), wrong ? 10000 : 4000)
}

// confirm asks before a step that hurts.
export function confirm (title, why, yes) {
  const d = $('confirm')
  text($('confirm-title'), title)
  text($('confirm-text'), why)
  text($('confirm-yes'), yes)
  d.returnValue = 'no'
  d.showModal()
  return new Promise(resolve => d.addEventListener('close', () => resolve(d.returnValue === 'yes'), { once: true }))
}
