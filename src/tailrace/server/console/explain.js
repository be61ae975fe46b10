"use strict";
// The page of one decision: asks the server for its explanation, and shows it. Every text is set as text.
(() => {
  const $ = id => document.getElementById(id), SVG = "http://www.w3.org/2000/svg";
  const asked = new URLSearchParams(location.search), UNITS = [["d", 86400], ["h", 3600], ["m", 60]], TRIES = 20, WAIT = 500;
  let token = "";

  function make(name, text, ...classes) {
    const it = document.createElement(name);
    if (text !== undefined && text !== null) it.textContent = text;
    it.classList.add(...classes.filter(Boolean));
    return it;
  }
  const filled = (it, ...parts) => { it.append(...parts.filter(part => part !== null)); return it; };
  function drawn(width, ...shapes) {
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${width} 14`); svg.setAttribute("preserveAspectRatio", "none"); svg.setAttribute("aria-hidden", "true");
    for (const [name, kind, facts] of shapes) {
      const it = document.createElementNS(SVG, name);
      if (kind) it.setAttribute("class", kind);
      for (const [key, value] of Object.entries(facts)) it.setAttribute(key, value);
      svg.append(it);
    }
    return svg;
  }
  // Whole numbers that a script cannot hold are shown as they were written: ids of customers are such.
  const parsed = text => JSON.parse(text.replace(/"(?:\\.|[^"\\])*"|(?<![\d.eE+-])-?\d{16,}(?![\d.eE])/g, part => part[0] === '"' ? part : `"${part}"`));
  // Of a number of 32 bits the fewest digits that tell it from others; all of one of 64.
  function digits(value) {
    if (Math.fround(value) !== value || Number.isInteger(value)) return String(value);
    for (let many = 1; many < 10; many++) if (Math.fround(value.toPrecision(many)) === value) return String(Number(value.toPrecision(many)));
    return String(value);
  }
  const shown = value => typeof value === "number" ? digits(value) : value === null || value === undefined ? "none" : Array.isArray(value) && value.length > 8 ? `[${value.slice(0, 6).map(shown).join(", ")}, … ${value.length} in all]` : typeof value === "object" ? JSON.stringify(value) : String(value);
  const ms = us => (us / 1000).toFixed(us < 10000 ? 3 : 1);
  function age(seconds) {
    if (seconds === null || seconds === undefined) return "";
    const sign = seconds < 0 ? "-" : "", left = Math.abs(seconds);
    for (let at = 0; at < UNITS.length; at++) {
      const [unit, size] = UNITS[at], [smaller, part] = UNITS[at + 1] || ["s", 1];
      if (left >= size) return `${sign}${Math.floor(left / size)} ${unit} ${Math.floor(left % size / part)} ${smaller}`;
    }
    return `${sign}${left.toFixed(1)} s`;
  }
  const when = text => text ? text.replace("T", " ").replace(/(\.\d{3})\d*/, "$1").replace(/Z$|\+00:00$/, "") + " UTC" : "";

  function card(title, small, ...parts) {
    const head = make("h2", title);
    if (small) head.append(" ", make("small", small));
    return filled(make("section", null, "card", "third"), head, ...parts);
  }
  function facts(pairs) {
    const list = make("dl");
    for (const [name, value, kind] of pairs) {
      if (value === "" || value === null || value === undefined) continue;
      list.append(make("dt", name), value instanceof Node ? filled(make("dd"), value) : make("dd", value, kind));
    }
    return list;
  }
  function table(heads, rows, kind) {
    const it = make("table", null, kind), top = make("tr");
    for (const [name, ...classes] of heads) { const th = make("th", name, ...classes); th.scope = "col"; top.append(th); }
    return filled(it, filled(make("thead"), top), filled(make("tbody"), ...rows.map(cells => filled(make("tr"), ...cells))));
  }

  function sent(a) {
    const body = a.request && typeof a.request === "object" && !Array.isArray(a.request) ? a.request : { request: a.request };
    const masked = name => a.redacted.some(path => path === "$." + name || path.startsWith(`$.${name}.`) || path.startsWith(`$.${name}[`));
    const value = (name, it) => masked(name) ? filled(make("span"), make("span", shown(it), "mono"), " ", make("span", "masked", "tag", "masked")) : make("span", shown(it), "mono");
    return card("What was sent", "", facts(Object.entries(body).map(([name, it]) => [name, value(name, it)])));
  }
  function origin(a, id) {
    const models = a.models.map(m => `${m.name} ${m.registered || m.version} (${m.backend})`).join("\n");
    return card("By what", "", facts([["request", id, "mono"], ["pipeline", a.pipeline], ["release", a.release, "mono"], ["models", models], ["answered", when(a.time)], ["from", a.client], ["trace", a.trace, "mono"], ["worker", a.slot === null ? "" : `slot ${a.slot}`], ["log", a.files.join("\n"), "mono"]]));
  }
  function times(a) {
    const most = Math.max(a.budget_us || 0, a.whole_us, 1), part = (name, us, of, total) => {
      const row = make("div", null, "took", total && "total", of && us > of && "over"), bar = [];
      if (of) bar.push(["rect", "of", { x: 0, y: 5, height: 4, width: 1000 * of / most }]);
      bar.push(["rect", "own", { x: 0, y: 1, height: 12, width: Math.max(1000 * us / most, us ? 2 : 0) }]);
      return filled(row, make("span", name), drawn(1000, ...bar), filled(make("span"), make("b", ms(us)), of ? ` of ${ms(of)} ms` : " ms"));
    };
    return card("In what time", "of its batch, against the budget", part("queue", a.wait_us), ...a.layers.map(l => part(l.layer, l.took_us, l.budget_us)), part("whole", a.whole_us, a.budget_us, true));
  }
  function verdict(again) {
    if (again.fault) return make("span", `not possible: ${again.fault}`, "differs");
    return again.is_equal ? make("span", "equal, to the bit", "equal") : make("span", `differs: ${again.why.join("; ") || "see below"}`, "differs");
  }
  function replay(a) {
    const { logged, now, store } = a.replay, rows = [];
    const line = (what, it, at) => rows.push([make("td", what), make("td", shown(it.score), "mono"), make("td", it.decision || ""), make("td", it.reasons.join(", "))]);
    a.rows.slice(0, 50).forEach((row, at) => {
      const name = a.rows.length > 1 ? `row ${row.row}: ` : "";
      line(name + "as served", row);
      if (logged.rows[at]) line(name + "from the features of then", logged.rows[at]);
      if (now.rows[at]) line(name + "from the store as it is now", now.rows[at]);
    });
    const changed = now.rows.flatMap(row => row.changed.map(c => [make("td", (a.rows.length > 1 ? `row ${row.row}: ` : "") + c.name), make("td", shown(c.then), "mono"), make("td", shown(c.now), "mono")]));
    const it = card("Scored again", "by the release that answered", facts([["from the features of then", verdict(logged)], ["from the store now", verdict(now)], ["store", store, "mono"]]), table([["", ""], ["score"], ["decision"], ["rules"]], rows, "replay"),
      changed.length ? table([["changed since"], ["then"], ["now"]], changed, "replay") : null);
    it.classList.replace("third", "full");
    return it;
  }
  function features(row) {
    const most = Math.max(...row.features.map(f => Math.abs(f.adds || 0)), 0), adds = row.features.some(f => f.adds !== null), views = row.features.some(f => f.view);
    const heads = [["feature"], ["value"], ...(views ? [["source", "source"], ["as of, UTC", "when"], ["age", "source"]] : []), ...(adds ? [["adds"], ["", "adds"]] : [])];
    const lines = row.features.map(f => {
      const cells = [make("td", f.name), f.is_redacted ? filled(make("td"), make("span", "masked", "tag", "masked")) : make("td", shown(f.value))];
      if (views) cells.push(filled(make("td", null, "source"), f.provenance ? make("span", f.provenance, "tag", ["fresh", "stale", "default", "timeout"].includes(f.provenance) && f.provenance) : ""), make("td", when(f.event_time).replace(" UTC", ""), "when", "source"), make("td", age(f.age_s), "source"));
      if (adds) {
        const size = most ? 100 * Math.abs(f.adds || 0) / most : 0;
        cells.push(make("td", f.adds === null ? "" : (f.adds > 0 ? "+" : "") + f.adds.toFixed(4)), filled(make("td", null, "adds"), drawn(200, ["line", "", { x1: 100, x2: 100, y1: 0, y2: 14 }], ["rect", f.adds > 0 ? "up" : "down", { x: f.adds > 0 ? 100 : 100 - size, y: 2, height: 10, width: size }])));
      }
      return cells;
    });
    const it = card("Of what", adds ? "the inputs of the model, by what each adds to the raw score" : "the inputs of the model", table(heads, lines, "inputs"), row.unexplained ? make("p", `No contributions: ${row.unexplained}`, "empty") : null);
    it.classList.replace("third", "full");
    return it;
  }
  function decided(row, pipeline) {
    const ways = Object.entries(row.branches).filter(([, way]) => way !== null).map(([name, way]) => `${name}: ${way}`).join(", ");
    const it = filled(make("div", null, "decided", row.failed && "failed"), make("b", row.failed ? "no score" : row.decision || "scored"), row.failed ? null : filled(make("span", null, "score"), "score ", make("span", shown(row.score), "mono")));
    for (const [name, value] of [["rules", row.reasons.join(", ")], ["degraded", row.degraded.join(", ")], ["by", ways]]) if (value) it.append(filled(make("span"), make("span", name + " ", "quiet"), value));
    return it;
  }
  function answer(a, at, all, id) {
    const it = make("article", null, "answer");
    if (all > 1) it.append(make("h2", `Answer ${at + 1} of ${all}` + (a.items > 1 ? `: item ${a.item + 1} of ${a.items} of one call` : "")));
    const notes = [a.release_note, a.error && `It was answered with an error: ${a.error}`, a.copies > 1 && `The log has it ${a.copies} times, all the same: an observer that dies may write a line again.`, a.coalesced && `Another request's computation answered it (${a.coalesced}): ${shown(a.answer)}`, a.redacted.length && `Masked, and not in the log: ${a.redacted.join(", ")}`].filter(Boolean);
    const [first] = a.rows;
    if (a.rows.length === 1) it.append(decided(first));
    if (notes.length) it.append(filled(make("div", null, "notes"), ...notes.map(note => make("div", note))));
    it.append(sent(a), origin(a, id), times(a));
    if (a.rows.length === 1) it.append(features(first));
    else a.rows.slice(0, 50).forEach((row, place) => {
      const part = make("details", null, "row");
      part.open = place < 3;
      it.append(filled(part, make("summary", `Row ${row.row}: ${row.failed ? "no score" : `${row.decision || "scored"} at ${shown(row.score)}`}`), decided(row), features(row)));
    });
    if (a.rows.length > 50) it.append(make("p", `${a.rows.length - 50} rows more: tailrace explain --json has all`, "empty"));
    if (a.replay) it.append(replay(a));
    return it;
  }
  function searched(s) {
    const hours = s.first_hour ? `${s.first_hour} to ${s.last_hour} UTC` : "no hour";
    const lines = [`Searched: ${s.log}, ${s.pipelines.join(", ") || "no pipeline"}: ${hours}, ${s.files} whole files` + (s.rows === null ? "" : ` of ${s.rows.toLocaleString("en")} rows`) + ` and ${s.drafts} still written.`];
    return [...lines, ...s.passed_over.map(([file, why]) => `Not searched: ${file}: ${why}`)].join("\n");
  }
  function say(text, bad) { $("said").textContent = text; $("said").className = bad ? "bad" : ""; }

  // The server explains one at a time: what another is asked for, or the page before this one, is soon over.
  async function answered() {
    for (let tries = 1; ; tries++) {
      const began = performance.now(), reply = await fetch("/console/explanation?" + asked, token ? { headers: { Authorization: "Bearer " + token } } : {});
      if (reply.status !== 503 || tries === TRIES || performance.now() - began > WAIT) return reply;
      await new Promise(done => setTimeout(done, WAIT));
    }
  }
  async function load() {
    const id = asked.get("id") || asked.get("trace");
    $("id").value = id || "";
    if (!id) { say("Which request? Give the id that its caller has sent as X-Request-Id."); return; }
    document.title = `${id} · Tailrace`;
    say(asked.get("replay") === "1" ? "Looking it up, and scoring it again …" : "Looking it up …");
    let reply, text;
    try {
      reply = await answered();
      text = await reply.text();
    } catch { say("The server does not answer.", true); return; }
    if (reply.status === 401) { $("ask").hidden = false; say(token ? "That token is not the one." : "", true); $("token").focus(); return; }
    $("ask").hidden = true;
    let found = null;
    try { found = parsed(text); } catch { say(text.slice(0, 500), true); return; }
    if (!found.answered) { say([found.detail, found.next].filter(Boolean).join("\nnext: "), true); return; }
    if (!found.answered.length) { say(`${id} is not in the log.\n${searched(found.searched)}`, true); return; }
    say(found.searched.passed_over.length ? searched(found.searched) : "");
    $("found").replaceChildren(...found.answered.map((a, at) => answer(a, at, found.answered.length, found.request_id)));
    $("about").textContent = `${id} · as told on ${when(new Date().toISOString())}` + (asked.get("replay") === "1" ? ", scored again" : "");
    $("again").hidden = asked.get("replay") === "1"; $("print").hidden = false;
    performance.mark("explained");
  }
  $("again").onclick = () => { asked.set("replay", "1"); history.replaceState(null, "", "?" + asked); load(); };
  $("print").onclick = () => window.print();
  $("find").onsubmit = event => { event.preventDefault(); location.search = "?" + new URLSearchParams({ id: $("id").value }); };
  $("ask").onsubmit = event => { event.preventDefault(); token = $("token").value; load(); };
  window.addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(each => { each.open = true; }));
  load();
})();
