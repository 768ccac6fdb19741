// Keeps a page live: the server sends fragments by the id of the element they belong in, and this
// puts them there. Without it the page refreshes itself.
(() => {
  "use strict";
  const body = document.body;
  const path = body.dataset.stream;
  if (!path || !("EventSource" in window)) return;

  const interval = Number(body.dataset.intervalMs) || 1000;
  const staleAfter = Math.max(3 * interval, 3000);
  const fresh = document.getElementById("freshness");
  const freshText = document.getElementById("freshness-text");
  const asOf = document.getElementById("as-of");
  const elements = [...document.querySelectorAll(".live[id]")];

  let source = null;
  let lastId = "";
  let boot = "";
  let lastRound = performance.now();

  // Where the focus is, in words that survive a swap: the element's own key, or its place among
  // the elements of its fragment that can take it.
  const focusables = "a[href], button, input, select, summary, [tabindex]";
  const focusIn = (element) => {
    const active = document.activeElement;
    if (!active || !element.contains(active)) return null;
    const key = active.dataset.key;
    const place = [...element.querySelectorAll(focusables)].indexOf(active);
    return () => {
      const all = [...element.querySelectorAll(focusables)];
      const again = (key && all.find((e) => e.dataset.key === key)) || all[place];
      if (again) again.focus({ preventScroll: true });
    };
  };
  const scrolled = (element) =>
    [...element.querySelectorAll(".scroll")].map((e) => [e.scrollLeft, e.scrollTop]);

  const shown = new Map();
  const swap = (element, html) => {
    if (shown.get(element) === html) return;
    shown.set(element, html);
    const refocus = focusIn(element);
    const places = scrolled(element);
    element.innerHTML = html;
    [...element.querySelectorAll(".scroll")].forEach((e, i) => {
      if (places[i]) [e.scrollLeft, e.scrollTop] = places[i];
    });
    if (refocus) refocus();
  };

  const seen = (event) => {
    if (event.lastEventId) lastId = event.lastEventId;
  };

  const open = () => {
    if (source) return;
    const url = new URL(path, location.href);
    if (lastId) url.searchParams.set("last", lastId);
    source = new EventSource(url);
    for (const element of elements) {
      source.addEventListener(element.id, (event) => {
        seen(event);
        swap(element, event.data);
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
    const silent = performance.now() - lastRound;
    const connected = source && source.readyState === EventSource.OPEN;
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

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      close();
    } else {
      lastRound = performance.now();
      open();
    }
  });
  window.addEventListener("pagehide", close);
  window.addEventListener("pageshow", () => { if (!document.hidden) open(); });
  setInterval(() => { if (!document.hidden) show(); }, 1000);
  if (!document.hidden) open();
})();
