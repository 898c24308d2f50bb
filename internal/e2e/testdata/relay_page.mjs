// The relay's page, in a browser: node relay_page.mjs http://ADMIN TOKEN http://STAGE PICTURES
// The stage sets what the relay says: GET /STATE-BACKENDS. Prints "ok" and ends with 0 when the page shows what it should.
import assert from 'node:assert/strict'
import { complaintsOf, launch } from './tabs.mjs'

const [admin, token, stage, pictures] = process.argv.slice(2)

async function scene (name) {
  assert.equal((await fetch(stage + '/' + name)).status, 200, name)
}

const browser = await launch()
const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, reducedMotion: 'reduce' })
const tab = await context.newPage()
const complaints = complaintsOf(tab)
const foreign = []
tab.on('request', r => { if (!r.url().startsWith(admin + '/')) foreign.push(r.url()) })
tab.setDefaultTimeout(20000)

// Without the token there is nothing to see; with it in the address, it is taken out of there and kept.
await tab.goto(admin + '/')
await tab.waitForSelector('#login:not([hidden])')
assert.equal(await tab.isVisible('#board'), false)
await tab.goto(admin + '/#token=' + token)
await tab.waitForSelector('#alive.good')
assert.equal(new URL(tab.url()).hash, '')
await tab.reload()
await tab.waitForSelector('#alive.good')

const words = { forwarding: 'Forwarding', degraded: 'Forwarding, degraded', refusing: 'Refusing' }
const shows = async name => {
  await scene(name)
  const [state, many] = name.split('-')
  await tab.locator('#state').getByText(words[state], { exact: true }).waitFor()
  const backends = Number(many) || 2
  await tab.waitForFunction(n => document.querySelectorAll('#backends > .backend').length === n, backends)
}
const tiles = async () => Object.fromEntries(await tab.locator('#tiles .tile').evaluateAll(all => all.map(t => [t.querySelector('dt').textContent, t.querySelector('dd').innerText])))

// One line says it, in words.
await shows('forwarding-3')
assert.equal(await tab.locator('.hero h2').innerText(), 'Forwarding for 4\u00a0h\u00a012\u00a0min')
assert.match(await tab.textContent('#why'), /^Since .*\d\d:\d\d:\d\d: all backends answer$/)
assert.match(await tab.title(), /^Forwarding · 2,114\/s/)
assert.equal(await tab.textContent('#backends-up'), 'all 3 are up')
assert.match((await tiles())['ports used'], /^31\u00a0%/)
assert.equal(await tab.textContent('#profile'), 'in force')
assert.match(await tab.locator('.backend').nth(2).innerText(), /^UP\s+for 6\u00a0h\u00a028\u00a0min\s+\[fd00:66:3a7f:9b1c:225:90ff:fe8a:1d04\]:6969/)

await shows('degraded-3')
assert.match(await tab.locator('.backend').nth(1).innerText(), /DOWN[^]*connect: connection refused[^]*412\/s/)
const ramping = await tab.locator('.backend').nth(0).innerText()
assert.match(ramping, /35\u00a0%/)
assert.match(ramping, /352 waiting, room for 375 of 1,500/)
assert.match((await tiles())['not tracked'], /^1,204/)
assert.equal(await tab.locator('#tiles .tile', { hasText: 'ports used' }).locator('.meter').getAttribute('data-level'), 'high')
assert.equal(await tab.textContent('#profile'), '2 keys differ')
await tab.getByText('net.netfilter.nf_conntrack_tcp_timeout_syn_sent', { exact: true }).waitFor()

await shows('refusing-3')
assert.equal(await tab.locator('.hero h2').innerText(), 'Refusing for 1\u00a0min\u00a035\u00a0s')
assert.equal(await tab.locator('#events li').count(), 8)
await tab.getByRole('button', { name: 'Show all 33' }).click()
assert.equal(await tab.locator('#events li').count(), 33)
await tab.getByRole('button', { name: 'Show the last 8' }).click()

// No ports without masquerade, no conntrack in proxy mode.
await shows('forwarding-proxy')
await tab.getByText('Connections through the proxy').waitFor()
assert.deepEqual(Object.keys(await tiles()), ['connections'])
assert.equal(await tab.isVisible('#plot-conntrack'), false)
assert.equal(await tab.textContent('#profile'), 'not wanted')

// Text, and nothing but text.
await shows('degraded-hostile')
await tab.locator('#why', { hasText: '<img src=x onerror=' }).waitFor()
assert.equal(await tab.locator('#board img, #board script').count(), 0)
assert.match(await tab.textContent('#why'), /\\u\{202e\}\\u\{1b\}/)
assert.doesNotMatch(await tab.title(), /owned/)

// A moment of the last hour is read off by keys: now there were three up, some time before none.
await shows('forwarding-3')
await tab.locator('#plot-up .field').focus()
for (let i = 0; i < 34; i++) await tab.keyboard.press('ArrowLeft')
assert.match(await tab.locator('#plot-up .field').getAttribute('aria-label'), /: up 0$/)
await tab.locator('#plot-up .field').blur()

// Nothing sticks out on any screen, in the light or in the dark.
const pictured = ['forwarding-1', 'degraded-3', 'refusing-16']
for (const name of ['forwarding-1', 'forwarding-3', 'degraded-3', 'degraded-16', 'refusing-1', 'refusing-16', 'forwarding-proxy', 'degraded-hostile']) {
  await shows(name)
  for (const [width, height, colorScheme] of [[1280, 900, 'light'], [1280, 900, 'dark'], [768, 900, 'light'], [360, 740, 'light'], [360, 740, 'dark']]) {
    await tab.setViewportSize({ width, height })
    await tab.emulateMedia({ colorScheme })
    const tooWide = await tab.evaluate(() => [...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('svg, [hidden]')).map(e => e.id || e.className || e.tagName))
    const page = await tab.evaluate(() => document.documentElement.scrollWidth - innerWidth)
    assert.ok(page <= 0 && tooWide.length === 0, `${name} at ${width} px: ${page} px too wide, ${tooWide}`)
    if (pictured.includes(name)) await tab.screenshot({ path: `${pictures}/relay-${name}-${width}-${colorScheme}.png`, fullPage: true })
  }
}

// Old figures say so: when nobody answers, and when who answers hangs.
await tab.setViewportSize({ width: 1280, height: 900 })
await tab.emulateMedia({ colorScheme: 'light' })
await shows('refusing-3')
assert.deepEqual(complaints, [])
for (const block of [route => route.abort(), () => {}]) {
  await tab.route('**/api/**', block)
  await tab.locator('.hero h2').getByText(/^for 5\u00a0s$/).waitFor()
  assert.equal(await tab.textContent('#state'), 'No answer')
  assert.match(await tab.textContent('#why'), /^It was refusing at \d\d:\d\d:\d\d\./)
  assert.match(await tab.title(), /^No answer/)
  await tab.getByText('No answer from the relay since').waitFor()
  await tab.evaluate(() => scrollTo(0, 0))
  await tab.screenshot({ path: `${pictures}/relay-silent.png`, fullPage: true })
  await tab.unrouteAll({ behavior: 'ignoreErrors' })
  await tab.waitForSelector('#alive.good')
  assert.equal(await tab.isVisible('#silence'), false)
  assert.equal(await tab.textContent('#state'), 'Refusing')
}

// Forgotten is forgotten, and nobody else was asked for anything.
await tab.getByRole('button', { name: 'Forget token' }).click()
await tab.reload()
await tab.waitForSelector('#login:not([hidden])')
await tab.getByLabel('Admin token').fill('0'.repeat(64))
await tab.keyboard.press('Enter')
await tab.getByText('The relay refuses this token.').waitFor()
assert.deepEqual(foreign, [])

await browser.close()
console.log('ok')
process.exit(0)
