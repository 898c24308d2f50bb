// The operator's page of a node that shares swarms: node cluster_page.mjs http://ADMIN TOKEN PICTURES [alone]
// Prints "ok" and ends with 0 when the page shows the other nodes and turns WebSockets on all of them, or, alone, has none of it.
// Between its steps it prints what is to be done to the other node, and waits for the page to show it.
import assert from 'node:assert/strict'
import { complaintsOf, launch } from './tabs.mjs'

const [admin, token, pictures, alone] = process.argv.slice(2)

const browser = await launch()
const tab = await (await browser.newContext({ viewport: { width: 1280, height: 900 } })).newPage()
const complaints = complaintsOf(tab, '503')
tab.setDefaultTimeout(60000)
await tab.goto(admin + '/#token=' + token)
await tab.waitForSelector('#ws[aria-checked=true]:not([disabled])')

if (alone) {
  assert.equal(await tab.isVisible('#nodes-card'), false)
  assert.equal(await tab.isVisible('#ws-nodes'), false)
} else {
  const row = name => tab.locator('#nodes tr', { hasText: name })
  const says = words => tab.locator('#ws-nodes-state', { hasText: words }).waitFor()
  await row('alpha (this one)').waitFor()
  await row('beta').getByText('all on').waitFor()
  await says('Switched on: both nodes')

  // Off on all, after a question; the other node says so.
  await tab.getByLabel('because').fill('flood')
  await tab.getByRole('button', { name: 'Off everywhere' }).click()
  await tab.keyboard.press('Escape')
  await says('Switched on: both nodes')
  await tab.getByRole('button', { name: 'Off everywhere' }).click()
  await tab.getByRole('button', { name: 'Off on all nodes' }).click()
  await tab.waitForSelector('#ws[aria-checked=false]:not([disabled])')
  await row('beta').getByText('WsServer off').waitFor()
  await says('Switched on: none of 2')
  assert.equal(await tab.getByRole('button', { name: 'Off everywhere' }).getAttribute('aria-pressed'), 'true')

  // The big switch is this node's.
  await tab.getByRole('switch', { name: 'WsServer' }).click()
  await says('Switched on: 1 of 2, not beta')
  await tab.getByRole('button', { name: 'On everywhere' }).click()
  await says('Switched on: both nodes')

  for (const [width, height] of [[1280, 900], [390, 844], [360, 740]]) {
    await tab.setViewportSize({ width, height })
    const tooWide = await tab.evaluate(() => document.documentElement.scrollWidth - innerWidth)
    assert.ok(tooWide <= 0, `${width} px: ${tooWide} px too wide`)
    await tab.screenshot({ path: `${pictures}/cluster-${width}.png`, fullPage: true })
  }

  console.log('kill beta')
  await row('beta').getByText('gone').waitFor()
  await says('Switched on: the only node')
  console.log('kill redis')
  await tab.getByText('Redis does not answer').waitFor()
  await tab.getByRole('button', { name: 'Off everywhere' }).click()
  await tab.getByRole('button', { name: 'Off on all nodes' }).click()
  await tab.getByText('in force on this node').waitFor()
  await tab.waitForSelector('#ws[aria-checked=false]:not([disabled])')
}
assert.deepEqual(complaints, [])
await browser.close()
console.log('ok')
process.exit(0)
