// What the browser tests stand on: Debian's Chromium, the programs of the debug build, and a page
// that remembers what went wrong in it.
import { spawn, execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, mkdirSync } from "node:fs";
import { createServer } from "node:net";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import puppeteer from "puppeteer-core";
import { HtmlValidate } from "html-validate";

const require = createRequire(import.meta.url);
const axeSource = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const root = resolve(fileURLToPath(import.meta.url), "../../..");
const programs = resolve(process.env.CARGO_TARGET_DIR ?? join(root, "target"), "debug");

/** How long anything may take on a loaded machine before the test says what it awaited. */
const PATIENCE_MS = 60000;

export const program = (name) => {
  const path = join(programs, name);
  if (!existsSync(path)) throw new Error(`${path} is missing: cargo build --workspace --bins`);
  return path;
};

// What a test started ends with it, also when its set-up failed half-way.
const running = new Set();
process.on("exit", () => running.forEach((end) => end()));
/** `end`, done once: when it is called, or at the end of the process. */
const onceAtTheEnd = (end) => {
  const once = () => running.delete(once) && end();
  running.add(once);
  return once;
};

/** Waits until `ask` gives something, or fails saying what was awaited. */
export const waitFor = async (what, ask, patience = PATIENCE_MS) => {
  const until = Date.now() + patience;
  let last;
  for (;;) {
    try {
      const found = await ask();
      if (found) return found;
    } catch (error) {
      last = error;
    }
    if (Date.now() > until) throw new Error(`waited ${patience / 1000} s for ${what}${last ? `: ${last}` : ""}`);
    await new Promise((done) => setTimeout(done, 100));
  }
};

/** `count` ports in a row that nobody listens on. */
const freePorts = async (offsets) => {
  for (let base = 20000 + (process.pid % 400) * 100; base < 64000; base += 137) {
    const listening = [];
    try {
      for (const offset of offsets) {
        await new Promise((good, bad) => {
          const server = createServer();
          server.once("error", bad);
          server.listen(base + offset, "127.0.0.1", () => { listening.push(server); good(); });
        });
      }
      return base;
    } catch {
      // Taken: on to the next.
    } finally {
      await Promise.all(listening.map((server) => new Promise((done) => server.close(done))));
    }
  }
  throw new Error("no free ports");
};

/** A whole cluster of real programs: three coordinators, monitor, recovery daemon, two workers. */
export const startCluster = async () => {
  const base = await freePorts([0, 1, 2, 10, 11, 100, 101, 102]);
  const data = mkdtempSync(join(tmpdir(), "holdfast-view-"));
  const up = ["up", "--detach", "--base-port", String(base), "--data", data, "--workers", "2"];
  const end = onceAtTheEnd(() => {
    try {
      execFileSync(program("testbed"), ["down", "--data", data], { stdio: "ignore" });
    } finally {
      rmSync(data, { recursive: true, force: true });
    }
  });
  try {
    execFileSync(program("testbed"), up, { stdio: ["ignore", "ignore", "inherit"], timeout: 180000 });
  } catch (error) {
    end();
    throw error;
  }
  const node = (n) => `http://127.0.0.1:${base + n - 1}`;
  const json = async (url, options) => (await fetch(url, options)).json();
  return {
    url: `http://127.0.0.1:${base + 10}`,
    end,
    json,
    node,
    brake: (on) =>
      fetch(`http://127.0.0.1:${base + 11}/api/brake`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ on, why: "a browser test" }),
      }),
    submit: (task) =>
      json(`${node(1)}/api/tasks`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify(task),
      }),
    task: (id) => json(`${node(1)}/api/tasks/${encodeURIComponent(id)}`),
    kill: async (n) => process.kill((await json(`${node(n)}/api/status`)).pid, "SIGKILL"),
  };
};

/** Coordinators that are not there, and a monitor over them: what it shows can be chosen. */
export const startStage = async (scene) => {
  const base = await freePorts([0, 1, 2, 10]);
  const staged = spawn(program("examples/staged_cluster"), [scene, String(base)], { stdio: "ignore" });
  const nodes = [0, 1, 2].map((n) => `127.0.0.1:${base + n}`);
  const listen = `127.0.0.1:${base + 10}`;
  const monitor = spawn(program("monitor"), ["--nodes", ...nodes, "--listen", listen, "--interval", "0.5"], {
    stdio: "ignore",
  });
  const end = onceAtTheEnd(() => [staged, monitor].forEach((child) => child.kill("SIGKILL")));
  const url = `http://${listen}`;
  await waitFor("the monitor over staged nodes", async () => (await fetch(`${url}/api/cluster`)).ok);
  return {
    url,
    monitor,
    end,
  };
};

const chromium = () => {
  const named = process.env.CHROMIUM;
  const found = named ? [named] : ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
  const path = found.find((candidate) => existsSync(candidate));
  if (!path) throw new Error("no Chromium: install Debian's chromium, or name one in CHROMIUM");
  return path;
};

export const startBrowser = () =>
  puppeteer.launch({
    executablePath: chromium(),
    args: [
      "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--force-color-profile=srgb", "--no-first-run",
      "--disable-background-networking", "--disable-component-update", "--disable-sync",
    ],
    // Libraries of a Chromium that was not installed; no other program may see them.
    env: { ...process.env, LD_LIBRARY_PATH: process.env.CHROMIUM_LIBRARIES ?? "" },
    protocolTimeout: 120000,
  });

export const WIDE = { width: 1440, height: 900 };
export const NARROW = { width: 390, height: 844, isMobile: true, hasTouch: true };

/** A page that remembers every error; `path` is opened in it. */
export const openPage = async (browser, url, { viewport = WIDE, scheme = "light", scripts = true } = {}) => {
  const page = await browser.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  page.faults = [];
  page.on("pageerror", (error) => page.faults.push(`error: ${error}`));
  page.on("console", (message) => {
    if (["error", "warn"].includes(message.type())) page.faults.push(`console: ${message.text()}`);
  });
  await page.setViewport(viewport);
  await page.emulateMediaFeatures([
    { name: "prefers-color-scheme", value: scheme },
    { name: "prefers-reduced-motion", value: "reduce" },
  ]);
  await page.setJavaScriptEnabled(scripts);
  await page.goto(url, { waitUntil: "load" });
  return page;
};

/** What axe-core finds, each in a line. The policy lets no foreign script in, so it goes in by the debugger. */
export const accessibilityFaults = async (page) => {
  await page.evaluate(axeSource);
  const found = await page.evaluate(() =>
    // Preload would fetch style sheets, which is not what a page may do here.
    globalThis.axe.run(document, { preload: false, resultTypes: ["violations"] }));
  return found.violations.flatMap((rule) => rule.nodes.map((node) => `${rule.id}: ${rule.help}: ${node.html.slice(0, 160)}`));
};

/** Elements that stick out to the right, where the page can be scrolled sideways. */
export const overflow = (page) =>
  page.evaluate(() => {
    const wide = document.documentElement.clientWidth;
    if (document.documentElement.scrollWidth <= wide) return [];
    const inScroll = (element) => element.closest(".scroll, .output, .visually-hidden, .skip");
    return [...document.querySelectorAll("body *")]
      .filter((element) => element.getBoundingClientRect().right > wide + 1 && !inScroll(element))
      .slice(0, 5)
      .map((element) => element.outerHTML.slice(0, 160));
  });

const validator = new HtmlValidate({
  extends: ["html-validate:recommended"],
  rules: {
    // Roles are repeated where a narrow screen turns a table into blocks, which takes them away.
    "no-redundant-role": "off",
    "no-implicit-button-type": "error",
    // Only inside noscript: what a script would do is done by asking again.
    "meta-refresh": "off",
    "long-title": "off",
    "no-trailing-whitespace": "off",
    "void-style": "off",
    "doctype-style": "off",
    "attribute-boolean-style": "off",
    "require-sri": "off",
    "tel-non-breaking": "off",
    "prefer-native-element": "off",
  },
});

/** What html-validate finds in a page as it was sent. */
export const markupFaults = async (url) => {
  const report = await validator.validateString(await (await fetch(url)).text());
  return report.results.flatMap((result) => result.messages).map((m) => `${m.line}: ${m.ruleId}: ${m.message}`);
};

/** Keeps a picture where HOLDFAST_SHOTS names a folder. */
export const shot = async (page, name) => {
  const folder = process.env.HOLDFAST_SHOTS;
  if (!folder) return;
  mkdirSync(folder, { recursive: true });
  await page.screenshot({ path: join(folder, `${name}.png`), fullPage: true });
};
