"use strict";
// What the panels are made of: elements whose text is set as text, figures as they are said, small drawings.
const Parts = (() => {
  const short = Charts.short, SVG = document.querySelector("svg").namespaceURI;

  function make(tag, text, kind) {
    const it = document.createElement(tag);
    if (text != null) it.textContent = text;
    if (kind) it.className = kind;
    return it;
  }
  // Fills a holder anew where what it shows has changed. Who is at a link in it stays there, a text that is marked too.
  function fill(holder, shown, nodes) {
    const key = JSON.stringify(shown), marked = getSelection(), at = document.activeElement;
    if (holder.shownKey === key) return;
    if (marked.rangeCount && !marked.isCollapsed && marked.containsNode(holder, true)) return;
    const link = holder.contains(at) && at.getAttribute("href");
    holder.shownKey = key;
    holder.replaceChildren(...nodes());
    const again = link && [...holder.querySelectorAll("a")].find(each => each.getAttribute("href") === link);
    if (again) again.focus({ preventScroll: true });
    else if (link && holder.tabIndex === 0) holder.focus({ preventScroll: true });
  }
  const ms = v => v == null ? "–" : short(v) + " ms";
  const percent = v => v == null ? "–" : v === 0 ? "0%" : v < .0001 ? "<0.01%" : +(100 * v).toPrecision(3) + "%";
  function ago(s) {
    if (s == null) return "–";
    for (const [most, of, unit] of [[90, 1, "s"], [5400, 60, "min"], [129600, 3600, "h"]]) {
      if (s < most) return Math.round(s / of) + " " + unit;
    }
    return Math.round(s / 86400) + " d";
  }
  const clock = at => new Date(at * 1e3).toLocaleTimeString([], { hour12: false });
  function time(at) {
    const it = make("time", clock(at));
    it.dateTime = new Date(at * 1e3).toISOString();
    return it;
  }

  function table(heads, rows, none) {
    if (!rows.length) return make("p", none, "empty");
    const it = make("table"), head = make("tr"), top = make("thead"), body = make("tbody");
    heads.forEach(text => { const th = make("th", text); th.scope = "col"; head.append(th); });
    top.append(head);
    rows.forEach(cells => {
      const tr = make("tr");
      cells.forEach((cell, at) => {
        const td = make(at ? "td" : "th");
        if (!at) td.scope = "row";
        td.append(cell instanceof Node ? cell : String(cell)); tr.append(td);
      });
      body.append(tr);
    });
    it.append(top, body);
    return it;
  }

  // A bar of several parts, [class, width] each, of a whole. said: what it shows, for who does not see it.
  function bar(parts, whole, said, kind = "bar") {
    const it = make("div", null, kind);
    for (const [name, width] of parts) if (width > 0) {
      const part = make("div", null, name);
      part.style.width = 100 * width / whole + "%";
      it.append(part);
    }
    it.title = said; it.setAttribute("role", "img"); it.setAttribute("aria-label", said || "none");
    return it;
  }
  function legend(items) {
    const it = make("p", null, "legend");
    for (const [kind, text] of items) {
      const item = make("span");
      if (kind) item.append(make("span", null, "key " + kind));
      item.append(text); it.append(item);
    }
    return it;
  }

  function shape(tag, values, parent) {
    const it = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(values)) it.setAttribute(name, value);
    if (parent) parent.append(it);
    return it;
  }
  function drawing(width, height, said) {
    const it = shape("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": said });
    shape("title", {}, it).textContent = said;
    return it;
  }
  // The last values as a line, and what they are held against as a dashed one. A value that is not there is a gap.
  function sparkline(values, limit, said) {
    const width = 96, height = 26, it = drawing(width, height, said), last = values.length - 1, now = values[last];
    const most = 1.1 * Math.max(...values.map(v => v || 0), limit || 0) || 1;
    const x = at => 2 + (width - 4) * (last ? at / last : 1), y = v => height - 2 - (height - 4) * v / most;
    if (limit) shape("line", { x1: 0, x2: width, y1: y(limit), y2: y(limit), class: "limit" }, it);
    let path = "", drawn = false;
    values.forEach((v, at) => {
      if (v != null) path += `${drawn ? "L" : "M"}${x(at).toFixed(1)} ${y(v).toFixed(1)}`;
      drawn = v != null;
    });
    if (path) shape("path", { d: path, class: "line" }, it);
    if (now != null) shape("circle", { cx: x(last), cy: y(now), r: 2.2, class: limit && now > limit ? "dot over" : "dot" }, it);
    return it;
  }
  // Shares now, filled, against those of the reference, wider and behind them.
  function shares(labels, now, reference) {
    const width = 132, height = 30, step = width / Math.max(now.length, 1), most = Math.max(...now, ...reference, 1e-9);
    const apart = at => Math.abs(now[at] - (reference[at] || 0));
    const farthest = labels.map((_, at) => at).sort((a, b) => apart(b) - apart(a)).slice(0, 3);
    const told = at => `${labels[at]}: ${percent(now[at])} now, ${percent(reference[at] || 0)} before`;
    const it = drawing(width, height, farthest.map(told).join("; "));
    const column = (left, wide, share, kind) => {
      const tall = height * share / most;
      shape("rect", { x: left, width: Math.max(wide, 1), y: height - tall, height: tall, class: kind }, it);
    };
    now.forEach((share, at) => {
      column(at * step + 1, step - 2, reference[at] || 0, "before");
      column(at * step + step * .28, step * .44, share, "now");
    });
    return it;
  }
  return { make, fill, ms, percent, ago, clock, time, table, bar, legend, sparkline, shares, short };
})();
