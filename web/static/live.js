// Keeps a page live. The server sends fragments by the id of the element they belong in (class
// `live`); parts that depend on the address (class `poll`) are asked for again with their page.
// Both are laid over what is there, node by node, so that focus, selection, open details and places
// of scrolling survive. Without this script the page refreshes itself.
(() => {
  "use strict";
  const body = document.body;
  const interval = Number(body.dataset.intervalMs) || 1000;
  const pollEvery = Number(body.dataset.pollSeconds) * 1000 || 0;
  const staleAfter = Math.max(3 * interval, 3000);
  const fresh = document.getElementById("freshness");
  const freshText = document.getElementById("freshness-text");
  const asOf = document.getElementById("as-of");

  // --- laying a new tree over an old one ----------------------------------------------------

  const keyOf = (node) => (node.nodeType === 1 && (node.id || node.dataset.key)) || null;
  const alike = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName && keyOf(a) === keyOf(b);

  const layAttributes = (old, next) => {
    for (const { name } of [...old.attributes]) {
      // What the reader opened stays open; what the cursor drew stays drawn.
      if (name === "open" || name.startsWith("data-kept")) continue;
      if (!next.hasAttribute(name)) old.removeAttribute(name);
    }
    for (const { name, value } of next.attributes) {
      if (name !== "open" && old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
  };

  const layChildren = (old, next) => {
    const keyed = new Map();
    for (const child of old.childNodes) {
      const key = keyOf(child);
      if (key) keyed.set(key, child);
    }
    let place = old.firstChild;
    for (const child of [...next.childNodes]) {
      const key = keyOf(child);
      let same = key ? keyed.get(key) : null;
      if (same && !alike(same, child)) same = null;
      if (!same && place && !keyOf(place) && alike(place, child)) same = place;
      if (same) {
        if (same === place) place = place.nextSibling;
        else old.insertBefore(same, place);
        lay(same, child);
      } else {
        old.insertBefore(document.importNode(child, true), place);
      }
    }
    while (place) {
      const following = place.nextSibling;
      place.remove();
      place = following;
    }
  };

  const lay = (old, next) => {
    if (old.nodeType !== 1) {
      if (old.nodeValue !== next.nodeValue) old.nodeValue = next.nodeValue;
      return;
    }
    layAttributes(old, next);
    layChildren(old, next);
  };

  const shown = new Map();
  const layText = (element, html) => {
    if (shown.get(element) === html) return;
    shown.set(element, html);
    const template = document.createElement("template");
    template.innerHTML = html;
    layChildren(element, template.content);
    changed();
  };

  const changed = () => document.dispatchEvent(new CustomEvent("holdfast:changed"));

  // --- the event stream ----------------------------------------------------------------------

  let source = null;
  let lastId = "";
  let boot = "";
  let lastRound = performance.now();

  const seen = (event) => {
    if (event.lastEventId) lastId = event.lastEventId;
  };

  const open = () => {
    if (source || !body.dataset.stream || !("EventSource" in window)) return;
    const url = new URL(body.dataset.stream, location.href);
    if (lastId) url.searchParams.set("last", lastId);
    source = new EventSource(url);
    for (const element of document.querySelectorAll(".live[id]")) {
      source.addEventListener(element.id, (event) => {
        seen(event);
        layText(element, event.data);
      });
    }
    source.addEventListener("round", (event) => {
      seen(event);
      const round = JSON.parse(event.data);
      // Another process serves us now; its page may be another one, too.
      if (boot && boot !== round.boot) return location.reload();
      boot = round.boot;
      lastRound = performance.now() - round.age_ms;
      asOf.textContent = round.text;
      asOf.dateTime = round.at;
      show();
    });
    // The server no longer knows what we have; everything follows this.
    source.addEventListener("resync", seen);
    source.addEventListener("error", () => {
      // A browser gives up on a refused stream; we do not.
      if (source && source.readyState === EventSource.CLOSED) {
        close();
        setTimeout(() => { if (!document.hidden) open(); }, 2000);
      }
      show();
    });
  };

  const close = () => {
    if (source) source.close();
    source = null;
  };

  const show = () => {
    if (!fresh || !source) return;
    const silent = performance.now() - lastRound;
    const connected = source.readyState === EventSource.OPEN;
    const seconds = Math.round(silent / 1000);
    let state = "live";
    let text = "live";
    if (silent > staleAfter) {
      state = connected ? "stale" : "cut";
      text = `${connected ? "stale" : "cut off"} for ${seconds} s, as of`;
    }
    if (fresh.dataset.state !== state) {
      fresh.dataset.state = state;
      body.dataset.state = state;
    }
    if (freshText.textContent !== text) freshText.textContent = text;
  };

  // --- parts that are asked for with their page ----------------------------------------------

  let asking = null;
  let askedAt = performance.now();

  // Whoever marks text is reading it.
  const isMarking = (element) => {
    const selection = document.getSelection();
    return selection && !selection.isCollapsed && element.contains(selection.anchorNode);
  };

  const ask = async () => {
    askedAt = performance.now();
    asking = new AbortController();
    const limit = setTimeout(() => asking.abort(), 10000);
    try {
      const answer = await fetch(location.href, { signal: asking.signal, cache: "no-store", redirect: "error" });
      if (!answer.ok) return;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const element of document.querySelectorAll(".poll[id]")) {
        const next = page.getElementById(element.id);
        if (next && !isMarking(element)) lay(element, next);
      }
      // A part that has ended its life says so by asking no more.
      if (!Number(page.body.dataset.pollSeconds)) body.dataset.pollSeconds = "0";
      changed();
    } catch {
      // The stream says that we are cut off.
    } finally {
      clearTimeout(limit);
      asking = null;
    }
  };

  const poll = () => {
    if (!pollEvery || body.dataset.pollSeconds === "0" || asking || document.hidden) return;
    if (performance.now() - askedAt >= pollEvery) ask();
  };

  // --- a hidden page holds no connection ------------------------------------------------------

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      close();
      if (asking) asking.abort();
    } else {
      lastRound = performance.now();
      open();
      poll();
    }
  });
  window.addEventListener("pagehide", close);
  window.addEventListener("pageshow", () => { if (!document.hidden) open(); });
  setInterval(() => { if (!document.hidden) { show(); poll(); } }, 500);
  if (!document.hidden) open();

  // --- keys ------------------------------------------------------------------------------------

  let goes = 0;
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.target.closest("input, select, textarea")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (event.key === "/") {
      const search = document.querySelector("[data-search]");
      if (search) {
        event.preventDefault();
        search.focus();
      }
    } else if (event.key === "g") {
      goes = performance.now();
    } else if (goes && performance.now() - goes < 1500) {
      goes = 0;
      const link = document.querySelector(`[data-go="${CSS.escape(event.key)}"]`);
      if (link) link.click();
    }
  });

  // --- one cursor over all charts --------------------------------------------------------------

  // Each chart carries its series' values; the place of the pointer becomes a place among them.
  const charts = () => [...document.querySelectorAll(".chart")];
  let cursor = null; // 0 to 1, or none

  const draw = () => {
    for (const chart of charts()) {
      const line = chart.querySelector(".cursor");
      const reading = chart.querySelector(".reading");
      if (!line || !reading) continue;
      if (cursor === null) {
        line.setAttribute("visibility", "hidden");
        reading.textContent = reading.dataset.latest;
        continue;
      }
      const at = `${(cursor * 100).toFixed(2)}%`;
      line.setAttribute("x1", at);
      line.setAttribute("x2", at);
      line.setAttribute("visibility", "visible");
      const times = chart.dataset.times.split(" ");
      const nth = Math.round(cursor * (times.length - 1));
      const values = [...chart.querySelectorAll("[data-values]")].map((series) => {
        const value = series.dataset.values.split(" ")[nth];
        return `${series.dataset.name} ${value === "-" ? "no data" : value}`;
      });
      reading.textContent = `${times[nth]}: ${values.join(", ")}`;
    }
  };

  const place = (event) => {
    const plot = event.target.closest && event.target.closest(".plot");
    if (!plot) return null;
    const box = plot.getBoundingClientRect();
    return Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
  };

  document.addEventListener("pointermove", (event) => {
    const at = place(event);
    if (at === null && cursor === null) return;
    if (at === null && document.activeElement && document.activeElement.closest(".plot")) return;
    cursor = at;
    draw();
  });
  document.addEventListener("keydown", (event) => {
    const plot = event.target.closest && event.target.closest(".plot");
    if (!plot) return;
    const steps = plot.closest(".chart").dataset.times.split(" ").length - 1;
    const now = cursor === null ? 1 : cursor;
    const to = { ArrowLeft: now - 1 / steps, ArrowRight: now + 1 / steps, Home: 0, End: 1, Escape: null }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    cursor = to === null ? null : Math.min(1, Math.max(0, to));
    draw();
  });
  document.addEventListener("focusout", (event) => {
    if (event.target.closest && event.target.closest(".plot")) {
      cursor = null;
      draw();
    }
  });
  document.addEventListener("holdfast:changed", () => { if (cursor !== null) draw(); });
})();
