"use strict";
// The charts: uPlot on canvas, one cursor for all, the timeline's marks on each.
const Charts = (() => {
  const SYNC = "console", all = [], colour = name => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  let marks = [], onCursor = () => {};
  const MARK = { release: "good", process: "warn", breaker: "bad", alert: "bad", verdict: "water", clock: "violet" };
  const short = v => v == null ? "–" : v >= 1e6 ? +(v / 1e6).toPrecision(3) + "M" : v >= 1e4 ? +(v / 1e3).toPrecision(3) + "k" : v === 0 ? "0" : String(+v.toPrecision(v < 1 ? 2 : 3));

  function drawMarks(u) {
    const { ctx, bbox } = u;
    ctx.save();
    ctx.lineWidth = devicePixelRatio;
    for (const mark of marks) {
      const x = Math.round(u.valToPos(mark.at_s, "x", true));
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      ctx.strokeStyle = colour(MARK[mark.kind] || "quiet");
      ctx.globalAlpha = u._strip ? 1 : .55;
      ctx.lineWidth = (u._strip ? 3 : 1) * devicePixelRatio;
      ctx.setLineDash(u._strip ? [] : [4, 4]);
      ctx.beginPath(); ctx.moveTo(x, bbox.top); ctx.lineTo(x, bbox.top + bbox.height); ctx.stroke();
    }
    ctx.restore();
  }

  function drawHeat(u) {
    const { heat, lowest, perOctave, budget } = u._heat || {}, times = u.data[0];
    if (!heat || !budget) return;
    const { ctx, bbox } = u, rgb = colour("heat");
    let most = 1;
    for (const column of heat) for (let i = 1; i < column.length; i++) most = Math.max(most, column[i]);
    ctx.save();
    ctx.beginPath(); ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height); ctx.clip();
    for (let at = 0; at < times.length; at++) {
      const column = heat[at];
      if (!column.length) continue;
      const step = at ? Math.min(times[at] - times[at - 1], u._step * 1.8) : u._step;
      const x0 = Math.round(u.valToPos(times[at] - step, "x", true)), x1 = Math.round(u.valToPos(times[at], "x", true));
      if (x1 < bbox.left) continue;
      for (let i = 1; i < column.length; i++) if (column[i]) {
        const row = column[0] + i - 1, edge = k => budget * 2 ** (lowest + k / perOctave);
        const y0 = Math.round(u.valToPos(edge(row), "y", true)), y1 = Math.round(u.valToPos(edge(row + 1), "y", true));
        ctx.fillStyle = `rgba(${rgb},${(.1 + .9 * Math.log1p(column[i]) / Math.log1p(most)).toFixed(2)})`;
        ctx.fillRect(x0, y1, Math.max(x1 - x0, 1), Math.max(y0 - y1, 1));
      }
    }
    const y = u.valToPos(budget, "y", true);
    ctx.strokeStyle = colour("bad"); ctx.lineWidth = 1.5 * devicePixelRatio; ctx.setLineDash([6 * devicePixelRatio, 4 * devicePixelRatio]);
    ctx.beginPath(); ctx.moveTo(bbox.left, y); ctx.lineTo(bbox.left + bbox.width, y); ctx.stroke();
    ctx.restore();
  }

  // series: [key, label, colour, unit]; options: heat, strip
  function make(id, series, options = {}) {
    const holder = document.getElementById(id), legend = document.getElementById(id + "-legend");
    const axis = { stroke: () => colour("quiet"), grid: { stroke: () => colour("grid"), width: 1 }, ticks: { show: false }, font: "11.5px " + colour("font") };
    const u = new uPlot({
      width: holder.clientWidth || 300, height: holder.clientHeight, legend: { show: false }, pxAlign: 1,
      padding: [8, 26, 0, 0],
      cursor: { sync: { key: SYNC }, drag: { x: false, y: false }, points: { size: 6 } },
      scales: { x: { time: true }, y: options.heat ? { distr: 3, log: 2 } : options.strip ? { range: [0, 1] } : { range: (u, low, high) => [0, (high || 1) * 1.12] } },
      axes: [{ ...axis, space: 70, size: 28, show: true, values: (u, at) => at.map(s => { const d = new Date(s * 1e3), p = v => String(v).padStart(2, "0"); return p(d.getHours()) + ":" + p(d.getMinutes()) + (u._step < 10 && d.getSeconds() ? ":" + p(d.getSeconds()) : ""); }) },
        { ...axis, size: 54, show: !options.strip, values: (u, at) => at.map(v => v == null ? "" : short(v) + (options.unit || "")), ...(options.heat ? { splits: (u, at, low, high) => { const found = []; for (let ten = 1e-4; ten < 1e6; ten *= 10) for (const k of [1, 2, 5]) if (ten * k >= low && ten * k <= high) found.push(ten * k); return found; }, filter: (u, splits) => splits } : {}) }],
      series: [{}, ...(options.strip ? [{ show: false }] : series.map(([, label, ink, , fill]) => ({ label, stroke: () => colour(ink), width: 1.6, spanGaps: false, points: { show: false }, fill: fill ? () => colour(ink) + "22" : undefined })))],
      hooks: { drawClear: options.heat ? [drawHeat] : [], draw: [drawMarks], setCursor: [u => { tellLegend(); if (u.cursor.idx != null && u.cursor.event) onCursor(u.data[0][u.cursor.idx], u._step); }] },
    }, [[], ...(options.strip ? [[]] : series.map(() => []))], holder);
    u._strip = options.strip; u._step = 1;
    holder.tabIndex = 0; holder.setAttribute("role", "img");
    function tellLegend() {
      if (!legend) return;
      const last = u.data[0].length - 1, at = u.cursor.idx == null ? last : u.cursor.idx;
      legend.textContent = "";
      const said = [];
      series.forEach(([, label, ink, unit], i) => {
        const item = document.createElement("span"), key = document.createElement("span"), value = document.createElement("b");
        key.className = "key"; key.style.background = colour(ink);
        value.textContent = short(u.data[i + 1][at]) + (unit || "");
        item.append(key, label + " ", value); legend.append(item);
        said.push(label + " " + value.textContent);
      });
      if (u.cursor.idx != null && at >= 0) { const when = document.createElement("span"); when.textContent = new Date(u.data[0][at] * 1e3).toLocaleTimeString(); legend.append(when); }
      u._said = said.join(", ");
    }
    holder.addEventListener("keydown", event => {
      const by = { ArrowLeft: -1, ArrowRight: 1, PageUp: -30, PageDown: 30 }[event.key];
      if (!by || !u.data[0].length) return;
      event.preventDefault();
      const last = u.data[0].length - 1, from = u.cursor.idx == null ? last + 1 : u.cursor.idx, to = Math.min(Math.max(from + by, 0), last);
      all.forEach(other => other.point(u.data[0][to]));
      const near = onCursor(u.data[0][to], u._step);
      document.getElementById("spoken").textContent = new Date(u.data[0][to] * 1e3).toLocaleTimeString() + ": " + (u._said || "") + (near ? "; " + near : "");
    });
    const chart = {
      show(columns, span, heat) {
        const times = columns.at_s, end = span.end, low = end - span.seconds;
        u._step = span.step; u._heat = heat && { ...heat, heat: columns.heat };
        const data = [times, ...(options.strip ? [times.map(() => null)] : series.map(([key]) => columns[key]))];
        u.setData(data, false);
        u.batch(() => {
          u.setScale("x", { min: low, max: end });
          if (options.heat && heat) {
            let top = heat.budget * 1.6, bottom = heat.budget;
            for (const column of columns.heat) if (column.length) { bottom = Math.min(bottom, heat.budget * 2 ** (heat.lowest + column[0] / heat.perOctave)); top = Math.max(top, heat.budget * 2 ** (heat.lowest + (column[0] + column.length - 1) / heat.perOctave)); }
            u.setScale("y", { min: bottom / 1.12, max: top * 1.12 });
          }
        });
        tellLegend();
        holder.setAttribute("aria-label", (u._said || "events") + "; arrow keys move the cursor");
      },
      point(time) { u.setCursor({ left: u.valToPos(time, "x"), top: 10 }, true, false); },
      size() { u.setSize({ width: holder.clientWidth, height: holder.clientHeight }); },
      redraw() { u.redraw(false, true); tellLegend(); },
    };
    all.push(chart);
    return chart;
  }
  let due = 0;
  addEventListener("resize", () => { cancelAnimationFrame(due); due = requestAnimationFrame(() => all.forEach(chart => chart.size())); });
  return { make, short, set marks(found) { marks = found; }, set onCursor(call) { onCursor = call; }, point(at) { all.forEach(chart => chart.point(at)); }, redraw() { all.forEach(chart => chart.redraw()); } };
})();
