// plot draws the last hour of one to three series into a figure, and returns a function that takes what GET /api/v1/history says.
// The pointer or the arrow keys read off a moment. The picture is stretched to its place; its words are not, they are HTML.

import { attr, axis, clock, el, ms, rate, text } from './view.js'

const points = 360
const svgNS = 'http://www.w3.org/2000/svg'

function svg (tag, className) {
  const e = document.createElementNS(svgNS, tag)
  e.setAttribute('class', className)
  return e
}

export function plot (figure, title, series, unit, format = unit === ' ms' ? ms : n => rate(n) + unit) {
  const legend = el('ul', 'legend')
  const when = el('span', 'soft')
  const values = series.map(s => {
    const b = el('b')
    legend.append(el('li', s.key, b, el('span', 'name', s.name)))
    return b
  })
  const picture = svg('svg', '')
  picture.setAttribute('viewBox', `0 0 ${points - 1} 100`)
  picture.setAttribute('preserveAspectRatio', 'none')
  picture.setAttribute('aria-hidden', 'true')
  for (const y of [0, 50]) {
    const line = svg('line', 'grid')
    for (const [name, v] of [['x1', 0], ['x2', points - 1], ['y1', y], ['y2', y]]) line.setAttribute(name, v)
    picture.append(line)
  }
  const areas = series.map(s => s.area ? picture.appendChild(svg('path', 'area ' + s.key)) : null)
  const lines = series.map(s => picture.appendChild(svg('path', 'line ' + s.key)))
  const top = el('span', 'y top')
  const middle = el('span', 'y middle')
  const cursor = el('span', 'cursor')
  cursor.hidden = true
  const field = el('div', 'field', picture, top, middle, cursor)
  field.tabIndex = 0
  field.setAttribute('role', 'img')
  const times = el('div', 'times soft', el('span', '', '1 h ago'), el('span', '', '45 min'), el('span', '', '30 min'), el('span', '', '15 min'), el('span', '', 'now'))
  figure.append(el('figcaption', '', el('h2', '', title), when, legend), field, times)

  let history = null
  let at = -1 // index of the point read off; -1: the newest

  function read () {
    if (!history) return
    const all = history.series
    const n = all[series[0].key].length
    const i = at < 0 ? n - 1 : at
    series.forEach((s, k) => text(values[k], n > 0 ? format(all[s.key][i]) : '–'))
    cursor.hidden = at < 0
    text(when, n === 0 ? 'nothing measured yet' : at < 0 ? '' : clock(new Date((history.to - (n - 1 - i) * history.step_seconds) * 1000), true))
    if (at >= 0) cursor.style.left = 100 * (points - n + i) / (points - 1) + '%'
    // A moment read off by keys is spoken; the newest is not, every ten seconds.
    attr(field, 'aria-label', title + ', last hour. ' + (at < 0 ? 'Arrow keys read it off.' : when.textContent + ': ' + series.map((s, k) => s.name + ' ' + values[k].textContent).join(', ')))
  }

  function move (i) {
    if (!history) return
    const n = history.series[series[0].key].length
    at = i < 0 || n === 0 ? -1 : Math.min(i, n - 1)
    read()
  }

  const pointer = e => {
    if (!history) return
    const box = field.getBoundingClientRect()
    const n = history.series[series[0].key].length
    move(Math.max(0, Math.round((e.clientX - box.left) / box.width * (points - 1)) - (points - n)))
  }
  field.addEventListener('pointermove', pointer)
  field.addEventListener('pointerdown', pointer)
  field.addEventListener('pointerleave', () => move(-1))
  field.addEventListener('blur', () => move(-1))
  field.addEventListener('keydown', e => {
    if (!history) return
    const n = history.series[series[0].key].length
    const from = at < 0 ? n - 1 : at
    const to = { ArrowLeft: Math.max(0, from - 6), ArrowRight: from + 6, Home: 0, End: n - 1, Escape: -1 }[e.key]
    if (to === undefined) return
    e.preventDefault()
    move(to)
  })

  return h => {
    const slid = history ? (h.to - history.to) / h.step_seconds : 0
    history = h
    if (at >= 0 && h.series[series[0].key].length === points) at = Math.max(0, at - Math.round(slid)) // it stays with its moment
    const max = round(Math.max(...series.map(s => Math.max(0, ...h.series[s.key]))))
    text(top, axis(max) + unit)
    text(middle, axis(max / 2) + unit)
    series.forEach((s, k) => {
      const list = h.series[s.key]
      const x0 = points - list.length
      const path = list.map((v, i) => (i ? 'L' : 'M') + (x0 + i) + ' ' + (100 - 100 * v / max).toFixed(2)).join('')
      attr(lines[k], 'd', path)
      if (areas[k]) attr(areas[k], 'd', list.length ? path + 'V100H' + x0 + 'Z' : '')
    })
    read()
  }
}

// round gives the next 1, 2 or 5 times a power of ten, so that the line has room and the middle is a number to say.
function round (v) {
  if (!(v > 0)) return 1
  const power = 10 ** Math.floor(Math.log10(v))
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].find(m => m * power >= v) * power
}
