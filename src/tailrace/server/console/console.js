"use strict";
// The console: opens with all that the server remembers, then follows it once a second. Every text is set as text.
(() => {
  // The page as it came, before anything is drawn: a moment is kept in it, also when the server is gone.
  const SOURCE = "<!doctype html>\n" + document.documentElement.outerHTML, EMPTY = 'type="application/json">null<';
  const FINE_MAX = 600, LINES_MAX = 300, LINES_S = 600, SILENT_MS = 6000, SPOKEN_MS = 10000;
  const $ = id => document.getElementById(id), { make, ago, short } = Parts;
  const moment = JSON.parse($("moment").textContent);
  let whole = null, chosen = "", fine = true, minute = true, token = "", lastAt = 0, spoken = "", spokenAt = -SPOKEN_MS;

  const charts = {
    heat: Charts.make("heat", [["p50", "p50", "deep", " ms"], ["p99", "p99", "warn", " ms"]], { heat: true, unit: " ms" }),
    traffic: Charts.make("traffic", [["offered", "offered", "water", "", true], ["served", "served", "good"],
      ["degraded", "degraded", "warn"], ["shed", "shed", "bad"], ["failed", "failed", "violet"]]),
    batch: Charts.make("batch", [["batch", "rows a batch", "water", "", true]]),
    wait: Charts.make("wait", [["wait", "p99", "violet", " ms", true]], { unit: " ms" }),
    strip: Charts.make("strip", [], { strip: true }),
  };
  Charts.onCursor = (at, step) => {
    let near = null;
    document.querySelectorAll("#events li[data-at]").forEach(li => {
      if (li.classList.toggle("near", Math.abs(li.dataset.at - at) <= Math.max(step, 2))) near = near || li;
    });
    return near && near.textContent;
  };

  // Said aloud when what is said changes, not each second with its figures; and what is bad at once.
  function announce(verdict, text) {
    const words = verdict.level + text.replace(/[\d.,]+/g, ""), now = performance.now();
    if (words === spoken || (now - spokenAt < SPOKEN_MS && verdict.level !== "bad")) return;
    spoken = words; spokenAt = now;
    $("verdict").textContent = text;
  }
  function pick(names) {
    if (!names.includes(chosen)) chosen = names[0] || "";
    if ($("pipeline").dataset.names !== names.join("\n")) {
      $("pipeline").dataset.names = names.join("\n");
      $("pipeline").replaceChildren(...names.map(name => { const it = make("option", name); it.value = name; return it; }));
      $("pick").hidden = names.length < 2;
    }
    $("pipeline").value = chosen;
  }
  function show() {
    const s = whole.state, names = s.pipelines.map(p => p.name);
    pick(names);
    const text = (s.verdict.pipeline && names.length > 1 ? s.verdict.pipeline + ": " : "") + s.verdict.text;
    $("address").textContent = s.address;
    $("verdict-text").textContent = text;
    $("banner").className = s.verdict.level;
    announce(s.verdict, text);
    document.title = ({ bad: "● ", warn: "▲ " }[s.verdict.level] || "") + "Tailrace · " + (chosen || "console");
    const watching = s.consoles > 1 ? ` · ${s.consoles} consoles open` + (s.refused ? `, ${s.refused} turned away` : "") : "";
    $("about").textContent = `Tailrace ${s.version} · up ${ago(s.uptime_s)} · ${new Date(s.at_s * 1e3).toLocaleString()}${watching}`;
    Charts.marks = s.happenings;
    Panels.processes(s); Panels.alerts(s.alerts); Panels.lines(whole.lines);
    Panels.events(s.happenings, at => Charts.point(at));
    const p = s.pipelines.find(each => each.name === chosen);
    if (!p) return;
    Panels.tiles(p); Panels.queue(p); Panels.waterfall(p, s.span_s); Panels.features(p); Panels.versions(p, s);
    Observed.slow(s.observed.slow[chosen] || [], s, minute, s.explains && !moment);
    Observed.drift((s.observed.drift || {})[chosen], s.observed.observer);
    draw(p, s);
  }
  function draw(p, s) {
    const history = whole.history[chosen], columns = history && (fine ? history.fine : history.coarse);
    if (!columns) return;
    const kept = columns.at_s.length, span = fine ? { seconds: 600, step: 1 } : { seconds: 86400, step: 120 };
    span.end = s.at_s;
    if (fine && kept && kept < 300) span.seconds = Math.max(120, s.at_s - columns.at_s[0] + 5);
    charts.heat.show(columns, span, { budget: p.budget, lowest: whole.heat_rows[0], perOctave: whole.heat_rows[1] });
    for (const name of ["traffic", "batch", "wait", "strip"]) charts[name].show(columns, span);
  }

  // Takes a message in; false where something is missing before it, or the clock was set: all is asked for anew.
  function follow(state) {
    if (lastAt && (state.at_s - lastAt > 3 || state.at_s < lastAt)) return false;
    const observed = state.observed, before = whole.state.observed;
    if (observed.drift == null) {
      if (observed.drift_at_s !== before.drift_at_s) return false;
      observed.drift = before.drift;
    }
    lastAt = state.at_s; whole.state = state;
    whole.lines = [...whole.lines, ...state.lines].filter(each => each.at_s > state.at_s - LINES_S).slice(-LINES_MAX);
    for (const [name, point] of Object.entries(state.points)) {
      const columns = () => Object.fromEntries(Object.keys(point).map(key => [key, []]));
      const times = (whole.history[name] || (whole.history[name] = { fine: columns(), coarse: columns() })).fine;
      if (times.at_s.length && times.at_s[times.at_s.length - 1] >= point.at_s) continue;
      for (const [key, value] of Object.entries(point)) {
        times[key].push(value);
        if (times[key].length > FINE_MAX) times[key].shift();
      }
    }
    return true;
  }

  const asked = signal => ({ signal, ...(token ? { headers: { Authorization: "Bearer " + token } } : {}) });
  async function load() {
    const answer = await fetch("/console/state", asked(AbortSignal.timeout(SILENT_MS)));
    if (answer.status === 401) {
      $("ask").hidden = false; $("verdict-text").textContent = "The admin token is needed"; $("token").focus();
      throw new Error("token");
    }
    if (!answer.ok) throw new Error("the server answers " + answer.status);
    whole = await answer.json(); lastAt = whole.state.at_s; $("ask").hidden = true;
    show();
    performance.mark("charts");
  }
  async function listen() {
    const stop = new AbortController(), silent = () => stop.abort(new Error("the server is silent"));
    let timer = setTimeout(silent, SILENT_MS);
    try {
      const answer = await fetch("/console/events", asked(stop.signal));
      if (answer.status === 503) throw new Error("too many consoles are open");
      if (!answer.ok) throw new Error("the server answers " + answer.status);
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let held = ""; ;) {
        const { value, done } = await reader.read();
        if (done) throw new Error("the server has closed the connection");
        clearTimeout(timer); timer = setTimeout(silent, SILENT_MS);
        $("link").textContent = "live";
        const parts = (held + value).split("\n\n"); held = parts.pop();
        for (const part of parts) {
          const at = part.indexOf("data: ");
          if (at >= 0 && !follow(JSON.parse(part.slice(at + 6)))) await load();
        }
        if (!document.hidden) show();
      }
    } finally { clearTimeout(timer); }
  }
  async function run() {
    for (; ;) {
      try { await load(); await listen(); }
      catch (error) {
        if (error.message === "token") return;
        $("link").textContent = `not connected: ${error.message}; trying again`; $("banner").className = "idle";
        if (whole) announce({ level: "bad" }, "Not connected to the server");
      }
      await new Promise(done => setTimeout(done, 2000 + 2000 * Math.random()));
    }
  }

  function pressed(on, off, set) {
    for (const [id, other, to] of [[on, off, true], [off, on, false]]) $(id).addEventListener("click", () => {
      set(to);
      $(id).setAttribute("aria-pressed", "true"); $(other).setAttribute("aria-pressed", "false");
      if (whole) show();
    });
  }
  pressed("fine", "coarse", to => fine = to);
  pressed("slow-minute", "slow-ten", to => minute = to);
  $("ask").addEventListener("submit", event => { event.preventDefault(); token = $("token").value; run(); });
  $("pipeline").addEventListener("change", event => { chosen = event.target.value; show(); });
  $("theme").addEventListener("click", () => {
    const root = document.documentElement, system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
    root.dataset.theme = (root.dataset.theme || system) === "dark" ? "light" : "dark";
    Charts.redraw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => Charts.redraw());
  document.addEventListener("visibilitychange", () => { if (!document.hidden && whole) show(); });

  // The page's own text, with the data where it has null; a "<" in the data is written so that it ends nothing.
  function keep() {
    const data = JSON.stringify(whole).replaceAll("<", "\\u003c"), at = SOURCE.indexOf(EMPTY) + EMPTY.length - 5;
    const link = make("a");
    link.href = URL.createObjectURL(new Blob([SOURCE.slice(0, at) + data + SOURCE.slice(at + 4)], { type: "text/html" }));
    link.download = "tailrace-" + new Date(whole.state.at_s * 1e3).toISOString().slice(0, 19).replaceAll(":", "") + ".html";
    link.click(); setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    $("spoken").textContent = "Saved as " + link.download;
  }
  $("keep").addEventListener("click", () => { if (whole) keep(); });
  if (moment) {
    whole = moment; $("keep").hidden = true;
    $("link").textContent = "kept at " + new Date(moment.state.at_s * 1e3).toLocaleString();
    show();
  } else run();
})();
