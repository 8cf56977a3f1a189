// The page is complete without this script, which adds a choice of cells, length and seed, and values at the pointer.
"use strict";
(() => {
  const charts = [], cells = new Map(), superscript = "⁰¹²³⁴⁵⁶⁷⁸⁹";
  const raised = n => "10" + String(n).replace(/[-−]/g, "⁻").replace(/\d/g, d => superscript[d]).replace(".", "·");
  const short = v => {
    if (v === null || v === undefined) return "–";
    if (v === 0) return "0";
    const size = Math.abs(v);
    if (size >= 1e-3 && size < 1e5) return String(+v.toPrecision(4)).replace("-", "−");
    return scientific(v, 0);
  };
  const scientific = (v, decades) => {
    const [mantissa, exponent] = v.toExponential(1).split("e");
    return mantissa.replace("-", "−") + "×" + raised(+exponent + decades);
  };
  const units = {B: [[1e12, "TB"], [1e9, "GB"], [1e6, "MB"], [1e3, "kB"], [1, "B"]],
    s: [[1, "s"], [1e-3, "ms"], [1e-6, "µs"], [1e-9, "ns"]]};
  const withUnit = (v, unit) => {
    if (!units[unit] || v === null || v === undefined) return short(v);
    const [size, name] = units[unit].find(([size]) => Math.abs(+v.toPrecision(3)) >= size) || units[unit].at(-1);
    return short(+(v / size).toPrecision(3)) + "\u00a0" + name;
  };
  const decades = v => v >= -3 && v < 5 ? short(10 ** v) : scientific(10 ** (v - Math.floor(v)), Math.floor(v));

  const box = document.createElement("div");
  box.className = "tip";
  box.hidden = true;
  box.setAttribute("role", "status");
  document.body.append(box);
  const line = (name, text, color) => {
    const row = document.createElement("div"), key = document.createElement("span"), value = document.createElement("b");
    if (color) { const dot = document.createElement("i"); dot.style.background = color; key.append(dot); }
    key.append(name); value.textContent = text; row.append(key, value);
    return row;
  };
  const head = text => { const h = document.createElement("div"); h.className = "head"; h.textContent = text; return h; };
  const show = (event, rows) => {
    box.replaceChildren(...rows);
    box.hidden = false;
    const wide = box.offsetWidth, high = box.offsetHeight;
    const left = event.clientX + 16 + wide > innerWidth ? event.clientX - wide - 12 : event.clientX + 16;
    box.style.left = Math.max(4, left) + "px";
    box.style.top = Math.max(4, Math.min(event.clientY + 14, innerHeight - high - 4)) + "px";
  };

  const to = (v, [low, high, log], start, end) => {
    const f = log ? Math.log10 : x => x;
    return start + (f(v) - f(low)) / (f(high) - f(low)) * (end - start);
  };
  const from = (p, [low, high], start, end) => low + (p - start) / (end - start) * (high - low);  // for heat maps; linear

  for (const node of document.querySelectorAll("script[type='application/json']")) {
    const panel = node.parentElement, svg = panel.querySelector("svg"), data = JSON.parse(node.textContent);
    const chart = {panel, svg, data, lines: []};
    charts.push(chart);
    for (const s of data.s || []) {
      const group = document.getElementById(s.id), band = document.getElementById(s.id + "-band");
      const path = group && [...group.querySelectorAll("path")].find(p => !p.closest("defs"));
      const points = group ? [...group.querySelectorAll("use")].map(use => ({use, x: +use.getAttribute("x"), y: use.getAttribute("y")})) : [];
      const drawn = path || points[0]?.use, look = drawn && getComputedStyle(drawn);
      const color = look && (look.stroke !== "none" ? look.stroke : look.fill);
      const ends = ["-end", "-lead"].map(part => document.getElementById(s.id + part)).filter(Boolean);
      chart.lines.push({s, group, band, ends, path, points, d: path && path.getAttribute("d"), on: true, color});
      if (s.c) cells.set(s.c, true);
    }
    const mark = document.createElementNS("http://www.w3.org/2000/svg", "line");
    mark.setAttribute("class", "mark");
    svg.append(mark);
    const move = event => {
      const area = svg.getBoundingClientRect(), unit = svg.viewBox.baseVal.width / area.width;
      const px = (event.clientX - area.left) * unit, py = (event.clientY - area.top) * unit;
      const [left, top, right, bottom] = data.box;
      if (px < left - 4 || px > right + 4 || py < top || py > bottom) return leave();
      if (data.z) {
        const x = from(px, data.x, left, right), rows = data.r.length;
        const row = Math.max(0, Math.min(rows - 1, Math.round(from(py, data.y, bottom, top))));
        let k = 0;
        data.t.forEach((t, i) => { if (Math.abs(t - x) < Math.abs(data.t[k] - x)) k = i; });
        return show(event, [head(`step ${data.t[k]}, training step ${data.r[row]}`), line("norm", data.z[row][k] === null ? "exactly 0, or masked" : decades(data.z[row][k]))]);
      }
      const all = chart.lines.filter(l => l.on).flatMap(l => l.s.x);
      if (!all.length) return leave();
      let best = all[0], at = v => to(v, data.x, left, right);
      for (const v of all) if (Math.abs(at(v) - px) < Math.abs(at(best) - px)) best = v;
      mark.setAttribute("x1", at(best)); mark.setAttribute("x2", at(best));
      mark.setAttribute("y1", top); mark.setAttribute("y2", bottom);
      mark.style.display = "inline";
      const rows = chart.lines.filter(l => l.on).map(l => {
        const i = l.s.x.indexOf(best), ys = values(l.s);
        return i < 0 || ys[i] === null ? null : [ys[i], line(l.s.n, data.dec ? decades(ys[i]) : withUnit(ys[i], data.yu), l.color)];
      }).filter(Boolean).sort((a, b) => b[0] - a[0]).map(r => r[1]);
      show(event, [head(`${data.xl.split(/[:,]/)[0]} ${withUnit(best, data.xu)}`), ...rows]);
    };
    const leave = () => { box.hidden = true; mark.style.display = "none"; };
    svg.addEventListener("pointermove", move);
    svg.addEventListener("pointerdown", move);
    svg.addEventListener("pointerleave", leave);
  }

  const bar = document.getElementById("choose");
  const seed = document.getElementById("seed"), length = document.getElementById("length");
  const ofSeed = s => Boolean(seed && seed.value !== "" && s.e);  // whether the line shows a single seed
  const values = s => ofSeed(s) ? s.e[seed.value] : s.y;
  const apply = () => {
    const chosen = new Set([...bar.querySelectorAll("input")].filter(i => i.checked).map(i => i.value));
    for (const node of document.querySelectorAll("[data-cell], [data-length]")) {
      const cell = node.dataset.cell, n = node.dataset.length;
      node.hidden = (cell !== undefined && !chosen.has(cell)) || (n !== undefined && length.value !== "" && n !== length.value);
    }
    for (const {data, lines} of charts) for (const l of lines) {
      const one = ofSeed(l.s) ? values(l.s) : null;
      l.on = (!l.s.c || chosen.has(l.s.c)) && one !== undefined;
      if (l.group) l.group.style.display = l.on ? "" : "none";
      if (l.band) l.band.style.display = l.on && !one ? "" : "none";
      const [left, top, right, bottom] = data.box;
      const end = ys => Math.max(top, Math.min(bottom, to(ys.filter(y => y !== null).at(-1), data.y, bottom, top)));
      const rise = one && l.ends.length ? end(one) - end(l.s.y) : 0;  // a name goes with the end of its line
      for (const name of l.ends) {
        name.style.display = l.on ? "" : "none";
        name.setAttribute("transform", `translate(0 ${(rise || 0).toFixed(1)})`);
      }
      const across = l.s.x.map(x => to(x, data.x, left, right));
      const heights = one && one.map(y => y === null || data.y[2] && y <= 0 ? null : to(y, data.y, bottom, top).toFixed(1));
      for (const {use, x, y} of l.points) {
        const away = across.map(v => Math.abs(v - x)), at = one ? heights[away.indexOf(Math.min(...away))] : y;
        use.setAttribute("y", at ?? y);
        use.style.display = at === null ? "none" : "";
      }
      if (!l.path) continue;
      const gap = i => (heights[i] ?? null) === null;  // a point between gaps is a dash
      const d = one && heights.map((y, i) => gap(i) ? "" :
        `${gap(i - 1) ? "M" : "L"}${across[i].toFixed(1)} ${y}${gap(i - 1) && gap(i + 1) ? "h2" : ""}`).join("");
      l.path.setAttribute("d", one ? d || "M0 0" : l.d);
    }
  };
  if (bar && (cells.size > 1 || length.options.length > 2 || seed.options.length > 2)) {
    bar.hidden = false;
    bar.addEventListener("change", apply);
    addEventListener("pageshow", apply);  // after "back", browsers restore the choices but not the drawings
    bar.addEventListener("dblclick", event => {  // one cell alone, or all again
      const input = event.target.closest("label")?.querySelector("input");
      if (!input) return;
      const inputs = [...bar.querySelectorAll("input")], alone = inputs.every(i => i === input || !i.checked);
      inputs.forEach(i => { i.checked = alone || i === input; });
      apply();
    });
  }
})();
