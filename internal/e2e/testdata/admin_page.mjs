// The operator's page, in a browser, of a tracker that runs: node admin_page.mjs http://ADMIN TOKEN ANNOUNCE_URL PICTURES
// Prints "ok" and ends with 0 when the page shows and does what it should.
import assert from 'node:assert/strict'
import http from 'node:http'
import { complaintsOf, launch } from './tabs.mjs'

const [admin, token, announce, pictures] = process.argv.slice(2)
const hostile = '<img src=x onerror=document.title="owned"><b>'

async function api (path) {
  const answer = await fetch(admin + '/api/v1/' + path, { headers: { authorization: 'Bearer ' + token } })
  assert.equal(answer.status, 200, path)
  return answer.json()
}

const modeOfWS = async () => (await api('switches')).switches.find(s => s.endpoint === 'ws').mode

// handshake returns the status a browser's WebSocket would get.
function handshake () {
  return new Promise((resolve, reject) => {
    const request = http.request(announce, {
      headers: { connection: 'Upgrade', upgrade: 'websocket', 'sec-websocket-version': '13', 'sec-websocket-key': 'dGhlIHNhbXBsZSBub25jZQ==' }
    })
    request.on('upgrade', (response, socket) => { socket.destroy(); resolve(response.statusCode) })
    request.on('response', response => { response.resume(); resolve(response.statusCode) })
    request.on('error', reject)
    request.end()
  })
}

// announces comes from a client with a name that is a page of its own.
let port = 1
const announces = setInterval(() => {
  for (let i = 0; i < 10; i++) {
    port = port % 60000 + 1
    http.get(`${announce}?info_hash=aaaaaaaaaaaaaaaaaaaa&peer_id=-XX0001-000000000000&port=${port}&left=1`, { headers: { 'user-agent': hostile } }, r => r.resume()).on('error', () => {})
  }
}, 100)

const browser = await launch()
const context = await browser.newContext({ viewport: { width: 1280, height: 900 } })
const tab = await context.newPage()
const complaints = complaintsOf(tab)
tab.setDefaultTimeout(20000)

// Without the token there is nothing to see; with it in the address, it is taken out of there.
await tab.goto(admin + '/')
await tab.waitForSelector('#login:not([hidden])')
assert.equal(await tab.isVisible('#board'), false)
await tab.goto(admin + '/#token=' + token)
await tab.waitForSelector('#alive.good')
assert.equal(new URL(tab.url()).hash, '')
await tab.reload()
await tab.waitForSelector('#alive.good') // the tab has kept it

// Off: on the page, in the API, and for a client.
const ws = tab.getByRole('switch', { name: 'WsServer' })
const shown = on => tab.waitForSelector(`#ws[aria-checked=${on}]:not([disabled])`)
await shown(true)
assert.equal(await modeOfWS(), 'on')
assert.equal(await handshake(), 101)
await tab.getByLabel('because').fill('flood of sockets')
await ws.click()
await shown(false)
assert.match(await tab.textContent('#ws-state'), /^Off since .*, by api 127\.0\.0\.1: flood of sockets/)
assert.equal(await modeOfWS(), 'off')
assert.equal(await handshake(), 503)
await tab.reload()
await shown(false)

// On again, by keyboard.
await ws.focus()
await tab.keyboard.press('Space')
await shown(true)
assert.equal(await modeOfWS(), 'on')
assert.equal(await handshake(), 101)

// Announces are not turned off by a slip of the thumb, and for as long as it is said.
const announceMode = mode => tab.getByRole('group', { name: 'Mode of Announce' }).getByRole('button', { name: mode, exact: true })
const pressed = mode => announceMode(mode).and(tab.locator('[aria-pressed=true]')).waitFor()
await announceMode('Off').click()
await tab.keyboard.press('Escape')
await pressed('On')
await tab.locator('fieldset').getByText('10 min').click()
await announceMode('Off').click()
await tab.getByRole('button', { name: 'Turn announce off' }).click()
await pressed('Off')
const off = (await api('switches')).switches.find(s => s.endpoint === 'announce')
assert.equal(off.mode, 'off')
assert.ok(Math.abs(new Date(off.until) - new Date(off.since) - 600000) < 2000, JSON.stringify(off))
await announceMode('On').click()
await pressed('On')

// A limit.
const limit = tab.locator('[id="limit-http.max_conns"]')
await limit.fill('123')
await limit.press('Enter')
await tab.getByText('http.max_conns is 123').waitFor()
assert.equal((await api('limits')).limits.find(l => l.name === 'http.max_conns').value, 123)

// Who asks most: text, and nothing but text.
await tab.getByRole('tab', { name: 'User agents' }).click()
await tab.locator('#talkers .value', { hasText: hostile }).waitFor({ timeout: 40000 })
assert.equal(await tab.locator('#talkers script, #talkers img, #proposals script, #rules img').count(), 0)
assert.doesNotMatch(await tab.title(), /owned/)

// A rule against it, and its end.
await tab.getByRole('button', { name: `Block user agent ${hostile} for 1 h` }).click()
await tab.getByRole('button', { name: 'Block for 1 h', exact: true }).last().click()
const rule = tab.locator('#rules li', { hasText: hostile })
await rule.waitFor()
assert.equal((await api('blocks')).blocks.length, 1)
await rule.getByRole('button').click()
await rule.waitFor({ state: 'detached' })
assert.equal((await api('blocks')).blocks.length, 0)

// Nothing sticks out on any screen.
for (const [width, height] of [[1280, 900], [390, 844], [360, 740]]) {
  await tab.setViewportSize({ width, height })
  const tooWide = await tab.evaluate(() => document.documentElement.scrollWidth - innerWidth)
  assert.ok(tooWide <= 0, `${width} px: ${tooWide} px too wide`)
  await tab.screenshot({ path: `${pictures}/operator-${width}.png`, fullPage: true })
}

// A figure that is old says so.
assert.deepEqual(complaints, [])
await tab.route('**/api/**', route => route.abort())
await tab.getByText('No answer from the tracker since').waitFor()
assert.match(await tab.title(), /^No answer/)
await tab.unroute('**/api/**')
await tab.waitForSelector('#alive.good')
assert.equal(await tab.isVisible('#silence'), false)

// Forgotten is forgotten.
await tab.getByRole('button', { name: 'Forget token' }).click()
await tab.reload()
await tab.waitForSelector('#login:not([hidden])')
await tab.getByLabel('Admin token').fill('0'.repeat(64))
await tab.keyboard.press('Enter')
await tab.getByText('The tracker refuses this token.').waitFor()

clearInterval(announces)
await browser.close()
console.log('ok')
process.exit(0)
