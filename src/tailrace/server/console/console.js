"use strict";
// The console: opens with all that the server remembers, then follows it once a second. Every text is set as text.
(() => {
  const FINE_MAX = 600, $ = id => document.getElementById(id), short = Charts.short;
  const moment = JSON.parse($("moment").textContent);
  let whole = null, chosen = "", fine = true, token = "", lastAt = 0;
  const make = (tag, text, kind) => { const it = document.createElement(tag); if (text != null) it.textContent = text; if (kind) it.className = kind; return it; };
  const ms = v => v == null ? "–" : short(v) + " ms", percent = v => v == null ? "–" : v === 0 ? "0%" : v < .0001 ? "<0.01%" : +(100 * v).toPrecision(3) + "%";
  const ago = s => s == null ? "–" : s < 90 ? Math.round(s) + " s" : s < 5400 ? Math.round(s / 60) + " min" : s < 129600 ? Math.round(s / 3600) + " h" : Math.round(s / 86400) + " d";

  const heat = Charts.make("heat", [["p50", "p50", "deep", " ms"], ["p99", "p99", "warn", " ms"]], { heat: true, unit: " ms" });
  const traffic = Charts.make("traffic", [["offered", "offered", "water", "", true], ["served", "served", "good"], ["degraded", "degraded", "warn"], ["shed", "shed", "bad"], ["failed", "failed", "violet"]]);
  const batch = Charts.make("batch", [["batch", "rows a batch", "water", "", true]]);
  const wait = Charts.make("wait", [["wait", "p99", "violet", " ms", true]], { unit: " ms" });
  const strip = Charts.make("strip", [], { strip: true });

  function tile(label, value, unit, level) {
    const it = make("div", null, "tile"), figure = make("b", value, level || "");
    if (unit) figure.append(make("i", unit));
    it.append(make("span", label, "quiet"), figure);
    return it;
  }
  function tiles(p) {
    $("tiles").replaceChildren(
      tile("Requests", short(p.offered), "/s"),
      tile("p50", short(p.p50), "ms"),
      tile("p99", short(p.p99), "ms of " + short(p.budget), p.p99 > p.budget ? "bad" : ""),
      tile("Within budget", p.within == null ? "–" : (Math.floor(p.within * 1e4) / 100) + "", p.within == null ? "" : "%", p.within != null && p.within < .99 ? "bad" : ""),
      tile("Shed", percent(p.shed), "", p.shed ? "bad" : ""),
      tile("Degraded", percent(p.degraded), "", p.degraded ? "warn" : ""),
      tile("Failed", percent(p.failed), "", p.failed > .001 ? "bad" : ""));
  }
  function bar(left, width, kind) { const it = make("div", null, kind); it.style.left = Math.min(left, 100) + "%"; it.style.width = Math.max(Math.min(width, 100 - left), 0) + "%"; return it; }
  function line(name, start, budget, layer, total, kind) {
    const over = budget && layer.p99 > budget, row = make("div", null, "row" + (over ? " over" : "") + (kind || ""));
    const track = make("div", null, "track"), said = make("span"), at = 100 * start / total, of = v => Math.max(100 * (v || 0) / total, v ? .6 : 0);
    row.setAttribute("role", "row"); said.setAttribute("role", "cell");
    if (budget && !kind) track.append(bar(at, of(budget), "slot"));
    track.append(bar(at, of(layer.p99), "p99"), bar(at, of(layer.p50), "p50"));
    track.setAttribute("aria-hidden", "true");
    said.append(short(layer.p50) + " · ", make("b", short(layer.p99)), budget ? " of " + short(budget) + " ms" : " ms");
    const title = make("span", name); title.setAttribute("role", "rowheader");
    row.append(title, track, said);
    return row;
  }
  function waterfall(p) {
    const rows = [line(p.wait.name, 0, 0, p.wait, p.budget)];
    let start = 0;
    for (const layer of p.layers) { rows.push(line(layer.name, start, layer.budget, layer, p.budget)); start += layer.budget; }
    rows.push(line("whole", 0, p.budget, p, p.budget, " total"));
    $("water").replaceChildren(...rows);
    $("water-span").textContent = `p50 · p99 of ${short(p.budget)} ms, last ${Math.round(whole.state.span_s)} s`;
  }
  function table(heads, rows, none) {
    if (!rows.length) return make("p", none, "empty");
    const it = make("table"), head = make("tr");
    heads.forEach(text => { const th = make("th", text); th.scope = "col"; head.append(th); });
    const top = make("thead"), body = make("tbody"); top.append(head);
    rows.forEach(cells => { const tr = make("tr"); cells.forEach(cell => { const td = make("td"); td.append(cell instanceof Node ? cell : String(cell)); tr.append(td); }); body.append(tr); });
    it.append(top, body);
    return it;
  }
  function sources(values) {
    const total = Object.values(values).reduce((a, b) => a + b, 0), it = make("div", null, "bar"), said = [];
    for (const [name, rate] of Object.entries(values)) if (rate) { const part = make("div", null, name); part.style.width = 100 * rate / total + "%"; it.append(part); said.push(name + " " + percent(rate / total)); }
    it.title = said.join(", "); it.setAttribute("role", "img"); it.setAttribute("aria-label", it.title || "none");
    return it;
  }
  function features(p) {
    const rows = p.views.map(v => { const total = Object.values(v.values).reduce((a, b) => a + b, 0);
      return [v.name, short(total), total ? percent((v.values.fresh || 0) / total) : "–", ago(v.age_s), sources(v.values)]; });
    const legend = make("p", null, "legend");
    for (const name of ["fresh", "stale", "default", "timeout"]) { const item = make("span"); item.append(make("span", null, "key " + name), name); legend.append(item); }
    if (p.cache != null) legend.append(make("span", "cache hits " + percent(p.cache)));
    if (p.breakers) legend.append(make("span", "breakers open: " + p.breakers));
    $("features").replaceChildren(table(["view", "rows/s", "fresh", "age", "source"], rows, "This pipeline reads no views."), ...(rows.length ? [legend] : []));
  }
  function versions(p, s) {
    const rows = p.versions.map(v => { const found = s.releases.find(r => r.id === v.release), own = found && found.pipelines.find(each => each.name === p.name);
      const models = own ? own.models.map(m => m.name + " " + m.version).join(", ") : "";
      const name = make("span", v.release || "(none)"); if (models) name.append(make("br"), make("small", models));
      return [name, short(v.rate), percent(v.share), percent(v.failed), found ? found.workers.length : 0]; });
    $("versions").replaceChildren(table(["release", "req/s", "share", "5xx", "workers"], rows, "No calls in the last seconds."));
  }
  function processes(s) {
    const rows = [...s.workers.map(w => ["worker " + w.slot, w]), ...s.companions.map(c => [c.name, c])].map(([name, it]) => [name, it.state, Math.round(it.rss_bytes / 1048576) + " MB", it.restarts]);
    $("processes").replaceChildren(table(["process", "state", "memory", "restarts"], rows, "None."));
  }
  function alerts(list) {
    $("alerts-card").hidden = !list.length;
    $("alerts").replaceChildren(table(["state", "alert", "pipeline", "for", "cause", "what to do"], list.map(a => {
      const page = /^https:\/\//.test(a.runbook) ? make("a", "runbook") : make("span", a.runbook);
      if (page.tagName === "A") { page.href = a.runbook; page.rel = "noreferrer noopener"; page.target = "_blank"; }
      return [make("span", a.state, "badge " + (a.state === "firing" ? "firing" : "")), a.alert + " (" + a.severity + ")", a.pipeline, ago(a.since_s), a.cause, page]; }), ""));
  }
  function events(list) {
    Charts.marks = list;
    const items = list.slice(-100).reverse().map(e => { const li = make("li", null, e.kind), when = make("time", new Date(e.at_s * 1e3).toLocaleTimeString([], { hour12: false }));
      when.dateTime = new Date(e.at_s * 1e3).toISOString(); li.dataset.at = e.at_s; li.append(when, make("span", e.text)); return li; });
    const shown = items.map(li => li.textContent).join("\n");
    if ($("events").dataset.shown === shown) return;
    $("events").dataset.shown = shown;
    $("events").replaceChildren(...(items.length ? items : [make("li", "Nothing has happened since the start.", "empty")]));
  }
  Charts.onCursor = (at, step) => document.querySelectorAll("#events li[data-at]").forEach(li => li.classList.toggle("near", Math.abs(li.dataset.at - at) <= Math.max(step, 2)));

  function show() {
    const s = whole.state, names = s.pipelines.map(p => p.name);
    if (!names.includes(chosen)) chosen = names[0] || "";
    if ($("pipeline").dataset.names !== names.join("\n")) {
      $("pipeline").dataset.names = names.join("\n");
      $("pipeline").replaceChildren(...names.map(name => { const it = make("option", name); it.value = name; return it; }));
      $("pick").hidden = names.length < 2;
    }
    $("pipeline").value = chosen;
    $("address").textContent = s.address;
    const text = (s.verdict.pipeline && names.length > 1 ? s.verdict.pipeline + ": " : "") + s.verdict.text;
    if ($("verdict-text").textContent !== text) $("verdict-text").textContent = text;
    $("verdict").className = s.verdict.level;
    document.title = ({ bad: "● ", warn: "▲ " }[s.verdict.level] || "") + "Tailrace · " + (chosen || "console");
    $("about").textContent = `Tailrace ${s.version} · up ${ago(s.uptime_s)} · ${new Date(s.at_s * 1e3).toLocaleString()}`;
    processes(s); alerts(s.alerts || []); events(s.happenings);
    const p = s.pipelines.find(each => each.name === chosen);
    if (!p) return;
    tiles(p); waterfall(p); features(p); versions(p, s);
    const history = whole.history[chosen], columns = history && (fine ? history.fine : history.coarse);
    if (!columns) return;
    const span = fine ? { seconds: 600, step: 1, end: s.at_s } : { seconds: 86400, step: 120, end: s.at_s };
    const kept = columns.at_s.length; if (fine && kept && kept < 300) span.seconds = Math.max(120, s.at_s - columns.at_s[0] + 5);
    heat.show(columns, span, { budget: p.budget, lowest: whole.heat_rows[0], perOctave: whole.heat_rows[1] });
    for (const chart of [traffic, batch, wait, strip]) chart.show(columns, span);
  }
  function follow(state) {
    if (lastAt && state.at_s - lastAt > 3) return false;
    lastAt = state.at_s; whole.state = state;
    for (const [name, point] of Object.entries(state.points)) {
      const history = whole.history[name] || (whole.history[name] = { fine: Object.fromEntries(Object.keys(point).map(k => [k, []])), coarse: Object.fromEntries(Object.keys(point).map(k => [k, []])) });
      const times = history.fine.at_s;
      if (times.length && times[times.length - 1] >= point.at_s) continue;
      for (const [key, value] of Object.entries(point)) { history.fine[key].push(value); if (history.fine[key].length > FINE_MAX) history.fine[key].shift(); }
    }
    return true;
  }
  const asked = () => token ? { headers: { Authorization: "Bearer " + token } } : {};
  async function load() {
    const answer = await fetch("/console/state", asked());
    if (answer.status === 401) { $("ask").hidden = false; $("verdict-text").textContent = "The admin token is needed"; $("token").focus(); throw new Error("token"); }
    if (!answer.ok) throw new Error("the server answers " + answer.status);
    whole = await answer.json(); lastAt = whole.state.at_s; $("ask").hidden = true;
    show();
    performance.mark("charts");
  }
  async function listen() {
    const answer = await fetch("/console/events", asked());
    if (!answer.ok) throw new Error("the server answers " + answer.status);
    $("link").textContent = "live";
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let held = ""; ;) {
      const { value, done } = await reader.read();
      if (done) throw new Error("the server has closed the connection");
      const parts = (held + value).split("\n\n"); held = parts.pop();
      for (const part of parts) if (part.startsWith("data: ") && !follow(JSON.parse(part.slice(6)))) await load();
      if (!document.hidden) show();
    }
  }
  async function run() {
    for (; ;) {
      try { await load(); await listen(); }
      catch (error) { if (error.message === "token") return; $("link").textContent = "not connected: " + error.message + "; trying again"; $("verdict").className = "idle"; }
      await new Promise(done => setTimeout(done, 2000 + 2000 * Math.random()));
    }
  }
  $("ask").addEventListener("submit", event => { event.preventDefault(); token = $("token").value; run(); });
  $("pipeline").addEventListener("change", event => { chosen = event.target.value; show(); });
  const span = to => { fine = to; $("fine").setAttribute("aria-pressed", String(to)); $("coarse").setAttribute("aria-pressed", String(!to)); if (whole) show(); };
  $("fine").addEventListener("click", () => span(true));
  $("coarse").addEventListener("click", () => span(false));
  $("theme").addEventListener("click", () => {
    const root = document.documentElement, dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark"; Charts.redraw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => Charts.redraw());
  document.addEventListener("visibilitychange", () => { if (!document.hidden && whole) show(); });
  // The page's own text, with the data where it has null, before its scripts; a "<" in the data is written so that it ends nothing.
  async function keep() {
    const policy = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:", page = await (await fetch("/console")).text();
    const data = JSON.stringify(whole).replaceAll("<", "\\u003c"), at = page.indexOf('type="application/json">null<');
    const kept = (page.slice(0, at) + 'type="application/json">' + data + page.slice(at + 'type="application/json">null'.length)).replace("<head>", () => `<head><meta http-equiv="Content-Security-Policy" content="${policy}">`);
    const link = make("a"); link.href = URL.createObjectURL(new Blob([kept], { type: "text/html" }));
    link.download = "tailrace-" + new Date(whole.state.at_s * 1e3).toISOString().slice(0, 19).replaceAll(":", "") + ".html";
    link.click(); setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    $("spoken").textContent = "Saved as " + link.download;
  }
  $("keep").addEventListener("click", () => { if (whole) keep(); });
  if (moment) { whole = moment; $("keep").hidden = true; $("link").textContent = "kept at " + new Date(moment.state.at_s * 1e3).toLocaleString(); show(); }
  else run();
})();
