// Liveness over staged nodes: what changes by itself, what must survive a change, and what the page
// says when it is cut off.
import { after, before, test } from "node:test";
import assert from "node:assert/strict";
import { NARROW, accessibilityFaults, openPage, overflow, shot, startBrowser, startStage, waitFor } from "./harness.js";

let stage, browser;

before(async () => {
  [stage, browser] = await Promise.all([startStage("divided"), startBrowser()]);
});

after(async () => {
  await browser?.close();
  stage?.end();
});

test("a fault is named with its evidence while one looks on", async () => {
  const page = await openPage(browser, `${stage.url}/`);
  await page.waitForFunction(() => document.querySelector("#findings").textContent.includes("State divergence"));
  assert.match(await page.$eval("#verdict", (e) => e.textContent), /state divergence on node-3/);
  assert.match(await page.$eval("#nodes", (e) => e.textContent), /≠ unequal at/);
  assert.match(await page.$eval("#links", (e) => e.textContent), /node-3 does not hear node-1/);
  for (const [look, viewport] of [["wide", undefined], ["narrow", NARROW]]) {
    if (viewport) await page.setViewport(viewport);
    await shot(page, `divided-${look}`);
    assert.deepEqual(await accessibilityFaults(page), [], look);
    assert.deepEqual(await overflow(page), [], look);
  }
  assert.deepEqual(page.faults, []);
  await page.close();
});

test("a change moves neither focus nor what was opened", async () => {
  const page = await openPage(browser, `${stage.url}/`);
  await page.focus("#nodes [data-key='node-node-2']");
  await page.click("#leadership summary");
  await page.evaluate(() => {
    globalThis.link = document.querySelector("#nodes [data-key='node-node-2']");
    globalThis.link.focus();
    globalThis.commit = document.querySelector("#nodes td[data-label=Commit]").textContent;
    globalThis.asOf = document.querySelector("#as-of").textContent;
  });
  await page.waitForFunction(() =>
    document.querySelector("#nodes td[data-label=Commit]").textContent !== globalThis.commit
    && document.querySelector("#as-of").textContent !== globalThis.asOf);
  const kept = await page.evaluate(() => ({
    same: document.activeElement === globalThis.link,
    open: document.querySelector("#leadership details").open,
  }));
  assert.deepEqual(kept, { same: true, open: true });
  await page.close();
});

test("only a change of the verdict is read aloud", async () => {
  const page = await openPage(browser, `${stage.url}/`);
  const regions = await page.$$eval("[role=status], [role=alert], [aria-live]", (all) => all.map((e) => e.id));
  assert.deepEqual(regions, ["verdict"]);
  await page.evaluate(() => {
    globalThis.spoken = 0;
    new MutationObserver((changes) => { globalThis.spoken += changes.length; })
      .observe(document.getElementById("verdict"), { childList: true, subtree: true, characterData: true });
    globalThis.rounds = new Set();
    new MutationObserver(() => globalThis.rounds.add(document.querySelector("#as-of").textContent))
      .observe(document.querySelector("#as-of"), { childList: true, subtree: true, characterData: true });
  });
  await page.waitForFunction(() => globalThis.rounds.size >= 3);
  assert.equal(await page.evaluate(() => globalThis.spoken), 0);
  await page.close();
});

test("a hidden page holds no connection, and catches up when it is seen again", async () => {
  const page = await openPage(browser, `${stage.url}/`);
  await page.waitForSelector("#freshness[data-state=live]");
  const open = async () => (await fetch(`${stage.url}/api/stream`)).status;
  assert.equal(await open(), 200);
  const other = await browser.newPage();
  await other.bringToFront();
  const hidden = await page.evaluate(() => document.hidden);
  if (hidden) {
    const before = await page.$eval("#as-of", (e) => e.textContent);
    await page.bringToFront();
    await page.waitForFunction((old) => document.querySelector("#as-of").textContent !== old, {}, before);
  }
  await other.close();
  assert.deepEqual(page.faults, []);
  await page.close();
});

test("a page that is cut off says so, and for how long", async () => {
  const page = await openPage(browser, `${stage.url}/`);
  await page.waitForSelector("#freshness[data-state=live]");
  stage.monitor.kill("SIGSTOP");
  try {
    await page.waitForFunction(() => /stale for [0-9]+ s/.test(document.querySelector("#freshness").textContent));
  } finally {
    stage.monitor.kill("SIGCONT");
  }
  await page.waitForSelector("#freshness[data-state=live]");
  stage.monitor.kill("SIGKILL");
  await page.waitForFunction(() => /cut off for [0-9]+ s/.test(document.querySelector("#freshness").textContent));
  await shot(page, "cut-off");
  await waitFor("the monitor to be gone", () => stage.monitor.signalCode);
  await page.close();
});
