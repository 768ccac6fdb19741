// Every page of a real cluster: markup, accessibility, both themes, both widths, the keyboard, and
// no error in the console.
import { after, before, test } from "node:test";
import assert from "node:assert/strict";
import {
  NARROW, WIDE, accessibilityFaults, markupFaults, openPage, overflow, shot, startBrowser, startCluster, waitFor,
} from "./harness.js";

const HOSTILE = "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>";
const TURNED = "a\u202etxt.exe";

let cluster, browser, findingPath, casePath;

/** Tasks that are as unfriendly as tasks can be. */
const submitHostile = async () => {
  const command = (id, command, more = {}) =>
    cluster.submit({ task_id: id, type: "command", config: { command }, max_retries: 0, ...more });
  await command("hostile-output", `printf '%s' '${HOSTILE.replaceAll("'", "'\\''")}'; printf '\\033[1;31mred\\033[0m \\342\\200\\256txt'`);
  await command("big-output", "head -c 1500000 /dev/zero | tr '\\0' x; echo; seq 1 1000; echo end-of-it");
  await command("fails", "echo to-stderr >&2; exit 3");
  await command("never", "true", { requirements: { labels: { nowhere: "yes" } } });
  const odd = { type: "odd<b>type", config: { note: HOSTILE } };
  await cluster.submit({ task_id: TURNED, ...odd }).catch(() => {});
  await cluster.submit({ task_id: "odd-type", ...odd });
  for (const id of ["hostile-output", "big-output", "fails"]) {
    await waitFor(`task ${id} to end`, async () => ["completed", "failed"].includes((await cluster.task(id)).state));
  }
};

before(async () => {
  [cluster, browser] = await Promise.all([startCluster(), startBrowser()]);
  await submitHostile();
  const noop = (n) => ({ task_id: `noop-${n}`, type: "noop" });
  await fetch(`${cluster.node(1)}/api/tasks/batch`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ tasks: Array.from({ length: 60 }, (_, n) => noop(n)) }),
  });
  // So that there is time to look before it is repaired.
  await cluster.brake(true);
  // Something to find, to repair and to tell of: a follower dies.
  const { leader, nodes } = await cluster.json(`${cluster.url}/api/cluster`);
  const follower = nodes.findIndex((node) => node.node_id !== leader) + 1;
  await cluster.kill(follower);
  const page = await openPage(browser, `${cluster.url}/`);
  // Live: nobody reloads this page.
  await page.waitForFunction(() => document.querySelector("#findings").textContent.includes("Process crash"));
  assert.match(await page.$eval("#verdict", (e) => e.textContent), /2 of 3 healthy/);
  await page.waitForFunction(() => /held back by brake/.test(document.querySelector("#findings .answers")?.textContent));
  findingPath = await page.$eval("#findings a[href^='/anomalies/']", (link) => link.getAttribute("href"));
  await cluster.brake(false);
  await page.waitForFunction(() => /Healthy\s+3 of 3 healthy/.test(document.querySelector("#verdict").textContent));
  await page.waitForFunction(() => document.querySelector("#recovery").textContent.includes("repaired"));
  casePath = await page.$eval("#recovery a[href^='/recovery/']", (link) => link.getAttribute("href"));
  assert.deepEqual(page.faults, []);
  await page.close();
}, { timeout: 300000 });

after(async () => {
  await browser?.close();
  cluster?.end();
});

const pages = () => ({
  cluster: "/",
  node: "/nodes/node-1",
  tasks: "/tasks",
  "tasks-failed": "/tasks?status=failed",
  "tasks-record": "/tasks?from=record&limit=25",
  task: "/tasks/hostile-output",
  "task-big": "/tasks/big-output",
  workers: "/workers",
  findings: "/anomalies",
  finding: findingPath,
  recovery: "/recovery",
  case: casePath,
  logs: "/logs?follow=off",
  "no-page": "/no-such-page",
});

test("the markup of every page is right", async () => {
  for (const [name, path] of Object.entries(pages())) {
    assert.deepEqual(await markupFaults(cluster.url + path), [], name);
  }
});

for (const [look, viewport, scheme] of [["wide-light", WIDE, "light"], ["narrow-dark", NARROW, "dark"]]) {
  test(`every page is whole, ${look}`, async () => {
    for (const [name, path] of Object.entries(pages())) {
      const page = await openPage(browser, cluster.url + path, { viewport, scheme });
      if (name !== "no-page") await page.waitForSelector("#freshness[data-state=live]");
      await shot(page, `${name}-${look}`);
      assert.deepEqual(await accessibilityFaults(page), [], `${name}, ${look}: axe-core`);
      assert.deepEqual(await overflow(page), [], `${name}, ${look}: sticks out`);
      const faults = page.faults.filter((fault) => name !== "no-page" || !fault.includes("404"));
      assert.deepEqual(faults, [], `${name}, ${look}: console`);
      assert.equal(await page.$eval("h1", () => document.querySelectorAll("h1").length), 1, name);
      await page.close();
    }
  });
}

test("the other two looks, on the pages with most colours", async () => {
  for (const [look, viewport, scheme] of [["wide-dark", WIDE, "dark"], ["narrow-light", NARROW, "light"]]) {
    for (const name of ["cluster", "tasks", "finding"]) {
      const page = await openPage(browser, cluster.url + pages()[name], { viewport, scheme });
      await shot(page, `${name}-${look}`);
      assert.deepEqual(await accessibilityFaults(page), [], `${name}, ${look}`);
      assert.deepEqual(await overflow(page), [], `${name}, ${look}`);
      await page.close();
    }
  }
});

test("hostile names and outputs stay words", async () => {
  const page = await openPage(browser, `${cluster.url}/tasks/hostile-output`);
  const output = await page.$eval("[aria-labelledby=stdout-title] .output", (e) => e.textContent);
  assert.ok(output.includes(HOSTILE), output);
  assert.ok(output.includes("red ⟨U+202E⟩txt"), output);
  assert.equal(await page.$$eval("main script, main img", (found) => found.length), 0);
  await page.goto(`${cluster.url}/tasks/odd-type`);
  assert.ok((await page.$eval("main", (e) => e.textContent)).includes("odd<b>type"));
  assert.equal(await page.$$eval("main b, main script, main img", (found) => found.length), 0);
  assert.deepEqual(page.faults, []);
  await page.close();
});

test("a long output shows both ends, and all of it on demand", async () => {
  const page = await openPage(browser, `${cluster.url}/tasks/big-output`);
  const text = () => page.$eval("main", (e) => e.textContent);
  assert.match(await text(), /are left out here/);
  assert.match(await text(), /end-of-it/);
  const before = (await text()).length;
  await Promise.all([page.waitForNavigation(), page.click("a[href='/tasks/big-output?output=all']")]);
  assert.ok((await text()).length > before + 500000);
  await page.close();
});

test("a task is found by its id, and its whole life is there", async () => {
  const page = await openPage(browser, `${cluster.url}/tasks`);
  await page.keyboard.press("/");
  await page.keyboard.type("fails");
  await Promise.all([page.waitForNavigation(), page.keyboard.press("Enter")]);
  assert.equal(new URL(page.url()).pathname, "/tasks/fails");
  const text = await page.$eval("main", (e) => e.textContent);
  for (const part of ["submitted", "attempt 1 leased", "attempt 1 started", "attempt 1 failed", "Exit code 3", "to-stderr"]) {
    assert.ok(text.includes(part), `${part} is missing in ${text}`);
  }
  await page.goto(`${cluster.url}/tasks/no-such-task`);
  assert.match(await page.$eval("main", (e) => e.textContent), /No such task/);
  await page.close();
});

test("lists are filtered by their addresses, and empty ones say why", async () => {
  const page = await openPage(browser, `${cluster.url}/tasks`);
  const states = () => page.$$eval("#tasks td[data-label=State] .mark", (all) => all.map((e) => e.textContent.slice(2).trim()));
  await Promise.all([page.waitForNavigation(), page.click("#tasks .choices a[href*='status=failed']")]);
  assert.ok((await states()).length > 0 && (await states()).every((state) => state === "failed"), `${await states()}`);
  await page.type("input[name=type]", "nobody-has-this");
  await Promise.all([page.waitForNavigation(), page.click("form[action='/tasks'] button")]);
  assert.equal(new URL(page.url()).search, "?status=failed&type=nobody-has-this&worker=&limit=50");
  assert.match(await page.$eval("#tasks .empty", (e) => e.textContent), /in memory fits/);
  await page.goto(`${cluster.url}/tasks?limit=25`);
  const first = await page.$$eval("#tasks tbody th a", (all) => all.map((e) => e.textContent));
  await Promise.all([page.waitForNavigation(), page.click("#tasks .pager a[rel=next]")]);
  const second = await page.$$eval("#tasks tbody th a", (all) => all.map((e) => e.textContent));
  assert.equal(first.length, 25);
  assert.equal(second.filter((id) => first.includes(id)).length, 0);
  await page.goto(`${cluster.url}/workers?state=lost`);
  assert.match(await page.$eval("#workers .empty", (e) => e.textContent), /None of 2 workers is lost/);
  await page.goto(`${cluster.url}/tasks?status=odd`);
  assert.match(await page.$eval("main", (e) => e.textContent), /No state of a task is called odd/);
  await page.close();
});

test("tasks and log lines come by themselves", async () => {
  const page = await openPage(browser, `${cluster.url}/tasks?status=pending`);
  const logs = await openPage(browser, `${cluster.url}/logs`);
  await page.bringToFront();
  await cluster.submit({ task_id: "comes-late", type: "command", config: { command: "true" }, requirements: { labels: { nowhere: "yes" } } });
  await page.waitForFunction(() => document.querySelector("#tasks").textContent.includes("comes-late"));
  await logs.bringToFront();
  const newest = await logs.$eval("#logs tbody tr", (row) => row.dataset.key);
  // A new leader is something that every node has a line about.
  await fetch(`${cluster.node(1)}/api/cluster/transfer`, { method: "POST", headers: { "content-type": "application/json" }, body: "{}" });
  await logs.waitForFunction((old) => document.querySelector("#logs tbody tr").dataset.key !== old, {}, newest);
  const nodesSeen = await logs.$$eval("#logs .who", (all) => [...new Set(all.map((e) => e.textContent))].sort());
  assert.deepEqual(nodesSeen, ["node-1", "node-2", "node-3"]);
  assert.deepEqual([...page.faults, ...logs.faults], []);
  await Promise.all([page.close(), logs.close()]);
});

test("log lines are filtered", async () => {
  const page = await openPage(browser, `${cluster.url}/logs`);
  await page.select("select[name=node]", "node-2");
  await page.type("input[name=q]", "no line has these words");
  await Promise.all([page.waitForNavigation(), page.click("form[action='/logs'] button")]);
  assert.match(await page.$eval("#logs .empty", (e) => e.textContent), /contains that text/);
  assert.equal(await page.$eval("select[name=node]", (e) => e.value), "node-2");
  await Promise.all([page.waitForNavigation(), page.click("a[data-key=follow]")]);
  assert.match(page.url(), /follow=off/);
  await page.close();
});

test("one cursor goes over all charts, by pointer and by keys", async () => {
  const page = await openPage(browser, `${cluster.url}/`);
  await page.waitForFunction(() => document.querySelector("#chart-lag .line").getAttribute("d") !== "");
  await page.hover("#chart-lag .plot");
  const cursors = () => page.$$eval(".chart .cursor", (all) => all.map((e) => `${e.getAttribute("visibility")} ${e.getAttribute("x1")}`));
  const seen = await cursors();
  assert.equal(seen.length, 6);
  assert.equal(new Set(seen).size, 1, `${seen}`);
  assert.match(seen[0], /^visible [0-9.]+%$/);
  assert.match(await page.$eval("#chart-sync .reading", (e) => e.textContent), /^[0-9]{2}:[0-9]{2}:[0-9]{2}: node-1 /);
  await page.mouse.move(2, 2);
  assert.match((await cursors())[0], /^hidden/);
  await page.focus("#chart-lag .plot");
  await page.keyboard.press("Home");
  assert.ok((await cursors()).every((at) => at === "visible 0.00%"), `${await cursors()}`);
  await page.keyboard.press("Escape");
  assert.match((await cursors())[0], /^hidden/);
  await Promise.all([page.waitForNavigation(), page.click("#charts a[href='/?range=1h']")]);
  assert.equal(await page.$eval("#charts [aria-current]", (e) => e.textContent.trim()), "1h");
  await page.click("#chart-lag summary");
  assert.ok((await page.$$("#chart-lag tbody tr")).length > 5);
  assert.deepEqual(page.faults, []);
  await page.close();
});

test("keys lead everywhere", async () => {
  const page = await openPage(browser, `${cluster.url}/`);
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Skip to content");
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.id), "main");
  for (const [key, path] of [["t", "/tasks"], ["w", "/workers"], ["f", "/anomalies"], ["r", "/recovery"], ["l", "/logs"], ["c", "/"]]) {
    await page.keyboard.press("g");
    await Promise.all([page.waitForNavigation(), page.keyboard.press(key)]);
    assert.equal(new URL(page.url()).pathname, path);
    assert.equal(await page.$eval("header [aria-current=page]", (e) => e.getAttribute("href")), path);
  }
  await page.close();
});

test("every page is whole without scripts", async () => {
  for (const [name, path] of Object.entries(pages())) {
    const page = await openPage(browser, cluster.url + path, { scripts: false });
    assert.ok((await page.$eval("main", (e) => e.textContent.trim().length)) > 40, name);
    const refreshes = await page.$$eval("meta[http-equiv=refresh]", (all) => all.length);
    const stands = ["task", "task-big", "logs"].includes(name);
    assert.equal(refreshes, stands ? 0 : 1, `${name}: refreshes by itself`);
    await page.close();
  }
});
