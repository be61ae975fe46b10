"use strict";
// The panels beside the charts: each takes a part of the state, and fills its own place on the page.
const Panels = (() => {
  const { make, fill, ms, percent, ago, time, table, bar, legend, sparkline, shares, short } = Parts;
  const $ = id => document.getElementById(id), LAYERS = ["request", "features", "inference", "postprocess", "response"];

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

  function piece(left, width, kind) {
    const it = make("div", null, kind);
    it.style.left = Math.min(left, 100) + "%"; it.style.width = Math.max(Math.min(width, 100 - left), 0) + "%";
    return it;
  }
  function line(name, start, budget, layer, total, kind) {
    const over = budget && layer.p99 > budget, row = make("div", null, "row" + (over ? " over" : "") + (kind || ""));
    const track = make("div", null, "track"), said = make("span"), at = 100 * start / total, of = v => Math.max(100 * (v || 0) / total, v ? .6 : 0);
    row.setAttribute("role", "row"); said.setAttribute("role", "cell");
    if (budget && !kind) track.append(piece(at, of(budget), "slot"));
    track.append(piece(at, of(layer.p99), "p99"), piece(at, of(layer.p50), "p50"));
    track.setAttribute("aria-hidden", "true");
    said.append(short(layer.p50) + " · ", make("b", short(layer.p99)), budget ? " of " + short(budget) + " ms" : " ms");
    const title = make("span", name); title.setAttribute("role", "rowheader");
    row.append(title, track, said);
    return row;
  }
  function queue(p) {
    $("wait-said").textContent = `p99; ${short(p.waiting)} ${p.waiting === 1 ? "row is" : "rows are"} taken now` + (p.capacity ? `; room for ${short(p.capacity)} a second` : "");
  }
  function waterfall(p, span) {
    const rows = [line(p.wait.name, 0, 0, p.wait, p.budget)];
    let start = 0;
    for (const layer of p.layers) { rows.push(line(layer.name, start, layer.budget, layer, p.budget)); start += layer.budget; }
    rows.push(line("whole", 0, p.budget, p, p.budget, " total"));
    $("water").replaceChildren(...rows);
    $("water-span").textContent = `p50 · p99 of ${short(p.budget)} ms, last ${Math.round(span)} s`;
  }

  function features(p) {
    const rows = p.views.map(v => {
      const parts = Object.entries(v.values).filter(([, rate]) => rate), total = parts.reduce((sum, [, rate]) => sum + rate, 0);
      const said = parts.map(([name, rate]) => name + " " + percent(rate / total)).join(", ");
      return [v.name, short(total), total ? percent((v.values.fresh || 0) / total) : "–", ago(v.age_s), bar(parts, total, said)];
    });
    const keys = ["fresh", "stale", "default", "timeout"].map(name => [name, name]);
    if (p.cache != null) keys.push(["", "cache hits " + percent(p.cache)]);
    if (p.breakers) keys.push(["", "breakers open: " + p.breakers]);
    $("features").replaceChildren(table(["view", "rows/s", "fresh", "age", "source"], rows, "This pipeline reads no views."), ...(rows.length ? [legend(keys)] : []));
  }

  function versions(p, s) {
    const rows = p.versions.map(v => {
      const found = s.releases.find(r => r.id === v.release), own = found && found.pipelines.find(each => each.name === p.name);
      const models = own ? own.models.map(m => m.name + " " + m.version).join(", ") : "", name = make("span", v.release || "(none)");
      if (models) name.append(make("br"), make("small", models));
      return [name, short(v.rate), percent(v.share), percent(v.failed), v.p99 == null ? "–" : `${short(v.p50)} · ${short(v.p99)}`, found ? found.workers.length : 0];
    });
    $("versions").replaceChildren(table(["release", "req/s", "share", "5xx", "model ms", "workers"], rows, "No calls in the last seconds."));
  }

  function processes(s) {
    const named = [...s.workers.map(w => ["worker " + w.slot, w]), ...s.companions.map(c => [c.name, c])];
    const rows = named.map(([name, it]) => [name, it.state, Math.round(it.rss_bytes / 1048576) + " MB", it.restarts]);
    const lost = Object.entries(s.observed.lost).map(([reason, count]) => `${count.toLocaleString()} ${reason}`).join(", ");
    $("processes").replaceChildren(table(["process", "state", "memory", "restarts"], rows, "None."), ...(lost ? [make("p", "Requests that were not observed: " + lost, "lost")] : []));
  }

  // A runbook is a page of this server or of another: whatever else it says is text.
  function runbook(where) {
    if (!/^(https?:\/\/|\/runbooks\/)/.test(where)) return make("span", where, "quiet");
    const it = make("a", "what to do");
    it.href = where; it.rel = "noreferrer noopener"; it.target = "_blank";
    return it;
  }
  function alerts(list) {
    $("alerts-card").hidden = !list.length;
    fill($("alerts"), list.map(a => [a.state, a.alert, a.pipeline, a.severity, a.cause, a.runbook]), () => list.map(a => {
      const it = make("li");
      it.append(make("span", a.state, "badge " + (a.state === "firing" ? "firing" : "")), make("b", `${a.pipeline}: ${a.alert}`), make("span", "", "quiet for"), make("span", a.cause, "cause"), runbook(a.runbook));
      return it;
    }));
    if (list.length) $("alerts").querySelectorAll(".for").forEach((it, at) => { if (list[at]) it.textContent = `${list[at].severity}, for ${ago(list[at].since_s)}`; });
  }

  function layerBar(r, longest) {
    const parts = [["wait", r.wait], ...LAYERS.map((name, at) => [name, r.layers[at] || 0])], known = parts.reduce((sum, [, v]) => sum + v, 0);
    const all = [...parts, ["rest", Math.max(r.whole - known, 0)]];
    return bar(all, longest, all.filter(([, v]) => v >= .0005).map(([name, v]) => `${name === "wait" ? "queue wait" : name} ${ms(v)}`).join(", "), "bar layers");
  }
  function answered(r) {
    if (r.error) return make("span", r.error.replaceAll("_", " "), "badge firing");
    const it = make("span", r.decision ? r.decision + (r.score == null ? "" : " " + short(r.score)) : r.score != null ? short(r.score) : r.rows === undefined || r.rows === 1 ? "–" : r.rows + " rows");
    return it;
  }
  function slow(list, s, minute, links) {
    const since = minute ? s.at_s - 60 : 0, found = list.filter(r => r.at_s >= since).slice(0, 20), longest = found.length ? found[0].whole : 1;
    const several = new Set(found.map(r => r.release)).size > 1;
    const rows = () => found.map(r => {
      let id = make("span", r.id || "(no id)", "id");
      if (links && r.id) { id = make("a", r.id, "id"); id.href = "/console/explain?id=" + encodeURIComponent(r.id); id.title = "Explain this decision"; }
      return [id, time(r.at_s), make("b", ms(r.whole)), layerBar(r, longest), answered(r), (r.degraded || []).map(each => each.replaceAll("_", " ")).join(", ") || "–", ...(several ? [r.release] : [])];
    });
    const none = { off: "Nobody is told of requests: serve with --observe or --log DIR.", silent: "The observer does not answer: it is started anew, and remembers nothing of before." }[s.observed.observer];
    const heads = ["request", "at", "took", "queue wait and layers", "answer", "degraded", ...(several ? ["release"] : [])];
    fill($("slow"), [found, none, links], () => [table(heads, rows(), none || "No request in this span.")]);
    $("slow-legend").replaceChildren(...(found.length ? legend([["wait", "queue wait"], ...LAYERS.map(name => [name, name]), ["rest", "between and after"]]).childNodes : []));
  }

  const STATISTICS = { psi: "index (PSI)", distance: "distance", mean: "mean", default: "defaults", missing: "missing", unseen: "unseen" };
  function speaks(one) {
    const words = one.alarms.map(name => STATISTICS[name] || name);
    if (one.is_deviating) words.push("moved");
    return words.length ? make("span", words.join(", "), "badge firing") : make("span", one.severity > 1 ? "looked at" : "steady", "badge");
  }
  function drift(found, observer) {
    const none = { off: "Nobody watches: serve with --observe or --log DIR.", silent: "The observer does not answer: it is started anew." }[observer];
    $("drift-said").textContent = found ? `${Parts.clock(found.started_s)} to ${Parts.clock(found.ended_s)}, ${found.rows.toLocaleString()} rows; ${found.watched} series, ${found.alarmed} with an alarm` + (found.learning ? `, ${found.learning} still learned` : "") : "what comes in, against what the model was trained on";
    const rows = () => (found ? found.series : []).map(one => {
      const psi = one.statistics.psi, mean = one.statistics.mean, name = make("span", one.series); name.append(" ", make("small", one.kind));
      return [name, speaks(one), psi == null ? "–" : `${short(psi)} of ${short(one.psi_threshold)}`, mean == null ? "–" : (mean > 0 ? "+" : "") + short(Math.abs(mean) < .005 ? 0 : mean) + " σ",
        sparkline(one.psi, one.psi_threshold, `index of the last ${one.psi.length} windows, now ${short(psi)}`), one.labels.length ? shares(one.labels, one.shares, one.baseline) : "–"];
    });
    const heads = ["series", "finding", "PSI", "mean", "PSI so far", "now against before"];
    fill($("drift"), [found, none], () => [table(heads, rows(), none || "No window has ended yet: a window needs its time, and enough rows.")]);
  }

  function filled(id, list, item, none) {
    fill($(id), list, () => list.length ? list.map(item).reverse() : [make("li", none, "empty")]);
  }
  function events(list, onPoint) {
    filled("events", list.slice(-100), e => {
      const li = make("li", null, e.kind);
      li.dataset.at = e.at_s; li.append(time(e.at_s), make("span", e.text));
      li.addEventListener("mouseenter", () => onPoint(e.at_s));
      return li;
    }, "Nothing has happened since the start.");
  }
  function lines(list) {
    filled("lines", list.slice(-200), each => {
      const li = make("li", null, each.level);
      li.append(time(each.at_s), make("span", each.who || "supervisor", "quiet"), make("span", each.text));
      return li;
    }, "No line in the last ten minutes.");
  }
  return { tiles, queue, waterfall, features, versions, processes, alerts, slow, drift, events, lines };
})();
