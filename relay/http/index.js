"use strict";
// Renews the figures of the page while somebody looks at it. Without it they are those of the
// moment at which the page was asked for; nothing else on the page needs it.
//
// What `relay/http/figures.py` does in words, this does again; tests/interop/test_page_in_browser.py
// compares the two. Texts are set as text: nothing that was fetched becomes markup.
(() => {
  const MISSING = "unknown";
  const PERIOD_MS = 10000;
  const PAUSE_MS = 60000; // after 429: the client's budget is for its packets
  const SAMPLES = 60;
  const STATUS = { ok: "All is well", degraded: "Degraded", unavailable: "Shutting down" };

  const isNumber = (value) => typeof value === "number";
  const sum = (values) => values.reduce((total, value) => total + value, 0);

  function count(value) {
    if (!isNumber(value)) return MISSING;
    if (Math.abs(value) < 10000) return Math.round(value).toLocaleString("en-US");
    const [scale, letter] = [[1e9, "B"], [1e6, "M"], [1e3, "K"]].find(([size]) => Math.abs(value) >= size);
    return (value / scale).toFixed(1) + letter;
  }

  function span(seconds) {
    if (!isNumber(seconds)) return MISSING;
    let left = Math.floor(seconds);
    const parts = [];
    for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]]) {
      const amount = Math.floor(left / size);
      left -= amount * size;
      if (amount) parts.push(`${amount} ${unit}`);
    }
    return parts.slice(0, 2).join(" ") || "0 s";
  }

  const yesNo = (value) => (value == null ? MISSING : value ? "yes" : "no");

  function read(stats) {
    const { cache = {}, dht = {}, http = {} } = stats;
    const kinds = http.requests ?? {};
    const total = (kind) => sum(Object.values(kinds[kind] ?? {}));
    const answered = (status) =>
      sum(Object.values(kinds).flatMap((statuses) =>
        Object.entries(statuses).filter(([each]) => each.startsWith(status)).map(([, number]) => number)));
    const requests = sum(Object.keys(kinds).map(total));
    const looked = cache.hits + cache.misses;
    const full = isNumber(cache.packets) && isNumber(cache.capacity)
      ? `${(cache.capacity ? (100 * cache.packets) / cache.capacity : 0).toFixed(2)} %` : MISSING;
    const address = dht.public_address || dht.local_address;
    const size = count(dht.size_estimate);
    const dropped = Object.entries(dht).filter(([name]) => name.startsWith("dropped_")).map(([, n]) => n);
    return {
      sample: { uptime_s: stats.uptime_s, requests, queries_in: dht.queries_in ?? 0 },
      meter: [cache.packets ?? 0, Math.max(cache.capacity ?? 1, 1)],
      full,
      figures: {
        packets: count(cache.packets),
        hit_rate: looked ? `${((100 * cache.hits) / looked).toFixed(1)} %` : MISSING,
        requests: count(requests),
        queries_in: count(dht.queries_in),
        capacity: count(cache.capacity),
        utilisation: full,
        hits: count(cache.hits),
        misses: count(cache.misses),
        evictions: count(cache.evictions),
        size: isNumber(dht.size_deviation) ? `${size} ± ${(100 * dht.size_deviation).toFixed(2)} %` : size,
        table: count(dht.table_size),
        address: address ?? MISSING,
        port: address?.split(":").pop() || MISSING,
        firewalled: yesNo(dht.firewalled),
        server: yesNo(dht.server_mode),
        lookups: count(dht.lookups),
        puts: count(dht.puts),
        queries_out: count(dht.queries_out),
        timeouts: count(dht.timeouts),
        dropped: dropped.length ? count(sum(dropped)) : MISSING,
        lost: count(dht.datagrams?.kernel_drops),
        node_id: dht.node_id ?? MISSING,
        read: count(total("get") + total("head")),
        written: count(total("put")),
        limited: count(answered("429")),
        failed: count(answered("5")),
        open: count(http.connections?.open),
        uptime: span(stats.uptime_s),
      },
    };
  }

  const all = (selector) => document.querySelectorAll(selector);
  const one = (selector) => document.querySelector(selector);
  const note = (name, text) => { one(`[data-note="${name}"]`).textContent = text; };
  const data = one("#tiles").dataset;
  const rates = { requests: [], queries_in: [] };
  let last = { uptime_s: +data.uptime, requests: +data.requests, queries_in: +data.queries };

  function perSecond(sample) {
    const passed = sample.uptime_s - last.uptime_s;
    for (const name of Object.keys(rates)) {
      if (passed <= 0) rates[name] = []; // the relay was started anew
      else rates[name] = [...rates[name], (sample[name] - last[name]) / passed].slice(-SAMPLES);
      draw(name, rates[name]);
    }
    last = sample;
  }

  function draw(name, values) {
    const chart = one(`[data-chart="${name}"]`);
    if (values.length) {
      const now = values[values.length - 1];
      note(name, `${now < 100 ? now.toFixed(1) : count(now)} a second`);
    }
    const highest = Math.max(...values, 0.1);
    const step = 100 / Math.max(values.length - 1, 1);
    chart.firstElementChild.setAttribute("points",
      values.map((value, at) => `${(at * step).toFixed(1)},${(29 - (28 * value) / highest).toFixed(1)}`).join(" "));
    chart.classList.toggle("drawn", values.length > 1);
  }

  function say(status, parts) {
    const pill = one("#status");
    pill.textContent = STATUS[status] ?? "No answer";
    pill.className = `status ${STATUS[status] ? status : "unavailable"}`;
    const box = one("#troubles");
    box.replaceChildren(...Object.entries(parts).filter(([, part]) => part.reason).map(([name, part]) => {
      const line = document.createElement("p");
      const label = document.createElement("strong");
      label.textContent = name;
      line.className = "trouble";
      line.append(label, ` ${part.reason}`);
      return line;
    }));
  }

  async function renew() {
    const [answer, health] = await Promise.all([fetch("/stats"), fetch("/health")]);
    const { status, parts } = await health.json();
    say(status, parts);
    if (answer.status === 429) return PAUSE_MS;
    const { sample, meter, full, figures } = read(await answer.json());
    for (const place of all("[data-figure]")) {
      const text = figures[place.dataset.figure];
      if (text !== undefined && place.textContent !== text) place.textContent = text;
    }
    note("packets", `${full} of the cache`);
    [one("progress").value, one("progress").max] = [Math.min(...meter), meter[1]];
    perSecond(sample);
    one("#as-of").textContent = new Date().toLocaleTimeString();
    one("#live").hidden = false;
    return PERIOD_MS;
  }

  let timer;
  async function turn() {
    clearTimeout(timer);
    if (document.hidden) return;
    let wait = PERIOD_MS;
    try {
      wait = await renew();
    } catch {
      say("", {});
    }
    timer = setTimeout(turn, wait);
  }
  document.addEventListener("visibilitychange", turn);
  timer = setTimeout(turn, PERIOD_MS);
})();
