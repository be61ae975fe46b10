"use strict";
// The panels of what the observer says: the slowest requests, and drift. What is not there is said, not made up.
const Observed = (() => {
  const { make, fill, ms, percent, clock, time, table, bar, legend, sparkline, shares, short } = Parts;
  const $ = id => document.getElementById(id), LAYERS = ["request", "features", "inference", "postprocess", "response"];
  const SHOWN_MAX = 20, SHORT_S = 60;
  const NO_REQUESTS = {
    on: "No request in this span.",
    off: "Nobody is told of requests: serve with --observe or --log DIR.",
    silent: "The observer does not answer: it is started anew, and remembers nothing of before.",
  };
  const NO_WINDOW = {
    on: "No window has ended yet: a window needs its time, and enough rows.",
    off: "Nobody watches: serve with --observe or --log DIR.",
    silent: "The observer does not answer: it is started anew.",
  };
  const STATISTICS = { psi: "index (PSI)", default: "defaults" };
  const words = name => name.replaceAll("_", " ");

  function layerBar(r, longest) {
    const parts = [["wait", r.wait], ...LAYERS.map((name, at) => [name, r.layers[at] || 0])];
    const rest = r.whole - parts.reduce((sum, [, v]) => sum + v, 0), all = [...parts, ["rest", Math.max(rest, 0)]];
    const said = all.filter(([, v]) => v >= .0005).map(([name, v]) => `${name === "wait" ? "queue wait" : name} ${ms(v)}`);
    return bar(all, longest, said.join(", "), "bar layers");
  }
  function answer(r) {
    if (r.error) return make("span", words(r.error), "badge firing");
    const told = [r.decision, r.score == null ? null : short(r.score)].filter(Boolean).join(" ");
    return make("span", told || (r.rows > 1 ? r.rows + " rows" : "–"));
  }
  function idOf(r, links) {
    if (!links || !r.id) return make("span", r.id || "(no id)", "id");
    const it = make("a", r.id, "id");
    it.href = "/console/explain?id=" + encodeURIComponent(r.id); it.title = "Explain this decision";
    return it;
  }
  // minute: whether of the last minute only. links: whether a request can be explained.
  function slow(list, state, minute, links) {
    const since = minute ? state.at_s - SHORT_S : 0, found = list.filter(r => r.at_s >= since).slice(0, SHOWN_MAX);
    const several = new Set(found.map(r => r.release)).size > 1, observer = state.observed.observer;
    const heads = ["request", "at", "took", "queue wait and layers", "answer", "degraded", ...(several ? ["release"] : [])];
    const row = r => [idOf(r, links), time(r.at_s), make("b", ms(r.whole)), layerBar(r, found[0].whole), answer(r),
      (r.degraded || []).map(words).join(", ") || "–", ...(several ? [r.release] : [])];
    fill($("slow"), [found, observer, links], () => [table(heads, found.map(row), NO_REQUESTS[observer])]);
    const keys = [["wait", "queue wait"], ...LAYERS.map(each => [each, each]), ["rest", "between and after"]];
    $("slow-legend").replaceChildren(...(found.length ? legend(keys).childNodes : []));
  }

  function finding(one) {
    const told = one.alarms.map(each => STATISTICS[each] || each);
    if (one.is_deviating) told.push("moved");
    if (told.length) return make("span", told.join(", "), "badge firing");
    return make("span", one.severity > 1 ? "looked at" : "steady", "badge");
  }
  function shift(mean) {
    if (mean == null) return "–";
    return Math.abs(mean) < .005 ? "0 σ" : (mean > 0 ? "+" : "") + short(mean) + " σ";
  }
  function series(one) {
    const title = make("span", one.series), { psi, mean } = one.statistics;
    title.append(" ", make("small", one.kind));
    const said = `index of the last ${one.psi.length} windows, now ${short(psi)}`;
    return [title, finding(one), psi == null ? "–" : `${short(psi)} of ${short(one.psi_threshold)}`, shift(mean),
      sparkline(one.psi, one.psi_threshold, said), one.labels.length ? shares(one.labels, one.shares, one.baseline) : "–"];
  }
  function lastWindow(found) {
    if (!found) return "what comes in, against what the model was trained on";
    const told = [`${clock(found.started_s)} to ${clock(found.ended_s)}, ${found.rows.toLocaleString()} rows`];
    told.push(`${found.watched} series, ${found.alarmed} with an alarm` + (found.learning ? `, ${found.learning} still learned` : ""));
    return told.join("; ");
  }
  function drift(found, observer) {
    const heads = ["series", "finding", "PSI", "mean", "PSI so far", "now against before"];
    $("drift-said").textContent = lastWindow(found);
    const rows = () => (found ? found.series : []).map(series);
    fill($("drift"), [found, observer], () => [table(heads, rows(), NO_WINDOW[observer])]);
  }
  return { slow, drift };
})();
