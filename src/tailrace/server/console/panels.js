"use strict";
// The panels beside the charts: each takes a part of the state, and fills its own place on the page.
const Panels = (() => {
  const { make, fill, percent, ago, time, table, bar, legend, short } = Parts;
  const $ = id => document.getElementById(id);

  function tile(label, value, unit, level) {
    const it = make("div", null, "tile"), figure = make("b", value, level || "");
    if (unit) figure.append(make("i", unit));
    it.append(make("span", label, "quiet"), figure);
    return it;
  }
  function tiles(p) {
    const within = p.within == null ? "–" : String(Math.floor(p.within * 1e4) / 100);
    $("tiles").replaceChildren(
      tile("Requests", short(p.offered), "/s"),
      tile("p50", short(p.p50), "ms"),
      tile("p99", short(p.p99), "ms of " + short(p.budget), p.p99 > p.budget ? "bad" : ""),
      tile("Within budget", within, p.within == null ? "" : "%", p.within != null && p.within < .99 ? "bad" : ""),
      tile("Shed", percent(p.shed), "", p.shed ? "bad" : ""),
      tile("Degraded", percent(p.degraded), "", p.degraded ? "warn" : ""),
      tile("Failed", percent(p.failed), "", p.failed > .001 ? "bad" : ""));
  }
  function queue(p) {
    const taken = `p99; ${short(p.waiting)} ${p.waiting === 1 ? "row" : "rows"} taken`;
    $("wait-said").textContent = taken + (p.capacity ? `, room for ${short(p.capacity)}/s` : "");
  }

  function piece(left, width, kind) {
    const it = make("div", null, kind);
    it.style.left = Math.min(left, 100) + "%"; it.style.width = Math.max(Math.min(width, 100 - left), 0) + "%";
    return it;
  }
  function line(name, start, budget, layer, total, kind) {
    const over = budget && layer.p99 > budget, row = make("div", null, "row" + (over ? " over" : "") + (kind || ""));
    const track = make("div", null, "track"), said = make("span"), title = make("span", name);
    const at = 100 * start / total, of = v => Math.max(100 * (v || 0) / total, v ? .6 : 0);
    row.setAttribute("role", "row"); said.setAttribute("role", "cell"); title.setAttribute("role", "rowheader");
    if (budget && !kind) track.append(piece(at, of(budget), "slot"));
    track.append(piece(at, of(layer.p99), "p99"), piece(at, of(layer.p50), "p50"));
    track.setAttribute("aria-hidden", "true");
    said.append(short(layer.p50) + " · ", make("b", short(layer.p99)), (budget ? " of " + short(budget) : "") + " ms");
    row.append(title, track, said);
    return row;
  }
  function waterfall(p, span) {
    const rows = [line(p.wait.name, 0, 0, p.wait, p.budget)];
    let start = 0;
    for (const layer of p.layers) {
      rows.push(line(layer.name, start, layer.budget, layer, p.budget));
      start += layer.budget;
    }
    rows.push(line("whole", 0, p.budget, p, p.budget, " total"));
    $("water").replaceChildren(...rows);
    $("water-span").textContent = `p50 · p99 of ${short(p.budget)} ms, last ${Math.round(span)} s`;
  }

  function features(p) {
    const rows = p.views.map(v => {
      const parts = Object.entries(v.values).filter(([, rate]) => rate);
      const total = parts.reduce((sum, [, rate]) => sum + rate, 0), fresh = total ? (v.values.fresh || 0) / total : null;
      const said = parts.map(([name, rate]) => name + " " + percent(rate / total)).join(", ");
      return [v.name, short(total), percent(fresh), ago(v.age_s), bar(parts, total, said)];
    });
    const keys = ["fresh", "stale", "default", "timeout"].map(name => [name, name]);
    if (p.cache != null) keys.push(["", "cache hits " + percent(p.cache)]);
    if (p.breakers) keys.push(["", "breakers open: " + p.breakers]);
    const shown = table(["view", "rows/s", "fresh", "age", "source"], rows, "This pipeline reads no views.");
    $("features").replaceChildren(shown, ...(rows.length ? [legend(keys)] : []));
  }

  function versions(p, s) {
    const rows = p.versions.map(v => {
      const found = s.releases.find(r => r.id === v.release), name = make("span", v.release || "(none)");
      const own = found && found.pipelines.find(each => each.name === p.name);
      const models = own ? own.models.map(m => m.name + " " + m.version).join(", ") : "";
      const timed = v.p99 == null ? "–" : `${short(v.p50)} · ${short(v.p99)}`;
      if (models) name.append(make("br"), make("small", models));
      return [name, short(v.rate), percent(v.share), percent(v.failed), timed, found ? found.workers.length : 0];
    });
    const heads = ["release", "req/s", "share", "5xx", "model ms", "workers"];
    $("versions").replaceChildren(table(heads, rows, "No calls in the last seconds."));
  }

  function processes(s) {
    const named = [...s.workers.map(w => ["worker " + w.slot, w]), ...s.companions.map(c => [c.name, c])];
    const rows = named.map(([name, it]) => [name, it.state, Math.round(it.rss_bytes / 1048576) + " MB", it.restarts]);
    const lost = Object.entries(s.observed.lost).map(([reason, count]) => `${count.toLocaleString()} ${reason}`);
    const told = lost.length ? [make("p", "Requests that were not observed: " + lost.join(", "), "lost")] : [];
    $("processes").replaceChildren(table(["process", "state", "memory", "restarts"], rows, "None."), ...told);
  }

  // A runbook is a page of this server or of another: whatever else it says is text.
  function runbook(where) {
    if (!/^(https?:\/\/|\/runbooks\/)/.test(where)) return make("span", where, "quiet");
    const it = make("a", "what to do");
    it.href = where; it.rel = "noreferrer noopener"; it.target = "_blank";
    return it;
  }
  function alert(a) {
    const it = make("li"), state = make("span", a.state, "badge" + (a.state === "firing" ? " firing" : ""));
    const name = make("b", `${a.pipeline}: ${a.alert}`), cause = make("span", a.cause, "cause");
    it.append(state, name, make("span", "", "quiet for"), cause, runbook(a.runbook));
    return it;
  }
  function alerts(list) {
    const lasting = list.map(a => [a.state, a.alert, a.pipeline, a.severity, a.cause, a.runbook]);
    $("alerts-card").hidden = !list.length;
    fill($("alerts"), lasting, () => list.map(alert));
    $("alerts").querySelectorAll(".for").forEach((it, at) => {
      if (list[at]) it.textContent = `${list[at].severity}, for ${ago(list[at].since_s)}`;
    });
  }

  function newest(id, list, item, none) {
    fill($(id), list, () => list.length ? list.map(item).reverse() : [make("li", none, "empty")]);
  }
  function events(list, onPoint) {
    newest("events", list.slice(-100), e => {
      const li = make("li", null, e.kind);
      li.dataset.at = e.at_s; li.append(time(e.at_s), make("span", e.text));
      li.addEventListener("mouseenter", () => onPoint(e.at_s));
      return li;
    }, "Nothing has happened since the start.");
  }
  function lines(list) {
    newest("lines", list.slice(-200), each => {
      const li = make("li", null, each.level);
      li.append(time(each.at_s), make("span", each.who || "supervisor", "quiet"), make("span", each.text));
      return li;
    }, "No line in the last ten minutes.");
  }
  return { tiles, queue, waterfall, features, versions, processes, alerts, events, lines };
})();
