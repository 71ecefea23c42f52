"use strict";
// The dashboard. Asks for /dashboard/data once a second while it is looked at; sends requests over the protocol
// with binary tensors. Whatever a server says goes into the page as text, never as markup.
(() => {
  const $ = (id) => document.getElementById(id);
  const EVERY_MS = 1000, ANSWER_MS = 8000, RETRY_MS_MAX = 10000, HISTORY = 120, SVG = "http://www.w3.org/2000/svg";

  function el(tag, properties, ...children) {
    const element = document.createElement(tag);
    for (const [key, value] of Object.entries(properties || {})) {
      if (key in element && key !== "list") element[key] = value; else element.setAttribute(key, value);
    }
    element.append(...children);
    return element;
  }
  function svg(tag, attributes, ...children) {
    const element = document.createElementNS(SVG, tag);
    for (const [key, value] of Object.entries(attributes || {})) element.setAttribute(key, value);
    element.append(...children);
    return element;
  }
  /** Writes only what has changed, so that a selection or a screen reader is not disturbed. */
  function text(element, value) { if (element.textContent !== value) element.textContent = value; }
  function attribute(element, name, value) {
    if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
  }

  // Numbers for people.
  const digits = (value) => value >= 100 || value === 0 ? Math.round(value).toLocaleString("en") :
    value.toFixed(value >= 10 ? 1 : 2);
  const NONE = "–";
  const rate = (value) => value === 0 ? "0" : value < 0.01 ? "<0.01" : digits(value);
  const whole = (value) => value.toLocaleString("en");
  function time(us) {
    if (us === null || us === undefined) return [NONE, ""];
    if (us < 1000) return [digits(us), "µs"];
    return us < 1e6 ? [digits(us / 1000), "ms"] : [digits(us / 1e6), "s"];
  }
  const timeText = (us) => time(us).join(" ").trim();
  const percent = (share) => share <= 0 ? "0 %" : share < 0.001 ? "<0.1 %" : `${(share * 100).toFixed(share >= 0.1 ? 0 : 1)} %`;
  function bytes(count) {
    const units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let unit = 0;
    while (count >= 1024 && unit + 1 < units.length) { count /= 1024; unit += 1; }
    return `${unit ? digits(count) : count} ${units[unit]}`;
  }
  function span(seconds) {
    const s = Math.floor(seconds), d = Math.floor(s / 86400), h = Math.floor(s / 3600) % 24, m = Math.floor(s / 60) % 60;
    if (d) return `${d} d ${h} h`;
    return h ? `${h} h ${m} min` : m ? `${m} min ${s % 60} s` : `${s} s`;
  }
  const isRealTime = (row) => row.class === "real-time";
  const sum = (list, what) => list.reduce((total, item) => total + what(item), 0);
  const failures = (row) => sum(Object.values(row.failures), (count) => count);

  // Asking the server.
  let token = "";
  try { token = sessionStorage.getItem("reef-token") || ""; } catch { /* a page without storage asks again */ }
  class Refused extends Error {}
  async function ask(path, options = {}, limitMs = ANSWER_MS) {
    const headers = { ...(options.headers || {}) };
    if (token) headers.Authorization = `Bearer ${token}`;
    const answer = await fetch(path, { ...options, headers, cache: "no-store", signal: AbortSignal.timeout(limitMs) });
    if (answer.status === 401 || answer.status === 403) throw new Refused(await said(answer));
    return answer;
  }
  /** What an answer that is no success says. */
  async function said(answer) {
    const body = await answer.text();
    try { return JSON.parse(body).error || body; } catch { return body || `status ${answer.status}`; }
  }

  // The loop.
  let timer = 0, failed = 0, paused = false, asking = false, last = null;
  function later(ms) { clearTimeout(timer); timer = setTimeout(poll, ms); }
  async function poll() {
    if (asking || paused || document.hidden) return;
    asking = true;
    try {
      const answer = await ask("/dashboard/data");
      if (!answer.ok) throw new Error(await said(answer));
      last = await answer.json();
      failed = 0;
      $("token").hidden = true;
      notice("");
      show(last);
      later(EVERY_MS);
    } catch (error) {
      if (error instanceof Refused) {
        $("token").hidden = false;
        notice(token ? `The token is refused: ${error.message}` : "");
        pill("needs a token", "bad");
      } else {
        failed += 1;
        countDown(Math.min(RETRY_MS_MAX, EVERY_MS * 2 ** (failed - 1)), error);
      }
    } finally {
      asking = false;
    }
  }
  function countDown(ms, error) {
    if (paused || document.hidden) return;
    const why = error instanceof TypeError || error.name === "TimeoutError" ? "The server does not answer" :
      `The server answers with an error (${error.message})`;
    const since = last ? ` The numbers below are of ${new Date(lastAt).toLocaleTimeString()}.` : "";
    notice(`${why}. Trying again ${ms > 1000 ? `in ${Math.ceil(ms / 1000)} s` : "now"}.${since}`);
    pill("unreachable", "bad");
    document.body.classList.add("stale");
    clearTimeout(timer);
    timer = ms > 1000 ? setTimeout(() => countDown(ms - 1000, error), 1000) : setTimeout(poll, ms);
  }
  let lastAt = 0;
  function notice(words) { text($("notice"), words); $("notice").hidden = !words; }
  function pill(words, kind) { text($("state"), words); $("state").className = `pill ${kind}`; }
  document.addEventListener("visibilitychange", () => { if (!document.hidden) later(0); });
  $("pause").addEventListener("click", () => {
    paused = !paused;
    $("pause").setAttribute("aria-pressed", paused);
    text($("pause"), paused ? "Go on" : "Pause");
    if (paused) { clearTimeout(timer); pill("paused", ""); } else later(0);
  });
  $("token").addEventListener("submit", (event) => {
    event.preventDefault();
    token = $("token-text").value;
    try { sessionStorage.setItem("reef-token", token); } catch { /* only for this page then */ }
    $("token-text").value = "";
    later(0);
    checkForm();
  });

  function show(data) {
    lastAt = Date.now();
    document.body.classList.remove("stale");
    const states = { serving: "good", failed: "bad", draining: "bad" };
    pill(data.server.state, states[data.server.state] || "");
    facts(data);
    const rows = data.models.flatMap((model) => model.classes.length ?
      model.classes.map((row) => ({ ...row, model })) : [{ class: model.class, model, none: true }]);
    tiles(data, rows.filter((row) => !row.none));
    timeline(data.timeline);
    table(rows, data);
    devices(data.devices);
    refused(rows.filter((row) => !row.none));
    if (formKnown) modelChoice(data); else checkForm();
  }

  function facts(data) {
    const list = [["version", data.server.version], ["scheme", data.server.scheme], ["up", span(data.server.uptime_s)],
      ["rates of the last", span(Math.max(1, Math.round(data.window_s)))]];
    const parent = $("facts");
    while (parent.children.length < list.length) parent.append(el("div", {}, el("dt"), el("dd")));
    list.forEach(([name, value], index) => {
      text(parent.children[index].children[0], name);
      text(parent.children[index].children[1], value);
    });
  }

  // Tiles.
  const TILES = [
    { id: "ratio", name: "Real-time p99", kind: "rt" },
    { id: "rt", name: "Real-time requests", kind: "rt" },
    { id: "be", name: "Best-effort requests", kind: "be" },
    { id: "preempt", name: "Preemption latency, p99", kind: "rt" },
    { id: "misses", name: "Deadlines missed", kind: "" },
    { id: "queue", name: "Waiting now", kind: "" },
  ];
  for (const tile of TILES) {
    tile.past = [];
    tile.value = el("span");
    tile.unit = el("small");
    tile.more = el("div", { className: "more" });
    tile.line = svg("path", { class: "spark", d: "" });
    tile.element = el("div", { className: `tile ${tile.kind}`, id: `tile-${tile.id}` },
      el("div", { className: "name" }, tile.name), el("div", { className: "value" }, tile.value, tile.unit),
      tile.more, svg("svg", { viewBox: "0 0 100 26", preserveAspectRatio: "none", "aria-hidden": "true" }, tile.line));
    $("tiles").append(tile.element);
  }
  const ratioOf = (row) => row.alone_us && row.latency.count ? row.latency.p99_us / row.alone_us : null;
  function tiles(data, rows) {
    const urgent = rows.filter(isRealTime), other = rows.filter((row) => !isRealTime(row));
    const slowest = urgent.filter((row) => ratioOf(row) !== null).sort((a, b) => ratioOf(b) - ratioOf(a))[0];
    const shareOf = (list) => percent(sum(list, (row) => row.cu_share));
    const values = {
      ratio: slowest ? [ratioOf(slowest), digits(ratioOf(slowest)), "× alone",
        `${timeText(slowest.latency.p99_us)}, ${slowest.model.name}`] : [null, NONE, "", "no real-time requests"],
      rt: perSecond(urgent, `${shareOf(urgent)} of the device time`),
      be: perSecond(other, `${shareOf(other)} of the device time`),
      preempt: data.preempt.count ? [data.preempt.p99_us, ...time(data.preempt.p99_us),
        `p50 ${timeText(data.preempt.p50_us)}, ${whole(data.preempt.count)} of them`] : [null, NONE, "", "nothing was preempted"],
      misses: [sum(rows, (row) => row.misses_per_s), rate(sum(rows, (row) => row.misses_per_s)), "/s",
        `${whole(sum(rows, (row) => row.deadline_misses))} since the start`],
      queue: [sum(rows, (row) => row.queued), whole(sum(rows, (row) => row.queued)), "",
        `${whole(sum(rows, (row) => row.on_board))} running`],
    };
    for (const tile of TILES) {
      const [number, value, unit, more] = values[tile.id];
      text(tile.value, value);
      text(tile.unit, unit);
      text(tile.more, more);
      tile.more.title = more;
      tile.past.push(number);
      if (tile.past.length > HISTORY) tile.past.shift();
      attribute(tile.line, "d", sparkline(tile.past));
    }
    TILES[4].element.classList.toggle("alarm", values.misses[0] > 0);
  }
  function perSecond(rows, more) {
    const value = sum(rows, (row) => row.success_per_s);
    return [value, rate(value), "/s", rows.length ? more : "no such models"];
  }
  function sparkline(past) {
    const most = Math.max(...past.filter((value) => value !== null), 1e-9);
    let path = "", open = false;
    past.forEach((value, index) => {
      if (value === null) { open = false; return; }
      const x = 100 - (past.length - 1 - index) * (100 / (HISTORY - 1)), y = 24.5 - 22 * (value / most);
      path += `${open ? "L" : "M"}${x.toFixed(2)} ${y.toFixed(2)}`;
      open = true;
    });
    return path;
  }

  // The timeline.
  const GUTTER = 46;
  const drawn = new Map();
  function timeline(data) {
    const parent = $("timeline");
    if (!data || !data.devices.length) {
      drawn.clear();
      parent.replaceChildren(el("p", { className: "empty" }, "Nothing is recorded: the server is shutting down."));
      return;
    }
    if (!drawn.size) parent.replaceChildren();
    for (const device of data.devices) {
      if (!drawn.has(device.device)) drawn.set(device.device, deviceCanvas(parent, device.device));
      const view = drawn.get(device.device);
      view.device = device; view.models = data.models; view.span = data.span_us;
      draw(view);
    }
  }
  function deviceCanvas(parent, name) {
    const view = { name: el("b", {}, name), words: el("span", { className: "muted" }), shares: el("ul", { className: "shares" }),
      canvas: el("canvas", { role: "img" }), tip: el("div", { className: "tip", hidden: true }) };
    const units = el("div", { className: "units" }, view.canvas, view.tip);
    parent.append(el("div", { className: "device-line" }, view.name, view.words), units,
      el("div", { className: "axis", "aria-hidden": "true" }, ...["−1 s", "−0.75 s", "−0.5 s", "−0.25 s", "now"].map((at) => el("span", {}, at))), view.shares);
    view.axis = units.nextSibling;
    view.axis.style.paddingLeft = `${GUTTER}px`;
    view.canvas.addEventListener("pointermove", (event) => tell(view, event));
    view.canvas.addEventListener("pointerleave", () => { view.tip.hidden = true; });
    return view;
  }
  const rowHeight = (cus) => Math.max(3, Math.min(30, Math.floor(420 / cus)));
  // Neighbours of one class are told apart by how strong they are.
  const STRENGTHS = [1, 0.72, 0.86, 0.58];
  const strength = (model, kind) => model < 0 ? 0.45 : kind ? STRENGTHS[model % STRENGTHS.length] : [1, 0.85][model % 2];
  /** What intervals have in common with none twice: merged, in order. */
  function merged(intervals) {
    const list = [];
    for (const [from, until] of intervals.sort((a, b) => a[0] - b[0])) {
      const end = list[list.length - 1];
      if (end && from <= end[1]) end[1] = Math.max(end[1], until); else list.push([from, until]);
    }
    return list;
  }
  const lengthOf = (intervals) => sum(intervals, ([from, until]) => until - from);
  /** How long each class and each model had compute units; what is on top counts where stretches overlap. */
  function usage(view) {
    const models = new Map(), used = [0, 0];
    for (let cu = 0; cu < view.device.cus; cu += 1) {
      const of = [[], []];
      for (const [unit, from, length, model, kind, work] of view.device.stretches) {
        if (unit !== cu || work === 2) continue;
        const interval = [Math.max(0, from), Math.min(view.span, from + length)];
        if (interval[1] <= interval[0]) continue;
        of[kind].push(interval);
        const key = `${kind} ${model}`;
        models.set(key, (models.get(key) || 0) + interval[1] - interval[0]);
      }
      const urgent = lengthOf(merged(of[0].map((interval) => [...interval])));
      used[0] += urgent;
      used[1] += lengthOf(merged([...of[0], ...of[1]])) - urgent;
    }
    return { used, models: [...models].sort((a, b) => b[1] - a[1]) };
  }
  // Height and order of drawing by what it is: best-effort below, what is urgent or killed on top.
  function style(stretch) {
    const [, , , , kind, work] = stretch;
    if (work === 2) return { order: 3, colour: "--kill", height: 1 };
    if (kind === 0) return { order: 2, colour: "--rt", height: 1 };
    return work === 1 ? { order: 1, colour: "--pad", height: 0.45 } : { order: 0, colour: "--be", height: 0.72 };
  }
  function draw(view) {
    const { device, canvas } = view, scale = window.devicePixelRatio || 1;
    const width = canvas.clientWidth || canvas.parentNode.clientWidth, each = rowHeight(device.cus), height = each * device.cus;
    canvas.style.height = `${height}px`;
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    const colours = getComputedStyle(document.documentElement), context = canvas.getContext("2d");
    const colour = (name) => colours.getPropertyValue(name).trim();
    context.scale(scale, scale);
    context.font = "11px system-ui, sans-serif";
    context.textBaseline = "middle";
    const pad = each > 8 ? 2 : each > 4 ? 1 : 0, x = (us) => GUTTER + (us / view.span) * (width - GUTTER);
    for (let cu = 0; cu < device.cus; cu += 1) {
      context.fillStyle = colour("--track");
      context.fillRect(GUTTER, cu * each + pad, width - GUTTER, each - 2 * pad);
      if (each >= 11 || cu % 8 === 0) {
        context.fillStyle = colour("--muted");
        context.fillText(`CU ${cu}`, 0, cu * each + each / 2 + (each < 11 ? 3 : 0));
      }
    }
    const stretches = device.stretches.map((stretch) => [style(stretch), stretch]).sort((a, b) => a[0].order - b[0].order);
    for (const [how, [cu, from, length, model, kind]] of stretches) {
      const begin = Math.max(0, from), end = Math.min(view.span, from + length), full = each - 2 * pad;
      const tall = Math.max(1, full * how.height);
      context.fillStyle = colour(how.colour);
      context.globalAlpha = how.order === 3 ? 1 : strength(model, kind);
      context.fillRect(x(begin), cu * each + pad + (full - tall) / 2, Math.max(x(end) - x(begin), how.order > 1 ? 1.2 : 0.5), tall);
    }
    context.globalAlpha = 1;
    if (device.complete_from_us > 0) hatch(context, GUTTER, x(Math.min(device.complete_from_us, view.span)), height, colour("--muted"));
    const all = view.span * device.cus, { used, models } = usage(view);
    shares(view, models, all);
    const words = device.stretches.length ?
      `real-time ${percent(used[0] / all)}, best-effort ${percent(Math.min(1, used[1] / all))} of ${device.cus} compute units` :
      `no blocks on ${device.cus} compute units (or the device does not record them)`;
    text(view.words, words);
    attribute(canvas, "aria-label", `${device.device}: ${words}`);
  }
  const SHARES_MAX = 6;
  function shares(view, models, all) {
    const list = models.slice(0, SHARES_MAX).map(([key, time]) => {
      const [kind, model] = key.split(" ").map(Number);
      const swatch = el("i", { className: `key ${kind ? "be" : "rt"}` });
      swatch.style.opacity = strength(model, kind);
      return el("li", {}, swatch, `${model < 0 ? "began before" : view.models[model]} ${percent(Math.min(1, time / all))}`);
    });
    if (models.length > SHARES_MAX) list.push(el("li", {}, `and ${models.length - SHARES_MAX} more`));
    view.shares.replaceChildren(...list);
  }
  /** What is hatched was not recorded. */
  function hatch(context, from, to, height, colour) {
    context.save();
    context.beginPath();
    context.rect(from, 0, Math.max(0, to - from), height);
    context.clip();
    context.globalAlpha = 0.3;
    context.strokeStyle = colour;
    context.beginPath();
    for (let x = from - height; x < to; x += 7) { context.moveTo(x, height); context.lineTo(x + height, 0); }
    context.stroke();
    context.restore();
  }
  function tell(view, event) {
    const box = view.canvas.getBoundingClientRect(), px = event.clientX - box.left;
    const cu = Math.floor((event.clientY - box.top) / rowHeight(view.device.cus));
    const perPixel = view.span / (box.width - GUTTER), at = (px - GUTTER) * perPixel;
    const near = view.device.stretches.filter(([unit, from, length]) => unit === cu && from <= at + perPixel && at - perPixel <= from + length);
    const found = near.sort((a, b) => style(b).order - style(a).order)[0];
    view.tip.hidden = !found;
    if (!found) return;
    const works = ["", ", padding", ", killed"], name = found[3] < 0 ? "began before the recording" : view.models[found[3]];
    text(view.tip, `${name} · ${found[4] ? "best-effort" : "real-time"}${works[found[5]]} · ${timeText(found[2])}`);
    view.tip.style.left = `${Math.min(Math.max(px, 110), box.width - 110)}px`;
    view.tip.style.top = `${cu * rowHeight(view.device.cus)}px`;
  }
  const redraw = () => drawn.forEach((view) => { if (view.device) draw(view); });
  window.addEventListener("resize", redraw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

  // The table. A row is made once and written anew: it keeps its place, its focus and whether it is open.
  const LEAST = 0.7, MOST = 40;
  const place = (ratio) => 100 * Math.log(Math.min(MOST, Math.max(LEAST, ratio)) / LEAST) / Math.log(MOST / LEAST);
  document.querySelectorAll(".scale i").forEach((tick) => { tick.style.left = `${place(parseFloat(tick.textContent))}%`; });
  const made = new Map();
  const ORDERS = {
    name: () => 0, ratio: (row) => -(ratioOf(row) || 0), rate: (row) => -row.success_per_s, queue: (row) => -row.queued,
    failed: (row) => -failures(row), share: (row) => -row.cu_share,
  };
  for (const id of ["filter", "class-filter", "order"]) $(id).addEventListener("input", () => { if (last) show(last); });

  function table(rows, data) {
    const wanted = $("filter").value.trim().toLowerCase(), kind = $("class-filter").value, order = ORDERS[$("order").value];
    const shown = rows.filter((row) => row.model.name.toLowerCase().includes(wanted) && (!kind || row.class === kind));
    const rank = (row) => row.none ? 1 : order(row);
    const urgency = (row) => row.none ? 2 : isRealTime(row) ? 0 : 1;
    shown.sort((a, b) => rank(a) - rank(b) || urgency(a) - urgency(b) || (a.model.level || 0) - (b.model.level || 0) ||
      a.model.name.localeCompare(b.model.name) || a.model.version.localeCompare(b.model.version, "en", { numeric: true }));
    const keep = new Set();
    let before = $("rows").firstElementChild;
    for (const row of shown) {
      const key = [row.model.name, row.model.version, row.class].join("\n");
      if (!made.has(key)) made.set(key, makeRow(row));
      const view = made.get(key);
      keep.add(key);
      fill(view, row);
      if (before.nextElementSibling !== view.row) before.after(view.row);
      if (view.row.nextElementSibling !== view.detail) view.row.after(view.detail);
      before = view.detail;
    }
    for (const [key, view] of made) if (!keep.has(key)) { view.row.remove(); view.detail.remove(); made.delete(key); }
    text($("model-count"), data.models.length ? `${data.models.length}` : "");
    const empty = data.models.length ? "No model of this name and class." : "This server has no models yet.";
    text($("rows-empty"), empty);
    $("rows-empty").hidden = shown.length > 0;
  }
  const CELLS = [["rate", "requests/s"], ["p50", "p50"], ["p90", "p90"], ["p99", "p99"], ["alone", "alone"], ["plot", ""],
    ["queue", "queue"], ["missed", "missed"], ["failed", "failed"]];
  let rowIds = 0;
  function makeRow(row) {
    const view = { cells: {}, open: false };
    rowIds += 1;
    view.button = el("button", { type: "button", "aria-expanded": "false", "aria-controls": `row-${rowIds}` });
    view.chip = el("span", { className: "chip" });
    view.row = el("div", { className: `row ${isRealTime(row) ? "rt" : "be"}`, role: "row" },
      el("span", { className: "model-cell", role: "cell" }, view.button, view.chip));
    view.row.dataset.model = row.model.name;
    view.row.dataset.class = row.class;
    if (row.none) {
      view.reason = el("span", { className: "reason", role: "cell" });
      view.row.append(view.reason);
    } else {
      for (const [id, name] of CELLS) {
        const cell = el("span", { role: "cell", className: id === "plot" ? "plot-cell" : "num" });
        if (name) cell.dataset.name = name;
        cell.dataset.cell = id;
        view.cells[id] = cell;
        view.row.append(cell);
      }
      view.plot = plot();
      view.cells.plot.append(view.plot.svg);
      view.used = el("span");
      view.meter = meter();
      view.row.append(el("span", { className: "bar", role: "cell", "data-name": "device" }, view.meter.element, view.used));
    }
    view.lists = el("div", { className: "detail", role: "cell" });
    view.detail = el("div", { className: "detail-row", role: "row", id: `row-${rowIds}`, hidden: true }, view.lists);
    view.button.addEventListener("click", () => {
      view.open = !view.open;
      view.button.setAttribute("aria-expanded", view.open);
      view.detail.hidden = !view.open;
      if (view.open && view.data) detail(view, view.data);
    });
    return view;
  }
  function plot() {
    const y = 10, line = (name) => svg("line", { class: name, y1: y, y2: y, x1: 0, x2: 0 });
    const alone = svg("line", { class: "alone", y1: 2, y2: 18, x1: place(1), x2: place(1) });
    const ticks = [2, 5, 10, 30].map((ratio) => svg("line", { y1: 4, y2: 16, x1: place(ratio), x2: place(ratio) }));
    const parts = { range: line("range"), core: line("core") };
    parts.svg = svg("svg", { class: "plot", viewBox: "0 0 100 20", preserveAspectRatio: "none", role: "img" }, ...ticks, alone, parts.range, parts.core);
    for (const part of [parts.range, parts.core]) part.setAttribute("vector-effect", "non-scaling-stroke");
    return parts;
  }
  function meter() {
    const rect = svg("rect", { x: 0, y: 0, width: 0, height: 1 });
    const second = svg("rect", { x: 0, y: 0, width: 0, height: 1, class: "second" });
    const element = el("span", { className: "meter", "aria-hidden": "true" });
    element.append(svg("svg", { viewBox: "0 0 1 1", preserveAspectRatio: "none" }, rect, second));
    return { element, set(share, more = 0) {
      const first = Math.min(1, Math.max(0, share));
      attribute(rect, "width", first);
      attribute(second, "x", first);
      attribute(second, "width", Math.min(1 - first, Math.max(0, more)));
    } };
  }
  function fill(view, row) {
    view.data = row;
    const { model } = row, level = model.level === null ? "" : ` ${model.level}`;
    text(view.button, model.version === "1" ? model.name : `${model.name} v${model.version}`);
    view.button.title = model.name;
    if (model.state !== "ready") {
      text(view.chip, model.state);
      view.chip.className = `chip ${model.state === "loading" ? "" : "bad"}`;
    } else {
      text(view.chip, isRealTime(row) ? `real-time${level}` : "best-effort");
      view.chip.className = `chip ${isRealTime(row) ? "rt" : "be"}`;
    }
    if (row.none) {
      view.reason.classList.toggle("calm", !model.reason);
      text(view.reason, model.reason || (model.state === "loading" ? "is being read and compiled" : ""));
    } else {
      const { cells } = view, { latency } = row;
      number(cells.rate, rate(row.success_per_s), row.success_per_s > 0);
      for (const at of ["p50", "p90", "p99"]) number(cells[at], timeText(latency[`${at}_us`]), latency.count > 0);
      number(cells.alone, timeText(row.alone_us), row.alone_us !== null);
      number(cells.queue, row.queued || row.on_board ? `${whole(row.queued)} + ${row.on_board}` : "0", row.queued + row.on_board > 0);
      cells.queue.title = `${whole(row.queued)} waiting, ${row.on_board} running`;
      number(cells.missed, whole(row.deadline_misses), row.deadline_misses > 0, row.misses_per_s > 0);
      number(cells.failed, whole(failures(row)), failures(row) > 0, row.failures_per_s > 0);
      range(view.plot, row);
      view.meter.set(row.cu_share - row.padding_share, row.padding_share);
      text(view.used, percent(row.cu_share));
    }
    if (view.open) detail(view, row);
  }
  function number(cell, value, some, hot = false) {
    text(cell, value);
    cell.classList.toggle("zero", !some);
    cell.classList.toggle("hot", hot);
  }
  /** Pale from p50 to p99, strong from p50 to p90; the grey mark is the time alone. */
  function range(plot, { latency, alone_us: alone }) {
    const some = latency.count > 0 && alone > 0;
    for (const part of [plot.range, plot.core]) part.style.display = some ? "" : "none";
    if (!some) return attribute(plot.svg, "aria-label", "no requests in this time");
    const at = (us) => place(us / alone).toFixed(2);
    for (const part of [plot.range, plot.core]) attribute(part, "x1", at(latency.p50_us));
    attribute(plot.range, "x2", at(latency.p99_us));
    attribute(plot.core, "x2", at(latency.p90_us));
    const times = (us) => `${digits(us / alone)} times`;
    const words = `p50 ${times(latency.p50_us)}, p99 ${times(latency.p99_us)}, longest ${timeText(latency.max_us)}`;
    attribute(plot.svg, "aria-label", words);
    if (!plot.title) plot.svg.append(plot.title = svg("title"));
    text(plot.title, words);
  }
  function detail(view, row) {
    const { model } = row, counts = row.none ? [] : Object.entries(row.failures).filter(([, count]) => count > 0);
    const settings = [["class", model.class || NONE], ["level", model.level], ["weight", model.weight],
      ["deadline", model.deadline_us === null ? "none" : timeText(model.deadline_us)], ["queue at most", model.queue_len],
      ["devices", model.devices.join(", ") || NONE], ["placement", model.placement], ["plans", model.plans]];
    const lists = [settings.filter(([, value]) => value !== null)];
    if (!row.none) {
      lists.push([["answered", whole(row.success)], ["longest", timeText(row.latency.max_us)], ["requests in the window", whole(row.latency.count)],
        ["preemptions", whole(row.preemptions)], ["preemption p50", timeText(row.preempt.p50_us)], ["preemption p99", timeText(row.preempt.p99_us)]]);
      lists.push([["blocks killed", whole(row.blocks_killed)], ["killed for it", whole(row.kills_caused)],
        ["thrown away", percent(row.wasted_share)], ["as padding", percent(row.padding_share)]]);
      lists.push(counts.length ? counts.map(([reason, count]) => [REASONS[reason] || reason, whole(count)]) : [["without outputs", "0"]]);
    }
    while (view.lists.children.length < lists.length) view.lists.append(el("dl"));
    lists.forEach((list, index) => {
      const dl = view.lists.children[index];
      while (dl.children.length > 2 * list.length) dl.lastChild.remove();
      while (dl.children.length < 2 * list.length) dl.append(el("dt"), el("dd"));
      list.forEach(([name, value], line) => {
        text(dl.children[2 * line], String(name));
        text(dl.children[2 * line + 1], String(value));
      });
    });
  }

  // Devices and refusals: lines that are made once.
  const REASONS = { REJECTED: "refused: full, unloading, not served", DEADLINE: "deadline passed or out of reach",
    TIMEOUT: "waited too long", CANCELED: "client left or cancelled", BACKEND: "failed", INPUT: "value of an input" };
  const lines = new Map();
  function line(parent, key, name) {
    if (!lines.has(key)) {
      const view = { name: el("span"), meter: meter(), value: el("span", { className: "num" }) };
      view.meter.element.classList.add("plain");
      view.element = el("div", { className: "line" }, view.name, view.meter.element, view.value);
      parent.append(view.element);
      lines.set(key, view);
    }
    text(lines.get(key).name, name);
    return lines.get(key);
  }
  function devices(list) {
    for (const device of list) {
      const id = `device ${device.name}`;
      if (!lines.has(id)) {
        const view = { more: el("span", { className: "muted" }), chip: el("span", { className: "chip bad", hidden: true }, "out of service"),
          why: el("p", { className: "reason", hidden: true }) };
        view.element = el("div", { className: "device" }, el("h3", {}, `${device.name} `, view.more, " ", view.chip), view.why);
        $("devices").append(view.element);
        lines.set(id, view);
      }
      const view = lines.get(id);
      text(view.more, `${device.description}, ${device.cus} compute unit${device.cus === 1 ? "" : "s"}`);
      view.chip.hidden = view.why.hidden = !device.fault;
      text(view.why, device.fault || "");
      const busy = line(view.element, `${id} busy`, "busy");
      busy.meter.set(device.busy);
      text(busy.value, percent(device.busy));
      device.memory.forEach((memory, index) => {
        const used = memory.weights_bytes + memory.working_bytes, all = memory.limit_bytes || used || 1;
        const view2 = line(view.element, `${id} ${index}`, memory.domain === "host" ? "memory" : `memory, ${memory.domain}`);
        view2.meter.set(memory.weights_bytes / all, memory.working_bytes / all);
        text(view2.value, `${bytes(used)}${memory.limit_bytes ? ` of ${bytes(memory.limit_bytes)}` : ""}`);
        view2.value.title = `weights ${bytes(memory.weights_bytes)}, working memory ${bytes(memory.working_bytes)}`;
      });
    }
  }
  function refused(rows) {
    const total = Math.max(1, sum(rows, failures));
    for (const reason of Object.keys(REASONS)) {
      const count = sum(rows, (row) => row.failures[reason] || 0), view = line($("refused"), reason, REASONS[reason]);
      view.meter.set(count / total);
      text(view.value, whole(count));
      view.value.classList.toggle("zero", count === 0);
    }
  }

  // The form. Tensors go as binary, so that every element type can be sent and no number is rounded on its way.
  const ELEMENTS_MAX = 1 << 24, SHOWN_MAX = 16;
  const TYPES = {
    BOOL: { array: Uint8Array, least: 0, most: 1, whole: true }, INT8: { array: Int8Array, whole: true },
    INT16: { array: Int16Array, whole: true }, INT32: { array: Int32Array, whole: true },
    INT64: { array: BigInt64Array, whole: true, big: true }, UINT8: { array: Uint8Array, whole: true },
    UINT16: { array: Uint16Array, whole: true }, UINT32: { array: Uint32Array, whole: true },
    UINT64: { array: BigUint64Array, whole: true, big: true }, FP32: { array: Float32Array },
    FP64: { array: Float64Array }, FP16: { array: Uint16Array, to: toHalf, from: fromHalf },
    BF16: { array: Uint16Array, to: toBrain, from: (bits) => floatOf(bits << 16) },
  };
  const scratch = new DataView(new ArrayBuffer(4));
  function bitsOf(value) { scratch.setFloat32(0, value); return scratch.getUint32(0); }
  function floatOf(bits) { scratch.setUint32(0, bits >>> 0); return scratch.getFloat32(0); }
  /** Rounds to the nearest, ties to even, as the bits of a shorter type with `drop` bits less. */
  const rounded = (bits, drop) => (bits + (1 << (drop - 1)) - 1 + ((bits >>> drop) & 1)) >>> drop;
  function toBrain(value) { return Number.isNaN(value) ? 0x7fc0 : rounded(bitsOf(value), 16) & 0xffff; }
  function toHalf(value) {
    const bits = bitsOf(value), sign = (bits >>> 16) & 0x8000, size = Math.abs(value);
    if (Number.isNaN(value)) return 0x7e00;
    if (size >= 65520) return sign | 0x7c00;
    if (size < 2 ** -14) {
      // Units of the smallest number; ties to even.
      const units = size * 2 ** 24, below = Math.floor(units), over = units - below;
      return sign | (below + (over > 0.5 || (over === 0.5 && below % 2) ? 1 : 0));
    }
    return sign | rounded((bits & 0x7fffffff) - 0x38000000, 13);
  }
  function fromHalf(bits) {
    const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, rest = bits & 1023;
    if (exponent === 31) return rest ? NaN : sign * Infinity;
    return exponent ? sign * 2 ** (exponent - 15) * (1 + rest / 1024) : sign * rest * 2 ** -24;
  }

  let formWorks = false, formKnown = false, choices = "", tensors = [];
  /** Requests are taken on the port of the protocol; the metrics' port has the same page. */
  async function checkForm() {
    try {
      formWorks = (await ask("/v2")).ok;
      formKnown = true;
    } catch (error) {
      // Who may not ask for this may still be allowed to send requests, and is told if not.
      formWorks = formKnown = error instanceof Refused;
    }
    $("request").hidden = !formWorks;
    if (last && formKnown) modelChoice(last);
  }
  function modelChoice(data) {
    const away = !formWorks && data.server.http_port > 0;
    $("try-elsewhere").hidden = !away;
    if (away && !$("try-elsewhere").firstChild) {
      const url = `${location.protocol}//${location.hostname}:${data.server.http_port}/#try`;
      $("try-elsewhere").append("This port takes no requests. The form is on the port of the protocol: ", el("a", { href: url }, url));
    }
    const ready = data.models.filter((model) => model.state === "ready");
    const names = JSON.stringify(ready.map((model) => [model.name, model.version]));
    if (!formWorks || names === choices) return;
    choices = names;
    const select = $("request-model"), before = select.value;
    select.replaceChildren(...ready.map((model) => el("option", { value: JSON.stringify([model.name, model.version]) },
      model.version === "1" ? model.name : `${model.name} v${model.version}`)));
    if (ready.some((model) => JSON.stringify([model.name, model.version]) === before)) select.value = before;
    $("send").disabled = !ready.length;
    text($("request-note"), ready.length ? "" : "No model takes requests yet.");
    if (select.value !== before) chooseModel();
  }
  const pathOf = (value) => {
    const [name, version] = JSON.parse(value);
    return `/v2/models/${encodeURIComponent(name)}/versions/${encodeURIComponent(version)}`;
  };
  $("request-model").addEventListener("change", chooseModel);
  async function chooseModel() {
    const value = $("request-model").value;
    tensors = [];
    $("request-inputs").replaceChildren();
    if (!value) return;
    try {
      const answer = await ask(pathOf(value));
      if (!answer.ok) throw new Error(await said(answer));
      const { inputs } = await answer.json();
      if (value !== $("request-model").value) return;
      tensors = inputs.map(tensorFields);
      $("request-inputs").replaceChildren(...tensors.map((tensor) => tensor.element));
    } catch (error) {
      text($("request-note"), `Its inputs are not known: ${error.message}`);
    }
  }
  function tensorFields(input) {
    const type = TYPES[input.datatype] || {}, whole = type.whole;
    const extents = input.shape.map((extent, axis) => extent >= 0 ? null :
      el("input", { type: "number", min: 0, step: 1, value: 1, required: true, "aria-label": `extent of axis ${axis}` }));
    const fill = el("select", {}, ...["random", "constant", "values"].map((name) => el("option", {}, name)));
    const bound = (value) => el("input", { type: "number", step: whole ? 1 : "any", value });
    const least = bound(type.least ?? (whole ? 0 : -1)), most = bound(type.most ?? (whole ? 9 : 1)), constant = bound(whole ? 1 : 0);
    const values = el("textarea", { placeholder: "[[1, 2], [3, 4]], or without the inner brackets", spellcheck: false });
    const of = (name, field) => el("label", {}, name, field);
    const leastLabel = of("from", least), mostLabel = of("to", most), constantLabel = of("value", constant), valuesLabel = of("JSON", values);
    valuesLabel.className = "wide";
    const shape = input.shape.map((extent) => extent < 0 ? "?" : extent).join(" × ") || "one element";
    const element = el("fieldset", { className: "tensor" }, el("legend", {}, input.name, el("span", { className: "muted" }, ` ${input.datatype}, ${shape}`)),
      el("div", { className: "fields" }, ...extents.map((field, axis) => field && of(`axis ${axis}`, field)).filter(Boolean),
        of("filled with", fill), leastLabel, mostLabel, constantLabel, valuesLabel));
    const choose = () => {
      leastLabel.hidden = mostLabel.hidden = fill.value !== "random";
      constantLabel.hidden = fill.value !== "constant";
      valuesLabel.hidden = fill.value !== "values";
    };
    fill.addEventListener("change", choose);
    choose();
    return { input, element, extents, fill, least, most, constant, values };
  }
  /** The shape and the bytes that a tensor's fields say; an Error says what is wrong with them. */
  function tensorOf({ input, extents, fill, least, most, constant, values }) {
    const wrong = (why) => new Error(`Input ${input.name}: ${why}`), type = TYPES[input.datatype];
    if (!type) throw wrong(`the form cannot make elements of ${input.datatype}.`);
    const shape = input.shape.map((extent, axis) => extent >= 0 ? extent : Number(extents[axis].value));
    if (shape.some((extent) => !Number.isInteger(extent) || extent < 0)) throw wrong("every extent must be a whole number.");
    const count = shape.reduce((product, extent) => product * extent, 1);
    if (count > ELEMENTS_MAX) throw wrong(`${whole(count)} elements; the form makes at most ${whole(ELEMENTS_MAX)}.`);
    const element = (value) => {
      if (typeof value === "boolean") value = Number(value);
      if (["NaN", "Infinity", "-Infinity"].includes(value) && !type.whole) value = Number(value);
      if (typeof value !== "number") throw wrong(`${JSON.stringify(value)} is not a number.`);
      if (type.whole && !Number.isSafeInteger(value)) throw wrong(`${value} is not a whole number that a form can hold exactly.`);
      const kept = type.big ? BigInt(value) : type.to ? type.to(value) : value;
      const array = new type.array([kept]);
      if (type.whole && Number(array[0]) !== value) throw wrong(`${value} does not fit ${input.datatype}.`);
      return array[0];
    };
    const array = new type.array(count);
    if (fill.value === "constant") {
      array.fill(element(Number(constant.value)));
    } else if (fill.value === "random") {
      const [from, to] = [Number(least.value), Number(most.value)];
      if (!(from <= to)) throw wrong("the range is empty.");
      element(from); element(to);
      const draw = type.whole ? () => Math.floor(from + Math.random() * (to - from + 1)) : () => from + Math.random() * (to - from);
      for (let index = 0; index < count; index += 1) {
        const value = draw();
        array[index] = type.big ? BigInt(value) : type.to ? type.to(value) : value;
      }
    } else {
      let given;
      try { given = [JSON.parse(values.value)].flat(Infinity); } catch (error) { throw wrong(`not JSON: ${error.message}`); }
      if (given.length !== count) throw wrong(`${whole(given.length)} values for ${whole(count)} elements.`);
      given.forEach((value, index) => { array[index] = element(value); });
    }
    return { name: input.name, datatype: input.datatype, shape, array };
  }
  function parametersOf() {
    const parameters = { binary_data_output: true };
    if ($("request-class").value) parameters.class = $("request-class").value;
    for (const [id, name] of [["request-priority", "priority"], ["request-deadline", "deadline_us"], ["request-timeout", "timeout"]]) {
      if ($(id).value !== "") parameters[name] = Number($(id).value);
    }
    return parameters;
  }
  $("request").addEventListener("submit", async (event) => {
    event.preventDefault();
    const value = $("request-model").value;
    $("send").disabled = true;
    text($("request-note"), "Waiting for the answer …");
    const begin = performance.now();
    try {
      const made = tensors.map(tensorOf), inputs = made.map(({ name, datatype, shape, array }) =>
        ({ name, datatype, shape, parameters: { binary_data_size: array.byteLength } }));
      const json = new TextEncoder().encode(JSON.stringify({ inputs, parameters: parametersOf() }));
      const headers = { "Content-Type": "application/octet-stream", "Inference-Header-Content-Length": String(json.length) };
      const body = new Blob([json, ...made.map(({ array }) => array)]);
      const answer = await ask(`${pathOf(value)}/infer`, { method: "POST", headers, body }, 120000);
      if (!answer.ok) showFailure(`${answer.status} ${answer.statusText}`, await said(answer));
      else showAnswer(answer.headers.get("Inference-Header-Content-Length"), await answer.arrayBuffer(), performance.now() - begin);
    } catch (error) {
      const silent = error.name === "TimeoutError" || (error instanceof TypeError && error.message.includes("fetch"));
      showFailure(silent ? "No answer" : error instanceof Refused ? "Not allowed" : "Not sent", silent ? "The server does not answer." : error.message);
    }
    $("send").disabled = false;
    text($("request-note"), "");
  });
  function showFailure(status, why) {
    $("answer").hidden = false;
    $("answer").replaceChildren(el("div", { className: "status bad" }, status), el("div", {}, why));
  }
  function showAnswer(header, buffer, ms) {
    const length = header === null ? buffer.byteLength : Number(header);
    const answer = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 0, length)));
    const facts = Object.entries({ "round trip": timeText(ms * 1000), ...answer.parameters }).map(([name, value]) => {
      const micros = name.endsWith("_us");
      return el("div", {}, el("dt", {}, micros ? name.slice(0, -3).replace("_", " ") : name), el("dd", {}, micros ? timeText(value) : String(value)));
    });
    let at = length;
    const outputs = answer.outputs.map((output) => {
      const size = output.parameters?.binary_data_size;
      let list = output.data;
      if (size !== undefined) { list = elementsOf(output.datatype, buffer.slice(at, at + size)); at += size; }
      const shape = output.shape.join(" × ") || "one element", more = list.length > SHOWN_MAX ? ` … ${whole(list.length)} in all` : "";
      const shown = Array.from(list.slice(0, SHOWN_MAX), (value) => typeof value === "number" && !Number.isInteger(value) ? value.toPrecision(6) : String(value));
      return el("div", {}, el("b", {}, output.name), el("span", { className: "muted" }, ` ${output.datatype}, ${shape}${summary(list)}`),
        el("pre", {}, shown.join("  ") + more));
    });
    $("answer").hidden = false;
    $("answer").replaceChildren(el("div", { className: "status good" }, `Answered by ${answer.model_name}, version ${answer.model_version}`),
      el("dl", {}, ...facts), ...outputs);
  }
  function elementsOf(datatype, buffer) {
    const type = TYPES[datatype];
    if (!type) return [];
    const array = new type.array(buffer);
    return type.from ? Array.from(array, type.from) : array;
  }
  function summary(list) {
    if (list.length < 2) return "";
    let least = list[0], most = list[0], where = 0;
    list.forEach((value, index) => { if (value < least) least = value; if (value > most) { most = value; where = index; } });
    const short = (value) => typeof value === "bigint" || Number.isInteger(value) ? String(value) : value.toPrecision(4);
    return `, from ${short(least)} to ${short(most)}, the largest at ${where}`;
  }

  text($("footer"), "Alone: what the scheduler has learned that a request's plan takes from first block to last with nothing in the way; it leans low. Latency counts from arrival to delivery.");
  checkForm();
  poll();
})();
